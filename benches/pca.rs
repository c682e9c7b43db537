//! Fit and projection of 10^6 descriptors, on one thread and on two.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ndarray::Array2;
use orb_features::prelude::*;
use testkit::images;

const ROWS: usize = 1_000_000;

fn pca(c: &mut Criterion) {
    let rows = Array2::from_shape_fn((ROWS, 32), |(i, j)| {
        // Neighbouring bytes are correlated, so that there are components to find.
        (images::hash(i as u32, j as u32 / 4, 1) + images::hash(i as u32, j as u32, 2) % 64) as u8
    });
    let moments = |rows: &Array2<u8>| {
        let mut moments = Moments::new(32);
        moments.push_rows(rows.view()).unwrap();
        moments
    };
    let mut group = c.benchmark_group("pca");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    group.throughput(Throughput::Elements(ROWS as u64));
    let model = moments(&rows).fit(&PcaParams::new(20)).unwrap();
    let (mut scores, mut scores32) =
        (Array2::<f64>::zeros((ROWS, 20)), Array2::<f32>::zeros((ROWS, 20)));
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for (id, solver) in
            [("fit_randomized", Solver::default()), ("fit_covariance", Solver::Covariance)]
        {
            let params = PcaParams::new(20).with_solver(solver);
            group.bench_function(BenchmarkId::new(id, threads), |b| {
                b.iter(|| pool.install(|| moments(black_box(&rows)).fit(&params).unwrap()));
            });
        }
        group.bench_function(BenchmarkId::new("project", threads), |b| {
            b.iter(|| pool.install(|| model.project(black_box(rows.view())).unwrap()));
        });
        group.bench_function(BenchmarkId::new("project_into", threads), |b| {
            b.iter(|| {
                let rows = black_box(rows.view());
                pool.install(|| model.project_into(rows, scores.view_mut()).unwrap());
            });
        });
        group.bench_function(BenchmarkId::new("project_into_f32", threads), |b| {
            b.iter(|| {
                let rows = black_box(rows.view());
                pool.install(|| model.project_into(rows, scores32.view_mut()).unwrap());
            });
        });
    }
    group.finish();
}

criterion_group!(benches, pca);
criterion_main!(benches);
