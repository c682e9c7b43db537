//! How the program ends when it cannot do what it was asked.

use std::io::Write as _;
use std::process::ExitCode;

use orb_features::prelude::*;

/// Why the command failed, and the exit status that says so.
pub struct Failed {
    pub message: String,
    pub status: u8,
}

impl Failed {
    pub fn usage(message: &str) -> Self {
        Self { message: message.to_owned(), status: 2 }
    }

    pub fn exit(&self) -> ExitCode {
        // Nobody may be listening.
        let _ = writeln!(std::io::stderr(), "error: {}", self.message);
        ExitCode::from(self.status)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        let status = match error {
            Error::Interrupted => 130,
            Error::InvalidParam { .. } => 2,
            Error::InDoubt { .. } => 3,
            _ => 1,
        };
        Self { message: error.to_line(), status }
    }
}
