//! The files of a table, and their rows.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{ArrowError, DataType, Field, Schema, TimeUnit};
use bytes::{Buf as _, Bytes};
use csv::StringRecord;
use flate2::read::MultiGzDecoder;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Type;
use parquet::file::reader::ChunkReader;

use crate::error::{Error, Result};
use crate::source::{FsSource, ImageSource as _, Selection};
#[cfg(feature = "s3")]
use crate::source::{ImageObject, S3Source};

/// Bytes of the rows that are read at a time, by the average of a file.
const BATCH_BYTES: u64 = 4 << 20;
/// Most rows that are read at a time.
const BATCH_ROWS: u64 = 1024;

/// A table in files: Parquet, or CSV with a header (`.csv`, `.csv.gz`), whose values are all texts.
#[derive(Clone, Debug)]
#[must_use]
pub struct TableSource {
    place: Place,
    escape: bool,
}

#[derive(Clone, Debug)]
enum Place {
    Folder(PathBuf),
    #[cfg(feature = "s3")]
    S3(Box<S3Source>),
}

/// The endings of a table's files.
const EXTENSIONS: [&str; 3] = ["parquet", "csv", "gz"];

impl TableSource {
    /// Takes a file, or a folder with all its subfolders.
    pub fn in_folder(path: impl Into<PathBuf>) -> Self {
        Self { place: Place::Folder(path.into()), escape: false }
    }

    /// Takes an object or a prefix, and of it what the selection takes. Each object is read as a whole.
    #[cfg(feature = "s3")]
    pub fn in_s3(source: S3Source) -> Self {
        Self { place: Place::S3(Box::new(source)), escape: false }
    }

    /// Sets whether CSV escapes quotes by a backslash, `\\"`, as Spark writes them unless told otherwise (default: no, they are
    /// doubled).
    pub fn with_backslash_escapes(mut self, escape: bool) -> Self {
        self.escape = escape;
        self
    }

    /// The rows of all files, in the order of their names. `columns` checks the schema of a file, whose last columns are
    /// the partition columns, and returns the indices to read; of a CSV file, all its own columns are read.
    ///
    /// # Errors
    /// [`Error::List`] if the place cannot be listed.
    pub(crate) fn batches(
        &self,
        columns: impl FnMut(&Arc<str>, &Schema) -> Result<Vec<usize>, String> + Send + 'static,
    ) -> Result<TableBatches> {
        let files = self.files()?;
        let mut batches = Batches { files, columns, open: None, first: 0, retries: 0 };
        Ok(Box::new(until_error(move || batches.step())))
    }

    /// The files, in the order of their names.
    pub(crate) fn files(&self) -> Result<Files> {
        let escape = self.escape;
        Ok(match &self.place {
            Place::Folder(path) => {
                let selection = Selection::default().of_tables(EXTENSIONS);
                let files = FsSource::new(path).with_selection(selection).open()?;
                let root = path.display().to_string();
                Box::new(files.map(move |file| {
                    let uri = file.map_err(of_table)?.uri;
                    let content = Content::File(PathBuf::from(&uri));
                    let partitions = partitions_of(&root, &uri);
                    Ok(TableFile { uri, retries: 0, content, partitions, escape })
                }))
            }
            #[cfg(feature = "s3")]
            Place::S3(source) => {
                let source = S3Source::clone(source).of_tables(EXTENSIONS);
                let root = source.root().to_string();
                Box::new(source.open()?.map(move |object| {
                    let ImageObject { uri, bytes, retries, .. } = object.map_err(of_table)?;
                    let (content, partitions) = (Content::Bytes(bytes), partitions_of(&root, &uri));
                    Ok(TableFile { uri, retries, content, partitions, escape })
                }))
            }
        })
    }
}

pub(crate) type Files = Box<dyn Iterator<Item = Result<TableFile>> + Send>;

