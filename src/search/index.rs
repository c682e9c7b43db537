//! An open index.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::FoundPhoto;
use super::file::{self, Commit, NO_DESCRIPTOR, Notes, Segment};
use crate::arch::{HAMMING_LANES, Kernels};
use crate::decode::DecodeParams;
use crate::error::{Error, Result};
use crate::features::Descriptor;
use crate::matching::{
    Codes, DMatch, HammingNorm, Neighbor, insert, lists_of, nearest, scan, words,
};
use crate::orb::OrbParams;
use crate::results::params_of_note;

use rayon::prelude::*;

/// An index of photos, open for searches. Additions and replacements that come later are not seen.
#[derive(Clone, Debug)]
pub struct Index {
    path: PathBuf,
    pub(super) segments: Vec<Segment>,
    commit: Commit,
    notes: Notes,
    centroids: Codes,
}

/// A photo of an index.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct IndexedPhoto<'a> {
    /// Its number in the index, from 0.
    pub number: u32,
    /// The path or key.
    pub path: &'a str,
    /// The label, if there is one.
    pub label: Option<&'a str>,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The number of its descriptors.
    pub n_descriptors: usize,
}

impl Index {
    /// Opens an index, and checks all of it.
    ///
    /// # Errors
    /// [`Error::Index`] for a file that is no index, of another version, or damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| Error::index(path, e))?;
        Self::of_file(&file, path)
    }

    /// Opens an index in an open file. `path` names it.
    pub(super) fn of_file(file: &File, path: &Path) -> Result<Self> {
        let (segments, commit) = file::open(file, path)?;
        let wrong = |why: String| Error::index(path, why);
        let first = segments.first().ok_or_else(|| wrong("it holds no photo".to_owned()))?;
        let notes = first.notes().map_err(|e| wrong(format!("its notes: {e}")))?;
        let centroids = Codes::new(first.centroids());
        let lists = first.list_ends().len();
        let is_one = |segment: &Segment| segment.list_ends().len() == lists;
        if !segments.iter().all(is_one)
            || first.centroids().len() != if lists > 1 { lists } else { 0 }
        {
            return Err(wrong("its segments have different lists".to_owned()));
        }
        Ok(Self { path: path.to_owned(), segments, commit, notes, centroids })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of photos.
    #[must_use]
    pub fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.n_photos).sum()
    }

    /// Whether there is no photo.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of descriptors.
    #[must_use]
    pub fn n_descriptors(&self) -> usize {
        self.segments.iter().map(|segment| segment.n_descriptors).sum()
    }

    /// The number of lists; 1 is exact search.
    #[must_use]
    pub fn lists(&self) -> usize {
        self.segments.first().map_or(1, |segment| segment.list_ends().len())
    }

    /// How its descriptors are compared.
    #[must_use]
    pub fn norm(&self) -> HammingNorm {
        self.notes.norm
    }

    /// The parameters of ORB that its descriptors were made with, if they are known: those of a query must be the same.
    ///
    /// # Errors
    /// [`Error::Index`] for a note that cannot be read.
    pub fn orb_params(&self) -> Result<Option<OrbParams>> {
        self.params(self.notes.orb.as_deref())
    }

    /// The parameters of the decoder, likewise.
    ///
    /// # Errors
    /// [`Error::Index`] for a note that cannot be read.
    pub fn decode_params(&self) -> Result<Option<DecodeParams>> {
        self.params(self.notes.decode.as_deref())
    }

    fn params<T: DeserializeOwned>(&self, note: Option<&str>) -> Result<Option<T>> {
        let Some(note) = note else { return Ok(None) };
        params_of_note(note).map(Some).map_err(|e| Error::index(&self.path, e))
    }

    /// The photos, in order.
    pub fn photos(&self) -> impl Iterator<Item = IndexedPhoto<'_>> {
        (0..self.len() as u32).map(|number| self.photo(number))
    }

    /// A photo by its number.
    pub(crate) fn photo(&self, number: u32) -> IndexedPhoto<'_> {
        let (segment, photo) = self.place(number);
        let [width, height] = segment.size(photo);
        let n_descriptors = segment.descriptors_of(photo).len();
        let (path, label) = (segment.path(photo), segment.label(photo));
        IndexedPhoto { number, path, label, width, height, n_descriptors }
    }

    /// The segment of a photo, and its number there.
    fn place(&self, number: u32) -> (&Segment, usize) {
        let at = self.segments.partition_point(|segment| segment.first_photo <= number) - 1;
        let segment = &self.segments[at];
        (segment, (number - segment.first_photo) as usize)
    }

    /// The descriptors of a photo, and where their keypoints are.
    pub(crate) fn content(&self, number: u32) -> (Vec<Descriptor>, Vec<[f32; 2]>) {
        let (segment, photo) = self.place(number);
        let all = segment.descriptors_of(photo);
        (
            all.clone().map(|i| segment.descriptor(i)).collect(),
            all.map(|i| segment.point(i)).collect(),
        )
    }

    /// The photo of a descriptor.
    pub(super) fn photo_of(&self, descriptor: u32) -> u32 {
        let at =
            self.segments.partition_point(|segment| segment.first_descriptor <= descriptor) - 1;
        let segment = &self.segments[at];
        segment.first_photo + segment.photo_of(descriptor - segment.first_descriptor) as u32
    }

    /// The share of the descriptors, of the photo with fewer, that agree with the homography to one that was found.
    pub(crate) fn agreeing(&self, number: u32, found: &FoundPhoto) -> f64 {
        let n = |number| self.photo(number).n_descriptors;
        f64::from(found.inliers) / n(number).min(n(found.number)) as f64
    }

    pub(super) fn commit(&self) -> Commit {
        self.commit
    }

    pub(super) fn notes(&self) -> &Notes {
        &self.notes
    }

    pub(super) fn centroids(&self) -> &[Descriptor] {
        self.segments.first().map_or(&[], |segment| segment.centroids())
    }

    /// The `k` nearest descriptors of each query descriptor, nearest first; `train_idx` is the descriptor's number in the
    /// index. With lists, the nearest of those in the `probes` nearest lists.
    #[must_use]
    pub fn knn(&self, query: &[Descriptor], k: usize, probes: usize) -> Vec<Vec<DMatch>> {
        let k = k.min(self.n_descriptors());
        if k == 0 {
            return vec![Vec::new(); query.len()];
        }
        let found = self.neighbors(query, k, probes.max(1), 0..0);
        lists_of(&found, k)
    }

    /// The `k` nearest descriptors of each query, except for those of the photos `without`. With lists, only the
    /// `probes` nearest lists are searched.
    pub(super) fn neighbors(
        &self,
        queries: &[Descriptor],
        k: usize,
        probes: usize,
        without: Range<u32>,
    ) -> Vec<Neighbor> {
        let kernel = self.notes.norm.kernel(&Kernels::current());
        let mut lists = vec![Neighbor::NONE; queries.len() * k];
        // The number of the first descriptor of a photo.
        let first = |number: u32| {
            if (number as usize) < self.len() {
                let (segment, photo) = self.place(number);
                segment.first_descriptor + segment.descriptors_of(photo).start
            } else {
                self.n_descriptors() as u32
            }
        };
        let without =
            if without.is_empty() { 0..0 } else { first(without.start)..first(without.end) };
        if self.lists() == 1 {
            for segment in &self.segments {
                let n = segment.n_descriptors as u32;
                nearest(kernel, segment.blocks(), queries, k, u16::MAX, &mut lists, |_, slot| {
                    let index = segment.first_descriptor + slot;
                    (slot < n && !without.contains(&index)).then_some(index)
                });
            }
            return lists;
        }
        let probes = probes.min(self.lists());
        let near = self.centroids.nearest(queries, probes, u16::MAX, self.notes.norm, |_, _| true);
        // One chunk of queries for each thread: a chunk reads each list once, for all its queries that probe it.
        let some = queries.len().div_ceil(rayon::current_num_threads()).max(32);
        let chunks = queries.par_chunks(some).zip(near.par_chunks(some * probes));
        lists.par_chunks_mut(some * k).zip(chunks).for_each(|(lists, (queries, near))| {
            let queries: Vec<_> = queries.iter().map(words).collect();
            let visits = near.iter().enumerate().map(|(i, list)| (list.index as usize, i / probes));
            let mut visits: Vec<(usize, usize)> = visits.collect();
            visits.sort_unstable();
            for of_list in visits.chunk_by(|(one, _), (other, _)| one == other) {
                let at = of_list[0].0;
                for segment in &self.segments {
                    let ends = segment.list_ends();
                    let start = if at == 0 { 0 } else { ends[at - 1] };
                    let blocks = &segment.blocks()[start as usize..ends[at] as usize];
                    let slots = &segment.slots()[start as usize * HAMMING_LANES..];
                    for &(_, query) in of_list {
                        let list = &mut lists[query * k..(query + 1) * k];
                        // Includes ties with the k-th distance, as a lower index may follow in another list.
                        let bound = |list: &[Neighbor]| list[k - 1].distance.saturating_add(1);
                        scan(kernel, &queries[query], blocks, bound(list), &mut |found, _| {
                            let slot = slots[found.index as usize];
                            let index = segment.first_descriptor.wrapping_add(slot);
                            if slot != NO_DESCRIPTOR && !without.contains(&index) {
                                insert(list, Neighbor { index, ..found });
                            }
                            bound(list)
                        });
                    }
                }
            }
        });
        lists
    }
}
