//! A broker that is killed and started again while clients keep at it.
//!
//! The broker is driven by the test's own thread, clients by a runtime; they share an address, which changes with every start.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fluxmq::client::ClientError;
use fluxmq::protocol::mqtt::reason::ReasonCode;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::process::{BrokerProcess, PATIENCE, Start};
use crate::rng::Rng;

/// Confirmed publishes between two kills, at most.
const ROUND_MAX: u64 = 1_500;
/// Storage so small that every run seals segments and writes snapshots many times.
const SMALL: [(&str, &str); 5] = [
    ("FLUXMQ_LIMITS__CONNECT_PACKET_BYTES_MAX", "32 KiB"),
    ("FLUXMQ_LIMITS__PACKET_BYTES_MAX", "32 KiB"),
    ("FLUXMQ_STORAGE__SEGMENT_BYTES_MIN", "64 KiB"),
    ("FLUXMQ_STORAGE__SEGMENT_BYTES_MAX", "128 KiB"),
    ("FLUXMQ_STORAGE__SNAPSHOT_EVERY_BYTES", "256 KiB"),
];

/// A listener for AMQP on any free port. How full the disk of this machine is, is not what is tested.
const ALWAYS: [(&str, &str); 3] = [
    ("FLUXMQ_LISTENERS__AMQP__0__ADDRESS", "127.0.0.1:0"),
    ("FLUXMQ_STORAGE__DISK_LOW_PERCENT", "0"),
    ("FLUXMQ_STORAGE__DISK_LOW_BYTES", "0"),
];

/// Returns how often a load test kills the broker.
pub fn kills() -> u64 {
    match std::env::var("FLUXMQ_KILLS") {
        Ok(text) => text.parse().expect("FLUXMQ_KILLS is a number"),
        Err(_) => 3,
    }
}

/// Returns true when the broker going away explains the error. No client of these tests is refused, and none is slow.
pub fn is_crash(error: &ClientError) -> bool {
    match error {
        ClientError::Connect { .. } | ClientError::Closed | ClientError::Io(_) => true,
        ClientError::Disconnected { reason, .. } => *reason == ReasonCode::SERVER_SHUTTING_DOWN,
        ClientError::ConnectTimeout { .. }
        | ClientError::Refused { .. }
        | ClientError::Tls(_)
        | ClientError::WebSocket(_)
        | ClientError::Address(_)
        | ClientError::Decode(_)
        | ClientError::Protocol(_)
        | ClientError::Authentication(_)
        | ClientError::ReceiveMaximum { .. }
        | ClientError::NoPingResponse { .. } => false,
    }
}

/// The broker and everybody around it.
pub struct World {
    broker: Option<BrokerProcess>,
    /// Removed after the broker is gone.
    data: TempDir,
    addresses: watch::Sender<Option<Addresses>>,
    /// How often it was started.
    starts: u64,
    phase: watch::Sender<Phase>,
    runtime: Runtime,
    /// Confirmed publishes of all publishers.
    pub progress: Arc<AtomicU64>,
    rng: Rng,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Load,
    /// Publishers finish what they began.
    Stopping,
    /// Everybody leaves.
    Ended,
}

/// Where a broker listens, while it lives.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// For MQTT, `host:port`.
    pub mqtt: String,
    /// For AMQP.
    pub amqp: String,
    /// Which of the broker's lives it is; later ones are greater.
    pub life: u64,
}

/// What a client knows of the world.
#[derive(Clone)]
pub struct Link {
    addresses: watch::Receiver<Option<Addresses>>,
    phase: watch::Receiver<Phase>,
}

impl Link {
    /// Waits until there is a broker and returns where. Also returns when the run has ended: connecting will fail.
    pub async fn address(&mut self) -> String {
        self.addresses().await.mqtt
    }

    /// The same for every protocol.
    pub async fn addresses(&mut self) -> Addresses {
        let addresses = self.addresses.wait_for(Option::is_some).await.unwrap();
        addresses.clone().expect("it was waited for")
    }

    /// Lets a little time pass before the next attempt.
    pub async fn breathe(&self) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }

    /// Publishers begin nothing new.
    pub fn is_stopping(&self) -> bool {
        *self.phase.borrow() >= Phase::Stopping
    }

    /// Subscribers leave.
    pub fn has_ended(&self) -> bool {
        *self.phase.borrow() == Phase::Ended
    }

    /// Waits for the end.
    pub async fn ended(&mut self) {
        self.phase.wait_for(|phase| *phase == Phase::Ended).await.unwrap();
    }
}

impl World {
    /// Starts a broker on an empty directory.
    pub fn new(rng: Rng) -> World {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let mut world = World {
            data: TempDir::new().unwrap(),
            broker: None,
            addresses: watch::channel(None).0,
            starts: 0,
            phase: watch::channel(Phase::Load).0,
            runtime,
            progress: Arc::new(AtomicU64::new(0)),
            rng,
        };
        world.start();
        world
    }

