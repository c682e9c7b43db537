//! ORB keypoints and descriptors, bit-identical to OpenCV's.
//!
//! [`OrbParams`] are checked by [`OrbParams::build`], which gives an [`Orb`]; its methods are those
//! of `cv::ORB`, and of [`Feature2D`]. The files follow the steps of the algorithm: `params`, `pyramid`, `fast`,
//! `harris`, `select`, `angle`, `blur`, `brief` with its `pattern` and `trig`.
//!
//! Work that cannot change the result is skipped. Levels too small for a keypoint are not made. FAST runs only on
//! pixels that can hold a keypoint. A level has a frame only if a step reads beyond its edges. Only the parts of a
//! level that are read are resized, and only the surroundings of keypoints are smoothed.
//!
//! # Source
//! E. Rublee, V. Rabaud, K. Konolige, G. Bradski: "ORB: an efficient alternative to SIFT or SURF",
//! ICCV 2011; `modules/features2d/src/orb.cpp` of OpenCV 4.6 to 5.0, whose results are matched.

mod angle;
mod blur;
mod brief;
mod fast;
mod harris;
#[cfg(feature = "opencv")]
mod opencv;
mod params;
mod pattern;
mod pyramid;
mod select;
mod trig;

use std::sync::Arc;

use angle::Patch;
use brief::{Pattern, Places};
use fast::{Corner, ScoreRows};
use pyramid::{Border, Framed, Geometry, Plane, Pyramid, scale_of};

use crate::arch::Kernels;
use crate::error::{Error, Result};
use crate::features::{
    Descriptor, Extracted, Feature2D, FeatureExtractor, Features, KeyPoint, VectorFormat, feature2d,
};
use crate::pixels::{GrayView, PixelSpec, PixelView};

#[cfg(feature = "opencv")]
pub use opencv::{OpenCvOrb, OpenCvScratch, opencv_build, opencv_version};
pub use params::{
    DEFAULT_EDGE_THRESHOLD, DEFAULT_FAST_THRESHOLD, DEFAULT_FIRST_LEVEL, DEFAULT_MAX_KEYPOINTS,
    DEFAULT_N_FEATURES, DEFAULT_N_LEVELS, DEFAULT_PATCH_SIZE, DEFAULT_SCALE_FACTOR, DEFAULT_WTA_K,
    MAX_N_FEATURES, MAX_N_LEVELS, MAX_PATCH_SIZE, OpenCvBuild, OrbParams, ScoreType,
};
pub use pyramid::MAX_LEVEL_PIXELS;

/// The native extractor: checked parameters and the tables made from them.
///
/// Cheap to clone, and shared between threads. Keypoints are found in the order octave, y, x.
///
/// # Examples
/// ```
/// use orb_features::prelude::*;
///
/// let pixels: Vec<u8> = (0..200 * 200).map(|i| ((i % 200 / 20 + i / 4000) % 2 * 255) as u8).collect();
/// let image = GrayView::new(&pixels, 200, 200)?;
/// let orb = OrbParams::default().with_n_features(100).build()?;
/// let features = orb.detect_and_compute(image, None)?;
/// assert_eq!(features.keypoints.len(), features.descriptors.len());
/// # Ok::<(), orb_features::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Orb {
    tables: Arc<Tables>,
}

#[derive(Debug)]
struct Tables {
    params: OrbParams,
    quotas: Vec<usize>,
    scales: Vec<f32>,
    patch: Patch,
    pattern: Pattern,
    kernels: Kernels,
}

/// The working memory of one thread. After the first image of a size, only the result is allocated.
#[derive(Clone, Debug, Default)]
pub struct OrbScratch {
    image: Pyramid,
    mask: Mask,
    scores: ScoreRows,
    corners: Vec<Corner>,
    responses: Vec<f32>,
    description: Description,
}

/// A mask, made binary if the OpenCV build to match does so, and its levels.
#[derive(Clone, Debug, Default)]
struct Mask {
    whole: Plane,
    levels: Pyramid,
}

