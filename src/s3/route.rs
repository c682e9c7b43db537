//! Getting objects without the machinery of the SDK, which costs five times the request itself.
//!
//! The SDK makes the first request to a bucket. An interceptor notes its connector (TLS, proxy and pool), its
//! address, and the region of its signature. Later requests are signed and sent in the same way, by the SDK's
//! own signer and connector. If the first request was signed in another way, as for directory buckets, the
//! SDK makes all requests to that bucket.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future::ProvideCredentials as ProvideFuture;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::http::{
    HttpClient as _, HttpConnector as _, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::RwLock;

use super::body::beginning;
use super::fault::{Fault, Kind};

/// Bytes that are percent-encoded in a request's path: all but letters, digits and `/-._~`.
const PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Identifies this program in the server's logs.
const USER_AGENT: &str = concat!("orb-features/", env!("CARGO_PKG_VERSION"));

/// Credentials that expire within this time are replaced.
const FRESH: Duration = Duration::from_mins(1);

/// If the credentials are newer than this, a refusal as expired is taken to be of the previous ones.
const SETTLED: Duration = Duration::from_secs(10);

/// How to get the objects of a bucket.
#[derive(Debug)]
pub(super) struct Route {
    connector: SharedHttpConnector,
    /// The URL of a request up to the key.
    base: String,
    /// `None` if requests are not signed.
    scope: Option<Scope>,
}

/// Scope of a signature.
#[derive(Debug, PartialEq, Eq)]
struct Scope {
    region: String,
}

impl Route {
    /// Sends a GET for a key, signed if the route has a scope.
    pub async fn get(
        &self,
        key: &str,
        headers: &[(&'static str, String)],
        wallet: &Wallet,
    ) -> Result<HttpResponse, Fault> {
        let bad = |e: &dyn std::fmt::Display| Fault::new(Kind::Refused, e.to_string());
        let uri = format!("{}{}", self.base, utf8_percent_encode(key, PATH));
        let mut request = http::Request::builder().uri(&uri).header("user-agent", USER_AGENT);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let mut request = request.body(SdkBody::empty()).map_err(|e| bad(&e))?;
        if let Some(scope) = &self.scope {
            let credentials = wallet.credentials().await.map_err(|error| {
                let fault = Fault::of_transport(Kind::Account, &error);
                Fault::new(Kind::Account, format!("no usable credentials ({fault})"))
            })?;
            let identity = credentials.into();
            let mut settings = SigningSettings::default();
            // S3 requires keys that are not normalized and are encoded once.
            settings.percent_encoding_mode = PercentEncodingMode::Single;
            settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
            settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
            let params = v4::SigningParams::builder()
                .identity(&identity)
                .region(&scope.region)
                .name("s3")
                .time(SystemTime::now())
                .settings(settings)
                .build()
                .map_err(|e| bad(&e))?
                .into();
            let signed = headers.iter().map(|(name, value)| (*name, value.as_str()));
            let signable = SignableRequest::new("GET", &uri, signed, SignableBody::Bytes(&[]))
                .map_err(|e| bad(&e))?;
            let (instructions, _) = sign(signable, &params).map_err(|e| bad(&e))?.into_parts();
            instructions.apply_to_request_http1x(&mut request);
        }
        let request = HttpRequest::try_from(request).map_err(|e| bad(&e))?;
        let answer = self.connector.call(request).await.map_err(|e| {
            if e.is_timeout() {
                Fault::new(Kind::Network, "no connection, or no answer, in time")
            } else {
                Fault::of_transport(Kind::Network, &e)
            }
        })?;
        if answer.status().is_success() { Ok(answer) } else { Err(refusal(answer).await) }
    }
}

/// Longest body of an error that is read, in bytes.
const MAX_ERROR_BYTES: u64 = 64 << 10;

/// Reads an error answer.
async fn refusal(answer: HttpResponse) -> Fault {
    let status = answer.status().as_u16();
    let region = answer.headers().get("x-amz-bucket-region").map(str::to_owned);
    let body = aws_sdk_s3::primitives::ByteStream::new(answer.into_body());
    let text = match beginning(body, MAX_ERROR_BYTES).await {
        Ok(body) => String::from_utf8_lossy(&body).into_owned(),
        Err(error) => return Fault::of_transport(Kind::Network, &error),
    };
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(value, _)| value)
    };
    let code = element("Code").unwrap_or_default();
    let message = element("Message").unwrap_or_default();
    Fault::of_response(status, code, message, region.as_deref())
}

