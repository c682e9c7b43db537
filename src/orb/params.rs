//! The parameters of `cv::ORB`, under its names.

use serde::{Deserialize, Serialize};

use super::Orb;
use super::trig::Trig;
use crate::choice::choice;
use crate::error::{Error, Result};

/// Default of [`OrbParams::n_features`] (OpenCV's own is 500).
pub const DEFAULT_N_FEATURES: u32 = 30;
/// Default of [`OrbParams::max_keypoints`]: 2^20, some 60 MB of features.
pub const DEFAULT_MAX_KEYPOINTS: u32 = 1 << 20;
/// Default of [`OrbParams::scale_factor`].
pub const DEFAULT_SCALE_FACTOR: f32 = 1.2;
/// Default of [`OrbParams::n_levels`].
pub const DEFAULT_N_LEVELS: u32 = 8;
/// Default of [`OrbParams::edge_threshold`].
pub const DEFAULT_EDGE_THRESHOLD: u32 = 31;
/// Default of [`OrbParams::first_level`].
pub const DEFAULT_FIRST_LEVEL: u32 = 0;
/// Default of [`OrbParams::wta_k`].
pub const DEFAULT_WTA_K: u32 = 2;
/// Default of [`OrbParams::patch_size`].
pub const DEFAULT_PATCH_SIZE: u32 = 31;
/// Default of [`OrbParams::fast_threshold`].
pub const DEFAULT_FAST_THRESHOLD: u8 = 20;

/// The highest [`OrbParams::n_features`]: above it OpenCV's own `2 * quota` overflows.
pub const MAX_N_FEATURES: u32 = (1 << 30) - 1;
/// The highest [`OrbParams::n_levels`] and [`OrbParams::first_level`].
pub const MAX_N_LEVELS: u32 = 1024;
/// The highest [`OrbParams::patch_size`] and [`OrbParams::edge_threshold`], in pixels.
pub const MAX_PATCH_SIZE: u32 = 1 << 15;

/// The score that ranks the corners of a level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScoreType {
    /// The Harris response over a 7 x 7 block. FAST first selects twice the quota by its own score.
    #[default]
    Harris,
    /// The FAST score: cheaper, a little less stable.
    Fast,
}

choice!(ScoreType, "score_type", Harris = "harris", Fast = "fast");

/// The OpenCV build to match, bit for bit: its packager and version.
///
/// Builds differ in three places: how the smoothing before the descriptors rounds (with fused
/// multiply-adds or without), which changes a few descriptor bits per million pixels; whether a mask
/// is made binary before it is scaled down; and the sine and cosine that turn the sampling pattern,
/// which change one descriptor in ten million.
///
/// | name | packager | versions | smoothing | mask | sine, cosine |
/// |---|---|---|---|---|---|
/// | `pypi-4.13` | wheels on PyPI | 4.13 to 5.0 | fused, by column | binary | float64, rounded |
/// | `pypi-4.6` | wheels on PyPI | 4.6 to 4.12 | fused | as given | float64, rounded |
/// | `debian-4.6` | Debian 12 | 4.6 | fused | as given | glibc's float32 |
/// | each with `-nofma` | | on a CPU without AVX2 or FMA | not fused | | |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum OpenCvBuild {
    /// The wheels of 4.13 to 5.0 on a CPU with AVX2 and FMA: today's `pip install opencv-python`.
    #[default]
    #[serde(rename = "pypi-4.13")]
    PyPi413,
    /// The wheels of 4.6 to 4.12 on a CPU with AVX2 and FMA.
    #[serde(rename = "pypi-4.6")]
    PyPi46,
    /// Debian's package of 4.6 on a CPU with AVX2 and FMA.
    #[serde(rename = "debian-4.6")]
    Debian46,
    /// The wheels of 4.13 to 5.0 where there is no AVX2.
    #[serde(rename = "pypi-4.13-nofma")]
    PyPi413NoFma,
    /// The wheels of 4.6 to 4.12 where there is no AVX2.
    #[serde(rename = "pypi-4.6-nofma")]
    PyPi46NoFma,
    /// Debian's package of 4.6 where there is no AVX2.
    #[serde(rename = "debian-4.6-nofma")]
    Debian46NoFma,
}

