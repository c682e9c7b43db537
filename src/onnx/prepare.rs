//! From an image to the numbers of a network's input.

use super::params::Scale;
use crate::pixels::{PixelFormat, PixelView, Resampler, Resize};

/// The layout of an input: batch, then rows of pixels with their channels, or a plane for each channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Nhwc,
    Nchw,
}

/// The input of a network, and how images are made to fit it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Preparation {
    pub layout: Layout,
    pub width: usize,
    pub height: usize,
    pub channels: PixelFormat,
    pub resize: Resize,
    pub scale: Scale,
}

/// ImageNet's mean of red, green and blue, in bytes.
const CAFFE_MEAN: [f64; 3] = [123.68, 116.779, 103.939];
/// ImageNet's mean and deviation of red, green and blue, from 0 to 1.
const TORCH_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const TORCH_DEVIATION: [f64; 3] = [0.229, 0.224, 0.225];

/// Working memory of [`Preparation::add`].
#[derive(Debug, Default)]
pub(super) struct Buffers {
    resampler: Resampler,
    pixels: Vec<f32>,
}

impl Preparation {
    /// Numbers for each image.
    pub fn len(&self) -> usize {
        self.width * self.height * self.channels.channels()
    }

    /// The shape of the input for `batch` images.
    pub fn shape(&self, batch: usize) -> [usize; 4] {
        let channels = self.channels.channels();
        match self.layout {
            Layout::Nhwc => [batch, self.height, self.width, channels],
            Layout::Nchw => [batch, channels, self.height, self.width],
        }
    }

    /// Appends the numbers of an image to `input`.
    pub fn add(&self, image: PixelView<'_>, buffers: &mut Buffers, input: &mut Vec<f32>) {
        let Buffers { resampler, pixels } = buffers;
        resampler.resize(image, (self.width, self.height), self.resize, pixels);
        match self.channels {
            PixelFormat::Gray => input.extend(pixels.iter().map(|&v| self.scaled(v, 0))),
            PixelFormat::Rgb => self.add_colors(pixels, [0, 1, 2], input),
            PixelFormat::Bgr => self.add_colors(pixels, [2, 1, 0], input),
        }
    }

    fn add_colors(&self, pixels: &[f32], colors: [usize; 3], input: &mut Vec<f32>) {
        let (pixels, _) = pixels.as_chunks::<3>();
        match self.layout {
            Layout::Nhwc => {
                for pixel in pixels {
                    input.extend([0, 1, 2].map(|c| self.scaled(pixel[c], colors[c])));
                }
            }
            Layout::Nchw => {
                for (c, color) in colors.into_iter().enumerate() {
                    input.extend(pixels.iter().map(|pixel| self.scaled(pixel[c], color)));
                }
            }
        }
    }

    /// Computed in float64 and rounded once.
    #[inline]
    fn scaled(&self, value: f32, color: usize) -> f32 {
        let x = f64::from(value);
        let scaled = match self.scale {
            Scale::Tf => x / 127.5 - 1.0,
            Scale::Torch => (x / 255.0 - TORCH_MEAN[color]) / TORCH_DEVIATION[color],
            Scale::Caffe => x - CAFFE_MEAN[color],
            Scale::None => x,
        };
        scaled as f32
    }
}
