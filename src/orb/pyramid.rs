//! The image pyramid: sizes and scales of the levels, exact bilinear resize, reflected frames.

use super::{KeyPoint, OrbParams};
use crate::arch::{Kernels, Taps};
use crate::error::{Error, Result};
use crate::pixels::GrayView;

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
    /// The geometry of a level with the given scale. A level without pixels or with more than [`MAX_LEVEL_PIXELS`] is
    /// an error.
    pub fn new(scale: f32, image: GrayView<'_>, level: usize) -> Result<Self> {
        let inverse_scale = 1.0 / scale;
        let side = |n: usize| (n as f32 * inverse_scale).round_ties_even() as usize;
        let (width, height) = (side(image.width()), side(image.height()));
        if width == 0 || height == 0 {
            let (width, height) = (image.width() as u32, image.height() as u32);
            return Err(Error::EmptyLevel { width, height, level: level as u32 });
        }
        check_pixels(width, height, image, level)?;
        Ok(Self { width, height, scale, inverse_scale })
    }

    /// The pixel of the level that a keypoint lies on.
    pub fn position(&self, keypoint: &KeyPoint) -> (isize, isize) {
        let at = |v: f32| (v * self.inverse_scale).round_ties_even() as isize;
        (at(keypoint.x), at(keypoint.y))
    }
}

/// Refuses a level of more than [`MAX_LEVEL_PIXELS`].
fn check_pixels(width: usize, height: usize, image: GrayView<'_>, level: usize) -> Result<()> {
    if (width as u64).checked_mul(height as u64).is_some_and(|n| n <= MAX_LEVEL_PIXELS) {
        return Ok(());
    }
    let (width, height) = (image.width() as u32, image.height() as u32);
    Err(Error::HugeLevel { width, height, level: level as u32 })
}

/// Pixels of the input image per pixel of a level.
pub(super) fn scale_of(params: &OrbParams, level: usize) -> f32 {
    let exponent = level as f64 - f64::from(params.first_level());
    // OpenCV takes the scale factor as a float and keeps it as a double.
    f64::from(params.scale_factor()).powf(exponent) as f32
}

/// Resizes one level; its tables and row buffers are kept from one image to the next.
#[derive(Clone, Debug, Default)]
pub(super) struct Resizer {
    columns: Taps,
    rows: Taps,
    /// Two source rows, resized along x: pixel values times 256.
    upper: Vec<u16>,
    lower: Vec<u16>,
}

impl Resizer {
    /// Resizes `source` into `target`. A margin of `unread` pixels inside each edge of `target` may be left unwritten.
    pub fn resize(
        &mut self,
        kernels: &Kernels,
        source: GrayView<'_>,
        unread: usize,
        target: &mut Plane,
    ) {
        let (width, height) = (target.width, target.height);
        if (source.width(), source.height()) == (width, height) {
            for y in 0..height {
                target.row_mut(y).copy_from_slice(source.row(y));
            }
            return;
        }
        let middle = |side: usize| unread..side - unread;
        self.columns.prepare(source.width(), width, middle(width));
        self.rows.prepare(source.height(), height, middle(height));
        self.upper.resize(self.columns.padded_len(), 0);
        self.lower.resize(self.columns.padded_len(), 0);
        let last = source.height() - 1;
        // Which source rows `upper` and `lower` hold.
        let (mut in_upper, mut in_lower) = (usize::MAX, usize::MAX);
        for (y, &(top, weight)) in self.rows.range().zip(self.rows.pairs()) {
            let top = top as usize;
            let bottom = (top + 1).min(last);
            if in_upper != top {
                if in_lower == top {
                    std::mem::swap(&mut self.upper, &mut self.lower);
                    (in_upper, in_lower) = (in_lower, in_upper);
                } else {
                    (kernels.resize_row)(source.row(top), &self.columns, &mut self.upper);
                    in_upper = top;
                }
            }
            if weight != 0 && in_lower != bottom {
                (kernels.resize_row)(source.row(bottom), &self.columns, &mut self.lower);
                in_lower = bottom;
            }
            let out = &mut target.row_mut(y)[self.columns.range()];
            (kernels.resize_mix)(&self.upper, &self.lower, weight, out);
        }
    }
}

