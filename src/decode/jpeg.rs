//! JPEGs through libjpeg-turbo's decoder, with the pixels of `cv::imread`.
//!
//! libjpeg reports an error through a callback that must not return. Ours unwinds with a [`Complaint`] through the
//! C frames, which are compiled for unwinding; [`JpegDecoder::decode`] catches it. Warnings are errors too: they
//! mean that libjpeg made up pixels. Each image gets a new decompressor, so that no image is decoded with tables
//! left over from another image.

#![expect(unsafe_code, reason = "libjpeg is C")]

#[cfg(panic = "abort")]
compile_error!(
    "the feature `jpeg` needs panic = \"unwind\": a damaged file would end the process (or leave the feature out)"
);

use std::ffi::{c_int, c_long, c_ulong};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use mozjpeg_sys::{
    self as ffi, J_COLOR_SPACE as Space, jpeg_common_struct, jpeg_create_decompress,
    jpeg_decompress_struct, jpeg_destroy_decompress, jpeg_error_mgr, jpeg_finish_decompress,
    jpeg_mem_src, jpeg_progress_mgr, jpeg_read_header, jpeg_read_scanlines, jpeg_start_decompress,
    jpeg_std_error,
};

use super::{DecodeError, DecodeParams, GrayMode, check_limits, no_memory};
use crate::error::DecodeCause;
use crate::pixels::{ColorOrder, PixelFormat, Pixels};

pub(super) const NAME: &str = "libjpeg-turbo";

/// Most scans of a file. Encoders write about ten; each costs a pass over the whole image.
const MAX_SCANS: c_int = 100;
/// Bytes of decoded rows that are converted together (at least one row): they stay in the L1 cache.
const STRIP: usize = 8 << 10;

/// JMSG_LENGTH_MAX: the longest text of an error, its last zero included.
const TEXT_LEN: usize = 200;

/// The payload that carries an error of libjpeg through its C frames. Any other payload is a panic.
struct Complaint(DecodeCause, String);

/// Error callback: unwinds out of libjpeg with the text of the error.
extern "C-unwind" fn complain(info: &mut jpeg_common_struct) {
    type Format = unsafe extern "C-unwind" fn(&mut jpeg_common_struct, *mut u8);
    let mut text = [0_u8; TEXT_LEN];
    // SAFETY: `err` is set before the first call that can complain.
    if let Some(format) = unsafe { (*info.err).format_message } {
        // SAFETY: the function writes at most TEXT_LEN bytes to its `char *`, which the binding declares
        // as a shared array; as a pointer it may be written to.
        unsafe {
            let format: Format = std::mem::transmute(format);
            format(info, text.as_mut_ptr());
        }
    }
    let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
    let text = String::from_utf8_lossy(&text[..end]).into_owned();
    // SAFETY: as above.
    let cause = cause_of(unsafe { (*info.err).msg_code });
    resume_unwind(Box::new(Complaint(cause, text)))
}

/// Message callback: treats warnings (level -1) as errors and ignores traces (the other levels).
extern "C-unwind" fn message(info: &mut jpeg_common_struct, level: c_int) {
    if level < 0 {
        complain(info);
    }
}

/// Progress callback: limits the number of scans, and thus the time that a small file can take.
extern "C-unwind" fn progress(info: &mut jpeg_common_struct) {
    let decompressor = info.client_data.cast::<jpeg_decompress_struct>();
    // SAFETY: `decode` stored the decompressor in `client_data`; its first field is `info`.
    let scans = unsafe { (*decompressor).input_scan_number };
    if scans > MAX_SCANS {
        let text = format!("more than {MAX_SCANS} scans");
        resume_unwind(Box::new(Complaint(DecodeCause::TooLarge, text)));
    }
}

/// The decompressor of one image. Its parts have fixed addresses, as they point to each other.
struct Decompressor {
    info: Box<jpeg_decompress_struct>,
    error: Box<jpeg_error_mgr>,
    progress: Box<jpeg_progress_mgr>,
}

impl Decompressor {
    fn new() -> Self {
        // SAFETY: plain C structs, in which zeros mean "not set" to libjpeg.
        unsafe {
            Self {
                info: Box::new(std::mem::zeroed()),
                error: Box::new(std::mem::zeroed()),
                progress: Box::new(std::mem::zeroed()),
            }
        }
    }
}

impl Drop for Decompressor {
    fn drop(&mut self) {
        // SAFETY: allowed on zeros, after an error, and in every state of a decompressor.
        unsafe { jpeg_destroy_decompress(&mut self.info) }
    }
}

/// Whether libjpeg has its kernels in assembler. A build without nasm leaves them out.
pub(super) fn is_vectorized() -> bool {
    unsafe extern "C" {
        fn jsimd_can_idct_islow() -> c_int;
    }
    // SAFETY: the function takes no arguments and only looks at the processor.
    unsafe { jsimd_can_idct_islow() != 0 }
}

