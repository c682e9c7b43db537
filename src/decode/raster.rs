//! Every format but JPEG, through the `image` crate.

use std::io::Cursor;

use image::error::ImageError;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::{DecodeError, DecodeParams, check_limits, check_memory};
use crate::error::DecodeCause;
use crate::pixels::{PixelFormat, Pixels};

/// Decodes `bytes` and returns the orientation in the image's metadata.
pub(super) fn decode(
    bytes: &[u8],
    params: &DecodeParams,
    format: PixelFormat,
    pixels: &mut Pixels,
) -> Result<Orientation, DecodeError> {
    let reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|e| (DecodeCause::Corrupt, e.into()))?;
    if reader.format().is_none() {
        return Err((DecodeCause::NotAnImage, "the bytes are of no known image format".into()));
    }
    // Bytes a pixel. WebP's decoder allocates a canvas and a frame without counting them against its limits.
    let beside = if reader.format() == Some(ImageFormat::WebP) { 2 * 4 } else { 0 };
    let mut decoder = reader.into_decoder().map_err(failure)?;
    let (width, height) = decoder.dimensions();
    // The memory needed: the decoder's pixels, and ours, which are made from them.
    let area = u64::from(width) * u64::from(height);
    let color = decoder.color_type();
    let (channels, wide) = (color.channel_count(), color.bytes_per_pixel() > color.channel_count());
    // Samples of more than a byte are copied to bytes first.
    let beside = beside + format.channels() as u64 + if wide { channels.into() } else { 0 };
    let bytes = decoder.total_bytes().saturating_add(area.saturating_mul(beside));
    let left = check_limits(params, width as usize, height as usize, bytes)?;
    check_memory(usize::try_from(bytes).unwrap_or(usize::MAX))?;
    let mut limits = Limits::no_limits();
    // Limits the decoder's allocations besides the pixels.
    limits.max_alloc = Some(left);
    decoder.set_limits(limits).map_err(failure)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    *pixels = Pixels::of_image(DynamicImage::from_decoder(decoder).map_err(failure)?, format);
    Ok(orientation)
}

fn failure(error: ImageError) -> DecodeError {
    let cause = match &error {
        ImageError::Unsupported(_) => DecodeCause::Unsupported,
        ImageError::Limits(_) => DecodeCause::TooLarge,
        _ => DecodeCause::Corrupt,
    };
    (cause, error.into())
}

#[cfg(test)]
mod tests {
    use image::error::{DecodingError, UnsupportedErrorKind};
    use image::error::{ImageFormatHint, LimitError, LimitErrorKind, UnsupportedError};

    use super::*;

    #[test]
    fn causes_are_told_apart() {
        let hint = || ImageFormatHint::Exact(ImageFormat::Tiff);
        let kind = UnsupportedErrorKind::GenericFeature("planes".to_owned());
        for (error, want) in [
            (
                ImageError::Unsupported(UnsupportedError::from_format_and_kind(hint(), kind)),
                DecodeCause::Unsupported,
            ),
            (
                ImageError::Limits(LimitError::from_kind(LimitErrorKind::InsufficientMemory)),
                DecodeCause::TooLarge,
            ),
            (ImageError::Decoding(DecodingError::from_format_hint(hint())), DecodeCause::Corrupt),
        ] {
            assert_eq!(failure(error).0, want);
        }
    }
}
