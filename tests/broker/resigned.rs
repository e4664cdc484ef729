//! A partition that resigns while a session is being opened: the open is refused and lets go, for it can never be whole.

use std::sync::Arc;

use bytes::Bytes;
use fluxmq::broker::{Client, ClientLimits, Placement};
use fluxmq::model::{Effect, Millis, PartitionId, Refusal};
use fluxmq::partition::request::{ConnectionId, Event, OpenedSession, Request};
use fluxmq_index::Offset;

use crate::world::open_command;

fn requests(client: &mut Client) -> Vec<(PartitionId, Request)> {
    std::iter::from_fn(|| client.poll_request()).collect()
}

#[test]
fn an_open_that_a_partition_does_not_answer_any_more_is_refused_and_lets_go() {
    let placement = Placement::new(2);
    let mut client =
        Client::new(ConnectionId(1), placement, ClientLimits::default(), Arc::default());
    client.handle_command(Millis(0), open_command("c", false, 60));
    let home = placement.session(b"c");
    let other = placement.data().find(|partition| *partition != home).unwrap();
    assert!(matches!(requests(&mut client)[..], [(to, Request::OpenSession { .. })] if to == home));
    let session =
        OpenedSession { present: true, stored: true, epoch: Offset(7), ..OpenedSession::default() };
    client.handle_event(home, Event::SessionOpened(Ok(Box::new(session))));
    assert_eq!(requests(&mut client).len(), 2, "open ids are asked for in both");
    client.handle_event(home, Event::OpenIds(Ok(Vec::new())));

    let refusal = Refusal::NotLeader { partition: other.0, hint: None };
    client.handle_event(other, Event::Resigned(refusal.clone()));

    assert_eq!(client.poll_effect(), Some(Effect::OpenRefused(refusal)));
    let is_close = |(to, request): &(PartitionId, Request)| {
        *to == home
            && matches!(request, Request::CloseSession { client_id, .. } if client_id == &Bytes::from_static(b"c"))
    };
    assert!(
        requests(&mut client).iter().any(is_close),
        "the session is free for the next connection"
    );
    assert!(client.is_done());
}
