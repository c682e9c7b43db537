//! Smoothing of a level before its descriptors are sampled.

use std::ops::Range;

use super::pyramid::{Framed, Plane, reflect};
use crate::arch::{GAUSS_LEN, Kernels};

/// The radius of the smoothing kernel, in pixels.
pub(super) const REACH: usize = GAUSS_LEN / 2;

/// The smoothing of a level, row by row: a ring buffer of sums along x, and the columns to smooth.
#[derive(Clone, Debug, Default)]
pub(super) struct RowSums {
    rows: [Vec<f32>; GAUSS_LEN],
    /// Index of the oldest row, which the next row replaces.
    next: usize,
    padded: Vec<u8>,
    /// Keypoints, sorted by row, then by column.
    centres: Vec<(isize, isize)>,
    cover: Cover,
}

/// The columns around the keypoints that are near a row.
#[derive(Clone, Debug, Default)]
struct Cover {
    /// The keypoints near the row, as a range of the sorted ones.
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

    /// Moves on to row `y`: covers the columns within `reach` of each keypoint that is at most `rows` rows away.
    /// The keypoints are sorted by row.
    fn move_to(
        &mut self,
        y: isize,
        centres: &[(isize, isize)],
        (reach, rows): (isize, isize),
        width: usize,
    ) {
        let Range { mut start, end } = self.near.clone();
        // A row at a time, not a keypoint: there may be thousands in each.
        while start < end && centres[start].1 < y - rows {
            let row = centres[start].1;
            self.columns.retain(|&x| {
                let is_gone = start < end && centres[start] == (x, row);
                start += usize::from(is_gone);
                !is_gone
            });
        }
        let added = centres[end..].iter().take_while(|centre| centre.1 <= y + rows).count();
        if self.near.start == start && added == 0 {
            return;
        }
        if added > 0 {
            self.columns.extend(centres[end..end + added].iter().map(|&(x, _)| x));
            self.columns.sort_unstable();
        }
        self.near = start..end + added;
        self.runs.clear();
        let inside = |x: isize| x.clamp(0, width as isize) as usize;
        let mut open = isize::MIN..isize::MIN;
        for &x in &self.columns {
            let from = x - reach;
            if from > open.end {
                if !open.is_empty() {
                    self.runs.push(inside(open.start)..inside(open.end));
                }
                open.start = from;
            }
            open.end = x + reach + 1;
        }
        if !open.is_empty() {
            self.runs.push(inside(open.start)..inside(open.end));
        }
    }
}

/// Smooths the pixels of `level` within `reach` of a centre, along both axes, and writes them to the same place in
/// `target`.
///
/// The level is mirrored at its edges. `fused` has the number of leading columns that each of the two passes, along
/// x and along y, computes with fused multiply-adds.
pub(super) fn blur(
    kernels: &Kernels,
    level: Framed<'_>,
    centres: impl Iterator<Item = (isize, isize)>,
    reach: usize,
    fused: (usize, usize),
    sums: &mut RowSums,
    target: &mut Plane,
) {
    sums.start(level.width, centres);
    let (Some(top), Some(bottom)) = (sums.centres.first(), sums.centres.last()) else { return };
    let (reach, beyond) = (reach as isize, REACH as isize);
    let top = (top.1 - reach).max(0);
    let bottom = (bottom.1 + reach).min(level.height as isize - 1);
    for y in top - beyond..=bottom + beyond {
        sums.cover.move_to(y, &sums.centres, (reach, reach + beyond), level.width);
        sums.add_row(kernels, level, y, fused.0);
        let done = y - beyond;
        if done >= top {
            sums.smooth_row(kernels, fused.1, target.row_mut(done as usize));
        }
    }
}

