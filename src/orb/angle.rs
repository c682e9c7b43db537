//! The orientation of a keypoint: the intensity centroid of its patch, and the arc tangent.

use super::pyramid::Framed;
use crate::arch::{Kernels, PATCH_RUN, PatchRow};

/// Half the width of each row of a round patch, by distance from its middle row.
///
/// # Source
/// `computeKeyPoints` in OpenCV's `orb.cpp`: the upper half is made symmetric to the lower.
fn patch_rows(patch_size: u32) -> Vec<usize> {
    let half = (patch_size / 2) as usize;
    let mut rows = vec![0; half + 2];
    let root = half as f32 * std::f32::consts::SQRT_2;
    let (last, first) = ((root / 2.0 + 1.0).floor() as usize, (root / 2.0).ceil() as usize);
    for (v, row) in rows.iter_mut().enumerate().take(last + 1) {
        let square = (half * half) as f64 - (v * v) as f64;
        *row = square.sqrt().round_ties_even() as usize;
    }
    let mut v0 = 0;
    for v in (first..=half).rev() {
        while rows[v0] == rows[v0 + 1] {
            v0 += 1;
        }
        rows[v] = v0;
        v0 += 1;
    }
    rows.truncate(half + 1);
    rows
}

/// The round patch around a keypoint.
#[derive(Debug)]
pub(super) struct Patch {
    /// Half the width of each row, by distance from the middle one.
    half_widths: Vec<usize>,
    /// The mask of each row, top down: 255 inside the patch, 0 outside. Empty if the patch is too wide for the kernel.
    rows: Vec<PatchRow>,
}

/// Half the width of the widest patch that the kernel takes.
const WIDEST: usize = PATCH_RUN / 2 - 1;
const MOST_ROWS: usize = 2 * WIDEST + 1;

impl Patch {
    pub fn new(patch_size: u32) -> Self {
        let mut half_widths = patch_rows(patch_size);
        let half = half_widths.len() - 1;
        // OpenCV takes the middle row at its full width, whatever the table says.
        half_widths[0] = half;
        let row = |v: isize| -> PatchRow {
            let width = half_widths[v.unsigned_abs()];
            std::array::from_fn(|i| if i.abs_diff(WIDEST) <= width { 255 } else { 0 })
        };
        let fits = half <= WIDEST && half_widths.iter().all(|&w| w <= WIDEST);
        let rows =
            if fits { (-(half as isize)..=half as isize).map(row).collect() } else { Vec::new() };
        Self { half_widths, rows }
    }

    /// The angle from (x, y) to the intensity centroid of the patch around it, in degrees.
    pub fn orientation(&self, kernels: &Kernels, level: Framed<'_>, x: isize, y: isize) -> f32 {
        let half = self.half_widths.len() as isize - 1;
        let (m10, m01) = if self.rows.is_empty() {
            self.moments(level, x, y)
        } else {
            let (left, top) = (x - WIDEST as isize, y - half);
            level.with_block::<MOST_ROWS, PATCH_RUN, _>(
                left,
                top,
                self.rows.len(),
                |pixels, stride| (kernels.moments)(pixels, stride, &self.rows),
            )
        };
        atan2_degrees(m01 as f32, m10 as f32)
    }

    /// The moments `m10` and `m01` of a patch of any size.
    fn moments(&self, level: Framed<'_>, x: isize, y: isize) -> (i32, i32) {
        // Wraps as OpenCV's ints do: patches wider than some 460 pixels can overflow them.
        let (mut m10, mut m01) = (0_i32, 0_i32);
        let half = self.half_widths.len() as isize - 1;
        for v in -half..=half {
            let u_max = self.half_widths[v.unsigned_abs()] as isize;
            let row = level.run(x - u_max, y + v, 2 * u_max as usize + 1);
            let mut sum = 0_i32;
            for (u, &value) in (-u_max as i32..).zip(row) {
                sum += i32::from(value);
                m10 = m10.wrapping_add(u * i32::from(value));
            }
            m01 = m01.wrapping_add((v as i32).wrapping_mul(sum));
        }
        (m10, m01)
    }
}

/// The angle of (x, y) in degrees, [0, 360), to about 0.3 degrees.
///
/// # Source
/// `fastAtan2` in OpenCV's `mathfuncs_core.simd.hpp`: float32, no fused multiply-add.
fn atan2_degrees(y: f32, x: f32) -> f32 {
    const DEGREES: f32 = (180.0 / std::f64::consts::PI) as f32;
    const P1: f32 = 0.999_787_87 * DEGREES;
    const P3: f32 = -0.325_808_4 * DEGREES;
    const P5: f32 = 0.155_578_66 * DEGREES;
    const P7: f32 = -0.044_326_555 * DEGREES;
    const EPSILON: f32 = f64::EPSILON as f32;
    let polynomial = |c: f32| {
        let c2 = c * c;
        (((P7 * c2 + P5) * c2 + P3) * c2 + P1) * c
    };
    let (ax, ay) = (x.abs(), y.abs());
    let mut angle = if ax >= ay {
        polynomial(ay / (ax + EPSILON))
    } else {
        90.0 - polynomial(ax / (ay + EPSILON))
    };
    if x < 0.0 {
        angle = 180.0 - angle;
    }
    if y < 0.0 {
        angle = 360.0 - angle;
    }
    angle
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patch_rows_are_opencvs() {
        assert_eq!(patch_rows(31), [15, 15, 15, 15, 14, 14, 14, 13, 13, 12, 11, 10, 9, 8, 6, 3]);
        assert_eq!(patch_rows(2).len(), 2);
    }

    #[test]
    fn the_four_directions() {
        assert_eq!(atan2_degrees(0.0, 0.0), 0.0);
        assert_eq!(atan2_degrees(0.0, 5.0), 0.0);
        assert_eq!(atan2_degrees(5.0, 0.0), 90.0);
        assert_eq!(atan2_degrees(0.0, -5.0), 180.0);
        assert_eq!(atan2_degrees(-5.0, 0.0), 270.0);
    }
}
