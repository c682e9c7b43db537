//! The file of an index.
//!
//! ```text
//! page       magic, version, two commits: (generation, length, checksum)
//! segment    head, then blocks, centroids, lists, slots, places, photos, points, texts, notes
//! segment    ..
//! ```
//!
//! The newer valid commit says how long the index is. Adding writes a segment behind that length, then the other commit.
//! So a reader sees either all of an addition or nothing, and what it has mapped never changes. Numbers have the byte order
//! of the machine, which the magic tells.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytemuck::Pod;
use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use crate::arch::{HAMMING_LANES, HammingBlock};
use crate::error::{Error, Result};
use crate::features::Descriptor;
use crate::matching::{HammingNorm, block_of};

/// "ORBINDEX".
const MAGIC: u64 = u64::from_be_bytes(*b"ORBINDEX");
/// The version that is written and read.
const VERSION: u64 = 1;
/// Bytes before the first segment.
pub(super) const PAGE: usize = 4096;
/// Alignment of segments and of their parts.
const ALIGN: usize = 64;
/// Numbers of a segment's head.
const HEAD: usize = 16;
/// Most descriptors of an index: their numbers have 32 bits.
pub(super) const MOST: u32 = u32::MAX;
/// Marks a slot without a descriptor.
pub(super) const NO_DESCRIPTOR: u32 = u32::MAX;
/// The label of a photo without one: no label or path can hold it.
const NO_LABEL: &str = "\0";

/// A commit: how much of the file is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    pub generation: u64,
    pub length: u64,
}

impl Commit {
    fn checksum(self) -> u64 {
        let bytes = [self.generation, self.length];
        crc32fast::hash(bytemuck::cast_slice(&bytes)).into()
    }

    /// The place of this commit in the file, and its bytes.
    pub fn encoded(self) -> (u64, [u8; 24]) {
        let numbers = [self.generation, self.length, self.checksum()];
        (16 + 24 * (self.generation % 2), bytemuck::cast(numbers))
    }

    /// The first page of a new index.
    pub fn page(self) -> Vec<u8> {
        let mut page = vec![0; PAGE];
        page[..16].copy_from_slice(bytemuck::cast_slice(&[MAGIC, VERSION]));
        let (at, bytes) = self.encoded();
        page[at as usize..at as usize + bytes.len()].copy_from_slice(&bytes);
        page
    }

    /// The newest valid commit whose length is within the file's length `len`.
    fn of_page(page: &[u8], len: u64) -> Result<Self, String> {
        let numbers: Vec<u64> =
            page.as_chunks::<8>().0.iter().take(8).map(|b| u64::from_ne_bytes(*b)).collect();
        let [magic, version, commits @ ..] = &numbers[..] else {
            return Err("it is too short for an index".to_owned());
        };
        if *magic == MAGIC.swap_bytes() {
            return Err("it was made on a machine of another byte order".to_owned());
        }
        if *magic != MAGIC {
            return Err("it is no index of photos".to_owned());
        }
        if *version != VERSION {
            return Err(format!(
                "it is of version {version}, and this program reads version {VERSION}: make it anew"
            ));
        }
        let commits = commits.as_chunks::<3>().0.iter().map(|&[generation, length, checksum]| {
            let commit = Self { generation, length };
            (commit.checksum() == checksum && length >= PAGE as u64).then_some(commit)
        });
        let valid = commits.flatten();
        let least = valid.clone().map(|commit| commit.length).min();
        let newest =
            valid.filter(|commit| commit.length <= len).max_by_key(|commit| commit.generation);
        newest.ok_or_else(|| match least {
            Some(due) => format!("it ends too early: {len} bytes of {due}"),
            None => "its first page is damaged".to_owned(),
        })
    }
}

/// How the descriptors of an index were made, for searches and additions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Notes {
    pub norm: HammingNorm,
    /// The notes of the result.
    pub orb: Option<String>,
    pub decode: Option<String>,
}

/// The photos of a segment that is made.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub descriptors: Vec<Descriptor>,
    points: Vec<[f32; 2]>,
    photo_ends: Vec<u32>,
    sizes: Vec<[u32; 2]>,
    texts: String,
    text_ends: Vec<u32>,
}