/// Which pixels around a level's edges are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Border {
    /// Width of the frame of mirrored pixels outside each edge.
    pub frame: usize,
    /// Width of the margin inside each edge; its pixels are never read, so they may be left unwritten. The next level
    /// does not read them either: only its own unread margin would need them.
    pub unread: usize,
}

/// The current level and the one before it, and the resizer of each level, which is kept for the next image.
#[derive(Clone, Debug, Default)]
pub(super) struct Pyramid {
    planes: [Plane; 2],
    resizers: Vec<Resizer>,
}

impl Pyramid {
    /// Makes a level and its border. Level `first_level` is a copy of the image. The levels below it and the one after
    /// it are resized from the image. Each later level is resized from the level before, which must be the last one
    /// made.
    pub fn make(
        &mut self,
        kernels: &Kernels,
        image: GrayView<'_>,
        geometry: Geometry,
        level: usize,
        first_level: usize,
        Border { frame, unread }: Border,
    ) -> Result<&mut Plane> {
        let side = |n: usize| n.saturating_add(2 * frame);
        check_pixels(side(geometry.width), side(geometry.height), image, level)?;
        if self.resizers.len() <= level {
            self.resizers.resize_with(level + 1, Default::default);
        }
        let [even, odd] = &mut self.planes;
        let (plane, previous) = if level.is_multiple_of(2) { (even, odd) } else { (odd, even) };
        plane.reshape(geometry.width, geometry.height, frame)?;
        let source = if level > first_level + 1 { previous.view() } else { image };
        self.resizers[level].resize(kernels, source, unread, plane);
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
    /// Sets the size and the frame. The buffer is not cleared: its pixels are left over from earlier use.
    ///
    /// # Errors
    /// [`Error::NoMemory`]: a failed allocation would end the process, where only this image is too large.
    pub fn reshape(&mut self, width: usize, height: usize, frame: usize) -> Result<()> {
        let bytes = (width + 2 * frame) * (height + 2 * frame);
        if let Some(more) = bytes.checked_sub(self.pixels.len()) {
            self.pixels.try_reserve_exact(more).map_err(|_| Error::NoMemory { bytes })?;
            self.pixels.resize(bytes, 0);
        }
        (self.width, self.height, self.frame) = (width, height, frame);
        Ok(())
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

    /// The plane with its frame.
    pub fn framed(&self) -> Framed<'_> {
        Framed {
            pixels: &self.pixels,
            stride: self.stride(),
            origin: self.frame * self.stride() + self.frame,
            width: self.width,
            height: self.height,
        }
    }

    /// The plane without its frame.
    pub fn view(&self) -> GrayView<'_> {
        self.framed().unframed()
    }

    /// Becomes a copy of an image, without a frame.
    ///
    /// # Errors
    /// As [`reshape`](Self::reshape).
    pub fn copy_from(&mut self, image: GrayView<'_>) -> Result<()> {
        self.reshape(image.width(), image.height(), 0)?;
        for y in 0..self.height {
            self.row_mut(y).copy_from_slice(image.row(y));
        }
        Ok(())
    }

    /// Copies the frame of a plane of the same shape, and nothing within the frame.
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

    /// Replaces each pixel except for those of the frame.
    pub fn map(&mut self, replace: impl Fn(u8) -> u8) {
        for y in 0..self.height {
            for pixel in self.row_mut(y) {
                *pixel = replace(*pixel);
            }
        }
    }
}

