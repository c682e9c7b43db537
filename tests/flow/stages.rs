//! The stages one by one: lazy, in order, errors in place, bounded, the same for any threads.
#![cfg(feature = "jpeg")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use orb_features::prelude::*;
use orb_features::rows::ImageOutcome;
use testkit::photos;
use testkit::rows::{OrbRow, rows};

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

/// The stages one by one, on one thread.
fn serial(
    images: impl Iterator<Item = Result<ImageObject>>,
) -> impl Iterator<Item = Result<ImageFeatures>> {
    images.decode(DecodeParams::default(), orb().pixels()).extract(&orb())
}

/// The same stages on two threads.
fn parallel(
    images: impl Iterator<Item = Result<ImageObject>> + Send + 'static,
) -> impl Iterator<Item = Result<ImageFeatures>> + Send {
    images.features(&orb()).with_parallelism(Parallelism::new(2).unwrap())
}

/// The items of a stream, in comparable form.
fn shape(
    stream: impl Iterator<Item = Result<ImageFeatures>>,
) -> Vec<Result<ImageFeatures, String>> {
    stream.map(|item| item.map_err(|e| e.to_line())).collect()
}

#[test]
fn stages_do_nothing_until_pulled() {
    let panics = || std::iter::from_fn(|| -> Option<Result<ImageObject>> { panic!("pulled") });
    drop(serial(panics()).explode());
    drop(panics().features(&orb()).with_parallelism(Parallelism::new(3).unwrap()).explode());
    let rows = std::iter::from_fn(|| -> Option<Result<RowBatch>> { panic!("pulled") });
    let moments = {
        let mut m = Moments::new(32);
        let rows = ndarray::Array2::from_shape_fn((40, 32), |(i, j)| (i * j) as u8);
        m.push_rows(rows.view()).unwrap();
        m
    };
    drop(rows.project(&moments.fit(&PcaParams::new(2)).unwrap()));
}

/// Checks the size hints of an iterator against its length, which is returned.
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
    let images = || mixed().decode(DecodeParams::default(), orb().pixels());
    assert_eq!(images().size_hint(), (24, Some(24)));
    assert_eq!(images().extract(&orb()).size_hint(), (24, Some(24)));
    assert_eq!(mixed().features(&orb()).size_hint(), (24, Some(24)));
    assert_eq!(mixed().read().size_hint(), (24, Some(24)));
    assert_eq!(check_size_hints(images()), 24);
    assert_eq!(check_size_hints(serial(mixed())), 24);
    assert_eq!(check_size_hints(parallel(mixed())), 24);
    assert_eq!(check_size_hints(mixed().read()), 24);
    let policy = ErrorPolicy::new(OnError::Skip);
    assert_eq!(check_size_hints(parallel(mixed()).on_error(policy, &Tally::default())), 24);
    assert_eq!(check_size_hints(mixed().stop_at(&Arc::default())), 24);
    assert!(check_size_hints(serial(mixed()).explode()) > 0);

    let (model, spooled) = good_batches().fit_pca(&PcaParams::new(2), &Spool::default()).unwrap();
    let n = good_batches().count();
    assert!(n > 3);
    assert_eq!(spooled.size_hint(), (1, Some(n)));
    assert_eq!(check_size_hints(spooled), n);
    let batches: Vec<_> = good_batches().collect();
    assert_eq!(check_size_hints(batches.into_iter().project(&model)), n);
}

#[test]
fn parallelism_is_as_asked() {
    let three = Parallelism::new(3).unwrap();
    assert_eq!((three.threads(), three.window()), (3, 96));
    assert_eq!(three.with_window(7).window(), 7);
}

#[test]
fn the_sink_of_nothing_counts() {
    let mut sink = NullSink::default();
    for n in [2, 3] {
        sink.write(first_rows(n)).unwrap();
    }
    let broken = ImageObject::new("broken.jpg", &b"\xff\xd8"[..]);
    let error = Decoder::new(DecodeParams::default()).decode(&broken).unwrap_err();
    for _ in 0..2 {
        let mut batch = first_rows(0);
        batch.push_failed(FailedImage::from(&error));
        sink.write(batch).unwrap();
    }
    let report = sink.finish().unwrap();
    assert_eq!((report.rows, report.failures, report.path), (5, 2, None));
}

