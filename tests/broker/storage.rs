//! What the broker said is true after any power cut: confirmed publishes are there, delivered ones too, and nothing else is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use fluxmq::broker::Placement;
use fluxmq::model::record::{DedupKey, Tenure};
use fluxmq::model::{
    Command, Credit, Effect, Filter, Message, Millis, PartitionId, Properties, QoS, QueueName,
    Refusal, Selection, Token, Topic,
};
use fluxmq::partition::request::{
    ConnectionId, Event, Join, Outbox, Position, Publish, Request, Target,
};
use fluxmq::partition::{Durability, Member, Options, Partition};
use fluxmq_log::sim_disk::{Crash, Faults, SimDisk, SyncFault};
use fluxmq_log::{Log, LogOptions};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestError, TestRunner};

use crate::world::{World, message, text};

const NOW: Millis = Millis(1_000_000);
const TOPICS: [&str; 4] = ["a", "b/c", "$queue/q/x", "$queue/r"];

#[derive(Clone, Debug)]
enum Step {
    Publish {
        topic: usize,
    },
    Turn {
        flush: bool,
    },
    Snapshot,
    /// Time passes: what is only written becomes due.
    Wait {
        ms: u64,
    },
    PowerCut {
        seed: u64,
    },
    /// The process ends, and its page cache stays.
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..TOPICS.len()).prop_map(|topic| Step::Publish { topic }),
        4 => Just(Step::Turn { flush: true }),
        2 => Just(Step::Turn { flush: false }),
        1 => Just(Step::Snapshot),
        2 => (1..12u64).prop_map(|ms| Step::Wait { ms }),
        2 => any::<u64>().prop_map(|seed| Step::PowerCut { seed }),
        1 => Just(Step::Kill),
    ]
}

/// What was said to clients, by topic: the oracle.
#[derive(Default)]
struct Said {
    next: u64,
    published: BTreeMap<usize, Vec<u64>>,
    confirmed: BTreeSet<u64>,
    delivered: BTreeSet<u64>,
    tokens: BTreeMap<Token, u64>,
}

struct Run {
    world: World,
    publisher: ConnectionId,
    watcher: ConnectionId,
    said: Said,
    data_partitions: u16,
    options: Options,
}

impl Run {
    fn start(world: World, data_partitions: u16, options: Options, said: Said) -> Run {
        let mut world = world;
        let (publisher, _) = world.open("publisher", true, 0);
        let (watcher, _) = world.open("watcher", true, 0);
        world.subscribe(watcher, "#", |_| {}).expect("subscribes");
        world
            .subscribe(watcher, "$queue/q/#", |s| s.group = Some(Bytes::from_static(b"watch")))
            .expect("joins");
        Run { world, publisher, watcher, said, data_partitions, options }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Publish { topic } => {
                let number = self.said.next;
                self.said.next += 1;
                let token = Token(1 << 40 | number);
                self.said.tokens.insert(token, number);
                self.said.published.entry(*topic).or_default().push(number);
                let message = message(TOPICS[*topic], number.to_string(), QoS::AtLeastOnce);
                self.world.say(
                    self.publisher,
                    Command::Publish { token, message: message.into(), packet_id: None },
                );
            }
            Step::Turn { flush } => drop(self.world.turn(*flush)),
            Step::Snapshot => self.world.snapshot(),
            Step::Wait { ms } => self.world.now = Millis(self.world.now.0 + ms),
            Step::PowerCut { .. } | Step::Kill => {}
        }
        self.listen();
    }

    fn listen(&mut self) {
        let confirm = |effect: &Effect| match effect {
            Effect::Confirm { token, result } => Some((*token, result.clone())),
            _ => None,
        };
        while let Some((token, result)) = self.world.take(self.publisher, confirm) {
            assert_eq!(result, Ok(true));
            self.said.confirmed.insert(self.said.tokens[&token]);
        }
        let delivered = self.world.deliveries(self.watcher);
        self.said.delivered.extend(delivered.iter().map(|d| text(d).parse::<u64>().unwrap()));
    }

    /// Cuts the power or kills the process, and reads everything back.
    fn crash(mut self, crash: Crash) -> Result<Run, String> {
        if self.options.durability == Durability::QuorumMem && crash != Crash::Process {
            // What was not synced may be gone, from the end of each partition: all that is promised is what was.
            let synced: BTreeSet<u64> = self.read_synced().into_values().flatten().collect();
            self.said.confirmed.retain(|number| synced.contains(number));
            self.said.delivered.retain(|number| synced.contains(number));
        }
        let Run { world, said, data_partitions, options, .. } = self;
        let disk: SimDisk = match crash {
            Crash::PowerCut { seed } => world.disk.crash(seed),
            other => world.disk.crash_image(other),
        };
        drop(world);
        let world = World::with(disk, data_partitions, options.clone())
            .map_err(|error| format!("{error:#}"))?;
        let mut run = Run::start(world, data_partitions, options, Said::default());
        let stored = run.read_synced();
        let all: BTreeSet<u64> = stored.values().flatten().copied().collect();
        let lost: Vec<_> = said.confirmed.difference(&all).collect();
        let undone: Vec<_> = said.delivered.difference(&all).collect();
        if !lost.is_empty() {
            return Err(format!("confirmed and lost: {lost:?}"));
        }
        if !undone.is_empty() {
            return Err(format!("delivered and then gone: {undone:?}"));
        }
        for (topic, numbers) in &stored {
            let published = said.published.get(topic).map_or(&[][..], Vec::as_slice);
            if !published.starts_with(numbers) {
                return Err(format!("{}: stored {numbers:?} of {published:?}", TOPICS[*topic]));
            }
        }
        // What was published and is gone was never confirmed; the run goes on from what there is.
        run.said = Said { published: stored, confirmed: all.clone(), delivered: all, ..said };
        Ok(run)
    }

    /// Reads what is synced: after a start that is all there is.
    fn read_synced(&mut self) -> BTreeMap<usize, Vec<u64>> {
        let mut stored: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for partition in self.world.partitions.values() {
            let end = partition.log().durable().end;
            let mut at = partition.log().first_offset();
            while at < end {
                let frames = partition.log().read(at, 1 << 20).expect("committed frames read");
                for frame in frames.iter().filter(|frame| frame.header.base_offset < end) {
                    for (topic, payload) in messages(frame) {
                        let topic = TOPICS.iter().position(|t| *t == topic).expect("one of ours");
                        stored.entry(topic).or_default().push(payload);
                    }
                }
                at = frames.last().expect("there are records below the end").header.end_offset();
            }
        }
        stored
    }
}

