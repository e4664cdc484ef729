//! Topic aliases towards the client: which topics it knows by number (MQTT 5 §3.3.2.3.4).
//!
//! First come, first served, until all numbers are given. Then a topic that is sent takes a number from one that is not: every
//! alias has a store of uses, each topic without one takes from the stores in turn, and an empty one is given away. So a few busy
//! topics among very many keep theirs, and those that fell silent lose them. Of one connection, never kept beyond it.

use std::collections::HashMap;

use bytes::Bytes;

/// Bytes of all topics together: a client that announces many aliases costs no more.
const TOPIC_BYTES_MAX: usize = 8 << 10;
/// Uses that an alias is remembered for.
const USES_MAX: u8 = 15;
/// What an alias costs in the property list.
pub(super) const ALIAS_BYTES: usize = 3;

/// The aliases of one client.
#[derive(Debug, Default)]
pub(super) struct TopicAliases {
    max: u16,
    /// Never iterated.
    by_topic: HashMap<Bytes, u16>,
    /// By number, from 1 on.
    given: Vec<Given>,
    bytes: usize,
    /// Whose store is taken from next.
    hand: usize,
}

#[derive(Debug)]
struct Given {
    topic: Bytes,
    uses: u8,
}

/// How to name a topic in a PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// In full.
    Topic,
    /// In full, and by this alias from now on.
    Define(u16),
    /// By this alias alone.
    Alias(u16),
}

impl TopicAliases {
    /// Returns the aliases of a client that takes so many [MQTT-3.1.2-26]; 0 is none.
    pub(super) fn new(max: u16) -> TopicAliases {
        TopicAliases { max, ..TopicAliases::default() }
    }

    /// Chooses how to name a topic in the next packet, which must be sent. `may_define` says whether the packet has room for an alias.
    pub(super) fn name(&mut self, topic: &[u8], may_define: impl FnOnce() -> bool) -> Naming {
        // A short topic is no longer than the alias that would save it.
        if self.max == 0 || topic.len() <= ALIAS_BYTES {
            return Naming::Topic;
        }
        if let Some(number) = self.by_topic.get(topic).copied() {
            let given = &mut self.given[usize::from(number) - 1];
            given.uses = USES_MAX.min(given.uses + 1);
            return Naming::Alias(number);
        }
        if !may_define() {
            return Naming::Topic;
        }
        match self.free(topic.len()) {
            Some(number) => {
                self.give(number, topic);
                Naming::Define(number)
            }
            None => Naming::Topic,
        }
    }

    /// A packet was not sent after all: every number is given anew.
    pub(super) fn forget(&mut self) {
        *self = TopicAliases::new(self.max);
    }

    /// Returns a number that no topic has, or one whose topic has used its store up.
    fn free(&mut self, topic_bytes: usize) -> Option<u16> {
        let next = u16::try_from(self.given.len() + 1).ok().filter(|next| *next <= self.max);
        if let Some(next) = next
            && self.bytes + topic_bytes <= TOPIC_BYTES_MAX
        {
            return Some(next);
        }
        let at = self.hand.checked_rem(self.given.len())?;
        self.hand = at + 1;
        let given = &mut self.given[at];
        if given.uses > 0 {
            given.uses -= 1;
            return None;
        }
        let fits = self.bytes - given.topic.len() + topic_bytes <= TOPIC_BYTES_MAX;
        fits.then(|| u16::try_from(at + 1).expect("no more are given than there are numbers"))
    }

    fn give(&mut self, number: u16, topic: &[u8]) {
        // A copy: the message's own would keep its frame in memory.
        let topic = Bytes::copy_from_slice(topic);
        self.bytes += topic.len();
        self.by_topic.insert(topic.clone(), number);
        let new = Given { topic, uses: 1 };
        match self.given.get_mut(usize::from(number) - 1) {
            None => self.given.push(new),
            Some(given) => {
                let old = std::mem::replace(given, new);
                self.bytes -= old.topic.len();
                self.by_topic.remove(&old.topic);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_named_in_full_once() {
        let mut aliases = TopicAliases::new(2);
        assert_eq!(aliases.name(b"a/long/one", || true), Naming::Define(1));
        assert_eq!(aliases.name(b"a/long/two", || true), Naming::Define(2));
        for _ in 0..5 {
            assert_eq!(aliases.name(b"a/long/one", || true), Naming::Alias(1));
            assert_eq!(aliases.name(b"a/long/two", || true), Naming::Alias(2));
        }
        assert_eq!(aliases.name(b"t/1", || true), Naming::Topic, "an alias would be no shorter");
        assert_eq!(TopicAliases::new(0).name(b"a/long/one", || true), Naming::Topic);
    }

    #[test]
    fn busy_topics_keep_their_numbers_among_very_many_others() {
        let mut aliases = TopicAliases::new(4);
        let mut saved = 0;
        for round in 0..1000 {
            for busy in 0..4 {
                let naming = aliases.name(format!("busy/{busy}").as_bytes(), || true);
                saved += usize::from(matches!(naming, Naming::Alias(_)));
            }
            let rare = aliases.name(format!("rare/{round}").as_bytes(), || true);
            assert_eq!(rare, Naming::Topic);
        }
        assert_eq!(saved, 4 * 999);
    }

    #[test]
    fn topics_that_fell_silent_give_their_numbers_to_those_that_are_sent() {
        let mut aliases = TopicAliases::new(4);
        for _ in 0..100 {
            for old in 0..4 {
                aliases.name(format!("before/{old}").as_bytes(), || true);
            }
        }
        let mut named = Vec::new();
        for _ in 0..100 {
            named = (0..4)
                .map(|new| aliases.name(format!("after/{new}").as_bytes(), || true))
                .collect();
        }
        assert!(named.iter().all(|naming| matches!(naming, Naming::Alias(_))), "{named:?}");
        assert_eq!(aliases.by_topic.len(), 4);
    }

    /// What a client does with them: a number must mean what it was last sent with.
    #[test]
    fn a_client_always_finds_the_topic_that_was_meant_within_the_bytes_there_are() {
        let mut aliases = TopicAliases::new(8);
        let mut known: HashMap<u16, Vec<u8>> = HashMap::new();
        let mut state = 7_u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let pick = (state >> 40) % if state >> 63 == 0 { 12 } else { 4 };
            let topic = format!("{}/{}", "x".repeat(pick as usize * 300), pick).into_bytes();
            match aliases.name(&topic, || true) {
                Naming::Topic => {}
                Naming::Define(number) => drop(known.insert(number, topic)),
                Naming::Alias(number) => assert_eq!(known[&number], topic),
            }
            assert!(aliases.given.len() <= 8 && aliases.bytes <= TOPIC_BYTES_MAX);
            let bytes: usize = aliases.given.iter().map(|given| given.topic.len()).sum();
            assert_eq!(aliases.bytes, bytes);
        }
    }
}
