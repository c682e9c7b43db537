//! An S3 server in memory for trying the command line. It holds the photos of a folder, or drawn samples, in
//! `s3://lab/in`, prints the environment variables with which clients find it, and serves until it is
//! stopped.
//!
//! ```sh
//! cargo run --release -p orb-features-testkit --features s3 -- [FOLDER [COPIES]] > server.env
//! # and in another terminal, once it serves:
//! . ./server.env && orb-features extract s3://lab/in s3://lab/out
//! ```

use std::io::Write as _;

use bytes::Bytes;
use orb_features::prelude::*;
use testkit::photos;
use testkit::s3::{Memory, Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let folder = args.next();
    let copies: u32 = args.next().map_or(Ok(1), |n| n.parse())?;
    let seeds: Vec<(String, Bytes)> = match &folder {
        Some(folder) => FsSource::new(folder)
            .open()?
            .read()
            .map(|photo| {
                photo.map(|p| (p.uri[folder.len()..].trim_matches('/').to_owned(), p.bytes))
            })
            .collect::<Result<_>>()?,
        None => (0..120)
            .map(|i| {
                Ok((format!("kind{}/{i:03}.jpg", i % 6), photos::photo(i % 6, i as u32)?.into()))
            })
            .collect::<Result<_, image::ImageError>>()?,
    };
    let memory = Memory::with_bucket("lab");
    for (name, bytes) in &seeds {
        // Copies share their bytes.
        let keys = (0..copies).map(|copy| match copy {
            0 => format!("in/{name}"),
            _ => format!("in/copy{copy:05}/{name}"),
        });
        memory.seed_many("lab", keys, bytes.clone());
    }
    let server = Server::start(&memory);
    let mut out = std::io::stdout().lock();
    for (name, value) in server.environment() {
        writeln!(out, "export {name}={value}")?;
    }
    out.flush()?;
    eprintln!("{} photos in s3://lab/in", seeds.len() as u64 * u64::from(copies));
    loop {
        std::thread::park();
    }
}
