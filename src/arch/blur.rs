//! The two passes of the 7 x 7 Gaussian blur with sigma 2, in float32.
//!
//! # Source
//! OpenCV's separable filter engine (`filter.simd.hpp`), which smooths the pyramid's levels
//! because they are windows of a larger image. How it rounds depends on the build: the first
//! `fused` columns take fused multiply-adds.

/// The length of the kernel.
pub(crate) const TAPS: usize = 7;

/// The kernel from its middle outwards.
const GAUSS: [f32; 4] = [0.216_105_94, 0.190_712_82, 0.131_074_88, 0.070_159_32];

/// Writes the sums along one row: `out[i]` from `source[i..i + 7]`, `B` of them at a time.
#[inline(always)]
pub(super) fn row<const B: usize>(source: &[u8], fused: usize, out: &mut [f32]) {
    let fused = fused.min(out.len());
    let (head, tail) = out.split_at_mut(fused);
    row_part::<B, true>(source, head);
    row_part::<B, false>(&source[fused..], tail);
}

#[inline(always)]
fn row_part<const B: usize, const FUSED: bool>(source: &[u8], out: &mut [f32]) {
    let len = out.len();
    if len < B {
        for (i, out) in out.iter_mut().enumerate() {
            *out = row_block::<1, FUSED>(&source[i..])[0];
        }
        return;
    }
    let mut at = 0;
    while at < len {
        // The last block overlaps the one before it.
        let start = at.min(len - B);
        let block = row_block::<B, FUSED>(&source[start..]);
        out[start..start + B].copy_from_slice(&block);
        at += B;
    }
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
    column_part::<B, true>(rows, 0, head);
    column_part::<B, false>(rows, fused, tail);
}

#[inline(always)]
fn column_part<const B: usize, const FUSED: bool>(
    rows: &[&[f32]; TAPS],
    first: usize,
    out: &mut [u8],
) {
    let len = out.len();
    if len < B {
        for (i, out) in out.iter_mut().enumerate() {
            *out = column_block::<1, FUSED>(rows, first + i)[0];
        }
        return;
    }
    let mut at = 0;
    while at < len {
        let start = at.min(len - B);
        let block = column_block::<B, FUSED>(rows, first + start);
        out[start..start + B].copy_from_slice(&block);
        at += B;
    }
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
