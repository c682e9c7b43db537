//! Gathers what a report holds, in two passes over the result.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use super::content::{
    Bin, Extreme, Extremes, Failures, FewFeatures, Keypoints, LabelPhotos, LabelRow, MixedUp,
    Mixups, PcaPart, PhotoRow, Report, RunPart, Scatter, ScatterPoint, SimilarPhotos, StageTime,
    Thumb,
};
use super::thumbs::Reader;
use crate::error::{Error, Result};
use crate::pipeline::RunReport;
use crate::results::{ImageRecord, Photo, ResultReader};
use crate::rows::FailedImage;
use crate::sample::{Sample, draw};
use crate::search::{
    Duplicate, DuplicateKind, DuplicateParams, Index, SearchParams, duplicates, index_of,
};

/// Photos of which the features are looked at.
const SAMPLE: usize = 1000;
/// Photos that are read again to be measured.
const READ: usize = 400;
/// Most rows of a list of photos.
const LISTED: usize = 200;
/// Most labels in a table.
const LABELS: usize = 200;
/// Labels with pictures, and pictures of each.
const PICTURED: (usize, usize) = (20, 4);
/// Photos of each kind that stand out, and of mix-ups.
const SHOWN: usize = 8;
/// Bars of the histogram.
const BINS: u32 = 30;
/// Most features of a photo that counts as having few.
const FEW: u32 = 2;
/// Distances that a report computes: some ten seconds on one thread.
const DISTANCES: u64 = 30_000_000_000;
/// Most images among which equal ones are looked for: their names are held in memory.
const COMPARED: u64 = 1_000_000;
/// Share of the descriptors that agree in near duplicates.
const NEAR: f64 = 0.5;

/// Parameters of a report.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ReportParams {
    seed: u64,
    run: Option<RunReport>,
}

impl ReportParams {
    /// Sets the seed by which photos are drawn (default 0).
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the report of the run, which tells its times: a result has none, so that it depends on its photos alone.
    pub fn with_run(mut self, run: RunReport) -> Self {
        self.run = Some(run);
        self
    }
}

/// Counts over all images of the result.
struct Census {
    images: u64,
    failed: u64,
    vectors: u64,
    bytes: u64,
    causes: BTreeMap<String, u64>,
    unrecorded: Vec<FailedImage>,
    few: BTreeSet<PhotoRow>,
    n_few: u64,
    /// Photos by their number of vectors.
    counts: BTreeMap<u32, u64>,
    labels: BTreeMap<Option<String>, LabelRow>,
    readable: Sample<(String, Option<String>)>,
}

impl Census {
    fn new(seed: u64) -> Self {
        Self {
            images: 0,
            failed: 0,
            vectors: 0,
            bytes: 0,
            causes: BTreeMap::new(),
            unrecorded: Vec::new(),
            few: BTreeSet::new(),
            n_few: 0,
            counts: BTreeMap::new(),
            labels: BTreeMap::new(),
            readable: Sample::new(READ, seed ^ 1),
        }
    }

    fn add(&mut self, image: ImageRecord) {
        self.images += 1;
        self.bytes += image.byte_len.unwrap_or(0);
        let empty = || LabelRow {
            label: image.label.clone(),
            photos: 0,
            failed: 0,
            without_features: 0,
            vectors: 0,
            most: 0,
        };
        let of_label = self.labels.entry(image.label.clone()).or_insert_with(empty);
        let Some(n_vectors) = image.n_vectors else {
            self.failed += 1;
            of_label.failed += 1;
            let cause = image.cause.unwrap_or_default();
            if self.unrecorded.len() < LISTED {
                self.unrecorded.push(FailedImage::new(image.path, "", cause.clone(), ""));
            }
            *self.causes.entry(cause).or_default() += 1;
            return;
        };
        of_label.photos += 1;
        of_label.without_features += u64::from(n_vectors == 0);
        of_label.vectors += u64::from(n_vectors);
        of_label.most = of_label.most.max(n_vectors);
        self.vectors += u64::from(n_vectors);
        *self.counts.entry(n_vectors).or_default() += 1;
        let path = image.path.unwrap_or_default();
        if n_vectors <= FEW {
            self.n_few += 1;
            self.few.insert(PhotoRow { n_vectors, path: path.clone(), label: image.label.clone() });
            if self.few.len() > LISTED {
                self.few.pop_last();
            }
        }
        self.readable.push(|| (path, image.label));
    }

