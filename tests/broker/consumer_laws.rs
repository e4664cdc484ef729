//! The laws of consumers by name after every step of a random life: publish, settle, release, grant, stop, leave, get, hang up, beside an
//! MQTT member that may be timed out; purge, power cut.
//!
//! A model keeps of each entry who has it, or that it is finished. Nothing is lost, nothing is had by two, nothing that is finished comes
//! again; what comes again says so, with how often it came back; an entry that is asked for is the first that nobody has.

use std::collections::{BTreeMap, BTreeSet};

use fluxmq::model::{Command, Credit, Delivery, DeliveryId, Outcome, QoS, QueueSettings};
use fluxmq::partition::request::{ConnectionId, QueueAction};

use crate::consumers::{consume, get, stop};
use crate::wire::Dice;
use crate::world::{World, message};

const STEPS: usize = 150;
/// Its visibility timeout is shorter than a step that lets time pass.
const MQTT: u32 = 0;
/// Who asks for entries one by one.
const GETS: u32 = 1;

#[derive(Clone, Copy, Debug)]
struct Consumer {
    connection: ConnectionId,
    /// What it may be sent; `None` for one without bound.
    left: Option<usize>,
    is_granted: bool,
    is_stopped: bool,
}

struct Life {
    world: World,
    dice: Dice,
    publisher: ConnectionId,
    connections: Vec<ConnectionId>,
    consumers: BTreeMap<u32, Consumer>,
    next: u32,
    end: u64,
    finished: BTreeSet<u64>,
    /// By whom, and the name it came under.
    held: BTreeMap<u64, (u32, ConnectionId, DeliveryId)>,
    counts: BTreeMap<u64, u32>,
    /// Entries below may have been out at a crash.
    old: u64,
    had_group: bool,
}

impl Life {
    fn begin(seed: u64) -> Life {
        let mut world = World::new(1 + (seed % 2) as u16 * 3);
        world.declare("jobs", QueueSettings { deliveries_max: 0, ..QueueSettings::default() });
        let (publisher, _) = world.open("publisher", true, 0);
        let mut life = Life {
            world,
            dice: Dice::new(seed),
            publisher,
            connections: Vec::new(),
            consumers: BTreeMap::new(),
            next: 10,
            end: 0,
            finished: BTreeSet::new(),
            held: BTreeMap::new(),
            counts: BTreeMap::new(),
            old: 0,
            had_group: false,
        };
        life.connect();
        life
    }

    fn connect(&mut self) {
        for number in 0..3 {
            let (id, _) = self.world.open(&format!("client-{number}"), true, 0);
            self.connections.push(id);
        }
        let member = self.connections[0];
        self.world.subscribe(member, "$share/default/$queue/jobs", |_| {}).expect("joins");
        self.had_group = true;
        let all = Consumer { connection: member, left: None, is_granted: false, is_stopped: false };
        self.consumers.insert(MQTT, all);
        self.check("connected");
        // Now and then nobody reads but those who ask.
        if self.dice.roll(2) == 0 {
            self.leave_mqtt();
        }
    }

    fn leave_mqtt(&mut self) {
        let member = self.connections.remove(0);
        self.world.close(member, false);
        self.hung_up(member);
        let (id, _) = self.world.open("instead", true, 0);
        self.connections.insert(0, id);
    }

    fn publish(&mut self) {
        for _ in 0..=self.dice.roll(8) {
            let message = message("$queue/jobs", self.end.to_string(), QoS::AtLeastOnce);
            assert_eq!(self.world.publish(self.publisher, message, None), Some(Ok(true)));
            self.end += 1;
        }
    }

    fn begin_one(&mut self) {
        let number = self.next;
        self.next += 1;
        let connection = self.connections[self.dice.roll(3)];
        let count = self.dice.roll(6);
        let (credit, left) = match self.dice.roll(3) {
            0 => (Credit::Window(u32::MAX), None),
            1 => (Credit::Window(count as u32 + 1), Some(count + 1)),
            _ => (Credit::Granted(count as u32), Some(count)),
        };
        consume(&mut self.world, connection, (number, "jobs"), credit).expect("consumes");
        let is_granted = matches!(credit, Credit::Granted(_));
        let consumer = Consumer { connection, left, is_granted, is_stopped: false };
        self.consumers.insert(number, consumer);
    }

    fn settle(&mut self) {
        let held: Vec<(u64, (u32, ConnectionId, DeliveryId))> =
            self.held.iter().map(|(entry, held)| (*entry, *held)).collect();
        for (entry, (by, connection, delivery)) in held {
            let outcome = match self.dice.roll(6) {
                0 | 1 => Outcome::Accepted,
                2 => Outcome::Released,
                _ => continue,
            };
            self.world.say(connection, Command::Settle { delivery, outcome });
            self.let_go(entry, by);
            match outcome {
                Outcome::Accepted => drop(self.finished.insert(entry)),
                _ => *self.counts.entry(entry).or_default() += 1,
            }
        }
        self.world.run();
    }

