//! Coming back: what a replica that has forgotten something may not do, and how its leader learns of it.
//!
//! Raft assumes that a voter never forgets. One whose disk was replaced, set back to an old image or damaged at its end has; until
//! its log holds again all that it may have acknowledged it is *muted*: it takes entries and acknowledges them, and neither votes
//! nor stands. To the others that is a replica that is down.
//!
//! Every opening of a log is another *life*. To each new leader a life says with `Rejoin` where its log ends; the leader compares
//! that with what the life before acknowledged and answers with `Welcome`. A life that peers know to be over is refused, so that
//! neither a delayed answer of it nor an old disk that believes to be it is counted; told of the later one, it begins another.
//!
//! A muted replica has also forgotten which terms there were: a leader that was deposed and does not know it would have its answers
//! for a majority. So it is silent, as if it were down, until a majority without it has confirmed a leader (ADR 0033).

use fluxmq_log::Life;
use fluxmq_log::disk::Disk;
use raft::ReadState;
use raft::eraftpb::{Message, MessageType};

use super::member::ReplicaId;
use super::node::{Node, NodeError, Role};
use super::peer::{Body, PeerError};
use super::random::mix;
use crate::planted::{PlantedBug, is_planted};

/// What is known of a peer's lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lives {
    latest: Life,
    /// What earlier lives had acknowledged to the leader of this term.
    acknowledged: (u64, u64),
    /// Term and life of the last `Rejoin`, and what that life must acknowledge to be whole.
    rejoined: (u64, Life),
    target: Option<u64>,
    /// Term and life for which a majority was asked whether this replica leads, and those for which it said so.
    asked: (u64, Life),
    confirmed: (u64, Life),
}

impl<D: Disk> Node<D> {
    /// Hears from a life of a peer. One that is over is refused, and told so: it may be all that its disk remembers.
    pub(super) fn meet(&mut self, from: ReplicaId, life: Life) -> Result<(), PeerError> {
        let (leads, term) = (self.role() == Role::Leader, self.term());
        let known = self.lives.entry(from).or_default();
        if life < known.latest {
            let latest = known.latest;
            self.post(from, &over(term, life, latest));
            return Err(PeerError::EarlierLife { from, life, known: latest });
        }
        if life > known.latest && known.latest > Life::default() && leads {
            // What the life before acknowledged, this one may not have.
            if let Some(progress) = self.raw.raft.mut_prs().get_mut(from.0) {
                // Several lives may pass before one says where its log ends.
                known.acknowledged = known.acknowledged.max((term, progress.matched));
                progress.matched = 0;
                progress.become_probe();
                progress.next_idx = known.acknowledged.1 + 1;
            }
        }
        known.latest = life;
        Ok(())
    }

    /// Tells a leader of this life, before anything of its term is taken, and with every heartbeat until it says that the life is
    /// whole. What came with the leader's first entries would hide what was forgotten until then.
    pub(super) fn introduce(&mut self, message: &Message) {
        let is_new = message.term >= self.term() && message.term > self.welcomed;
        let is_first = message.term > self.introduced;
        let is_due = match message.get_msg_type() {
            MessageType::MsgHeartbeat => is_new,
            MessageType::MsgAppend => is_new && is_first,
            _ => false,
        };
        if is_due {
            self.introduced = message.term;
            let last = self.log().last_index();
            let last = (last, self.log().term(last).unwrap_or(0));
            let body = Body::Rejoin { term: message.term, last, is_muted: self.is_muted() };
            self.post(ReplicaId(message.from), &body);
        }
    }

    /// A peer's life begins with a log up to `last`. What it said to the leader of an earlier term, this replica or not, may not be so
    /// any more: it may be muted by now.
    pub(super) fn on_rejoin(
        &mut self,
        (from, life): (ReplicaId, Life),
        term: u64,
        last: (u64, u64),
        is_muted: bool,
    ) -> Result<(), NodeError> {
        let end = self.log().last_index();
        let matched = self.raw.raft.prs().get(from.0).map_or(0, |progress| progress.matched);
        if self.role() != Role::Leader || self.term() != term {
            return Ok(());
        }
        let acknowledged = self.lives.get(&from).map_or(0, |known| known.acknowledged.1);
        // Of what is trimmed the term is not known any more; who is behind that has the length compared only.
        let newest = self.log().term(acknowledged).unwrap_or(0);
        let known = self.lives.entry(from).or_default();
        if known.rejoined != (term, life) {
            known.rejoined = (term, life);
            // A log as long may end in what was replaced: then its last entry is of an earlier term than what was acknowledged.
            let forgot = known.acknowledged.0 == term
                && (known.acknowledged.1 > last.0 || newest > last.1)
                && !is_planted(PlantedBug::ForgottenUnheard);
            known.target = (forgot || is_muted).then_some(end);
            if forgot {
                tracing::warn!(
                    partition = self.address.partition,
                    replica = from.0,
                    last = last.0,
                    acknowledged = known.acknowledged.1,
                    "a replica lost entries that it had acknowledged; it does not vote until it has them"
                );
            }
        }
        let is_whole = known.target.is_none_or(|target| matched >= target)
            && !(is_muted && is_planted(PlantedBug::MutedForEver));
        let is_confirmed = known.confirmed == (term, life);
        if is_muted && !is_confirmed {
            // Before an entry of its term is committed the library drops the question.
            let is_due = known.asked != (term, life) && self.raw.raft.commit_to_current_term();
            if is_due {
                known.asked = (term, life);
                self.raw.read_index(context(from, life));
            }
            return self.advance();
        }
        self.post(from, &Body::Welcome { term, of_life: life, life, is_confirmed, is_whole });
        self.advance()
    }

