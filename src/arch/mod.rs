//! The kernels that gain from wide registers, behind one table of functions for each instruction set.
//!
//! Each kernel is safe scalar Rust that the compiler vectorises. The variants compile the same source for
//! wider instruction sets; only three kernels have a second version, in intrinsics. All variants give the
//! same bits: no kernel reassociates floats, and multiply-adds are fused only where the source says so.
//!
//! Kernels consist of loops and `#[inline(always)]` functions, because only these are compiled for the
//! wider set. Closures are not: with one codegen unit for the crate, or link-time optimisation, the
//! compiler leaves them out of line and compiles them for the baseline.

mod blur;
mod brief;
mod fast;
mod gram;
mod gray;
mod hamming;
mod patch;
mod products;
mod project;
mod resize;
mod simd;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub(crate) use blur::GAUSS_LEN;
pub(crate) use fast::{RADIUS, RingRows};
pub(crate) use gram::{GRAM_ROWS, GRAM_SIDE, GramSums};
pub(crate) use hamming::{HAMMING_LANES, HAMMING_WORDS, HammingBlock};
pub(crate) use patch::{HARRIS_RUN, HARRIS_SIDE, PATCH_RUN, PatchRow};
pub(crate) use products::{PANEL, PANEL_ROWS, Panel, power_above};
pub(crate) use project::{Float, Loadings};
pub(crate) use resize::Taps;
pub use simd::Simd;

/// A row that is computed in blocks.
trait Row<T> {
    /// The block of `B` that begins at `start`; always inlined.
    fn block<const B: usize>(&self, start: usize) -> [T; B];
}

/// Fills a row in blocks of `B` elements. The last block may overlap the one before it. A row shorter
/// than one block is filled element by element.
#[inline(always)]
fn fill<const B: usize, T: Copy>(out: &mut [T], row: &impl Row<T>) {
    let len = out.len();
    if len < B {
        for (i, out) in out.iter_mut().enumerate() {
            [*out] = row.block(i);
        }
        return;
    }
    let mut at = 0;
    while at < len {
        let start = at.min(len - B);
        out[start..start + B].copy_from_slice(&row.block::<B>(start));
        at += B;
    }
}

/// Distances of a descriptor to blocks of others.
pub(crate) type Distances = fn(
    query: &[u32; HAMMING_WORDS],
    blocks: &[HammingBlock],
    out: &mut [[u16; HAMMING_LANES]],
) -> u16;

/// One function for each kernel.
#[derive(Clone, Copy)]
#[allow(clippy::type_complexity)] // Each type is written only once, here.
pub(crate) struct Kernels {
    pub simd: Simd,
    /// [`gray::gray`].
    pub gray: fn(colors: &[u8], channels: usize, weights: [u32; 3], out: &mut [u8]),
    /// [`resize::row`].
    pub resize_row: fn(source: &[u8], taps: &Taps, out: &mut [u16]),
    /// [`resize::mix`].
    pub resize_mix: fn(upper: &[u16], lower: &[u16], weight: u16, out: &mut [u8]),
    /// [`fast::scores`].
    pub fast_scores: fn(rows: &RingRows<'_>, threshold: u8, out: &mut [u8]) -> bool,
    /// [`fast::peaks`].
    pub fast_peaks: fn(above: &[u8], here: &[u8], below: &[u8], out: &mut [u8]),
    /// [`patch::harris`].
    pub harris: fn(pixels: &[u8], stride: usize) -> [i32; 3],
    /// [`patch::moments`].
    pub moments: fn(pixels: &[u8], stride: usize, rows: &[PatchRow]) -> (i32, i32),
    /// [`blur::row`].
    pub blur_row: fn(source: &[u8], fused: usize, out: &mut [f32]),
    /// [`blur::column`].
    pub blur_column: fn(rows: &[&[f32]; GAUSS_LEN], start: usize, fused: usize, out: &mut [u8]),
    /// [`brief::places`].
    pub brief_places:
        fn(x: &[f32], y: &[f32], turn: (f32, f32), centre: i32, stride: i32, out: &mut [u32]),
    /// [`gram::gram`].
    pub gram: fn(rows: &[[u8; GRAM_SIDE]], sums: &mut GramSums),
    /// [`hamming::by_bytes`] of bits.
    pub hamming: Distances,
    /// [`hamming::by_bytes`] of pairs of bits.
    pub hamming2: Distances,
    /// [`products::fill_panels`].
    pub fill_panels: fn(block: &[f32], d: usize, start: usize, panels: &mut [Panel]),
    /// [`products::add_products`].
    pub add_products: fn(left: &Panel, right: &Panel, gram: &mut [f64], stride: usize),
    /// [`project::project`].
    pub project_f32: fn(rows: &[f32], loadings: &Loadings<f32>, scores: &mut [f32]),
    /// [`project::project`].
    pub project_f64: fn(rows: &[f64], loadings: &Loadings<f64>, scores: &mut [f64]),
}

impl Kernels {
    /// Plain Rust for the baseline: the reference for the other variants.
    pub const SCALAR: Self = Self {
        simd: Simd::Scalar,
        gray: gray::gray,
        resize_row: resize::row,
        resize_mix: resize::mix,
        fast_scores: fast::scores::<16, 16>,
        fast_peaks: fast::peaks::<16>,
        harris: patch::harris,
        moments: patch::moments,
        blur_row: blur::row::<8>,
        blur_column: blur::column::<8>,
        brief_places: brief::places,
        gram: gram::gram,
        hamming: hamming::by_bytes::<false>,
        hamming2: hamming::by_bytes::<true>,
        fill_panels: products::fill_panels,
        add_products: products::add_products::<1, 8>,
        project_f32: project::project::<f32, 2>,
        project_f64: project::project::<f64, 1>,
    };

