//! The thread that owns partitions: drain the inbox, handle, persist, apply, reply. Then again.
//!
//! Everything that came in together is flushed together and answered together. A client may wait for the shard; the shard never waits for
//! a client: what it sends has room by credit, and what has none is dropped and counted. Flushing happens on one syncer thread for
//! each partition, so that partitions flush side by side while the shard goes on.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fluxmq_log::disk::Disk;
use fluxmq_log::{BuiltIndex, Flush, Flushed, IndexJob, PreparedSpare, SpareJob};
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use crate::model::queue::Binding;
use crate::model::{Delivery, Millis, PartitionId};
pub use crate::partition::Gauges;
use crate::partition::request::{ConnectionId, Event, Outbox, Request, Routing};
use crate::partition::{Durability, Partition};

/// Events for a connection that room is made for before they are there.
const EVENTS_ROOM_MAX: usize = 256;
/// Time between ticks of the partitions.
const TICK: Duration = Duration::from_millis(100);
/// Limits of one shard. A batch is what one connection asks in one turn.
#[derive(Clone, Copy, Debug)]
pub struct ShardLimits {
    /// Batches that wait for the shard, at most; connections wait for a place.
    pub batches_waiting_max: usize,
    /// Batches taken in one turn, at most: what has come meanwhile belongs to the next.
    pub batches_per_turn_max: usize,
    /// When a record counts as stored, as its partitions are told.
    pub durability: Durability,
}

/// What a connection sends in one turn, each with the partition it is for.
pub type Requests = Vec<(PartitionId, Request)>;
/// What a connection is sent in one turn, each with the partition it is from.
pub type Events = Vec<(PartitionId, Event)>;

/// Where a connection receives. Sending never waits.
pub trait Receiver: Send + Sync + 'static {
    /// Takes a turn's events.
    fn send(&self, events: Events);
    /// Returns true when there is room for a message that nothing stores, beside `more` bytes of them on their way.
    fn has_room(&self, more: usize) -> bool;
    /// Returns true when it will soon have no room for such messages, and only for want of processor time: it would take them if
    /// the sender paused.
    fn wants_time(&self) -> bool;
    /// Returns true for the connection of a client: it answers what others ask of it.
    fn answers(&self) -> bool {
        true
    }
}

/// Where partitions say what their queues are bound to.
pub trait Binder: Send + Sync + 'static {
    /// A partition has queues with a binding, or none any more. In force when it returns.
    fn bound(&self, partition: PartitionId, binding: &Binding, is_bound: bool);
    /// A partition says something of exchanges. In force when it returns.
    fn routed(&self, partition: PartitionId, routing: &Routing);
}

/// What a delivery that nothing stores counts for while it waits: its bytes and what carries them.
pub fn passed_on_bytes(delivery: &Delivery) -> usize {
    delivery.message.len_bytes() + 128
}

enum Input {
    Connected(ConnectionId, Arc<dyn Receiver>),
    Disconnected(ConnectionId),
    Requests(ConnectionId, Requests),
    /// The partition's syncer has put a result into its channel.
    Flushed(PartitionId),
    SparePrepared(PartitionId),
    IndexBuilt(PartitionId),
    DiskFull(bool),
    MemoryFull(bool),
    Stop,
}

/// How others reach a shard.
#[derive(Clone)]
pub struct ShardHandle {
    inbox: Sender<Input>,
    places: Arc<Semaphore>,
    gauges: watch::Receiver<Gauges>,
}

impl ShardHandle {
    /// Announces a connection: events for it go to the receiver.
    pub fn connect(&self, connection: ConnectionId, receiver: Arc<dyn Receiver>) {
        self.send(Input::Connected(connection, receiver));
    }

    /// Forgets a connection: events for it go nowhere.
    pub fn disconnect(&self, connection: ConnectionId) {
        self.send(Input::Disconnected(connection));
    }

    /// Sends requests, waiting for a place while the shard is behind.
    pub async fn submit(&self, connection: ConnectionId, requests: Requests) {
        self.place().await.submit(connection, requests);
    }

