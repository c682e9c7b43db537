//! The command `pca`.

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use orb_features::pca::DEFAULT_N_COMPONENTS;
use orb_features::prelude::*;
use orb_features::table::{DEFAULT_OUTPUT_COLUMN, TablePca};

use crate::choices;
use crate::exit::{Exit, show, text_of, text_of_done};
use crate::job::done_before;
use crate::output::OutputArgs;
use crate::pca::{PcaArgs, Scores};
use crate::place::Place;
use crate::s3::S3Args;
use crate::stop::Stop;

#[derive(Args)]
pub struct PcaOf {
    /// Parquet or CSV file, or a folder of them, or s3://bucket/prefix.
    #[arg(value_name = "IN", value_parser = OsStringValueParser::new().try_map(Place::parse))]
    input: Place,
    /// Folder for the files, or s3://bucket/prefix.
    #[arg(value_name = "OUT", value_parser = OsStringValueParser::new().try_map(Place::parse))]
    output: Place,

    /// Column of the vectors: lists of numbers, Spark's vectors, binary, or texts such as [0.5, 1].
    #[arg(long, value_name = "NAME")]
    column: String,
    /// Name of the new column.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_OUTPUT_COLUMN)]
    output_column: String,
    /// Quotes within the texts of a CSV are \", as Spark writes them unless told otherwise, and not doubled.
    #[arg(long)]
    backslash_escapes: bool,
    #[command(flatten)]
    files: OutputArgs,
    /// With --mode append, add to a result of another fit.
    #[arg(long)]
    force: bool,
    /// Number of threads, at most 1024 [default: one for each core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Print the report as one JSON object on standard output.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pca: PcaArgs,
    // Flattened last, because a help heading applies to all options after it.
    #[command(flatten)]
    s3: S3Args,
}

impl PcaOf {
    pub fn run(&self) -> Result<(), Exit> {
        self.s3.check(&self.input, &self.output, None)?;
        if self.s3.listing.is_some() {
            return Err(Exit::usage("--listing has no part in pca"));
        }
        if self.force && self.files.mode != WriteMode::Append {
            return Err(Exit::usage("--force is for --mode append"));
        }
        let mut files = self.files.params().with_force(self.force);
        files.check()?;
        self.files.check(&self.s3)?;
        let output = self.files.place(&self.output)?;
        self.pca.check_files(&output)?;
        let scores = self.pca.scores(None, Some(DEFAULT_N_COMPONENTS), self.force)?;
        // Set before there is anything to clean up.
        let stop = Stop::on_interrupt();
        let s3 = (self.input.is_s3() || output.is_s3()).then(|| self.s3.connect()).transpose()?;
        stop.also(s3.as_ref());
        let table = self.s3.table(&self.input, s3.as_ref())?;
        let table = table.with_backslash_escapes(self.backslash_escapes);
        let job = TablePca::new(table, &self.column)
            .with_output_column(&self.output_column)
            .with_stop(stop.flag);
        let job = match scores {
            Scores::Fit(params) => job.with_pca(params),
            Scores::Model(model) => job.with_model(*model),
            Scores::None => return Err(Exit::usage("--no-pca leaves nothing to do")),
        };
        let job = match self.threads {
            Some(threads) => job.with_parallelism(choices::threads(threads)?),
            None => job,
        };
        if let Some(id) = &self.s3.run_id {
            files = files.with_run_id(id);
        }
        let sink = match (&output, &s3) {
            (Place::Folder(path), _) => RecordSink::create(path, files),
            (Place::S3(location), Some(s3)) => {
                RecordSink::create_in_s3(s3, location.clone(), files)
            }
            (Place::S3(_), None) => unreachable!("a place in S3 has a connection"),
        };
        let report = match sink.and_then(|sink| job.run(sink)) {
            Err(error @ Error::AlreadyCommitted { .. }) => {
                return show(&text_of_done(&done_before(&self.pca, &error)?, self.json));
            }
            report => report?,
        };
        let shown = show(&text_of(&report, self.json));
        self.pca.save_model(report.pca_model.as_ref(), &output)?;
        shown
    }
}
