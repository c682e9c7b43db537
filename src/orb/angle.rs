//! The orientation of a keypoint: intensity centroid, arc tangent, and the sine and cosine that
//! turn its sampling pattern.

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
    /// The pixels of each row, top down; none of a patch that is too wide for the kernel.
    rows: Vec<PatchRow>,
}

/// The widest patch that the kernel takes: half its width.
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

/// Sine and cosine of an angle in degrees, as OpenCV gets them: float32, through glibc.
pub(super) fn sin_cos_degrees(angle: f32) -> (f32, f32) {
    const RADIANS: f32 = (std::f64::consts::PI / 180.0) as f32;
    sin_cos(angle * RADIANS)
}

/// Sine and cosine of a finite angle in radians, with the bits of glibc 2.28 and later: they are
/// not always the correctly rounded ones, and one bit can move a sample to another pixel.
///
/// # Source
/// `sinf` and `cosf` of Arm's optimized-routines (MIT), which glibc uses.
fn sin_cos(angle: f32) -> (f32, f32) {
    const SIN: [f64; 3] =
        [-0.166_666_549_437_010_84, 0.008_332_178_146_138_854, -0.000_195_172_989_813_857_25];
    const COS: [f64; 4] = [
        -0.499_999_997_251_082_24,
        0.041_666_623_324_344_516,
        -0.001_388_676_379_437_604,
        0.000_024_390_450_703_564_542,
    ];
    let bits = angle.to_bits() & 0x7fff_ffff;
    let negative = angle.is_sign_negative();
    let (x, quadrant) = if bits < 0x3980_0000 {
        // Below 2^-12.
        return (angle, 1.0);
    } else if bits < 0x3f49_0fdb {
        // Below pi / 4.
        (f64::from(angle), 0)
    } else if bits < 0x42f0_0000 {
        // Below 120.
        reduce(f64::from(angle))
    } else {
        // Of the magnitude; sine is odd and cosine even.
        let (x, quadrant) = reduce_large(bits);
        let (sin, cos) = polynomials(x, quadrant, SIN, COS);
        return (if negative { -sin } else { sin }, cos);
    };
    polynomials(x, quadrant, SIN, COS)
}

fn polynomials(x: f64, quadrant: i32, s: [f64; 3], c: [f64; 4]) -> (f32, f32) {
    let z = x * x;
    let x3 = x * z;
    let sin = (x + x3 * s[0]) + (x3 * z) * (s[1] + z * s[2]);
    let z2 = z * z;
    let cos = ((1.0 + z * c[0]) + z2 * c[1]) + (z2 * z) * (c[2] + z * c[3]);
    let (sin, cos) = match quadrant & 3 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    };
    (sin as f32, cos as f32)
}

/// Takes whole quarter turns off `x`; returns the rest and how many they were.
fn reduce(x: f64) -> (f64, i32) {
    /// 2 / pi, times 2^24.
    const QUARTERS: f64 = 10_680_707.430_881_744;
    let quadrant = ((x * QUARTERS) as i32 + 0x80_0000) >> 24;
    (x - f64::from(quadrant) * std::f64::consts::FRAC_PI_2, quadrant)
}

/// The same for 120 and above, by long multiplication with the bits of 4 / pi.
fn reduce_large(bits: u32) -> (f64, i32) {
    const FOUR_OVER_PI: [u32; 24] = [
        0xa2,
        0xa2f9,
        0xa2_f983,
        0xa2f9_836e,
        0xf983_6e4e,
        0x836e_4e44,
        0x6e4e_4415,
        0x4e44_1529,
        0x4415_29fc,
        0x1529_fc27,
        0x29fc_2757,
        0xfc27_57d1,
        0x2757_d1f5,
        0x57d1_f534,
        0xd1f5_34dd,
        0xf534_ddc0,
        0x34dd_c0db,
        0xddc0_db62,
        0xc0db_6295,
        0xdb62_9599,
        0x6295_993c,
        0x9599_3c43,
        0x993c_4390,
        0x3c43_9041,
    ];
    /// pi / 2^63.
    const UNIT: f64 = 3.406_121_580_086_554_5e-19;
    let at = ((bits >> 26) & 15) as usize;
    let mantissa = ((bits & 0xff_ffff) | 0x80_0000) << ((bits >> 23) & 7);
    let high = u64::from(mantissa.wrapping_mul(FOUR_OVER_PI[at]));
    let middle = u64::from(mantissa) * u64::from(FOUR_OVER_PI[at + 4]);
    let low = u64::from(mantissa) * u64::from(FOUR_OVER_PI[at + 8]);
    let fraction = ((low >> 32) | (high << 32)).wrapping_add(middle);
    let quadrant = fraction.wrapping_add(1 << 61) >> 62;
    let rest = fraction.wrapping_sub(quadrant << 62) as i64;
    (rest as f64 * UNIT, quadrant as i32)
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

    /// On glibc, the standard library's sine is the function that OpenCV calls.
    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
    fn sine_and_cosine_have_glibcs_bits() {
        let mut checked = 0;
        let mut check = |v: f32| {
            let (s, c) = sin_cos(v);
            assert_eq!(s.to_bits(), v.sin().to_bits(), "sin {v:e}");
            assert_eq!(c.to_bits(), v.cos().to_bits(), "cos {v:e}");
            checked += 1;
        };
        for bits in (0_u32..0x7f80_0000).step_by(2_053) {
            check(f32::from_bits(bits));
            check(-f32::from_bits(bits));
        }
        // The angles that occur: all of them have degrees in [0, 360].
        for bits in (0x3c00_0000_u32..0x40c9_0fdb).step_by(61) {
            check(f32::from_bits(bits));
        }
        assert!(checked > 2_000_000);
    }
}
