//! The PCA of vectors so long that a matrix of dimensions x dimensions does not pay: the rows are read several times.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, s};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

use super::covariance::{Covariance, Rows, blocks};
use super::moments::check_finite;
use super::orthonormal::{add_product, orthogonal_to, orthonormal, product};
use super::{PcaInput, PcaModel, PcaParams, PowerIterations, Solver, bits_of, solve};
use crate::error::{Error, Result};
use crate::features::{Element, VectorFormat, VectorsView};

/// Vectors of more elements are not summed up as [`Moments`](super::Moments), whose matrix would be larger than 128 MiB.
const MOST_SUMMED: usize = 4096;
/// At most as many rows are decomposed exactly, by the products of each two of them, if they also fit in
/// [`EXACT_BYTES`].
const EXACT_ROWS: u64 = 2048;
/// Most bytes of rows, as float64, that are held.
const EXACT_BYTES: u64 = 512 << 20;
/// Most bytes of the basis and of its image.
const BASIS_BYTES: usize = 384 << 20;
/// Below this ratio of the least to the largest variance, rounding leaves components that are not orthonormal.
const LEAST_RATIO: f64 = 1e-7;
/// Most passes of [`PowerIterations::Auto`], besides the first, for the mean.
const MOST_PASSES: usize = 10;
/// They end earlier once the residual of every component, relative to the largest eigenvalue, is at most this.
const TOLERANCE: f64 = 1e-7;
/// Or once no variance ratio has changed by more than this in a pass. They are within 1e-5 then, as a pass makes errors
/// several times smaller.
const CHANGE: f64 = 3e-5;

/// Whether vectors are read several times rather than summed up as moments.
pub(crate) fn is_for_passes(format: VectorFormat, input: PcaInput) -> bool {
    input.dimensions(format.len()) > MOST_SUMMED
}

/// What the first pass gives: the number of rows, and sums of elements and of their squares.
#[derive(Clone, Debug)]
pub(crate) struct Totals {
    element: Element,
    input: PcaInput,
    count: u64,
    sum: Array1<f64>,
    squares: Array1<f64>,
}

impl Totals {
    pub fn new(format: VectorFormat, input: PcaInput) -> Self {
        let zeros = Array1::zeros(input.dimensions(format.len()));
        Self { element: format.element(), input, count: 0, squares: zeros.clone(), sum: zeros }
    }

