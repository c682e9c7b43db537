//! The stages one by one: lazy, in order, errors in place, bounded, the same for any threads.
#![cfg(feature = "jpeg")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use orb_features::prelude::*;
use testkit::photos;

fn photos(n: u32) -> Vec<(String, Vec<u8>)> {
    (0..n)
        .map(|i| (format!("kind {}/{i:03}.jpg", i % 6), photos::photo(i as usize % 6, i).unwrap()))
        .collect()
}

fn orb() -> Orb {
    OrbParams::default().build().unwrap()
}

/// A stream in which every third image is broken.
fn mixed() -> impl Iterator<Item = Result<ImageObject>> + Send + 'static {
    photos(24).into_iter().enumerate().map(|(i, (uri, bytes))| {
        let bytes = if i % 3 == 1 { bytes[..bytes.len() / 2].to_vec() } else { bytes };
        Ok(ImageObject::new(uri, bytes))
    })
}

/// What a stream gives, in comparable form.
fn shape(
    stream: impl Iterator<Item = Result<ImageFeatures>>,
) -> Vec<Result<ImageFeatures, String>> {
    stream.map(|item| item.map_err(|e| e.to_line())).collect()
}

#[test]
fn stages_do_nothing_until_pulled() {
    let panics = || std::iter::from_fn(|| -> Option<Result<ImageObject>> { panic!("pulled") });
    let decode = DecodeParams::default();
    drop(panics().decode(decode.clone()).extract(&orb()).explode().batches(10));
    drop(panics().orb_features(&orb(), &decode, Parallelism::new(3)).explode());
    let rows = std::iter::from_fn(|| -> Option<Result<DescriptorRow>> { panic!("pulled") });
    let moments = {
        let mut m = Moments::new(32);
        let rows = ndarray::Array2::from_shape_fn((40, 32), |(i, j)| (i * j) as u8);
        m.push_rows(rows.view()).unwrap();
        m
    };
    drop(rows.project(&moments.fit(&PcaParams::new(2)).unwrap()));
}

/// Holds what an iterator promises of its length against what comes.
fn check_size_hints<T>(mut items: impl Iterator<Item = T>) -> usize {
    let mut hints = vec![items.size_hint()];
    while items.next().is_some() {
        hints.push(items.size_hint());
    }
    let given = hints.len() - 1;
    for (taken, (least, most)) in hints.into_iter().enumerate() {
        let left = given - taken;
        assert!(least <= left && most.is_none_or(|most| left <= most), "{least} {most:?}: {left}");
    }
    given
}

#[test]
fn lengths_are_promised_where_they_are_known() {
    let decode = DecodeParams::default();
    let images = || mixed().decode(decode.clone());
    assert_eq!(mixed().decode(decode.clone()).size_hint(), (24, Some(24)));
    assert_eq!(images().extract(&orb()).size_hint(), (24, Some(24)));
    assert_eq!(check_size_hints(images()), 24);
    assert_eq!(check_size_hints(images().extract(&orb())), 24);
    assert_eq!(check_size_hints(mixed().orb_features(&orb(), &decode, Parallelism::new(2))), 24);

    let good: Vec<ImageFeatures> = images().extract(&orb()).filter_map(Result::ok).collect();
    let rows = good[0].keypoints.len();
    assert!(rows > 1);
    let mut first = good[0].clone().into_rows();
    assert_eq!((first.len(), first.size_hint()), (rows, (rows, Some(rows))));
    first.next();
    assert_eq!(first.len(), rows - 1);
    assert_eq!(check_size_hints(first), rows - 1);
    // The rows of images still to come are not known; those of the last image are.
    let mut exploded = good[..1].iter().cloned().map(Ok).explode();
    assert_eq!(exploded.size_hint(), (0, None));
    exploded.next();
    assert_eq!(exploded.size_hint(), (rows - 1, Some(rows - 1)));
    assert!(check_size_hints(good.into_iter().map(Ok).explode()) > rows);

    let (_, spooled) = good_rows().fit_pca(&PcaParams::new(2), &Spool::default()).unwrap();
    let n = good_rows().count();
    assert_eq!(spooled.size_hint(), (1, Some(n)));
    assert_eq!(check_size_hints(spooled), n);
}

