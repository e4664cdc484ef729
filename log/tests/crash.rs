//! The crash suite: random histories, a crash after every operation on the disk, and an oracle.
//!
//! `FLUXMQ_CRASH_HISTORIES` (default few; a quarter as many acknowledge what is only written), `FLUXMQ_CRASH_SEED` (the first of them), `FLUXMQ_CRASH_OPERATIONS` per history and
//! `FLUXMQ_CRASH_SEEDS` per crash point set the effort; more than a few belong into a release build.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // All of it is test code.

mod support;

use support::history::{Effort, Seen, run};

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_invented() {
    let seen = campaign(false, from_environment("FLUXMQ_CRASH_HISTORIES", 4));
    assert_eq!(seen.unsynced_lost + seen.unsynced_kept, 0, "everything written is synced");
}

/// Acknowledged means written here: a power cut may take what was not synced, from its end, and no more; the end of the process
/// takes nothing.
#[test]
fn nothing_synced_is_lost_and_nothing_written_by_a_kill() {
    let seen = campaign(true, from_environment("FLUXMQ_CRASH_HISTORIES", 4).div_ceil(4));
    assert!(seen.unsynced_lost > 0 && seen.unsynced_kept > 0, "{seen:?}");
}

fn campaign(is_lazy: bool, histories: u64) -> Seen {
    let first = from_environment("FLUXMQ_CRASH_SEED", 1);
    let effort = Effort {
        operations: from_environment("FLUXMQ_CRASH_OPERATIONS", 50),
        seeds_per_point: from_environment("FLUXMQ_CRASH_SEEDS", 3),
        nested_every: 50,
        is_lazy,
    };

    let mut seen = Seen::default();
    for seed in first..first + histories {
        match run(seed, effort) {
            Ok(more) => seen.add(more),
            Err(failure) => panic!("{failure}"),
        }
    }

    println!("{histories} histories, lazy {is_lazy}: {seen:?}");
    assert!(seen.crash_points >= histories * effort.operations, "{seen:?}");
    if histories >= 100 {
        assert!(
            seen.interesting().iter().all(|count| *count > 0),
            "a state was never reached: {seen:?}"
        );
    }
    seen
}
