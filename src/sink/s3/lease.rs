//! The sign that a run is alive: an object in `_work/` that is rewritten periodically.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;

use crate::s3::{Condition, S3};

/// Longest lease object that is read, in bytes.
pub(super) const MAX_LEASE_BYTES: u64 = 4 << 10;

/// Who holds a lease.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Holder {
    /// A hash of the machine and the output. Process ids can be compared only on the same machine.
    machine: Option<String>,
    process: u32,
    /// When the process started, as process ids are reused.
    started: Option<String>,
    /// Milliseconds without a renewal after which the run counts as dead.
    lease_ms: u64,
}

impl Holder {
    /// This process, as the holder of a lease on an output.
    pub fn this_process(output: &str, lease: Duration) -> Self {
        let process = std::process::id();
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        Self { machine: machine(output), process, started: started(process), lease_ms }
    }

    pub fn to_bytes(&self) -> Bytes {
        // Serializing strings and numbers cannot fail.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Reads a lease; `None` if it is not one of ours.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// How long the lease is valid after each renewal.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// Whether the process is known to have ended; always false on another machine.
    pub fn is_gone(&self, output: &str) -> bool {
        if self.machine.is_none() || self.machine != machine(output) || self.started.is_none() {
            return false;
        }
        match started(self.process) {
            // If it differs, another process has this id now.
            Some(started) => Some(started) != self.started,
            // A process that we may not look at may be alive.
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

/// Whether a lease of this length, last written at `written`, is valid at `now`; both times are the server's.
pub(super) fn holds(written: SystemTime, now: SystemTime, lease: Duration) -> bool {
    now.duration_since(written).is_ok_and(|age| age < lease) || written >= now
}

/// Renews a lease until this is dropped.
#[derive(Debug)]
pub(super) struct Renewal(JoinHandle<()>);

impl Renewal {
    /// Renews the lease about eight times within its length.
    pub fn begin(s3: &S3, bucket: String, key: String, holder: Bytes, lease: Duration) -> Self {
        let client = s3.clone();
        Self(s3.spawn(async move {
            loop {
                tokio::time::sleep(lease / 8).await;
                // A failed renewal is ignored, as the next may succeed. The timeout keeps it from outlasting the lease.
                let put = client.put(&bucket, &key, holder.clone(), &Condition::None);
                let _ = tokio::time::timeout(lease / 8, put).await;
            }
        }))
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Identifies a machine, and a container on it.
///
/// It is hashed together with the output, so that a reader of the lease learns nothing of use elsewhere: the
/// machine's boot id is not published.
fn machine(output: &str) -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    let text = format!("orb_features.lease\n{}\n{}\n{output}", boot.trim(), namespace.display());
    let sum = Sha256::digest(text);
    Some(sum.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
}

/// When a process started; `None` if that cannot be seen. A zombie counts as dead.
fn started(process: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The process name, in brackets, may hold any character; the start time is the 20th field after it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    match fields.next() {
        Some("Z" | "X") => Some("dead".to_owned()),
        _ => fields.nth(18).map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::DEFAULT_LEASE;

    const OUTPUT: &str = "s3://lab/out/";

    #[test]
    fn a_lease_ends_by_the_servers_clock() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let lease = Duration::from_secs(7);
        assert!(holds(now - lease + Duration::from_secs(1), now, lease));
        assert!(!holds(now - lease, now, lease));
        assert!(holds(now + Duration::from_secs(5), now, lease));
        // The lease has the length that its holder gave it.
        let holder = Holder::from_bytes(&Holder::this_process(OUTPUT, lease).to_bytes()).unwrap();
        assert_eq!(holder.lease(), lease);
    }

    #[test]
    fn what_is_no_lease_has_no_holder() {
        let texts: [&[u8]; 6] = [
            b"?",
            b"",
            b"{}",
            b"{\"process\": 1}",
            b"{\"machine\": \"a\", \"process\": 1, \"started\": \"b\", \"lease_ms\": 1, \"thesis\": 1}",
            b"[]",
        ];
        for text in texts {
            assert_eq!(Holder::from_bytes(text), None, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_lease_does_not_publish_the_machine() {
        let text = |output| {
            let holder = Holder::this_process(output, DEFAULT_LEASE);
            (String::from_utf8(holder.to_bytes().to_vec()).unwrap(), holder.machine)
        };
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let (shown, machine) = text(OUTPUT);
        assert!(!shown.contains(boot.trim()) && !shown.contains("pid:["), "{shown}");
        assert_eq!(machine, text(OUTPUT).1);
        assert_ne!(machine, text("s3://lab/other/").1);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_is_gone_once_it_has_ended() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let this = Holder::this_process(OUTPUT, DEFAULT_LEASE);
        assert!(!this.is_gone(OUTPUT));
        let holder = Holder { process: child.id(), started: started(child.id()), ..this };
        let copy = Holder::from_bytes(&holder.to_bytes()).unwrap();
        assert_eq!(copy, holder);
        assert!(!copy.is_gone(OUTPUT));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(copy.is_gone(OUTPUT));
        assert!(does_not_exist(holder.process) && !does_not_exist(std::process::id()));
        // A zombie: dead, but not waited for yet.
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while started(child.id()).as_deref() != Some("dead") {
            assert!(std::time::Instant::now() < end);
            std::thread::sleep(Duration::from_millis(5));
        }
        child.wait().unwrap();
        // Nothing is known about processes of another machine.
        let other = Holder { machine: Some("elsewhere".to_owned()), ..holder };
        assert!(!other.is_gone(OUTPUT));
    }
}