impl Draft {
    pub fn push(
        &mut self,
        path: &str,
        label: Option<&str>,
        size: [u32; 2],
        points: impl Iterator<Item = [f32; 2]>,
        descriptors: &[Descriptor],
    ) {
        self.descriptors.extend_from_slice(descriptors);
        self.points.extend(points);
        self.points.resize(self.descriptors.len(), [0.0; 2]);
        self.photo_ends.push(self.descriptors.len() as u32);
        self.sizes.push(size);
        for text in [path, label.unwrap_or(NO_LABEL)] {
            self.texts.push_str(text);
            self.text_ends.push(self.texts.len() as u32);
        }
    }

    pub fn n_photos(&self) -> usize {
        self.sizes.len()
    }

    /// Bytes of the photos' paths and labels.
    pub fn text_len(&self) -> usize {
        self.texts.len()
    }

    /// The segment's bytes. `lists` tells the list of each descriptor, if there are lists.
    pub fn encoded(
        &self,
        centroids: &[Descriptor],
        lists: Option<(&[u32], usize)>,
        notes: &Notes,
    ) -> Result<Vec<u8>, serde_json::Error> {
        let n = self.descriptors.len();
        let (of_each, n_lists) = lists.unwrap_or((&[], 1));
        // The descriptors of each list, in order.
        let mut order: Vec<u32> = (0..n as u32).collect();
        order.sort_by_key(|&i| of_each.get(i as usize).copied().unwrap_or(0));
        let (mut blocks, mut list_ends) = (Vec::<HammingBlock>::new(), Vec::new());
        let (mut slots, mut places) =
            (Vec::new(), vec![0_u32; if lists.is_some() { n } else { 0 }]);
        let mut rest = &order[..];
        for list in 0..n_lists as u32 {
            let len =
                rest.partition_point(|&i| of_each.get(i as usize).copied().unwrap_or(0) <= list);
            let (own, others) = rest.split_at(len);
            rest = others;
            for some in own.chunks(HAMMING_LANES) {
                let block = block_of(some.iter().map(|&i| &self.descriptors[i as usize]));
                if lists.is_some() {
                    for (slot, &i) in (blocks.len() * HAMMING_LANES..).zip(some) {
                        places[i as usize] = slot as u32;
                    }
                    slots.extend_from_slice(some);
                    slots.resize((blocks.len() + 1) * HAMMING_LANES, NO_DESCRIPTOR);
                }
                blocks.push(block);
            }
            list_ends.push(blocks.len() as u32);
        }
        let notes = serde_json::to_vec(notes)?;
        let mut head = [0_u64; HEAD];
        head[2..9].copy_from_slice(&[
            self.n_photos() as u64,
            n as u64,
            n_lists as u64,
            blocks.len() as u64,
            centroids.len() as u64,
            self.texts.len() as u64,
            notes.len() as u64,
        ]);
        let mut bytes = bytemuck::cast_slice(&head).to_vec();
        add(&mut bytes, &blocks);
        add(&mut bytes, centroids);
        add(&mut bytes, &list_ends);
        add(&mut bytes, &slots);
        add(&mut bytes, &places);
        add(&mut bytes, &self.photo_ends);
        add(&mut bytes, &self.points);
        add(&mut bytes, &self.sizes);
        add(&mut bytes, &self.text_ends);
        add(&mut bytes, self.texts.as_bytes());
        add(&mut bytes, &notes);
        let len = bytes.len() as u64;
        bytes[8..16].copy_from_slice(&len.to_ne_bytes());
        let checksum = u64::from(crc32fast::hash(&bytes[8..]));
        bytes[..8].copy_from_slice(&checksum.to_ne_bytes());
        Ok(bytes)
    }
}

fn add<T: Pod>(bytes: &mut Vec<u8>, part: &[T]) {
    bytes.extend_from_slice(bytemuck::cast_slice(part));
    bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
}

/// A segment of an open index.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    map: Arc<Mmap>,
    pub n_photos: usize,
    pub n_descriptors: usize,
    /// The number of its first photo, and of its first descriptor, in the index.
    pub first_photo: u32,
    pub first_descriptor: u32,
    parts: [Range<usize>; 11],
}

