//! Smoothing of a level before its descriptors are sampled.

use std::ops::Range;

use super::pyramid::{Framed, Plane, reflect};
use crate::arch::{Kernels, TAPS};

/// How far a smoothed pixel reads.
pub(super) const REACH: usize = TAPS / 2;

/// Rows of sums along x, reused in turn, and which columns are to be smoothed.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums {
    rows: [Vec<f32>; TAPS],
    padded: Vec<u8>,
    /// Keypoints, top down.
    centres: Vec<(isize, isize)>,
    to_sum: Cover,
    to_smooth: Cover,
}

/// The columns around the keypoints that are near a row.
#[derive(Clone, Debug, Default)]
struct Cover {
    /// Which of the keypoints are near.
    near: Range<usize>,
    /// Their columns, from left to right.
    columns: Vec<isize>,
    runs: Vec<Range<usize>>,
}

impl Cover {
    fn clear(&mut self) {
        self.near = 0..0;
        self.columns.clear();
        self.runs.clear();
    }

    /// Moves on to row `y`: covers the columns up to `reach` from those of the keypoints, sorted by row,
    /// that are up to `rows` rows away.
    fn move_to(
        &mut self,
        y: isize,
        centres: &[(isize, isize)],
        (reach, rows): (isize, isize),
        width: usize,
    ) {
        let Range { mut start, mut end } = self.near.clone();
        while start < end && centres[start].1 < y - rows {
            let at = self.columns.partition_point(|&x| x < centres[start].0);
            self.columns.remove(at);
            start += 1;
        }
        while end < centres.len() && centres[end].1 <= y + rows {
            let at = self.columns.partition_point(|&x| x < centres[end].0);
            self.columns.insert(at, centres[end].0);
            end += 1;
        }
        if self.near == (start..end) {
            return;
        }
        self.near = start..end;
        self.runs.clear();
        for &x in &self.columns {
            let inside = |x: isize| x.clamp(0, width as isize) as usize;
            let (from, to) = (inside(x - reach), inside(x + reach + 1));
            match self.runs.last_mut() {
                Some(run) if run.end >= from => run.end = to,
                _ => self.runs.push(from..to),
            }
        }
    }
}

/// Smooths the pixels of `level` up to `reach` from the centres, along either axis, into the same place
/// of `target`.
///
/// Pixels beyond the level are its mirror image. `fused` is how many of the level's columns the
/// two passes compute with fused multiply-adds.
pub(super) fn blur(
    kernels: &Kernels,
    level: Framed<'_>,
    centres: impl Iterator<Item = (isize, isize)>,
    reach: usize,
    fused: (usize, usize),
    sums: &mut Sums,
    target: &mut Plane,
) {
    let (width, height) = (level.width, level.height);
    let Sums { rows, padded, centres: sorted, to_sum, to_smooth } = sums;
    to_sum.clear();
    to_smooth.clear();
    sorted.clear();
    sorted.extend(centres);
    // Those that were found are in order; those that callers give need not be.
    sorted.sort_by_key(|c| c.1);
    let (Some(top), Some(bottom)) = (sorted.first(), sorted.last()) else { return };
    let (reach, beyond) = (reach as isize, REACH as isize);
    let (top, bottom) = ((top.1 - reach).max(0), (bottom.1 + reach).min(height as isize - 1));
    for row in &mut *rows {
        row.resize(width, 0.0);
    }
    let slot = |y: isize| y.rem_euclid(TAPS as isize) as usize;
    for y in top - beyond..=bottom + beyond {
        let source_y = reflect(y, height) as isize;
        to_sum.move_to(y, sorted, (reach, reach + beyond), width);
        for columns in &to_sum.runs {
            let first = columns.start as isize - beyond;
            let len = columns.len() + TAPS - 1;
            let source = if first >= 0 && columns.end + REACH <= width {
                level.run(first, source_y, len)
            } else {
                let row = level.run(0, source_y, width);
                padded.clear();
                padded.extend((first..).take(len).map(|x| row[reflect(x, width)]));
                padded.as_slice()
            };
            let fused = fused.0.saturating_sub(columns.start);
            (kernels.blur_row)(source, fused, &mut rows[slot(y)][columns.clone()]);
        }
        let done = y - beyond;
        if done < top {
            continue;
        }
        to_smooth.move_to(done, sorted, (reach, reach), width);
        for columns in &to_smooth.runs {
            let mut window: [&[f32]; TAPS] = [&[]; TAPS];
            for (row, y) in window.iter_mut().zip(done - beyond..) {
                *row = &rows[slot(y)][columns.clone()];
            }
            let fused = fused.1.saturating_sub(columns.start);
            (kernels.blur_column)(
                &window,
                fused,
                &mut target.row_mut(done as usize)[columns.clone()],
            );
        }
    }
}
