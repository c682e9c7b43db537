//! Grey images, owned and borrowed, and the conversion from colour.

use std::borrow::Cow;

use ndarray::{ArrayView2, ArrayView3};

use crate::arch::Kernels;
use crate::error::{Error, Result};

/// The order of the channels of an interleaved colour buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColorOrder {
    /// Blue, green, red: OpenCV's order.
    Bgr,
    /// Red, green, blue: the order of the `image` crate.
    Rgb,
    /// Blue, green, red, alpha; alpha is ignored.
    Bgra,
    /// Red, green, blue, alpha; alpha is ignored.
    Rgba,
}

impl ColorOrder {
    /// The number of bytes per pixel.
    #[must_use]
    pub fn channels(self) -> usize {
        match self {
            Self::Bgr | Self::Rgb => 3,
            Self::Bgra | Self::Rgba => 4,
        }
    }

    /// Converts pixels to grey, as [`gray_of`] does.
    pub(crate) fn to_gray(self, pixels: &[u8], out: &mut [u8]) {
        (Kernels::current().gray)(pixels, self.channels(), self.weights(), out);
    }

    /// The weights of the first three channels in grey.
    fn weights(self) -> [u32; 3] {
        match self {
            Self::Bgr | Self::Bgra => [BLUE, GREEN, RED],
            Self::Rgb | Self::Rgba => [RED, GREEN, BLUE],
        }
    }
}

/// Weights of ITU-R BT.601 in 15-bit fixed point.
const RED: u32 = 9798;
const GREEN: u32 = 19235;
const BLUE: u32 = 3735;

/// The grey value of one colour.
///
/// # Source
/// `cv::cvtColor`, `COLOR_BGR2GRAY`, 8 bit: ITU-R BT.601 weights in 15-bit fixed point.
#[inline]
#[must_use]
pub fn gray_of(r: u8, g: u8, b: u8) -> u8 {
    ((u32::from(b) * BLUE + u32::from(g) * GREEN + u32::from(r) * RED + 16384) >> 15) as u8
}

/// A borrowed grey image: `height` rows of `width` bytes, `stride` bytes apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct GrayView<'a> {
    pixels: &'a [u8],
    width: usize,
    height: usize,
    stride: usize,
}

impl<'a> GrayView<'a> {
    /// Borrows a row-major buffer of exactly `width * height` bytes.
    ///
    /// # Errors
    /// [`Error::Shape`] if the length differs, or a side is above `i32::MAX`.
    pub fn new(pixels: &'a [u8], width: usize, height: usize) -> Result<Self> {
        if width.checked_mul(height) != Some(pixels.len()) {
            return Err(Error::shape(format!(
                "{} bytes for a {width} x {height} grey image",
                pixels.len()
            )));
        }
        Self::with_stride(pixels, width, height, width)
    }

    /// Borrows rows that are `stride` bytes apart, such as a window of a larger image.
    ///
    /// # Errors
    /// [`Error::Shape`] if the rows overlap, do not fit the buffer, or a side is above `i32::MAX`.
    pub fn with_stride(
        pixels: &'a [u8],
        width: usize,
        height: usize,
        stride: usize,
    ) -> Result<Self> {
        let needed = if width == 0 || height == 0 {
            Some(0)
        } else {
            stride.checked_mul(height - 1).and_then(|n| n.checked_add(width))
        };
        let side_fits = |n: usize| i32::try_from(n).is_ok();
        if stride < width
            || needed.is_none_or(|n| n > pixels.len())
            || !side_fits(width)
            || !side_fits(height)
        {
            return Err(Error::shape(format!(
                "{} bytes for a {width} x {height} grey image of stride {stride}",
                pixels.len()
            )));
        }
        Ok(Self { pixels, width, height, stride })
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

    /// Whether it has no pixel.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0
    }

    /// The `y`-th row, `width` bytes.
    ///
    /// # Panics
    /// If `y >= height`.
    #[inline]
    #[must_use]
    pub fn row(&self, y: usize) -> &'a [u8] {
        assert!(y < self.height, "row {y} of {}", self.height);
        &self.pixels[y * self.stride..][..self.width]
    }

    /// The buffer, which begins with the first row, and the stride in bytes.
    pub(crate) fn as_strided(&self) -> (&'a [u8], usize) {
        (self.pixels, self.stride)
    }
}

impl std::fmt::Debug for GrayView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrayView")
            .field("width", &self.width)
            .field("height", &self.height)
            .field("stride", &self.stride)
            .finish_non_exhaustive()
    }
}

impl<'a> From<&'a GrayImage> for GrayView<'a> {
    fn from(image: &'a GrayImage) -> Self {
        image.view()
    }
}

