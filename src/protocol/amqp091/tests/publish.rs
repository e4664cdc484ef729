//! Publishing: what is asked of the broker, and what is said of it.

use bytes::BytesMut;

use super::*;
use crate::model::{ExchangeRefusal, Message, QoS, Token};
use crate::protocol::amqp091::codec::{ContentHeader, Property};

pub(super) fn short(text: &'static str) -> ShortString {
    ShortString::from_static(text)
}

impl Peer {
    /// A peer with an open channel 1; in confirm mode where asked.
    pub(super) fn publisher(settings: Settings, confirms: bool) -> Peer {
        let mut peer = Peer::open(settings);
        assert!(matches!(peer.command(), Some(Command::Open(_))));
        peer.send(1, ChannelOpen::default());
        if confirms {
            peer.send(1, ConfirmSelect { no_wait: false });
        }
        assert_eq!(peer.methods().len(), 1 + usize::from(confirms));
        peer
    }

    pub(super) fn publish(&mut self, publish: BasicPublish, list: Vec<Property>) {
        let mut out = BytesMut::new();
        Method::from(publish).encode(1, &mut out);
        content::encode(1, &Properties::encode(list), b"body", 4096, &mut out);
        self.bytes(&out);
    }

    /// What the broker was asked to publish.
    fn published(&mut self) -> (Token, std::sync::Arc<Message>) {
        match self.command() {
            Some(Command::Publish { token, message, packet_id: None }) => (token, message),
            other => panic!("{other:?} is not a publish"),
        }
    }

    /// What the broker was asked to route.
    pub(super) fn routed(&mut self) -> Box<crate::model::Route> {
        match self.command() {
            Some(Command::Route(route)) => route,
            other => panic!("{other:?} is not a publish to an exchange"),
        }
    }

    /// Answers without writing in between, as the driver does.
    pub(super) fn confirm(
        &mut self,
        answers: impl IntoIterator<Item = (Token, Result<bool, Refusal>)>,
    ) {
        for (token, result) in answers {
            self.connection.handle_effect(self.now, Effect::Confirm { token, result });
        }
        self.drain();
    }
}

fn to_topic(key: &'static str) -> BasicPublish {
    BasicPublish {
        exchange: short("amq.topic"),
        routing_key: short(key),
        ..BasicPublish::default()
    }
}

fn ack(delivery_tag: u64, multiple: bool) -> (u16, Method) {
    (1, BasicAck { delivery_tag, multiple }.into())
}

fn nack(delivery_tag: u64, multiple: bool) -> (u16, Method) {
    (1, BasicNack { delivery_tag, multiple, requeue: false }.into())
}

#[test]
fn a_publish_to_amq_topic_is_one_to_the_topic_of_its_key() {
    let mut peer = Peer::publisher(Settings::default(), false);
    let transient = Property::DeliveryMode(1);
    for (property, qos) in
        [(transient, QoS::AtMostOnce), (Property::DeliveryMode(2), QoS::AtLeastOnce)]
    {
        peer.publish(to_topic("site.1.temp"), vec![property]);
        let (_, message) = peer.published();
        assert_eq!((message.topic.as_str(), message.qos), ("site/1/temp", qos));
        assert_eq!(&message.payload[..], b"body");
        assert!(!message.retain);
    }
    assert_eq!(peer.methods(), [], "without confirms nobody is told");
}

#[test]
fn confirms_come_in_order_and_neighbours_together() {
    let mut peer = Peer::publisher(Settings::default(), true);
    let tokens: Vec<Token> = (0..6)
        .map(|_| {
            peer.publish(to_topic("t"), vec![]);
            peer.published().0
        })
        .collect();

    peer.confirm([(tokens[1], Ok(true)), (tokens[2], Ok(true))]);
    assert_eq!(peer.methods(), [], "the first one is not answered yet");
    peer.confirm([(tokens[0], Ok(false))]);
    assert_eq!(peer.methods(), [ack(3, true)]);
    peer.confirm([(tokens[3], Ok(true)), (tokens[4], Err(Refusal::DiskFull))]);
    assert_eq!(peer.methods(), [ack(4, false), nack(5, false)]);
    peer.confirm([(tokens[5], Ok(true)), (tokens[5], Ok(true))]);
    assert_eq!(peer.methods(), [ack(6, false)], "each is answered once");
}

