//! The leading eigenvalues and eigenvectors of a symmetric tridiagonal matrix, by bisection and inverse iteration: for
//! few of them this takes less time than divide and conquer, which finds all.

use faer::Mat;
use ndarray::{Array2, ArrayView1};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

use super::orthonormal::orthonormal;

/// Eigenvalues that are found at a time, in the lanes of vector registers.
const LANES: usize = 8;
/// Halvings of the interval of all eigenvalues, down to its rounding.
const HALVINGS: usize = 54;
/// Solutions from a random vector on: the first is close to an eigenvector already.
const ITERATIONS: usize = 3;

/// A symmetric matrix of shape (n, n).
pub(super) struct Tridiagonal {
    /// n elements.
    pub diagonal: Vec<f64>,
    /// The n - 1 elements below the diagonal.
    pub below: Vec<f64>,
}

/// `P (T - value I) = L U`, by rows: Gaussian elimination that swaps a row with the next for the larger pivot.
struct Factors {
    /// The rows of `U`: the inverse of the pivot, and the two elements to its right.
    upper: Vec<[f64; 3]>,
    /// For each row of `U`: the multiple of it that is subtracted from the next, and whether the two were swapped.
    lower: Vec<(f64, bool)>,
}

impl Tridiagonal {
    /// The `k` largest eigenvalues, descending, and orthonormal eigenvectors as columns. `None` if a residual is larger
    /// than the rounding of the eigenvalues, as it can be if many of them are nearly equal.
    pub fn leading(&self, k: usize) -> Option<(Vec<f64>, Mat<f64>)> {
        let (n, norm) = (self.diagonal.len(), self.norm());
        let mut values = vec![0.0; k];
        values.par_chunks_mut(LANES).enumerate().for_each(|(i, values)| {
            values.copy_from_slice(&self.eigenvalues(i * LANES, norm)[..values.len()]);
        });
        let vector = |i: usize| {
            let mut random = ChaCha8Rng::seed_from_u64(i as u64);
            let mut vector: Vec<f64> = StandardNormal.sample_iter(&mut random).take(n).collect();
            let factors = self.factors(values[i], f64::EPSILON * norm);
            for _ in 0..ITERATIONS {
                factors.solve(&mut vector);
                let length = vector.iter().map(|v| v * v).sum::<f64>().sqrt();
                for v in &mut vector {
                    *v /= length;
                }
            }
            vector
        };
        let found: Vec<_> = (0..k).into_par_iter().map(vector).collect();
        if !found.iter().flatten().all(|v| v.is_finite()) {
            return None;
        }
        let vectors = orthonormal(Array2::from_shape_fn((n, k), |(i, j)| found[j][i]));
        let accuracy = n as f64 * f64::EPSILON * norm;
        let mut pairs = vectors.columns().into_iter().zip(&values);
        let are_near = pairs.all(|(vector, &value)| self.residual(vector, value) <= accuracy);
        are_near.then(|| (values, Mat::from_fn(n, k, |i, j| vectors[(i, j)])))
    }

    /// The eigenvalues number `first` and following, counted from the largest.
    fn eigenvalues(&self, first: usize, norm: f64) -> [f64; LANES] {
        let (mut low, mut high) = ([-norm; LANES], [norm; LANES]);
        for _ in 0..HALVINGS {
            let mut middle = [0.0; LANES];
            (0..LANES).for_each(|i| middle[i] = f64::midpoint(low[i], high[i]));
            let above = self.count_above(middle, norm);
            for i in 0..LANES {
                let is_above = above[i] > (first + i) as f64;
                low[i] = if is_above { middle[i] } else { low[i] };
                high[i] = if is_above { high[i] } else { middle[i] };
            }
        }
        high
    }

    /// How many eigenvalues are at least each of these numbers: as many as the pivots of `T - number I` that are not
    /// negative.
    fn count_above(&self, numbers: [f64; LANES], norm: f64) -> [f64; LANES] {
        let least = f64::MIN_POSITIVE.max(f64::EPSILON * f64::EPSILON * norm);
        let (mut pivots, mut counts, mut below) = ([1.0; LANES], [0.0; LANES], 0.0);
        for (i, &diagonal) in self.diagonal.iter().enumerate() {
            for lane in 0..LANES {
                let pivot = diagonal - numbers[lane] - below * below / pivots[lane];
                let is_negative = pivot < least;
                counts[lane] += if is_negative { 0.0 } else { 1.0 };
                pivots[lane] = if pivot.abs() < least { -least } else { pivot };
            }
            below = self.below.get(i).copied().unwrap_or(0.0);
        }
        counts
    }

    /// The largest sum of magnitudes in a row.
    fn norm(&self) -> f64 {
        let row = |(i, v): (usize, &f64)| {
            let before = i.checked_sub(1).map_or(0.0, |i| self.below[i]);
            v.abs() + before.abs() + self.below.get(i).map_or(0.0, |v| v.abs())
        };
        self.diagonal.iter().enumerate().map(row).fold(0.0, f64::max)
    }

    /// The largest element of `T vector - value vector`, by magnitude.
    fn residual(&self, vector: ArrayView1<'_, f64>, value: f64) -> f64 {
        let row = |i: usize| {
            let before = i.checked_sub(1).map_or(0.0, |j| self.below[j] * vector[j]);
            let after = self.below.get(i).map_or(0.0, |v| v * vector[i + 1]);
            ((self.diagonal[i] - value) * vector[i] + before + after).abs()
        };
        (0..vector.len()).map(row).fold(0.0, f64::max)
    }

