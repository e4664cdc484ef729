//! The crash suite catches each defect planted for it; a checker that never caught one is decoration.
//!
//! Needs the feature `planted-bugs`. One binary, one test: the switch is the process's.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // All of it is test code.
#![cfg(feature = "planted-bugs")]

mod support;

use fluxmq_log::planted::{PlantedBug, plant};
use support::history::{Effort, run};

/// Histories a defect may survive at most.
const RUNS_MAX: u64 = 50;

#[test]
fn the_suite_catches_every_planted_bug() {
    // Votes and repair are not part of these histories: the simulator's cluster catches them.
    let elsewhere =
        [PlantedBug::VoteBeforeSync, PlantedBug::RepairUnverified, PlantedBug::RepairUnchained];
    let bugs = PlantedBug::ALL.into_iter().filter(|bug| !elsewhere.contains(bug));
    for bug in bugs {
        // Where everything written is synced, that claim is true.
        let is_lazy = bug == PlantedBug::ClaimUnsynced;
        let effort = Effort { operations: 80, seeds_per_point: 3, nested_every: 0, is_lazy };
        plant(Some(bug));
        let caught = (1..=RUNS_MAX).find_map(|seed| Some((seed, run(seed, effort).err()?)));
        plant(None);
        match caught {
            Some((seed, how)) => println!("{}: caught by run {seed}: {how}", bug.name()),
            None => panic!("{} survived {RUNS_MAX} histories", bug.name()),
        }
    }
}
