//! The kernels compiled for x86-64 with AVX2 and FMA.
#![allow(unsafe_code)]

use super::{Kernels, blur};

/// The table, if this CPU has AVX2 and FMA.
pub(super) fn avx2() -> Option<Kernels> {
    (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Kernels {
        name: "avx2",
        // SAFETY: the table is only made on a CPU that has these features. They are there for
        // speed: without FMA the scalar `mul_add` is a library call for each product.
        blur_row: |source, fused, out| unsafe { blur_row(source, fused, out) },
        // SAFETY: as above.
        blur_column: |rows, fused, out| unsafe { blur_column(rows, fused, out) },
    })
}

#[target_feature(enable = "avx2,fma")]
fn blur_row(source: &[u8], fused: usize, out: &mut [f32]) {
    blur::row(source, fused, out);
}

#[target_feature(enable = "avx2,fma")]
fn blur_column(rows: &[&[f32]; 7], fused: usize, out: &mut [u8]) {
    blur::column(rows, fused, out);
}
