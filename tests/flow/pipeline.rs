//! The whole job: the same for any threads, nothing lost, policies, reports.
#![cfg(feature = "jpeg")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use orb_features::prelude::*;
use orb_features::rows::DEFAULT_BATCH_ROWS;
use testkit::photos;
use testkit::rows::{OrbRow, rows};

/// A sink that keeps everything where the test can see it.
#[derive(Clone, Default)]
struct Keep(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    notes: BTreeMap<String, String>,
    rows: Vec<OrbRow>,
    scores: Vec<Vec<f64>>,
    failures: Vec<FailedImage>,
    finished: bool,
}

impl RowSink for Keep {
    fn annotate(&mut self, key: &str, value: &str) {
        self.0.lock().unwrap().notes.insert(key.to_owned(), value.to_owned());
    }

    fn write(&mut self, batch: RowBatch) -> Result<()> {
        let mut kept = self.0.lock().unwrap();
        kept.rows.extend(rows(&batch));
        kept.failures.extend_from_slice(batch.failed());
        if let Some(scores) = batch.scores() {
            kept.scores.extend(scores.rows().into_iter().map(|r| r.to_vec()));
        }
        Ok(())
    }

    fn finish(self) -> Result<SinkReport> {
        let mut kept = self.0.lock().unwrap();
        kept.finished = true;
        let mut report = SinkReport::default();
        report.rows = kept.rows.len() as u64;
        Ok(report)
    }
}

fn orb() -> Orb {
    OrbParams::default().build().unwrap()
}

fn photos(n: u32) -> Vec<(String, Vec<u8>)> {
    (0..n)
        .map(|i| (format!("kind {}/{i:03}.jpg", i % 6), photos::photo(i as usize % 6, i).unwrap()))
        .collect()
}

/// Good photos among files that fail in every way, and the expected number of failures by cause.
fn troubled() -> (MemorySource, BTreeMap<String, u64>) {
    let mut images = photos(20);
    let good = images[0].1.clone();
    let pgm =
        |w: usize, h: usize| [format!("P5 {w} {h} 255\n").into_bytes(), vec![7; w * h]].concat();
    let mut trouble = vec![
        ("t/empty.jpg", Vec::new(), "empty"),
        ("t/text.jpg", b"just some text".to_vec(), "not_an_image"),
        ("t/half.jpg", good[..good.len() / 2].to_vec(), "corrupt"),
        ("t/head.jpg", good[..30].to_vec(), "corrupt"),
        ("t/one.pgm", pgm(1, 1), "empty_level"),
        ("t/thin.pgm", pgm(1, 500), "empty_level"),
        ("t/bomb.pgm", b"P5 50000 50000 255\n".to_vec(), "too_large"),
    ];
    let mut causes = BTreeMap::new();
    for (i, (name, bytes, cause)) in trouble.drain(..).enumerate() {
        *causes.entry(cause.to_owned()).or_insert(0) += 1;
        images.insert(3 * i, (name.to_owned(), bytes));
    }
    // These do not fail; they only have no features.
    images.push(("t/flat.pgm".to_owned(), pgm(100, 100)));
    images.push(("t/small.pgm".to_owned(), pgm(2, 2)));
    (MemorySource::new(images), causes)
}

#[test]
fn the_result_is_the_same_for_any_threads_windows_and_spools() {
    let run = |parallelism: Parallelism, memory: usize| {
        let keep = Keep::default();
        let report = Pipeline::new(MemorySource::new(photos(60)), orb(), keep.clone())
            .with_parallelism(parallelism)
            .with_spool(Spool::default().with_memory(memory))
            .run()
            .unwrap();
        let kept = std::mem::take(&mut *keep.0.lock().unwrap());
        (kept.rows, kept.scores, kept.notes, report.pca_model.unwrap())
    };
    let want = run(Parallelism::new(1).unwrap(), usize::MAX);
    assert!(want.0.len() > 300 && want.1.len() == want.0.len());
    for threads in [2, 3, 7] {
        for (window, memory) in [(1, 0), (64, 10_000)] {
            assert!(
                run(Parallelism::new(threads).unwrap().with_window(window), memory) == want,
                "{threads}"
            );
        }
    }
}

