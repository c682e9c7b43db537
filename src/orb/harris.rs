//! The Harris response of a corner.

use super::pyramid::Framed;

/// How far from its corner a response reads: half the 7 x 7 block, and one for the gradient.
pub(super) const REACH: usize = 4;

const K: f32 = 0.04;
/// 1 / (4 * 7 * 255): scales gradients of the block to [0, 1].
const SCALE: f32 = 1.0 / 7140.0;

/// The response of the 7 x 7 block around (x, y): det - 0.04 trace^2 of the gradients' products.
///
/// # Source
/// `HarrisResponses` in OpenCV's `orb.cpp`: integer sums, then float32 from left to right, no
/// fused multiply-add.
pub(super) fn response(level: Framed<'_>, x: isize, y: isize) -> f32 {
    let reach = REACH as isize;
    // Of each of the 9 rows, for the 7 inner columns: the central difference and the 1 2 1 sum.
    let mut difference = [[0_i32; 7]; 9];
    let mut smooth = [[0_i32; 7]; 9];
    for r in 0..9 {
        let row = level.run(x - reach, y - reach + r as isize, 9);
        for c in 0..7 {
            let [a, b, d] = [row[c], row[c + 1], row[c + 2]].map(i32::from);
            difference[r][c] = d - a;
            smooth[r][c] = a + 2 * b + d;
        }
    }
    let (mut xx, mut yy, mut xy) = (0, 0, 0);
    for r in 0..7 {
        for c in 0..7 {
            let ix = difference[r][c] + 2 * difference[r + 1][c] + difference[r + 2][c];
            let iy = smooth[r + 2][c] - smooth[r][c];
            xx += ix * ix;
            yy += iy * iy;
            xy += ix * iy;
        }
    }
    let (a, b, c) = (xx as f32, yy as f32, xy as f32);
    ((a * b - c * c) - (K * (a + b)) * (a + b)) * (((SCALE * SCALE) * SCALE) * SCALE)
}
