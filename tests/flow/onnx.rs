//! Embeddings: preparation and results against Pillow, TensorFlow's formula and ONNX Runtime (golden cases), batches,
//! and networks that cannot be used.

#![cfg(feature = "onnx")]

use std::path::PathBuf;

use orb_features::features::FeatureExtractor as _;
use orb_features::onnx::{OnnxBackend, OnnxExtractor, OnnxParams, OnnxScratch, Scale};
use orb_features::pixels::{PixelFormat, PixelView, Resize};
use orb_features::prelude::*;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

#[derive(Deserialize)]
struct Golden {
    resized: Vec<Resized>,
    outputs: Vec<Case>,
}

#[derive(Deserialize)]
struct Resized {
    seed: u64,
    from: (usize, usize),
    to: (u32, u32),
    filter: Resize,
    /// Of Pillow's bytes.
    sha256: Option<String>,
    /// Row, column, channel and value, of TensorFlow's.
    values: Option<Vec<(usize, usize, usize, f64)>>,
}

#[derive(Deserialize)]
struct Case {
    seed: u64,
    network: String,
    channels: PixelFormat,
    resize: Resize,
    scale: Scale,
    output: String,
    /// The first of them.
    values: Vec<f64>,
    len: usize,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../fixtures/onnx/golden.json")).unwrap()
}

/// `photo` of `make_onnx.py`: red, green and blue, or grey.
fn photo(width: usize, height: usize, channels: usize, seed: u64) -> Vec<u8> {
    (0..(width * height * channels) as u64)
        .map(|i| {
            let noise = (i.wrapping_mul(2_654_435_761).wrapping_add(seed * 40_503) >> 13) % 64;
            let ramp = i / channels as u64 % width as u64 * 191 / width as u64;
            (noise + ramp) as u8
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|n| char::from_digit(n.into(), 16).unwrap())
        .collect()
}

fn file(network: &str) -> PathBuf {
    ["tests", "fixtures", "onnx", &format!("{network}.onnx")].iter().collect()
}

fn vector_of(extractor: &OnnxExtractor, image: PixelView<'_>) -> Vec<f32> {
    let extracted = extractor.extract(image, &mut OnnxScratch::default()).unwrap();
    extracted.vectors.as_f32().unwrap().to_vec()
}

/// A network that gives its input back, as an ONNX file: `y = Identity(x)`.
fn identity(dims: &[i64], kind: u8) -> Vec<u8> {
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut len = bytes.len();
        while len >= 128 {
            out.push(len as u8 | 128);
            len >>= 7;
        }
        out.push(len as u8);
        [out, bytes.to_vec()].concat()
    }
    let varint = |mut value: u64| {
        let mut out = Vec::new();
        while value >= 128 {
            out.push(value as u8 | 128);
            value >>= 7;
        }
        out.push(value as u8);
        out
    };
    let dim = |&size: &i64| match size {
        0 => field(1, &field(2, b"n")),
        _ => field(1, &[vec![1 << 3], varint(size as u64)].concat()),
    };
    let value = |name: &str| {
        let shape: Vec<u8> = dims.iter().flat_map(dim).collect();
        let tensor = [vec![1 << 3, kind], field(2, &shape)].concat();
        [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat()
    };
    let node = [field(1, b"x"), field(2, b"y"), field(4, b"Identity")].concat();
    let graph =
        [field(1, &node), field(2, b"g"), field(11, &value("x")), field(12, &value("y"))].concat();
    let opset = [field(1, b""), vec![2 << 3, 13]].concat();
    [vec![1 << 3, 8], field(7, &graph), field(8, &opset)].concat()
}

fn backends() -> Vec<OnnxBackend> {
    // ONNX Runtime where its library is.
    let has_library = std::env::var_os("ORT_DYLIB_PATH").is_some();
    let all = OnnxBackend::ALL.into_iter();
    all.filter(|b| *b == OnnxBackend::Tract || cfg!(feature = "onnxruntime") && has_library)
        .collect()
}

#[test]
fn images_are_resized_as_by_pillow_and_tensorflow() {
    let network = identity(&[1, 0, 0, 3], 1);
    for case in golden().resized {
        let ((width, height), (to_width, to_height)) = (case.from, case.to);
        let params = OnnxParams::default()
            .with_size(to_width, to_height)
            .with_resize(case.filter)
            .with_scale(Scale::None);
        let extractor = OnnxExtractor::new(&network, "identity", &params).unwrap();
        let pixels = photo(width, height, 3, case.seed);
        let image = PixelView::new(&pixels, width, height, PixelFormat::Rgb).unwrap();
        let got = vector_of(&extractor, image);
        let what = format!("{:?} {:?} {}", case.from, case.to, case.filter);
        if let Some(want) = case.sha256 {
            let bytes: Vec<u8> = got.iter().map(|&v| v as u8).collect();
            assert!(bytes.iter().zip(&got).all(|(&byte, &v)| f32::from(byte) == v), "{what}");
            let hash = hex(&Sha256::digest(&bytes));
            assert_eq!(hash, want, "{what}");
        }
        for (y, x, c, want) in case.values.unwrap_or_default() {
            let v = f64::from(got[(y * to_width as usize + x) * 3 + c]);
            assert!((v - want).abs() <= 1e-4, "{what} {y} {x} {c}: {v} {want}");
        }
    }
}

#[test]
fn vectors_are_those_of_onnx_runtime() {
    for (case, backend) in
        golden().outputs.iter().flat_map(|c| backends().into_iter().map(move |b| (c, b)))
    {
        let params = OnnxParams::default()
            .with_output(&case.output)
            .with_channels(case.channels)
            .with_resize(case.resize)
            .with_scale(case.scale)
            .with_backend(backend);
        let extractor = OnnxExtractor::open(file(&case.network), &params).unwrap();
        let mut pixels = photo(50, 40, case.channels.channels(), case.seed);
        if case.channels == PixelFormat::Bgr {
            pixels.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| pixel.swap(0, 2));
        }
        let image = PixelView::new(&pixels, 50, 40, case.channels).unwrap();
        let got = vector_of(&extractor, image);
        assert_eq!((got.len(), extractor.output().len()), (case.len, case.len));
        let (mut off, mut all) = (0.0, 0.0);
        for (got, want) in got.iter().zip(&case.values) {
            off += (f64::from(*got) - want).powi(2);
            all += want.powi(2);
        }
        assert!(
            all > 0.0 && (off / all).sqrt() < 1e-5,
            "{} {backend}: {}",
            case.network,
            (off / all).sqrt()
        );
    }
}

