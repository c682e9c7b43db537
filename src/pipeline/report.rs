//! The report of a job.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::counts;
use crate::pca::{PcaModel, Solver};
use crate::rows::FailedImage;
use crate::sink::SinkReport;
use crate::stage::{Progress, Seconds, Tally};

/// The report of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunReport {
    /// The version of this crate.
    pub version: String,
    /// Images seen: every one is decoded or failed.
    pub images: u64,
    /// Images decoded and searched for features.
    pub decoded: u64,
    /// Decoded images in which no keypoint was found.
    pub without_features: u64,
    /// Images that failed, by cause ([`Error::code`](crate::Error::code)).
    pub failed: BTreeMap<String, u64>,
    /// The first ten failures, in order.
    pub first_failures: Vec<FailedImage>,
    /// Rows: descriptors found.
    pub rows: u64,
    /// Bytes of encoded images read.
    pub bytes_in: u64,
    /// Retried requests of the source and the sink.
    #[serde(default)]
    pub retries: u64,
    /// The sink's numbers.
    pub sink: SinkReport,
    /// Threads asked for.
    pub threads: usize,
    /// Where the time went.
    pub seconds: Seconds,
    /// Summary of the PCA, if there was one.
    pub model: Option<ModelSummary>,
    /// The PCA itself; not part of the report's JSON.
    #[serde(skip)]
    pub pca_model: Option<PcaModel>,
}

impl RunReport {
    /// Joins the numbers of a tally and a sink.
    pub(super) fn new(
        tally: &Tally,
        sink: SinkReport,
        model: Option<PcaModel>,
        threads: usize,
        time: Duration,
    ) -> Self {
        let Progress { images, failed, rows, .. } = tally.progress();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            images,
            decoded: images - failed,
            without_features: tally.without_features(),
            failed: tally.failed_by_cause(),
            first_failures: tally.first_failures(),
            rows,
            bytes_in: tally.counts.bytes.get(),
            retries: tally.counts.retries.get() + sink.retries,
            sink,
            threads,
            seconds: Seconds { total: time.as_secs_f64(), ..tally.seconds() },
            model: model.as_ref().map(ModelSummary::from),
            pca_model: model,
        }
    }
}

/// Summary of a PCA.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModelSummary {
    /// The number of components.
    pub n_components: usize,
    /// The number of components that have any variance.
    pub rank: usize,
    /// The number of rows that the model was fitted to.
    pub n_rows: u64,
    /// The solver that was used.
    pub solver: Solver,
    /// The fraction of the total variance along each component.
    pub explained_variance_ratio: Vec<f64>,
    /// The sum of `explained_variance_ratio`.
    pub explained_variance_ratio_sum: f64,
    /// How many components explain 90 %, 95 % and 99 % of the variance, as far as all of them do.
    #[serde(default)]
    pub components_for: BTreeMap<String, usize>,
}

/// The shares of [`ModelSummary::components_for`].
const SHARES: [(&str, f64); 3] = [("90%", 0.9), ("95%", 0.95), ("99%", 0.99)];

impl From<&PcaModel> for ModelSummary {
    fn from(model: &PcaModel) -> Self {
        Self {
            n_components: model.n_components(),
            rank: model.rank(),
            n_rows: model.n_rows(),
            solver: model.solver(),
            explained_variance_ratio: model.explained_variance_ratio().to_vec(),
            explained_variance_ratio_sum: model.explained_variance_ratio().sum(),
            components_for: SHARES
                .into_iter()
                .filter_map(|(name, share)| Some((name.to_owned(), model.reaching(share)?)))
                .collect(),
        }
    }
}

/// A short table for people.
impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = &self.seconds;
        let mut line = |name: &str, value: u64, note: String| {
            let gap = if note.is_empty() { "" } else { "  " };
            writeln!(f, "{name:<20}{value:>12}{gap}{note}")
        };
        let rate = self.images as f64 / seconds.total.max(1e-9);
        line("images", self.images, format!("{} read", Bytes(self.bytes_in)))?;
        line("  without features", self.without_features, String::new())?;
        if self.retries > 0 {
            line("  retries", self.retries, "of requests that failed at first".to_owned())?;
        }
        line("  failed", self.failed.values().sum(), counts(&self.failed))?;
        line("rows", self.rows, String::new())?;
        if let Some(model) = &self.model {
            let solver = match model.solver {
                Solver::Randomized { seed, .. } => format!("randomized, seed {seed}"),
                Solver::Covariance => "covariance".to_owned(),
                Solver::Auto { .. } => "auto".to_owned(),
            };
            let note = format!(
                "{:.2} % of the variance of {} rows ({solver})",
                100.0 * model.explained_variance_ratio_sum,
                model.n_rows
            );
            line("components", model.n_components as u64, note)?;
            for (share, k) in &model.components_for {
                line(&format!("  for {share}"), *k as u64, String::new())?;
            }
            if model.rank < model.n_components {
                let note = "the other components have no variance and are arbitrary";
                line("  of full rank", model.rank as u64, note.to_owned())?;
            }
        }
        let place = self.sink.path.as_ref().map_or(String::new(), |p| format!(" in {p}"));
        line("files", self.sink.files, format!("{}{place}", Bytes(self.sink.bytes)))?;
        writeln!(
            f,
            "{:<20}{:>11.2}s  on {} threads: {rate:.0} images/s",
            "time", seconds.total, self.threads
        )?;
        write!(
            f,
            "  by stage, s       read {:.2}  decode {:.2}  extract {:.2}  fit {:.2}  project {:.2}  write {:.2}",
            seconds.read,
            seconds.decode,
            seconds.extract,
            seconds.fit,
            seconds.project,
            seconds.write
        )?;
        for failure in &self.first_failures {
            write!(f, "\nleft out: {}", failure.message)?;
        }
        let more = self.failed.values().sum::<u64>() - self.first_failures.len() as u64;
        if more > 0 {
            write!(f, "\nleft out: {more} more")?;
        }
        Ok(())
    }
}

/// A number of bytes, for people.
pub(crate) struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "{} B", self.0),
            1_000..1_000_000 => write!(f, "{:.1} kB", n / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.1} MB", n / 1e6),
            _ => write!(f, "{:.2} GB", n / 1e9),
        }
    }
}
