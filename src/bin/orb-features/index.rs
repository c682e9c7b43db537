//! The command `index`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use orb_features::prelude::*;
use orb_features::search::{Index, IndexParams};

use crate::exit::{Exit, show, text_of};
use crate::photo;
use crate::place::Place;
use crate::s3::S3Args;
use crate::stop::Stop;

#[derive(Args)]
pub struct IndexOf {
    /// Result of extract: a folder, or s3://bucket/prefix.
    #[arg(value_name = "RESULT", value_parser = OsStringValueParser::new().try_map(Place::parse))]
    result: Place,
    /// File of the index.
    #[arg(short, long, value_name = "INDEX")]
    output: PathBuf,
    /// Add the photos to this index, but for those that it has; searches see all of them or none.
    #[arg(long, conflicts_with_all = ["overwrite", "lists", "seed"])]
    add: bool,
    /// Replace an index of that name.
    #[arg(long)]
    overwrite: bool,
    /// Lists that the descriptors are divided into; 1 is exact search [default: 1 up to 10 million descriptors, then some
    /// 1.5 times the root of their number].
    #[arg(long, value_name = "N")]
    lists: Option<u32>,
    /// Seed by which the centres of the lists are chosen [default: 0].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    s3: S3Args,
}

impl IndexOf {
    pub fn run(&self) -> Result<(), Exit> {
        // Set before there is anything to clean up.
        let stop = Stop::on_interrupt();
        let s3 = photo::connect(&self.s3, [&self.result])?;
        stop.also(s3.as_ref());
        let result = photo::result_at(&self.result, s3.as_ref())?;
        photo::warn_if_incomplete(&result);
        let report = if self.add {
            Index::add(&self.output, &result, &stop.flag)?
        } else {
            let params = IndexParams::default().with_overwrite(self.overwrite).with_stop(stop.flag);
            let params = params.with_seed(self.seed.unwrap_or_default());
            let params = match self.lists {
                Some(lists) => params.with_lists(lists),
                None => params,
            };
            Index::create(&self.output, &result, &params)?
        };
        show(&text_of(&report, self.json))
    }
}
