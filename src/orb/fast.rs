//! FAST-9/16 corners: score and non-maximum suppression.

use std::ops::Range;

use crate::arch::{Kernels, RADIUS, RingRows};
use crate::pixels::GrayView;

/// How far from a corner pixels are read: by the circles around its neighbours.
pub(super) const REACH: usize = RADIUS + 1;

/// A corner of one level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Corner {
    /// Column, in pixels of the level.
    pub x: u32,
    /// Row, in pixels of the level.
    pub y: u32,
    /// FAST score, or the Harris response once that is computed.
    pub response: f32,
}

/// Three rows of scores, each with a margin of one pixel, and the local maxima of a row.
#[derive(Clone, Debug, Default)]
pub(super) struct ScoreRows {
    rows: [Vec<u8>; 3],
    peaks: Vec<u8>,
}

/// A histogram of the best scores so far, and the lowest score that can still be among the `wanted` best.
struct Best {
    wanted: usize,
    /// Number of corners with each score; valid from `bound` on.
    counts: [u32; 256],
    /// Number of corners with a score of `bound` or more.
    found: usize,
    bound: u8,
}

impl Best {
    fn new(wanted: usize) -> Self {
        Self { wanted, counts: [0; 256], found: 0, bound: 0 }
    }

    fn add(&mut self, score: u8) {
        self.counts[usize::from(score)] += 1;
        self.found += 1;
    }

    /// Raises the bound to the `wanted`-th best score, once that many corners are found.
    fn raise(&mut self) {
        loop {
            let above = self.found - self.counts[usize::from(self.bound)] as usize;
            if above < self.wanted {
                return;
            }
            self.found = above;
            self.bound += 1;
        }
    }
}

/// The corners to find on a level.
pub(super) struct Search {
    pub threshold: u8,
    /// The `wanted` best corners are found, and all that tie with the last of these. Worse ones may be found, too.
    pub wanted: usize,
    pub columns: Range<usize>,
    pub rows: Range<usize>,
}

/// Appends corners in raster order.
///
/// A corner's score is strictly greater than those of all eight neighbours. Neighbours outside the window count, so
/// scores are computed one pixel beyond it. The threshold rises to the `wanted`-th best score so far. Scores at or
/// above it do not change, and a lower score cannot suppress them.
pub(super) fn detect(
    kernels: &Kernels,
    image: GrayView<'_>,
    search: Search,
    buffers: &mut ScoreRows,
    corners: &mut Vec<Corner>,
) {
    let Search { threshold, wanted, columns, rows } = search;
    let (width, height) = (image.width(), image.height());
    let columns = columns.start.max(RADIUS)..columns.end.min(width.saturating_sub(RADIUS));
    let rows = rows.start.max(RADIUS)..rows.end.min(height.saturating_sub(RADIUS));
    if columns.is_empty() || rows.is_empty() || wanted == 0 {
        return;
    }
    // The window grown by one pixel; `scored` is the part of it that can hold a corner.
    let left = columns.start - 1;
    let scored = left.max(RADIUS)..(columns.end + 1).min(width - RADIUS);
    buffers.start(columns.len());
    let mut ring = Ring::above(image, rows.start - 1, scored.start - RADIUS..scored.end + RADIUS);
    let mut best = Best::new(wanted);
    let mut had_any = false;
    for y in rows.start - 1..=rows.end {
        let ring = ring.move_to(y);
        let out = &mut buffers.rows[y % 3][scored.start - left..scored.end - left];
        let has_any = if (RADIUS..height - RADIUS).contains(&y) {
            (kernels.fast_scores)(ring, threshold.max(best.bound), out)
        } else {
            out.fill(0);
            false
        };
        if y > rows.start && had_any {
            buffers.for_each_peak(kernels, y - 1, columns.len(), |i, score| {
                if score >= best.bound {
                    best.add(score);
                    let (x, y) = ((columns.start + i) as u32, (y - 1) as u32);
                    corners.push(Corner { x, y, response: f32::from(score) });
                }
            });
            best.raise();
        }
        had_any = has_any;
    }
}

/// The rows that the circles around the pixels of a row touch, moving down a row at a time.
struct Ring<'a> {
    image: GrayView<'a>,
    /// The columns that the circles touch.
    span: Range<usize>,
    rows: RingRows<'a>,
}

impl<'a> Ring<'a> {
    /// The rows for circles around row `y - 1`, so that the first `move_to` goes to row `y`.
    fn above(image: GrayView<'a>, y: usize, span: Range<usize>) -> Self {
        let mut ring = Self { image, span, rows: [&[]; 2 * RADIUS + 1] };
        for i in 0..ring.rows.len() {
            ring.rows[i] = (y + i).checked_sub(1 + RADIUS).map_or(&[], |y| ring.line(y));
        }
        ring
    }

    fn line(&self, y: usize) -> &'a [u8] {
        if y < self.image.height() { &self.image.row(y)[self.span.clone()] } else { &[] }
    }

    /// Moves on to row `y`, the next one; rows beyond the image are empty.
    fn move_to(&mut self, y: usize) -> &RingRows<'a> {
        self.rows.copy_within(1.., 0);
        self.rows[2 * RADIUS] = self.line(y + RADIUS);
        &self.rows
    }
}

impl ScoreRows {
    fn start(&mut self, columns: usize) {
        for row in &mut self.rows {
            row.clear();
            row.resize(columns + 2, 0);
        }
        // Padded to whole chunks, which `for_each_set` reads one by one.
        self.peaks.clear();
        self.peaks.resize(columns.next_multiple_of(CHUNK), 0);
    }

