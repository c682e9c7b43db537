//! Failure of the program: its message and exit status.

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

use orb_features::prelude::*;
use serde::Serialize;

/// Why the command failed, and the exit status for it.
pub struct Exit {
    pub message: String,
    pub status: u8,
}

impl Exit {
    pub fn usage(message: &str) -> Self {
        Self { message: message.to_owned(), status: 2 }
    }

    pub fn report(&self) -> ExitCode {
        // Ignored: the reader of stderr may be gone.
        let _ = writeln!(std::io::stderr(), "error: {}", self.message);
        ExitCode::from(self.status)
    }
}

/// A report as text, or as one JSON object.
pub fn text_of(report: &(impl Serialize + Display), json: bool) -> String {
    if json {
        serde_json::to_string(report).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}"))
    } else {
        report.to_string()
    }
}

/// What is printed in place of a report if the result was committed before.
pub fn text_of_done(why: &str, json: bool) -> String {
    if json {
        serde_json::json!({ "already_committed": why }).to_string()
    } else {
        format!("nothing to do: {why}")
    }
}

/// Prints the report of a result that is complete.
pub fn show(text: &str) -> Result<(), Exit> {
    print(text).map_err(|exit| Exit { message: exit.message + " (the result is complete)", ..exit })
}

/// Prints what a command found.
pub fn print(text: &str) -> Result<(), Exit> {
    match writeln!(std::io::stdout(), "{text}") {
        // A reader that has gone needs no report.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Exit { message: format!("cannot write the report: {e}"), status: 1 })
        }
        _ => Ok(()),
    }
}

impl From<Error> for Exit {
    fn from(error: Error) -> Self {
        let status = match error {
            Error::Interrupted => 130,
            Error::InvalidParam { .. } => 2,
            Error::InDoubt { .. } => 3,
            _ => 1,
        };
        let line = error.to_line();
        let message = match &error {
            Error::InvalidParam { name, .. } => format!("{}{line}", option_of(name)),
            _ => line,
        };
        Self { message, status }
    }
}

/// Prefix that names the option of a parameter; empty if both have the same name.
fn option_of(parameter: &str) -> String {
    let option = match parameter {
        "n_components" => "pca",
        "gray_mode" => "gray",
        "exif_orientation" => "exif",
        "centering" => "center",
        "image" => "image-column",
        "anonymous" => "no-sign-request",
        other if other.contains('_') => &other.replace('_', "-"),
        _ => return String::new(),
    };
    format!("--{option}: ")
}
