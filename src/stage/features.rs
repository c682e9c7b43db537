//! From images to features: on the calling thread, or on several.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use super::{ParMap, Parallelism, StageExt as _, Tally};
use crate::decode::{DecodeParams, DecodedImage, Decoder};
use crate::error::{DecodeCause, Error, Result};
use crate::features::{Extracted, FeatureExtractor, ImageFeatures};
use crate::pixels::{ImageMeta, PixelFormat, PixelSpec, PixelView, Pixels};
use crate::source::{ImageObject, ListedImage};

/// The iterator of [`StageExt::extract`](crate::StageExt::extract).
#[must_use = "iterator adaptors are lazy and do nothing unless consumed"]
pub struct Extract<I, E: FeatureExtractor> {
    images: I,
    extractor: E,
    scratch: E::Scratch,
}

impl<I, E: FeatureExtractor> Extract<I, E> {
    pub(super) fn new(images: I, extractor: E) -> Self {
        Self { images, extractor, scratch: E::Scratch::default() }
    }
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
        Some(image.and_then(|DecodedImage { meta, pixels, .. }| {
            let extracted = check_pixels(&self.extractor, &pixels)
                .and_then(|()| self.extractor.extract(pixels.view(), &mut self.scratch));
            features_of(&self.extractor, meta, extracted)
        }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.images.size_hint()
    }
}

/// The iterator of [`StageExt::features`](crate::StageExt::features). Parameters take effect only before the
/// first item is pulled.
#[must_use = "iterator adaptors are lazy and do nothing unless consumed"]
pub struct FeaturesOf<I: Iterator, E> {
    state: State<I, E>,
}

enum State<I: Iterator, E> {
    Waiting(Box<Setup<I, E>>),
    Running { batches: Batches<I::Item>, batch: std::vec::IntoIter<Result<ImageFeatures>> },
    Done,
}

struct Setup<I, E> {
    images: I,
    extractor: E,
    decode: DecodeParams,
    pixels: bool,
    parallelism: Option<Parallelism>,
    tally: Tally,
}

/// Images are processed in batches of [`FeatureExtractor::batch_len`].
type Batches<T> = ParMap<Vec<T>, Vec<Result<ImageFeatures>>>;

impl<I: Iterator, E> std::fmt::Debug for FeaturesOf<I, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeaturesOf").finish_non_exhaustive()
    }
}

impl<T, I, E> FeaturesOf<I, E>
where
    I: Iterator<Item = Result<T>> + Send + 'static,
    T: Into<ListedImage> + Send + 'static,
    E: FeatureExtractor + Clone + 'static,
{
    pub(super) fn new(images: I, extractor: E) -> Self {
        let (decode, tally) = (DecodeParams::default(), Tally::default());
        let setup = Setup { images, extractor, decode, pixels: false, parallelism: None, tally };
        Self { state: State::Waiting(Box::new(setup)) }
    }

    fn with(mut self, set: impl FnOnce(&mut Setup<I, E>)) -> Self {
        if let State::Waiting(setup) = &mut self.state {
            set(setup);
        }
        self
    }

    /// Sets how images are decoded.
    pub fn with_decode(self, decode: DecodeParams) -> Self {
        self.with(|setup| setup.decode = decode)
    }

    /// Sets the number of threads, and how many images they may run ahead (default: one thread for each core).
    pub fn with_parallelism(self, parallelism: Parallelism) -> Self {
        self.with(|setup| setup.parallelism = Some(parallelism))
    }

    /// Sets whether each image keeps its pixels, at its own size: grey of grey images, else BGR (default: no). This
    /// decodes it a second time, unless the extractor wants the same pixels. Waiting results then hold pixels, so each
    /// thread runs ahead by only one image, or one batch.
    pub fn with_pixels(self, keep: bool) -> Self {
        self.with(|setup| setup.pixels = keep)
    }

    /// Counts bytes, retries and times in `tally`.
    pub fn with_tally(self, tally: &Tally) -> Self {
        self.with(|setup| setup.tally = tally.clone())
    }

    /// Checks the parameters and starts.
    fn start(setup: Setup<I, E>) -> Result<Batches<Result<T>>> {
        let Setup { images, extractor, decode, pixels, parallelism, tally } = setup;
        decode.check()?;
        extractor.pixels().check()?;
        extractor.output().check()?;
        let len = extractor.batch_len();
        if len == 0 {
            return Err(Error::param("batch_len", 0, "at least 1"));
        }
        let parallelism = parallelism.unwrap_or_default();
        // Results that wait hold their pixels, if these are kept.
        let window = if pixels { 1 } else { parallelism.window().div_ceil(len) };
        let parallelism = parallelism.with_window(window);
        let batches = Chunks { items: images.fuse(), len };
        Ok(batches.par_map(
            parallelism,
            move || Worker::new(extractor.clone(), &decode, pixels, tally.clone()),
            Worker::features,
        ))
    }
}

