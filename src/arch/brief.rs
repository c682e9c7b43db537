//! The turned sampling pattern of a descriptor.

/// Writes where the points of a pattern lie once it is turned, as offsets into rows of `stride` pixels.
#[inline(always)]
pub(super) fn offsets(x: &[f32], y: &[f32], (sin, cos): (f32, f32), stride: i32, out: &mut [i32]) {
    for ((&x, &y), out) in x.iter().zip(y).zip(out) {
        *out = round(x * sin + y * cos) * stride + round(x * cos - y * sin);
    }
}

/// To the nearest whole number, ties to even, for magnitudes below 2^22: adding 1.5 * 2^23 leaves
/// no bit for a fraction.
#[inline(always)]
fn round(v: f32) -> i32 {
    const MAGIC: f32 = 12_582_912.0;
    ((v + MAGIC).to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32)
}

/// One bit for each pair, the first in the lowest: whether the one is darker than the other.
#[inline(always)]
pub(super) fn darker(one: &[u8; 256], other: &[u8; 256]) -> [u8; 32] {
    let mut is_darker = [0; 256];
    for i in 0..256 {
        is_darker[i] = u8::from(one[i] < other[i]);
    }
    let mut bits = [0; 32];
    for (bits, flags) in bits.iter_mut().zip(is_darker.as_chunks::<8>().0) {
        // Each product moves one flag to its place in the highest byte.
        let flags = u64::from_le_bytes(*flags);
        *bits = (flags.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8;
    }
    bits
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

    #[test]
    fn the_first_pair_is_the_lowest_bit() {
        let (one, mut other) = ([7; 256], [7; 256]);
        for i in [0, 9, 255] {
            other[i] = 8;
        }
        let bits = darker(&one, &other);
        assert_eq!((bits[0], bits[1], bits[31]), (1, 2, 128));
        assert_eq!(bits.iter().map(|b| b.count_ones()).sum::<u32>(), 3);
    }
}
