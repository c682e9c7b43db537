//! Parameters of a network and of the preparation of its images.

use serde::{Deserialize, Serialize};

use crate::choice::choice;
use crate::error::{Error, Result};
use crate::pixels::{PixelFormat, Resize};

/// How bytes become the numbers that a network was trained on: the modes of Keras' `preprocess_input`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Scale {
    /// `x / 127.5 - 1`, from -1 to 1: MobileNet, Inception, Xception.
    #[default]
    Tf,
    /// `x / 255`, less ImageNet's mean of the colour, by its deviation: torchvision's networks, DenseNet.
    Torch,
    /// Less ImageNet's mean of the colour: VGG and ResNet in Keras, which also want BGR.
    Caffe,
    /// The bytes as they are: EfficientNet in Keras, and networks that scale by themselves.
    None,
}

choice!(Scale, "scale", Tf = "tf", Torch = "torch", Caffe = "caffe", None = "none");

/// What runs the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum OnnxBackend {
    /// `tract`, in Rust: nothing to install.
    #[default]
    Tract,
    /// Microsoft's ONNX Runtime, two to four times as fast: the library that `ORT_DYLIB_PATH` names (crate feature
    /// `onnxruntime`).
    OnnxRuntime,
}

choice!(OnnxBackend, "onnx_backend", Tract = "tract", OnnxRuntime = "onnxruntime");

/// The parameters of an [`OnnxExtractor`](super::OnnxExtractor).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
pub struct OnnxParams {
    output: Option<String>,
    size: Option<(u32, u32)>,
    channels: PixelFormat,
    resize: Resize,
    scale: Scale,
    batch: Option<usize>,
    backend: OnnxBackend,
}

impl Default for OnnxParams {
    fn default() -> Self {
        Self {
            output: None,
            size: None,
            channels: PixelFormat::Rgb,
            resize: Resize::default(),
            scale: Scale::default(),
            batch: None,
            backend: OnnxBackend::default(),
        }
    }
}

/// Most pixels of a side that a network is given.
pub(super) const MAX_SIDE: u32 = 4096;
/// Most images that a network is given at a time.
pub(super) const MAX_BATCH: usize = 1024;

impl OnnxParams {
    /// Sets which output of the network is the vector, by its name (default: the last).
    pub fn with_output(mut self, output: impl Into<String>) -> Self {
        self.output = Some(output.into());
        self
    }

    /// Sets width and height of the network's images in pixels, 1 to 4,096 (default: what the network says; needed if
    /// it takes any).
    pub fn with_size(mut self, width: u32, height: u32) -> Self {
        self.size = Some((width, height));
        self
    }

    /// Sets the channels of the network's images, and their order (default [`PixelFormat::Rgb`]).
    pub fn with_channels(mut self, channels: PixelFormat) -> Self {
        self.channels = channels;
        self
    }

    /// Sets how images are brought to the network's size (default [`Resize::Bicubic`]).
    pub fn with_resize(mut self, resize: Resize) -> Self {
        self.resize = resize;
        self
    }

    /// Sets how bytes become numbers (default [`Scale::Tf`]).
    pub fn with_scale(mut self, scale: Scale) -> Self {
        self.scale = scale;
        self
    }

    /// Sets how many images the network is given at a time, 1 to 1,024 (default: what the network says, or 1).
    pub fn with_batch(mut self, batch: usize) -> Self {
        self.batch = Some(batch);
        self
    }

    /// Sets what runs the network (default [`OnnxBackend::Tract`]).
    pub fn with_backend(mut self, backend: OnnxBackend) -> Self {
        self.backend = backend;
        self
    }

    /// The name of the output; `None` is the last.
    #[must_use]
    pub fn output(&self) -> Option<&str> {
        self.output.as_deref()
    }

    /// Width and height in pixels; `None` is what the network says.
    #[must_use]
    pub fn size(&self) -> Option<(u32, u32)> {
        self.size
    }

    /// The channels, in their order.
    #[must_use]
    pub fn channels(&self) -> PixelFormat {
        self.channels
    }

    /// How images are brought to the network's size.
    #[must_use]
    pub fn resize(&self) -> Resize {
        self.resize
    }

    /// How bytes become numbers.
    #[must_use]
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// Images at a time; `None` is what the network says, or 1.
    #[must_use]
    pub fn batch(&self) -> Option<usize> {
        self.batch
    }

    /// What runs the network.
    #[must_use]
    pub fn backend(&self) -> OnnxBackend {
        self.backend
    }

    /// Checks the parameters, without a network.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for a size or a batch out of range, and a scale by colours for grey images.
    pub fn check(&self) -> Result<()> {
        if let Some((w, h)) = self.size
            && !((1..=MAX_SIDE).contains(&w) && (1..=MAX_SIDE).contains(&h))
        {
            let allowed = format!("1 to {MAX_SIDE} a side");
            return Err(Error::param("size", format!("{w} x {h}"), allowed));
        }
        if let Some(batch) = self.batch
            && !(1..=MAX_BATCH).contains(&batch)
        {
            return Err(Error::param("batch", batch, format!("1 to {MAX_BATCH}")));
        }
        match self.scale {
            Scale::Torch | Scale::Caffe if self.channels == PixelFormat::Gray => {
                Err(Error::param("scale", self.scale, "tf or none for grey images"))
            }
            _ => Ok(()),
        }
    }
}