#[test]
fn serial_and_parallel_stages_give_the_same_with_errors_in_place() {
    let want = shape(serial(mixed()));
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
            let parallelism = Parallelism::new(threads).unwrap().with_window(window);
            let images = mixed().features(&orb()).with_parallelism(parallelism);
            assert_eq!(shape(images), want);
        }
    }
}

#[test]
fn explode_gives_a_row_for_each_descriptor_in_order() {
    let images: Vec<ImageFeatures> = parallel(mixed()).filter_map(Result::ok).collect();
    let batches = images.iter().cloned().map(Ok).explode().map(Result::unwrap);
    let exploded: Vec<OrbRow> = batches.flat_map(|batch| rows(&batch)).collect();
    let mut next = exploded.iter();
    for image in &images {
        let descriptors = image.vectors.as_u8().unwrap().chunks(32);
        for (i, (keypoint, descriptor)) in image.keypoints.iter().zip(descriptors).enumerate() {
            let row = next.next().unwrap();
            assert!(Arc::ptr_eq(&row.meta, &image.meta));
            assert_eq!((row.index as usize, &row.keypoint), (i, keypoint));
            assert_eq!(row.descriptor, descriptor);
        }
    }
    assert!(next.next().is_none());
    // An image without features is in a batch, but has no row.
    let empty = ImageFeatures::new(Arc::clone(&images[0].meta), Features::default());
    let [batch] = &[Ok(empty)].into_iter().explode().collect::<Vec<_>>()[..] else { panic!("one") };
    let batch = batch.as_ref().unwrap();
    assert_eq!((batch.len(), batch.images().len()), (0, 1));
    let nothing = std::iter::empty::<Result<ImageFeatures>>();
    assert!(nothing.explode().next().is_none());
}

#[test]
fn batches_keep_rows_errors_and_their_order() {
    let exploded = |size| parallel(mixed()).explode().with_batch_rows(size);
    let flat = |size: usize| {
        let mut all = Vec::new();
        for batch in exploded(size) {
            match batch {
                Ok(batch) => {
                    assert!(!batch.is_empty() && batch.len() <= size);
                    all.extend(rows(&batch).into_iter().map(Ok));
                }
                Err(error) => all.push(Err(error.to_line())),
            }
        }
        all
    };
    let want = flat(1024);
    assert_eq!(want.iter().filter(|row| row.is_err()).count(), 8);
    for size in [1, 7, 100_000, usize::MAX] {
        assert_eq!(flat(size), want, "{size}");
    }
    let mut none = exploded(0);
    assert!(matches!(none.next(), Some(Err(Error::InvalidParam { .. }))));
    assert!(none.next().is_none());
}

/// Failures are in batches, in order, also where a batch begins with them.
#[test]
fn failures_come_with_the_rows() {
    let failed = |i: u32| FailedImage::new(Some(format!("{i}.jpg")), "decode", "corrupt", "broken");
    let good = |i: u32| {
        let meta = Arc::new(ImageMeta::new(format!("{i}.jpg")));
        testkit::rows::image(meta, [(KeyPoint::default(), [i as u8; 32])])
    };
    let stream = || {
        (0..5000).map(move |i| {
            Ok(if i % 5 == 0 || i < 1500 {
                ImageOutcome::Failed(failed(i))
            } else {
                ImageOutcome::Features(good(i))
            })
        })
    };
    let batches: Vec<RowBatch> = stream().explode().collect::<Result<_>>().unwrap();
    let found: usize = batches.iter().map(|batch| batch.failed().len()).sum();
    assert_eq!(found + batches.iter().map(RowBatch::len).sum::<usize>(), 5000);
    let uris = batches.iter().flat_map(RowBatch::failed).map(|f| f.uri.clone().unwrap());
    let want = (0..5000).filter(|i| i % 5 == 0 || *i < 1500).map(|i| format!("{i}.jpg"));
    assert!(uris.eq(want));
    // A spool keeps them.
    let (_, spooled) =
        stream().explode().fit_pca(&PcaParams::new(1), &Spool::default().with_memory(0)).unwrap();
    assert_eq!(spooled.collect::<Result<Vec<_>>>().unwrap(), batches);
    // With a given format, failures need no image to tell the columns; without either, the columns are
    // unknown.
    let lost = || (0..3).map(|i| Ok(ImageOutcome::Failed(failed(i))));
    let format = orb().output();
    let shown: Vec<RowBatch> = lost().explode().with_format(format).map(Result::unwrap).collect();
    assert_eq!((shown[0].failed().len(), shown[0].format()), (3, format));
    assert!(matches!(lost().explode().next(), Some(Err(Error::Shape(_)))));
}

