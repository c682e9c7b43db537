//! The index: what it finds, what it survives, and what it refuses.
#![cfg(all(feature = "jpeg", feature = "search"))]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use orb_features::prelude::*;
use orb_features::results::ResultReader;
use orb_features::search::{
    DuplicateKind, DuplicateParams, Found, Index, IndexParams, SearchParams, duplicates,
};
use testkit::photos;

const KINDS: usize = 6;

fn orb() -> Orb {
    OrbParams::default().with_n_features(200).with_edge_threshold(10).build().unwrap()
}

fn images(numbers: std::ops::Range<u32>) -> Vec<(String, Vec<u8>)> {
    let each = numbers.flat_map(|i| (0..KINDS).map(move |kind| (kind, i)));
    each.map(|(kind, i)| (format!("kind {kind}/{i:02}.jpg"), photos::photo(kind, i).unwrap()))
        .collect()
}

struct Bench {
    root: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn result(&self, name: &str, images: Vec<(String, Vec<u8>)>) -> ResultReader {
        let sink = FileSink::create(self.at(name), FileParams::default()).unwrap();
        let job = Pipeline::new(MemorySource::new(images), orb(), sink).without_pca();
        job.run().unwrap();
        ResultReader::open(self.at(name)).unwrap()
    }
}

fn query(image: &[u8]) -> Features {
    let images = MemorySource::new([("query.jpg", image.to_vec())]);
    let image = images.open().unwrap().features(&orb()).next().unwrap().unwrap();
    let descriptors = image.vectors.as_u8().unwrap().as_chunks().0.to_vec();
    Features { keypoints: image.keypoints, descriptors }
}

/// Everything that an index holds.
fn content(path: &Path) -> Vec<(String, Option<String>, usize)> {
    let index = Index::open(path).unwrap();
    index
        .photos()
        .map(|p| (p.path.to_owned(), p.label.map(str::to_owned), p.n_descriptors))
        .collect()
}

#[test]
fn a_photo_finds_itself_and_its_kind_whatever_the_lists() {
    let bench = Bench::new();
    let result = bench.result("known", images(0..12));
    let mut first = None;
    for lists in [1, 8] {
        let path = bench.at(&format!("{lists}.index"));
        let report =
            Index::create(&path, &result, &IndexParams::default().with_lists(lists)).unwrap();
        assert_eq!((report.photos, report.known, report.lists), (72, 0, lists as usize));
        assert_eq!(report.bytes, fs::metadata(&path).unwrap().len());
        let index = Index::open(&path).unwrap();
        assert_eq!((index.len(), index.lists()), (72, lists as usize));
        assert_eq!(index.orb_params().unwrap().as_ref(), Some(orb().params()));
        // With all lists looked into, lists change nothing.
        let params = SearchParams::default().with_probes(lists as usize);
        let itself = query(&photos::photo(2, 5).unwrap());
        let found = index.search(&itself, &params).unwrap();
        assert_eq!(found.photos[0].path, "kind 2/05.jpg");
        assert_eq!(found.photos[0].votes as usize, itself.len());
        assert!(found.photos[0].inliers as usize > itself.len() / 2);
        assert!(found.photos.windows(2).all(|p| p[0].inliers >= p[1].inliers));
        assert!((found.labels.iter().map(|label| label.share).sum::<f64>() - 1.0).abs() < 1e-9);
        let new: Vec<_> = (0..24)
            .map(|i| query(&photos::photo(i % KINDS, 40 + i as u32).unwrap()))
            .map(|query| index.search(&query, &params).unwrap())
            .collect();
        let is_right =
            |(i, found): &(usize, &Found)| found.labels[0].label == format!("kind {}", i % KINDS);
        let right = new.iter().enumerate().filter(is_right).count();
        // Twice what chance gives: the drawings are much alike.
        assert!(right >= 8, "{right}");
        let all = (found, new);
        assert_eq!(*first.get_or_insert(all.clone()), all);
        // Few lists find most.
        let few = index.search(&itself, &SearchParams::default().with_probes(1)).unwrap();
        assert_eq!(few.photos[0].path, "kind 2/05.jpg");
    }
    // A photo that is listed twice is taken once.
    let twice = bench.result("twice", images(0..2).into_iter().chain(images(0..1)).collect());
    let report = Index::create(bench.at("twice.index"), &twice, &IndexParams::default()).unwrap();
    assert_eq!((report.photos, report.known), (12, 6));
    let none =
        duplicates(&twice, &DuplicateParams::default().with_near(false), &mut |_| None).unwrap();
    assert!(none.is_empty(), "{none:?}");
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let again = bench.at("again.index");
    one.install(|| Index::create(&again, &result, &IndexParams::default().with_lists(8)).unwrap());
    assert_eq!(fs::read(again).unwrap(), fs::read(bench.at("8.index")).unwrap());
}

