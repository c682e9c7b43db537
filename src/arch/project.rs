//! Projection of rows onto components.

/// The components that are worked on together.
pub(crate) const LANES: usize = 8;

/// The components of a model, as the kernel reads them.
#[derive(Clone, Debug)]
pub(crate) struct Loadings {
    dimensions: usize,
    n_components: usize,
    /// For each [`LANES`] components what their sums begin with.
    start: Vec<[f64; LANES]>,
    /// For each [`LANES`] components one array for each dimension, filled up with zeros.
    factors: Vec<[f64; LANES]>,
}

impl Loadings {
    /// Takes, for each component, what its sum begins with and its factors.
    pub fn new<'a>(
        dimensions: usize,
        components: impl ExactSizeIterator<Item = (f64, impl IntoIterator<Item = &'a f64>)>,
    ) -> Self {
        let n_components = components.len();
        let chunks = n_components.div_ceil(LANES);
        let mut start = vec![[0.0; LANES]; chunks];
        let mut factors = vec![[0.0; LANES]; chunks * dimensions];
        for (c, (first, component)) in components.enumerate() {
            let (chunk, lane) = (c / LANES, c % LANES);
            start[chunk][lane] = first;
            let factors = &mut factors[chunk * dimensions..][..dimensions];
            for (factors, &factor) in factors.iter_mut().zip(component) {
                factors[lane] = factor;
            }
        }
        Self { dimensions, n_components, start, factors }
    }
}

/// Writes the scores of rows, both one row after the other; `R` rows are worked on together.
///
/// Each score is summed in the order of the elements, without a fused multiply-add.
#[inline(always)]
pub(super) fn project<const R: usize>(rows: &[f64], loadings: &Loadings, scores: &mut [f64]) {
    let (d, k) = (loadings.dimensions, loadings.n_components);
    let whole = rows.len() / (R * d) * R;
    let (many, rest) = rows.split_at(whole * d);
    let (many_scores, rest_scores) = scores.split_at_mut(whole * k);
    for (rows, scores) in many.chunks_exact(R * d).zip(many_scores.chunks_exact_mut(R * k)) {
        block::<R>(rows, loadings, scores);
    }
    for (row, scores) in rest.chunks_exact(d).zip(rest_scores.chunks_exact_mut(k)) {
        block::<1>(row, loadings, scores);
    }
}

#[inline(always)]
fn block<const R: usize>(values: &[f64], loadings: &Loadings, scores: &mut [f64]) {
    let (d, k) = (loadings.dimensions, loadings.n_components);
    let mut rows = [&values[..d]; R];
    for (row, values) in rows.iter_mut().zip(values.chunks_exact(d)) {
        *row = &values[..d];
    }
    for (chunk, start) in loadings.start.iter().enumerate() {
        let mut sums = [*start; R];
        for (i, factors) in loadings.factors[chunk * d..][..d].iter().enumerate() {
            for r in 0..R {
                sums[r] = add(sums[r], rows[r][i], factors);
            }
        }
        let (from, to) = (chunk * LANES, k.min((chunk + 1) * LANES));
        for r in 0..R {
            scores[r * k + from..r * k + to].copy_from_slice(&sums[r][..to - from]);
        }
    }
}

/// By value: sums that are written through references are not kept in wide registers.
#[inline(always)]
fn add(sums: [f64; LANES], value: f64, factors: &[f64; LANES]) -> [f64; LANES] {
    let mut added = [0.0; LANES];
    for lane in 0..LANES {
        added[lane] = sums[lane] + value * factors[lane];
    }
    added
}
