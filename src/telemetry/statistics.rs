//! What the broker counts of itself, and how it says so below `$SYS/broker/`.
//!
//! [`Statistics`] is where connections count. [`Snapshot`] is everything that is known at one time, whoever counted it, and the only
//! place that gives a count its names: those of mosquitto, and ours where it has none.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

/// What connections count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Connections accepted.
    Sockets,
    /// Clients whose session was opened.
    Clients,
    /// Bytes read, as the protocol sees them.
    BytesReceived,
    /// Bytes written.
    BytesSent,
    /// Packets of any kind that came.
    PacketsReceived,
    /// Packets of any kind that went.
    PacketsSent,
    /// PUBLISH packets that came.
    PublishesReceived,
    /// PUBLISH packets that went.
    PublishesSent,
    /// Bytes of their payloads that came.
    PayloadBytesReceived,
    /// Bytes of their payloads that went.
    PayloadBytesSent,
    /// Publishes that were refused without the client being told: QoS 0, and denied ones of MQTT 3.
    PublishesRefused,
    /// QoS 0 deliveries that were too many for a peer that does not read.
    DeliveriesWithoutRoom,
    /// Deliveries that expired in their connection, or were too large for their client.
    DeliveriesDropped,
}

/// How many counts there are.
pub const COUNTS: usize = Count::DeliveriesDropped as usize + 1;

/// What all connections counted since the start. Anybody may count, without waiting.
#[derive(Debug, Default)]
pub struct Statistics {
    counts: [AtomicU64; COUNTS],
    connected: AtomicU64,
    connected_max: AtomicU64,
    unread: AtomicU64,
    unread_bytes: AtomicU64,
}

/// A client that is connected, for as long as this is kept.
#[derive(Debug)]
pub struct Presence(Arc<Statistics>);

impl Statistics {
    /// Adds to a count.
    pub fn add(&self, count: Count, more: u64) {
        self.counts[count as usize].fetch_add(more, Ordering::Relaxed);
    }

    /// Returns a count.
    pub fn get(&self, count: Count) -> u64 {
        self.counts[count as usize].load(Ordering::Relaxed)
    }

    /// Counts what is kept for one client that does not read: so many bytes in place of those before. 0 is for one that reads.
    pub fn unread(&self, before: usize, now: usize) {
        let change = |count: &AtomicU64, before: u64, now: u64| {
            count.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
        };
        change(&self.unread, u64::from(before > 0), u64::from(now > 0));
        change(&self.unread_bytes, before as u64, now as u64);
    }

