//! From sources to vectors and their PCA.

mod decode;
mod golden_orb;
mod onnx;
mod pca;
mod pipeline;
mod properties;
mod source;
mod stages;
mod wide_pca;
