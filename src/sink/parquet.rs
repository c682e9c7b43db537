//! Parquet files in a folder or in S3.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};

use super::failures::FailureFile;
use super::layout::{self, WriteMode};
use super::own::Columns;
use super::part::Part;
#[cfg(feature = "s3")]
use super::s3::S3Target;
use super::staging::Staging;
use super::target::Target;
use super::{RowSink, SinkReport};
use crate::error::{BoxError, Error, Result};
use crate::parallel::Parallelism;
use crate::rows::{RowBatch, ScoreWidth, is_dictionary};
#[cfg(feature = "s3")]
use crate::s3::{S3, S3Location};

/// Default of [`ParquetParams::with_row_group_rows`]: some 5 MB before compression.
pub const DEFAULT_ROW_GROUP_ROWS: usize = 32_768;
/// Default of [`ParquetParams::with_rows_per_file`]: some 300 MB.
pub const DEFAULT_ROWS_PER_FILE: u64 = 2_097_152;

/// Longest [`ParquetParams::with_run_id`], in characters.
pub const MAX_RUN_ID_LEN: usize = 128;

/// Parquet numbers row groups with a signed 16-bit integer.
const MAX_ROW_GROUPS: u64 = i16::MAX as u64;

/// The compression of the columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
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

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uncompressed => f.pad("uncompressed"),
            Self::Snappy => f.pad("snappy"),
            Self::Gzip => f.pad("gzip"),
            Self::Lz4 => f.pad("lz4"),
            Self::Zstd(level) => write!(f, "zstd:{level}"),
        }
    }
}

impl FromStr for Codec {
    type Err = Error;

