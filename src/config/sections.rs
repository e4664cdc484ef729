//! The sections of the configuration: what each field means, its default, and the least it may be.
//!
//! `docs/operating/configuration.md` says the same for people; a test compares the two.

use std::path::PathBuf;

use super::setting::{Choice, LogFilter, Named, Number, OptionalFile, Size, Text};
use super::walk::{Section, Walk};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
/// A message is in one frame of the log, which has 64 MiB, and up to a mebibyte of others may come before it.
const LARGEST: u64 = 60 * MIB;
const FOR_EVER: u64 = u32::MAX as u64;

/// Who may connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authentication {
    /// Which peers may connect without saying who they are. Default `auto`.
    pub anonymous: Anonymous,
    /// The file of users and their credentials; read again when it changes and on SIGHUP. Default: none.
    pub users_file: Option<PathBuf>,
    /// Which name of a verified client certificate is the user's. Default `none`.
    pub tls_identity: TlsIdentity,
}

/// What clients may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authorization {
    /// The access list; read again when it changes and on SIGHUP. Default: none, everything is allowed.
    pub acl_file: Option<PathBuf>,
    /// What an MQTT 3 client hears of a publish that it may not make; 5.0 clients hear 0x87. Default `acknowledge`.
    pub denied_publish: DeniedPublish,
    /// What an MQTT 5 client hears of a subscription that it may not have. Default `reason`.
    pub denied_subscribe: DeniedSubscribe,
}

/// Which name of a verified client certificate is the user's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsIdentity {
    /// None: clients say who they are as without a certificate.
    #[default]
    None,
    /// The subject's common name.
    Cn,
    /// The first of the subject's alternative names.
    San,
}

/// What an MQTT 3 client hears of a publish that it may not make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeniedPublish {
    /// That it is done; the message is dropped.
    #[default]
    Acknowledge,
    /// Nothing: its connection closes.
    Close,
}

/// What an MQTT 5 client hears of a subscription that it may not have; MQTT 3 has one code for every refusal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeniedSubscribe {
    /// 0x87, not authorized.
    #[default]
    Reason,
    /// 0x80, unspecified: the reason stays hidden.
    Unspecified,
}

/// Which peers may connect without saying who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Anonymous {
    /// Those on the same machine as long as no users file is configured, then nobody.
    #[default]
    Auto,
    /// Those on the same machine, whatever the listener: others are refused.
    Loopback,
    /// Everybody who reaches a listener, written `unsafe_always`.
    UnsafeAlways,
    /// Nobody.
    Never,
}

/// A name space of AMQP: a virtual host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameSpace {
    /// What clients open. Needed.
    pub name: String,
}

/// How the log is divided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partitions {
    /// Data partitions, beside the meta partition; 0 takes as many as there are processors, 2 to 16. Fixed at first start. Default 0.
    pub data: u16,
}

/// The threads that own partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shards {
    /// How many; 0 takes half the processors, at least one and at most one per partition. Default 0.
    pub threads: u16,
}

/// When a publish counts as stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When a majority has synced it to disk.
    #[default]
    QuorumSync,
    /// When a majority has written it to its page cache: unsafe, a power cut loses the last ones.
    QuorumMem,
}

/// Segments, memory and disk space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// When a publish is confirmed and delivered. Default `quorum_sync`.
    pub durability: Durability,
    /// Smallest segment file that is worth its own index, in bytes. Default 4 MiB, minimum 64 KiB.
    pub segment_bytes_min: u64,
    /// Size at which a segment file is sealed and the next begun, in bytes. Default 128 MiB, minimum 64 KiB.
    pub segment_bytes_max: u64,
    /// Records kept in memory for readers that are nearly live, in bytes for the whole node. Default 128 MiB, minimum 0.
    pub cache_bytes: u64,
    /// Publishes are refused below this much free space, in percent of the file system. Default 5, minimum 0.
    ///
    /// The larger of this and `disk_low_bytes` counts. Reading and settling go on.
    pub disk_low_percent: u16,
    /// Publishes are refused below this much free space, in bytes. Default 1 GiB, minimum 0.
    pub disk_low_bytes: u64,
    /// A partition's views are written out after this much log, in bytes: the most a restart replays. Default 64 MiB, minimum
    /// 64 KiB.
    pub snapshot_every_bytes: u64,
    /// A partition's views are written out after this many seconds in which something changed. Default 300, minimum 1.
    pub snapshot_every_s: u32,
}