#[test]
fn one_call_and_stage_by_stage_agree() {
    let keep = Keep::default();
    let report = Pipeline::new(MemorySource::new(photos(30)), orb(), keep.clone()).run().unwrap();
    let (model, rows) = MemorySource::new(photos(30))
        .open()
        .unwrap()
        .features(&orb())
        .with_parallelism(Parallelism::new(2).unwrap())
        .explode()
        .fit_pca(&PcaParams::new(20), &Spool::default())
        .unwrap();
    let staged = Keep::default();
    let sunk = rows.project(&model).write_to(staged.clone()).unwrap();
    // Only the pipeline knows how the descriptors were made; rows do not.
    assert_eq!(model.origin(), None);
    let model = model.with_origin(Origin::new(&orb(), &DecodeParams::default()));
    assert_eq!(report.pca_model, Some(model));
    assert_eq!(report.sink.rows, sunk.rows);
    let (a, b) = (keep.0.lock().unwrap(), staged.0.lock().unwrap());
    assert!(a.rows == b.rows && a.scores == b.scores);
}

#[test]
fn every_image_is_accounted_for_with_its_cause() {
    let (source, causes) = troubled();
    for policy in [OnError::Skip, OnError::Record] {
        let keep = Keep::default();
        let report = Pipeline::new(source.clone(), orb(), keep.clone())
            .with_on_error(policy)
            .with_parallelism(Parallelism::new(3).unwrap())
            .run()
            .unwrap();
        let failed: u64 = causes.values().sum();
        assert_eq!(report.images, 20 + failed + 2);
        assert_eq!(report.decoded, 22);
        assert_eq!(report.failed, causes);
        assert_eq!(report.without_features, 2);
        assert_eq!(report.rows, report.sink.rows);
        assert_eq!(report.first_failures.len() as u64, failed);
        let kept = keep.0.lock().unwrap();
        // The good images are not affected.
        let alone = Keep::default();
        Pipeline::new(MemorySource::new(photos(20)), orb(), alone.clone()).run().unwrap();
        assert!(kept.rows == alone.0.lock().unwrap().rows);
        if policy == OnError::Record {
            let uris: Vec<_> = kept.failures.iter().map(|f| f.uri.clone().unwrap()).collect();
            assert_eq!(uris.len() as u64, failed);
            assert!(kept.failures.iter().all(|failure| failure.recorded));
            assert!(uris.iter().all(|u| u.starts_with("t/")), "{uris:?}");
            let half =
                kept.failures.iter().find(|f| f.uri.as_deref() == Some("t/half.jpg")).unwrap();
            assert_eq!((half.stage.as_str(), half.cause.as_str()), ("decode", "corrupt"));
            assert!(half.message.contains("t/half.jpg"));
        } else {
            assert_eq!(kept.failures.len() as u64, failed);
            assert!(kept.failures.iter().all(|failure| !failure.recorded));
        }
        let text = report.to_string();
        assert!(text.contains("t/half.jpg") && text.contains("corrupt 2"), "{text}");
    }
}

/// A caller's extractor that fails in its own ways on some images.
#[derive(Clone)]
struct Faulty(Orb);

impl FeatureExtractor for Faulty {
    type Scratch = OrbScratch;

    fn describe(&self) -> String {
        self.0.describe()
    }

    fn pixels(&self) -> PixelSpec {
        self.0.pixels()
    }

    fn output(&self) -> VectorFormat {
        self.0.output()
    }

    fn extract(&self, image: PixelView<'_>, scratch: &mut OrbScratch) -> Result<Extracted> {
        let mut features = self.0.extract(image, scratch)?;
        match (image.width(), image.height()) {
            (3, _) => panic!("three {} are too few", "columns"),
            (_, 3) => features.keypoints.push(KeyPoint::default()),
            _ => {}
        }
        Ok(features)
    }
}

#[test]
fn an_extractor_that_panics_or_miscounts_costs_one_image() {
    let pgm =
        |w: usize, h: usize| [format!("P5 {w} {h} 255\n").into_bytes(), vec![7; w * h]].concat();
    let mut images = photos(8);
    images.insert(2, ("t/panics.pgm".to_owned(), pgm(3, 9)));
    images.insert(5, ("t/miscounts.pgm".to_owned(), pgm(9, 3)));
    let keep = Keep::default();
    let extractor = Faulty(orb());
    let report = Pipeline::new(MemorySource::new(images.clone()), extractor.clone(), keep.clone())
        .without_pca()
        .with_on_error(OnError::Record)
        .run()
        .unwrap();
    let causes = [("panic".to_owned(), 1), ("wrong_shape".to_owned(), 1)];
    assert_eq!(report.failed, BTreeMap::from(causes));
    let kept = keep.0.lock().unwrap();
    let messages: Vec<_> = kept.failures.iter().map(|f| f.message.as_str()).collect();
    assert!(messages[0].contains("t/panics.pgm") && messages[0].contains("three columns"));
    assert!(messages[1].contains("t/miscounts.pgm") && messages[1].contains("1 keypoints"));
    // All the others are there.
    let others = keep.clone();
    let whole = Keep::default();
    drop(kept);
    Pipeline::new(MemorySource::new(photos(8)), orb(), whole.clone()).without_pca().run().unwrap();
    assert_eq!(others.0.lock().unwrap().rows, whole.0.lock().unwrap().rows);
    // Stage by stage, too.
    let images = MemorySource::new(images).open().unwrap().features(&extractor);
    assert_eq!(images.explode().filter(Result::is_err).count(), 2);
}

