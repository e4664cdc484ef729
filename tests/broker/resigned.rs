//! A partition that resigns while a session is being opened or let go of.

use bytes::Bytes;
use fluxmq::broker::{Client, Placement};
use fluxmq::model::command::Close;
use fluxmq::model::{
    Command, Control, Effect, Filter, Millis, PartitionId, QoS, ReaderId, Refusal, RetainHandling,
    Subscription,
};
use fluxmq::partition::request::{Event, OpenedSession, Request};
use fluxmq::view::StoredSubscription;
use fluxmq_index::Offset;

use crate::world::Opening;

fn requests(client: &mut Client) -> Vec<(PartitionId, Request)> {
    std::iter::from_fn(|| client.poll_request()).collect()
}

#[test]
fn an_open_that_a_partition_does_not_answer_any_more_is_refused_and_lets_go() {
    let Opening { mut client, home, other } = Opening::ask();
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

/// A session that reads everything, in both partitions, from their beginning.
fn reads_all() -> OpenedSession {
    let subscription = Subscription {
        filter: Filter::new(Bytes::from_static(b"#")).unwrap(),
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::DontSend,
        subscription_id: 0,
        group: None,
        settle_explicit: false,
        reader: ReaderId::SESSION,
    };
    let starts = Placement::new(2).data().map(|partition| (partition, Offset(3))).collect();
    OpenedSession {
        present: true,
        stored: true,
        epoch: Offset(7),
        subscriptions: vec![StoredSubscription { subscription, starts }],
        ..OpenedSession::default()
    }
}

#[test]
fn what_another_term_answers_a_detach_moves_no_cursor() {
    let Opening { mut client, home, other } = Opening::ask();
    client.handle_event(home, Event::SessionOpened(Ok(Box::new(reads_all()))));
    for partition in [home, other] {
        client.handle_event(partition, Event::OpenIds(Ok(Vec::new())));
    }
    for (from, request) in requests(&mut client) {
        if let Request::Attach(attach) = request {
            let start = Ok(Offset(3));
            client.handle_event(
                from,
                Event::Attached { reader: attach.reader, token: attach.token, start, cut: None },
            );
        }
    }
    client.handle_command(Millis(1), Command::Close(Close { will: false, session_expiry_s: None }));
    let detaches = requests(&mut client);
    assert!(matches!(&detaches[..], [(_, Request::Detach), (_, Request::Detach)]), "{detaches:?}");

    // It lost its reader there before the request came, and leads again.
    let refusal = Refusal::NotLeader { partition: other.0, hint: None };
    client.handle_event(other, Event::Resigned(refusal));
    client.handle_event(other, Event::Detached { next: Offset(100), replayed: Vec::new() });
    client.handle_event(home, Event::Detached { next: Offset(5), replayed: Vec::new() });

    let progress = requests(&mut client).into_iter().find_map(|(_, request)| match request {
        Request::Write { control, .. } => match *control {
            Control::SessionProgress(progress) => Some(progress),
            _ => None,
        },
        _ => None,
    });
    assert_eq!(progress.map(|progress| progress.cursors), Some(vec![(home, Offset(5))]));
}
