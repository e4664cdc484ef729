//! The broker below its sockets: sessions, queues, retained messages and exactly-once, each with one partition and with four.

#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

mod authorization;
mod bad_input;
mod bindings;
mod bounds;
mod consumer_laws;
mod consumers;
mod dead_letter_exchanges;
mod dead_letters;
mod ephemeral;
mod exchange;
mod exchanges;
mod expiry;
mod inputs;
mod kept;
mod lifetimes;
mod limits;
mod managed_connections;
mod managed_exchanges;
mod management;
mod passed_on;
mod priorities;
mod queue_laws;
mod queue_rules;
mod queues;
mod replay;
mod resigned;
mod retention;
mod retroactive;
mod rewind;
mod route;
mod sessions;
mod shared;
mod statistics;
mod storage;
mod subscribing;
mod tenure;
mod topic_exchange;
mod transactions;
mod wills;
mod wire;
mod world;
