//! The sink of a table of any columns.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow_array::RecordBatch;

use super::SinkReport;
use super::chunk::Chunk;
use super::layout::IMAGES;
use super::params::FileParams;
use super::side::{ListedRow, SideFile};
use super::table::Table;
use crate::error::{Error, Result};
use crate::parallel::Parallelism;
use crate::rows::RowShape;
#[cfg(feature = "s3")]
use crate::s3::{S3, S3Location};

/// Writes Arrow's batches, of any columns, as [`FileSink`](super::FileSink) writes rows: in Parquet or CSV, to a folder
/// or to S3, all or nothing.
#[derive(Debug)]
pub struct RecordSink {
    table: Table,
}

impl RecordSink {
    /// As [`FileSink::create`](super::FileSink::create).
    ///
    /// # Errors
    /// As there, and [`Error::InvalidParam`] for parameters of rows of images.
    pub fn create(path: impl AsRef<Path>, params: FileParams) -> Result<Self> {
        check(&params)?;
        Ok(Self { table: Table::create(path.as_ref(), params)? })
    }

    /// As [`FileSink::create_in_s3`](super::FileSink::create_in_s3).
    ///
    /// # Errors
    /// As there, and [`Error::InvalidParam`] for parameters of rows of images.
    #[cfg(feature = "s3")]
    pub fn create_in_s3<L>(s3: &S3, location: L, params: FileParams) -> Result<Self>
    where
        L: TryInto<S3Location>,
        Error: From<L::Error>,
    {
        check(&params)?;
        Ok(Self { table: Table::create_in_s3(s3, location.try_into()?, params)? })
    }

    /// Sets how many threads may work on the output; the result does not depend on it.
    pub fn set_parallelism(&mut self, parallelism: Parallelism) {
        self.table.parallelism = parallelism;
    }

    /// Gives a flag after which a long step may end with [`Error::Interrupted`].
    pub fn set_stop(&mut self, stop: Arc<AtomicBool>) {
        self.table.stop = stop;
    }

    /// Adds a note to the footers of the files. Call it before the first batch.
    pub fn annotate(&mut self, key: &str, value: &str) {
        self.table.annotate(key, value);
    }

    /// Tells the number of rows that will come, if it is known before the first batch.
    pub fn expect(&mut self, rows: u64) {
        self.table.expect(rows);
    }

    /// Whether [`expect`](Self::expect) must be called.
    #[must_use]
    pub fn needs_number_of_rows(&self) -> bool {
        self.table.params.files().is_some()
    }

    /// The types of columns that are added.
    #[cfg(feature = "table")]
    pub(crate) fn table(&self) -> crate::rows::TableParams {
        self.table.params.table()
    }

    /// Checks, before the work begins, that the notes given so far allow the result.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn begin(&mut self) -> Result<()> {
        self.table.check_notes()
    }

    /// Writes a batch. All batches must have the same columns.
    ///
    /// # Errors
    /// [`Error::Write`], naming the file; the result is not committed then.
    pub fn write(&mut self, batch: RecordBatch) -> Result<()> {
        // An error, or a panic that the caller catches, leaves it broken.
        let was_broken = std::mem::replace(&mut self.table.broken, true);
        let rows = batch.num_rows();
        self.table.set_schema(batch.schema())?;
        let chunk: Arc<dyn Chunk> = Arc::new(batch);
        self.table.add(&chunk, rows)?;
        self.table.broken = was_broken;
        Ok(())
    }

    /// Completes the result and makes it visible.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn finish(mut self) -> Result<SinkReport> {
        self.table.complete()?;
        if self.table.params.format().has_footer() {
            return self.table.commit();
        }
        // The notes are in the footer of an empty list.
        let mut list: SideFile<ListedRow> = SideFile::new(IMAGES, self.table.run_id());
        list.begin(&self.table.target)?;
        let (_, bytes) = list.close(&self.table.target, &self.table.notes)?;
        let report = self.table.commit()?;
        Ok(SinkReport { bytes: report.bytes + bytes, ..report })
    }
}

/// Refuses what is only for rows of this crate.
fn check(params: &FileParams) -> Result<()> {
    let table = params.table();
    match table.rows() {
        RowShape::Descriptor if table.has_image() => {
            Err(Error::param("image", true, "not for a table of other columns"))
        }
        RowShape::Descriptor => Ok(()),
        rows => Err(Error::param("rows", rows, "not for a table of other columns")),
    }
}