    /// Accepts the name of a codec; `zstd` also with its level: `zstd:3`.
    fn from_str(name: &str) -> Result<Self> {
        let bad = || Error::param("codec", name, "uncompressed, snappy, gzip, lz4, zstd or zstd:N");
        Ok(match name {
            "uncompressed" => Self::Uncompressed,
            "snappy" => Self::Snappy,
            "gzip" => Self::Gzip,
            "lz4" => Self::Lz4,
            "zstd" => Self::default(),
            _ => {
                let level = name.strip_prefix("zstd:").and_then(|level| level.parse().ok());
                Self::Zstd(level.ok_or_else(bad)?)
            }
        })
    }
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
pub struct ParquetParams {
    mode: WriteMode,
    force: bool,
    codec: Codec,
    row_group_rows: usize,
    rows_per_file: u64,
    score_width: ScoreWidth,
    run_id: Option<String>,
}

impl Default for ParquetParams {
    fn default() -> Self {
        Self {
            mode: WriteMode::default(),
            force: false,
            codec: Codec::default(),
            row_group_rows: DEFAULT_ROW_GROUP_ROWS,
            rows_per_file: DEFAULT_ROWS_PER_FILE,
            score_width: ScoreWidth::default(),
            run_id: None,
        }
    }
}

impl ParquetParams {
    /// Sets what to do when the folder exists (default [`WriteMode::Error`]).
    pub fn with_mode(mut self, mode: WriteMode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets whether [`WriteMode::Append`] may add to a result made with other parameters, another decoder or another
    /// fit (default: no). Different columns are refused either way.
    pub fn with_force(mut self, force: bool) -> Self {
        self.force = force;
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

    /// Sets the most rows of a file (default [`DEFAULT_ROWS_PER_FILE`]); it never has more than 32,767 row groups.
    pub fn with_rows_per_file(mut self, rows: u64) -> Self {
        self.rows_per_file = rows;
        self
    }

    /// Sets the type of the scores (default [`ScoreWidth::F32`]).
    pub fn with_score_width(mut self, width: ScoreWidth) -> Self {
        self.score_width = width;
        self
    }

    /// Sets the name by which a result in S3 recognises this run: 1 to [`MAX_RUN_ID_LEN`] visible ASCII characters
    /// (default: a random one).
    ///
    /// If it is unknown whether a run was committed, repeat the work under the same name. If the run was committed, the
    /// repetition ends as [`Error::AlreadyCommitted`], so an append does not double the rows; if its files have been
    /// replaced since, as [`Error::Write`]. A result remembers all runs that it has files of, and the last 16 runs in
    /// any case.
    pub fn with_run_id(mut self, run_id: impl Into<String>) -> Self {
        self.run_id = Some(run_id.into());
        self
    }

    /// What to do when the folder exists.
    #[must_use]
    pub fn mode(&self) -> WriteMode {
        self.mode
    }

    /// The compression.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// The rows of a row group.
    #[must_use]
    pub fn row_group_rows(&self) -> usize {
        self.row_group_rows
    }

    /// The most rows of a file.
    #[must_use]
    pub fn rows_per_file(&self) -> u64 {
        self.rows_per_file
    }

    /// The type of the scores.
    #[must_use]
    pub fn score_width(&self) -> ScoreWidth {
        self.score_width
    }

    /// The name of the run, if one is set.
    #[must_use]
    pub fn run_id(&self) -> Option<&str> {
        self.run_id.as_deref()
    }

    /// Checks the parameters, before anything is written.
    ///
    /// # Errors
    /// [`Error::InvalidParam`], naming the parameter and what it may be.
    pub fn check(&self) -> Result<()> {
        for (name, rows) in
            [("row_group_rows", self.row_group_rows as u64), ("rows_per_file", self.rows_per_file)]
        {
            if rows == 0 {
                return Err(Error::param(name, 0, "at least 1"));
            }
        }
        self.codec.compression()?;
        match &self.run_id {
            Some(id)
                if id.is_empty()
                    || id.len() > MAX_RUN_ID_LEN
                    || !id.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                let allowed = format!("1 to {MAX_RUN_ID_LEN} visible ASCII characters");
                Err(Error::param("run_id", format!("{id:?}"), allowed))
            }
            _ => Ok(()),
        }
    }
}

/// Writes `part-00000-<run id>.parquet` and so on to a folder or to S3, in the columns of [`schema`](crate::rows::schema()).
///
/// In a folder, files are written to a hidden folder beside the output (inside it for an append) and moved
/// when the job is complete, `_SUCCESS` last: a new or replaced result appears as a whole, appended files
/// one by one. Recorded failures go to `_errors/` in the output. A sink that is dropped before
/// [`RowSink::finish`] leaves nothing. A process that is killed leaves its hidden folder, `.OUT.<run>.tmp` or
/// `OUT/_temporary-<run>`; the next run of the same user on the output removes it and undoes an append that was cut off,
/// on local file systems of Linux. An append fails if its output has been replaced meanwhile, or lost its `_SUCCESS`.
/// A finished result that cannot be put in place is kept, as `.OUT.<run>.complete` or `OUT/_complete-<run>`, and named
/// in the error.
///
/// In S3, files are multipart uploads, which are invisible until the commit completes them. During the commit
/// there is no `_SUCCESS`, and `_manifest.json` names the old result as the current one until it names the
/// new one. The files of the old result are deleted after that. If the process dies, the next run on the output
/// finishes its commit, or aborts its uploads: at once if it ran on this machine, after two minutes if on another.
///
/// The footer of each file holds the annotations, and the version of this crate. [`WriteMode::Append`]
/// compares those on the extractor, the decoder and the fit with those of the existing result, and refuses to
/// mix different ones unless it is [forced](ParquetParams::with_force). A result without annotations accepts any.
///
/// The columns of a row group are encoded in parallel, in the background, on as many threads as
/// [`RowSink::set_parallelism`] says (default: one for each core); the files do not depend on that number.
#[derive(Debug)]
pub struct ParquetSink {
    params: ParquetParams,
    columns: Columns,
    notes: Vec<KeyValue>,
    run_id: String,
    /// Whether a write failed, so that something is missing from the files.
    broken: bool,
    part: Option<Part>,
    failures: FailureFile,
    report: SinkReport,
    schema: Option<SchemaRef>,
    parallelism: Parallelism,
    // Last, so that the files are closed before they are removed.
    target: Target,
}

impl ParquetSink {
    /// Checks that the mode allows the output and that the output can be replaced (the working folder, a mount point
    /// and the like cannot), and makes the hidden folder.
    ///
    /// # Errors
    /// [`Error::OutputExists`]; [`Error::Write`]; [`Error::InvalidParam`] as [`ParquetParams::check`], and for a run
    /// id, which only results in S3 have.
    pub fn create(path: impl AsRef<Path>, params: ParquetParams) -> Result<Self> {
        params.check()?;
        if let Some(id) = &params.run_id {
            return Err(Error::param("run_id", id, "for results in S3, not in folders"));
        }
        Self::on(params, |mode, run_id| {
            Ok(Target::Folder(Staging::create(path.as_ref(), mode, run_id)?))
        })
    }

