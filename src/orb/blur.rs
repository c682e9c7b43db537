//! Smoothing of a level before its descriptors are sampled.

use std::ops::Range;

use super::pyramid::{Framed, Plane, reflect};
use crate::arch::{Kernels, TAPS};

/// How far a smoothed pixel reads.
pub(super) const REACH: usize = TAPS / 2;

/// Rows of sums along x, reused in turn.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    rows: [Vec<f32>; TAPS],
    padded: Vec<u8>,
}

/// Smooths the pixels of `level` in `columns` x `rows` into the same place of `target`.
///
/// Pixels beyond the level are its mirror image. `fused` is how many of the level's columns the
/// two passes compute with fused multiply-adds.
pub(super) fn blur(
    kernels: &Kernels,
    level: Framed<'_>,
    columns: Range<usize>,
    rows: Range<usize>,
    fused: (usize, usize),
    sums: &mut Sums,
    target: &mut Plane,
) {
    let width = columns.len();
    let first = columns.start as isize - REACH as isize;
    let inside = first >= 0 && columns.end + REACH <= level.width;
    let (fused_row, fused_column) =
        (fused.0.saturating_sub(columns.start), fused.1.saturating_sub(columns.start));
    for row in &mut sums.rows {
        row.resize(width, 0.0);
    }
    let slot = |y: isize| y.rem_euclid(TAPS as isize) as usize;
    for y in rows.start as isize - REACH as isize..(rows.end + REACH) as isize {
        let source_y = reflect(y, level.height) as isize;
        let source = if inside {
            level.run(first, source_y, width + TAPS - 1)
        } else {
            let row = level.run(0, source_y, level.width);
            sums.padded.clear();
            sums.padded.extend(
                (0..width + TAPS - 1).map(|i| row[reflect(first + i as isize, level.width)]),
            );
            &sums.padded
        };
        (kernels.blur_row)(source, fused_row, &mut sums.rows[slot(y)]);
        let done = y - REACH as isize;
        if done >= rows.start as isize {
            let mut window: [&[f32]; TAPS] = [&[]; TAPS];
            for (row, y) in window.iter_mut().zip(done - REACH as isize..) {
                *row = &sums.rows[slot(y)];
            }
            let out = &mut target.row_mut(done as usize)[columns.clone()];
            (kernels.blur_column)(&window, fused_column, out);
        }
    }
}