impl Segment {
    /// Reads the segment at `at`; `end` is that of the index. Checks all of it.
    fn read(
        map: &Arc<Mmap>,
        at: usize,
        end: usize,
        first_photo: u32,
        first_descriptor: u32,
    ) -> Result<Self, String> {
        let damaged = || format!("its segment at byte {at} is damaged");
        let bytes = map.get(at..end).ok_or_else(damaged)?;
        let head: Vec<u64> =
            bytes.as_chunks::<8>().0.iter().take(HEAD).map(|b| u64::from_ne_bytes(*b)).collect();
        let [checksum, len, photos, descriptors, lists, blocks, centroids, texts, notes, ..] =
            head[..]
        else {
            return Err(damaged());
        };
        let len = usize::try_from(len)
            .ok()
            .filter(|len| *len >= 8 * HEAD && *len <= bytes.len())
            .ok_or_else(damaged)?;
        if u64::from(crc32fast::hash(&bytes[8..len])) != checksum {
            return Err(damaged());
        }
        let in_lists = lists > 1;
        let counts = [
            (blocks, size_of::<HammingBlock>()),
            (centroids, size_of::<Descriptor>()),
            (lists, 4),
            (if in_lists { blocks.saturating_mul(HAMMING_LANES as u64) } else { 0 }, 4),
            (if in_lists { descriptors } else { 0 }, 4),
            (photos, 4),
            (descriptors, 8),
            (photos, 8),
            (photos.saturating_mul(2), 4),
            (texts, 1),
            (notes, 1),
        ];
        let mut place = 8 * HEAD;
        let mut parts: [Range<usize>; 11] = Default::default();
        for (part, (count, size)) in parts.iter_mut().zip(counts) {
            let size = usize::try_from(count).ok().and_then(|count| count.checked_mul(size));
            let end = size
                .and_then(|size| place.checked_add(size))
                .filter(|end| *end <= len)
                .ok_or_else(damaged)?;
            *part = at + place..at + end;
            place = end.next_multiple_of(ALIGN);
        }
        if place != len {
            return Err(damaged());
        }
        let (n_photos, n_descriptors) = (photos as usize, descriptors as usize);
        let segment = Self {
            map: Arc::clone(map),
            n_photos,
            n_descriptors,
            first_photo,
            first_descriptor,
            parts,
        };
        if segment.is_sound() { Ok(segment) } else { Err(damaged()) }
    }

    /// Whether all numbers are within their bounds, so that nothing can be out of range later.
    fn is_sound(&self) -> bool {
        let ends = |ends: &[u32], all: usize| {
            ends.is_sorted() && ends.last().is_none_or(|&end| end as usize <= all)
        };
        let (blocks, texts) = (self.blocks().len(), &self.map[self.parts[9].clone()]);
        let text = std::str::from_utf8(texts);
        let n = self.n_descriptors;
        let is_flat = self.slots().is_empty();
        ends(self.list_ends(), blocks)
            && self.list_ends().last().is_some_and(|&end| end as usize == blocks)
            && ends(self.photo_ends(), n)
            && self.photo_ends().last().map_or(0, |&end| end as usize) == n
            && ends(self.part(8), texts.len())
            && text.is_ok_and(|text| {
                self.part(8).iter().all(|&end: &u32| text.is_char_boundary(end as usize))
            })
            && self.slots().iter().all(|&slot| slot == NO_DESCRIPTOR || (slot as usize) < n)
            && self.part(4).iter().all(|&place: &u32| (place as usize) < blocks * HAMMING_LANES)
            && (!is_flat || n.div_ceil(HAMMING_LANES) == blocks)
    }

    fn part<T: Pod>(&self, part: usize) -> &[T] {
        bytemuck::cast_slice(&self.map[self.parts[part].clone()])
    }

    pub fn blocks(&self) -> &[HammingBlock] {
        self.part(0)
    }

    pub fn centroids(&self) -> &[Descriptor] {
        self.part(1)
    }

    pub fn list_ends(&self) -> &[u32] {
        self.part(2)
    }

    /// The descriptor of each slot; empty without lists, where the slot is the descriptor.
    pub fn slots(&self) -> &[u32] {
        self.part(3)
    }

    fn photo_ends(&self) -> &[u32] {
        self.part(5)
    }

    pub fn notes(&self) -> Result<Notes, serde_json::Error> {
        serde_json::from_slice(self.part(10))
    }

