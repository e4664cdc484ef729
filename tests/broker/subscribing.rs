//! A subscription whose partitions answer one after the other: what the first one hands over before the last has answered.

use std::sync::Arc;

use bytes::Bytes;
use fluxmq::broker::Client;
use fluxmq::model::command::Subscribe;
use fluxmq::model::{
    Command, Control, Delivery, DeliveryId, DeliverySource, Filter, Millis, Outcome, PartitionId,
    QoS, ReaderId, Record, RetainHandling, Token,
};
use fluxmq::partition::request::{Attach, Event, OpenedSession, Request};
use fluxmq::view::{Sessions, View};
use fluxmq_index::Offset;

use crate::world::{Opening, message};

const EXACTLY: QoS = QoS::ExactlyOnce;

fn requests(client: &mut Client) -> Vec<(PartitionId, Request)> {
    while client.poll_effect().is_some() {}
    std::iter::from_fn(|| client.poll_request()).collect()
}

fn subscribe() -> Subscribe {
    Subscribe {
        filter: Filter::new(Bytes::from_static(b"#")).unwrap(),
        qos: EXACTLY,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::DontSend,
        subscription_id: 0,
        position: None,
        reports_end: false,
        group: None,
        settle_explicit: false,
    }
}

fn attached(attach: &Attach, start: u64) -> Event {
    let (reader, token, start) = (attach.reader, attach.token, Ok(Offset(start)));
    Event::Attached { reader, token, start, cut: None }
}

#[test]
fn what_was_settled_before_the_subscription_is_stored_does_not_come_again() {
    let Opening { mut client, home, other } = Opening::ask();
    let opened = Control::SessionOpened {
        client_id: Bytes::from_static(b"c"),
        clean: false,
        expiry_s: 60,
        principal: Default::default(),
    };
    let session = OpenedSession { stored: true, epoch: Offset(7), ..OpenedSession::default() };
    client.handle_event(home, Event::SessionOpened(Ok(Box::new(session))));
    requests(&mut client);

    let subscriptions = vec![subscribe()];
    client.handle_command(Millis(1), Command::Subscribe { token: Token(1), subscriptions });
    let attaches = requests(&mut client);
    let attach_of = |partition| {
        attaches.iter().find_map(|(to, request)| match request {
            Request::Attach(attach) if *to == partition => Some(attach),
            _ => None,
        })
    };
    let (first, last) = (attach_of(home).expect("is read"), attach_of(other).expect("is read"));
    client.handle_event(home, attached(first, 10));
    let id = |offset| DeliveryId {
        source: DeliverySource::Reader(ReaderId::SESSION),
        partition: home,
        offset: Offset(offset),
    };
    for offset in [10, 11] {
        let delivery = Delivery {
            id: id(offset),
            message: Arc::new(message("a", "x", EXACTLY)),
            qos: EXACTLY,
            retain: false,
            redelivered: false,
            subscription_ids: Vec::new(),
            annotations: Default::default(),
            settle_explicit: false,
        };
        client.handle_event(home, Event::Deliver(delivery));
    }
    let settle = Command::Settle { delivery: id(10), outcome: Outcome::Accepted };
    client.handle_command(Millis(2), settle);
    let mut written = requests(&mut client);
    client.handle_event(other, attached(last, 20));
    written.extend(requests(&mut client));

    let mut sessions = Sessions::default();
    sessions.apply(Offset(7), Millis(0), Record::Control(&opened));
    for (_, request) in &written {
        if let Request::Write { control, .. } = request {
            sessions.apply(Offset(8), Millis(2), Record::Control(control));
        }
    }
    let (_, session) = sessions.iter().next().expect("it is open");
    let mut cursors: Vec<_> = session.cursors.iter().map(|(at, to)| (*at, *to)).collect();
    cursors.sort_unstable();
    let mut expected = vec![(home, Offset(11)), (other, Offset(20))];
    expected.sort_unstable();
    assert_eq!(cursors, expected, "the second message was neither sent nor settled: {written:?}");
}