    /// Takes the answer to a question that was asked for a muted peer; false for any other.
    pub(super) fn confirmed(&mut self, state: &ReadState) -> bool {
        let Some((from, life)) = asked_for(&state.request_ctx) else { return false };
        let known = self.lives.entry(from).or_default();
        if known.asked.1 == life {
            known.confirmed = known.asked;
        }
        true
    }

    /// Hears a leader ask for a muted peer. Who knows of a later life says so while that costs nothing: a peer that found out when it was
    /// whole, because it asked for a vote, would be muted again, or refused by the one whose vote it needs.
    pub(super) fn object(&mut self, question: &Message) {
        let Some((of, life)) = asked_for(&question.context) else { return };
        let latest = self.lives.get(&of).map_or(Life::default(), |known| known.latest);
        if life < latest && of != self.address.me {
            self.post(of, &over(question.term, life, latest));
        }
    }

    /// Returns true while this replica must not let any leader count on it.
    pub(super) fn is_silent(&self) -> bool {
        self.is_muted() && !self.is_acquainted
    }

    /// The leader of a term knows this life, and whether it has all that there is. What another than this term's says of that comes too
    /// late: it need not know what was acknowledged since. And so does that the life is not whole, after that it is.
    pub(super) fn on_welcome(
        &mut self,
        term: u64,
        (of_life, life): (Life, Life),
        is_confirmed: bool,
        is_whole: bool,
    ) -> Result<(), NodeError> {
        if of_life != self.address.life || self.role() == Role::Leader {
            return Ok(());
        }
        if life > self.address.life {
            // Others know more of this replica than its disk does: whatever that is, it is lost, unless a leader has given it back since.
            if !self.is_whole_again {
                self.log_mut().require(u64::MAX)?;
            }
            // A number of its own: another image may be told of the same life.
            let draw = mix(&[self.seed, self.address.life.draw, life.draw]);
            self.log_mut().begin_life(life.number.saturating_add(1), draw)?;
            self.address.life = self.log().life();
            (self.welcomed, self.introduced) = (0, 0);
            return Ok(());
        }
        if term != self.term() || self.welcomed == term {
            return Ok(());
        }
        self.is_acquainted |= is_confirmed;
        if is_whole {
            self.is_whole_again |= self.is_muted();
            self.welcomed = term;
            self.log_mut().require(0)?;
        } else if !self.is_muted() && !is_planted(PlantedBug::ToldAndNotMuted) {
            self.log_mut().require(u64::MAX)?;
        }
        Ok(())
    }
}

/// What a life is told that is over.
fn over(term: u64, of_life: Life, latest: Life) -> Body {
    Body::Welcome { term, of_life, life: latest, is_confirmed: false, is_whole: false }
}

/// Names a question by the life of the peer that it is asked for.
fn context(of: ReplicaId, life: Life) -> Vec<u8> {
    [of.0, life.number, life.draw].iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Reads for which life of which peer a question is asked.
fn asked_for(context: &[u8]) -> Option<(ReplicaId, Life)> {
    let (numbers, rest) = context.as_chunks();
    let [of, number, draw] = numbers else { return None };
    let life = Life { number: u64::from_le_bytes(*number), draw: u64::from_le_bytes(*draw) };
    rest.is_empty().then_some((ReplicaId(u64::from_le_bytes(*of)), life))
}

/// Returns true for what only a leader says. It holds whatever the number of its life: a majority elected it, and it vouches for nothing
/// that a life before has acknowledged. Who refused it would have no leader while the others follow it.
pub(super) fn is_leaders(body: &Body) -> bool {
    match body {
        Body::Raft(message) => matches!(
            message.get_msg_type(),
            MessageType::MsgAppend
                | MessageType::MsgHeartbeat
                | MessageType::MsgSnapshot
                | MessageType::MsgTimeoutNow
        ),
        Body::Welcome { .. } | Body::Chunk { .. } => true,
        Body::Rejoin { .. } | Body::Fetch { .. } | Body::Ask(_) | Body::Range { .. } => false,
    }
}
