//! Projection of rows onto components.

use std::ops::{Add, Mul};

use super::Kernels;

/// Lane counts: 16 components at a time, then 8 or 4 for the last ones.
const WIDE: usize = 16;
const HALF: usize = 8;
const NARROW: usize = 4;
/// Elements of a row that are loaded with one bounds check.
const STEP: usize = 8;

/// The type of the scores' sums: `f32` or `f64`.
pub(crate) trait Float:
    Copy + Default + Send + Sync + Add<Output = Self> + Mul<Output = Self> + 'static
{
    /// The value of this type nearest to `number`.
    fn nearest(number: f64) -> Self;

    /// The projection kernel for this type.
    fn project(kernels: &Kernels) -> Project<Self>;
}

/// [`project`].
pub(crate) type Project<F> = fn(rows: &[F], loadings: &Loadings<F>, scores: &mut [F]);

impl Float for f32 {
    fn nearest(number: f64) -> Self {
        number as f32
    }

    fn project(kernels: &Kernels) -> Project<Self> {
        kernels.project_f32
    }
}

impl Float for f64 {
    fn nearest(number: f64) -> Self {
        number
    }

    fn project(kernels: &Kernels) -> Project<Self> {
        kernels.project_f64
    }
}

/// The components of a model, as the kernel reads them.
#[derive(Clone, Debug)]
pub(crate) struct Loadings<F> {
    dimensions: usize,
    n_components: usize,
    wide: Vec<Chunk<F, WIDE>>,
    half: Vec<Chunk<F, HALF>>,
    narrow: Vec<Chunk<F, NARROW>>,
}

/// `L` components; unused lanes hold zeros.
#[derive(Clone, Debug)]
struct Chunk<F, const L: usize> {
    /// Initial value of each sum.
    start: [F; L],
    /// One array for each dimension.
    factors: Vec<[F; L]>,
}

impl<F: Float, const L: usize> Chunk<F, L> {
    fn new(dimensions: usize, components: &[(f64, impl AsRef<[f64]>)]) -> Self {
        let zeros = [F::default(); L];
        let mut chunk = Self { start: zeros, factors: vec![zeros; dimensions] };
        for (lane, (start, component)) in components.iter().enumerate() {
            chunk.start[lane] = F::nearest(*start);
            for (factors, &factor) in chunk.factors.iter_mut().zip(component.as_ref()) {
                factors[lane] = F::nearest(factor);
            }
        }
        chunk
    }
}

impl<F: Float> Loadings<F> {
    /// Takes the initial value of the sum and the factors of each component.
    pub fn new(dimensions: usize, components: &[(f64, impl AsRef<[f64]>)]) -> Self {
        let (wide, rest) = components.split_at(wide_len(components.len()));
        let (half, narrow) =
            rest.split_at(if rest.len() > NARROW { HALF.min(rest.len()) } else { 0 });
        Self {
            dimensions,
            n_components: components.len(),
            wide: wide.chunks(WIDE).map(|c| Chunk::new(dimensions, c)).collect(),
            half: half.chunks(HALF).map(|c| Chunk::new(dimensions, c)).collect(),
            narrow: narrow.chunks(NARROW).map(|c| Chunk::new(dimensions, c)).collect(),
        }
    }
}

/// The number of components in wide chunks: all of them, if fewer than [`NARROW`] lanes of the last chunk
/// stay unused.
fn wide_len(n_components: usize) -> usize {
    let rest = n_components % WIDE;
    if rest > HALF + NARROW { n_components } else { n_components - rest }
}

/// Writes the scores of rows, `R` rows at a time. `rows` and `scores` are row-major.
///
/// Each score is summed in the order of the elements, without a fused multiply-add.
#[inline(always)]
pub(super) fn project<F: Float, const R: usize>(
    rows: &[F],
    loadings: &Loadings<F>,
    scores: &mut [F],
) {
    let (d, k) = (loadings.dimensions, loadings.n_components);
    let whole = rows.len() / (R * d) * R;
    let (many, rest) = rows.split_at(whole * d);
    let (many_scores, rest_scores) = scores.split_at_mut(whole * k);
    for (rows, scores) in many.chunks_exact(R * d).zip(many_scores.chunks_exact_mut(R * k)) {
        block::<F, R>(rows, loadings, scores);
    }
    for (row, scores) in rest.chunks_exact(d).zip(rest_scores.chunks_exact_mut(k)) {
        block::<F, 1>(row, loadings, scores);
    }
}

#[inline(always)]
fn block<F: Float, const R: usize>(values: &[F], loadings: &Loadings<F>, scores: &mut [F]) {
    let mut from = 0;
    for chunk in &loadings.wide {
        part::<F, R, WIDE>(values, loadings, chunk, from, scores);
        from += WIDE;
    }
    for chunk in &loadings.half {
        part::<F, R, HALF>(values, loadings, chunk, from, scores);
        from += HALF;
    }
    for chunk in &loadings.narrow {
        part::<F, R, NARROW>(values, loadings, chunk, from, scores);
        from += NARROW;
    }
}

/// Writes the scores of one chunk, whose first component is number `from`.
#[inline(always)]
fn part<F: Float, const R: usize, const L: usize>(
    values: &[F],
    loadings: &Loadings<F>,
    chunk: &Chunk<F, L>,
    from: usize,
    scores: &mut [F],
) {
    let (d, k) = (loadings.dimensions, loadings.n_components);
    let mut sums = [chunk.start; R];
    let (steps, rest) = chunk.factors.as_chunks::<STEP>();
    for (step, factors) in steps.iter().enumerate() {
        let zeros = [F::default(); STEP];
        let mut rows = [&zeros; R];
        for r in 0..R {
            let elements = &values[r * d + step * STEP..];
            rows[r] = elements.first_chunk().expect("the rows have an element for each factor");
        }
        for i in 0..STEP {
            for r in 0..R {
                sums[r] = add(sums[r], rows[r][i], &factors[i]);
            }
        }
    }
    for (i, factors) in rest.iter().enumerate() {
        for r in 0..R {
            sums[r] = add(sums[r], values[r * d + steps.len() * STEP + i], factors);
        }
    }
    let lanes = L.min(k - from);
    for r in 0..R {
        let scores = &mut scores[r * k + from..][..lanes];
        // A copy of constant length is inlined; `copy_from_slice` would be a call for each row.
        if let Some(scores) = scores.first_chunk_mut::<L>() {
            *scores = sums[r];
        } else {
            scores.copy_from_slice(&sums[r][..lanes]);
        }
    }
}

/// The sums with the products of `value` and each factor added, without a fused multiply-add.
///
/// Takes the sums by value, because the compiler does not keep sums behind a reference in wide registers.
#[inline(always)]
fn add<F: Float, const L: usize>(sums: [F; L], value: F, factors: &[F; L]) -> [F; L] {
    let mut added = sums;
    for lane in 0..L {
        added[lane] = sums[lane] + value * factors[lane];
    }
    added
}
