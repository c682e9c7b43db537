//! OpenCV's own ORB behind our trait: an alternative backend, and the oracle of the tests.

use std::sync::{Mutex, PoisonError};

use opencv::core::{KeyPoint as CvKeyPoint, Mat, Ptr, Vector};
use opencv::features2d::{ORB, ORB_ScoreType};
use opencv::prelude::*;

use super::{OpenCvBuild, Orb, OrbParams, ScoreType};
use crate::error::{Error, Result};
use crate::features::{
    DESCRIPTOR_LEN, Extracted, Feature2D, FeatureExtractor, Features, KeyPoint, VectorFormat,
    feature2d,
};
use crate::pixels::{GrayView, PixelSpec, PixelView};

/// OpenCV's ORB, from the library that this crate is linked with.
///
/// The given [`OrbParams::compat`] has no effect: results are those of the linked build, and `compat` is set to that
/// build ([`opencv_build`]). Detected keypoints come in our order (octave, y, x). All work runs on the calling
/// thread; parallelism is left to the caller.
#[derive(Clone, Debug)]
pub struct OpenCvOrb {
    /// Refuses the keypoints for which OpenCV would read out of bounds.
    native: Orb,
}

/// OpenCV's object, made at the first image of a thread.
#[derive(Default)]
pub struct OpenCvScratch {
    made_for: Option<(OrbParams, Ptr<ORB>)>,
}

impl std::fmt::Debug for OpenCvScratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenCvScratch").finish_non_exhaustive()
    }
}

/// The version of the OpenCV library in use, such as `4.6.0`.
#[must_use]
pub fn opencv_version() -> String {
    opencv::core::get_version_string().unwrap_or_default()
}

/// The build of the linked OpenCV library. It is assumed to be a distribution's: wheels have no library to link.
///
/// Distributions' builds of 4.13 and later have no name of their own. They count as the wheels of 4.13, although
/// their sine may differ.
#[must_use]
pub fn opencv_build() -> OpenCvBuild {
    let version = opencv_version();
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or_default());
    let version = (parts.next(), parts.next());
    #[cfg(target_arch = "x86_64")]
    let is_fused = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    let is_fused = true;
    match (version < (Some(4), Some(13)), is_fused) {
        (true, true) => OpenCvBuild::Debian46,
        (true, false) => OpenCvBuild::Debian46NoFma,
        (false, true) => OpenCvBuild::PyPi413,
        (false, false) => OpenCvBuild::PyPi413NoFma,
    }
}

impl OpenCvOrb {
    /// Checks the parameters.
    ///
    /// # Errors
    /// [`Error::InvalidParam`], as for the native extractor.
    pub fn new(params: OrbParams) -> Result<Self> {
        Ok(Self { native: params.with_compat(opencv_build()).build()? })
    }

    /// The parameters that it was made from.
    pub fn params(&self) -> &OrbParams {
        self.native.params()
    }

    fn object<'s>(&self, scratch: &'s mut OpenCvScratch) -> Result<&'s mut Ptr<ORB>> {
        let made = match scratch.made_for.take() {
            Some(made) if made.0 == *self.params() => made,
            _ => {
                keep_to_one_thread().map_err(failed)?;
                (self.params().clone(), create(self.params()).map_err(failed)?)
            }
        };
        Ok(&mut scratch.made_for.insert(made).1)
    }
}

/// Keeps OpenCV to the calling thread: the caller spreads images over threads, and OpenCV's own would only compete.
///
/// Once a process: `cv::setNumThreads` called by two threads at a time may end the same arena of TBB twice, a crash.
fn keep_to_one_thread() -> opencv::Result<()> {
    static IS_SET: Mutex<bool> = Mutex::new(false);
    let mut is_set = IS_SET.lock().unwrap_or_else(PoisonError::into_inner);
    if !*is_set {
        opencv::core::set_num_threads(1)?;
        *is_set = true;
    }
    Ok(())
}

fn create(params: &OrbParams) -> opencv::Result<Ptr<ORB>> {
    ORB::create(
        params.n_features() as i32,
        params.scale_factor(),
        params.n_levels() as i32,
        params.edge_threshold() as i32,
        params.first_level() as i32,
        params.wta_k() as i32,
        match params.score_type() {
            ScoreType::Harris => ORB_ScoreType::HARRIS_SCORE,
            ScoreType::Fast => ORB_ScoreType::FAST_SCORE,
        },
        params.patch_size() as i32,
        params.fast_threshold().into(),
    )
}

fn failed(error: opencv::Error) -> Error {
    Error::OpenCv(Box::new(error))
}

/// A copy of the image (or an empty one for none) as OpenCV's matrix.
fn to_mat(image: Option<GrayView<'_>>) -> opencv::Result<Mat> {
    let Some(image) = image.filter(|i| !i.is_empty()) else {
        return Ok(Mat::default());
    };
    let mut mat = Mat::new_rows_cols_with_default(
        image.height() as i32,
        image.width() as i32,
        u8::opencv_type(),
        0.into(),
    )?;
    for y in 0..image.height() {
        mat.at_row_mut::<u8>(y as i32)?.copy_from_slice(image.row(y));
    }
    Ok(mat)
}

fn from_cv(keypoint: &CvKeyPoint) -> KeyPoint {
    KeyPoint {
        x: keypoint.pt().x,
        y: keypoint.pt().y,
        size: keypoint.size(),
        angle: keypoint.angle(),
        response: keypoint.response(),
        octave: keypoint.octave(),
    }
}

