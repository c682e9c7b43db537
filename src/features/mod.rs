//! Extractors: pixels in, vectors out, with or without keypoints.
//!
//! [`FeatureExtractor`] is all that the stages ask of an extractor. One that finds keypoints, as
//! [`Orb`](crate::orb::Orb) does, has OpenCV's three methods, too: [`Feature2D`].

mod extractor;
pub(crate) mod feature2d;
mod image;
mod keypoint;
mod vectors;

pub use extractor::{Extracted, FeatureExtractor};
pub use feature2d::Feature2D;
pub use image::ImageFeatures;
pub use keypoint::{DESCRIPTOR_LEN, Descriptor, Features, KeyPoint};
pub use vectors::{Element, VectorFormat, Vectors, VectorsView};
