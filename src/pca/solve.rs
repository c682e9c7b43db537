//! The eigen-decomposition of a covariance matrix, exact or randomized.

use nalgebra::{DMatrix, DVector, SymmetricEigen};
use ndarray::{Array1, Array2, ArrayView1, ArrayViewMut1, Axis};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

#[cfg(feature = "wide")]
use super::tridiagonal::Tridiagonal;
use super::{Components, PcaModel, PcaParams, PowerIterations, Solver, products};
use crate::features::Element;

/// The most power iterations that [`PowerIterations::Auto`] takes.
const MAX_ITERATIONS: usize = 1000;

/// [`PowerIterations::Auto`] stops once the residual of every component, relative to the largest
/// eigenvalue, is at most this.
const TOLERANCE: f64 = 1e-12;

/// With more dimensions, an exact decomposition is faster than power iterations until convergence. It is faer's, if
/// built in (feature `wide`): nalgebra takes ten times as long.
const WIDE: usize = 256;

/// Tasks into which faer cuts its work, whatever the number of threads.
#[cfg(feature = "wide")]
const TASKS: usize = 8;

/// If at most one in `FEW` eigenvectors is wanted, only the wanted ones are computed.
#[cfg(feature = "wide")]
const FEW: usize = 3;

/// The leading eigenvalues, descending, and their vectors as columns.
struct Eigen {
    values: DVector<f64>,
    vectors: DMatrix<f64>,
}

/// Fits a model to the mean and the covariance of `rows` rows; the parameters have been checked.
pub(super) fn fit(
    element: Element,
    rows: u64,
    mean: Vec<f64>,
    covariance: DMatrix<f64>,
    params: &PcaParams,
) -> PcaModel {
    let (variances, total) = (covariance.diagonal(), covariance.trace());
    let dimensions = mean.len();
    let (k, solver) = (params.computed(rows, dimensions), params.solver_for(rows, dimensions));
    let (eigen, iterations) = match solver {
        Solver::Randomized { oversamples, power_iterations, seed } => {
            randomized(covariance, k, oversamples, power_iterations, seed)
        }
        Solver::Covariance | Solver::Auto { .. } => (exact(covariance, k), 0),
    };
    let mut variance: Array1<f64> = eigen.values.iter().take(k).map(|v| v.max(0.0)).collect();
    let rounding = match element {
        Element::U8 => 0.0,
        Element::F32 => products::rounding(dimensions, rows),
    };
    for (variance, vector) in variance.iter_mut().zip(eigen.vectors.column_iter()) {
        // The variance in this direction if the elements were not correlated.
        let own: f64 = vector.iter().zip(&variances).map(|(v, own)| v * v * own).sum();
        if *variance <= rounding * own {
            *variance = 0.0;
        }
    }
    // Zeroed variances go to the end: they are judged by the variances of their elements, not by their order.
    let mut order: Vec<usize> = (0..k).collect();
    order.sort_by_key(|&i| variance[i] == 0.0);
    let variance = variance.select(Axis(0), &order);
    let total = match element {
        Element::U8 => total,
        // Rounding errors in the sums can make the trace less than the sum of the variances.
        Element::F32 => total.max(variance.sum()),
    };
    let components = Array2::from_shape_fn((k, dimensions), |(i, j)| eigen.vectors[(j, order[i])]);
    let found = (variance, components);
    model(element, rows, mean.into(), total, found, (solver, iterations), params)
}

/// The model of these variances and components, whose signs are set.
pub(super) fn model(
    element: Element,
    rows: u64,
    mean: Array1<f64>,
    total: f64,
    (variance, mut components): (Array1<f64>, Array2<f64>),
    (solver, iterations): (Solver, usize),
    params: &PcaParams,
) -> PcaModel {
    components.rows_mut().into_iter().for_each(make_largest_positive);
    let mut model = PcaModel {
        element,
        input: params.input(),
        n_rows: rows,
        rank: rank(&variance, mean.len()),
        solver,
        iterations,
        centering: params.centering(),
        explained_variance_ratio: variance.mapv(|v| if total > 0.0 { v / total } else { 0.0 }),
        singular_values: variance.mapv(|v| (v * (rows as f64 - 1.0)).sqrt()),
        explained_variance: variance,
        total_variance: total,
        mean,
        components,
        origin: None,
    };
    if let Components::Share(share) = params.components() {
        model.truncate(model.reaching(share).unwrap_or(model.rank.max(1)));
    }
    model
}