    fn keypoints(&self) -> Keypoints {
        let photos: u64 = self.counts.values().sum();
        let most = self.counts.keys().last().copied().unwrap_or(0);
        let width = (most / BINS + 1).max(1);
        let mut bins: Vec<Bin> = (0..=most / width)
            .map(|i| Bin { from: i * width, to: (i * width).saturating_add(width - 1), photos: 0 })
            .collect();
        let (mut before, mut median) = (0, 0);
        for (&n, &photos_of_n) in &self.counts {
            bins[(n / width) as usize].photos += photos_of_n;
            if before < photos.div_ceil(2) {
                median = n;
            }
            before += photos_of_n;
        }
        Keypoints { bins, mean: self.vectors as f64 / photos.max(1) as f64, median, most }
    }
}

impl Report {
    /// Makes a report on a result. `read` gives the bytes of a photo, by its path, or `None` if it cannot be read again:
    /// the report then goes without its picture.
    ///
    /// Reads the whole result, but examines only a seeded sample of the photos. Memory is bounded for any result,
    /// except for one row of counts for each label.
    ///
    /// # Errors
    /// Those of [`ResultReader::photos`] and [`ResultReader::images`].
    pub fn new(
        result: &ResultReader,
        params: &ReportParams,
        read: &mut dyn FnMut(&str) -> Option<Vec<u8>>,
    ) -> Result<Self> {
        let seed = params.seed;
        let mut census = Census::new(seed);
        for image in result.images()? {
            census.add(image?);
        }
        let has_list = census.images > 0;
        let mut sample = Sample::new(SAMPLE, seed);
        for photo in result.photos()? {
            let photo = photo?;
            if !has_list {
                census.add(record_of(&photo));
            }
            if photo.vectors.rows() > 0 {
                sample.push(|| photo);
            }
        }
        let n_photos = sample.seen();
        // Without the list of images, the count lacks those without vectors.
        if let Some(run) = params.run.as_ref().filter(|run| has_list && run.images > census.images)
        {
            let allowed = format!(
                "the report of the run that wrote the result, of at most {} images",
                census.images
            );
            return Err(Error::param("run", format!("of {} images", run.images), allowed));
        }
        let sample = sample.into_ordered();
        let has_keypoints = sample.iter().all(|photo| !photo.keypoints.is_empty());
        let decode = result.decode()?.unwrap_or_default();
        let mut reader = Reader::new(read, decode);

        let mut recorded = Vec::new();
        for failure in result.failed()?.take(LISTED) {
            recorded.push(failure?);
        }
        let listed =
            if recorded.is_empty() { std::mem::take(&mut census.unrecorded) } else { recorded };
        let failures = Failures { causes: census.causes.clone().into_iter().collect(), listed };
        let keypoints = census.keypoints();
        let mut labels: Vec<LabelRow> = census.labels.values().cloned().collect();
        labels.sort_by(|a, b| (Reverse(a.photos), &a.label).cmp(&(Reverse(b.photos), &b.label)));
        let n_labels = labels.len() as u64;
        labels.truncate(LABELS);

        let photos = pictures(&sample, &labels, seed, &mut reader);
        let extremes = extremes(census.readable.into_ordered(), &sample, &mut reader);
        let searched = Searched::of(&sample, result)?;
        let mixups = searched.as_ref().and_then(|searched| searched.mixups(&mut reader));
        let similar = similar(result, searched.as_ref(), census.images, &mut reader)?;
        let pca = result.model()?.map(|model| {
            let ratios: Vec<f64> = model.explained_variance_ratio().to_vec();
            let cumulated = ratios.iter().scan(0.0, |sum, ratio| {
                *sum += ratio;
                Some(*sum)
            });
            PcaPart { cumulated: cumulated.collect(), ratios, n_rows: model.n_rows() }
        });
        let run = params.run.as_ref();
        let stages = run.map_or_else(Vec::new, |run| {
            let s = &run.seconds;
            let stages = [
                ("read", s.read),
                ("decode", s.decode),
                ("extract", s.extract),
                ("fit", s.fit),
                ("project", s.project),
                ("write", s.write),
            ];
            stages.map(|(name, seconds)| StageTime { name: name.to_owned(), seconds }).to_vec()
        });
        Ok(Self {
            uri: result.uri().to_owned(),
            is_complete: result.is_complete(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            seed,
            has_keypoints,
            run: RunPart {
                run_images: run.map(|run| run.images),
                images: census.images,
                failed: census.failed,
                without_features: census.counts.get(&0).copied().unwrap_or(0),
                vectors: census.vectors,
                bytes: census.bytes,
                written_by: result.notes().get("version").cloned(),
                parameters: parameters(result),
                stages,
                seconds: run.map(|run| run.seconds.total),
                threads: run.map(|run| run.threads),
            },
            failures,
            few: FewFeatures {
                few: FEW,
                total: census.n_few,
                listed: census.few.into_iter().collect(),
            },
            keypoints,
            labels,
            n_labels,
            scatter: pca.as_ref().and_then(|_| scatter(&sample, n_photos)),
            pca,
            photos,
            mixups,
            similar,
            extremes,
        })
    }
}

/// A photo as the list of images would have it.
fn record_of(photo: &Photo) -> ImageRecord {
    ImageRecord {
        path: Some(photo.path.clone()),
        label: photo.label.clone(),
        byte_len: None,
        size: Some((photo.height, photo.width)),
        n_vectors: Some(photo.vectors.rows() as u32),
        cause: None,
    }
}

/// The parameters in the notes, one by one.
fn parameters(result: &ResultReader) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (name, note) in
        result.notes().iter().filter(|(name, _)| *name != "pca" && *name != "version")
    {
        match serde_json::from_str(note) {
            Ok(serde_json::Value::Object(map)) => flatten("", &map, &mut all),
            _ => all.push((name.clone(), note.clone())),
        }
    }
    all
}