/// Rows of one file of a table.
pub(crate) struct FileBatch {
    /// The file.
    pub uri: Arc<str>,
    /// The number of the first row in the file.
    pub first: usize,
    /// Repeated requests since the batch before.
    pub retries: u32,
    pub rows: RecordBatch,
}

/// The rows of a table, file by file. An error is the last item.
pub(crate) type TableBatches = Box<dyn Iterator<Item = Result<FileBatch>> + Send>;

/// The state of [`TableBatches`].
struct Batches<C> {
    files: Files,
    columns: C,
    open: Option<(Arc<str>, Rows)>,
    first: usize,
    retries: u32,
}

impl<C: FnMut(&Arc<str>, &Schema) -> Result<Vec<usize>, String>> Batches<C> {
    fn step(&mut self) -> Result<Option<FileBatch>> {
        loop {
            if let Some((uri, batches)) = &mut self.open {
                if let Some(rows) = batches.next() {
                    let rows = rows.map_err(|e| Error::table(&**uri, e))?;
                    let (uri, first) = (Arc::clone(uri), self.first);
                    self.first += rows.num_rows();
                    let retries = std::mem::take(&mut self.retries);
                    return Ok(Some(FileBatch { uri, first, retries, rows }));
                }
                self.open = None;
            }
            let Some(file) = self.files.next() else { return Ok(None) };
            let file = file?;
            let uri: Arc<str> = file.uri.as_str().into();
            let rows = file.rows(|schema| (self.columns)(&uri, schema))?;
            self.retries += file.retries;
            self.first = 0;
            self.open = Some((uri, rows));
        }
    }
}

/// The items that `step` gives, up to the first error, which is the last one.
pub(crate) fn until_error<T>(
    mut step: impl FnMut() -> Result<Option<T>>,
) -> impl Iterator<Item = Result<T>> {
    let mut ended = false;
    std::iter::from_fn(move || {
        let item = if ended { None } else { step().transpose() };
        ended = !matches!(item, Some(Ok(_)));
        item
    })
}

/// A Hive partition column and its value, from a folder `key=value`.
type Partition = (String, Option<String>);

/// The columns that the folders below the root give, in their order.
fn partitions_of(root: &str, uri: &str) -> Vec<Partition> {
    let below = uri.strip_prefix(root).unwrap_or_default();
    let folders = below.rsplit_once('/').map_or("", |(folders, _)| folders);
    let pairs = folders.split('/').filter_map(|folder| folder.split_once('='));
    pairs
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| {
            let is_null = value == "__HIVE_DEFAULT_PARTITION__";
            (unescaped(key), (!is_null).then(|| unescaped(value)))
        })
        .collect()
}

/// Decodes the percent-encoding of Hive's folder names.
fn unescaped(name: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), name.as_bytes());
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).filter(|_| *first == b'%');
        let code = code.and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = code.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        rest = if byte.is_some() { &tail[2..] } else { tail };
        bytes.push(byte.unwrap_or(*first));
    }
    String::from_utf8(bytes).unwrap_or_else(|_| name.to_owned())
}

/// An error of one file is one of the whole table: nobody knows how many rows the file has.
fn of_table(error: Error) -> Error {
    match error {
        Error::Read { uri, source } => Error::table(&*uri, source),
        Error::Object { uri, source, .. } | Error::Decode { uri, source, .. } => {
            Error::table(&*uri, source)
        }
        Error::NotUtf8 { uri } => Error::table(&*uri, "the path is not valid UTF-8"),
        error => error,
    }
}

/// A file of a table.
#[derive(Debug)]
pub(crate) struct TableFile {
    uri: String,
    /// Requests that were repeated to read it.
    retries: u32,
    content: Content,
    partitions: Vec<Partition>,
    escape: bool,
}

#[derive(Debug)]
enum Content {
    File(PathBuf),
    #[cfg_attr(not(feature = "s3"), expect(dead_code, reason = "only S3 gives whole objects"))]
    Bytes(Bytes),
}

/// The rows of a file, a batch at a time.
type Rows = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