#[test]
fn parallelism_is_as_asked() {
    let three = Parallelism::new(3);
    assert_eq!((three.threads(), three.window()), (3, 96));
    assert_eq!(three.with_window(7).window(), 7);
}

#[test]
fn the_sink_of_nothing_counts() {
    let mut sink = NullSink::default();
    for n in [2, 3] {
        let rows = good_rows().take(n).collect::<Result<_>>().unwrap();
        sink.write(RowBatch { rows, scores: None }).unwrap();
    }
    let broken = ImageObject::new("broken.jpg", &b"\xff\xd8"[..]);
    let error = Decoder::new(DecodeParams::default()).decode(&broken).unwrap_err();
    for _ in 0..2 {
        sink.record(&orb_features::sink::Failure::from(&error)).unwrap();
    }
    let report = sink.finish().unwrap();
    assert_eq!((report.rows, report.failures, report.path), (5, 2, None));
}

#[test]
fn serial_and_parallel_stages_give_the_same_with_errors_in_place() {
    let decode = DecodeParams::default();
    let want = shape(mixed().decode(decode.clone()).extract(&orb()));
    assert_eq!(want.len(), 24);
    for (i, item) in want.iter().enumerate() {
        match item {
            Err(error) => {
                assert_eq!(i % 3, 1);
                assert!(error.contains(&format!("{i:03}.jpg")), "{error}");
            }
            Ok(image) => {
                assert!(image.meta.uri.ends_with(&format!("{i:03}.jpg")));
                assert!(!image.keypoints.is_empty());
            }
        }
    }
    for threads in [1, 2, 3, 8] {
        for window in [1, 5, 1000] {
            let parallelism = Parallelism::new(threads).with_window(window);
            assert_eq!(shape(mixed().orb_features(&orb(), &decode, parallelism)), want);
        }
    }
}

#[test]
fn explode_gives_a_row_for_each_descriptor_in_order() {
    let images: Vec<ImageFeatures> = mixed()
        .orb_features(&orb(), &DecodeParams::default(), Parallelism::new(2))
        .filter_map(Result::ok)
        .collect();
    let rows: Vec<DescriptorRow> =
        images.iter().cloned().map(Ok).explode().map(Result::unwrap).collect();
    let mut next = rows.iter();
    for image in &images {
        for (i, (keypoint, descriptor)) in
            image.keypoints.iter().zip(&image.descriptors).enumerate()
        {
            let row = next.next().unwrap();
            assert!(Arc::ptr_eq(&row.meta, &image.meta));
            assert_eq!(
                (row.index as usize, &row.keypoint, &row.descriptor),
                (i, keypoint, descriptor)
            );
        }
    }
    assert!(next.next().is_none());
    let empty = ImageFeatures::new(Arc::clone(&images[0].meta), Features::default());
    assert_eq!([Ok(empty)].into_iter().explode().count(), 0);
}

#[test]
fn batches_keep_rows_errors_and_their_order() {
    let rows = || {
        mixed()
            .orb_features(&orb(), &DecodeParams::default(), Parallelism::new(2))
            .explode()
            .map(|row| row.map_err(|e| e.to_line()))
    };
    let want: Vec<_> = rows().collect();
    for size in [0, 1, 7, 100_000, usize::MAX] {
        let stream =
            mixed().orb_features(&orb(), &DecodeParams::default(), Parallelism::new(2)).explode();
        let mut got = Vec::new();
        for batch in stream.batches(size) {
            match batch {
                Ok(batch) => {
                    assert!(!batch.rows.is_empty() && batch.rows.len() <= size.max(1));
                    got.extend(batch.rows.into_iter().map(Ok));
                }
                Err(error) => got.push(Err(error.to_line())),
            }
        }
        assert_eq!(got, want);
    }
}

