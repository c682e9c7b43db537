//! What Ctrl-C does.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use orb_features::prelude::*;

/// What Ctrl-C and SIGTERM set; the second one ends the process at once.
pub struct Stop {
    pub flag: Arc<AtomicBool>,
    /// The connection, if there is to be one; unset while it is made.
    s3: Arc<OnceLock<Option<S3>>>,
}

impl Stop {
    pub fn on_interrupt() -> Self {
        let stop = Self { flag: Arc::default(), s3: Arc::default() };
        let (flag, s3) = (Arc::clone(&stop.flag), Arc::clone(&stop.s3));
        let handler = move || {
            let is_second = flag.swap(true, Ordering::Relaxed);
            match s3.get() {
                // Without a connection there is nothing to clean up yet.
                None => std::process::exit(130),
                Some(_) if is_second => std::process::exit(130),
                Some(s3) => s3.iter().for_each(S3::interrupt),
            }
        };
        let set = keeping_nohup(|| ctrlc::set_handler(handler));
        if let Err(error) = set {
            let _ = writeln!(std::io::stderr(), "warning: Ctrl-C will not clean up: {error}");
        }
        stop
    }

    /// Also stops what waits for a connection. Before there is one, nothing needs cleaning up.
    pub fn also(&self, s3: Option<&S3>) {
        let _ = self.s3.set(s3.cloned());
    }
}

/// Sets handlers, but leaves that of the terminal's end alone if it is ignored, as by `nohup`.
#[cfg(unix)]
#[expect(unsafe_code, reason = "the standard library knows nothing of signals")]
fn keeping_nohup<E>(set: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    // SAFETY: these set and name what is done at a signal, and nothing that the process runs.
    let before = unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
    let result = set();
    if before == libc::SIG_IGN || result.is_err() {
        // SAFETY: as above.
        unsafe { libc::signal(libc::SIGHUP, before) };
    }
    if result.is_err() {
        // Handlers without the thread that they wake would have the signals do nothing at all.
        for number in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: as above.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
    }
    result
}

#[cfg(not(unix))]
fn keeping_nohup<E>(set: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    set()
}