#[test]
fn adding_leaves_what_is_there_and_open_searches_alone() {
    let bench = Bench::new();
    let (first, second) = (bench.result("1", images(0..3)), bench.result("2", images(2..5)));
    for lists in [1, 4] {
        let path = bench.at(&format!("{lists}.index"));
        Index::create(&path, &first, &IndexParams::default().with_lists(lists)).unwrap();
        let before = fs::read(&path).unwrap();
        let open = Index::open(&path).unwrap();
        let report = Index::add(&path, &second, &AtomicBool::new(false)).unwrap();
        assert_eq!((report.photos, report.known), (12, 6));
        assert_eq!(open.len(), 18);
        assert_eq!(content(&path).len(), 30);
        assert_eq!(
            content(&path)[..18],
            open.photos()
                .map(|p| (p.path.to_owned(), p.label.map(str::to_owned), p.n_descriptors))
                .collect::<Vec<_>>()[..]
        );
        assert_eq!(fs::read(&path).unwrap()[4096..before.len()], before[4096..]);
        // The same as an index of all, for searches.
        let all = bench.at(&format!("all {lists}.index"));
        Index::create(
            &all,
            &bench.result(&format!("all {lists}"), images(0..5)),
            &IndexParams::default(),
        )
        .unwrap();
        let params = SearchParams::default().with_probes(4);
        let search = |path: &Path| {
            let found = Index::open(path)
                .unwrap()
                .search(&query(&photos::photo(1, 9).unwrap()), &params)
                .unwrap();
            found.labels
        };
        assert_eq!(search(&path), search(&all));
        // A photo whose features are others now is told of, and stays as it was.
        let mut changed = images(2..3);
        changed[0].1 = changed[1].1.clone();
        let changed = bench.result(&format!("changed {lists}"), changed);
        let report = Index::add(&path, &changed, &AtomicBool::new(false)).unwrap();
        assert_eq!((report.photos, report.known, report.changed), (0, 6, 1));
        // Nothing new.
        assert_eq!(Index::add(&path, &second, &AtomicBool::new(false)).unwrap().photos, 0);
        assert_eq!(content(&path).len(), 30);
        // Cut off in the middle of an addition: the commit is the old one.
        let whole = fs::read(&path).unwrap();
        let mut torn = before.clone();
        torn.extend_from_slice(&whole[before.len()..before.len() + 1000]);
        fs::write(&path, &torn).unwrap();
        assert_eq!(content(&path).len(), 18);
        assert_eq!(Index::add(&path, &second, &AtomicBool::new(false)).unwrap().photos, 12);
        assert_eq!(content(&path).len(), 30);
        // A commit of which the file has not all: the one before it counts.
        fs::write(&path, &whole[..whole.len() - 100]).unwrap();
        assert_eq!(content(&path).len(), 18);
        // A torn commit: the other counts, of the first photos or of all.
        for (at, n) in [(16, 18), (16 + 24, 30)] {
            let mut torn = whole.clone();
            torn[at] ^= 1;
            fs::write(&path, &torn).unwrap();
            assert_eq!(content(&path).len(), n);
        }
    }
}

