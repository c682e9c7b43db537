//! The command `extract`.

use clap::Args;
use orb_features::Simd;
use orb_features::orb::DEFAULT_MAX_KEYPOINTS;
use orb_features::pca::DEFAULT_N_COMPONENTS;
use orb_features::prelude::*;

use crate::choices::{Backend, names};
use crate::exit::Exit;
use crate::job::{Job, With};
use crate::orb::OrbArgs;
use crate::pca::PcaArgs;
use crate::s3::S3Args;

#[derive(Args)]
pub struct Extract {
    #[command(flatten)]
    job: Job,

    /// Extractor to use: this crate's own, or OpenCV's (if built with it).
    #[arg(long, value_enum, default_value_t = Backend::Native)]
    backend: Backend,
    /// OpenCV build whose results to reproduce: pypi-4.13 (wheels of 4.13 to 5.0), pypi-4.6 (wheels of 4.6 to 4.12)
    /// or debian-4.6; append -nofma for its results on a CPU without AVX2 [default: pypi-4.13].
    #[arg(long, value_name = "BUILD")]
    compat: Option<OpenCvBuild>,
    /// How colours become grey: as by cv2.imread(path) then BGR2GRAY (bgr), or as by IMREAD_GRAYSCALE (luma).
    #[arg(long, default_value_t, value_parser = names(GrayMode::ALL, GrayMode::as_str))]
    gray: GrayMode,
    /// Most keypoints of one image: an image with more, through ties, fails.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_KEYPOINTS,
          value_parser = clap::value_parser!(u32).range(1..))]
    max_keypoints: u32,
    /// Instruction set of the kernels: auto, scalar, avx2 or avx512; it changes no result.
    #[arg(long, value_name = "SET", default_value = "auto")]
    simd: Simd,

    #[command(flatten)]
    pca: PcaArgs,
    // Flattened last, because a help heading applies to all options after it.
    #[command(flatten)]
    s3: S3Args,
    #[command(flatten)]
    orb: OrbArgs,
}

impl Extract {
    pub fn run(&self) -> Result<(), Exit> {
        Simd::set(self.simd)?;
        let params = self.orb.params(self.compat.unwrap_or_default());
        match self.backend {
            Backend::Native => {
                self.run_with(params.with_max_keypoints(self.max_keypoints).build()?)
            }
            Backend::Opencv if self.compat.is_some() => {
                Err(Exit::usage("--compat is for --backend native: OpenCV is the build that it is"))
            }
            #[cfg(feature = "opencv")]
            Backend::Opencv => {
                self.run_with(OpenCvOrb::new(params.with_max_keypoints(self.max_keypoints))?)
            }
            #[cfg(not(feature = "opencv"))]
            Backend::Opencv => Err(Exit::usage(
                "--backend opencv: this program was built without the feature `opencv`",
            )),
        }
    }

    fn run_with<E: FeatureExtractor + Clone + 'static>(&self, extractor: E) -> Result<(), Exit> {
        let with = With {
            s3: &self.s3,
            pca: &self.pca,
            gray: self.gray,
            default_components: Some(DEFAULT_N_COMPONENTS),
            reads: None,
        };
        self.job.run(&with, |_| Ok(extractor))
    }
}
