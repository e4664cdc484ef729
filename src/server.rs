//! Wires the layers together. The order in which a broker starts and stops is this file.

mod history;
mod listeners;
mod memory;
mod queues;
mod rules;
mod statistics;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use fluxmq_log::data_dir::{DataDir, NodeIdentity};
use fluxmq_log::disk::Disk;
use fluxmq_log::os_disk::OsDisk;
use fluxmq_log::watermark::{Watermark, WatermarkOptions};
use fluxmq_log::{Log, LogOptions, Recovery};
use tokio::sync::watch;

use self::rules::Rules;
use crate::auth::Authority;
use crate::broker::{Broker, ClientLimits, Live, Placement};
use crate::config::{self, Config};
use crate::model::{Control, Millis, PartitionId, VirtualHost};
use crate::net::admission::TurnedAway;
use crate::net::drive::Shared;
use crate::net::gate::Gate;
use crate::net::shortage::Shortage;
use crate::net::steward::carry_letters;
use crate::net::wills::publish_wills;
use crate::partition::request::{ConnectionId, Event, Outbox, Request};
use crate::partition::{Durability, Member, Options, Partition, SharedFilters};
use crate::protocol::amqp091;
use crate::protocol::mqtt::codec::Limits;
use crate::protocol::mqtt::{DeniedPublish, DeniedSubscribe, Settings};
use crate::shard::{self, ShardHandle, ShardLimits};
use listeners::Listeners;
pub use listeners::ListeningAt;

/// Time between two looks at how full the disk is.
const WATERMARK_EVERY: Duration = Duration::from_secs(1);
/// Time between two looks at whether the files of certificates changed.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(5);
/// Time that connections have to say goodbye when the broker stops.
const GOODBYE: Duration = Duration::from_secs(5);

/// This node's id within its cluster: there is one node.
const NODE_ID: u64 = 1;

/// A broker that has started.
pub struct Server {
    shards: Vec<ShardHandle>,
    threads: Vec<JoinHandle<()>>,
    listeners: Listeners,
    shared: Shared,
    stopping: watch::Sender<bool>,
    rules: Rules,
    authority: watch::Sender<Arc<Authority>>,
    disk: OsDisk,
    watermarks: WatermarkOptions,
    /// Tells connections whether publishes are taken.
    shortage: watch::Sender<Shortage>,
    /// Seconds; 0 is never.
    statistics_every: u32,
    /// What the configuration says of queues.
    declared: Vec<queues::Declaration>,
    /// Held until everything else is gone.
    _data_dir: DataDir<OsDisk>,
}

impl Server {
    /// Recovers the data and binds the listeners; nothing is accepted before [`run`](Server::run).
    pub fn start(config: &Config) -> anyhow::Result<Server> {
        let disk = OsDisk::new(config.data_dir.clone())
            .with_context(|| format!("cannot use data directory {}", config.data_dir.display()))?;
        let data_dir = open_data_dir(&disk)?;
        let mut rules = Rules::new(config);
        let authority = watch::Sender::new(Arc::new(rules.load()?));
        let declared = queues::read(&config.queues.declared)?;
        let kept = history::filters(&config.history)?;
        let started = Instant::now();
        let filters = SharedFilters::default();
        let cluster = data_dir.identity().cluster;
        let partitions = open_partitions(&disk, cluster, config, &filters)?;
        let count = partitions.len();
        tracing::info!(partitions = count, elapsed = ?started.elapsed(), "recovered");
        let placement = Placement::new(u16::try_from(count - 1)?).keeping(kept);
        let (shards, threads, owners) = spawn_shards(partitions, &placement, config)?;
        let broker = Arc::new(Broker::new(placement, Live::new(&filters), shards.clone(), owners));
        let listeners = Listeners::bind(config, count)?;
        let (stopping, stopped) = watch::channel(false);
        let (shortage, short) = watch::channel(Shortage::default());
        let limits = &config.limits;
        Ok(Server {
            shards,
            threads,
            listeners,
            shared: Shared {
                broker,
                limits: ClientLimits {
                    credit: limits.deliveries_buffered_max,
                    subscriptions_max: limits.subscriptions_per_client_max as usize,
                    ..ClientLimits::default()
                },
                passed_on_bytes_max: PASSED_ON_BYTES_MAX,
                stopping: stopped,
                started,
                authority: authority.subscribe(),
                rules_may_change: rules.may_change(),
                gate: Arc::new(Gate::new(limits.connections_per_user_max as usize)),
                statistics: Arc::default(),
                pressure: memory::pressure(limits.memory_bytes_max),
                shortage: short,
            },
            statistics_every: config.statistics.interval_s,
            rules,
            authority,
            stopping,
            disk,
            watermarks: watermarks(config),
            shortage,
            declared,
            _data_dir: data_dir,
        })
    }