/// Eigenvalues of a symmetric matrix, descending, and their vectors as columns.
pub(super) fn eigen(matrix: &Array2<f64>) -> (Vec<f64>, Array2<f64>) {
    let n = matrix.nrows();
    let Eigen { values, vectors } = exact(DMatrix::from_fn(n, n, |i, j| matrix[(i, j)]), n);
    (values.iter().copied().collect(), Array2::from_shape_fn((n, n), |at| vectors[at]))
}

/// The number of variances above the rounding noise of the largest.
pub(super) fn rank(variance: &Array1<f64>, dimensions: usize) -> usize {
    let largest = variance.iter().copied().fold(0.0, f64::max);
    let noise = largest * dimensions as f64 * f64::EPSILON;
    variance.iter().filter(|&&v| v > noise).count()
}

/// The loading of the largest magnitude; the first on a tie.
pub(super) fn largest_loading(component: ArrayView1<'_, f64>) -> f64 {
    component
        .iter()
        .copied()
        .fold(0.0, |largest: f64, v| if v.abs() > largest.abs() { v } else { largest })
}

/// Flips the component if its largest loading by magnitude is negative.
///
/// # Source
/// `svd_flip` with `u_based_decision=False` in scikit-learn 1.5 and later.
fn make_largest_positive(mut component: ArrayViewMut1<'_, f64>) {
    if largest_loading(component.view()) < 0.0 {
        component.mapv_inplace(|v| -v);
    }
}

/// The `k` leading eigenvalues, descending, and their vectors as columns.
fn exact(matrix: DMatrix<f64>, k: usize) -> Eigen {
    #[cfg(feature = "wide")]
    if matrix.nrows() > WIDE {
        return exact_wide(matrix, k);
    }
    let eigen = SymmetricEigen::new(matrix);
    let mut order: Vec<usize> = (0..eigen.eigenvalues.len()).collect();
    order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
    order.truncate(k);
    Eigen {
        values: DVector::from_iterator(order.len(), order.iter().map(|&i| eigen.eigenvalues[i])),
        vectors: eigen.eigenvectors.select_columns(&order),
    }
}

/// The same. The sums' order depends on the instruction set, but not on the number of threads: the work is cut into a
/// constant number of tasks.
///
/// As `faer::linalg::evd::self_adjoint_evd`, except for the last step: only the leading eigenvectors of the tridiagonal
/// matrix are transformed into those of `matrix`.
#[cfg(feature = "wide")]
fn exact_wide(mut matrix: DMatrix<f64>, k: usize) -> Eigen {
    use faer::diag::{Diag, DiagRef};
    use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
    use faer::linalg::evd::tridiag::{tridiag_in_place, tridiag_in_place_scratch};
    use faer::linalg::evd::{
        ComputeEigenvectors, self_adjoint_evd_scratch, tridiagonal_self_adjoint_evd,
    };
    use faer::linalg::householder::apply_block_householder_sequence_on_the_left_in_place_with_conj as reflect;
    use faer::linalg::qr::no_pivoting::factor::recommended_block_size;
    use faer::prelude::{Reborrow, ReborrowMut};
    use faer::{Conj, Mat, MatMut, Par, Spec};
    let d = matrix.nrows();
    let par = Par::rayon(TASKS);
    let params = Spec::default();
    let mut memory = MemBuffer::new(StackReq::any_of(&[
        tridiag_in_place_scratch::<f64>(d, par, Spec::default()),
        self_adjoint_evd_scratch::<f64>(d, ComputeEigenvectors::Yes, par, params),
    ]));
    let stack = MemStack::new(&mut memory);

    let mut reduced = MatMut::from_column_major_slice_mut(matrix.as_mut_slice(), d, d);
    let mut reflections = Mat::zeros(recommended_block_size::<f64>(d, d), d - 1);
    tridiag_in_place(reduced.rb_mut(), reflections.as_mut(), par, stack, Spec::default());
    let tridiagonal = Tridiagonal {
        diagonal: (0..d).map(|i| reduced[(i, i)]).collect(),
        below: (1..d).map(|i| reduced[(i, i - 1)]).collect(),
    };
    let few = (k <= d / FEW).then(|| tridiagonal.leading(k)).flatten();
    let (values, mut vectors) = few.unwrap_or_else(|| {
        let below: Vec<_> = tridiagonal.below.iter().copied().chain([0.0]).collect();
        let (diagonal, below) =
            (DiagRef::from_slice(&tridiagonal.diagonal), DiagRef::from_slice(&below));
        let (mut values, mut vectors) = (Diag::zeros(d), Mat::zeros(d, d));
        let found = (values.as_mut(), Some(vectors.as_mut()));
        tridiagonal_self_adjoint_evd(diagonal, below, found.0, found.1, par, stack, params)
            .expect("a finite symmetric matrix");
        // Ascending.
        let values = values.column_vector().iter().rev().take(k).copied().collect();
        (values, Mat::from_fn(d, k, |i, j| vectors[(i, d - 1 - j)]))
    });

    let essential = reduced.rb().submatrix(1, 0, d - 1, d - 1);
    let turned = vectors.as_mut().subrows_mut(1, d - 1);
    reflect(essential, reflections.as_ref(), Conj::No, turned, par, stack);
    Eigen {
        values: DVector::from_vec(values),
        vectors: DMatrix::from_fn(d, k, |i, j| vectors[(i, j)]),
    }
}