    /// Calls `work` with what the PCA gets of vectors, as floats.
    pub fn floats_of(
        vectors: VectorsView<'_>,
        input: PcaInput,
        work: &mut dyn FnMut(ArrayView2<'_, f32>) -> Result<()>,
    ) -> Result<()> {
        match (vectors, input) {
            (VectorsView::F32(rows), _) => work(rows),
            (VectorsView::U8(rows), PcaInput::Bytes) => work(rows.mapv(f32::from).view()),
            (VectorsView::U8(rows), PcaInput::Bits) => work(bits_of(rows).mapv(f32::from).view()),
        }
    }

    /// What of a vector they are of.
    pub fn input(&self) -> PcaInput {
        self.input
    }

    /// Adds vectors of the format.
    pub fn push(&mut self, vectors: VectorsView<'_>) -> Result<()> {
        Self::floats_of(vectors, self.input, &mut |rows| self.add(rows))
    }

    fn add(&mut self, rows: ArrayView2<'_, f32>) -> Result<()> {
        check_finite(rows)?;
        self.count += rows.nrows() as u64;
        for row in rows.rows() {
            let sums = self.sum.iter_mut().zip(&mut self.squares);
            for ((sum, square), &v) in sums.zip(row) {
                let v = f64::from(v);
                *sum += v;
                *square += v * v;
            }
        }
        Ok(())
    }

    /// Finds the principal components.
    pub fn fit(&self, params: &PcaParams, rows: &mut Rows<'_>) -> Result<PcaModel> {
        let (n, d) = (self.count, self.sum.len());
        params.check(d)?;
        if n < params.needed() {
            return Err(params.too_few_rows(n));
        }
        let count = n as f64;
        let mean = &self.sum / count;
        // As for moments, a difference within the rounding of the sums counts as 0.
        let variances = self.squares.iter().zip(&self.sum).map(|(&square, &sum)| {
            let difference = square - sum * (sum / count);
            let is_noise = difference <= count * f64::EPSILON * square;
            if is_noise { 0.0 } else { difference / (count - 1.0) }
        });
        let variances: Array1<f64> = variances.collect();
        let total = variances.sum();
        if !total.is_finite() {
            return Err(Error::Fit("the variances are beyond what float64 holds".into()));
        }
        let (k, solver) = (params.computed(n, d), params.solver_for(n, d));
        let is_small = n <= EXACT_ROWS && n.saturating_mul(8 * d as u64) <= EXACT_BYTES;
        let (found, iterations) = match solver {
            Solver::Randomized { oversamples, power_iterations, seed }
                if !is_small || power_iterations != PowerIterations::Auto =>
            {
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                let width = k.saturating_add(oversamples).min(d).min(n as usize);
                let start =
                    Array2::from_shape_fn((d, width), |_| StandardNormal.sample(&mut random));
                let covariance = Covariance::new(&mean, &variances, n);
                krylov(&covariance, k, start, power_iterations, rows)?
            }
            _ if is_small => (exact(&mean, n, k, rows)?, 0),
            _ => {
                let why = format!(
                    "the solver {solver}, which a share of the variance needs, takes vectors of up to \
                     {MOST_SUMMED} elements, or {EXACT_ROWS} rows: these are {n} rows of {d}"
                );
                return Err(Error::Fit(why.into()));
            }
        };
        Ok(solve::model(
            self.element,
            n,
            mean,
            total.max(found.0.sum()),
            found,
            (solver, iterations),
            params,
        ))
    }
}

/// Variances, and components as rows.
pub(super) type Found = (Array1<f64>, Array2<f64>);

/// The PCA by the eigenvectors of the Gram matrix of the centred rows.
fn exact(mean: &Array1<f64>, n: u64, k: usize, rows: &mut Rows<'_>) -> Result<Found> {
    let mut centred = Vec::with_capacity(n as usize * mean.len());
    blocks(mean.len(), rows, &mut |block| {
        for row in block.chunks_exact(mean.len()) {
            centred.extend(row.iter().zip(mean).map(|(&v, mean)| f64::from(v) - mean));
        }
    })?;
    let shape = (centred.len() / mean.len(), mean.len());
    let centred = Array2::from_shape_vec(shape, centred).expect("whole rows");
    let gram = product(centred.view(), centred.t()) / (n as f64 - 1.0);
    let (values, vectors) = solve::eigen(&gram);
    let variance: Array1<f64> = values.iter().take(k).map(|v| v.max(0.0)).collect();
    let mut components = product(vectors.slice(s![.., ..k]).t(), centred.view());
    let rank = solve::rank(&variance, mean.len());
    for (i, mut component) in components.rows_mut().into_iter().enumerate() {
        let norm = component.dot(&component).sqrt();
        component.mapv_inplace(|v| if i < rank && norm > 0.0 { v / norm } else { 0.0 });
    }
    if rank > 0 && variance[rank - 1] < LEAST_RATIO * variance[0] {
        let mut of_rank = components.slice_mut(s![..rank, ..]);
        let basis = orthonormal(of_rank.t().to_owned());
        of_rank.assign(&basis.t());
    }
    complete(&mut components, rank);
    Ok((variance, components))
}

/// Replaces the rows from `rank` on by unit vectors orthogonal to all rows before them.
fn complete(components: &mut Array2<f64>, rank: usize) {
    // For each axis, the squared length of its component orthogonal to the rows so far.
    let mut rests = Array1::ones(components.ncols());
    let take = |rests: &mut Array1<f64>, row: ArrayView1<'_, f64>| {
        rests.zip_mut_with(&row, |rest, v| *rest -= v * v);
    };
    components.rows().into_iter().take(rank).for_each(|row| take(&mut rests, row));
    for i in rank..components.nrows() {
        let (before, mut row) = components.view_mut().split_at(Axis(0), i);
        let mut row = row.row_mut(0);
        let longest =
            |longest: usize, axis| if rests[axis] > rests[longest] { axis } else { longest };
        row.fill(0.0);
        row[(0..rests.len()).fold(0, longest)] = 1.0;
        // Twice: rounding leaves something the first time.
        for _ in 0..2 {
            for other in before.rows() {
                let along = other.dot(&row);
                row.scaled_add(-along, &other);
            }
            let norm = row.dot(&row).sqrt();
            row.mapv_inplace(|v| v / norm);
        }
        take(&mut rests, row.view());
    }
}

