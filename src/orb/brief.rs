//! The descriptor: comparisons of smoothed pixels at the points of the turned pattern.

use super::angle::sin_cos_degrees;
use super::keypoint::{DESCRIPTOR_LEN, Descriptor};
use super::pyramid::Framed;

/// The sampling points, and how far from the keypoint they reach when turned.
#[derive(Debug)]
pub(super) struct Pattern {
    x: Vec<f32>,
    y: Vec<f32>,
    wta_k: u32,
    reach: usize,
}

/// The sampled values: a buffer reused from keypoint to keypoint.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<u8>);

impl Pattern {
    pub fn new(points: &[(i32, i32)], wta_k: u32) -> Self {
        let radius = |&(x, y): &(i32, i32)| f64::from(x).hypot(f64::from(y));
        // Half a pixel for the rounding to whole pixels, and the next whole number.
        let reach = points.iter().map(|p| (radius(p) + 0.5).ceil() as usize).max().unwrap_or(0);
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
        smoothed: Framed<'_>,
        x: isize,
        y: isize,
        angle: f32,
        samples: &mut Samples,
    ) -> Descriptor {
        let (sin, cos) = sin_cos_degrees(angle);
        let (pixels, stride) = (smoothed.pixels(), smoothed.stride() as isize);
        let centre = smoothed.index(x, y) as isize;
        let values = &mut samples.0;
        values.clear();
        values.extend(self.x.iter().zip(&self.y).map(|(&px, &py)| {
            let dx = round(px * cos - py * sin);
            let dy = round(px * sin + py * cos);
            pixels[(centre + dy * stride + dx) as usize]
        }));
        match self.wta_k {
            2 => pairs(values),
            3 => fields(values, |t: [u8; 3]| match t {
                [a, b, c] if c > b => 2 * u8::from(c > a),
                [a, b, _] => u8::from(b > a),
            }),
            _ => fields(values, |[a, b, c, d]: [u8; 4]| {
                if a.max(b) > c.max(d) { u8::from(b > a) } else { 2 + u8::from(d > c) }
            }),
        }
    }
}

/// To the nearest whole number, ties to even, for magnitudes below 2^22: adding 1.5 * 2^23 leaves
/// no bit for a fraction.
#[inline]
fn round(v: f32) -> isize {
    const MAGIC: f32 = 12_582_912.0;
    ((v + MAGIC).to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32) as isize
}

/// One bit for each pair: whether the first is darker.
fn pairs(values: &[u8]) -> Descriptor {
    let mut descriptor = [0; DESCRIPTOR_LEN];
    for (byte, values) in descriptor.iter_mut().zip(values.chunks_exact(16)) {
        for (bit, pair) in values.chunks_exact(2).enumerate() {
            *byte |= u8::from(pair[0] < pair[1]) << bit;
        }
    }
    descriptor
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_even() {
        let naive = |v: f32| v.round_ties_even() as isize;
        for v in [0.5, -0.5, 1.5, 2.5, -2.5, 17.499_998, 18.5, 0.0, -0.0, 4_000_000.5, -23_000.5] {
            assert_eq!(round(v), naive(v), "{v}");
        }
    }
}
