//! The command line: a thin shell over the library.

mod choices;
mod draw;
mod duplicates;
mod embed;
mod exit;
mod extract;
mod index;
mod job;
mod matching;
mod orb;
mod output;
mod pca;
mod photo;
mod pixels;
mod place;
mod report;
mod s3;
mod search;
mod stop;
mod vectors;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::draw::Draw;
use crate::duplicates::Duplicates;
use crate::embed::Embed;
use crate::extract::Extract;
use crate::index::IndexOf;
use crate::matching::Match;
use crate::pixels::PixelsOf;
use crate::report::ReportOf;
use crate::search::Search;
use crate::vectors::PcaOf;

/// Photos in folders or S3 to features, PCA and Parquet.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Extract the ORB features of all images of a folder or S3 prefix, project them onto principal
    /// components, and write one row for each descriptor to Parquet.
    Extract(Box<Extract>),
    /// Run a network (an ONNX file) on all images of a folder or S3 prefix, and write one row for each image, its
    /// vector projected onto principal components on request, to Parquet.
    Embed(Box<Embed>),
    /// Resize all images of a folder or S3 prefix, and write one row for each, its pixels as one vector, to Parquet.
    Pixels(Box<PixelsOf>),
    /// Fit a PCA to a column of vectors of a table, Parquet or CSV, and write the table with the scores as one more column.
    Pca(Box<PcaOf>),
    /// Draw keypoints on photos, as cv2.drawKeypoints does with DRAW_RICH_KEYPOINTS, to PNG or SVG.
    Draw(Box<Draw>),
    /// Match the descriptors of two photos, find the homography between them, and draw both.
    Match(Box<Match>),
    /// Make an index of the photos of a result, or add them to one.
    Index(Box<IndexOf>),
    /// Search an index for the photos most like others, and name their labels.
    Search(Box<Search>),
    /// List the photos of a result that are the same, or nearly.
    Duplicates(Box<Duplicates>),
    /// Make a page on a result: one HTML file with its counts, failures, plots, photos and mix-ups.
    Report(Box<ReportOf>),
}

/// Sets the size from which glibc's malloc uses mmap: such buffers return to the system when they are freed.
///
/// By default, glibc raises the threshold to the size of each mapped buffer that is freed. Smaller buffers then
/// stay with the process: 80 MB instead of 50 MB after 50,000 photos. A network has large buffers for every image, and
/// mapping them again takes as long as it does: there, only buffers above 32 MiB go back.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "the only way to set it from inside")]
fn set_up_malloc(command: &Command) {
    let (map, trim) = match command {
        Command::Embed(_) | Command::Pca(_) => (32 << 20, Some(256 << 20)),
        _ => (256 << 10, None),
    };
    // SAFETY: these set numbers, before any other thread exists.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, map);
        if let Some(trim) = trim {
            libc::mallopt(libc::M_TRIM_THRESHOLD, trim);
        }
    }
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    set_up_malloc(&command);
    let outcome = match command {
        Command::Extract(extract) => extract.run(),
        Command::Embed(embed) => embed.run(),
        Command::Pixels(pixels) => pixels.run(),
        Command::Pca(pca) => pca.run(),
        Command::Draw(draw) => draw.run(),
        Command::Match(matching) => matching.run(),
        Command::Index(index) => index.run(),
        Command::Search(search) => search.run(),
        Command::Duplicates(duplicates) => duplicates.run(),
        Command::Report(report) => report.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(end) => end.report(),
    }
}