/// Block Lanczos iteration: each pass applies the covariance to a block and extends the basis by the result. The
/// components are the Ritz vectors of the basis. Also returns the number of passes after the first.
///
/// # Source
/// C. Musco, C. Musco: "Randomized Block Krylov Methods for Stronger and Faster Approximate Singular Value
/// Decomposition", NeurIPS 2015.
fn krylov(
    covariance: &Covariance<'_>,
    k: usize,
    start: Array2<f64>,
    power_iterations: PowerIterations,
    rows: &mut Rows<'_>,
) -> Result<(Found, usize)> {
    let (d, width) = start.dim();
    let most_blocks = (BASIS_BYTES / (16 * d * width)).max(2);
    let passes = match power_iterations {
        PowerIterations::Auto => MOST_PASSES,
        PowerIterations::Fixed(iterations) => iterations + 1,
    };
    let mut basis: Vec<Array2<f64>> = Vec::new();
    let mut images: Vec<Array2<f64>> = Vec::new();
    let mut next = orthonormal(start);
    let mut before = vec![0.0; k];
    for pass in 1.. {
        images.push(covariance.apply(&next, rows)?);
        basis.push(next);
        let is_last = pass == passes;
        let (values, vectors) = solve::eigen(&projected(&basis, &images));
        let (ritz, image) = (combined(&basis, &vectors, width), combined(&images, &vectors, width));
        let most = CHANGE * covariance.total();
        let is_steady = before.iter().zip(&values).all(|(before, v)| v - before <= most);
        let is_settled = || {
            let residual = |i: usize| {
                let difference = &image.column(i) - &(&ritz.column(i) * values[i]);
                difference.dot(&difference).sqrt()
            };
            is_steady || (0..k).all(|i| residual(i) <= TOLERANCE * values[0].abs())
        };
        if is_last || power_iterations == PowerIterations::Auto && is_settled() {
            let found = values.iter().copied().zip(ritz.columns()).take(k);
            let found = found.take_while(|&(v, direction)| !covariance.is_noise(v, direction));
            let mut variance = Array1::zeros(k);
            variance.iter_mut().zip(found).for_each(|(to, (v, _))| *to = v);
            let mut components = ritz.slice(s![.., ..k]).t().as_standard_layout().to_owned();
            let rank = solve::rank(&variance, d);
            complete(&mut components, rank);
            return Ok(((variance, components), pass - 1));
        }
        before.copy_from_slice(&values[..k]);
        if 2 * width > d {
            // There is no room for a second block: subspace iteration.
            (basis, images) = (Vec::new(), Vec::new());
            next = orthonormal(image);
        } else if basis.len() == most_blocks || (basis.len() + 1) * width > d {
            // A restart with the Ritz vectors and their residuals.
            next = orthogonal_to(std::slice::from_ref(&ritz), image.clone());
            (basis, images) = (vec![ritz], vec![image]);
        } else {
            let last = images.last().expect("an image has just been added").clone();
            next = orthogonal_to(&basis, last);
        }
    }
    unreachable!("the passes are counted")
}

/// The covariance in the basis, made symmetric.
fn projected(basis: &[Array2<f64>], images: &[Array2<f64>]) -> Array2<f64> {
    let width = basis[0].ncols();
    let mut out = Array2::zeros((basis.len() * width, basis.len() * width));
    for (i, left) in basis.iter().enumerate() {
        for (j, right) in images.iter().enumerate() {
            let rows = i * width..(i + 1) * width;
            let part = product(left.t(), right.view());
            out.slice_mut(s![rows, j * width..(j + 1) * width]).assign(&part);
        }
    }
    let turned = out.t().to_owned();
    (out + turned) / 2.0
}

