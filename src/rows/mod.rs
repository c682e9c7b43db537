//! One row for each vector, or for each image: batches by columns, and the spool between the two passes of a fit.

#[cfg(feature = "arrow")]
mod arrow;
mod batch;
mod explode;
mod failed;
#[cfg(feature = "arrow")]
mod spark;
mod spool;
#[cfg(feature = "arrow")]
mod table;

#[cfg(feature = "parquet")]
pub(crate) use arrow::column;
#[cfg(feature = "table")]
pub(crate) use arrow::scores_column;
pub use batch::{ImageRows, Row, RowBatch};
pub use explode::{DEFAULT_BATCH_ROWS, Explode, ImageOutcome};
pub use failed::FailedImage;
#[cfg(feature = "arrow")]
pub use spark::{ROW_METADATA, describe as describe_for_spark};
#[cfg(feature = "parquet")]
pub(crate) use spark::{has_vector, vector_fields};
pub use spool::{DEFAULT_SPOOL_MEMORY, Spool, SpooledBatches, Spooling};
#[cfg(feature = "parquet")]
pub(crate) use table::is_dictionary;
#[cfg(feature = "arrow")]
pub use table::{Layout, RowShape, ScoreWidth, TableParams};
