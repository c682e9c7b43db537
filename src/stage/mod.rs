//! The stages as iterator adaptors: [`StageExt`].

mod parallel;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use parallel::{DEFAULT_WINDOW_PER_THREAD, ParMap, Parallelism};

use crate::decode::{DecodeParams, DecodedImage, Decoder, GrayImage, meta_of};
use crate::error::{DecodeCause, Error, Result};
use crate::orb::{FeatureExtractor, ImageFeatures};
use crate::pca::{PcaModel, PcaParams};
use crate::rows::{Batches, DescriptorRow, Explode, Project, RowBatch, Spool, SpooledRows};
use crate::sink::{RowSink, SinkReport};
use crate::source::ImageObject;

/// The stages of the flow on any iterator of results.
///
/// Every stage is lazy, keeps the order, and passes an `Err` through in its place. Each can be used
/// alone, and a stage of the caller's is any iterator adaptor between two of them.
///
/// # Examples
/// ```
/// use orb_features::prelude::*;
///
/// let orb = OrbParams::default().with_edge_threshold(3).with_patch_size(5).build()?;
/// let pgm = [b"P5 64 64 255\n".to_vec(), (0..64 * 64).map(|i| (i % 64 / 8 + i / 512) as u8 % 2 * 255).collect()].concat();
/// let source = MemorySource::new([("label/a.pgm", pgm.clone()), ("label/b.pgm", pgm)]);
/// let rows: Vec<DescriptorRow> = source
///     .open()?
///     .orb_features(&orb, &DecodeParams::default(), Parallelism::default())
///     .explode()
///     .collect::<Result<_, _>>()?;
/// assert!(!rows.is_empty());
/// # Ok::<(), orb_features::Error>(())
/// ```
pub trait StageExt: Iterator + Sized {
    /// Applies `work` on several threads, in order; see [`ParMap`].
    ///
    /// `start` makes the working memory of a thread.
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

    /// Decodes each image, on the calling thread.
    fn decode(self, params: DecodeParams) -> Decode<Self>
    where
        Self: Iterator<Item = Result<ImageObject>>,
    {
        Decode { images: self, decoder: Decoder::new(params) }
    }

    /// Extracts the features of each decoded image, on the calling thread.
    fn extract<E: FeatureExtractor + Clone>(self, extractor: &E) -> Extract<Self, E>
    where
        Self: Iterator<Item = Result<DecodedImage>>,
    {
        Extract { images: self, extractor: extractor.clone(), scratch: E::Scratch::default() }
    }

    /// Decodes each image and extracts its features: the parallel form of
    /// [`decode`](Self::decode) and [`extract`](Self::extract).
    ///
    /// No more than `threads` encoded and decoded images are in memory at a time (beside what the source reads
    /// ahead), and the features of no more than a window of images. An image for which the decoder or the
    /// extractor panics is an error like any other.
    fn orb_features<E>(
        self,
        extractor: &E,
        decode: &DecodeParams,
        parallelism: Parallelism,
    ) -> ParMap<Result<ImageObject>, Result<ImageFeatures>>
    where
        Self: Iterator<Item = Result<ImageObject>> + Send + 'static,
        E: FeatureExtractor + Clone + 'static,
    {
        let (extractor, decode) = (extractor.clone(), decode.clone());
        self.par_map(
            parallelism,
            move || Worker::new(&extractor, &decode),
            |worker, object| worker.features(&object?),
        )
    }

    /// Turns each image's features into rows, one for each descriptor.
    fn explode(self) -> Explode<Self>
    where
        Self: Iterator<Item = Result<ImageFeatures>>,
    {
        Explode::new(self)
    }

    /// Gathers rows into batches of `rows`, at least one; the last may be shorter.
    fn batches(self, rows: usize) -> Batches<Self>
    where
        Self: Iterator<Item = Result<DescriptorRow>>,
    {
        Batches::new(self, rows)
    }

    /// Gathers rows into batches and projects them onto the components of a model.
    fn project(self, model: &PcaModel) -> Project<Self>
    where
        Self: Iterator<Item = Result<DescriptorRow>>,
    {
        Project::new(self, model.clone())
    }

