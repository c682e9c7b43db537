//! FAST-9/16 corners: score and non-maximum suppression.

use std::ops::Range;

use crate::decode::GrayView;

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

/// The circle of 16 pixels around a candidate, as (dx, dy), in order.
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

/// The radius of the circle: no candidate is closer to the edge of the level.
const RADIUS: usize = 3;

/// Three rows of scores, each with a margin of one pixel, and the candidates of a row.
#[derive(Clone, Debug, Default)]
pub(super) struct ScoreRows {
    rows: [Vec<u8>; 3],
    candidates: Vec<u8>,
}

/// Appends the corners whose position is in `columns` x `rows`, in raster order.
///
/// A corner is kept if its score is strictly greater than those of all eight neighbours, whether
/// or not these lie in the window: so scores are computed one pixel beyond it.
pub(super) fn detect(
    image: GrayView<'_>,
    threshold: u8,
    columns: Range<usize>,
    rows: Range<usize>,
    buffers: &mut ScoreRows,
    corners: &mut Vec<Corner>,
) {
    let (width, height) = (image.width(), image.height());
    let columns = columns.start.max(RADIUS)..columns.end.min(width.saturating_sub(RADIUS));
    let rows = rows.start.max(RADIUS)..rows.end.min(height.saturating_sub(RADIUS));
    if columns.is_empty() || rows.is_empty() {
        return;
    }
    // The window grown by one pixel; `scored` is the part of it that can hold a corner.
    let left = columns.start - 1;
    let scored = left.max(RADIUS)..(columns.end + 1).min(width - RADIUS);
    for row in &mut buffers.rows {
        row.clear();
        row.resize(columns.len() + 2, 0);
    }
    for y in rows.start - 1..=rows.end {
        let out = &mut buffers.rows[y % 3][scored.start - left..scored.end - left];
        if (RADIUS..height - RADIUS).contains(&y) {
            score_row(image, y, scored.clone(), threshold, &mut buffers.candidates, out);
        } else {
            out.fill(0);
        }
        if y > rows.start {
            let y = y - 1;
            let [above, here, below] = [y + 2, y, y + 1].map(|y| buffers.rows[y % 3].as_slice());
            suppress(above, here, below, columns.start as u32, y as u32, corners);
        }
    }
}

/// Appends the strict local maxima of the middle row.
fn suppress(above: &[u8], here: &[u8], below: &[u8], x0: u32, y: u32, corners: &mut Vec<Corner>) {
    for (x, window) in (x0..).zip(here.windows(3)) {
        let [left, score, right] = [window[0], window[1], window[2]];
        if score <= left.max(right) {
            continue;
        }
        let i = (x - x0) as usize;
        let greatest = |row: &[u8]| row[i].max(row[i + 1]).max(row[i + 2]);
        if score > greatest(above) && score > greatest(below) {
            corners.push(Corner { x, y, response: f32::from(score) });
        }
    }
}

/// The rows that circles around pixels of one row touch, top down.
type Rows<'a> = [&'a [u8]; 2 * RADIUS + 1];

/// Writes the scores of row `y`, columns `columns`: 0 where there is no corner.
fn score_row(
    image: GrayView<'_>,
    y: usize,
    columns: Range<usize>,
    threshold: u8,
    candidates: &mut Vec<u8>,
    out: &mut [u8],
) {
    // Of each row, what the circles of these columns can touch.
    let span = columns.start - RADIUS..columns.end + RADIUS;
    let rows: Rows<'_> = std::array::from_fn(|i| &image.row(y + i - RADIUS)[span.clone()]);
    candidates.resize(columns.len(), 0);
    find_candidates(&rows, threshold, candidates);
    for (i, (&candidate, out)) in candidates.iter().zip(out).enumerate() {
        *out = if candidate == 0 {
            0
        } else {
            match contrast(&rows, i) {
                best if best > i16::from(threshold) => (best - 1) as u8,
                _ => 0,
            }
        };
    }
}

/// Marks the pixels that may be corners: of every two opposite pixels on the circle, an arc of
/// nine holds at least one, so one of each pair must stand out in the same direction.
fn find_candidates(rows: &Rows<'_>, threshold: u8, out: &mut [u8]) {
    let len = out.len();
    let at = |(dx, dy): (isize, isize)| {
        let (x, y) = ((RADIUS as isize + dx) as usize, (RADIUS as isize + dy) as usize);
        &rows[y][x..x + len]
    };
    let centre = at((0, 0));
    let [p0, p2, p4, p6] = [0, 2, 4, 6].map(|k| at(RING[k]));
    let [q0, q2, q4, q6] = [8, 10, 12, 14].map(|k| at(RING[k]));
    for i in 0..len {
        let brightest =
            (p0[i].max(q0[i]).min(p2[i].max(q2[i]))).min(p4[i].max(q4[i]).min(p6[i].max(q6[i])));
        let darkest =
            (p0[i].min(q0[i]).max(p2[i].min(q2[i]))).max(p4[i].min(q4[i]).max(p6[i].min(q6[i])));
        let c = centre[i];
        out[i] = u8::from(brightest > c.saturating_add(threshold))
            | u8::from(darkest < c.saturating_sub(threshold));
    }
}

/// The largest contrast that some arc of nine pixels keeps throughout, in one direction: the pixel
/// `i` is a corner for every threshold below it.
fn contrast(rows: &Rows<'_>, i: usize) -> i16 {
    const SIDE: usize = 2 * RADIUS + 1;
    let mut window = [[0_u8; SIDE]; SIDE];
    for (window, row) in window.iter_mut().zip(rows) {
        window.copy_from_slice(&row[i..i + SIDE]);
    }
    let centre = i16::from(window[RADIUS][RADIUS]);
    // The circle, and its first half again.
    let mut d = [0_i16; 24];
    for k in 0..16 {
        let (dx, dy) = RING[k];
        let (x, y) = ((RADIUS as isize + dx) as usize, (RADIUS as isize + dy) as usize);
        d[k] = centre - i16::from(window[y][x]);
    }
    d.copy_within(..8, 16);
    // Least and greatest of 2, 4, then 8 neighbours from each place on.
    let (mut least, mut greatest) = (d, d);
    for step in [1, 2, 4] {
        for k in 0..24 - step {
            least[k] = least[k].min(least[k + step]);
            greatest[k] = greatest[k].max(greatest[k + step]);
        }
    }
    let (mut darker, mut brighter) = (i16::MIN, i16::MAX);
    for k in 0..16 {
        darker = darker.max(least[k].min(d[k + 8]));
        brighter = brighter.min(greatest[k].max(d[k + 8]));
    }
    darker.max(-brighter)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        for (w, h) in [(7, 7), (8, 7), (6, 40), (23, 19), (40, 31), (65, 20)] {
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
                    let mut got = Vec::new();
                    detect(
                        image,
                        threshold,
                        columns.clone(),
                        rows.clone(),
                        &mut ScoreRows::default(),
                        &mut got,
                    );
                    let inside = |c: &&Corner| {
                        columns.contains(&(c.x as usize)) && rows.contains(&(c.y as usize))
                    };
                    assert_eq!(got, all.iter().filter(inside).copied().collect::<Vec<_>>());
                }
            }
        }
        assert!(found > 100);
    }
}
