//! Parquet files in a folder or in S3.

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::{Deserialize, Serialize};

#[cfg(feature = "s3")]
use super::s3::S3Target;
use super::schema::{ScoreWidth, schema, to_record_batch};
use super::staging::{ERRORS, Staging, WriteMode};
use super::target::{Target, TargetFile};
use super::{Failure, RowSink, SinkReport};
use crate::error::{BoxError, Error, Result};
use crate::rows::RowBatch;
#[cfg(feature = "s3")]
use crate::s3::S3;
use crate::stage::Parallelism;

/// Default of [`ParquetParams::with_row_group_rows`]: some 5 MB before compression.
pub const DEFAULT_ROW_GROUP_ROWS: usize = 32_768;
/// Default of [`ParquetParams::with_rows_per_file`]: some 300 MB.
pub const DEFAULT_ROWS_PER_FILE: u64 = 2_097_152;

/// Rows that are gathered before their columns are encoded, side by side: enough for each thread.
const ROWS_AT_A_TIME: usize = 8192;
/// Failures that are gathered before they are written.
const FAILURES_AT_A_TIME: usize = 1024;

/// The compression of the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// None.
    Uncompressed,
    /// Snappy, Spark's default.
    Snappy,
    /// Gzip.
    Gzip,
    /// LZ4, raw blocks.
    Lz4,
    /// Zstandard at a level, 1 to 22.
    Zstd(i32),
}

impl Default for Codec {
    fn default() -> Self {
        Self::Zstd(1)
    }
}

impl Codec {
    fn compression(self) -> Result<Compression> {
        Ok(match self {
            Self::Uncompressed => Compression::UNCOMPRESSED,
            Self::Snappy => Compression::SNAPPY,
            Self::Gzip => Compression::GZIP(GzipLevel::default()),
            Self::Lz4 => Compression::LZ4_RAW,
            Self::Zstd(level) => Compression::ZSTD(
                ZstdLevel::try_new(level)
                    .map_err(|_| Error::param("zstd level", level, "1 to 22"))?,
            ),
        })
    }
}

/// How Parquet files are written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct ParquetParams {
    mode: WriteMode,
    codec: Codec,
    row_group_rows: usize,
    rows_per_file: u64,
    score_width: ScoreWidth,
}

impl Default for ParquetParams {
    fn default() -> Self {
        Self {
            mode: WriteMode::default(),
            codec: Codec::default(),
            row_group_rows: DEFAULT_ROW_GROUP_ROWS,
            rows_per_file: DEFAULT_ROWS_PER_FILE,
            score_width: ScoreWidth::default(),
        }
    }
}

impl ParquetParams {
    /// Sets what to do when the folder exists (default [`WriteMode::Error`]).
    pub fn with_mode(mut self, mode: WriteMode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the compression (default [`Codec::Zstd`] at level 1).
    pub fn with_codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Sets the rows of a row group (default [`DEFAULT_ROW_GROUP_ROWS`]); one row group is held in
    /// memory.
    pub fn with_row_group_rows(mut self, rows: usize) -> Self {
        self.row_group_rows = rows;
        self
    }

    /// Sets the most rows of a file (default [`DEFAULT_ROWS_PER_FILE`]).
    pub fn with_rows_per_file(mut self, rows: u64) -> Self {
        self.rows_per_file = rows;
        self
    }

    /// Sets the type of the scores (default [`ScoreWidth::F32`]).
    pub fn with_score_width(mut self, width: ScoreWidth) -> Self {
        self.score_width = width;
        self
    }
}

/// Writes `part-00000-<run id>.parquet` and so on to a folder or to S3, in the columns of [`schema`].
///
/// In a folder, files are written to a hidden folder beside the output (in it, to append) and moved
/// when the job is complete, `_SUCCESS` last: a new or replaced result appears as a whole, added files
/// one by one. Recorded failures go to `_errors/` in the output. A sink that is dropped before
/// [`RowSink::finish`] leaves nothing.
///
/// In S3, files are multipart uploads, which nobody sees before they are completed at the commit. While
/// it lasts there is no `_SUCCESS`, and `_manifest.json` names the old result as the current one, until
/// it names the new one. The old result's files are deleted after that. Whatever becomes of the process,
/// the next run on the output finishes its commit, or clears its uploads away.
///
/// The footer of each file holds the annotations, and the version of this crate.
///
/// The columns of a row group are encoded side by side, on as many threads as
/// [`RowSink::set_parallelism`] says (default: one for each core); the files do not depend on it.
#[derive(Debug)]
pub struct ParquetSink {
    params: ParquetParams,
    properties: WriterProperties,
    notes: Vec<KeyValue>,
    run_id: String,
    part: Option<Part>,
    failures: Vec<Failure>,
    failure_part: Option<Part>,
    report: SinkReport,
    schema: Option<SchemaRef>,
    encoders: Encoders,
    // Last, so that the files are closed before they are removed.
    target: Target,
}

impl ParquetSink {
    /// Makes the hidden folder, and looks whether the mode allows the output.
    ///
    /// # Errors
    /// [`Error::OutputExists`], [`Error::Write`], or [`Error::InvalidParam`] for row counts of 0.
    pub fn create(path: impl AsRef<Path>, params: ParquetParams) -> Result<Self> {
        Self::on(params, |mode, run_id| {
            Ok(Target::Folder(Staging::create(path.as_ref(), mode, run_id)?))
        })
    }