fn good_rows() -> impl Iterator<Item = Result<DescriptorRow>> {
    MemorySource::new(photos(30))
        .open()
        .unwrap()
        .orb_features(&orb(), &DecodeParams::default(), Parallelism::new(2))
        .explode()
}

#[test]
fn the_spool_gives_back_every_row_from_memory_and_from_a_file() {
    let want: Vec<DescriptorRow> = good_rows().map(Result::unwrap).collect();
    let folder = tempfile::tempdir().unwrap();
    let mut models = Vec::new();
    for memory in [0, 1000, 1 << 30] {
        let spool = Spool::default().with_memory(memory).with_folder(folder.path());
        let (model, rows) = good_rows().fit_pca(&PcaParams::new(5), &spool).unwrap();
        let rows: Vec<DescriptorRow> = rows.map(Result::unwrap).collect();
        assert_eq!(rows, want);
        // Rows of one image share what is known of it.
        assert!(Arc::ptr_eq(&rows[0].meta, &rows[1].meta));
        models.push(model);
    }
    assert!(models.windows(2).all(|m| m[0] == m[1]));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
}

#[test]
fn the_spool_keeps_odd_names_times_and_missing_labels() {
    use std::time::SystemTime;
    let meta = |uri: &str, label: Option<&str>, modified| {
        Arc::new(ImageMeta {
            uri: uri.to_owned(),
            label: label.map(str::to_owned),
            byte_len: u64::MAX - 1,
            modified,
            width: 70_000,
            height: 1,
            channels: 4,
        })
    };
    let epoch = SystemTime::UNIX_EPOCH;
    let metas = [
        meta("a b/ü+%20/\u{1F34E}.jpg", Some(""), Some(epoch + Duration::new(5, 7))),
        meta("", None, None),
        meta("x", Some("Pêche 1"), epoch.checked_sub(Duration::new(100, 3))),
    ];
    let rows: Vec<DescriptorRow> = (0..50)
        .map(|i: u32| DescriptorRow {
            meta: Arc::clone(&metas[i as usize / 20]),
            index: i,
            keypoint: KeyPoint {
                x: i as f32,
                y: -0.0,
                size: 31.5,
                angle: 359.9,
                response: -1e-9,
                octave: 7,
            },
            descriptor: std::array::from_fn(|j| (i as usize * 37 + j * j) as u8),
        })
        .collect();
    let spool = Spool::default().with_memory(64);
    let (_, back) = rows.iter().cloned().map(Ok).fit_pca(&PcaParams::new(2), &spool).unwrap();
    assert_eq!(back.map(Result::unwrap).collect::<Vec<_>>(), rows);
}

#[test]
fn a_spool_that_cannot_be_written_is_named() {
    let spool = Spool::default().with_memory(0).with_folder("/no/such/folder");
    let error = good_rows().fit_pca(&PcaParams::new(2), &spool).unwrap_err().to_line();
    assert!(error.contains("/no/such/folder"), "{error}");
}

#[test]
fn an_error_ends_a_fit_and_a_write() {
    let rows =
        || mixed().orb_features(&orb(), &DecodeParams::default(), Parallelism::new(2)).explode();
    let error = rows().fit_pca(&PcaParams::new(2), &Spool::default()).unwrap_err();
    assert!(error.to_string().contains("001.jpg"), "{error}");
    let error = rows().batches(10).write_to(NullSink::default()).unwrap_err();
    assert!(error.to_string().contains("001.jpg"), "{error}");
}

