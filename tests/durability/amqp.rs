//! AMQP: what was confirmed is delivered, what was acknowledged and flushed never again, what was not again in its place and flagged;
//! what was declared to stay stays, and nothing else; whenever the broker was killed.

mod client;
mod consumer;
mod mover;
mod publisher;
mod record;
mod survey;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::task::JoinHandle;

use self::consumer::{Consumer, Habit};
use self::mover::{FROM, Mover, TO};
use self::publisher::Publisher;
use self::record::Consumed;
use self::survey::{Left, Survey};
use crate::inspect::assert_verifies;
use crate::ledger::Sent;
use crate::rng::Rng;
use crate::world::{World, kills};

const PUBLISHERS: usize = 3;
/// One consumer at a time, which gives nothing back.
const ORDERED: &str = "kill.ordered";
/// Several, which do.
const SHARED: &str = "kill.shared";

/// The consumers of one queue.
struct Audience {
    queue: &'static str,
    consumed: Arc<Mutex<Consumed>>,
    tasks: Vec<JoinHandle<Result<(), String>>>,
}

impl Audience {
    fn start(world: &World, queue: &'static str, habits: &[Habit], rng: &mut Rng) -> Audience {
        let is_ordered = queue == ORDERED;
        let consumed = Arc::new(Mutex::new(Consumed::new(is_ordered)));
        let start = |habit: &Habit| {
            let (consumed, rng, habit) = (consumed.clone(), rng.fork(), *habit);
            let consumer = Consumer { queue, is_alone: is_ordered, habit, rng, consumed };
            world.spawn(|link| consumer.run(link))
        };
        let tasks = habits.iter().map(start).collect();
        Audience { queue, consumed, tasks }
    }

    /// Ends the consumers; returns what they know.
    fn end(self, world: &World) -> (&'static str, Arc<Mutex<Consumed>>) {
        world.end(self.tasks);
        (self.queue, self.consumed)
    }

    /// Waits until everything that was confirmed is acknowledged.
    fn expect_all(&self, world: &World, sent: &[Sent]) {
        world.wait_until(|_| {
            assert!(!self.tasks.iter().any(JoinHandle::is_finished), "a consumer gave up");
            self.consumed.lock().unwrap().check_done(self.queue, sent)
        });
        let consumed = self.consumed.lock().unwrap();
        eprintln!("{}: {} messages, {} again", self.queue, consumed.count(), consumed.again);
    }
}

#[test]
fn what_was_confirmed_and_what_was_acknowledged_stays_so_over_amqp() {
    let mut rng = Rng::of_run("amqp");
    let mut world = World::new(rng.fork());
    let mut survey = Survey::begin(&world);
    let ordered = Audience::start(&world, ORDERED, &[Habit::Acknowledges], &mut rng);
    let shared = Audience::start(&world, SHARED, &[Habit::GivesBack; 2], &mut rng);
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|index| Publisher::new(index, &world, rng.fork()))
        .map(|publisher| world.spawn(|link| publisher.run(link)))
        .collect();

    let mut killed = 0;
    while killed < kills() {
        killed += world.kill_once(kills() - killed, &publishers);
        survey = survey.after_a_kill(&world);
    }
    // What would still come again comes before what is published last.
    world.wait_for_progress(500, &publishers);
    let sent = world.finish(publishers);
    for audience in [&ordered, &shared] {
        audience.expect_all(&world, &sent);
    }
    let ended = [ordered, shared].map(|audience| audience.end(&world));
    world.kill();
    assert_verifies(world.data(), &[0, 1]);
    world.start();
    survey = survey.after_a_kill(&world);
    for (queue, consumed) in ended {
        // What is left was acknowledged by nobody, or by nobody for good.
        let mut consumed = consumed.lock().unwrap();
        let mut turn = consumed.begin(u64::MAX);
        let (left, back) = survey.take_all(&world, queue);
        survey = back;
        for Left { exchange, key, redelivered, body } in left {
            let came = consumed.delivered(&mut turn, ((&exchange, &key), redelivered), &body);
            assert!(came.is_ok(), "{queue}: {came:?}");
        }
    }
    world.terminate();
    assert_verifies(world.data(), &[0]);
}

/// Work that is taken from one queue and put into another in transactions: whenever the broker was killed, it is in one of both, once.
#[test]
fn what_moves_in_transactions_is_neither_lost_nor_doubled() {
    let mut rng = Rng::of_run("transactions");
    let mut world = World::new(rng.fork());
    let mut survey = Survey::begin(&world);
    let publisher = Publisher::of(vec![format!("0:/{FROM}")], &world, rng.fork());
    let publishers = vec![world.spawn(|link| publisher.run(link))];
    let mover = Mover { rng: rng.fork() };
    let mover = world.spawn(|link| mover.run(link));

    let mut killed = 0;
    while killed < kills() {
        killed += world.kill_once(kills() - killed, &publishers);
        survey = survey.after_a_kill(&world);
    }
    let sent = world.finish(publishers);
    world.end(vec![mover]);
    let mut found: BTreeMap<u64, usize> = BTreeMap::new();
    let mut counts = Vec::new();
    for queue in [FROM, TO] {
        let (left, back) = survey.take_all(&world, queue);
        survey = back;
        counts.push(left.len());
        for left in left {
            *found.entry(mover::number_of(&left.body)).or_default() += 1;
        }
    }
    eprintln!("{} of {} are moved", counts[1], counts[0] + counts[1]);
    let twice: Vec<_> = found.iter().filter(|(_, count)| **count > 1).collect();
    assert_eq!(twice, [], "in both, or twice in one");
    let lost: Vec<_> = sent[0].confirmed.iter().filter(|it| !found.contains_key(it)).collect();
    assert_eq!(lost, Vec::<&u64>::new(), "in neither");
    assert!(counts[1] > 0, "something was moved");
    world.terminate();
    assert_verifies(world.data(), &[0]);
}

/// A planted violation: of a consumer that never sends what it says it has acknowledged, everything comes again.
#[test]
fn an_acknowledgement_that_is_lost_is_noticed() {
    let mut rng = Rng::of_run("lost acknowledgements");
    let mut world = World::new(rng.fork());
    let survey = Survey::begin(&world);
    let Audience { mut tasks, consumed, .. } =
        Audience::start(&world, ORDERED, &[Habit::ForgetsToAcknowledge], &mut rng);
    let publisher = Publisher::new(0, &world, rng.fork());
    let publisher = world.spawn(|link| publisher.run(link));

    world.wait_until(|_| match consumed.lock().unwrap().flushed_count() {
        0 => Err("nothing is acknowledged".to_owned()),
        _ => Ok(()),
    });
    world.kill();
    world.start();
    let violation = world.join(tasks.remove(0)).unwrap_err();

    assert!(violation.contains("its acknowledgement was flushed"), "{violation}");
    world.finish(vec![publisher]);
    drop(survey);
}