/// Images that are left out count, too.
#[test]
fn progress_is_shown_after_each_image() {
    let (source, causes) = troubled();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let report = Pipeline::new(source, orb(), NullSink::default())
        .with_on_error(OnError::Skip)
        .with_progress(move |progress| {
            if progress.written == 0 {
                assert_eq!(progress.images, count.fetch_add(1, Ordering::SeqCst) as u64 + 1);
            }
        })
        .run()
        .unwrap();
    assert_eq!(seen.load(Ordering::SeqCst) as u64, report.images);
    assert!(causes.values().sum::<u64>() > 5);
}

#[test]
fn by_default_the_first_failure_in_order_ends_the_job() {
    let (source, _) = troubled();
    for threads in [1, 4] {
        let keep = Keep::default();
        let error = Pipeline::new(source.clone(), orb(), keep.clone())
            .with_parallelism(Parallelism::new(threads).unwrap())
            .run()
            .unwrap_err();
        assert_eq!(error.uri(), Some("t/empty.jpg"));
        assert!(!keep.0.lock().unwrap().finished);
    }
}

#[test]
fn without_a_pca_and_with_a_given_model() {
    let plain = Keep::default();
    let report = Pipeline::new(MemorySource::new(photos(20)), orb(), plain.clone())
        .without_pca()
        .run()
        .unwrap();
    assert!(report.model.is_none() && plain.0.lock().unwrap().scores.is_empty());
    assert!(!plain.0.lock().unwrap().notes.contains_key("pca"));

    let fitted = Keep::default();
    let report = Pipeline::new(MemorySource::new(photos(20)), orb(), fitted.clone())
        .with_pca(PcaParams::new(3))
        .run()
        .unwrap();
    let model = report.pca_model.unwrap();
    let reused = Keep::default();
    let report = Pipeline::new(MemorySource::new(photos(20)), orb(), reused.clone())
        .with_model(model.clone())
        .run()
        .unwrap();
    let (a, b) = (fitted.0.lock().unwrap(), reused.0.lock().unwrap());
    assert!(a.rows == b.rows && a.scores == b.scores && a.notes == b.notes);
    assert_eq!(report.model.unwrap().n_components, 3);
    let note: PcaModel = serde_json::from_str(&a.notes["pca"]).unwrap();
    assert_eq!(note, model);
    let orb_note: serde_json::Value = serde_json::from_str(&a.notes["orb"]).unwrap();
    assert_eq!(orb_note["params"]["n_features"], 30);
}

#[test]
fn impossible_jobs_end_with_their_reason() {
    let flat = || {
        let pgm = [b"P5 100 100 255\n".to_vec(), vec![9; 10_000]].concat();
        MemorySource::new([("a.pgm", pgm.clone()), ("b.pgm", pgm)])
    };
    let error = Pipeline::new(flat(), orb(), NullSink::default()).run().unwrap_err().to_string();
    assert!(error.contains("0 rows for 20 components"), "{error}");
    assert!(error.contains("2 images: 2 without features, 0 failed"), "{error}");
    // Without a fit, the same images are no error.
    let report = Pipeline::new(flat(), orb(), NullSink::default()).without_pca().run().unwrap();
    assert_eq!((report.images, report.without_features, report.rows), (2, 2, 0));
    for k in [0, 33] {
        let pipeline =
            Pipeline::new(flat(), orb(), NullSink::default()).with_pca(PcaParams::new(k));
        assert!(matches!(pipeline.run(), Err(Error::InvalidParam { .. })));
    }
    let folder = tempfile::tempdir().unwrap();
    let empty = Pipeline::new(FsSource::new(folder.path()), orb(), NullSink::default())
        .with_on_error(OnError::Skip)
        .without_pca();
    assert!(
        matches!(empty.run(), Err(Error::NoInput { .. })),
        "no policy makes nothing of something"
    );
    let missing = Pipeline::new(FsSource::new("/no/such"), orb(), NullSink::default());
    assert!(missing.run().unwrap_err().to_line().contains("/no/such"));
}

