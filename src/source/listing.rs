//! Keys from a file: an S3 Inventory, or plain lines.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_schema::{DataType, FieldRef, Fields, Schema};
use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::file::reader::ChunkReader;
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::s3::{Listed, MAX_KEY_BYTES, S3, S3Location};

/// Keys that are read at once.
const PAGE: usize = 1000;

/// Longest line or record, in bytes. A percent-encoded key has up to three times its length, and the longest other
/// column of an inventory, an access control list, has less than 32 KiB.
const MAX_LINE_BYTES: usize = 64 << 10;

/// Buffer of a file of lines, in bytes.
const BUFFER: usize = 8 << 10;

/// Longest `manifest.json`, in bytes.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// Longest file of keys in S3, in bytes; it is held in memory.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// The column of keys. Column names are in lower case and without `_`, as the two inventory formats spell them
/// differently.
const KEY: &str = "key";
/// Columns that are read.
const WANTED: [&str; 6] = [KEY, "bucket", "size", "etag", "islatest", "isdeletemarker"];

/// Most bytes of a Parquet column: for each row, and in addition to that. A wanted value has at most [`MAX_KEY_BYTES`],
/// and a dictionary may hold it once more.
const MAX_COLUMN_BYTES: (u64, u64) = (4 << 10, 64 << 10);

/// A listing that is read from files.
#[derive(Debug)]
pub(super) struct Listing {
    bucket: String,
    /// The files that are not opened yet.
    files: VecDeque<DataFile>,
    open: Option<(String, KeyReader)>,
}

/// A file of keys.
#[derive(Debug)]
struct DataFile {
    place: Place,
    format: Format,
}

/// Where a file is.
#[derive(Debug)]
enum Place {
    Local(PathBuf),
    S3(S3Location),
}

#[derive(Debug)]
enum Format {
    /// Columns, if they are known.
    Csv(Option<Arc<[String]>>),
    Parquet,
    Lines,
}

/// The `manifest.json` of an S3 Inventory.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct InventoryManifest {
    source_bucket: String,
    destination_bucket: String,
    file_format: String,
    #[serde(default)]
    file_schema: String,
    files: Vec<InventoryFile>,
}

#[derive(Debug, Deserialize)]
struct InventoryFile {
    key: String,
}

/// An open file of keys.
enum KeyReader {
    Csv { rows: csv::Reader<Portions>, columns: Option<Arc<[String]>> },
    Parquet(ParquetRecordBatchReader),
    Lines { text: BufReader<Portions>, number: u64 },
}

/// A stream that gives no more bytes than one line may have, until it is told that the next line begins.
///
/// It bounds the memory of a line reader, whatever the stream's length: a small compressed file may expand endlessly.
struct Portions {
    bytes: Box<dyn Read + Send>,
    left: usize,
}

impl Portions {
    fn new(bytes: Box<dyn Read + Send>) -> Self {
        Self { bytes, left: 0 }
    }

    fn begin_line(&mut self) {
        self.left = MAX_LINE_BYTES + BUFFER;
    }
}

impl Read for Portions {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let why = format!("it is longer than {MAX_LINE_BYTES} bytes, as no line with a key is");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let most = buffer.len().min(self.left);
        let len = self.bytes.read(&mut buffer[..most])?;
        self.left -= len;
        Ok(len)
    }
}

impl std::fmt::Debug for KeyReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyReader").finish_non_exhaustive()
    }
}

impl Listing {
    /// Opens a listing of `bucket`.
    pub async fn open(s3: &S3, file: &Path, bucket: &str) -> Result<Self> {
        let place = Place::of(file)?;
        let name = place.to_string();
        let lower = name.to_lowercase();
        let stem = lower.strip_suffix(".gz").unwrap_or(&lower);
        let ending = Path::new(stem).extension().and_then(std::ffi::OsStr::to_str);
        let files = if ending == Some("json") {
            let text = place.read(s3, MAX_MANIFEST_BYTES).await?;
            let manifest: InventoryManifest =
                serde_json::from_slice(&text).map_err(|e| Error::list(name.as_str(), e))?;
            if manifest.source_bucket != bucket {
                let why = format!("it is of the bucket {}, not {bucket}", manifest.source_bucket);
                return Err(Error::list(name, why));
            }
            manifest.files(&place)?
        } else {
            let format = match ending {
                Some("csv") => Format::Csv(None),
                Some("parquet") => Format::Parquet,
                Some("orc") => {
                    let why = "ORC is not read: have the inventory in Parquet";
                    return Err(Error::list(name, why));
                }
                _ => Format::Lines,
            };
            [DataFile { place, format }].into()
        };
        let mut listing = Self { bucket: bucket.to_owned(), files, open: None };
        // Opened now rather than at the first key: a missing file is the caller's error.
        listing.advance(s3).await?;
        Ok(listing)
    }

