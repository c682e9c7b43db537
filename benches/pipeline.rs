//! The whole job on 600 photos of 100 x 100, in images/s: from a folder to a null sink and to Parquet, each through
//! `Pipeline` and as the stages of the README's ten lines.

use std::path::Path;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use orb_features::prelude::*;
use testkit::photos;

/// Each run starts its own threads, as a job does.
fn one_call<K: RowSink>(photos: &Path, orb: &Orb, threads: usize, sink: K) -> u64 {
    let job = Pipeline::new(FsSource::new(photos), orb.clone(), sink);
    job.with_parallelism(Parallelism::new(threads).unwrap()).run().unwrap().rows
}

fn stages<K: RowSink>(photos: &Path, orb: &Orb, threads: usize, mut sink: K) -> u64 {
    let parallelism = Parallelism::new(threads).unwrap();
    sink.set_parallelism(parallelism.clone());
    let images = FsSource::new(photos).open().unwrap();
    let rows = images.features(orb).with_parallelism(parallelism.clone()).explode();
    let (model, rows) = rows.fit_pca(&PcaParams::new(20), &Spool::default()).unwrap();
    rows.project(&model).with_parallelism(parallelism).write_to(sink).unwrap().rows
}

fn pipeline(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let photos = folder.path().join("photos");
    let images = photos::write_photos(&photos, 100).unwrap();
    let orb = OrbParams::default().build().unwrap();
    let mut group = c.benchmark_group("pipeline");
    group.sample_size(10).measurement_time(Duration::from_secs(4));
    group.throughput(Throughput::Elements(images.into()));
    for threads in [1, 2] {
        group.bench_function(BenchmarkId::new("folder_to_null", threads), |b| {
            b.iter(|| one_call(&photos, &orb, threads, NullSink::default()));
        });
        group.bench_function(BenchmarkId::new("folder_to_null/stages", threads), |b| {
            b.iter(|| stages(&photos, &orb, threads, NullSink::default()));
        });
        #[cfg(feature = "parquet")]
        {
            let sink = || {
                let params = FileParams::default().with_mode(WriteMode::Overwrite);
                FileSink::create(folder.path().join("out"), params).unwrap()
            };
            group.bench_function(BenchmarkId::new("folder_to_parquet", threads), |b| {
                b.iter(|| one_call(&photos, &orb, threads, sink()));
            });
            group.bench_function(BenchmarkId::new("folder_to_parquet/stages", threads), |b| {
                b.iter(|| stages(&photos, &orb, threads, sink()));
            });
        }
    }
}

criterion_group!(benches, pipeline);
criterion_main!(benches);
