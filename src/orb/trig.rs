//! The sine and cosine that turn the sampling pattern of a keypoint.
//!
//! A float32 sine can be off by one unit in the last place. For about one angle in 400,000 this moves a sample to the
//! next pixel. So each build's own function is computed here, with the same bits on every platform.

/// The sine and cosine that a build of OpenCV calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trig {
    /// The float64 functions, rounded to float32: the wheels on PyPI.
    Rounded,
    /// glibc's float32 functions, which are not always correctly rounded: Debian's packages.
    Glibc,
}

impl Trig {
    /// Sine and cosine of a finite angle in degrees.
    ///
    /// # Source
    /// `computeOrbDescriptors` in OpenCV's `orb.cpp`, which turns degrees to radians in float32.
    pub fn sin_cos(self, degrees: f32) -> (f32, f32) {
        const RADIANS: f32 = (std::f64::consts::PI / 180.0) as f32;
        let angle = degrees * RADIANS;
        match self {
            Self::Rounded => rounded(angle),
            Self::Glibc => glibc(angle),
        }
    }
}

/// Sine and cosine of an angle in radians, computed in float64.
///
/// `libm` is Rust code, so its bits do not depend on the system. Its float64 results sometimes differ from glibc's in
/// the last place. After rounding to float32 they are equal for all angles in [0, 360) degrees: all were compared.
fn rounded(angle: f32) -> (f32, f32) {
    let (sin, cos) = libm::sincos(f64::from(angle));
    (sin as f32, cos as f32)
}

/// Sine and cosine of a finite angle in radians, with the bits of glibc 2.28 and later. These are not always correctly
/// rounded, and a difference of one bit can move a sample to another pixel.
///
/// # Source
/// `sinf` and `cosf` of Arm's optimized-routines (MIT), which glibc uses.
fn glibc(angle: f32) -> (f32, f32) {
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
        // Computed for the magnitude: sine is odd, cosine even.
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

/// Subtracts whole quarter turns from `x`; returns the remainder and the number of quarter turns.
fn reduce(x: f64) -> (f64, i32) {
    /// 2 / pi, times 2^24.
    const QUARTERS: f64 = 10_680_707.430_881_744;
    let quadrant = ((x * QUARTERS) as i32 + 0x80_0000) >> 24;
    (x - f64::from(quadrant) * std::f64::consts::FRAC_PI_2, quadrant)
}

/// As [`reduce`], for magnitudes of 120 and above, by long multiplication with the bits of 4 / pi.
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

    /// Angles in degrees of all magnitudes in [0, 360): every `step`-th float32.
    fn angles(step: usize) -> impl Iterator<Item = f32> {
        (0..360.0_f32.to_bits()).step_by(step).map(f32::from_bits)
    }

    /// FNV-1a over the bits of both.
    fn checksum(trig: Trig, angles: impl Iterator<Item = f32>) -> u64 {
        let bits = angles.map(|a| trig.sin_cos(a)).flat_map(|(s, c)| [s.to_bits(), c.to_bits()]);
        bits.fold(0xcbf2_9ce4_8422_2325, |h, v| (h ^ u64::from(v)).wrapping_mul(0x0100_0000_01b3))
    }

    /// Runs on every platform; the tests below need glibc.
    #[test]
    fn the_bits_are_the_same_on_every_platform() {
        assert_eq!(checksum(Trig::Rounded, angles(1009)), 0xe6d3_8cf9_099f_6d79);
        assert_eq!(checksum(Trig::Glibc, angles(1009)), 0x7b66_2270_fb43_76d4);
    }

    /// On this target the standard library's functions are glibc's, the same that OpenCV's builds call.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    mod against_glibc {
        use super::*;

        fn compare_rounded(angles: impl Iterator<Item = f32>) -> usize {
            let mut compared = 0;
            for degrees in angles {
                let angle = f64::from(degrees * (std::f64::consts::PI / 180.0) as f32);
                let want = (angle.sin() as f32, angle.cos() as f32);
                let got = Trig::Rounded.sin_cos(degrees);
                let bits = |(s, c): (f32, f32)| (s.to_bits(), c.to_bits());
                assert_eq!(bits(got), bits(want), "{degrees:e} degrees");
                compared += 1;
            }
            compared
        }

        #[test]
        fn rounded_float64_functions_have_glibcs_bits() {
            // Every 577th angle, and every third one between 359 and 360 degrees.
            let dense = (359.0_f32.to_bits()..360.0_f32.to_bits()).step_by(3);
            let compared = compare_rounded(angles(577).chain(dense.map(f32::from_bits)));
            assert!(compared > 1_900_000, "{compared}");
            // Callers of `compute` may give any angle.
            let large = (360.0_f32.to_bits()..f32::MAX.to_bits()).step_by(10_007);
            compare_rounded(large.map(f32::from_bits).flat_map(|a| [a, -a]));
        }

        #[test]
        #[ignore = "all 1.1 billion angles: two minutes with --release"]
        fn rounded_float64_functions_have_glibcs_bits_for_every_angle() {
            assert_eq!(compare_rounded(angles(1)), 1_135_869_952);
        }

        #[test]
        fn float32_functions_have_glibcs_bits() {
            let mut checked = 0;
            let mut check = |v: f32| {
                let (s, c) = glibc(v);
                assert_eq!(s.to_bits(), v.sin().to_bits(), "sin {v:e}");
                assert_eq!(c.to_bits(), v.cos().to_bits(), "cos {v:e}");
                checked += 1;
            };
            for bits in (0_u32..0x7f80_0000).step_by(2_053) {
                check(f32::from_bits(bits));
                check(-f32::from_bits(bits));
            }
            // More densely from 2^-7 to 2 pi radians, as keypoints' angles lie in [0, 360] degrees.
            for bits in (0x3c00_0000_u32..0x40c9_0fdb).step_by(61) {
                check(f32::from_bits(bits));
            }
            assert!(checked > 2_000_000);
        }
    }
}
