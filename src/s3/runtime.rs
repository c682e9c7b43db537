//! The connection's runtime, or a clear error where the system allows no threads.
//!
//! tokio panics if its first thread is refused. If a later one is refused, the work for that thread is never done,
//! and tokio hangs. So this module starts and ends as many plain threads first, and then counts tokio's threads.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

/// Most worker threads, which all requests share.
const MAX_WORKERS: usize = 4;

/// Most threads that look up host names, as a look-up blocks. The first is started with the runtime and stays.
const MAX_LOOKUPS: usize = 4;

/// How long an idle look-up thread is kept: longer than any job.
const KEPT: Duration = Duration::from_hours(24 * 365);

/// How long the threads of a runtime may take to start.
const START: Duration = Duration::from_secs(5);

/// Starts a runtime, with fewer threads where the system allows no more.
pub(super) fn start() -> io::Result<Runtime> {
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_WORKERS));
    let started = start_with(workers);
    let started = if workers > 1 { started.or_else(|_| start_with(1)) } else { started };
    started.map_err(|error| {
        let why = "the system allows no more threads to this user or group (see `ulimit -u`)";
        io::Error::new(error.kind(), format!("{why}: {error}"))
    })
}

fn start_with(workers: usize) -> io::Result<Runtime> {
    let threads = workers + 1;
    try_threads(threads)?;
    let (sign, signs) = mpsc::channel();
    let mut builder = Builder::new_multi_thread();
    builder
        .worker_threads(workers)
        .max_blocking_threads(MAX_LOOKUPS)
        .thread_keep_alive(KEPT)
        .thread_name("orb-features-s3")
        .on_thread_start(move || {
            // Fails once the threads are counted, as the receiver is gone then.
            let _ = sign.send(());
        })
        .enable_all();
    let refused = || io::Error::from(io::ErrorKind::WouldBlock);
    // Another process may have taken the threads since they were tried.
    let runtime = catch_unwind(AssertUnwindSafe(|| builder.build())).map_err(|_| refused())??;
    let lookup = catch_unwind(AssertUnwindSafe(|| runtime.spawn_blocking(|| ())));
    let end = Instant::now() + START;
    let left = || end.saturating_duration_since(Instant::now());
    let is_whole = lookup.is_ok() && (0..threads).all(|_| signs.recv_timeout(left()).is_ok());
    if is_whole {
        Ok(runtime)
    } else {
        runtime.shutdown_background();
        Err(refused())
    }
}

/// Starts `count` threads that live at the same time, then ends them.
fn try_threads(count: usize) -> io::Result<()> {
    let (mut running, mut ends) = (Vec::new(), Vec::new());
    let mut outcome = Ok(());
    for _ in 0..count {
        let (end, ended) = mpsc::channel::<()>();
        match std::thread::Builder::new().spawn(move || ended.recv()) {
            Ok(thread) => {
                running.push(thread);
                ends.push(end);
            }
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    drop(ends);
    for thread in running {
        // They cannot panic.
        let _ = thread.join();
    }
    outcome
}
