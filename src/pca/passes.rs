//! The PCA of vectors so long that a matrix of dimensions x dimensions does not pay: the rows are read several times.

use std::panic::resume_unwind;
use std::sync::mpsc::sync_channel;

use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, s};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

use super::moments::check_finite;
use super::{PcaInput, PcaModel, PcaParams, PowerIterations, Solver, bits_of, solve};
use crate::arch::{Kernels, Loadings, PANEL, PANEL_ROWS, Panel, power_above};
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
/// Most passes of [`PowerIterations::Auto`], besides the first, for the mean. Variance ratios are within 1e-5 by then.
const MOST_PASSES: usize = 4;
/// They end earlier once the residual of every component, relative to the largest eigenvalue, is at most this.
const TOLERANCE: f64 = 1e-7;

/// Elements of a row whose products are summed in float32.
const SCORE_LEN: usize = 256;
/// Rows that a thread multiplies at a time.
const SCORE_ROWS: usize = 32;
/// Panels of an image that a thread computes at a time.
const IMAGE_PANELS: usize = 8;
/// Rows or columns of a product that a thread computes at a time.
const BAND: usize = 128;

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

/// Calls with all rows, in order, in arrays of shape (rows, dimensions).
pub(crate) type Rows<'a> =
    dyn FnMut(&mut dyn FnMut(ArrayView2<'_, f32>) -> Result<()>) -> Result<()> + Send + 'a;

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

/// Calls with blocks of [`PANEL_ROWS`] rows of `d` elements; the last may have fewer. Another thread reads meanwhile.
fn blocks(d: usize, rows: &mut Rows<'_>, work: &mut dyn FnMut(&[f32])) -> Result<()> {
    let (full, received) = sync_channel::<Vec<f32>>(1);
    std::thread::scope(|scope| {
        let read = move || -> Result<()> {
            let mut block = Vec::new();
            rows(&mut |rows| {
                let rows = rows.as_standard_layout();
                for row in rows.as_slice().unwrap_or_default().chunks_exact(d) {
                    block.reserve_exact(PANEL_ROWS * d - block.len());
                    block.extend_from_slice(row);
                    if block.len() == PANEL_ROWS * d {
                        // Nobody receives any more only if the work has panicked.
                        full.send(std::mem::take(&mut block)).map_err(|_| Error::Interrupted)?;
                    }
                }
                Ok(())
            })?;
            if !block.is_empty() {
                full.send(block).map_err(|_| Error::Interrupted)?;
            }
            Ok(())
        };
        let reader = std::thread::Builder::new().spawn_scoped(scope, read);
        let reader =
            reader.map_err(|e| Error::Fit(format!("no thread to read rows: {e}").into()))?;
        for block in received {
            work(&block);
        }
        reader.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// `out += a b`, each band of rows by a thread.
fn add_product(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>, out: &mut Array2<f64>) {
    let bands: Vec<_> = out.axis_chunks_iter_mut(Axis(0), BAND).enumerate().collect();
    bands.into_par_iter().for_each(|(band, mut out)| {
        let rows = a.slice(s![band * BAND..band * BAND + out.nrows(), ..]);
        general_mat_mul(1.0, &rows, &b, 1.0, &mut out);
    });
}

fn product(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> Array2<f64> {
    let mut out = Array2::zeros((a.nrows(), b.ncols()));
    add_product(a, b, &mut out);
    out
}

/// By the eigenvectors of the products of each two rows.
fn exact(mean: &Array1<f64>, n: u64, k: usize, rows: &mut Rows<'_>) -> Result<Found> {
    let mut centred = Vec::new();
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
    complete(&mut components, rank);
    Ok((variance, components))
}

/// Makes the rows from `rank` on unit vectors that are orthogonal to all before.
fn complete(components: &mut Array2<f64>, rank: usize) {
    let mut axis = 0;
    for i in rank..components.nrows() {
        let (before, mut row) = components.view_mut().split_at(Axis(0), i);
        let mut row = row.row_mut(0);
        loop {
            row.fill(0.0);
            row[axis] = 1.0;
            axis += 1;
            // Twice: rounding leaves something the first time.
            for _ in 0..2 {
                for other in before.rows() {
                    let along = other.dot(&row);
                    row.scaled_add(-along, &other);
                }
            }
            let norm = row.dot(&row).sqrt();
            if norm > 0.1 {
                row.mapv_inplace(|v| v / norm);
                break;
            }
        }
    }
}

/// A block Lanczos iteration: the covariance is applied to the basis, a block of vectors in a pass, and the components
/// are the best in the span of all of them. Returns the number of passes but the first, too.
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
    for pass in 1.. {
        images.push(covariance.apply(&next, rows)?);
        basis.push(next);
        let is_last = pass == passes;
        let (values, vectors) = solve::eigen(&projected(&basis, &images));
        let (ritz, image) = (combined(&basis, &vectors, width), combined(&images, &vectors, width));
        let is_settled = || {
            let residual = |i: usize| {
                let difference = &image.column(i) - &(&ritz.column(i) * values[i]);
                difference.dot(&difference).sqrt()
            };
            (0..k).all(|i| residual(i) <= TOLERANCE * values[0].abs())
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
        let last = images.last().expect("an image has just been added").clone();
        if basis.len() == most_blocks {
            (basis, images) = (vec![ritz], vec![image]);
        }
        next = orthogonal_to(&basis, last);
    }
    unreachable!("the passes are counted")
}

/// Applies the covariance of rows to vectors, in one pass over the rows.
///
/// Rows are centred and scaled, and then products are summed in float32, 256 at a time; the rest is float64. The kernels
/// give the same bits on every instruction set.
struct Covariance<'a> {
    mean: &'a [f64],
    variances: &'a Array1<f64>,
    /// The number of rows.
    n: u64,
    /// A power of two by which rows are divided, so that products of any size fit in float32.
    scale: f64,
}

impl<'a> Covariance<'a> {
    /// The covariance of `n` rows whose elements have these means and variances.
    fn new(mean: &'a Array1<f64>, variances: &'a Array1<f64>, n: u64) -> Self {
        let mean = mean.as_slice().expect("an owned array");
        Self { mean, variances, n, scale: power_above(variances.sum().sqrt()) }
    }

    /// Whether the variance in a direction is within the rounding of products: relative to that which the elements would
    /// give if they were not correlated.
    fn is_noise(&self, variance: f64, direction: ArrayView1<'_, f64>) -> bool {
        let own: f64 = direction.iter().zip(self.variances).map(|(v, own)| v * v * own).sum();
        variance <= (self.mean.len() as f64).sqrt() * f64::from(f32::EPSILON) * own
    }

    /// The covariance times `vectors`.
    fn apply(&self, vectors: &Array2<f64>, rows: &mut Rows<'_>) -> Result<Array2<f64>> {
        let (d, width) = vectors.dim();
        let Kernels { fill_panels, add_products, .. } = Kernels::current();
        let loadings = loadings(vectors);
        let mut image = vec![0.0; d * width];
        let mut sums = vec![0.0; width];
        let mut right = vec![Panel::default(); width.div_ceil(PANEL)];
        blocks(d, rows, &mut |block| {
            let mut scores = vec![0.0_f32; block.len() / d * width];
            let tasks = scores.par_chunks_mut(SCORE_ROWS * width);
            tasks.zip(block.par_chunks(SCORE_ROWS * d)).for_each(|(scores, rows)| {
                self.add_scores(rows, &loadings, scores);
            });
            fill_panels(&scores, width, 0, &mut right);
            for (sums, panel) in sums.chunks_mut(PANEL).zip(&right) {
                sums.iter_mut().zip(panel.sums()).for_each(|(sum, of_block)| *sum += of_block);
            }
            let bands = image.par_chunks_mut(IMAGE_PANELS * PANEL * width).enumerate();
            let panels = || vec![Panel::default(); IMAGE_PANELS];
            bands.for_each_init(panels, |left, (band, image)| {
                fill_panels(block, d, band * IMAGE_PANELS * PANEL, left);
                for (left, image) in left.iter().zip(image.chunks_mut(PANEL * width)) {
                    for (j, right) in right.iter().enumerate() {
                        add_products(left, right, &mut image[j * PANEL..], width);
                    }
                }
            });
        })?;
        // The rows of the second product were not centred.
        let factor = self.scale / (self.n as f64 - 1.0);
        for (image, mean) in image.chunks_mut(width).zip(self.mean) {
            image.iter_mut().zip(&sums).for_each(|(v, sum)| *v = (*v - mean * sum) * factor);
        }
        Ok(Array2::from_shape_vec((d, width), image).expect("as many as in the vectors"))
    }

    /// Writes the products of each centred and scaled row and each vector.
    fn add_scores(&self, rows: &[f32], loadings: &[Loadings<f32>], scores: &mut [f32]) {
        let (d, project) = (self.mean.len(), Kernels::current().project_f32);
        let (mut centred, mut part) = (Vec::new(), vec![0.0; scores.len()]);
        let mut sums = vec![0.0_f64; scores.len()];
        for (loadings, start) in loadings.iter().zip((0..d).step_by(SCORE_LEN)) {
            let columns = start..d.min(start + SCORE_LEN);
            let mean = &self.mean[columns.clone()];
            centred.clear();
            for row in rows.chunks_exact(d) {
                let row = row[columns.clone()].iter().zip(mean);
                centred.extend(row.map(|(&v, mean)| ((f64::from(v) - mean) / self.scale) as f32));
            }
            project(&centred, loadings, &mut part);
            sums.iter_mut().zip(&part).for_each(|(sum, &v)| *sum += f64::from(v));
        }
        scores.iter_mut().zip(&sums).for_each(|(score, &sum)| *score = sum as f32);
    }
}

/// The vectors, which are columns, in pieces of [`SCORE_LEN`] elements.
fn loadings(vectors: &Array2<f64>) -> Vec<Loadings<f32>> {
    let pieces: Vec<_> = vectors.axis_chunks_iter(Axis(0), SCORE_LEN).collect();
    let loadings = pieces.into_par_iter().map(|piece| {
        let columns = piece.columns().into_iter().map(|column| (0.0, column.to_vec()));
        Loadings::new(piece.nrows(), &columns.collect::<Vec<_>>())
    });
    loadings.collect()
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

/// An orthonormal basis of the vectors: by Cholesky factors, in products on all threads, unless the vectors nearly
/// depend on each other. The second factor takes away what rounding leaves of the first.
pub(super) fn orthonormal(mut vectors: Array2<f64>) -> Array2<f64> {
    for _ in 0..2 {
        match solve::inverse_root(&product(vectors.t(), vectors.view())) {
            Some(inverse) => vectors = product(vectors.view(), inverse.view()),
            None => return solve::orthonormal(&vectors),
        }
    }
    vectors
}

/// An orthonormal basis of the vectors less what they have of the blocks.
fn orthogonal_to(blocks: &[Array2<f64>], mut vectors: Array2<f64>) -> Array2<f64> {
    for _ in 0..2 {
        for block in blocks {
            let along = product(block.t(), vectors.view());
            add_product(block.view(), (-along).view(), &mut vectors);
        }
        // Between the rounds, too: what is left may be small beside what was taken away.
        vectors = orthonormal(vectors);
    }
    vectors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(i: usize, j: usize) -> f32 {
        let mixed = ((i as u64 * 0x9e37_79b9) ^ (j as u64 * 0x85eb_ca6b))
            .wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 29) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// The covariance of `rows`, which come in two arrays, times the vectors.
    fn applied(rows: &Array2<f32>, cut: usize, vectors: &Array2<f64>) -> Array2<f64> {
        let wide = rows.mapv(f64::from);
        let (mean, n) = (wide.mean_axis(Axis(0)).unwrap(), rows.nrows());
        let variances = wide.var_axis(Axis(0), 1.0);
        let (top, bottom) = rows.view().split_at(Axis(0), cut);
        Covariance::new(&mean, &variances, n as u64)
            .apply(vectors, &mut |work| work(top).and_then(|()| work(bottom)))
            .unwrap()
    }

    #[test]
    fn covariance_times_vectors_is_near_the_definition() {
        for (n, d, width, size, mean) in [
            (1300, 300, 33, 1.0, 0.0),
            (PANEL_ROWS + 1, SCORE_LEN, 1, 1e30, 1e31),
            (70, 530, 40, 1e-30, 1e-28),
            (2, 1, 1, 1.0, 1e4),
        ] {
            let rows = Array2::from_shape_fn((n, d), |(i, j)| {
                size * (noise(i, j) + 3.0 * noise(i, 7777) * noise(3, j)) + mean
            });
            let vectors = Array2::from_shape_fn((d, width), |(i, j)| f64::from(noise(i + 9999, j)));
            let wide = rows.mapv(f64::from);
            let centred = &wide - &wide.mean_axis(Axis(0)).unwrap();
            let want = centred.t().dot(&centred.dot(&vectors)) / (n as f64 - 1.0);
            let got = applied(&rows, n / 3, &vectors);
            let norm = |matrix: &Array2<f64>| matrix.mapv(|v| v * v).sum().sqrt();
            let error = norm(&(&got - &want)) / norm(&want);
            assert!(error < 1e-6, "{n} x {d}: {error:e}");
            assert_eq!(applied(&rows, n - 1, &vectors), got, "{n} x {d}, in other parts");
            let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            assert_eq!(alone.install(|| applied(&rows, n / 3, &vectors)), got, "one thread");
        }
    }
}
