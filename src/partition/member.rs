//! One member of a group: what it asked for, and what it may still be handed.

use std::sync::Arc;

use fluxmq_index::topic_trie;

use super::gap::Gap;
use super::request::{ConnectionId, Join};
use super::window::Window;
use crate::model::annotations::ConsumerNames;
use crate::model::{Selection, Topic};

/// A member of a group.
#[derive(Debug)]
pub struct Member {
    pub(super) connection: ConnectionId,
    pub(super) join: Join,
    pub(super) window: Window,
    /// What is said of every entry it is handed; a shared subscription says nothing.
    pub(super) names: Option<Arc<ConsumerNames>>,
    /// What is missing where it began, until its first delivery has said so.
    pub(super) gap: Option<Gap>,
    /// Its filter matches everything that the queue has.
    wants_all: bool,
}

impl Member {
    pub(super) fn new(
        connection: ConnectionId,
        join: Join,
        window: Window,
        reads: &Selection,
    ) -> Member {
        let names = match reads {
            Selection::Topics(_) => None,
            Selection::Queue(queue) => {
                let (queue, group) = (queue.clone(), join.group.clone());
                Some(Arc::new(ConsumerNames { queue, group }))
            }
        };
        let wants_all = wants_all(&join, reads);
        Member { connection, join, window, names, gap: None, wants_all }
    }

    /// It joins once more, as something else.
    pub(super) fn rejoin(&mut self, join: Join, reads: &Selection) {
        self.wants_all = wants_all(&join, reads);
        self.gap = None;
        self.join = join;
    }

    /// Tells whether an entry of this topic is for it.
    pub(super) fn wants(&self, topic: &Topic) -> bool {
        self.wants_all || topic_trie::matches(self.join.filter.as_bytes(), topic.as_bytes())
    }

    /// Names it in the partition.
    pub(super) fn holder(&self) -> (ConnectionId, u32) {
        (self.connection, self.join.membership)
    }
}

/// Tells whether a member's filter matches every entry of what its group reads, so that none is to be looked at.
fn wants_all(join: &Join, reads: &Selection) -> bool {
    matches!(reads, Selection::Queue(queue) if join.filter == queue.filter())
}
