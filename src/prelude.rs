//! Everything that the stages take and give, for `use orb_features::prelude::*`.

pub use crate::decode::{DecodeParams, DecodedImage, Decoder, ExifOrientation, GrayMode};
pub use crate::error::{DecodeCause, Error, ObjectCause, Result, Stage};
pub use crate::features::{
    Extracted, Feature2D, FeatureExtractor, Features, ImageFeatures, KeyPoint, PixelExtractor,
    PixelParams, VectorFormat, Vectors,
};
pub use crate::matching::{DMatch, HammingNorm, Homography, MatchParams, Matcher, RansacParams};
#[cfg(feature = "opencv")]
pub use crate::orb::OpenCvOrb;
pub use crate::orb::{OpenCvBuild, Orb, OrbParams, OrbScratch, ScoreType};
pub use crate::pca::{
    Centering, Moments, Origin, PcaInput, PcaModel, PcaParams, PowerIterations, Solver,
};
pub use crate::pipeline::{Pipeline, RunReport};
pub use crate::pixels::{
    ColorOrder, GrayImage, GrayView, ImageMeta, PixelFormat, PixelSpec, PixelView, Pixels, Resize,
};
pub use crate::rows::{FailedImage, RowBatch, Spool, SpooledBatches};
#[cfg(feature = "arrow")]
pub use crate::rows::{Layout, RowShape, ScoreWidth, TableParams};
#[cfg(feature = "s3")]
pub use crate::s3::{Addressing, S3, S3Location, S3Params};
#[cfg(feature = "parquet")]
pub use crate::sink::{Codec, FileFormat, FileParams, FileSink, RecordSink, WriteMode};
pub use crate::sink::{NullSink, RowSink, SinkReport};
#[cfg(feature = "s3")]
pub use crate::source::S3Source;
pub use crate::source::{
    FsSource, ImageObject, ImageRef, ImageSource, LabelRule, ListedImage, MemorySource, Selection,
};
pub use crate::stage::{ErrorPolicy, MaxFailures, OnError, Parallelism, Progress, StageExt, Tally};