#[test]
fn a_job_can_be_watched_and_stopped() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&seen);
    let report = Pipeline::new(MemorySource::new(photos(10)), orb(), NullSink::default())
        .with_pca(PcaParams::new(2))
        .with_progress(move |p| keep.lock().unwrap().push(*p))
        .run()
        .unwrap();
    let last = *seen.lock().unwrap().last().unwrap();
    assert_eq!((last.images, last.rows, last.written), (10, report.rows, report.rows));

    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let keep = Keep::default();
    let stopped = Pipeline::new(MemorySource::new(photos(50)), orb(), keep.clone())
        .with_progress(move |p| flag.store(p.images == 20, Ordering::Relaxed))
        .with_stop(stop)
        .run();
    assert!(matches!(stopped, Err(Error::Interrupted)));
    assert!(!keep.0.lock().unwrap().finished);
}

#[test]
fn the_report_is_json_and_back() {
    let report = Pipeline::new(MemorySource::new(photos(10)), orb(), NullSink::default())
        .with_pca(PcaParams::new(2))
        .run()
        .unwrap();
    let json = serde_json::to_string(&report).unwrap();
    let mut back: RunReport = serde_json::from_str(&json).unwrap();
    back.pca_model = report.pca_model.clone();
    assert_eq!(back, report);
    assert_eq!(report.bytes_in, photos(10).iter().map(|p| p.1.len() as u64).sum::<u64>());
}

/// A source that gives `answer` for each image, and counts the calls.
struct Repeat<F> {
    answer: F,
    images: usize,
    asked: Arc<AtomicUsize>,
}

impl<F: Fn(usize) -> Result<ImageObject> + Send + 'static> ImageSource for Repeat<F> {
    type Image = ImageObject;
    type Images = Box<dyn Iterator<Item = Result<ImageObject>> + Send>;

    fn open(self) -> Result<Self::Images> {
        let Self { answer, images, asked } = self;
        Ok(Box::new((0..images).map(move |i| {
            asked.fetch_add(1, Ordering::SeqCst);
            answer(i)
        })))
    }
}

fn refused(i: usize) -> Result<ImageObject> {
    let (uri, source) = (format!("s3://lab/{i}.jpg").into(), "access denied".into());
    Err(Error::Object { uri, cause: ObjectCause::Denied, retries: 0, source })
}

/// The model of some photos.
fn model() -> PcaModel {
    let job = Pipeline::new(MemorySource::new(photos(20)), orb(), NullSink::default());
    job.with_pca(PcaParams::new(3)).run().unwrap().pca_model.unwrap()
}

#[test]
fn a_job_of_which_every_image_fails_is_no_result_unless_it_may_be_empty() {
    let broken = || {
        let half = photos(1)[0].1[..900].to_vec();
        MemorySource::new([
            ("a/empty.jpg", Vec::new()),
            ("b/half.jpg", half.clone()),
            ("c.jpg", half),
        ])
    };
    for policy in [OnError::Skip, OnError::Record] {
        let keep = Keep::default();
        let job = || Pipeline::new(broken(), orb(), keep.clone()).with_on_error(policy);
        for job in [job(), job().without_pca(), job().with_model(model())] {
            let error = job.run().unwrap_err();
            let line = error.to_line();
            assert!(line.starts_with("all 3 images failed (corrupt 2, empty 1)"), "{line}");
            assert!(
                line.contains("the first: cannot decode a/empty.jpg: the file has no byte"),
                "{line}"
            );
            assert_eq!((error.code(), error.uri()), ("all_failed", Some("a/empty.jpg")));
            assert!(!keep.0.lock().unwrap().finished);
        }
        let report = job().without_pca().with_allow_empty(true).run().unwrap();
        assert_eq!((report.images, report.decoded, report.rows), (3, 0, 0));
        assert!(keep.0.lock().unwrap().finished);
    }
    // An empty source gives no result, either.
    let nothing = || {
        let source = MemorySource::new(Vec::<(String, Vec<u8>)>::new());
        Pipeline::new(source, orb(), NullSink::default()).without_pca()
    };
    assert!(matches!(nothing().run(), Err(Error::NoInput { .. })));
    assert_eq!(nothing().with_allow_empty(true).run().unwrap().images, 0);
    // Nor does an empty folder, which says so itself.
    let folder = tempfile::tempdir().unwrap();
    let job = || {
        let source = FsSource::new(folder.path());
        Pipeline::new(source, orb(), NullSink::default()).without_pca()
    };
    assert!(matches!(job().run(), Err(Error::NoInput { .. })));
    assert_eq!(job().with_allow_empty(true).run().unwrap().images, 0);
    std::fs::remove_dir(folder.path()).unwrap();
    assert!(matches!(job().with_allow_empty(true).run(), Err(Error::List { .. })));
}