#[test]
fn failures_without_a_format_are_bounded() {
    let failed = || {
        let error = Error::shape("no image");
        Ok(ImageOutcome::Failed(FailedImage::from(&error)))
    };
    let explode = |n: usize| std::iter::repeat_with(failed).take(n).explode();
    let mut endless = explode(usize::MAX);
    let error = endless.next().unwrap().unwrap_err().to_line();
    assert!(error.contains("the first 65536 images failed"), "{error}");
    assert!(explode(5).next().unwrap().unwrap_err().to_line().contains("all 5 images failed"));
    let all: usize = explode(70_000)
        .with_format(VectorFormat::u8(32))
        .map(|batch| batch.unwrap().failed().len())
        .sum();
    assert_eq!(all, 70_000);
}

fn good_batches() -> impl Iterator<Item = Result<RowBatch>> + Send {
    parallel(MemorySource::new(photos(30)).open().unwrap()).explode().with_batch_rows(7)
}

/// The first `n` rows of an image.
fn first_rows(n: usize) -> RowBatch {
    let image = parallel(mixed()).find_map(Result::ok).unwrap();
    let mut batch = testkit::rows::batch([]);
    batch.push_range(&image, 0..n).unwrap();
    batch
}

fn rows_of(batches: impl Iterator<Item = Result<RowBatch>>) -> Vec<OrbRow> {
    batches.flat_map(|batch| rows(&batch.unwrap())).collect()
}

#[test]
fn the_spool_gives_back_every_row_from_memory_and_from_a_file() {
    let want = rows_of(good_batches());
    let folder = tempfile::tempdir().unwrap();
    let mut models = Vec::new();
    for memory in [0, 1000, 1 << 30] {
        let spool = Spool::default().with_memory(memory).with_folder(folder.path());
        let (model, batches) = good_batches().fit_pca(&PcaParams::new(5), &spool).unwrap();
        assert_eq!(rows_of(batches), want);
        models.push(model);
    }
    assert!(models.windows(2).all(|m| m[0] == m[1]));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
}

#[test]
fn the_spool_keeps_odd_names_times_and_missing_labels() {
    use std::time::SystemTime;
    let meta = |uri: &str, label: Option<&str>, modified| {
        let mut meta = ImageMeta::new(uri).with_file(u64::MAX - 1, modified);
        meta.label = label.map(str::to_owned);
        Arc::new(meta.with_shape(70_000, 1, 4))
    };
    let epoch = SystemTime::UNIX_EPOCH;
    let metas = [
        meta("a b/ü+%20/\u{1F34E}.jpg", Some(""), Some(epoch + Duration::new(5, 7))),
        meta("", None, None),
        meta("x", Some("Pêche 1"), epoch.checked_sub(Duration::new(100, 3))),
    ];
    let row = |i: u32| {
        let keypoint =
            KeyPoint { x: i as f32, y: -0.0, size: 31.5, angle: 359.9, response: -1e-9, octave: 7 };
        (keypoint, std::array::from_fn(|j| (i as usize * 37 + j * j) as u8))
    };
    let spool = Spool::default().with_memory(64);
    let images: Vec<ImageFeatures> =
        metas.into_iter().map(|meta| testkit::rows::image(meta, (0..20).map(row))).collect();
    // The same if an image continues in the next batch.
    let batches = || images.iter().cloned().map(Ok).explode().with_batch_rows(13);
    let (_, back) = batches().fit_pca(&PcaParams::new(2), &spool).unwrap();
    let back: Vec<RowBatch> = back.map(Result::unwrap).collect();
    assert_eq!(back, batches().map(Result::unwrap).collect::<Vec<_>>());
    assert_eq!(back[1].images()[0].first_index, 13);

    // Floats, without keypoints.
    let floats = Vectors::from_f32((0..90).map(|i| i as f32 / 7.0 - 3.0).collect(), 3).unwrap();
    let image = ImageFeatures::new(Arc::clone(&images[0].meta), floats);
    let batches = || [Ok(image.clone())].into_iter().explode().with_batch_rows(8);
    let (model, back) = batches().fit_pca(&PcaParams::new(2), &spool).unwrap();
    let back: Vec<RowBatch> = back.map(Result::unwrap).collect();
    assert_eq!(back, batches().map(Result::unwrap).collect::<Vec<_>>());
    let scores =
        back.into_iter().map(Ok).project(&model).map(|b| b.unwrap().scores().unwrap().nrows());
    assert_eq!(scores.sum::<usize>(), 30);
    let of_bytes = good_batches().project(&model).next().unwrap().unwrap_err().to_string();
    assert!(of_bytes.contains("rows of 3 elements"), "{of_bytes}");
}

