//! Consensus: the Raft library behind [`Node`]. Nothing above `partition` knows which library it is.
//!
//! The Raft log is the partition log: one entry is one frame, written once.

mod govern;
mod guard;
#[cfg(test)]
mod guard_tests;
mod logger;
mod member;
mod node;
mod peer;
mod random;
mod rejoin;
mod repair;
mod store;
mod transfer;

pub use govern::{GovernError, MemberChange};
pub use member::{Member, Members, MembersError, ReplicaId};
pub use node::{Node, NodeError, Role};
pub use peer::PeerError;
pub use repair::{Parting, Repair, RepairError, Repaired};