/// The bounds that back-pressure and refusals come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest packet an MQTT client may send, in bytes. Default 1 MiB, minimum 1 KiB.
    pub packet_bytes_max: u32,
    /// Largest message an AMQP client may send, in bytes. Default 16 MiB, minimum 1 KiB.
    pub message_bytes_max: u32,
    /// Memory that the process may have; near it publishers are slowed down, connections and publishes refused. Default 0, which takes what
    /// the machine or the container has; minimum 0.
    pub memory_bytes_max: u64,
    /// Largest CONNECT packet, in bytes: what a stranger can make the broker hold. Default 64 KiB, minimum 256.
    pub connect_packet_bytes_max: u32,
    /// Seconds a peer has to complete CONNECT. Default 10, minimum 1.
    pub connect_timeout_s: u32,
    /// Seconds that each of PROXY header, TLS and WebSocket handshake may take. Default 5, minimum 1.
    pub handshake_timeout_s: u32,
    /// Connections at a time; lowered to eight tenths of the open files that the system allows, and to what leaves the logs theirs. Default
    /// 100000, minimum 1.
    pub connections_max: u32,
    /// Connections of one address at a time, this machine's own excepted. Default 256, minimum 1.
    pub connections_per_address_max: u32,
    /// New connections in a second, this machine's own excepted. Default 1000, minimum 1.
    pub connect_rate_max: u32,
    /// New connections of one address in a second, in the long run. Default 50, minimum 1.
    pub connect_rate_per_address_max: u32,
    /// New connections of one address at once. Default 200, minimum 1.
    pub connect_burst_per_address: u32,
    /// Connections of one user at a time. Default 1000, minimum 1.
    pub connections_per_user_max: u32,
    /// Stored sessions of one user, roughly: each partition keeps to its share. Default 1000, minimum 1.
    pub sessions_per_user_max: u32,
    /// Unsettled QoS 1 and 2 deliveries to one client at a time; a client may ask for fewer. Default 64, minimum 1.
    pub inflight_max: u16,
    /// Seconds that an AMQP client may leave a delivery unacknowledged before its channel is closed; 0 is no limit. Default 1800, minimum 0.
    pub consumer_timeout_s: u32,
    /// Unfinished QoS 1 and 2 publishes of one client at a time (MQTT 5 Receive Maximum). Default 256, minimum 1.
    pub receive_maximum: u16,
    /// Subscriptions of one client. Default 10000, minimum 1.
    pub subscriptions_per_client_max: u32,
    /// Topics with a retained message, in the whole broker; one more is refused. Default 1000000, minimum 1.
    pub retained_max: u32,
    /// Bytes of all retained messages. Default 64 MiB, minimum 64 KiB.
    pub retained_bytes_max: u64,
    /// Messages of one partition that a session which comes back may have missed; the oldest above are given up. Default 100000,
    /// minimum 0; 0 is no limit.
    pub backlog_max: u32,
    /// Bytes of them: topics, properties and payloads. Default 64 MiB, minimum 0; 0 is no limit.
    pub backlog_bytes_max: u64,
    /// How old they may be, in seconds. Default 0, which is no limit.
    pub backlog_age_max_s: u32,
    /// Seconds a session outlives its connection, whatever the client asked for. Default 604800 (7 days), minimum 0;
    /// 4294967295 is for ever.
    pub session_expiry_max_s: u32,
    /// Longest keep alive in seconds that a client may have; MQTT 5 clients are told. Default 65535, minimum 10.
    pub keep_alive_max_s: u16,
    /// Topic aliases of one connection, each way. Default 32, minimum 0.
    pub topic_alias_max: u16,
    /// Longest client id, in bytes. Default 256, minimum 23 [MQTT-3.1.3-5].
    pub client_id_bytes_max: u16,
    /// Stored messages handed to one connection by one partition and not settled. Default 1024, minimum 1.
    pub deliveries_buffered_max: u32,
    /// Batches of commands waiting for one shard, each what one connection asked in one turn; connections wait when it is reached.
    /// Default 4096, minimum 1.
    pub commands_buffered_max: u32,
    /// Batches of commands that a shard takes before it flushes once for all of them. Default 1024, minimum 1.
    pub commands_per_batch_max: u32,
}

/// What the broker counts of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Seconds between two values of the topics below `$SYS/broker`. Default 10, minimum 0; 0 shows none.
    pub interval_s: u32,
}