    /// Takes `s3://bucket/prefix` as the folder.
    ///
    /// Finishes the commits of dead runs there, checks that the mode allows the output, and removes what dead runs
    /// have left.
    ///
    /// # Errors
    /// [`Error::OutputExists`]; [`Error::AlreadyCommitted`]; [`Error::Write`] also if the server cannot be reached or
    /// ignores conditions on writes; [`Error::InvalidParam`]. [`RowSink::finish`] may end as [`Error::InDoubt`].
    #[cfg(feature = "s3")]
    pub fn create_in_s3<L>(s3: &S3, location: L, params: ParquetParams) -> Result<Self>
    where
        L: TryInto<S3Location>,
        Error: From<L::Error>,
    {
        let location = location.try_into()?;
        params.check()?;
        let id = params.run_id.clone();
        Self::on(params, |mode, run_id| {
            Ok(Target::S3(Box::new(S3Target::create(s3, location, mode, run_id, id.as_deref())?)))
        })
    }

    /// Adds a column of the caller's, after this crate's: `values` computes it from a batch, one value for each row.
    ///
    /// `values` is called on any thread, and more than once for a batch that spans several row groups or files: it must
    /// return the same array each time. A nested type other than a list of plain values is an [`Error::Write`].
    ///
    /// # Examples
    /// ```
    /// use std::sync::Arc;
    ///
    /// use orb_features::arrow_array::{ArrayRef, UInt64Array};
    /// use orb_features::arrow_schema::{DataType, Field};
    /// use orb_features::prelude::*;
    ///
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let out = folder.path().join("out");
    /// let sink = ParquetSink::create(out, ParquetParams::default())?;
    /// let bytes = Field::new("byte_len", DataType::UInt64, false);
    /// let sink = sink.with_column(bytes, |batch| {
    ///     let lengths = batch.rows().map(|row| row.meta.byte_len);
    ///     Ok(Arc::new(UInt64Array::from_iter_values(lengths)) as ArrayRef)
    /// });
    /// # drop(sink);
    /// # Ok::<(), orb_features::Error>(())
    /// ```
    ///
    /// An array of the wrong length or type, or a name that is taken, makes the write of the batch an [`Error::Write`].
    #[must_use]
    pub fn with_column(
        mut self,
        field: Field,
        values: impl Fn(&RowBatch) -> Result<ArrayRef, ArrowError> + Send + Sync + 'static,
    ) -> Self {
        self.columns.add(field, values);
        self
    }

    fn on(
        mut params: ParquetParams,
        target: impl FnOnce(WriteMode, &str) -> Result<Target>,
    ) -> Result<Self> {
        let most = (params.row_group_rows as u64).saturating_mul(MAX_ROW_GROUPS);
        params.rows_per_file = params.rows_per_file.min(most);
        let run_id = layout::new_run_id();
        let target = target(params.mode, &run_id)?;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Self {
            columns: Columns::new(params.score_width),
            params,
            notes: vec![KeyValue::new("orb_features.version".to_owned(), version)],
            broken: false,
            part: None,
            failures: FailureFile::new(&run_id),
            run_id,
            report: SinkReport { path: Some(target.uri("")), ..SinkReport::default() },
            schema: None,
            parallelism: Parallelism::default(),
            target,
        })
    }

    /// Refuses columns that differ from those of earlier batches, or of the files to append to.
    fn check_columns(&mut self, batch: &RowBatch) -> Result<SchemaRef> {
        let failed = |why: BoxError| Error::write_to(self.target.uri(""), why);
        let schema = self.columns.schema(batch).map_err(|e| failed(e.into()))?;
        match &self.schema {
            Some(first) if *first != schema => {
                Err(failed("a batch has other columns than the batches before it".into()))
            }
            Some(first) => Ok(Arc::clone(first)),
            None => {
                if self.params.mode == WriteMode::Append {
                    self.target.check_columns(&schema)?;
                }
                self.check_notes()?;
                Ok(Arc::clone(self.schema.insert(schema)))
            }
        }
    }

