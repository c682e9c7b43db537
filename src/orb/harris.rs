//! The Harris response of a corner.

use super::pyramid::Framed;
use crate::arch::{HARRIS_RUN, HARRIS_SIDE, Kernels};

/// How far from its corner a response reads: half the 7 x 7 block, and one for the gradient.
pub(super) const REACH: usize = HARRIS_SIDE / 2;

const K: f32 = 0.04;
/// 1 / (4 * 7 * 255): scales gradients of the block to [0, 1].
const SCALE: f32 = 1.0 / 7140.0;

/// The response of the 7 x 7 block around (x, y): det - 0.04 trace^2 of the gradients' products.
///
/// # Source
/// `HarrisResponses` in OpenCV's `orb.cpp`: integer sums, then float32 from left to right, no
/// fused multiply-add.
pub(super) fn response(kernels: &Kernels, level: Framed<'_>, x: isize, y: isize) -> f32 {
    let (x, y) = (x - REACH as isize, y - REACH as isize);
    let sums = level.with_block::<HARRIS_SIDE, HARRIS_RUN, _>(x, y, HARRIS_SIDE, kernels.harris);
    let [a, b, c] = sums.map(|sum| sum as f32);
    ((a * b - c * c) - (K * (a + b)) * (a + b)) * (((SCALE * SCALE) * SCALE) * SCALE)
}
