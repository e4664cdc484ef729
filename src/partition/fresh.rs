//! Requests that read: a deposed leader that has not heard of it yet must not answer them.
//!
//! They wait until a majority has said that this replica leads (Raft §8), one question for all that have come, and for the views to
//! be as far as the log was when it was asked. Alone that is at once. What a connection asks after one of them waits behind it.
//!
//! So does a new subscription, while a message is on its way into the log that was passed on to those who listened before: it sees it applied
//! (ADR 0040).

use std::collections::{BTreeSet, VecDeque};

use fluxmq_index::Offset;
use fluxmq_log::disk::Disk;

use super::lead::{is_in_order, is_noted};
use super::request::{ConnectionId, ConsumerRequest, Outbox, Request};
use super::stop::refuse;
use super::{Partition, PartitionError};
use crate::model::Refusal;

/// Requests that wait, and the question that is asked for them.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    waiting: VecDeque<Held>,
    /// The question under way: its name, and how many of the waiting it was asked for.
    asked: Option<(u64, usize)>,
    /// The index that must be applied before they are answered, once a majority has.
    confirmed: Option<u64>,
    next: u64,
}

/// A request that waits.
#[derive(Debug)]
struct Held {
    from: ConnectionId,
    request: Request,
    /// Where it came: records below are applied first.
    at: Offset,
}

impl Fresh {
    /// Returns true for a request that must wait.
    pub(super) fn holds(&self, from: ConnectionId, request: &Request) -> bool {
        let reads = matches!(
            request,
            Request::OpenSession { .. }
                | Request::Attach(_)
                | Request::ListNewest { .. }
                | Request::FetchOutbound { .. }
                | Request::ListOpenIds { .. }
                | Request::Join(_)
                | Request::Consumer(ConsumerRequest::Get(_))
                | Request::Queue(_)
                | Request::Exchange { .. }
                | Request::List(_)
        );
        let comes_after = self.waiting.iter().any(|held| held.from == from);
        reads || comes_after && !is_noted(request)
    }

    pub(super) fn push(&mut self, from: ConnectionId, request: Request, at: Offset) {
        self.waiting.push_back(Held { from, request, at });
    }

    /// Refuses all that wait; returns those who publish.
    pub(super) fn refuse(
        &mut self,
        refusal: &Refusal,
        out: &mut impl Outbox,
    ) -> BTreeSet<ConnectionId> {
        let mut publishers = BTreeSet::new();
        for Held { from, request, .. } in self.waiting.drain(..) {
            refuse(from, &request, refusal, out);
            publishers.extend(is_in_order(&request).then_some(from));
        }
        (self.asked, self.confirmed) = (None, None);
        publishers
    }
}

impl<D: Disk> Partition<D> {
    /// Where a request comes among the records: what was admitted before a subscription comes before it, if any of it was passed on to
    /// those who listened.
    pub(super) fn comes_at(&mut self, request: &Request) -> Offset {
        if !matches!(request, Request::Attach(_)) || self.overlay.passed_on == 0 {
            return self.applied.end;
        }
        // What gathers gets its offsets now.
        if let Err(error) = self.propose() {
            // Whoever waits is told when `persist` reports this and the partition stops.
            self.failed.get_or_insert(error);
        }
        self.log().last().end
    }

    /// Asks for what has come, and answers what may be answered.
    pub(super) fn refresh(&mut self, out: &mut impl Outbox) -> Result<(), PartitionError> {
        while self.leading.is_some() && !self.fresh.waiting.is_empty() {
            if self.fresh.asked.is_none() {
                // A name of another term is never taken for one of this.
                self.fresh.next += 1;
                self.fresh.asked = Some((self.fresh.next, self.fresh.waiting.len()));
                self.node.ask_read(self.fresh.next)?;
            }
            while let Some((name, index)) = self.node.poll_read() {
                if self.fresh.asked.is_some_and(|(asked, _)| asked == name) {
                    self.fresh.confirmed = Some(index);
                }
            }
            let Some((_, count)) = self.fresh.asked else { return Ok(()) };
            let end = self.applied.end;
            let ready = self.fresh.confirmed.is_some_and(|index| self.applied.index >= index)
                && self.fresh.waiting.iter().take(count).all(|held| held.at <= end);
            if !ready {
                return Ok(());
            }
            (self.fresh.asked, self.fresh.confirmed) = (None, None);
            for held in self.fresh.waiting.drain(..count).collect::<Vec<_>>() {
                self.take(held.from, held.request, held.at, out);
            }
        }
        Ok(())
    }
}
