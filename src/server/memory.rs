//! Looks how much memory the process has, and tells those who can do with less (`net::pressure`).
//!
//! What counts is what is the process's alone (`RssAnon`): pages of files that it reads are given back by the system when it needs them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::broker::Broker;
use crate::net::admission::Admission;
use crate::net::pressure::{Level, Pressure};
use crate::net::shortage::Shortage;
use crate::shard::ShardHandle;

/// Time between two looks: in one of its turns a connection brings at most 128 KiB.
const EVERY: Duration = Duration::from_millis(100);
/// Above this nobody has set a limit: the first version of control groups says so with a very large number.
const NO_LIMIT: u64 = 1 << 60;

/// Who is told.
pub(super) struct Told {
    pub(super) pressure: Arc<Pressure>,
    pub(super) shards: Vec<ShardHandle>,
    pub(super) admission: Arc<Admission>,
    pub(super) broker: Arc<Broker>,
    pub(super) shortage: watch::Sender<Shortage>,
}

/// Returns the pressure under a configured limit; 0 takes what the machine or the container has.
pub(super) fn pressure(configured: u64) -> Arc<Pressure> {
    let limit = match (used(), configured) {
        (None, 0) => 0,
        (None, _) => {
            tracing::warn!(
                "the system does not say how much memory the process has: limits.memory_bytes_max is not kept to"
            );
            0
        }
        (Some(_), 0) => available().unwrap_or(0),
        (Some(_), configured) => configured,
    };
    Arc::new(Pressure::new(limit))
}

/// Tells shards, listeners and connections when memory runs short, for as long as it is polled.
pub(super) async fn watch(told: Told) {
    let mut interval = tokio::time::interval(EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let Some(used) = used() else { continue };
        if let Some(level) = told.pressure.note(used) {
            told.tell(level);
        }
    }
}

impl Told {
    fn tell(&self, level: Level) {
        let (used, _) = self.pressure.used();
        let limit = self.pressure.limit();
        match level {
            Level::Enough => tracing::info!(used, limit, "there is enough memory again"),
            Level::Scarce => {
                tracing::warn!(used, limit, "memory is scarce: publishers are slowed down")
            }
            Level::Short => {
                tracing::error!(
                    used,
                    limit,
                    "memory is short: publishers are slowed down, and nobody new comes in"
                );
            }
            Level::Critical => {
                tracing::error!(
                    used,
                    limit,
                    "memory is nearly used up: publishes are refused, and QoS 0 is dropped"
                );
            }
        }
        self.admission.set_short_of_memory(level >= Level::Short);
        self.broker.live().set_shedding(level >= Level::Critical);
        self.shortage.send_if_modified(|shortage| {
            let before = std::mem::replace(&mut shortage.memory, level >= Level::Critical);
            shortage.memory != before
        });
        self.shards.iter().for_each(|shard| shard.set_memory_full(level >= Level::Critical));
    }
}

/// Bytes that are the process's alone.
fn used() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    kib_of(&status, "RssAnon:")
}

/// What the machine has, or its control groups allow the process if that is less.
fn available() -> Option<u64> {
    let memory = std::fs::read_to_string("/proc/meminfo").ok();
    let machine = memory.and_then(|memory| kib_of(&memory, "MemTotal:"));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let allowed = groups.lines().filter_map(|line| allowed(line, Path::new("/sys/fs/cgroup")));
    machine.into_iter().chain(allowed).min()
}

/// The limit of a control group, `number:controllers:path` as in /proc/self/cgroup, and of those around it.
fn allowed(group: &str, mounted: &Path) -> Option<u64> {
    let mut fields = group.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let (root, file) = match controllers {
        "" => (mounted.to_owned(), "memory.max"),
        _ if controllers.split(',').any(|it| it == "memory") => {
            (mounted.join("memory"), "memory.limit_in_bytes")
        }
        _ => return None,
    };
    let limit = |path: &Path| -> Option<u64> {
        let text = std::fs::read_to_string(root.join(path).join(file)).ok()?;
        text.trim().parse().ok().filter(|limit| *limit < NO_LIMIT)
    };
    Path::new(path.trim_start_matches('/')).ancestors().filter_map(limit).min()
}

/// Finds a line such as `MemTotal:  16384 kB`; in bytes.
fn kib_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_is_read_in_bytes() {
        let text = "VmRSS:\t  100 kB\nRssAnon:\t      24 kB\nRssFile: 1 kB\n";
        assert_eq!(kib_of(text, "RssAnon:"), Some(24 << 10));
        assert_eq!(kib_of(text, "MemTotal:"), None);
    }

    #[test]
    fn the_least_of_the_control_groups_around_the_process_counts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("a/memory.max", "5000\n");
        write("a/b/memory.max", "max\n");
        write("memory/c/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/memory.limit_in_bytes", "7000\n");

        let allowed = |group| allowed(group, dir.path());
        assert_eq!(allowed("0::/a/b"), Some(5000));
        assert_eq!(allowed("0::/x"), None);
        assert_eq!(allowed("4:cpu,memory:/c"), Some(7000));
        assert_eq!(allowed("5:cpu:/a"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_some_memory_and_there_is_more() {
        assert!(used().unwrap() > 0 && available().unwrap() > used().unwrap());
    }
}
