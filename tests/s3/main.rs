//! S3, against servers that the tests start.

mod other_server;
mod program;
mod sink;
mod source;
