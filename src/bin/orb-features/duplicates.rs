//! The command `duplicates`.

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use orb_features::prelude::*;
use orb_features::search::{Duplicate, DuplicateParams, duplicates};

use crate::exit::{Exit, print};
use crate::photo;
use crate::place::Place;
use crate::s3::S3Args;

#[derive(Args)]
pub struct Duplicates {
    /// Result of extract: a folder, or s3://bucket/prefix. Photos are found by their paths in it.
    #[arg(value_name = "RESULT", value_parser = OsStringValueParser::new().try_map(Place::parse))]
    result: Place,
    /// Share of the descriptors that must agree with a homography for near duplicates.
    #[arg(long, value_name = "F", default_value_t = 0.5)]
    share: f64,
    /// Look only for photos that are the same.
    #[arg(long)]
    exact: bool,
    /// Print one JSON object for each duplicate.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    s3: S3Args,
}

impl Duplicates {
    pub fn run(&self) -> Result<(), Exit> {
        let (result, s3) = photo::result_and_photos(&self.s3, &self.result)?;
        photo::warn_if_incomplete(&result);
        let params = DuplicateParams::default().with_share(self.share).with_near(!self.exact);
        let mut unread = 0_u64;
        let mut read = |path: &str| {
            let bytes = photo::read_again(path, s3.as_ref());
            unread += u64::from(bytes.is_none());
            bytes
        };
        let found = duplicates(&result, &params, &mut read)?;
        if unread > 0 {
            eprintln!(
                "warning: {unread} photos could not be read again: whether their files are equal is unknown"
            );
        }
        if self.json {
            for duplicate in &found {
                print(&serde_json::json!(duplicate).to_string())?;
            }
            return Ok(());
        }
        let width = |name: fn(&Duplicate) -> usize| found.iter().map(name).max().unwrap_or(0);
        let (paths, kinds) =
            (width(|d| d.path.chars().count()).max(5), width(|d| d.kind.as_str().len()).max(4));
        if !found.is_empty() {
            print(&format!("{:<kinds$}  share  {:<paths$}  of", "kind", "photo"))?;
        }
        for Duplicate { kind, path, of, share, .. } in &found {
            let (path, of) = (photo::shown(path), photo::shown(of));
            print(&format!("{kind:<kinds$}  {share:>5.2}  {path:<paths$}  {of}"))?;
        }
        let count = |kind| found.iter().filter(|d| d.kind == kind).count();
        let kinds =
            orb_features::search::DuplicateKind::ALL.map(|kind| format!("{} {kind}", count(kind)));
        print(&kinds.join(", "))
    }
}
