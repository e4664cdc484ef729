//! What a peer may say: the library panics on the impossible, so it never hears it.

use fluxmq_log::Log;
use fluxmq_log::disk::Disk;
use raft::eraftpb::{Message, MessageType};

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
    at_most("a term of", message.term, known.term.saturating_add(TERM_LEAD_MAX))?;
    match message.get_msg_type() {
        MessageType::MsgAppend => {
            at_most("a log term of", message.log_term, message.term)?;
            check_entries(message, known)
        }
        MessageType::MsgAppendResponse if known.is_leader && message.term == known.term => {
            let last = known.log.last_index();
            match message.reject {
                true => at_most("a rejected index of", message.index, last),
                false => at_most("an acknowledged index of", message.index, last),
            }
        }
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => {
            at_most("a read without its name;", 1, message.entries.len() as u64)
        }
        MessageType::MsgSnapshot => {
            let metadata = message.get_snapshot().get_metadata();
            at_most("a snapshot of term", metadata.term, message.term)?;
            at_most("a snapshot without an index;", 1, metadata.index)?;
            at_most("members without a voter;", 1, metadata.get_conf_state().voters.len() as u64)
        }
        _ => Ok(()),
    }
}

/// Entries follow one another from `index + 1` on, in terms that never fall, and agree with what is committed.
fn check_entries<D: Disk>(message: &Message, known: &Known<'_, D>) -> Result<(), PeerError> {
    let from = ReplicaId(message.from);
    // What an earlier leader sent is late, and may have been replaced since; the library ignores it.
    let is_current = message.term >= known.term;
    let (mut index, mut term) = (message.index, message.log_term);
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
