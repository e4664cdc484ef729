//! What is stored together or not at all.

use fluxmq_index::Offset;

use super::Publish;
use crate::model::{Outcome, Token};

/// What takes effect together, or not at all. Messages are not retained, not QoS 0 and not under the packet id of a QoS 2 publish.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// In their order.
    pub publishes: Vec<Publish>,
    /// What of this connection's deliveries ends.
    pub settled: Vec<Settled>,
    /// Echoed, if anybody waits.
    pub token: Option<Token>,
}

/// The end of one delivery.
#[derive(Clone, Copy, Debug)]
pub struct Settled {
    /// As in `Join`.
    pub membership: u32,
    /// Queue offset.
    pub entry: Offset,
    /// How it ended.
    pub outcome: Outcome,
}
