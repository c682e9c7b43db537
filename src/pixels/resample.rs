//! Resizing as others do it, to the same bits: Pillow's filters and TensorFlow's.

use serde::{Deserialize, Serialize};

use super::PixelView;
use crate::choice::choice;

/// How an image is brought to another size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Resize {
    /// Pillow's `Image.resize(size)` of a colour or grey image, whose default is bicubic: the same bytes.
    #[default]
    Bicubic,
    /// Pillow's `Image.resize(size, BILINEAR)`: the same bytes.
    Bilinear,
    /// `tf.image.resize(image, size)`: bilinear without antialiasing, in float32; the results are not rounded to bytes.
    TensorFlow,
    /// The nearest pixel: Pillow's `NEAREST`, which `load_img(target_size=..)` of Keras uses.
    Nearest,
}

choice!(
    Resize,
    "resize",
    Bicubic = "bicubic",
    Bilinear = "bilinear",
    TensorFlow = "tensorflow",
    Nearest = "nearest",
);

/// Bits after the point of Pillow's weights.
const PRECISION: u32 = 22;

/// The pixels of one axis that make up each new one.
#[derive(Clone, Debug, Default)]
struct Weights {
    /// For each new pixel, the first old one and the number of them.
    spans: Vec<(usize, usize)>,
    /// `stride` weights for each new pixel, of which the first are used.
    all: Vec<i32>,
    stride: usize,
}

/// Working memory of [`resize`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Resampler {
    /// What `columns` and `rows` were made for: old and new sizes, and the filter.
    made_for: Option<([usize; 4], Resize)>,
    columns: Weights,
    rows: Weights,
    /// The image after the first pass.
    between: Vec<u8>,
    bytes: Vec<u8>,
    sums: Vec<i32>,
}

impl Resampler {
    /// Replaces `out` by the image resized to `width` x `height`: rows of pixels, channels interleaved, from 0 to 255.
    pub fn resize(
        &mut self,
        image: PixelView<'_>,
        (width, height): (usize, usize),
        filter: Resize,
        out: &mut Vec<f32>,
    ) {
        out.clear();
        match filter {
            Resize::TensorFlow => tensorflow(image, (width, height), out),
            Resize::Nearest => {
                let channels = image.format().channels();
                for y in 0..height {
                    let row = row_of(image, nearest(y, image.height(), height));
                    for x in 0..width {
                        let at = nearest(x, image.width(), width) * channels;
                        out.extend(row[at..at + channels].iter().map(|&v| f32::from(v)));
                    }
                }
            }
            Resize::Bicubic | Resize::Bilinear => {
                let bytes = self.pillow(image, (width, height), filter);
                out.extend(bytes.iter().map(|&v| f32::from(v)));
            }
        }
    }

    /// Pillow's two passes, each rounded to bytes; a pass that changes nothing is left out.
    ///
    /// # Source
    /// Pillow, `src/libImaging/Resample.c`: `precompute_coeffs`, `ImagingResampleHorizontal_8bpc`,
    /// `ImagingResampleVertical_8bpc`.
    fn pillow<'a>(
        &'a mut self,
        image: PixelView<'a>,
        (width, height): (usize, usize),
        filter: Resize,
    ) -> &'a [u8] {
        let sizes = [image.width(), image.height(), width, height];
        if self.made_for != Some((sizes, filter)) {
            self.columns.make(image.width(), width, filter);
            self.rows.make(image.height(), height, filter);
            self.made_for = Some((sizes, filter));
        }
        let channels = image.format().channels();
        let mut source = image.as_bytes();
        if width != image.width() {
            self.between.clear();
            for row in image.as_bytes().chunks_exact(image.width() * channels) {
                match channels {
                    1 => self.columns.along_row::<1>(row, &mut self.between),
                    _ => self.columns.along_row::<3>(row, &mut self.between),
                }
            }
            source = &self.between;
        }
        if height == image.height() {
            return source;
        }
        self.rows.down(source, width * channels, &mut self.sums, &mut self.bytes);
        &self.bytes
    }
}