    fn let_go(&mut self, entry: u64, by: u32) {
        self.held.remove(&entry);
        if let Some(consumer) = self.consumers.get_mut(&by)
            && !consumer.is_granted
            && let Some(left) = &mut consumer.left
        {
            *left += 1;
        }
    }

    fn any(&mut self) -> Option<u32> {
        let named: Vec<u32> = self.consumers.keys().copied().filter(|it| *it >= 10).collect();
        (!named.is_empty()).then(|| named[self.dice.roll(named.len())])
    }

    fn grant(&mut self) {
        let Some(number) = self.any() else { return };
        let count = self.dice.roll(5);
        let consumer = self.consumers.get_mut(&number).expect("one of them");
        if consumer.is_granted {
            consumer.left = consumer.left.map(|left| left + count);
        }
        // Where nothing is granted it changes nothing.
        let grant = Command::Grant { consumer: number, count: count as u32 };
        self.world.command(consumer.connection, grant);
    }

    fn stop(&mut self) {
        let Some(number) = self.any() else { return };
        let consumer = self.consumers.get_mut(&number).expect("one of them");
        consumer.is_stopped = true;
        stop(&mut self.world, consumer.connection, number);
    }

    fn leave(&mut self) {
        let Some(number) = self.any() else { return };
        let connection = self.consumers[&number].connection;
        self.world.command(connection, Command::Leave { consumer: number });
        self.gone(number);
    }

    /// What one has comes back.
    fn gone(&mut self, number: u32) {
        self.consumers.remove(&number);
        self.comes_back(|by, _| by == number);
    }

    /// What these have comes back, and is counted.
    fn comes_back(&mut self, is_meant: impl Fn(u32, ConnectionId) -> bool) {
        let counts = &mut self.counts;
        self.held.retain(|entry, (by, connection, _)| {
            let stays = !is_meant(*by, *connection);
            if !stays {
                *counts.entry(*entry).or_default() += 1;
            }
            stays
        });
    }

    fn leave_gets(&mut self) {
        for connection in self.connections.clone() {
            self.world.command(connection, Command::Leave { consumer: GETS });
        }
        self.gone(GETS);
    }

    fn hang_up(&mut self) {
        let at = 1 + self.dice.roll(2);
        let connection = self.connections[at];
        match self.dice.roll(2) {
            0 => self.world.close(connection, false),
            _ => self.world.vanish(connection),
        }
        self.hung_up(connection);
        let (id, _) = self.world.open(&format!("again-{}", self.next), true, 0);
        self.next += 1;
        self.connections[at] = id;
    }