fn flatten(
    prefix: &str,
    map: &serde_json::Map<String, serde_json::Value>,
    all: &mut Vec<(String, String)>,
) {
    for (name, value) in map {
        match value {
            serde_json::Value::Object(map) if name == "params" => flatten(prefix, map, all),
            serde_json::Value::Object(map) => flatten(&format!("{prefix}{name}."), map, all),
            serde_json::Value::String(text) => {
                all.push((format!("{prefix}{name}"), text.clone()));
            }
            // A float32 that JSON holds as float64.
            serde_json::Value::Number(number)
                if number.as_f64().is_some_and(|v| f64::from(v as f32) == v) =>
            {
                let short = number.as_f64().unwrap_or_default() as f32;
                let text = if number.is_f64() { short.to_string() } else { number.to_string() };
                all.push((format!("{prefix}{name}"), text));
            }
            other => all.push((format!("{prefix}{name}"), other.to_string())),
        }
    }
}

fn scatter(sample: &[Photo], of: u64) -> Option<Scatter> {
    let point = |photo: &Photo| {
        let scores = photo.scores.as_ref()?;
        let (all, k) = (scores.as_f32()?, scores.format().len());
        let mean = |component: usize| {
            let of_rows = all.iter().skip(component).step_by(k).map(|&v| f64::from(v));
            of_rows.sum::<f64>() / scores.rows() as f64
        };
        let y = if k > 1 { mean(1) } else { 0.0 };
        Some(ScatterPoint { x: mean(0), y, label: photo.label.clone(), path: photo.path.clone() })
    };
    let points: Vec<_> = sample.iter().filter_map(point).collect();
    (!points.is_empty()).then_some(Scatter { points, of })
}

