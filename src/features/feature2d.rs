//! OpenCV's interface for extractors with keypoints.

use super::{DESCRIPTOR_LEN, Extracted, FeatureExtractor, Features, KeyPoint, VectorFormat};
use crate::error::Result;
use crate::pixels::{GrayView, PixelFormat, PixelSpec, PixelView};

/// Finds keypoints in grey images and describes them by 32 bytes each: the methods of `cv::Feature2D`.
///
/// [`Orb`](crate::orb::Orb) is ours; with the crate's feature `opencv`, `OpenCvOrb` is OpenCV's. They
/// give the same features.
///
/// The methods ending in `_with` take a scratch space, which keeps its buffers from one image to the
/// next: in a loop, use one scratch space per thread. The other methods make a new one for each call.
pub trait Feature2D: FeatureExtractor {
    /// Finds keypoints. A mask must have the image's size; no keypoint is found where the mask is 0.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for a mask of another size,
    /// [`Error::EmptyLevel`](crate::Error::EmptyLevel) for an image too small for the pyramid,
    /// [`Error::HugeLevel`](crate::Error::HugeLevel) for one too large,
    /// [`Error::TooManyKeypoints`](crate::Error::TooManyKeypoints) for one with more keypoints than allowed. Custom
    /// extractors may return other errors.
    fn detect_with(
        &self,
        image: GrayView<'_>,
        mask: Option<GrayView<'_>>,
        scratch: &mut Self::Scratch,
    ) -> Result<Vec<KeyPoint>>;

    /// Describes given keypoints; those too close to the image's edge are left out.
    ///
    /// Position, angle and octave are used as given. The octave is the level to sample, and may exceed
    /// the parameters' number of levels. The order is the caller's; if the octaves do not ascend, the
    /// keypoints are sorted by octave, and keep the caller's order within each. These are OpenCV's rules.
    ///
    /// # Errors
    /// [`Error::KeyPoint`](crate::Error::KeyPoint) for an octave below 0 or above 1024; for an angle that is not
    /// finite; without an edge threshold, also for a position that is not finite, or farther outside the image than
    /// OpenCV's frame allows. Keypoints that are left out are checked only for their octave.
    /// [`Error::EmptyLevel`](crate::Error::EmptyLevel) or [`Error::HugeLevel`](crate::Error::HugeLevel) for an octave
    /// for which the image is too small or too large.
    fn compute_with(
        &self,
        image: GrayView<'_>,
        keypoints: &[KeyPoint],
        scratch: &mut Self::Scratch,
    ) -> Result<Features>;

    /// Finds keypoints as [`detect_with`](Self::detect_with) does, and describes them.
    ///
    /// # Errors
    /// As [`detect_with`](Self::detect_with).
    fn detect_and_compute_with(
        &self,
        image: GrayView<'_>,
        mask: Option<GrayView<'_>>,
        scratch: &mut Self::Scratch,
    ) -> Result<Features>;

    /// [`detect_with`](Self::detect_with) in a scratch space of its own.
    ///
    /// # Errors
    /// As there.
    fn detect(&self, image: GrayView<'_>, mask: Option<GrayView<'_>>) -> Result<Vec<KeyPoint>> {
        self.detect_with(image, mask, &mut Self::Scratch::default())
    }

    /// [`compute_with`](Self::compute_with) in a scratch space of its own.
    ///
    /// # Errors
    /// As there.
    fn compute(&self, image: GrayView<'_>, keypoints: &[KeyPoint]) -> Result<Features> {
        self.compute_with(image, keypoints, &mut Self::Scratch::default())
    }

    /// [`detect_and_compute_with`](Self::detect_and_compute_with) in a scratch space of its own.
    ///
    /// # Errors
    /// As there.
    fn detect_and_compute(
        &self,
        image: GrayView<'_>,
        mask: Option<GrayView<'_>>,
    ) -> Result<Features> {
        self.detect_and_compute_with(image, mask, &mut Self::Scratch::default())
    }
}

/// The key of ORB's description in the notes of a result.
pub(crate) const NAME: &str = "orb";

/// The pixels that a [`Feature2D`] wants.
pub(crate) fn pixels() -> PixelSpec {
    PixelSpec::new(PixelFormat::Gray)
}

/// The vectors that a [`Feature2D`] gives.
pub(crate) fn output() -> VectorFormat {
    VectorFormat::u8(DESCRIPTOR_LEN).with_keypoints()
}

/// [`FeatureExtractor::extract`] of a [`Feature2D`].
pub(crate) fn extract<E: Feature2D>(
    extractor: &E,
    image: PixelView<'_>,
    scratch: &mut E::Scratch,
) -> Result<Extracted> {
    Ok(extractor.detect_and_compute_with(image.gray()?, None, scratch)?.into())
}
