//! Sums over descriptors: of each element, and of the product of each pair of elements.

/// The number of elements in a row.
pub(crate) const GRAM_SIDE: usize = 32;
/// Most rows of one call: the sums of their products fit in 31 bits.
pub(crate) const GRAM_ROWS: usize = 32_768;

/// One sum for each element, and one for each pair of elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GramSums {
    pub of_elements: [u32; GRAM_SIDE],
    /// `[i][j]` is the sum for elements `i` and `j`, where `j >= i`. Entries with `j < i` are unspecified.
    pub of_products: [[u32; GRAM_SIDE]; GRAM_SIDE],
}

impl GramSums {
    pub const ZERO: Self =
        Self { of_elements: [0; GRAM_SIDE], of_products: [[0; GRAM_SIDE]; GRAM_SIDE] };
}

/// Sums over at most [`GRAM_ROWS`] rows. `sums` must be [`GramSums::ZERO`].
#[inline(always)]
pub(super) fn gram(rows: &[[u8; GRAM_SIDE]], sums: &mut GramSums) {
    for row in rows {
        for i in 0..GRAM_SIDE {
            sums.of_elements[i] += u32::from(row[i]);
            let one = u16::from(row[i]);
            for (sum, &other) in sums.of_products[i].iter_mut().zip(row) {
                *sum += u32::from(one * u16::from(other));
            }
        }
    }
}

/// [`gram`] on two rows at a time, by `_mm256_madd_epi16`: it multiplies 16 pairs of 16-bit numbers and
/// adds neighbouring products.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    #![allow(unsafe_code)]

    use std::arch::x86_64::{
        __m256i, _mm_loadu_si128, _mm_unpackhi_epi8, _mm_unpacklo_epi8, _mm256_add_epi32,
        _mm256_cvtepu8_epi16, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_set1_epi16,
        _mm256_set1_epi32, _mm256_setzero_si256, _mm256_storeu_si256,
    };

    use super::{GRAM_SIDE, GramSums};

    /// 32-bit numbers in a register.
    const LANES: usize = 8;
    /// Registers for a row of sums.
    const BLOCKS: usize = GRAM_SIDE / LANES;
    /// Rows of sums that are kept in registers at a time.
    const TILE: usize = 2;
    /// Pairs of rows that are processed together: they fit in the L1 cache.
    const PAIRS: usize = 64;

    /// Two rows: the 16-bit halves of number `i` are element `i` of one row and of the other.
    type Pair = [[u32; LANES]; BLOCKS];

    #[target_feature(enable = "avx2")]
    pub(in super::super) fn gram(rows: &[[u8; GRAM_SIDE]], sums: &mut GramSums) {
        let mut pairs = [[[0; LANES]; BLOCKS]; PAIRS];
        for rows in rows.chunks(2 * PAIRS) {
            let mut totals = [_mm256_setzero_si256(); BLOCKS];
            for (pair, rows) in pairs.iter_mut().zip(rows.chunks(2)) {
                let other = if rows.len() == 2 { &rows[1] } else { &[0; GRAM_SIDE] };
                for (block, (numbers, total)) in pair.iter_mut().zip(&mut totals).enumerate() {
                    let both = interleaved(&rows[0], other, block);
                    let ones = _mm256_set1_epi16(1);
                    *total = _mm256_add_epi32(*total, _mm256_madd_epi16(both, ones));
                    store(numbers, both);
                }
            }
            for (sums, total) in sums.of_elements.as_chunks_mut().0.iter_mut().zip(totals) {
                let sum = _mm256_add_epi32(load(sums), total);
                store(sums, sum);
            }
            let pairs = &pairs[..rows.len().div_ceil(2)];
            for first in (0..GRAM_SIDE).step_by(TILE) {
                match first / LANES {
                    0 => add_tile::<0>(pairs, first, sums),
                    1 => add_tile::<1>(pairs, first, sums),
                    2 => add_tile::<2>(pairs, first, sums),
                    _ => add_tile::<3>(pairs, first, sums),
                }
            }
        }
    }

    /// Adds the products of the [`TILE`] elements from `first` on with the elements of blocks `FROM` and
    /// later.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn add_tile<const FROM: usize>(pairs: &[Pair], first: usize, sums: &mut GramSums) {
        let mut tile = [[_mm256_setzero_si256(); BLOCKS]; TILE];
        for pair in pairs {
            for (i, sums) in tile.iter_mut().enumerate() {
                let one = _mm256_set1_epi32(pair.as_flattened()[first + i] as i32);
                for block in FROM..BLOCKS {
                    let products = _mm256_madd_epi16(load(&pair[block]), one);
                    sums[block] = _mm256_add_epi32(sums[block], products);
                }
            }
        }
        for (i, tile) in tile.iter().enumerate() {
            let (sums, _) = sums.of_products[first + i].as_chunks_mut();
            for block in FROM..BLOCKS {
                let sum = _mm256_add_epi32(load(&sums[block]), tile[block]);
                store(&mut sums[block], sum);
            }
        }
    }

    /// Interleaves one block of two rows and widens the elements to 16 bits.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn interleaved(one: &[u8; GRAM_SIDE], other: &[u8; GRAM_SIDE], block: usize) -> __m256i {
        let [one, other] = [one, other].map(|row| &row.as_chunks::<16>().0[block / 2]);
        // SAFETY: the pointers come from arrays of exactly the size that is read.
        let (one, other) = unsafe {
            (_mm_loadu_si128(one.as_ptr().cast()), _mm_loadu_si128(other.as_ptr().cast()))
        };
        _mm256_cvtepu8_epi16(if block.is_multiple_of(2) {
            _mm_unpacklo_epi8(one, other)
        } else {
            _mm_unpackhi_epi8(one, other)
        })
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(numbers: &[u32; LANES]) -> __m256i {
        // SAFETY: the pointer comes from an array of exactly the size that is read.
        unsafe { _mm256_loadu_si256(numbers.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn store(numbers: &mut [u32; LANES], values: __m256i) {
        // SAFETY: the pointer comes from an array of exactly the size that is written.
        unsafe { _mm256_storeu_si256(numbers.as_mut_ptr().cast(), values) };
    }
}
