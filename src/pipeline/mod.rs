//! The whole job in one call.

mod report;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::decode::DecodeParams;
use crate::error::{Error, Result};
use crate::features::FeatureExtractor;
use crate::pca::{Origin, PcaModel, PcaParams, describe_decode};
use crate::rows::{RowBatch, Spool, Spooling};
use crate::sink::{RowSink, SinkReport};
use crate::source::ImageSource;
use crate::stage::{
    ErrorPolicy, MaxFailures, OnError, Parallelism, Progress, StageExt as _, Tally,
};

#[cfg(feature = "report")]
pub(crate) use report::Bytes;
pub use report::{ModelSummary, RunReport};

/// How a job gets the scores of the vectors.
#[derive(Clone, Debug)]
enum Scores {
    None,
    Fit(PcaParams),
    Model(Box<PcaModel>),
}

type Observer = Box<dyn FnMut(&Progress) + Send>;
type Batches = Box<dyn Iterator<Item = Result<RowBatch>> + Send>;

/// The whole job: a source, the [stages](crate::stage), a sink, and a report.
///
/// # Examples
/// ```
/// use orb_features::prelude::*;
///
/// # let pgm = |i: u32| [b"P5 128 128 255\n".to_vec(), (0..128 * 128_u32).map(|p| ((p ^ (p >> 7) ^ i).wrapping_mul(2_654_435_761) >> 24) as u8).collect()].concat();
/// # let images = (0..4).map(|i| (format!("apple/{i}.pgm"), pgm(i)));
/// let source = MemorySource::new(images);
/// let orb = OrbParams::default().build()?;
/// let report = Pipeline::new(source, orb, NullSink::default()).with_pca(PcaParams::new(8)).run()?;
/// assert_eq!(report.images, 4);
/// assert_eq!(report.model.unwrap().explained_variance_ratio.len(), 8);
/// # Ok::<(), orb_features::Error>(())
/// ```
#[must_use = "a pipeline does nothing until it is run"]
pub struct Pipeline<S, E, K> {
    source: S,
    extractor: E,
    sink: K,
    decode: DecodeParams,
    scores: Scores,
    spool: Spool,
    policy: ErrorPolicy,
    force: bool,
    parallelism: Option<Parallelism>,
    observer: Option<Observer>,
    stop: Option<Arc<AtomicBool>>,
}

impl<S, E, K> std::fmt::Debug for Pipeline<S, E, K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline")
            .field("decode", &self.decode)
            .field("policy", &self.policy)
            .field("parallelism", &self.parallelism)
            .finish_non_exhaustive()
    }
}