    /// The kernels of the instruction set in use.
    pub fn current() -> Self {
        Self::of(Simd::current())
    }

    /// The kernels of an instruction set that is available.
    fn of(simd: Simd) -> Self {
        match simd {
            Simd::Scalar => Self::SCALAR,
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 => x86_64::avx2::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 => x86_64::avx512(),
            #[cfg(not(target_arch = "x86_64"))]
            Simd::Avx2 | Simd::Avx512 => unreachable!("{simd} is not available"),
        }
    }

    /// The variants that this machine can run.
    #[cfg(test)]
    pub fn available() -> impl Iterator<Item = Self> {
        Simd::available().into_iter().map(Self::of)
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kernels").field(&self.simd).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    fn noise(seed: u32, len: usize) -> Vec<u8> {
        let mut state = seed;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..len).map(next).collect()
    }

    /// Compares the result of each variant with that of the scalar kernels.
    fn check<T: PartialEq + std::fmt::Debug>(what: &str, run: impl Fn(&Kernels) -> T) {
        let want = run(&Kernels::SCALAR);
        for kernels in Kernels::available() {
            assert_eq!(run(&kernels), want, "{what}, {kernels:?}");
        }
    }

    /// Pairs of width and start: widths around the block lengths, each at three alignments.
    fn places() -> impl Iterator<Item = (usize, usize)> {
        // Miri is slow.
        let all = if cfg!(miri) { 15..19 } else { 1..40 };
        let widths =
            all.chain([47, 48, 49, 63, 64, 65, 127, 129, 200].into_iter().filter(|_| !cfg!(miri)));
        widths.flat_map(|width| (0..3).map(move |start| (width, start)))
    }

    #[test]
    fn blurred_rows_and_columns_have_the_scalar_bits() {
        for (width, start) in places() {
            let pixels = noise(7, start + width + 6);
            let sums: Vec<Vec<f32>> = (0..7)
                .map(|k| noise(k, width + start).into_iter().map(|v| f32::from(v) * 0.99).collect())
                .collect();
            let sums: [&[f32]; 7] = std::array::from_fn(|i| sums[i].as_slice());
            for fused in [0, width / 4 * 4, width / 2, width] {
                check(&format!("{width} {start} {fused}"), |k| {
                    let (mut row, mut column) = (vec![0.0; width], vec![0; width]);
                    (k.blur_row)(&pixels[start..], fused, &mut row);
                    (k.blur_column)(&sums, start, fused, &mut column);
                    (row.into_iter().map(f32::to_bits).collect::<Vec<_>>(), column)
                });
            }
        }
    }

    #[test]
    fn scores_and_peaks_are_the_scalar_ones() {
        for (width, start) in places() {
            // Noise, and noise with few values, which has corners and ties.
            for mask in [255, 0x80, 3] {
                let rows: Vec<Vec<u8>> = (0..7)
                    .map(|k| noise(k, start + width + 6).iter().map(|v| v & mask).collect())
                    .collect();
                let rows: [&[u8]; 7] = std::array::from_fn(|i| &rows[i][start..]);
                for threshold in [0, 1, 20, 127, 255] {
                    check(&format!("{width} {start} {mask} {threshold}"), |k| {
                        let (mut scores, mut peaks) = (vec![9; width], vec![9; width]);
                        let any = (k.fast_scores)(&rows, threshold, &mut scores);
                        assert!(any || scores.iter().all(|&s| s == 0));
                        (k.fast_peaks)(rows[0], rows[1], rows[2], &mut peaks);
                        (scores, peaks)
                    });
                }
            }
        }
    }