fn messages(frame: &fluxmq_log::format::Frame) -> Vec<(String, u64)> {
    use fluxmq_log::format::{BatchReader, BatchRecord};
    if !frame.header.kind.has_records() {
        return Vec::new();
    }
    let reader = BatchReader::new(&frame.header, frame.body.clone()).expect("a batch");
    let records = reader.into_iter().map(|record| record.expect("a record").1);
    let message = |record| match record {
        BatchRecord::Message(message) => {
            let topic = String::from_utf8(message.topic.to_vec()).expect("text");
            let number = String::from_utf8(message.payload.to_vec()).expect("text");
            Some((topic, number.parse().expect("a number")))
        }
        BatchRecord::Control { .. } => None,
    };
    records.filter_map(message).collect()
}

fn histories(cases: u32, data_partitions: u16, options: &Options) -> Result<(), String> {
    let mut runner = TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let strategy = (proptest::collection::vec(step(), 1..60), any::<u64>());
    let outcome = runner.run(&strategy, |(steps, last)| {
        let world =
            World::with(SimDisk::new(last), data_partitions, options.clone()).expect("starts");
        let mut run = Run::start(world, data_partitions, options.clone(), Said::default());
        for step in steps.iter().chain([&Step::PowerCut { seed: last }]) {
            run.take(step);
            let crash = match step {
                Step::PowerCut { seed } => Crash::PowerCut { seed: *seed },
                Step::Kill => Crash::Process,
                _ => continue,
            };
            run = run.crash(crash).map_err(TestCaseError::fail)?;
        }
        Ok(())
    });
    outcome.map_err(|error| match error {
        TestError::Fail(reason, steps) => format!("{reason}\n{steps:?}"),
        TestError::Abort(reason) => reason.to_string(),
    })
}

/// How many histories: `FLUXMQ_HISTORIES` asks for more.
fn cases() -> u32 {
    std::env::var("FLUXMQ_HISTORIES").ok().and_then(|count| count.parse().ok()).unwrap_or(100)
}

#[test]
fn what_was_confirmed_or_delivered_survives_power_cuts_with_one_partition() {
    histories(cases(), 1, &Options::default()).unwrap();
}

#[test]
fn what_was_confirmed_or_delivered_survives_power_cuts_with_four_partitions() {
    histories(cases(), 4, &Options::default()).unwrap();
}

