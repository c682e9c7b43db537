//! The command `report`.

use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use orb_features::prelude::*;
use orb_features::report::{Report, ReportParams};

use crate::exit::{Exit, show};
use crate::photo;
use crate::place::Place;
use crate::s3::S3Args;

#[derive(Args)]
pub struct ReportOf {
    /// Result of extract, embed or pixels: a folder, or s3://bucket/prefix. Photos are read again by their paths in it.
    #[arg(value_name = "RESULT", value_parser = OsStringValueParser::new().try_map(Place::parse))]
    result: Place,
    /// File for the page.
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    output: PathBuf,
    /// Write the same as JSON to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The run's own report, from extract --json, for its times.
    #[arg(long, value_name = "FILE")]
    run: Option<PathBuf>,
    /// Seed by which photos are drawn.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    #[command(flatten)]
    s3: S3Args,
}

impl ReportOf {
    pub fn run(&self) -> Result<(), Exit> {
        let mut params = ReportParams::default().with_seed(self.seed);
        if let Some(path) = &self.run {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path).map_err(|e| Error::read(name.as_str(), e))?;
            let run = serde_json::from_str(&text)
                .map_err(|e| Exit::usage(&format!("--run {name}: no report of a run: {e}")))?;
            params = params.with_run(run);
        }
        let inputs: Vec<&Path> = self.run.iter().map(PathBuf::as_path).collect();
        for output in std::iter::once(&self.output).chain(&self.json) {
            photo::check_output(output, &inputs)?;
        }
        if self.json.as_ref() == Some(&self.output) {
            return Err(Exit::usage("-o and --json are the same file"));
        }
        let (result, s3) = photo::result_and_photos(&self.s3, &self.result)?;
        photo::warn_if_incomplete(&result);
        let report =
            Report::new(&result, &params, &mut |path| photo::read_again(path, s3.as_ref()))?;
        if report.extremes.read == 0 && report.extremes.unread > 0 {
            eprintln!(
                "warning: no photo of {} can be read again from here: the page has no pictures",
                self.result
            );
        }
        let html = report.to_html()?;
        photo::write(&self.output, html.as_bytes())?;
        if let Some(path) = &self.json {
            photo::write(path, report.to_json().as_bytes())?;
        }
        show(&format!(
            "{}: {} bytes on {} images",
            self.output.display(),
            html.len(),
            report.run.images
        ))
    }
}
