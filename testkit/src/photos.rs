//! Sample photos drawn in code: six kinds of fruit on white, so that no data set is needed.

use std::fs;
use std::io;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};

/// Kind, colour, and size in pixels and contrast of the speckles.
const KINDS: [(&str, [f32; 3], f32, f32); 6] = [
    ("apple", [190.0, 40.0, 45.0], 5.0, 60.0),
    ("kiwi", [120.0, 150.0, 60.0], 3.0, 110.0),
    ("lemon", [235.0, 205.0, 50.0], 4.0, 70.0),
    ("mango", [225.0, 140.0, 50.0], 7.0, 80.0),
    ("melon", [110.0, 160.0, 90.0], 9.0, 120.0),
    ("plum", [90.0, 40.0, 110.0], 6.0, 75.0),
];

/// Writes `per_kind` JPEGs of 100 x 100 pixels for each kind, as `folder/kind/007.jpg`.
pub fn write_photos(folder: &Path, per_kind: u32) -> io::Result<u32> {
    let mut written = 0;
    for (kind, &(name, ..)) in KINDS.iter().enumerate() {
        let folder = folder.join(name);
        fs::create_dir_all(&folder)?;
        for i in 0..per_kind {
            let jpeg = photo(kind, i).map_err(io::Error::other)?;
            fs::write(folder.join(format!("{i:03}.jpg")), jpeg)?;
            written += 1;
        }
    }
    Ok(written)
}

/// Draws the `i`-th photo of a kind and encodes it as JPEG.
pub fn photo(kind: usize, i: u32) -> image::ImageResult<Vec<u8>> {
    let (_, colour, grain, contrast) = KINDS[kind % KINDS.len()];
    let seed = kind as u32 * 1000 + i;
    let turn = i as f32 * 0.15;
    let (radius_x, radius_y) = (40.0 - unit(seed, 1) * 6.0, 34.0 + unit(seed, 2) * 6.0);
    let image = RgbImage::from_fn(100, 100, |px, py| {
        let (x, y) = (px as f32 - 49.5, py as f32 - 49.5);
        // Coordinates in the fruit's rotated frame.
        let (u, v) = (x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin());
        let depth = 1.0 - (u / radius_x).powi(2) - (v / radius_y).powi(2);
        if depth <= 0.0 {
            return Rgb([255; 3]);
        }
        let light = 0.45 + 0.55 * depth.sqrt() * (1.0 - (x + y) / 220.0);
        let speckle = (noise(u / grain, v / grain, seed) - 0.5) * contrast
            + (noise(u / 2.0, v / 2.0, seed + 7) - 0.5) * contrast * 0.6;
        let stem = if (u - 3.0).abs() < 2.5 && v < -radius_y * 0.5 { 0.35 } else { 1.0 };
        Rgb(colour.map(|c| ((c + speckle) * light * stem).clamp(0.0, 250.0) as u8))
    });
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 90).encode_image(&image)?;
    Ok(jpeg)
}

/// Smooth noise in 0..1: random values on a grid, interpolated.
fn noise(x: f32, y: f32, seed: u32) -> f32 {
    let (x0, y0) = (x.floor(), y.floor());
    let at = |dx: f32, dy: f32| {
        let (i, j) = ((x0 + dx) as i32 as u32, (y0 + dy) as i32 as u32);
        unit(i.wrapping_mul(0x9E37_79B1) ^ j.wrapping_mul(0x85EB_CA77), seed)
    };
    let ease = |t: f32| t * t * (3.0 - 2.0 * t);
    let (fx, fy) = (ease(x - x0), ease(y - y0));
    let top = at(0.0, 0.0) * (1.0 - fx) + at(1.0, 0.0) * fx;
    let bottom = at(0.0, 1.0) * (1.0 - fx) + at(1.0, 1.0) * fx;
    top * (1.0 - fy) + bottom * fy
}

/// A hash as a number in 0..1.
fn unit(a: u32, b: u32) -> f32 {
    let mut h = a ^ b.wrapping_mul(0xC2B2_AE3D);
    for m in [0x2C1B_3C6D_u32, 0x297A_2D39] {
        h = (h ^ (h >> 15)).wrapping_mul(m);
    }
    (h >> 8) as f32 / (1 << 24) as f32
}
