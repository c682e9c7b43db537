//! JPEGs through `zune-jpeg`.

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::errors::DecodeErrors;

use super::{ColorOrder, DecodeParams, Failure, GrayImage, GrayMode, check_limits};
use crate::error::DecodeCause;

pub(super) const NAME: &str = "zune-jpeg";

/// A decoder with its buffer of colour pixels.
#[derive(Debug, Default)]
pub(super) struct JpegDecoder {
    color: Vec<u8>,
}

impl JpegDecoder {
    pub fn decode(
        &mut self,
        bytes: &[u8],
        params: &DecodeParams,
        gray: &mut GrayImage,
    ) -> Result<(), Failure> {
        // Strict, so that a file that breaks off is an error and not half an image; the limits
        // are ours.
        let options = DecoderOptions::default()
            .set_strict_mode(true)
            .set_max_width(usize::MAX)
            .set_max_height(usize::MAX);
        let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(bytes), options);
        decoder.decode_headers().map_err(failure)?;
        let (width, height) = decoder.dimensions().unwrap_or((0, 0));
        let input = decoder.input_colorspace().unwrap_or(ColorSpace::Unknown);
        let direct = match input {
            ColorSpace::Luma => true,
            ColorSpace::YCbCr => params.gray_mode() == GrayMode::Luma,
            _ => false,
        };
        check_limits(params, width, height, if direct { 1 } else { 3 })?;
        let output = if direct { ColorSpace::Luma } else { ColorSpace::RGB };
        decoder.set_options(options.jpeg_set_out_colorspace(output));
        let channels = input.num_components() as u8;
        if direct {
            return gray
                .refill(width, height, channels, |out| decoder.decode_into(out).map_err(failure));
        }
        self.color.resize(width * height * 3, 0);
        decoder.decode_into(&mut self.color).map_err(failure)?;
        gray.refill_from_color(&self.color, width, height, ColorOrder::Rgb, channels);
        Ok(())
    }
}

fn failure(error: DecodeErrors) -> Failure {
    let cause = match error {
        DecodeErrors::Unsupported(_) => DecodeCause::Unsupported,
        _ => DecodeCause::Corrupt,
    };
    // Its `Display` is its `Debug`; one line of it is enough.
    (cause, error.to_string().trim().replace('\n', " ").into())
}
