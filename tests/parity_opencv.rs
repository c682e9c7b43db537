//! Our extractor against the OpenCV library that the crate is linked with: no bit may differ.
//!
//! Photos come from the folder that the environment variable `ORB_FEATURES_PHOTOS` names, if any.
#![cfg(feature = "opencv")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use orb_features::Simd;
use orb_features::orb::{opencv_build, opencv_version};
use orb_features::prelude::*;
use testkit::images::{KINDS, draw, draw_mask, hash};
use testkit::simd_levels;

/// Compares call by call and counts.
#[derive(Default)]
struct Parity {
    ours: OrbScratch,
    calls: usize,
    keypoints: usize,
    refused: usize,
    mismatches: String,
}

impl Parity {
    /// Switches to another instruction set for each call.
    fn choose_simd(&self) {
        let levels = simd_levels();
        Simd::set(levels[self.calls % levels.len()]).unwrap();
    }

    fn check(
        &mut self,
        tag: &str,
        params: &OrbParams,
        image: GrayView<'_>,
        mask: Option<GrayView<'_>>,
    ) {
        let params = params.clone().with_compat(opencv_build());
        self.choose_simd();
        let (native, oracle) =
            (params.clone().build().unwrap(), OpenCvOrb::new(params.clone()).unwrap());
        let want = oracle.detect_and_compute(image, mask);
        let got = native.detect_and_compute_with(image, mask, &mut self.ours);
        self.compare(&format!("{tag} {params:?}"), want, got);
        if self.calls.is_multiple_of(16) {
            let want = oracle.detect(image, mask);
            let got = native.detect_with(image, mask, &mut self.ours);
            self.compare(
                &format!("detect {tag} {params:?}"),
                want.map(|keypoints| Features { keypoints, descriptors: Vec::new() }),
                got.map(|keypoints| Features { keypoints, descriptors: Vec::new() }),
            );
        }
    }

    fn compute(
        &mut self,
        tag: &str,
        params: &OrbParams,
        image: GrayView<'_>,
        keypoints: &[KeyPoint],
    ) {
        let params = params.clone().with_compat(opencv_build());
        self.choose_simd();
        let want = OpenCvOrb::new(params.clone()).unwrap().compute(image, keypoints);
        let got = params.clone().build().unwrap().compute_with(image, keypoints, &mut self.ours);
        self.compare(&format!("compute {tag} {params:?}"), want, got);
    }

    fn compare(&mut self, tag: &str, want: Result<Features>, got: Result<Features>) {
        self.calls += 1;
        match (want, got) {
            (Ok(want), Ok(got)) => {
                self.keypoints += want.len();
                let bits = |f: &Features| -> Vec<_> {
                    f.keypoints
                        .iter()
                        .map(|k| {
                            ([k.x, k.y, k.size, k.angle, k.response].map(f32::to_bits), k.octave)
                        })
                        .collect()
                };
                if bits(&want) != bits(&got) {
                    writeln!(self.mismatches, "keypoints: {tag}: {} {}", want.len(), got.len())
                        .unwrap();
                } else if want.descriptors != got.descriptors {
                    let bad = want.descriptors.iter().zip(&got.descriptors).filter(|(a, b)| a != b);
                    writeln!(self.mismatches, "{} descriptors: {tag}", bad.count()).unwrap();
                }
            }
            (Err(_), Err(_)) => self.refused += 1,
            (want, got) => {
                writeln!(self.mismatches, "{tag}: opencv {:?}, ours {:?}", want.err(), got.err())
                    .unwrap();
            }
        }
    }

    /// Fails on any mismatch, and if fewer than `least_keypoints` were compared.
    fn finish(self, least_keypoints: usize) {
        println!(
            "{} calls, {} keypoints, {} refused by both (OpenCV {})",
            self.calls,
            self.keypoints,
            self.refused,
            opencv_version()
        );
        assert!(
            self.mismatches.is_empty(),
            "{}",
            &self.mismatches[..self.mismatches.len().min(4000)]
        );
        assert!(self.keypoints >= least_keypoints, "only {} keypoints", self.keypoints);
    }
}

fn view(pixels: &[u8], width: usize, height: usize) -> GrayView<'_> {
    GrayView::new(pixels, width, height).unwrap()
}

