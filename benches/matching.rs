//! Brute-force matching on one thread, in each instruction set, and beside OpenCV's if it is built in; homographies.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use orb_features::Simd;
use orb_features::features::Descriptor;
use orb_features::matching::{Homography, MatchParams, Point, RansacParams};
use testkit::images::hash;

fn descriptors(seed: u32, n: u32) -> Vec<Descriptor> {
    let word = |i: u32, j: u32| hash(i, j, seed).to_ne_bytes();
    (0..n).map(|i| std::array::from_fn(|j| word(i, j as u32 / 4)[j % 4])).collect()
}

fn brute_force(c: &mut Criterion) {
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    let (query, train) = (descriptors(1, 1_000), descriptors(2, 30_000));
    let mut group = c.benchmark_group("matching/1000x30000");
    group.throughput(Throughput::Elements(query.len() as u64 * train.len() as u64));
    group.sample_size(20);
    let matcher = MatchParams::default().build().expect("the default");
    for simd in Simd::available() {
        Simd::set(simd).expect("it is available");
        group.bench_function(BenchmarkId::new("1", simd), |b| {
            b.iter(|| one.install(|| matcher.matches(&query, &train)));
        });
        group.bench_function(BenchmarkId::new("2", simd), |b| {
            b.iter(|| one.install(|| matcher.knn(&query, &train, 2)));
        });
    }
    Simd::set(Simd::best()).expect("it is available");
    group.finish();
}

fn homography(c: &mut Criterion) {
    let random = |i: u32, j: u32| f64::from(hash(i, j, 3)) / f64::from(u32::MAX);
    let truth = Homography::from_rows([[0.9, 0.1, 20.0], [-0.1, 1.1, 5.0], [1e-4, -1e-4, 1.0]]);
    let truth = truth.expect("a homography");
    let pair = |i: u32| -> (Point, Point) {
        let from = (640.0 * random(i, 0), 480.0 * random(i, 1));
        let (x, y) = truth.apply(from).expect("in front of the camera");
        let outlier = (640.0 * random(i, 2), 480.0 * random(i, 3));
        (from, if i.is_multiple_of(2) { outlier } else { (x + random(i, 4), y + random(i, 5)) })
    };
    let pairs: Vec<_> = (0..500).map(pair).collect();
    c.bench_function("homography/500, half outliers", |b| {
        b.iter(|| Homography::find(&pairs, &RansacParams::default()));
    });
}

criterion_group!(benches, brute_force, homography);
criterion_main!(benches);