    /// Counts a client that has opened its session.
    pub fn connected(self: &Arc<Statistics>) -> Presence {
        self.add(Count::Clients, 1);
        let connected = self.connected.fetch_add(1, Ordering::Relaxed) + 1;
        self.connected_max.fetch_max(connected, Ordering::Relaxed);
        Presence(self.clone())
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.connected.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Everything that is known at one time.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Since the start.
    pub uptime_s: u64,
    /// By [`Count`].
    pub counts: [u64; COUNTS],
    /// Clients that are connected.
    pub connected: u64,
    /// The most there were at a time.
    pub connected_max: u64,
    /// Clients that do not read what they are sent.
    pub unread: u64,
    /// Bytes kept for them.
    pub unread_bytes: u64,
    /// Bytes of the process, and the most there were.
    pub memory: (u64, u64),
    /// Bytes that it may have; 0 is no limit.
    pub memory_limit: u64,
    /// Stored sessions whose clients are not connected.
    pub sessions_away: u64,
    /// Subscriptions of connected clients and of stored sessions.
    pub subscriptions: u64,
    /// Of them, shared ones of connected clients.
    pub shared_subscriptions: u64,
    /// Topics with a retained message.
    pub retained: u64,
    /// Bytes of all retained messages.
    pub retained_bytes: u64,
    /// Records that the logs hold.
    pub records: u64,
    /// Records that were there once and are history no more.
    pub history_records_gone: u64,
    /// Bytes of segments that were removed because history is over.
    pub history_bytes_dropped: u64,
    /// Sessions that came back to where history had gone on.
    pub histories_cut: u64,
    /// QoS 0 messages that a receiver had no room for when they were passed on.
    pub passed_on_dropped: u64,
    /// Sessions that came back to more than they may have missed.
    pub backlogs_cut: u64,
    /// How often the system had no socket for a connection, which then waited.
    pub accept_failures: u64,
    /// Publishes that were stored before, under the name that they came with.
    pub duplicates: u64,
    /// Connections that were turned away, by the limit's name.
    pub turned_away: Vec<(&'static str, u64)>,
}

impl Snapshot {
    /// Copies what connections counted; the rest is up to the caller.
    pub fn of(statistics: &Statistics) -> Snapshot {
        Snapshot {
            counts: std::array::from_fn(|at| statistics.counts[at].load(Ordering::Relaxed)),
            connected: statistics.connected.load(Ordering::Relaxed),
            connected_max: statistics.connected_max.load(Ordering::Relaxed),
            unread: statistics.unread.load(Ordering::Relaxed),
            unread_bytes: statistics.unread_bytes.load(Ordering::Relaxed),
            ..Snapshot::default()
        }
    }

    fn get(&self, count: Count) -> u64 {
        self.counts[count as usize]
    }

    fn dropped(&self) -> u64 {
        self.without_room() + self.get(Count::DeliveriesDropped)
    }

    fn without_room(&self) -> u64 {
        self.passed_on_dropped + self.get(Count::DeliveriesWithoutRoom)
    }
}

/// The rates that `load/` speaks of, each a moving average over a minute, five and fifteen.
#[derive(Debug, Default)]
pub struct Loads {
    at_s: u64,
    rates: [Rate; LOADS.len()],
}

#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    count: u64,
    /// Per minute.
    averages: [f64; 3],
}

const SPANS: [(&str, f64); 3] = [("1min", 60.0), ("5min", 300.0), ("15min", 900.0)];

type Counted = fn(&Snapshot) -> u64;
const LOADS: [(&str, Counted); 9] = [
    ("messages/received", |now| now.get(Count::PacketsReceived)),
    ("messages/sent", |now| now.get(Count::PacketsSent)),
    ("publish/received", |now| now.get(Count::PublishesReceived)),
    ("publish/sent", |now| now.get(Count::PublishesSent)),
    ("publish/dropped", |now| now.dropped()),
    ("bytes/received", |now| now.get(Count::BytesReceived)),
    ("bytes/sent", |now| now.get(Count::BytesSent)),
    ("sockets", |now| now.get(Count::Sockets)),
    ("connections", |now| now.get(Count::Clients)),
];

impl Loads {
    /// Takes what happened since the last call into the averages.
    fn update(&mut self, now: &Snapshot) {
        let seconds = now.uptime_s.saturating_sub(self.at_s).max(1) as f64;
        self.at_s = now.uptime_s;
        for (rate, (_, counted)) in self.rates.iter_mut().zip(LOADS) {
            let count = counted(now);
            let per_minute = count.saturating_sub(rate.count) as f64 * 60.0 / seconds;
            rate.count = count;
            for (average, (_, span)) in rate.averages.iter_mut().zip(SPANS) {
                *average = per_minute + (-seconds / span).exp() * (*average - per_minute);
            }
        }
    }
}

/// Names of single counts below `$SYS/broker/`. What mosquitto has under two names has both here.
const NAMES: [(&str, Counted); 41] = [
    ("clients/connected", |now| now.connected),
    ("clients/active", |now| now.connected),
    ("clients/disconnected", |now| now.sessions_away),
    ("clients/inactive", |now| now.sessions_away),
    ("clients/total", |now| now.connected + now.sessions_away),
    ("clients/maximum", |now| now.connected_max),
    ("messages/received", |now| now.get(Count::PacketsReceived)),
    ("messages/sent", |now| now.get(Count::PacketsSent)),
    ("messages/dropped", Snapshot::dropped),
    ("messages/stored", |now| now.records),
    ("store/messages/count", |now| now.records),
    ("history/messages/gone", |now| now.history_records_gone),
    ("history/bytes/removed", |now| now.history_bytes_dropped),
    ("history/sessions/cut", |now| now.histories_cut),
    ("messages/publish/received", |now| now.get(Count::PublishesReceived)),
    ("messages/publish/sent", |now| now.get(Count::PublishesSent)),
    ("publish/messages/received", |now| now.get(Count::PublishesReceived)),
    ("publish/messages/sent", |now| now.get(Count::PublishesSent)),
    ("publish/messages/dropped", Snapshot::dropped),
    ("publish/messages/refused", |now| now.get(Count::PublishesRefused)),
    ("publish/bytes/received", |now| now.get(Count::PayloadBytesReceived)),
    ("publish/bytes/sent", |now| now.get(Count::PayloadBytesSent)),
    ("bytes/received", |now| now.get(Count::BytesReceived)),
    ("bytes/sent", |now| now.get(Count::BytesSent)),
    ("subscriptions/count", |now| now.subscriptions),
    ("shared_subscriptions/count", |now| now.shared_subscriptions),
    ("retained messages/count", |now| now.retained),
    ("retained/count", |now| now.retained),
    ("retained/bytes", |now| now.retained_bytes),
    ("publish/messages/duplicates", |now| now.duplicates),
    ("limits/backlogs/cut", |now| now.backlogs_cut),
    ("limits/connections/accept_failures", |now| now.accept_failures),
    ("limits/clients/not_reading", |now| now.unread),
    ("limits/bytes/not_read", |now| now.unread_bytes),
    ("limits/memory/bytes", |now| now.memory_limit),
    ("heap/current", |now| now.memory.0),
    ("heap/maximum", |now| now.memory.1),
    ("limits/messages/no_room", Snapshot::without_room),
    ("limits/messages/expired_or_too_large", |now| now.get(Count::DeliveriesDropped)),
    ("sockets/total", |now| now.get(Count::Sockets)),
    ("connections/total", |now| now.get(Count::Clients)),
];

static VERSION: LazyLock<String> =
    LazyLock::new(|| format!("fluxmq version {}", env!("CARGO_PKG_VERSION")));

/// Lists every statistic by its topic.
pub fn tree(now: &Snapshot, loads: &mut Loads) -> Vec<(String, String)> {
    loads.update(now);
    let mut tree = vec![
        ("version".to_owned(), VERSION.clone()),
        ("uptime".to_owned(), format!("{} seconds", now.uptime_s)),
    ];
    tree.extend(NAMES.map(|(name, counted)| (name.to_owned(), counted(now).to_string())));
    let turned_away = now.turned_away.iter();
    tree.extend(
        turned_away.map(|(limit, count)| {
            (format!("limits/connections/refused/{limit}"), count.to_string())
        }),
    );
    for (rate, (name, _)) in loads.rates.iter().zip(LOADS) {
        for (average, (span, _)) in rate.averages.iter().zip(SPANS) {
            tree.push((format!("load/{name}/{span}"), format!("{average:.2}")));
        }
    }
    tree.iter_mut().for_each(|(name, _)| name.insert_str(0, "$SYS/broker/"));
    tree
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn shown(now: &Snapshot, loads: &mut Loads) -> BTreeMap<String, String> {
        let tree = tree(now, loads);
        let count = tree.len();
        let shown: BTreeMap<String, String> = tree.into_iter().collect();
        assert_eq!(shown.len(), count, "no topic has two values");
        shown
    }

    #[test]
    fn what_was_counted_is_shown_under_the_names_that_users_know() {
        let statistics = Arc::new(Statistics::default());
        statistics.add(Count::PublishesReceived, 3);
        statistics.add(Count::BytesSent, 70);
        statistics.add(Count::DeliveriesDropped, 1);
        let presences = [statistics.connected(), statistics.connected()];
        let kept = presences.into_iter().next();
        let now = Snapshot {
            uptime_s: 12,
            sessions_away: 4,
            retained: 5,
            passed_on_dropped: 6,
            accept_failures: 8,
            turned_away: vec![("rate", 7)],
            ..Snapshot::of(&statistics)
        };

        let shown = shown(&now, &mut Loads::default());

        let says = |name: &str| shown[&format!("$SYS/broker/{name}")].as_str();
        assert_eq!(says("uptime"), "12 seconds");
        assert!(says("version").starts_with("fluxmq version "));
        assert_eq!((says("clients/connected"), says("clients/maximum")), ("1", "2"));
        assert_eq!((says("clients/disconnected"), says("clients/total")), ("4", "5"));
        assert_eq!((says("messages/publish/received"), says("bytes/sent")), ("3", "70"));
        assert_eq!((says("retained messages/count"), says("retained/count")), ("5", "5"));
        assert_eq!((says("messages/dropped"), says("limits/messages/no_room")), ("7", "6"));
        assert_eq!(says("limits/connections/refused/rate"), "7");
        assert_eq!(says("limits/connections/accept_failures"), "8");
        drop(kept);
        assert_eq!(Snapshot::of(&statistics).connected, 0);
    }

    #[test]
    fn a_load_is_per_minute_and_comes_near_a_steady_rate_the_sooner_the_shorter_its_span() {
        let statistics = Statistics::default();
        let mut loads = Loads::default();
        let mut last = BTreeMap::new();
        for step in 1..=6 {
            statistics.add(Count::PacketsSent, 100);
            let now = Snapshot { uptime_s: step * 10, ..Snapshot::of(&statistics) };
            last = shown(&now, &mut loads);
        }

        // A minute of 600 a minute: 600 (1 - 1/e), and with e^-0.2 and e^-1/15 for the longer spans.
        let load = |span: &str| last[&format!("$SYS/broker/load/messages/sent/{span}")].as_str();
        assert_eq!((load("1min"), load("5min"), load("15min")), ("379.27", "108.76", "38.70"));
    }
}