impl TableFile {
    /// Opens the file; `columns` is as of [`TableSource::batches`].
    pub fn rows(
        &self,
        columns: impl FnOnce(&Schema) -> Result<Vec<usize>, String>,
    ) -> Result<Rows> {
        let mut given: Vec<Partition> = Vec::new();
        let rows = self.rows_of_file(|schema| {
            // A column of the file goes before one of a folder.
            let new = |partition: &&Partition| schema.index_of(&partition.0).is_err();
            let partitions: Vec<Partition> = self.partitions.iter().filter(new).cloned().collect();
            let fields = partitions.iter().map(|(key, _)| Field::new(key, DataType::Utf8, true));
            let fields = schema.fields().iter().cloned().chain(fields.map(Arc::new));
            let notes = schema.metadata().clone();
            let whole = Schema::new_with_metadata(fields.collect::<Vec<_>>(), notes);
            let n = schema.fields().len();
            let (of_file, of_folders): (Vec<_>, Vec<_>) =
                columns(&whole)?.into_iter().partition(|&column| column < n);
            given = of_folders.into_iter().map(|column| partitions[column - n].clone()).collect();
            Ok(of_file)
        })?;
        if given.is_empty() {
            return Ok(rows);
        }
        Ok(Box::new(rows.map(move |batch| {
            let batch = batch?;
            let n = batch.num_rows();
            let mut fields = batch.schema().fields().to_vec();
            let mut columns = batch.columns().to_vec();
            for (key, value) in &given {
                fields.push(Arc::new(Field::new(key, DataType::Utf8, true)));
                let texts: StringArray = std::iter::repeat_n(value.as_deref(), n).collect();
                columns.push(Arc::new(texts));
            }
            RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        })))
    }

    fn rows_of_file(
        &self,
        columns: impl FnOnce(&Schema) -> Result<Vec<usize>, String>,
    ) -> Result<Rows> {
        let failed = |why: Box<dyn std::error::Error + Send + Sync>| Error::table(&*self.uri, why);
        let ending = Path::new(&self.uri).extension().and_then(OsStr::to_str).unwrap_or_default();
        let is_gzip = ending.eq_ignore_ascii_case("gz");
        if is_gzip || ending.eq_ignore_ascii_case("csv") {
            let bytes: Box<dyn Read + Send> = match &self.content {
                Content::File(path) => {
                    Box::new(BufReader::new(File::open(path).map_err(|e| failed(e.into()))?))
                }
                Content::Bytes(bytes) => Box::new(bytes.clone().reader()),
            };
            let bytes = if is_gzip { Box::new(MultiGzDecoder::new(bytes)) } else { bytes };
            let rows = CsvRows::open(bytes, self.escape).map_err(|e| failed(e.into()))?;
            columns(&rows.schema).map_err(|why| failed(why.into()))?;
            return Ok(Box::new(rows));
        }
        let rows = match &self.content {
            Content::File(path) => {
                let file = File::open(path).map_err(|e| failed(e.into()))?;
                parquet_rows(file, columns)
            }
            Content::Bytes(bytes) => parquet_rows(bytes.clone(), columns),
        };
        Ok(Box::new(rows.map_err(failed)?))
    }
}

/// Opens a Parquet file.
fn parquet_rows(
    file: impl ChunkReader + 'static,
    columns: impl FnOnce(&Schema) -> Result<Vec<usize>, String>,
) -> Result<ParquetRecordBatchReader, Box<dyn std::error::Error + Send + Sync>> {
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())?;
    let options = ArrowReaderOptions::new().with_schema(Arc::new(without_int96(&metadata)));
    let metadata = ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), options)?;
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
    let columns = columns(builder.schema())?;
    let metadata = builder.metadata();
    let schema = metadata.file_metadata().schema_descr();
    // By the row group with the longest rows.
    let of_a_row = metadata.row_groups().iter().map(|group| {
        let chunks = group.columns().iter().enumerate();
        let chunks =
            chunks.filter(|(leaf, _)| columns.contains(&schema.get_column_root_idx(*leaf)));
        let bytes: u64 = chunks.map(|(_, chunk)| chunk.uncompressed_size().max(0) as u64).sum();
        bytes / group.num_rows().max(1) as u64
    });
    let of_a_row = of_a_row.max().unwrap_or(0).max(1);
    let batch = (BATCH_BYTES / of_a_row).clamp(1, BATCH_ROWS) as usize;
    let mask = ProjectionMask::roots(schema, columns);
    Ok(builder.with_projection(mask).with_batch_size(batch).build()?)
}

