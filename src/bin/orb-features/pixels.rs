//! The command `pixels`.

use clap::Args;
use orb_features::features::DEFAULT_PIXEL_SIDE;
use orb_features::prelude::*;

use crate::choices::{Size, names};
use crate::exit::Exit;
use crate::job::{Job, With};
use crate::pca::PcaArgs;
use crate::s3::S3Args;

#[derive(Args)]
pub struct PixelsOf {
    #[command(flatten)]
    job: Job,

    /// Width and height in pixels: 64 or 128x96.
    #[arg(long, value_name = "N|WxH", default_value_t = Size(DEFAULT_PIXEL_SIDE, DEFAULT_PIXEL_SIDE))]
    size: Size,
    /// Channels, in their order.
    #[arg(long, default_value_t = PixelFormat::Gray, value_parser = names(PixelFormat::ALL, PixelFormat::as_str))]
    channels: PixelFormat,
    /// How images are resized: as by Pillow (bicubic, its default; bilinear; nearest) or by tf.image.resize
    /// (tensorflow).
    #[arg(long, default_value_t, value_parser = names(Resize::ALL, Resize::as_str))]
    resize: Resize,
    /// How colours become grey: as by cv2.imread(path) then BGR2GRAY (bgr), or as by IMREAD_GRAYSCALE (luma).
    #[arg(long, default_value_t, value_parser = names(GrayMode::ALL, GrayMode::as_str))]
    gray: GrayMode,

    #[command(flatten)]
    pca: PcaArgs,
    // Flattened last, because a help heading applies to all options after it.
    #[command(flatten)]
    s3: S3Args,
}

impl PixelsOf {
    pub fn run(&self) -> Result<(), Exit> {
        let Size(width, height) = self.size;
        let params = PixelParams::default()
            .with_size(width, height)
            .with_channels(self.channels)
            .with_resize(self.resize);
        let extractor = params.build()?;
        let with = With {
            s3: &self.s3,
            pca: &self.pca,
            gray: self.gray,
            default_components: None,
            reads: None,
        };
        self.job.run(&with, |_| Ok(extractor))
    }
}
