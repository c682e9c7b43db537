//! Writing 2^17 projected rows to Parquet and CSV.

use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ndarray::Array2;
use orb_features::prelude::*;
use testkit::images;

const ROWS: u32 = 1 << 17;

fn batches() -> Vec<RowBatch> {
    let row = |i: u32| {
        let keypoint = KeyPoint {
            x: (images::hash(i, 0, 1) % 100) as f32,
            y: (images::hash(i, 1, 1) % 100) as f32,
            size: 31.0,
            angle: (images::hash(i, 2, 1) % 36_000) as f32 / 100.0,
            response: images::hash(i, 3, 1) as f32 * 1e-12,
            octave: (i % 3) as i32,
        };
        (keypoint, std::array::from_fn(|j| images::hash(i, j as u32, 2) as u8))
    };
    let images = (0..ROWS.div_ceil(5)).map(|image| {
        let meta = ImageMeta::new(format!("fruits/Training/kind {}/{image}_100.jpg", image / 500))
            .with_label(format!("kind {}", image / 500))
            .with_file(5000, None)
            .with_shape(100, 100, 3);
        Ok(testkit::rows::image(Arc::new(meta), (0..5).map(|i| row(image * 5 + i))))
    });
    images
        .explode()
        .map(|batch| {
            let batch = batch.unwrap();
            let scores = Array2::from_shape_fn((batch.len(), 20), |(i, j)| {
                f64::from(images::hash(i as u32, j as u32, 3) as i32) * 1e-7
            });
            batch.with_scores(scores).unwrap()
        })
        .collect()
}

fn write(c: &mut Criterion) {
    let batches = batches();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mut group = c.benchmark_group("parquet/write");
    group.sample_size(10).throughput(Throughput::Elements(ROWS.into()));
    let params = || FileParams::default().with_mode(WriteMode::Overwrite);
    let spark = TableParams::default().with_layout(Layout::Spark);
    for (id, params) in [
        ("zstd", params()),
        ("uncompressed", params().with_codec(Codec::Uncompressed)),
        ("spark", params().with_table(spark)),
        ("csv", params().with_format(FileFormat::Csv)),
        ("csv gzip", params().with_format(FileFormat::Csv).with_codec(Codec::Gzip)),
    ] {
        group.bench_function(id, |b| {
            b.iter_batched(
                || (FileSink::create(&out, params.clone()).unwrap(), batches.clone()),
                |(mut sink, batches)| {
                    for batch in batches {
                        sink.write(batch).unwrap();
                    }
                    sink.finish().unwrap()
                },
                BatchSize::PerIteration,
            );
        });
    }
}

criterion_group!(benches, write);
criterion_main!(benches);
