//! Turns photos in folders or S3 into ORB keypoints and descriptors, principal components and Parquet files.
//!
//! ```text
//!  source            decode             orb, or your own     rows              pca             sink
//!  folder, S3, ..    bytes -> pixels    pixels -> vectors    a row for each    fit, project    Parquet
//!  ListedImage  ──▶  DecodedImage  ──▶  ImageFeatures   ──▶  RowBatch     ──▶  RowBatch   ──▶  files, _SUCCESS
//! ```
//!
//! Every arrow is an iterator of `Result`s and every box a stage of [`StageExt`] that can be used
//! alone, left out or replaced. [`Pipeline`](pipeline::Pipeline) runs the whole job in one call.
//!
//! # By task
//!
//! - **Features of one image**: [`Orb::detect_and_compute`](orb::Orb::detect_and_compute), `detect` and `compute` on a
//!   [`GrayView`](pixels::GrayView), made of slices, `ndarray` arrays or images of the `image` crate.
//! - **The whole job**: [`Pipeline`](pipeline::Pipeline), with a policy on errors, progress and a report.
//! - **The job in stages of your choice**: [`StageExt`]; any iterator adaptor can be a stage of your own.
//! - **Images from** a folder ([`FsSource`](source::FsSource)), S3 (`S3Source`), memory
//!   ([`MemorySource`](source::MemorySource)) or any iterator; [`Selection`](source::Selection) and
//!   [`LabelRule`](source::LabelRule) say which, and how they are labelled.
//! - **Pixels alone**: [`Decoder`](decode::Decoder), which gives the pixels of `cv::imread`.
//! - **An extractor of your own**: [`FeatureExtractor`](features::FeatureExtractor), for bytes or floats, with or without
//!   keypoints.
//! - **PCA alone**: [`Moments`](pca::Moments), which can be merged, and [`PcaModel`](pca::PcaModel).
//! - **Rows as Arrow**: `RowBatch::to_record_batch`; **as Parquet or CSV**, for each descriptor or image, in Arrow's types or
//!   Spark's: `sink::FileSink`; or a [`RowSink`](sink::RowSink) of your own.
//! - **Tables of others**: images, or vectors for a PCA, of a column: `table`.
//! - **Results, read back**: `results`; to look at: `draw`, `report`; to find with: [`matching`], `search`.
//! - **Speed**: [`Parallelism`](stage::Parallelism) and [`Simd`]; neither changes a bit of the results.
//!
//! # Example
//!
//! The whole job, stage by stage, on images in memory:
//!
//! ```
//! use orb_features::prelude::*;
//!
//! # let pgm = |i: u32| [b"P5 128 128 255\n".to_vec(), (0..128 * 128_u32).map(|p| ((p ^ (p >> 7) ^ i).wrapping_mul(2_654_435_761) >> 24) as u8).collect()].concat();
//! # let images = (0..4).map(|i| (format!("apple/{i}.pgm"), pgm(i)));
//! let orb = OrbParams::default().with_n_features(30).build()?;
//! let rows = MemorySource::new(images)
//!     .open()?           // images, listed
//!     .features(&orb)    // ImageFeatures: read, decoded and extracted on all cores
//!     .explode();        // RowBatch: a row for each descriptor
//! let (model, rows) = rows.fit_pca(&PcaParams::new(20), &Spool::default())?;
//! let report = rows.project(&model).write_to(NullSink::default())?;
//! assert_eq!(report.rows, model.n_rows());
//! # Ok::<(), orb_features::Error>(())
//! ```
//!
//! # What is guaranteed
//!
//! - **Parity.** For the same grey pixels and any parameter values, x, y, size, angle, response, octave and
//!   descriptor equal those of OpenCV's `cv::ORB` on x86-64, bit for bit, in the build that
//!   [`OrbParams::compat`](orb::OrbParams::compat) names. `PARITY.md` lists the comparisons.
//! - **Determinism.** Rows, their order, the model's bits and the content of the files do not depend on threads or
//!   batches, nor on the CPU, except for the last bits of models of more than 256 dimensions.
//! - **Bounded memory.** Memory depends on threads and windows, not on the number of images. A folder source
//!   holds the names in the folder that it reads and in the folders above it.
//! - **Nothing lost.** Each image gives its rows, counts as an image without features, or gives one error with its
//!   name, the stage and the cause. A job in which every image fails is an error, too, and changes nothing.
//! - **Nothing mixed.** A model scores only descriptors made like those of its fit, and all files of a result have the
//!   same parameters, decoder and fit, as far as models and files record them.
//! - **All or nothing.** A new or replaced result appears when it is complete. Files added to a result, and all files
//!   in S3, appear one by one, with no `_SUCCESS` until the last is there. In S3 `_manifest.json` always names one
//!   complete result.
//!
//! What is *not* promised is a number of keypoints: `n_features` is a quota shared out over the levels,
//! ties may exceed it, and small images reach less ([`OrbParams`](orb::OrbParams)).
//!
//! # Features of the crate
//!
//! | feature | default | brings |
//! |---|---|---|
//! | `jpeg` | yes | JPEGs, with the pixels of `cv::imread`: libjpeg-turbo's decoder, built with a C compiler, and with vector instructions where nasm is; needs `panic = "unwind"` |
//! | `parquet` | yes | the sink of Parquet and CSV files, through arrow and parquet |
//! | `table` | by `s3`, `search` | tables of images or vectors as sources, and results, read back |
//! | `s3` | no | S3 as source and as sink, through the AWS SDK |
//! | `cli` | no | the program `orb-features` |
//! | `opencv` | no | OpenCV's own ORB behind [`Feature2D`](features::Feature2D), and the parity tests |
//! | `onnx` | no | [`OnnxExtractor`](onnx::OnnxExtractor): embeddings of photos by a network in an ONNX file, run by tract |
//! | `onnxruntime` | no | the same, run by Microsoft's ONNX Runtime, whose library is loaded at run time |
//! | `wide` | by `cli` and `onnx` | a fast PCA of vectors of more than 256 elements: the eigen-decomposition of faer |
//! | `draw` | no | keypoints and matches on photos, as SVG and PNG |
//! | `search` | no | an index of a result's photos, search in it, duplicates |
//! | `report` | no | a page on a result: one file of HTML, or JSON |
//! | `arrow` | by `parquet` | batches as Arrow's `RecordBatch`, without a sink |
//!
//! Without default features there are ORB, rows and PCA, in pure Rust, and every image format but JPEG. Rust 1.94.1 or
//! later. [`image`] 0.25, [`ndarray`] 0.17 and, with `arrow`, `arrow_array` and `arrow_schema` 59 are part of the
//! interface and re-exported.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod arch;
mod choice;
pub mod decode;
#[cfg(feature = "draw")]
pub mod draw;
mod error;
pub mod features;
mod give_up;
pub mod matching;
#[cfg(feature = "onnx")]
pub mod onnx;
pub mod orb;
mod parallel;
pub mod pca;
pub mod pipeline;
pub mod pixels;
pub mod prelude;
#[cfg(feature = "report")]
pub mod report;
#[cfg(feature = "table")]
pub mod results;
pub mod rows;
#[cfg(feature = "s3")]
pub mod s3;
#[cfg(feature = "search")]
mod sample;
#[cfg(feature = "search")]
pub mod search;
pub mod sink;
pub mod source;
pub mod stage;
#[cfg(feature = "table")]
pub mod table;

pub use arch::Simd;
pub use error::{BoxError, DecodeCause, Error, ImageName, ObjectCause, Result, Stage};
pub use stage::StageExt;
#[cfg(feature = "arrow")]
pub use {arrow_array, arrow_schema};
pub use {image, ndarray};

/// Makes the code examples of the pages doc tests.
#[cfg(all(doctest, feature = "s3"))]
#[doc = include_str!("../README.md")]
#[doc = include_str!("../docs/recipes.md")]
#[doc = include_str!("../docs/looking.md")]
#[doc = include_str!("../docs/s3.md")]
#[doc = include_str!("../docs/tables.md")]
struct Pages;