    /// Takes `s3://bucket/prefix` as the folder.
    ///
    /// It finishes or clears away what dead runs have left there, and looks whether the mode allows the
    /// output.
    ///
    /// # Errors
    /// [`Error::OutputExists`]; [`Error::Write`] also if the server cannot be reached or ignores
    /// conditions on writes; [`Error::InvalidParam`].
    #[cfg(feature = "s3")]
    pub fn create_in_s3(s3: &S3, location: impl AsRef<str>, params: ParquetParams) -> Result<Self> {
        let location = location.as_ref().parse()?;
        Self::on(params, |mode, run_id| {
            Ok(Target::S3(Box::new(S3Target::create(s3, location, mode, run_id)?)))
        })
    }

    fn on(
        params: ParquetParams,
        target: impl FnOnce(WriteMode, &str) -> Result<Target>,
    ) -> Result<Self> {
        if params.row_group_rows == 0 {
            return Err(Error::param("row_group_rows", 0, "at least 1"));
        }
        if params.rows_per_file == 0 {
            return Err(Error::param("rows_per_file", 0, "at least 1"));
        }
        let properties = writer_properties(&params)?;
        let run_id = uuid::Uuid::new_v4().simple().to_string();
        let target = target(params.mode, &run_id)?;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Self {
            params,
            properties,
            notes: vec![KeyValue::new("orb_features.version".to_owned(), version)],
            run_id,
            part: None,
            failures: Vec::new(),
            failure_part: None,
            report: SinkReport { path: Some(target.uri("")), ..SinkReport::default() },
            schema: None,
            encoders: Encoders::new(Parallelism::default()),
            target,
        })
    }

    fn write_batch(&mut self, batch: &RecordBatch) -> Result<()> {
        let schema = batch.schema();
        match &self.schema {
            Some(first) if *first != schema => {
                let why = "a batch has other columns than the batches before it";
                return Err(Error::write_to(self.target.uri(""), why));
            }
            Some(_) if batch.num_rows() == 0 => return Ok(()),
            Some(_) => {}
            None => {
                if self.params.mode == WriteMode::Append {
                    self.target.check_columns(&schema)?;
                }
                self.schema = Some(Arc::clone(&schema));
            }
        }
        let mut written = 0;
        loop {
            let part = match &mut self.part {
                Some(part) => part,
                none => {
                    let name = format!("part-{:05}-{}.parquet", self.report.files, self.run_id);
                    self.report.files += 1;
                    none.insert(Part::create(
                        &self.target,
                        &name,
                        &schema,
                        &self.properties,
                        &self.notes,
                    )?)
                }
            };
            let room = self.params.rows_per_file - part.rows;
            let rows = usize::try_from(room).unwrap_or(usize::MAX).min(batch.num_rows() - written);
            part.write(&batch.slice(written, rows), &self.encoders)?;
            written += rows;
            if part.rows == self.params.rows_per_file {
                self.close_part()?;
            }
            if written == batch.num_rows() {
                return Ok(());
            }
        }
    }

    fn close_part(&mut self) -> Result<()> {
        if let Some(part) = self.part.take() {
            self.report.rows += part.rows;
            self.report.bytes += part.close(&self.encoders)?;
        }
        Ok(())
    }