impl Weights {
    fn make(&mut self, old: usize, new: usize, filter: Resize) {
        let scale = old as f64 / new as f64;
        let widening = scale.max(1.0);
        let (reach, weight): (f64, fn(f64) -> f64) =
            if filter == Resize::Bicubic { (2.0, bicubic) } else { (1.0, triangle) };
        let support = reach * widening;
        self.stride = support.ceil() as usize * 2 + 1;
        self.spans.clear();
        self.all.clear();
        let mut exact = Vec::with_capacity(self.stride);
        for at in 0..new {
            let centre = (at as f64 + 0.5) * scale;
            // Both are truncated, as in C, and never below 0.
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5).max(0.0) as usize).min(old);
            exact.clear();
            exact
                .extend((first..end).map(|x| weight((x as f64 - centre + 0.5) * (1.0 / widening))));
            let sum: f64 = exact.iter().fold(0.0, |sum, w| sum + w);
            let one = f64::from(1_u32 << PRECISION);
            let whole = |w: &f64| {
                let w = if sum == 0.0 { *w } else { w / sum };
                (w * one + if w < 0.0 { -0.5 } else { 0.5 }) as i32
            };
            self.spans.push((first, end - first));
            self.all.extend(exact.iter().map(whole));
            self.all.resize(self.spans.len() * self.stride, 0);
        }
    }

    /// Span and weights of each new pixel.
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let weights = self.all.chunks_exact(self.stride);
        self.spans.iter().zip(weights).map(|(&(first, len), weights)| (first, &weights[..len]))
    }

    /// Appends a row of new pixels.
    fn along_row<const N: usize>(&self, row: &[u8], out: &mut Vec<u8>) {
        let (pixels, _) = row.as_chunks::<N>();
        for (first, weights) in self.iter() {
            let mut sums = [1 << (PRECISION - 1); N];
            for (pixel, weight) in pixels[first..].iter().zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            out.extend(sums.map(byte));
        }
    }

    /// Makes new rows of `len` bytes.
    fn down(&self, source: &[u8], len: usize, sums: &mut Vec<i32>, out: &mut Vec<u8>) {
        out.clear();
        for (first, weights) in self.iter() {
            sums.clear();
            sums.resize(len, 1 << (PRECISION - 1));
            for (row, &weight) in source.chunks_exact(len).skip(first).zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += i32::from(value) * weight;
                }
            }
            out.extend(sums.iter().map(|&sum| byte(sum)));
        }
    }
}

fn byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

#[allow(clippy::neg_multiply, clippy::suboptimal_flops)] // Pillow's own operations, in its order.
fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn nearest(at: usize, old: usize, new: usize) -> usize {
    let scale = old as f64 / new as f64;
    (((at as f64 + 0.5) * scale) as usize).min(old - 1)
}

fn row_of(image: PixelView<'_>, y: usize) -> &[u8] {
    let len = image.width() * image.format().channels();
    &image.as_bytes()[y * len..][..len]
}

/// # Source
/// TensorFlow, `resize_bilinear_op.cc`, with half-pixel centres.
fn tensorflow(image: PixelView<'_>, (width, height): (usize, usize), out: &mut Vec<f32>) {
    let place = |at: usize, old: usize, new: usize| {
        let scale = old as f32 / new as f32;
        let at = (at as f32 + 0.5) * scale - 0.5;
        let low = at.floor();
        let high = (at.ceil().max(0.0) as usize).min(old - 1);
        (low.max(0.0) as usize, high, at - low)
    };
    let channels = image.format().channels();
    let columns: Vec<_> = (0..width).map(|x| place(x, image.width(), width)).collect();
    for y in 0..height {
        let (top, bottom, dy) = place(y, image.height(), height);
        let (top, bottom) = (row_of(image, top), row_of(image, bottom));
        for &(left, right, dx) in &columns {
            for c in 0..channels {
                let along = |row: &[u8]| {
                    let [left, right] = [left, right].map(|x| f32::from(row[x * channels + c]));
                    left + (right - left) * dx
                };
                let (top, bottom) = (along(top), along(bottom));
                out.push(top + (bottom - top) * dy);
            }
        }
    }
}
