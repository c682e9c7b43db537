//! FAST-9/16 over one row: corner scores, and which of them are local maxima.

use super::{Row, fill};

/// The radius of the circle.
pub(crate) const RADIUS: usize = 3;

/// The seven rows that the circles around the pixels of the middle row touch, top down.
pub(crate) type RingRows<'a> = [&'a [u8]; 2 * RADIUS + 1];

/// Upper bound of `NARROW`, the length of blocks in short rows.
const MOST: usize = 16;

/// Writes the scores of the pixels of the middle row, from column [`RADIUS`] on: 0 where there is no
/// corner. Returns false only if the row has no corner; true does not promise a corner.
///
/// Works on `WIDE` or, in short rows, `NARROW` pixels at a time.
#[inline(always)]
pub(super) fn scores<const WIDE: usize, const NARROW: usize>(
    rows: &RingRows<'_>,
    threshold: u8,
    out: &mut [u8],
) -> bool {
    let len = out.len();
    if len >= WIDE {
        return blocks::<WIDE>(rows, threshold, out);
    }
    if len >= NARROW {
        return blocks::<NARROW>(rows, threshold, out);
    }
    // A row shorter than one block is padded with zeros; the scores of the padding are dropped.
    let mut padded = [[0; MOST + 2 * RADIUS]; 2 * RADIUS + 1];
    for (to, from) in padded.iter_mut().zip(rows) {
        to[..len + 2 * RADIUS].copy_from_slice(&from[..len + 2 * RADIUS]);
    }
    let mut scores = [0; NARROW];
    let [a, b, c, d, e, f, g] = &padded;
    block(&[a, b, c, d, e, f, g], 0, threshold, &mut scores);
    out.copy_from_slice(&scores[..len]);
    out.iter().any(|&s| s != 0)
}

/// Goes through a row of `B` pixels or more; the last block overlaps the one before it.
#[inline(always)]
fn blocks<const B: usize>(rows: &RingRows<'_>, threshold: u8, out: &mut [u8]) -> bool {
    let (len, mut any, mut at) = (out.len(), false, 0);
    while at < len {
        let start = at.min(len - B);
        if let Some(out) = out[start..].first_chunk_mut::<B>() {
            any |= block(rows, start, threshold, out);
        }
        at += B;
    }
    any
}

/// Writes the scores of the block whose circles begin at column `start`. Returns false if a quick test
/// rules out corners in the block, as in most blocks of a photo.
#[inline(always)]
fn block<const B: usize>(
    rows: &RingRows<'_>,
    start: usize,
    threshold: u8,
    out: &mut [u8; B],
) -> bool {
    // Written out, because the compiler does not unroll a loop over the circle: the loop would take as
    // long as all the rest.
    let [a, b, c, d, e, f, g] = *rows;
    let span = start..start + B + 2 * RADIUS;
    let (a, b, c, d) = (&a[span.clone()], &b[span.clone()], &c[span.clone()], &d[span.clone()]);
    let (e, f, g) = (&e[span.clone()], &f[span.clone()], &g[span]);
    let centre: &[u8; B] = at(d, 3);
    let ring: [&[u8; B]; 16] = [
        at(g, 3),
        at(g, 4),
        at(f, 5),
        at(e, 6),
        at(d, 6),
        at(c, 6),
        at(b, 5),
        at(a, 4),
        at(a, 3),
        at(a, 2),
        at(b, 1),
        at(c, 0),
        at(d, 0),
        at(e, 0),
        at(f, 1),
        at(g, 2),
    ];
    // An arc of nine holds at least one of any two opposite pixels of the circle. At a corner, each pair
    // thus has a pixel with enough contrast, all in the same direction. The first two pairs already rule
    // most blocks out.
    let (mut brightest, mut darkest) = ([255; B], [0; B]);
    for pairs in [[0, 4], [2, 6]] {
        let mut any = 0;
        for i in 0..B {
            for k in pairs {
                brightest[i] = ring[k][i].max(ring[k + 8][i]).min(brightest[i]);
                darkest[i] = ring[k][i].min(ring[k + 8][i]).max(darkest[i]);
            }
            let contrast =
                brightest[i].saturating_sub(centre[i]).max(centre[i].saturating_sub(darkest[i]));
            any |= contrast.saturating_sub(threshold);
        }
        if any == 0 {
            out.fill(0);
            return false;
        }
    }
    for i in 0..B {
        let mut around = [0; 16];
        for k in 0..16 {
            around[k] = ring[k][i];
        }
        let contrast = contrast(centre[i], around);
        out[i] = if contrast > threshold { contrast - 1 } else { 0 };
    }
    true
}

