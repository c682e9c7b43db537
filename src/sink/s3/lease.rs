//! The sign that a run is alive: an object in `_work/` that is written anew all the time.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::s3::{Condition, S3};

/// A run whose lease is older than this is dead.
const LEASE: Duration = Duration::from_mins(2);

/// Who holds a lease.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    /// The machine, as far as process numbers are its own.
    machine: Option<String>,
    process: u32,
    /// When the process started, as numbers are used again.
    started: Option<String>,
}

impl Holder {
    pub fn this_process() -> Self {
        let process = std::process::id();
        Self { machine: machine(), process, started: started(process) }
    }

    pub fn to_bytes(&self) -> Bytes {
        // Strings and numbers cannot fail.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    pub fn from_bytes(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_default()
    }

    /// Whether the process is known to be gone: only ever on the machine that it ran on.
    pub fn is_gone(&self) -> bool {
        if self.machine.is_none() || self.machine != machine() || self.started.is_none() {
            return false;
        }
        match started(self.process) {
            // Another one has its number now.
            Some(started) => Some(started) != self.started,
            // What cannot be seen may be there nevertheless.
            None => does_not_exist(self.process),
        }
    }
}

/// Whether the system says that there is no such process.
fn does_not_exist(process: u32) -> bool {
    #[cfg(unix)]
    {
        use rustix::process::{Pid, test_kill_process};
        let process = i32::try_from(process).ok().and_then(Pid::from_raw);
        process.is_some_and(|p| test_kill_process(p) == Err(rustix::io::Errno::SRCH))
    }
    #[cfg(not(unix))]
    {
        let _ = process;
        false
    }
}

/// Whether a lease last written at `written` holds at `now`, both by the server's clock.
pub(super) fn holds(written: SystemTime, now: SystemTime) -> bool {
    now.duration_since(written).is_ok_and(|age| age < LEASE) || written >= now
}

/// Writes a lease anew until it is dropped.
#[derive(Debug)]
pub(super) struct Renewal(JoinHandle<()>);

impl Renewal {
    pub fn begin(s3: &S3, bucket: String, key: String, holder: Bytes) -> Self {
        let client = s3.clone();
        Self(s3.spawn(async move {
            loop {
                tokio::time::sleep(LEASE / 8).await;
                // The next one may pass; none may take so long that the lease ends meanwhile.
                let put = client.put(&bucket, &key, holder.clone(), &Condition::None);
                let _ = tokio::time::timeout(LEASE / 8, put).await;
            }
        }))
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What tells machines, and containers on one machine, apart.
fn machine() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}

/// When a process started, as far as it can be seen; dead ones that nobody has buried count.
fn started(process: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, in brackets, may hold anything; the start is the 20th field after it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    match fields.next() {
        Some("Z" | "X") => Some("dead".to_owned()),
        _ => fields.nth(18).map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_by_the_servers_clock() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        assert!(holds(now - LEASE + Duration::from_secs(1), now));
        assert!(!holds(now - LEASE, now));
        assert!(holds(now + Duration::from_secs(5), now));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_is_gone_once_it_has_ended() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let holder =
            Holder { machine: machine(), process: child.id(), started: started(child.id()) };
        let copy = Holder::from_bytes(&holder.to_bytes());
        assert_eq!(copy, holder);
        assert!(!copy.is_gone() && !Holder::this_process().is_gone());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(copy.is_gone());
        // Of another machine nothing is known.
        let other = Holder { machine: Some("elsewhere".to_owned()), ..holder };
        assert!(!other.is_gone() && !Holder::from_bytes(b"?").is_gone());
    }
}