/// Buffers for the description of a level's keypoints.
#[derive(Clone, Debug, Default)]
struct Description {
    smoothed: Plane,
    sums: blur::RowSums,
    places: Places,
}

impl Orb {
    fn new(params: OrbParams) -> Self {
        let tables = Tables {
            quotas: select::quotas(&params),
            scales: (0..params.n_levels() as usize).map(|n| scale_of(&params, n)).collect(),
            patch: Patch::new(params.patch_size()),
            pattern: Pattern::new(
                &pattern::points(&params),
                params.wta_k(),
                params.compat().trig(),
            ),
            kernels: Kernels::current(),
            params,
        };
        Self { tables: Arc::new(tables) }
    }

    /// The parameters that it was built from.
    pub fn params(&self) -> &OrbParams {
        &self.tables.params
    }

    fn geometry(&self, image: GrayView<'_>, level: usize) -> Result<Geometry> {
        // A caller's keypoints may be on a level beyond `n_levels`.
        let scale = self.tables.scales.get(level).copied();
        Geometry::new(scale.unwrap_or_else(|| scale_of(self.params(), level)), image, level)
    }

    fn edge(&self) -> usize {
        self.params().edge_threshold() as usize
    }

    fn first_level(&self) -> usize {
        self.params().first_level() as usize
    }

    /// The width of the frame around each level for keypoints anywhere on it: the same as in OpenCV.
    fn frame(&self) -> usize {
        let half = f64::from(self.params().patch_size() / 2);
        let patch = (half * std::f64::consts::SQRT_2).ceil() as usize;
        self.edge().max(patch).max(harris::REACH) + 1
    }

    /// The border of each level for keypoints `edge_threshold` or more away from its edges.
    fn border_for_detection(&self) -> Border {
        let half = (self.params().patch_size() / 2) as usize;
        let described = self.tables.pattern.reach() + blur::REACH;
        let reach = fast::REACH.max(harris::REACH).max(half).max(described);
        match self.edge().checked_sub(reach) {
            Some(unread) => Border { frame: 0, unread },
            None => Border { frame: self.frame(), unread: 0 },
        }
    }

    fn run(
        &self,
        image: GrayView<'_>,
        mask: Option<GrayView<'_>>,
        scratch: &mut OrbScratch,
        describe: bool,
    ) -> Result<Features> {
        let mut features = Features::default();
        check_mask(mask, image)?;
        if image.is_empty() {
            return Ok(features);
        }
        let n_levels = self.params().n_levels() as usize;
        // Levels too small to hold a keypoint are never made, but a level without a pixel is an
        // error, as in OpenCV.
        for level in 0..n_levels {
            self.geometry(image, level)?;
        }
        if let Some(mask) = mask {
            scratch.mask.whole.copy_from(mask)?;
            if self.params().compat().binarises_mask() {
                scratch.mask.whole.map(|v| if v == 0 { 0 } else { 255 });
            }
        }
        let border = self.border_for_detection();
        for level in 0..n_levels {
            let geometry = self.geometry(image, level)?;
            if geometry.width <= 2 * self.edge() || geometry.height <= 2 * self.edge() {
                break;
            }
            let pixels = self.level(image, geometry, level, border, &mut scratch.image)?;
            self.detect_corners(
                pixels,
                mask.is_some(),
                level,
                &mut scratch.scores,
                &mut scratch.corners,
            );
            if mask.is_some() {
                self.apply_mask(&mut scratch.mask, geometry, level, &mut scratch.corners)?;
            }
            self.cull(pixels, level, &mut scratch.corners, &mut scratch.responses);
            let first = features.len();
            self.params().check_keypoints_found(first + scratch.corners.len())?;
            features
                .keypoints
                .extend(scratch.corners.iter().map(|c| self.keypoint(pixels, &geometry, level, c)));
            if describe {
                self.describe(
                    pixels,
                    border.frame,
                    &geometry,
                    &features.keypoints[first..],
                    &mut scratch.description,
                    &mut features.descriptors,
                )?;
            }
        }
        Ok(features)
    }

