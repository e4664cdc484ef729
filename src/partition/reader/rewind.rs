//! Going back: a client that does not take its deliveries gives them back, and the log has them.
//!
//! A reader is held first, so that nothing of it is on its way when its connection says what it did not begin. It goes on where the
//! oldest of that was, once it has credit again. Who asks names whole ends of what was handed out: nothing after the place that it
//! goes back to was begun, so nothing is handed out twice.

use super::{Place, Readers};
use crate::model::{DeliverySource, ReaderId};
use crate::partition::request::{ConnectionId, Rewind};

impl Readers {
    /// Lets a reader hand out nothing more before it has credit again.
    pub fn hold(&mut self, reader: (ConnectionId, ReaderId)) {
        let Some(slot) = self.by_connection.get(&reader) else { return };
        if let Some(reader) = self.slots[*slot as usize].as_mut() {
            reader.window.hold();
        }
    }

    /// Takes deliveries back from a connection, to hand them out again.
    pub fn rewind(&mut self, connection: ConnectionId, rewind: Rewind) {
        let Some(slot) = self.by_connection.get(&(connection, rewind.reader)).copied() else {
            return;
        };
        let Some(reader) = self.slots[slot as usize].as_mut() else { return };
        reader.window.take_back(rewind.count);
        if let Some(to) = rewind.to {
            reader.place = Place::Behind(match reader.place {
                Place::Live => to,
                Place::Behind(next) => next.min(to),
            });
        }
        if let Some(replay) = &mut reader.replay {
            replay.unsay(|id| match id.source {
                DeliverySource::Retained(_, subscription) => {
                    rewind.retained.contains(&(id.offset, subscription))
                }
                _ => rewind.to.is_some_and(|to| id.offset >= to),
            });
        }
        for asked in rewind.retained.into_iter().rev() {
            reader.retained.push_front(asked);
        }
        self.behind.insert(slot);
        self.settle_place(slot);
    }
}
