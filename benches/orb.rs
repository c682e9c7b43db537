//! Detection and description of one image on one thread, with each instruction set; with the feature
//! `opencv`, also by OpenCV.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use orb_features::Simd;
use orb_features::prelude::*;
use testkit::images;
use testkit::photos;

/// One photo of 100 x 100, and generated images of larger sizes. Each has a name, the image and `n_features`.
fn inputs() -> [(&'static str, GrayImage, u32); 3] {
    let photo = ImageObject::new("photo.jpg", photos::photo(3, 5).unwrap());
    let photo = Decoder::new(DecodeParams::default()).decode(&photo).unwrap();
    let drawn = |w, h| GrayImage::new(images::draw("smooth", w, h, 1), w, h).unwrap();
    [
        ("100x100", photo, 30),
        ("640x480", drawn(640, 480), 500),
        ("1920x1080", drawn(1920, 1080), 500),
    ]
}

fn bench<E: Feature2D>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    extractor: &E,
    image: &GrayImage,
) {
    let mut scratch = E::Scratch::default();
    group.bench_function(id, |b| {
        b.iter(|| extractor.detect_and_compute_with(black_box(image.view()), None, &mut scratch));
    });
}

fn detect_and_compute(c: &mut Criterion) {
    let mut group = c.benchmark_group("orb/detect_and_compute");
    group.sample_size(30).measurement_time(Duration::from_secs(4));
    for (size, image, n_features) in inputs() {
        group.throughput(Throughput::Elements((image.width() * image.height()) as u64));
        let params = OrbParams::default().with_n_features(n_features);
        let found = params.clone().build().unwrap().detect_and_compute(image.view(), None).unwrap();
        assert!(!found.is_empty(), "there is work to do");
        for simd in testkit::simd_levels() {
            Simd::set(simd).unwrap();
            let native = params.clone().build().unwrap();
            bench(&mut group, BenchmarkId::new(size, simd), &native, &image);
        }
        #[cfg(feature = "opencv")]
        {
            let opencv = OpenCvOrb::new(params).unwrap();
            let theirs = opencv.detect_and_compute(image.view(), None).unwrap();
            assert_eq!(theirs.keypoints, found.keypoints, "both do the same work");
            bench(&mut group, BenchmarkId::new(size, "opencv"), &opencv, &image);
        }
    }
}

criterion_group!(benches, detect_and_compute);
criterion_main!(benches);
