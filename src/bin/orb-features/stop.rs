//! Handling of Ctrl-C and SIGTERM.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use orb_features::prelude::*;

/// The state that Ctrl-C and SIGTERM set. A second signal ends the process at once.
pub struct Stop {
    pub flag: Arc<AtomicBool>,
    /// The connection to S3, or `None` for a job without S3. Unset until the connection is made.
    s3: Arc<OnceLock<Option<S3>>>,
}

impl Stop {
    pub fn on_interrupt() -> Self {
        let stop = Self { flag: Arc::default(), s3: Arc::default() };
        let (flag, s3) = (Arc::clone(&stop.flag), Arc::clone(&stop.s3));
        let handler = move || {
            let is_second = flag.swap(true, Ordering::Relaxed);
            match s3.get() {
                // The job has not connected yet: there is nothing to clean up.
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

    /// From now on, a signal also interrupts waits on this connection. Before this call, a signal ends the process
    /// at once, because nothing needs cleaning up yet.
    pub fn also(&self, s3: Option<&S3>) {
        let _ = self.s3.set(s3.cloned());
    }
}

/// Sets the handlers, but keeps SIGHUP ignored if it was ignored before, as under `nohup`.
#[cfg(unix)]
#[expect(unsafe_code, reason = "the standard library knows nothing of signals")]
fn keeping_nohup<E>(set: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    // SAFETY: `signal` sets the action for a signal and returns the one before; `SIG_IGN` runs no code.
    let before = unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
    let result = set();
    if before == libc::SIG_IGN || result.is_err() {
        // SAFETY: as above.
        unsafe { libc::signal(libc::SIGHUP, before) };
    }
    if result.is_err() {
        // The handlers only wake a thread. Without this thread, the signals would do nothing: restores the defaults.
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
