//! Tables that others have written, as sources: images in a column, and vectors in a column for a PCA.
//!
//! A table is one Parquet or CSV file, or all such files of a folder or of a prefix in S3, in the order of their names.
//! Names that begin with a dot or an underscore are left out, as Spark does.

mod files;
mod images;
mod pca;
mod vectors;

pub use files::TableSource;
pub(crate) use files::{FileBatch, TableBatches, missing, until_error};
pub use images::{ImageTable, TableImages};
pub use pca::{DEFAULT_OUTPUT_COLUMN, TablePca, TableReport};
pub(crate) use vectors::read_vectors;
pub use vectors::vectors_of;
