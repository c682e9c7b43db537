//! Projection of rows onto components.

/// The components that are worked on together, and so many of the last ones if these are few.
const WIDE: usize = 8;
const NARROW: usize = 4;
/// The elements of a row that are looked up at once.
const STEP: usize = 8;

/// The components of a model, as the kernel reads them.
#[derive(Clone, Debug)]
pub(crate) struct Loadings {
    dimensions: usize,
    n_components: usize,
    wide: Vec<Chunk<WIDE>>,
    narrow: Option<Chunk<NARROW>>,
}

/// `L` components, those that are missing filled up with zeros.
#[derive(Clone, Debug)]
struct Chunk<const L: usize> {
    /// What the sums begin with.
    start: [f64; L],
    /// One array for each dimension.
    factors: Vec<[f64; L]>,
}

impl<const L: usize> Chunk<L> {
    fn new(dimensions: usize, components: &[(f64, impl AsRef<[f64]>)]) -> Self {
        let mut chunk = Self { start: [0.0; L], factors: vec![[0.0; L]; dimensions] };
        for (lane, (start, component)) in components.iter().enumerate() {
            chunk.start[lane] = *start;
            for (factors, &factor) in chunk.factors.iter_mut().zip(component.as_ref()) {
                factors[lane] = factor;
            }
        }
        chunk
    }
}

impl Loadings {
    /// Takes, for each component, what its sum begins with and its factors.
    pub fn new(dimensions: usize, components: &[(f64, impl AsRef<[f64]>)]) -> Self {
        let n_components = components.len();
        let rest = n_components % WIDE;
        let is_narrow = (1..=NARROW).contains(&rest);
        let (wide, narrow) = components.split_at(n_components - if is_narrow { rest } else { 0 });
        Self {
            dimensions,
            n_components,
            wide: wide.chunks(WIDE).map(|c| Chunk::new(dimensions, c)).collect(),
            narrow: is_narrow.then(|| Chunk::new(dimensions, narrow)),
        }
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
    for (chunk, wide) in loadings.wide.iter().enumerate() {
        part::<R, WIDE>(values, loadings, wide, chunk * WIDE, scores);
    }
    if let Some(narrow) = &loadings.narrow {
        part::<R, NARROW>(values, loadings, narrow, loadings.wide.len() * WIDE, scores);
    }
}

/// The scores of the components from `from` on.
#[inline(always)]
fn part<const R: usize, const L: usize>(
    values: &[f64],
    loadings: &Loadings,
    chunk: &Chunk<L>,
    from: usize,
    scores: &mut [f64],
) {
    let (d, k) = (loadings.dimensions, loadings.n_components);
    let mut sums = [chunk.start; R];
    let (steps, rest) = chunk.factors.as_chunks::<STEP>();
    for (step, factors) in steps.iter().enumerate() {
        let mut rows = [&[0.0; STEP]; R];
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
        // Of a length that is known: no call for each row.
        if let Some(scores) = scores.first_chunk_mut::<L>() {
            *scores = sums[r];
        } else {
            for lane in 0..lanes {
                scores[lane] = sums[r][lane];
            }
        }
    }
}

/// By value: sums that are written through references are not kept in wide registers.
#[inline(always)]
fn add<const L: usize>(sums: [f64; L], value: f64, factors: &[f64; L]) -> [f64; L] {
    let mut added = [0.0; L];
    for lane in 0..L {
        added[lane] = sums[lane] + value * factors[lane];
    }
    added
}
