//! QoS 2 through crashes at every point, and sessions that many connections want at once: nothing lost, nothing twice, one winner.
//!
//! A run is two devices, a broker between them, and a seed that says who moves next. A crash point is a run that something happens
//! to after a certain number of moves, or of operations on the disk.

#![allow(clippy::print_stdout, reason = "how much was run is worth knowing")]

use std::collections::{BTreeMap, BTreeSet};

use fluxmq::model::PartitionId;
use fluxmq::planted::{PlantedBug, plant};
use fluxmq_log::sim_disk::SimDisk;

use crate::wire::{Device, Dice, Way};
use crate::world::World;

/// What happens to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The broker is killed, and its unsynced writes with it.
    Kill,
    /// The publisher's connection breaks.
    CutPublisher,
    /// The subscriber's.
    CutSubscriber,
    /// The publisher connects anew without ending its connection.
    TakeOverPublisher,
    /// The subscriber does.
    TakeOverSubscriber,
}

const FAULTS: [Fault; 5] = [
    Fault::Kill,
    Fault::CutPublisher,
    Fault::CutSubscriber,
    Fault::TakeOverPublisher,
    Fault::TakeOverSubscriber,
];

/// When something happens, beside nothing.
#[derive(Clone, Copy, Debug)]
enum Point {
    Never,
    /// After so many moves.
    Move(usize, Fault),
    /// After so many operations on the disk: the power goes.
    Operation(u64),
}

impl Point {
    fn kind(self) -> &'static str {
        match self {
            Point::Never => "undisturbed",
            Point::Move(_, Fault::Kill) => "broker killed",
            Point::Move(_, Fault::CutPublisher) => "publisher cut off",
            Point::Move(_, Fault::CutSubscriber) => "subscriber cut off",
            Point::Move(_, Fault::TakeOverPublisher) => "publisher taken over",
            Point::Move(_, Fault::TakeOverSubscriber) => "subscriber taken over",
            Point::Operation(_) => "power cut",
        }
    }
}

/// Moves of a run before everybody is let go on undisturbed.
const MOVES_MAX: usize = 400;
/// Messages of a run.
const MESSAGES: usize = 4;
const TOPICS: [&str; 2] = ["a/1", "a/2"];

struct Run {
    world: World,
    devices: [Device; 2],
    dice: Dice,
    moves: usize,
    /// Half-steps that were open when something happened.
    interrupted: BTreeSet<(Way, u8)>,
    takeovers: usize,
    /// Turns in a row in which the broker had nothing to do.
    idle: usize,
}

impl Run {
    fn start(seed: u64, messages: usize) -> Result<Run, String> {
        let world = World::on(SimDisk::new(seed), 1 + (seed % 2) as u16);
        let devices = [Device::new("publisher", None), Device::new("subscriber", Some("a/#"))];
        let (dice, interrupted) = (Dice::new(seed), BTreeSet::new());
        let mut run = Run { world, devices, dice, moves: 0, interrupted, takeovers: 0, idle: 0 };
        run.settle(|run| run.devices.iter().all(Device::is_ready))?;
        let publishes = (0..messages)
            .map(|number| (TOPICS[number % TOPICS.len()].to_owned(), number.to_string()));
        run.devices[0].to_publish.extend(publishes);
        Ok(run)
    }

    /// One move of whoever the dice say.
    fn step(&mut self) -> Result<(), String> {
        self.moves += 1;
        let device = self.dice.roll(2);
        match self.dice.roll(12) {
            0..=2 => {
                let links = self.devices[device].links.len().max(1);
                // Mostly the newest; what older ones have sent may still arrive.
                let back = if self.dice.roll(4) == 0 { self.dice.roll(links) } else { 0 };
                self.devices[device].up(&mut self.world, links - 1 - back);
            }
            3 | 4 => self.devices[device].down()?,
            5 | 6 => self.devices[device].answer(),
            7 => self.devices[0].publish(),
            8 => drop(self.world.turn(false)),
            9 | 10 => {
                // One disk is slower than the other, for a while.
                if self.dice.roll(8) == 0 {
                    let slow = PartitionId(self.dice.roll(3) as u16);
                    self.world.slow = Some(slow).filter(|_| self.world.partitions.len() > 1);
                }
                self.world.turn(true);
            }
            _ if self.dice.roll(20) == 0 => self.world.say_checkpoint(),
            _ => {}
        }
        self.after_move()
    }

    fn after_move(&mut self) -> Result<(), String> {
        for device in &mut self.devices {
            device.pump(&mut self.world)?;
        }
        if self.world.disk.has_lost_power() {
            self.interrupt();
            self.kill(self.moves as u64);
        }
        for device in self.devices.iter_mut().filter(|device| device.links.is_empty()) {
            device.connect(&mut self.world);
        }
        self.world.drop_done();
        Ok(())
    }

