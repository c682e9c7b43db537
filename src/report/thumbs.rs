//! Small pictures of photos, with their keypoints.

use std::collections::HashMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, resize};
use image::{ExtendedColorType, RgbImage};

use super::content::Thumb;
use crate::decode::{DecodeParams, Decoder};
use crate::features::KeyPoint;
use crate::pixels::{PixelFormat, PixelSpec};
use crate::source::ImageObject;

/// Longest side of a picture in pixels.
const SIDE: u32 = 160;
/// Quality of its JPEG.
const QUALITY: u8 = 80;
/// Most keypoints of a picture: those with the greatest response.
const KEYPOINTS: usize = 60;

/// What is measured of a photo.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measures {
    /// Mean grey value, 0 to 255.
    pub brightness: f64,
    /// Variance of the Laplacian of the grey values.
    pub sharpness: f64,
}

/// Reads photos again, for pictures and measures.
pub(super) struct Reader<'a> {
    read: &'a mut dyn FnMut(&str) -> Option<Vec<u8>>,
    decoder: Decoder,
    /// Pictures that were made: many photos are shown twice.
    made: HashMap<String, Option<(String, u32, u32, f32)>>,
}

impl<'a> Reader<'a> {
    pub fn new(read: &'a mut dyn FnMut(&str) -> Option<Vec<u8>>, decode: DecodeParams) -> Self {
        Self { read, decoder: Decoder::new(decode), made: HashMap::new() }
    }

    /// The bytes of a photo.
    pub fn bytes(&mut self, path: &str) -> Option<Vec<u8>> {
        (self.read)(path)
    }

    /// Measures a photo; `None` if it cannot be read.
    pub fn measure(&mut self, path: &str) -> Option<Measures> {
        let object = ImageObject::new(path, self.bytes(path)?);
        let gray = self.decoder.decode(&object).ok()?;
        let (width, height, pixels) = (gray.width(), gray.height(), gray.as_raw());
        let sum: f64 = pixels.iter().map(|&v| f64::from(v)).sum();
        let brightness = sum / pixels.len().max(1) as f64;
        let (mut n, mut total, mut squares) = (0_u64, 0_i64, 0_i64);
        for y in 1..height.saturating_sub(1) {
            for x in 1..width.saturating_sub(1) {
                let at = |x: usize, y: usize| i64::from(pixels[y * width + x]);
                let around = at(x - 1, y) + at(x + 1, y) + at(x, y - 1) + at(x, y + 1);
                let value = around - 4 * at(x, y);
                (n, total, squares) = (n + 1, total + value, squares + value * value);
            }
        }
        let mean = total as f64 / n.max(1) as f64;
        let sharpness = squares as f64 / n.max(1) as f64 - mean * mean;
        Some(Measures { brightness, sharpness })
    }

    /// A picture of a photo with its keypoints.
    pub fn thumb(&mut self, path: &str, label: Option<&str>, keypoints: &[KeyPoint]) -> Thumb {
        let made = if let Some(made) = self.made.get(path) {
            made.clone()
        } else {
            let made = self.picture(path);
            self.made.insert(path.to_owned(), made.clone());
            made
        };
        let svg = made.map(|(data, width, height, scale)| {
            let mut svg = format!(
                "<svg viewBox=\"0 0 {width} {height}\" role=\"img\"><title>photo with {} keypoints</title>\
                 <image width=\"{width}\" height=\"{height}\" href=\"data:image/jpeg;base64,{data}\"/>",
                keypoints.len()
            );
            let mut strongest: Vec<&KeyPoint> = keypoints.iter().collect();
            strongest.sort_by(|one, other| other.response.total_cmp(&one.response));
            for k in strongest.into_iter().take(KEYPOINTS) {
                let (x, y, radius) = (scale * (k.x + 0.5), scale * (k.y + 0.5), scale * k.size / 2.0);
                let (sin, cos) = k.angle.to_radians().sin_cos();
                let class = k.octave.rem_euclid(8);
                let _ = write!(
                    svg,
                    "<path class=\"k{class}\" d=\"M{:.1} {y:.1}a{radius:.1} {radius:.1} 0 1 0 {:.1} 0a{radius:.1} {radius:.1} 0 1 0 {:.1} 0M{x:.1} {y:.1}l{:.1} {:.1}\"/>",
                    x - radius,
                    2.0 * radius,
                    -2.0 * radius,
                    radius * cos,
                    radius * sin
                );
            }
            svg.push_str("</svg>");
            svg
        });
        Thumb {
            path: path.to_owned(),
            label: label.map(str::to_owned),
            keypoints: keypoints.len(),
            svg: svg.unwrap_or_default(),
        }
    }

    /// A small JPEG in base64, its width and height, and its scale.
    fn picture(&mut self, path: &str) -> Option<(String, u32, u32, f32)> {
        let object = ImageObject::new(path, self.bytes(path)?);
        let decoded = self.decoder.decode_object(&object, PixelSpec::new(PixelFormat::Rgb)).ok()?;
        let (width, height) = (decoded.meta.width, decoded.meta.height);
        let rgb = RgbImage::from_raw(width, height, decoded.pixels.as_bytes().to_vec())?;
        let longer = width.max(height);
        let small = if longer > SIDE {
            let of =
                |side: u32| ((u64::from(side) * u64::from(SIDE)) / u64::from(longer)).max(1) as u32;
            resize(&rgb, of(width), of(height), FilterType::Triangle)
        } else {
            rgb
        };
        let scale = small.width().max(small.height()) as f32 / longer.max(1) as f32;
        let mut jpeg = Vec::new();
        let mut encoder = JpegEncoder::new_with_quality(&mut jpeg, QUALITY);
        encoder.encode(&small, small.width(), small.height(), ExtendedColorType::Rgb8).ok()?;
        Some((BASE64_STANDARD.encode(jpeg), small.width(), small.height(), scale))
    }
}
