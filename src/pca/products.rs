//! Sums of products of floats, in blocks of rows: what takes the time of a fit to long vectors.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView2, Axis, s};
use rayon::prelude::*;

use crate::arch::{Kernels, PANEL, PANEL_ROWS, Panel};

/// Rows that are added at a time.
pub(super) const BLOCK_ROWS: usize = PANEL_ROWS;
/// Rows whose exact products are summed before they are added to those of others. Matrix products of more rows may split
/// the sums in ways that depend on the machine.
const EXACT_ROWS: usize = 256;
/// Rows of the Gram matrix that a thread works on at a time.
const BAND: usize = 128;
/// The same, in panels.
const BAND_PANELS: usize = 2;
/// Most elements that are converted to float64 at a time, if a block has no more.
const EXACT_LEN: usize = 512 << 10;
/// Most elements that are put into panels at a time, if a block has no more.
const CENTRED_LEN: usize = 2 << 20;
/// Elements that a thread converts at a time.
const TASK_LEN: usize = 64 << 10;
/// Elements of the rows that a thread sums up.
const SUM_COLUMNS: usize = 256;
/// Panels of a block that a thread fills at a time.
const FILLED_PANELS: usize = 8;

/// Most elements of a vector for products in float64; for longer vectors, the number of rows in float64.
const MOST_EXACT: (usize, u64) = (512, 2048);

/// Adds the elements of each row to `sum`, and the products of two to the upper triangle of `gram`, block by block.
/// `before` rows came before these: a whole number of blocks, unless moments were merged.
///
/// Products are exact in float64 or, for long vectors after the first rows ([`MOST_EXACT`]), in float32. Blocks in
/// float32 are centred first, so the error is relative to the deviations from the mean, not to the mean.
pub(super) fn add_products(rows: &[f32], before: u64, sum: &mut [f64], gram: &mut Array2<f64>) {
    let d = gram.ncols();
    if rows.is_empty() {
        return;
    }
    let (most_elements, most_rows) = MOST_EXACT;
    let exact = if d <= most_elements {
        rows.len()
    } else {
        // Up to the first block that has as many rows before it.
        (most_rows.saturating_sub(before) as usize).next_multiple_of(BLOCK_ROWS) * d
    };
    let (exact, rest) = rows.split_at(exact.min(rows.len()));
    let blocks = |len: usize, rows: usize| (len / (rows * d)).max(1) * rows * d;
    let (mut wide, mut panels) = (Vec::new(), Vec::new());
    exact
        .chunks(blocks(EXACT_LEN, EXACT_ROWS))
        .for_each(|rows| add_exact(rows, &mut wide, sum, gram));
    rest.chunks(blocks(CENTRED_LEN, BLOCK_ROWS))
        .for_each(|rows| add_centred(rows, &mut panels, sum, gram));
}

/// The rounding error of the variance along a direction, relative to its variance if the elements were uncorrelated: 0
/// if products are exact. A smaller variance is noise.
pub(super) fn rounding(d: usize, rows: u64) -> f64 {
    let (most_elements, most_rows) = MOST_EXACT;
    if d <= most_elements || rows <= most_rows {
        return 0.0;
    }
    // Errors of single covariances, some 1e-8, add up as those of a random matrix.
    (d as f64).sqrt() * f64::from(f32::EPSILON) / 4.0
}

fn add_exact(rows: &[f32], wide: &mut Vec<f64>, sum: &mut [f64], gram: &mut Array2<f64>) {
    let d = gram.ncols();
    wide.resize(rows.len(), 0.0);
    let convert = |(to, from): (&mut [f64], &[f32])| {
        to.iter_mut().zip(from).for_each(|(to, &v)| *to = f64::from(v));
    };
    wide.par_chunks_mut(TASK_LEN).zip(rows.par_chunks(TASK_LEN)).for_each(convert);
    let wide = ArrayView2::from_shape((rows.len() / d, d), wide).expect("whole rows");
    sum.par_chunks_mut(SUM_COLUMNS).enumerate().for_each(|(i, sum)| {
        let start = i * SUM_COLUMNS;
        for row in wide.slice(s![.., start..start + sum.len()]).rows() {
            sum.iter_mut().zip(row).for_each(|(sum, &v)| *sum += v);
        }
    });
    let bands: Vec<_> = gram.axis_chunks_iter_mut(Axis(0), BAND).enumerate().collect();
    bands.into_par_iter().for_each(|(band, mut gram)| {
        let (start, end) = (band * BAND, band * BAND + gram.nrows());
        for block in wide.axis_chunks_iter(Axis(0), EXACT_ROWS) {
            let (left, right) = (block.slice(s![.., start..end]), block.slice(s![.., start..]));
            let mut gram = gram.slice_mut(s![.., start..]);
            general_mat_mul(1.0, &left.t(), &right, 1.0, &mut gram);
        }
    });
}

