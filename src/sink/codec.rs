//! Compression.

use std::fmt;
use std::str::FromStr;

use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The compression of the columns, or of a CSV file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Codec {
    /// None.
    Uncompressed,
    /// Snappy, Spark's default.
    Snappy,
    /// Gzip.
    Gzip,
    /// LZ4, raw blocks.
    Lz4,
    /// Zstandard at a level, 1 to 22.
    Zstd(i32),
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uncompressed => f.pad("uncompressed"),
            Self::Snappy => f.pad("snappy"),
            Self::Gzip => f.pad("gzip"),
            Self::Lz4 => f.pad("lz4"),
            Self::Zstd(level) => write!(f, "zstd:{level}"),
        }
    }
}

impl FromStr for Codec {
    type Err = Error;

    /// Accepts the name of a codec; `zstd` also with its level: `zstd:3`.
    fn from_str(name: &str) -> Result<Self> {
        let bad = || Error::param("codec", name, "uncompressed, snappy, gzip, lz4, zstd or zstd:N");
        Ok(match name {
            "uncompressed" => Self::Uncompressed,
            "snappy" => Self::Snappy,
            "gzip" => Self::Gzip,
            "lz4" => Self::Lz4,
            "zstd" => Self::default(),
            _ => {
                let level = name.strip_prefix("zstd:").and_then(|level| level.parse().ok());
                Self::Zstd(level.ok_or_else(bad)?)
            }
        })
    }
}

/// Parquet's.
impl Default for Codec {
    fn default() -> Self {
        Self::Zstd(1)
    }
}

impl Codec {
    pub(super) fn compression(self) -> Result<Compression> {
        Ok(match self {
            Self::Uncompressed => Compression::UNCOMPRESSED,
            Self::Snappy => Compression::SNAPPY,
            Self::Gzip => Compression::GZIP(GzipLevel::default()),
            Self::Lz4 => Compression::LZ4_RAW,
            Self::Zstd(level) => Compression::ZSTD(
                ZstdLevel::try_new(level)
                    .map_err(|_| Error::param("zstd level", level, "1 to 22"))?,
            ),
        })
    }
}
