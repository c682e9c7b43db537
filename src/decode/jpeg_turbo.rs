//! JPEGs through libjpeg-turbo, with the pixels of `cv::imread`.

use turbojpeg::{Colorspace, Decompressor, Image, PixelFormat};

use super::{ColorOrder, DecodeParams, Failure, GrayImage, GrayMode, check_limits};
use crate::error::DecodeCause;

pub(super) const NAME: &str = "libjpeg-turbo";

/// What libjpeg-turbo wants to see behind the place that it reads, or it decodes bit by bit with checks:
/// 512 bytes for each block of an MCU, of which there are ten at most. Of a 100 x 100 photo that is most.
const READ_AHEAD: usize = 10 * 512;
/// Files up to this length are copied to where there is room behind them; in a longer one the end
/// hardly counts.
const PADDED_LEN: usize = 128 << 10;
const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];

/// A decoder with its buffers.
#[derive(Debug, Default)]
pub(super) struct JpegDecoder {
    decompressor: Option<Decompressor>,
    padded: Vec<u8>,
    color: Vec<u8>,
}

impl JpegDecoder {
    pub fn decode(
        &mut self,
        bytes: &[u8],
        params: &DecodeParams,
        gray: &mut GrayImage,
    ) -> Result<(), Failure> {
        let mut decompressor = match self.decompressor.take() {
            Some(decompressor) => decompressor,
            None => Decompressor::new().map_err(failure)?,
        };
        // Zeros, which are no end of an image: a file that breaks off is still one.
        let bytes = if bytes.len() <= PADDED_LEN && bytes.ends_with(&END_OF_IMAGE) {
            self.padded.clear();
            self.padded.extend_from_slice(bytes);
            self.padded.resize(bytes.len() + READ_AHEAD, 0);
            &self.padded
        } else {
            bytes
        };
        let decoded = decode(&mut decompressor, &mut self.color, bytes, params, gray);
        // Not kept after a failure: a file that breaks off inside a segment leaves the library
        // there, and the next file would be read from the middle of a segment.
        if decoded.is_ok() {
            self.decompressor = Some(decompressor);
        }
        decoded
    }
}

fn decode(
    decompressor: &mut Decompressor,
    color: &mut Vec<u8>,
    bytes: &[u8],
    params: &DecodeParams,
    gray: &mut GrayImage,
) -> Result<(), Failure> {
    let header = decompressor.read_header(bytes).map_err(failure)?;
    let (width, height) = (header.width, header.height);
    let (channels, format) = match (header.colorspace, params.gray_mode()) {
        (Colorspace::Gray, _) => (1, PixelFormat::GRAY),
        (Colorspace::CMYK | Colorspace::YCCK, _) => (4, PixelFormat::CMYK),
        (_, GrayMode::Luma) => (3, PixelFormat::GRAY),
        // Three bytes for each pixel: with four, a small photo no longer fits the nearest cache.
        (_, GrayMode::Bgr2Gray) => (3, PixelFormat::BGR),
    };
    check_limits(params, width, height, format.size())?;
    let pitch = width * format.size();
    if format == PixelFormat::GRAY {
        return gray.refill(width, height, channels, |pixels| {
            let image = Image { pixels, width, pitch, height, format };
            decompressor.decompress(bytes, image).map_err(failure)
        });
    }
    color.resize(pitch * height, 0);
    let image = Image { pixels: &mut color[..], width, pitch, height, format };
    decompressor.decompress(bytes, image).map_err(failure)?;
    if format == PixelFormat::BGR {
        gray.refill_from_color(color, width, height, ColorOrder::Bgr, channels);
        return Ok(());
    }
    cmyk_to_rgb(color);
    if params.gray_mode() == GrayMode::Bgr2Gray {
        gray.refill_from_color(color, width, height, ColorOrder::Rgba, channels);
        return Ok(());
    }
    gray.refill(width, height, channels, |out| {
        for (pixel, out) in color.chunks_exact(4).zip(out) {
            *out = cmyk_luma(pixel[0], pixel[1], pixel[2]);
        }
        Ok(())
    })
}

/// Turns inverted CMYK, as JPEGs hold it, into red, green, blue and an unused byte.
///
/// # Source
/// `icvCvt_CMYK2BGR_8u_C4C3R` in OpenCV's `imgcodecs/src/utils.cpp`.
fn cmyk_to_rgb(pixels: &mut [u8]) {
    for pixel in pixels.chunks_exact_mut(4) {
        let k = i32::from(pixel[3]);
        for ink in &mut pixel[..3] {
            *ink = (k - (((255 - i32::from(*ink)) * k) >> 8)) as u8;
        }
    }
}

/// What `IMREAD_GRAYSCALE` makes of them.
///
/// # Source
/// `icvCvt_CMYK2Gray_8u_C4C1R` in the same file: 14-bit weights, where `cv::cvtColor` has 15 bits.
fn cmyk_luma(r: u8, g: u8, b: u8) -> u8 {
    ((u32::from(b) * 1868 + u32::from(g) * 9617 + u32::from(r) * 4899 + 8192) >> 14) as u8
}

/// libjpeg-turbo's warnings are errors too: they mean that pixels were made up.
fn failure(error: turbojpeg::Error) -> Failure {
    let text = error.to_string();
    let unsupported = ["Unsupported", "not supported", "not implemented"];
    let cause = if unsupported.iter().any(|u| text.contains(u)) {
        DecodeCause::Unsupported
    } else {
        DecodeCause::Corrupt
    };
    (cause, error.into())
}