    /// Where we listen; a configured port of 0 has become a real one.
    pub fn addresses(&self) -> std::io::Result<Vec<ListeningAt>> {
        self.listeners.addresses()
    }

    /// Connections that were turned away so far, by why.
    pub fn turned_away(&self) -> TurnedAway {
        self.listeners.admission.turned_away()
    }

    /// Serves until `stop` completes, then: no new connections, goodbye to the old ones, flush, snapshot. Each `reload` takes the
    /// certificates anew, also where their files look unchanged.
    pub async fn run(
        mut self,
        stop: impl Future<Output = ()>,
        reload: watch::Receiver<()>,
    ) -> anyhow::Result<()> {
        queues::declare(&self.shared.broker, std::mem::take(&mut self.declared)).await;
        self.listeners.accept(&self.shared);
        tokio::spawn(publish_wills(self.shared.broker.clone(), self.authority.subscribe()));
        tokio::spawn(carry_letters(self.shared.broker.clone()));
        tokio::spawn(memory::watch(memory::Told {
            pressure: self.shared.pressure.clone(),
            shards: self.shards.clone(),
            admission: self.listeners.admission.clone(),
            broker: self.shared.broker.clone(),
            shortage: self.shortage.clone(),
        }));
        if self.rules.may_change() {
            tokio::spawn(self.rules.clone().watch(self.authority.clone(), reload.clone()));
        }
        if self.statistics_every > 0 {
            let admission = self.listeners.admission.clone();
            let every = Duration::from_secs(self.statistics_every.into());
            tokio::spawn(statistics::show(self.shared.clone(), admission, every));
        }
        tracing::info!("ready");
        self.watch(stop, reload).await;
        tracing::info!("stopping");
        self.stopping.send_replace(true);
        if tokio::time::timeout(GOODBYE, self.listeners.admission.all_gone()).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
        self.shards.iter().for_each(ShardHandle::stop);
        let threads = std::mem::take(&mut self.threads);
        let joined =
            tokio::task::spawn_blocking(move || threads.into_iter().all(|t| t.join().is_ok()));
        anyhow::ensure!(joined.await?, "a shard ended with a panic");
        tracing::info!("stopped");
        Ok(())
    }

    /// Looks after the disk and the certificates until `stop` completes.
    async fn watch(&mut self, stop: impl Future<Output = ()>, mut reload: watch::Receiver<()>) {
        let mut stop = std::pin::pin!(stop);
        let (mut is_full, mut next_look) = (false, Instant::now());
        loop {
            is_full = self.watch_disk(is_full);
            if Instant::now() >= next_look {
                next_look = Instant::now() + CERTIFICATES_EVERY;
                self.listeners.reload(false);
            }
            tokio::select! {
                () = &mut stop => return,
                Ok(()) = reload.changed() => self.listeners.reload(true),
                () = tokio::time::sleep(WATERMARK_EVERY) => {}
            }
        }
    }

    /// Tells the shards when the disk runs full or has room again; returns which it is.
    fn watch_disk(&self, was_full: bool) -> bool {
        let is_full = match self.disk.space() {
            Ok(space) => self.watermarks.watermark(space) != Watermark::Normal,
            Err(error) => {
                tracing::warn!(%error, "cannot tell how full the disk is");
                was_full
            }
        };
        if is_full != was_full {
            match is_full {
                true => tracing::error!(
                    "the disk is nearly full: publishes are refused until there is room"
                ),
                false => {
                    tracing::info!("there is room on the disk again: publishes are accepted")
                }
            }
            // Who can wait is told before anything is refused.
            self.shortage.send_modify(|shortage| shortage.disk = is_full);
            self.shards.iter().for_each(|shard| shard.set_disk_full(is_full));
        }
        is_full
    }
}