    fn happen(&mut self, fault: Fault) {
        self.interrupt();
        match fault {
            Fault::Kill => self.kill(self.moves as u64),
            Fault::CutPublisher => self.devices[0].cut(&mut self.world),
            Fault::CutSubscriber => self.devices[1].cut(&mut self.world),
            Fault::TakeOverPublisher => self.devices[0].connect(&mut self.world),
            Fault::TakeOverSubscriber => self.devices[1].connect(&mut self.world),
        }
    }

    /// Notes which half-steps are the last of their exchanges.
    fn interrupt(&mut self) {
        for device in &self.devices {
            self.interrupted.extend(device.half_steps());
        }
    }

    fn kill(&mut self, seed: u64) {
        self.world.restart(seed);
        self.devices.iter_mut().for_each(Device::forget_links);
    }

    /// Lets everybody go on in turn until `done`.
    fn settle(&mut self, done: impl Fn(&Run) -> bool) -> Result<(), String> {
        (self.world.slow, self.idle) = (None, 0);
        for _ in 0..10_000 {
            for device in 0..2 {
                self.devices[device].publish();
                for link in 0..self.devices[device].links.len() {
                    self.devices[device].up(&mut self.world, link);
                }
                self.devices[device].down()?;
                self.devices[device].answer();
            }
            self.idle = if self.world.turn(true) { 0 } else { self.idle + 1 };
            self.after_move()?;
            if done(self) {
                return Ok(());
            }
        }
        Err(format!("stuck: {}", self.state()))
    }

    /// Finishes the run undisturbed and compares what came with what was published.
    fn finish(&mut self, messages: usize) -> Result<(), String> {
        self.settle(|run| {
            let [publisher, subscriber] = &run.devices;
            let quiet = publisher.is_quiet() && subscriber.is_quiet();
            let finished = publisher.is_finished() && subscriber.is_finished();
            quiet && finished && run.idle > 3
        })
        .map_err(|error| format!("{error}, so something is lost or never ends"))?;
        let mut by_topic: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (topic, payload) in &self.devices[1].got {
            by_topic.entry(topic).or_default().push(payload.parse().map_err(|_| "no number")?);
        }
        for (index, topic) in TOPICS.iter().enumerate() {
            let expected: Vec<usize> = (index..messages).step_by(TOPICS.len()).collect();
            let got = by_topic.remove(topic).unwrap_or_default();
            if got != expected {
                return Err(format!("{topic}: published {expected:?}, delivered {got:?}"));
            }
            let stored = self.world.stored(topic).len();
            if stored != expected.len() {
                return Err(format!("{topic}: {} published, {stored} stored", expected.len()));
            }
        }
        for device in &self.devices {
            if device.open_links() != 1 {
                return Err(format!("{} connections have one session", device.open_links()));
            }
        }
        Ok(())
    }

    fn state(&self) -> String {
        let [publisher, subscriber] = &self.devices;
        format!(
            "{} of the publishes completed, {} delivered",
            publisher.completed,
            subscriber.got.len()
        )
    }
}

/// What one run took: its moves, and the operations on the disk.
#[derive(Clone, Copy, Debug)]
struct Size {
    moves: usize,
    operations: u64,
}

fn run(seed: u64, point: Point, seen: &mut BTreeSet<(Way, u8)>) -> Result<Size, String> {
    let fail = |error: String| format!("seed {seed}, {point:?}: {error}");
    let mut run = Run::start(seed, MESSAGES).map_err(fail)?;
    let before = run.world.disk.operations();
    if let Point::Operation(operation) = point {
        run.world.disk.set_crash_after(before + operation);
    }
    let (first, is_finished) = (run.moves, |run: &Run| run.devices.iter().all(Device::is_finished));
    let mut second = None;
    while run.moves - first < MOVES_MAX && !is_finished(&run) {
        if let Point::Move(at, fault) = point
            && run.moves - first == at
        {
            run.happen(fault);
            // Half of the runs meet a second misfortune while they recover from the first.
            second = seed
                .is_multiple_of(2)
                .then(|| (run.moves + 1 + run.dice.roll(40), run.dice.roll(5)));
        }
        if let Some((at, fault)) = second
            && run.moves == at
        {
            run.happen(FAULTS[fault]);
        }
        run.step().map_err(fail)?;
    }
    let size = Size {
        moves: run.moves - first,
        operations: run.world.disk.operations() - before.min(run.world.disk.operations()),
    };
    run.finish(MESSAGES).map_err(fail)?;
    seen.extend(&run.interrupted);
    Ok(size)
}