    /// A level of the image's pyramid; the image itself, not a copy, for `first_level` without a frame.
    fn level<'a>(
        &self,
        image: GrayView<'a>,
        geometry: Geometry,
        level: usize,
        border: Border,
        levels: &'a mut Pyramid,
    ) -> Result<Framed<'a>> {
        let whole = Framed::from(image);
        if level == self.first_level() && border.frame == 0 && whole.is_compact() {
            return Ok(whole);
        }
        let kernels = &self.tables.kernels;
        let made = levels.make(kernels, image, geometry, level, self.first_level(), border)?;
        Ok(made.framed())
    }

    /// Replaces `corners` by those of a level, `edge_threshold` or more away from its edges.
    fn detect_corners(
        &self,
        pixels: Framed<'_>,
        is_masked: bool,
        level: usize,
        scores: &mut ScoreRows,
        corners: &mut Vec<Corner>,
    ) {
        let edge = self.edge();
        let search = fast::Search {
            threshold: self.params().fast_threshold(),
            // The mask is applied before the cull and may remove the best corners, so all of them are needed.
            wanted: if is_masked { usize::MAX } else { self.corners_wanted(level) },
            columns: edge..pixels.width - edge,
            rows: edge..pixels.height - edge,
        };
        corners.clear();
        fast::detect(&self.tables.kernels, pixels.unframed(), search, scores, corners);
    }

    /// Keeps the corners where the level of the mask is not 0.
    fn apply_mask(
        &self,
        mask: &mut Mask,
        geometry: Geometry,
        level: usize,
        corners: &mut Vec<Corner>,
    ) -> Result<()> {
        let (kernels, whole) = (&self.tables.kernels, mask.whole.view());
        let border = Border { frame: 0, unread: 0 };
        let mask = mask.levels.make(kernels, whole, geometry, level, self.first_level(), border)?;
        if level > self.first_level() {
            mask.map(|v| if v == 255 { 255 } else { 0 });
        }
        let mask = mask.view();
        corners.retain(|c| mask.row(c.y as usize)[c.x as usize] != 0);
        Ok(())
    }

    /// Culls the corners of a level to its quota, ranking them as the parameters say.
    fn cull(
        &self,
        level: Framed<'_>,
        octave: usize,
        corners: &mut Vec<Corner>,
        responses: &mut Vec<f32>,
    ) {
        let kernels = &self.tables.kernels;
        select::retain_best(corners, self.corners_wanted(octave), |c| c.response, responses);
        if self.params().score_type() == ScoreType::Harris {
            for corner in &mut *corners {
                corner.response =
                    harris::response(kernels, level, corner.x as isize, corner.y as isize);
            }
            select::retain_best(corners, self.tables.quotas[octave], |c| c.response, responses);
        }
    }

    /// The number of corners of a level to keep by FAST score: twice the quota if Harris then ranks them.
    fn corners_wanted(&self, octave: usize) -> usize {
        let quota = self.tables.quotas[octave];
        if self.params().score_type() == ScoreType::Harris { 2 * quota } else { quota }
    }

    fn keypoint(
        &self,
        level: Framed<'_>,
        geometry: &Geometry,
        octave: usize,
        corner: &Corner,
    ) -> KeyPoint {
        let (x, y) = (corner.x as isize, corner.y as isize);
        KeyPoint {
            x: corner.x as f32 * geometry.scale,
            y: corner.y as f32 * geometry.scale,
            size: self.params().patch_size() as f32 * geometry.scale,
            angle: self.tables.patch.orientation(&self.tables.kernels, level, x, y),
            response: corner.response,
            octave: octave as i32,
        }
    }

    /// Appends the descriptors of keypoints of one level. Their samples must lie on the level or its frame.
    fn describe(
        &self,
        level: Framed<'_>,
        frame: usize,
        geometry: &Geometry,
        keypoints: &[KeyPoint],
        scratch: &mut Description,
        descriptors: &mut Vec<Descriptor>,
    ) -> Result<()> {
        let pattern = &self.tables.pattern;
        let centres = || keypoints.iter().map(|k| geometry.position(k));
        if keypoints.is_empty() {
            return Ok(());
        }
        // OpenCV smooths the level but not its frame, and samples may lie on the frame.
        scratch.smoothed.reshape(level.width, level.height, frame)?;
        if frame > 0 {
            scratch.smoothed.copy_frame(level);
        }
        let fused = self.params().compat().fused_columns(level.width);
        blur::blur(
            &self.tables.kernels,
            level,
            centres(),
            pattern.reach(),
            fused,
            &mut scratch.sums,
            &mut scratch.smoothed,
        );
        let smoothed = scratch.smoothed.framed();
        let places = &mut scratch.places;
        descriptors.extend(keypoints.iter().zip(centres()).map(|(k, centre)| {
            pattern.describe(&self.tables.kernels, smoothed, centre, k.angle, places)
        }));
        Ok(())
    }

    /// The given keypoints that can be described, sorted by octave as in OpenCV.
    fn check_keypoints(
        &self,
        image: GrayView<'_>,
        keypoints: &[KeyPoint],
    ) -> Result<Vec<KeyPoint>> {
        if let Some(index) = keypoints.iter().position(|k| k.octave < 0) {
            return Err(Error::KeyPoint { index, reason: "its octave is negative" });
        }
        if let Some(index) = keypoints.iter().position(|k| k.octave as u32 > MAX_N_LEVELS) {
            return Err(Error::KeyPoint { index, reason: "its octave is above 1024" });
        }
        let edge = self.edge() as f32;
        // OpenCV would read out of bounds for samples beyond the frame.
        let beyond = (self.frame() - self.tables.pattern.reach()) as isize;
        let mut accepted = Vec::with_capacity(keypoints.len());
        for (index, keypoint) in keypoints.iter().enumerate() {
            let inside = |v: f32, side: usize| {
                let v = v.round_ties_even();
                v >= edge && v < side as f32 - edge
            };
            if edge > 0.0
                && !(inside(keypoint.x, image.width()) && inside(keypoint.y, image.height()))
            {
                continue;
            }
            if !(keypoint.x.is_finite() && keypoint.y.is_finite()) {
                return Err(Error::KeyPoint { index, reason: "its position is not finite" });
            }
            let geometry = self.geometry(image, keypoint.octave as usize)?;
            let (x, y) = geometry.position(keypoint);
            let framed = |v: isize, side: usize| v >= -beyond && v < side as isize + beyond;
            if !(framed(x, geometry.width) && framed(y, geometry.height)) {
                let reason =
                    "it lies so far outside the image that OpenCV would read out of bounds";
                return Err(Error::KeyPoint { index, reason });
            }
            if !keypoint.angle.is_finite() {
                return Err(Error::KeyPoint { index, reason: "its angle is not finite" });
            }
            accepted.push(*keypoint);
        }
        accepted.sort_by_key(|k| k.octave);
        Ok(accepted)
    }
}

