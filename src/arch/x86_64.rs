//! The kernels compiled for the wider instruction sets of x86-64.
#![allow(unsafe_code)]

use super::hamming::avx512::by_words;
use super::{
    GAUSS_LEN, GRAM_SIDE, GramSums, HAMMING_LANES, HAMMING_WORDS, HammingBlock, Kernels, Loadings,
    Panel, PatchRow, RingRows, Simd, Taps, blur, brief, fast, gram, gray, hamming, patch, products,
    project, resize,
};

/// Compiles the kernels with target features enabled, and makes the table of them.
macro_rules! kernels {
    (
        $simd:ident, $module:ident, $features:literal,
        $($name:ident = $kernel:expr, ($($arg:ident: $type:ty),*) $(-> $out:ty)?;)*
    ) => {
        pub(super) mod $module {
            use super::*;

            /// Only for machines whose [`Simd::available`] contains this set.
            pub const KERNELS: Kernels = Kernels {
                simd: Simd::$simd,
                $(
                    $name: {
                        #[target_feature(enable = $features)]
                        fn $name($($arg: $type),*) $(-> $out)? {
                            $kernel($($arg),*)
                        }
                        // SAFETY: the table is used only on CPUs that have these features.
                        |$($arg),*| unsafe { $name($($arg),*) }
                    },
                )*
            };
        }
    };
    ($simd:ident, $module:ident, $features:literal, $wide:literal, $narrow:literal, $rows:literal, $rows64:literal, $groups:literal) => {
        kernels! {
            $simd, $module, $features,
            gray = gray::gray, (colors: &[u8], channels: usize, weights: [u32; 3], out: &mut [u8]);
            resize_row = resize::row_avx2, (source: &[u8], taps: &Taps, out: &mut [u16]);
            resize_mix = resize::mix, (upper: &[u16], lower: &[u16], weight: u16, out: &mut [u8]);
            fast_scores = fast::scores::<$wide, $narrow>,
                (rows: &RingRows<'_>, threshold: u8, out: &mut [u8]) -> bool;
            fast_peaks = fast::peaks::<$wide>, (above: &[u8], here: &[u8], below: &[u8], out: &mut [u8]);
            harris = patch::harris, (pixels: &[u8], stride: usize) -> [i32; 3];
            moments = patch::moments, (pixels: &[u8], stride: usize, rows: &[PatchRow]) -> (i32, i32);
            blur_row = blur::row::<$narrow>, (source: &[u8], fused: usize, out: &mut [f32]);
            blur_column = blur::column::<$narrow>, (rows: &[&[f32]; GAUSS_LEN], start: usize, fused: usize, out: &mut [u8]);
            brief_places = brief::places,
                (x: &[f32], y: &[f32], turn: (f32, f32), centre: i32, stride: i32, out: &mut [u32]);
            gram = gram::avx2::gram, (rows: &[[u8; GRAM_SIDE]], sums: &mut GramSums);
            hamming = hamming::by_bytes::<false>,
                (query: &[u32; HAMMING_WORDS], blocks: &[HammingBlock], out: &mut [[u16; HAMMING_LANES]]) -> u16;
            hamming2 = hamming::by_bytes::<true>,
                (query: &[u32; HAMMING_WORDS], blocks: &[HammingBlock], out: &mut [[u16; HAMMING_LANES]]) -> u16;
            fill_panels = products::fill_panels, (block: &[f32], d: usize, start: usize, panels: &mut [Panel]);
            add_products = products::add_products::<$groups, 16>,
                (left: &Panel, right: &Panel, gram: &mut [f64], stride: usize);
            project_f32 = project::project::<f32, $rows>,
                (rows: &[f32], loadings: &Loadings<f32>, scores: &mut [f32]);
            project_f64 = project::project::<f64, $rows64>,
                (rows: &[f64], loadings: &Loadings<f64>, scores: &mut [f64]);
        }
    };
}

// FMA is enabled for speed: without it, each `mul_add` is a library call.
kernels!(Avx2, avx2, "avx2,fma,bmi1,bmi2,lzcnt,popcnt", 32, 16, 4, 2, 1);
kernels!(
    Avx512,
    avx512,
    "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,lzcnt,popcnt",
    64,
    16,
    8,
    4,
    4
);

/// The kernels for AVX-512. Distances have a version for the machines of it that can count bits.
///
/// Only for machines whose [`Simd::available`] contains this set.
pub(super) fn avx512() -> Kernels {
    let kernels = avx512::KERNELS;
    if !is_x86_feature_detected!("avx512vpopcntdq") {
        return kernels;
    }
    Kernels {
        // SAFETY: the features are there.
        hamming: |query, blocks, out| unsafe { by_words::<false>(query, blocks, out) },
        // SAFETY: as above.
        hamming2: |query, blocks, out| unsafe { by_words::<true>(query, blocks, out) },
        ..kernels
    }
}