impl<S, E, K> Pipeline<S, E, K>
where
    S: ImageSource,
    E: FeatureExtractor + Clone + 'static,
    K: RowSink,
{
    /// Joins a source, an extractor and a sink; the PCA has 20 components unless told otherwise.
    pub fn new(source: S, extractor: E, sink: K) -> Self {
        Self {
            source,
            extractor,
            sink,
            decode: DecodeParams::default(),
            scores: Scores::Fit(PcaParams::default()),
            spool: Spool::default(),
            policy: ErrorPolicy::default(),
            force: false,
            parallelism: None,
            observer: None,
            stop: None,
        }
    }

    /// Sets how images are decoded.
    pub fn with_decode(mut self, decode: DecodeParams) -> Self {
        self.decode = decode;
        self
    }

    /// Fits a PCA to all vectors, and projects them onto it.
    pub fn with_pca(mut self, pca: PcaParams) -> Self {
        self.scores = Scores::Fit(pca);
        self
    }

    /// Projects the vectors onto a model that is already fitted: one pass, no spool. If the model has an
    /// [`Origin`], it must match this job's, unless [`with_force`](Self::with_force) is set.
    pub fn with_model(mut self, model: PcaModel) -> Self {
        self.scores = Scores::Model(Box::new(model));
        self
    }

    /// Leaves the PCA out.
    pub fn without_pca(mut self) -> Self {
        self.scores = Scores::None;
        self
    }

    /// Sets where rows wait while the PCA is fitted.
    pub fn with_spool(mut self, spool: Spool) -> Self {
        self.spool = spool;
        self
    }

    /// Sets what to do about images that fail (default [`OnError::Fail`]).
    pub fn with_on_error(mut self, on_error: OnError) -> Self {
        self.policy = self.policy.with_on_error(on_error);
        self
    }

    /// See [`ErrorPolicy::with_max_failures`].
    pub fn with_max_failures(mut self, most: MaxFailures) -> Self {
        self.policy = self.policy.with_max_failures(most);
        self
    }

    /// See [`ErrorPolicy::with_allow_empty`].
    pub fn with_allow_empty(mut self, allow: bool) -> Self {
        self.policy = self.policy.with_allow_empty(allow);
        self
    }

    /// Sets whether a model is accepted that was fitted with other parameters or another decoder (default: no).
    pub fn with_force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }

    /// Sets the number of threads (default: one for each core); the result does not depend on it.
    pub fn with_parallelism(mut self, parallelism: Parallelism) -> Self {
        self.parallelism = Some(parallelism);
        self
    }

    /// Calls `observer` after each image and each batch that is written, on the calling thread.
    pub fn with_progress(mut self, observer: impl FnMut(&Progress) + Send + 'static) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// Ends the job with [`Error::Interrupted`] at the next image or batch after the flag is set; nothing is
    /// written. The flag does not wake a thread that waits for a server; `S3::interrupt` does.
    pub fn with_stop(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = Some(stop);
        self
    }

    /// Runs the job.
    ///
    /// # Errors
    /// [`Error::Model`] for a model that was fitted on other features, naming the parameter. Any error that
    /// makes the job impossible, naming the object or file and the stage. With [`OnError::Fail`], the error
    /// of the first image, in order, that fails; otherwise [`Error::AllFailed`], [`Error::NoAccess`] or
    /// [`Error::TooManyFailures`]. The sink is not committed then.
    pub fn run(self) -> Result<RunReport> {
        let start = Instant::now();
        let Self { source, extractor, mut sink, decode, scores, spool, policy, .. } = self;
        let format = extractor.output();
        let origin = Origin::new(&extractor, &decode);
        policy.check()?;
        decode.check()?;
        extractor.pixels().check()?;
        format.check()?;
        match &scores {
            Scores::None => {}
            Scores::Fit(params) => params.check_for(format)?,
            Scores::Model(model) => {
                model.check_format(format)?;
                if !self.force {
                    model.check_origin(&origin)?;
                }
            }
        }
        let parallelism = self.parallelism.unwrap_or_default();
        sink.set_parallelism(parallelism.clone());
        let stop = self.stop.unwrap_or_default();
        sink.set_stop(Arc::clone(&stop));
        sink.annotate(extractor.name(), &extractor.describe());
        sink.annotate("decode", &describe_decode(&decode));
        if let Scores::Model(model) = &scores {
            annotate_model(&mut sink, model)?;
        }
        sink.begin()?;

        let needs = sink.needs();
        let tally = Tally::default();
        let watch =
            Watch { tally: tally.clone(), observer: Arc::new(Mutex::new(self.observer)), stop };
        let (clock, shown) = (tally.clone(), watch.clone());
        let mut images = source.open()?;
        let batches = std::iter::from_fn(move || clock.counts.read.time(|| images.next()))
            .features(&extractor)
            .with_decode(decode)
            .with_parallelism(parallelism.clone())
            .with_pixels(needs.pixels)
            .with_tally(&tally)
            .stop_at(&watch.stop)
            .on_error(policy, &tally)
            .with_observer(move || shown.show())
            .explode()
            .with_whole_images(needs.whole_images)
            .with_format(format);
        // Without a fit, rows are spooled only for a sink that must know their number.
        let batches: Batches = match scores {
            Scores::None | Scores::Model(_) if needs.number_of_rows => {
                let mut spooling = Spooling::new(&spool);
                let mut batches = batches;
                batches.try_for_each(|batch| spooling.push(&batch?))?;
                let batches = spooling.finish()?;
                sink.expect(batches.vectors(), batches.images());
                Box::new(batches)
            }
            _ => Box::new(batches),
        };
        let (report, model) = match scores {
            Scores::None => (batches.write_to(Watched { sink, watch })?, None),
            Scores::Model(model) => {
                // The threads are busy with the images, and projecting takes a thousandth of their time.
                let batches = batches.project(&model).with_parallelism(Parallelism::none());
                let batches = batches.with_tally(&tally);
                (batches.write_to(Watched { sink, watch })?, Some(*model))
            }
            Scores::Fit(params) => {
                let mut spooled = batches.spool(&spool, params.input())?;
                sink.expect(spooled.batches.vectors(), spooled.batches.images());
                let fit = || spooled.fit_until(&params, &watch.stop);
                let model = tally.counts.fit.time(fit).map_err(|e| explain(e, &tally));
                let model = model?.with_origin(origin);
                annotate_model(&mut sink, &model)?;
                let batches = spooled.batches.project(&model).with_parallelism(parallelism.clone());
                let batches = batches.with_tally(&tally);
                (batches.write_to(Watched { sink, watch })?, Some(model))
            }
        };
        Ok(RunReport::new(&tally, report, model, parallelism.threads(), start.elapsed()))
    }
}

fn annotate_model(sink: &mut impl RowSink, model: &PcaModel) -> Result<()> {
    let json = serde_json::to_string(model)
        .map_err(|e| Error::Model { uri: "fitted".into(), reason: e.to_string().into() })?;
    sink.annotate("pca", &json);
    Ok(())
}

/// Adds the reason for the lack of rows to the error of a fit.
fn explain(error: Error, tally: &Tally) -> Error {
    let Error::Fit(reason) = error else { return error };
    let Progress { images, failed, .. } = tally.progress();
    let empty = tally.without_features();
    Error::Fit(
        format!(
            "{reason} ({images} images: {empty} without features, {failed} failed; the PCA can be left out)"
        )
        .into(),
    )
}

/// The tally, observer and stop flag of a job.
#[derive(Clone)]
struct Watch {
    tally: Tally,
    observer: Arc<Mutex<Option<Observer>>>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    fn show(&self) {
        let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(observer) = &mut *observer {
            observer(&self.tally.progress());
        }
    }
}

/// Wraps a sink: counts and times its writes, calls the observer, and checks the stop flag.
struct Watched<K> {
    sink: K,
    watch: Watch,
}

impl<K: RowSink> RowSink for Watched<K> {
    fn annotate(&mut self, key: &str, value: &str) {
        self.sink.annotate(key, value);
    }

    fn write(&mut self, batch: RowBatch) -> Result<()> {
        if self.watch.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let rows = batch.len() as u64;
        self.watch.tally.counts.write.time(|| self.sink.write(batch))?;
        self.watch.tally.counts.written.add(rows);
        self.watch.show();
        Ok(())
    }

    fn finish(self) -> Result<SinkReport> {
        let Self { sink, watch } = self;
        watch.tally.counts.write.time(|| sink.finish())
    }
}