/// One parameter at a time, and some together.
fn grid() -> Vec<OrbParams> {
    let p = || OrbParams::default().with_n_features(300);
    vec![
        OrbParams::default(),
        p(),
        p().with_n_features(0),
        p().with_n_features(3),
        p().with_n_features(20_000),
        p().with_score_type(ScoreType::Fast),
        p().with_score_type(ScoreType::Fast).with_n_features(50).with_fast_threshold(5),
        p().with_wta_k(3),
        p().with_wta_k(4),
        p().with_edge_threshold(0),
        p().with_edge_threshold(1).with_wta_k(4),
        p().with_edge_threshold(5).with_patch_size(21),
        p().with_edge_threshold(20),
        p().with_edge_threshold(21),
        p().with_edge_threshold(22),
        p().with_edge_threshold(10).with_patch_size(48).with_wta_k(3),
        p().with_patch_size(2).with_edge_threshold(3),
        p().with_patch_size(3).with_edge_threshold(0),
        p().with_patch_size(63).with_edge_threshold(50),
        p().with_first_level(2),
        p().with_first_level(3).with_n_levels(2).with_edge_threshold(15),
        p().with_scale_factor(1.5).with_n_levels(4).with_fast_threshold(0),
        p().with_scale_factor(2.0).with_n_levels(3).with_fast_threshold(7).with_edge_threshold(16),
        p().with_scale_factor(1.05).with_n_levels(12),
        p().with_n_levels(1),
        p().with_fast_threshold(255),
        p().with_fast_threshold(80),
    ]
}

/// Random parameters for an image whose sides are about `side`.
fn random_params(seed: u32, side: usize) -> OrbParams {
    let draw = |i: u32, n: u32| hash(i, seed, 0xABCD) % n;
    let scale = 1.0 + [0.01, 0.07, 0.2, 0.33, 0.5, 1.0, 1.7][draw(0, 7) as usize] as f32;
    let mut first_level = draw(1, 6).saturating_sub(2);
    while side as f32 * scale.powi(first_level as i32) > 1500.0 {
        first_level -= 1;
    }
    OrbParams::default()
        .with_n_features([0, 1, 7, 30, 100, 500, 5000][draw(2, 7) as usize])
        .with_scale_factor(scale)
        .with_first_level(first_level)
        .with_n_levels(1 + draw(3, 10))
        .with_edge_threshold([0, 1, 3, 8, 15, 19, 22, 31, 40][draw(4, 9) as usize])
        .with_wta_k(2 + draw(5, 3))
        .with_score_type([ScoreType::Harris, ScoreType::Fast][draw(6, 2) as usize])
        .with_patch_size([31, 31, 2 + draw(7, 60)][draw(8, 3) as usize])
        .with_fast_threshold(draw(9, 70) as u8)
}

#[test]
fn generated_images_over_the_grid_of_parameters() {
    let mut parity = Parity::default();
    for (i, kind) in KINDS.into_iter().enumerate() {
        for (j, (w, h)) in [(100, 100), (131, 97), (250, 171)].into_iter().enumerate() {
            let pixels = draw(kind, w, h, (i * 7 + j) as u32);
            for params in grid() {
                parity.check(kind, &params, view(&pixels, w, h), None);
            }
        }
    }
    parity.finish(100_000);
}

#[test]
fn generated_images_with_random_parameters_and_masks() {
    let mut parity = Parity::default();
    for seed in 0..2_500 {
        let kind = KINDS[hash(0, seed, 1) as usize % KINDS.len()];
        let (w, h) = (20 + hash(1, seed, 1) as usize % 220, 20 + hash(2, seed, 1) as usize % 220);
        let pixels = draw(kind, w, h, seed);
        let mask = match hash(3, seed, 1) % 3 {
            0 => None,
            1 => Some(draw_mask("binary", w, h, seed)),
            _ => Some(draw_mask("gray", w, h, seed)),
        };
        let mask = mask.as_ref().map(|m| view(m, w, h));
        parity.check(kind, &random_params(seed, w.max(h)), view(&pixels, w, h), mask);
    }
    parity.finish(100_000);
}

#[test]
fn tiny_images_of_every_size() {
    let mut parity = Parity::default();
    let small = || OrbParams::default().with_patch_size(5).with_edge_threshold(2);
    let cases = [
        OrbParams::default(),
        OrbParams::default().with_n_levels(2).with_edge_threshold(0),
        small(),
        small().with_first_level(1).with_edge_threshold(0).with_wta_k(3),
    ];
    for n in 1..=70 {
        for (w, h) in [(n, n), (1, n), (n, 1), (n, 71 - n), (63, n), (n, 64)] {
            let pixels = draw("noise", w, h, n as u32);
            for params in &cases {
                parity.check(&format!("{w}x{h}"), params, view(&pixels, w, h), None);
            }
        }
    }
    parity.finish(10_000);
}

