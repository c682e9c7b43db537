//! The whole job in one call.

mod failures;
mod report;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::decode::DecodeParams;
use crate::error::{Error, Result};
use crate::orb::{DESCRIPTOR_LEN, FeatureExtractor, ImageFeatures};
use crate::pca::{Origin, PcaModel, PcaParams, describe_decode};
use crate::rows::{DEFAULT_BATCH_ROWS, DescriptorRow, RowBatch, Spool, SpooledFit};
use crate::sink::{Failure, RowSink};
use crate::source::{ImageObject, ImageSource, ListedImage, ListedImages};
use crate::stage::{Parallelism, StageExt, Worker};

use failures::Failures;
pub use failures::{JUDGED_FROM, MAX_REFUSALS, MaxFailures};
pub use report::{ModelSummary, RunReport, Seconds};

/// What to do about an image that cannot be read, decoded or processed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum OnError {
    /// End the job with its error; nothing is written.
    #[default]
    Fail,
    /// Leave it out, and count it in the report.
    Skip,
    /// Leave it out, and record it in the sink, beside the rows.
    Record,
}

/// What becomes of the descriptors.
#[derive(Clone, Debug)]
enum Projection {
    None,
    Fit(PcaParams),
    Model(Box<PcaModel>),
}

/// How far a job has come, for whoever shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Images that are done, failures included.
    pub images: u64,
    /// Images that failed.
    pub failed: u64,
    /// Rows found so far.
    pub rows: u64,
    /// Rows written so far.
    pub written: u64,
}

type Observer = Box<dyn FnMut(&Progress) + Send>;

/// The whole job: source, decode, ORB, rows, PCA, sink.
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
    projection: Projection,
    spool: Spool,
    on_error: OnError,
    max_failures: Option<MaxFailures>,
    allow_empty: bool,
    force: bool,
    parallelism: Option<Parallelism>,
    observer: Option<Observer>,
    stop: Option<Arc<AtomicBool>>,
}

impl<S, E, K> std::fmt::Debug for Pipeline<S, E, K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline")
            .field("decode", &self.decode)
            .field("on_error", &self.on_error)
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
            projection: Projection::Fit(PcaParams::default()),
            spool: Spool::default(),
            on_error: OnError::default(),
            max_failures: None,
            allow_empty: false,
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

    /// Fits a PCA to all descriptors, and projects them onto it.
    pub fn with_pca(mut self, pca: PcaParams) -> Self {
        self.projection = Projection::Fit(pca);
        self
    }

    /// Projects the descriptors onto a model that is fitted already: one pass, no spool. If the model knows
    /// its [`Origin`], that must be this job's, unless it is [forced](Self::with_force).
    pub fn with_model(mut self, model: PcaModel) -> Self {
        self.projection = Projection::Model(Box::new(model));
        self
    }

    /// Leaves the PCA out.
    pub fn without_pca(mut self) -> Self {
        self.projection = Projection::None;
        self
    }

    /// Sets where rows wait while the PCA is fitted.
    pub fn with_spool(mut self, spool: Spool) -> Self {
        self.spool = spool;
        self
    }

    /// Sets what to do about images that fail (default [`OnError::Fail`]).
    pub fn with_on_error(mut self, on_error: OnError) -> Self {
        self.on_error = on_error;
        self
    }

    /// Sets how many images may fail before the job does with [`Error::TooManyFailures`] (default: any
    /// number); for [`OnError::Skip`] and [`OnError::Record`].
    pub fn with_max_failures(mut self, most: MaxFailures) -> Self {
        self.max_failures = Some(most);
        self
    }

    /// Sets whether a job of which every image failed, or which had none, may write its result without a
    /// row (default: no).
    ///
    /// If not, it ends with [`Error::AllFailed`], or with [`Error::NoAccess`] once the first
    /// [`MAX_REFUSALS`] images, or all of fewer, were refused; nothing is written or replaced then. Images
    /// that are read but have no features are none that failed.
    pub fn with_allow_empty(mut self, allow: bool) -> Self {
        self.allow_empty = allow;
        self
    }

    /// Sets whether a model may be one that was fitted on other parameters or by another decoder (default: no).
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
    /// written. What waits for a server then is woken by `S3::interrupt`.
    pub fn with_stop(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = Some(stop);
        self
    }

    /// Runs the job.
    ///
    /// # Errors
    /// [`Error::Model`] for a model that was fitted on other features, naming the parameter; whatever makes the
    /// job impossible, naming the object or file and the stage; with
    /// [`OnError::Fail`] the first image, in order, that fails, else [`Error::AllFailed`],
    /// [`Error::NoAccess`] or [`Error::TooManyFailures`]. The sink is not committed then.
    pub fn run(self) -> Result<RunReport> {
        if let (OnError::Fail, Some(limit)) = (self.on_error, self.max_failures) {
            let allowed =
                "only with the policies skip and record: else the first failure ends the job";
            return Err(Error::param("max_failures", limit, allowed));
        }
        let origin = Origin::new(&self.extractor, &self.decode);
        match &self.projection {
            Projection::Fit(params) => params.check(DESCRIPTOR_LEN)?,
            Projection::Model(model) => {
                model.check(DESCRIPTOR_LEN)?;
                if !self.force {
                    model.check_origin(&origin)?;
                }
            }
            Projection::None => {}
        }
        let start = Instant::now();
        let times = Arc::new(Times::default());
        let parallelism = self.parallelism.unwrap_or_default();
        let Self { source, extractor, sink, decode, projection, spool, .. } = self;
        let mut job = Job {
            sink,
            on_error: self.on_error,
            observer: self.observer,
            stop: self.stop,
            progress: Progress::default(),
            without_features: 0,
            failures: Failures::new(self.max_failures, self.allow_empty),
            times: Arc::clone(&times),
        };
        job.sink.set_parallelism(parallelism);
        job.sink.annotate("orb", &extractor.describe());
        job.sink.annotate("decode", &describe_decode(&decode));
        if let Projection::Model(model) = &projection {
            job.annotate_model(model)?;
        }
        job.sink.begin()?;

        let images = Timed { images: source.list()?, times: Arc::clone(&times) };
        let worker_times = Arc::clone(&times);
        let features = images.par_map(
            parallelism,
            move || Worker::new(&extractor, &decode),
            move |worker: &mut Worker<E>, image: ListedImage| {
                let object = worker_times.read(image)?;
                let features = worker.features(&object);
                worker_times.decode.add(worker.times[0]);
                worker_times.orb.add(worker.times[1]);
                features
            },
        );
        let model = match projection {
            Projection::None => {
                job.stream(features, None)?;
                None
            }
            Projection::Model(model) => {
                job.stream(features, Some(&model))?;
                Some(*model)
            }
            Projection::Fit(params) => {
                let fit = Fit { params: &params, spool: &spool, origin };
                Some(job.two_passes(features, fit, parallelism)?)
            }
        };
        job.finish(model, start, parallelism)
    }
}

