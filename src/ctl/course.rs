//! How far a replay is: where history ended when it began, and where the newest of what came is.
//!
//! The broker says where history ends to who asks for it (`replay-end: report`), as the newest matching message of each partition, and of
//! each delivery where it is.

use std::collections::BTreeMap;

use crate::client::Incoming;
use crate::model::Millis;
use crate::protocol::mqtt::property::{Property, PropertyList};

/// Asks to be told where history ends: a user property of SUBSCRIBE.
pub(super) fn ends_reported() -> (String, String) {
    ("replay-end".to_owned(), "report".to_owned())
}

/// How far a replay goes, and how far it is.
#[derive(Debug, Default)]
pub(super) struct Course {
    /// The last offset of each partition that is not over.
    ends: BTreeMap<u16, u64>,
    /// The first offset that came, the newest, and the last, of all partitions that were heard of.
    places: BTreeMap<u16, [u64; 3]>,
    until: Option<Millis>,
}

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    partition: u16,
    offset: u64,
    time: Millis,
}

impl Course {
    /// Reads the broker's answer; `None` where that does not say where history ends.
    pub(super) fn of(said: &PropertyList) -> Option<Course> {
        let mut course = Course::default();
        let mut is_said = false;
        for property in said.iter() {
            let Property::User(key, value) = property else { continue };
            if key != "x-replay-end" {
                continue;
            }
            is_said = true;
            let text = String::from_utf8_lossy(&value);
            let place = text.split_once(':').and_then(|(partition, offset)| {
                Some((partition.parse::<u16>().ok()?, offset.parse::<u64>().ok()?))
            });
            course.ends.extend(place);
        }
        is_said.then_some(course)
    }

    /// Ends it before the first message that is later.
    pub(super) fn until(self, until: Option<Millis>) -> Course {
        Course { until, ..self }
    }

    /// Returns true when all of history has come.
    pub(super) fn is_over(&self) -> bool {
        self.ends.is_empty()
    }

    /// Takes note of a message; true when it is to be printed.
    pub(super) fn passes(&mut self, place: Place) -> bool {
        let Place { partition, offset, time } = place;
        let Some(end) = self.ends.get(&partition).copied() else { return false };
        let seen = self.places.entry(partition).or_insert([offset, offset, end]);
        seen[1] = offset.min(end);
        let is_late = self.until.is_some_and(|until| time > until);
        if is_late || offset >= end {
            seen[1] = end;
            self.ends.remove(&partition);
        }
        !is_late && offset <= end
    }

    /// How much is done of how much, in offsets.
    pub(super) fn done(&self) -> (u64, u64) {
        let sum =
            |at: usize| -> u64 { self.places.values().map(|place| place[at] + 1 - place[0]).sum() };
        (sum(1), sum(2))
    }
}

/// Where a message is, as its delivery says; `None` for one that nothing stored.
pub(super) fn place_of(message: &Incoming) -> Option<Place> {
    let number = |name: &str| -> Option<u64> {
        let value = message.properties.user(name.as_bytes())?;
        std::str::from_utf8(&value).ok()?.parse().ok()
    };
    Some(Place {
        partition: u16::try_from(number("x-stream-partition")?).ok()?,
        offset: number("x-stream-offset")?,
        time: Millis(number("x-stream-timestamp")?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::user;

    fn said(values: &[&str]) -> PropertyList {
        let pairs = values.iter().map(|value| ("x-replay-end".to_owned(), (*value).to_owned()));
        user(&pairs.collect::<Vec<_>>()).collect()
    }

    fn at(partition: u16, offset: u64, time: u64) -> Place {
        Place { partition, offset, time: Millis(time) }
    }

    #[test]
    fn it_is_over_when_every_partition_has_reached_its_end() {
        let mut course = Course::of(&said(&["1:10", "2:5"])).unwrap();
        assert!(course.passes(at(1, 4, 0)) && course.passes(at(1, 10, 0)));
        assert_eq!(course.done(), (7, 7), "what is known of");
        assert!(!course.is_over());
        assert!(!course.passes(at(1, 11, 0)), "published meanwhile");
        assert!(!course.passes(at(3, 1, 0)), "where nothing was");
        assert!(course.passes(at(2, 4, 0)));
        assert_eq!(course.done(), (8, 9));
        // The message at its end is gone, by its expiry for one: a later one says so too.
        assert!(!course.passes(at(2, 6, 0)));
        assert!(course.is_over());
    }

    #[test]
    fn a_time_ends_it_and_is_the_last_that_is_printed() {
        let mut course = Course::of(&said(&["1:10"])).unwrap().until(Some(Millis(50)));
        assert!(course.passes(at(1, 4, 49)) && course.passes(at(1, 5, 50)));
        assert!(!course.is_over());
        assert!(!course.passes(at(1, 6, 51)));
        assert!(course.is_over());
    }

    #[test]
    fn nothing_stored_is_over_at_once_and_silence_is_another_broker() {
        assert!(Course::of(&said(&["none"])).unwrap().is_over());
        assert!(Course::of(&said(&[])).is_none());
    }
}
