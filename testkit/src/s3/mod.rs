//! An S3 server on loopback, in the process that starts it, with faults on demand.

mod memory;
mod scripted;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use orb_features::s3::{S3, S3Params};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

pub use memory::Memory;
pub use scripted::{Scripted, answer};

/// The only key that the server knows.
pub const ACCESS_KEY: &str = "AKIAIOSFODNN7EXAMPLE";
pub const SECRET_KEY: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

fn params_of(endpoint: String) -> S3Params {
    S3Params::default()
        .with_endpoint_url(endpoint)
        .with_region("eu-central-1")
        .with_credentials(ACCESS_KEY, SECRET_KEY, None)
        .with_backoff(Duration::from_millis(1), Duration::from_millis(20))
        .with_timeout(Duration::from_secs(2))
}

/// A body that has no end.
pub fn endless_body(
    chunk: &'static [u8],
) -> impl hyper::body::Body<Data = Bytes, Error = io::Error> + Send + Sync + 'static {
    let frame = move || Ok(Frame::data(Bytes::from_static(chunk)));
    StreamBody::new(stream::repeat_with(frame))
}

/// Finds a violation of the invariant that holds for an output at every moment, for both kinds of reader: the
/// one that reads the files in the manifest, and the one that looks for the mark of success and reads all
/// files.
pub fn violation(
    memory: &Memory,
    bucket: &str,
    out: &str,
    is_result: impl Fn(&[Bytes]) -> bool,
) -> Option<String> {
    let objects = memory.objects(bucket, &format!("{out}/"));
    let is_whole = |keys: &[String]| {
        let files: Option<Vec<Bytes>> = keys.iter().map(|key| objects.get(key).cloned()).collect();
        files.is_some_and(|files| is_result(&files))
    };
    if let Some(manifest) = objects.get(&format!("{out}/_manifest.json")) {
        let manifest: serde_json::Value = serde_json::from_slice(manifest).unwrap();
        if let Some(files) = manifest["current"]["files"].as_array() {
            let name = |file: &serde_json::Value| file["name"].as_str().unwrap().to_owned();
            let keys: Vec<_> = files.iter().map(|file| format!("{out}/{}", name(file))).collect();
            let images = format!("{out}/_images/");
            let (images, keys): (Vec<_>, Vec<_>) =
                keys.into_iter().partition(|key| key.starts_with(&images));
            if !images.iter().all(|key| objects.contains_key(key)) || !is_whole(&keys) {
                return Some(format!("the manifest names {keys:?}, which is no result"));
            }
        }
    }
    if objects.contains_key(&format!("{out}/_SUCCESS")) {
        let parts = format!("{out}/part-");
        let keys: Vec<_> = objects.keys().filter(|key| key.starts_with(&parts)).cloned().collect();
        if !is_whole(&keys) {
            return Some(format!("there is a mark of success on {keys:?}, which is no result"));
        }
    }
    None
}

/// What goes wrong with one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Answers an error without executing the request.
    Error(u16, &'static str),
    /// As [`Error`](Self::Error), with the bucket's region.
    WrongRegion(&'static str),
    /// Executes the request, but answers 500.
    ErrorAfterEffect,
    /// Executes the request, then resets the connection.
    ResetAfterEffect,
    /// The answer comes late.
    Late(Duration),
    /// Resets the connection after this many bytes of the body.
    Reset(usize),
    /// Closes the connection after this many bytes of the body, of which the full length is declared.
    Truncate(usize),
    /// Stalls after this many bytes of the body.
    Stall(usize),
    /// Flips a bit of this byte of the body.
    Flip(usize),
    /// Cuts both the body and the declared length to this many bytes.
    Shorten(usize),
}

/// A request, as the plan sees it that decides about its fault.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Requests before it.
    pub number: u64,
    /// Equal requests before it.
    pub seen: u64,
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: http::HeaderMap,
}

type Plan = Arc<dyn Fn(&Asked) -> Option<Fault> + Send + Sync>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, BoxError>;

#[derive(Default)]
struct Shared {
    plan: Mutex<Option<Plan>>,
    seen: Mutex<HashMap<String, u64>>,
    requests: AtomicU64,
    faults: AtomicU64,
    in_flight: AtomicU64,
    most_in_flight: AtomicU64,
}

