//! Sockets: accept connections, and drive a protocol machine over each.
//!
//! The only place, with `server`, that awaits.

pub mod drive;
pub mod listener;
pub mod mailbox;
