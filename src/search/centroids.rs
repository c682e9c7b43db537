//! Centres of binary descriptors, by which an index is divided into lists.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use rayon::prelude::*;

use crate::features::{DESCRIPTOR_LEN, Descriptor};
use crate::matching::{Codes, HammingNorm};
use crate::sample::draw;

/// Rounds of assignment and majority.
const ROUNDS: usize = 4;

/// A farther descriptor than any.
const UNBOUNDED: u16 = u16::MAX;

/// Centres by k-means with Hamming distances: each bit of a centre is the majority in its cluster. Equal centres are
/// merged, so few distinct descriptors give fewer than `k`.
pub(super) fn fit(
    sample: &[Descriptor],
    k: usize,
    norm: HammingNorm,
    seed: u64,
) -> Vec<Descriptor> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut chosen: Vec<usize> = (0..sample.len()).collect();
    draw(&mut chosen, k, &mut random);
    let mut centres: Vec<Descriptor> = chosen.into_iter().map(|i| sample[i]).collect();
    for _ in 0..ROUNDS {
        let lists = assign(sample, &centres, norm);
        let mut members: Vec<Vec<u32>> = vec![Vec::new(); centres.len()];
        for (i, list) in lists.into_iter().enumerate() {
            members[list as usize].push(i as u32);
        }
        centres.par_iter_mut().zip(members).for_each(|(centre, members)| {
            let mut ones = [0_usize; 8 * DESCRIPTOR_LEN];
            for &i in &members {
                for (bit, ones) in ones.iter_mut().enumerate() {
                    *ones += usize::from(sample[i as usize][bit / 8] >> (bit % 8) & 1);
                }
            }
            for (bit, ones) in ones.into_iter().enumerate() {
                let (byte, mask) = (bit / 8, 1 << (bit % 8));
                match (2 * ones).cmp(&members.len()) {
                    std::cmp::Ordering::Greater => centre[byte] |= mask,
                    std::cmp::Ordering::Less => centre[byte] &= !mask,
                    std::cmp::Ordering::Equal => {}
                }
            }
        });
    }
    centres.sort_unstable();
    centres.dedup();
    centres
}

/// The nearest centre of each descriptor.
pub(super) fn assign(
    descriptors: &[Descriptor],
    centres: &[Descriptor],
    norm: HammingNorm,
) -> Vec<u32> {
    let found = Codes::new(centres).nearest(descriptors, 1, UNBOUNDED, norm, |_, _| true);
    found.into_iter().map(|nearest| nearest.index).collect()
}