impl RowSums {
    fn start(&mut self, width: usize, centres: impl Iterator<Item = (isize, isize)>) {
        self.cover.clear();
        self.centres.clear();
        self.centres.extend(centres);
        // Detected keypoints are sorted and distinct; a caller's may be unsorted or repeated.
        self.centres.sort_unstable_by_key(|&(x, y)| (y, x));
        self.centres.dedup();
        for row in &mut self.rows {
            row.resize(width, 0.0);
        }
        self.next = 0;
    }

    /// Sums row `y` of the level, or its mirror image, along x.
    fn add_row(&mut self, kernels: &Kernels, level: Framed<'_>, y: isize, fused: usize) {
        let (y, width) = (reflect(y, level.height) as isize, level.width);
        for columns in &self.cover.runs {
            let first = columns.start as isize - REACH as isize;
            let len = columns.len() + GAUSS_LEN - 1;
            let source = if first >= 0 && columns.end + REACH <= width {
                level.run(first, y, len)
            } else {
                let row = level.run(0, y, width);
                self.padded.clear();
                self.padded.extend((first..).take(len).map(|x| row[reflect(x, width)]));
                self.padded.as_slice()
            };
            let fused = fused.saturating_sub(columns.start);
            (kernels.blur_row)(source, fused, &mut self.rows[self.next][columns.clone()]);
        }
        self.next = if self.next + 1 == GAUSS_LEN { 0 } else { self.next + 1 };
    }

    /// Sums the rows along y into the row in their middle.
    ///
    /// Uses the cover of the newest row. This cover has the columns of all keypoints up to `reach` rows from the middle
    /// row, and also those of keypoints up to six rows further below. The sums in these extra columns may be stale, but
    /// no descriptor reads those pixels. Computing the exact cover takes longer than it saves.
    fn smooth_row(&self, kernels: &Kernels, fused: usize, target: &mut [u8]) {
        let mut window: [&[f32]; GAUSS_LEN] = [&[]; GAUSS_LEN];
        let (newer, older) = self.rows.split_at(self.next);
        for (to, row) in window.iter_mut().zip(older.iter().chain(newer)) {
            *to = row;
        }
        for columns in &self.cover.runs {
            let fused = fused.saturating_sub(columns.start);
            (kernels.blur_column)(&window, columns.start, fused, &mut target[columns.clone()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pixels::GrayView;

    proptest! {
        /// Around each centre, smoothing only the surroundings of the centres equals smoothing the whole level.
        #[test]
        fn what_is_covered_is_smoothed_as_the_whole(
            (width, height) in (1_usize..60, 1_usize..40),
            reach in 0_usize..20,
            places in prop::collection::vec((0_usize..60, 0_usize..40), 1..12),
            seed: u32,
        ) {
            let pixels: Vec<u8> = (0..width * height)
                .map(|i| ((i as u32 ^ seed).wrapping_mul(2_654_435_761) >> 24) as u8)
                .collect();
            let image = GrayView::new(&pixels, width, height).unwrap();
            let centre = |(x, y): (usize, usize)| ((x % width) as isize, (y % height) as isize);
            let smoothed = |centres: &[(isize, isize)], reach, old: u8| {
                let (mut sums, mut target) = (RowSums::default(), Plane::default());
                target.reshape(width, height, 0).unwrap();
                target.map(|_| old);
                let fused = (width / 32 * 32, width / 4 * 4);
                let centres = centres.iter().copied();
                blur(&Kernels::current(), image.into(), centres, reach, fused, &mut sums, &mut target);
                target
            };
            let centres: Vec<_> = places.into_iter().map(centre).collect();
            let whole = smoothed(&[(0, 0)], width.max(height), 0);
            let part = smoothed(&centres, reach, 77);
            let reach = reach as isize;
            for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                let near = |c: &(isize, isize)| {
                    (x as isize - c.0).abs() <= reach && (y as isize - c.1).abs() <= reach
                };
                if centres.iter().any(near) {
                    prop_assert_eq!(part.view().row(y)[x], whole.view().row(y)[x]);
                }
            }
        }
    }
}
