//! Nearest neighbours of descriptors by brute force.

use rayon::prelude::*;

use super::HammingNorm;
use crate::arch::{Distances, HAMMING_LANES, HAMMING_WORDS, HammingBlock, Kernels};
use crate::features::Descriptor;

/// Blocks whose distances are computed at a time; with the distances they stay in the L1 cache.
const TILE: usize = 16;

/// Queries that go through the blocks together.
const QUERIES: usize = 32;

/// Descriptors in the order in which the kernels read them.
#[derive(Clone, Debug)]
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

impl Codes {
    /// Takes descriptors; at most 2^32 - 1.
    pub fn new(descriptors: &[Descriptor]) -> Self {
        let blocks = descriptors.chunks(HAMMING_LANES).map(block_of).collect();
        Self { blocks, len: descriptors.len() }
    }

    /// Calls `hit` with each descriptor nearer than `bound`, in the order of the indices. `hit` returns the new bound.
    pub fn nearer(
        &self,
        kernel: Distances,
        query: &[u32; HAMMING_WORDS],
        bound: u16,
        mut hit: impl FnMut(Neighbor) -> u16,
    ) {
        let len = self.len as u32;
        scan(kernel, query, &self.blocks, bound, &mut |neighbor, bound| {
            if neighbor.index < len { hit(neighbor) } else { bound }
        });
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
        let len = self.len as u32;
        nearest(kernel, &self.blocks, queries, k, bound, &mut all, |query, slot| {
            (slot < len && allowed(query, slot)).then_some(slot)
        });
        all
    }
}

/// Updates `lists`, the `k` nearest neighbours of each query so far, with the descriptors in `blocks` below `bound`.
/// `index` gives the index of the descriptor in a slot, or `None` if the query excludes it. Slots are in the order of
/// the indices.
pub(crate) fn nearest(
    kernel: Distances,
    blocks: &[HammingBlock],
    queries: &[Descriptor],
    k: usize,
    bound: u16,
    lists: &mut [Neighbor],
    index: impl Fn(usize, u32) -> Option<u32> + Sync,
) {
    if k == 0 {
        return;
    }
    let chunks = lists.par_chunks_mut(QUERIES * k).zip(queries.par_chunks(QUERIES));
    chunks.enumerate().for_each(|(chunk, (lists, queries))| {
        let queries: Vec<_> = queries.iter().map(words).collect();
        for (tile, blocks) in blocks.chunks(TILE).enumerate() {
            for (i, (query, list)) in queries.iter().zip(lists.chunks_mut(k)).enumerate() {
                let place = chunk * QUERIES + i;
                let first = (tile * TILE * HAMMING_LANES) as u32;
                let limit = bound.min(list[k - 1].distance);
                scan(kernel, query, blocks, limit, &mut |found, limit| {
                    let Some(index) = index(place, first + found.index) else { return limit };
                    insert(list, Neighbor { index, ..found });
                    bound.min(list[k - 1].distance)
                });
            }
        }
    });
}

/// Inserts a neighbour in the order of distances and indices, in place of the last, if it is before that.
pub(crate) fn insert(list: &mut [Neighbor], neighbor: Neighbor) {
    let at = list.partition_point(|other| *other < neighbor);
    if at < list.len() {
        list[at..].rotate_right(1);
        list[at] = neighbor;
    }
}

/// Calls `hit` with each slot nearer than the bound, and with the bound; `hit` returns the new bound. Slots without a
/// descriptor hold zeros and are passed, too.
pub(crate) fn scan(
    kernel: Distances,
    query: &[u32; HAMMING_WORDS],
    blocks: &[HammingBlock],
    mut bound: u16,
    hit: &mut impl FnMut(Neighbor, u16) -> u16,
) {
    for (tile, blocks) in blocks.chunks(TILE).enumerate() {
        let mut distances = [[0; HAMMING_LANES]; TILE];
        if kernel(query, blocks, &mut distances) >= bound {
            continue;
        }
        let first = (tile * TILE * HAMMING_LANES) as u32;
        for (i, &distance) in distances[..blocks.len()].as_flattened().iter().enumerate() {
            if distance < bound {
                bound = hit(Neighbor { distance, index: first + i as u32 }, bound);
            }
        }
    }
}

/// At most [`HAMMING_LANES`] descriptors as a block; lanes without one are zeros.
pub(crate) fn block_of<'a>(descriptors: impl IntoIterator<Item = &'a Descriptor>) -> HammingBlock {
    let mut block = [[0; HAMMING_LANES]; HAMMING_WORDS];
    for (lane, descriptor) in descriptors.into_iter().enumerate() {
        for (of_word, word) in block.iter_mut().zip(words(descriptor)) {
            of_word[lane] = word;
        }
    }
    block
}

/// A descriptor as words.
pub(crate) fn words(descriptor: &Descriptor) -> [u32; HAMMING_WORDS] {
    let words = descriptor.as_chunks().0;
    std::array::from_fn(|i| u32::from_ne_bytes(words[i]))
}