fn in_memory() -> Options {
    Options { durability: Durability::QuorumMem, ..Options::default() }
}

#[test]
fn what_was_confirmed_from_memory_survives_kills_and_what_was_synced_power_cuts() {
    histories(cases(), 1, &in_memory()).unwrap();
    histories(cases().div_ceil(2), 4, &in_memory()).unwrap();
}

/// The weaker promise is told apart from the stronger one: nothing is synced before it is due, and a power cut shows it.
#[test]
fn what_was_confirmed_from_memory_is_synced_when_it_is_due() {
    let mut world = World::with(SimDisk::new(3), 1, in_memory()).expect("starts");
    let (publisher, _) = world.open("publisher", true, 0);
    let say = |world: &mut World| {
        let confirmed = world.publish(publisher, message("a", "1", QoS::AtLeastOnce), None);
        assert_eq!(confirmed, Some(Ok(true)));
        let log = world.partitions.values().next_back().expect("one").log();
        (log.written(), log.durable())
    };
    say(&mut world);
    world.now = Millis(world.now.0 + 20);
    let (written, durable) = say(&mut world);
    assert_eq!(written, durable, "what was due is synced");

    let (written, durable) = say(&mut world);
    assert!(durable < written, "what is not due is confirmed before it is synced");
    world.now = Millis(world.now.0 + 10);
    world.run();

    let log = world.partitions.values().next_back().expect("one").log();
    assert_eq!(log.durable(), written);
}

#[test]
fn a_full_disk_refuses_publishes_and_goes_on_serving() {
    for data_partitions in [1, 4] {
        let mut world = World::new(data_partitions);
        let (publisher, _) = world.open("publisher", true, 0);
        let kept = |text: &str| message("$queue/q/x", text, QoS::AtLeastOnce);
        assert_eq!(world.publish(publisher, kept("before"), None), Some(Ok(true)));
        let full = |world: &mut World, full| {
            world.partitions.values_mut().for_each(|partition| partition.set_disk_full(full));
        };

        full(&mut world, true);
        assert_eq!(world.publish(publisher, kept("refused"), None), Some(Err(Refusal::DiskFull)));
        let (consumer, _) = world.open("consumer", true, 0);
        world.subscribe(consumer, "$queue/q/#", |_| {}).expect("joins");
        assert_eq!(world.drain(consumer), ["before"]);

        full(&mut world, false);
        assert_eq!(world.publish(publisher, kept("after"), None), Some(Ok(true)));
        assert_eq!(world.drain(consumer), ["after"]);
    }
}

#[test]
fn what_is_admitted_while_a_flush_is_slow_is_confirmed_however_much_it_is() {
    let mut world = World::new(1);
    let (publisher, _) = world.open("publisher", true, 0);
    let body = "x".repeat(1 << 20);
    for number in 0..80 {
        let message = message("a", body.clone(), QoS::AtLeastOnce);
        let token = Token(1 << 40 | number);
        world.say(publisher, Command::Publish { token, message: message.into(), packet_id: None });
    }

    world.turn(false);
    world.run();

    let confirm = |effect: &Effect| match effect {
        Effect::Confirm { result, .. } => Some(result.clone()),
        _ => None,
    };
    let results = std::iter::from_fn(|| world.take(publisher, confirm));
    assert_eq!(results.filter(|result| *result == Ok(true)).count(), 80);
}

#[test]
fn a_failed_sync_stops_one_partition_and_confirms_nothing_of_it() {
    let mut world = World::new(4);
    let (publisher, _) = world.open("publisher", true, 0);
    let topics: Vec<String> = (0..40).map(|number| format!("t/{number}")).collect();
    let faults =
        Faults { syncs: BTreeMap::from([(1, SyncFault::DropKeepingCache)]), ..Faults::default() };
    world.disk.set_faults(faults);

    let first = world.publish(publisher, message("t/0", "0", QoS::AtLeastOnce), None);
    let rest: Vec<_> = topics
        .iter()
        .map(|topic| (topic, world.publish(publisher, message(topic, "1", QoS::AtLeastOnce), None)))
        .collect();

    assert_eq!(first, None, "it may be on disk: neither stored nor refused can be said");
    let ends = |effect: &Effect| matches!(effect, Effect::ShuttingDown).then_some(());
    assert_eq!(world.take(publisher, ends), Some(()), "so the connection ends");
    let placement = Placement::new(4);
    let of = |topic: &str| placement.topic(&Topic::new(Bytes::from(topic.to_owned())).unwrap());
    for (topic, result) in &rest {
        let refused = matches!(result, Some(Err(Refusal::Unavailable { .. })));
        assert_eq!(refused, of(topic) == of("t/0"), "{topic}: {result:?}");
    }
    let mut world = world.crash(3);
    let (publisher, _) = world.open("publisher", true, 0);
    let again = world.publish(publisher, message("t/0", "2", QoS::AtLeastOnce), None);
    assert_eq!(again, Some(Ok(true)), "a restart looks at the disk anew");
}

