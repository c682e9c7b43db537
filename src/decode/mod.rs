//! Bytes to pixels.
//!
//! JPEGs are decoded by libjpeg-turbo's decoder, as `mozjpeg-sys` builds it, with the pixels of `cv::imread`
//! (feature `jpeg`). Every other format goes through the `image` crate: PNG, BMP, GIF (its first frame), TIFF,
//! WebP and PNM.

#[cfg_attr(not(feature = "jpeg"), path = "no_jpeg.rs")]
mod jpeg;
mod orientation;
mod params;
mod raster;

use std::collections::TryReserveError;
use std::sync::Arc;

use image::metadata::Orientation;

use crate::error::{BoxError, DecodeCause, Error, Result};
use crate::pixels::{GrayImage, ImageMeta, PixelFormat, PixelSpec, Pixels};
use crate::source::ImageObject;

pub use params::{DEFAULT_MAX_ALLOC, DEFAULT_MAX_SIDE, DecodeParams, ExifOrientation, GrayMode};

/// The JPEG decoder that this build uses: `libjpeg-turbo`, or `none` without the feature `jpeg`.
pub const JPEG_DECODER: &str = jpeg::NAME;

/// Whether the JPEG decoder is built with vector instructions: on x86 that needs nasm at build time. The pixels
/// are the same, but without them decoding takes up to twice the time.
#[must_use]
pub fn jpeg_is_vectorized() -> bool {
    jpeg::is_vectorized()
}

/// An image ready for an extractor.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DecodedImage {
    /// Where it comes from.
    pub meta: Arc<ImageMeta>,
    /// Its pixels, in the format that was asked for.
    pub pixels: Pixels,
}

/// Why decoding failed, before the image's name is known.
type DecodeError = (DecodeCause, BoxError);

/// Decodes images on one thread, and reuses its buffers from one image to the next.
///
/// # Examples
/// ```
/// use orb_features::decode::{DecodeParams, Decoder};
/// use orb_features::source::ImageObject;
///
/// let mut decoder = Decoder::new(DecodeParams::default());
/// let pgm = ImageObject::new("two.pgm", &b"P5 2 1 255\n\x07\xff"[..]);
/// assert_eq!(decoder.decode(&pgm)?.as_raw(), [7, 255]);
///
/// let text = ImageObject::new("readme.jpg", &b"not an image"[..]);
/// assert!(decoder.decode(&text).unwrap_err().to_string().contains("readme.jpg"));
/// # Ok::<(), orb_features::Error>(())
/// ```
#[derive(Debug)]
pub struct Decoder {
    params: DecodeParams,
    jpeg: jpeg::JpegDecoder,
}

impl Decoder {
    /// Makes a decoder.
    #[must_use]
    pub fn new(params: DecodeParams) -> Self {
        Self { params, jpeg: jpeg::JpegDecoder::default() }
    }

    /// The parameters of this decoder.
    pub fn params(&self) -> &DecodeParams {
        &self.params
    }

    /// Decodes one image to grey.
    ///
    /// # Errors
    /// [`Error::Decode`], naming the object and the cause.
    pub fn decode(&mut self, object: &ImageObject) -> Result<GrayImage> {
        let mut pixels = Pixels::default();
        self.decode_into(object, PixelFormat::Gray, &mut pixels)?;
        pixels.try_into()
    }

    /// Decodes one image into a buffer. JPEGs that need not be turned upright reuse its memory. On error, the content
    /// of the buffer is unspecified.
    ///
    /// # Errors
    /// As [`Decoder::decode`].
    pub fn decode_into(
        &mut self,
        object: &ImageObject,
        format: PixelFormat,
        pixels: &mut Pixels,
    ) -> Result<()> {
        self.pixels(&object.bytes, format, pixels)
            .map_err(|(cause, source)| Error::decode(object.uri.as_str(), cause, source))
    }

    /// Decodes one image to the pixels that `spec` asks for, and describes it.
    ///
    /// # Errors
    /// As [`Decoder::decode`].
    pub fn decode_object(&mut self, object: &ImageObject, spec: PixelSpec) -> Result<DecodedImage> {
        let mut pixels = Pixels::default();
        let meta = self.decode_meta(object, spec, &mut pixels)?;
        Ok(DecodedImage { meta, pixels })
    }

