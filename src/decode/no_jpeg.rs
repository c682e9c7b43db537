//! Without the feature `jpeg`, each JPEG is an error that names the feature.

use super::{DecodeError, DecodeParams};
use crate::error::DecodeCause;
use crate::pixels::{PixelFormat, Pixels};

pub(super) const NAME: &str = "none";

pub(super) fn is_vectorized() -> bool {
    false
}

/// Stands in for the decoder.
#[derive(Debug, Default)]
pub(super) struct JpegDecoder {}

impl JpegDecoder {
    #[expect(clippy::unused_self, reason = "as the decoder that it stands for")]
    pub fn decode(
        &mut self,
        _: &[u8],
        _: &DecodeParams,
        _: PixelFormat,
        _: &mut Pixels,
    ) -> Result<(), DecodeError> {
        let why = "this build reads no JPEG: it lacks the feature `jpeg`";
        Err((DecodeCause::Unsupported, why.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DecodeParams, Decoder};
    use crate::error::{DecodeCause, Error};
    use crate::source::ImageObject;

    #[test]
    fn a_jpeg_is_an_error_that_names_the_feature() {
        let jpeg = ImageObject::new("a.jpg", &b"\xff\xd8\xff\xe0"[..]);
        let error = Decoder::new(DecodeParams::default()).decode(&jpeg).unwrap_err();
        assert!(matches!(error, Error::Decode { cause: DecodeCause::Unsupported, .. }));
        assert!(error.to_line().contains("a.jpg") && error.to_line().contains("`jpeg`"));
    }
}