    /// What a connection has comes back, of all its consumers.
    fn hung_up(&mut self, connection: ConnectionId) {
        let theirs = self.consumers.iter().filter(|(_, it)| it.connection == connection);
        for number in theirs.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.gone(number);
        }
        self.comes_back(|by, of| by == GETS && of == connection);
    }

    fn pass(&mut self) {
        self.world.pass(31_000);
        // Those of MQTT alone had their time.
        self.comes_back(|by, _| by == MQTT);
    }

    fn purge(&mut self) {
        self.world.manage("jobs", QueueAction::Purge).expect("there is such a queue");
        // What somebody has is theirs.
        self.finished.extend((0..self.end).filter(|entry| !self.held.contains_key(entry)));
    }

    fn power_cut(&mut self, seed: u64) {
        if self.dice.roll(2) == 0 {
            self.world.snapshot();
        }
        self.world.restart(seed);
        let (publisher, _) = self.world.open("publisher", true, 0);
        self.publisher = publisher;
        self.held.clear();
        self.consumers.clear();
        self.connections.clear();
        self.old = if self.had_group { self.end } else { 0 };
        self.connect();
    }

    fn get(&mut self, what: &str) {
        let connection = self.connections[self.dice.roll(3)];
        let got = get(&mut self.world, connection, (GETS, "jobs")).expect("may");
        let ready = self.ready();
        let Some(got) = got else {
            return assert_eq!(ready.first(), None, "{what}: nothing was to be had");
        };
        let expected = ready.first().copied();
        assert_eq!(Some(got.delivery.id.offset.0), expected, "{what}: not the first of {ready:?}");
        self.came(&got.delivery, (GETS, connection), what);
        assert_eq!(got.remaining, ready.len() as u64 - 1, "{what}: of {ready:?}");
    }

    fn ready(&self) -> Vec<u64> {
        let is_ready =
            |entry: &u64| !self.finished.contains(entry) && !self.held.contains_key(entry);
        (0..self.end).filter(is_ready).collect()
    }

    fn came(&mut self, delivery: &Delivery, by: (u32, ConnectionId), what: &str) {
        let entry = delivery.id.offset.0;
        assert!(entry < self.end && !self.finished.contains(&entry), "{what}: {entry} again");
        let before = self.held.insert(entry, (by.0, by.1, delivery.id));
        assert!(before.is_none(), "{what}: {entry} is had already, by {before:?}");
        let told = delivery.annotations.delivery_count();
        let count = self.counts.get(&entry).copied().unwrap_or(0);
        assert_eq!(told, count, "{what}: count of {entry}");
        let may_have_come = count > 0 || entry < self.old;
        assert_eq!(delivery.redelivered, may_have_come, "{what}: {entry}");
    }

    /// Takes what has come, and holds everything against the laws.
    fn check(&mut self, what: &str) {
        self.world.run();
        for connection in self.connections.clone() {
            for delivery in self.world.deliveries(connection) {
                let fluxmq::model::DeliverySource::Group(number) = delivery.id.source else {
                    panic!("{what}: {delivery:?}");
                };
                let number = if number >= 1 << 31 { MQTT } else { number };
                self.came(&delivery, (number, connection), what);
                let consumer = self.consumers.get_mut(&number).expect("it consumes");
                assert_eq!(consumer.connection, connection, "{what}: {number}");
                assert!(!consumer.is_stopped, "{what}: {number} is stopped");
                if let Some(left) = &mut consumer.left {
                    *left = left.checked_sub(1).unwrap_or_else(|| panic!("{what}: {number}"));
                }
            }
        }
        let ready = self.ready();
        let takes = |(number, consumer): (&u32, &Consumer)| {
            // A window begins with 8 KiB, and an entry takes less than 200 bytes of it.
            let out = self.held.values().filter(|(by, ..)| by == number).count();
            !consumer.is_stopped && consumer.left != Some(0) && out < 20
        };
        let is_taken = self.consumers.iter().find(|it| takes(*it));
        assert!(ready.is_empty() || is_taken.is_none(), "{what}: {ready:?} wait for {is_taken:?}");
        let stats = self.world.stats("jobs");
        let Some(group) = stats.groups.first() else { return };
        let members = self.consumers.values().filter(|consumer| !consumer.is_stopped).count();
        assert_eq!((group.pending, group.members), (self.held.len(), members), "{what}");
        let lag = (0..self.end).filter(|entry| !self.finished.contains(entry)).count();
        assert_eq!(group.lag, lag as u64, "{what}");
    }

    fn step(&mut self, what: &str, seed: u64) {
        match self.dice.roll(30) {
            0..6 => self.publish(),
            6..11 => self.settle(),
            11..13 => self.begin_one(),
            13..15 => self.grant(),
            15 => self.stop(),
            16..18 => self.leave(),
            18..24 => self.get(what),
            24 => self.leave_gets(),
            25 => self.hang_up(),
            26 => self.pass(),
            27 if self.dice.roll(4) == 0 => self.purge(),
            28 if self.consumers.contains_key(&MQTT) => self.leave_mqtt(),
            29 => self.power_cut(seed),
            _ => {}
        }
    }
}

#[test]
fn entries_are_had_by_one_in_order_and_none_is_lost_whoever_stops_leaves_or_asks() {
    for seed in 0..24 {
        let mut life = Life::begin(seed);
        for step in 0..STEPS {
            let what = format!("seed {seed}, step {step}");
            life.step(&what, seed * 1000 + step as u64);
            life.check(&what);
        }
        life.leave_gets();
        life.check("near the end");
        while let Some(number) = life.consumers.keys().copied().find(|number| *number >= 10) {
            let connection = life.consumers[&number].connection;
            life.world.command(connection, Command::Leave { consumer: number });
            life.gone(number);
            life.check("near the end");
        }
        let left = life.next;
        let all = Credit::Window(u32::MAX);
        let connection = life.connections[1];
        consume(&mut life.world, connection, (left, "jobs"), all).expect("consumes");
        let consumer = Consumer { connection, left: None, is_granted: false, is_stopped: false };
        life.consumers.insert(left, consumer);
        for round in 0.. {
            life.check(&format!("seed {seed}, at the end, {round}"));
            if life.finished.len() as u64 == life.end {
                break;
            }
            assert!(round < 1000 && !life.held.is_empty(), "seed {seed}: nothing comes any more");
            for (entry, (_, connection, delivery)) in std::mem::take(&mut life.held) {
                let outcome = Outcome::Accepted;
                life.world.say(connection, Command::Settle { delivery, outcome });
                life.finished.insert(entry);
            }
        }
    }
}