#[test]
fn a_spool_that_cannot_be_written_is_named() {
    let spool = Spool::default().with_memory(0).with_folder("/no/such/folder");
    let error = good_batches().fit_pca(&PcaParams::new(2), &spool).unwrap_err().to_line();
    assert!(error.contains("/no/such/folder"), "{error}");
}

#[test]
fn an_error_ends_a_fit_and_a_write() {
    let batches = || parallel(mixed()).explode();
    let error = batches().fit_pca(&PcaParams::new(2), &Spool::default()).unwrap_err();
    assert!(error.to_string().contains("001.jpg"), "{error}");
    let error = batches().write_to(NullSink::default()).unwrap_err();
    assert!(error.to_string().contains("001.jpg"), "{error}");
}

/// An extractor that wants eight images at a time, and counts what it gets.
#[derive(Clone, Default)]
struct Sizes(Arc<AtomicUsize>);

impl FeatureExtractor for Sizes {
    type Scratch = ();

    fn describe(&self) -> String {
        "{}".to_owned()
    }

    fn pixels(&self) -> PixelSpec {
        PixelSpec::new(PixelFormat::Bgr).with_size(4, 3)
    }

    fn output(&self) -> VectorFormat {
        VectorFormat::f32(2)
    }

    fn extract(&self, image: PixelView<'_>, (): &mut ()) -> Result<Extracted> {
        assert_eq!((image.width(), image.height(), image.format()), (4, 3, PixelFormat::Bgr));
        let first = f32::from(image.as_bytes()[0]);
        assert!(first < 250.0, "too bright");
        Ok(Vectors::from_f32(vec![first, 1.0], 2)?.into())
    }

    fn batch_len(&self) -> usize {
        8
    }