/// A server that runs until it is dropped.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves a store, on threads of its own.
    pub fn start(memory: &Memory) -> Self {
        let mut builder = S3ServiceBuilder::new(memory.clone());
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        let shared = Arc::new(Shared::default());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let all = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(serve(listener, service, all, stopped));
            runtime.shutdown_background();
        });
        Self { address, shared, stop: Some(stop), thread: Some(thread) }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Connects to it, with short waits between attempts.
    pub fn connect(&self) -> S3 {
        self.params().connect().unwrap()
    }

    pub fn params(&self) -> S3Params {
        params_of(self.endpoint())
    }

    /// The environment variables with which another process finds the server.
    pub fn environment(&self) -> [(&'static str, String); 6] {
        [
            ("AWS_ENDPOINT_URL_S3", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_REGION", "eu-central-1".to_owned()),
            ("AWS_CONFIG_FILE", "/dev/null".to_owned()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".to_owned()),
        ]
    }

    /// Sets the plan that decides about the fault of each request.
    pub fn plan(&self, plan: impl Fn(&Asked) -> Option<Fault> + Send + Sync + 'static) {
        self.shared.seen.lock().unwrap().clear();
        *self.shared.plan.lock().unwrap() = Some(Arc::new(plan));
    }

    /// Plans faults of every kind for a third of all requests.
    pub fn storm(&self, seed: u64) {
        self.plan(move |asked| {
            let mut x = (asked.number ^ seed << 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            x = (x ^ x >> 31).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            x ^= x >> 29;
            let at = (x >> 32) as usize % 3000;
            // Cut or changed answers make sense only for reads and listings.
            let is_read = asked.method == "GET";
            x.is_multiple_of(3).then(|| match x / 3 % 16 {
                0..=2 => Fault::Error(503, "SlowDown"),
                3 => Fault::Error(500, "InternalError"),
                4 => Fault::ErrorAfterEffect,
                5 => Fault::ResetAfterEffect,
                6 => Fault::Error(503, "ServiceUnavailable"),
                7 => Fault::Late(Duration::from_millis(30)),
                8 | 9 if is_read => Fault::Truncate(at),
                10 if is_read && (x / 48).is_multiple_of(8) => Fault::Stall(at),
                10 | 11 if is_read => Fault::Reset(at),
                // A flipped bit in a listing gives another key, which no client can detect.
                12 | 13 if is_read && !asked.query.contains("list-type") => Fault::Flip(at),
                14 | 15 if is_read => Fault::Shorten(at),
                _ => Fault::Error(429, "TooManyRequests"),
            })
        });
    }

    /// Ends all faults.
    pub fn heal(&self) {
        *self.shared.plan.lock().unwrap() = None;
    }

    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    pub fn faults(&self) -> u64 {
        self.shared.faults.load(Ordering::Relaxed)
    }

    /// Requests that are under way.
    pub fn in_flight(&self) -> u64 {
        self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// The most requests that were under way at a time.
    pub fn most_in_flight(&self) -> u64 {
        self.shared.most_in_flight.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn serve(
    listener: std::net::TcpListener,
    service: S3Service,
    shared: Arc<Shared>,
    mut stopped: tokio::sync::oneshot::Receiver<()>,
) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let accepted = tokio::select! {
            _ = &mut stopped => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((io, _)) = accepted else { continue };
        let _ = io.set_nodelay(true);
        let reset = Arc::new(AtomicBool::new(false));
        let faulty =
            Faulty { service: service.clone(), shared: Arc::clone(&shared), reset: reset.clone() };
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(Connection { io, reset }), faulty);
        tokio::spawn(connection);
    }
}

/// The store's service, with faults in front.
#[derive(Clone)]
struct Faulty {
    service: S3Service,
    shared: Arc<Shared>,
    /// Whether the connection is to be reset.
    reset: Arc<AtomicBool>,
}

struct InFlight(Arc<Shared>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl hyper::service::Service<Request<Incoming>> for Faulty {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.answer(request).await })
    }
}

impl Faulty {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, BoxError> {
        let shared = &self.shared;
        let number = shared.requests.fetch_add(1, Ordering::Relaxed);
        let in_flight = shared.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        shared.most_in_flight.fetch_max(in_flight, Ordering::Relaxed);
        let guard = InFlight(Arc::clone(shared));
        let plan = shared.plan.lock().unwrap().clone();
        let fault = plan.and_then(|plan| plan(&self.asked(&request, number)));
        if fault.is_some() {
            shared.faults.fetch_add(1, Ordering::Relaxed);
        }
        match fault {
            Some(Fault::Error(status, code)) => {
                // The body is read first: unread data would reset the connection.
                let _ = request.into_body().collect().await;
                return Ok(error(status, code));
            }
            Some(Fault::WrongRegion(region)) => {
                let mut answer = error(301, "PermanentRedirect");
                answer.headers_mut().insert("x-amz-bucket-region", region.parse()?);
                return Ok(answer);
            }
            _ => {}
        }
        let request = if let Some(Fault::Late(by)) = fault {
            let (head, body) = request.into_parts();
            // The body is read first: only then is it noticed if the client has gone.
            let body = body.collect().await?.to_bytes();
            tokio::time::sleep(by).await;
            Request::from_parts(head, s3s::Body::from(body))
        } else {
            request.map(s3s::Body::from)
        };
        let answer = self.service.call(request).await;
        let answer = answer.map_err(|e| -> BoxError { format!("{e:?}").into() })?;
        let reset = &self.reset;
        let (mut head, body) = answer.into_parts();
        let fault = match fault {
            Some(Fault::ErrorAfterEffect) => return Ok(error(500, "InternalError")),
            Some(Fault::ResetAfterEffect) => {
                reset.store(true, Ordering::Relaxed);
                return Err("reset".into());
            }
            None | Some(Fault::Late(_)) => {
                let body = body.map_err(|e| -> BoxError { e }).map_frame(move |frame| {
                    let _ = &guard;
                    frame
                });
                return Ok(Response::from_parts(head, body.boxed_unsync()));
            }
            Some(fault) => fault,
        };
        let mut all =
            http_body_util::BodyExt::collect(body).await.map_err(|e| -> BoxError { e })?.to_bytes();
        head.headers.insert("content-length", all.len().into());
        let body = match fault {
            Fault::Flip(at) => {
                let mut bytes = all.to_vec();
                let len = bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(at % len) {
                    *byte ^= 1;
                }
                full(bytes.into())
            }
            Fault::Shorten(len) => {
                all.truncate(len.min(all.len().saturating_sub(1)));
                head.headers.insert("content-length", all.len().into());
                full(all)
            }
            Fault::Reset(len) => cut(all, len, End::Reset(Arc::clone(reset))),
            Fault::Truncate(len) => cut(all, len, End::Close),
            Fault::Stall(len) => cut(all, len, End::Never),
            fault => unreachable!("{fault:?} is dealt with above"),
        };
        Ok(Response::from_parts(head, body))
    }

    fn asked(&self, request: &Request<Incoming>, number: u64) -> Asked {
        let query = request.uri().query().unwrap_or("").to_owned();
        // The SDK adds this only for the logs of servers; it does not make requests different.
        let of = query.replace("x-id=GetObject", "");
        let name = format!("{} {} {of}", request.method(), request.uri().path());
        let mut seen = self.shared.seen.lock().unwrap();
        let seen = seen.entry(name).or_insert(0);
        *seen += 1;
        Asked {
            number,
            seen: *seen - 1,
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            query,
            headers: request.headers().clone(),
        }
    }
}

/// How a cut body ends.
enum End {
    Reset(Arc<AtomicBool>),
    Close,
    Never,
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

fn cut(mut all: Bytes, len: usize, end: End) -> Body {
    all.truncate(len.min(all.len().saturating_sub(1)));
    let rest = async move {
        // Gives the first part time to be sent.
        tokio::time::sleep(Duration::from_millis(10)).await;
        match end {
            End::Never => std::future::pending::<()>().await,
            End::Reset(reset) => reset.store(true, Ordering::Relaxed),
            End::Close => {}
        }
        Err::<Frame<Bytes>, BoxError>("cut".into())
    };
    let first = stream::once(async move { Ok::<_, BoxError>(Frame::data(all)) });
    StreamBody::new(first.chain(stream::once(rest))).boxed_unsync()
}

fn error(status: u16, code: &str) -> Response<Body> {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <Error><Code>{code}</Code><Message>planned</Message></Error>"
    );
    let answer = Response::builder().status(status).header("content-type", "application/xml");
    answer.body(full(xml.into())).unwrap()
}

/// A connection that is reset on drop if the flag is set.
struct Connection {
    io: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Connection {
    fn is_to_be_reset(&self) -> bool {
        self.reset.load(Ordering::Relaxed)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.is_to_be_reset() {
            let _ = self.io.set_zero_linger();
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_to_be_reset() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
