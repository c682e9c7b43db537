//! The descriptor: comparisons of smoothed pixels at the points of the turned pattern.

use super::angle::sin_cos_degrees;
use super::keypoint::{DESCRIPTOR_LEN, Descriptor};
use super::pyramid::Framed;
use crate::arch::Kernels;

/// The sampling points, and how far from the keypoint they reach when turned.
#[derive(Debug)]
pub(super) struct Pattern {
    /// Of pairs first all that come first, then all that come second; larger tuples one by one.
    x: Vec<f32>,
    y: Vec<f32>,
    wta_k: u32,
    reach: usize,
}

/// The pairs of a descriptor.
const PAIRS: usize = 8 * DESCRIPTOR_LEN;

/// The places and values sampled: buffers reused from keypoint to keypoint.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples {
    offsets: Vec<i32>,
    values: Vec<u8>,
}

impl Pattern {
    pub fn new(points: &[(i32, i32)], wta_k: u32) -> Self {
        let radius = |&(x, y): &(i32, i32)| f64::from(x).hypot(f64::from(y));
        // Half a pixel for the rounding to whole pixels, and the next whole number.
        let reach = points.iter().map(|p| (radius(p) + 0.5).ceil() as usize).max().unwrap_or(0);
        let mut points = points.to_vec();
        if wta_k == 2 {
            let of_pairs = |n| points.iter().skip(n).step_by(2).copied();
            points = of_pairs(0).chain(of_pairs(1)).collect();
        }
        Self {
            x: points.iter().map(|p| p.0 as f32).collect(),
            y: points.iter().map(|p| p.1 as f32).collect(),
            wta_k,
            reach,
        }
    }

    /// No sample is farther than this from its keypoint, along either axis.
    pub fn reach(&self) -> usize {
        self.reach
    }

    /// The descriptor at (x, y) of a smoothed level.
    pub fn describe(
        &self,
        kernels: &Kernels,
        smoothed: Framed<'_>,
        (x, y): (isize, isize),
        angle: f32,
        samples: &mut Samples,
    ) -> Descriptor {
        let centre = smoothed.index(x, y) as isize;
        let (pixels, stride) = (smoothed.pixels(), smoothed.stride() as i32);
        let Samples { offsets, values } = samples;
        offsets.resize(self.x.len(), 0);
        (kernels.brief_offsets)(&self.x, &self.y, sin_cos_degrees(angle), stride, offsets);
        values.clear();
        values.extend(offsets.iter().map(|&offset| pixels[(centre + offset as isize) as usize]));
        match (self.wta_k, values.as_chunks::<PAIRS>().0) {
            (2, [one, other]) => (kernels.brief_darker)(one, other),
            (3, _) => fields(values, |t: [u8; 3]| match t {
                [a, b, c] if c > b => 2 * u8::from(c > a),
                [a, b, _] => u8::from(b > a),
            }),
            _ => fields(values, |[a, b, c, d]: [u8; 4]| {
                if a.max(b) > c.max(d) { u8::from(b > a) } else { 2 + u8::from(d > c) }
            }),
        }
    }
}

/// Two bits for each tuple: which of its values wins.
fn fields<const N: usize>(values: &[u8], field: impl Fn([u8; N]) -> u8) -> Descriptor {
    let mut descriptor = [0; DESCRIPTOR_LEN];
    let (tuples, _) = values.as_chunks::<N>();
    for (byte, tuples) in descriptor.iter_mut().zip(tuples.chunks_exact(4)) {
        for (i, &tuple) in tuples.iter().enumerate() {
            *byte |= field(tuple) << (2 * i);
        }
    }
    descriptor
}