impl OpenCvBuild {
    /// The number of leading columns of a level `width` wide that the smoothing computes with
    /// fused multiply-adds: in the pass along rows, and in the pass along columns.
    pub(super) fn fused_columns(self, width: usize) -> (usize, usize) {
        match self {
            Self::PyPi413 => (width / 32 * 32, width / 4 * 4),
            Self::PyPi46 | Self::Debian46 => (width, width),
            Self::PyPi413NoFma | Self::PyPi46NoFma | Self::Debian46NoFma => (0, 0),
        }
    }

    /// Whether every mask value but 0 counts as 255 before the mask is scaled.
    pub(super) fn binarises_mask(self) -> bool {
        matches!(self, Self::PyPi413 | Self::PyPi413NoFma)
    }

    /// The sine and cosine that turn the sampling pattern.
    pub(super) fn trig(self) -> Trig {
        match self {
            Self::Debian46 | Self::Debian46NoFma => Trig::Glibc,
            _ => Trig::Rounded,
        }
    }
}

choice!(
    OpenCvBuild,
    "compat",
    PyPi413 = "pypi-4.13",
    PyPi46 = "pypi-4.6",
    Debian46 = "debian-4.6",
    PyPi413NoFma = "pypi-4.13-nofma",
    PyPi46NoFma = "pypi-4.6-nofma",
    Debian46NoFma = "debian-4.6-nofma",
);

/// The parameters of ORB: OpenCV's names and meanings, its defaults but for `n_features` = 30.
///
/// | parameter | default | allowed | |
/// |---|---|---|---|
/// | `n_features` | 30 | 0 to 2^30 - 1 | a quota shared out over the levels, see below |
/// | `max_keypoints` | 2^20 | 1 to 2^32 - 1 | a limit: an image in which more are found is an error, see below |
/// | `scale_factor` | 1.2 | above 1, finite | size ratio of neighbouring levels |
/// | `n_levels` | 8 | 1 to 1024 | |
/// | `edge_threshold` | 31 | 0 to 32768 px | no keypoint this close to a level's edge; 0: no limit |
/// | `first_level` | 0 | 0 to 1024 | the level that is the image itself; those below are enlarged |
/// | `wta_k` | 2 | 2, 3, 4 | points compared for each element of the descriptor |
/// | `score_type` | Harris | Harris, FAST | |
/// | `patch_size` | 31 | 2 to 32768 px | 31 has OpenCV's learned pattern, others a random one |
/// | `fast_threshold` | 20 | 0 to 255 | grey levels; above 255, OpenCV uses two thresholds at once |
/// | `compat` | `pypi-4.13` | [`OpenCvBuild`] | the OpenCV build to match, bit for bit |
///
/// Every parameter is supported. Values that OpenCV's newest builds refuse are refused, whatever `compat` is.
///
/// `n_features` is a quota, not a promise. Each level has its share (30 gives 7 5 5 4 3 3 2 1). All corners that tie
/// with a level's last one are kept. A level with a side of at most `2 * edge_threshold` has no keypoints: a 100 x 100
/// image has three levels with keypoints, so 17 keypoints at most, plus ties.
///
/// OpenCV does not limit ties: a repeating pattern in a large image gives millions of keypoints, whatever the quota.
/// Here an image with more than `max_keypoints` gives an [`Error::TooManyKeypoints`]; [`Orb`] raises it before it
/// describes those of the level that exceeds it. The limit changes no keypoint of an image within it.
///
/// # Examples
/// ```
/// use orb_features::orb::{OrbParams, ScoreType};
///
/// let orb = OrbParams::default().with_n_features(500).with_score_type(ScoreType::Fast).build()?;
/// assert_eq!(orb.params().n_features(), 500);
/// assert!(OrbParams::default().with_scale_factor(1.0).build().is_err());
/// # Ok::<(), orb_features::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[must_use]
#[serde(default, deny_unknown_fields)]
pub struct OrbParams {
    n_features: u32,
    max_keypoints: u32,
    scale_factor: f32,
    n_levels: u32,
    edge_threshold: u32,
    first_level: u32,
    wta_k: u32,
    score_type: ScoreType,
    patch_size: u32,
    fast_threshold: u8,
    compat: OpenCvBuild,
}

impl Default for OrbParams {
    fn default() -> Self {
        Self {
            n_features: DEFAULT_N_FEATURES,
            max_keypoints: DEFAULT_MAX_KEYPOINTS,
            scale_factor: DEFAULT_SCALE_FACTOR,
            n_levels: DEFAULT_N_LEVELS,
            edge_threshold: DEFAULT_EDGE_THRESHOLD,
            first_level: DEFAULT_FIRST_LEVEL,
            wta_k: DEFAULT_WTA_K,
            score_type: ScoreType::default(),
            patch_size: DEFAULT_PATCH_SIZE,
            fast_threshold: DEFAULT_FAST_THRESHOLD,
            compat: OpenCvBuild::default(),
        }
    }
}

