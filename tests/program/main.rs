//! The command line, as a person or a script runs it.

mod embed;
mod extract;
mod looking;