/// Finds the `k` leading eigenvectors in the range of the matrix's powers. Also returns the number
/// of power iterations.
fn randomized(
    matrix: DMatrix<f64>,
    k: usize,
    oversamples: usize,
    power_iterations: PowerIterations,
    seed: u64,
) -> (Eigen, usize) {
    let dimensions = matrix.nrows();
    // If more than half of the dimensions are wanted, all are taken: that costs hardly more than
    // iterating until the last ones converge.
    let wanted = k.saturating_add(oversamples);
    if dimensions > WIDE && power_iterations == PowerIterations::Auto {
        return (exact(matrix, k), 0);
    }
    let width = if wanted > dimensions / 2 { dimensions } else { wanted };
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let start = DMatrix::from_fn(dimensions, width, |_, _| StandardNormal.sample(&mut random));
    let mut image = multiply(&matrix, &start);
    let mut iterations = 0;
    loop {
        // `basis` is an orthonormal basis of the range found so far.
        let basis = image.qr().q();
        image = multiply(&matrix, &basis);
        let last = match power_iterations {
            PowerIterations::Fixed(n) => iterations == n,
            PowerIterations::Auto => iterations == MAX_ITERATIONS,
        };
        let check = power_iterations == PowerIterations::Auto && iterations % 4 == 0;
        if last || check {
            let small = exact(multiply(&basis.transpose(), &image), width);
            let vectors = multiply(&basis, &small.vectors);
            let settled = || {
                let largest = small.values[0].abs();
                let images = multiply(&image, &small.vectors);
                (0..k).all(|i| {
                    let residual = images.column(i) - vectors.column(i) * small.values[i];
                    residual.norm() <= TOLERANCE * largest
                })
            };
            if last || settled() {
                return (Eigen { values: small.values, vectors }, iterations);
            }
        }
        iterations += 1;
    }
}

/// A matrix product whose sums run in index order on every machine. Library products may fuse or
/// reorder operations according to the CPU, so the bits of a model would depend on the CPU.
fn multiply(a: &DMatrix<f64>, b: &DMatrix<f64>) -> DMatrix<f64> {
    let mut product = DMatrix::zeros(a.nrows(), b.ncols());
    // Columns as slices: loops over nalgebra's column views are not vectorized.
    let columns = product.as_mut_slice().chunks_exact_mut(a.nrows());
    for (out, b) in columns.zip(b.as_slice().chunks_exact(b.nrows())) {
        for (a, &factor) in a.as_slice().chunks_exact(a.nrows()).zip(b) {
            for (out, &a) in out.iter_mut().zip(a) {
                *out += a * factor;
            }
        }
    }
    product
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    /// The difference of two equal elements of a large variance is noise; a smaller variance of others is not.
    #[test]
    fn noise_stands_behind_what_is_none() {
        let d = 513;
        let mut covariance = DMatrix::from_diagonal_element(d, d, 0.083);
        for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            covariance[(i, j)] = if i == j { 3.3e5 } else { 3.3e5 - 0.2 };
        }
        let params = PcaParams::new(6);
        let model = fit(Element::F32, 100_000, vec![0.0; d], covariance, &params);
        let variance = &model.explained_variance;
        assert!((variance[0] - 6.6e5).abs() < 1.0 && (variance[1] - 0.083).abs() < 1e-6);
        assert_eq!((variance[5], model.rank), (0.0, 5));
        let json = serde_json::to_string(&model).unwrap();
        assert_eq!(serde_json::from_str::<PcaModel>(&json).unwrap(), model);
    }

    #[test]
    fn what_is_noise_beside_the_largest_variance_is_no_rank() {
        let noise = 1e6 * 32.0 * f64::EPSILON;
        assert_eq!(rank(&array![1e6, 2.0 * noise, 0.5 * noise], 32), 2);
        assert_eq!(rank(&array![0.0, 0.0], 32), 0);
    }

    #[test]
    fn of_equal_loadings_the_first_decides() {
        assert_eq!(largest_loading(array![0.1, -0.5, 0.5].view()), -0.5);
        assert_eq!(largest_loading(array![0.1, 0.5, -0.5].view()), 0.5);
    }
}