    /// The next keys; none at the end.
    pub async fn next_page(&mut self, s3: &S3) -> Result<Vec<Listed>> {
        loop {
            let Some((name, reader)) = &mut self.open else { return Ok(Vec::new()) };
            let page =
                reader.next_page(&self.bucket).map_err(|why| Error::list(name.as_str(), why))?;
            if !page.is_empty() {
                return Ok(page);
            }
            self.advance(s3).await?;
        }
    }

    /// Opens the next file, if there is one.
    async fn advance(&mut self, s3: &S3) -> Result<()> {
        self.open = match self.files.pop_front() {
            None => None,
            Some(DataFile { place, format }) => {
                let name = place.to_string();
                let reader = KeyReader::open(place, format, s3).await?;
                Some((name, reader))
            }
        };
        Ok(())
    }
}

impl Place {
    fn of(file: &Path) -> Result<Self> {
        match file.to_str() {
            Some(text) if S3Location::is_uri(text) => Ok(Self::S3(text.parse()?)),
            _ => Ok(Self::Local(file.to_owned())),
        }
    }

    /// Reads the whole file, if it has at most `most` bytes.
    async fn read(&self, s3: &S3, most: u64) -> Result<Bytes> {
        match self {
            Self::Local(path) => {
                let failed = |e| Error::list(self.to_string(), e);
                let mut bytes = Vec::new();
                let file = File::open(path).map_err(failed)?;
                file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
                if bytes.len() as u64 > most {
                    let why = format!("it is longer than {most} bytes");
                    return Err(Error::list(self.to_string(), why));
                }
                Ok(bytes.into())
            }
            Self::S3(location) => {
                let key = location.key().to_owned();
                let object = Listed { key, size: None, etag: None, modified: None };
                s3.get(location.bucket(), &object, most)
                    .await
                    .map(|got| got.bytes)
                    .map_err(|fault| Error::list(self.to_string(), fault))
            }
        }
    }

    /// Opens the file, and decompresses it if its name ends in `.gz`.
    async fn stream(&self, s3: &S3) -> Result<Portions> {
        let bytes: Box<dyn Read + Send> = match self {
            Self::Local(path) => {
                Box::new(File::open(path).map_err(|e| Error::list(self.to_string(), e))?)
            }
            Self::S3(_) => Box::new(Cursor::new(self.read(s3, MAX_FILE_BYTES).await?)),
        };
        if Path::new(&self.to_string()).extension().is_some_and(|e| e.eq_ignore_ascii_case("gz")) {
            let packed = BufReader::with_capacity(1 << 16, bytes);
            return Ok(Portions::new(Box::new(MultiGzDecoder::new(packed))));
        }
        Ok(Portions::new(bytes))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local(path) => path.display().fmt(f),
            Self::S3(location) => location.fmt(f),
        }
    }
}

impl InventoryManifest {
    fn files(self, manifest: &Place) -> Result<VecDeque<DataFile>> {
        if self.file_schema.len() > MAX_LINE_BYTES {
            let why = format!("its fileSchema is longer than {MAX_LINE_BYTES} bytes");
            return Err(Error::list(manifest.to_string(), why));
        }
        // Shared by all files.
        let columns: Arc<[String]> = self.file_schema.split(',').map(normal).collect();
        // An ARN, whose prefix depends on the AWS partition.
        let destination = self.destination_bucket.rsplit(":::").next().unwrap_or_default();
        self.files
            .iter()
            .map(|file| {
                let key =
                    checked(&file.key).map_err(|why| Error::list(manifest.to_string(), why))?;
                let place = match manifest {
                    Place::S3(_) => Place::S3(
                        S3Location::new(destination, key)
                            .map_err(|e| Error::list(manifest.to_string(), e))?,
                    ),
                    Place::Local(manifest) => Place::Local(beside(manifest, key)?),
                };
                let format = match self.file_format.to_lowercase().as_str() {
                    "csv" => Format::Csv(Some(Arc::clone(&columns))),
                    "parquet" => Format::Parquet,
                    other => {
                        let why = format!("its format is {other}: have it in CSV or Parquet");
                        return Err(Error::list(manifest.to_string(), why));
                    }
                };
                Ok(DataFile { place, format })
            })
            .collect()
    }
}

/// The local copy of an inventory's data file.
fn beside(manifest: &Path, key: &str) -> Result<PathBuf> {
    let name = key.rsplit('/').next().unwrap_or(key);
    let folder = manifest.parent().unwrap_or(Path::new(""));
    let places = [folder.join(name), folder.join("../data").join(name)];
    let [first, second] = &places;
    places.iter().find(|path| path.exists()).cloned().ok_or_else(|| {
        let why = format!("there is neither {} nor {}", first.display(), second.display());
        Error::list(manifest.display().to_string(), why)
    })
}

