//! The connection to S3 that the source and the sink share.
//!
//! ```text
//!  S3Params ──▶ S3 ──▶ source::S3Source      list, get
//!                └───▶ sink::FileSink     multipart uploads, conditional puts
//! ```
//!
//! Async code stays in this module and inside those two types: the connection owns the runtime, and every
//! public call blocks.

mod body;
mod client;
mod configure;
mod endpoint;
mod fault;
mod get;
mod location;
mod params;
mod requests;
mod route;
mod runtime;
mod whole;

pub(crate) use client::{HASTE, outcome_of};
pub use client::{S3, Trouble};
pub(crate) use location::MAX_KEY_BYTES;
pub use location::S3Location;
pub use params::{
    Addressing, DEFAULT_ATTEMPTS, DEFAULT_CONNECT_TIMEOUT, DEFAULT_LEASE, DEFAULT_TIMEOUT, S3Params,
};

pub(crate) use fault::{Fault, Kind};
pub(crate) use requests::{Condition, Listed, MAX_PAGE_SIZE, UploadedPart};
