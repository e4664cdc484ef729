//! Replicas of one partition in one process, stepped by hand: elections, replication, and what becomes of those that fail.

mod cluster;
mod elect;
mod govern;
mod lifetime;
mod rejoin;
mod repair;
mod snapshot;
mod tenure;
