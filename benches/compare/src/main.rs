//! Our side of `benches/compare/compare.sh`, which runs it next to other programs:
//!
//! ```text
//! compare orb FOLDER N_FEATURES [opencv]    detect_and_compute on each *.pgm
//! compare decode FOLDER bgr|luma            each *.jpg to grey
//! compare pca FILE                          fit and project rows of 32 bytes
//! compare wide FILE D K                     fit rows of D floats to K components
//! compare passes FILE D K                   the same by the stages, from the file, once
//! ```
//!
//! Prints the time for each image, or for all rows, in seconds, and a checksum of the result.

use std::fs::File;
use std::hint::black_box;
use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ndarray::{Array2, ArrayView2};
use orb_features::features::{ImageFeatures, Vectors};
use orb_features::pixels::ImageMeta;
use orb_features::prelude::*;

/// How long one side is timed before the other side's turn.
const TURN: Duration = Duration::from_millis(300);

/// Calls `work` once to warm up, then again and again for a turn. Returns the shortest time of one call.
fn time(mut work: impl FnMut()) -> f64 {
    work();
    let (start, mut least) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < TURN {
        let once = Instant::now();
        work();
        least = least.min(once.elapsed().as_secs_f64());
    }
    least
}

fn files(folder: &str, extension: &str) -> Result<Vec<ImageObject>> {
    let selection = Selection::default().with_extensions([extension]);
    FsSource::new(folder).with_selection(selection).open()?.read().collect()
}

fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

fn orb<E: Feature2D>(extractor: &E, images: &[GrayImage]) -> (f64, u64) {
    let mut scratch = E::Scratch::default();
    let seconds = time(|| {
        for image in images {
            let found = extractor.detect_and_compute_with(image.view(), None, &mut scratch);
            black_box(found.expect("the images are large enough"));
        }
    });
    let found = images.iter().flat_map(|image| {
        let found = extractor.detect_and_compute_with(image.view(), None, &mut scratch);
        found.expect("the images are large enough").descriptors
    });
    (seconds / images.len() as f64, fnv(found.flatten()))
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (seconds, checksum) = match args[..] {
        ["orb", folder, n_features, ref backend @ ..] => {
            let mut decoder = Decoder::new(DecodeParams::default());
            let images: Vec<GrayImage> = files(folder, "pgm")?
                .iter()
                .map(|image| decoder.decode(image))
                .collect::<Result<_>>()?;
            let params = OrbParams::default().with_n_features(n_features.parse()?);
            match backend {
                [] => orb(&params.build()?, &images),
                #[cfg(feature = "opencv")]
                ["opencv"] => orb(&OpenCvOrb::new(params)?, &images),
                other => return Err(format!("no backend {other:?}").into()),
            }
        }
        ["decode", folder, mode] => {
            let mode = if mode == "luma" { GrayMode::Luma } else { GrayMode::Bgr2Gray };
            let mut decoder = Decoder::new(DecodeParams::default().with_gray_mode(mode));
            let (images, mut gray) = (files(folder, "jpg")?, Pixels::default());
            let seconds = time(|| {
                for image in &images {
                    decoder
                        .decode_into(image, PixelFormat::Gray, &mut gray)
                        .expect("the photos are whole");
                }
            });
            let mut pixels = Vec::new();
            for image in &images {
                pixels.extend_from_slice(decoder.decode(image)?.as_raw());
            }
            (seconds / images.len() as f64, fnv(pixels))
        }
        ["pca", file] => {
            let bytes = std::fs::read(PathBuf::from(file))?;
            let rows = ArrayView2::from_shape((bytes.len() / 32, 32), &bytes)?;
            let mut ratio = 0.0;
            // 32-bit scores, as the other side computes.
            let mut scores = Array2::<f32>::zeros((rows.nrows(), 20));
            let seconds = time(|| {
                let mut moments = Moments::new(32);
                moments.push_rows(rows).expect("rows of 32 bytes");
                let model = moments.fit(&PcaParams::new(20)).expect("there are rows enough");
                ratio = model.explained_variance_ratio().sum();
                model.project_into(rows, scores.view_mut()).expect("rows of 32 bytes");
                black_box(&mut scores);
            });
            (seconds, (ratio * 1e9).round() as u64)
        }
        ["wide", file, d, k] => {
            let (bytes, d) = (std::fs::read(PathBuf::from(file))?, d.parse()?);
            let floats: Vec<f32> =
                bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
            drop(bytes);
            let rows = ArrayView2::from_shape((floats.len() / d, d), &floats)?;
            let (params, mut ratio) = (PcaParams::new(k.parse()?), 0.0);
            let seconds = time(|| {
                let mut moments = Moments::new_f32(d);
                moments.push_rows_f32(rows).expect("rows of finite floats");
                let model = moments.fit(&params).expect("there are rows enough");
                ratio = model.explained_variance_ratio().sum();
            });
            (seconds, (ratio * 1e6).round() as u64)
        }
        ["passes", file, d, k] => {
            let (d, params) = (d.parse()?, PcaParams::new(k.parse()?));
            let start = Instant::now();
            let mut file = BufReader::with_capacity(1 << 20, File::open(file)?);
            let mut bytes = vec![0; 4 * d];
            let rows = (0..).map_while(|i: u64| {
                file.read_exact(&mut bytes).ok()?;
                let row = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
                let meta = Arc::new(ImageMeta::new(i.to_string()));
                let vectors = Vectors::from_f32(row.collect(), d);
                Some(vectors.map(|vectors| ImageFeatures::new(meta, vectors)))
            });
            let (model, _) = rows.explode().fit_pca(&params, &Spool::default())?;
            let ratio = model.explained_variance_ratio().sum();
            (start.elapsed().as_secs_f64(), (ratio * 1e6).round() as u64)
        }
        _ => return Err("see the top of benches/compare/src/main.rs".into()),
    };
    println!("{seconds:e} {checksum:016x}");
    Ok(())
}
