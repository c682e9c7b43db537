//! The two passes of the 7 x 7 Gaussian blur with sigma 2, in float32.
//!
//! # Source
//! OpenCV's separable filter engine (`filter.simd.hpp`). OpenCV smooths the pyramid's levels with it,
//! because they are windows of a larger image. Its rounding depends on the build: the first `fused`
//! columns use fused multiply-adds.

use super::{Row, fill};

/// The length of the kernel.
pub(crate) const GAUSS_LEN: usize = 7;

/// The kernel from its middle outwards.
const GAUSS: [f32; 4] = [0.216_105_94, 0.190_712_82, 0.131_074_88, 0.070_159_32];

/// Writes the weighted sums along one row: `out[i]` from `source[i..i + 7]`, `B` sums at a time.
#[inline(always)]
pub(super) fn row<const B: usize>(source: &[u8], fused: usize, out: &mut [f32]) {
    let fused = fused.min(out.len());
    let (head, tail) = out.split_at_mut(fused);
    fill::<B, _>(head, &AlongX::<true> { source });
    fill::<B, _>(tail, &AlongX::<false> { source: &source[fused..] });
}

struct AlongX<'a, const FUSED: bool> {
    source: &'a [u8],
}

impl<const FUSED: bool> Row<f32> for AlongX<'_, FUSED> {
    #[inline(always)]
    fn block<const B: usize>(&self, start: usize) -> [f32; B] {
        let source = &self.source[start..start + B + GAUSS_LEN - 1];
        let mut sums = [0.0; B];
        for i in 0..B {
            let mut sum = GAUSS[3] * f32::from(source[i]);
            for k in 1..GAUSS_LEN {
                sum = multiply_add::<FUSED>(f32::from(source[i + k]), GAUSS[k.abs_diff(3)], sum);
            }
            sums[i] = sum;
        }
        sums
    }
}

/// Writes pixels of one row from seven rows of sums, from column `start` on.
#[inline(always)]
pub(super) fn column<const B: usize>(
    rows: &[&[f32]; GAUSS_LEN],
    start: usize,
    fused: usize,
    out: &mut [u8],
) {
    let fused = fused.min(out.len());
    let (head, tail) = out.split_at_mut(fused);
    fill::<B, _>(head, &AlongY::<true> { rows, from: start });
    fill::<B, _>(tail, &AlongY::<false> { rows, from: start + fused });
}

struct AlongY<'a, const FUSED: bool> {
    rows: &'a [&'a [f32]; GAUSS_LEN],
    from: usize,
}

impl<const FUSED: bool> Row<u8> for AlongY<'_, FUSED> {
    #[inline(always)]
    fn block<const B: usize>(&self, start: usize) -> [u8; B] {
        let [a, b, c, d, e, f, g] = *self.rows;
        let span = self.from + start..self.from + start + B;
        let (a, b, c) = (&a[span.clone()], &b[span.clone()], &c[span.clone()]);
        let (d, e, f, g) = (&d[span.clone()], &e[span.clone()], &f[span.clone()], &g[span]);
        let mut pixels = [0; B];
        for i in 0..B {
            let mut sum = d[i] * GAUSS[0];
            sum = multiply_add::<FUSED>(e[i] + c[i], GAUSS[1], sum);
            sum = multiply_add::<FUSED>(f[i] + b[i], GAUSS[2], sum);
            sum = multiply_add::<FUSED>(g[i] + a[i], GAUSS[3], sum);
            pixels[i] = round_to_u8(sum);
        }
        pixels
    }
}

#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Rounds a sum in 0..=255.5 to the nearest integer, ties to even: adding 2^23 leaves no bit for a
/// fraction.
#[inline(always)]
fn round_to_u8(sum: f32) -> u8 {
    const MAGIC: f32 = 8_388_608.0;
    ((sum + MAGIC).to_bits() - MAGIC.to_bits()).min(255) as u8
}
