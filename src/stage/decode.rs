//! Reading and decoding on the calling thread.

use crate::decode::{DecodeParams, DecodedImage, Decoder};
use crate::error::Result;
use crate::pixels::PixelSpec;
use crate::source::{ImageObject, ListedImage};

/// The iterator of [`StageExt::read`](crate::StageExt::read).
#[derive(Clone, Debug)]
#[must_use = "iterator adaptors are lazy and do nothing unless consumed"]
pub struct Read<I> {
    images: I,
}

impl<I> Read<I> {
    pub(super) fn new(images: I) -> Self {
        Self { images }
    }
}

impl<T: Into<ListedImage>, I: Iterator<Item = Result<T>>> Iterator for Read<I> {
    type Item = Result<ImageObject>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.images.next()?.and_then(|image| image.into().read()))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.images.size_hint()
    }
}

/// The iterator of [`StageExt::decode`](crate::StageExt::decode).
#[derive(Debug)]
#[must_use = "iterator adaptors are lazy and do nothing unless consumed"]
pub struct Decode<I> {
    images: I,
    decoder: Decoder,
    spec: PixelSpec,
    is_checked: bool,
}

impl<I> Decode<I> {
    pub(super) fn new(images: I, params: DecodeParams, spec: PixelSpec) -> Self {
        Self { images, decoder: Decoder::new(params), spec, is_checked: false }
    }
}

impl<T: Into<ListedImage>, I: Iterator<Item = Result<T>>> Iterator for Decode<I> {
    type Item = Result<DecodedImage>;

    fn next(&mut self) -> Option<Self::Item> {
        if !std::mem::replace(&mut self.is_checked, true) {
            let checked = self.decoder.params().check().and_then(|()| self.spec.check());
            if let Err(error) = checked {
                return Some(Err(error));
            }
        }
        let image = self.images.next()?;
        Some(image.and_then(|image| {
            let object = image.into().read()?;
            self.decoder.decode_object(&object, self.spec)
        }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.images.size_hint()
    }
}