/// The index in 0..n that `i` has after mirroring at the ends, repeatedly if needed (`BORDER_REFLECT_101`).
pub(super) fn reflect(i: isize, n: usize) -> usize {
    if (0..n as isize).contains(&i) {
        return i as usize;
    }
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
    /// Whether all pixels have indices below 2^31, which may be false for a window of a large image.
    pub fn is_compact(&self) -> bool {
        self.stride.checked_mul(self.height).is_some_and(|n| i32::try_from(n).is_ok())
    }

    /// The index of the pixel (x, y) in [`Framed::pixels`].
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

    /// Calls `work` with the pixels from (x, y) on and their stride. `work` may read `RUN` pixels of each of `rows`
    /// rows. Where these would go beyond the buffer's ends, `work` gets a copy that is padded with zeros.
    #[inline]
    pub fn with_block<const ROWS: usize, const RUN: usize, T>(
        &self,
        x: isize,
        y: isize,
        rows: usize,
        work: impl FnOnce(&[u8], usize) -> T,
    ) -> T {
        let (start, stride) = (self.index(x, y) as isize, self.stride as isize);
        let end = start + (rows as isize - 1) * stride + RUN as isize;
        if start >= 0 && end <= self.pixels.len() as isize {
            return work(&self.pixels[start as usize..end as usize], self.stride);
        }
        let mut block = [[0; RUN]; ROWS];
        for (row, start) in block.iter_mut().take(rows).zip((start..).step_by(self.stride)) {
            for (pixel, at) in row.iter_mut().zip(start..) {
                *pixel = usize::try_from(at)
                    .ok()
                    .and_then(|at| self.pixels.get(at))
                    .copied()
                    .unwrap_or(0);
            }
        }
        work(block.as_flattened(), RUN)
    }

    /// `len` pixels from (x, y) on, along the row.
    #[inline]
    pub fn run(&self, x: isize, y: isize, len: usize) -> &'a [u8] {
        &self.pixels[self.index(x, y)..][..len]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_level_that_no_memory_holds_is_an_error() {
        let mut plane = Plane::default();
        plane.reshape(3, 2, 1).unwrap();
        let error = plane.reshape(1 << 31, 1 << 31, 0).unwrap_err();
        assert!(matches!(error, Error::NoMemory { bytes } if bytes == 1 << 62));
        assert_eq!((error.code(), error.stage()), ("no_memory", crate::Stage::Orb));
        // What was there is still whole.
        assert_eq!((plane.width, plane.height, plane.pixels.len()), (3, 2, 20));
    }

    proptest! {
        /// `BORDER_REFLECT_101`: mirrored at the outermost pixels, which are not repeated.
        #[test]
        fn mirroring_walks_to_and_fro(n in 1_usize..50, i in -500_isize..500) {
            let (mut at, mut step) = (0_isize, 1_isize);
            for _ in 0..i.abs() {
                if n > 1 {
                    if !(0..n as isize).contains(&(at + step)) {
                        step = -step;
                    }
                    at += step;
                }
            }
            // Mirroring is symmetric about pixel 0, so only the distance |i| is walked.
            prop_assert_eq!(reflect(i, n), at as usize);
        }

        #[test]
        fn a_frame_is_the_mirrored_level(
            (width, height) in (1_usize..9, 1_usize..9),
            frame in 0_usize..12,
            pixels in prop::collection::vec(any::<u8>(), 64),
        ) {
            let mut plane = Plane::default();
            plane.reshape(width, height, frame).unwrap();
            for y in 0..height {
                plane.row_mut(y).copy_from_slice(&pixels[y * width..][..width]);
            }
            plane.reflect_frame();
            let (all, f) = (plane.framed(), frame as isize);
            for y in -f..height as isize + f {
                for x in -f..width as isize + f {
                    let want = pixels[reflect(y, height) * width + reflect(x, width)];
                    prop_assert_eq!(all.pixels()[all.index(x, y)], want);
                }
            }
        }
    }
}
