//! The detection score: defects planted one at a time, each of which the checkers named for it must find, each of them alone.

use std::sync::atomic::{AtomicUsize, Ordering};

use fluxmq::planted::PlantedBug as B;
use fluxmq_log::planted::PlantedBug as L;

use crate::campaign::threads;
use crate::checkers::Invariant::{self, *};
use crate::run::run;

/// Seeds within which a defect must be found, unless told otherwise.
const SEEDS_MAX: u64 = 20;
/// Those that a quick run tries: each is found within a few seeds.
const QUICK: &[(Bug, Invariant)] = &[
    (Bug::Broker(B::ConfirmBeforeCommit), I1),
    (Bug::Broker(B::PublishesReversed), I5),
    (Bug::Broker(B::HintForgotten), I7),
    (Bug::Log(L::AckBeforeFlush), I8),
    (Bug::Broker(B::BacklogReversed), I12),
    (Bug::Broker(B::FollowerSkipsProgress), I15),
    (Bug::Broker(B::VerbUnstored), I27),
    (Bug::Broker(B::NeighbourSettled), I28),
    (Bug::Broker(B::HistoryLeftOut), I32),
];

/// A defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    Log(L),
    Broker(B),
}

/// Each defect, and the checkers that must find it.
const PLANTED: &[(Bug, &[Invariant])] = &[
    (Bug::Broker(B::ConfirmBeforeCommit), &[I1]),
    (Bug::Broker(B::ConfirmOnResign), &[I1]),
    (Bug::Broker(B::AckBeforeConfirm), &[I1]),
    (Bug::Broker(B::StoreRefused), &[I2]),
    (Bug::Broker(B::CutPayload), &[I2]),
    (Bug::Broker(B::DedupFindsNothing), &[I3]),
    (Bug::Broker(B::KeyedByConnection), &[I3]),
    (Bug::Broker(B::SupersededUnheard), &[I3]),
    (Bug::Broker(B::ReleasedUnstored), &[I11]),
    (Bug::Broker(B::DedupRestoresNothing), &[I16]),
    (Bug::Broker(B::HintForgotten), &[I4, I7]),
    (Bug::Broker(B::OwnTime), &[I4, I7]),
    (Bug::Broker(B::PublishesReversed), &[I5]),
    (Bug::Broker(B::AskedInReverse), &[I5]),
    (Bug::Broker(B::StoredLaterQos1), &[I6]),
    (Bug::Broker(B::StoredLaterQos2), &[I6]),
    (Bug::Log(L::AckBeforeFlush), &[I8]),
    (Bug::Log(L::SyncNowAndThen), &[I8]),
    (Bug::Log(L::VoteBeforeSync), &[I9]),
    (Bug::Broker(B::VoteForgotten), &[I9]),
    (Bug::Broker(B::NeighbourSettled), &[I10, I28]),
    (Bug::Broker(B::SubscribedLate), &[I10]),
    (Bug::Broker(B::ReceivedUnstored), &[I11]),
    (Bug::Broker(B::AssignedUnstored), &[I11]),
    (Bug::Broker(B::ResumedAtStart), &[I11]),
    (Bug::Broker(B::CopiesTaken), &[I11]),
    (Bug::Broker(B::DispatchedWhenBehind), &[I10, I30]),
    (Bug::Broker(B::BacklogReversed), &[I12, I30]),
    (Bug::Broker(B::NewestFirst), &[I12]),
    (Bug::Broker(B::RetainedQos0Waits), &[I12]),
    (Bug::Broker(B::DeliverBeforeCommit), &[I13]),
    (Bug::Broker(B::PromiseBeforeFlush), &[I13]),
    (Bug::Broker(B::CommitAlone), &[I13]),
    (Bug::Broker(B::CursorSkipsUnsent), &[I14]),
    (Bug::Broker(B::ClosedAtEnd), &[I14]),
    (Bug::Broker(B::FollowerSkipsProgress), &[I15]),
    (Bug::Broker(B::DedupNeverForgets), &[I15]),
    (Bug::Broker(B::RestoreForgetsCursors), &[I16]),
    (Bug::Broker(B::RestoreForgetsFinished), &[I16]),
    (Bug::Broker(B::RetainedKeepsFirst), &[I17]),
    (Bug::Broker(B::RetainedSkipsQos0), &[I17]),
    (Bug::Broker(B::GoodbyeUnheard), &[I18]),
    (Bug::Broker(B::OrphansForgotten), &[I18]),
    (Bug::Broker(B::WillUnkeyed), &[I18]),
    (Bug::Broker(B::TakeOverUnasked), &[I19]),
    (Bug::Broker(B::TakeOverHalf), &[I19]),
    (Bug::Broker(B::HandedOutTwice), &[I20]),
    (Bug::Broker(B::TakenBackAtOnce), &[I20]),
    (Bug::Broker(B::NeverExpires), &[I21]),
    (Bug::Broker(B::ExpiresLate), &[I21]),
    (Bug::Broker(B::CreditNotSpent), &[I24]),
    (Bug::Broker(B::CreditGivenTwice), &[I24]),
    (Bug::Broker(B::HeldForEver), &[I25]),
    (Bug::Log(L::SkipDirectorySync), &[I25]),
    (Bug::Broker(B::ChunksUnchecked), &[I25]),
    (Bug::Broker(B::MutedForEver), &[I25]),
    (Bug::Broker(B::ChunksForgotten), &[I25]),
    (Bug::Broker(B::StreamSkips), &[I31]),
    (Bug::Broker(B::StreamSettlesAhead), &[I31]),
    (Bug::Broker(B::StreamSettledAlone), &[I27]),
    (Bug::Broker(B::StreamGivenBack), &[I20]),
    (Bug::Broker(B::LowestFirst), &[I31]),
    (Bug::Broker(B::DroppedEarly), &[I28]),
    (Bug::Broker(B::AgedEarly), &[I28]),
    (Bug::Broker(B::BytesUncounted), &[I24]),
    (Bug::Broker(B::BytesShared), &[I28]),
    (Bug::Broker(B::HistoryLeftOut), &[I32]),
    (Bug::Broker(B::FollowersUnheeded), &[I32]),
    (Bug::Broker(B::VerbUnstored), &[I27]),
    (Bug::Broker(B::FinishedHandedOut), &[I27]),
    (Bug::Broker(B::DiedUnwritten), &[I28]),
    (Bug::Broker(B::LetterUnawaited), &[I28]),
    (Bug::Broker(B::NotCaptured), &[I28]),
    (Bug::Broker(B::NeedsUnheeded), &[I10, I25]),
    (Bug::Broker(B::MovedBeside), &[I10, I25]),
    (Bug::Broker(B::ReturnUncounted), &[I29]),
    (Bug::Broker(B::WokenAtOnce), &[I29]),
    (Bug::Broker(B::ReturnsKept), &[I29]),
    (Bug::Broker(B::RestoreForgetsReturns), &[I16, I29]),
    (Bug::Broker(B::ForgetfulVotes), &[I9]),
    (Bug::Broker(B::InstalledViewsKept), &[I15]),
    (Bug::Broker(B::ChangeUnread), &[I15]),
    (Bug::Broker(B::MembersForgotten), &[I15]),
    (Bug::Broker(B::StandsUnasked), &[I25]),
    (Bug::Broker(B::ForgottenUnheard), &[I9]),
    (Bug::Broker(B::ToldAndNotMuted), &[I9]),
];