/// Notes how the SDK makes a request for a key.
#[derive(Debug)]
pub(super) struct Learn {
    pub key: String,
    pub settings: HttpConnectorSettings,
    pub learned: Arc<Mutex<Option<Route>>>,
}

impl Intercept for Learn {
    fn name(&self) -> &'static str {
        "Learn"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        components: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request();
        let base = base_of(request.uri(), &self.key);
        let scope = match request.headers().get("authorization") {
            None => Some(None),
            Some(authorization) => scope_of(authorization).map(Some),
        };
        if let (Some(base), Some(scope), Some(client)) = (base, scope, components.http_client()) {
            let connector = client.http_connector(&self.settings, components);
            let route = Route { connector, base, scope };
            *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = Some(route);
        }
        Ok(())
    }
}

/// Part of a request's address before the key.
fn base_of(uri: &str, key: &str) -> Option<String> {
    let path = uri.split('?').next()?;
    path.strip_suffix(&utf8_percent_encode(key, PATH).to_string())
        .filter(|base| base.ends_with('/'))
        .map(str::to_owned)
}

/// The scope of a signature such as `AWS4-HMAC-SHA256
/// Credential=AKID/20260101/eu-central-1/s3/aws4_request, ..`; `None` for other kinds of signature.
fn scope_of(authorization: &str) -> Option<Scope> {
    let credential = authorization.strip_prefix("AWS4-HMAC-SHA256 Credential=")?;
    let scope = credential.split(',').next()?;
    let mut parts = scope.rsplit('/');
    match (parts.next()?, parts.next()?, parts.next()?) {
        ("aws4_request", "s3", region) => Some(Scope { region: region.to_owned() }),
        _ => None,
    }
}

/// A cache of the credentials, shared by the SDK's requests and those of [`Route`].
#[derive(Clone, Debug, Default)]
pub(super) struct Wallet {
    provider: Option<SharedCredentialsProvider>,
    held: Arc<RwLock<Option<Held>>>,
}

#[derive(Clone, Debug)]
struct Held {
    credentials: Credentials,
    since: Instant,
}

impl Held {
    fn is_good_for(&self, time: Duration) -> bool {
        self.credentials.expiry().is_none_or(|end| end > SystemTime::now() + time)
    }
}

impl Wallet {
    pub fn new(provider: Option<SharedCredentialsProvider>) -> Self {
        Self { provider, held: Arc::default() }
    }

    /// The held credentials, replaced first if they expire within [`FRESH`].
    async fn credentials(&self) -> Result<Credentials, CredentialsError> {
        if let Some(held) = self.held.read().await.as_ref().filter(|held| held.is_good_for(FRESH)) {
            return Ok(held.credentials.clone());
        }
        let mut held = self.held.write().await;
        if let Some(held) = held.as_ref().filter(|held| held.is_good_for(FRESH)) {
            return Ok(held.credentials.clone());
        }
        let provider = self.provider.as_ref();
        let provider =
            provider.ok_or_else(|| CredentialsError::not_loaded("there are no credentials"))?;
        let provided = provider.provide_credentials().await;
        match (provided.and_then(check), held.as_ref()) {
            (Ok(credentials), _) => {
                *held = Some(Held { credentials: credentials.clone(), since: Instant::now() });
                Ok(credentials)
            }
            // If they cannot be replaced, the old ones serve until they expire.
            (Err(_), Some(old)) if old.is_good_for(Duration::ZERO) => Ok(old.credentials.clone()),
            (Err(error), _) => Err(error),
        }
    }

    /// Drops credentials that the server refuses as expired. Returns false if they cannot be replaced, as they
    /// have no expiry.
    pub fn discard(&self) -> bool {
        // The lock is taken while another task replaces them: the refusal was of the old ones.
        let Ok(mut held) = self.held.try_write() else { return true };
        match held.as_ref() {
            None => true,
            Some(held) if held.credentials.expiry().is_none() => false,
            Some(new) if new.since.elapsed() < SETTLED => true,
            Some(_) => {
                *held = None;
                true
            }
        }
    }
}

