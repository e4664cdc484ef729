//! What the consumers of one queue were delivered and what they said of it; and the rules between both. What breaks one is an error.

use std::collections::{BTreeMap, BTreeSet};

use crate::ledger::{Sent, body};

/// A message: where it was published to, and its number there.
pub type Name = (String, u64);

/// One queue's deliveries.
#[derive(Debug)]
pub struct Consumed {
    is_ordered: bool,
    messages: BTreeMap<Name, Fate>,
    /// Deliveries of messages that had come before.
    pub again: u64,
}

/// What became of a message.
#[derive(Debug)]
struct Fate {
    /// How many had come before it.
    place: usize,
    /// The life of the broker in which it came last.
    life: u64,
    /// Its acknowledgement was sent.
    is_acked: bool,
    /// And a request after it was answered.
    is_flushed: bool,
}

/// One consumer, from `basic.consume` on until it has ended.
#[derive(Debug)]
pub struct Turn {
    life: u64,
    /// Of an ordered queue, the places of what has come before and was never acknowledged: it is to come first.
    owed: BTreeSet<usize>,
    /// The place of what came last.
    last: Option<usize>,
}

impl Consumed {
    /// Nothing yet. The messages of an ordered queue go to one consumer at a time, which gives nothing back.
    pub fn new(is_ordered: bool) -> Consumed {
        Consumed { is_ordered, messages: BTreeMap::new(), again: 0 }
    }

    /// A consumer begins, in a life of the broker.
    pub fn begin(&self, life: u64) -> Turn {
        let owed = self.messages.values().filter(|fate| self.is_ordered && !fate.is_acked);
        Turn { life, owed: owed.map(|fate| fate.place).collect(), last: None }
    }

    /// Takes a delivery; returns its message, or `None` when it is of a broker that has been dead for a while and somebody else was
    /// given it since.
    pub fn delivered(
        &mut self,
        turn: &mut Turn,
        (address, redelivered): ((&str, &str), bool),
        payload: &[u8],
    ) -> Result<Option<Name>, String> {
        let name = name_of(address, payload)?;
        let place = self.messages.len();
        let new = Fate { place, life: turn.life, is_acked: false, is_flushed: false };
        let fate = match self.messages.get_mut(&name) {
            Some(fate) if turn.life < fate.life => return Ok(None),
            Some(fate) if fate.is_flushed => {
                return Err(format!("{name:?} comes again: its acknowledgement was flushed"));
            }
            Some(_) if !redelivered => {
                return Err(format!("{name:?} comes again and is not flagged"));
            }
            Some(fate) => {
                (fate.life, fate.is_acked) = (turn.life, false);
                self.again += 1;
                fate
            }
            None => self.messages.entry(name.clone()).or_insert(new),
        };
        if self.is_ordered {
            let place = fate.place;
            if turn.last.is_some_and(|last| place <= last) {
                return Err(format!("{name:?} comes after what was behind it"));
            }
            if let Some(skipped) = turn.owed.first().filter(|owed| **owed < place) {
                return Err(format!("{name:?} comes before what is at {skipped} and not settled"));
            }
            turn.owed.remove(&place);
            turn.last = Some(place);
        }
        Ok(Some(name))
    }

    /// A consumer acknowledges.
    pub fn acked(&mut self, name: &Name) {
        self.messages.get_mut(name).expect("it came").is_acked = true;
    }

    /// A consumer has heard that what it acknowledged is flushed, unless it was given to somebody meanwhile.
    pub fn flushed(&mut self, name: &Name) {
        let fate = self.messages.get_mut(name).expect("it came");
        fate.is_flushed |= fate.is_acked;
    }

    /// How many messages have come.
    pub fn count(&self) -> usize {
        self.messages.len()
    }

    /// How many are acknowledged for good.
    pub fn flushed_count(&self) -> usize {
        self.messages.values().filter(|fate| fate.is_flushed).count()
    }

    /// Everything that was confirmed to publishers and is for this queue has come and is acknowledged, for good or not: of what a crash
    /// took the acknowledgement, nobody hears unless it comes again. And nothing came that nobody sent.
    pub fn check_done(&self, queue: &str, all: &[Sent]) -> Result<(), String> {
        let is_here = |topic: &str| topic.contains(queue.trim_start_matches("kill."));
        for sent in all {
            for number in &sent.confirmed {
                let topic = sent.topic(*number);
                let fate = self.messages.get(&(topic.to_owned(), *number));
                if is_here(topic) && !fate.is_some_and(|fate| fate.is_acked) {
                    return Err(format!(
                        "{queue}: {topic}: {number} is missing, or open: {fate:?}"
                    ));
                }
            }
        }
        let invented = self.messages.keys().find(|(topic, number)| {
            let sent = all.iter().find(|sent| sent.topics.contains(topic));
            !sent.is_some_and(|sent| *number < sent.count && sent.topic(*number) == topic)
        });
        assert_eq!(invented, None, "{queue}: nobody sent it");
        Ok(())
    }
}

