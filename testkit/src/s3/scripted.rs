//! A server whose answers are scripted byte by byte, for answers that no real server sends.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use orb_features::s3::S3Params;

use super::params_of;

/// A server that answers request `n` (from 0) with whatever the script gives, and then closes the connection.
pub struct Scripted {
    address: SocketAddr,
    requests: Arc<AtomicU64>,
}

impl Scripted {
    /// Serves, on a thread that lives as long as the process. The script also sees the request's head.
    pub fn start(script: impl Fn(u64, &str) -> Vec<u8> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&requests);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && matches!(connection.read(&mut byte), Ok(1)) {
                    head.push(byte[0]);
                }
                let number = counter.fetch_add(1, Ordering::SeqCst);
                let _ = connection.write_all(&script(number, &String::from_utf8_lossy(&head)));
            }
        });
        Self { address, requests }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How to connect to it, with short waits between attempts.
    pub fn params(&self) -> S3Params {
        params_of(self.endpoint())
    }

    /// The number of requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

/// An answer with this status, such as `200 OK`, and these headers, each with its line end.
pub fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}