    /// Refuses to append to files of another extractor, decoder or fit, as far as the notes tell.
    fn check_notes(&self) -> Result<()> {
        match self.params.mode {
            WriteMode::Append if !self.params.force => self.target.check_notes(&self.notes),
            _ => Ok(()),
        }
    }

    /// Runs `add`; an error, or a panic that the caller catches, marks the sink as broken.
    fn guarded(&mut self, add: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let was_broken = std::mem::replace(&mut self.broken, true);
        let taken = add(self);
        self.broken = was_broken || taken.is_err();
        taken
    }

    fn add(&mut self, batch: RowBatch) -> Result<()> {
        batch.failed().iter().try_for_each(|failed| self.failures.push(failed, &self.target))?;
        let end = batch.len();
        // The first batch counts even without rows: an empty file still shows readers the columns.
        if end == 0 && self.schema.is_some() {
            return Ok(());
        }
        let schema = self.check_columns(&batch)?;
        let batch = Arc::new(batch);
        let mut start = 0;
        loop {
            let part = match &mut self.part {
                Some(part) => part,
                none => {
                    let name = layout::part_name(self.report.files, &self.run_id);
                    self.report.files += 1;
                    let (target, columns) = (&self.target, &self.columns);
                    let properties = writer_properties(&self.params, &schema, columns)?;
                    none.insert(Part::create(target, &name, &schema, columns, &properties)?)
                }
            };
            let room = self.params.rows_per_file - part.rows();
            let rows = usize::try_from(room).unwrap_or(usize::MAX).min(end - start);
            part.write(&batch, start..start + rows, &self.parallelism)?;
            start += rows;
            if part.rows() == self.params.rows_per_file {
                self.close_part()?;
            }
            if start == end {
                return Ok(());
            }
        }
    }

    fn close_part(&mut self) -> Result<()> {
        if let Some(part) = self.part.take() {
            self.report.rows += part.rows();
            self.report.bytes += part.close(&self.parallelism, &self.notes)?;
        }
        Ok(())
    }
}

impl RowSink for ParquetSink {
    fn set_parallelism(&mut self, parallelism: Parallelism) {
        self.parallelism = parallelism;
    }

    fn annotate(&mut self, key: &str, value: &str) {
        self.notes.push(KeyValue::new(format!("{}{key}", super::notes::PREFIX), value.to_owned()));
    }

    fn begin(&mut self) -> Result<()> {
        self.check_notes()
    }

    fn write(&mut self, batch: RowBatch) -> Result<()> {
        self.guarded(|sink| sink.add(batch))
    }

    fn finish(mut self) -> Result<SinkReport> {
        if self.broken {
            return Err(Error::write_to(self.target.uri(""), "an earlier write failed"));
        }
        if self.schema.is_none() {
            let why = "it was given no batch, so nothing tells what columns there are";
            return Err(Error::write_to(self.target.uri(""), why));
        }
        self.close_part()?;
        let Self { target, schema, .. } = self;
        let (failures, bytes) = self.failures.close(&target, &self.notes)?;
        let schema = schema.unwrap_or_else(|| Arc::new(Schema::empty()));
        let retries = target.commit(&schema, &self.notes, self.params.force)?;
        let bytes = self.report.bytes + bytes;
        Ok(SinkReport { bytes, failures, retries, ..self.report })
    }
}

fn writer_properties(
    params: &ParquetParams,
    schema: &Schema,
    columns: &Columns,
) -> Result<WriterProperties> {
    let mut builder = WriterProperties::builder()
        .set_created_by(concat!("orb-features ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(params.codec.compression()?)
        .set_max_row_group_row_count(Some(params.row_group_rows));
    for field in schema.fields().iter().filter(|field| !columns.is_own(field.name())) {
        let path: ColumnPath = match field.data_type() {
            DataType::FixedSizeList(element, _) => {
                ColumnPath::new(vec![field.name().clone(), "list".into(), element.name().clone()])
            }
            _ => field.name().as_str().into(),
        };
        builder = builder.set_column_dictionary_enabled(path, is_dictionary(field.name()));
    }
    Ok(builder.build())
}