    fn extract_batch(&self, images: &[PixelView<'_>], scratch: &mut ()) -> Vec<Result<Extracted>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        images.iter().map(|&image| self.extract(image, scratch)).collect()
    }
}

#[test]
fn an_extractor_gets_its_pixels_in_batches_and_a_panic_costs_one_image() {
    let ppm = |blue: u8| [b"P6 2 2 255\n".to_vec(), [0, 0, blue].repeat(4)].concat();
    let images = || {
        (0..20).map(move |i: u8| {
            let bytes = match i {
                3 => b"no image".to_vec(),
                12 => ppm(255),
                i => ppm(i),
            };
            Ok(ImageObject::new(format!("{i}.ppm"), bytes))
        })
    };
    for threads in [1, 3] {
        let sizes = Sizes::default();
        let found: Vec<_> = images()
            .features(&sizes)
            .with_parallelism(Parallelism::new(threads).unwrap())
            .collect();
        assert_eq!((found.len(), sizes.0.load(Ordering::SeqCst)), (20, 3));
        for (i, image) in found.iter().enumerate() {
            match (i, image) {
                (3, Err(error)) => assert_eq!(error.code(), "not_an_image"),
                (12, Err(error)) => assert!(error.to_line().contains("too bright"), "{error}"),
                (_, Ok(image)) => {
                    assert_eq!(image.vectors.as_f32().unwrap(), [i as f32, 1.0]);
                    assert_eq!(
                        (image.meta.width, image.meta.uri.as_str()),
                        (2, &*format!("{i}.ppm"))
                    );
                }
                (_, Err(error)) => panic!("{i}: {error}"),
            }
        }
    }
}

#[test]
fn the_window_bounds_how_far_the_threads_run_ahead() {
    let (pulled, window) = (Arc::new(AtomicUsize::new(0)), 6);
    let counter = Arc::clone(&pulled);
    let source = (0..10_000).inspect(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    let mut stream =
        source.par_map(Parallelism::new(3).unwrap().with_window(window), || (), |(), i| i * 2);
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
        Parallelism::new(4).unwrap(),
        move || counter.fetch_add(1, Ordering::SeqCst),
        |_, i: i32| -i,
    );
    assert!(stream.by_ref().eq((0..500).map(|i: i32| -i)));
    assert_eq!((stream.next(), stream.next()), (None, None));
    assert!(started.load(Ordering::SeqCst) <= 4);
    assert_eq!((0..0).par_map(Parallelism::new(2).unwrap(), || (), |(), i: i32| i).next(), None);
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
    let stream = (0..400_u64).par_map(
        Parallelism::new(4).unwrap().with_window(8),
        || (),
        |(), i| sum(i, i + 500),
    );
    assert!(stream.eq((0..400).map(|i| (i..i + 500).sum::<u64>())));
    // The same if maps share threads.
    for threads in [2, 3, 4] {
        let shared = Parallelism::new(threads).unwrap();
        let first = (0..400_u64).par_map(shared.clone(), || (), |(), i| sum(i, i + 500));
        let second = first.par_map(shared, || (), |(), s| s + sum(0, 100));
        assert!(second.eq((0..400).map(|i| (i..i + 500).sum::<u64>() + 4950)));
    }
}

/// Whole jobs run as the work of a map, on its threads. Each job writes Parquet, and waits for its columns to
/// be encoded.
#[cfg(feature = "parquet")]
#[test]
fn jobs_within_a_map_share_its_threads() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_owned();
    let shared = Parallelism::new(2).unwrap();
    let inner = shared.clone();
    let rows = (0..6).par_map(
        shared,
        || (),
        move |(), i| {
            let sink = FileSink::create(root.join(i.to_string()), FileParams::default()).unwrap();
            let job = Pipeline::new(MemorySource::new(photos(12)), orb(), sink);
            job.with_parallelism(inner.clone()).run().unwrap().rows
        },
    );
    let rows: Vec<u64> = rows.collect();
    assert!(rows.len() == 6 && rows[0] > 50 && rows.iter().all(|n| *n == rows[0]));
}

/// The stage that gets invalid parameters says so, and refuses pixels other than those it asked for.
#[test]
fn stages_check_what_they_are_given() {
    let first = |error: Option<Result<ImageFeatures>>| error.unwrap().unwrap_err().to_line();
    let decode = DecodeParams::default().with_max_side(0);
    assert!(
        first(mixed().features(&orb()).with_decode(decode.clone()).next()).contains("max_side")
    );
    let serial = mixed().decode(decode, orb().pixels()).extract(&orb()).next();
    assert!(first(serial).contains("max_side"));
    let spec = PixelSpec::new(PixelFormat::Rgb);
    let other = mixed().decode(DecodeParams::default(), spec).extract(&orb()).next();
    assert!(first(other).contains("rgb pixels"), "pixels of another format");
    let small = PixelSpec::new(PixelFormat::Bgr).with_size(4, 2);
    let other = mixed().decode(DecodeParams::default(), small).extract(&Sizes::default()).next();
    assert!(first(other).contains("(4, 2)"), "pixels of another size");
    let policy = ErrorPolicy::new(OnError::Fail).with_max_failures(MaxFailures::Images(1));
    let mut tolerant = parallel(mixed()).on_error(policy, &Tally::default());
    assert!(tolerant.next().unwrap().unwrap_err().to_line().contains("max_failures"));
    assert!(tolerant.next().is_none());
    // The image of the target size counts as allocated memory, too.
    let decode = DecodeParams::default().with_max_alloc(1 << 20);
    let huge = PixelSpec::new(PixelFormat::Rgb).with_size(9, 60_000);
    let error = mixed().decode(decode, huge).next().unwrap().unwrap_err();
    assert_eq!(error.code(), "too_large");
}

