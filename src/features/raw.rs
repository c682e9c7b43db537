//! The pixels of a resized image as its vector.

use serde::{Deserialize, Serialize};

use super::{Extracted, FeatureExtractor, VectorFormat, Vectors};
use crate::error::{Error, Result};
use crate::pixels::{PixelFormat, PixelSpec, PixelView, Resampler, Resize};

/// Default width and height of [`PixelParams`].
pub const DEFAULT_PIXEL_SIDE: u32 = 32;

/// The parameters of a [`PixelExtractor`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
pub struct PixelParams {
    width: u32,
    height: u32,
    channels: PixelFormat,
    resize: Resize,
}

impl Default for PixelParams {
    fn default() -> Self {
        Self {
            width: DEFAULT_PIXEL_SIDE,
            height: DEFAULT_PIXEL_SIDE,
            channels: PixelFormat::Gray,
            resize: Resize::default(),
        }
    }
}

impl PixelParams {
    /// Sets width and height in pixels (default [`DEFAULT_PIXEL_SIDE`] each).
    pub fn with_size(mut self, width: u32, height: u32) -> Self {
        (self.width, self.height) = (width, height);
        self
    }

    /// Sets the channels, and their order (default [`PixelFormat::Gray`]).
    pub fn with_channels(mut self, channels: PixelFormat) -> Self {
        self.channels = channels;
        self
    }

    /// Sets how images are brought to the size (default [`Resize::Bicubic`]).
    pub fn with_resize(mut self, resize: Resize) -> Self {
        self.resize = resize;
        self
    }

    /// Width and height in pixels.
    #[must_use]
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// The channels.
    #[must_use]
    pub fn channels(&self) -> PixelFormat {
        self.channels
    }

    /// How images are brought to the size.
    #[must_use]
    pub fn resize(&self) -> Resize {
        self.resize
    }

    /// Checks the parameters, and makes the extractor.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for a side of 0 or above 4,096, or more than 2^20 numbers in all.
    pub fn build(self) -> Result<PixelExtractor> {
        let (width, height) = self.size();
        let most = 4096;
        if !(1..=most).contains(&width) || !(1..=most).contains(&height) {
            let given = format!("{width} x {height}");
            return Err(Error::param("size", given, format!("1 to {most} a side")));
        }
        let extractor = PixelExtractor { params: self };
        extractor.output().check()?;
        Ok(extractor)
    }
}

/// Resizes images, and takes their pixels as one vector: row by row, channels interleaved, from 0 to 255.
///
/// Bytes, or floats for [`Resize::TensorFlow`], whose results are not rounded.
///
/// # Examples
/// ```
/// use orb_features::prelude::*;
///
/// let pixels = PixelParams::default().with_size(2, 1).build()?;
/// let source = MemorySource::new([("a.pgm", &b"P5 2 2 255\n\x08\x02\x06\x04"[..])]);
/// let batch = source.open()?.features(&pixels).explode().next().unwrap()?;
/// assert_eq!(batch.vectors().as_u8().unwrap(), [7, 3]);
/// # Ok::<(), orb_features::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PixelExtractor {
    params: PixelParams,
}

/// Working memory of a [`PixelExtractor`].
#[derive(Debug, Default)]
pub struct PixelScratch {
    resampler: Resampler,
    pixels: Vec<f32>,
}

impl PixelExtractor {
    /// Its parameters.
    pub fn params(&self) -> &PixelParams {
        &self.params
    }
}

impl FeatureExtractor for PixelExtractor {
    type Scratch = PixelScratch;

    fn describe(&self) -> String {
        serde_json::json!({ "extractor": "pixels", "params": self.params }).to_string()
    }

    fn pixels(&self) -> PixelSpec {
        PixelSpec::new(self.params.channels)
    }

    fn output(&self) -> VectorFormat {
        let PixelParams { width, height, channels, resize } = self.params;
        let len = width as usize * height as usize * channels.channels();
        match resize {
            Resize::TensorFlow => VectorFormat::f32(len),
            Resize::Bicubic | Resize::Bilinear | Resize::Nearest => VectorFormat::u8(len),
        }
    }

    fn extract(&self, image: PixelView<'_>, scratch: &mut PixelScratch) -> Result<Extracted> {
        if image.as_bytes().is_empty() {
            return Err(Error::shape("an image without a pixel has no other size"));
        }
        let PixelParams { width, height, resize, .. } = self.params;
        let PixelScratch { resampler, pixels } = scratch;
        resampler.resize(image, (width as usize, height as usize), resize, pixels);
        let (output, pixels) = (self.output(), pixels.iter().copied());
        let vectors = match resize {
            Resize::TensorFlow => Vectors::from_f32(pixels.collect(), output.len())?,
            // Whole numbers from 0 to 255.
            _ => Vectors::from_u8(pixels.map(|v| v as u8).collect(), output.len())?,
        };
        Ok(vectors.into())
    }
}
