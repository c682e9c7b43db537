//! The features of one image.

use std::sync::Arc;

use super::{Extracted, KeyPoint, VectorFormat, Vectors};
use crate::error::{Error, Result};
use crate::pixels::{ImageMeta, Pixels};

/// The features of one image. An image without features is an ordinary result.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ImageFeatures {
    /// The image.
    pub meta: Arc<ImageMeta>,
    /// Its pixels, if they are [kept](crate::stage::FeaturesOf::with_pixels).
    pub pixels: Option<Arc<Pixels>>,
    /// Its keypoints; empty if the extractor finds no keypoints.
    pub keypoints: Vec<KeyPoint>,
    /// One vector for each keypoint, or as many as the extractor gives.
    pub vectors: Vectors,
}

impl ImageFeatures {
    /// Joins an image and its features.
    #[must_use]
    pub fn new(meta: Arc<ImageMeta>, extracted: impl Into<Extracted>) -> Self {
        let Extracted { keypoints, vectors } = extracted.into();
        Self { meta, pixels: None, keypoints, vectors }
    }

    /// The number of vectors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.vectors.rows()
    }

    /// Whether there are no vectors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps the vectors, and their keypoints, at the positions for which `keep` returns true.
    pub fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) {
        let kept: Vec<usize> = (0..self.len()).filter(|&i| keep(i)).collect();
        if !self.keypoints.is_empty() {
            self.keypoints = kept.iter().map(|&i| self.keypoints[i]).collect();
        }
        let mut vectors = Vectors::empty(self.format());
        for i in kept {
            vectors.append(&self.vectors, i..i + 1);
        }
        self.vectors = vectors;
    }

    /// The format of the vectors.
    pub fn format(&self) -> VectorFormat {
        self.vectors.format()
    }

    /// Refuses vectors of another format, a number of keypoints that does not fit, and elements that are not finite.
    pub(crate) fn check(&self, format: VectorFormat) -> Result<()> {
        let (keypoints, vectors, given) = (self.keypoints.len(), self.len(), self.format());
        let what = if given != format {
            format!("vectors of {given} where {format} are due")
        } else if keypoints != (if format.has_keypoints() { vectors } else { 0 }) {
            format!("{keypoints} keypoints and {vectors} vectors of {format}")
        } else {
            return self.vectors.check_finite().map_err(|e| self.failed(e));
        };
        Err(self.failed(Error::shape(what)))
    }

    fn failed(&self, source: Error) -> Error {
        Error::Extract { uri: self.meta.uri.as_str().into(), source: Box::new(source) }
    }
}
