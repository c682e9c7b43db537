//! Every format but JPEG, through the `image` crate.

use std::io::Cursor;

use image::error::ImageError;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use super::{DecodeParams, Failure, GrayImage, check_limits};
use crate::error::DecodeCause;

/// Decodes `bytes` and returns the orientation that its metadata name.
pub(super) fn decode(
    bytes: &[u8],
    params: &DecodeParams,
    gray: &mut GrayImage,
) -> Result<Orientation, Failure> {
    let reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|e| (DecodeCause::Corrupt, e.into()))?;
    if reader.format().is_none() {
        return Err((DecodeCause::NotAnImage, "the bytes are of no known image format".into()));
    }
    let mut decoder = reader.into_decoder().map_err(failure)?;
    let (width, height) = decoder.dimensions();
    let bytes_per_pixel = usize::from(decoder.color_type().bytes_per_pixel());
    check_limits(params, width as usize, height as usize, bytes_per_pixel)?;
    let mut limits = Limits::no_limits();
    // What decoders allocate beside the pixels.
    limits.max_alloc = Some(params.max_alloc().saturating_mul(2));
    decoder.set_limits(limits).map_err(failure)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    *gray = GrayImage::from(&DynamicImage::from_decoder(decoder).map_err(failure)?);
    Ok(orientation)
}

fn failure(error: ImageError) -> Failure {
    let cause = match &error {
        ImageError::Unsupported(_) => DecodeCause::Unsupported,
        ImageError::Limits(_) => DecodeCause::TooLarge,
        _ => DecodeCause::Corrupt,
    };
    (cause, error.into())
}
