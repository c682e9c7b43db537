//! The rotated sampling pattern of a descriptor.

/// Rotates the points of a pattern around its origin, and writes the index of each in a buffer with rows of
/// `stride` pixels. `centre` is the index of the origin.
#[inline(always)]
pub(super) fn places(
    x: &[f32],
    y: &[f32],
    (sin, cos): (f32, f32),
    centre: i32,
    stride: i32,
    out: &mut [u32],
) {
    for ((&x, &y), out) in x.iter().zip(y).zip(out) {
        let (row, column) = (round(x * sin + y * cos), round(x * cos - y * sin));
        *out = (centre + row * stride + column) as u32;
    }
}

/// Rounds to the nearest integer, ties to even, for magnitudes below 2^22: adding 1.5 * 2^23 leaves
/// no bit for a fraction.
#[inline(always)]
fn round(v: f32) -> i32 {
    const MAGIC: f32 = 12_582_912.0;
    ((v + MAGIC).to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_even() {
        let naive = |v: f32| v.round_ties_even() as i32;
        for v in [0.5, -0.5, 1.5, 2.5, -2.5, 17.499_998, 18.5, 0.0, -0.0, 4_000_000.5, -23_000.5] {
            assert_eq!(round(v), naive(v), "{v}");
        }
    }
}
