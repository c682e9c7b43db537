//! Decoded pixels against those that OpenCV reads from the same files, and files that are not images.
#![cfg(feature = "jpeg")]

use std::collections::BTreeMap;
use std::io::Cursor;

use image::{DynamicImage, ImageFormat};
use orb_features::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixtures {
    images: BTreeMap<String, BTreeMap<String, (usize, usize, String)>>,
}

fn object(name: &str) -> ImageObject {
    let path = format!("{}/tests/fixtures/images/{name}", env!("CARGO_MANIFEST_DIR"));
    ImageObject::new(name, std::fs::read(path).unwrap())
}

fn decode(name: &str, params: DecodeParams) -> GrayImage {
    Decoder::new(params).decode(&object(name)).unwrap()
}

/// Largest allowed difference from OpenCV's pixels; `None` if they are not meant to agree.
fn tolerance(name: &str, mode: &str) -> Option<u8> {
    let jpeg = name.strip_suffix(".jpg").is_some();
    match name {
        _ if jpeg => Some(0),
        // `Luma` is documented to equal IMREAD_GRAYSCALE only for JPEGs.
        _ if mode == "luma" => None,
        // OpenCV rounds 16 bits to 8 in a TIFF, but truncates them in a PNG.
        "rgb16.tif" => Some(1),
        _ => Some(0),
    }
}