    fn write_failures(&mut self) -> Result<()> {
        if self.failures.is_empty() {
            return Ok(());
        }
        let part = match &mut self.failure_part {
            Some(part) => part,
            none => {
                let name = format!("{ERRORS}/part-00000-{}.parquet", self.run_id);
                let properties = WriterProperties::default();
                let schema = failure_schema();
                none.insert(Part::create(&self.target, &name, &schema, &properties, &self.notes)?)
            }
        };
        let text = |value: fn(&Failure) -> Option<&str>| -> ArrayRef {
            Arc::new(self.failures.iter().map(value).collect::<StringArray>())
        };
        let columns = vec![
            text(|f| f.uri.as_deref()),
            text(|f| Some(&f.stage)),
            text(|f| Some(&f.cause)),
            text(|f| Some(&f.message)),
        ];
        let batch = RecordBatch::try_new(failure_schema(), columns)
            .map_err(|e| Error::write_to(part.uri.as_str(), e))?;
        part.write(&batch, &self.encoders)?;
        self.report.failures += self.failures.len() as u64;
        self.failures.clear();
        Ok(())
    }
}

impl RowSink for ParquetSink {
    fn set_parallelism(&mut self, parallelism: Parallelism) {
        self.encoders = Encoders::new(parallelism);
    }

    fn annotate(&mut self, key: &str, value: &str) {
        self.notes.push(KeyValue::new(format!("orb_features.{key}"), value.to_owned()));
    }

    fn write(&mut self, batch: &RowBatch) -> Result<()> {
        let batch = to_record_batch(batch, self.params.score_width)
            .map_err(|e| Error::write_to(self.target.uri(""), e))?;
        self.write_batch(&batch)
    }

    fn record(&mut self, failure: &Failure) -> Result<()> {
        self.failures.push(failure.clone());
        if self.failures.len() < FAILURES_AT_A_TIME { Ok(()) } else { self.write_failures() }
    }

    fn finish(mut self) -> Result<SinkReport> {
        if self.schema.is_none() {
            // No row at all: an empty file still shows readers the columns.
            self.write_batch(&RecordBatch::new_empty(schema(None, self.params.score_width)))?;
        }
        self.close_part()?;
        self.write_failures()?;
        if let Some(part) = self.failure_part.take() {
            self.report.bytes += part.close(&self.encoders)?;
        }
        let Self { target, report, schema, .. } = self;
        let schema = schema.unwrap_or_else(|| Arc::new(Schema::empty()));
        let retries = target.commit(&schema)?;
        Ok(SinkReport { retries, ..report })
    }
}

/// The threads that encode columns, once there are any to encode.
#[derive(Debug)]
struct Encoders {
    threads: usize,
    pool: OnceLock<Option<ThreadPool>>,
}

impl Encoders {
    fn new(parallelism: Parallelism) -> Self {
        Self { threads: parallelism.threads(), pool: OnceLock::new() }
    }

    /// Does the work on each column, on several threads if there are.
    fn for_each<T: Send, R: Send>(
        &self,
        columns: Vec<T>,
        work: impl Fn(usize, T) -> Result<R, ParquetError> + Send + Sync,
    ) -> Result<Vec<R>, ParquetError> {
        let pool = self.pool.get_or_init(|| {
            // A machine that refuses threads still gets the work done.
            let pool = ThreadPoolBuilder::new()
                .num_threads(self.threads)
                .thread_name(|i| format!("orb-parquet-{i}"));
            if self.threads > 1 { pool.build().ok() } else { None }
        });
        let Some(pool) = pool else {
            return columns.into_iter().enumerate().map(|(i, column)| work(i, column)).collect();
        };
        pool.install(|| {
            // One at a time: the scores take as long as all the others.
            let columns = columns.into_par_iter().enumerate().with_max_len(1);
            columns.map(|(i, column)| work(i, column)).collect()
        })
    }
}

