//! The options of the extractor.

use clap::Args;
use orb_features::orb::{
    DEFAULT_EDGE_THRESHOLD, DEFAULT_FAST_THRESHOLD, DEFAULT_FIRST_LEVEL, DEFAULT_N_FEATURES,
    DEFAULT_N_LEVELS, DEFAULT_PATCH_SIZE, DEFAULT_SCALE_FACTOR, DEFAULT_WTA_K, MAX_N_FEATURES,
};
use orb_features::prelude::*;

use crate::choices::names;

/// The parameters of cv2.ORB_create, under its names.
#[derive(Args)]
#[command(next_help_heading = "ORB")]
pub struct OrbArgs {
    /// Quota of keypoints per image [default: 30; match: 500].
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_N_FEATURES)))]
    pub n_features: Option<u32>,
    /// Size ratio of neighbouring pyramid levels, above 1.
    #[arg(long, value_name = "F", default_value_t = DEFAULT_SCALE_FACTOR, allow_negative_numbers = true)]
    pub scale_factor: f32,
    /// Number of pyramid levels.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_N_LEVELS)]
    pub n_levels: u32,
    /// Margin without keypoints, in pixels.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_EDGE_THRESHOLD)]
    pub edge_threshold: u32,
    /// Pyramid level that is the image itself.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_FIRST_LEVEL)]
    pub first_level: u32,
    /// Points compared for each element of the descriptor: 2, 3 or 4.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_WTA_K)]
    pub wta_k: u32,
    /// Score that ranks the corners.
    #[arg(long, default_value_t, value_parser = names(ScoreType::ALL, ScoreType::as_str))]
    pub score_type: ScoreType,
    /// Side of the described patch, in pixels.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PATCH_SIZE)]
    pub patch_size: u32,
    /// Contrast above which a pixel is a FAST corner, 0 to 255.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_FAST_THRESHOLD)]
    pub fast_threshold: u8,
}

impl OrbArgs {
    pub fn params(&self, compat: OpenCvBuild) -> OrbParams {
        OrbParams::default()
            .with_n_features(self.n_features.unwrap_or(DEFAULT_N_FEATURES))
            .with_scale_factor(self.scale_factor)
            .with_n_levels(self.n_levels)
            .with_edge_threshold(self.edge_threshold)
            .with_first_level(self.first_level)
            .with_wta_k(self.wta_k)
            .with_score_type(self.score_type)
            .with_patch_size(self.patch_size)
            .with_fast_threshold(self.fast_threshold)
            .with_compat(compat)
    }
}