#[test]
fn refusals_of_every_image_so_far_end_the_job_early_as_want_of_access() {
    for threads in [1, 3] {
        let asked = Arc::new(AtomicUsize::new(0));
        let job = |images, answer| {
            let source = Repeat { answer, images, asked: Arc::clone(&asked) };
            Pipeline::new(source, orb(), NullSink::default())
                .without_pca()
                .with_on_error(OnError::Skip)
                .with_parallelism(Parallelism::new(threads).unwrap().with_window(8))
        };
        let error = job(10_000, refused as fn(usize) -> _).run().unwrap_err();
        assert!(matches!(error, Error::NoAccess { images: 32, .. }), "{error}");
        assert!(error.to_line().contains("s3://lab/0.jpg: access denied"), "{}", error.to_line());
        assert!(asked.load(Ordering::SeqCst) < 50);
        // With fewer images than `MAX_REFUSALS`, at the end of the input.
        assert!(matches!(job(3, refused).run(), Err(Error::NoAccess { images: 3, .. })));
        let denied = |i| {
            let source = std::io::ErrorKind::PermissionDenied.into();
            Err(Error::Read { uri: format!("{i}.jpg").into(), source })
        };
        assert!(matches!(job(3, denied).run(), Err(Error::NoAccess { .. })));
        // One image that could be read, or failed for another reason, shows that there is access.
        let first_is_text =
            |i| if i == 0 { Ok(ImageObject::new("0.jpg", "text")) } else { refused(i) };
        let error = job(100, first_is_text).run().unwrap_err().to_line();
        assert!(error.starts_with("all 100 images failed (denied 99, not_an_image 1)"), "{error}");
        assert_eq!(job(100, refused).with_allow_empty(true).run().unwrap().failed["denied"], 100);
    }
}

#[test]
fn a_limit_of_failures_ends_the_job_by_its_rule() {
    // Of ten images, the third and the seventh fail.
    let answer = |i: usize| {
        let pgm = [b"P5 50 50 255\n".to_vec(), vec![9; 2500]].concat();
        let bytes = if i % 10 == 2 || i % 10 == 6 { Vec::new() } else { pgm };
        Ok(ImageObject::new(format!("{i:05}.pgm"), bytes))
    };
    let run = |images, limit: &str| {
        let asked = Arc::new(AtomicUsize::new(0));
        let source = Repeat { answer, images, asked: Arc::clone(&asked) };
        let keep = Keep::default();
        let result = Pipeline::new(source, orb(), keep.clone())
            .without_pca()
            .with_on_error(OnError::Record)
            .with_max_failures(limit.parse().unwrap())
            .with_parallelism(Parallelism::new(2).unwrap().with_window(8))
            .run();
        assert_eq!(keep.0.lock().unwrap().finished, result.is_ok());
        let counted = result.map(|report| report.failed["empty"]).map_err(|error| {
            let line = error.to_line();
            assert!(line.contains(&format!("the limit of {limit}; the first: ")), "{line}");
            assert!(line.contains("00002.pgm") && line.contains("(empty "), "{line}");
            let Error::TooManyFailures { failed, images, .. } = error else { panic!("{line}") };
            (failed, images)
        });
        (counted, asked.load(Ordering::SeqCst))
    };
    assert_eq!(run(100, "20").0, Ok(20));
    // A number ends the job at the first failure above it.
    let (ended, asked) = run(5_000, "2");
    assert_eq!(ended, Err((3, 13)));
    assert!(asked < 30, "{asked}");
    assert_eq!(run(100, "0").0, Err((1, 3)));
    // A share ends the job at the end, or early once a thousand images are seen.
    assert_eq!(run(100, "20%").0, Ok(20));
    assert_eq!(run(100, "19.99%").0, Err((20, 100)));
    let (ended, asked) = run(5_000, "10%");
    assert_eq!(ended, Err((201, 1003)));
    assert!(asked < 1_020, "{asked}");
    // With the policy `fail` a limit is refused, as it has no effect.
    let job = Pipeline::new(MemorySource::new(photos(1)), orb(), NullSink::default());
    let error = job.with_max_failures("5%".parse().unwrap()).run().unwrap_err().to_line();
    assert!(error.contains("max_failures: 5%"), "{error}");
}