/// How a job fits its model.
struct Fit<'a> {
    params: &'a PcaParams,
    spool: &'a Spool,
    origin: Origin,
}

/// The state of a running job.
struct Job<K> {
    sink: K,
    on_error: OnError,
    observer: Option<Observer>,
    stop: Option<Arc<AtomicBool>>,
    progress: Progress,
    without_features: u64,
    failures: Failures,
    times: Arc<Times>,
}

impl<K: RowSink> Job<K> {
    /// Projects (if there is a model) and writes rows as they come.
    fn stream(
        &mut self,
        features: impl Iterator<Item = Result<ImageFeatures>>,
        model: Option<&PcaModel>,
    ) -> Result<()> {
        let mut rows: Vec<DescriptorRow> = Vec::new();
        for image in features {
            let Some(image) = self.admit(image)? else { continue };
            for row in image.into_rows() {
                rows.push(row);
                // A single image may have many times as many.
                if rows.len() == DEFAULT_BATCH_ROWS {
                    self.project_and_write(std::mem::take(&mut rows), model)?;
                }
            }
        }
        self.failures.judge(self.progress.images, true)?;
        // Even without a row: it shows the sink the columns.
        self.project_and_write(rows, model)
    }

    /// Fits a model to all rows, then projects and writes them.
    fn two_passes(
        &mut self,
        features: impl Iterator<Item = Result<ImageFeatures>>,
        Fit { params, spool, origin }: Fit<'_>,
        parallelism: Parallelism,
    ) -> Result<PcaModel> {
        let mut fit = SpooledFit::new(spool);
        for image in features {
            if let Some(image) = self.admit(image)? {
                image.into_rows().try_for_each(|row| fit.push(&row))?;
            }
        }
        self.failures.judge(self.progress.images, true)?;
        let start = Instant::now();
        let (model, rows) = fit.finish(params).map_err(|e| self.explain(e))?;
        self.times.fit.add(start.elapsed());
        let model = model.with_origin(origin);
        self.annotate_model(&model)?;
        let (projection, times) = (model.clone(), Arc::clone(&self.times));
        let batches = rows.batches(DEFAULT_BATCH_ROWS).par_map(
            // Batches are large; a few in flight keep every thread busy.
            parallelism.with_window(2 * parallelism.threads()),
            || (),
            move |(), batch: Result<RowBatch>| {
                let start = Instant::now();
                let projected = batch?.project(&projection);
                times.project.add(start.elapsed());
                projected
            },
        );
        for batch in batches {
            self.write(batch?)?;
        }
        Ok(model)
    }

    /// Decides about an image: its features, nothing (it failed and is left out), or the job's end.
    fn admit(&mut self, image: Result<ImageFeatures>) -> Result<Option<ImageFeatures>> {
        self.check_stop()?;
        self.progress.images += 1;
        let image = match image.and_then(ImageFeatures::checked) {
            Ok(image) => {
                self.without_features += u64::from(image.keypoints.is_empty());
                self.progress.rows += image.keypoints.len() as u64;
                Some(image)
            }
            Err(error) => {
                if self.on_error == OnError::Fail || !error.is_of_one_image() {
                    return Err(error);
                }
                self.leave_out(error)?;
                None
            }
        };
        self.show_progress();
        Ok(image)
    }

