//! FluxMQ: a storage-centric, durable log broker. Bottom layer first; `docs/architecture.md` draws it.
//!
//! * [`model`]: the words that the layers share: messages, addresses, records, commands, effects.
//! * [`view`]: folds over committed records: sessions, retained messages, queues and groups, duplicates.
//! * [`raft`]: consensus over the partition log, behind one type.
//! * [`auth`]: who a client is and what it may do: users, credentials, the access list.
//! * [`protocol`]: sans-IO machines, one folder each; they meet the broker in `model` only.
//! * [`partition`]: a log, a Raft group, the views and who listens; no thread, no clock.
//! * [`planted`]: deliberate defects for the simulator, none without their feature.
//! * [`shard`]: the thread that owns partitions.
//! * [`broker`]: what a connection holds: placement, and the machine between its protocol and the partitions.
//! * [`net`]: sockets, and the one loop that drives every connection.
//! * [`config`]: one typed tree of everything that can be set.
//! * [`telemetry`]: log events to standard error.
//! * [`server`]: wires the above; the order of starting and stopping.
//! * [`client`]: our own MQTT client, for tools, tests and bridges.
//! * [`ctl`]: what `mqttctl` does.

pub mod auth;
pub mod broker;
pub mod client;
pub mod config;
pub mod ctl;
pub mod model;
pub mod net;
pub mod partition;
pub mod planted;
pub mod protocol;
pub mod raft;
pub mod server;
pub mod shard;
pub mod telemetry;
pub mod view;