    /// Waits for a place while the shard is behind. Given back unless something is sent to it.
    pub async fn place(&self) -> Place<'_> {
        let permit = self.places.acquire().await.expect("the semaphore is never closed");
        Place { shard: self, permit }
    }

    /// How much its partitions had together at its last tick.
    pub fn gauges(&self) -> Gauges {
        *self.gauges.borrow()
    }

    /// Refuses or accepts publishes, by the disk watermark.
    pub fn set_disk_full(&self, full: bool) {
        self.send(Input::DiskFull(full));
    }

    /// Refuses or accepts publishes, by the memory of the process.
    pub fn set_memory_full(&self, full: bool) {
        self.send(Input::MemoryFull(full));
    }

    /// Flushes everything, writes snapshots and ends.
    pub fn stop(&self) {
        self.send(Input::Stop);
    }

    fn send(&self, input: Input) {
        // A shard ends only when the server stops: then nobody is left to miss what is not delivered.
        let _ = self.inbox.send(input);
    }
}

/// Room for one connection's requests.
pub struct Place<'a> {
    shard: &'a ShardHandle,
    permit: SemaphorePermit<'a>,
}

impl Place<'_> {
    /// Sends requests, without waiting.
    pub fn submit(self, connection: ConnectionId, requests: Requests) {
        // The shard gives it back when it takes them.
        self.permit.forget();
        self.shard.send(Input::Requests(connection, requests));
    }
}

/// Starts a shard that owns these partitions. The thread ends after [`ShardHandle::stop`].
pub fn spawn<D: Disk>(
    name: String,
    partitions: Vec<Partition<D>>,
    limits: ShardLimits,
    binder: Arc<dyn Binder>,
) -> std::io::Result<(ShardHandle, JoinHandle<()>)> {
    let (inbox, input) = channel();
    let places = Arc::new(Semaphore::new(limits.batches_waiting_max));
    let (gauges, shown) = watch::channel(Gauges::default());
    let handle = ShardHandle { inbox: inbox.clone(), places: places.clone(), gauges: shown };
    let mut owned = BTreeMap::new();
    for partition in partitions {
        let id = partition.id();
        partition.bindings().for_each(|binding| binder.bound(id, binding, true));
        partition.routing().iter().for_each(|routing| binder.routed(id, routing));
        let flush = move |flush: Flush<D>| (flush.run(), Input::Flushed(id));
        let syncer = Worker::spawn(format!("{name}-sync-{}", id.0), inbox.clone(), flush)?;
        owned.insert(id, Owned { partition, syncer, failed: false });
    }
    let prepare = |(id, job): (PartitionId, SpareJob<D>)| (job.run(), Input::SparePrepared(id));
    let preparer = Worker::spawn(format!("{name}-spare"), inbox.clone(), prepare)?;
    let index = |(id, job): (PartitionId, IndexJob<D>)| (job.run(), Input::IndexBuilt(id));
    let indexer = Worker::spawn(format!("{name}-index"), inbox, index)?;
    let post = Post::new(binder);
    let shard = Shard { partitions: owned, limits, preparer, indexer, post, input, places, gauges };
    shard.show_gauges();
    let thread = std::thread::Builder::new().name(name).spawn(move || shard.run())?;
    Ok((handle, thread))
}

/// A thread that does one kind of blocking work for a shard: jobs in, results out, and a word into the inbox for each result.
struct Worker<Job, Done> {
    jobs: Sender<Job>,
    done: mpsc::Receiver<Done>,
}

impl<Job: Send + 'static, Done: Send + 'static> Worker<Job, Done> {
    fn spawn(
        name: String,
        inbox: Sender<Input>,
        work: impl Fn(Job) -> (Done, Input) + Send + 'static,
    ) -> std::io::Result<Worker<Job, Done>> {
        let (jobs, waiting) = channel();
        let (results, done) = channel();
        std::thread::Builder::new().name(name).spawn(move || {
            while let Ok(job) = waiting.recv() {
                let (result, word) = work(job);
                if results.send(result).is_err() || inbox.send(word).is_err() {
                    break;
                }
            }
        })?;
        Ok(Worker { jobs, done })
    }

    fn start(&self, job: Job) {
        // The thread lives as long as this end of its channel.
        let _ = self.jobs.send(job);
    }

    fn take(&self) -> Done {
        self.done.recv().expect("announced after it was sent")
    }
}

struct Shard<D: Disk> {
    partitions: BTreeMap<PartitionId, Owned<D>>,
    limits: ShardLimits,
    preparer: Worker<(PartitionId, SpareJob<D>), PreparedSpare>,
    indexer: Worker<(PartitionId, IndexJob<D>), BuiltIndex>,
    post: Post,
    input: mpsc::Receiver<Input>,
    places: Arc<Semaphore>,
    gauges: watch::Sender<Gauges>,
}