/// Photos of each of the first labels.
fn pictures(
    sample: &[Photo],
    labels: &[LabelRow],
    seed: u64,
    reader: &mut Reader<'_>,
) -> Vec<LabelPhotos> {
    let (most, each) = PICTURED;
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ 2);
    let of_label = |row: &LabelRow| {
        let mut photos: Vec<&Photo> =
            sample.iter().filter(|photo| photo.label == row.label).collect();
        // Neighbours in the list are often much alike.
        draw(&mut photos, each, &mut random);
        let photos: Vec<Thumb> = photos
            .into_iter()
            .map(|photo| reader.thumb(&photo.path, photo.label.as_deref(), &photo.keypoints))
            .collect();
        LabelPhotos { label: row.label.clone(), photos }
    };
    let all = labels.iter().take(most).map(of_label);
    all.filter(|of_label| !of_label.photos.is_empty()).collect()
}

/// The darkest, brightest and blurriest of some photos.
fn extremes(
    photos: Vec<(String, Option<String>)>,
    sample: &[Photo],
    reader: &mut Reader<'_>,
) -> Extremes {
    let n = photos.len() as u64;
    let mut measured: Vec<_> = photos
        .into_iter()
        .filter_map(|(path, label)| Some((reader.measure(&path)?, path, label)))
        .collect();
    let read = measured.len() as u64;
    let mut first = |value: fn(&super::thumbs::Measures) -> f64, sign: f64| -> Vec<Extreme> {
        measured.sort_by(|(a, one, _), (b, other, _)| {
            (sign * value(a)).total_cmp(&(sign * value(b))).then_with(|| one.cmp(other))
        });
        let chosen = measured.iter().take(SHOWN);
        chosen
            .map(|(measures, path, label)| {
                let known = sample.iter().find(|photo| photo.path == *path);
                let keypoints = known.map_or(&[][..], |photo| &photo.keypoints);
                let photo = reader.thumb(path, label.as_deref(), keypoints);
                Extreme { photo, value: value(measures) }
            })
            .collect()
    };
    let (darkest, brightest) = (first(|m| m.brightness, 1.0), first(|m| m.brightness, -1.0));
    Extremes { read, unread: n - read, darkest, brightest, blurriest: first(|m| m.sharpness, 1.0) }
}

/// An index of the sample, and what each searched photo found in it.
struct Searched<'a> {
    /// The photos of the index, by its numbers.
    photos: Vec<&'a Photo>,
    index: Index,
    found: Vec<(u32, crate::search::Found)>,
}

impl<'a> Searched<'a> {
    /// `None` if there is nothing to search for: no descriptors of ORB, or fewer than two photos.
    fn of(sample: &'a [Photo], result: &ResultReader) -> Result<Option<Self>> {
        // A result that was added to may have a path twice, and an index has it once.
        let mut paths = BTreeSet::new();
        let photos: Vec<_> = sample.iter().filter(|photo| paths.insert(&photo.path)).collect();
        let is_orb = photos.iter().all(|photo| photo.descriptors().is_ok());
        if photos.len() < 2 || !is_orb {
            return Ok(None);
        }
        let Some(index) = index_of(photos.iter().map(|&photo| Ok(photo.clone())), result)? else {
            return Ok(None);
        };
        let (all, n) = (index.n_descriptors() as u64, photos.len());
        let of_a_search = (all / n as u64).max(1) * all;
        let searches = (DISTANCES / of_a_search.max(1)).clamp(1, n as u64) as usize;
        // Evenly among the photos.
        let numbers = (0..searches).map(|i| (i * n / searches) as u32);
        let params = SearchParams::default();
        let found: Result<Vec<_>> =
            numbers.map(|number| Ok((number, index.search_photo(number, &params)?))).collect();
        Ok(Some(Self { photos, index, found: found? }))
    }

