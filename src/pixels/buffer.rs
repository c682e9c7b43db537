//! Pixels in the format that an extractor asks for.

#[cfg(feature = "jpeg")]
use std::collections::TryReserveError;

use image::imageops::FilterType;
use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};
use serde::{Deserialize, Serialize};

use super::gray::samples_of;
use super::{GrayImage, GrayView};
use crate::choice::choice;
use crate::error::{Error, Result};

/// The channels of a pixel, one byte each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum PixelFormat {
    /// Grey; the decoder's [`GrayMode`](crate::decode::GrayMode) says how colours are converted.
    #[default]
    Gray,
    /// Red, green, blue: the order of Pillow, TensorFlow and the `image` crate.
    Rgb,
    /// Blue, green, red: the order of OpenCV and of Spark's `image` column.
    Bgr,
}

impl PixelFormat {
    /// The number of bytes per pixel.
    #[must_use]
    pub fn channels(self) -> usize {
        if self == Self::Gray { 1 } else { 3 }
    }
}

choice!(PixelFormat, "pixel_format", Gray = "gray", Rgb = "rgb", Bgr = "bgr");

/// The pixels that an extractor wants of each image.
///
/// # Examples
/// ```
/// use orb_features::pixels::{PixelFormat, PixelSpec};
///
/// let spec = PixelSpec::new(PixelFormat::Rgb).with_size(224, 224);
/// assert_eq!(spec.size(), Some((224, 224)));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use]
pub struct PixelSpec {
    format: PixelFormat,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<(u32, u32)>,
}

impl PixelSpec {
    /// Asks for a format, at the image's own size.
    pub fn new(format: PixelFormat) -> Self {
        Self { format, size: None }
    }

    /// Asks for a fixed width and height in pixels. Images are resized with a triangle filter, which widens in
    /// proportion when an image is reduced.
    pub fn with_size(mut self, width: u32, height: u32) -> Self {
        self.size = Some((width, height));
        self
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> PixelFormat {
        self.format
    }

    /// Width and height in pixels; `None` for the image's own size.
    #[must_use]
    pub fn size(&self) -> Option<(u32, u32)> {
        self.size
    }

    /// Checks the size, before there is an image.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for a side of 0 or above 65,535.
    pub fn check(&self) -> Result<()> {
        let most = u32::from(u16::MAX);
        match self.size {
            Some((w, h)) if !(1..=most).contains(&w) || !(1..=most).contains(&h) => {
                Err(Error::param("size", format!("{w} x {h}"), format!("1 to {most} a side")))
            }
            _ => Ok(()),
        }
    }
}

/// A borrowed image: `height` rows of `width` interleaved pixels, without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelView<'a> {
    bytes: &'a [u8],
    width: usize,
    height: usize,
    format: PixelFormat,
}

impl<'a> PixelView<'a> {
    /// Borrows a row-major buffer of exactly `width * height * channels` bytes.
    ///
    /// # Errors
    /// [`Error::Shape`] if the length differs, or a side is above `i32::MAX`.
    pub fn new(bytes: &'a [u8], width: usize, height: usize, format: PixelFormat) -> Result<Self> {
        let len = width.checked_mul(height).and_then(|n| n.checked_mul(format.channels()));
        let fits = |side: usize| i32::try_from(side).is_ok();
        if len != Some(bytes.len()) || !fits(width) || !fits(height) {
            let n = bytes.len();
            return Err(Error::shape(format!(
                "{n} bytes for {width} x {height} {format:?} pixels"
            )));
        }
        Ok(Self { bytes, width, height, format })
    }

    /// Width in pixels.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    #[must_use]
    pub fn height(&self) -> usize {
        self.height
    }

    /// The channels of a pixel.
    #[must_use]
    pub fn format(&self) -> PixelFormat {
        self.format
    }

    /// The row-major, interleaved bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Borrows the same pixels as a grey image.
    ///
    /// # Errors
    /// [`Error::Shape`] for colour.
    pub fn gray(&self) -> Result<GrayView<'a>> {
        if self.format != PixelFormat::Gray {
            return Err(Error::shape(format!("{:?} pixels where grey ones are due", self.format)));
        }
        GrayView::new(self.bytes, self.width, self.height)
    }
}

/// An owned image in some format, and how many channels its file had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pixels {
    bytes: Vec<u8>,
    width: usize,
    height: usize,
    format: PixelFormat,
    channels: u8,
}

impl Pixels {
    /// Takes a row-major buffer of exactly `width * height * channels` bytes.
    ///
    /// # Errors
    /// [`Error::Shape`] if the length differs.
    pub fn new(bytes: Vec<u8>, width: usize, height: usize, format: PixelFormat) -> Result<Self> {
        PixelView::new(&bytes, width, height, format)?;
        Ok(Self { bytes, width, height, format, channels: format.channels() as u8 })
    }