#[inline(always)]
fn at<const B: usize>(row: &[u8], column: usize) -> &[u8; B] {
    row[column..].first_chunk().expect("rows are longer than blocks by the circle")
}

/// The largest contrast that all nine pixels of some arc reach in the same direction: the pixel is a
/// corner for every threshold below this value.
#[inline(always)]
fn contrast(centre: u8, ring: [u8; 16]) -> u8 {
    // The arcs that begin at 2j and at 2j + 1 share the eight pixels from 2j + 1 on.
    let (mut least, mut greatest) = ([0; 8], [0; 8]);
    for j in 0..8 {
        let (a, b) = (ring[2 * j + 1], ring[(2 * j + 2) % 16]);
        (least[j], greatest[j]) = (a.min(b), a.max(b));
    }
    (least, greatest) = joined::<1>(least, greatest);
    (least, greatest) = joined::<2>(least, greatest);
    let (mut brightest, mut darkest) = (0, 255);
    for j in 0..8 {
        let (a, b) = (ring[2 * j], ring[(2 * j + 9) % 16]);
        brightest = brightest.max(least[j].min(a.max(b)));
        darkest = darkest.min(greatest[j].max(a.min(b)));
    }
    brightest.saturating_sub(centre).max(centre.saturating_sub(darkest))
}

/// Joins run `j` of the circle with run `j + STEP`, for each `j`: least and greatest value of both.
#[inline(always)]
fn joined<const STEP: usize>(least: [u8; 8], greatest: [u8; 8]) -> ([u8; 8], [u8; 8]) {
    let (mut lesser, mut greater) = (least, greatest);
    for j in 0..8 {
        lesser[j] = least[j].min(least[(j + STEP) % 8]);
        greater[j] = greatest[j].max(greatest[(j + STEP) % 8]);
    }
    (lesser, greater)
}

/// Marks the strict local maxima of the middle one of three rows: `out[i]` is for column `i + 1`.
#[inline(always)]
pub(super) fn peaks<const B: usize>(above: &[u8], here: &[u8], below: &[u8], out: &mut [u8]) {
    let len = out.len() + 2;
    fill::<B, _>(out, &Peaks { above: &above[..len], here: &here[..len], below: &below[..len] });
}

struct Peaks<'a> {
    above: &'a [u8],
    here: &'a [u8],
    below: &'a [u8],
}

impl Row<u8> for Peaks<'_> {
    #[inline(always)]
    fn block<const B: usize>(&self, start: usize) -> [u8; B] {
        let Self { above, here, below } = *self;
        let mut peaks = [0; B];
        let [a, b, c]: [&[u8; B]; 3] = [at(here, start), at(here, start + 1), at(here, start + 2)];
        // Most blocks have no corner.
        let mut any = 0;
        for score in b {
            any |= score;
        }
        if any == 0 {
            return peaks;
        }
        let [d, e, f]: [&[u8; B]; 3] =
            [at(above, start), at(above, start + 1), at(above, start + 2)];
        let [g, h, i]: [&[u8; B]; 3] =
            [at(below, start), at(below, start + 1), at(below, start + 2)];
        for k in 0..B {
            let around = a[k].max(c[k]).max(d[k]).max(e[k]).max(f[k]).max(g[k]).max(h[k]).max(i[k]);
            peaks[k] = u8::from(b[k] > around);
        }
        peaks
    }
}