/// Indexes that are replaced and added to while others search: each sees one that is whole.
#[test]
fn a_search_meanwhile_sees_one_whole_index() {
    let bench = Bench::new();
    let (first, second) = (bench.result("1", images(0..2)), bench.result("2", images(2..5)));
    let path = bench.at("x.index");
    let params = IndexParams::default().with_overwrite(true);
    Index::create(&path, &first, &params).unwrap();
    let wanted = query(&photos::photo(0, 0).unwrap());
    let done = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let searches = scope.spawn(|| {
            let mut seen = std::collections::BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                let index = Index::open(&path).unwrap();
                seen.insert(index.len());
                let found = index.search(&wanted, &SearchParams::default()).unwrap();
                assert_eq!(found.photos[0].path, "kind 0/00.jpg");
            }
            seen
        });
        for _ in 0..20 {
            Index::add(&path, &second, &AtomicBool::new(false)).unwrap();
            Index::create(&path, &first, &params).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        searches.join().unwrap()
    });
    assert!(!seen.is_empty() && seen.iter().all(|n| [12, 30].contains(n)), "{seen:?}");
}

#[test]
fn what_is_no_whole_index_is_refused() {
    let bench = Bench::new();
    let result = bench.result("known", images(0..2));
    let path = bench.at("x.index");
    let create = |params: &IndexParams| Index::create(&path, &result, params);
    create(&IndexParams::default().with_lists(4)).unwrap();
    let why = create(&IndexParams::default()).unwrap_err().to_string();
    assert!(why.contains("x.index") && why.contains("exists"), "{why}");
    let whole = fs::read(&path).unwrap();
    let open = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        Index::open(&path).map(|index| index.len()).map_err(|e| {
            assert_eq!((e.code(), e.stage().as_str()), ("index", "search"));
            e.to_string()
        })
    };
    assert_eq!(open(&whole), Ok(12));
    // A flipped bit anywhere, but for what pads the first page and its older commit.
    for at in (0..16).chain(4096..4096 + 128).chain((4300..whole.len()).step_by(997)) {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        open(&bytes).unwrap_err();
    }
    for len in [0, 10, 4095, 4096, 5000, whole.len() - 1] {
        open(&whole[..len]).unwrap_err();
    }
    let mut newer = whole.clone();
    newer[8] = 2;
    let why = open(&newer).unwrap_err();
    assert!(why.contains("version 2") && why.contains("version 1"), "{why}");
    let why = open(&[b'x'; 10_000]).unwrap_err();
    assert!(why.contains("no index of photos"), "{why}");
    // A file of somebody else's stays.
    let why = create(&IndexParams::default().with_overwrite(true)).unwrap_err().to_string();
    assert!(
        why.contains("no index of photos") && fs::read(&path).unwrap() == [b'x'; 10_000],
        "{why}"
    );
    open(&newer).unwrap_err();
    create(&IndexParams::default().with_overwrite(true)).unwrap();
    assert_eq!(content(&path).len(), 12);
    for bad in [IndexParams::default().with_lists(0), IndexParams::default().with_lists(1 << 21)] {
        create(&bad).unwrap_err();
    }
    // While another adds to it, nobody else does, nor replaces it; an interrupt leaves nothing.
    let held = fs::File::options().write(true).open(&path).unwrap();
    held.lock().unwrap();
    for why in [
        create(&IndexParams::default().with_overwrite(true)).unwrap_err(),
        Index::add(&path, &result, &AtomicBool::new(false)).unwrap_err(),
    ] {
        assert!(why.to_string().contains("another process"), "{why}");
    }
    drop(held);
    let before = fs::read(&path).unwrap();
    let stop = std::sync::Arc::new(AtomicBool::new(true));
    let more = bench.result("more", images(2..3));
    assert!(matches!(Index::add(&path, &more, &stop).unwrap_err(), Error::Interrupted));
    let params = IndexParams::default().with_overwrite(true).with_stop(stop);
    assert!(matches!(create(&params).unwrap_err(), Error::Interrupted));
    assert_eq!(fs::read(&path).unwrap(), before);
    // Descriptors of other parameters.
    let sink = FileSink::create(bench.at("other"), FileParams::default()).unwrap();
    let other = orb().params().clone().with_fast_threshold(5).build().unwrap();
    Pipeline::new(MemorySource::new(images(0..1)), other, sink).without_pca().run().unwrap();
    let why =
        Index::add(&path, &ResultReader::open(bench.at("other")).unwrap(), &AtomicBool::new(false))
            .unwrap_err()
            .to_string();
    assert!(why.contains("fast_threshold"), "{why}");
    // No descriptors at all.
    let flat = [b"P5 100 100 255\n".to_vec(), vec![9; 10_000]].concat();
    let empty = bench.result("empty", vec![("flat.pgm".to_owned(), flat)]);
    let none = Index::create(bench.at("none.index"), &empty, &IndexParams::default()).unwrap_err();
    assert!(matches!(none, Error::NoInput { .. }), "{none}");
    assert!(!bench.at("none.index").exists());
    let index = Index::open(&path).unwrap();
    let found = index.search(&Features::default(), &SearchParams::default()).unwrap();
    assert!(found.photos.is_empty() && found.labels.is_empty());
    for bad in [
        SearchParams::default().with_ratio(0.0),
        SearchParams::default().with_neighbors(1),
        SearchParams::default().with_photos(0),
    ] {
        index.search(&Features::default(), &bad).unwrap_err();
    }
}

