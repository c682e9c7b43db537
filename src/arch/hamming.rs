//! Hamming distances of one descriptor to many.

/// Descriptors of a block.
pub(crate) const HAMMING_LANES: usize = 16;
/// 32-bit words of a descriptor.
pub(crate) const HAMMING_WORDS: usize = 8;

/// Descriptors by words: `[word][lane]`. Number `lane` of each word is one descriptor, so that sums over words need no
/// horizontal step.
pub(crate) type HammingBlock = [[u32; HAMMING_LANES]; HAMMING_WORDS];

/// Marks the lower bit of each pair of bits.
const PAIRS: u32 = 0x5555_5555;

/// Writes the distances of a descriptor to those of the blocks, and returns the smallest. With `IN_PAIRS`, a distance
/// is the number of pairs of bits that differ (`NORM_HAMMING2`).
///
/// Counts the bits of each byte: compilers have no good code for 32-bit words without an instruction for it.
#[inline(always)]
pub(super) fn by_bytes<const IN_PAIRS: bool>(
    query: &[u32; HAMMING_WORDS],
    blocks: &[HammingBlock],
    out: &mut [[u16; HAMMING_LANES]],
) -> u16 {
    const BYTES: usize = 4 * HAMMING_LANES;
    let mut least = [u16::MAX; HAMMING_LANES];
    for (block, out) in blocks.iter().zip(out) {
        // At most 64 in each.
        let mut counts = [0_u8; BYTES];
        for (words, &query) in block.iter().zip(query) {
            let mut bytes = [0; BYTES];
            for (bytes, &word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
                *bytes = differing::<IN_PAIRS>(word, query).to_ne_bytes();
            }
            for (count, byte) in counts.iter_mut().zip(bytes) {
                *count += byte.count_ones() as u8;
            }
        }
        for i in 0..HAMMING_LANES {
            let word = u32::from_ne_bytes([
                counts[4 * i],
                counts[4 * i + 1],
                counts[4 * i + 2],
                counts[4 * i + 3],
            ]);
            let halves = (word & 0x00ff_00ff) + ((word >> 8) & 0x00ff_00ff);
            out[i] = ((halves & 0xffff) + (halves >> 16)) as u16;
            least[i] = least[i].min(out[i]);
        }
    }
    smallest(&least)
}

/// The bits, or the lower bits of the pairs, in which two words differ.
#[inline(always)]
fn differing<const IN_PAIRS: bool>(one: u32, other: u32) -> u32 {
    let bits = one ^ other;
    if IN_PAIRS { (bits | (bits >> 1)) & PAIRS } else { bits }
}

#[inline(always)]
fn smallest(values: &[u16; HAMMING_LANES]) -> u16 {
    values.iter().fold(u16::MAX, |least, &value| least.min(value))
}

/// [`by_bytes`] by VPOPCNTDQ, which counts the bits of 16 words: three times as fast. Compilers do not get there.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    #![allow(unsafe_code)]

    use std::arch::x86_64::{
        __m512i, _mm256_storeu_si256, _mm512_add_epi32, _mm512_and_si512, _mm512_cvtepi32_epi16,
        _mm512_loadu_si512, _mm512_min_epu32, _mm512_or_si512, _mm512_popcnt_epi32,
        _mm512_reduce_min_epu32, _mm512_set1_epi32, _mm512_srli_epi32, _mm512_xor_si512,
    };

    use super::{HAMMING_LANES, HAMMING_WORDS, HammingBlock, PAIRS};

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vpopcntdq")]
    pub(in super::super) fn by_words<const IN_PAIRS: bool>(
        query: &[u32; HAMMING_WORDS],
        blocks: &[HammingBlock],
        out: &mut [[u16; HAMMING_LANES]],
    ) -> u16 {
        let query = query.map(|word| _mm512_set1_epi32(word as i32));
        let mut least = _mm512_set1_epi32(u16::MAX.into());
        for (block, out) in blocks.iter().zip(out) {
            let counts: [__m512i; HAMMING_WORDS] = std::array::from_fn(|i| {
                let mut bits = _mm512_xor_si512(load(&block[i]), query[i]);
                if IN_PAIRS {
                    bits = _mm512_or_si512(bits, _mm512_srli_epi32::<1>(bits));
                    bits = _mm512_and_si512(bits, _mm512_set1_epi32(PAIRS as i32));
                }
                _mm512_popcnt_epi32(bits)
            });
            let pairs: [_; 4] =
                std::array::from_fn(|i| _mm512_add_epi32(counts[2 * i], counts[2 * i + 1]));
            let halves = [0, 2].map(|i| _mm512_add_epi32(pairs[i], pairs[i + 1]));
            let sums = _mm512_add_epi32(halves[0], halves[1]);
            least = _mm512_min_epu32(least, sums);
            let sums = _mm512_cvtepi32_epi16(sums);
            // SAFETY: the pointer comes from an array of exactly the size that is written.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), sums) };
        }
        _mm512_reduce_min_epu32(least) as u16
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(words: &[u32; HAMMING_LANES]) -> __m512i {
        // SAFETY: the pointer comes from an array of exactly the size that is read.
        unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
    }
}
