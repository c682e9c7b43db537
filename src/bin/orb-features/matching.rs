//! The command `match`.

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use orb_features::draw::{DrawParams, Side, draw_matches};
use orb_features::prelude::*;
use serde::Serialize;

use crate::choices::names;
use crate::exit::{Exit, print, text_of};
use crate::orb::OrbArgs;
use crate::photo;
use crate::place::Place;
use crate::s3::S3Args;

/// Default quota of keypoints: higher than for `extract`, because a homography needs many.
const N_FEATURES: u32 = 500;

#[derive(Args)]
pub struct Match {
    /// The first photo: a file, or s3://bucket/key.
    #[arg(value_name = "A", value_parser = OsStringValueParser::new().try_map(Place::parse))]
    first: Place,
    /// The second photo.
    #[arg(value_name = "B", value_parser = OsStringValueParser::new().try_map(Place::parse))]
    second: Place,
    /// File for a picture of both photos, .png or .svg: inliers green, outliers red.
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,

    /// Keep a match if its distance is below this share of the second neighbour's; 1 keeps all but ties.
    #[arg(long, value_name = "F", default_value_t = 0.8)]
    ratio: f64,
    /// Keep only matches that are found from B, too, as cv2.BFMatcher(crossCheck=True).
    #[arg(long)]
    cross_check: bool,
    /// Largest distance of a match.
    #[arg(long, value_name = "N", default_value_t = 256, allow_negative_numbers = true)]
    max_distance: u32,
    /// Largest error of an inlier of the homography, in pixels of B.
    #[arg(long, value_name = "F", default_value_t = 3.0)]
    threshold: f64,
    /// Seed of RANSAC.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The nine numbers of the true homography from A to B, by rows, to compare with: the mean error of A's corners.
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    /// How colours become grey, see extract.
    #[arg(long, default_value_t, value_parser = names(GrayMode::ALL, GrayMode::as_str))]
    gray: GrayMode,
    /// Pixels for each pixel of the photos in the picture [default: as many as make small photos some 800 wide].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    scale: Option<u32>,
    /// Print everything, each match too, as one JSON object.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    s3: S3Args,
    #[command(flatten)]
    orb: OrbArgs,
}

/// The matches of two photos, and the homography between them.
#[derive(Serialize)]
struct Outcome {
    a: Photo,
    b: Photo,
    matches: Vec<Pair>,
    homography: Option<Homography>,
    inliers: usize,
    rms_error: Option<f64>,
    corner_error: Option<f64>,
}

#[derive(Serialize)]
struct Photo {
    path: String,
    width: usize,
    height: usize,
    keypoints: usize,
}

#[derive(Serialize)]
struct Pair {
    query_idx: u32,
    train_idx: u32,
    distance: u32,
    from: (f32, f32),
    to: (f32, f32),
    inlier: bool,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, photo) in [("A", &self.a), ("B", &self.b)] {
            let Photo { path, width, height, keypoints } = photo;
            let path = photo::shown(path);
            writeln!(
                f,
                "{name}            {keypoints} keypoints in {width} x {height} pixels of {path}"
            )?;
        }
        write!(f, "matches      {}", self.matches.len())?;
        let Some(homography) = self.homography else {
            let few = [&self.a, &self.b].iter().any(|photo| photo.keypoints < 8);
            let hint = if few {
                " (a small --edge-threshold finds keypoints in small photos)"
            } else {
                ""
            };
            return write!(f, "\nhomography   none: too few matches agree on one{hint}");
        };
        let rms = self.rms_error.unwrap_or_default();
        write!(
            f,
            "\ninliers      {}, {rms:.2} pixels off (root of the mean square)",
            self.inliers
        )?;
        for (i, row) in homography.rows().iter().enumerate() {
            let name = if i == 0 { "homography" } else { "" };
            write!(f, "\n{name:<11}{:14.6e} {:14.6e} {:14.6e}", row[0], row[1], row[2])?;
        }
        match self.corner_error {
            Some(error) => write!(f, "\ncorners      {error:.2} pixels off, in the mean"),
            None => Ok(()),
        }
    }
}