impl<T, I, E> Iterator for FeaturesOf<I, E>
where
    I: Iterator<Item = Result<T>> + Send + 'static,
    T: Into<ListedImage> + Send + 'static,
    E: FeatureExtractor + Clone + 'static,
{
    type Item = Result<ImageFeatures>;

    fn next(&mut self) -> Option<Self::Item> {
        if matches!(self.state, State::Waiting(_))
            && let State::Waiting(setup) = std::mem::replace(&mut self.state, State::Done)
        {
            match Self::start(*setup) {
                Ok(batches) => {
                    self.state = State::Running { batches, batch: Vec::new().into_iter() };
                }
                Err(error) => return Some(Err(error)),
            }
        }
        let State::Running { batches, batch } = &mut self.state else { return None };
        loop {
            if let Some(features) = batch.next() {
                return Some(features);
            }
            *batch = batches.next()?.into_iter();
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match &self.state {
            State::Waiting(setup) if setup.extractor.batch_len() == 1 => setup.images.size_hint(),
            State::Waiting(_) => (0, None),
            // Every batch holds at least one image.
            State::Running { batches, batch } => (batch.len() + batches.size_hint().0, None),
            State::Done => (0, Some(0)),
        }
    }
}

/// Gathers items into vectors of `len`; the last may be shorter.
struct Chunks<I> {
    items: I,
    len: usize,
}

impl<I: Iterator> Iterator for Chunks<I> {
    type Item = Vec<I::Item>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.items.next()?;
        let mut chunk = Vec::with_capacity(self.len.min(1024));
        chunk.push(first);
        while chunk.len() < self.len
            && let Some(item) = self.items.next()
        {
            chunk.push(item);
        }
        Some(chunk)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let (least, most) = self.items.size_hint();
        (least.div_ceil(self.len), most.map(|most| most.div_ceil(self.len)))
    }
}

/// Reads, decodes and extracts on one thread; reuses its buffers.
struct Worker<E: FeatureExtractor> {
    decoder: Decoder,
    extractor: E,
    scratch: E::Scratch,
    pixels: Vec<Pixels>,
    /// Whether images keep their pixels.
    keep: bool,
    tally: Tally,
}

/// An image that has been decoded, and its pixels if it keeps them.
type Decoded = (Arc<ImageMeta>, Option<Arc<Pixels>>);

impl<E: FeatureExtractor> Worker<E> {
    fn new(extractor: E, decode: &DecodeParams, keep: bool, tally: Tally) -> Self {
        let (decoder, scratch) = (Decoder::new(decode.clone()), E::Scratch::default());
        Self { decoder, extractor, scratch, pixels: Vec::new(), keep, tally }
    }

    /// The features of some images, one result for each.
    fn features<T: Into<ListedImage>>(
        &mut self,
        images: Vec<Result<T>>,
    ) -> Vec<Result<ImageFeatures>> {
        if self.pixels.len() < images.len() {
            self.pixels.resize_with(images.len(), Pixels::default);
        }
        let mut buffers = std::mem::take(&mut self.pixels);
        let metas: Vec<Result<Decoded>> = images
            .into_iter()
            .zip(&mut buffers)
            .map(|(image, pixels)| {
                let image: ListedImage = image
                    .inspect_err(|error| self.tally.counts.retries.add(error.retries().into()))?
                    .into();
                let label = image.label.clone();
                let mut byte_len = None;
                let decoded = self.tally.read(image).and_then(|object| {
                    byte_len = Some(object.bytes.len() as u64);
                    self.decode(&object, pixels)
                });
                decoded.map_err(|error| error.with_facts(label, byte_len))
            })
            .collect();
        let start = Instant::now();
        let views = metas.iter().zip(&buffers).filter(|(meta, _)| meta.is_ok());
        let views: Vec<_> = views.map(|(_, pixels)| pixels.view()).collect();
        let mut extracted = self.extract(&views).into_iter();
        self.tally.counts.extract.add(start.elapsed());
        self.pixels = buffers;
        metas
            .into_iter()
            .map(|meta| {
                let extracted = extracted.by_ref();
                let (meta, pixels) = meta?;
                let result = extracted.next().expect("a result for each decoded image");
                let (label, byte_len) = (meta.label.clone(), Some(meta.byte_len));
                let features = features_of(&self.extractor, meta, result);
                let features = features.map_err(|error| error.with_facts(label, byte_len))?;
                Ok(ImageFeatures { pixels, ..features })
            })
            .collect()
    }