/// The first `n` combinations of the blocks' vectors.
fn combined(blocks: &[Array2<f64>], weights: &Array2<f64>, n: usize) -> Array2<f64> {
    let (d, width) = blocks[0].dim();
    let mut out = Array2::zeros((d, n));
    for (i, block) in blocks.iter().enumerate() {
        let weights = weights.slice(s![i * width..(i + 1) * width, ..n]);
        add_product(block.view(), weights, &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows whose covariance has these standard deviations along turned axes.
    fn rows_of(n: usize, deviations: &[f64]) -> Array2<f32> {
        let d = deviations.len();
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let turned =
            orthonormal(Array2::from_shape_fn((d, d), |_| StandardNormal.sample(&mut random)));
        let scores = Array2::from_shape_fn((n, d), |(_, j)| {
            let score: f64 = StandardNormal.sample(&mut random);
            score * deviations[j]
        });
        (scores.dot(&turned.t()) + 1.0).mapv(|v| v as f32)
    }

    fn is_orthonormal(components: &Array2<f64>, tolerance: f64) -> bool {
        let products = components.dot(&components.t());
        products
            .indexed_iter()
            .all(|((i, j), &v)| (v - if i == j { 1.0 } else { 0.0 }).abs() < tolerance)
    }

    #[test]
    fn a_basis_that_does_not_fit_starts_again() {
        let d = 40_usize;
        let deviations: Vec<f64> = (0..d).map(|i| 0.9_f64.powi(i as i32)).collect();
        let rows = rows_of(500, &deviations);
        let mut totals = Totals::new(VectorFormat::f32(d), PcaInput::Bytes);
        totals.add(rows.view()).unwrap();
        let mean = &totals.sum / 500.0;
        let variances = (&totals.squares - &totals.sum * &totals.sum / 500.0) / 499.0;
        let again =
            &mut |work: &mut dyn FnMut(ArrayView2<'_, f32>) -> Result<()>| work(rows.view());
        let covariance = Covariance::new(&mean, &variances, 500);
        // Blocks that fit a few times, once and not once.
        for width in [7, 16, 20, 21, 33, 40] {
            let mut random = ChaCha8Rng::seed_from_u64(1);
            let start = Array2::from_shape_fn((d, width), |_| StandardNormal.sample(&mut random));
            let k = width.min(12);
            let fixed = PowerIterations::Fixed(40);
            let ((found, components), _) = krylov(&covariance, k, start, fixed, again).unwrap();
            assert!(is_orthonormal(&components, 1e-9), "{width}");
            let (want, _) = exact(&mean, 500, k, again).unwrap();
            for (found, want) in found.iter().zip(&want) {
                assert!((found - want).abs() < 1e-5 * want, "{width}: {found} for {want}");
            }
        }
    }

    #[test]
    fn components_are_orthonormal_whatever_their_variances() {
        let (n, d) = (30, 64);
        let mut rows = rows_of(n, &vec![1.0; d]);
        // Pairs that are almost the same.
        for i in [4, 8, 12] {
            let other = rows.row(i).mapv(|v| v + 3e-6 * (v * 77.0).sin());
            rows.row_mut(i + 1).assign(&other);
        }
        let mean = rows.mapv(f64::from).mean_axis(Axis(0)).unwrap();
        let again =
            &mut |work: &mut dyn FnMut(ArrayView2<'_, f32>) -> Result<()>| work(rows.view());
        let (variance, components) = exact(&mean, n as u64, n, again).unwrap();
        assert!(variance[n - 2] < 1e-9 * variance[0] && solve::rank(&variance, d) == n - 1);
        assert!(is_orthonormal(&components, 1e-9));
    }

    #[test]
    fn directions_without_variance_are_completed_to_the_last() {
        let d = 900;
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let found = Array2::from_shape_fn((d, d / 2), |_| StandardNormal.sample(&mut random));
        let mut components = Array2::zeros((d, d));
        components.slice_mut(s![..d / 2, ..]).assign(&orthonormal(found).t());
        complete(&mut components, d / 2);
        assert!(is_orthonormal(&components, 1e-9));
    }
}