/// Refuses credentials that cannot be sent in a request header, as the SDK would panic. An example is a key pasted
/// with its end of line.
fn check(credentials: Credentials) -> Result<Credentials, CredentialsError> {
    let is_good = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_good(credentials.access_key_id()) && credentials.session_token().is_none_or(is_good) {
        return Ok(credentials);
    }
    let why = "the access key id or the session token holds a space, an end of line or another character that \
               no key has";
    Err(CredentialsError::invalid_configuration(why))
}

impl ProvideCredentials for Wallet {
    fn provide_credentials<'a>(&'a self) -> ProvideFuture<'a>
    where
        Self: 'a,
    {
        ProvideFuture::new(self.credentials())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_learned_from_a_request() {
        for (uri, base) in [
            (
                "https://b.s3.eu-central-1.amazonaws.com/a%20b/%C3%BC%2B.jpg?x-id=GetObject",
                Some("https://b.s3.eu-central-1.amazonaws.com/"),
            ),
            ("http://localhost:9000/b/a%20b/%C3%BC%2B.jpg", Some("http://localhost:9000/b/")),
            ("http://localhost:9000/b/other.jpg", None),
        ] {
            assert_eq!(base_of(uri, "a b/ü+.jpg").as_deref(), base);
        }
        let plain = "AWS4-HMAC-SHA256 Credential=AKID/20260101/eu-central-1/s3/aws4_request, SignedHeaders=host";
        assert_eq!(scope_of(plain), Some(Scope { region: "eu-central-1".to_owned() }));
        let express = plain.replace("/s3/", "/s3express/");
        let several = plain.replace("HMAC", "ECDSA-P256");
        assert_eq!((scope_of(&express), scope_of(&several)), (None, None));
    }

    #[tokio::test]
    async fn credentials_are_replaced_before_they_end() {
        let ends = |seconds| Some(SystemTime::now() + Duration::from_secs(seconds));
        let held = |name: &str, expiry, age| {
            let credentials = Credentials::new(name, "s", None, expiry, "test");
            Some(Held { credentials, since: Instant::now().checked_sub(age).unwrap() })
        };
        let new = held("new", ends(3600), Duration::ZERO).unwrap().credentials;
        let wallet = Wallet::new(Some(SharedCredentialsProvider::new(new)));
        let old = held("old", ends(30), Duration::from_mins(1));
        *wallet.held.write().await = old.clone();
        assert_eq!(wallet.credentials().await.unwrap().access_key_id(), "new");
        // A refusal just after the replacement was of the old credentials.
        assert!(wallet.discard() && wallet.held.read().await.is_some());
        wallet.held.write().await.as_mut().unwrap().since -= SETTLED;
        assert!(wallet.discard() && wallet.held.read().await.is_none());
        assert!(wallet.discard());
        // Credentials without an expiry are not dropped: they cannot be replaced.
        *wallet.held.write().await = held("fixed", None, Duration::from_mins(1));
        assert!(!wallet.discard());
        // Without a provider, expired credentials are an error.
        let failing = Credentials::new("late", "s", None, ends(0), "test");
        let none = Wallet::new(None);
        *none.held.write().await = Some(Held { credentials: failing, since: Instant::now() });
        assert!(none.credentials().await.is_err());
    }

    /// A provider that gives credentials once, and then fails.
    #[derive(Debug, Default)]
    struct Once(std::sync::atomic::AtomicBool);

    impl ProvideCredentials for Once {
        fn provide_credentials<'a>(&'a self) -> ProvideFuture<'a>
        where
            Self: 'a,
        {
            let end = SystemTime::now() + FRESH / 2;
            ProvideFuture::ready(if self.0.swap(true, std::sync::atomic::Ordering::Relaxed) {
                Err(CredentialsError::not_loaded("only once"))
            } else {
                Ok(Credentials::new("once", "s", None, Some(end), "test"))
            })
        }
    }

    #[tokio::test]
    async fn credentials_serve_to_their_end_where_there_are_no_others() {
        let wallet = Wallet::new(Some(SharedCredentialsProvider::new(Once::default())));
        // The second time they should be replaced, but the provider fails.
        for _ in 0..2 {
            assert_eq!(wallet.credentials().await.unwrap().access_key_id(), "once");
        }
        let ended = Credentials::new("ended", "s", None, Some(SystemTime::now()), "test");
        wallet.held.write().await.as_mut().unwrap().credentials = ended;
        assert!(wallet.credentials().await.is_err());
    }
}