fn add_centred(rows: &[f32], of_blocks: &mut Vec<Panel>, sum: &mut [f64], gram: &mut Array2<f64>) {
    let d = gram.ncols();
    let Kernels { fill_panels, add_products, .. } = Kernels::current();
    let panels = d.div_ceil(PANEL);
    let blocks: Vec<&[f32]> = rows.chunks(BLOCK_ROWS * d).collect();
    of_blocks.resize(blocks.len() * panels, Panel::default());
    of_blocks.par_chunks_mut(panels).zip(blocks).for_each(|(panels, block)| {
        panels.par_chunks_mut(FILLED_PANELS).enumerate().for_each(|(i, panels)| {
            fill_panels(block, d, i * FILLED_PANELS * PANEL, panels);
        });
    });
    for panels in of_blocks.chunks(panels) {
        for (sum, panel) in sum.chunks_mut(PANEL).zip(panels) {
            sum.iter_mut().zip(panel.sums()).for_each(|(sum, of_block)| *sum += of_block);
        }
    }
    let bands = gram.axis_chunks_iter_mut(Axis(0), BAND_PANELS * PANEL).enumerate();
    bands.collect::<Vec<_>>().into_par_iter().with_max_len(1).for_each(|(band, mut gram)| {
        let gram = gram.as_slice_mut().expect("rows of a matrix");
        let first = band * BAND_PANELS;
        for right in first..panels {
            for block in of_blocks.chunks(panels) {
                for left in first..(first + BAND_PANELS).min(right + 1) {
                    let gram = &mut gram[(left - first) * PANEL * d + right * PANEL..];
                    add_products(&block[left], &block[right], gram, d);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pca::{Moments, PcaParams};

    const D: usize = MOST_EXACT.0 + 7;
    const N: usize = MOST_EXACT.1 as usize + 2 * BLOCK_ROWS + 100;

    fn noise(i: usize, j: usize) -> f32 {
        let mixed = ((i as u64 * 0x9e37_79b9) ^ (j as u64 * 0x85eb_ca6b))
            .wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 29) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Columns of all sizes, with means far above their deviations, some constant, and correlated neighbours.
    fn rows(n: usize) -> Array2<f32> {
        Array2::from_shape_fn((n, D), |(i, j)| {
            let value = noise(i, j) + noise(i, j / 2 + 1000) + (j % 40) as f32;
            match j % 100 {
                95 => noise(i, j) * f32::MAX,
                96 => value * 1e-41,
                97 => 0.1,
                98 => value * 1e30,
                99 => value * 1e-30,
                _ => value,
            }
        })
    }

    fn moments(rows: &Array2<f32>, at_a_time: usize) -> Moments {
        let mut moments = Moments::new_f32(D);
        for rows in rows.axis_chunks_iter(Axis(0), at_a_time) {
            moments.push_rows_f32(rows).unwrap();
        }
        moments
    }

    /// The largest error of a covariance, relative to the standard deviations, against the definition in two passes: of
    /// some columns, of all kinds.
    fn error(moments: &Moments, rows: &Array2<f32>) -> f64 {
        let columns: Vec<usize> = (0..D).filter(|j| j % 100 > 90).collect();
        let wide = rows.select(Axis(1), &columns).mapv(f64::from);
        let centred = &wide - &wide.mean_axis(Axis(0)).unwrap();
        let want = centred.t().dot(&centred) / (rows.nrows() as f64 - 1.0);
        let variances = want.diag();
        let got = moments.mean_and_covariance().1;
        let mut most = 0.0_f64;
        for ((i, j), want) in want.indexed_iter() {
            let got = got[(columns[i], columns[j])];
            let scale = (variances[i] * variances[j]).sqrt();
            if scale > 0.0 {
                most = most.max((got - want).abs() / scale);
            } else {
                assert_eq!(got, 0.0);
            }
        }
        most
    }

    #[test]
    fn long_vectors_of_many_rows_are_near_the_definition() {
        let rows = rows(N);
        let most_rows = MOST_EXACT.1 as usize;
        let few = rows.slice(s![..most_rows, ..]).to_owned();
        assert!(error(&moments(&few, N), &few) < 1e-9);
        let whole = moments(&rows, N);
        let found = error(&whole, &rows);
        assert!((1e-9..2e-7).contains(&found), "{found:e}");
        // The parts each have exact rows of their own.
        let (top, bottom) = rows.view().split_at(Axis(0), N / 2 + 1);
        let mut parts = moments(&top.to_owned(), N);
        parts.merge(&moments(&bottom.to_owned(), 11)).unwrap();
        assert!(error(&parts, &rows) < 1e-9);
        // All of these come after the exact ones.
        let mut twice = whole.clone();
        twice.push_rows_f32(rows.view()).unwrap();
        let both = ndarray::concatenate(Axis(0), &[rows.view(), rows.view()]).unwrap();
        let found = error(&twice, &both);
        assert!((1e-9..2e-7).contains(&found), "{found:e}");
    }

    #[test]
    fn directions_without_variance_are_no_components() {
        for n in [N, N + 12 * BLOCK_ROWS] {
            let few = Array2::from_shape_fn((n, D), |(i, j)| {
                // One element is a hundred times the others.
                let size = if j == 3 { 100.0 } else { 1.0 };
                size * (0..5).map(|c| noise(i, c + 5000) * noise(c, j)).sum::<f32>()
            });
            let model = moments(&few, n).fit(&PcaParams::new(20)).unwrap();
            assert_eq!(model.rank(), 5, "{n} rows");
            assert!(model.explained_variance().iter().skip(5).all(|&v| v == 0.0));
        }
    }

    #[test]
    fn neither_pushes_nor_threads_change_a_bit() {
        let rows = rows(N);
        let whole = moments(&rows, N).to_bytes();
        for at_a_time in [1, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 2100] {
            assert!(moments(&rows, at_a_time).to_bytes() == whole, "{at_a_time} rows at a time");
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert!(pool.install(|| moments(&rows, 700)).to_bytes() == whole, "three threads");
    }
}
