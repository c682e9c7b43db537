//! The descriptor: comparisons of smoothed pixels at the points of the turned pattern.

use super::pyramid::Framed;
use super::trig::Trig;
use crate::arch::Kernels;
use crate::features::{DESCRIPTOR_LEN, Descriptor};

/// The sampling points, and how far from the keypoint they reach when turned.
#[derive(Debug)]
pub(super) struct Pattern {
    /// `wta_k` 2: the first points of all pairs, then all second points. Otherwise tuple by tuple.
    x: Vec<f32>,
    y: Vec<f32>,
    wta_k: u32,
    trig: Trig,
    reach: usize,
}

/// The bits of a byte.
const BITS: usize = 8;
/// The pairs of a descriptor.
const PAIRS: usize = BITS * DESCRIPTOR_LEN;

/// Indices of a keypoint's samples in the level's buffer; reused from keypoint to keypoint.
pub(super) type Places = Vec<u32>;

impl Pattern {
    pub fn new(points: &[(i32, i32)], wta_k: u32, trig: Trig) -> Self {
        let radius = |&(x, y): &(i32, i32)| f64::from(x).hypot(f64::from(y));
        // 0.5 for the rounding to whole pixels, and 0.01 for the float32 rounding of the rotation, which is below
        // 0.006 for the largest patch.
        let reach = points.iter().map(|p| (radius(p) + 0.51) as usize).max().unwrap_or(0);
        let mut points = points.to_vec();
        if wta_k == 2 {
            let of_pairs = |n| points.iter().skip(n).step_by(2).copied();
            points = of_pairs(0).chain(of_pairs(1)).collect();
        }
        Self {
            x: points.iter().map(|p| p.0 as f32).collect(),
            y: points.iter().map(|p| p.1 as f32).collect(),
            wta_k,
            trig,
            reach,
        }
    }

    /// Upper bound of the distance from a keypoint to its samples, along either axis, in pixels.
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
        places: &mut Places,
    ) -> Descriptor {
        let (pixels, stride) = (smoothed.pixels(), smoothed.stride() as i32);
        // Indices into a level's buffer are below 2^31: see `MAX_LEVEL_PIXELS`.
        let centre = smoothed.index(x, y) as i32;
        places.resize(self.x.len(), 0);
        let turn = self.trig.sin_cos(angle);
        (kernels.brief_places)(&self.x, &self.y, turn, centre, stride, places);
        let value = |place: u32| pixels[place as usize];
        match self.wta_k {
            2 => darker(places, value),
            3 => fields(places, value, |t: [u8; 3]| match t {
                [a, b, c] if c > b => 2 * u8::from(c > a),
                [a, b, _] => u8::from(b > a),
            }),
            _ => fields(places, value, |[a, b, c, d]: [u8; 4]| {
                if a.max(b) > c.max(d) { u8::from(b > a) } else { 2 + u8::from(d > c) }
            }),
        }
    }
}

/// One bit for each pair, lowest bit first: 1 if the pair's first sample is darker than its second.
fn darker(places: &[u32], value: impl Fn(u32) -> u8) -> Descriptor {
    let mut descriptor = [0; DESCRIPTOR_LEN];
    let (one, other) = places.split_at(PAIRS);
    let pairs = one.as_chunks::<BITS>().0.iter().zip(other.as_chunks::<BITS>().0);
    for (byte, (one, other)) in descriptor.iter_mut().zip(pairs) {
        let mut bits = 0;
        for i in (0..BITS).rev() {
            bits = 2 * bits + u8::from(value(one[i]) < value(other[i]));
        }
        *byte = bits;
    }
    descriptor
}

/// Two bits for each tuple: the index of its brightest sample.
fn fields<const N: usize>(
    places: &[u32],
    value: impl Fn(u32) -> u8,
    field: impl Fn([u8; N]) -> u8,
) -> Descriptor {
    let mut descriptor = [0; DESCRIPTOR_LEN];
    let (tuples, _) = places.as_chunks::<N>();
    for (byte, tuples) in descriptor.iter_mut().zip(tuples.chunks_exact(4)) {
        for (i, tuple) in tuples.iter().enumerate() {
            *byte |= field(tuple.map(&value)) << (2 * i);
        }
    }
    descriptor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pair_is_the_lowest_bit() {
        let mut values = [7; 2 * PAIRS];
        for i in [0, 9, 255] {
            values[PAIRS + i] = 8;
        }
        let places: Vec<u32> = (0..2 * PAIRS as u32).collect();
        let bits = darker(&places, |place| values[place as usize]);
        assert_eq!((bits[0], bits[1], bits[31]), (1, 2, 128));
        assert_eq!(bits.iter().map(|b| b.count_ones()).sum::<u32>(), 3);
    }

    /// The angles, in degrees, at which the two kinds of sine give a different place to at least one sample.
    fn telling_angles(points: &[(i32, i32)], angles: impl Iterator<Item = f32>) -> Vec<f32> {
        let [rounded, glibc] =
            [Trig::Rounded, Trig::Glibc].map(|trig| Pattern::new(points, 2, trig));
        let kernels = Kernels::current();
        let places = |pattern: &Pattern, turn| {
            let mut places = vec![0; pattern.x.len()];
            (kernels.brief_places)(&pattern.x, &pattern.y, turn, 1 << 20, 1 << 10, &mut places);
            places
        };
        let tells = |angle: &f32| {
            let turns = [rounded.trig.sin_cos(*angle), glibc.trig.sin_cos(*angle)];
            turns[0] != turns[1] && places(&rounded, turns[0]) != places(&glibc, turns[1])
        };
        angles.filter(tells).collect()
    }

    #[test]
    fn each_kind_of_sine_has_its_own_samples() {
        let points = super::super::pattern::points(&super::super::OrbParams::default());
        let known = [46.68834, 128.295, 193.4988, 285.760_44];
        assert_eq!(telling_angles(&points, known.into_iter()), known);
        assert!(telling_angles(&points, [0.0, 45.0, 123.4].into_iter()).is_empty());
    }

    #[test]
    #[ignore = "prints the angles of tests/fixtures/make_golden.py: a minute with --release"]
    fn angles_that_tell_the_kinds_of_sine_apart() {
        for patch_size in [31, 15, 25, 48] {
            let params = super::super::OrbParams::default().with_patch_size(patch_size);
            let angles = (0..6_000_000).map(|i| i as f32 * 6e-5);
            let found = telling_angles(&super::super::pattern::points(&params), angles);
            println!("    {patch_size}: {found:?},");
        }
    }
}