/// A batch is filled up, whatever it holds: a vector depends on its image alone.
#[test]
fn a_vector_does_not_depend_on_its_batch() {
    let photos: Vec<_> = (0..7).map(|seed| photo(31, 30, 3, seed)).collect();
    let view = |pixels| PixelView::new(pixels, 31, 30, PixelFormat::Rgb).unwrap();
    for (network, batch, backend) in backends()
        .into_iter()
        .flat_map(|b| [("fixed", None, b), ("nhwc", Some(3), b), ("nchw", Some(1), b)])
    {
        let mut params = OnnxParams::default().with_backend(backend);
        if let Some(batch) = batch {
            params = params.with_batch(batch);
        }
        let extractor = OnnxExtractor::open(file(network), &params).unwrap();
        assert_eq!(extractor.batch_len(), batch.unwrap_or(4));
        let views: Vec<_> = photos.iter().map(|p| view(p)).collect();
        let together = extractor.extract_batch(&views, &mut OnnxScratch::default());
        assert_eq!(together.len(), 7);
        for (image, vector) in views.iter().zip(together) {
            assert_eq!(vector.unwrap().vectors.as_f32().unwrap(), vector_of(&extractor, *image));
        }
    }
}

#[test]
fn a_job_is_the_same_with_any_number_of_threads() {
    let photos = (0..9).map(|i| {
        let head = format!("P6 {} 20 255\n", 20 + i).into_bytes();
        (format!("kind{}/{i}.ppm", i % 2), [head, photo(20 + i, 20, 3, i as u64)].concat())
    });
    let photos: Vec<_> =
        photos.chain([("kind0/bad.ppm".to_owned(), b"P6 2 2 255\n".to_vec())]).collect();
    let extractor =
        OnnxExtractor::open(file("nhwc"), &OnnxParams::default().with_batch(2)).unwrap();
    let run = |threads| {
        let source = MemorySource::new(photos.clone());
        let features = source.open().unwrap().features(&extractor);
        let tally = orb_features::stage::Tally::default();
        let features = features.with_parallelism(Parallelism::new(threads).unwrap());
        let kept = features.on_error(ErrorPolicy::new(OnError::Record), &tally);
        let batch = kept.explode().next().unwrap().unwrap();
        assert_eq!((batch.len(), batch.failed().len(), batch.vectors().format().len()), (9, 1, 64));
        batch.vectors().as_f32().unwrap().to_vec()
    };
    let one = run(1);
    assert!(one.iter().any(|v| *v != 0.0));
    for threads in [2, 3] {
        assert_eq!(run(threads), one);
    }
}

