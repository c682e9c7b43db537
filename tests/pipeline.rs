//! The whole job: the same for any threads, nothing lost, policies, reports.
#![cfg(feature = "jpeg")]

#[path = "../examples/samples/mod.rs"]
mod samples;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use orb_features::prelude::*;

/// A sink that keeps everything where the test can see it.
#[derive(Clone, Default)]
struct Keep(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    notes: BTreeMap<String, String>,
    rows: Vec<DescriptorRow>,
    scores: Vec<Vec<f64>>,
    failures: Vec<Failure>,
    finished: bool,
}

impl RowSink for Keep {
    fn annotate(&mut self, key: &str, value: &str) {
        self.0.lock().unwrap().notes.insert(key.to_owned(), value.to_owned());
    }

    fn write(&mut self, batch: RowBatch) -> Result<()> {
        let mut kept = self.0.lock().unwrap();
        kept.rows.extend(batch.rows);
        if let Some(scores) = &batch.scores {
            kept.scores.extend(scores.rows().into_iter().map(|r| r.to_vec()));
        }
        Ok(())
    }

    fn record(&mut self, failure: &Failure) -> Result<()> {
        self.0.lock().unwrap().failures.push(failure.clone());
        Ok(())
    }

    fn finish(self) -> Result<SinkReport> {
        let mut kept = self.0.lock().unwrap();
        kept.finished = true;
        Ok(SinkReport { rows: kept.rows.len() as u64, ..SinkReport::default() })
    }
}

fn orb() -> Orb {
    OrbParams::default().build().unwrap()
}

fn photos(n: u32) -> Vec<(String, Vec<u8>)> {
    (0..n)
        .map(|i| (format!("kind {}/{i:03}.jpg", i % 6), samples::photo(i as usize % 6, i).unwrap()))
        .collect()
}

/// Good photos among every kind of trouble, each with the code of its cause.
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
    // No trouble: just no features.
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
    let want = run(Parallelism::new(1), usize::MAX);
    assert!(want.0.len() > 300 && want.1.len() == want.0.len());
    for threads in [2, 3, 7] {
        for (window, memory) in [(1, 0), (64, 10_000)] {
            assert!(
                run(Parallelism::new(threads).with_window(window), memory) == want,
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
        .orb_features(&orb(), &DecodeParams::default(), Parallelism::new(2))
        .explode()
        .fit_pca(&PcaParams::new(20), &Spool::default())
        .unwrap();
    let staged = Keep::default();
    let sunk = rows.project(&model).write_to(staged.clone()).unwrap();
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
            .with_parallelism(Parallelism::new(3))
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
        // The good ones are unharmed.
        let alone = Keep::default();
        Pipeline::new(MemorySource::new(photos(20)), orb(), alone.clone()).run().unwrap();
        assert!(kept.rows == alone.0.lock().unwrap().rows);
        if policy == OnError::Record {
            let uris: Vec<_> = kept.failures.iter().map(|f| f.uri.clone().unwrap()).collect();
            assert_eq!(uris.len() as u64, failed);
            assert!(uris.iter().all(|u| u.starts_with("t/")), "{uris:?}");
            let half =
                kept.failures.iter().find(|f| f.uri.as_deref() == Some("t/half.jpg")).unwrap();
            assert_eq!((half.stage.as_str(), half.cause.as_str()), ("decode", "corrupt"));
            assert!(half.message.contains("t/half.jpg"));
        } else {
            assert!(kept.failures.is_empty());
        }
        let text = report.to_string();
        assert!(text.contains("t/half.jpg") && text.contains("corrupt 2"), "{text}");
    }
}

/// An extractor of a caller's that fails in its own ways on some images.
#[derive(Clone)]
struct Faulty(Orb);

impl FeatureExtractor for Faulty {
    type Scratch = OrbScratch;

    fn describe(&self) -> String {
        self.0.describe()
    }

    fn detect_with(
        &self,
        image: GrayView<'_>,
        mask: Option<GrayView<'_>>,
        scratch: &mut OrbScratch,
    ) -> Result<Vec<KeyPoint>> {
        self.0.detect_with(image, mask, scratch)
    }

    fn compute_with(
        &self,
        image: GrayView<'_>,
        keypoints: &[KeyPoint],
        scratch: &mut OrbScratch,
    ) -> Result<Features> {
        self.0.compute_with(image, keypoints, scratch)
    }

    fn detect_and_compute_with(
        &self,
        image: GrayView<'_>,
        mask: Option<GrayView<'_>>,
        scratch: &mut OrbScratch,
    ) -> Result<Features> {
        let mut features = self.0.detect_and_compute_with(image, mask, scratch)?;
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
    let rows = MemorySource::new(images).open().unwrap();
    let rows = rows.orb_features(&extractor, &DecodeParams::default(), Parallelism::new(2));
    assert_eq!(rows.explode().filter(Result::is_err).count(), 2);
}

#[test]
fn by_default_the_first_failure_in_order_ends_the_job() {
    let (source, _) = troubled();
    for threads in [1, 4] {
        let keep = Keep::default();
        let error = Pipeline::new(source.clone(), orb(), keep.clone())
            .with_parallelism(Parallelism::new(threads))
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
    // The same images are no trouble where no model is fitted.
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
