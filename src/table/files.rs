//! The files of a table, and their rows.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use bytes::{Buf as _, Bytes};
use flate2::read::MultiGzDecoder;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::ChunkReader;

use crate::error::{Error, Result};
#[cfg(feature = "s3")]
use crate::source::S3Source;
use crate::source::{FsSource, ImageSource as _, Selection};

/// Bytes of the rows that are read at a time, by the average of a file.
const BATCH_BYTES: u64 = 4 << 20;
/// Most rows that are read at a time.
const BATCH_ROWS: u64 = 1024;

/// A table in files: Parquet, or CSV with a header (`.csv`, `.csv.gz`), whose values are all texts.
#[derive(Clone, Debug)]
#[must_use]
pub struct TableSource {
    place: Place,
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
        Self { place: Place::Folder(path.into()) }
    }

    /// Takes an object or a prefix. Each object is read as a whole.
    #[cfg(feature = "s3")]
    pub fn in_s3(source: S3Source) -> Self {
        Self { place: Place::S3(Box::new(source)) }
    }

    /// The files, in the order of their names.
    ///
    /// # Errors
    /// [`Error::List`] if the place cannot be listed.
    pub(super) fn files(&self) -> Result<impl Iterator<Item = Result<TableFile>> + Send + use<>> {
        let selection = Selection::of_tables(EXTENSIONS);
        let files: Box<dyn Iterator<Item = Result<TableFile>> + Send> = match &self.place {
            Place::Folder(path) => {
                let files = FsSource::new(path).with_selection(selection).open()?;
                Box::new(files.map(|file| {
                    let uri = file?.uri;
                    Ok(TableFile { content: Content::File(PathBuf::from(&uri)), uri })
                }))
            }
            #[cfg(feature = "s3")]
            Place::S3(source) => {
                let source = S3Source::clone(source).with_selection(selection);
                Box::new(source.open()?.map(|object| {
                    let object = object?;
                    Ok(TableFile { uri: object.uri, content: Content::Bytes(object.bytes) })
                }))
            }
        };
        Ok(files)
    }
}

/// A file of a table.
#[derive(Debug)]
pub(super) struct TableFile {
    pub uri: String,
    content: Content,
}

#[derive(Debug)]
enum Content {
    File(PathBuf),
    #[cfg_attr(not(feature = "s3"), expect(dead_code, reason = "only S3 gives whole objects"))]
    Bytes(Bytes),
}

/// The rows of a file, a batch at a time.
pub(super) type Rows = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

impl TableFile {
    /// Opens the file. `columns` checks its columns, and says which of those of a Parquet file are read.
    pub fn rows(
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
            let rows = CsvRows::open(bytes).map_err(|e| failed(e.into()))?;
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
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let columns = columns(builder.schema())?;
    let metadata = builder.metadata();
    let schema = metadata.file_metadata().schema_descr();
    let bytes = metadata.row_groups().iter().flat_map(RowGroupMetaData::columns).enumerate();
    let leaves = schema.num_columns().max(1);
    let bytes = bytes
        .filter(|(leaf, _)| columns.contains(&schema.get_column_root_idx(leaf % leaves)))
        .map(|(_, chunk)| chunk.uncompressed_size().max(0) as u64);
    let rows = metadata.file_metadata().num_rows().max(1) as u64;
    let of_a_row = (bytes.sum::<u64>() / rows).max(1);
    let batch = (BATCH_BYTES / of_a_row).clamp(1, BATCH_ROWS) as usize;
    let mask = ProjectionMask::roots(schema, columns);
    Ok(builder.with_projection(mask).with_batch_size(batch).build()?)
}

/// The message for a table without a column.
pub(super) fn missing(column: &str, schema: &Schema) -> String {
    let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    format!("it has no column {column:?}; its columns are {}", names.join(", "))
}

/// The rows of a CSV file.
struct CsvRows {
    reader: csv::Reader<Box<dyn Read + Send>>,
    schema: Arc<Schema>,
}

impl CsvRows {
    fn open(bytes: Box<dyn Read + Send>) -> Result<Self, csv::Error> {
        let mut reader = csv::Reader::from_reader(bytes);
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
        for record in self.reader.records() {
            let record = match record {
                Ok(record) => record,
                Err(e) => return Some(Err(ArrowError::CsvError(e.to_string()))),
            };
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
