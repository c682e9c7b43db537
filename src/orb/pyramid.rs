//! The image pyramid: sizes and scales of the levels, exact bilinear resize, reflected frames.

use super::{KeyPoint, OrbParams};
use crate::decode::GrayView;
use crate::error::{Error, Result};

/// The most pixels that one level may have, its frame included: 2^30.
pub const MAX_LEVEL_PIXELS: u64 = 1 << 30;

/// Size and scale of one level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Geometry {
    pub width: usize,
    pub height: usize,
    /// Pixels of the input image per pixel of the level.
    pub scale: f32,
    inverse_scale: f32,
}

impl Geometry {
    /// A level's size for an image; a level without a pixel is an error.
    pub fn new(params: &OrbParams, image: GrayView<'_>, level: usize) -> Result<Self> {
        let scale = scale_of(params, level);
        let inverse_scale = 1.0 / scale;
        let side = |n: usize| (n as f32 * inverse_scale).round_ties_even() as usize;
        let (width, height) = (side(image.width()), side(image.height()));
        if width == 0 || height == 0 {
            let (width, height) = (image.width() as u32, image.height() as u32);
            return Err(Error::EmptyLevel { width, height, level: level as u32 });
        }
        Ok(Self { width, height, scale, inverse_scale })
    }

    /// The pixel of the level that a keypoint lies on.
    pub fn position(&self, keypoint: &KeyPoint) -> (isize, isize) {
        let at = |v: f32| (v * self.inverse_scale).round_ties_even() as isize;
        (at(keypoint.x), at(keypoint.y))
    }
}

fn scale_of(params: &OrbParams, level: usize) -> f32 {
    let exponent = level as f64 - f64::from(params.first_level());
    // OpenCV takes the factor as a float and keeps it as a double.
    f64::from(params.scale_factor()).powf(exponent) as f32
}

/// Where each destination coordinate of one axis reads: the left (or upper) of two neighbours and
/// the weight of the other, 0 to 256.
#[derive(Clone, Debug, Default)]
struct Axis {
    source: usize,
    taps: Vec<(u32, u16)>,
}

impl Axis {
    /// Fills the table for `source` pixels stretched over `target`, unless it holds just that.
    ///
    /// # Source
    /// `INTER_LINEAR_EXACT` in OpenCV's `resize.cpp`; its soft doubles are IEEE doubles.
    fn prepare(&mut self, source: usize, target: usize) {
        if self.source == source && self.taps.len() == target {
            return;
        }
        self.source = source;
        self.taps.clear();
        let scale = 1.0 / (target as f64 / source as f64);
        self.taps.extend((0..target).map(|d| {
            let v = scale * (d as f64 + 0.5) - 0.5;
            let left = v.floor();
            if left < 0.0 || source == 1 {
                (0, 0)
            } else if left as usize >= source - 1 {
                (source as u32 - 1, 0)
            } else {
                (left as u32, ((v - left) * 256.0).round_ties_even() as u16)
            }
        }));
    }
}

/// Resizes one level; keeps its tables and rows from one image to the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Resizer {
    columns: Axis,
    rows: Axis,
    /// Two source rows, resized along x: pixel values times 256.
    upper: Vec<u16>,
    lower: Vec<u16>,
}

impl Resizer {
    /// Resizes `source` into `target`, which has at least one pixel.
    pub fn resize(&mut self, source: GrayView<'_>, target: &mut Plane) {
        let (width, height) = (target.width, target.height);
        if (source.width(), source.height()) == (width, height) {
            for y in 0..height {
                target.row_mut(y).copy_from_slice(source.row(y));
            }
            return;
        }
        self.columns.prepare(source.width(), width);
        self.rows.prepare(source.height(), height);
        self.upper.resize(width, 0);
        self.lower.resize(width, 0);
        let last = source.height() - 1;
        // Which source rows `upper` and `lower` hold.
        let (mut in_upper, mut in_lower) = (usize::MAX, usize::MAX);
        for y in 0..height {
            let (top, weight) = self.rows.taps[y];
            let top = top as usize;
            let bottom = (top + 1).min(last);
            if in_upper != top {
                if in_lower == top {
                    std::mem::swap(&mut self.upper, &mut self.lower);
                    (in_upper, in_lower) = (in_lower, in_upper);
                } else {
                    resize_row(source.row(top), &self.columns.taps, &mut self.upper);
                    in_upper = top;
                }
            }
            if weight != 0 && in_lower != bottom {
                resize_row(source.row(bottom), &self.columns.taps, &mut self.lower);
                in_lower = bottom;
            }
            let weight = u32::from(weight);
            for ((&a, &b), out) in self.upper.iter().zip(&self.lower).zip(target.row_mut(y)) {
                *out =
                    ((u32::from(a) * (256 - weight) + u32::from(b) * weight + 32768) >> 16) as u8;
            }
        }
    }
}