fn check_mask(mask: Option<GrayView<'_>>, image: GrayView<'_>) -> Result<()> {
    let size = |v: GrayView<'_>| (v.width(), v.height());
    match mask {
        Some(mask) if size(mask) != size(image) => Err(Error::shape(format!(
            "a mask of {:?} for an image of {:?}",
            size(mask),
            size(image)
        ))),
        _ => Ok(()),
    }
}

/// The methods of `cv::ORB`. [`Feature2D`] describes each in more detail.
impl Orb {
    /// Finds keypoints, where the mask is not 0.
    ///
    /// # Errors
    /// As [`Feature2D::detect_with`].
    pub fn detect(&self, image: GrayView<'_>, mask: Option<GrayView<'_>>) -> Result<Vec<KeyPoint>> {
        self.detect_with(image, mask, &mut OrbScratch::default())
    }

    /// Describes given keypoints; those too close to the image's edge are left out.
    ///
    /// # Errors
    /// As [`Feature2D::compute_with`].
    pub fn compute(&self, image: GrayView<'_>, keypoints: &[KeyPoint]) -> Result<Features> {
        self.compute_with(image, keypoints, &mut OrbScratch::default())
    }

    /// Finds keypoints, where the mask is not 0, and describes them.
    ///
    /// # Errors
    /// As [`Feature2D::detect_and_compute_with`].
    pub fn detect_and_compute(
        &self,
        image: GrayView<'_>,
        mask: Option<GrayView<'_>>,
    ) -> Result<Features> {
        self.detect_and_compute_with(image, mask, &mut OrbScratch::default())
    }
}