/// A decoder with its buffer.
#[derive(Debug, Default)]
pub(super) struct JpegDecoder {
    strip: Vec<u8>,
}

impl JpegDecoder {
    pub fn decode(
        &mut self,
        bytes: &[u8],
        params: &DecodeParams,
        format: PixelFormat,
        pixels: &mut Pixels,
    ) -> Result<(), DecodeError> {
        let mut decompressor = Decompressor::new();
        let wanted = Wanted { params, format };
        let decoding = || decode(&mut decompressor, &mut self.strip, bytes, &wanted, pixels);
        // Unwind safe: a strip that is left half written is cleared before it is read again.
        catch_unwind(AssertUnwindSafe(decoding)).unwrap_or_else(|panic| {
            match panic.downcast::<Complaint>() {
                Ok(complaint) => Err((complaint.0, complaint.1.into())),
                Err(panic) => resume_unwind(panic),
            }
        })
    }
}

fn decode(
    decompressor: &mut Decompressor,
    strip: &mut Vec<u8>,
    bytes: &[u8],
    wanted: &Wanted<'_>,
    pixels: &mut Pixels,
) -> Result<(), DecodeError> {
    let Decompressor { info, error, progress: monitor } = decompressor;
    let info = &mut **info;
    // SAFETY: `error`, `monitor` and `bytes` outlive all calls except the destructor's, which reads none of them.
    unsafe {
        jpeg_std_error(error);
        error.error_exit = Some(complain);
        error.emit_message = Some(message);
        info.common.err = &raw mut **error;
        jpeg_create_decompress(info);
        monitor.progress_monitor = Some(progress);
        info.common.progress = &raw mut **monitor;
        info.common.client_data = (&raw mut *info).cast();
        jpeg_mem_src(info, bytes.as_ptr(), bytes.len() as c_ulong);
        jpeg_read_header(info, 1);
    }
    let (width, height) = (info.image_width as usize, info.image_height as usize);
    let Wanted { params, format } = *wanted;
    let (channels, read) = match (info.num_components, format, params.gray_mode()) {
        (1, ..) => (1, Format::Gray),
        (4, ..) => (4, Format::Cmyk),
        (_, PixelFormat::Gray, GrayMode::Luma) => (3, Format::Gray),
        (_, PixelFormat::Rgb, _) => (3, Format::Rgb),
        _ => (3, Format::Bgr),
    };
    let row_len = width * read.channels();
    let strip_rows = (STRIP / row_len.max(1)).clamp(1, height.max(1));
    let strip_len = if read.is(format) { 0 } else { row_len * strip_rows };
    let needed = width as u64 * height as u64 * format.channels() as u64 + strip_len as u64;
    let left = check_limits(params, width, height, needed)?;
    info.out_color_space = read.space();
    // SAFETY: the decompressor has read a header. The limit bounds the coefficients, which libjpeg keeps if a file
    // has several scans.
    unsafe {
        // 0 would mean no limit.
        let left = c_long::try_from(left).unwrap_or(c_long::MAX).max(1);
        (*info.common.mem).max_memory_to_use = left;
        jpeg_start_decompress(info);
    }
    let output = (info.output_width as usize, info.output_height as usize, info.output_components);
    if output != (width, height, read.channels() as c_int) {
        return Err((DecodeCause::Unsupported, format!("libjpeg gives {output:?}").into()));
    }
    let out = pixels
        .refill((width, height), format, channels)
        .map_err(|e| no_memory(needed as usize, &e))?;
    if read.is(format) {
        read_rows(info, out)?;
    } else {
        strip.clear();
        strip.resize(strip_len, 0);
        for out in out.chunks_mut(width * strip_rows * format.channels()) {
            let strip = &mut strip[..out.len() / format.channels() * read.channels()];
            read_rows(info, strip)?;
            convert(strip, read, out, wanted);
        }
    }
    // SAFETY: all rows are read. This reads on to the end of the file, so that errors there are found too.
    unsafe { jpeg_finish_decompress(info) };
    Ok(())
}

/// Reads the next rows, of `output_width * output_components` bytes each.
fn read_rows(info: &mut jpeg_decompress_struct, mut rows: &mut [u8]) -> Result<(), DecodeError> {
    let row_len = info.output_width as usize * info.output_components as usize;
    // libjpeg returns at most one upsampled group of rows at a time: up to four rows.
    let mut pointers = [std::ptr::null_mut(); 4];
    while rows.len() >= row_len {
        let mut asked = 0;
        for (pointer, row) in pointers.iter_mut().zip(rows.chunks_exact_mut(row_len)) {
            *pointer = row.as_mut_ptr();
            asked += 1;
        }
        // SAFETY: there are `asked` pointers, each to a whole row that may be written.
        let read = unsafe { jpeg_read_scanlines(info, pointers.as_mut_ptr(), asked) };
        if read == 0 {
            // A source in memory never suspends.
            return Err((DecodeCause::Corrupt, "libjpeg gave no row".into()));
        }
        rows = &mut rows[read as usize * row_len..];
    }
    Ok(())
}

