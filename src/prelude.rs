//! Everything that the stages take and give, for `use orb_features::prelude::*`.

pub use crate::decode::{
    ColorOrder, DecodeParams, DecodedImage, Decoder, ExifOrientation, GrayImage, GrayMode,
    GrayView, ImageMeta,
};
pub use crate::error::{DecodeCause, Error, ObjectCause, Result, Stage};
#[cfg(feature = "opencv")]
pub use crate::orb::OpenCvOrb;
pub use crate::orb::{
    DEFAULT_EDGE_THRESHOLD, DEFAULT_FAST_THRESHOLD, DEFAULT_FIRST_LEVEL, DEFAULT_MAX_KEYPOINTS,
    DEFAULT_N_FEATURES, DEFAULT_N_LEVELS, DEFAULT_PATCH_SIZE, DEFAULT_SCALE_FACTOR, DEFAULT_WTA_K,
    DESCRIPTOR_LEN, Descriptor, FeatureExtractor, Features, ImageFeatures, KeyPoint,
    MAX_N_FEATURES, OpenCvBuild, Orb, OrbParams, OrbScratch, ScoreType,
};
pub use crate::pca::{
    Centering, DEFAULT_N_COMPONENTS, DEFAULT_SEED, Moments, Origin, PcaModel, PcaParams,
    PowerIterations, Solver,
};
pub use crate::pipeline::{MaxFailures, OnError, Pipeline, Progress, RunReport};
pub use crate::rows::{DEFAULT_BATCH_ROWS, DescriptorRow, RowBatch, Spool, SpooledRows};
#[cfg(feature = "s3")]
pub use crate::s3::{Addressing, S3, S3Location, S3Params};
#[cfg(feature = "parquet")]
pub use crate::sink::{
    Codec, DEFAULT_ROWS_PER_FILE, ParquetParams, ParquetSink, ScoreWidth, WriteMode,
};
pub use crate::sink::{Failure, NullSink, RowSink, SinkReport};
#[cfg(feature = "s3")]
pub use crate::source::S3Source;
pub use crate::source::{
    FsSource, ImageObject, ImageSource, LabelRule, ListedImage, ListedImages, MemorySource,
    Selection,
};
pub use crate::stage::{Parallelism, StageExt};
