//! Recall and time of a search by lists, against exact search, on descriptors of warped and noisy views of drawn scenes. `cargo bench --features search --bench recall -- 10000000`; without a number, 100,000 descriptors.

use std::time::Instant;

use orb_features::pixels::GrayView;
use orb_features::prelude::*;
use orb_features::results::ResultReader;
use orb_features::search::{Index, IndexParams, SearchParams};
use testkit::images::{draw, hash};

const SIDE: usize = 320;
/// Views of each scene.
const VIEWS: usize = 20;
const N_FEATURES: u32 = 500;
const QUERIES: usize = 200;
const K: usize = 20;

/// A scene: discs on noise.
fn scene(number: u32) -> Vec<u8> {
    let (blobs, noise) =
        (draw("blobs", SIDE, SIDE, number), draw("smooth", SIDE, SIDE, number ^ 0x5555));
    blobs.iter().zip(noise).map(|(&blob, noise)| blob / 2 + noise / 2).collect()
}

/// A scene as seen by another camera: turned, scaled, moved, brighter or darker, with noise.
fn view(scene: &[u8], seed: u32) -> Vec<u8> {
    let random = |i: u32| f64::from(hash(i, 7, seed)) / f64::from(u32::MAX);
    let (turn, scale) = (0.6 * (random(0) - 0.5), 0.85 + 0.4 * random(1));
    let (sin, cos) = (turn.sin() * scale, turn.cos() * scale);
    let (dx, dy) = (20.0 * (random(2) - 0.5), 20.0 * (random(3) - 0.5));
    let (gain, offset) = (0.8 + 0.4 * random(4), 30.0 * (random(5) - 0.5));
    let middle = SIDE as f64 / 2.0;
    let mut pixels = Vec::with_capacity(SIDE * SIDE);
    for y in 0..SIDE {
        for x in 0..SIDE {
            let (u, v) = (x as f64 - middle, y as f64 - middle);
            let at = |value: f64| value.clamp(0.0, (SIDE - 2) as f64);
            let (u, v) = (at(u * cos - v * sin + middle + dx), at(u * sin + v * cos + middle + dy));
            let (left, top) = (u as usize, v as usize);
            let (fx, fy) = (u - left as f64, v - top as f64);
            let pixel = |i: usize, j: usize| f64::from(scene[(top + j) * SIDE + left + i]);
            let upper = pixel(0, 0) * (1.0 - fx) + pixel(1, 0) * fx;
            let lower = pixel(0, 1) * (1.0 - fx) + pixel(1, 1) * fx;
            let noise = f64::from(hash(x as u32, y as u32, seed) % 13) - 6.0;
            pixels.push((gain * (upper * (1.0 - fy) + lower * fy) + offset + noise) as u8);
        }
    }
    pixels
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // `cargo bench` passes `--bench`, `cargo test` does not.
    let is_test = !args.iter().any(|arg| arg == "--bench");
    let asked = args.iter().find_map(|arg| arg.parse().ok());
    let n: usize = if is_test { 5_000 } else { asked.unwrap_or(100_000) };
    let scenes = n.div_ceil(VIEWS * N_FEATURES as usize).max(1);
    let orb = OrbParams::default().with_n_features(N_FEATURES).build()?;

    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("features");
    let images = (0..scenes).flat_map(|number| {
        let scene = std::sync::Arc::new(scene(number as u32));
        (0..VIEWS).map(move |i| {
            let (uri, scene) = (format!("scene {number}/{i}.pgm"), scene.clone());
            let label = Some(format!("scene {number}"));
            let name = uri.clone();
            let read = move || {
                let pixels = view(&scene, hash(number as u32, i as u32, 1));
                let head = format!("P5 {SIDE} {SIDE} 255\n").into_bytes();
                Ok(ImageObject::new(name, [head, pixels].concat()))
            };
            Ok(ListedImage::new(uri, read).with_label(label))
        })
    });
    let sink = FileSink::create(&out, FileParams::default())?;
    let start = Instant::now();
    let report = Pipeline::new(images, orb.clone(), sink).without_pca().run()?;
    println!(
        "{} descriptors of {} photos in {:.1} s",
        report.rows,
        report.images,
        start.elapsed().as_secs_f64()
    );
    let result = ResultReader::open(&out)?;

    let queries: Vec<(usize, Features)> = (0..if is_test { 5 } else { QUERIES })
        .map(|i| {
            let number = hash(i as u32, 3, 9) as usize % scenes;
            let pixels = view(&scene(number as u32), hash(i as u32, 99, 5));
            Ok((number, orb.detect_and_compute(GrayView::new(&pixels, SIDE, SIDE)?, None)?))
        })
        .collect::<Result<_>>()?;
    let lists = if is_test { 16 } else { (report.rows.isqrt() as u32).next_power_of_two() };
    let mut exact = None;
    for lists in [1, lists] {
        let path = folder.path().join(format!("{lists}.index"));
        let start = Instant::now();
        let made = Index::create(&path, &result, &IndexParams::default().with_lists(lists))?;
        let took = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let index = Index::open(&path)?;
        println!(
            "{} lists, {:.0} MB: made in {took:.1} s, opened in {:.2} s",
            made.lists,
            made.bytes as f64 / 1e6,
            start.elapsed().as_secs_f64()
        );
        let probes: &[usize] = if lists == 1 { &[1] } else { &[1, 4, 16, 64, 256] };
        for &probes in probes {
            let start = Instant::now();
            let near: Vec<_> =
                queries.iter().map(|(_, q)| index.knn(&q.descriptors, K, probes)).collect();
            let of_neighbors = start.elapsed().as_secs_f64() / queries.len() as f64;
            let params = SearchParams::default().with_probes(probes);
            let start = Instant::now();
            let mut right = 0;
            for (number, query) in &queries {
                let found = index.search(query, &params)?;
                let label = found.photos.first().and_then(|photo| photo.label.clone());
                right += usize::from(label == Some(format!("scene {number}")));
            }
            let of_search = start.elapsed().as_secs_f64() / queries.len() as f64;
            let exact = exact.get_or_insert_with(|| near.clone());
            let (mut met, mut met_first, mut all, mut firsts) = (0, 0, 0, 0);
            for (found, want) in near.iter().flatten().zip(exact.iter().flatten()) {
                let distances: Vec<u32> = found.iter().map(|m| m.distance).collect();
                all += want.len();
                // By distance, since many are at the same.
                let reach = want.last().map_or(0, |m| m.distance);
                met +=
                    distances.iter().filter(|&&distance| distance <= reach).count().min(want.len());
                firsts += usize::from(!want.is_empty());
                met_first += usize::from(distances.first() == want.first().map(|m| &m.distance));
            }
            println!(
                "  {probes:>3} probes: recall@1 {:.3}, recall@{K} {:.3}, {:.1} ms for neighbours, {:.1} ms for a search, first photo right {:.3}",
                met_first as f64 / f64::from(firsts.max(1) as u32),
                met as f64 / f64::from(all.max(1) as u32),
                1e3 * of_neighbors,
                1e3 * of_search,
                right as f64 / queries.len() as f64,
            );
        }
    }
    Ok(())
}
