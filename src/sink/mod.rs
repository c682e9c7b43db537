//! Where rows go: Parquet or CSV files in a folder or in S3, or nowhere.

#[cfg(feature = "parquet")]
mod chunk;
#[cfg(feature = "parquet")]
mod codec;
#[cfg(feature = "parquet")]
mod columns;
#[cfg(feature = "parquet")]
mod files;
#[cfg(feature = "parquet")]
mod folder;
#[cfg(feature = "parquet")]
mod format;
#[cfg(feature = "parquet")]
mod layout;
#[cfg(feature = "parquet")]
mod notes;
mod null;
#[cfg(feature = "parquet")]
mod params;
#[cfg(feature = "parquet")]
mod part;
#[cfg(feature = "parquet")]
mod records;
#[cfg(feature = "s3")]
mod s3;
#[cfg(feature = "parquet")]
mod side;
#[cfg(feature = "parquet")]
mod staging;
#[cfg(feature = "parquet")]
mod table;
#[cfg(feature = "parquet")]
mod target;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::parallel::Parallelism;
use crate::rows::RowBatch;

#[cfg(feature = "parquet")]
pub use codec::Codec;
#[cfg(feature = "parquet")]
pub use files::FileSink;
#[cfg(feature = "parquet")]
pub use format::FileFormat;
#[cfg(feature = "parquet")]
pub use layout::WriteMode;
#[cfg(feature = "table")]
pub(crate) use layout::{ERRORS, IMAGES, SUCCESS};
#[cfg(feature = "table")]
pub(crate) use notes::PREFIX as NOTE_PREFIX;
pub use null::NullSink;
#[cfg(feature = "parquet")]
pub use params::{DEFAULT_ROW_GROUP_ROWS, DEFAULT_ROWS_PER_FILE, FileParams, MAX_RUN_ID_LEN};
#[cfg(feature = "parquet")]
pub use records::RecordSink;
#[cfg(feature = "s3")]
pub(crate) use s3::{MANIFEST, files_of_manifest};

/// What a sink must be given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Needs {
    /// All rows of an image in one batch.
    pub whole_images: bool,
    /// The pixels of each image.
    pub pixels: bool,
    /// The number of rows, before the first batch.
    pub number_of_rows: bool,
}

/// Takes batches of rows, and makes them visible all at once or not at all.
pub trait RowSink {
    /// What it must be given (default: nothing beside the batches).
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Tells the numbers of vectors and of images that will come, if they are known before the first batch.
    fn expect(&mut self, _vectors: u64, _images: u64) {}

    /// Sets how many threads may work on the output; the result does not depend on it. A sink that works only on
    /// the calling thread can ignore it.
    fn set_parallelism(&mut self, _parallelism: Parallelism) {}

    /// Gives a flag after which a long step may end with [`Error::Interrupted`](crate::Error::Interrupted). A sink that has
    /// no long steps can ignore it.
    fn set_stop(&mut self, _stop: Arc<AtomicBool>) {}

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
    /// Images listed beside the rows, failed ones included.
    #[serde(default)]
    pub images: u64,
    /// Failures recorded beside the rows.
    pub failures: u64,
    /// Requests that were repeated after a network failure.
    #[serde(default)]
    pub retries: u64,
    /// The folder, for sinks that have one.
    pub path: Option<String>,
}