    #[test]
    fn grey_values_are_the_scalar_ones() {
        for (width, start) in places() {
            let colors = noise(11, start + 4 * width);
            check(&format!("{width} {start}"), |k| {
                [3, 4].map(|channels| {
                    let mut gray = vec![9; width];
                    (k.gray)(&colors[start..], channels, [3735, 19235, 9798], &mut gray);
                    gray
                })
            });
        }
    }

    #[test]
    fn resized_rows_are_the_scalar_ones() {
        for (target, start) in places() {
            for (numerator, denominator) in
                [(12, 10), (10, 10), (7, 10), (14, 10), (51, 10), (300, 7)]
            {
                let source = (target * numerator / denominator).max(1);
                let pixels = noise(3, start + source);
                let row = |kernels: &Kernels, range: Range<usize>| {
                    let mut taps = Taps::default();
                    taps.prepare(source, target, range.clone());
                    let mut out = vec![0; taps.padded_len()];
                    (kernels.resize_row)(&pixels[start..], &taps, &mut out);
                    out.truncate(range.len());
                    out
                };
                let middle = target / 3..target - target / 5;
                let want = &row(&Kernels::SCALAR, 0..target)[middle.clone()];
                assert_eq!(row(&Kernels::SCALAR, middle.clone()), want, "{source} to {target}");
                check(&format!("{source} to {target}"), |k| {
                    let (upper, part) = (row(k, 0..target), row(k, middle.clone()));
                    let mut lower = upper.clone();
                    lower.rotate_left(1);
                    let mixed = [0, 1, 100, 255, 256].map(|weight| {
                        let mut mixed = vec![0; target];
                        (k.resize_mix)(&upper, &lower, weight, &mut mixed);
                        mixed
                    });
                    (upper, part, mixed)
                });
            }
        }
    }

    #[test]
    fn sums_over_patches_are_the_scalar_ones() {
        for stride in [32, 33, 100] {
            for seed in 0..20 {
                let mut pixels = noise(seed, stride * 32);
                if seed == 0 {
                    pixels.fill(255);
                }
                let row =
                    |v: usize| std::array::from_fn(|i| if i.abs_diff(15) <= v { 255 } else { 0 });
                for half in [0, 1, 4, 7, 8, 15] {
                    let rows: Vec<PatchRow> = (0..=2 * half)
                        .map(|r| row(half.min(r + 3).min(2 * half + 3 - r)))
                        .collect();
                    check(&format!("{stride} {seed} {half}"), |k| {
                        ((k.moments)(&pixels[1..], stride, &rows), (k.harris)(&pixels[1..], stride))
                    });
                }
            }
        }
    }

    #[test]
    fn scores_of_rows_have_the_scalar_bits() {
        for (n, d, k) in [
            (0, 3, 2),
            (1, 1, 1),
            (3, 32, 20),
            (9, 32, 32),
            (21, 5, 3),
            (8, 33, 17),
            (17, 40, 28),
            (9, 30, 29),
            (5, 16, 8),
            (5, 16, 10),
        ] {
            let floats = |seed, len| -> Vec<f64> {
                noise(seed, len).into_iter().map(|v| f64::from(v) / 77.0).collect()
            };
            let (rows, components) = (floats(1, n * d), floats(2, k * d));
            let components: Vec<_> = components.chunks(d).map(|c| (c[0] - 1.0, c)).collect();
            check(&format!("{n} x {d} to {k}"), |kernels| {
                let mut scores = vec![f64::NAN; n * k];
                (kernels.project_f64)(&rows, &Loadings::new(d, &components), &mut scores);
                scores.into_iter().map(f64::to_bits).collect::<Vec<_>>()
            });
            let rows: Vec<f32> = rows.iter().map(|&v| v as f32).collect();
            check(&format!("{n} x {d} to {k}, f32"), |kernels| {
                let mut scores = vec![f32::NAN; n * k];
                (kernels.project_f32)(&rows, &Loadings::new(d, &components), &mut scores);
                scores.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            });
        }
    }