/// Normalizes a column name, which the inventory formats spell differently.
fn normal(column: &str) -> String {
    column.trim().to_lowercase().replace('_', "")
}

type Why = crate::error::BoxError;

impl KeyReader {
    async fn open(place: Place, format: Format, s3: &S3) -> Result<Self> {
        Ok(match format {
            Format::Lines => {
                let text = BufReader::with_capacity(BUFFER, place.stream(s3).await?);
                Self::Lines { text, number: 0 }
            }
            Format::Csv(columns) => {
                if columns.as_ref().is_some_and(|columns| !columns.iter().any(|c| c == KEY)) {
                    return Err(Error::list(place.to_string(), "it has no column Key"));
                }
                let rows = csv::ReaderBuilder::new()
                    .has_headers(false)
                    .flexible(true)
                    .buffer_capacity(BUFFER)
                    .from_reader(place.stream(s3).await?);
                Self::Csv { rows, columns }
            }
            Format::Parquet => {
                let reader = match &place {
                    Place::Local(path) => {
                        File::open(path).map_err(Why::from).and_then(wanted_columns)
                    }
                    Place::S3(_) => wanted_columns(place.read(s3, MAX_FILE_BYTES).await?),
                };
                Self::Parquet(reader.map_err(|why| Error::list(place.to_string(), why))?)
            }
        })
    }

    /// The next keys; none at the end.
    fn next_page(&mut self, bucket: &str) -> Result<Vec<Listed>, Why> {
        let mut page = Vec::new();
        match self {
            Self::Lines { text, number } => {
                let mut line = String::new();
                while page.len() < PAGE {
                    line.clear();
                    text.get_mut().begin_line();
                    *number += 1;
                    let of_line = |why: Why| Why::from(format!("line {number}: {why}"));
                    if text.read_line(&mut line).map_err(|e| of_line(e.into()))? == 0 {
                        break;
                    }
                    let line = line.strip_suffix('\n').unwrap_or(&line);
                    let line = line.strip_suffix('\r').unwrap_or(line);
                    if !line.is_empty() {
                        page.push(from_line(line, bucket).map_err(of_line)?);
                    }
                }
            }
            Self::Csv { rows, columns } => {
                let mut row = csv::StringRecord::new();
                while page.len() < PAGE {
                    rows.get_mut().begin_line();
                    let line = rows.position().line();
                    let of_line = |why: Why| Why::from(format!("line {line}: {why}"));
                    if !rows.read_record(&mut row).map_err(|e| of_line(e.into()))? {
                        break;
                    }
                    let object = of_row(&row, columns.as_deref(), bucket).map_err(of_line)?;
                    page.extend(object);
                }
            }
            Self::Parquet(batches) => {
                while page.is_empty() {
                    let Some(batch) = batches.next() else { break };
                    of_batch(&batch?, bucket, &mut page)?;
                }
            }
        }
        Ok(page)
    }
}

/// Reads the columns of a Parquet file that are wanted, and no others.
fn wanted_columns<R: ChunkReader + 'static>(file: R) -> Result<ParquetRecordBatchReader, Why> {
    // Text as views: a long value that all rows share is held once.
    let plain = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let metadata = ArrowReaderMetadata::load(&file, plain.clone())?;
    let as_view = |field: &FieldRef| match field.data_type() {
        DataType::Utf8 => field.as_ref().clone().with_data_type(DataType::Utf8View),
        _ => field.as_ref().clone(),
    };
    let schema: Fields = metadata.schema().fields().iter().map(as_view).collect();
    let options = plain.with_schema(Arc::new(Schema::new(schema)));
    let file = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)?;
    let is_wanted = |name: &str| WANTED.contains(&normal(name).as_str());
    let fields = file.schema().fields().iter().enumerate();
    let roots = fields.filter(|(_, field)| is_wanted(field.name())).map(|(at, _)| at);
    let mask = ProjectionMask::roots(file.parquet_schema(), roots);
    let (of_row, besides) = MAX_COLUMN_BYTES;
    for group in file.metadata().row_groups() {
        let rows = u64::try_from(group.num_rows())?;
        let most = rows.saturating_mul(of_row).saturating_add(besides).min(MAX_FILE_BYTES);
        let columns = group.columns().iter().enumerate();
        for (_, column) in columns.filter(|(at, _)| mask.leaf_included(*at)) {
            let bytes = column.uncompressed_size();
            if !u64::try_from(bytes).is_ok_and(|bytes| bytes <= most) {
                let name = column.column_path().string();
                let why = format!(
                    "its column {name} has {bytes} bytes in {rows} rows, not at most {most}"
                );
                return Err(why.into());
            }
        }
    }
    Ok(file.with_projection(mask).with_batch_size(PAGE).build()?)
}

