//! Orthonormal bases, and the products of dense matrices that make them.

use nalgebra::DMatrix;
use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

/// Smallest pivot of a Cholesky factor, relative to the largest, with which it makes vectors orthonormal.
const LEAST_PIVOT: f64 = 1e-6;
/// Rows or columns of a product that a thread computes at a time.
const BAND: usize = 128;

/// `out += a b`, each band of rows by a thread.
pub(super) fn add_product(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>, out: &mut Array2<f64>) {
    let bands: Vec<_> = out.axis_chunks_iter_mut(Axis(0), BAND).enumerate().collect();
    bands.into_par_iter().for_each(|(band, mut out)| {
        let rows = a.slice(s![band * BAND..band * BAND + out.nrows(), ..]);
        general_mat_mul(1.0, &rows, &b, 1.0, &mut out);
    });
}

pub(super) fn product(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> Array2<f64> {
    let mut out = Array2::zeros((a.nrows(), b.ncols()));
    add_product(a, b, &mut out);
    out
}

/// An orthonormal basis of the columns, by Cholesky QR in two rounds: the second removes rounding errors of the first.
/// Uses Householder reflections if the columns are nearly dependent.
pub(super) fn orthonormal(mut vectors: Array2<f64>) -> Array2<f64> {
    for _ in 0..2 {
        match inverse_root(&product(vectors.t(), vectors.view())) {
            Some(inverse) => vectors = product(vectors.view(), inverse.view()),
            None => return reflected(&vectors),
        }
    }
    vectors
}

/// An orthonormal basis of the vectors' components orthogonal to the blocks.
pub(super) fn orthogonal_to(blocks: &[Array2<f64>], mut vectors: Array2<f64>) -> Array2<f64> {
    for _ in 0..2 {
        for block in blocks {
            let along = product(block.t(), vectors.view());
            add_product(block.view(), (-along).view(), &mut vectors);
        }
        // After each round, because the remainder may be small compared with the part removed.
        vectors = orthonormal(vectors);
    }
    vectors
}

/// An orthonormal basis of the columns, by Householder reflections.
fn reflected(vectors: &Array2<f64>) -> Array2<f64> {
    let (d, n) = vectors.dim();
    let basis = DMatrix::from_fn(d, n, |i, j| vectors[(i, j)]).qr().q();
    Array2::from_shape_fn((d, n), |at| basis[at])
}

/// The inverse of the upper triangular `r` of the matrix `r' r`; `None` if the matrix is close to a singular one.
fn inverse_root(matrix: &Array2<f64>) -> Option<Array2<f64>> {
    let n = matrix.nrows();
    let root = DMatrix::from_fn(n, n, |i, j| matrix[(i, j)]).cholesky()?.l().transpose();
    if root.diagonal().min() < LEAST_PIVOT * root.diagonal().max() {
        return None;
    }
    let inverse = root.solve_upper_triangular(&DMatrix::identity(n, n))?;
    Some(Array2::from_shape_fn((n, n), |at| inverse[at]))
}