    /// Calls `found` with column and score of each local maximum of row `y`. Rows `y - 1` to `y + 1` must be scored.
    fn for_each_peak(
        &mut self,
        kernels: &Kernels,
        y: usize,
        columns: usize,
        mut found: impl FnMut(usize, u8),
    ) {
        let [above, here, below] = [y + 2, y, y + 1].map(|y| self.rows[y % 3].as_slice());
        (kernels.fast_peaks)(above, here, below, &mut self.peaks[..columns]);
        for_each_set(&self.peaks, |i| found(i, here[i + 1]));
    }
}

const WORD: usize = size_of::<u64>();
const CHUNK: usize = 8 * WORD;

/// Calls `found` with the index of each byte that is 1; all others must be 0.
fn for_each_set(peaks: &[u8], mut found: impl FnMut(usize)) {
    /// A factor that gathers the lowest bits of eight bytes in the highest byte, in their order.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    for (chunk, peaks) in peaks.as_chunks::<CHUNK>().0.iter().enumerate() {
        if peaks.iter().fold(0, |any, peak| any | peak) == 0 {
            continue;
        }
        let mut left = 0;
        for word in peaks.as_chunks::<WORD>().0.iter().rev() {
            left = left << u8::BITS | u64::from_le_bytes(*word).wrapping_mul(GATHER) >> 56;
        }
        while left != 0 {
            found(chunk * CHUNK + left.trailing_zeros() as usize);
            left &= left - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::select::retain_best;
    use super::*;

    /// The circle, from its definition: the pixels at a distance that rounds to three, in order.
    const RING: [(isize, isize); 16] = [
        (0, 3),
        (1, 3),
        (2, 2),
        (3, 1),
        (3, 0),
        (3, -1),
        (2, -2),
        (1, -3),
        (0, -3),
        (-1, -3),
        (-2, -2),
        (-3, -1),
        (-3, 0),
        (-3, 1),
        (-2, 2),
        (-1, 3),
    ];

    /// FAST straight from its definition: every arc of nine, no early rejection, the whole image.
    #[allow(clippy::needless_range_loop)] // The formula's indices.
    fn naive(image: GrayView<'_>, threshold: u8) -> Vec<Corner> {
        let (w, h) = (image.width(), image.height());
        let mut scores = vec![vec![0_i32; w]; h];
        for y in RADIUS..h.saturating_sub(RADIUS) {
            for x in RADIUS..w.saturating_sub(RADIUS) {
                let at = |(dx, dy): (isize, isize)| {
                    i32::from(image.row((y as isize + dy) as usize)[(x as isize + dx) as usize])
                };
                let d = RING.map(|p| at((0, 0)) - at(p));
                let best = (0..16)
                    .map(|k| {
                        let arc = || (0..9).map(move |j| d[(k + j) % 16]);
                        arc().min().unwrap().max(-arc().max().unwrap())
                    })
                    .max()
                    .unwrap();
                scores[y][x] = if best > i32::from(threshold) { best - 1 } else { 0 };
            }
        }
        let mut corners = Vec::new();
        for y in 1..h.saturating_sub(1) {
            for x in 1..w.saturating_sub(1) {
                let s = scores[y][x];
                let beats_all =
                    (0..9).filter(|&k| k != 4).all(|k| s > scores[y + k / 3 - 1][x + k % 3 - 1]);
                if s > 0 && beats_all {
                    corners.push(Corner { x: x as u32, y: y as u32, response: s as f32 });
                }
            }
        }
        corners
    }

    #[test]
    fn detection_equals_the_definition_for_every_window() {
        let mut state = 1_u32;
        let mut noise = |mask: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 24) & mask) as u8
        };
        let mut found = 0;
        for (w, h) in [(7, 7), (8, 7), (6, 40), (23, 19), (40, 31), (65, 20), (200, 9), (90, 70)] {
            for (mask, threshold) in
                [(255, 0), (255, 20), (255, 60), (0x80, 20), (3, 0), (255, 255)]
            {
                let pixels: Vec<u8> = (0..w * h).map(|_| noise(mask)).collect();
                let image = GrayView::new(&pixels, w, h).unwrap();
                let all = naive(image, threshold);
                found += all.len();
                for margin in [0, 1, 3, 4, 6] {
                    if w <= 2 * margin || h <= 2 * margin {
                        continue;
                    }
                    let (columns, rows) = (margin..w - margin, margin..h - margin);
                    let inside = |c: &&Corner| {
                        columns.contains(&(c.x as usize)) && rows.contains(&(c.y as usize))
                    };
                    let inside: Vec<Corner> = all.iter().filter(inside).copied().collect();
                    for (kernels, wanted) in
                        Kernels::available().flat_map(|k| [usize::MAX, 40, 5, 1, 0].map(|n| (k, n)))
                    {
                        let (columns, rows) = (columns.clone(), rows.clone());
                        let search = Search { threshold, wanted, columns, rows };
                        let mut got = Vec::new();
                        detect(&kernels, image, search, &mut ScoreRows::default(), &mut got);
                        let [got, want] = [got, inside.clone()].map(|mut corners| {
                            retain_best(&mut corners, wanted, |c| c.response, &mut Vec::new());
                            corners
                        });
                        assert_eq!(got, want, "{kernels:?} {w} x {h} {wanted}");
                    }
                }
            }
        }
        assert!(found > 100);
    }
}
