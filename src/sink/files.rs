//! The sink that writes files, in a folder or in S3.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow_array::ArrayRef;
use arrow_schema::{ArrowError, Field};

use super::chunk::{Batch, Chunk, Columns};
use super::layout::{ERRORS, IMAGES};
use super::params::FileParams;
use super::side::{ListedRow, SideFile};
use super::table::Table;
use super::{Needs, RowSink, SinkReport};
use crate::error::{Error, Result};
use crate::parallel::Parallelism;
use crate::rows::{FailedImage, RowBatch};
#[cfg(feature = "s3")]
use crate::s3::{S3, S3Location};

/// Writes `part-00000-<run id>.parquet` (or `.csv`) and so on to a folder or to S3, in the columns of
/// [`TableParams::schema`](crate::rows::TableParams::schema), and a list of all images to `_images/`.
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
/// The footer of each file holds the annotations, and the version of this crate. [`WriteMode::Append`](super::WriteMode::Append)
/// compares those on the extractor, the decoder and the fit with those of the existing result, and refuses to
/// mix different ones unless it is [forced](FileParams::with_force). A result without annotations accepts any.
///
/// The columns of a row group are encoded in parallel, in the background, on as many threads as
/// [`RowSink::set_parallelism`] says (default: one for each core); the files do not depend on that number.
#[derive(Debug)]
pub struct FileSink {
    columns: Columns,
    failures: SideFile<FailedImage>,
    images: SideFile<ListedRow>,
    // Last, so that the files are closed before they are removed.
    table: Table,
}

impl FileSink {
    /// Checks that the mode allows the output and that the output can be replaced (the working folder, a mount point
    /// and the like cannot), and makes the hidden folder.
    ///
    /// # Errors
    /// [`Error::OutputExists`]; [`Error::Write`]; [`Error::InvalidParam`] as [`FileParams::check`], and for a run
    /// id, which only results in S3 have.
    pub fn create(path: impl AsRef<Path>, params: FileParams) -> Result<Self> {
        Table::create(path.as_ref(), params).map(Self::on)
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
    pub fn create_in_s3<L>(s3: &S3, location: L, params: FileParams) -> Result<Self>
    where
        L: TryInto<S3Location>,
        Error: From<L::Error>,
    {
        Table::create_in_s3(s3, location.try_into()?, params).map(Self::on)
    }

    /// Adds a column of the caller's, after this crate's: `values` computes it from a batch, one value for each row of the table.
    ///
    /// `values` is called on any thread, and more than once for a batch that spans several row groups or files: it must
    /// return the same array each time.
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
    /// let sink = FileSink::create(out, FileParams::default())?;
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

    fn on(table: Table) -> Self {
        Self {
            columns: Columns::new(table.params.table()),
            failures: SideFile::new(ERRORS, table.run_id()),
            images: SideFile::new(IMAGES, table.run_id()),
            table,
        }
    }

    fn add(&mut self, batch: RowBatch) -> Result<()> {
        let (target, notes) = (&self.table.target, &self.table.notes);
        for failed in batch.failed().iter().filter(|failed| failed.recorded) {
            self.failures.push(failed.clone(), target, notes)?;
        }
        ListedRow::of_batch(&batch).try_for_each(|image| self.images.push(image, target, notes))?;
        let rows = batch.table_rows(&self.table.params.table());
        // The first batch counts even without rows.
        if rows == 0 && self.table.has_schema() {
            return Ok(());
        }
        let schema = self.columns.schema(&batch);
        let schema = schema.map_err(|e| Error::write_to(target.uri(""), e))?;
        let schema = self.table.set_schema(schema)?;
        let chunk: Arc<dyn Chunk> =
            Arc::new(Batch { rows: batch, columns: self.columns.clone(), schema });
        self.table.add(&chunk, rows)
    }
}

impl RowSink for FileSink {
    fn set_parallelism(&mut self, parallelism: Parallelism) {
        self.table.parallelism = parallelism;
    }

    fn set_stop(&mut self, stop: Arc<AtomicBool>) {
        self.table.stop = stop;
    }

    fn needs(&self) -> Needs {
        let table = self.table.params.table();
        Needs {
            whole_images: table.rows().is_of_images(),
            pixels: table.has_image(),
            number_of_rows: self.table.params.files().is_some(),
        }
    }

    fn expect(&mut self, vectors: u64, images: u64) {
        let is_of_images = self.table.params.table().rows().is_of_images();
        self.table.expect(if is_of_images { images } else { vectors });
    }

    fn annotate(&mut self, key: &str, value: &str) {
        self.table.annotate(key, value);
    }

    fn begin(&mut self) -> Result<()> {
        self.table.check_notes()
    }

    fn write(&mut self, batch: RowBatch) -> Result<()> {
        // An error, or a panic that the caller catches, leaves it broken.
        let was_broken = std::mem::replace(&mut self.table.broken, true);
        self.add(batch)?;
        self.table.broken = was_broken;
        Ok(())
    }

    fn finish(mut self) -> Result<SinkReport> {
        self.table.complete()?;
        let Self { failures, mut images, table, .. } = self;
        let (failures, bytes) = failures.close(&table.target, &table.notes)?;
        images.begin(&table.target)?;
        let (images, more) = images.close(&table.target, &table.notes)?;
        let report = table.commit()?;
        Ok(SinkReport { bytes: report.bytes + bytes + more, failures, images, ..report })
    }
}
