//! Vectors of a network, from an ONNX file: embeddings of photos (feature `onnx`).
//!
//! [`OnnxExtractor`] is a [`FeatureExtractor`](crate::features::FeatureExtractor) like ORB: everything that works on
//! features works on its vectors.

mod extractor;
mod params;
mod prepare;
#[cfg(feature = "onnxruntime")]
mod runtime;
mod tract;

pub use extractor::{OnnxExtractor, OnnxScratch};
pub use params::{OnnxBackend, OnnxParams, Scale};

/// What is wrong with a network, or with one run of it.
type Why = Box<str>;

/// What a network says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Declared {
    /// The shape of its input; `None` for a dimension that is free.
    input: Vec<Option<usize>>,
    /// The names of its outputs.
    outputs: Vec<String>,
}