    /// The factors of `T - value I`, with pivots of at least the magnitude `least`.
    fn factors(&self, value: f64, least: f64) -> Factors {
        let n = self.diagonal.len();
        let mut upper = Vec::with_capacity(n);
        let mut lower = Vec::with_capacity(n);
        let mut row = [self.diagonal[0] - value, self.below.first().copied().unwrap_or(0.0)];
        for i in 0..n {
            let below = self.below.get(i).copied().unwrap_or(0.0);
            let next = self.diagonal.get(i + 1).map_or(0.0, |v| v - value);
            let after = self.below.get(i + 1).copied().unwrap_or(0.0);
            let is_swapped = below.abs() > row[0].abs();
            let factor;
            if is_swapped {
                factor = row[0] / below;
                upper.push([1.0 / below, next, after]);
                row = [row[1] - factor * next, -factor * after];
            } else {
                let pivot = if row[0].abs() < least { least.copysign(row[0]) } else { row[0] };
                factor = below / pivot;
                upper.push([1.0 / pivot, row[1], 0.0]);
                row = [next - factor * row[1], after];
            }
            lower.push((factor, is_swapped));
        }
        Factors { upper, lower }
    }
}

impl Factors {
    /// Solves `(T - value I) x = vector`, in place.
    fn solve(&self, vector: &mut [f64]) {
        let n = vector.len();
        for i in 0..n - 1 {
            let (factor, is_swapped) = self.lower[i];
            if is_swapped {
                vector.swap(i, i + 1);
            }
            vector[i + 1] -= factor * vector[i];
        }
        let (mut next, mut after) = (0.0, 0.0);
        for (v, [inverse, first, second]) in vector.iter_mut().zip(&self.upper).rev() {
            *v = (*v - first * next - second * after) * inverse;
            (next, after) = (*v, next);
        }
    }
}

#[cfg(test)]
mod tests {
    use nalgebra::{DMatrix, SymmetricEigen};

    use super::*;

    /// The leading values against those of the whole matrix, and how far the vectors are from orthonormal ones. False if
    /// there are none.
    #[must_use]
    fn check(name: &str, diagonal: Vec<f64>, below: Vec<f64>, k: usize) -> bool {
        let n = diagonal.len();
        let whole = DMatrix::from_fn(n, n, |i, j| match i.abs_diff(j) {
            0 => diagonal[i],
            1 => below[i.min(j)],
            _ => 0.0,
        });
        let mut want: Vec<f64> = SymmetricEigen::new(whole).eigenvalues.iter().copied().collect();
        want.sort_by(|a, b| b.total_cmp(a));
        let matrix = Tridiagonal { diagonal, below };
        let near = n as f64 * f64::EPSILON * matrix.norm();
        let Some((values, vectors)) = matrix.leading(k) else { return false };
        let vectors = Array2::from_shape_fn((n, k), |(i, j)| vectors[(i, j)]);
        for (i, (value, want)) in values.iter().zip(&want).enumerate() {
            assert!((value - want).abs() <= near, "{name}, value {i}: {value:e}, not {want:e}");
            let residual = matrix.residual(vectors.column(i), *value);
            assert!(residual <= near, "{name}, residual {i}: {residual:e}");
        }
        let overlap = vectors.t().dot(&vectors) - Array2::<f64>::eye(k);
        assert!(overlap.iter().all(|v| v.abs() < 1e-13), "{name}: not orthonormal");
        true
    }

    #[test]
    fn leading_pairs_are_those_of_the_whole_matrix() {
        let waves = |n: usize, of: f64| (0..n).map(move |i| (i as f64 * of).sin());
        assert!(check("waves", waves(61, 1.7).collect(), waves(60, 2.3).collect(), 20));
        assert!(check("one", vec![-3.0], vec![], 1));
        assert!(check("large", waves(40, 0.1).map(|v| v * 1e90).collect(), vec![1e88; 39], 40));
        assert!(check("small", waves(40, 0.1).map(|v| v * 1e-90).collect(), vec![1e-91; 39], 13));
        // The second differences: all are known, and near each other at the ends.
        assert!(check("differences", vec![2.0; 300], vec![-1.0; 299], 100));
        let falling = (0..200).map(|i| 0.8_f64.powi(i));
        let below = (0..199).map(|i| 0.1 * 0.8_f64.powi(i));
        assert!(check("falling", falling.collect(), below.collect(), 66));
    }

    #[test]
    fn equal_and_nearly_equal_values_have_orthonormal_vectors() {
        // Wilkinson's matrix has pairs that agree to the last digits; copies of it, glued, have whole clusters.
        let wilkinson = (0..21).map(|i| f64::from(i - 10_i32).abs());
        assert!(check("Wilkinson's", wilkinson.clone().collect(), vec![1.0; 20], 8));
        let copies: Vec<f64> = (0..5).flat_map(|_| wilkinson.clone()).collect();
        for glue in [0.0, 1e-14, 1e-8] {
            let below = (1..copies.len()).map(|i| if i % 21 == 0 { glue } else { 1.0 }).collect();
            // Vectors of a cluster may come out nearly dependent.
            let is_found = check(&format!("glue {glue}"), copies.clone(), below, 40);
            assert!(is_found || glue == 1e-14);
        }
        assert!(check("the unit", vec![1.0; 50], vec![0.0; 49], 50));
        let mut few = vec![0.0; 90];
        few[..3].copy_from_slice(&[5.0, 4.0, 4.0]);
        assert!(check("few values", few, vec![0.0; 89], 30));
    }

    #[test]
    fn a_matrix_without_a_value_is_for_others() {
        assert!(Tridiagonal { diagonal: vec![0.0; 9], below: vec![0.0; 8] }.leading(2).is_none());
    }
}
