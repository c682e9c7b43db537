//! The trait that all extractors share.

use super::{Features, KeyPoint, VectorFormat, Vectors};
use crate::error::Result;
use crate::pixels::{PixelSpec, PixelView};

/// The vectors of one image, with or without keypoints.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Extracted {
    /// The keypoints, one for each vector; empty if the extractor finds no keypoints.
    pub keypoints: Vec<KeyPoint>,
    /// The vectors.
    pub vectors: Vectors,
}

impl Extracted {
    /// Vectors that belong to no keypoint.
    #[must_use]
    pub fn of_vectors(vectors: Vectors) -> Self {
        Self { keypoints: Vec::new(), vectors }
    }

    /// Vectors with a keypoint for each.
    #[must_use]
    pub fn of_keypoints(keypoints: Vec<KeyPoint>, vectors: Vectors) -> Self {
        Self { keypoints, vectors: vectors.with_keypoints() }
    }
}

impl From<Vectors> for Extracted {
    fn from(vectors: Vectors) -> Self {
        Self::of_vectors(vectors)
    }
}

impl From<Features> for Extracted {
    fn from(features: Features) -> Self {
        let bytes = features.descriptors.into_flattened();
        let vectors = Vectors::from_u8(bytes, super::DESCRIPTOR_LEN).expect("whole descriptors");
        Self::of_keypoints(features.keypoints, vectors)
    }
}

/// Makes vectors from images. Declares the pixels that it wants and the vectors that it gives.
///
/// Stages, PCA and sinks take any extractor. A custom one needs four methods:
///
/// ```
/// use orb_features::prelude::*;
///
/// /// The mean of red, green and blue.
/// #[derive(Clone)]
/// struct MeanColor;
///
/// impl FeatureExtractor for MeanColor {
///     type Scratch = ();
///
///     fn describe(&self) -> String {
///         r#"{"extractor":"mean colour"}"#.into()
///     }
///
///     fn pixels(&self) -> PixelSpec {
///         PixelSpec::new(PixelFormat::Rgb)
///     }
///
///     fn output(&self) -> VectorFormat {
///         VectorFormat::f32(3)
///     }
///
///     fn extract(&self, image: PixelView<'_>, _: &mut ()) -> Result<Extracted> {
///         let mut sums = vec![0.0; 3];
///         for (i, &byte) in image.as_bytes().iter().enumerate() {
///             sums[i % 3] += f32::from(byte) / (image.width() * image.height()) as f32;
///         }
///         Ok(Vectors::from_f32(sums, 3)?.into())
///     }
/// }
///
/// let source = MemorySource::new([("a.ppm", &b"P6 2 1 255\n\x08\x02\x03\x00\x04\x05"[..])]);
/// let batch = source.open()?.features(&MeanColor).explode().next().unwrap()?;
/// assert_eq!(batch.vectors().as_f32().unwrap(), [4.0, 3.0, 4.0]);
/// # Ok::<(), orb_features::Error>(())
/// ```
pub trait FeatureExtractor: Send + Sync {
    /// The working memory of one thread.
    type Scratch: Default + Send;

    /// The key of its [description](Self::describe) in the notes of a result. Overridden only for ORB: notes under
    /// other keys are not compared when rows are added.
    #[doc(hidden)]
    fn name(&self) -> &'static str {
        "extractor"
    }

    /// Its name and parameters as JSON. This text is written to the footer of the result, and compared before
    /// a model is used or rows are added.
    fn describe(&self) -> String;

    /// The pixels that it wants.
    fn pixels(&self) -> PixelSpec;

    /// The vectors that it gives.
    fn output(&self) -> VectorFormat;

    /// Makes the vectors of one image, of [these pixels](Self::pixels).
    ///
    /// # Errors
    /// Any error that keeps this image from being described. An image without vectors is no error.
    fn extract(&self, image: PixelView<'_>, scratch: &mut Self::Scratch) -> Result<Extracted>;

    /// The number of images that the extractor prefers to get at a time (default 1).
    fn batch_len(&self) -> usize {
        1
    }

    /// Makes the vectors of up to [`batch_len`](Self::batch_len) images: a result for each, in their order.
    fn extract_batch(
        &self,
        images: &[PixelView<'_>],
        scratch: &mut Self::Scratch,
    ) -> Vec<Result<Extracted>> {
        images.iter().map(|&image| self.extract(image, scratch)).collect()
    }
}