/// What the broker says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is written, and others for parts of the program: `info,fluxmq::partition=debug`. Default
    /// `info`.
    pub level: String,
    /// How a line looks. Default `text`.
    pub format: LogFormat,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl Default for Storage {
    fn default() -> Storage {
        Storage {
            durability: Durability::QuorumSync,
            segment_bytes_min: 4 * MIB,
            segment_bytes_max: 128 * MIB,
            cache_bytes: 128 * MIB,
            disk_low_percent: 5,
            disk_low_bytes: GIB,
            snapshot_every_bytes: 64 * MIB,
            snapshot_every_s: 300,
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            packet_bytes_max: 1 << 20,
            message_bytes_max: 16 << 20,
            memory_bytes_max: 0,
            connect_packet_bytes_max: 64 << 10,
            connect_timeout_s: 10,
            handshake_timeout_s: 5,
            connections_max: 100_000,
            connections_per_address_max: 256,
            connect_rate_max: 1000,
            connect_rate_per_address_max: 50,
            connect_burst_per_address: 200,
            connections_per_user_max: 1000,
            sessions_per_user_max: 1000,
            inflight_max: 64,
            consumer_timeout_s: 1_800,
            receive_maximum: 256,
            subscriptions_per_client_max: 10_000,
            retained_max: 1_000_000,
            retained_bytes_max: 64 << 20,
            backlog_max: 100_000,
            backlog_bytes_max: 64 * MIB,
            backlog_age_max_s: 0,
            session_expiry_max_s: 7 * 24 * 3600,
            keep_alive_max_s: u16::MAX,
            topic_alias_max: 32,
            client_id_bytes_max: 256,
            deliveries_buffered_max: 1024,
            commands_buffered_max: 4096,
            commands_per_batch_max: 1024,
        }
    }
}

impl Default for Statistics {
    fn default() -> Statistics {
        Statistics { interval_s: 10 }
    }
}

impl Default for Log {
    fn default() -> Log {
        Log { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl Section for Authentication {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let Authentication { anonymous, users_file, tls_identity } = self;
        walk.leaf("anonymous", &mut Choice(anonymous));
        walk.leaf("users_file", &mut OptionalFile(users_file));
        walk.leaf("tls_identity", &mut Choice(tls_identity));
    }
}

impl Section for Authorization {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let Authorization { acl_file, denied_publish, denied_subscribe } = self;
        walk.leaf("acl_file", &mut OptionalFile(acl_file));
        walk.leaf("denied_publish", &mut Choice(denied_publish));
        walk.leaf("denied_subscribe", &mut Choice(denied_subscribe));
    }
}

impl Section for NameSpace {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let NameSpace { name } = self;
        walk.leaf("name", &mut Text(name, "a virtual host's name"));
    }
}

impl Section for Partitions {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let Partitions { data } = self;
        walk.leaf("data", &mut Number(data, 0..=1024));
    }
}

impl Section for Shards {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let Shards { threads } = self;
        walk.leaf("threads", &mut Number(threads, 0..=1024));
    }
}

impl Section for Storage {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let Storage {
            durability,
            segment_bytes_min,
            segment_bytes_max,
            cache_bytes,
            disk_low_percent,
            disk_low_bytes,
            snapshot_every_bytes,
            snapshot_every_s,
        } = self;
        walk.leaf("durability", &mut Choice(durability));
        walk.leaf("segment_bytes_min", &mut Size(segment_bytes_min, 64 * KIB..=4 * GIB));
        walk.leaf("segment_bytes_max", &mut Size(segment_bytes_max, 64 * KIB..=4 * GIB));
        walk.leaf("cache_bytes", &mut Size(cache_bytes, 0..=TIB));
        walk.leaf("disk_low_percent", &mut Number(disk_low_percent, 0..=90));
        walk.leaf("disk_low_bytes", &mut Size(disk_low_bytes, 0..=1024 * TIB));
        walk.leaf("snapshot_every_bytes", &mut Size(snapshot_every_bytes, 64 * KIB..=TIB));
        walk.leaf("snapshot_every_s", &mut Number(snapshot_every_s, 1..=86_400));
    }
}

