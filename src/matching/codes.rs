//! Nearest neighbours of descriptors by brute force.

use rayon::prelude::*;

use super::HammingNorm;
use crate::arch::{HAMMING_LANES, HAMMING_WORDS, HammingBlock, Kernels};
use crate::features::Descriptor;

/// Blocks whose distances are computed at a time; with the distances they stay in the L1 cache.
const TILE: usize = 16;

/// Queries that go through the blocks together.
const QUERIES: usize = 32;

/// Descriptors in the order in which the kernels read them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Codes {
    blocks: Vec<HammingBlock>,
    len: usize,
}

/// A neighbour of a descriptor. The order is by distance, then by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Neighbor {
    pub distance: u16,
    pub index: u32,
}

impl Neighbor {
    /// Farther than any descriptor.
    pub const NONE: Self = Self { distance: u16::MAX, index: u32::MAX };
}

/// Distances, one block after the other.
type Distances = [[u16; HAMMING_LANES]; TILE];

impl Codes {
    /// Takes descriptors; at most 2^32 - 1.
    pub fn new<'a>(descriptors: impl IntoIterator<Item = &'a Descriptor>) -> Self {
        let mut codes = Self::default();
        codes.fill(descriptors);
        codes
    }

    /// Replaces the descriptors.
    pub fn fill<'a>(&mut self, descriptors: impl IntoIterator<Item = &'a Descriptor>) {
        self.blocks.clear();
        self.len = 0;
        for descriptor in descriptors {
            let lane = self.len % HAMMING_LANES;
            if lane == 0 {
                self.blocks.push([[0; HAMMING_LANES]; HAMMING_WORDS]);
            }
            if let Some(block) = self.blocks.last_mut() {
                for (words, word) in block.iter_mut().zip(words(descriptor)) {
                    words[lane] = word;
                }
            }
            self.len += 1;
        }
    }

    /// Calls `hit` with each descriptor nearer than `bound`, which it returns anew, in the order of the indices.
    pub fn nearer(
        &self,
        kernel: crate::arch::Distances,
        query: &[u32; HAMMING_WORDS],
        bound: u16,
        hit: impl FnMut(Neighbor) -> u16,
    ) {
        let tiles = 0..self.blocks.len().div_ceil(TILE);
        let mut search = Search { kernel, query, bound, hit };
        for tile in tiles {
            search.tile(self, tile);
        }
    }

    /// The `k` nearest of each query that are nearer than `bound`, nearest first, with [`Neighbor::NONE`] for those that
    /// are missing. `allowed` says whether a query may have a neighbour.
    pub fn nearest(
        &self,
        queries: &[Descriptor],
        k: usize,
        bound: u16,
        norm: HammingNorm,
        allowed: impl Fn(usize, u32) -> bool + Sync,
    ) -> Vec<Neighbor> {
        let kernel = norm.kernel(&Kernels::current());
        let mut all = vec![Neighbor::NONE; queries.len() * k];
        if k == 0 {
            return all;
        }
        all.par_chunks_mut(QUERIES * k).zip(queries.par_chunks(QUERIES)).enumerate().for_each(
            |(chunk, (lists, queries))| {
                let queries: Vec<_> = queries.iter().map(words).collect();
                for tile in 0..self.blocks.len().div_ceil(TILE) {
                    let each = queries.iter().zip(lists.chunks_mut(k)).enumerate();
                    for (i, (query, list)) in each {
                        let place = chunk * QUERIES + i;
                        let mut search = Search {
                            kernel,
                            query,
                            bound: bound.min(list[k - 1].distance),
                            hit: |neighbor: Neighbor| {
                                if allowed(place, neighbor.index) {
                                    insert(list, neighbor);
                                }
                                bound.min(list[k - 1].distance)
                            },
                        };
                        search.tile(self, tile);
                    }
                }
            },
        );
        all
    }
}

/// Inserts a neighbour that is nearer than the last, after those of the same distance.
fn insert(list: &mut [Neighbor], neighbor: Neighbor) {
    let at = list.partition_point(|other| other.distance <= neighbor.distance);
    list[at..].rotate_right(1);
    list[at] = neighbor;
}

struct Search<'a, F> {
    kernel: crate::arch::Distances,
    query: &'a [u32; HAMMING_WORDS],
    bound: u16,
    hit: F,
}

impl<F: FnMut(Neighbor) -> u16> Search<'_, F> {
    /// Compares with the descriptors of one tile.
    fn tile(&mut self, codes: &Codes, tile: usize) {
        let start = tile * TILE;
        let blocks = &codes.blocks[start..codes.blocks.len().min(start + TILE)];
        let mut distances: Distances = [[0; HAMMING_LANES]; TILE];
        if (self.kernel)(self.query, blocks, &mut distances) >= self.bound {
            return;
        }
        let first = start * HAMMING_LANES;
        let left = codes.len - first;
        for (i, &distance) in distances.as_flattened().iter().take(left).enumerate() {
            if distance < self.bound {
                let index = (first + i) as u32;
                self.bound = (self.hit)(Neighbor { distance, index });
            }
        }
    }
}

/// A descriptor as words.
pub(crate) fn words(descriptor: &Descriptor) -> [u32; HAMMING_WORDS] {
    let words = descriptor.as_chunks().0;
    std::array::from_fn(|i| u32::from_ne_bytes(words[i]))
}