#[test]
fn pixels_are_those_of_imread() {
    let fixtures: Fixtures = serde_json::from_str(include_str!("../fixtures/images.json")).unwrap();
    assert!(fixtures.images.len() > 25);
    let mut wrong = Vec::new();
    for (name, modes) in &fixtures.images {
        for (mode, (width, height, hex)) in modes {
            let gray_mode = if mode == "luma" { GrayMode::Luma } else { GrayMode::Bgr2Gray };
            let got = decode(name, DecodeParams::default().with_gray_mode(gray_mode));
            let want: Vec<u8> = (0..hex.len() / 2)
                .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
                .collect();
            if (got.width(), got.height()) != (*width, *height) {
                wrong.push(format!(
                    "{name} {mode}: {} x {}, not {width} x {height}",
                    got.width(),
                    got.height()
                ));
                continue;
            }
            let worst = got.as_raw().iter().zip(&want).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            if tolerance(name, mode).is_some_and(|most| worst > most) {
                wrong.push(format!("{name} {mode}: off by {worst}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn orientation_can_be_ignored() {
    let ignore = DecodeParams::default().with_exif_orientation(ExifOrientation::Ignore);
    assert_eq!(Decoder::new(ignore.clone()).params(), &ignore);
    let stored = decode("exif1.jpg", DecodeParams::default());
    for name in ["exif2.jpg", "exif6.jpg", "exif8.jpg"] {
        assert_eq!(decode(name, ignore.clone()), stored, "{name}");
        assert_ne!(decode(name, DecodeParams::default()), stored, "{name}");
    }
    let png = decode("exif6.png", ignore);
    assert_eq!((png.width(), png.height()), (23, 17));
}

#[test]
fn channels_are_those_of_the_file() {
    for (name, channels) in [
        ("gray.jpg", 1),
        ("rgb420.jpg", 3),
        ("cmyk.jpg", 4),
        ("la.png", 2),
        ("rgba.png", 4),
        ("gray16.png", 1),
        ("rgb16.png", 3),
    ] {
        for mode in [GrayMode::Bgr2Gray, GrayMode::Luma] {
            let gray = decode(name, DecodeParams::default().with_gray_mode(mode));
            assert_eq!(gray.channels(), channels, "{name} {mode:?}");
        }
    }
}

/// The cause of a failure to decode; checks that the error names the object.
fn cause(bytes: impl Into<bytes::Bytes>, params: &DecodeParams) -> DecodeCause {
    let object = ImageObject::new("some/where.jpg", bytes);
    match Decoder::new(params.clone()).decode(&object) {
        Err(error @ Error::Decode { cause, .. }) => {
            assert!(error.to_string().contains("some/where.jpg"), "{error}");
            assert!(!error.to_line().contains('\n'), "{error}");
            cause
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_no_image_is_named_as_such() {
    let params = DecodeParams::default();
    assert_eq!(cause(&b""[..], &params), DecodeCause::Empty);
    assert_eq!(cause(&b"hello, I am a text file"[..], &params), DecodeCause::NotAnImage);
    assert_eq!(cause(&b"\x00"[..], &params), DecodeCause::NotAnImage);
    assert_eq!(cause(&b"\xff\xd8"[..], &params), DecodeCause::Corrupt);
    assert_eq!(cause(&b"\xff\xd8\xff\xe0 and then text"[..], &params), DecodeCause::Corrupt);
}

#[test]
fn a_file_that_breaks_off_is_corrupt() {
    for name in [
        "rgb420.jpg",
        "rgb444.jpg",
        "gray.jpg",
        "progressive.jpg",
        "rgb.png",
        "rgb16.tif",
        "rgb.bmp",
    ] {
        let whole = object(name).bytes;
        let scan = whole.windows(2).position(|w| w == [0xff, 0xda]).unwrap_or(0);
        for keep in [whole.len() / 2, whole.len() * 3 / 4, scan + 30, 20] {
            if keep < whole.len() - 30 {
                let cause = cause(whole.slice(..keep), &DecodeParams::default());
                assert_eq!(cause, DecodeCause::Corrupt, "{name} {keep} of {}", whole.len());
            }
        }
    }
}

#[test]
fn a_broken_file_leaves_nothing_to_the_next() {
    let mut decoder = Decoder::new(DecodeParams::default());
    for name in ["rgb420.jpg", "progressive.jpg", "gray.jpg", "cmyk.jpg", "rgb.png"] {
        let whole = object(name).bytes;
        let want = decode(name, DecodeParams::default());
        for keep in 1..whole.len() {
            let _ = decoder.decode(&ImageObject::new("broken", whole.slice(..keep)));
            let got = decoder.decode(&object("rgb420.jpg")).unwrap();
            assert_eq!(got, decode("rgb420.jpg", DecodeParams::default()), "{name} {keep}");
        }
        assert_eq!(decoder.decode(&object(name)).unwrap(), want);
    }
}

#[test]
fn damaged_bytes_never_panic() {
    let mut decoder = Decoder::new(DecodeParams::default().with_max_alloc(1 << 20));
    let fixtures: Fixtures = serde_json::from_str(include_str!("../fixtures/images.json")).unwrap();
    for name in fixtures.images.keys() {
        let whole = object(name).bytes;
        for seed in 0..60_usize {
            let mut bytes = whole.to_vec();
            for i in 0..=seed % 5 {
                let at = (seed * 7919 + i * 104_729) % bytes.len();
                bytes[at] ^= 1 << (seed % 8);
            }
            let _ = decoder.decode(&ImageObject::new(name.as_str(), bytes));
        }
    }
}

#[test]
fn a_header_of_a_huge_image_allocates_nothing() {
    let params = DecodeParams::default();
    // PNG: the header says 50,000 x 50,000 in colour, but there is hardly any data.
    let mut png = Vec::new();
    DynamicImage::new_rgb8(1, 1).write_to(&mut Cursor::new(&mut png), ImageFormat::Png).unwrap();
    png[16..20].copy_from_slice(&50_000_u32.to_be_bytes());
    png[20..24].copy_from_slice(&50_000_u32.to_be_bytes());
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(cause(png, &params), DecodeCause::TooLarge);
    // JPEG: the frame header says the same.
    let mut jpeg = object("rgb444.jpg").bytes.to_vec();
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 7].copy_from_slice(&50_000_u16.to_be_bytes());
    jpeg[frame + 7..frame + 9].copy_from_slice(&50_000_u16.to_be_bytes());
    assert_eq!(cause(jpeg, &params), DecodeCause::TooLarge);
    // The caller can set the limits.
    let small = DecodeParams::default().with_max_side(22);
    for name in ["rgb444.jpg", "gray.jpg", "rgb.png"] {
        assert_eq!(cause(object(name).bytes, &small), DecodeCause::TooLarge, "{name}");
    }
    let small = DecodeParams::default().with_max_alloc(23 * 17 * 3 - 1);
    for name in ["rgb444.jpg", "rgb.png"] {
        assert_eq!(cause(object(name).bytes, &small), DecodeCause::TooLarge, "{name}");
    }
    // Everything that a decoder allocates counts: the coefficients of a progressive JPEG, the canvas of a
    // WebP.
    for (name, bytes) in [("progressive.jpg", 23 * 17 * 3), ("rgb.webp", 23 * 17 * 11)] {
        let small = DecodeParams::default().with_max_alloc(bytes);
        assert_eq!(cause(object(name).bytes, &small), DecodeCause::TooLarge, "{name}");
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg()))
    })
}
