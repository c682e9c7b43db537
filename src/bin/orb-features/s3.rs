//! The options of S3.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use orb_features::prelude::*;
use orb_features::s3::Trouble;
use orb_features::table::TableSource;

use crate::choices::names;
use crate::exit::Exit;
use crate::place::Place;

/// How to reach S3, and how to read and write there. Settings that are not given come from the same places
/// as for other AWS tools: environment, ~/.aws, roles.
#[derive(Args)]
#[command(next_help_heading = "S3")]
pub struct S3Args {
    /// Server to use instead of AWS, such as http://localhost:9000 [default: AWS_ENDPOINT_URL_S3].
    #[arg(long, value_name = "URL")]
    pub endpoint_url: Option<String>,
    /// Region of the buckets, such as eu-central-1 [default: AWS_REGION].
    #[arg(long, value_name = "R")]
    pub region: Option<String>,
    /// Profile of ~/.aws to use [default: AWS_PROFILE].
    #[arg(long, value_name = "P")]
    pub profile: Option<String>,
    /// Do not sign requests; works for public buckets.
    #[arg(long)]
    pub no_sign_request: bool,
    /// Where requests name the bucket: host name (AWS) or path (most other servers) [default: auto].
    #[arg(long, value_parser = names(Addressing::ALL, Addressing::as_str))]
    pub addressing: Option<Addressing>,
    /// Attempts for each request [default: 16].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub attempts: Option<u32>,
    /// Longest wait for a connection, in seconds [default: 5].
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..))]
    pub connect_timeout: Option<u32>,
    /// Longest wait without progress, in seconds [default: 30].
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..))]
    pub timeout: Option<u32>,
    /// Objects of IN to fetch at a time [default: 64].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub requests_in_flight: Option<u32>,
    /// Most bytes of IN that may be under way or waiting to be decoded [default: 67108864].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub bytes_in_flight: Option<u64>,
    /// Take the keys of IN from an S3 Inventory (manifest.json, .csv.gz, .parquet) or from the lines of a file.
    #[arg(long, value_name = "FILE")]
    pub listing: Option<PathBuf>,
    /// Do not check ETags as MD5 sums: for servers whose ETags look like MD5 sums but are not.
    #[arg(long)]
    pub opaque_etags: bool,
    /// Name of this run: if a run of that name is part of OUT already, nothing is done [default: a random one].
    #[arg(long, value_name = "ID")]
    pub run_id: Option<String>,
    /// Allow a server that ignores conditions on writes; make sure that no other run writes to OUT at the same time.
    #[arg(long)]
    pub no_conditional_writes: bool,
}

impl S3Args {
    /// Refuses options that would have no effect.
    pub fn check(&self, input: &Place, output: &Place, other: Option<&Place>) -> Result<(), Exit> {
        let (from_s3, to_s3) = (input.is_s3(), output.is_s3());
        let either = from_s3 || to_s3 || other.is_some_and(Place::is_s3);
        for (is_given, name, has_part, what) in [
            (self.endpoint_url.is_some(), "--endpoint-url", either, "IN or OUT"),
            (self.region.is_some(), "--region", either, "IN or OUT"),
            (self.profile.is_some(), "--profile", either, "IN or OUT"),
            (self.no_sign_request, "--no-sign-request", either, "IN or OUT"),
            (self.addressing.is_some(), "--addressing", either, "IN or OUT"),
            (self.attempts.is_some(), "--attempts", either, "IN or OUT"),
            (self.connect_timeout.is_some(), "--connect-timeout", either, "IN or OUT"),
            (self.timeout.is_some(), "--timeout", either, "IN or OUT"),
            (self.requests_in_flight.is_some(), "--requests-in-flight", from_s3, "IN"),
            (self.bytes_in_flight.is_some(), "--bytes-in-flight", from_s3, "IN"),
            (self.listing.is_some(), "--listing", from_s3, "IN"),
            (self.opaque_etags, "--opaque-etags", from_s3, "IN"),
            (self.run_id.is_some(), "--run-id", to_s3, "OUT"),
            (self.no_conditional_writes, "--no-conditional-writes", to_s3, "OUT"),
        ] {
            if is_given && !has_part {
                return Err(Exit::usage(&format!("{name} is for s3:// as {what}")));
            }
        }
        Ok(())
    }

    /// The table at a place.
    pub fn table(&self, place: &Place, s3: Option<&S3>) -> Result<TableSource> {
        match (place, s3) {
            (Place::Folder(path), _) => Ok(TableSource::in_folder(path)),
            (Place::S3(location), Some(s3)) => {
                let mut source = S3Source::new(s3, location.clone())?;
                if let Some(requests) = self.requests_in_flight {
                    source = source.with_requests_in_flight(requests as usize);
                }
                if let Some(bytes) = self.bytes_in_flight {
                    source = source.with_bytes_in_flight(bytes);
                }
                Ok(TableSource::in_s3(source))
            }
            (Place::S3(_), None) => unreachable!("a place in S3 has a connection"),
        }
    }

    pub fn connect(&self) -> Result<S3> {
        let mut params = S3Params::default()
            .with_anonymous(self.no_sign_request)
            .with_md5_etags(!self.opaque_etags)
            .with_conditional_writes(!self.no_conditional_writes);
        if let Some(url) = &self.endpoint_url {
            params = params.with_endpoint_url(url);
        }
        if let Some(region) = &self.region {
            params = params.with_region(region);
        }
        if let Some(profile) = &self.profile {
            params = params.with_profile(profile);
        }
        if let Some(addressing) = self.addressing {
            params = params.with_addressing(addressing);
        }
        if let Some(attempts) = self.attempts {
            params = params.with_attempts(attempts);
        }
        if let Some(seconds) = self.connect_timeout {
            params = params.with_connect_timeout(Duration::from_secs(seconds.into()));
        }
        if let Some(seconds) = self.timeout {
            params = params.with_timeout(Duration::from_secs(seconds.into()));
        }
        let s3 = params.connect()?;
        tell_of_trouble(s3.clone());
        Ok(s3)
    }
}

/// How long requests may fail before a warning is printed.
const SILENCE: Duration = Duration::from_secs(5);

/// Starts a thread that warns, once per outage, if requests fail for longer than [`SILENCE`].
fn tell_of_trouble(s3: S3) {
    let watch = move || {
        let mut told = None;
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let trouble = s3.trouble().filter(|t| t.since.elapsed() > SILENCE);
            if let Some(Trouble { since, cause, .. }) = trouble
                && told != Some(since)
            {
                told = Some(since);
                let seconds = SILENCE.as_secs();
                // Nobody may be listening.
                let _ = writeln!(
                    std::io::stderr(),
                    "warning: S3 has served no request for {seconds} s, still trying: {cause}"
                );
            }
        }
    };
    // Without a thread there is no warning, and no harm.
    let _ = std::thread::Builder::new().spawn(watch);
}