impl Section for Limits {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let Limits {
            packet_bytes_max,
            message_bytes_max,
            memory_bytes_max,
            connect_packet_bytes_max,
            connect_timeout_s,
            handshake_timeout_s,
            connections_max,
            connections_per_address_max,
            connect_rate_max,
            connect_rate_per_address_max,
            connect_burst_per_address,
            connections_per_user_max,
            sessions_per_user_max,
            inflight_max,
            consumer_timeout_s,
            receive_maximum,
            subscriptions_per_client_max,
            retained_max,
            retained_bytes_max,
            backlog_max,
            backlog_bytes_max,
            backlog_age_max_s,
            session_expiry_max_s,
            keep_alive_max_s,
            topic_alias_max,
            client_id_bytes_max,
            deliveries_buffered_max,
            commands_buffered_max,
            commands_per_batch_max,
        } = self;
        walk.leaf("packet_bytes_max", &mut Size(packet_bytes_max, KIB..=LARGEST));
        walk.leaf("message_bytes_max", &mut Size(message_bytes_max, KIB..=LARGEST));
        walk.leaf("memory_bytes_max", &mut Size(memory_bytes_max, 0..=MIB * MIB));
        walk.leaf("connect_packet_bytes_max", &mut Size(connect_packet_bytes_max, 256..=LARGEST));
        walk.leaf("connect_timeout_s", &mut Number(connect_timeout_s, 1..=300));
        walk.leaf("handshake_timeout_s", &mut Number(handshake_timeout_s, 1..=300));
        walk.leaf("connections_max", &mut Number(connections_max, 1..=10_000_000));
        let per_address = connections_per_address_max;
        walk.leaf("connections_per_address_max", &mut Number(per_address, 1..=10_000_000));
        walk.leaf("connect_rate_max", &mut Number(connect_rate_max, 1..=1_000_000));
        let per_address = connect_rate_per_address_max;
        walk.leaf("connect_rate_per_address_max", &mut Number(per_address, 1..=1_000_000));
        let burst = connect_burst_per_address;
        walk.leaf("connect_burst_per_address", &mut Number(burst, 1..=1_000_000));
        let per_user = connections_per_user_max;
        walk.leaf("connections_per_user_max", &mut Number(per_user, 1..=10_000_000));
        walk.leaf("sessions_per_user_max", &mut Number(sessions_per_user_max, 1..=10_000_000));
        walk.leaf("inflight_max", &mut Number(inflight_max, 1..=65_535));
        walk.leaf("consumer_timeout_s", &mut Number(consumer_timeout_s, 0..=2_592_000));
        walk.leaf("receive_maximum", &mut Number(receive_maximum, 1..=65_535));
        let per_client = subscriptions_per_client_max;
        walk.leaf("subscriptions_per_client_max", &mut Number(per_client, 1..=1_000_000));
        walk.leaf("retained_max", &mut Number(retained_max, 1..=1_000_000_000));
        walk.leaf("retained_bytes_max", &mut Size(retained_bytes_max, 64 * KIB..=MIB * MIB));
        walk.leaf("backlog_max", &mut Number(backlog_max, 0..=FOR_EVER));
        walk.leaf("backlog_bytes_max", &mut Size(backlog_bytes_max, 0..=TIB));
        walk.leaf("backlog_age_max_s", &mut Number(backlog_age_max_s, 0..=FOR_EVER));
        walk.leaf("session_expiry_max_s", &mut Number(session_expiry_max_s, 0..=FOR_EVER));
        walk.leaf("keep_alive_max_s", &mut Number(keep_alive_max_s, 10..=65_535));
        walk.leaf("topic_alias_max", &mut Number(topic_alias_max, 0..=65_535));
        walk.leaf("client_id_bytes_max", &mut Number(client_id_bytes_max, 23..=65_535));
        walk.leaf("deliveries_buffered_max", &mut Number(deliveries_buffered_max, 1..=1_000_000));
        walk.leaf("commands_buffered_max", &mut Number(commands_buffered_max, 1..=1_000_000));
        walk.leaf("commands_per_batch_max", &mut Number(commands_per_batch_max, 1..=1_000_000));
    }
}

impl Section for Statistics {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let Statistics { interval_s } = self;
        walk.leaf("interval_s", &mut Number(interval_s, 0..=86_400));
    }
}

impl Section for Log {
    fn fields(&mut self, walk: &mut dyn Walk) {
        let Log { level, format } = self;
        walk.leaf("level", &mut LogFilter(level));
        walk.leaf("format", &mut Choice(format));
    }
}

impl Named for Durability {
    const NAMES: &'static [(&'static str, Durability)] =
        &[("quorum_sync", Durability::QuorumSync), ("quorum_mem", Durability::QuorumMem)];
}

impl Named for Anonymous {
    const NAMES: &'static [(&'static str, Anonymous)] = &[
        ("auto", Anonymous::Auto),
        ("loopback", Anonymous::Loopback),
        ("never", Anonymous::Never),
        ("unsafe_always", Anonymous::UnsafeAlways),
    ];

    fn hint(text: &str) -> Option<&'static str> {
        let always = matches!(text, "always" | "true" | "yes" | "on");
        always.then_some("unsafe_always to let everybody in who reaches a listener")
    }
}

impl Named for TlsIdentity {
    const NAMES: &'static [(&'static str, TlsIdentity)] =
        &[("none", TlsIdentity::None), ("cn", TlsIdentity::Cn), ("san", TlsIdentity::San)];
}

impl Named for DeniedPublish {
    const NAMES: &'static [(&'static str, DeniedPublish)] =
        &[("acknowledge", DeniedPublish::Acknowledge), ("close", DeniedPublish::Close)];
}

impl Named for DeniedSubscribe {
    const NAMES: &'static [(&'static str, DeniedSubscribe)] =
        &[("reason", DeniedSubscribe::Reason), ("unspecified", DeniedSubscribe::Unspecified)];
}

impl Named for LogFormat {
    const NAMES: &'static [(&'static str, LogFormat)] =
        &[("text", LogFormat::Text), ("json", LogFormat::Json)];
}
