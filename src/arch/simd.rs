//! Which instruction set the kernels use.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::{Error, Result};

/// An instruction set that the kernels of the extractor and the PCA are compiled for.
///
/// All of them give the same bits. The choice affects only the speed; it is there for tests and benchmarks.
///
/// # Examples
/// ```
/// use orb_features::Simd;
///
/// assert!(Simd::available().contains(&Simd::Scalar));
/// Simd::set(Simd::Scalar)?;
/// assert_eq!(Simd::current(), Simd::Scalar);
/// # Ok::<(), orb_features::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Simd {
    /// The baseline that every machine of the architecture has (SSE2 on x86-64, NEON on aarch64).
    Scalar,
    /// AVX2, FMA, BMI1, BMI2 and LZCNT (x86-64-v3).
    Avx2,
    /// AVX-512 with its F, BW, DQ, VL and CD parts (x86-64-v4).
    Avx512,
}

/// The choice for the process: 0 if there is none, else 1 + the index in [`Simd::ALL`].
static CHOSEN: AtomicU8 = AtomicU8::new(0);

impl Simd {
    const ALL: [Self; 3] = [Self::Scalar, Self::Avx2, Self::Avx512];

    /// The sets that this machine can run, slowest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|simd| simd.is_available()).collect()
    }

    /// The best set that this machine can run.
    #[must_use]
    pub fn best() -> Self {
        let best = Self::ALL.into_iter().rev().find(|simd| simd.is_available());
        best.unwrap_or(Self::Scalar)
    }

    /// The set in use: the best that this machine can run, unless another is [set](Self::set).
    #[must_use]
    pub fn current() -> Self {
        match CHOSEN.load(Ordering::Relaxed) {
            0 => Self::best(),
            chosen => Self::ALL[usize::from(chosen) - 1],
        }
    }

    /// Sets the instruction set of the whole process, for extractors built and models used from now on.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for a set that this machine cannot run.
    pub fn set(simd: Self) -> Result<()> {
        if !simd.is_available() {
            let names: Vec<String> = Self::available().iter().map(Self::to_string).collect();
            return Err(Error::param(
                "simd",
                simd,
                format!("on this machine {}", names.join(", ")),
            ));
        }
        CHOSEN.store(simd as u8 + 1, Ordering::Relaxed);
        Ok(())
    }

    #[cfg(target_arch = "x86_64")]
    fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("bmi1")
                    && is_x86_feature_detected!("bmi2")
                    && is_x86_feature_detected!("lzcnt")
                    && is_x86_feature_detected!("popcnt")
            }
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512cd")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_available(self) -> bool {
        self == Self::Scalar
    }
}

impl fmt::Display for Simd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        })
    }
}

impl FromStr for Simd {
    type Err = Error;

    /// Parses a name, or `auto` for the best set that this machine can run.
    fn from_str(s: &str) -> Result<Self> {
        if s == "auto" {
            return Ok(Self::best());
        }
        let known = Self::ALL.into_iter().find(|simd| simd.to_string() == s);
        known.ok_or_else(|| Error::param("simd", s, "auto, scalar, avx2 or avx512"))
    }
}