impl FeatureExtractor for Orb {
    type Scratch = OrbScratch;

    fn name(&self) -> &'static str {
        feature2d::NAME
    }

    fn describe(&self) -> String {
        serde_json::json!({ "backend": "native", "params": self.params() }).to_string()
    }

    fn pixels(&self) -> PixelSpec {
        feature2d::pixels()
    }

    fn output(&self) -> VectorFormat {
        feature2d::output()
    }

    fn extract(&self, image: PixelView<'_>, scratch: &mut OrbScratch) -> Result<Extracted> {
        feature2d::extract(self, image, scratch)
    }
}

impl Feature2D for Orb {
    fn detect_with(
        &self,
        image: GrayView<'_>,
        mask: Option<GrayView<'_>>,
        scratch: &mut OrbScratch,
    ) -> Result<Vec<KeyPoint>> {
        Ok(self.run(image, mask, scratch, false)?.keypoints)
    }

    fn compute_with(
        &self,
        image: GrayView<'_>,
        keypoints: &[KeyPoint],
        scratch: &mut OrbScratch,
    ) -> Result<Features> {
        if image.is_empty() {
            return Ok(Features::default());
        }
        let keypoints_kept = self.check_keypoints(image, keypoints)?;
        // OpenCV makes every level up to the highest octave given, also if that keypoint is left out.
        let highest = keypoints.iter().map(|k| k.octave).max().unwrap_or(0) as usize;
        let needed = keypoints_kept.last().map_or(0, |k| k.octave as usize + 1);
        for level in 0..=highest {
            self.geometry(image, level)?;
        }
        let (border, kernels) = (Border { frame: self.frame(), unread: 0 }, &self.tables.kernels);
        let mut descriptors = Vec::with_capacity(keypoints_kept.len());
        for level in 0..needed {
            let geometry = self.geometry(image, level)?;
            let pixels = scratch
                .image
                .make(kernels, image, geometry, level, self.first_level(), border)?
                .framed();
            let from = keypoints_kept.partition_point(|k| (k.octave as usize) < level);
            let to = keypoints_kept.partition_point(|k| k.octave as usize <= level);
            self.describe(
                pixels,
                border.frame,
                &geometry,
                &keypoints_kept[from..to],
                &mut scratch.description,
                &mut descriptors,
            )?;
        }
        Ok(Features { keypoints: keypoints_kept, descriptors })
    }