/// What was tried: the defect, the checker, and the seed that found it.
pub struct Score {
    tried: Vec<(Bug, Invariant, Option<u64>)>,
}

/// Tries all defects, each with each of its checkers alone; a few of them when no number of seeds is asked for.
pub fn score(asked: Option<u64>) -> Score {
    let pairs = PLANTED.iter().flat_map(|(bug, by)| by.iter().map(|invariant| (*bug, *invariant)));
    let is_tried = |pair: &(Bug, Invariant)| asked.is_some() || QUICK.contains(pair);
    // `FLUXMQ_SIM_CHECKER` says which checker's, as `I3`.
    let wanted = std::env::var("FLUXMQ_SIM_CHECKER").ok();
    let is_wanted = |(_, by): &(Bug, Invariant)| {
        wanted.as_ref().is_none_or(|wanted| *wanted == format!("{by:?}"))
    };
    let pairs: Vec<(Bug, Invariant)> = pairs.filter(is_tried).filter(is_wanted).collect();
    let seeds_max = asked.unwrap_or(SEEDS_MAX);
    assert!(asked.is_some() || wanted.is_some() || pairs.len() == QUICK.len(), "each is planted");
    let next = AtomicUsize::new(0);
    let work = || {
        let mut tried = Vec::new();
        while let Some((bug, invariant)) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
            tried.push((*bug, *invariant, find(*bug, *invariant, seeds_max)));
        }
        tried
    };
    let mut tried: Vec<(Bug, Invariant, Option<u64>)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads()).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("seeds catch panics")).collect()
    });
    tried.sort_by_key(|(_, invariant, _)| *invariant);
    Score { tried }
}

/// Returns how many seeds it took one checker to find one defect.
fn find(bug: Bug, invariant: Invariant, seeds_max: u64) -> Option<u64> {
    plant(Some(bug));
    let is_found = |seed: &u64| run(*seed, false, Some(invariant)).violation.is_some();
    let found = (1..=seeds_max).find(is_found);
    plant(None);
    found
}

fn plant(bug: Option<Bug>) {
    let (log, broker) = match bug {
        None => (None, None),
        Some(Bug::Log(bug)) => (Some(bug), None),
        Some(Bug::Broker(bug)) => (None, Some(bug)),
    };
    fluxmq_log::planted::plant(log);
    fluxmq::planted::plant(broker);
}

impl Score {
    /// Those that no seed found.
    pub fn survivors(&self) -> Vec<(Bug, Invariant)> {
        let survived = self.tried.iter().filter(|(_, _, seed)| seed.is_none());
        survived.map(|(bug, invariant, _)| (*bug, *invariant)).collect()
    }

    pub fn report(&self) {
        for (bug, invariant, seed) in &self.tried {
            let seeds = seed.map_or("not caught".to_owned(), |seed| format!("{seed} seeds"));
            let words = match bug {
                Bug::Log(bug) => format!("log: {}", bug.name()),
                Bug::Broker(bug) => bug.words().to_owned(),
            };
            println!("{invariant:?} {seeds:>10}  {words}");
        }
        let mut seeds: Vec<u64> = self.tried.iter().filter_map(|(_, _, seed)| *seed).collect();
        seeds.sort_unstable();
        let median = seeds.get(seeds.len() / 2).copied().unwrap_or(0);
        println!(
            "caught {} of {} planted, {median} seeds in the median",
            seeds.len(),
            self.tried.len()
        );
    }
}