/// Refuses a key that S3 cannot hold.
fn checked<K: AsRef<str>>(key: K) -> Result<K, Why> {
    let len = key.as_ref().len();
    if len > MAX_KEY_BYTES {
        return Err(format!("the key has {len} bytes, and no key more than {MAX_KEY_BYTES}").into());
    }
    Ok(key)
}

fn from_line(line: &str, bucket: &str) -> Result<Listed, Why> {
    let (key, size) = match line.rsplit_once('\t') {
        Some((key, size)) => {
            (key, Some(size.parse().map_err(|_| format!("the size of {key} is {size:?}"))?))
        }
        None => (line, None),
    };
    let key = if S3Location::is_uri(key) {
        let location: S3Location = key.parse()?;
        of_bucket(location.bucket(), bucket)?;
        location.key().to_owned()
    } else {
        key.to_owned()
    };
    Ok(Listed { key: checked(key)?, size, etag: None, modified: None })
}

fn of_bucket(found: &str, bucket: &str) -> Result<(), Why> {
    if found == bucket {
        Ok(())
    } else {
        Err(format!("it is of the bucket {found}, not {bucket}").into())
    }
}

/// Reads a row of an inventory; `None` if it is not a latest version, or is a delete marker.
fn of_row(
    row: &csv::StringRecord,
    columns: Option<&[String]>,
    bucket: &str,
) -> Result<Option<Listed>, Why> {
    let value = |name: &str| match columns {
        Some(columns) => columns.iter().position(|c| c == name).and_then(|at| row.get(at)),
        None => ["bucket", KEY, "size"].iter().position(|c| *c == name).and_then(|at| row.get(at)),
    };
    if let Some(found) = value("bucket") {
        of_bucket(found, bucket)?;
    }
    if value("islatest") == Some("false") || value("isdeletemarker") == Some("true") {
        return Ok(None);
    }
    let key = value(KEY).ok_or("there is no key")?;
    let key = percent_decode_str(&key.replace('+', " "))
        .decode_utf8()
        .map_err(|_| format!("the key {key} is not valid UTF-8"))?
        .into_owned();
    let size = match value("size") {
        None | Some("") => None,
        Some(size) => Some(size.parse().map_err(|_| {
            format!("the size is {size:?} (without a manifest the columns are bucket, key, size)")
        })?),
    };
    let etag = value("etag").filter(|etag| !etag.is_empty()).map(quoted);
    Ok(Some(Listed { key: checked(key)?, size, etag, modified: None }))
}

/// An ETag in quotes, as requests need it.
fn quoted(etag: &str) -> String {
    if etag.starts_with('"') { etag.to_owned() } else { format!("\"{etag}\"") }
}

fn of_batch(
    batch: &arrow_array::RecordBatch,
    bucket: &str,
    page: &mut Vec<Listed>,
) -> Result<(), Why> {
    use arrow_array::Array as _;
    use arrow_array::cast::AsArray as _;
    use arrow_array::types::Int64Type;
    use arrow_cast::cast;
    let schema = batch.schema();
    let column = |name: &str, kind: &DataType| {
        let at = schema.fields().iter().position(|field| normal(field.name()) == name);
        at.map(|at| cast(batch.column(at), kind)).transpose()
    };
    let keys = column(KEY, &DataType::Utf8View)?.ok_or("it has no column key")?;
    let buckets = column("bucket", &DataType::Utf8View)?;
    let sizes = column("size", &DataType::Int64)?;
    let etags = column("etag", &DataType::Utf8View)?;
    let latest = column("islatest", &DataType::Boolean)?;
    let deleted = column("isdeletemarker", &DataType::Boolean)?;
    let text = |column: &arrow_array::ArrayRef, at: usize| -> Result<Option<String>, Why> {
        let text = column.is_valid(at).then(|| column.as_string_view().value(at));
        text.map(|text| checked(text).map(str::to_owned)).transpose()
    };
    let flag = |column: &Option<arrow_array::ArrayRef>, at: usize| {
        column.as_ref().filter(|c| c.is_valid(at)).map(|c| c.as_boolean().value(at))
    };
    for at in 0..batch.num_rows() {
        let text_of = |column: &Option<_>| column.as_ref().map_or(Ok(None), |c| text(c, at));
        if let Some(found) = text_of(&buckets)? {
            of_bucket(&found, bucket)?;
        }
        if flag(&latest, at) == Some(false) || flag(&deleted, at) == Some(true) {
            continue;
        }
        page.push(Listed {
            key: text(&keys, at)?.ok_or("there is no key")?,
            size: sizes
                .as_ref()
                .filter(|c| c.is_valid(at))
                .and_then(|c| c.as_primitive::<Int64Type>().value(at).try_into().ok()),
            etag: text_of(&etags)?.map(|etag| quoted(&etag)),
            modified: None,
        });
    }
    Ok(())
}
