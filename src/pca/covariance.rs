//! The covariance of rows that are read several times: applied to vectors, without the matrix.

use std::panic::resume_unwind;
use std::sync::mpsc::sync_channel;

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use rayon::prelude::*;

use crate::arch::{Kernels, Loadings, PANEL, PANEL_ROWS, Panel, power_above};
use crate::error::{Error, Result};

/// Elements of a row whose products are summed in float32.
const SCORE_LEN: usize = 256;
/// Rows that a thread multiplies at a time.
const SCORE_ROWS: usize = 32;
/// Panels of an image that a thread computes at a time.
const IMAGE_PANELS: usize = 8;

/// Calls with all rows, in order, in arrays of shape (rows, dimensions).
pub(super) type Rows<'a> =
    dyn FnMut(&mut dyn FnMut(ArrayView2<'_, f32>) -> Result<()>) -> Result<()> + Send + 'a;

/// Applies the covariance of rows to vectors, in one pass over the rows.
///
/// Rows are centred and scaled, and then products are summed in float32, 256 at a time; the rest is float64. The kernels
/// give the same bits on every instruction set.
pub(super) struct Covariance<'a> {
    mean: &'a [f64],
    variances: &'a Array1<f64>,
    /// The number of rows.
    n: u64,
    /// A power of two by which rows are divided, so that products of any size fit in float32.
    scale: f64,
}

impl<'a> Covariance<'a> {
    /// The covariance of `n` rows whose elements have these means and variances.
    pub fn new(mean: &'a Array1<f64>, variances: &'a Array1<f64>, n: u64) -> Self {
        let mean = mean.as_slice().expect("an owned array");
        Self { mean, variances, n, scale: power_above(variances.sum().sqrt()) }
    }

    /// The sum of the variances of the elements.
    pub fn total(&self) -> f64 {
        self.variances.sum()
    }

    /// Whether the variance in a direction is within the rounding of products: relative to that which the elements would
    /// give if they were not correlated.
    pub fn is_noise(&self, variance: f64, direction: ArrayView1<'_, f64>) -> bool {
        let own: f64 = direction.iter().zip(self.variances).map(|(v, own)| v * v * own).sum();
        variance <= (self.mean.len() as f64).sqrt() * f64::from(f32::EPSILON) * own
    }

    /// The covariance times `vectors`.
    pub fn apply(&self, vectors: &Array2<f64>, rows: &mut Rows<'_>) -> Result<Array2<f64>> {
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
                self.write_scores(rows, &loadings, scores);
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
    fn write_scores(&self, rows: &[f32], loadings: &[Loadings<f32>], scores: &mut [f32]) {
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

/// Calls with blocks of [`PANEL_ROWS`] rows of `d` elements; the last may have fewer. Another thread reads meanwhile.
pub(super) fn blocks(d: usize, rows: &mut Rows<'_>, work: &mut dyn FnMut(&[f32])) -> Result<()> {
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
