//! Sums over the pixels around a corner: Harris gradients, and the moments of a round patch.

/// Side of the block of pixels that a Harris sum depends on. [`HARRIS_RUN`] pixels of each row are read:
/// one more.
pub(crate) const HARRIS_SIDE: usize = 9;
pub(crate) const HARRIS_RUN: usize = 10;

/// Pixels read from each row of a patch, from 15 left of its centre on. The last one is never part of
/// the patch.
pub(crate) const PATCH_RUN: usize = 32;

/// Mask of one row: 255 for pixels of the patch, else 0.
pub(crate) type PatchRow = [u8; PATCH_RUN];

/// The sums of `Ix^2`, `Iy^2` and `Ix Iy` over 7 x 7 pixels. `pixels` begins at the top left corner of
/// the block of side [`HARRIS_SIDE`] around them.
#[inline(always)]
pub(super) fn harris(pixels: &[u8], stride: usize) -> [i32; 3] {
    // For each row, at eight columns: the central difference, and the sum with weights 1 2 1 (at most 1020).
    let mut difference = [[0_i16; 8]; HARRIS_SIDE];
    let mut smooth = [[0_i16; 8]; HARRIS_SIDE];
    for r in 0..HARRIS_SIDE {
        let row: &[u8; HARRIS_RUN] =
            pixels[r * stride..].first_chunk().expect("the block lies within the pixels");
        for c in 0..8 {
            let (a, b, d) = (i16::from(row[c]), i16::from(row[c + 1]), i16::from(row[c + 2]));
            difference[r][c] = d - a;
            smooth[r][c] = a + 2 * b + d;
        }
    }
    // Only seven columns count: masks out the eighth.
    let inside = [-1, -1, -1, -1, -1, -1, -1, 0_i16];
    let mut sums = [[0_i32; 8]; 3];
    for r in 0..7 {
        for c in 0..8 {
            let ix =
                (difference[r][c] + 2 * difference[r + 1][c] + difference[r + 2][c]) & inside[c];
            let iy = (smooth[r + 2][c] - smooth[r][c]) & inside[c];
            let (ix, iy) = (i32::from(ix), i32::from(iy));
            sums[0][c] += ix * ix;
            sums[1][c] += iy * iy;
            sums[2][c] += ix * iy;
        }
    }
    let mut totals = [0; 3];
    for (total, sums) in totals.iter_mut().zip(sums) {
        for sum in sums {
            *total += sum;
        }
    }
    totals
}

/// The moments `m10` and `m01` of a patch; `rows` are the masks of its rows. `pixels` begins in the
/// first row of the patch, 15 columns left of its centre.
#[inline(always)]
pub(super) fn moments(pixels: &[u8], stride: usize, rows: &[PatchRow]) -> (i32, i32) {
    /// Rows that are summed in 16 bits: eight products of at most 255 x 15 fit in an `i16`.
    const ROWS: usize = 8;
    let half = (rows.len() / 2) as i16;
    let (mut m10, mut m01) = (0, 0);
    for (block, rows) in rows.chunks(ROWS).enumerate() {
        let (mut along_x, mut along_y) = ([0_i16; PATCH_RUN], [0_i16; PATCH_RUN]);
        for (r, row) in rows.iter().enumerate() {
            let r = ROWS * block + r;
            let v = r as i16 - half;
            let pixels: &[u8; PATCH_RUN] =
                pixels[r * stride..].first_chunk().expect("the patch lies within the pixels");
            for i in 0..PATCH_RUN {
                let pixel = i16::from(pixels[i] & row[i]);
                along_x[i] += pixel * (i as i16 - 15);
                along_y[i] += pixel * v;
            }
        }
        for i in 0..PATCH_RUN {
            m10 += i32::from(along_x[i]);
            m01 += i32::from(along_y[i]);
        }
    }
    (m10, m01)
}
