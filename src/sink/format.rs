//! The formats of files of rows.
//!
//! Decisions by format are here, or in a `match` without a wildcard: the compiler then lists what a new format needs.

use serde::{Deserialize, Serialize};

use super::codec::Codec;
use crate::choice::choice;

/// The format of the files of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FileFormat {
    /// Parquet.
    #[default]
    Parquet,
    /// CSV with a header; a vector is one column of text: `"[0.5, 1.0]"`.
    Csv,
    /// CSV with a header, and a column for each element of a vector: `pca_0`, `pca_1`..
    CsvColumns,
}

choice!(FileFormat, "format", Parquet = "parquet", Csv = "csv", CsvColumns = "csv-columns");

/// Endings of the names of files of rows, in all formats.
pub const ENDINGS: [&str; 3] = [PARQUET, CSV_GZ, CSV];
pub const PARQUET: &str = ".parquet";
const CSV: &str = ".csv";
const CSV_GZ: &str = ".csv.gz";

impl FileFormat {
    /// Whether a file holds its schema and its notes. Without a footer, they are in the lists beside the files of rows.
    pub(super) fn has_footer(self) -> bool {
        match self {
            Self::Parquet => true,
            Self::Csv | Self::CsvColumns => false,
        }
    }

    /// The compression, if none is set.
    pub(super) fn default_codec(self) -> Codec {
        match self {
            Self::Parquet => Codec::default(),
            Self::Csv | Self::CsvColumns => Codec::Uncompressed,
        }
    }

    /// The ending of the names of the files.
    pub(super) fn ending(self, codec: Codec) -> &'static str {
        match (self, codec) {
            (Self::Parquet, _) => PARQUET,
            (Self::Csv | Self::CsvColumns, Codec::Gzip) => CSV_GZ,
            (Self::Csv | Self::CsvColumns, _) => CSV,
        }
    }
}

pub fn is_parquet(name: &str) -> bool {
    name.ends_with(PARQUET)
}

pub fn is_csv(name: &str) -> bool {
    name.ends_with(CSV) || name.ends_with(CSV_GZ)
}
