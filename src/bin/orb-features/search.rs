//! The command `search`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use orb_features::prelude::*;
use orb_features::search::{Found, Index, SearchParams};

use crate::exit::{Exit, print};
use crate::photo;
use crate::place::Place;
use crate::s3::S3Args;

#[derive(Args)]
pub struct Search {
    /// File of the index. Features are extracted with the parameters that it notes.
    #[arg(value_name = "INDEX")]
    index: PathBuf,
    /// Photos, folders of them, or s3://bucket/key or prefix.
    #[arg(value_name = "PHOTO", required = true, value_parser = OsStringValueParser::new().try_map(Place::parse))]
    photos: Vec<Place>,
    /// Photos to find for each.
    #[arg(short = 'k', long = "photos", value_name = "N", default_value_t = 10)]
    n_photos: usize,
    /// Neighbours of each descriptor; the others are compared with the farthest.
    #[arg(long, value_name = "N", default_value_t = 20)]
    neighbors: usize,
    /// A neighbour votes for its photo if its distance is at most this share of the farthest neighbour's.
    #[arg(long, value_name = "F", default_value_t = 0.8)]
    ratio: f64,
    /// Photos, of those with the most votes, that are compared by a homography.
    #[arg(long, value_name = "N", default_value_t = 50)]
    verify: usize,
    /// Lists to look into, if the index has lists.
    #[arg(long, value_name = "N", default_value_t = 64)]
    probes: usize,
    /// Seed of RANSAC.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Take the folders of the photos as their true labels, and print how often the label is right, and a table of
    /// labels by labels, at the end; nothing of each photo.
    #[arg(long)]
    confusion: bool,
    /// Print one JSON object for each photo.
    #[arg(long, conflicts_with = "confusion")]
    json: bool,

    #[command(flatten)]
    s3: S3Args,
}

impl Search {
    pub fn run(&self) -> Result<(), Exit> {
        let params = SearchParams::default()
            .with_photos(self.n_photos)
            .with_neighbors(self.neighbors)
            .with_ratio(self.ratio)
            .with_verify(self.verify)
            .with_probes(self.probes)
            .with_seed(self.seed);
        params.check()?;
        let index = Index::open(&self.index)?;
        let Some(orb) = index.orb_params()? else {
            let why = "notes no parameters of ORB: its photos cannot be compared with others";
            return Err(Exit {
                message: format!("the index {} {why}", self.index.display()),
                status: 1,
            });
        };
        let orb = orb.build()?;
        let decode = index.decode_params()?.unwrap_or_default();
        let s3 = photo::connect(&self.s3, &self.photos)?;
        let mut confusion = Confusion::default();
        let (mut searched, mut failed) = (0, 0);
        for place in &self.photos {
            let images = match photo::images_at(place, s3.as_ref()) {
                Ok(images) => images,
                Err(error) => {
                    // The others are searched for all the same.
                    eprintln!("error: {}", error.to_line());
                    failed += 1;
                    continue;
                }
            };
            for image in images.features(&orb).with_decode(decode.clone()) {
                let image = match image {
                    Ok(image) => image,
                    Err(error)
                        if error.is_of_one_image() || matches!(error, Error::NoInput { .. }) =>
                    {
                        eprintln!("error: {}", error.to_line());
                        failed += 1;
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                searched += 1;
                let bytes = image.vectors.as_u8().unwrap_or_default();
                let descriptors = bytes.as_chunks().0.to_vec();
                let query = Features { keypoints: image.keypoints, descriptors };
                let found = index.search(&query, &params)?;
                if self.confusion {
                    let label = found.labels.first().map(|label| label.label.clone());
                    confusion.add(image.meta.label.clone(), label);
                } else if self.json {
                    let line = serde_json::json!({ "path": image.meta.uri, "keypoints": query.len(), "found": found });
                    print(&line.to_string())?;
                } else {
                    print(&text(&image.meta.uri, &query, &found))?;
                }
            }
        }
        if self.confusion {
            print(&confusion.text())?;
        }
        if failed > 0 {
            let message =
                format!("{failed} of {} photos could not be searched for", searched + failed);
            return Err(Exit { message, status: 1 });
        }
        Ok(())
    }
}

fn text(path: &str, query: &Features, found: &Found) -> String {
    let mut text = format!("{}: {} keypoints", photo::shown(path), query.len());
    let shares = found.labels.iter().take(3);
    let shares: Vec<_> =
        shares.map(|l| format!("{} {:.0} %", photo::shown(&l.label), 100.0 * l.share)).collect();
    let none = if found.photos.is_empty() { "nothing found" } else { "no label" };
    let _ =
        write!(text, "\n  {}", if shares.is_empty() { none.to_owned() } else { shares.join(", ") });
    for near in &found.photos {
        let label = photo::shown(near.label.as_deref().unwrap_or("-"));
        let (inliers, votes, path) = (near.inliers, near.votes, photo::shown(&near.path));
        let _ = write!(text, "\n  {inliers:>4} inliers {votes:>4} votes  {label}  {path}");
    }
    text
}

/// True labels by labels that were found.
#[derive(Default)]
struct Confusion {
    counts: BTreeMap<(Option<String>, Option<String>), u64>,
}

impl Confusion {
    fn add(&mut self, truth: Option<String>, found: Option<String>) {
        *self.counts.entry((truth, found)).or_default() += 1;
    }

    fn text(&self) -> String {
        let name = |label: &Option<String>| photo::shown(label.as_deref().unwrap_or("(none)"));
        let mut names: Vec<Option<String>> = Vec::new();
        for label in self.counts.keys().flat_map(|(truth, found)| [truth, found]) {
            if !names.contains(label) {
                names.push(label.clone());
            }
        }
        names.sort();
        let count = |truth: &Option<String>, found: &Option<String>| {
            self.counts.get(&(truth.clone(), found.clone())).copied().unwrap_or(0)
        };
        let total: u64 = self.counts.values().sum();
        let right: u64 =
            names.iter().filter(|name| name.is_some()).map(|name| count(name, name)).sum();
        let width =
            names.iter().map(|label| name(label).chars().count()).max().unwrap_or(0).max(12);
        let mut text = format!("{:<width$}", "true \\ found");
        for label in &names {
            let _ = write!(text, "  {:>6}", name(label));
        }
        for truth in &names {
            if names.iter().all(|found| count(truth, found) == 0) {
                continue;
            }
            let _ = write!(text, "\n{:<width$}", name(truth));
            for found in &names {
                let _ = write!(
                    text,
                    "  {:>1$}",
                    count(truth, found),
                    name(found).chars().count().max(6)
                );
            }
        }
        let share = right as f64 / total.max(1) as f64;
        let _ = write!(text, "\nright        {right} of {total}: {share:.3}");
        text
    }
}
