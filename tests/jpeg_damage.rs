//! Damaged JPEGs: the outcome, pixels or an error, depends neither on images decoded before nor on the number
//! of threads.
#![cfg(feature = "jpeg")]

use fastrand::Rng;
use orb_features::prelude::*;

/// Number of damaged files: `ORB_FEATURES_MUTANTS`, or 10,000.
fn number_of_mutants() -> usize {
    std::env::var("ORB_FEATURES_MUTANTS").map_or(10_000, |n| n.parse().unwrap())
}

/// Baseline, progressive, grey, with restart markers, four components; 23 x 17 pixels, so that the last
/// blocks extend beyond the image.
const FILES: [&str; 9] = [
    "rgb420.jpg",
    "rgb422.jpg",
    "rgb444.jpg",
    "progressive.jpg",
    "gray.jpg",
    "gray_progressive.jpg",
    "restart.jpg",
    "cmyk.jpg",
    "exif6.jpg",
];

fn read(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/images/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).unwrap()
}

/// Ranges of the segments before the data of the first scan, each with its marker, and the start of this
/// data.
fn segments(jpeg: &[u8]) -> (Vec<std::ops::Range<usize>>, usize) {
    let (mut segments, mut at) = (Vec::new(), 2);
    loop {
        let end = at + 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
        segments.push(at..end);
        if jpeg[at + 1] == 0xda {
            return (segments, end);
        }
        at = end;
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Damage {
    FlippedBits,
    OtherBytes,
    Cut,
    CutWithEnd,
    CommentInScan,
    MarkerInScan,
    SecondScanHeader,
    SwappedSegments,
    MissingSegment,
    Zeros,
    MissingBytes,
    RepeatedBytes,
    OtherHeaderBytes,
}

const DAMAGES: [Damage; 13] = [
    Damage::FlippedBits,
    Damage::OtherBytes,
    Damage::Cut,
    Damage::CutWithEnd,
    Damage::CommentInScan,
    Damage::MarkerInScan,
    Damage::SecondScanHeader,
    Damage::SwappedSegments,
    Damage::MissingSegment,
    Damage::Zeros,
    Damage::MissingBytes,
    Damage::RepeatedBytes,
    Damage::OtherHeaderBytes,
];

fn damaged(whole: &[u8], damage: Damage, rng: &mut Rng) -> Vec<u8> {
    let mut jpeg = whole.to_vec();
    let (segments, data) = segments(whole);
    let len = jpeg.len();
    let at = rng.usize(2..len - 2);
    let in_scan = rng.usize(data..len - 2);
    let run = at..(at + rng.usize(1..40)).min(len);
    match damage {
        Damage::FlippedBits => (0..rng.usize(1..5)).for_each(|_| {
            jpeg[rng.usize(2..len)] ^= 1 << rng.u8(..8);
        }),
        Damage::OtherBytes => (0..rng.usize(1..5)).for_each(|_| {
            jpeg[rng.usize(2..len)] = rng.choice([0, 1, 0x7f, 0x80, 0xff, 0x55]).unwrap();
        }),
        Damage::Cut => jpeg.truncate(at),
        Damage::CutWithEnd => {
            jpeg.truncate(at);
            jpeg.extend([0xff, 0xd9]);
        }
        Damage::CommentInScan => {
            jpeg.splice(in_scan..in_scan, [0xff, 0xfe, 0, 2]);
        }
        Damage::MarkerInScan => {
            let lengths: [&[u8]; 5] = [&[], &[0, 2], &[0, 3, 0], &[0, 0], &[0xff, 0xff]];
            let length = rng.choice(lengths).unwrap();
            let marker = [0xff, rng.u8(0xc0..=0xff)];
            jpeg.splice(in_scan..in_scan, marker.iter().chain(length).copied());
        }
        Damage::SecondScanHeader => {
            let header = whole[segments.last().unwrap().clone()].to_vec();
            jpeg.splice(in_scan..in_scan, header);
        }
        Damage::SwappedSegments | Damage::MissingSegment => {
            let mut order: Vec<usize> = (0..segments.len()).collect();
            if damage == Damage::SwappedSegments {
                order.swap(rng.usize(..segments.len()), rng.usize(..segments.len()));
            } else {
                order.remove(rng.usize(..segments.len()));
            }
            jpeg.truncate(2);
            for i in order {
                jpeg.extend_from_slice(&whole[segments[i].clone()]);
            }
            jpeg.extend_from_slice(&whole[data..]);
        }
        Damage::Zeros => jpeg[run].fill(0),
        Damage::MissingBytes => {
            jpeg.drain(run);
        }
        Damage::RepeatedBytes => {
            let bytes = jpeg[run].to_vec();
            jpeg.splice(at..at, bytes);
        }
        Damage::OtherHeaderBytes => (0..rng.usize(1..4)).for_each(|_| {
            jpeg[rng.usize(2..data)] = rng.u8(..);
        }),
    }
    jpeg
}

/// A damaged file, and the index of the undamaged one in `FILES`.
struct Mutant {
    of: usize,
    damage: Damage,
    bytes: ImageObject,
}

fn mutants() -> (Vec<ImageObject>, Vec<Mutant>) {
    let wholes: Vec<_> = FILES.iter().map(|name| ImageObject::new(*name, read(name))).collect();
    let mut rng = Rng::with_seed(13);
    let mutant = |i: usize| {
        let (of, damage) = (i % FILES.len(), DAMAGES[i / FILES.len() % DAMAGES.len()]);
        let bytes = damaged(&wholes[of].bytes, damage, &mut rng);
        Mutant { of, damage, bytes: ImageObject::new(format!("{damage:?} {i}"), bytes) }
    };
    let mutants = (0..number_of_mutants()).map(mutant).collect();
    (wholes, mutants)
}

fn params(gray_mode: GrayMode) -> DecodeParams {
    // A damaged header can ask for a large image.
    DecodeParams::default().with_gray_mode(gray_mode).with_max_alloc(4 << 20)
}

/// The pixels or the error.
fn outcome(
    decoder: &mut Decoder,
    object: &ImageObject,
    gray: &mut Pixels,
) -> Result<Pixels, String> {
    decoder.decode_into(object, PixelFormat::Gray, gray).map_err(|e| e.to_line())?;
    Ok(gray.clone())
}

#[test]
fn a_damaged_file_is_decoded_by_itself() {
    let (wholes, mutants) = mutants();
    for gray_mode in [GrayMode::Bgr2Gray, GrayMode::Luma] {
        let fresh =
            |object| outcome(&mut Decoder::new(params(gray_mode)), object, &mut Pixels::default());
        let want: Vec<_> = wholes.iter().map(|whole| fresh(whole).unwrap()).collect();
        // One decoder and one buffer for all files; undamaged files are decoded before and after each mutant.
        let (mut decoder, mut gray) = (Decoder::new(params(gray_mode)), Pixels::default());
        let (mut taken, mut changed) = (0, 0);
        for (i, mutant) in mutants.iter().enumerate() {
            let alone = fresh(&mutant.bytes);
            for neighbour in [i + 1, i + 4] {
                let neighbour = neighbour % wholes.len();
                let before = outcome(&mut decoder, &wholes[neighbour], &mut gray).unwrap();
                assert_eq!(before, want[neighbour], "before {}", mutant.bytes.uri);
                let between = outcome(&mut decoder, &mutant.bytes, &mut gray);
                assert!(between == alone, "{} depends on its neighbours", mutant.bytes.uri);
            }
            taken += usize::from(alone.is_ok());
            changed += usize::from(alone.as_ref().is_ok_and(|pixels| *pixels != want[mutant.of]));
            // A scan that breaks off is an error, even if an end marker follows. (A progressive file may end
            // after any of its scans.)
            if let (Damage::Cut | Damage::CutWithEnd, Ok(pixels)) = (mutant.damage, &alone) {
                let is_progressive = FILES[mutant.of].contains("progressive");
                let is_cut = mutant.damage == Damage::Cut;
                assert!(
                    !is_cut && (is_progressive || *pixels == want[mutant.of]),
                    "{} of {} is taken",
                    mutant.bytes.uri,
                    FILES[mutant.of]
                );
            }
        }
        // Some damage leaves a valid file, of the same or of other pixels.
        let most = mutants.len();
        assert!((most / 20..most / 2).contains(&taken), "{taken} are taken");
        assert!(changed > 0 && changed < taken, "{changed} of {taken} have other pixels");
    }
}

/// Features, or the error.
type Outcome = Result<(Vec<KeyPoint>, Vectors), String>;

#[test]
fn a_damaged_file_is_the_same_on_any_number_of_threads() {
    let (wholes, mutants) = mutants();
    let orb = OrbParams::default().with_edge_threshold(2).with_patch_size(5).with_n_levels(2);
    let orb = orb.with_fast_threshold(3).build().unwrap();
    let objects: Vec<_> = mutants
        .iter()
        .enumerate()
        .flat_map(|(i, mutant)| [mutant.bytes.clone(), wholes[i % wholes.len()].clone()])
        .collect();
    let results = |threads| -> Vec<Outcome> {
        let images = objects.clone().into_iter().map(Ok);
        images
            .features(&orb)
            .with_decode(params(GrayMode::Bgr2Gray))
            .with_parallelism(Parallelism::new(threads).unwrap())
            .map(|image| {
                let image = image.map_err(|e| e.to_line())?;
                Ok((image.keypoints, image.vectors))
            })
            .collect()
    };
    let one = results(1);
    assert!(one.iter().any(|r| r.as_ref().is_ok_and(|(keypoints, _)| !keypoints.is_empty())));
    for threads in [2, 5] {
        let many = results(threads);
        for (i, (one, many)) in one.iter().zip(&many).enumerate() {
            assert_eq!(one, many, "{} on {threads} threads", objects[i].uri);
        }
    }
}

/// A progressive file with this many scans: the first scan of the grey file, then one scan for each bit of
/// each coefficient.
fn many_scans(scans: usize) -> Vec<u8> {
    let file = read("gray_progressive.jpg");
    let (_, data) = segments(&file);
    let end = data + file[data..].windows(2).position(|w| w[0] == 0xff && w[1] != 0).unwrap();
    let mut jpeg = file[..end].to_vec();
    // A Huffman table: 16 codes of five bits for runs of 2^k blocks without a coefficient.
    jpeg.extend([0xff, 0xc4, 0, 35, 0x10, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    jpeg.extend((0..16).map(|k| k << 4));
    let passes = (1..=63).flat_map(|coefficient| (0..14).rev().map(move |low| (coefficient, low)));
    for (coefficient, low) in passes.take(scans - 1) {
        let bits = if low == 13 { low } else { (low + 1) << 4 | low };
        jpeg.extend([0xff, 0xda, 0, 8, 1, 1, 0, coefficient, coefficient, bits]);
        // The code of 2^3, then 1 in three extra bits: a run of all nine blocks.
        jpeg.push(0b0001_1001);
    }
    jpeg.extend([0xff, 0xd9]);
    jpeg
}

#[test]
fn a_file_of_more_than_100_scans_is_refused() {
    let decode =
        |jpeg| Decoder::new(DecodeParams::default()).decode(&ImageObject::new("a.jpg", jpeg));
    for scans in [1, 100] {
        assert_eq!(decode(many_scans(scans)).unwrap().width(), 23);
    }
    for scans in [101, 883] {
        let error = decode(many_scans(scans)).unwrap_err();
        assert!(error.to_string().contains("more than 100 scans"), "{error}");
        assert_eq!(error.code(), "too_large");
    }
}

/// Memory of this process, in bytes.
#[cfg(target_os = "linux")]
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    4096 * statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn decoders_give_their_memory_back() {
    let (whole, broken) = (read("gray_progressive.jpg"), read("rgb420.jpg"));
    let broken = broken[..broken.len() / 2].to_vec();
    let before = resident();
    for _ in 0..10_000 {
        let mut decoder = Decoder::new(DecodeParams::default());
        decoder.decode(&ImageObject::new("whole.jpg", whole.clone())).unwrap();
        decoder.decode(&ImageObject::new("broken.jpg", broken.clone())).unwrap_err();
    }
    // Tests that run at the same time take some memory; a leaked decompressor would take some 10 KiB each
    // time.
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes");
}
