//! Writing 2^17 projected rows to Parquet.

use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ndarray::Array2;
use orb_features::prelude::*;
use testkit::images;

const ROWS: u32 = 1 << 17;

fn batches() -> Vec<RowBatch> {
    let row = |meta: &Arc<ImageMeta>, i: u32| DescriptorRow {
        meta: Arc::clone(meta),
        index: i % 5,
        keypoint: KeyPoint {
            x: (images::hash(i, 0, 1) % 100) as f32,
            y: (images::hash(i, 1, 1) % 100) as f32,
            size: 31.0,
            angle: (images::hash(i, 2, 1) % 36_000) as f32 / 100.0,
            response: images::hash(i, 3, 1) as f32 * 1e-12,
            octave: (i % 3) as i32,
        },
        descriptor: std::array::from_fn(|j| images::hash(i, j as u32, 2) as u8),
    };
    let mut rows = Vec::new();
    for image in 0..ROWS.div_ceil(5) {
        let meta = Arc::new(ImageMeta {
            uri: format!("fruits/Training/kind {}/{image}_100.jpg", image / 500),
            label: Some(format!("kind {}", image / 500)),
            byte_len: 5000,
            modified: None,
            width: 100,
            height: 100,
            channels: 3,
        });
        rows.extend((0..5).map(|i| row(&meta, image * 5 + i)));
    }
    rows.chunks(DEFAULT_BATCH_ROWS)
        .map(|rows| RowBatch {
            rows: rows.to_vec(),
            scores: Some(Array2::from_shape_fn((rows.len(), 20), |(i, j)| {
                f64::from(images::hash(i as u32, j as u32, 3) as i32) * 1e-7
            })),
        })
        .collect()
}

fn write(c: &mut Criterion) {
    let batches = batches();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mut group = c.benchmark_group("parquet/write");
    group.sample_size(10).throughput(Throughput::Elements(ROWS.into()));
    for (id, codec) in [("zstd", Codec::default()), ("uncompressed", Codec::Uncompressed)] {
        group.bench_function(id, |b| {
            b.iter_batched(
                || {
                    let params =
                        ParquetParams::default().with_mode(WriteMode::Overwrite).with_codec(codec);
                    (ParquetSink::create(&out, params).unwrap(), batches.clone())
                },
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
