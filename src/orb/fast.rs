//! FAST-9/16 corners: score and non-maximum suppression.

use std::ops::Range;

use crate::arch::{Kernels, RADIUS, RingRows};
use crate::pixels::GrayView;

/// How far from a corner pixels are read: around its neighbours.
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

/// The best scores so far, and the bound below which no further one can be among them.
struct Best {
    wanted: usize,
    /// How many corners have each score, from the bound on.
    counts: [u32; 256],
    /// How many there are in all of these.
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

    /// Raises the bound to the last of the scores wanted, once there are as many.
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

/// Appends corners whose position is in `columns` x `rows`, in raster order: at least the `wanted` best
/// and all that tie with the last of them.
///
/// A corner is one only if its score is strictly greater than those of all eight neighbours, whether
/// or not these lie in the window: so scores are computed one pixel beyond it. The threshold rises to
/// the last of the best scores so far: this changes no score above it, and none that it takes away could
/// hide a greater one.
#[allow(clippy::too_many_arguments)]
pub(super) fn detect(
    kernels: &Kernels,
    image: GrayView<'_>,
    threshold: u8,
    wanted: usize,
    columns: Range<usize>,
    rows: Range<usize>,
    buffers: &mut ScoreRows,
    corners: &mut Vec<Corner>,
) {
    let (width, height) = (image.width(), image.height());
    let columns = columns.start.max(RADIUS)..columns.end.min(width.saturating_sub(RADIUS));
    let rows = rows.start.max(RADIUS)..rows.end.min(height.saturating_sub(RADIUS));
    if columns.is_empty() || rows.is_empty() || wanted == 0 {
        return;
    }
    // The window grown by one pixel; `scored` is the part of it that can hold a corner.
    let left = columns.start - 1;
    let scored = left.max(RADIUS)..(columns.end + 1).min(width - RADIUS);
    // Of each row, what the circles of these columns can touch.
    let span = scored.start - RADIUS..scored.end + RADIUS;
    for row in &mut buffers.rows {
        row.clear();
        row.resize(columns.len() + 2, 0);
    }
    // Whole chunks, to be looked through by them.
    buffers.peaks.clear();
    buffers.peaks.resize(columns.len().next_multiple_of(CHUNK), 0);
    let mut best = Best::new(wanted);
    let mut had_any = false;
    let line = |y: usize| if y < height { &image.row(y)[span.clone()] } else { &[] };
    // The rows around the one before the first of the loop, as far as there are any.
    let mut ring: RingRows<'_> = [&[]; 2 * RADIUS + 1];
    for (i, row) in ring.iter_mut().enumerate() {
        *row = (rows.start + i).checked_sub(2 + RADIUS).map_or(&[], line);
    }
    for y in rows.start - 1..=rows.end {
        ring.copy_within(1.., 0);
        ring[2 * RADIUS] = line(y + RADIUS);
        let out = &mut buffers.rows[y % 3][scored.start - left..scored.end - left];
        let has_any = if (RADIUS..height - RADIUS).contains(&y) {
            (kernels.fast_scores)(&ring, threshold.max(best.bound), out)
        } else {
            out.fill(0);
            false
        };
        if y > rows.start && had_any {
            let y = y - 1;
            let [above, here, below] = [y + 2, y, y + 1].map(|y| buffers.rows[y % 3].as_slice());
            (kernels.fast_peaks)(above, here, below, &mut buffers.peaks[..columns.len()]);
            for_each_peak(&buffers.peaks, |i| {
                let score = here[i + 1];
                if score >= best.bound {
                    best.add(score);
                    let (x, y, response) = ((columns.start + i) as u32, y as u32, f32::from(score));
                    corners.push(Corner { x, y, response });
                }
            });
            best.raise();
        }
        had_any = has_any;
    }
}

const WORD: usize = size_of::<u64>();
const CHUNK: usize = 8 * WORD;

/// Goes through the pixels of a row that are marked with one as peaks.
fn for_each_peak(peaks: &[u8], mut found: impl FnMut(usize)) {
    /// Moves the lowest bits of eight bytes into the highest byte, in their order.
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

    /// The definition, word by word: every arc of nine, no rejection, the whole image.
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
                        let mut got = Vec::new();
                        detect(
                            &kernels,
                            image,
                            threshold,
                            wanted,
                            columns.clone(),
                            rows.clone(),
                            &mut ScoreRows::default(),
                            &mut got,
                        );
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