    fn mixups(&self, reader: &mut Reader<'_>) -> Option<Mixups> {
        let mut pairs: BTreeMap<(String, String), u64> = BTreeMap::new();
        let (mut searched, mut right) = (0, 0);
        let mut wrong: Vec<(f64, u32, u32, String)> = Vec::new();
        for (number, found) in &self.found {
            let Some(truth) = self.index.photo(*number).label else { continue };
            let Some(label) = found.labels.first() else { continue };
            searched += 1;
            if label.label == truth {
                right += 1;
                continue;
            }
            *pairs.entry((truth.to_owned(), label.label.clone())).or_default() += 1;
            // The nearest photo of the label that was found.
            let nearest =
                found.photos.iter().find(|photo| photo.label.as_ref() == Some(&label.label));
            if let Some(nearest) = nearest {
                wrong.push((label.share, *number, nearest.number, label.label.clone()));
            }
        }
        if searched == 0 {
            return None;
        }
        let mut pairs: Vec<_> =
            pairs.into_iter().map(|((truth, found), n)| (truth, found, n)).collect();
        pairs.sort_by(|a, b| (Reverse(a.2), &a.0, &a.1).cmp(&(Reverse(b.2), &b.0, &b.1)));
        pairs.truncate(LISTED);
        wrong.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        let mut thumb = |number: u32| {
            let photo = self.photos[number as usize];
            reader.thumb(&photo.path, photo.label.as_deref(), &photo.keypoints)
        };
        let shown = wrong
            .into_iter()
            .take(SHOWN)
            .map(|(share, number, nearest, found)| MixedUp {
                photo: thumb(number),
                nearest: thumb(nearest),
                found,
                share,
            })
            .collect();
        Some(Mixups { searched, among: self.photos.len() as u64, right, pairs, shown })
    }

    /// Pairs of photos that agree in many descriptors.
    fn near(&self) -> Vec<Duplicate> {
        let mut near = Vec::new();
        for (number, found) in &self.found {
            let photo = self.index.photo(*number);
            let alike = found.photos.first().map(|of| (of, self.index.agreeing(*number, of)));
            if let Some((of, share)) = alike.filter(|(_, share)| *share >= NEAR) {
                near.push(Duplicate {
                    kind: DuplicateKind::Near,
                    path: photo.path.to_owned(),
                    label: photo.label.map(str::to_owned),
                    of: of.path.clone(),
                    of_label: of.label.clone(),
                    share,
                });
            }
        }
        near
    }
}

/// Equal photos of the whole result, and near ones of those that were searched for.
fn similar(
    result: &ResultReader,
    searched: Option<&Searched<'_>>,
    images: u64,
    reader: &mut Reader<'_>,
) -> Result<SimilarPhotos> {
    let Some(searched) = searched else {
        let left_out = "the result has no descriptors of two photos to compare".to_owned();
        return Ok(SimilarPhotos { total: 0, listed: Vec::new(), left_out: Some(left_out) });
    };
    if images > COMPARED {
        let left_out =
            format!("there are more than {COMPARED} images: the command duplicates finds them");
        return Ok(SimilarPhotos { total: 0, listed: Vec::new(), left_out: Some(left_out) });
    }
    let params = DuplicateParams::default().with_near(false);
    let mut listed = duplicates(result, &params, &mut |path| reader.bytes(path))?;
    let pair = |d: &Duplicate| {
        let (a, b) = (d.path.clone(), d.of.clone());
        if a < b { (a, b) } else { (b, a) }
    };
    let mut pairs: BTreeSet<_> = listed.iter().map(pair).collect();
    let mut near = searched.near();
    // Each pair once.
    near.retain(|d| pairs.insert(pair(d)));
    near.sort_by(|a, b| b.share.total_cmp(&a.share).then_with(|| a.path.cmp(&b.path)));
    listed.extend(near);
    let total = listed.len() as u64;
    listed.truncate(LISTED);
    Ok(SimilarPhotos { total, listed, left_out: None })
}