/// Which message it is, if it is whole and comes from where it says.
fn name_of((exchange, key): (&str, &str), payload: &[u8]) -> Result<Name, String> {
    let text = String::from_utf8_lossy(payload);
    let mut words = text.split(' ');
    let number = words.next().and_then(|number| number.parse::<u64>().ok());
    let named = number.zip(words.next());
    let (number, topic) = named.ok_or_else(|| format!("not ours: {text}"))?;
    if payload != body(topic, number) {
        return Err(format!("{topic}: {number} is altered: {text}"));
    }
    match super::client::address_of(topic) == (exchange, key) {
        true => Ok((topic.to_owned(), number)),
        false => Err(format!("{topic}: {number} comes from {exchange}/{key}")),
    }
}

/// Planted violations of each rule.
mod tests {
    use super::*;

    const TOPIC: &str = "0:kill.topic/ordered.0";
    const ADDRESS: (&str, &str) = ("kill.topic", "ordered.0");

    fn come(
        consumed: &mut Consumed,
        turn: &mut Turn,
        number: u64,
        redelivered: bool,
    ) -> Result<Option<Name>, String> {
        consumed.delivered(turn, (ADDRESS, redelivered), &body(TOPIC, number))
    }

    /// A queue of which 0 to 2 have come, 0 is acknowledged for good, and the broker has died.
    fn after_a_crash(is_ordered: bool) -> (Consumed, Turn) {
        let mut consumed = Consumed::new(is_ordered);
        let mut turn = consumed.begin(1);
        for number in 0..3 {
            let name = come(&mut consumed, &mut turn, number, false).unwrap().unwrap();
            if number == 0 {
                consumed.acked(&name);
                consumed.flushed(&name);
            }
        }
        let turn = consumed.begin(2);
        (consumed, turn)
    }

    #[test]
    fn what_keeps_the_rules_is_no_violation() {
        let (mut consumed, mut turn) = after_a_crash(true);
        for (number, redelivered) in [(1, true), (2, true), (3, false), (4, true)] {
            assert!(come(&mut consumed, &mut turn, number, redelivered).unwrap().is_some());
        }
        assert_eq!((consumed.count(), consumed.again), (5, 2));
        let mut late = Turn { life: 1, owed: BTreeSet::new(), last: None };
        assert_eq!(come(&mut consumed, &mut late, 2, false), Ok(None), "of the dead broker");
    }

    #[test]
    fn what_breaks_a_rule_is_a_violation() {
        let cases: [(bool, u64, bool, &str); 5] = [
            (true, 0, true, "its acknowledgement was flushed"),
            (false, 0, true, "its acknowledgement was flushed"),
            (true, 1, false, "is not flagged"),
            (true, 2, true, "comes before what is at 1"),
            (true, 3, false, "comes before what is at 1"),
        ];
        for (is_ordered, number, redelivered, expected) in cases {
            let (mut consumed, mut turn) = after_a_crash(is_ordered);
            let violation = come(&mut consumed, &mut turn, number, redelivered).unwrap_err();
            assert!(violation.contains(expected), "{violation}");
        }
        let (mut consumed, mut turn) = after_a_crash(true);
        for number in [1, 2] {
            come(&mut consumed, &mut turn, number, true).unwrap();
        }
        let violation = come(&mut consumed, &mut turn, 1, true).unwrap_err();
        assert!(violation.contains("comes after what was behind it"), "{violation}");
        let altered = [&body(TOPIC, 5)[..], b"x"].concat();
        assert!(consumed.delivered(&mut turn, (ADDRESS, false), &altered).is_err());
        let strayed = consumed.delivered(&mut turn, (("", "q"), false), &body(TOPIC, 5));
        assert!(strayed.unwrap_err().contains("comes from /q"));
    }

    #[test]
    fn what_was_confirmed_and_is_not_acknowledged_is_missing() {
        let (consumed, _) = after_a_crash(true);
        let mut sent = Sent::new(vec![TOPIC.to_owned()]);
        (sent.count, sent.confirmed) = (3, BTreeSet::from([0]));
        assert_eq!(consumed.check_done("kill.ordered", &[sent.clone()]), Ok(()));
        for lost in [1, 3] {
            sent.confirmed.insert(lost);
            assert!(consumed.check_done("kill.ordered", &[sent.clone()]).is_err());
            sent.confirmed.remove(&lost);
        }
    }
}