fn features(keypoints: &Vector<CvKeyPoint>, descriptors: &Mat) -> opencv::Result<Features> {
    let rows = (0..descriptors.rows())
        .map(|row| {
            let mut descriptor = [0; DESCRIPTOR_LEN];
            descriptor.copy_from_slice(descriptors.at_row::<u8>(row)?);
            Ok(descriptor)
        })
        .collect::<opencv::Result<_>>()?;
    Ok(Features { keypoints: keypoints.iter().map(|k| from_cv(&k)).collect(), descriptors: rows })
}

/// Sorts by octave, y, x.
fn in_our_order(features: &Features) -> Features {
    let mut order: Vec<usize> = (0..features.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (&features.keypoints[a], &features.keypoints[b]);
        a.octave.cmp(&b.octave).then(a.y.total_cmp(&b.y)).then(a.x.total_cmp(&b.x))
    });
    Features {
        keypoints: order.iter().map(|&i| features.keypoints[i]).collect(),
        descriptors: order.iter().filter_map(|&i| features.descriptors.get(i).copied()).collect(),
    }
}

impl FeatureExtractor for OpenCvOrb {
    type Scratch = OpenCvScratch;

    fn name(&self) -> &'static str {
        feature2d::NAME
    }

    fn describe(&self) -> String {
        let backend = format!("opencv {}", opencv_version());
        serde_json::json!({ "backend": backend, "params": self.params() }).to_string()
    }

    fn pixels(&self) -> PixelSpec {
        feature2d::pixels()
    }

    fn output(&self) -> VectorFormat {
        feature2d::output()
    }

    fn extract(&self, image: PixelView<'_>, scratch: &mut OpenCvScratch) -> Result<Extracted> {
        feature2d::extract(self, image, scratch)
    }
}

impl Feature2D for OpenCvOrb {
    fn detect_with(
        &self,
        image: GrayView<'_>,
        mask: Option<GrayView<'_>>,
        scratch: &mut OpenCvScratch,
    ) -> Result<Vec<KeyPoint>> {
        super::check_mask(mask, image)?;
        let orb = self.object(scratch)?;
        let mut keypoints = Vector::new();
        (|| orb.detect(&to_mat(Some(image))?, &mut keypoints, &to_mat(mask)?))().map_err(failed)?;
        self.params().check_keypoints_found(keypoints.len())?;
        let found = features(&keypoints, &Mat::default()).map_err(failed)?;
        Ok(in_our_order(&found).keypoints)
    }

    fn compute_with(
        &self,
        image: GrayView<'_>,
        keypoints: &[KeyPoint],
        scratch: &mut OpenCvScratch,
    ) -> Result<Features> {
        if image.is_empty() {
            return Ok(Features::default());
        }
        self.native.check_keypoints(image, keypoints)?;
        let orb = self.object(scratch)?;
        let mut compute = || -> opencv::Result<Features> {
            let mut kept: Vector<CvKeyPoint> = keypoints
                .iter()
                .map(|k| {
                    CvKeyPoint::new_coords(k.x, k.y, k.size, k.angle, k.response, k.octave, -1)
                })
                .collect::<opencv::Result<_>>()?;
            let mut descriptors = Mat::default();
            orb.compute(&to_mat(Some(image))?, &mut kept, &mut descriptors)?;
            features(&kept, &descriptors)
        };
        compute().map_err(failed)
    }

    fn detect_and_compute_with(
        &self,
        image: GrayView<'_>,
        mask: Option<GrayView<'_>>,
        scratch: &mut OpenCvScratch,
    ) -> Result<Features> {
        super::check_mask(mask, image)?;
        let orb = self.object(scratch)?;
        let (mut keypoints, mut descriptors) = (Vector::new(), Mat::default());
        let mut detect = || {
            let (image, mask) = (to_mat(Some(image))?, to_mat(mask)?);
            orb.detect_and_compute(&image, &mask, &mut keypoints, &mut descriptors, false)
        };
        detect().map_err(failed)?;
        // OpenCV detects and describes in one call, so the limit can only be checked afterwards.
        self.params().check_keypoints_found(keypoints.len())?;
        Ok(in_our_order(&features(&keypoints, &descriptors).map_err(failed)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_make_objects_at_the_same_time() {
        let orb = &OpenCvOrb::new(OrbParams::default()).unwrap();
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| {
                    for _ in 0..2_000 {
                        orb.object(&mut OpenCvScratch::default()).unwrap();
                    }
                });
            }
        });
    }

    #[test]
    fn an_image_with_more_keypoints_than_the_limit_is_an_error() {
        let side = 200;
        let dots: Vec<u8> = (0..side * side)
            .map(|i| if i % side % 10 == 5 && i / side % 10 == 5 { 255 } else { 0 })
            .collect();
        let image = GrayView::new(&dots, side, side).unwrap();
        let limited =
            |limit| OpenCvOrb::new(OrbParams::default().with_max_keypoints(limit)).unwrap();
        let found = limited(10_000).detect_and_compute(image, None).unwrap().len();
        assert_eq!(limited(found as u32).detect(image, None).unwrap().len(), found);
        let little = limited(found as u32 - 1);
        for error in [
            little.detect_and_compute(image, None).unwrap_err(),
            little.detect(image, None).unwrap_err(),
        ] {
            assert!(matches!(error, Error::TooManyKeypoints { .. }), "{error}");
        }
    }
}
