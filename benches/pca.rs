//! Fit and projection of 10^6 descriptors, on one thread.

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ndarray::Array2;
use orb_features::prelude::*;

const ROWS: usize = 1_000_000;

fn pca(c: &mut Criterion) {
    let rows = Array2::from_shape_fn((ROWS, 32), |(i, j)| {
        // Neighbouring bytes go together, so that there are components to find.
        (support::hash(i as u32, j as u32 / 4, 1) + support::hash(i as u32, j as u32, 2) % 64) as u8
    });
    let moments = |rows: &Array2<u8>| {
        let mut moments = Moments::new(32);
        moments.push_rows(rows.view()).unwrap();
        moments
    };
    let mut group = c.benchmark_group("pca");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    group.throughput(Throughput::Elements(ROWS as u64));
    for (id, solver) in [
        ("fit_randomized/1e6x32", Solver::default()),
        ("fit_covariance/1e6x32", Solver::Covariance),
    ] {
        let params = PcaParams::new(20).with_solver(solver);
        group.bench_function(id, |b| b.iter(|| moments(black_box(&rows)).fit(&params).unwrap()));
    }
    let model = moments(&rows).fit(&PcaParams::new(20)).unwrap();
    group.bench_function("project/1e6x32", |b| {
        b.iter(|| model.project(black_box(rows.view())).unwrap());
    });
    group.finish();
}

criterion_group!(benches, pca);
criterion_main!(benches);