impl Match {
    pub fn run(&self) -> Result<(), Exit> {
        let mut params = self.orb.params(OpenCvBuild::default());
        if self.orb.n_features.is_none() {
            params = params.with_n_features(N_FEATURES);
        }
        let norm = HammingNorm::of_wta_k(params.wta_k());
        let orb = params.build()?;
        let matcher = MatchParams::default()
            .with_norm(norm)
            .with_ratio(self.ratio)
            .with_cross_check(self.cross_check)
            .with_max_distance(self.max_distance)
            .build()?;
        let ransac = RansacParams::default().with_threshold(self.threshold).with_seed(self.seed);
        let truth = self.truth.as_ref().map(read_homography).transpose()?;
        if let Some(path) = &self.output {
            let inputs = [&self.first, &self.second].map(photo::path_of);
            photo::check_output(path, &inputs)?;
            crate::draw::format_of(path)?;
        }
        let decode = DecodeParams::default().with_gray_mode(self.gray);
        let s3 = photo::connect(&self.s3, [&self.first, &self.second])?;

        let read = |place: &Place| -> Result<(Pixels, Features)> {
            let object = photo::read(place, s3.as_ref())?;
            Ok((photo::pixels(&object, &decode)?, photo::features(&object, &decode, &orb)?))
        };
        let (first, second) = (read(&self.first)?, read(&self.second)?);
        let matches = matcher.matches(&first.1.descriptors, &second.1.descriptors);
        let ends =
            |m: &DMatch| (first.1.keypoints[m.query_index()], second.1.keypoints[m.train_index()]);
        let pairs: Vec<_> = matches.iter().map(|m| (ends(m).0.into(), ends(m).1.into())).collect();
        let found = Homography::find(&pairs, &ransac)?;
        let inliers =
            found.as_ref().map_or_else(|| vec![false; matches.len()], |f| f.inliers.clone());
        let homography = found.as_ref().map(|found| found.homography);

        let photo = |place: &Place, (pixels, features): &(Pixels, Features)| Photo {
            path: place.to_string(),
            width: pixels.width(),
            height: pixels.height(),
            keypoints: features.len(),
        };
        let pair = |(m, &inlier): (&DMatch, &bool)| {
            let (from, to) = ends(m);
            let DMatch { query_idx, train_idx, distance, .. } = *m;
            Pair {
                query_idx,
                train_idx,
                distance,
                from: (from.x, from.y),
                to: (to.x, to.y),
                inlier,
            }
        };
        let (width, height) = (first.0.width(), first.0.height());
        let corner_error =
            homography.zip(truth).map(|(found, truth)| found.corner_error(&truth, width, height));
        let outcome = Outcome {
            a: photo(&self.first, &first),
            b: photo(&self.second, &second),
            matches: matches.iter().zip(&inliers).map(pair).collect(),
            homography,
            inliers: found.as_ref().map_or(0, |found| found.n_inliers),
            rms_error: found.as_ref().map(|found| found.rms_error),
            corner_error,
        };
        if let Some(path) = &self.output {
            let one = Side { photo: first.0.view(), keypoints: &first.1.keypoints };
            let other = Side { photo: second.0.view(), keypoints: &second.1.keypoints };
            let params =
                self.scale.map_or(DrawParams::default(), |n| DrawParams::default().with_scale(n));
            let drawing =
                draw_matches(one, other, &matches, &inliers, homography.as_ref(), &params);
            let drawing = drawing.map_err(|e| Error::write_to(path.display().to_string(), e))?;
            crate::draw::write(path, &drawing)?;
        }
        print(&text_of(&outcome, self.json))
    }
}

/// Reads nine numbers, whatever is between them.
fn read_homography(path: &PathBuf) -> Result<Homography, Exit> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|e| Exit::from(Error::read(path.display().to_string(), e)))?;
    let words = text.split(|c: char| c.is_whitespace() || ",;[]()".contains(c));
    let numbers: Result<Vec<f64>, _> =
        words.filter(|word| !word.is_empty()).map(str::parse).collect();
    let numbers = numbers.unwrap_or_default();
    let rows = numbers.as_chunks::<3>().0;
    let matrix: Option<[[f64; 3]; 3]> =
        (numbers.len() == 9).then(|| rows.try_into().ok()).flatten();
    matrix.and_then(Homography::from_rows).ok_or_else(|| {
        Exit::usage(&format!(
            "--truth {}: the nine numbers of a homography are due",
            path.display()
        ))
    })
}