    fn detect_and_compute_with(
        &self,
        image: GrayView<'_>,
        mask: Option<GrayView<'_>>,
        scratch: &mut OrbScratch,
    ) -> Result<Features> {
        self.run(image, mask, scratch, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_image_has_left_is_not_read() {
        let (width, height) = (200, 160);
        let noise: Vec<u8> = (0..width * height)
            .map(|i| ((i as u32 / 3).wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let image = GrayView::new(&noise, width, height).unwrap();
        let inverse: Vec<u8> = noise.iter().map(|v| !v).collect();
        let other = GrayView::new(&inverse, width, height).unwrap();
        let (mut used, mut found) = (OrbScratch::default(), 0);
        // With the larger patch: 3 needs a frame, 21 reads all pixels of a level, and 31 and 45 leave growing unread
        // margins.
        for edge in [45, 3, 21, 31] {
            for (patch, first_level) in [(31, 0), (31, 2), (5, 0)] {
                let params = OrbParams::default().with_n_features(9000).with_fast_threshold(1);
                let params = params.with_edge_threshold(edge).with_patch_size(patch);
                let orb = params.with_first_level(first_level).build().unwrap();
                let want = orb.detect_and_compute(image, None).unwrap();
                orb.detect_and_compute_with(other, None, &mut used).unwrap();
                let got = orb.detect_and_compute_with(image, None, &mut used).unwrap();
                assert!(got == want, "{edge} {patch} {first_level}");
                // The same with masks, after an image with another mask.
                let want = orb.detect_and_compute(image, Some(other)).unwrap();
                orb.detect_and_compute_with(other, Some(image), &mut used).unwrap();
                let masked = orb.detect_and_compute_with(image, Some(other), &mut used).unwrap();
                assert!(masked == want, "masked {edge} {patch} {first_level}");
                // `compute` reads whole levels, of which only parts were made before.
                let want = orb.compute(image, &got.keypoints).unwrap();
                let again = orb.compute_with(image, &got.keypoints, &mut used).unwrap();
                assert!(again == want, "compute {edge} {patch} {first_level}");
                found += got.len();
            }
        }
        assert!(found > 10_000, "{found}");
    }

    #[test]
    fn an_image_with_more_keypoints_than_the_limit_is_an_error_before_they_are_described() {
        // Dots that all tie.
        let side = 200;
        let dots: Vec<u8> = (0..side * side)
            .map(|i| if i % side % 10 == 5 && i / side % 10 == 5 { 255 } else { 0 })
            .collect();
        let image = GrayView::new(&dots, side, side).unwrap();
        let params = OrbParams::default().with_n_levels(1);
        let found = params.clone().build().unwrap().detect_and_compute(image, None).unwrap().len();
        assert!(found > 5 * params.n_features() as usize, "{found}");
        let limited = |limit| params.clone().with_max_keypoints(limit).build().unwrap();
        let enough = limited(found as u32);
        assert_eq!(enough.detect_and_compute(image, None).unwrap().len(), found);
        let little = limited(found as u32 - 1);
        let mut scratch = OrbScratch::default();
        for error in [
            little.detect_and_compute_with(image, None, &mut scratch).unwrap_err(),
            little.detect(image, None).unwrap_err(),
        ] {
            let says = format!("{found} keypoints, more than the {} allowed", found - 1);
            assert!(error.to_string().contains(&says), "{error}");
        }
        assert_eq!(scratch.description.smoothed.view().width(), 0, "nothing was described");
        // The limit counts the keypoints of all levels together.
        let deep = OrbParams::default().with_max_keypoints(found as u32).build().unwrap();
        assert!(deep.detect(image, None).is_err());
        assert!(OrbParams::default().with_max_keypoints(0).build().is_err());
    }

    #[test]
    fn a_keypoint_outside_of_what_is_framed_is_an_error() {
        let image = GrayView::new(&[7; 16], 4, 4).unwrap();
        let params = OrbParams::default().with_edge_threshold(0).with_scale_factor(1.5);
        let at = |x, y| KeyPoint { x, y, size: 31.0, angle: 30.0, response: 1.0, octave: 0 };
        let orb = params.clone().with_first_level(12).build().unwrap();
        for (x, y) in [(-0.5, -0.5), (-0.5, 1.0), (1.0, -0.5)] {
            let error = orb.compute(image, &[at(1.0, 1.0), at(x, y)]).unwrap_err();
            assert!(matches!(error, Error::KeyPoint { index: 1, .. }), "{error}");
        }
        assert_eq!(orb.compute(image, &[at(0.0, 3.4)]).unwrap().len(), 1);
        // On a level of the image's size, such a keypoint lies within the frame.
        let orb = params.build().unwrap();
        assert_eq!(orb.compute(image, &[at(-0.5, -0.5)]).unwrap().len(), 1);
    }
}