    /// Borrows it.
    #[must_use]
    pub fn view(&self) -> PixelView<'_> {
        let Self { bytes, width, height, format, .. } = self;
        PixelView { bytes, width: *width, height: *height, format: *format }
    }

    /// Width in pixels.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    #[must_use]
    pub fn height(&self) -> usize {
        self.height
    }

    /// The channels of a pixel.
    #[must_use]
    pub fn format(&self) -> PixelFormat {
        self.format
    }

    /// The channels of the file: 1 grey, 2 grey and alpha, 3 colour, 4 colour and alpha or CMYK.
    #[must_use]
    pub fn channels(&self) -> u8 {
        self.channels
    }

    /// The row-major, interleaved bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Replaces the image by zeros of a new shape, reusing the buffer, and returns the bytes to fill.
    #[cfg(feature = "jpeg")]
    pub(crate) fn refill(
        &mut self,
        (width, height): (usize, usize),
        format: PixelFormat,
        channels: u8,
    ) -> Result<&mut [u8], TryReserveError> {
        let len = width * height * format.channels();
        self.bytes.clear();
        self.bytes.try_reserve_exact(len)?;
        self.bytes.resize(len, 0);
        (self.width, self.height, self.format, self.channels) = (width, height, format, channels);
        Ok(&mut self.bytes)
    }

    /// Converts any image of the `image` crate: 16-bit samples keep their high byte and alpha is dropped, as
    /// `cv::imread` does; floats are scaled by the `image` crate.
    pub(crate) fn of_image(image: DynamicImage, format: PixelFormat) -> Self {
        if format == PixelFormat::Gray {
            return GrayImage::from(&image).into();
        }
        let (width, height) = (image.width() as usize, image.height() as usize);
        let channels = image.color().channel_count();
        let (samples, of_a_pixel) = samples_of(&image);
        let mut bytes = match of_a_pixel {
            1 | 2 => {
                samples.iter().step_by(of_a_pixel.into()).flat_map(|&gray| [gray; 3]).collect()
            }
            3 => samples.into_owned(),
            _ => samples.as_chunks::<4>().0.iter().flat_map(|&[r, g, b, _]| [r, g, b]).collect(),
        };
        if format == PixelFormat::Bgr {
            bytes.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| pixel.swap(0, 2));
        }
        Self { bytes, width, height, format, channels }
    }

    /// Applies an operation of the `image` crate. The crate treats all channels alike, so BGR can pass as RGB.
    fn change(&mut self, change: impl FnOnce(DynamicImage) -> DynamicImage) {
        const WHOLE: &str = "the buffer has width * height pixels";
        let bytes = std::mem::take(&mut self.bytes);
        let (width, height) = (self.width as u32, self.height as u32);
        let image = match self.format {
            PixelFormat::Gray => {
                image::GrayImage::from_raw(width, height, bytes).expect(WHOLE).into()
            }
            PixelFormat::Rgb | PixelFormat::Bgr => {
                RgbImage::from_raw(width, height, bytes).expect(WHOLE).into()
            }
        };
        let image = change(image);
        (self.width, self.height) = (image.width() as usize, image.height() as usize);
        self.bytes = image.into_bytes();
    }

    /// Rotates or mirrors the image.
    pub(crate) fn turn(&mut self, orientation: Orientation) {
        self.change(|mut image| {
            image.apply_orientation(orientation);
            image
        });
    }

    /// Resizes the image as [`PixelSpec::with_size`] says.
    pub(crate) fn resize(&mut self, (width, height): (u32, u32)) {
        if (self.width, self.height) != (width as usize, height as usize) {
            self.change(|image| image.resize_exact(width, height, FilterType::Triangle));
        }
    }
}

impl From<GrayImage> for Pixels {
    fn from(gray: GrayImage) -> Self {
        let (width, height, channels) = (gray.width(), gray.height(), gray.channels());
        Self { bytes: gray.into_raw(), width, height, format: PixelFormat::Gray, channels }
    }
}

impl TryFrom<Pixels> for GrayImage {
    type Error = Error;

    fn try_from(pixels: Pixels) -> Result<Self> {
        pixels.view().gray()?;
        let Pixels { bytes, width, height, channels, .. } = pixels;
        Ok(Self::new(bytes, width, height)?.with_channels(channels))
    }
}

#[cfg(test)]
mod tests {
    use image::{ImageBuffer, LumaA, Rgb, Rgba};

    use super::*;

    #[test]
    fn any_image_becomes_colour() {
        let rgba = ImageBuffer::from_pixel(2, 1, Rgba([10_u8, 20, 30, 4]));
        let wide = ImageBuffer::from_pixel(2, 1, Rgb([0x0a01_u16, 0x1402, 0x1e03]));
        let gray = ImageBuffer::from_pixel(2, 1, LumaA([7_u8, 9]));
        for (image, rgb, channels) in [
            (DynamicImage::from(rgba), [10, 20, 30], 4),
            (DynamicImage::from(wide), [10, 20, 30], 3),
            (DynamicImage::from(gray), [7, 7, 7], 2),
        ] {
            let [r, g, b] = rgb;
            let got = Pixels::of_image(image.clone(), PixelFormat::Rgb);
            assert_eq!((got.as_bytes(), got.channels()), (&[r, g, b, r, g, b][..], channels));
            let got = Pixels::of_image(image, PixelFormat::Bgr);
            assert_eq!(got.as_bytes(), [b, g, r, b, g, r]);
            assert!(got.view().gray().is_err());
        }
    }

    #[test]
    fn a_size_is_reached_and_checked() {
        let mut pixels = Pixels::new((0..27).collect(), 3, 3, PixelFormat::Bgr).unwrap();
        pixels.resize((3, 3));
        assert_eq!(pixels.as_bytes()[..3], [0, 1, 2]);
        pixels.resize((5, 2));
        assert_eq!((pixels.width(), pixels.height(), pixels.as_bytes().len()), (5, 2, 30));
        pixels.turn(Orientation::Rotate90);
        assert_eq!((pixels.width(), pixels.height()), (2, 5));
        for (w, h) in [(0, 1), (1, 0), (65_536, 1)] {
            PixelSpec::new(PixelFormat::Rgb).with_size(w, h).check().unwrap_err();
        }
        PixelView::new(&[0; 5], 2, 1, PixelFormat::Rgb).unwrap_err();
    }
}
