//! Names of messages that are stored: a publish under one of them is not stored again.
//!
//! Names of single messages are forgotten at the time that their record says, a producer a week after its last message. What log time
//! and number forget is the same in every replica, and after every restart.

use std::collections::{BTreeMap, BTreeSet};

use fluxmq_index::{Offset, OffsetSet};
use serde::{Deserialize, Serialize};

use super::section::{decode_rows, encode_rows};
use super::{SectionError, View};
use crate::model::{Control, Input, Millis, Record};

/// Names of single messages that a partition remembers; the oldest above are forgotten.
const IDS_MAX: usize = 1 << 20;
/// Producers that a partition remembers; the one that was silent for the longest is forgotten.
const PRODUCERS_MAX: usize = 1 << 16;
/// Runs of sequence numbers of one producer; what is below the last of them is only known to be old.
const RUNS_MAX: usize = 64;

/// What is known.
#[derive(Debug, Default)]
pub struct Inputs {
    ids: BTreeMap<u128, Millis>,
    producers: BTreeMap<u64, Producer>,
    /// Derived: both by when they are forgotten.
    ids_until: BTreeSet<(Millis, u128)>,
    producers_until: BTreeSet<(Millis, u64)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Producer {
    epoch: u32,
    until: Millis,
    /// Its messages, by their numbers.
    seen: OffsetSet,
    /// What is below is forgotten.
    floor: u64,
}

/// What is known of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing: it is new.
    New,
    /// Its message is stored.
    Stored,
    /// It is older than what is remembered: the lowest number that is.
    Forgotten(u64),
    /// A later life of its producer has begun: this one.
    Fenced(u32),
}

impl Inputs {
    /// Tells what is known of a name at a time.
    pub fn find(&self, input: &Input, now: Millis) -> Known {
        match input {
            Input::Id(id) => match self.ids.get(id) {
                Some(until) if *until > now => Known::Stored,
                _ => Known::New,
            },
            Input::Sequence { producer, epoch, seq } => match self.producers.get(producer) {
                Some(known) if known.until > now => known.find(*epoch, *seq),
                _ => Known::New,
            },
        }
    }

    /// How many names of single messages, and producers, are remembered.
    pub fn counts(&self) -> (usize, usize) {
        (self.ids.len(), self.producers.len())
    }

    fn note(&mut self, input: &Input, until: Millis) {
        match input {
            Input::Id(id) => {
                if let Some(before) = self.ids.insert(*id, until) {
                    self.ids_until.remove(&(before, *id));
                }
                self.ids_until.insert((until, *id));
            }
            Input::Sequence { producer, epoch, seq } => {
                let known = self.producers.entry(*producer).or_default();
                self.producers_until.remove(&(known.until, *producer));
                known.note(*epoch, *seq, until);
                self.producers_until.insert((until, *producer));
            }
        }
    }

    fn forget(&mut self, now: Millis) {
        while let Some((until, id)) = self.ids_until.first().copied()
            && (until <= now || self.ids.len() > IDS_MAX)
        {
            self.ids_until.pop_first();
            self.ids.remove(&id);
        }
        while let Some((until, producer)) = self.producers_until.first().copied()
            && (until <= now || self.producers.len() > PRODUCERS_MAX)
        {
            self.producers_until.pop_first();
            self.producers.remove(&producer);
        }
    }
}

impl Producer {
    fn find(&self, epoch: u32, seq: u64) -> Known {
        match epoch.cmp(&self.epoch) {
            std::cmp::Ordering::Less => Known::Fenced(self.epoch),
            std::cmp::Ordering::Greater => Known::New,
            std::cmp::Ordering::Equal if self.seen.contains(Offset(seq)) => Known::Stored,
            std::cmp::Ordering::Equal if seq < self.floor => Known::Forgotten(self.floor),
            std::cmp::Ordering::Equal => Known::New,
        }
    }

    fn note(&mut self, epoch: u32, seq: u64, until: Millis) {
        if epoch > self.epoch {
            *self = Producer { epoch, ..Producer::default() };
        }
        self.until = until;
        if epoch == self.epoch && seq < u64::MAX {
            self.seen.insert(Offset(seq));
        }
        while self.seen.range_count() > RUNS_MAX {
            let first = self.seen.iter().next().expect("there are many");
            self.floor = first.end.0;
            self.seen.remove_range(first);
        }
    }
}

