//! The laws of a queue and its groups after every step of a random life: publish, claim, settle, give back, time out, reject, leave, seek,
//! purge, redrive, power cut.
//!
//! A model keeps, for each group, the set of entries that are finished and those that members hold. Pending is what they hold; committed
//! is the first entry that is neither finished nor gone; nothing finished is handed out again, and nothing that is held to a second member.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fluxmq::model::{
    DeliveryId, Filter, Outcome, Properties, Property, QoS, QueueName, QueueSettings,
};
use fluxmq::partition::request::{ConnectionId, Position, QueueAction, QueueAnswer};
use fluxmq_index::Offset;

use crate::wire::Dice;
use crate::world::{World, message};

const DELIVERIES_MAX: u32 = 4;
const GROUPS: [&str; 2] = ["one", "two"];
const STEPS: usize = 120;

#[derive(Default)]
struct Group {
    finished: BTreeSet<u64>,
    held: BTreeMap<u64, (usize, DeliveryId)>,
    /// How often each entry came back.
    counts: BTreeMap<u64, u32>,
    members: Vec<(usize, ConnectionId)>,
    /// Dead letters that it has made and nobody has brought back.
    letters: u64,
}

struct Life {
    world: World,
    dice: Dice,
    publisher: ConnectionId,
    groups: BTreeMap<&'static str, Group>,
    end: u64,
    /// Entries that are not in the queue any more.
    gone: BTreeSet<u64>,
    next_member: usize,
}

impl Life {
    fn begin(seed: u64) -> Life {
        let mut world = World::new(1 + (seed % 2) as u16 * 3);
        let settings = QueueSettings {
            deliveries_max: DELIVERIES_MAX,
            priority_max: if seed.is_multiple_of(3) { 3 } else { 0 },
            ..QueueSettings::default()
        };
        world.declare("jobs", settings);
        let (publisher, _) = world.open("publisher", true, 0);
        let groups = GROUPS.into_iter().map(|name| (name, Group::default())).collect();
        let dice = Dice::new(seed);
        let mut life =
            Life { world, dice, publisher, groups, end: 0, gone: BTreeSet::new(), next_member: 0 };
        GROUPS.into_iter().for_each(|name| life.join(name));
        life
    }

    fn join(&mut self, name: &'static str) {
        let number = self.next_member;
        self.next_member += 1;
        let (member, _) = self.world.open(&format!("member-{number}"), true, 0);
        let filter = format!("$share/{name}/$queue/jobs");
        self.world.subscribe(member, &filter, |_| {}).expect("joins");
        self.groups.get_mut(name).expect("a group").members.push((number, member));
    }

    fn publish(&mut self) {
        for _ in 0..=self.dice.roll(12) {
            let priority = Bytes::from(self.dice.roll(4).to_string());
            let mut message = message("$queue/jobs", "x", QoS::AtLeastOnce);
            let said = Property::User(Bytes::from("x-priority"), priority);
            message.properties = Properties::encode([&said]);
            assert_eq!(self.world.publish(self.publisher, message, None), Some(Ok(true)));
            self.end += 1;
        }
    }

    /// Settles some of what a group holds.
    fn settle(&mut self, name: &str) {
        let group = self.groups.get_mut(name).expect("a group");
        let held: Vec<(u64, (usize, DeliveryId))> =
            group.held.iter().map(|(entry, held)| (*entry, *held)).collect();
        for (entry, (member, id)) in held {
            let outcome = match self.dice.roll(8) {
                0..3 => Outcome::Accepted,
                3 => Outcome::Released,
                4 => Outcome::Rejected,
                _ => continue,
            };
            let by = group.members.iter().find(|(number, _)| *number == member).expect("there");
            self.world.say(by.1, fluxmq::model::Command::Settle { delivery: id, outcome });
            group.held.remove(&entry);
            match outcome {
                Outcome::Accepted => drop(group.finished.insert(entry)),
                Outcome::Rejected => group.dies(entry),
                Outcome::Released | Outcome::ReleasedAfter { .. } => group.comes_back(entry),
            }
        }
        self.world.run();
    }