/// Publishes stop at the configured watermark; there is nothing else to stop below it while nothing frees space by itself.
fn watermarks(config: &Config) -> WatermarkOptions {
    let low_percent = u64::from(config.storage.disk_low_percent);
    let low_bytes = config.storage.disk_low_bytes;
    WatermarkOptions {
        low_percent,
        low_bytes,
        read_only_percent: low_percent.min(WatermarkOptions::default().read_only_percent),
        read_only_bytes: low_bytes.min(WatermarkOptions::default().read_only_bytes),
    }
}

/// Bytes of messages passed on without being stored that may wait for one connection: beyond, they are dropped and counted.
const PASSED_ON_BYTES_MAX: usize = 1 << 20;

/// What MQTT clients may do.
fn mqtt_settings(config: &Config) -> Settings {
    let limits = &config.limits;
    Settings {
        limits: Limits {
            packet_bytes_max: limits.packet_bytes_max as usize,
            connect_bytes_max: limits.connect_packet_bytes_max as usize,
            ..Limits::default()
        },
        connect_timeout_ms: u64::from(limits.connect_timeout_s) * 1000,
        client_id_bytes_max: usize::from(limits.client_id_bytes_max),
        denied_publish: match config.authorization.denied_publish {
            config::DeniedPublish::Acknowledge => DeniedPublish::Acknowledge,
            config::DeniedPublish::Close => DeniedPublish::Close,
        },
        denied_subscribe: match config.authorization.denied_subscribe {
            config::DeniedSubscribe::Reason => DeniedSubscribe::Reason,
            config::DeniedSubscribe::Unspecified => DeniedSubscribe::Unspecified,
        },
        session_expiry_max_s: limits.session_expiry_max_s,
        keep_alive_max_s: limits.keep_alive_max_s,
        receive_max: limits.receive_maximum,
        inflight_max: limits.inflight_max,
        topic_alias_max: limits.topic_alias_max,
        ..Settings::default()
    }
}

fn amqp_settings(config: &Config) -> anyhow::Result<amqp091::Settings> {
    let Config { limits, authentication, virtual_hosts, .. } = config;
    let host = |(at, host): (usize, &config::NameSpace)| {
        VirtualHost::new(host.name.as_bytes()).with_context(|| format!("virtual_hosts.{at}.name"))
    };
    let virtual_hosts: anyhow::Result<_> = virtual_hosts.iter().enumerate().map(host).collect();
    Ok(amqp091::Settings {
        virtual_hosts: virtual_hosts?,
        handshake_timeout_ms: u64::from(limits.connect_timeout_s) * 1000,
        message_bytes_max: limits.message_bytes_max.into(),
        unfinished_bytes_max: 2 * limits.message_bytes_max as usize,
        consumer_timeout_ms: u64::from(limits.consumer_timeout_s) * 1000,
        certificates_name_users: authentication.tls_identity != config::TlsIdentity::None,
        guest_is_anonymous: authentication.users_file.is_none(),
        ..amqp091::Settings::default()
    })
}