impl View for Inputs {
    fn name(&self) -> &'static str {
        "inputs"
    }

    fn apply(&mut self, _at: Offset, time: Millis, record: Record<'_>) {
        if let Record::Control(Control::InputNoted { input, until }) = record {
            self.note(input, *until);
            self.forget(time);
        }
    }

    fn due(&self, _now: Millis, _out: &mut Vec<Control>) {}

    fn snapshot(&self) -> Vec<u8> {
        let producer = |(id, producer): (&u64, &Producer)| ProducerRow {
            id: *id,
            epoch: producer.epoch,
            until: producer.until.0,
            seen: producer.seen.iter().map(|run| (run.start.0, run.end.0)).collect(),
            floor: producer.floor,
        };
        encode_rows(&Rows {
            ids: self.ids.iter().map(|(id, until)| (*id, until.0)).collect(),
            producers: self.producers.iter().map(producer).collect(),
        })
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), SectionError> {
        let Rows { ids, producers } = decode_rows(section)?;
        *self = Inputs::default();
        for (id, until) in ids {
            self.ids.insert(id, Millis(until));
            self.ids_until.insert((Millis(until), id));
        }
        for ProducerRow { id, epoch, until, seen, floor } in producers {
            let mut producer =
                Producer { epoch, until: Millis(until), seen: OffsetSet::default(), floor };
            for (start, end) in seen {
                producer.seen.insert_range(Offset(start)..Offset(end));
            }
            self.producers.insert(id, producer);
            self.producers_until.insert((Millis(until), id));
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Rows {
    ids: Vec<(u128, u64)>,
    producers: Vec<ProducerRow>,
}

#[derive(Serialize, Deserialize)]
struct ProducerRow {
    id: u64,
    epoch: u32,
    until: u64,
    seen: Vec<(u64, u64)>,
    floor: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(epoch: u32, seq: u64) -> Input {
        Input::Sequence { producer: 7, epoch, seq }
    }

    fn note(inputs: &mut Inputs, time: u64, input: Input, until: u64) {
        let control = Control::InputNoted { input, until: Millis(until) };
        inputs.apply(Offset(0), Millis(time), Record::Control(&control));
    }

    #[test]
    fn a_name_is_known_until_its_time_whoever_else_is_noted() {
        let mut inputs = Inputs::default();
        note(&mut inputs, 0, Input::Id(1), 100);
        assert_eq!(inputs.find(&Input::Id(1), Millis(99)), Known::Stored);
        assert_eq!(inputs.find(&Input::Id(1), Millis(100)), Known::New);
        assert_eq!(inputs.find(&Input::Id(2), Millis(0)), Known::New);

        note(&mut inputs, 100, Input::Id(2), 200);
        assert_eq!(inputs.counts(), (1, 0));
    }

    #[test]
    fn a_producer_fills_its_gaps_and_a_later_life_ends_it() {
        let mut inputs = Inputs::default();
        for seq in [0, 1, 2, 5] {
            note(&mut inputs, 0, sequence(3, seq), 1000);
        }
        let at = Millis(10);
        assert_eq!(inputs.find(&sequence(3, 1), at), Known::Stored);
        assert_eq!(inputs.find(&sequence(3, 4), at), Known::New, "refused before, perhaps");
        assert_eq!(inputs.find(&sequence(3, 6), at), Known::New);
        assert_eq!(inputs.find(&sequence(2, 6), at), Known::Fenced(3));
        assert_eq!(inputs.find(&sequence(4, 0), at), Known::New);

        note(&mut inputs, 0, sequence(4, 0), 1000);
        assert_eq!(inputs.find(&sequence(3, 9), at), Known::Fenced(4));
        assert_eq!(inputs.find(&sequence(4, 1), at), Known::New);
        assert_eq!(inputs.find(&sequence(4, 0), Millis(1000)), Known::New, "forgotten with it");
    }

    #[test]
    fn what_is_below_the_last_runs_is_old_and_never_new() {
        let mut inputs = Inputs::default();
        for seq in 0..100 {
            note(&mut inputs, 0, sequence(0, seq * 2), 1000);
        }
        let Known::Forgotten(floor) = inputs.find(&sequence(0, 1), Millis(0)) else {
            panic!("it may have been stored")
        };
        assert_eq!(floor, 71, "64 runs are kept");
        assert_eq!(inputs.find(&sequence(0, 72), Millis(0)), Known::Stored);
        assert_eq!(inputs.find(&sequence(0, 73), Millis(0)), Known::New);
        assert_eq!(inputs.find(&sequence(0, 70), Millis(0)), Known::Forgotten(71));
    }
}