    /// [`Self::decode_object`] into a buffer.
    pub(crate) fn decode_meta(
        &mut self,
        object: &ImageObject,
        spec: PixelSpec,
        pixels: &mut Pixels,
    ) -> Result<Arc<ImageMeta>> {
        self.decode_into(object, spec.format(), pixels)?;
        let meta = meta_of(object, pixels);
        if let Some(size) = spec.size() {
            if pixels.as_bytes().is_empty() {
                let why = "an image without a pixel has no other size";
                return Err(Error::decode(object.uri.as_str(), DecodeCause::Unsupported, why));
            }
            check_resize(&self.params, pixels, size)
                .map_err(|(cause, source)| Error::decode(object.uri.as_str(), cause, source))?;
            pixels.resize(size);
        }
        Ok(Arc::new(meta))
    }

    fn pixels(
        &mut self,
        bytes: &[u8],
        format: PixelFormat,
        pixels: &mut Pixels,
    ) -> Result<(), DecodeError> {
        if bytes.is_empty() {
            return Err((DecodeCause::Empty, "the file has no byte".into()));
        }
        let orientation = if bytes.starts_with(&[0xff, 0xd8]) {
            self.jpeg.decode(bytes, &self.params, format, pixels)?;
            orientation::of_jpeg(bytes)
        } else {
            raster::decode(bytes, &self.params, format, pixels)?
        };
        if self.params.exif_orientation() == ExifOrientation::Apply
            && orientation != Orientation::NoTransforms
        {
            // Turning needs a second buffer of the same size.
            check_memory(pixels.as_bytes().len())?;
            pixels.turn(orientation);
        }
        Ok(())
    }
}

/// Describes a decoded object.
fn meta_of(object: &ImageObject, pixels: &Pixels) -> ImageMeta {
    let (width, height) = (pixels.width() as u32, pixels.height() as u32);
    let mut meta = ImageMeta::new(object.uri.as_str())
        .with_file(object.bytes.len() as u64, object.modified)
        .with_shape(width, height, pixels.channels());
    meta.label.clone_from(&object.label);
    meta
}

/// Refuses an image that exceeds the limits, before anything is allocated for it. `bytes` is the memory that decoding
/// is known to need. Returns the bytes left of `max_alloc`.
fn check_limits(
    params: &DecodeParams,
    width: usize,
    height: usize,
    bytes: u64,
) -> Result<u64, DecodeError> {
    let side = params.max_side() as usize;
    match params.max_alloc().checked_sub(bytes) {
        Some(left) if width <= side && height <= side => Ok(left),
        _ => {
            let what = format!(
                "{width} x {height} pixels ({bytes} bytes to decode) exceed the limits of {side} pixels a \
                 side and {} bytes",
                params.max_alloc()
            );
            Err((DecodeCause::TooLarge, what.into()))
        }
    }
}

/// Refuses a size whose resize takes more memory than decoding may: the old pixels, an intermediate image of the old
/// width and the new height with four floats a pixel, and the new pixels.
fn check_resize(
    params: &DecodeParams,
    pixels: &Pixels,
    (width, height): (u32, u32),
) -> Result<(), DecodeError> {
    let (width, height) = (u64::from(width), u64::from(height));
    let between = (pixels.width() as u64).saturating_mul(height).saturating_mul(16);
    let new = width * height * pixels.format().channels() as u64;
    let bytes = (pixels.as_bytes().len() as u64).saturating_add(between).saturating_add(new);
    check_limits(params, width as usize, height as usize, bytes)?;
    check_memory(usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// Checks that `bytes` can be allocated, because a failed allocation later would end the process.
fn check_memory(bytes: usize) -> Result<(), DecodeError> {
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|e| no_memory(bytes, &e))
}

fn no_memory(bytes: usize, error: &TryReserveError) -> DecodeError {
    (DecodeCause::TooLarge, format!("no memory for {bytes} bytes: {error}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_cannot_be_had_is_an_error() {
        check_memory(1 << 20).unwrap();
        let (cause, why) = check_memory(usize::MAX / 4).unwrap_err();
        assert_eq!(cause, DecodeCause::TooLarge);
        assert!(why.to_string().contains("no memory for"), "{why}");
    }
}