/// Returns an id that no other client has: unique in the process, random between processes.
fn assigned_client_id() -> Bytes {
    static PROCESS: OnceLock<String> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let process = PROCESS.get_or_init(|| uuid::Uuid::new_v4().simple().to_string());
    Bytes::from(format!("auto-{process}-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// Takes the data directory for this process; a new one becomes a cluster of its own.
fn open_data_dir(disk: &OsDisk) -> anyhow::Result<DataDir<OsDisk>> {
    let cluster = match disk.open_read(Path::new("node.id")) {
        Ok(_) => [0; 16],
        Err(_) => uuid::Uuid::new_v4().into_bytes(),
    };
    Ok(DataDir::open(disk.clone(), NodeIdentity { cluster, node: NODE_ID })?)
}

fn durability(config: &Config) -> Durability {
    match config.storage.durability {
        config::Durability::QuorumSync => Durability::QuorumSync,
        config::Durability::QuorumMem => Durability::QuorumMem,
    }
}

/// Says what recovery had to do: each line is a crash, or a disk to have an eye on, and none of them lost what was acknowledged.
fn report(id: PartitionId, recovery: &Recovery) {
    let partition = id.0;
    if let Some(cut) = &recovery.cut {
        tracing::warn!(partition, ?cut, "a torn tail was cut: nothing of it was acknowledged");
    }
    for wiped in &recovery.wiped {
        tracing::warn!(
            partition,
            ?wiped,
            "rot behind the end of a closed segment: filled with zeros again"
        );
    }
    if let Some(reason) = recovery.manifest_rebuilt {
        tracing::warn!(partition, ?reason, "manifest rebuilt from the segments");
    }
    for file in &recovery.repaired {
        let file = file.display();
        tracing::warn!(partition, %file, "one copy of two was damaged: repaired from the other");
    }
    for file in &recovery.damaged_snapshots {
        let file = file.display();
        tracing::warn!(partition, %file, "snapshot missing or damaged: starting from another one");
    }
    for file in &recovery.quarantined {
        let file = file.display();
        tracing::warn!(partition, %file, "unknown file moved to quarantine");
    }
}

/// Opens the meta partition, learns or fixes how many others there are, and opens those.
fn open_partitions(
    disk: &OsDisk,
    cluster: [u8; 16],
    config: &Config,
    filters: &SharedFilters,
) -> anyhow::Result<Vec<Partition<OsDisk>>> {
    let configured = config.partitions.data;
    let wanted = if configured == 0 { partitions_of_this_machine() } else { configured };
    let mut meta = open_partition(disk, cluster, config, filters, (PartitionId::META, wanted))?;
    let count = fixed_count(&mut meta, wanted)?;
    if configured != 0 && configured != count {
        tracing::warn!(
            configured,
            fixed = count,
            "partitions.data is fixed at the first start; the configured value is ignored"
        );
    }
    let least = config.history_bytes_least(count);
    if (1..least).contains(&config.history.bytes_max) {
        tracing::warn!(
            partitions = count,
            least,
            "history.bytes_max is less than two segments of each partition, and will not be kept to; write at least this, or lower \
             storage.segment_bytes_max"
        );
    }
    let mut partitions = vec![meta];
    for id in 1..=count {
        let id = PartitionId(id);
        partitions.push(open_partition(disk, cluster, config, filters, (id, count))?);
    }
    Ok(partitions)
}

/// Opens one of the partitions, of which `count` hold data.
fn open_partition(
    disk: &OsDisk,
    cluster: [u8; 16],
    config: &Config,
    filters: &SharedFilters,
    (id, count): (PartitionId, u16),
) -> anyhow::Result<Partition<OsDisk>> {
    let storage = &config.storage;
    let options = LogOptions {
        cluster,
        partition: u32::from(id.0),
        segment_bytes_min: storage.segment_bytes_min,
        segment_bytes_max: storage.segment_bytes_max,
        cache_bytes: storage.cache_bytes / (u64::from(count) + 1),
        ..LogOptions::default()
    };
    let dir = PathBuf::from(format!("p{:04}", id.0));
    let (log, recovery) = Log::open(disk.clone(), dir, options).with_context(|| {
        let data = config.data_dir.display();
        format!(
            "partition {} cannot be opened and nothing was changed; run 'wal-tools verify {data}' to \
             see what is wrong, then put back a copy of the damaged file",
            id.0
        )
    })?;
    report(id, &recovery);
    #[allow(clippy::needless_update, reason = "the feature planted-bugs adds a field")]
    let options = Options {
        visibility_timeout_ms: u64::from(config.queues.visibility_timeout_s) * 1000,
        dedup_window_ms: u64::from(config.queues.dedup_window_s) * 1000,
        pending_max: config.queues.pending_max as usize,
        auto_create_queues: config.queues.auto_create,
        // Topics spread over the partitions, so each has its share of the limits.
        retained_max: config.limits.retained_max.div_ceil(count.into()) as usize,
        retained_bytes_max: config.limits.retained_bytes_max.div_ceil(count.into()),
        backlog_max: config.limits.backlog_max as usize,
        backlog_bytes_max: config.limits.backlog_bytes_max,
        backlog_age_max_ms: u64::from(config.limits.backlog_age_max_s) * 1000,
        history_age_max_ms: u64::from(config.history.age_max_s) * 1000,
        history_bytes_max: config.history.bytes_max / u64::from(count),
        topic_ages: history::topic_ages(&config.history)?,
        sessions_per_user_max: sessions_per_user_max(config, count),
        snapshot_every_bytes: storage.snapshot_every_bytes,
        snapshot_every_ms: u64::from(storage.snapshot_every_s) * 1000,
        durability: durability(config),
        filters: filters.clone(),
        ..Options::default()
    };
    Ok(Partition::open(id, log, options, &Member::alone(), wall_clock())?)
}

/// How many data partitions a new directory gets here unless it is configured. More than have a thread to run on would only divide the
/// messages of one flush among several (ADR 0053).
fn partitions_of_this_machine() -> u16 {
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
    u16::try_from(processors).unwrap_or(u16::MAX).clamp(2, 16)
}

/// A partition's share of a user's sessions. Client ids are spread by a hash: a quarter more, so that chance refuses nobody early.
fn sessions_per_user_max(config: &Config, partitions: u16) -> usize {
    let share = u64::from(config.limits.sessions_per_user_max) * 5 / 4;
    share.div_ceil(u64::from(partitions)) as usize
}

/// Returns the number of data partitions, fixing it when this is the first start.
fn fixed_count<D: Disk>(meta: &mut Partition<D>, configured: u16) -> anyhow::Result<u16> {
    if let Some(count) = meta.views().topology.data_partitions() {
        return Ok(count);
    }
    let control = Control::PartitionsFixed { count: configured };
    let request = Request::Write { token: None, control: Box::new(control) };
    meta.handle(ConnectionId(0), request, wall_clock(), &mut Unheard);
    while let Some(flush) = meta.persist()? {
        meta.flushed(flush.run(), &mut Unheard)?;
    }
    let count = meta.views().topology.data_partitions();
    count.context("the number of partitions was written and is not there")
}

type Shards = (Vec<ShardHandle>, Vec<JoinHandle<()>>, HashMap<PartitionId, usize>);

/// Spreads the partitions over threads: half the processors, unless configured.
fn spawn_shards(
    partitions: Vec<Partition<OsDisk>>,
    placement: &Placement,
    config: &Config,
) -> anyhow::Result<Shards> {
    let configured = usize::from(config.shards.threads);
    let limits = ShardLimits {
        batches_waiting_max: config.limits.commands_buffered_max as usize,
        batches_per_turn_max: config.limits.commands_per_batch_max as usize,
        durability: durability(config),
    };
    let processors = std::thread::available_parallelism().map_or(1, |count| count.get());
    let wanted = if configured == 0 { processors / 2 } else { configured };
    let count = wanted.clamp(1, partitions.len());
    let mut owners = HashMap::new();
    let mut spread: Vec<Vec<Partition<OsDisk>>> = (0..count).map(|_| Vec::new()).collect();
    for (index, partition) in partitions.into_iter().enumerate() {
        owners.insert(partition.id(), index % count);
        spread[index % count].push(partition);
    }
    let (mut shards, mut threads) = (Vec::new(), Vec::new());
    for (index, partitions) in spread.into_iter().enumerate() {
        let binder = placement.bindings().clone();
        let (shard, thread) = shard::spawn(format!("shard-{index}"), partitions, limits, binder)?;
        shards.push(shard);
        threads.push(thread);
    }
    Ok((shards, threads, owners))
}

/// Nobody waits while the server starts.
struct Unheard;

impl Outbox for Unheard {
    fn send(&mut self, _to: ConnectionId, _event: Event) {}
}

fn wall_clock() -> Millis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Millis(since.map_or(0, |since| since.as_millis() as u64))
}
