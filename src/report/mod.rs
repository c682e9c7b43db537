//! A page on a result: what a run found, to look at.
//!
//! ```no_run
//! use orb_features::report::{Report, ReportParams};
//! use orb_features::results::ResultReader;
//!
//! let result = ResultReader::open("features")?;
//! let report = Report::new(&result, &ReportParams::default(), &mut |path| std::fs::read(path).ok())?;
//! std::fs::write("report.html", report.to_html()?)?;
//! std::fs::write("report.json", report.to_json())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod collect;
mod content;
mod page;
mod plot;
mod thumbs;

pub use collect::ReportParams;
pub use content::{
    Bin, Extreme, Extremes, Failures, FewFeatures, Keypoints, LabelPhotos, LabelRow, MixedUp,
    Mixups, PcaPart, PhotoRow, Report, RunPart, Scatter, ScatterPoint, SimilarPhotos, StageTime,
    Thumb,
};
pub use page::MAX_BYTES;