impl<'a> TryFrom<ArrayView2<'a, u8>> for GrayView<'a> {
    type Error = Error;

    /// Borrows an array of shape (height, width) in standard layout.
    ///
    /// # Errors
    /// [`Error::Shape`] if it is a window or otherwise not contiguous: copy it with
    /// [`GrayImage::from_ndarray`] then.
    fn try_from(array: ArrayView2<'a, u8>) -> Result<Self> {
        let (height, width) = array.dim();
        let pixels = array.to_slice().ok_or_else(|| {
            Error::shape(format!(
                "the {height} x {width} array is not contiguous (strides {:?})",
                array.strides()
            ))
        })?;
        Self::new(pixels, width, height)
    }
}

/// An owned grey image: width, height, row-major bytes, and how many channels it came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrayImage {
    pixels: Vec<u8>,
    width: usize,
    height: usize,
    channels: u8,
}

impl GrayImage {
    /// Takes a row-major buffer of exactly `width * height` bytes.
    ///
    /// # Errors
    /// [`Error::Shape`] if the length differs.
    pub fn new(pixels: Vec<u8>, width: usize, height: usize) -> Result<Self> {
        GrayView::new(&pixels, width, height)?;
        Ok(Self { pixels, width, height, channels: 1 })
    }

    /// Converts an interleaved colour buffer of exactly `width * height * channels` bytes,
    /// with OpenCV's weights ([`gray_of`]).
    ///
    /// # Errors
    /// [`Error::Shape`] if the length differs.
    pub fn from_color(
        pixels: &[u8],
        width: usize,
        height: usize,
        order: ColorOrder,
    ) -> Result<Self> {
        let channels = order.channels();
        if width.checked_mul(height).and_then(|n| n.checked_mul(channels)) != Some(pixels.len()) {
            return Err(Error::shape(format!(
                "{} bytes for a {width} x {height} image of {channels} channels",
                pixels.len()
            )));
        }
        Ok(Self::of_color(pixels, width, height, order, channels as u8))
    }

    /// Copies an array of shape (height, width), whatever its strides.
    #[must_use]
    pub fn from_ndarray(array: ArrayView2<'_, u8>) -> Self {
        let (height, width) = array.dim();
        Self { pixels: array.iter().copied().collect(), width, height, channels: 1 }
    }

    /// Converts an array of shape (height, width, channels), whatever its strides.
    ///
    /// # Errors
    /// [`Error::Shape`] if the last axis is not as long as `order` says.
    pub fn from_ndarray_color(array: ArrayView3<'_, u8>, order: ColorOrder) -> Result<Self> {
        let (height, width, channels) = array.dim();
        if channels != order.channels() {
            return Err(Error::shape(format!(
                "an array of shape ({height}, {width}, {channels}) for {} channels",
                order.channels()
            )));
        }
        let packed = array.as_standard_layout();
        // Always a slice, as a standard layout is contiguous.
        Self::from_color(packed.as_slice().unwrap_or(&[]), width, height, order)
    }

    /// Borrows it.
    #[must_use]
    pub fn view(&self) -> GrayView<'_> {
        GrayView {
            pixels: &self.pixels,
            width: self.width,
            height: self.height,
            stride: self.width,
        }
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

    /// The number of channels of the image that it was made from: 1, 3 or 4 (2 for grey and alpha).
    #[must_use]
    pub fn channels(&self) -> u8 {
        self.channels
    }

    /// The row-major pixels.
    #[must_use]
    pub fn as_raw(&self) -> &[u8] {
        &self.pixels
    }

    /// The row-major pixels, without a copy.
    #[must_use]
    pub fn into_raw(self) -> Vec<u8> {
        self.pixels
    }

    /// Sets the number of channels of the image that it was made from.
    pub(super) fn with_channels(mut self, channels: u8) -> Self {
        self.channels = channels;
        self
    }

    /// Converts a colour buffer of `width * height` pixels; the caller has checked its length.
    fn of_color(
        pixels: &[u8],
        width: usize,
        height: usize,
        order: ColorOrder,
        channels: u8,
    ) -> Self {
        let mut gray = vec![0; width * height];
        order.to_gray(pixels, &mut gray);
        Self { pixels: gray, width, height, channels }
    }
}

impl From<&image::RgbImage> for GrayImage {
    fn from(image: &image::RgbImage) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        Self::of_color(image.as_raw(), width, height, ColorOrder::Rgb, 3)
    }
}

impl From<image::GrayImage> for GrayImage {
    fn from(image: image::GrayImage) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        Self { pixels: image.into_raw(), width, height, channels: 1 }
    }
}