    /// Decodes one image; a panic of the decoder becomes the image's error.
    fn decode(&mut self, object: &ImageObject, pixels: &mut Pixels) -> Result<Decoded> {
        let (decoder, spec, keep) = (&mut self.decoder, self.extractor.pixels(), self.keep);
        let start = Instant::now();
        let decoded = caught(|| {
            let meta = decoder.decode_meta(object, spec, pixels)?;
            if !keep {
                return Ok((meta, None));
            }
            let is_gray = meta.channels < 3;
            let own = PixelSpec::new(if is_gray { PixelFormat::Gray } else { PixelFormat::Bgr });
            let mut kept = Pixels::default();
            if spec == own {
                kept.clone_from(pixels);
            } else {
                decoder.decode_meta(object, own, &mut kept)?;
            }
            Ok((meta, Some(Arc::new(kept))))
        });
        self.tally.counts.decode.add(start.elapsed());
        decoded.unwrap_or_else(|panic| {
            self.decoder = Decoder::new(self.decoder.params().clone());
            let what = format!("the decoder panicked: {panic}");
            Err(Error::decode(object.uri.as_str(), DecodeCause::Corrupt, what))
        })
    }

    /// Extracts the features of a batch, one result for each image.
    fn extract(&mut self, images: &[PixelView<'_>]) -> Vec<Result<Extracted>> {
        if let [image] = images {
            return vec![self.extract_one(*image)];
        }
        if images.is_empty() {
            return Vec::new();
        }
        let Self { extractor, scratch, .. } = self;
        match caught(|| extractor.extract_batch(images, scratch)) {
            Ok(results) if results.len() == images.len() => results,
            // A panic, or a wrong number of results. Extracting one by one finds the image at fault.
            broken => {
                if broken.is_err() {
                    self.scratch = E::Scratch::default();
                }
                images.iter().map(|&image| self.extract_one(image)).collect()
            }
        }
    }

    /// Extracts the features of one image; a panic of the extractor becomes the image's error.
    fn extract_one(&mut self, image: PixelView<'_>) -> Result<Extracted> {
        let Self { extractor, scratch, .. } = self;
        caught(|| extractor.extract(image, scratch)).unwrap_or_else(|panic| {
            self.scratch = E::Scratch::default();
            Err(Error::Panic(panic))
        })
    }
}

/// Refuses pixels of another format or size than the extractor wants. They can come from a caller who decodes
/// separately.
fn check_pixels<E: FeatureExtractor>(extractor: &E, pixels: &Pixels) -> Result<()> {
    let (spec, size) = (extractor.pixels(), (pixels.width() as u32, pixels.height() as u32));
    if pixels.format() == spec.format() && spec.size().is_none_or(|wanted| wanted == size) {
        return Ok(());
    }
    let (format, wanted) = (pixels.format(), spec.format());
    Err(Error::shape(format!(
        "{format} pixels of {size:?} where {wanted} of {:?} are due",
        spec.size()
    )))
}

/// Joins an image and its features, and checks them against the output format that the extractor declares.
fn features_of<E: FeatureExtractor>(
    extractor: &E,
    meta: Arc<ImageMeta>,
    extracted: Result<Extracted>,
) -> Result<ImageFeatures> {
    let extracted = extracted.map_err(|error| Error::Extract {
        uri: meta.uri.as_str().into(),
        source: Box::new(error),
    })?;
    let features = ImageFeatures::new(meta, extracted);
    features.check(extractor.output())?;
    Ok(features)
}

/// The result of `work`, or its panic message. State that `work` has changed must not be used after a panic.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Box<str>> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").into()
    })
}
