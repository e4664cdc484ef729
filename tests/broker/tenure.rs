//! The first QoS 2 exchange of a connection that resumed a session: partitions hear of the connection first.

use std::sync::Arc;

use fluxmq::broker::{Client, Placement};
use fluxmq::model::record::Tenure;
use fluxmq::model::{Command, Effect, Millis, PartitionId, QoS, Refusal, Token};
use fluxmq::partition::request::{Event, OpenedSession, Publish, Request};
use fluxmq_index::Offset;

use crate::world::{Opening, World, message};

const TENURE: Tenure = Tenure { term: 3, epoch: Offset(7) };

fn requests(client: &mut Client) -> Vec<(PartitionId, Request)> {
    std::iter::from_fn(|| client.poll_request()).collect()
}

fn effects(client: &mut Client) -> Vec<Effect> {
    std::iter::from_fn(|| client.poll_effect()).collect()
}

/// A client whose session is open, with two partitions.
fn opened(present: bool) -> (Client, Placement) {
    let Opening { mut client, home, .. } = Opening::ask();
    let session = OpenedSession {
        present,
        stored: true,
        epoch: TENURE.epoch,
        term: TENURE.term,
        ..OpenedSession::default()
    };
    requests(&mut client);
    client.handle_event(home, Event::SessionOpened(Ok(Box::new(session))));
    for (partition, request) in requests(&mut client) {
        assert!(present && matches!(request, Request::ListOpenIds { .. }));
        client.handle_event(partition, Event::OpenIds(Ok(Vec::new())));
    }
    assert!(matches!(effects(&mut client)[..], [Effect::Opened(_)]));
    (client, Placement::new(2))
}

fn publish(client: &mut Client, qos: QoS, token: u64) {
    let packet_id = (qos == QoS::ExactlyOnce).then_some(token as u16);
    let message = Arc::new(message("a/b", token.to_string(), qos));
    client.handle_command(Millis(1), Command::Publish { token: Token(token), message, packet_id });
}

/// The payloads and tenures of what is published.
fn published(requests: &[(PartitionId, Request)]) -> Vec<(String, Tenure)> {
    let payload =
        |publish: &Publish| String::from_utf8_lossy(&publish.message.payload).into_owned();
    let publishes = requests.iter().filter_map(|(_, request)| match request {
        Request::Publish(publish) => Some((payload(publish), publish.tenure)),
        _ => None,
    });
    publishes.collect()
}

/// The partitions that are told of the connection, and the tokens of their answers.
fn begun(requests: &[(PartitionId, Request)]) -> Vec<(PartitionId, Token)> {
    let tenures = requests.iter().filter_map(|(to, request)| match request {
        Request::BeginTenure { token, tenure, .. } => {
            assert_eq!(*tenure, TENURE);
            Some((*to, *token))
        }
        _ => None,
    });
    tenures.collect()
}

#[test]
fn exchanges_of_a_resumed_session_wait_until_every_partition_knows_the_connection() {
    let (mut client, placement) = opened(true);
    publish(&mut client, QoS::AtLeastOnce, 1);
    let first = requests(&mut client);
    assert_eq!((published(&first).len(), begun(&first).len()), (1, 0), "QoS 1 needs nothing");

    publish(&mut client, QoS::ExactlyOnce, 2);
    client.handle_command(Millis(1), Command::Release { packet_id: 9 });
    publish(&mut client, QoS::ExactlyOnce, 3);
    publish(&mut client, QoS::AtLeastOnce, 4);

    let sent = requests(&mut client);
    let told = begun(&sent);
    assert!(told.iter().map(|(to, _)| *to).eq(placement.data()), "{sent:?}");
    assert_eq!(published(&sent), [("4".to_owned(), TENURE)], "QoS 1 waits for nothing");
    client.handle_event(told[0].0, Event::Written { token: told[0].1, result: Ok(()) });
    assert_eq!((requests(&mut client).len(), effects(&mut client).len()), (0, 0));

    client.handle_event(told[1].0, Event::Written { token: told[1].1, result: Ok(()) });

    let sent = requests(&mut client);
    assert_eq!(published(&sent), [("2".to_owned(), TENURE), ("3".to_owned(), TENURE)]);
    assert_eq!(effects(&mut client), [Effect::Released { packet_id: 9 }], "nobody knew of it");
    publish(&mut client, QoS::ExactlyOnce, 5);
    let sent = requests(&mut client);
    assert_eq!((published(&sent).len(), begun(&sent).len()), (1, 0), "once is enough");
}

#[test]
fn a_session_that_nobody_had_before_publishes_at_once() {
    let (mut client, _) = opened(false);

    publish(&mut client, QoS::ExactlyOnce, 1);

    let sent = requests(&mut client);
    assert_eq!((published(&sent), begun(&sent).len()), (vec![("1".to_owned(), TENURE)], 0));
}

/// Neither stored nor refused: refusing would free the number at the client, while an earlier connection's copy may come yet.
#[test]
fn a_connection_that_a_partition_cannot_be_told_of_ends() {
    let (mut client, _) = opened(true);
    publish(&mut client, QoS::ExactlyOnce, 1);
    let told = begun(&requests(&mut client));

    let refusal = Refusal::NotLeader { partition: told[0].0.0, hint: None };
    client.handle_event(told[0].0, Event::Written { token: told[0].1, result: Err(refusal) });

    assert_eq!(effects(&mut client), [Effect::ShuttingDown]);
    client.handle_event(told[1].0, Event::Written { token: told[1].1, result: Ok(()) });
    assert_eq!((requests(&mut client).len(), effects(&mut client).len()), (0, 0));
}

#[test]
fn a_connection_that_another_has_superseded_ends_as_one_that_was_taken_over() {
    let (mut client, placement) = opened(true);
    publish(&mut client, QoS::ExactlyOnce, 1);
    requests(&mut client);

    client.handle_event(placement.session(b"c"), Event::TakenOver);

    assert_eq!(effects(&mut client), [Effect::TakenOver]);
    let sent = requests(&mut client);
    assert!(matches!(sent[..], [(_, Request::CloseSession { .. })]), "{sent:?}");
    assert!(client.is_done());
}

/// Whole brokers: every connection of a session publishes, with one partition and with four.
#[test]
fn every_connection_of_a_session_publishes_in_its_turn() {
    for partitions in [1, 4] {
        let mut world = World::new(partitions);
        let (watcher, _) = world.open("watcher", true, 0);
        world.subscribe(watcher, "#", |_| {}).expect("subscribes");
        for round in 0..3_u16 {
            let (publisher, opened) = world.open("publisher", false, 60);
            assert_eq!(opened.session_present, round > 0);
            for number in 1..4 {
                let said = message(&format!("a/{number}"), format!("{round}"), QoS::ExactlyOnce);
                assert_eq!(world.publish(publisher, said, Some(number)), Some(Ok(true)));
                world.command(publisher, Command::Release { packet_id: number });
                let released =
                    |effect: &Effect| matches!(effect, Effect::Released { .. }).then_some(());
                assert!(world.take(publisher, released).is_some());
            }
            assert_eq!(world.drain(watcher), vec![round.to_string(); 3]);
            world.close(publisher, false);
        }
    }
}