/// The pixels that the caller asks for.
struct Wanted<'a> {
    params: &'a DecodeParams,
    format: PixelFormat,
}

/// Converts libjpeg's pixels to the caller's.
fn convert(strip: &mut [u8], read: Format, out: &mut [u8], wanted: &Wanted<'_>) {
    let triples = out.as_chunks_mut::<3>().0.iter_mut();
    match (read, wanted.format, wanted.params.gray_mode()) {
        (Format::Cmyk, PixelFormat::Gray, GrayMode::Luma) => cmyk_to_luma(strip, out),
        (Format::Cmyk, PixelFormat::Gray, GrayMode::Bgr2Gray) => {
            cmyk_to_rgb(strip);
            ColorOrder::Rgba.to_gray(strip, out);
        }
        (Format::Cmyk, format, _) => {
            cmyk_to_rgb(strip);
            for (&[r, g, b, _], out) in strip.as_chunks::<4>().0.iter().zip(triples) {
                *out = if format == PixelFormat::Rgb { [r, g, b] } else { [b, g, r] };
            }
        }
        (Format::Gray, ..) => strip.iter().zip(triples).for_each(|(&v, out)| *out = [v; 3]),
        (Format::Bgr | Format::Rgb, ..) => ColorOrder::Bgr.to_gray(strip, out),
    }
}

/// The format of pixels that libjpeg is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Gray,
    Bgr,
    Rgb,
    /// CMYK, also for YCCK files. The inks are inverted, as in the file.
    Cmyk,
}

impl Format {
    fn channels(self) -> usize {
        match self {
            Self::Gray => 1,
            Self::Bgr | Self::Rgb => 3,
            Self::Cmyk => 4,
        }
    }

    /// Whether the caller asks for this format, so that no conversion is needed.
    fn is(self, format: PixelFormat) -> bool {
        match format {
            PixelFormat::Gray => self == Self::Gray,
            PixelFormat::Rgb => self == Self::Rgb,
            PixelFormat::Bgr => self == Self::Bgr,
        }
    }

    fn space(self) -> Space {
        match self {
            Self::Gray => Space::JCS_GRAYSCALE,
            Self::Bgr => Space::JCS_EXT_BGR,
            Self::Rgb => Space::JCS_EXT_RGB,
            Self::Cmyk => Space::JCS_CMYK,
        }
    }
}

/// Turns inverted CMYK into red, green, blue and an unused byte.
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

/// Turns inverted CMYK into grey as `IMREAD_GRAYSCALE` does.
///
/// # Source
/// `icvCvt_CMYK2Gray_8u_C4C1R` in the same file. Its weights have 14 bits; those of `cv::cvtColor` have 15.
fn cmyk_to_luma(pixels: &mut [u8], out: &mut [u8]) {
    cmyk_to_rgb(pixels);
    for (pixel, out) in pixels.chunks_exact(4).zip(out) {
        let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
        *out = ((b * 1868 + g * 9617 + r * 4899 + 8192) >> 14) as u8;
    }
}

fn cause_of(code: c_int) -> DecodeCause {
    match code {
        ffi::JERR_NO_BACKING_STORE
        | ffi::JERR_OUT_OF_MEMORY
        | ffi::JERR_IMAGE_TOO_BIG
        | ffi::JERR_WIDTH_OVERFLOW => DecodeCause::TooLarge,
        ffi::JERR_SOF_UNSUPPORTED
        | ffi::JERR_BAD_PRECISION
        | ffi::JERR_CCIR601_NOTIMPL
        | ffi::JERR_CONVERSION_NOTIMPL
        | ffi::JERR_FRACT_SAMPLE_NOTIMPL
        | ffi::JERR_NOTIMPL
        | ffi::JERR_NOT_COMPILED => DecodeCause::Unsupported,
        _ => DecodeCause::Corrupt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_apart() {
        assert_eq!(cause_of(ffi::JERR_OUT_OF_MEMORY), DecodeCause::TooLarge);
        assert_eq!(cause_of(ffi::JERR_NO_BACKING_STORE), DecodeCause::TooLarge);
        assert_eq!(cause_of(ffi::JERR_SOF_UNSUPPORTED), DecodeCause::Unsupported);
        assert_eq!(cause_of(ffi::JERR_NO_SOI), DecodeCause::Corrupt);
    }

    #[test]
    fn an_error_has_the_librarys_words() {
        let decoded = JpegDecoder::default().decode(
            &[0xff, 0xd8, 0xff, 0xd9],
            &DecodeParams::default(),
            PixelFormat::Gray,
            &mut Pixels::default(),
        );
        let (cause, why) = decoded.unwrap_err();
        assert_eq!(cause, DecodeCause::Corrupt);
        assert_eq!(why.to_string(), "JPEG datastream contains no image");
    }
}
