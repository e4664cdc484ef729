//! A partition that failed: whoever waits is told, and everybody who asks.

use fluxmq_index::Offset;
use fluxmq_log::disk::Disk;

use super::Partition;
use super::request::{
    ConnectionId, ConsumerRequest, Event, Outbox, Publish, QueueRequest, Request, Transaction,
};
use crate::model::Refusal;

impl<D: Disk> Partition<D> {
    /// Stops the partition after an error that only a restart can look into: whoever waits is told, and nobody is served.
    pub fn stop(&mut self, out: &mut impl Outbox) {
        let refusal = Refusal::Unavailable { partition: self.id.0 };
        let mut connections = self.dismiss(&refusal, out);
        connections.extend(self.fresh.refuse(&refusal, out));
        for connection in connections {
            out.send(connection, Event::Resigned(refusal.clone()));
        }
        self.leading = None;
        self.stopped = Some(refusal);
    }
}

/// Answers a request to a partition that does not serve.
pub(super) fn refuse(
    from: ConnectionId,
    request: &Request,
    refusal: &Refusal,
    out: &mut impl Outbox,
) {
    let refusal = refusal.clone();
    match request {
        // Neither yes nor no: its client comes back and sends it again.
        Request::Publish(publish) if publish.may_be_copy() => {
            out.send(from, Event::Resigned(refusal));
        }
        Request::Publish(Publish { token: Some(token), .. })
        | Request::SettleEntry { token, .. }
        | Request::CommitCursor { token, .. } => {
            out.send(from, Event::Confirm { token: *token, result: Err(refusal) });
        }
        Request::Transact(transaction) => refuse_all(from, transaction, &refusal, out),
        Request::Write { token: Some(token), .. }
        | Request::Release { token: Some(token), .. }
        | Request::BeginTenure { token, .. }
        | Request::Claim { token, .. }
        | Request::Exchange { token, .. }
        // What waits for a group to let go has nothing more to wait for here.
        | Request::Leave { token: Some(token), .. } => {
            out.send(from, Event::Written { token: *token, result: Err(refusal) });
        }
        Request::OpenSession { .. } => out.send(from, Event::SessionOpened(Err(refusal))),
        Request::Attach(attach) => {
            let (reader, token, start) = (attach.reader, attach.token, Err(refusal));
            out.send(from, Event::Attached { reader, token, start, cut: None });
        }
        Request::ListNewest { token, .. } => {
            out.send(from, Event::Newest { token: *token, result: Err(refusal) });
        }
        Request::Detach => out.send(from, Event::Detached { next: Offset::ZERO, replayed: vec![] }),
        Request::FetchOutbound { .. } => out.send(from, Event::Outbound(Err(refusal))),
        Request::ListOpenIds { .. } => out.send(from, Event::OpenIds(Err(refusal))),
        Request::Join(join) => {
            out.send(from, Event::Joined { token: join.token, result: Err(refusal) });
        }
        Request::Consumer(request) => refuse_of_consumers(from, request, refusal, out),
        Request::Queue(_) | Request::List(_) | Request::Follow(_) | Request::ReadOn(_) => {
            refuse_of_queues(from, request, refusal, out);
        }
        Request::ListClaimed { .. } => out.send(from, Event::Claimed(Err(refusal))),
        Request::Publish(_)
        | Request::Write { .. }
        | Request::Release { .. }
        | Request::CloseSession { .. }
        | Request::PublishWills
        | Request::CarryLetters
        | Request::LetterArrived(_)
        | Request::DetachFilter { .. }
        | Request::EndReplay { .. }
        | Request::Credit { .. }
        | Request::Hold { .. }
        | Request::Rewind(_)
        | Request::Leave { .. }
        | Request::LeaveAll { .. }
        | Request::ReadNoMore(_)
        | Request::Settle { .. }
        | Request::Ask(_)
        | Request::Forget => {}
    }
}

/// Answers a transaction: nothing of it has happened.
pub(super) fn refuse_all(
    from: ConnectionId,
    transaction: &Transaction,
    refusal: &Refusal,
    out: &mut impl Outbox,
) {
    for token in transaction.publishes.iter().filter_map(|publish| publish.token) {
        out.send(from, Event::Confirm { token, result: Err(refusal.clone()) });
    }
    if let Some(token) = transaction.token {
        out.send(from, Event::Written { token, result: Err(refusal.clone()) });
    }
}

/// Answers what is asked for consumers by name.
fn refuse_of_consumers(
    from: ConnectionId,
    request: &ConsumerRequest,
    refusal: Refusal,
    out: &mut impl Outbox,
) {
    match request {
        ConsumerRequest::Stop { token, .. } => {
            out.send(from, Event::Written { token: *token, result: Err(refusal) });
        }
        ConsumerRequest::Get(get) => {
            out.send(from, Event::Got { token: get.token, result: Err(refusal) });
        }
        ConsumerRequest::Grant { .. } | ConsumerRequest::Sent { .. } => {}
    }
}

/// Answers what is asked of queues beside reading and settling.
fn refuse_of_queues(
    from: ConnectionId,
    request: &Request,
    refusal: Refusal,
    out: &mut impl Outbox,
) {
    match request {
        Request::Queue(QueueRequest { token, .. }) => {
            out.send(from, Event::Queue { token: *token, result: Err(refusal) });
        }
        Request::List(list) => {
            out.send(from, Event::Listed { token: list.token, result: Err(refusal) });
        }
        Request::Follow(followed) => {
            out.send(from, Event::Confirm { token: followed.token, result: Err(refusal) });
        }
        // A queue that follows says again that it does.
        Request::ReadOn(_) => out.send(from, Event::Resigned(refusal)),
        _ => unreachable!("only requests of queues come here"),
    }
}
