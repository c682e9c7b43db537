//! The two passes of the exact bilinear resize.
//!
//! # Source
//! `INTER_LINEAR_EXACT` in OpenCV's `resize.cpp`: integer weights in 256ths, one rounding at the end.

use std::ops::Range;

/// Outputs that are computed together.
const GROUP: usize = 8;
/// Outputs in one 128-bit lane of a register; they read from one run of [`RUN`] adjacent pixels.
const LANE: usize = 4;
const RUN: usize = 16;

/// For each output of a range, the two source pixels between which it lies, and their weights.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taps {
    source: usize,
    target: usize,
    range: Range<usize>,
    /// Index of the left neighbour, and weight of the right one in 256ths: 0 to 256.
    pairs: Vec<(u32, u16)>,
    /// The same as operands of byte shuffles. Empty if the source is shorter than a run, or if the outputs of some
    /// lane span more than a run.
    groups: Vec<Group>,
}

#[derive(Clone, Debug)]
struct Group {
    /// Byte shuffle. For each output it makes two 16-bit numbers: the neighbours, by their positions in the run of
    /// its lane.
    shuffle: [u8; 4 * GROUP],
    /// The weights of both neighbours of each output.
    weights: [i16; 2 * GROUP],
    /// Index of the first pixel of each lane's run.
    starts: [u32; GROUP / LANE],
}

impl Taps {
    /// Fills the table for the outputs in `range` when `source` pixels are resized to `target` pixels. Does nothing
    /// if the table already holds these.
    ///
    /// # Source
    /// `INTER_LINEAR_EXACT` in OpenCV's `resize.cpp`; its soft doubles are IEEE doubles.
    pub fn prepare(&mut self, source: usize, target: usize, range: Range<usize>) {
        if (self.source, self.target) == (source, target) && self.range == range {
            return;
        }
        (self.source, self.target, self.range) = (source, target, range.clone());
        self.pairs.clear();
        let scale = 1.0 / (target as f64 / source as f64);
        self.pairs.extend(range.map(|d| {
            let v = scale * (d as f64 + 0.5) - 0.5;
            let left = v.floor();
            if left < 0.0 || source == 1 {
                (0, 0)
            } else if left as usize >= source - 1 {
                (source as u32 - 1, 0)
            } else {
                (left as u32, ((v - left) * 256.0).round_ties_even() as u16)
            }
        }));
        self.groups.clear();
        if source >= RUN {
            let groups: Option<Vec<Group>> =
                self.pairs.chunks(GROUP).map(|pairs| Group::new(pairs, source)).collect();
            self.groups = groups.unwrap_or_default();
        }
    }

    /// The range of outputs.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// For each output, the index of its left neighbour and the weight of the right one in 256ths: 0 to 256.
    pub fn pairs(&self) -> &[(u32, u16)] {
        &self.pairs
    }

    /// The length of the rows that the passes work on: the number of outputs, rounded up to whole groups.
    pub fn padded_len(&self) -> usize {
        self.pairs.len().next_multiple_of(GROUP)
    }
}

impl Group {
    /// Makes the group of up to eight outputs. `None` if the outputs of a lane span more than a run.
    fn new(pairs: &[(u32, u16)], source: usize) -> Option<Self> {
        let mut group =
            Self { shuffle: [0x80; 4 * GROUP], weights: [0; 2 * GROUP], starts: [0; GROUP / LANE] };
        for (lane, pairs) in pairs.chunks(LANE).enumerate() {
            let start = (pairs[0].0).min((source - RUN) as u32);
            group.starts[lane] = start;
            for (i, &(left, weight)) in pairs.iter().enumerate() {
                let right = (left + 1).min(source as u32 - 1);
                if (right - start) as usize >= RUN {
                    return None;
                }
                let i = lane * LANE + i;
                group.shuffle[4 * i] = (left - start) as u8;
                group.shuffle[4 * i + 2] = (right - start) as u8;
                group.weights[2 * i] = 256 - weight as i16;
                group.weights[2 * i + 1] = weight as i16;
            }
        }
        Some(group)
    }
}

/// Resizes one row along x. The results are pixel values times 256.
#[inline(always)]
pub(super) fn row(source: &[u8], taps: &Taps, out: &mut [u16]) {
    let last = source.len() - 1;
    for (&(left, weight), out) in taps.pairs.iter().zip(out) {
        let left = left as usize;
        let (a, b) = (u32::from(source[left]), u32::from(source[(left + 1).min(last)]));
        *out = (a * (256 - u32::from(weight)) + b * u32::from(weight)) as u16;
    }
}

/// Mixes two results of [`row`]. `weight` is that of the lower one, in 256ths.
#[inline(always)]
pub(super) fn mix(upper: &[u16], lower: &[u16], weight: u16, out: &mut [u8]) {
    let weight = u32::from(weight);
    for ((&a, &b), out) in upper.iter().zip(lower).zip(out) {
        *out = ((u32::from(a) * (256 - weight) + u32::from(b) * weight + 32768) >> 16) as u8;
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn run(source: &[u8], start: u32) -> &[u8; RUN] {
    source[start as usize..].first_chunk().expect("a run of pixels")
}

/// [`row`] by byte shuffles.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
#[target_feature(enable = "avx2")]
pub(super) fn row_avx2(source: &[u8], taps: &Taps, out: &mut [u16]) {
    use std::arch::x86_64::{
        _mm_packus_epi32, _mm_storeu_si128, _mm256_castsi256_si128, _mm256_extracti128_si256,
        _mm256_loadu_si256, _mm256_loadu2_m128i, _mm256_madd_epi16, _mm256_shuffle_epi8,
    };
    if taps.groups.is_empty() {
        return row(source, taps, out);
    }
    for (group, out) in taps.groups.iter().zip(out.as_chunks_mut::<GROUP>().0) {
        let [low, high] = group.starts;
        let (low, high) = (run(source, low), run(source, high));
        // SAFETY: the pointers come from arrays of exactly the size that is read or written.
        unsafe {
            let pixels = _mm256_loadu2_m128i(high.as_ptr().cast(), low.as_ptr().cast());
            let shuffle = _mm256_loadu_si256(group.shuffle.as_ptr().cast());
            let weights = _mm256_loadu_si256(group.weights.as_ptr().cast());
            let sums = _mm256_madd_epi16(_mm256_shuffle_epi8(pixels, shuffle), weights);
            let packed =
                _mm_packus_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
            _mm_storeu_si128(out.as_mut_ptr().cast(), packed);
        }
    }
}
