//! How to reach S3, or a server that speaks its protocol.

use std::time::Duration;

use aws_sdk_s3::config::Credentials;
use serde::{Deserialize, Serialize};

use super::endpoint::Endpoint;
use crate::choice::choice;
use crate::error::{Error, Result};

/// Default of [`S3Params::with_attempts`]: where a third of all requests fail, one object in forty
/// million is lost.
pub const DEFAULT_ATTEMPTS: u32 = 16;
/// Default of [`S3Params::with_timeout`].
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Default of [`S3Params::with_connect_timeout`].
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Default of [`S3Params::with_lease`].
pub const DEFAULT_LEASE: Duration = Duration::from_mins(2);

/// Whether the bucket goes into the host name or the path of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Addressing {
    /// In the path if an endpoint is set that is not Amazon's, otherwise in the host name.
    #[default]
    Auto,
    /// `https://endpoint/bucket/key`, as most servers other than Amazon's expect.
    Path,
    /// `https://bucket.endpoint/key`.
    Virtual,
}

choice!(Addressing, "addressing", Auto = "auto", Path = "path", Virtual = "virtual");

/// How to reach S3: endpoint, credentials, retries and timeouts.
///
/// Everything that is not set comes from the standard AWS chain: environment variables (`AWS_REGION`,
/// `AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, `AWS_ENDPOINT_URL_S3`, ..), the files in `~/.aws`, SSO, web
/// identity, and the roles of ECS tasks and EC2 instances.
///
/// Credentials that are set are not serialised: deserialised parameters take those of the chain.
///
/// # Examples
/// ```no_run
/// use orb_features::prelude::*;
///
/// let s3 = S3Params::default().with_region("eu-central-1").connect()?;
/// let images = S3Source::new(&s3, "s3://fruits/Training")?.open()?;
/// # let _ = images;
/// # Ok::<(), orb_features::Error>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
pub struct S3Params {
    pub(super) region: Option<String>,
    pub(super) endpoint_url: Option<Endpoint>,
    pub(super) addressing: Addressing,
    pub(super) profile: Option<String>,
    // Their `Debug` leaves out the secrets.
    #[serde(skip)]
    pub(super) credentials: Option<Credentials>,
    pub(super) anonymous: bool,
    pub(super) attempts: u32,
    pub(super) backoff: (Duration, Duration),
    pub(super) connect_timeout: Duration,
    pub(super) timeout: Duration,
    pub(super) conditional_writes: bool,
    pub(super) lease: Duration,
    pub(super) md5_etags: bool,
}

impl Default for S3Params {
    fn default() -> Self {
        Self {
            region: None,
            endpoint_url: None,
            addressing: Addressing::default(),
            profile: None,
            credentials: None,
            anonymous: false,
            attempts: DEFAULT_ATTEMPTS,
            backoff: (Duration::from_millis(100), Duration::from_secs(5)),
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            timeout: DEFAULT_TIMEOUT,
            conditional_writes: true,
            lease: DEFAULT_LEASE,
            md5_etags: true,
        }
    }
}

impl S3Params {
    /// Sets the region of the buckets, such as `eu-central-1`.
    pub fn with_region(mut self, region: impl Into<String>) -> Self {
        self.region = Some(region.into());
        self
    }

    /// Sets the server, such as `http://localhost:9000`: scheme, host, port and perhaps a path.
    pub fn with_endpoint_url(mut self, url: impl Into<String>) -> Self {
        self.endpoint_url = Some(Endpoint(url.into()));
        self
    }

    /// Sets where the bucket goes (default [`Addressing::Auto`]).
    pub fn with_addressing(mut self, addressing: Addressing) -> Self {
        self.addressing = addressing;
        self
    }

    /// Sets the profile to take from the files in `~/.aws`, whatever the environment holds.
    pub fn with_profile(mut self, profile: impl Into<String>) -> Self {
        self.profile = Some(profile.into());
        self
    }

    /// Sets the credentials, which replace those of the chain.
    pub fn with_credentials(
        mut self,
        access_key_id: impl Into<String>,
        secret_access_key: impl Into<String>,
        session_token: Option<String>,
    ) -> Self {
        self.credentials = Some(Credentials::new(
            access_key_id,
            secret_access_key,
            session_token,
            None,
            "orb-features",
        ));
        self
    }

    /// Sets whether requests go unsigned, as public buckets allow (default false).
    pub fn with_anonymous(mut self, anonymous: bool) -> Self {
        self.anonymous = anonymous;
        self
    }

    /// Sets how often a request is tried, at least once (default [`DEFAULT_ATTEMPTS`]).
    ///
    /// A request is retried after throttling, errors of the server, connections and bodies that break
    /// off or stall, and bodies that do not fit their checksum.
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Sets the longest wait before the second attempt, and the longest wait of all (default 100 ms and
    /// 5 s).
    ///
    /// The limit doubles with each attempt. Each wait is random, between half of the limit and all of it.
    pub fn with_backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.backoff = (first, longest.max(first));
        self
    }

    /// Sets how long connecting may take (default [`DEFAULT_CONNECT_TIMEOUT`]).
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how long an attempt may go without progress (default [`DEFAULT_TIMEOUT`]): until the
    /// answer begins, and then from one piece of the body to the next.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets whether the server checks the conditions of writes, `If-Match` and `If-None-Match` (default
    /// true: sinks try it out and refuse a server that does not).
    ///
    /// If the server does not check them, two sinks must not write to one place at the same time.
    pub fn with_conditional_writes(mut self, conditional_writes: bool) -> Self {
        self.conditional_writes = conditional_writes;
        self
    }

    /// Sets the length of a sink's lease, at least a second (default [`DEFAULT_LEASE`]). If the lease has not
    /// been renewed for that long, runs on other machines take the sink for dead and abort its uploads.
    ///
    /// A sink renews its lease eight times in that time.
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets whether an ETag that looks like an MD5 is that of the object (default true). If so, an object without
    /// a checksum is corrupt if its MD5 is not the ETag.
    ///
    /// Such an ETag is the MD5 on AWS and on most servers.
    pub fn with_md5_etags(mut self, md5_etags: bool) -> Self {
        self.md5_etags = md5_etags;
        self
    }

    /// Checks the numbers, without any look-up or request.
    ///
    /// # Errors
    /// [`Error::InvalidParam`], naming the parameter and what it may be.
    pub fn check(&self) -> Result<()> {
        if self.attempts == 0 {
            return Err(Error::param("attempts", 0, "at least 1"));
        }
        for (name, value) in [("timeout", self.timeout), ("connect_timeout", self.connect_timeout)]
        {
            if value.is_zero() {
                return Err(Error::param(name, 0, "above 0"));
            }
        }
        if self.lease < Duration::from_secs(1) {
            let allowed = "at least one second";
            return Err(Error::param("lease", format!("{:?}", self.lease), allowed));
        }
        Ok(())
    }
}
