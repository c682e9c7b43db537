//! The whole job on 600 photos of 100 x 100: images/s, from a folder to nowhere and to Parquet.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use orb_features::prelude::*;
use testkit::photos;

fn pipeline(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let photos = folder.path().join("photos");
    let images = photos::write_photos(&photos, 100).unwrap();
    let orb = OrbParams::default().build().unwrap();
    let mut group = c.benchmark_group("pipeline");
    group.sample_size(10).measurement_time(Duration::from_secs(4));
    group.throughput(Throughput::Elements(images.into()));
    for threads in [1, 2] {
        let run = |pipeline: Pipeline<FsSource, Orb, NullSink>| pipeline.run().unwrap();
        let parallelism = Parallelism::new(threads);
        group.bench_function(BenchmarkId::new("folder_to_null", threads), |b| {
            b.iter(|| {
                run(Pipeline::new(FsSource::new(&photos), orb.clone(), NullSink::default())
                    .with_parallelism(parallelism))
            });
        });
        #[cfg(feature = "parquet")]
        group.bench_function(BenchmarkId::new("folder_to_parquet", threads), |b| {
            b.iter(|| {
                let params = ParquetParams::default().with_mode(WriteMode::Overwrite);
                let sink = ParquetSink::create(folder.path().join("out"), params).unwrap();
                Pipeline::new(FsSource::new(&photos), orb.clone(), sink)
                    .with_parallelism(parallelism)
                    .run()
                    .unwrap()
            });
        });
    }
}

criterion_group!(benches, pipeline);
criterion_main!(benches);