#[test]
fn numbers_that_are_not_finite_are_the_images_error() {
    // The network divides by its input.
    let extractor =
        OnnxExtractor::open(file("nan"), &OnnxParams::default().with_scale(Scale::None)).unwrap();
    let (good, bad) = ([9; 12], [9, 9, 9, 0, 9, 9, 9, 9, 9, 9, 9, 9]);
    let view = |pixels| PixelView::new(pixels, 2, 2, PixelFormat::Rgb).unwrap();
    let got = extractor
        .extract_batch(&[view(&good), view(&bad), view(&good)], &mut OnnxScratch::default());
    assert!(got[0].is_ok() && got[2].is_ok());
    let error = got[1].as_ref().unwrap_err();
    assert_eq!((error.code(), error.stage()), ("inference", orb_features::Stage::Onnx));
    assert!(error.to_line().contains("element 3 of the output is inf"), "{error}");
}

#[test]
fn a_network_that_cannot_be_used_says_why() {
    let load = |bytes: &[u8], params: &OnnxParams| {
        OnnxExtractor::new(bytes, "n.onnx", params).unwrap_err().to_line()
    };
    let params = OnnxParams::default();
    let sized = params.clone().with_size(4, 4);
    let image = identity(&[1, 4, 4, 3], 1);
    for (line, says) in [
        (load(b"", &params), "cannot use the network n.onnx"),
        (load(b"\xff\xd8\xff no network", &params), "cannot use the network n.onnx"),
        (
            load(&identity(&[1, 4, 4, 4], 1), &params),
            "has the shape (1, 4, 4, 4), not that of rgb images",
        ),
        (load(&identity(&[1, 12], 1), &params), "has the shape (1, 12)"),
        (load(&identity(&[1, 4, 4, 3], 7), &params), "not float32"),
        (
            load(&identity(&[0, 0, 0, 3], 1), &params),
            "invalid size: none (a size: the network takes any)",
        ),
        (load(&image, &params.clone().with_size(5, 4)), "invalid size: 5 (4, as the network says)"),
        (load(&image, &sized.clone().with_batch(2)), "invalid batch: 2 (1, as the network says)"),
        (load(&image, &sized.clone().with_output("z")), "invalid output: z (one of y)"),
        (load(&image, &sized.clone().with_size(0, 4)), "invalid size: 0 x 4"),
        (load(&image, &sized.clone().with_batch(0)), "invalid batch: 0"),
        (load(&image, &sized.clone().with_channels(PixelFormat::Gray)), "not that of gray images"),
        (load(&identity(&[1, 3, 1_000_000, 1_000_000], 1), &params), "1000000 x 1000000"),
        (
            load(
                &identity(&[0, 0, 0, 3], 1),
                &params.clone().with_size(4096, 4096).with_batch(1024),
            ),
            "268435456 elements in all",
        ),
    ] {
        assert!(line.contains(says), "{says}: {line}");
        assert!(!line.contains('\n') && line.len() < 400, "{line}");
    }
    // An operator that nobody knows.
    let mut unknown = std::fs::read(file("nhwc")).unwrap();
    let at = unknown.windows(4).position(|w| w == b"Conv").unwrap();
    unknown[at..at + 4].copy_from_slice(b"Cnvo");
    let line = load(&unknown, &params);
    assert!(line.contains("cannot use the network n.onnx") && line.contains("Cnvo"), "{line}");
    let error = OnnxExtractor::open("no/such.onnx", &params).unwrap_err();
    assert_eq!((error.code(), error.uri()), ("network", Some("no/such.onnx")));
    let grey = OnnxParams::default().with_channels(PixelFormat::Gray).with_scale(Scale::Torch);
    grey.check().unwrap_err();
}

/// Networks come from anywhere: none makes the process panic or end.
#[test]
fn a_damaged_network_is_an_error() {
    let whole = std::fs::read(file("nchw")).unwrap();
    let mut refused = 0;
    for i in 0..400_usize {
        let mut bytes = whole.clone();
        let at = i.wrapping_mul(2_654_435_761) % bytes.len();
        if i % 4 == 0 {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1 << (i % 8);
        }
        refused += u32::from(OnnxExtractor::new(&bytes, "n", &OnnxParams::default()).is_err());
    }
    assert!(refused > 100, "{refused}");
}
