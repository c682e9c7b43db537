//! Region, credentials and endpoint: the standard AWS chain, and what the caller sets instead.

use aws_config::BehaviorVersion;
use aws_config::default_provider::region::DefaultRegionChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    IdentityCache, ProvideCredentials as _, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, StalledStreamProtectionConfig,
};
use aws_types::service_config::ServiceConfigKey;

use super::endpoint::{Endpoint, check_endpoint};
use super::fault::{Fault, Kind};
use super::params::{Addressing, S3Params};
use super::route::Wallet;
use super::whole::WholeAnswers;
use crate::error::{Error, Result};

/// The region if none is set, for servers that ignore it.
const DEFAULT_REGION: &str = "us-east-1";

/// The client and how it was found.
pub(super) struct Configured {
    pub client: Client,
    pub wallet: Wallet,
    /// `None` for AWS's own.
    pub endpoint: Option<String>,
}

/// Finds region, credentials and endpoint.
pub(super) async fn configure(params: &S3Params) -> Result<Configured> {
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        // `S3::retry` does the retries: it counts them, can resume a body, and has no quota shared by clients.
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        // Only a connect timeout: the limit of an attempt depends on its size, see `S3::in_time`.
        .timeout_config(TimeoutConfig::builder().connect_timeout(params.connect_timeout).build());
    if let Some(profile) = &params.profile {
        let credentials = credentials_of(profile, params).await;
        // A named profile takes precedence over credentials in the environment.
        loader = loader.profile_name(profile).credentials_provider(credentials);
    }
    if let Some(Endpoint(url)) = &params.endpoint_url {
        check_endpoint(url)?;
        loader = loader.endpoint_url(url);
    }
    if let Some(region) = &params.region {
        loader = loader.region(Region::new(region.clone()));
    }
    loader = match &params.credentials {
        _ if params.anonymous => loader.no_credentials(),
        Some(credentials) => loader.credentials_provider(credentials.clone()),
        None => loader,
    };
    let config = loader.load().await;
    let endpoint = match &params.endpoint_url {
        Some(Endpoint(url)) => Some(url.clone()),
        None => endpoint_of(&config),
    };
    if let Some(url) = &endpoint {
        check_endpoint(url)?;
    }
    let wallet = Wallet::new(config.credentials_provider());
    if !params.anonymous {
        check_credentials(params, &wallet).await?;
    }
    let path_style = match params.addressing {
        Addressing::Path => true,
        Addressing::Virtual => false,
        Addressing::Auto => endpoint.as_ref().is_some_and(|url| !url.contains(".amazonaws.com")),
    };
    let mut builder = aws_sdk_s3::config::Builder::from(&config)
        .interceptor(WholeAnswers)
        .force_path_style(path_style)
        .request_checksum_calculation(RequestChecksumCalculation::WhenSupported)
        // `get.rs` checks bodies itself, including those resumed over several answers.
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if !params.anonymous {
        // The wallet caches and replaces credentials, so the SDK must not cache them too.
        builder =
            builder.credentials_provider(wallet.clone()).identity_cache(IdentityCache::no_cache());
    }
    if config.region().is_none() {
        builder = builder.region(Region::new(DEFAULT_REGION));
    }
    Ok(Configured { client: Client::from_conf(builder.build()), wallet, endpoint })
}

/// The credentials of a profile. The profile may assume a role, which needs a region.
async fn credentials_of(profile: &str, params: &S3Params) -> ProfileFileCredentialsProvider {
    let region = match &params.region {
        Some(region) => Some(Region::new(region.clone())),
        None => DefaultRegionChain::builder().profile_name(profile).build().region().await,
    };
    let region = region.unwrap_or_else(|| Region::new(DEFAULT_REGION));
    ProfileFileCredentialsProvider::builder()
        .configure(&ProviderConfig::without_region().with_region(Some(region)))
        .profile_name(profile)
        .build()
}

/// Checks that there are credentials, before the first request.
async fn check_credentials(params: &S3Params, wallet: &Wallet) -> Result<()> {
    let of = params.profile.as_ref().map_or(String::new(), |p| format!(" of the profile {p}"));
    // A service or program that provides credentials may never answer.
    let given = tokio::time::timeout(params.timeout, wallet.provide_credentials()).await;
    let given = given.map_err(|_| {
        let limit = params.timeout;
        Error::connect(format!("no AWS credentials{of} came within {limit:?}"))
    })?;
    given.map_err(|error| {
        let is_missing = matches!(error, CredentialsError::CredentialsNotLoaded(_));
        if is_missing && params.profile.is_none() {
            let why = "no AWS credentials were found in the environment, in ~/.aws or from a role";
            return Error::connect(why);
        }
        let fault = Fault::of_transport(Kind::Account, &error);
        Error::connect(format!("the AWS credentials{of} cannot be used: {fault}"))
    })?;
    Ok(())
}

/// The endpoint for S3 that the environment or profile sets, by the SDK's own rules.
fn endpoint_of(config: &aws_config::SdkConfig) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id("S3")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .ok()?;
    config
        .service_config()
        .and_then(|services| services.load_config(key))
        .or_else(|| config.endpoint_url().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::presigning::PresigningConfig;

    use super::*;

    /// The URL of a request for the key `k` of the bucket `lab`.
    async fn url(params: S3Params) -> String {
        let params = params.with_credentials("key", "secret", None).with_region("eu-west-3");
        let client = configure(&params).await.unwrap().client;
        let soon = PresigningConfig::expires_in(std::time::Duration::from_secs(1)).unwrap();
        let request = client.get_object().bucket("lab").key("k").presigned(soon).await.unwrap();
        request.uri().split('?').next().unwrap().to_owned()
    }

    #[tokio::test]
    async fn the_bucket_goes_where_the_addressing_says() {
        let own = "http://localhost:9000";
        let amazon = "https://s3.eu-west-3.amazonaws.com";
        let (path, host) = ("http://localhost:9000/lab/k", "http://lab.localhost:9000/k");
        for (addressing, endpoint, want) in [
            (Addressing::Auto, own, path),
            (Addressing::Path, own, path),
            (Addressing::Virtual, own, host),
            (Addressing::Auto, amazon, "https://lab.s3.eu-west-3.amazonaws.com/k"),
            (Addressing::Path, amazon, "https://s3.eu-west-3.amazonaws.com/lab/k"),
        ] {
            let params =
                S3Params::default().with_addressing(addressing).with_endpoint_url(endpoint);
            assert_eq!(url(params).await, want, "{addressing:?}");
        }
    }
}