#[test]
fn large_images() {
    let mut parity = Parity::default();
    for (kind, w, h) in
        [("smooth", 1920, 1080), ("noise", 1501, 333), ("text", 640, 480), ("blobs", 33, 2000)]
    {
        let pixels = draw(kind, w, h, 3);
        for n in [30, 500, 100_000] {
            parity.check(kind, &OrbParams::default().with_n_features(n), view(&pixels, w, h), None);
        }
    }
    parity.finish(50_000);
}

#[test]
fn strided_views() {
    let pixels = draw("blobs", 300, 200, 5);
    let window = GrayView::with_stride(&pixels[20 * 300 + 30..], 201, 150, 300).unwrap();
    let mut parity = Parity::default();
    for params in grid() {
        parity.check("window", &params, window, None);
    }
    parity.finish(1_000);
}

#[test]
fn given_keypoints() {
    let mut parity = Parity::default();
    for seed in 0..600 {
        let (w, h) = (40 + hash(1, seed, 2) as usize % 160, 40 + hash(2, seed, 2) as usize % 160);
        let pixels = draw(KINDS[seed as usize % 8], w, h, seed);
        let params = random_params(seed, w.max(h));
        // Positions anywhere on the image and, where the result is defined, beyond it: arbitrary, whole and
        // half coordinates. Any angle; octaves in and out of order.
        let edge = params.edge_threshold() > 0;
        let keypoints: Vec<KeyPoint> = (0..40)
            .map(|i| {
                let at = |k: u32, side: usize| {
                    let beyond = if edge { 20.0 } else { [0.0, 0.9, 2.4, 4.4][seed as usize % 4] };
                    let v = (hash(k, i, seed) % 1000) as f32 / 1000.0;
                    let v = v * (side as f32 - 1.0 + 2.0 * beyond) - beyond;
                    [v, v.round(), (v * 2.0).round() / 2.0][hash(k, i, 77) as usize % 3]
                        .clamp(-beyond, side as f32 - 0.51 + beyond)
                };
                KeyPoint {
                    x: at(0, w),
                    y: at(1, h),
                    size: 31.0,
                    angle: [(hash(2, i, seed) % 36_000) as f32 / 100.0, -1.0, 1e6, -7234.5]
                        [hash(3, i, seed) as usize % 4],
                    response: i as f32,
                    octave: match seed % 3 {
                        0 => (hash(4, i, seed) % 4) as i32,
                        1 => i as i32 / 10,
                        _ => 0,
                    },
                }
            })
            .collect();
        parity.compute("", &params, view(&pixels, w, h), &keypoints);
    }
    parity.compute("none", &OrbParams::default(), view(&[7; 10_000], 100, 100), &[]);
    parity.finish(5_000);
}

#[test]
fn a_keypoint_that_opencv_would_read_out_of_bounds_for() {
    // Half a pixel outside, on a level 129 times as large as the image.
    let params = OrbParams::default().with_edge_threshold(0).with_scale_factor(1.5);
    let params = params.with_first_level(12);
    let at = |x, y| KeyPoint { x, y, size: 31.0, angle: 30.0, response: f32::NAN, octave: 0 };
    let given = [at(1.0, 1.0), at(1.0, -0.5)];
    let image = view(&[7; 16], 4, 4);
    let ours = params.clone().build().unwrap().compute(image, &given);
    let theirs = OpenCvOrb::new(params).unwrap().compute(image, &given);
    for refused in [ours, theirs] {
        assert!(matches!(refused, Err(Error::KeyPoint { index: 1, .. })), "{refused:?}");
    }
}

#[test]
fn photos() {
    let Some(folder) = std::env::var_os("ORB_FEATURES_PHOTOS") else {
        println!("skipped: ORB_FEATURES_PHOTOS names no folder");
        return;
    };
    let mut files = Vec::new();
    find_images(Path::new(&folder), &mut files);
    files.sort();
    assert!(!files.is_empty(), "no image in {}", Path::new(&folder).display());
    let mut parity = Parity::default();
    for (i, file) in files.iter().enumerate() {
        let image = GrayImage::from(&image::open(file).unwrap());
        let tag = file.display().to_string();
        for n in [30, 500] {
            parity.check(&tag, &OrbParams::default().with_n_features(n), image.view(), None);
        }
        let params = random_params(i as u32, image.width().max(image.height()));
        parity.check(&tag, &params, image.view(), None);
    }
    parity.finish(files.len());
}

fn find_images(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find_images(&path, files);
        } else if path
            .extension()
            .is_some_and(|e| ["jpg", "jpeg", "png"].iter().any(|x| e.eq_ignore_ascii_case(x)))
        {
            files.push(path);
        }
    }
}