#[test]
fn source_and_work_are_gone_after_the_end_and_the_drop_and_any_window_is_good() {
    let parallelism = Parallelism::new(3).unwrap().with_window(usize::MAX);
    for taken in [0, 1, 1000] {
        for _ in 0..50 {
            let held = Arc::new(());
            let [source, scratch, work] = [(); 3].map(|()| Arc::clone(&held));
            let mut stream =
                std::iter::repeat_with(move || Arc::clone(&source)).take(1000).par_map(
                    parallelism.clone(),
                    move || Arc::clone(&scratch),
                    move |_, item| (Arc::clone(&work), item),
                );
            assert_eq!(stream.by_ref().take(taken).count(), taken);
            drop(stream);
            assert_eq!(Arc::strong_count(&held), 1, "{taken}");
        }
    }
}

/// Maps that share threads, nested in each other's source and work, with fewer threads than maps.
#[test]
fn maps_within_maps_share_threads_and_come_to_their_end() {
    for threads in [1, 2, 3, 4] {
        for window in [1, 3, 100] {
            let shared = Parallelism::new(threads).unwrap().with_window(window);
            let mut chain: Box<dyn Iterator<Item = u64> + Send> = Box::new(0..300);
            for _ in 0..4 {
                chain = Box::new(chain.par_map(shared.clone(), || (), |(), i| i + 1));
            }
            assert!(chain.eq(4..304), "{threads} {window}");
            let inner = shared.clone();
            let within = (0..40_u64).par_map(
                shared.clone(),
                || (),
                move |(), i| (0..i).par_map(inner.clone(), || (), |(), j| j).sum::<u64>(),
            );
            assert!(within.eq((0..40).map(|i| (0..i).sum::<u64>())), "{threads} {window}");
            // Side by side, and dropped half-way.
            let map = || (0..200_u64).par_map(shared.clone(), || (), |(), i| i);
            let (mut one, mut other) = (map(), map());
            for i in 0..100 {
                assert_eq!((one.next(), other.next()), (Some(i), Some(i)));
            }
            drop(one);
            assert!(other.eq(100..200));
            // Chains of several consumers.
            let chains = (0..4).map(|_| {
                let (source, shared) = (map(), shared.clone());
                let chain = move || source.par_map(shared, || (), |(), i| i + 1).sum::<u64>();
                std::thread::spawn(chain)
            });
            let chains: Vec<_> = chains.collect();
            assert!(chains.into_iter().all(|chain| chain.join().unwrap() == 20_100));
        }
    }
    assert!(matches!(Parallelism::new(0), Err(Error::InvalidParam { .. })));
}

/// No more threads work at a time than were asked for, whatever the stages.
#[test]
fn a_job_has_one_set_of_threads() {
    let names = Arc::new(std::sync::Mutex::new(std::collections::BTreeSet::new()));
    let shared = Parallelism::new(3).unwrap();
    let mut chain: Box<dyn Iterator<Item = u64> + Send> = Box::new(0..500);
    for _ in 0..2 {
        let names = Arc::clone(&names);
        chain = Box::new(chain.par_map(
            shared.clone(),
            || (),
            move |(), i| {
                names.lock().unwrap().insert(format!("{:?}", std::thread::current().id()));
                i
            },
        ));
    }
    assert_eq!(chain.count(), 500);
    assert!(names.lock().unwrap().len() <= 3, "{names:?}");
}

#[test]
fn a_panic_reaches_the_consumer() {
    for threads in [1, 3] {
        let caught = std::panic::catch_unwind(|| {
            (0..100)
                .par_map(
                    Parallelism::new(threads).unwrap(),
                    || (),
                    |(), i| assert_ne!(i, 50, "at fifty"),
                )
                .count()
        });
        assert!(caught.is_err());
        let caught = std::panic::catch_unwind(|| {
            let source = (0..100).inspect(|&i| assert_ne!(i, 50, "in the source"));
            source.par_map(Parallelism::new(threads).unwrap(), || (), |(), i| i).count()
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
    shared::<RowBatch>();
    sent::<OrbScratch>();
    sent::<Decoder>();
    sent::<SpooledBatches>();
    sent::<Pipeline<FsSource, Orb, NullSink>>();
    sent::<orb_features::stage::ParMap<Result<ImageObject>, Result<ImageFeatures>>>();
}
