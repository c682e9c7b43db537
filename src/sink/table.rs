//! A table in files: parts of a limited number of rows, their notes, and the commit that makes them visible.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow_schema::SchemaRef;
use parquet::file::metadata::KeyValue;

use super::SinkReport;
use super::chunk::Chunk;
use super::format::FileFormat;
use super::layout::{self, WriteMode};
use super::notes::PREFIX;
use super::params::{FileParams, MAX_ROW_GROUPS};
use super::part::Part;
#[cfg(feature = "s3")]
use super::s3::S3Target;
use super::staging::Staging;
use super::target::Target;
use crate::error::{Error, Result};
use crate::parallel::Parallelism;
use crate::rows::{Layout, ROW_METADATA, describe_for_spark, has_vector};
#[cfg(feature = "s3")]
use crate::s3::{S3, S3Location};

/// The files of a table that are not visible yet.
#[derive(Debug)]
pub(super) struct Table {
    pub params: FileParams,
    pub notes: Vec<KeyValue>,
    run_id: String,
    /// Whether a write failed, so that something is missing from the files.
    pub broken: bool,
    part: Option<Part>,
    pub report: SinkReport,
    schema: Option<SchemaRef>,
    /// The number of rows that will come, if it is known.
    expected: Option<u64>,
    pub parallelism: Parallelism,
    pub stop: Arc<AtomicBool>,
    // Last, so that the files are closed before they are removed.
    pub target: Target,
}

impl Table {
    /// See [`FileSink::create`](super::FileSink::create).
    pub fn create(path: &Path, params: FileParams) -> Result<Self> {
        params.check()?;
        if let Some(id) = params.run_id() {
            return Err(Error::param("run_id", id, "for results in S3, not in folders"));
        }
        Self::on(params, |mode, run_id| Ok(Target::Folder(Staging::create(path, mode, run_id)?)))
    }

    /// See [`FileSink::create_in_s3`](super::FileSink::create_in_s3).
    #[cfg(feature = "s3")]
    pub fn create_in_s3(s3: &S3, location: S3Location, params: FileParams) -> Result<Self> {
        params.check()?;
        let id = params.run_id().map(str::to_owned);
        Self::on(params, |mode, run_id| {
            Ok(Target::S3(Box::new(S3Target::create(s3, location, mode, run_id, id.as_deref())?)))
        })
    }

