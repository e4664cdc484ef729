//! A partition that failed: whoever waits is told, and everybody who asks.

use fluxmq_index::Offset;
use fluxmq_log::disk::Disk;

use super::Partition;
use super::request::{Attach, ConnectionId, Event, Join, Outbox, Publish, Request};
use super::stage::Waiting;
use crate::model::Refusal;

impl<D: Disk> Partition<D> {
    /// Stops the partition after an error that only a restart can look into: whoever waits is told, and nobody is served.
    pub fn stop(&mut self, out: &mut impl Outbox) {
        let refusal = Refusal::Unavailable { partition: self.id.0 };
        let building = self.building.take().into_iter().flat_map(|pending| pending.waiting);
        let in_flight = self.in_flight.drain(..).flat_map(|in_flight| in_flight.waiting);
        for waiting in building.chain(in_flight) {
            match waiting {
                Waiting::Confirm { to, token, .. } => {
                    out.send(to, Event::Confirm { token, result: Err(refusal.clone()) });
                }
                Waiting::Written { to, token } => {
                    out.send(to, Event::Written { token, result: Err(refusal.clone()) });
                }
                Waiting::Opened { to, .. } => {
                    out.send(to, Event::SessionOpened(Err(refusal.clone())))
                }
                Waiting::Joined { to, join } => {
                    out.send(to, Event::Joined { token: join.token, result: Err(refusal.clone()) });
                }
            }
        }
        self.stopped = Some(refusal);
    }
}

/// Answers a request to a stopped partition.
pub(super) fn refuse(
    from: ConnectionId,
    request: &Request,
    refusal: &Refusal,
    out: &mut impl Outbox,
) {
    let refusal = refusal.clone();
    match request {
        Request::Publish(Publish { token: Some(token), .. })
        | Request::SettleEntry { token, .. }
        | Request::CommitCursor { token, .. } => {
            out.send(from, Event::Confirm { token: *token, result: Err(refusal) });
        }
        Request::Write { token: Some(token), .. } => {
            out.send(from, Event::Written { token: *token, result: Err(refusal) });
        }
        Request::OpenSession { .. } => out.send(from, Event::SessionOpened(Err(refusal))),
        Request::Attach(Attach { token, .. }) => {
            out.send(from, Event::Attached { token: *token, start: Err(refusal) });
        }
        Request::Detach => out.send(from, Event::Detached { next: Offset::ZERO }),
        Request::FetchOutbound { .. } => out.send(from, Event::Outbound(Err(refusal))),
        Request::ListOpenIds { .. } => out.send(from, Event::OpenIds(Err(refusal))),
        Request::Join(Join { token, .. }) => {
            out.send(from, Event::Joined { token: *token, result: Err(refusal) });
        }
        Request::Publish(_)
        | Request::Write { .. }
        | Request::CloseSession { .. }
        | Request::DetachFilter { .. }
        | Request::Credit { .. }
        | Request::Leave { .. }
        | Request::Settle { .. }
        | Request::Forget => {}
    }
}
