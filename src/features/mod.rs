//! Extractors: pixels in, vectors out, with or without keypoints.
//!
//! The stages need only [`FeatureExtractor`]. Extractors that find keypoints, such as
//! [`Orb`](crate::orb::Orb), also have OpenCV's three methods: [`Feature2D`].

mod extractor;
pub(crate) mod feature2d;
mod image;
mod keypoint;
mod raw;
mod vectors;

pub use extractor::{Extracted, FeatureExtractor};
pub use feature2d::Feature2D;
pub use image::ImageFeatures;
pub use keypoint::{DESCRIPTOR_LEN, Descriptor, Features, KeyPoint};
pub use raw::{DEFAULT_PIXEL_SIDE, PixelExtractor, PixelParams, PixelScratch};
pub use vectors::{Element, VectorFormat, Vectors, VectorsView};
