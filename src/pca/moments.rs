//! What a fit needs to know of the rows.

use nalgebra::DMatrix;
use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

use super::{PcaModel, PcaParams, TASK_ROWS, solve};
use crate::arch::{GRAM_ROWS, GRAM_SIDE, Kernels, Sums};
use crate::error::{Error, Result};

/// Count, sum and Gram matrix of rows of bytes: exact integers.
///
/// Any split of the rows, in any order, merges to the same moments.
///
/// # Examples
/// ```
/// use ndarray::array;
/// use orb_features::pca::{Moments, PcaParams};
///
/// let rows = array![[1_u8, 2, 3], [4, 5, 7], [0, 9, 1], [3, 3, 3]];
/// let (top, bottom) = rows.view().split_at(ndarray::Axis(0), 1);
/// let mut moments = Moments::new(3);
/// moments.push_rows(bottom)?;
/// let mut other = Moments::new(3);
/// other.push_rows(top)?;
/// moments.merge(&other)?;
///
/// let model = moments.fit(&PcaParams::new(2))?;
/// assert_eq!(model.components().dim(), (2, 3));
/// # Ok::<(), orb_features::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moments {
    count: u64,
    sum: Vec<u64>,
    /// Shape (dimensions, dimensions).
    gram: Array2<u64>,
}

/// Rows whose products of bytes sum up exactly in float32: 256 * 255^2 < 2^24.
const EXACT_ROWS: usize = 256;

impl Moments {
    /// The moments of no rows, of vectors with `dimensions` elements.
    #[must_use]
    pub fn new(dimensions: usize) -> Self {
        Self { count: 0, sum: vec![0; dimensions], gram: Array2::zeros((dimensions, dimensions)) }
    }

