//! An image's name, label, file and shape.

use std::time::SystemTime;

/// An image's name, label, file and shape, known once it is decoded; shared by all of its features and rows.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ImageMeta {
    /// The path or key, unmangled.
    pub uri: String,
    /// The label, if the source's rule gives one.
    pub label: Option<String>,
    /// Length of the encoded image in bytes.
    pub byte_len: u64,
    /// When the file or object was last modified.
    pub modified: Option<SystemTime>,
    /// Width of the upright image in pixels.
    pub width: u32,
    /// Height of the upright image in pixels.
    pub height: u32,
    /// Channels of the encoded image: 1 grey, 2 grey and alpha, 3 colour, 4 colour and alpha or CMYK.
    pub channels: u8,
}

impl ImageMeta {
    /// Names an image; everything else is unknown.
    #[must_use]
    pub fn new(uri: impl Into<String>) -> Self {
        Self { uri: uri.into(), ..Self::default() }
    }

    /// Sets the label.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Sets width and height in pixels and the number of channels.
    #[must_use]
    pub fn with_shape(mut self, width: u32, height: u32, channels: u8) -> Self {
        (self.width, self.height, self.channels) = (width, height, channels);
        self
    }

    /// Sets the length of the encoded image in bytes and when it was last modified.
    #[must_use]
    pub fn with_file(mut self, byte_len: u64, modified: Option<SystemTime>) -> Self {
        (self.byte_len, self.modified) = (byte_len, modified);
        self
    }
}