    /// The photo of a descriptor.
    pub fn photo_of(&self, descriptor: u32) -> usize {
        self.photo_ends().partition_point(|&end| end <= descriptor)
    }

    /// The descriptors of a photo.
    pub fn descriptors_of(&self, photo: usize) -> Range<u32> {
        let ends = self.photo_ends();
        let start = if photo == 0 { 0 } else { ends[photo - 1] };
        start..ends[photo]
    }

    /// A descriptor.
    pub fn descriptor(&self, descriptor: u32) -> Descriptor {
        let places: &[u32] = self.part(4);
        let slot = places.get(descriptor as usize).map_or(descriptor, |&place| place) as usize;
        let block = &self.blocks()[slot / HAMMING_LANES];
        bytemuck::cast(block.map(|words| words[slot % HAMMING_LANES]))
    }

    /// Where a descriptor's keypoint is.
    pub fn point(&self, descriptor: u32) -> [f32; 2] {
        self.part::<[f32; 2]>(6)[descriptor as usize]
    }

    /// Width and height of a photo.
    pub fn size(&self, photo: usize) -> [u32; 2] {
        self.part::<[u32; 2]>(7)[photo]
    }

    fn text(&self, number: usize) -> &str {
        let ends: &[u32] = self.part(8);
        let start = if number == 0 { 0 } else { ends[number - 1] };
        let texts: &[u8] = self.part(9);
        std::str::from_utf8(&texts[start as usize..ends[number] as usize]).unwrap_or_default()
    }

    pub fn path(&self, photo: usize) -> &str {
        self.text(2 * photo)
    }

    pub fn label(&self, photo: usize) -> Option<&str> {
        Some(self.text(2 * photo + 1)).filter(|label| *label != NO_LABEL)
    }
}

/// Whether a file begins as an index of any version.
pub(super) fn is_index(path: &Path) -> std::io::Result<bool> {
    let mut first = [0; 8];
    match read_start(&File::open(path)?, &mut first) {
        Ok(()) => Ok(u64::from_ne_bytes(first) == MAGIC),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

/// Reads the first bytes of a file.
fn read_start(mut file: &File, bytes: &mut [u8]) -> std::io::Result<()> {
    file.rewind()?;
    file.read_exact(bytes)
}

/// Maps an index, and checks all of it. `path` names it.
#[expect(unsafe_code, reason = "mapping a file is not safe")]
pub(super) fn open(file: &File, path: &Path) -> Result<(Vec<Segment>, Commit)> {
    let failed = |e: std::io::Error| Error::index(path, e);
    let wrong = |why: String| Error::index(path, why);
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(Error::index(path, "it is no file"));
    }
    let mut first = [0; 8];
    let is_index = read_start(file, &mut first).is_ok() && u64::from_ne_bytes(first) == MAGIC;
    if !is_index && metadata.len() < PAGE as u64 {
        return Err(Error::index(path, "it is no index of photos"));
    }
    // SAFETY: segments up to the commit's length are never rewritten: additions are appended, and a new index replaces
    // the file. The commits are read only here. If another program truncates the file, this one ends, as for any map.
    let map = Arc::new(unsafe { Mmap::map(file) }.map_err(failed)?);
    let page = map.get(..PAGE).ok_or_else(|| wrong("it ends too early".to_owned()))?;
    let commit = Commit::of_page(page, map.len() as u64).map_err(wrong)?;
    let end = commit.length as usize;
    let mut segments: Vec<Segment> = Vec::new();
    let (mut at, mut photos, mut descriptors) = (PAGE, 0_u32, 0_u32);
    while at < end {
        let segment = Segment::read(&map, at, end, photos, descriptors).map_err(wrong)?;
        let more = |n: u32, more: usize| {
            u32::try_from(more).ok().and_then(|more| n.checked_add(more)).filter(|n| *n < MOST)
        };
        let too_many = || wrong("it has too many photos".to_owned());
        photos = more(photos, segment.n_photos).ok_or_else(too_many)?;
        descriptors = more(descriptors, segment.n_descriptors).ok_or_else(too_many)?;
        at = segment.parts[10].end.next_multiple_of(ALIGN);
        segments.push(segment);
    }
    Ok((segments, commit))
}