    /// The number of rows.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The number of elements of a row.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.sum.len()
    }

    /// Adds rows: an array of shape (rows, dimensions). Many rows are shared out to the threads of
    /// rayon's current pool.
    ///
    /// # Errors
    /// [`Error::Shape`] for rows of another length.
    pub fn push_rows(&mut self, rows: ArrayView2<'_, u8>) -> Result<()> {
        self.check_dimensions(rows.ncols())?;
        if rows.nrows() < 2 * TASK_ROWS {
            self.add(rows);
            return Ok(());
        }
        let tasks: Vec<_> = rows.axis_chunks_iter(Axis(0), TASK_ROWS).collect();
        let parts = tasks.into_par_iter().fold(
            || Self::new(rows.ncols()),
            |mut part, rows| {
                part.add(rows);
                part
            },
        );
        let parts: Vec<Self> = parts.collect();
        parts.iter().try_for_each(|part| self.merge(part))
    }

    /// Adds rows of the right length.
    fn add(&mut self, rows: ArrayView2<'_, u8>) {
        let of_descriptors = rows.as_slice().filter(|_| self.dimensions() == GRAM_SIDE);
        if let Some(values) = of_descriptors {
            self.add_descriptors(values.as_chunks().0);
        } else {
            self.add_blocks(rows);
        }
        self.count += rows.nrows() as u64;
    }

    fn add_descriptors(&mut self, rows: &[[u8; GRAM_SIDE]]) {
        let kernels = Kernels::current();
        for rows in rows.chunks(GRAM_ROWS) {
            let mut sums = Sums::ZERO;
            (kernels.gram)(rows, &mut sums);
            for i in 0..GRAM_SIDE {
                self.sum[i] += u64::from(sums.of_elements[i]);
                for j in 0..GRAM_SIDE {
                    self.gram[(i, j)] += u64::from(sums.of_products[i.min(j)][i.max(j)]);
                }
            }
        }
    }

    fn add_blocks(&mut self, rows: ArrayView2<'_, u8>) {
        for block in rows.axis_chunks_iter(Axis(0), EXACT_ROWS) {
            let floats = block.mapv(f32::from);
            // Every product and sum is a whole number below 2^24: exact, in whatever order.
            let products = floats.t().dot(&floats);
            self.gram.zip_mut_with(&products, |g, &p| *g += p as u64);
            for (sum, column) in self.sum.iter_mut().zip(block.columns()) {
                *sum += column.iter().map(|&v| u64::from(v)).sum::<u64>();
            }
        }
    }

    /// Adds the moments of other rows.
    ///
    /// # Errors
    /// [`Error::Shape`] for rows of another length.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        self.check_dimensions(other.dimensions())?;
        self.count += other.count;
        for (a, b) in self.sum.iter_mut().zip(&other.sum) {
            *a += b;
        }
        self.gram += &other.gram;
        Ok(())
    }

    /// Finds the principal components.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for more components than dimensions, [`Error::Fit`] for fewer rows
    /// than components or than two.
    pub fn fit(&self, params: &PcaParams) -> Result<PcaModel> {
        params.check(self.dimensions())?;
        let needed = params.n_components().max(2) as u64;
        if self.count < needed {
            return Err(Error::Fit(
                format!(
                    "{} rows for {} components, at least {needed} are needed",
                    self.count,
                    params.n_components()
                )
                .into(),
            ));
        }
        Ok(solve::fit(self, params))
    }

    /// The mean of each element.
    pub(super) fn mean(&self) -> Vec<f64> {
        self.sum.iter().map(|&s| s as f64 / self.count as f64).collect()
    }

    /// The covariance matrix over n - 1: the sums are exact, rounded only where they are divided.
    pub(super) fn covariance(&self) -> DMatrix<f64> {
        let n = i128::from(self.count);
        let scale = self.count as f64 * (self.count as f64 - 1.0);
        DMatrix::from_fn(self.dimensions(), self.dimensions(), |i, j| {
            let sums = i128::from(self.sum[i]) * i128::from(self.sum[j]);
            (n * i128::from(self.gram[(i, j)]) - sums) as f64 / scale
        })
    }

    fn check_dimensions(&self, dimensions: usize) -> Result<()> {
        if dimensions == self.dimensions() {
            return Ok(());
        }
        Err(Error::shape(format!(
            "rows of {dimensions} elements for moments of {}",
            self.dimensions()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize, d: usize) -> Array2<u8> {
        Array2::from_shape_fn((n, d), |(i, j)| ((i * 7919 + j * 104_729) % 251 + (i + j) % 5) as u8)
    }

    #[test]
    fn sums_are_those_of_the_definition() {
        for (n, d) in [(0, 3), (1, 1), (255, 32), (256, 32), (257, 5), (1000, 33), (70_001, 7)] {
            let rows = rows(n, d);
            let mut moments = Moments::new(d);
            moments.push_rows(rows.view()).unwrap();
            assert_eq!(moments.count(), n as u64);
            let wide = rows.mapv(u64::from);
            assert_eq!(moments.gram, wide.t().dot(&wide));
            assert_eq!(moments.sum, wide.sum_axis(Axis(0)).to_vec());
        }
    }

    #[test]
    fn the_largest_values_stay_exact() {
        let mut moments = Moments::new(2);
        moments.push_rows(Array2::from_elem((100_000, 2), 255).view()).unwrap();
        assert_eq!(moments.gram[(0, 1)], 100_000 * 255 * 255);
    }

    #[test]
    fn any_split_merges_to_the_same() {
        let rows = rows(700, 9);
        let mut whole = Moments::new(9);
        whole.push_rows(rows.view()).unwrap();
        for cut in [0, 1, 255, 256, 300, 700] {
            let (a, b) = rows.view().split_at(Axis(0), cut);
            let (mut x, mut y) = (Moments::new(9), Moments::new(9));
            x.push_rows(b).unwrap();
            y.push_rows(a).unwrap();
            x.merge(&y).unwrap();
            assert_eq!(x, whole);
        }
        assert!(whole.merge(&Moments::new(8)).is_err());
        assert!(whole.push_rows(Array2::zeros((1, 8)).view()).is_err());
    }
}