#[test]
fn delivering_before_commit_is_caught() {
    let planted = Options { deliver_before_commit: true, ..Options::default() };

    let caught = histories(1000, 1, &planted).expect_err("the planted bug is found");

    assert!(caught.contains("delivered and then gone"), "{caught}");
}

/// What a partition says, in its order.
#[derive(Default)]
struct Heard(Vec<Event>);

impl Outbox for Heard {
    fn send(&mut self, _to: ConnectionId, event: Event) {
        self.0.push(event);
    }
}

/// A partition under `quorum_mem` with a consumer of a queue that has nothing, its first segment begun.
fn with_consumer(queue: &QueueName) -> (Partition<SimDisk>, Heard) {
    let place = (SimDisk::new(1), PathBuf::from("p0001"));
    let options = LogOptions { partition: 1, ..LogOptions::default() };
    let (log, _) = Log::open(place.0, place.1, options).expect("opens");
    let behaviour = Options { durability: Durability::QuorumMem, ..Options::default() };
    let mut partition =
        Partition::open(PartitionId(1), log, behaviour, &Member::alone(), NOW).expect("opens");
    let mut heard = Heard::default();
    let join = Join {
        membership: 1,
        reads: Selection::Queue(queue.clone()),
        group: QueueName::new(Bytes::from_static(b"default")).expect("a name"),
        own: None,
        filter: Filter::new(Bytes::from(format!("$queue/{queue}/#"))).expect("a filter"),
        position: Position::Earliest,
        client_id: Bytes::from_static(b"worker"),
        expiry_s: 0,
        qos: QoS::AtLeastOnce,
        retain_as_published: false,
        subscription_id: 0,
        settle_explicit: false,
        credit: Credit::Window(10),
        is_named: false,
        is_exclusive: false,
        token: Token(0),
    };
    partition.handle(ConnectionId(2), Request::Join(Box::new(join)), NOW, &mut heard);
    while let Some(flush) = partition.persist().expect("persists") {
        partition.flushed(flush.run(), &mut heard).expect("applies");
    }
    while partition.pump(&mut heard).expect("reads") {}
    (partition, heard)
}

/// Nothing else may come for a while: a shard that waited then handed the entry out with the next publish, or the next tick.
#[test]
fn what_is_stored_in_memory_is_handed_out_at_once() {
    let queue = QueueName::new(Bytes::from_static(b"jobs")).expect("a name");
    let (mut partition, mut heard) = with_consumer(&queue);
    assert!(!partition.persist_in_memory(NOW, &mut heard).expect("writes"), "nothing came");
    heard.0.clear();
    let message = Message {
        topic: Topic::new(Bytes::from_static(b"$queue/jobs")).expect("a topic"),
        payload: Bytes::from_static(b"1"),
        qos: QoS::AtLeastOnce,
        retain: false,
        expiry_s: None,
        properties: Properties::default(),
        publisher: 7,
    };
    let publish = Publish {
        is_kept: false,
        token: Some(Token(1)),
        message: Arc::new(message),
        dedup: DedupKey::default(),
        tenure: Tenure::default(),
        target: Target::Queue(queue),
        input: None,
    };

    partition.handle(ConnectionId(1), Request::Publish(publish), NOW, &mut heard);
    partition.pump(&mut heard).expect("reads");
    let has_more = partition.persist_in_memory(NOW, &mut heard).expect("writes");

    assert!(matches!(heard.0[..], [Event::Confirm { result: Ok(true), .. }]), "{:?}", heard.0);
    assert!(has_more, "its shard does not wait before it pumps again");
    assert!(!partition.pump(&mut heard).expect("reads"));
    assert!(matches!(heard.0.last(), Some(Event::Deliver(_))), "{:?}", heard.0);
    assert!(!partition.persist_in_memory(NOW, &mut heard).expect("writes"), "all is handed out");
}