fn resize_row(source: &[u8], taps: &[(u32, u16)], out: &mut [u16]) {
    let last = source.len() - 1;
    for (&(left, weight), out) in taps.iter().zip(out) {
        let left = left as usize;
        let (a, b) = (u32::from(source[left]), u32::from(source[(left + 1).min(last)]));
        *out = (a * (256 - u32::from(weight)) + b * u32::from(weight)) as u16;
    }
}

/// The level in work and the one before it; the tables that made each level are kept for the next
/// image.
#[derive(Clone, Debug, Default)]
pub(super) struct Pyramid {
    planes: [Plane; 2],
    resizers: Vec<Resizer>,
}

impl Pyramid {
    /// Makes a level and its frame: `first_level` is the image, the ones below it and the next are
    /// resized from the image, and each later one from the level before, which must have been made
    /// last.
    pub fn make(
        &mut self,
        image: GrayView<'_>,
        geometry: Geometry,
        level: usize,
        first_level: usize,
        frame: usize,
    ) -> Result<&mut Plane> {
        let side = |n: usize| n.saturating_add(2 * frame) as u64;
        let pixels = side(geometry.width).checked_mul(side(geometry.height));
        if pixels.is_none_or(|n| n > MAX_LEVEL_PIXELS) {
            let (width, height) = (image.width() as u32, image.height() as u32);
            return Err(Error::HugeLevel { width, height, level: level as u32 });
        }
        if self.resizers.len() <= level {
            self.resizers.resize_with(level + 1, Default::default);
        }
        let [even, odd] = &mut self.planes;
        let (plane, previous) = if level.is_multiple_of(2) { (even, odd) } else { (odd, even) };
        plane.reshape(geometry.width, geometry.height, frame);
        let source = if level > first_level + 1 { previous.view() } else { image };
        self.resizers[level].resize(source, plane);
        plane.reflect_frame();
        Ok(plane)
    }
}

/// A grey buffer with a frame of `frame` pixels on each side, reused between images.
#[derive(Clone, Debug, Default)]
pub(super) struct Plane {
    pixels: Vec<u8>,
    pub width: usize,
    pub height: usize,
    frame: usize,
}

impl Plane {
    /// Gives it a size; the pixels are what they were.
    pub fn reshape(&mut self, width: usize, height: usize, frame: usize) {
        (self.width, self.height, self.frame) = (width, height, frame);
        let len = (width + 2 * frame) * (height + 2 * frame);
        if self.pixels.len() < len {
            self.pixels.resize(len, 0);
        }
    }

    fn stride(&self) -> usize {
        self.width + 2 * self.frame
    }

    /// The `y`-th row without the frame.
    pub fn row_mut(&mut self, y: usize) -> &mut [u8] {
        let start = (y + self.frame) * self.stride() + self.frame;
        &mut self.pixels[start..start + self.width]
    }

