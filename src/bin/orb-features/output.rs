//! The options of the files of a result.

use std::time::SystemTime;

use clap::Args;
use orb_features::prelude::*;
use orb_features::sink::DEFAULT_ROWS_PER_FILE;

use crate::choices::names;
use crate::exit::Exit;
use crate::place::Place;
use crate::s3::S3Args;

/// What a row of the result is.
#[derive(Args)]
pub struct RowArgs {
    /// What a row is: a descriptor (or other vector), an image with lists, or an image with its first N descriptors in
    /// one vector (padded:N).
    #[arg(long, default_value_t, value_name = "descriptor|image|padded:N")]
    rows: RowShape,
    /// Add a column `image` with the pixels, as Spark's data source for images has it; for --rows image or padded:N.
    #[arg(long)]
    image_column: bool,
}

impl RowArgs {
    pub fn apply(&self, files: FileParams) -> FileParams {
        let table = files.table().with_rows(self.rows).with_image(self.image_column);
        files.with_table(table)
    }
}

#[derive(Args)]
pub struct OutputArgs {
    /// What to do if OUT exists: refuse, replace an older result, or add files.
    #[arg(long, default_value_t, value_parser = names(WriteMode::ALL, WriteMode::as_str))]
    pub mode: WriteMode,
    /// Write to a new folder in OUT, named by the time in UTC, such as OUT/2026-01-31T12-00-00Z.
    #[arg(long)]
    timestamped: bool,
    /// Format of the files: parquet; csv, with vectors as "[0.1, 0.2]" in one column; or csv-columns, with a column for
    /// each element.
    #[arg(long, default_value_t, value_parser = names(FileFormat::ALL, FileFormat::as_str))]
    format: FileFormat,
    /// Types of the columns: Arrow's, or Spark ML's, where every vector is a `vector`.
    #[arg(long, default_value_t, value_parser = names(Layout::ALL, Layout::as_str))]
    layout: Layout,
    /// Compression: uncompressed, snappy, gzip, lz4, zstd or zstd:LEVEL; for CSV uncompressed or gzip [default: zstd:1;
    /// CSV: uncompressed].
    #[arg(long)]
    codec: Option<Codec>,
    /// Most rows of one file [default: 2097152].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "files")]
    rows_per_file: Option<u64>,
    /// Number of files, of equal numbers of rows.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    files: Option<u32>,
}

impl OutputArgs {
    pub fn params(&self) -> FileParams {
        let table = TableParams::default().with_layout(self.layout);
        let mut params =
            FileParams::default().with_mode(self.mode).with_table(table).with_format(self.format);
        if let Some(codec) = self.codec {
            params = params.with_codec(codec);
        }
        match (self.files, self.rows_per_file) {
            (Some(files), _) => params.with_files(files),
            (None, rows) => params.with_rows_per_file(rows.unwrap_or(DEFAULT_ROWS_PER_FILE)),
        }
    }

    /// Refuses what has no part in a new folder.
    pub fn check(&self, s3: &S3Args) -> Result<(), Exit> {
        let given = [("--mode", self.mode != WriteMode::Error), ("--run-id", s3.run_id.is_some())];
        match given.into_iter().find(|(_, is_given)| *is_given) {
            Some((name, _)) if self.timestamped => {
                let why = "has no part in --timestamped, a new folder each time";
                Err(Exit::usage(&format!("{name} {why}")))
            }
            _ => Ok(()),
        }
    }

    /// Where the result goes, of the place that is given.
    pub fn place(&self, output: &Place) -> Result<Place> {
        if self.timestamped { output.join(&stamp(SystemTime::now())) } else { Ok(output.clone()) }
    }
}

/// The time in UTC, to the second, as a name of a folder.
fn stamp(time: SystemTime) -> String {
    let time = humantime::format_rfc3339_seconds(time).to_string();
    // Colons are not allowed in the names of some systems.
    time.replace(':', "-")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_is_a_name_of_a_folder() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_hours(491_628);
        assert_eq!(stamp(time), "2026-01-31T12-00-00Z");
    }
}
