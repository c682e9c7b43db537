//! One row for each vector: batches by columns, and the spool between the two passes of a fit.

#[cfg(feature = "arrow")]
mod arrow;
mod batch;
mod explode;
mod failed;
mod spool;

#[cfg(feature = "arrow")]
pub use arrow::{ScoreWidth, schema};
#[cfg(feature = "parquet")]
pub(crate) use arrow::{column, is_dictionary};
pub use batch::{ImageRows, Row, RowBatch};
pub use explode::{DEFAULT_BATCH_ROWS, Explode, ImageOutcome};
pub use failed::FailedImage;
pub use spool::{DEFAULT_SPOOL_MEMORY, Spool, SpooledBatches, Spooling};
