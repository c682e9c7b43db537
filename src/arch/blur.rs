//! The two passes of the 7 x 7 Gaussian blur with sigma 2, in float32.
//!
//! # Source
//! OpenCV's separable filter engine (`filter.simd.hpp`), which smooths the pyramid's levels
//! because they are windows of a larger image. How it rounds depends on the build: the first
//! `fused` columns take fused multiply-adds.

use super::fill;

/// The length of the kernel.
pub(crate) const TAPS: usize = 7;

/// The kernel from its middle outwards.
const GAUSS: [f32; 4] = [0.216_105_94, 0.190_712_82, 0.131_074_88, 0.070_159_32];

/// Writes the sums along one row: `out[i]` from `source[i..i + 7]`, `B` of them at a time.
#[inline(always)]
pub(super) fn row<const B: usize>(source: &[u8], fused: usize, out: &mut [f32]) {
    let fused = fused.min(out.len());
    let (head, tail) = out.split_at_mut(fused);
    let rest = &source[fused..];
    fill(head, |i| row_block::<B, true>(&source[i..]), |i| row_block::<1, true>(&source[i..]));
    fill(tail, |i| row_block::<B, false>(&rest[i..]), |i| row_block::<1, false>(&rest[i..]));
}

#[inline(always)]
fn row_block<const B: usize, const FUSED: bool>(source: &[u8]) -> [f32; B] {
    let source = &source[..B + TAPS - 1];
    let mut sums = [0.0; B];
    for (i, sum) in sums.iter_mut().enumerate() {
        let tap = |k: usize| f32::from(source[i + k]);
        *sum = GAUSS[3] * tap(0);
        for k in 1..TAPS {
            *sum = multiply_add::<FUSED>(tap(k), GAUSS[k.abs_diff(3)], *sum);
        }
    }
    sums
}

/// Writes one row of pixels from seven rows of sums.
#[inline(always)]
pub(super) fn column<const B: usize>(rows: &[&[f32]; 7], fused: usize, out: &mut [u8]) {
    let fused = fused.min(out.len());
    let (head, tail) = out.split_at_mut(fused);
    fill(head, |i| column_block::<B, true>(rows, i), |i| column_block::<1, true>(rows, i));
    fill(
        tail,
        |i| column_block::<B, false>(rows, fused + i),
        |i| column_block::<1, false>(rows, fused + i),
    );
}

#[inline(always)]
fn column_block<const B: usize, const FUSED: bool>(rows: &[&[f32]; TAPS], start: usize) -> [u8; B] {
    let [a, b, c, d, e, f, g] = *rows;
    let [a, b, c, d, e, f, g] = [
        &a[start..start + B],
        &b[start..start + B],
        &c[start..start + B],
        &d[start..start + B],
        &e[start..start + B],
        &f[start..start + B],
        &g[start..start + B],
    ];
    let mut pixels = [0; B];
    for (i, pixel) in pixels.iter_mut().enumerate() {
        let mut sum = d[i] * GAUSS[0];
        sum = multiply_add::<FUSED>(e[i] + c[i], GAUSS[1], sum);
        sum = multiply_add::<FUSED>(f[i] + b[i], GAUSS[2], sum);
        sum = multiply_add::<FUSED>(g[i] + a[i], GAUSS[3], sum);
        *pixel = round_to_u8(sum);
    }
    pixels
}

#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// To the nearest integer, ties to even, of a sum in 0..=255.5: adding 2^23 leaves no bit for a
/// fraction.
#[inline(always)]
fn round_to_u8(sum: f32) -> u8 {
    const MAGIC: f32 = 8_388_608.0;
    ((sum + MAGIC).to_bits() - MAGIC.to_bits()).min(255) as u8
}