#[test]
fn duplicates_are_exact_or_near() {
    let bench = Bench::new();
    let mut all = images(0..4);
    let flat = |v: u8| [b"P5 100 100 255\n".to_vec(), vec![v; 10_000]].concat();
    let copy = all[7].1.clone();
    all.push(("copies/a.jpg".to_owned(), copy));
    // The same pixels in another file.
    let pixels = image::load_from_memory(&all[9].1).unwrap();
    for (name, format) in [("b.bmp", image::ImageFormat::Bmp), ("b.png", image::ImageFormat::Png)] {
        let mut same = Vec::new();
        pixels.write_to(&mut std::io::Cursor::new(&mut same), format).unwrap();
        all.push((format!("copies/{name}"), same));
    }
    // Cut at the sides.
    let mut near = Vec::new();
    let cut = pixels.crop_imm(3, 2, 94, 95);
    cut.write_to(&mut std::io::Cursor::new(&mut near), image::ImageFormat::Png).unwrap();
    all.push(("copies/c.png".to_owned(), near));
    all.extend([
        ("flat/1.pgm".to_owned(), flat(7)),
        ("flat/2.pgm".to_owned(), flat(8)),
        ("flat/3.pgm".to_owned(), flat(7)),
    ]);
    let result = bench.result("known", all.clone());
    let mut read =
        |path: &str| all.iter().find(|(name, _)| name == path).map(|(_, bytes)| bytes.clone());
    let found =
        duplicates(&result, &DuplicateParams::default().with_share(0.6), &mut read).unwrap();
    let rows: Vec<_> = found.iter().map(|d| (d.kind, &*d.path, &*d.of)).collect();
    // Names in byte order: the copies come after the photos that they are of.
    assert!(rows.contains(&(DuplicateKind::Exact, "copies/a.jpg", &*all[7].0)), "{rows:?}");
    assert!(rows.contains(&(DuplicateKind::Exact, "flat/3.pgm", "flat/1.pgm")), "{rows:?}");
    assert!(
        rows.contains(&(DuplicateKind::SameFeatures, "copies/b.png", "copies/b.bmp")),
        "{rows:?}"
    );
    let near = found.iter().find(|d| d.path == "copies/c.png").unwrap();
    assert_eq!((near.kind, &*near.of), (DuplicateKind::Near, &*all[9].0));
    assert!(near.share >= 0.6 && near.share <= 1.0);
    assert!(!rows.iter().any(|(_, path, _)| *path == "flat/2.pgm"));
    // Nothing can be read.
    let unread =
        duplicates(&result, &DuplicateParams::default().with_near(false), &mut |_| None).unwrap();
    assert!(unread.iter().all(|d| d.kind == DuplicateKind::SameFeatures) && unread.len() == 2);
}