#[test]
fn a_mandatory_message_that_reaches_nobody_comes_back_before_it_is_confirmed() {
    let mut peer = Peer::publisher(Settings::default(), true);
    let mandatory = BasicPublish { mandatory: true, ..to_topic("a.b") };
    peer.publish(mandatory.clone(), vec![Property::Priority(4)]);
    let (token, _) = peer.published();
    peer.confirm([(token, Ok(false))]);

    let frames = peer.frames();
    let [returned, header, body, acked] = &frames[..] else { panic!("{frames:?}") };
    let expected = BasicReturn {
        reply_code: 312,
        reply_text: short("NO_ROUTE"),
        exchange: short("amq.topic"),
        routing_key: short("a.b"),
    };
    assert_eq!(Method::decode(returned.payload.clone()), Ok(expected.into()));
    let properties = Properties::encode([Property::Priority(4)]);
    let expected = ContentHeader { body_bytes: 4, properties };
    assert_eq!(ContentHeader::decode(header.payload.clone()), Ok(expected));
    assert_eq!(&body.payload[..], b"body");
    assert_eq!((1, Method::decode(acked.payload.clone()).unwrap()), ack(1, false));

    peer.publish(mandatory, vec![]);
    let (token, _) = peer.published();
    peer.confirm([(token, Ok(true))]);
    assert_eq!(peer.methods(), [ack(2, false)]);
}

#[test]
fn without_the_right_to_a_topic_the_channel_is_closed() {
    let mut peer = Peer::publisher(Settings::default(), true);
    let mut tokens = Vec::new();
    for key in ["mine", "secret.1", "mine"] {
        peer.publish(to_topic(key), vec![]);
        tokens.push(peer.published().0);
    }
    peer.confirm([
        (tokens[0], Ok(true)),
        (tokens[1], Err(Refusal::NotAuthorized)),
        (tokens[2], Ok(true)),
    ]);

    let close = ChannelClose {
        reply_code: 403,
        reply_text: short(
            "ACCESS_REFUSED - access to topic 'secret.1' in exchange 'amq.topic' in vhost '/' refused for user 'ann'",
        ),
        class_id: 60,
        method_id: 40,
    };
    assert_eq!(peer.methods(), [ack(1, false), (1, close.into())]);
    assert_eq!(peer.connection.awaiting_count, 0);
}

#[test]
fn what_is_not_served_closes_the_connection() {
    let mut peer = Peer::publisher(Settings::default(), false);
    peer.publish(BasicPublish { immediate: true, ..to_topic("t") }, vec![]);
    let (code, _, method) = peer.closed_with();
    assert_eq!((code, method), (540, (60, 40)));
    assert_eq!(peer.command(), CLOSED, "nothing is published");
}

#[test]
fn a_publish_to_an_exchange_is_routed_and_always_answered() {
    let mut peer = Peer::publisher(Settings::default(), true);
    let to_queue = BasicPublish { routing_key: short("q"), ..BasicPublish::default() };
    peer.publish(to_queue.clone(), vec![Property::DeliveryMode(1)]);
    let first = peer.routed();
    assert_eq!((&first.exchange[..], &first.routing_key[..]), (&b""[..], &b"q"[..]));
    assert_eq!(first.message.qos, QoS::AtLeastOnce, "what is in a queue waits for its consumer");
    let headers: Table = [("kind", "new".into())].into_iter().collect();
    let elsewhere = BasicPublish { exchange: short("orders"), ..to_queue.clone() };
    peer.publish(elsewhere, vec![Property::Headers(headers.clone())]);
    let second = peer.routed();
    assert_eq!((&second.exchange[..], &second.headers), (&b"orders"[..], headers.as_bytes()));
    peer.publish(BasicPublish { mandatory: true, ..to_queue }, vec![]);
    let third = peer.routed();

    peer.publish(BasicPublish { exchange: short("gone"), ..to_topic("t") }, vec![]);
    let last = peer.routed();

    // Nobody asked to have it back; it is done all the same.
    peer.confirm([(first.token, Ok(false)), (second.token, Err(Refusal::DiskFull))]);
    assert_eq!(peer.methods(), [ack(1, false), nack(2, false)]);
    peer.confirm([(third.token, Ok(false))]);
    let frames = peer.frames();
    let Ok(Method::BasicReturn(returned)) = Method::decode(frames[0].payload.clone()) else {
        panic!("{frames:?}")
    };
    assert_eq!((returned.exchange, returned.routing_key), (short(""), short("q")));
    peer.confirm([(last.token, Err(ExchangeRefusal::missing(b"gone")))]);
    let expected = "NOT_FOUND - no exchange 'gone' in vhost '/'".to_owned();
    assert_eq!(peer.channel_closed_with(), (404, expected, (60, 40)));
}