#[test]
fn the_window_bounds_how_far_the_threads_run_ahead() {
    let (pulled, window) = (Arc::new(AtomicUsize::new(0)), 6);
    let counter = Arc::clone(&pulled);
    let source = (0..10_000).inspect(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    let mut stream = source.par_map(Parallelism::new(3).with_window(window), || (), |(), i| i * 2);
    for emitted in 1..50 {
        assert_eq!(stream.next(), Some((emitted - 1) * 2));
        // Time for the threads to run ahead if they would.
        std::thread::sleep(Duration::from_millis(1));
        assert!(pulled.load(Ordering::SeqCst) <= emitted + window);
    }
    assert_eq!(stream.size_hint().0, 10_000 - 49);
    drop(stream);
    // Nothing runs on after the drop.
    let after = pulled.load(Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(5));
    assert_eq!(pulled.load(Ordering::SeqCst), after);
}

#[test]
fn a_parallel_stage_is_fused_and_reuses_its_working_memory() {
    let started = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&started);
    let mut stream = (0..500).par_map(
        Parallelism::new(4),
        move || counter.fetch_add(1, Ordering::SeqCst),
        |_, i: i32| -i,
    );
    assert!(stream.by_ref().eq((0..500).map(|i: i32| -i)));
    assert_eq!((stream.next(), stream.next()), (None, None));
    assert!(started.load(Ordering::SeqCst) <= 4);
    assert_eq!((0..0).par_map(Parallelism::new(2), || (), |(), i: i32| i).next(), None);
}

#[test]
fn work_may_use_rayon_itself() {
    fn sum(from: u64, to: u64) -> u64 {
        if to - from < 4 {
            return (from..to).sum();
        }
        let middle = u64::midpoint(from, to);
        let (a, b) = rayon::join(|| sum(from, middle), || sum(middle, to));
        a + b
    }
    let stream =
        (0..400_u64).par_map(Parallelism::new(4).with_window(8), || (), |(), i| sum(i, i + 500));
    assert!(stream.eq((0..400).map(|i| (i..i + 500).sum::<u64>())));
}

#[test]
fn source_and_work_are_gone_after_the_end_and_the_drop_and_any_window_is_good() {
    let parallelism = Parallelism::new(3).with_window(usize::MAX);
    for taken in [0, 1, 1000] {
        for _ in 0..50 {
            let held = Arc::new(());
            let [source, scratch, work] = [(); 3].map(|()| Arc::clone(&held));
            let mut stream =
                std::iter::repeat_with(move || Arc::clone(&source)).take(1000).par_map(
                    parallelism,
                    move || Arc::clone(&scratch),
                    move |_, item| (Arc::clone(&work), item),
                );
            assert_eq!(stream.by_ref().take(taken).count(), taken);
            drop(stream);
            assert_eq!(Arc::strong_count(&held), 1, "{taken}");
        }
    }
}

#[test]
fn a_panic_reaches_the_consumer() {
    for threads in [1, 3] {
        let caught = std::panic::catch_unwind(|| {
            (0..100)
                .par_map(Parallelism::new(threads), || (), |(), i| assert_ne!(i, 50, "at fifty"))
                .count()
        });
        assert!(caught.is_err());
        let caught = std::panic::catch_unwind(|| {
            let source = (0..100).inspect(|&i| assert_ne!(i, 50, "in the source"));
            source.par_map(Parallelism::new(threads), || (), |(), i| i).count()
        });
        assert!(caught.is_err());
    }
}

#[test]
fn public_types_can_cross_threads() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<Orb>();
    shared::<OrbParams>();
    shared::<PcaModel>();
    shared::<Moments>();
    shared::<Error>();
    shared::<DescriptorRow>();
    shared::<RowBatch>();
    sent::<OrbScratch>();
    sent::<Decoder>();
    sent::<SpooledRows>();
    sent::<Pipeline<FsSource, Orb, NullSink>>();
    sent::<orb_features::stage::ParMap<Result<ImageObject>, Result<ImageFeatures>>>();
}
