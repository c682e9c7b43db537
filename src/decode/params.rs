//! The parameters of decoding.

use serde::{Deserialize, Serialize};

use crate::choice::choice;
use crate::error::{Error, Result};

/// Default of [`DecodeParams::max_side`], in pixels: the most that a JPEG can have.
pub const DEFAULT_MAX_SIDE: u32 = 65_535;
/// Default of [`DecodeParams::max_alloc`], in bytes: 512 MiB, such as a PNG of 11,585 x 11,585 in colour or a
/// JPEG of 23,000 x 23,000.
pub const DEFAULT_MAX_ALLOC: u64 = 512 << 20;

/// How colours become grey.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GrayMode {
    /// The image is decoded in colour and converted as by `cv::cvtColor`. Features then equal those of
    /// `detectAndCompute` on the result of `cv::imread(path)`.
    #[default]
    #[serde(rename = "bgr")]
    Bgr2Gray,
    /// The luma plane of a JPEG is used, as by `cv::imread(path, IMREAD_GRAYSCALE)`. This is faster, and
    /// differs by some grey levels where a colour is clipped. Other formats are converted as in
    /// [`GrayMode::Bgr2Gray`].
    Luma,
}

choice!(GrayMode, "gray_mode", Bgr2Gray = "bgr", Luma = "luma");

/// Treatment of the orientation in the EXIF data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExifOrientation {
    /// Turn or mirror the image upright, as `cv::imread` does.
    #[default]
    Apply,
    /// Leave the pixels as they are stored (`IMREAD_IGNORE_ORIENTATION`).
    Ignore,
}

choice!(ExifOrientation, "exif_orientation", Apply = "apply", Ignore = "ignore");

/// The parameters of decoding, including the limits that no image may exceed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
pub struct DecodeParams {
    gray_mode: GrayMode,
    exif_orientation: ExifOrientation,
    max_side: u32,
    max_alloc: u64,
}

impl Default for DecodeParams {
    fn default() -> Self {
        Self {
            gray_mode: GrayMode::default(),
            exif_orientation: ExifOrientation::default(),
            max_side: DEFAULT_MAX_SIDE,
            max_alloc: DEFAULT_MAX_ALLOC,
        }
    }
}

impl DecodeParams {
    /// Sets how colours become grey (default [`GrayMode::Bgr2Gray`]).
    pub fn with_gray_mode(mut self, gray_mode: GrayMode) -> Self {
        self.gray_mode = gray_mode;
        self
    }

    /// Sets whether images are turned upright (default [`ExifOrientation::Apply`]).
    pub fn with_exif_orientation(mut self, exif_orientation: ExifOrientation) -> Self {
        self.exif_orientation = exif_orientation;
        self
    }

    /// Sets the largest width and height in pixels (default [`DEFAULT_MAX_SIDE`]).
    pub fn with_max_side(mut self, max_side: u32) -> Self {
        self.max_side = max_side;
        self
    }

    /// Sets the most bytes that decoding one image may take besides its file (default [`DEFAULT_MAX_ALLOC`]): the
    /// decoder's pixels or coefficients, and the grey pixels. Not counted: turning the image upright takes the grey
    /// pixels a second time, and so do ORB's levels: with its defaults 1.2 times the grey pixels, 1.7 with a small
    /// `edge_threshold`, and with `first_level` up to three times the pixels of the largest level. If any of it cannot
    /// be allocated, the image fails.
    pub fn with_max_alloc(mut self, max_alloc: u64) -> Self {
        self.max_alloc = max_alloc;
        self
    }

    /// How colours become grey.
    #[must_use]
    pub fn gray_mode(&self) -> GrayMode {
        self.gray_mode
    }

    /// Whether images are turned upright.
    #[must_use]
    pub fn exif_orientation(&self) -> ExifOrientation {
        self.exif_orientation
    }

    /// The largest width and height in pixels.
    #[must_use]
    pub fn max_side(&self) -> u32 {
        self.max_side
    }

    /// The most bytes that decoding one image may take beside its file.
    #[must_use]
    pub fn max_alloc(&self) -> u64 {
        self.max_alloc
    }

    /// Checks the parameters, without an image.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for a limit of 0, which every image would exceed.
    pub fn check(&self) -> Result<()> {
        for (name, value) in [("max_side", u64::from(self.max_side)), ("max_alloc", self.max_alloc)]
        {
            if value == 0 {
                return Err(Error::param(name, value, "at least 1"));
            }
        }
        Ok(())
    }
}