    /// Where the broker keeps its data.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// Lets a client run.
    pub fn spawn<C, F>(&self, client: impl FnOnce(Link) -> F) -> JoinHandle<C>
    where
        C: Send + 'static,
        F: Future<Output = C> + Send + 'static,
    {
        let link = Link { addresses: self.addresses.subscribe(), phase: self.phase.subscribe() };
        self.runtime.spawn(client(link))
    }

    /// Kills the broker `count` times at random moments under load, now and then again while it recovers.
    pub fn kill_under_load<C>(&mut self, count: u64, clients: &[JoinHandle<C>]) {
        let mut killed = 0;
        while killed < count {
            killed += self.kill_once(count - killed, clients);
        }
    }

    /// Kills the broker at a random moment under load, now and then again while it recovers, and lets it serve again; returns how often
    /// it was killed, `most` times at most.
    pub fn kill_once<C>(&mut self, most: u64, clients: &[JoinHandle<C>]) -> u64 {
        let count = 1 + self.rng.below(ROUND_MAX);
        self.wait_for_progress(count, clients);
        std::thread::sleep(self.rng.time(Duration::from_millis(5)));
        self.kill();
        let mut killed = 1;
        while killed < most && self.rng.chance(25) {
            let (start, life) = (self.storage(), self.rng.time(Duration::from_millis(60)));
            BrokerProcess::start_and_kill(self.data.path(), &start, life);
            killed += 1;
        }
        self.start();
        killed
    }

    /// Waits until `count` more publishes are confirmed than now.
    pub fn wait_for_progress<C>(&self, count: u64, clients: &[JoinHandle<C>]) {
        let wanted = self.progress.load(Ordering::Relaxed) + count;
        self.wait_until(|world| {
            let ended = clients.iter().any(JoinHandle::is_finished);
            assert!(!ended, "a client gave up; see above");
            match world.progress.load(Ordering::Relaxed) {
                confirmed if confirmed >= wanted => Ok(()),
                confirmed => Err(format!("{confirmed} instead of {wanted} are confirmed")),
            }
        });
    }

    /// Lets publishers finish, and returns what each of them sent.
    pub fn finish<C>(&self, publishers: Vec<JoinHandle<C>>) -> Vec<C> {
        self.phase.send_replace(Phase::Stopping);
        publishers.into_iter().map(|publisher| self.join(publisher)).collect()
    }

    /// Ends the run for everybody else.
    pub fn end<C>(&self, clients: Vec<JoinHandle<C>>) {
        self.phase.send_replace(Phase::Ended);
        clients.into_iter().for_each(|client| drop(self.join(client)));
    }

    /// Waits for a client to return.
    pub fn join<C>(&self, client: JoinHandle<C>) -> C {
        let waiting = async { tokio::time::timeout(PATIENCE, client).await };
        self.runtime.block_on(waiting).expect("clients end in time").unwrap()
    }

    /// Waits until nothing is lacking; fails with what is.
    pub fn wait_until(&self, mut lacking: impl FnMut(&World) -> Result<(), String>) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(lacking) = lacking(self) {
            assert!(Instant::now() < deadline, "after {PATIENCE:?}: {lacking}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills the broker.
    pub fn kill(&mut self) {
        self.addresses.send_replace(None);
        self.broker.take().unwrap().kill();
    }

    /// Starts the broker, with storage of one size or another: both must read what the other left.
    pub fn start(&mut self) {
        let start = self.storage();
        let mut broker = BrokerProcess::start_with(self.data.path(), &start);
        self.starts += 1;
        let [mqtt, amqp] = ["mqtt", "amqp"].map(|protocol| broker.address_of(protocol));
        self.addresses.send_replace(Some(Addresses { mqtt, amqp, life: self.starts }));
        self.broker = Some(broker);
    }

    /// Ends the broker in order.
    pub fn terminate(&mut self) {
        self.addresses.send_replace(None);
        let ended = self.broker.take().unwrap().terminate();
        assert_eq!(ended.code, Some(0), "{}", ended.log);
    }

    fn storage(&mut self) -> Start {
        let small = if self.rng.chance(60) { &SMALL[..] } else { &[] };
        let variables =
            small.iter().chain(&ALWAYS).map(|(name, value)| (*name, (*value).to_owned()));
        Start { variables: variables.collect(), ..Start::default() }
    }
}

impl Drop for World {
    /// What a failed test leaves behind is worth looking at.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.data.disable_cleanup(true);
            eprintln!("the data directory is kept: {}", self.data.path().display());
        }
    }
}
