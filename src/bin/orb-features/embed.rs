//! The command `embed`.

#[cfg(feature = "onnx")]
pub use with_onnx::Embed;
#[cfg(not(feature = "onnx"))]
pub use without_onnx::Embed;

#[cfg(feature = "onnx")]
mod with_onnx {
    use clap::Args;
    use clap::builder::{OsStringValueParser, TypedValueParser as _};
    use orb_features::onnx::{OnnxBackend, OnnxExtractor, OnnxParams, Scale};
    use orb_features::prelude::*;

    use crate::choices::{Size, names};
    use crate::exit::Exit;
    use crate::job::{Job, With};
    use crate::pca::PcaArgs;
    use crate::place::Place;
    use crate::s3::S3Args;

    #[derive(Args)]
    pub struct Embed {
        #[command(flatten)]
        job: Job,

        /// The network: an ONNX file with one image input, or s3://bucket/key.
        #[arg(long, value_name = "FILE", value_parser = OsStringValueParser::new().try_map(Place::parse))]
        onnx: Place,
        /// Output of the network that is the vector [default: the last].
        #[arg(long = "output", value_name = "NAME")]
        vector: Option<String>,
        /// Width and height of the network's images in pixels: 96 or 128x96 [default: what the network says].
        #[arg(long, value_name = "N|WxH")]
        size: Option<Size>,
        /// Channels of the network's images, in their order.
        #[arg(long, default_value_t = PixelFormat::Rgb, value_parser = names(PixelFormat::ALL, PixelFormat::as_str))]
        channels: PixelFormat,
        /// How images are resized: as by Pillow (bicubic, its default; bilinear; nearest) or by tf.image.resize
        /// (tensorflow).
        #[arg(long, default_value_t, value_parser = names(Resize::ALL, Resize::as_str))]
        resize: Resize,
        /// How bytes become numbers, as by preprocess_input of Keras: tf (-1 to 1), torch or caffe (ImageNet's mean), or
        /// none.
        #[arg(long, default_value_t, value_parser = names(Scale::ALL, Scale::as_str))]
        scale: Scale,
        /// Images that the network is given at a time [default: what the network says, or 1].
        #[arg(long, value_name = "N")]
        batch: Option<usize>,
        /// Backend that runs the network: tract, or ONNX Runtime, whose library ORT_DYLIB_PATH names (if built with it).
        #[arg(long, default_value_t, value_parser = names(OnnxBackend::ALL, OnnxBackend::as_str))]
        onnx_backend: OnnxBackend,

        #[command(flatten)]
        pca: PcaArgs,
        // Flattened last, because a help heading applies to all options after it.
        #[command(flatten)]
        s3: S3Args,
    }

    impl Embed {
        pub fn run(&self) -> Result<(), Exit> {
            let params = self.params();
            params.check()?;
            let with = With {
                s3: &self.s3,
                pca: &self.pca,
                gray: GrayMode::default(),
                default_components: None,
                reads: Some(&self.onnx),
            };
            self.job.run(&with, |s3| Ok(self.load(s3, &params)?))
        }

        fn params(&self) -> OnnxParams {
            let mut params = OnnxParams::default()
                .with_channels(self.channels)
                .with_resize(self.resize)
                .with_scale(self.scale)
                .with_backend(self.onnx_backend);
            if let Some(output) = &self.vector {
                params = params.with_output(output);
            }
            if let Some(Size(width, height)) = self.size {
                params = params.with_size(width, height);
            }
            if let Some(batch) = self.batch {
                params = params.with_batch(batch);
            }
            params
        }

        fn load(&self, s3: Option<&S3>, params: &OnnxParams) -> Result<OnnxExtractor> {
            match (&self.onnx, s3) {
                (Place::Folder(path), _) => OnnxExtractor::open(path, params),
                (Place::S3(location), Some(s3)) => {
                    let name = location.to_string();
                    let refused = |why: &str| Error::Network {
                        uri: name.as_str().into(),
                        reason: why.into(),
                    };
                    let mut objects = S3Source::new(s3, location.clone())?.open()?;
                    let object =
                        objects.next().ok_or_else(|| refused("there is no such object"))??;
                    if object.uri != name {
                        return Err(refused("it is a prefix, not an object"));
                    }
                    OnnxExtractor::new(&object.bytes, &name, params)
                }
                (Place::S3(_), None) => unreachable!("a place in S3 has a connection"),
            }
        }
    }
}

#[cfg(not(feature = "onnx"))]
mod without_onnx {
    use clap::Args;

    use crate::exit::Exit;

    /// Takes any options, to say what is missing.
    #[derive(Args)]
    pub struct Embed {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        options: Vec<std::ffi::OsString>,
    }

    impl Embed {
        pub fn run(&self) -> Result<(), Exit> {
            let n = self.options.len();
            let why = "this program was built without the feature `onnx`";
            Err(Exit::usage(&format!("embed with {n} arguments: {why}")))
        }
    }
}
