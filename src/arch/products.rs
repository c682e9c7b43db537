//! Sums of products of the columns of a block of floats, by panels of columns.

/// Columns of a panel.
pub(crate) const PANEL: usize = 32;
/// Most rows of a panel.
pub(crate) const PANEL_ROWS: usize = 2 * SUMMED_ROWS;
/// Rows whose products are summed in float32.
const SUMMED_ROWS: usize = 256;
/// Columns of the left panel whose sums make an array that the compiler keeps in registers.
const GROUP: usize = 4;

/// Columns of a block of rows, each centred and scaled to less than 1, and what undoes that.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Panel {
    /// The number of columns; there are zeros in place of missing ones.
    width: usize,
    rows: Vec<[f32; PANEL]>,
    sums: [f64; PANEL],
    means: [f64; PANEL],
    /// Powers of two.
    scales: [f64; PANEL],
}

impl Default for Panel {
    fn default() -> Self {
        let zeros = [0.0; PANEL];
        Self { width: 0, rows: Vec::new(), sums: zeros, means: zeros, scales: zeros }
    }
}

impl Panel {
    /// The sums of the columns, before they were centred.
    pub(crate) fn sums(&self) -> &[f64; PANEL] {
        &self.sums
    }
}

/// Takes the columns from `start` on, as many as there are panels for, of rows of `d` elements. There are [`PANEL_ROWS`]
/// at most.
#[inline(always)]
pub(super) fn fill_panels(block: &[f32], d: usize, start: usize, panels: &mut [Panel]) {
    for (panel, start) in panels.iter_mut().zip((start..d).step_by(PANEL)) {
        panel.width = PANEL.min(d - start);
        panel.rows.resize(block.len() / d, [0.0; PANEL]);
    }
    // Row by row, as they come from memory.
    for (at, row) in block.chunks_exact(d).enumerate() {
        for (panel, start) in panels.iter_mut().zip((start..d).step_by(PANEL)) {
            let to = &mut panel.rows[at];
            if let Some(whole) = row[start..].first_chunk() {
                *to = *whole;
            } else {
                *to = [0.0; PANEL];
                to[..panel.width].copy_from_slice(&row[start..]);
            }
        }
    }
    panels.iter_mut().for_each(centre);
}

#[inline(always)]
fn centre(panel: &mut Panel) {
    let Panel { rows, sums, means, scales, .. } = panel;
    let n = rows.len() as f64;
    let (mut least, mut most) = ([f32::INFINITY; PANEL], [f32::NEG_INFINITY; PANEL]);
    let mut totals = [0.0; PANEL];
    for row in rows.iter() {
        for i in 0..PANEL {
            totals[i] += f64::from(row[i]);
        }
        for i in 0..PANEL {
            least[i] = if row[i] < least[i] { row[i] } else { least[i] };
            most[i] = if row[i] > most[i] { row[i] } else { most[i] };
        }
    }
    *sums = totals;
    let mut factors = [0.0; PANEL];
    for i in 0..PANEL {
        means[i] = sums[i] / n;
        let (above, below) = (f64::from(most[i]) - means[i], means[i] - f64::from(least[i]));
        scales[i] = power_above(if above > below { above } else { below });
        factors[i] = 1.0 / scales[i];
    }
    for row in rows {
        for i in 0..PANEL {
            row[i] = ((f64::from(row[i]) - means[i]) * factors[i]) as f32;
        }
    }
}

/// The power of two above a positive number; 1 for zero.
#[inline(always)]
pub(crate) fn power_above(number: f64) -> f64 {
    if number == 0.0 { 1.0 } else { 2.0 * f64::from_bits(number.to_bits() >> 52 << 52) }
}

/// Adds, for each column of `left` and each of `right`, the sum of the products of their elements, before they were
/// centred: for columns `i` and `j` to `gram[i * stride + j]`. Both panels are of the same rows.
///
/// Products of centred elements are summed in float32 in the order of the rows, 256 at a time, by fused multiply-adds: most
/// CPUs need twice the time without them. The rest is float64. The error is that of float32 sums of the deviations from the
/// block's means.
#[inline(always)]
pub(super) fn add_products<const G: usize, const R: usize>(
    left: &Panel,
    right: &Panel,
    gram: &mut [f64],
    stride: usize,
) {
    let mut of_centred = [[[0.0_f32; PANEL]; PANEL]; PANEL_ROWS / SUMMED_ROWS];
    let rows = left.rows.chunks(SUMMED_ROWS).zip(right.rows.chunks(SUMMED_ROWS));
    for (of_centred, (left, right)) in of_centred.iter_mut().zip(rows) {
        for i in 0..PANEL / (GROUP * G) {
            for j in 0..PANEL / R {
                let mut sums = [[[0.0; R]; GROUP]; G];
                for (one, other) in left.iter().zip(right) {
                    let one = &one.as_chunks::<GROUP>().0.as_chunks::<G>().0[i];
                    let other = &other.as_chunks::<R>().0[j];
                    for g in 0..G {
                        for k in 0..GROUP {
                            sums[g][k] = add(sums[g][k], one[g][k], other);
                        }
                    }
                }
                for g in 0..G {
                    for k in 0..GROUP {
                        of_centred[(i * G + g) * GROUP + k].as_chunks_mut::<R>().0[j] = sums[g][k];
                    }
                }
            }
        }
    }
    for i in 0..left.width {
        let (scale, mean) = (left.scales[i], left.means[i]);
        let mut sums = [0.0; PANEL];
        for of_centred in &of_centred {
            sums.iter_mut().zip(&of_centred[i]).for_each(|(sum, &v)| *sum += f64::from(v));
        }
        for (sum, (other_scale, other_sum)) in
            sums.iter_mut().zip(right.scales.iter().zip(&right.sums))
        {
            *sum = *sum * (scale * other_scale) + mean * other_sum;
        }
        let gram = &mut gram[i * stride..];
        if let Some(gram) = gram[..right.width].first_chunk_mut::<PANEL>() {
            for j in 0..PANEL {
                gram[j] += sums[j];
            }
        } else {
            for j in 0..right.width {
                gram[j] += sums[j];
            }
        }
    }
}

/// The sums with the products of `value` and each factor added.
///
/// Takes the sums by value, because the compiler does not keep sums behind a reference in wide registers.
#[inline(always)]
fn add<const L: usize>(sums: [f32; L], value: f32, factors: &[f32; L]) -> [f32; L] {
    let mut added = sums;
    for lane in 0..L {
        added[lane] = value.mul_add(factors[lane], sums[lane]);
    }
    added
}
