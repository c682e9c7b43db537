//! Photos that are the same, or nearly.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::SearchParams;
use super::build::index_of;
use crate::choice::choice;
use crate::error::{Error, Result};
use crate::results::ResultReader;

/// How two photos are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DuplicateKind {
    /// The files are equal, byte by byte.
    Exact,
    /// The same keypoints and descriptors; the files differ, or cannot be read.
    SameFeatures,
    /// Many descriptors that agree with one homography.
    Near,
}

choice!(DuplicateKind, "kind", Exact = "exact", SameFeatures = "same-features", Near = "near");

/// A photo that is like one before it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Duplicate {
    /// How they are alike.
    pub kind: DuplicateKind,
    /// The photo.
    pub path: String,
    /// Its label.
    pub label: Option<String>,
    /// The photo before it.
    pub of: String,
    /// The label of that.
    pub of_label: Option<String>,
    /// Share of the descriptors, of the photo with fewer, that agree; 1 unless it is near.
    pub share: f64,
}

/// Parameters of [`duplicates`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[must_use]
pub struct DuplicateParams {
    share: f64,
    near: bool,
    search: SearchParams,
}

impl Default for DuplicateParams {
    fn default() -> Self {
        Self { share: 0.5, near: true, search: SearchParams::default().with_photos(20) }
    }
}

impl DuplicateParams {
    /// Sets the share of descriptors that must agree with a homography for near duplicates (default 0.5).
    pub fn with_share(mut self, share: f64) -> Self {
        self.share = share;
        self
    }

    /// Sets whether near duplicates are looked for (default: yes). It takes a search for each photo.
    pub fn with_near(mut self, near: bool) -> Self {
        self.near = near;
        self
    }
}

/// Finds photos of a result that are like one before them. `read` gives the bytes of photos, by their paths, or `None` for one
/// that cannot be read; only those that may be equal are read, one at a time.
///
/// Near duplicates are looked for with an index in a temporary file.
///
/// # Errors
/// Those of [`ResultReader::photos`] and of [`Index::create`](super::Index::create); [`Error::InvalidParam`].
pub fn duplicates(
    result: &ResultReader,
    params: &DuplicateParams,
    read: &mut dyn FnMut(&str) -> Option<Vec<u8>>,
) -> Result<Vec<Duplicate>> {
    if !(params.share > 0.0 && params.share <= 1.0) {
        return Err(Error::param("share", params.share, "above 0, at most 1"));
    }
    let mut found = equal(result, read)?;
    if params.near {
        near(result, params, &mut found)?;
    }
    found.sort_by(|one, other| {
        (one.kind, &one.of, &one.path).cmp(&(other.kind, &other.of, &other.path))
    });
    Ok(found)
}

/// A photo's path and label.
type Name = (String, Option<String>);

/// Photos with equal features, and photos without features whose files are equal.
fn equal(
    result: &ResultReader,
    read: &mut dyn FnMut(&str) -> Option<Vec<u8>>,
) -> Result<Vec<Duplicate>> {
    // By what must be the same: a hash of the features, or the size of the file.
    let mut groups: BTreeMap<(bool, u64), Vec<Name>> = BTreeMap::new();
    for photo in result.photos()? {
        let photo = photo?;
        if photo.vectors.rows() == 0 {
            continue;
        }
        let mut hasher = DefaultHasher::new();
        (photo.width, photo.height).hash(&mut hasher);
        for k in &photo.keypoints {
            [k.x, k.y, k.size, k.angle, k.response].map(f32::to_bits).hash(&mut hasher);
        }
        photo.descriptors().map_err(|e| Error::table(result.uri(), e))?.hash(&mut hasher);
        groups.entry((true, hasher.finish())).or_default().push((photo.path, photo.label));
    }
    for image in result.images()? {
        let image = image?;
        if let (Some(path), Some(len), Some(0)) = (image.path, image.byte_len, image.n_vectors) {
            groups.entry((false, len)).or_default().push((path, image.label));
        }
    }
    let mut found = Vec::new();
    for ((has_features, _), group) in groups.into_iter().filter(|(_, group)| group.len() > 1) {
        // The first photo of each content, by its hash.
        let mut contents: BTreeMap<[u8; 32], Name> = BTreeMap::new();
        let mut first: Option<Name> = None;
        for name in group {
            let hash: Option<[u8; 32]> = read(&name.0).map(|bytes| Sha256::digest(bytes).into());
            let same = hash.and_then(|hash| contents.get(&hash));
            let alike = match (same, &first) {
                (Some(of), _) => Some((DuplicateKind::Exact, of.clone())),
                (None, Some(of)) if has_features => Some((DuplicateKind::SameFeatures, of.clone())),
                _ => None,
            };
            // A photo may be listed twice.
            if let Some((kind, of)) = alike.filter(|(_, of)| of.0 != name.0) {
                found.push(Duplicate {
                    kind,
                    path: name.0.clone(),
                    label: name.1.clone(),
                    of: of.0,
                    of_label: of.1,
                    share: 1.0,
                });
            }
            if let (Some(hash), None) = (hash, same) {
                contents.insert(hash, name.clone());
            }
            first.get_or_insert(name);
        }
    }
    Ok(found)
}

/// Photos that share a homography with one before them.
fn near(result: &ResultReader, params: &DuplicateParams, found: &mut Vec<Duplicate>) -> Result<()> {
    let Some(index) = index_of(result.photos()?, result)? else { return Ok(()) };
    let known: std::collections::HashSet<String> = found.iter().map(|d| d.path.clone()).collect();
    for photo in index.photos().filter(|photo| !known.contains(photo.path)) {
        let alike = index.search_before(photo.number, &params.search)?;
        let before = alike.photos.into_iter().filter(|other| !known.contains(&other.path));
        // The photo with the largest share; on a tie, the first one.
        let shares = before.map(|other| (index.agreeing(photo.number, &other), other));
        let best = shares.filter(|(share, _)| *share >= params.share);
        let best = best.max_by(|(a, one), (b, other)| {
            a.total_cmp(b).then_with(|| other.number.cmp(&one.number))
        });
        if let Some((share, of)) = best {
            found.push(Duplicate {
                kind: DuplicateKind::Near,
                path: photo.path.to_owned(),
                label: photo.label.map(str::to_owned),
                of: of.path,
                of_label: of.label,
                share,
            });
        }
    }
    Ok(())
}
