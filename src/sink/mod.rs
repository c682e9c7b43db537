//! Where rows go: Parquet files in a folder or in S3, or nowhere.

#[cfg(feature = "s3")]
mod columns;
#[cfg(feature = "parquet")]
mod failures;
#[cfg(feature = "parquet")]
mod folder;
#[cfg(feature = "parquet")]
mod layout;
#[cfg(feature = "parquet")]
mod notes;
mod null;
#[cfg(feature = "parquet")]
mod own;
#[cfg(feature = "parquet")]
mod parquet;
#[cfg(feature = "parquet")]
mod part;
#[cfg(feature = "s3")]
mod s3;
#[cfg(feature = "parquet")]
mod staging;
#[cfg(feature = "parquet")]
mod target;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::parallel::Parallelism;
use crate::rows::RowBatch;

#[cfg(feature = "parquet")]
pub use layout::WriteMode;
pub use null::NullSink;
#[cfg(feature = "parquet")]
pub use parquet::{
    Codec, DEFAULT_ROW_GROUP_ROWS, DEFAULT_ROWS_PER_FILE, MAX_RUN_ID_LEN, ParquetParams,
    ParquetSink,
};

/// Takes batches of rows, and makes them visible all at once or not at all.
pub trait RowSink {
    /// Sets how many threads may work on the output; the result does not depend on it. A sink that works only on
    /// the calling thread can ignore it.
    fn set_parallelism(&mut self, _parallelism: Parallelism) {}

    /// Adds a note about the job to the result: parameters, model. Call it before the first batch.
    fn annotate(&mut self, key: &str, value: &str);

    /// Checks, before the work begins, that the notes given so far allow the result. The default accepts any.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn begin(&mut self) -> Result<()> {
        Ok(())
    }

    /// Writes a batch: its rows, and a record of its images that failed.
    ///
    /// # Errors
    /// [`Error::Write`](crate::Error::Write), naming the file; the result is not committed then. The error may be
    /// about an earlier batch.
    fn write(&mut self, batch: RowBatch) -> Result<()>;

    /// Completes the result and makes it visible. A sink that is dropped without this leaves nothing.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn finish(self) -> Result<SinkReport>;
}

/// Counts of what a sink has written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SinkReport {
    /// Rows.
    pub rows: u64,
    /// Files of rows.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Failures recorded beside the rows.
    pub failures: u64,
    /// Requests that were repeated after a network failure.
    #[serde(default)]
    pub retries: u64,
    /// The folder, for sinks that have one.
    pub path: Option<String>,
}