#[test]
fn a_model_of_other_parameters_or_another_decoder_is_refused_unless_forced() {
    let fitted = OrbParams::default().with_fast_threshold(5);
    let source = || MemorySource::new(photos(20));
    let fit = Pipeline::new(source(), fitted.clone().build().unwrap(), NullSink::default());
    let model = fit.with_pca(PcaParams::new(3)).run().unwrap().pca_model.unwrap();
    assert!(model.origin().is_some());
    let keep = Keep::default();
    let job = |orb: &OrbParams, model: &PcaModel| {
        let orb = orb.clone().build().unwrap();
        Pipeline::new(source(), orb, keep.clone()).with_model(model.clone())
    };
    let error = job(&OrbParams::default(), &model).run().unwrap_err();
    assert!(matches!(error, Error::Model { .. }));
    assert!(error.to_line().contains("fast_threshold: the model 5, this job 20"), "{error}");
    assert!(keep.0.lock().unwrap().rows.is_empty() && keep.0.lock().unwrap().notes.is_empty());
    let luma = DecodeParams::default().with_gray_mode(GrayMode::Luma);
    let error = job(&fitted, &model).with_decode(luma).run().unwrap_err().to_line();
    assert!(error.contains("gray_mode: the model bgr, this job luma"), "{error}");
    // Limits and threads do not change the features.
    let roomy = DecodeParams::default().with_max_side(100).with_max_alloc(1 << 20);
    let more = fitted.clone().with_max_keypoints(10_000);
    job(&more, &model)
        .with_decode(roomy)
        .with_parallelism(Parallelism::new(1).unwrap())
        .run()
        .unwrap();
    job(&OrbParams::default(), &model).with_force(true).run().unwrap();
    // A model without a recorded origin is accepted for any features.
    let mut json = serde_json::to_value(&model).unwrap();
    json.as_object_mut().unwrap().remove("origin").unwrap();
    let unknown: PcaModel = serde_json::from_value(json).unwrap();
    assert_eq!(unknown.origin(), None);
    job(&OrbParams::default(), &unknown).run().unwrap();
}

#[test]
fn the_rows_of_one_image_come_in_pieces() {
    /// A sink that records the size of the largest batch.
    #[derive(Clone, Default)]
    struct Largest(Arc<AtomicUsize>);

    impl RowSink for Largest {
        fn annotate(&mut self, _: &str, _: &str) {}

        fn write(&mut self, batch: RowBatch) -> Result<()> {
            self.0.fetch_max(batch.len(), Ordering::SeqCst);
            Ok(())
        }

        fn finish(self) -> Result<SinkReport> {
            Ok(SinkReport::default())
        }
    }

    // Dots with equal scores, far more than the quota of features.
    let side = 700;
    let dot = |i: usize| if i % side % 10 == 5 && i / side % 10 == 5 { 255 } else { 0 };
    let pgm = [format!("P5 {side} {side} 255\n").into_bytes(), (0..side * side).map(dot).collect()];
    let source = || MemorySource::new([("dots.pgm", pgm.concat())]);
    let largest = Largest::default();
    let job = |orb: &Orb| Pipeline::new(source(), orb.clone(), largest.clone());
    for job in [job(&orb()), job(&orb()).without_pca(), job(&orb()).with_model(model())] {
        let report = job.run().unwrap();
        assert!(report.rows > 3 * DEFAULT_BATCH_ROWS as u64, "{}", report.rows);
        assert_eq!(largest.0.swap(0, Ordering::SeqCst), DEFAULT_BATCH_ROWS);
    }
    // More keypoints than the limit are an error.
    let orb = OrbParams::default().with_max_keypoints(2_000).build().unwrap();
    let error = job(&orb).run().unwrap_err();
    assert_eq!((error.code(), error.uri()), ("too_many_keypoints", Some("dots.pgm")));
    assert!(error.is_of_one_image());
}
