//! The content of a report, for the page and for JSON.

use serde::Serialize;

use crate::rows::FailedImage;
use crate::search::Duplicate;

/// A report on a result.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The result: a folder, or a URI.
    pub uri: String,
    /// Whether its writer had finished it.
    pub is_complete: bool,
    /// The version of this crate that made the report.
    pub version: String,
    /// The seed by which photos were drawn.
    pub seed: u64,
    /// Whether the vectors belong to keypoints.
    pub has_keypoints: bool,
    /// The run.
    pub run: RunPart,
    /// Images that failed.
    pub failures: Failures,
    /// Photos without or with few features.
    pub few: FewFeatures,
    /// Keypoints of each photo.
    pub keypoints: Keypoints,
    /// Labels, the most photos first.
    pub labels: Vec<LabelRow>,
    /// The number of labels; the list may be shorter.
    pub n_labels: u64,
    /// The PCA, if there is one.
    pub pca: Option<PcaPart>,
    /// Photos by the first two components of their mean score.
    pub scatter: Option<Scatter>,
    /// Some photos of each label.
    pub photos: Vec<LabelPhotos>,
    /// How often the nearest photos have another label.
    pub mixups: Option<Mixups>,
    /// Photos that are alike.
    pub similar: SimilarPhotos,
    /// Photos that stand out.
    pub extremes: Extremes,
}

/// The run.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct RunPart {
    /// Images of the run whose report was given; fewer than all if the result was added to.
    pub run_images: Option<u64>,
    /// All images.
    pub images: u64,
    /// Images that failed.
    pub failed: u64,
    /// Photos without a keypoint, or other vector.
    pub without_features: u64,
    /// Keypoints, or other vectors.
    pub vectors: u64,
    /// Bytes of the images' files, as far as they are known.
    pub bytes: u64,
    /// The version that wrote the result, if it says so.
    pub written_by: Option<String>,
    /// Parameters of extractor and decoder, by name.
    pub parameters: Vec<(String, String)>,
    /// Seconds of each stage, of all threads together, if the run's report was given.
    pub stages: Vec<StageTime>,
    /// Wall-clock time in seconds, likewise.
    pub seconds: Option<f64>,
    /// Threads, likewise.
    pub threads: Option<usize>,
}

/// The time of a stage.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StageTime {
    /// The stage.
    pub name: String,
    /// Seconds of all threads together.
    pub seconds: f64,
}

/// Images that failed.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Failures {
    /// How many, by cause.
    pub causes: Vec<(String, u64)>,
    /// The first of them. The message is empty if the run did not record failures.
    pub listed: Vec<FailedImage>,
}

/// Photos without or with few features.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct FewFeatures {
    /// Up to how many features are few.
    pub few: u32,
    /// The number of such photos.
    pub total: u64,
    /// The first of them, the fewest features first.
    pub listed: Vec<PhotoRow>,
}

/// A photo in a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct PhotoRow {
    /// Its keypoints, or other vectors.
    pub n_vectors: u32,
    /// The path or key.
    pub path: String,
    /// The label, if there is one.
    pub label: Option<String>,
}

/// Keypoints of each photo.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Keypoints {
    /// The histogram.
    pub bins: Vec<Bin>,
    /// The mean.
    pub mean: f64,
    /// The median.
    pub median: u32,
    /// The most.
    pub most: u32,
}

/// Photos with `from` to `to` keypoints.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Bin {
    /// The least number.
    pub from: u32,
    /// The greatest number.
    pub to: u32,
    /// How many photos.
    pub photos: u64,
}

/// A label.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct LabelRow {
    /// The label, if the photos have one.
    pub label: Option<String>,
    /// Photos, without those that failed.
    pub photos: u64,
    /// Images that failed.
    pub failed: u64,
    /// Photos without a keypoint.
    pub without_features: u64,
    /// Keypoints.
    pub vectors: u64,
    /// The most keypoints of a photo.
    pub most: u32,
}

/// The PCA.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PcaPart {
    /// Share of the variance along each component, 0 to 1.
    pub ratios: Vec<f64>,
    /// Share of the variance along the components up to each.
    pub cumulated: Vec<f64>,
    /// Rows of the fit.
    pub n_rows: u64,
}

/// Photos in the plane of the first two components.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Scatter {
    /// The photos that were drawn.
    pub points: Vec<ScatterPoint>,
    /// The number of photos to draw from.
    pub of: u64,
}

/// The mean score of a photo.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ScatterPoint {
    /// Along the first component.
    pub x: f64,
    /// Along the second component.
    pub y: f64,
    /// The label, if there is one.
    pub label: Option<String>,
    /// The path or key.
    pub path: String,
}

/// Some photos of a label.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct LabelPhotos {
    /// The label, if the photos have one.
    pub label: Option<String>,
    /// The photos.
    pub photos: Vec<Thumb>,
}

/// A small picture of a photo.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Thumb {
    /// The path or key.
    pub path: String,
    /// The label, if there is one.
    pub label: Option<String>,
    /// Its keypoints.
    pub keypoints: usize,
    /// The picture as SVG; empty if the photo could not be read again. Not part of the JSON.
    #[serde(skip)]
    pub svg: String,
}

/// Labels by the labels of the nearest photos, each photo left out in turn.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Mixups {
    /// Photos that were searched for.
    pub searched: u64,
    /// Among how many photos.
    pub among: u64,
    /// Photos that found their own label.
    pub right: u64,
    /// Pairs of labels, the true one first, and how many photos; the most first.
    pub pairs: Vec<(String, String, u64)>,
    /// Some of the photos with what they found.
    pub shown: Vec<MixedUp>,
}

/// A photo whose nearest photos have another label.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct MixedUp {
    /// The photo.
    pub photo: Thumb,
    /// The nearest photo.
    pub nearest: Thumb,
    /// The label that was found.
    pub found: String,
    /// Its share of the votes, 0 to 1.
    pub share: f64,
}

/// Photos that are alike.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SimilarPhotos {
    /// Photos that are the same as one before them; near ones only among the photos that were searched for.
    pub total: u64,
    /// The first of them.
    pub listed: Vec<Duplicate>,
    /// Why they were not looked for, if so.
    pub left_out: Option<String>,
}

/// Photos that stand out, among some that were read.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Extremes {
    /// Photos that were read.
    pub read: u64,
    /// Photos that could not be read again.
    pub unread: u64,
    /// The darkest: mean grey value, 0 to 255.
    pub darkest: Vec<Extreme>,
    /// The brightest, likewise.
    pub brightest: Vec<Extreme>,
    /// The blurriest: variance of the Laplacian.
    pub blurriest: Vec<Extreme>,
}

/// A photo that stands out.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Extreme {
    /// The photo.
    pub photo: Thumb,
    /// The value by which it does.
    pub value: f64,
}

impl Report {
    /// The report as JSON: everything but the pictures.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Maps with string keys and finite numbers only.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}