/// Seeds that a run is spread over at least, unless they have no more points.
const SEEDS_MIN: usize = 8;

/// What was run.
#[derive(Default)]
struct CrashPoints {
    /// How many, by what happened there.
    by_kind: BTreeMap<&'static str, usize>,
    /// Half-steps that were interrupted.
    seen: BTreeSet<(Way, u8)>,
}

impl CrashPoints {
    fn count(&self) -> usize {
        self.by_kind.values().sum()
    }
}

/// Runs so many crash points.
fn crash_points(count: usize) -> Result<CrashPoints, String> {
    let mut points = CrashPoints::default();
    for seed in 0.. {
        let size = run(seed, Point::Never, &mut BTreeSet::new())?;
        let moves = (0..size.moves).flat_map(|at| FAULTS.map(|fault| Point::Move(at, fault)));
        let operations = (0..size.operations).map(Point::Operation);
        // In an order that meets all kinds early, whatever the count.
        let mut all: Vec<Point> = moves.chain(operations).collect();
        let mut dice = Dice::new(seed);
        for index in (1..all.len()).rev() {
            all.swap(index, dice.roll(index + 1));
        }
        all.truncate(count.div_ceil(SEEDS_MIN));
        for point in all {
            run(seed, point, &mut points.seen)?;
            *points.by_kind.entry(point.kind()).or_default() += 1;
            if points.count() >= count {
                return Ok(points);
            }
        }
    }
    unreachable!("seeds do not end before the count is reached")
}

/// Messages of a run of takeovers.
const MESSAGES_RACED: usize = 60;

/// Runs at least so many takeovers; returns how many, and the messages that went through them.
fn takeovers(count: usize) -> Result<(usize, usize), String> {
    let (mut total, mut messages) = (0, 0);
    for seed in 0.. {
        let fail = |error: String| format!("seed {seed}: {error}");
        let mut run = Run::start(seed, MESSAGES_RACED).map_err(fail)?;
        while run.takeovers < 100 {
            for _ in 0..run.dice.roll(40) {
                run.step().map_err(fail)?;
            }
            let device = run.dice.roll(2);
            for _ in 0..=run.dice.roll(3) {
                run.devices[device].connect(&mut run.world);
                run.takeovers += 1;
            }
        }
        run.finish(MESSAGES_RACED).map_err(fail)?;
        total += run.takeovers;
        messages += MESSAGES_RACED;
        if total >= count {
            return Ok((total, messages));
        }
    }
    unreachable!("seeds do not end before the count is reached")
}

/// How many: the variable asks for more than a quick run has.
fn count(variable: &str, quick: usize) -> usize {
    std::env::var(variable).ok().and_then(|count| count.parse().ok()).unwrap_or(quick)
}

#[test]
fn exactly_once_holds_wherever_the_broker_or_a_client_breaks() {
    let points = crash_points(count("FLUXMQ_CRASH_POINTS", 400)).unwrap();

    for way in [Way::ToBroker, Way::ToDevice] {
        for half_step in 0..8 {
            let is_seen = points.seen.contains(&(way, half_step));
            assert!(is_seen, "{way:?} {half_step} was never interrupted");
        }
    }
    let (count, half_steps) = (points.count(), points.seen.len());
    println!("{count} crash points, {half_steps} half-steps interrupted: {:?}", points.by_kind);
}

#[test]
fn one_connection_wins_a_session_and_nothing_is_lost() {
    let (races, messages) = takeovers(count("FLUXMQ_TAKEOVERS", 1_000)).unwrap();
    println!("{races} takeovers, {messages} messages published and each delivered once");
}

/// The defects that this suite is there for.
const PLANTED: [PlantedBug; 6] = [
    PlantedBug::AssignedUnstored,
    PlantedBug::ReceivedUnstored,
    PlantedBug::ReleasedUnstored,
    PlantedBug::DedupFindsNothing,
    PlantedBug::CursorSkipsUnsent,
    PlantedBug::TakeOverUnasked,
];

/// Points and takeovers within which a defect must show.
const CAUGHT_WITHIN: usize = 1_600;

#[test]
fn every_planted_bug_is_caught() {
    for bug in PLANTED {
        plant(Some(bug));
        let caught = crash_points(CAUGHT_WITHIN).err().or_else(|| takeovers(CAUGHT_WITHIN).err());
        plant(None);
        match caught {
            Some(how) => println!("{bug:?}: {how}"),
            None => panic!("{bug:?} survived {CAUGHT_WITHIN} crash points and takeovers"),
        }
    }
}
