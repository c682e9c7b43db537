//! Decoding one 100 x 100 JPEG to grey, on one thread.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use orb_features::decode::JPEG_DECODER;
use orb_features::prelude::*;
use testkit::photos;

fn decode(c: &mut Criterion) {
    let jpeg = ImageObject::new("photo.jpg", photos::photo(3, 5).unwrap());
    let mut group = c.benchmark_group("decode/jpeg/100x100");
    group.throughput(Throughput::Bytes(jpeg.bytes.len() as u64));
    for (name, mode) in [("bgr", GrayMode::Bgr2Gray), ("luma", GrayMode::Luma)] {
        let mut decoder = Decoder::new(DecodeParams::default().with_gray_mode(mode));
        let mut gray = Pixels::default();
        group.bench_function(BenchmarkId::new(name, JPEG_DECODER), |b| {
            b.iter(|| decoder.decode_into(black_box(&jpeg), PixelFormat::Gray, &mut gray).unwrap());
        });
    }
}

criterion_group!(benches, decode);
criterion_main!(benches);