    fn leave_out(&mut self, error: Error) -> Result<()> {
        let failure = Failure::from(&error);
        self.progress.failed += 1;
        if self.on_error == OnError::Record {
            self.sink.record(&failure)?;
        }
        self.failures.add(error, failure);
        self.failures.judge(self.progress.images, false)
    }

    /// Adds to a failed fit why there are so few rows.
    fn explain(&self, error: Error) -> Error {
        match error {
            Error::Fit(reason) => {
                let Progress { images, failed, .. } = self.progress;
                let empty = self.without_features;
                Error::Fit(
                    format!(
                        "{reason} ({images} images: {empty} without features, {failed} failed; \
                         the PCA can be left out)"
                    )
                    .into(),
                )
            }
            other => other,
        }
    }

    fn project_and_write(
        &mut self,
        rows: Vec<DescriptorRow>,
        model: Option<&PcaModel>,
    ) -> Result<()> {
        let batch = RowBatch { rows, scores: None };
        let start = Instant::now();
        let batch = match model {
            Some(model) => batch.project(model)?,
            None => batch,
        };
        self.times.project.add(start.elapsed());
        self.write(batch)
    }

    fn write(&mut self, batch: RowBatch) -> Result<()> {
        self.check_stop()?;
        let rows = batch.rows.len() as u64;
        let start = Instant::now();
        self.sink.write(batch)?;
        self.times.write.add(start.elapsed());
        self.progress.written += rows;
        self.show_progress();
        Ok(())
    }

    fn annotate_model(&mut self, model: &PcaModel) -> Result<()> {
        let json = serde_json::to_string(model).map_err(|e| Error::Model {
            uri: "of this job".into(),
            reason: e.to_string().into(),
        })?;
        self.sink.annotate("pca", &json);
        Ok(())
    }

    fn check_stop(&self) -> Result<()> {
        match &self.stop {
            Some(stop) if stop.load(Ordering::Relaxed) => Err(Error::Interrupted),
            _ => Ok(()),
        }
    }

    fn show_progress(&mut self) {
        if let Some(observer) = &mut self.observer {
            observer(&self.progress);
        }
    }

    fn finish(
        self,
        model: Option<PcaModel>,
        start: Instant,
        parallelism: Parallelism,
    ) -> Result<RunReport> {
        let committing = Instant::now();
        let sink = self.sink.finish()?;
        let retries = self.times.retries.load(Ordering::Relaxed) + sink.retries;
        self.times.write.add(committing.elapsed());
        let times = &self.times;
        Ok(RunReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            images: self.progress.images,
            decoded: self.progress.images - self.progress.failed,
            without_features: self.without_features,
            failed: self.failures.by_cause,
            first_failures: self.failures.first,
            rows: self.progress.rows,
            bytes_in: times.bytes.load(Ordering::Relaxed),
            retries,
            sink,
            threads: parallelism.threads(),
            seconds: Seconds {
                total: start.elapsed().as_secs_f64(),
                read: times.read.seconds(),
                decode: times.decode.seconds(),
                orb: times.orb.seconds(),
                fit: times.fit.seconds(),
                project: times.project.seconds(),
                write: times.write.seconds(),
            },
            model: model.as_ref().map(ModelSummary::from),
            pca_model: model,
        })
    }
}

/// What the threads of a job count.
#[derive(Debug, Default)]
struct Times {
    bytes: AtomicU64,
    retries: AtomicU64,
    read: Clock,
    decode: Clock,
    orb: Clock,
    fit: Clock,
    project: Clock,
    write: Clock,
}

/// A sum of durations, in nanoseconds.
#[derive(Debug, Default)]
struct Clock(AtomicU64);

impl Clock {
    fn add(&self, time: Duration) {
        self.0.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    fn seconds(&self) -> f64 {
        Duration::from_nanos(self.0.load(Ordering::Relaxed)).as_secs_f64()
    }
}

impl Times {
    /// Reads an image, and counts what that took.
    fn read(&self, image: ListedImage) -> Result<ImageObject> {
        let start = Instant::now();
        let image = image.read();
        self.read.add(start.elapsed());
        let retries = match &image {
            Ok(image) => {
                self.bytes.fetch_add(image.bytes.len() as u64, Ordering::Relaxed);
                image.retries
            }
            Err(error) => error.retries(),
        };
        self.retries.fetch_add(retries.into(), Ordering::Relaxed);
        image
    }
}

/// Times a list.
struct Timed {
    images: ListedImages,
    times: Arc<Times>,
}

impl Iterator for Timed {
    type Item = ListedImage;

    fn next(&mut self) -> Option<ListedImage> {
        let start = Instant::now();
        let image = self.images.next();
        self.times.read.add(start.elapsed());
        image
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.images.size_hint()
    }
}