/// The samples of an image of the `image` crate as bytes, and how many a pixel has: 16-bit samples keep their high byte, as
/// `cv::imread` does; floats become colours as the `image` crate makes them.
pub(super) fn samples_of(image: &image::DynamicImage) -> (Cow<'_, [u8]>, u8) {
    use image::ColorType as C;
    let color = image.color();
    let bytes = match color {
        C::Rgb32F | C::Rgba32F => return (Cow::Owned(image.to_rgb8().into_raw()), 3),
        C::L16 | C::La16 | C::Rgb16 | C::Rgba16 => {
            let high = |&v: &[u8; 2]| (u16::from_ne_bytes(v) >> 8) as u8;
            Cow::Owned(image.as_bytes().as_chunks().0.iter().map(high).collect())
        }
        _ => Cow::Borrowed(image.as_bytes()),
    };
    (bytes, color.channel_count())
}

/// Converts any image of the `image` crate: 16-bit samples keep their high byte and alpha is
/// dropped, as `cv::imread` does; floats are scaled by the `image` crate.
impl From<&image::DynamicImage> for GrayImage {
    fn from(image: &image::DynamicImage) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let (samples, of_a_pixel) = samples_of(image);
        let channels = image.color().channel_count();
        let pixels = match of_a_pixel {
            1 => samples.into_owned(),
            2 => samples.iter().step_by(2).copied().collect(),
            3 => return Self::of_color(&samples, width, height, ColorOrder::Rgb, channels),
            _ => return Self::of_color(&samples, width, height, ColorOrder::Rgba, channels),
        };
        Self { pixels, width, height, channels }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, Array3, s};

    use super::*;

    #[test]
    fn gray_weights_are_opencvs() {
        // cv2.cvtColor(.., COLOR_BGR2GRAY) on these colours, OpenCV 4.6 to 5.0.
        assert_eq!(gray_of(255, 0, 0), 76);
        assert_eq!(gray_of(0, 255, 0), 150);
        assert_eq!(gray_of(0, 0, 255), 29);
        assert_eq!(gray_of(12, 200, 77), 130);
        for v in 0..=255 {
            assert_eq!(gray_of(v, v, v), v);
        }
    }

    #[test]
    fn colour_orders_agree() {
        let rgb = [10, 20, 30, 200, 100, 50];
        let bgr = [30, 20, 10, 50, 100, 200];
        let rgba = [10, 20, 30, 9, 200, 100, 50, 8];
        let bgra = [30, 20, 10, 9, 50, 100, 200, 8];
        let want = GrayImage::from_color(&rgb, 2, 1, ColorOrder::Rgb).unwrap();
        assert_eq!(want.channels(), 3);
        for (pixels, order) in [
            (&bgr[..], ColorOrder::Bgr),
            (&rgba[..], ColorOrder::Rgba),
            (&bgra[..], ColorOrder::Bgra),
        ] {
            let got = GrayImage::from_color(pixels, 2, 1, order).unwrap();
            assert_eq!(got.as_raw(), want.as_raw());
            let array = Array3::from_shape_vec((1, 2, order.channels()), pixels.to_vec()).unwrap();
            assert_eq!(GrayImage::from_ndarray_color(array.view(), order).unwrap(), got);
        }
        let image = image::RgbImage::from_raw(2, 1, rgb.to_vec()).unwrap();
        assert_eq!(GrayImage::from(&image), want);
        let gray = image::GrayImage::from_raw(2, 1, vec![3, 4]).unwrap();
        assert_eq!(GrayImage::from(gray), GrayImage::new(vec![3, 4], 2, 1).unwrap());
        assert!(GrayImage::from_color(&rgb, 2, 2, ColorOrder::Rgb).is_err());
    }

    #[test]
    fn a_contiguous_array_is_borrowed_and_others_are_copied() {
        let array = Array2::from_shape_fn((5, 7), |(y, x)| (y * 7 + x) as u8);
        let view = GrayView::try_from(array.slice(s![1..4, ..])).unwrap();
        assert_eq!((view.width(), view.height()), (7, 3));
        assert_eq!(view.row(2), &array.as_slice().unwrap()[21..28]);
        for odd in [array.slice(s![1..4, 2..6]), array.slice(s![..;-1, ..]), array.t()] {
            assert!(GrayView::try_from(odd).is_err());
            let copy = GrayImage::from_ndarray(odd);
            assert_eq!(copy.view().row(0), odd.row(0).to_vec());
        }
        assert!(GrayView::try_from(array.slice(s![0..0, ..])).unwrap().is_empty());
    }

    #[test]
    fn a_wrong_length_or_stride_is_refused() {
        assert!(GrayView::new(&[0; 5], 2, 3).is_err());
        assert!(GrayView::with_stride(&[0; 8], 2, 3, 3).is_ok());
        assert!(GrayView::with_stride(&[0; 7], 2, 3, 3).is_err());
        assert!(GrayView::with_stride(&[0; 9], 3, 3, 2).is_err());
        assert!(GrayView::with_stride(&[], usize::MAX, 2, usize::MAX).is_err());
    }
}
