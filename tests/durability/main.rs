//! The real binary, killed with SIGKILL under load and started again on what it left: what was confirmed is there.
//!
//! Nothing here looks inside the broker: processes, sockets and our own clients. `FLUXMQ_KILLS` is the number of kills of each
//! of the load tests (default 3), `FLUXMQ_SEED` repeats a run's random choices; both are printed. Storage and partitions
//! are configured by the broker's own variables, such as `FLUXMQ_PARTITIONS__DATA`.

#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

mod amqp;
mod at_least_once;
mod exactly_once;
mod inspect;
mod ledger;
mod listener;
mod process;
mod publisher;
mod refuse;
mod rng;
mod stop;
mod subscriber;
mod world;

#[path = "../amqp/mod.rs"]
mod peer;
