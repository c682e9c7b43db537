//! Images, sample photos and an S3 server for tests, examples and benchmarks.
//!
//! - [`images`] and [`photos`] draw images, so that no data set is needed,
//! - [`rows`] makes and takes apart batches,
//! - `parquet` (a feature) reads Parquet files whole,
//! - `s3` (a feature) is an S3 server in memory, with faults on demand; the program `s3-server` runs it.
#![allow(missing_docs, missing_debug_implementations)]
#![allow(clippy::missing_errors_doc, clippy::must_use_candidate)]

pub mod images;
#[cfg(feature = "parquet")]
pub mod parquet;
pub mod photos;
pub mod rows;
#[cfg(feature = "s3")]
pub mod s3;

use orb_features::Simd;

/// The names in a folder, sorted.
pub fn names(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The instruction sets to test: the one that the environment variable `ORB_FEATURES_SIMD` names, or
/// all that this machine has.
pub fn simd_levels() -> Vec<Simd> {
    match std::env::var("ORB_FEATURES_SIMD") {
        Ok(name) => vec![name.parse().unwrap()],
        Err(_) => Simd::available(),
    }
}
