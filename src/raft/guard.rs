//! What a peer may say: the library panics on the impossible, so it never hears it.
//!
//! Each refusal names what the library would do: `raft.rs`, `raft_log.rs` and `tracker/progress.rs` of version 0.7.

use std::collections::BTreeSet;

use fluxmq_log::Log;
use fluxmq_log::disk::Disk;
use raft::eraftpb::{ConfState, Message, MessageType};

use super::member::ReplicaId;
use super::peer::PeerError;

/// How far a term may be ahead of ours: terms grow by elections, one at a time, and must never overflow.
const TERM_LEAD_MAX: u64 = 1 << 32;

/// What is known here that bounds what a peer can know.
pub(super) struct Known<'a, D: Disk> {
    pub(super) log: &'a Log<D>,
    pub(super) term: u64,
    pub(super) commit: u64,
    pub(super) is_leader: bool,
}

/// Refuses a message that no honest replica sends.
pub(super) fn check<D: Disk>(message: &Message, known: &Known<'_, D>) -> Result<(), PeerError> {
    let from = ReplicaId(message.from);
    let at_most = |what, value: u64, limit: u64| match value <= limit {
        true => Ok(()),
        false => Err(PeerError::Impossible { from, what, value, limit }),
    };
    // Without a term the library takes a message for one of its own: it would answer a vote with none, and panic, or fall back to
    // term 0 for an append.
    at_most("a message without a term;", 1, message.term)?;
    at_most("a term of", message.term, known.term.saturating_add(TERM_LEAD_MAX))?;
    // Nobody here has a priority; below zero it makes a replica without a term refuse a vote, and panic.
    at_most("a priority of", message.priority.unsigned_abs(), 0)?;
    // Snapshots are offered, never asked for in this way.
    at_most("a request for a snapshot at", message.request_snapshot, 0)?;
    match message.get_msg_type() {
        MessageType::MsgAppend => {
            at_most("a log term of", message.log_term, message.term)?;
            check_entries(message, known)
        }
        MessageType::MsgAppendResponse if known.is_leader && message.term == known.term => {
            let last = known.log.last_index();
            match message.reject {
                true => {
                    at_most("a rejected index of", message.index, last)?;
                    // The library adds one to it.
                    at_most("a hint of", message.reject_hint, last)
                }
                false => at_most("an acknowledged index of", message.index, last),
            }
        }
        MessageType::MsgSnapshot => {
            let metadata = message.get_snapshot().get_metadata();
            at_most("a snapshot of term", metadata.term, message.term)?;
            at_most("a snapshot without a term;", 1, metadata.term)?;
            at_most("a snapshot without an index;", 1, metadata.index)?;
            at_most("a snapshot of index", metadata.index, u64::MAX - 1)?;
            let impossible = count_impossible(metadata.get_conf_state());
            at_most("members without a voter, or with impossible places:", impossible, 0)
        }
        _ => Ok(()),
    }
}

/// Entries follow one another from `index + 1` on, in terms that never fall, and agree with what is committed.
fn check_entries<D: Disk>(message: &Message, known: &Known<'_, D>) -> Result<(), PeerError> {
    let from = ReplicaId(message.from);
    // Only what is before the first entry has no term. The library takes term 0 for what it does not have, so an entry of term 0
    // beyond its log is one that it has, and commits it.
    if (message.index == 0) != (message.log_term == 0) {
        let what = "an entry before the first, or one without a term: term";
        return Err(PeerError::Impossible { from, what, value: message.log_term, limit: 0 });
    }
    // What an earlier leader sent is late, and may have been replaced since; the library ignores it.
    let is_current = message.term >= known.term;
    let (mut index, mut term) = (message.index, message.log_term.max(1));
    for entry in message.entries.iter() {
        let follows = index.checked_add(1) == Some(entry.index);
        if !follows || entry.term < term || entry.term > message.term {
            let (value, limit) = (entry.index, index.saturating_add(1));
            return Err(PeerError::Impossible {
                from,
                what: "out of order an entry of index",
                value,
                limit,
            });
        }
        let ours =
            known.log.term(entry.index).filter(|_| is_current && entry.index <= known.commit);
        if ours.is_some_and(|ours| ours != entry.term) {
            return Err(PeerError::Diverged { from, index: entry.index });
        }
        (index, term) = (entry.index, entry.term);
    }
    Ok(())
}

/// Counts what keeps members from being those of a group: the library installs a snapshot first and panics on its members then.
fn count_impossible(state: &ConfState) -> u64 {
    let lists = [
        state.get_voters(),
        state.get_learners(),
        state.get_voters_outgoing(),
        state.get_learners_next(),
    ];
    let sets = lists.map(|ids| ids.iter().copied().collect::<BTreeSet<u64>>());
    let [voters, learners, outgoing, next] = &sets;
    let repeated = lists.iter().zip(&sets).map(|(ids, set)| ids.len() - set.len()).sum::<usize>();
    let zeros = sets.iter().filter(|set| set.contains(&0)).count();
    let both = learners.intersection(voters).count()
        + learners.intersection(outgoing).count()
        + next.intersection(voters).count()
        + next.difference(outgoing).count();
    let without = usize::from(voters.is_empty());
    let leaves_nothing = usize::from(outgoing.is_empty() && state.auto_leave);
    (repeated + zeros + both + without + leaves_nothing) as u64
}