struct Owned<D: Disk> {
    partition: Partition<D>,
    syncer: Worker<Flush<D>, Flushed<D>>,
    failed: bool,
}

impl<D: Disk> Shard<D> {
    fn run(mut self) {
        let mut next_tick = Instant::now() + TICK;
        let mut busy = false;
        loop {
            let timeout = match busy {
                true => Duration::ZERO,
                false => self.until_sync(next_tick.saturating_duration_since(Instant::now())),
            };
            let mut stop = false;
            match self.input.recv_timeout(timeout) {
                Ok(input) => {
                    stop |= self.take(input);
                    for _ in 1..self.limits.batches_per_turn_max {
                        let Ok(input) = self.input.try_recv() else { break };
                        stop |= self.take(input);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => stop = true,
            }
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + TICK;
                self.each(|partition, post| partition.tick(log_time(), post));
                self.prepare_files();
                self.show_gauges();
            }
            busy = self.serve();
            if stop {
                return self.finish();
            }
        }
    }

    /// Takes one input; true means stop.
    fn take(&mut self, input: Input) -> bool {
        match input {
            Input::Connected(connection, receiver) => self.post.connect(connection, receiver),
            Input::Disconnected(connection) => {
                let now = log_time();
                for (id, owned) in &mut self.partitions {
                    self.post.from = *id;
                    owned.partition.handle(connection, Request::Forget, now, &mut self.post);
                }
                self.post.disconnect(connection);
            }
            Input::Requests(connection, requests) => {
                self.places.add_permits(1);
                let now = log_time();
                for (partition, request) in requests {
                    let owned = self.partitions.get_mut(&partition);
                    let owned = owned.expect("requests are placed on partitions of this shard");
                    self.post.from = partition;
                    owned.partition.handle(connection, request, now, &mut self.post);
                }
            }
            Input::Flushed(partition) => {
                let owned = self.partitions.get_mut(&partition).expect("it flushed for us");
                let flushed = owned.syncer.take();
                self.post.from = partition;
                if let Err(error) = owned.partition.flushed(flushed, &mut self.post) {
                    owned.fail(&error, &mut self.post);
                }
            }
            Input::SparePrepared(partition) => {
                let prepared = self.preparer.take();
                let owned = self.partitions.get_mut(&partition).expect("prepared for us");
                owned.partition.finish_spare(prepared);
            }
            Input::IndexBuilt(partition) => {
                let built = self.indexer.take();
                let owned = self.partitions.get_mut(&partition).expect("built for us");
                owned.partition.finish_index(built);
            }
            Input::DiskFull(full) => {
                self.partitions.values_mut().for_each(|owned| owned.partition.set_disk_full(full));
            }
            Input::MemoryFull(full) => {
                let owned = self.partitions.values_mut();
                owned.for_each(|owned| owned.partition.set_memory_full(full));
            }
            Input::Stop => return true,
        }
        false
    }

    /// Serves readers and groups, hands out flushes, sends what gathered. True when a reader has more to read.
    fn serve(&mut self) -> bool {
        let mut busy = false;
        self.each(|partition, post| {
            busy |= partition.pump(post)?;
            Ok(())
        });
        if self.limits.durability == Durability::QuorumMem {
            let now = log_time();
            self.each(|partition, post| {
                busy |= partition.persist_in_memory(now, post)?;
                Ok(())
            });
        }
        for (id, owned) in &mut self.partitions {
            self.post.from = *id;
            match owned.partition.persist() {
                Ok(Some(flush)) => owned.syncer.start(flush),
                Ok(None) => {}
                Err(error) => owned.fail(&error, &mut self.post),
            }
        }
        self.post.send_all();
        busy
    }

    /// Shortens a wait to the next time that something written must be synced.
    fn until_sync(&self, wait: Duration) -> Duration {
        let due = self.partitions.values().filter_map(|owned| owned.partition.sync_due()).min();
        match due {
            Some(due) => wait.min(Duration::from_millis(due.0.saturating_sub(log_time().0))),
            None => wait,
        }
    }

    fn show_gauges(&self) {
        let all = self.partitions.values().map(|owned| owned.partition.gauges());
        self.gauges.send_replace(all.sum());
    }

    /// Hands out what is done ahead of time, or after the fact.
    fn prepare_files(&mut self) {
        for (id, owned) in &mut self.partitions {
            if let Some(job) = owned.partition.prepare_spare() {
                self.preparer.start((*id, job));
            }
            if let Some(job) = owned.partition.prepare_index() {
                self.indexer.start((*id, job));
            }
        }
    }

    /// Runs a step of every partition that has not failed; an error stops that partition and no other.
    fn each(
        &mut self,
        mut step: impl FnMut(
            &mut Partition<D>,
            &mut Post,
        ) -> Result<(), crate::partition::PartitionError>,
    ) {
        for (id, owned) in &mut self.partitions {
            self.post.from = *id;
            if owned.failed {
                continue;
            }
            if let Err(error) = step(&mut owned.partition, &mut self.post) {
                owned.fail(&error, &mut self.post);
            }
        }
    }

    /// Flushes what is left, writes snapshots and ends.
    fn finish(mut self) {
        while self.partitions.values().any(|owned| !owned.failed && !owned.partition.is_quiet()) {
            match self.input.recv_timeout(Duration::from_secs(10)) {
                Ok(input) => drop(self.take(input)),
                Err(_) => break,
            }
            self.serve();
        }
        self.each(|partition, _| partition.checkpoint());
        self.post.send_all();
    }
}

impl<D: Disk> Owned<D> {
    fn fail(&mut self, error: &crate::partition::PartitionError, post: &mut Post) {
        if !self.failed {
            let partition = self.partition.id().0;
            tracing::error!(
                partition,
                %error,
                "partition stopped; run 'wal-tools verify' on the data directory, then restart"
            );
            self.failed = true;
            self.partition.stop(post);
        }
    }
}

/// The receivers, and what goes to each at the end of the turn.
struct Post {
    from: PartitionId,
    binder: Arc<dyn Binder>,
    receivers: HashMap<ConnectionId, Addressee, BuildHasherDefault<IdHasher>>,
    /// Those that something goes to, in the order of what was first for each.
    addressed: Vec<ConnectionId>,
}

struct Addressee {
    receiver: Arc<dyn Receiver>,
    events: Events,
    /// How many went to it last: room for as many is made at once.
    last_count: usize,
}

/// Spreads numbers that ascend, which nobody chooses.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(self.0 ^ u64::from(*byte)));
    }

    fn write_u64(&mut self, id: u64) {
        // The golden ratio of 64 bits: an odd number, so that the low bits stay apart, and the high ones are mixed.
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Post {
    fn new(binder: Arc<dyn Binder>) -> Post {
        let (receivers, addressed) = (HashMap::default(), Vec::new());
        Post { from: PartitionId::default(), binder, receivers, addressed }
    }

    fn connect(&mut self, connection: ConnectionId, receiver: Arc<dyn Receiver>) {
        let addressee = Addressee { receiver, events: Events::new(), last_count: 0 };
        self.receivers.insert(connection, addressee);
    }

    fn disconnect(&mut self, connection: ConnectionId) {
        self.receivers.remove(&connection);
    }

    fn send_all(&mut self) {
        for connection in self.addressed.drain(..) {
            // A connection that ended meanwhile has nobody left to tell.
            let Some(addressee) = self.receivers.get_mut(&connection) else { continue };
            addressee.last_count = addressee.events.len().min(EVENTS_ROOM_MAX);
            addressee.receiver.send(std::mem::take(&mut addressee.events));
        }
    }
}

impl Outbox for Post {
    fn send(&mut self, to: ConnectionId, event: Event) {
        // One that is gone has nobody left to tell.
        let Some(addressee) = self.receivers.get_mut(&to) else { return };
        if addressee.events.is_empty() {
            addressee.events.reserve(addressee.last_count);
            self.addressed.push(to);
        }
        addressee.events.push((self.from, event));
    }

    fn bound(&mut self, binding: &Binding, is_bound: bool) {
        self.binder.bound(self.from, binding, is_bound);
    }

    fn routed(&mut self, routing: &Routing) {
        self.binder.routed(self.from, routing);
    }
}

/// The wall clock; partitions make it monotone.
fn log_time() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Millis(since.map_or(0, |since| since.as_millis() as u64))
}