    fn on(
        params: FileParams,
        target: impl FnOnce(WriteMode, &str) -> Result<Target>,
    ) -> Result<Self> {
        let run_id = layout::new_run_id();
        let target = target(params.mode(), &run_id)?;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Self {
            params,
            notes: vec![KeyValue::new(format!("{PREFIX}version"), version)],
            broken: false,
            part: None,
            run_id,
            report: SinkReport { path: Some(target.uri("")), ..SinkReport::default() },
            schema: None,
            expected: None,
            parallelism: Parallelism::default(),
            stop: Arc::default(),
            target,
        })
    }

    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    pub fn annotate(&mut self, key: &str, value: &str) {
        self.notes.push(KeyValue::new(format!("{PREFIX}{key}"), value.to_owned()));
    }

    /// Tells the number of rows that will come.
    pub fn expect(&mut self, rows: u64) {
        self.expected = Some(rows);
    }

    /// Refuses to append to files of another extractor, decoder or fit, as far as the notes tell.
    pub fn check_notes(&self) -> Result<()> {
        match self.params.mode() {
            WriteMode::Append if !self.params.force() => self.target.check_notes(&self.notes),
            _ => Ok(()),
        }
    }

    pub fn has_schema(&self) -> bool {
        self.schema.is_some()
    }

    /// Takes the columns of the rows that come next. Refuses columns that differ from those of earlier rows, or of the
    /// files to append to.
    pub fn set_schema(&mut self, schema: SchemaRef) -> Result<SchemaRef> {
        let failed = |why| Error::write_to(self.target.uri(""), why);
        match &self.schema {
            // Only the fields must agree: the metadata is the caller's own.
            Some(first) if first.fields() != schema.fields() => {
                Err(failed("a batch has other columns than the batches before it"))
            }
            Some(first) => Ok(Arc::clone(first)),
            None => {
                if self.params.mode() == WriteMode::Append {
                    self.target.check_columns(&schema, self.params.format())?;
                }
                self.check_notes()?;
                self.note_columns(&schema)?;
                Ok(Arc::clone(self.schema.insert(schema)))
            }
        }
    }

    /// Notes the column types that the format lacks: all in CSV, Spark's in Parquet.
    fn note_columns(&mut self, schema: &SchemaRef) -> Result<()> {
        if !self.params.format().has_footer() {
            let columns = super::columns::column_types(schema, self.params.format());
            let columns = serde_json::to_string(&columns).unwrap_or_default();
            self.annotate(super::columns::NOTE, &columns);
            return Ok(());
        }
        let is_asked = self.params.table().layout() == Layout::Spark;
        if !is_asked && !has_vector(schema) {
            return Ok(());
        }
        match describe_for_spark(schema) {
            Ok(described) => self.notes.push(KeyValue::new(ROW_METADATA.to_owned(), described)),
            Err(e) if is_asked => return Err(Error::write_to(self.target.uri(""), e.to_string())),
            // Spark reads vectors as structs then.
            Err(_) => {}
        }
        Ok(())
    }

    /// The number of rows of the file with this number, from 0.
    fn rows_of_file(&self, number: u64) -> Result<u64> {
        let groups = match self.params.format() {
            FileFormat::Parquet => {
                (self.params.row_group_rows() as u64).saturating_mul(MAX_ROW_GROUPS)
            }
            FileFormat::Csv | FileFormat::CsvColumns => u64::MAX,
        };
        let Some(files) = self.params.files() else {
            return Ok(self.params.rows_per_file().min(groups));
        };
        let Some(expected) = self.expected else {
            let why = "the number of rows must be known in advance to give a number of files";
            return Err(Error::write_to(self.target.uri(""), why));
        };
        // Rows up to the end of a file, in proportion.
        let up_to = |files_before: u64| {
            (u128::from(expected) * u128::from(files_before) / u128::from(files)) as u64
        };
        let rows = up_to(number + 1) - up_to(number);
        if number >= files.into() {
            let why = format!("there are more rows than the {expected} that were announced");
            return Err(Error::write_to(self.target.uri(""), why));
        }
        if rows > groups {
            let why = format!("{expected} rows do not fit into {files} files");
            return Err(Error::write_to(self.target.uri(""), why));
        }
        Ok(rows)
    }

    /// Adds the `rows` rows of a chunk, in the columns of the schema. The first chunk makes a file even without rows:
    /// an empty file still shows readers the columns.
    pub fn add(&mut self, chunk: &Arc<dyn Chunk>, rows: usize) -> Result<()> {
        let mut start = 0;
        loop {
            if self.part.is_none() {
                self.open_part()?;
            }
            let number = self.report.files - 1;
            let most = self.rows_of_file(number)?;
            let Some(part) = &mut self.part else { return Ok(()) };
            let room = usize::try_from(most - part.rows()).unwrap_or(usize::MAX);
            let taken = room.min(rows - start);
            part.write(chunk, start..start + taken, &self.parallelism)?;
            start += taken;
            if part.rows() == most && (start < rows || most > 0) {
                self.close_part()?;
            }
            if start == rows {
                return Ok(());
            }
        }
    }

    fn open_part(&mut self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let Some(schema) = &self.schema else { return Ok(()) };
        let name = layout::part_name(self.report.files, &self.run_id, self.params.ending());
        self.part = Some(Part::create(&self.target, &name, schema, &self.params)?);
        self.report.files += 1;
        Ok(())
    }

    fn close_part(&mut self) -> Result<()> {
        if let Some(part) = self.part.take() {
            self.report.rows += part.rows();
            self.report.bytes += part.close(&self.parallelism, &self.notes)?;
        }
        Ok(())
    }

    /// Completes the files of rows.
    pub fn complete(&mut self) -> Result<()> {
        if self.broken {
            return Err(Error::write_to(self.target.uri(""), "an earlier write failed"));
        }
        if self.schema.is_none() {
            let why = "it was given no batch, so nothing tells what columns there are";
            return Err(Error::write_to(self.target.uri(""), why));
        }
        self.close_part()?;
        let due = self.params.files().map_or(0, u64::from);
        while self.report.files < due {
            self.open_part()?;
            self.close_part()?;
        }
        if let Some(expected) = self.expected.filter(|_| due > 0)
            && expected != self.report.rows
        {
            let why = format!("{expected} rows were announced, and {} came", self.report.rows);
            return Err(Error::write_to(self.target.uri(""), why));
        }
        Ok(())
    }

    /// Makes the files visible.
    pub fn commit(self) -> Result<SinkReport> {
        let Self { target, schema, params, notes, report, .. } = self;
        let schema = schema.unwrap_or_else(|| Arc::new(arrow_schema::Schema::empty()));
        let retries = target.commit(&schema, params.format(), &notes, params.force())?;
        Ok(SinkReport { retries, ..report })
    }
}
