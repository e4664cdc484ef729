//! A client that replays: every connection asks for another beginning, and must get everything from there on.

use bytes::Bytes;
use fluxmq::client::Incoming;
use fluxmq::model::{PartitionId, Topic};
use fluxmq::partition::request::ConnectionId;
use fluxmq_index::Offset;

use crate::checkers::replays::Start;
use crate::client::Role;
use crate::coverage::Point;
use crate::node::EPOCH_MS;
use crate::world::World;

/// Reads where a replayed message is stored.
pub fn place_of(incoming: &Incoming) -> Option<(PartitionId, Offset)> {
    let number = |name: &str| {
        let value = incoming.properties.user(name.as_bytes())?;
        std::str::from_utf8(&value).ok()?.parse::<u64>().ok()
    };
    let partition = PartitionId(number("x-stream-partition")? as u16);
    Some((partition, Offset(number("x-stream-offset")?)))
}

impl World {
    /// A client that connects chooses what it replays, if it is one of those that do.
    pub fn choose_replay(&mut self, client: usize, on: ConnectionId) {
        let it = &mut self.clients[client];
        let Role::Replayer { filters, address } = &mut it.role else { return };
        let filter = it.random.pick(filters).clone();
        let is_literal = !filter.ends_with('#');
        let (text, from) = match it.random.below(3) {
            0 if is_literal => {
                let topic = Topic::new(Bytes::from(filter.clone())).expect("a topic");
                let frames = self.ledger.frames(self.placement.topic(&topic));
                let end = frames.last().map_or(0, |frame| frame.header.end_offset().0);
                let offset = it.random.below(end + 1);
                (format!("offset={offset}"), Start::Offset(offset))
            }
            1 => {
                let time = EPOCH_MS + it.random.below(self.now / 1000 + 1);
                (format!("timestamp={time}"), Start::Time(time))
            }
            _ => ("earliest".to_owned(), Start::Earliest),
        };
        self.coverage.hit(match from {
            Start::Earliest => Point::ReplayedEarliest,
            Start::Offset(_) | Start::Time(_) => Point::ReplayedFrom,
        });
        *address = format!("$replay/{text}/{filter}");
        self.replays.begin(on, filter, from);
    }
}