macro_rules! accessors {
    ($($field:ident, $setter:ident: $type:ty, $set:literal, $get:literal;)*) => {$(
        #[doc = $set]
        pub fn $setter(mut self, $field: $type) -> Self {
            self.$field = $field;
            self
        }

        #[doc = $get]
        #[must_use]
        pub fn $field(&self) -> $type {
            self.$field
        }
    )*};
}

impl OrbParams {
    accessors! {
        n_features, with_n_features: u32,
            "Sets the quota of keypoints per image (default [`DEFAULT_N_FEATURES`]).",
            "The quota of keypoints per image.";
        max_keypoints, with_max_keypoints: u32,
            "Sets the most keypoints that may be found in an image (default [`DEFAULT_MAX_KEYPOINTS`]).",
            "The most keypoints that may be found in an image.";
        scale_factor, with_scale_factor: f32,
            "Sets the size ratio of neighbouring levels (default [`DEFAULT_SCALE_FACTOR`]).",
            "The size ratio of neighbouring levels.";
        n_levels, with_n_levels: u32,
            "Sets the number of pyramid levels (default [`DEFAULT_N_LEVELS`]).",
            "The number of pyramid levels.";
        edge_threshold, with_edge_threshold: u32,
            "Sets the margin without keypoints, in pixels of the level (default [`DEFAULT_EDGE_THRESHOLD`]).",
            "The margin without keypoints, in pixels of the level.";
        first_level, with_first_level: u32,
            "Sets which level is the image itself (default [`DEFAULT_FIRST_LEVEL`]).",
            "The level that is the image itself.";
        wta_k, with_wta_k: u32,
            "Sets how many points each element of the descriptor compares: 2, 3 or 4 (default [`DEFAULT_WTA_K`]).",
            "How many points each element of the descriptor compares.";
        score_type, with_score_type: ScoreType,
            "Sets what ranks the corners (default [`ScoreType::Harris`]).",
            "What ranks the corners.";
        patch_size, with_patch_size: u32,
            "Sets the side of the described patch, in pixels of the level (default [`DEFAULT_PATCH_SIZE`]).",
            "The side of the described patch, in pixels of the level.";
        fast_threshold, with_fast_threshold: u8,
            "Sets the contrast that makes a FAST corner, in grey levels (default [`DEFAULT_FAST_THRESHOLD`]).",
            "The contrast that makes a FAST corner, in grey levels.";
        compat, with_compat: OpenCvBuild,
            "Sets the OpenCV build to equal (default [`OpenCvBuild::PyPi413`]).",
            "The OpenCV build to equal.";
    }

    /// Checks the parameters and makes the native extractor.
    ///
    /// # Errors
    /// [`Error::InvalidParam`], naming the parameter, its value and what is allowed.
    pub fn build(self) -> Result<Orb> {
        self.check()?;
        Ok(Orb::new(self))
    }

    /// Refuses more than `max_keypoints` keypoints.
    pub(super) fn check_keypoints_found(&self, found: usize) -> Result<()> {
        let limit = self.max_keypoints;
        if found as u64 <= u64::from(limit) {
            Ok(())
        } else {
            Err(Error::TooManyKeypoints { found, limit })
        }
    }

    fn check(&self) -> Result<()> {
        let up_to = |name, value: u32, min: u32, max: u32| {
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(Error::param(name, value, format!("{min} to {max}")))
            }
        };
        up_to("n_features", self.n_features, 0, MAX_N_FEATURES)?;
        up_to("max_keypoints", self.max_keypoints, 1, u32::MAX)?;
        if !(self.scale_factor > 1.0 && self.scale_factor.is_finite()) {
            return Err(Error::param("scale_factor", self.scale_factor, "above 1 and finite"));
        }
        up_to("n_levels", self.n_levels, 1, MAX_N_LEVELS)?;
        up_to("edge_threshold", self.edge_threshold, 0, MAX_PATCH_SIZE)?;
        up_to("first_level", self.first_level, 0, MAX_N_LEVELS)?;
        up_to("wta_k", self.wta_k, 2, 4)?;
        up_to("patch_size", self.patch_size, 2, MAX_PATCH_SIZE)
    }
}
