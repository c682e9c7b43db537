//! The stages as iterator adaptors: [`StageExt`].
//!
//! A job is a chain of stages, from listed images to a written result.
//! [`Pipeline`](crate::pipeline::Pipeline) is this chain with a report.

mod decode;
mod features;
mod fit;
mod on_error;
mod project;
mod stop;
mod tally;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub use decode::{Decode, Read};
pub use features::{Extract, FeaturesOf};
pub use fit::Spooled;
pub use on_error::{ErrorPolicy, JUDGED_FROM, MAX_REFUSALS, MaxFailures, OnError, Tolerant};
pub use project::Project;
pub use stop::StopAt;
pub use tally::{Progress, Seconds, Tally};

pub use crate::parallel::{DEFAULT_WINDOW_PER_THREAD, ParMap, Parallelism};
pub use crate::rows::Explode;

use crate::decode::{DecodeParams, DecodedImage};
use crate::error::Result;
use crate::features::{FeatureExtractor, ImageFeatures};
use crate::pca::{PcaInput, PcaModel, PcaParams};
use crate::pixels::PixelSpec;
use crate::rows::{ImageOutcome, RowBatch, Spool, SpooledBatches};
use crate::sink::{RowSink, SinkReport};
use crate::source::ListedImage;

/// The stages of the flow on any iterator of results.
///
/// Every stage is lazy, keeps the order, and passes each `Err` through in its place. Each stage can be used
/// alone, and any iterator adaptor of the caller's can stand between two of them.
///
/// # Examples
/// ```
/// use orb_features::prelude::*;
///
/// let orb = OrbParams::default().with_edge_threshold(3).with_patch_size(5).build()?;
/// let pgm = [b"P5 64 64 255\n".to_vec(), (0..64 * 64).map(|i| (i % 64 / 8 + i / 512) as u8 % 2 * 255).collect()].concat();
/// let source = MemorySource::new([("label/a.pgm", pgm.clone()), ("label/b.pgm", pgm)]);
/// let batches: Vec<RowBatch> = source.open()?.features(&orb).explode().collect::<Result<_, _>>()?;
/// assert!(!batches[0].is_empty());
/// # Ok::<(), orb_features::Error>(())
/// ```
pub trait StageExt: Iterator + Sized {
    /// Applies `work` on several threads, in order; see [`ParMap`].
    ///
    /// `start` creates the working memory of one thread.
    fn par_map<S, R>(
        self,
        parallelism: Parallelism,
        start: impl Fn() -> S + Send + Sync + 'static,
        work: impl Fn(&mut S, Self::Item) -> R + Send + Sync + 'static,
    ) -> ParMap<Self::Item, R>
    where
        Self: Send + 'static,
        Self::Item: Send + 'static,
        S: Send + 'static,
        R: Send + 'static,
    {
        ParMap::new(self, parallelism, start, work)
    }

    /// Reads each image, on the calling thread.
    fn read<T: Into<ListedImage>>(self) -> Read<Self>
    where
        Self: Iterator<Item = Result<T>>,
    {
        Read::new(self)
    }

    /// Reads and decodes each image to the pixels that `spec` asks for, on the calling thread.
    fn decode<T: Into<ListedImage>>(self, params: DecodeParams, spec: PixelSpec) -> Decode<Self>
    where
        Self: Iterator<Item = Result<T>>,
    {
        Decode::new(self, params, spec)
    }

    /// Extracts the features of each decoded image, on the calling thread.
    fn extract<E: FeatureExtractor + Clone>(self, extractor: &E) -> Extract<Self, E>
    where
        Self: Iterator<Item = Result<DecodedImage>>,
    {
        Extract::new(self, extractor.clone())
    }

    /// Reads and decodes each image and extracts its features, on several threads: the parallel form of
    /// [`decode`](Self::decode) and [`extract`](Self::extract).
    ///
    /// Memory holds at most [`FeatureExtractor::batch_len`] encoded and decoded images for each thread,
    /// besides those that the source reads ahead, and the features of at most one window of images, or of one
    /// batch for each thread if that is more. If the decoder or the extractor panics on an image, this is an
    /// error of the image like any other.
    fn features<T, E>(self, extractor: &E) -> FeaturesOf<Self, E>
    where
        Self: Iterator<Item = Result<T>> + Send + 'static,
        T: Into<ListedImage> + Send + 'static,
        E: FeatureExtractor + Clone + 'static,
    {
        FeaturesOf::new(self, extractor.clone())
    }

    /// Applies a policy to images that fail, and counts images in `tally`. The items that remain are good
    /// images, and records of failures.
    fn on_error(self, policy: ErrorPolicy, tally: &Tally) -> Tolerant<Self>
    where
        Self: Iterator<Item = Result<ImageFeatures>>,
    {
        Tolerant::new(self, policy, tally.clone())
    }

    /// Ends with [`Error::Interrupted`](crate::Error::Interrupted) once the flag is set.
    fn stop_at<T>(self, flag: &Arc<AtomicBool>) -> StopAt<Self>
    where
        Self: Iterator<Item = Result<T>>,
    {
        StopAt::new(self, Arc::clone(flag))
    }

    /// Turns images into batches of rows, one row for each vector.
    fn explode<T: Into<ImageOutcome>>(self) -> Explode<Self>
    where
        Self: Iterator<Item = Result<T>>,
    {
        Explode::new(self)
    }

    /// Spools all batches for a second pass, and accumulates the moments of what a PCA gets of their vectors.
    ///
    /// # Errors
    /// The first error of the stream, [`Error::Spool`](crate::Error::Spool) if the batches cannot be kept, or that of
    /// [`PcaInput::check`].
    fn spool(self, spool: &Spool, input: PcaInput) -> Result<Spooled>
    where
        Self: Iterator<Item = Result<RowBatch>>,
    {
        fit::spool(self, spool, input)
    }

    /// Fits a PCA to the vectors of all rows, and gives the rows back for a second pass: [`spool`](Self::spool), then
    /// [`Moments::fit`](crate::pca::Moments::fit).
    ///
    /// # Errors
    /// Those of [`spool`](Self::spool) and [`Moments::fit`](crate::pca::Moments::fit).
    fn fit_pca(self, params: &PcaParams, spool: &Spool) -> Result<(PcaModel, SpooledBatches)>
    where
        Self: Iterator<Item = Result<RowBatch>>,
    {
        let mut spooled = self.spool(spool, params.input())?;
        Ok((spooled.fit(params)?, spooled.batches))
    }

    /// Projects the rows of each batch onto the components of a model.
    fn project(self, model: &PcaModel) -> Project<Self>
    where
        Self: Iterator<Item = Result<RowBatch>> + Send + 'static,
    {
        Project::new(self, model.clone())
    }

    /// Writes all batches and commits the result.
    ///
    /// # Errors
    /// The first error of the stream or of the sink; nothing is committed then.
    fn write_to<K: RowSink>(mut self, mut sink: K) -> Result<SinkReport>
    where
        Self: Iterator<Item = Result<RowBatch>>,
    {
        self.try_for_each(|batch| sink.write(batch?))?;
        sink.finish()
    }
}

impl<I: Iterator> StageExt for I {}
