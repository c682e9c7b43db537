//! Our extractor against golden results of OpenCV's wheels, for each `OpenCvBuild`.
//!
//! `tests/fixtures/make_golden.py` made them; no OpenCV is needed here.

use std::collections::BTreeMap;

use orb_features::Simd;
use orb_features::prelude::*;
use serde::Deserialize;
use serde_json::json;
use testkit::images::{draw, draw_mask, fnv, hash};
use testkit::simd_levels;

#[derive(Deserialize)]
struct Case {
    kind: String,
    width: usize,
    height: usize,
    seed: u32,
    mask: Option<String>,
    /// Angles of the given keypoints, which all lie in the middle; if `None`, these are drawn at random.
    angles: Option<Vec<f32>>,
    params: serde_json::Value,
    checksum: String,
    want: BTreeMap<String, Vec<serde_json::Value>>,
}

/// As `given_keypoints` in `make_golden.py`.
fn given_keypoints(case: &Case) -> Vec<KeyPoint> {
    let keypoint = |i: u32| {
        let r = |k, n: usize| (hash(k, i, case.seed + 7000) % n as u32) as f32;
        KeyPoint {
            x: r(0, 4 * case.width) / 4.0 - 0.5,
            y: r(1, 4 * case.height) / 4.0,
            size: 31.0,
            angle: r(2, 3600) / 8.0 - 1.0,
            response: i as f32,
            octave: r(3, 3) as i32,
        }
    };
    let in_the_middle = |(i, &angle): (usize, &f32)| KeyPoint {
        x: case.width as f32 / 2.0,
        y: case.height as f32 / 2.0,
        size: 31.0,
        angle,
        response: i as f32,
        octave: 0,
    };
    match &case.angles {
        Some(angles) => angles.iter().enumerate().map(in_the_middle).collect(),
        None => (0..40).map(keypoint).collect(),
    }
}

fn bytes(features: &Features) -> impl Iterator<Item = u8> {
    features.keypoints.iter().zip(&features.descriptors).flat_map(|(k, d)| {
        [k.x, k.y, k.size, k.angle, k.response]
            .into_iter()
            .flat_map(f32::to_le_bytes)
            .chain(k.octave.to_le_bytes())
            .chain(*d)
    })
}

#[test]
fn wheels_of_opencv_give_the_same_bits() {
    let text = include_str!("../fixtures/golden_orb.jsonl");
    let (mut compared, mut builds_differ, mut packagers_differ) = (0, 0, 0);
    for line in text.lines().skip(1) {
        let case: Case = serde_json::from_str(line).unwrap();
        let (w, h) = (case.width, case.height);
        let pixels = draw(&case.kind, w, h, case.seed);
        let mask = case.mask.as_ref().map(|kind| draw_mask(kind, w, h, case.seed));
        let drawn = pixels.iter().chain(mask.iter().flatten()).copied();
        assert_eq!(format!("{:016x}", fnv(drawn)), case.checksum, "other pixels: {line}");
        let image = GrayView::new(&pixels, w, h).unwrap();
        let mask = mask.as_ref().map(|m| GrayView::new(m, w, h).unwrap());
        for (build, simd) in OpenCvBuild::ALL
            .into_iter()
            .flat_map(|b| simd_levels().into_iter().map(move |s| (b, s)))
        {
            Simd::set(simd).unwrap();
            let params: OrbParams = serde_json::from_value(case.params.clone()).unwrap();
            let orb = params.with_compat(build).build().unwrap();
            let mut got = Vec::new();
            let mut add = |features: &Features| {
                compared += features.len();
                got.push(json!(features.len()));
                got.push(json!(format!("{:016x}", fnv(bytes(features)))));
            };
            match orb.detect_and_compute(image, mask) {
                Ok(features) => {
                    add(&features);
                    assert_eq!(orb.detect(image, mask).unwrap(), features.keypoints);
                    if orb.params().edge_threshold() > 0 {
                        add(&orb.compute(image, &given_keypoints(&case)).unwrap());
                    }
                }
                Err(_) => got.extend([json!(-1), json!("refused")]),
            }
            assert_eq!(got, case.want[build.as_str()], "OpenCV {build}, {simd}: {line}");
        }
        builds_differ += usize::from(case.want.values().any(|w| w != &case.want["pypi-4.13"]));
        packagers_differ += usize::from(case.want["pypi-4.6"] != case.want["debian-4.6"]);
    }
    assert!(compared > 50_000, "only {compared} keypoints");
    // The results of the builds must differ, or the choice between them would not be tested.
    assert!(builds_differ > 20, "only {builds_differ} cases tell the builds apart");
    assert!(packagers_differ > 20, "only {packagers_differ} cases tell the packagers apart");
}