    #[test]
    fn sums_of_products_are_the_scalar_ones() {
        let few = if cfg!(miri) { 4 } else { 301 };
        for n in [0, 1, 2, 3, 127, 128, 129, 300].into_iter().filter(|&n| n < few) {
            for mask in [255, 1] {
                let rows: Vec<[u8; GRAM_SIDE]> = (0..n)
                    .map(|r| noise(r, GRAM_SIDE).try_into().unwrap())
                    .map(|row: [u8; GRAM_SIDE]| row.map(|v| v | !mask))
                    .collect();
                check(&format!("{n} {mask}"), |k| {
                    let mut sums = GramSums::ZERO;
                    (k.gram)(&rows, &mut sums);
                    for (i, row) in sums.of_products.iter_mut().enumerate() {
                        row[..i].fill(0);
                    }
                    sums
                });
            }
        }
    }

    #[test]
    fn products_of_panels_have_the_scalar_bits() {
        for (n, d) in [(1, 1), (2, 33), (7, 64), (PANEL_ROWS, 70)] {
            let n = if cfg!(miri) { n.min(8) } else { n };
            let block = noise(n as u32, n * d);
            let block: Vec<f32> = block
                .iter()
                .enumerate()
                .map(|(i, &v)| f32::from(v) + (i % d * 99) as f32)
                .collect();
            check(&format!("{n} x {d}"), |kernels| {
                let mut panels = vec![Panel::default(); d.div_ceil(PANEL)];
                let (first, rest) = panels.split_at_mut(1);
                (kernels.fill_panels)(&block, d, 0, first);
                (kernels.fill_panels)(&block, d, PANEL, rest);
                let sums = panels.iter().map(|right| {
                    let mut gram = vec![7.0_f64; PANEL * (PANEL + 3)];
                    (kernels.add_products)(&panels[0], right, &mut gram, PANEL + 3);
                    gram.into_iter().map(f64::to_bits).collect::<Vec<_>>()
                });
                (sums.collect::<Vec<_>>(), panels.clone())
            });
        }
    }

    #[test]
    fn distances_are_the_scalar_ones_and_those_of_bits() {
        let words = |seed: u32| -> Vec<u32> {
            let bytes = noise(seed, 4 * HAMMING_WORDS * HAMMING_LANES);
            bytes.chunks(4).map(|b| u32::from_ne_bytes(b.try_into().unwrap())).collect()
        };
        for n in 0..6 {
            let mut blocks: Vec<HammingBlock> =
                (0..n).map(|seed| words(seed).as_chunks().0.to_vec().try_into().unwrap()).collect();
            let query: [u32; HAMMING_WORDS] = words(99)[..HAMMING_WORDS].try_into().unwrap();
            // Both extremes.
            for (block, flip) in blocks.iter_mut().zip([0, u32::MAX]) {
                for (words, query) in block.iter_mut().zip(query) {
                    words[5] = query ^ flip;
                }
            }
            let bits = |block: &HammingBlock, lane: usize, in_pairs: bool| {
                let of_words = block.iter().zip(query).map(|(words, query)| {
                    let (bits, pairs) = (words[lane] ^ query, (0..16).map(|i| 3 << (2 * i)));
                    let pairs = pairs.filter(|pair: &u32| bits & pair != 0).count();
                    if in_pairs { pairs as u32 } else { bits.count_ones() }
                });
                of_words.sum::<u32>() as u16
            };
            for in_pairs in [false, true] {
                check(&format!("{n} {in_pairs}"), |k| {
                    let kernel = if in_pairs { k.hamming2 } else { k.hamming };
                    let mut out = vec![[9; HAMMING_LANES]; blocks.len()];
                    let least = kernel(&query, &blocks, &mut out);
                    let want = blocks
                        .iter()
                        .map(|block| std::array::from_fn(|lane| bits(block, lane, in_pairs)));
                    assert_eq!(out, want.collect::<Vec<_>>());
                    assert_eq!(least, out.as_flattened().iter().copied().min().unwrap_or(u16::MAX));
                });
            }
        }
    }

    #[test]
    fn turned_patterns_are_the_scalar_ones() {
        for seed in 0..40 {
            let noise = noise(seed, 1024);
            let coordinate = |v: &u8| f32::from(*v as i8) / 8.0;
            let x: Vec<f32> = noise[..512].iter().map(coordinate).collect();
            let y: Vec<f32> = noise[512..].iter().map(coordinate).collect();
            check(&format!("{seed}"), |k| {
                let mut places = vec![0; 512 - seed as usize];
                let turn = (seed as f32 * 0.3).sin_cos();
                (k.brief_places)(&x, &y, turn, 20_000, 640, &mut places);
                places
            });
        }
    }
}