    /// Writes the frame: the level mirrored at its outermost pixels (`BORDER_REFLECT_101`).
    pub fn reflect_frame(&mut self) {
        let (frame, stride) = (self.frame, self.stride());
        if frame == 0 {
            return;
        }
        for y in 0..self.height {
            let row = &mut self.pixels[(y + frame) * stride..][..stride];
            for i in 0..frame {
                row[i] = row[frame + reflect(i as isize - frame as isize, self.width)];
                row[frame + self.width + i] =
                    row[frame + reflect((self.width + i) as isize, self.width)];
            }
        }
        for i in 0..frame {
            let above = frame + reflect(i as isize - frame as isize, self.height);
            let below = frame + reflect((self.height + i) as isize, self.height);
            self.pixels.copy_within(above * stride..(above + 1) * stride, i * stride);
            self.pixels.copy_within(
                below * stride..(below + 1) * stride,
                (frame + self.height + i) * stride,
            );
        }
    }

    /// Itself, frame and all.
    pub fn framed(&self) -> Framed<'_> {
        Framed {
            pixels: &self.pixels,
            stride: self.stride(),
            origin: self.frame * self.stride() + self.frame,
            width: self.width,
            height: self.height,
        }
    }

    /// Itself without the frame.
    pub fn view(&self) -> GrayView<'_> {
        self.framed().unframed()
    }

    /// Becomes a copy of an image, without a frame.
    pub fn copy_from(&mut self, image: GrayView<'_>) {
        self.reshape(image.width(), image.height(), 0);
        for y in 0..self.height {
            self.row_mut(y).copy_from_slice(image.row(y));
        }
    }

    /// Copies the frame of a plane of the same shape; the pixels within stay what they were.
    pub fn copy_frame(&mut self, other: Framed<'_>) {
        let (frame, stride) = (self.frame, self.stride());
        debug_assert_eq!(
            (other.stride, other.width, other.height),
            (stride, self.width, self.height)
        );
        let rows = self.height + 2 * frame;
        for (y, (to, from)) in (0..rows)
            .zip(self.pixels.chunks_exact_mut(stride).zip(other.pixels.chunks_exact(stride)))
        {
            if y < frame || y >= rows - frame {
                to.copy_from_slice(from);
            } else {
                to[..frame].copy_from_slice(&from[..frame]);
                to[stride - frame..].copy_from_slice(&from[stride - frame..]);
            }
        }
    }

    /// Replaces each pixel, frame aside.
    pub fn map(&mut self, replace: impl Fn(u8) -> u8) {
        for y in 0..self.height {
            for pixel in self.row_mut(y) {
                *pixel = replace(*pixel);
            }
        }
    }
}

/// The index that `i` has after mirroring at the ends of 0..n, as often as it takes.
pub(super) fn reflect(i: isize, n: usize) -> usize {
    if n == 1 {
        return 0;
    }
    let period = 2 * (n as isize - 1);
    let k = i.rem_euclid(period);
    k.min(period - k) as usize
}

/// A level to read from by signed coordinates, its frame included.
#[derive(Clone, Copy)]
pub(super) struct Framed<'a> {
    pixels: &'a [u8],
    stride: usize,
    origin: usize,
    pub width: usize,
    pub height: usize,
}

impl<'a> From<GrayView<'a>> for Framed<'a> {
    /// A level without a frame.
    fn from(view: GrayView<'a>) -> Self {
        let (pixels, stride) = view.as_strided();
        Self { pixels, stride, origin: 0, width: view.width(), height: view.height() }
    }
}

impl<'a> Framed<'a> {
    /// Where the pixel (x, y) lies in [`Framed::pixels`].
    #[inline]
    pub fn index(&self, x: isize, y: isize) -> usize {
        (self.origin as isize + y * self.stride as isize + x) as usize
    }

    /// The whole buffer.
    #[inline]
    pub fn pixels(&self) -> &'a [u8] {
        self.pixels
    }

    /// Bytes from one row to the next.
    #[inline]
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The level without its frame.
    pub fn unframed(&self) -> GrayView<'a> {
        GrayView::with_stride(&self.pixels[self.origin..], self.width, self.height, self.stride)
            .expect("a framed level's buffer is long enough for its size")
    }

    /// `len` pixels from (x, y) on, along the row.
    #[inline]
    pub fn run(&self, x: isize, y: isize, len: usize) -> &'a [u8] {
        &self.pixels[self.index(x, y)..][..len]
    }
}
