//! Many seeds, side by side, and what they saw together.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::coverage::{Coverage, Point};
use crate::run::{Outcome, run};

/// A long campaign is watched.
const SEEDS_BETWEEN_REPORTS: u64 = 2_000;

/// What a campaign found.
#[derive(Default)]
pub struct Campaign {
    pub seeds: u64,
    pub failures: Vec<(u64, String)>,
    /// Seeds at whose end a partition stood still as it must.
    pub stopped: Vec<u64>,
    pub coverage: Coverage,
    pub hashes: BTreeMap<u64, u64>,
}

/// How many threads run seeds; each seed is on one.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Runs the seeds, stopping soon after `failures_max` have failed.
pub fn campaign(seeds: &[u64], failures_max: usize) -> Campaign {
    let next = AtomicU64::new(0);
    let failed = AtomicU64::new(0);
    let work = || {
        let mut outcomes = Vec::new();
        loop {
            let begun = next.fetch_add(1, Ordering::Relaxed);
            let Some(seed) = seeds.get(begun as usize) else { break };
            if begun > 0 && begun.is_multiple_of(SEEDS_BETWEEN_REPORTS) {
                println!("{begun} of {} seeds begun", seeds.len());
            }
            if failed.load(Ordering::Relaxed) >= failures_max as u64 {
                break;
            }
            let outcome = run(*seed, false, None);
            if let Some(violation) = &outcome.violation {
                // At once: a long campaign is watched, and may be ended before its time.
                report_failure(*seed, violation);
                failed.fetch_add(1, Ordering::Relaxed);
            }
            outcomes.push(outcome);
        }
        outcomes
    };
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads()).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("seeds catch panics")).collect()
    });
    let mut campaign = Campaign::default();
    for outcome in outcomes {
        campaign.seeds += 1;
        campaign.coverage.add(&outcome.coverage);
        campaign.hashes.insert(outcome.seed, outcome.hash);
        campaign.stopped.extend(outcome.is_stopped.then_some(outcome.seed));
        if let Some(violation) = outcome.violation {
            campaign.failures.push((outcome.seed, violation.to_string()));
        }
    }
    campaign.failures.sort();
    campaign
}

impl Campaign {
    /// Prints what was seen, and how to see a failure again.
    pub fn report(&self, since: Instant) {
        println!("{} seeds in {:.1} s", self.seeds, since.elapsed().as_secs_f64());
        for point in Point::ALL {
            println!("{:>10}  {}", self.coverage.count(*point), point.words());
        }
        if !self.stopped.is_empty() {
            let stopped = &self.stopped;
            println!("a partition stopped where nobody has what was lost, in seeds {stopped:?}");
        }
        for (seed, what) in &self.failures {
            report_failure(*seed, what);
        }
    }
}

fn report_failure(seed: u64, what: impl Display) {
    println!("seed {seed}: {what}");
    println!(
        "    FLUXMQ_SIM_SEED={seed} cargo test --profile perf --test sim replay -- --nocapture"
    );
}