    fn leave(&mut self, name: &str) {
        let group = self.groups.get_mut(name).expect("a group");
        if group.members.is_empty() {
            return;
        }
        let at = self.dice.roll(group.members.len());
        let (number, member) = group.members.remove(at);
        let theirs = group.held.iter().filter(|(_, (of, _))| *of == number);
        for entry in theirs.map(|(entry, _)| *entry).collect::<Vec<_>>() {
            group.held.remove(&entry);
            group.comes_back(entry);
        }
        self.world.close(member, false);
    }

    fn time_out(&mut self) {
        for group in self.groups.values_mut() {
            for (entry, _) in std::mem::take(&mut group.held) {
                group.comes_back(entry);
            }
        }
        self.world.pass(31_000);
    }

    fn seek(&mut self, name: &'static str) {
        // Between entries that are gone a group would be told of them one by one, as it comes to them.
        let first = self.gone.last().map_or(0, |last| last + 1);
        let to = first + self.dice.roll((self.end - first) as usize + 1) as u64;
        let group = QueueName::new(Bytes::from_static(name.as_bytes())).expect("a name");
        let to_position = Position::At(Offset(to));
        let seek = QueueAction::Seek { group, to: to_position };
        self.world.manage("jobs", seek).expect("there is such a group");
        let (head, end) = (self.head(), self.end);
        let group = self.groups.get_mut(name).expect("a group");
        if to < group.committed(head, end) {
            group.finished.clear();
            group.counts.clear();
        }
        group.finished.extend(0..to);
        group.held.clear();
    }

    fn purge(&mut self) {
        self.world.manage("jobs", QueueAction::Purge).expect("there is such a queue");
        let held: BTreeSet<u64> =
            self.groups.values().flat_map(|group| group.held.keys().copied()).collect();
        self.gone.extend((0..self.end).filter(|entry| !held.contains(entry)));
        for group in self.groups.values_mut() {
            let held = &group.held;
            group.finished.extend((0..self.end).filter(|entry| !held.contains_key(entry)));
        }
    }

    /// The first entry that is in the queue.
    fn head(&self) -> u64 {
        (0..self.end).find(|entry| !self.gone.contains(entry)).unwrap_or(self.end)
    }

    fn redrive(&mut self) {
        let filter = Filter::new(Bytes::from_static(b"$dlq/jobs/#")).expect("a filter");
        let letters: u64 = self.groups.values().map(|group| group.letters).sum();
        if letters == 0 {
            return;
        }
        let redrive = QueueAction::Redrive { filter, count_max: 256 };
        let answer = self.world.manage("$dlq/jobs", redrive);
        assert_eq!(answer, Ok(QueueAnswer::Done { count: letters }));
        self.end += letters;
        self.groups.values_mut().for_each(|group| group.letters = 0);
    }

    fn power_cut(&mut self, seed: u64) {
        if self.dice.roll(2) == 0 {
            self.world.snapshot();
        }
        self.world.restart(seed);
        let (publisher, _) = self.world.open("publisher", true, 0);
        self.publisher = publisher;
        for name in GROUPS {
            let group = self.groups.get_mut(name).expect("a group");
            // What was out is handed out again, and nothing counts that.
            group.held.clear();
            let count = std::mem::take(&mut group.members).len();
            (0..count).for_each(|_| self.join(name));
        }
    }

