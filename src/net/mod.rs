//! Sockets: accept connections, and drive a protocol machine over each.
//!
//! The only place, with `server`, that awaits.

pub mod admission;
pub mod arrival;
pub mod drive;
pub mod gate;
mod linger;
pub mod listener;
pub mod mailbox;
pub mod pressure;
mod proxy;
pub mod shortage;
pub mod steward;
pub mod tls;
pub mod transport;
pub mod websocket;
pub mod wills;
