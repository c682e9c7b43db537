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
    /// Tells it how many threads may work on what is written; the result does not depend on it. A sink
    /// that works on the calling thread alone has nothing to do here.
    fn set_parallelism(&mut self, _parallelism: Parallelism) {}

    /// Adds a note about the job to the result: parameters, model. Call it before the first batch.
    fn annotate(&mut self, key: &str, value: &str);

    /// Looks whether what the notes so far say allows the result, before the work begins. By default it does.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn begin(&mut self) -> Result<()> {
        Ok(())
    }

    /// Writes a batch: its rows, and a record of its images that failed.
    ///
    /// # Errors
    /// [`Error::Write`](crate::Error::Write), naming the file; the result is not committed then. It may be about an earlier batch.
    fn write(&mut self, batch: RowBatch) -> Result<()>;

    /// Completes the result and makes it visible. A sink that is dropped instead leaves nothing.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn finish(self) -> Result<SinkReport>;
}

/// Numbers of what a sink has written.
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
    /// Requests that had to be made again, over a network that failed.
    #[serde(default)]
    pub retries: u64,
    /// The folder, for sinks that have one.
    pub path: Option<String>,
}
