//! The command line: a thin shell over the library.

mod choices;
mod exit;
mod extract;
mod orb;
mod place;
mod s3;
mod stop;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use orb_features::decode::jpeg_is_vectorized;

use crate::exit::Exit;
use crate::extract::{Extract, Outcome};

/// Photos in folders or S3 to ORB features, PCA and Parquet.
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
}

/// Fixes glibc's mmap threshold, so that large buffers go back to the system when they are freed.
///
/// By default, glibc raises the threshold to the size of each mapped buffer that is freed. Smaller buffers then
/// stay with the process: 80 MB instead of 50 MB after 50,000 photos.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "the only way to set it from inside")]
fn return_large_buffers() {
    // SAFETY: this sets a number, before any other thread exists.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 256 << 10) };
}

/// Tells the user that a build with nasm decodes JPEGs faster: cargo does not show the warnings of a dependency.
fn hint_at_the_build() {
    let is_x86 = cfg!(any(target_arch = "x86_64", target_arch = "x86"));
    if is_x86 && !jpeg_is_vectorized() {
        eprintln!(
            "note: this program decodes JPEGs without vector instructions; built with nasm, in half of the time"
        );
    }
}

fn main() -> ExitCode {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    return_large_buffers();
    let Command::Extract(extract) = Cli::parse().command;
    match extract.run() {
        Ok(Outcome::DoneBefore(why)) => {
            let text = if extract.json {
                serde_json::json!({ "already_committed": why }).to_string()
            } else {
                format!("nothing to do: {why}")
            };
            // A reader that has gone needs no report.
            let _ = writeln!(std::io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Ok(Outcome::Done(report)) => {
            let text = if extract.json {
                serde_json::to_string(&report).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}"))
            } else {
                report.to_string()
            };
            let shown = writeln!(std::io::stdout(), "{text}");
            hint_at_the_build();
            let saved = extract.save_model(&report);
            match (saved, shown) {
                (Err(end), _) => end.report(),
                // A reader that has gone needs no report.
                (Ok(()), Err(e)) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                    let message = format!("cannot write the report: {e} (the result is complete)");
                    Exit { message, status: 1 }.report()
                }
                _ => ExitCode::SUCCESS,
            }
        }
        Err(end) => end.report(),
    }
}