    /// Takes what has come, and holds everything against the laws.
    fn check(&mut self, what: &str) {
        self.world.run();
        let (head, end) = (self.head(), self.end);
        for (name, group) in &mut self.groups {
            for (number, member) in group.members.clone() {
                for delivery in self.world.deliveries(member) {
                    let entry = delivery.id.offset.0;
                    assert!(!group.finished.contains(&entry), "{what}: {name} gets {entry} again");
                    assert!((head..end).contains(&entry), "{what}: {entry} of {head}..{end}");
                    assert!(!self.gone.contains(&entry), "{what}: {entry} is gone");
                    let before = group.held.insert(entry, (number, delivery.id));
                    assert!(before.is_none(), "{what}: {name}: {entry} is held already");
                    let count = delivery.annotations.delivery_count();
                    let expected = group.counts.get(&entry).copied().unwrap_or(0);
                    assert_eq!(count, expected, "{what}: {name}: count of {entry}");
                }
            }
        }
        let stats = self.world.stats("jobs");
        assert_eq!((stats.end, stats.head), (Offset(end), Offset(head)), "{what}");
        assert_eq!(stats.messages, end - self.gone.len() as u64, "{what}");
        for (name, group) in &self.groups {
            let told = stats.groups.iter().find(|told| told.name == name).expect("joined");
            let committed = group.committed(head, end);
            assert_eq!(told.committed, Offset(committed), "{what}: {name}");
            assert_eq!(told.pending, group.held.len(), "{what}: {name}");
            assert_eq!(told.lag, group.lag(end), "{what}: {name}");
            assert_eq!(told.members, group.members.len(), "{what}: {name}");
            assert!(
                told.committed <= told.cursor && told.cursor <= Offset(end),
                "{what}: {told:?}"
            );
            let last = group.held.keys().next_back().map_or(0, |last| last + 1);
            assert!(told.cursor >= Offset(last), "{what}: held beyond {told:?}");
            let waits = group.lag(end) - group.held.len() as u64;
            // A window begins with 8 KiB, and an entry takes less than 200 bytes of it.
            let has_room = group
                .members
                .iter()
                .any(|(number, _)| group.held.values().filter(|(of, _)| of == number).count() < 20);
            assert!(waits == 0 || !has_room, "{what}: {name}: {waits} wait, and there is room");
        }
        for partition in self.world.partitions.values() {
            for (key, group) in partition.views().groups.iter() {
                assert_eq!(group.check(), Ok(()), "{what}: {key:?}");
            }
        }
    }
}

impl Group {
    fn comes_back(&mut self, entry: u64) {
        let count = self.counts.entry(entry).or_default();
        *count += 1;
        if *count >= DELIVERIES_MAX {
            self.dies(entry);
        }
    }

    fn dies(&mut self, entry: u64) {
        self.finished.insert(entry);
        self.letters += 1;
    }

    fn committed(&self, head: u64, end: u64) -> u64 {
        (head..end).find(|entry| !self.finished.contains(entry)).unwrap_or(end)
    }

    fn lag(&self, end: u64) -> u64 {
        (0..end).filter(|entry| !self.finished.contains(entry)).count() as u64
    }
}

#[test]
fn pending_committed_and_cursor_keep_their_laws_at_every_step() {
    for seed in 0..24 {
        let mut life = Life::begin(seed);
        for step in 0..STEPS {
            let name = GROUPS[life.dice.roll(2)];
            let what = match life.dice.roll(22) {
                0..6 => {
                    life.publish();
                    "publish"
                }
                6..14 => {
                    life.settle(name);
                    "settle"
                }
                14 => {
                    life.join(name);
                    "join"
                }
                15 => {
                    life.leave(name);
                    "leave"
                }
                16 => {
                    life.time_out();
                    "time out"
                }
                17 => {
                    life.seek(name);
                    "seek"
                }
                18 if life.dice.roll(3) == 0 => {
                    life.purge();
                    "purge"
                }
                19 => {
                    life.redrive();
                    "redrive"
                }
                20 | 21 => {
                    life.power_cut(seed * 1000 + step as u64);
                    "power cut"
                }
                _ => "nothing",
            };
            life.check(&format!("seed {seed}, step {step}, {what}"));
        }
        for name in GROUPS {
            life.join(name);
            life.check("at the end");
            while life.groups[name].lag(life.end) > 0 {
                life.settle(name);
                life.check("at the end");
            }
        }
    }
}