/// One open file.
struct Part {
    uri: String,
    file: SerializedFileWriter<TargetFile>,
    row_groups: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    rows: u64,
    /// The columns of the open row group, each with one leaf.
    columns: Vec<ArrowColumnWriter>,
    row_group_rows: usize,
    /// The rows that the open row group has room for.
    room: usize,
    /// Batches that are still to be encoded.
    waiting: Vec<RecordBatch>,
    waiting_rows: usize,
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part").field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl Part {
    fn create(
        target: &Target,
        name: &str,
        schema: &SchemaRef,
        properties: &WriterProperties,
        notes: &[KeyValue],
    ) -> Result<Self> {
        let (file, uri) = (target.file(name)?, target.uri(name));
        let (mut file, row_groups) =
            ArrowWriter::try_new(file, Arc::clone(schema), Some(properties.clone()))
                .and_then(ArrowWriter::into_serialized_writer)
                .map_err(|e| broken(&uri, e))?;
        for note in notes {
            file.append_key_value_metadata(note.clone());
        }
        let row_group_rows = properties.max_row_group_row_count().unwrap_or(usize::MAX);
        Ok(Self {
            uri,
            file,
            row_groups,
            schema: Arc::clone(schema),
            rows: 0,
            columns: Vec::new(),
            row_group_rows,
            room: row_group_rows,
            waiting: Vec::new(),
            waiting_rows: 0,
        })
    }

    fn write(&mut self, batch: &RecordBatch, encoders: &Encoders) -> Result<()> {
        let mut written = 0;
        while written < batch.num_rows() {
            let rows = self.room.min(batch.num_rows() - written);
            self.waiting.push(batch.slice(written, rows));
            self.waiting_rows += rows;
            self.room -= rows;
            written += rows;
            if self.room == 0 {
                self.end_row_group(encoders).map_err(|e| broken(&self.uri, e))?;
            } else if self.waiting_rows >= ROWS_AT_A_TIME {
                self.encode(encoders).map_err(|e| broken(&self.uri, e))?;
            }
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// Encodes the rows that are waiting.
    fn encode(&mut self, encoders: &Encoders) -> Result<(), ParquetError> {
        if self.columns.is_empty() {
            let index = self.file.flushed_row_groups().len();
            self.columns = self.row_groups.create_column_writers(index)?;
        }
        let batches = std::mem::take(&mut self.waiting);
        self.waiting_rows = 0;
        let fields = self.schema.fields();
        encoders.for_each(self.columns.iter_mut().collect(), |i, column| {
            for batch in &batches {
                for leaf in compute_leaves(&fields[i], batch.column(i))? {
                    column.write(&leaf)?;
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    fn end_row_group(&mut self, encoders: &Encoders) -> Result<(), ParquetError> {
        self.encode(encoders)?;
        let columns = std::mem::take(&mut self.columns);
        let chunks = encoders.for_each(columns, |_, column| column.close())?;
        self.room = self.row_group_rows;
        let mut row_group = self.file.next_row_group()?;
        chunks.into_iter().try_for_each(|chunk| chunk.append_to_row_group(&mut row_group))?;
        row_group.close()?;
        Ok(())
    }

    /// Completes the file and returns its length.
    fn close(mut self, encoders: &Encoders) -> Result<u64> {
        if self.room < self.row_group_rows {
            self.end_row_group(encoders).map_err(|e| broken(&self.uri, e))?;
        }
        let file = self.file.into_inner().map_err(|e| broken(&self.uri, e))?;
        file.close(self.rows).map_err(|e| broken(&self.uri, e))
    }
}

/// What a failed write means: the file is broken, or the caller asked to stop.
fn broken(uri: &str, error: impl Into<BoxError>) -> Error {
    let error = error.into();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&*error);
    while let Some(at) = cause {
        let inner = at.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if inner.and_then(|e| e.downcast_ref()).is_some_and(|e| matches!(e, Error::Interrupted)) {
            return Error::Interrupted;
        }
        cause = at.source();
    }
    Error::write_to(uri, error)
}

fn writer_properties(params: &ParquetParams) -> Result<WriterProperties> {
    let mut builder = WriterProperties::builder()
        .set_created_by(concat!("orb-features ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(params.codec.compression()?)
        .set_max_row_group_row_count(Some(params.row_group_rows));
    // Values that hardly repeat: a dictionary would be built only to be given up.
    for column in ["x", "y", "size", "angle", "response", "descriptor"] {
        builder = builder.set_column_dictionary_enabled(column.into(), false);
    }
    let scores = ColumnPath::new(["pca", "list", "element"].map(str::to_owned).to_vec());
    Ok(builder.set_column_dictionary_enabled(scores, false).build())
}

fn failure_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("uri", DataType::Utf8, true),
        Field::new("stage", DataType::Utf8, false),
        Field::new("cause", DataType::Utf8, false),
        Field::new("message", DataType::Utf8, false),
    ]))
}
