//! Consensus: the Raft library behind [`Node`]. Nothing above `partition` knows which library it is.
//!
//! The Raft log is the partition log: one entry is one frame, written once.

mod logger;
mod node;
mod store;

pub use node::{Node, NodeError};