    /// Fits a PCA to the descriptors of all rows, and gives them back for a second pass.
    ///
    /// # Errors
    /// The first error of the stream, [`Error::Fit`] if the rows do not allow it,
    /// [`Error::Spool`] if they cannot be kept.
    fn fit_pca(mut self, params: &PcaParams, spool: &Spool) -> Result<(PcaModel, SpooledRows)>
    where
        Self: Iterator<Item = Result<DescriptorRow>>,
    {
        let mut fit = crate::rows::SpooledFit::new(spool);
        self.try_for_each(|row| fit.push(&row?))?;
        fit.finish(params)
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

/// Decodes and extracts on one thread, keeping the buffers of both.
pub(crate) struct Worker<E: FeatureExtractor> {
    decoder: Decoder,
    gray: GrayImage,
    extractor: E,
    scratch: E::Scratch,
    /// What the last image took in each of the two steps.
    pub times: [Duration; 2],
}

impl<E: FeatureExtractor + Clone> Worker<E> {
    pub fn new(extractor: &E, decode: &DecodeParams) -> Self {
        Self {
            decoder: Decoder::new(decode.clone()),
            gray: GrayImage::default(),
            extractor: extractor.clone(),
            scratch: E::Scratch::default(),
            times: [Duration::ZERO; 2],
        }
    }

    /// The features of an image. Its decoder's or extractor's panic is its error, so that it does not cost the
    /// other images.
    pub fn features(&mut self, object: &ImageObject) -> Result<ImageFeatures> {
        let start = Instant::now();
        let Self { decoder, gray, extractor, scratch, .. } = self;
        let decoded = caught(|| decoder.decode_into(object, gray)).unwrap_or_else(|panic| {
            *decoder = Decoder::new(decoder.params().clone());
            let what = format!("the decoder panicked: {panic}");
            Err(Error::decode(object.uri.as_str(), DecodeCause::Corrupt, what))
        });
        let middle = Instant::now();
        self.times = [middle - start, Duration::ZERO];
        decoded?;
        let extracted = caught(|| extractor.detect_and_compute_with(gray.view(), None, scratch));
        let features = extracted.unwrap_or_else(|panic| {
            *scratch = E::Scratch::default();
            Err(Error::Panic(panic))
        });
        self.times[1] = middle.elapsed();
        let features = features.map_err(|e| of_image(&object.uri, e))?;
        Ok(ImageFeatures::new(Arc::new(meta_of(object, &self.gray)), features))
    }
}

/// The result of some work, or what it panicked with. What it has changed is not to be used after that.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Box<str>> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").into()
    })
}

fn of_image(uri: &str, error: Error) -> Error {
    Error::Extract { uri: uri.into(), source: Box::new(error) }
}

/// The iterator of [`StageExt::decode`].
#[derive(Debug)]
#[must_use = "iterator adaptors are lazy and do nothing unless consumed"]
pub struct Decode<I> {
    images: I,
    decoder: Decoder,
}

impl<I: Iterator<Item = Result<ImageObject>>> Iterator for Decode<I> {
    type Item = Result<DecodedImage>;

    fn next(&mut self) -> Option<Self::Item> {
        let object = self.images.next()?;
        Some(object.and_then(|object| self.decoder.decode_object(&object)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.images.size_hint()
    }
}

/// The iterator of [`StageExt::extract`].
#[must_use = "iterator adaptors are lazy and do nothing unless consumed"]
pub struct Extract<I, E: FeatureExtractor> {
    images: I,
    extractor: E,
    scratch: E::Scratch,
}

impl<I: std::fmt::Debug, E: FeatureExtractor> std::fmt::Debug for Extract<I, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Extract").field("images", &self.images).finish_non_exhaustive()
    }
}

impl<I: Iterator<Item = Result<DecodedImage>>, E: FeatureExtractor> Iterator for Extract<I, E> {
    type Item = Result<ImageFeatures>;

    fn next(&mut self) -> Option<Self::Item> {
        let image = self.images.next()?;
        Some(image.and_then(|image| {
            self.extractor
                .detect_and_compute_with(image.gray.view(), None, &mut self.scratch)
                .map_err(|e| of_image(&image.meta.uri, e))
                .map(|features| ImageFeatures::new(image.meta, features))
        }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.images.size_hint()
    }
}