/// The schema of a file, with Spark's old timestamps (INT96) in microseconds: in nanoseconds, those far from today overflow,
/// and Spark does not read them.
fn without_int96(file: &ArrowReaderMetadata) -> Schema {
    let schema = file.parquet_schema();
    let is_int96 = |root: usize| {
        let mut leaves =
            (0..schema.num_columns()).filter(|&l| schema.get_column_root_idx(l) == root);
        leaves.any(|leaf| schema.column(leaf).physical_type() == Type::INT96)
    };
    let fields = file.schema().fields().iter().enumerate().map(|(root, field)| {
        let is_plain = matches!(field.data_type(), DataType::Timestamp(..));
        if !is_plain || !is_int96(root) {
            return Arc::clone(field);
        }
        let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        Arc::new(field.as_ref().clone().with_data_type(micros))
    });
    Schema::new_with_metadata(fields.collect::<Vec<_>>(), file.schema().metadata().clone())
}

/// The message for a table without a column.
pub(crate) fn missing(column: &str, schema: &Schema) -> String {
    let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    format!("it has no column {column:?}; its columns are {}", names.join(", "))
}

/// The rows of a CSV file.
struct CsvRows {
    reader: csv::Reader<Limited>,
    schema: Arc<Schema>,
}

/// Most bytes of a record of CSV: a quote that is never closed would else be one record to the end of the file.
const MAX_RECORD_BYTES: usize = 64 << 20;

/// Reads up to a number of bytes for each record.
struct Limited {
    bytes: Box<dyn Read + Send>,
    /// Bytes read since the last record.
    since: usize,
}

impl Read for Limited {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.since > MAX_RECORD_BYTES {
            let why = format!("a record is longer than {MAX_RECORD_BYTES} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let n = self.bytes.read(buffer)?;
        self.since += n;
        Ok(n)
    }
}

impl CsvRows {
    fn open(bytes: Box<dyn Read + Send>, escape: bool) -> Result<Self, csv::Error> {
        let mut reader = csv::ReaderBuilder::new()
            .escape(escape.then_some(b'\\'))
            .from_reader(Limited { bytes, since: 0 });
        let names = reader.headers()?.iter();
        let fields: Vec<_> = names.map(|name| Field::new(name, DataType::Utf8, false)).collect();
        Ok(Self { reader, schema: Arc::new(Schema::new(fields)) })
    }
}

impl Iterator for CsvRows {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut columns = vec![Vec::new(); self.schema.fields().len()];
        let mut bytes = 0;
        let mut record = StringRecord::new();
        loop {
            match self.reader.read_record(&mut record) {
                Ok(true) => self.reader.get_mut().since = 0,
                Ok(false) => break,
                Err(e) => return Some(Err(ArrowError::CsvError(e.to_string()))),
            }
            for (column, value) in columns.iter_mut().zip(&record) {
                bytes += value.len() as u64;
                column.push(value.to_owned());
            }
            if columns[0].len() as u64 == BATCH_ROWS || bytes > BATCH_BYTES {
                break;
            }
        }
        if columns.first().is_none_or(Vec::is_empty) {
            return None;
        }
        let columns = columns.into_iter().map(|c| Arc::new(StringArray::from(c)) as ArrayRef);
        Some(RecordBatch::try_new(Arc::clone(&self.schema), columns.collect()))
    }
}
