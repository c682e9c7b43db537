//! The kernels that gain from wide registers, behind one table chosen once for the machine.
//!
//! Each kernel is written once, in safe scalar Rust; the variants compile that same source for
//! wider instruction sets. All of them give the same bits: no kernel reassociates, and a fused
//! multiply-add is one only where the kernel says so.

use std::sync::OnceLock;

mod blur;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub(crate) use blur::TAPS;

/// One function for each kernel.
#[derive(Clone, Copy)]
pub(crate) struct Kernels {
    /// The name of the instruction set.
    pub name: &'static str,
    /// [`blur::row`].
    pub blur_row: fn(source: &[u8], fused: usize, out: &mut [f32]),
    /// [`blur::column`].
    pub blur_column: fn(rows: &[&[f32]; 7], fused: usize, out: &mut [u8]),
}

impl Kernels {
    /// Plain Rust: the oracle of the others.
    pub const SCALAR: Self =
        Self { name: "scalar", blur_row: blur::row, blur_column: blur::column };

    /// The variants that this machine can run, best first; the last is [`Kernels::SCALAR`].
    pub fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        all.extend(x86_64::avx2());
        all.push(Self::SCALAR);
        all
    }

    /// The best variant for this machine.
    pub fn best() -> Self {
        static BEST: OnceLock<Kernels> = OnceLock::new();
        *BEST.get_or_init(|| Self::available()[0])
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kernels").field(&self.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_gives_the_scalar_bits() {
        let mut state = 7_u32;
        let mut byte = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        for width in (1..40).chain([63, 64, 65, 200]) {
            for start in 0..3 {
                let pixels: Vec<u8> = (0..start + width + 6).map(|_| byte()).collect();
                let rows: Vec<Vec<f32>> = (0..7)
                    .map(|_| (0..width).map(|_| f32::from(byte()) * 0.99).collect())
                    .collect();
                let rows: [&[f32]; 7] = std::array::from_fn(|i| rows[i].as_slice());
                for fused in [0, width / 4 * 4, width / 2, width] {
                    let run = |k: Kernels| {
                        let (mut row, mut column) = (vec![0.0; width], vec![0; width]);
                        (k.blur_row)(&pixels[start..], fused, &mut row);
                        (k.blur_column)(&rows, fused, &mut column);
                        (row.into_iter().map(f32::to_bits).collect::<Vec<_>>(), column)
                    };
                    let want = run(Kernels::SCALAR);
                    for kernels in Kernels::available() {
                        assert_eq!(run(kernels), want, "{} {width} {fused}", kernels.name);
                    }
                }
            }
        }
    }
}