#[test]
fn a_channel_that_is_opened_again_is_not_told_of_the_one_before() {
    let mut peer = Peer::publisher(Settings::default(), true);
    peer.publish(to_topic("t"), vec![]);
    let (before, _) = peer.published();
    // It does not wait for its publishes when it is we who close it.
    peer.send(1, BasicAck { delivery_tag: 7, multiple: false });
    peer.send(1, ChannelCloseOk::default());
    peer.send(1, ChannelOpen::default());
    peer.send(1, ConfirmSelect { no_wait: true });
    peer.publish(to_topic("t"), vec![]);
    let (token, _) = peer.published();
    assert_eq!(peer.methods().len(), 2);

    peer.confirm([(before, Ok(true))]);
    assert_eq!(peer.methods(), []);
    peer.confirm([(token, Ok(true))]);
    assert_eq!(peer.methods(), [ack(1, false)]);
    assert_eq!(peer.connection.awaiting_count, 0);
}

#[test]
fn a_channel_ends_when_what_it_published_is_answered() {
    for confirms in [false, true] {
        let mut peer = Peer::publisher(Settings::default(), confirms);
        peer.publish(BasicPublish { routing_key: short("q"), ..BasicPublish::default() }, vec![]);
        let published = peer.routed();
        peer.send(1, ChannelClose::default());
        assert_eq!(peer.methods(), []);
        assert!(!peer.connection.wants_input());
        peer.confirm([(published.token, Ok(true))]);
        let closed = (1, Method::from(ChannelCloseOk::default()));
        let expected = if confirms { vec![ack(1, false), closed] } else { vec![closed] };
        assert_eq!(peer.methods(), expected);
        assert!(peer.connection.wants_input());
    }
}

#[test]
fn what_is_wrong_with_a_publish_is_said_to_a_channel_that_closes() {
    let mut peer = Peer::publisher(Settings::default(), false);
    peer.publish(BasicPublish { exchange: short("gone"), ..BasicPublish::default() }, vec![]);
    let published = peer.routed();
    peer.send(1, ChannelClose::default());
    peer.confirm([(published.token, Err(ExchangeRefusal::missing(b"gone")))]);
    // Both have closed it, and each answers the other.
    let methods = peer.methods();
    let [(1, Method::ChannelClose(close)), closed] = &methods[..] else { panic!("{methods:?}") };
    assert_eq!((close.reply_code, closed), (404, &(1, ChannelCloseOk::default().into())));
    peer.send(1, ChannelCloseOk::default());
    peer.send(1, ChannelOpen::default());
    assert_eq!(peer.methods(), [(1, ChannelOpenOk::default().into())]);
}

#[test]
fn a_broker_that_is_behind_is_not_asked_for_more() {
    let settings = Settings { publishes_awaiting_max: 2, ..Settings::default() };
    let mut peer = Peer::publisher(settings, true);
    peer.publish(to_topic("t"), vec![]);
    let (token, _) = peer.published();
    assert!(peer.connection.wants_input());
    peer.publish(to_topic("t"), vec![]);
    assert!(!peer.connection.wants_input());
    peer.confirm([(token, Ok(true))]);
    assert!(peer.connection.wants_input());
}

#[test]
fn what_is_begun_does_not_keep_what_was_read_with_it() {
    let mut peer = Peer::publisher(Settings::default(), true);
    let mut whole = BytesMut::new();
    Method::from(to_topic("a.b")).encode(1, &mut whole);
    content::encode(
        1,
        &Properties::encode([Property::Priority(4)]),
        &[5; 30_000],
        8_192,
        &mut whole,
    );
    let whole = whole.freeze();

    // Wherever it is cut, the buffer is free again; and it comes whole all the same.
    for cut in [10, 40, 60, 8_000, 9_000, 20_000, 29_000] {
        let mut input = BytesMut::with_capacity(whole.len());
        input.extend_from_slice(&whole[..cut]);
        peer.connection.handle_input(NOW, &mut input);
        let left = input.len();
        assert!(left == 0 || input[0] < 4, "what is left begins with a frame");
        let rest = input.split();
        let mut next = BytesMut::from(&rest[..]);
        drop(rest);
        assert!(input.try_reclaim(whole.len() - left), "nothing keeps it at {cut}");
        next.extend_from_slice(&whole[cut..]);
        peer.connection.handle_input(NOW, &mut next);
        let (_, message) = peer.published();
        assert_eq!(message.topic.as_str(), "a/b");
        assert_eq!(message.payload, vec![5; 30_000]);
    }
}

#[test]
fn what_is_owed_is_said_before_the_connection_closes() {
    let mut peer = Peer::publisher(Settings::default(), true);
    peer.publish(to_topic("t"), vec![]);
    let (token, _) = peer.published();
    peer.connection.handle_effect(NOW, Effect::Confirm { token, result: Ok(true) });
    peer.send(0, ConnectionClose::default());
    peer.released();
    assert_eq!(peer.methods(), [ack(1, false), (0, ConnectionCloseOk::default().into())]);
}
