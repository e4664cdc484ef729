//! Consumers: what is asked, delivered, acknowledged and given back, under which numbers and in which order.

use std::sync::Arc;

use fluxmq_index::Offset;

use super::publish::short;
use super::*;
use crate::model::{
    Consume, Credit, Delivery, DeliveryId, DeliverySource, Got, Message, Outcome, PartitionId, QoS,
    QueueRefusal, Token, Topic,
};
use crate::protocol::amqp091::codec::ContentHeader;

impl Peer {
    /// A peer with a consumer `c` of queue `q` on channel 1, made by `edit`; returns the broker's number too.
    fn consumer(edit: impl FnOnce(&mut BasicConsume)) -> (Peer, u32) {
        let mut peer = Peer::publisher(Settings::default(), false);
        let consumer = peer.consume("c", edit).consumer;
        assert_eq!(peer.methods(), [(1, BasicConsumeOk { consumer_tag: short("c") }.into())]);
        (peer, consumer)
    }

    fn consume(&mut self, tag: &'static str, edit: impl FnOnce(&mut BasicConsume)) -> Consume {
        let mut consume = consume(tag);
        edit(&mut consume);
        self.send(1, consume);
        let consume = self.asked_to_consume();
        self.effect(Effect::Consuming { token: consume.token, result: Ok(()) });
        consume
    }

    fn asked_to_consume(&mut self) -> Consume {
        match self.command() {
            Some(Command::Consume(consume)) => *consume,
            other => panic!("{other:?} is no consumer"),
        }
    }

    /// The broker delivers; what is written is received.
    fn deliver(&mut self, consumer: u32, offset: u64) {
        self.effect(Effect::Deliver(delivery(consumer, offset)));
    }

    fn qos(&mut self, prefetch_count: u16, global: bool) {
        self.send(1, BasicQos { prefetch_size: 0, prefetch_count, global });
        assert_eq!(self.methods(), [(1, BasicQosOk::default().into())]);
    }

    fn commands(&mut self) -> Vec<Command> {
        std::iter::from_fn(|| self.command()).collect()
    }

    /// The tags of what was delivered.
    fn tags(&mut self) -> Vec<u64> {
        let tag = |frame: Frame| match frame.kind {
            FrameKind::Method => match Method::decode(frame.payload).unwrap() {
                Method::BasicDeliver(deliver) => Some(deliver.delivery_tag),
                other => panic!("{other:?} is no delivery"),
            },
            _ => None,
        };
        self.frames().into_iter().filter_map(tag).collect()
    }
}

fn consume(tag: &'static str) -> BasicConsume {
    BasicConsume { queue: short("q"), consumer_tag: short(tag), ..BasicConsume::default() }
}

fn delivery_id(consumer: u32, offset: u64) -> DeliveryId {
    let source = DeliverySource::Group(consumer);
    DeliveryId { source, partition: PartitionId(1), offset: Offset(offset) }
}

fn delivery(consumer: u32, offset: u64) -> Delivery {
    let message = Message {
        topic: Topic::new(Bytes::from("$queue/q")).unwrap(),
        payload: Bytes::from("body"),
        qos: QoS::AtLeastOnce,
        retain: false,
        expiry_s: None,
        properties: Default::default(),
        publisher: 0,
    };
    Delivery {
        id: delivery_id(consumer, offset),
        message: Arc::new(message),
        qos: QoS::AtLeastOnce,
        retain: false,
        redelivered: offset == 0,
        subscription_ids: Vec::new(),
        annotations: Default::default(),
        settle_explicit: false,
    }
}

fn settled(consumer: u32, offset: u64, outcome: Outcome) -> Command {
    Command::Settle { delivery: delivery_id(consumer, offset), outcome }
}

fn sent(consumer: u32, count: u32) -> Command {
    Command::Sent { consumer, count }
}

fn ack(delivery_tag: u64, multiple: bool) -> BasicAck {
    BasicAck { delivery_tag, multiple }
}

#[test]
fn a_consumer_is_told_before_it_is_delivered_to() {
    let mut peer = Peer::publisher(Settings::default(), false);
    peer.send(1, BasicConsume { exclusive: true, ..consume("c") });
    let asked = peer.asked_to_consume();
    assert_eq!((asked.queue.as_str(), asked.group.as_str()), ("q", "default"));
    assert_eq!((asked.credit, asked.is_exclusive), (Credit::Window(u32::MAX), true));
    assert_eq!((peer.methods(), peer.connection.wants_input()), (vec![], false));
    peer.effect(Effect::Consuming { token: asked.token, result: Ok(()) });
    assert_eq!(peer.methods(), [(1, BasicConsumeOk { consumer_tag: short("c") }.into())]);

    peer.deliver(asked.consumer, 0);
    let frames = peer.frames();
    let [method, header, body] = &frames[..] else { panic!("{frames:?}") };
    let expected = BasicDeliver {
        consumer_tag: short("c"),
        delivery_tag: 1,
        redelivered: true,
        exchange: short(""),
        routing_key: short("q"),
    };
    assert_eq!(Method::decode(method.payload.clone()), Ok(expected.into()));
    assert_eq!(ContentHeader::decode(header.payload.clone()).unwrap().body_bytes, 4);
    assert_eq!(&body.payload[..], b"body");
    assert_eq!(peer.commands(), [sent(asked.consumer, 1)]);
}

#[test]
fn consumers_have_tags_of_their_own() {
    let (mut peer, _) = Peer::consumer(|_| {});
    peer.send(1, consume(""));
    let asked = peer.asked_to_consume();
    peer.effect(Effect::Consuming { token: asked.token, result: Ok(()) });
    let methods = peer.methods();
    let [(1, Method::BasicConsumeOk(made))] = &methods[..] else { panic!("{methods:?}") };
    let tag = made.consumer_tag.as_str().unwrap();
    assert!(tag.starts_with("amq.ctag-") && tag.len() == 31, "{tag}");

    peer.send(1, consume("c"));
    let expected = "NOT_ALLOWED - attempt to reuse consumer tag 'c'".to_owned();
    assert_eq!(peer.closed_with(), (530, expected, (60, 20)));
}

#[test]
fn a_consumer_that_may_not_be_closes_its_channel() {
    let cases = [
        (
            Refusal::from(QueueRefusal::ExclusiveUse { queue: "q".to_owned() }),
            403,
            "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use",
        ),
        (
            Refusal::from(QueueRefusal::Missing { queue: "q".to_owned() }),
            404,
            "NOT_FOUND - no queue 'q' in vhost '/'",
        ),
        (
            Refusal::NotAuthorized,
            403,
            "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'ann'",
        ),
    ];
    for (refusal, code, text) in cases {
        let mut peer = Peer::publisher(Settings::default(), false);
        peer.send(1, consume("c"));
        let asked = peer.asked_to_consume();
        peer.effect(Effect::Consuming { token: asked.token, result: Err(refusal) });
        assert_eq!(peer.channel_closed_with(), (code, text.to_owned(), (60, 20)));
        assert_eq!(peer.commands(), [], "nobody leaves who was not there");
        assert!(peer.connection.consumers.is_empty());
    }
}

#[test]
fn prefetch_is_of_each_consumer_that_comes_after() {
    let (mut peer, _) = Peer::consumer(|_| {});
    peer.qos(7, false);
    assert_eq!(peer.consume("d", |_| {}).credit, Credit::Window(7));
    let no_ack = peer.consume("e", |consume| consume.no_ack = true);
    assert_eq!(no_ack.credit, Credit::Window(u32::MAX), "nothing of it is ever unacknowledged");

    peer.methods();
    peer.send(1, BasicQos { prefetch_size: 5, prefetch_count: 0, global: false });
    let expected = "NOT_IMPLEMENTED - prefetch_size!=0 (5)".to_owned();
    assert_eq!(peer.closed_with(), (540, expected, (60, 10)));
}

#[test]
fn a_channels_prefetch_is_shared_by_its_consumers() {
    let mut peer = Peer::publisher(Settings::default(), false);
    peer.qos(2, true);
    let one = peer.consume("a", |_| {});
    let other = peer.consume("b", |_| {});
    assert_eq!((one.credit, other.credit), (Credit::Granted(2), Credit::Granted(2)));
    peer.methods();

    // Each may be the one that something comes for; the client never has more than two.
    for (consumer, offset) in [(one.consumer, 1), (one.consumer, 2), (other.consumer, 3)] {
        peer.deliver(consumer, offset);
    }
    assert_eq!(peer.tags(), [1, 2]);
    assert_eq!(peer.commands(), [sent(one.consumer, 1), sent(one.consumer, 1)]);

    peer.send(1, ack(1, false));
    assert_eq!(peer.tags(), [3]);
    let accepted = settled(one.consumer, 1, Outcome::Accepted);
    assert_eq!(peer.commands(), [accepted, sent(other.consumer, 1)], "two are out again");
    peer.send(1, ack(3, true));
    let commands = peer.commands();
    let grants = [
        Command::Grant { consumer: one.consumer, count: 2 },
        Command::Grant { consumer: other.consumer, count: 1 },
    ];
    assert_eq!(commands[2..], grants, "one of the other's two is still granted");
}

#[test]
fn acknowledgements_name_deliveries_by_their_tags() {
    let (mut peer, consumer) = Peer::consumer(|_| {});
    for offset in 1..=6 {
        peer.deliver(consumer, offset);
    }
    assert_eq!(peer.tags(), [1, 2, 3, 4, 5, 6]);
    peer.commands();

    peer.send(1, ack(2, false));
    assert_eq!(peer.commands(), [settled(consumer, 2, Outcome::Accepted)]);
    peer.send(1, BasicNack { delivery_tag: 3, multiple: true, requeue: true });
    let released = |offset| settled(consumer, offset, Outcome::Released);
    assert_eq!(peer.commands(), [released(1), released(3)]);
    peer.send(1, BasicReject { delivery_tag: 4, requeue: false });
    assert_eq!(peer.commands(), [settled(consumer, 4, Outcome::Rejected)]);
    peer.send(1, ack(0, true));
    let accepted = |offset| settled(consumer, offset, Outcome::Accepted);
    assert_eq!(peer.commands(), [accepted(5), accepted(6)]);
    peer.send(1, ack(0, true));
    assert_eq!((peer.commands(), peer.methods()), (vec![], vec![]), "all of none is none");
}

#[test]
fn a_tag_that_is_not_out_closes_the_channel() {
    let acts: [(u64, (u16, u16), Act); 4] = [
        (2, (60, 80), |peer| peer.send(1, ack(2, false))),
        (2, (60, 80), |peer| peer.send(1, ack(2, true))),
        (0, (60, 90), |peer| peer.send(1, BasicReject { delivery_tag: 0, requeue: true })),
        (1, (60, 120), |peer| {
            peer.send(1, ack(1, false));
            peer.send(1, BasicNack { delivery_tag: 1, multiple: false, requeue: true });
        }),
    ];
    for (tag, method, act) in acts {
        let (mut peer, consumer) = Peer::consumer(|_| {});
        peer.deliver(consumer, 1);
        peer.frames();
        act(&mut peer);
        let expected = format!("PRECONDITION_FAILED - unknown delivery tag {tag}");
        assert_eq!(peer.channel_closed_with(), (406, expected, method));
        let last = peer.commands().pop();
        assert_eq!(last, Some(Command::Leave { consumer }), "what it had goes back");
    }
}

#[test]
fn what_nobody_acknowledges_is_settled_as_it_is_written() {
    let (mut peer, consumer) = Peer::consumer(|consume| consume.no_ack = true);
    for offset in 1..=2 {
        let effect = Effect::Deliver(delivery(consumer, offset));
        peer.connection.handle_effect(NOW, effect);
    }
    assert_eq!(peer.commands(), []);
    let held = peer.connection.held_bytes();
    assert!(held > 2 * "body".len(), "{held} bytes are kept for it");
    peer.connection.poll_transmit(NOW, &mut peer.received, 1);
    assert_eq!(
        peer.commands(),
        [settled(consumer, 1, Outcome::Accepted)],
        "as much as was asked for"
    );
    peer.drain();
    assert_eq!(peer.tags(), [1, 2]);
    assert_eq!(peer.commands(), [settled(consumer, 2, Outcome::Accepted)]);
    assert_eq!(peer.connection.held_bytes(), 0);
    peer.send(1, ack(1, false));
    assert_eq!(peer.channel_closed_with().0, 406);
}

#[test]
fn a_consumer_that_is_cancelled_keeps_what_it_has() {
    let (mut peer, consumer) = Peer::consumer(|_| {});
    peer.deliver(consumer, 1);
    peer.frames();
    peer.commands();
    peer.send(1, BasicCancel { consumer_tag: short("c"), no_wait: false });
    let commands = peer.commands();
    let [Command::StopConsuming { token, .. }] = &commands[..] else { panic!("{commands:?}") };
    peer.deliver(consumer, 2);
    peer.effect(Effect::Stopped { token: *token });

    let frames = peer.frames();
    let last = Method::decode(frames[3].payload.clone()).unwrap();
    assert_eq!(last, BasicCancelOk { consumer_tag: short("c") }.into(), "after what came before");
    peer.commands();
    peer.send(1, ack(1, false));
    assert_eq!(peer.commands(), [settled(consumer, 1, Outcome::Accepted)]);
    peer.send(1, ack(2, false));
    let leave = Command::Leave { consumer };
    assert_eq!(peer.commands(), [settled(consumer, 2, Outcome::Accepted), leave]);

    peer.send(1, BasicCancel { consumer_tag: short("c"), no_wait: false });
    let expected = BasicCancelOk { consumer_tag: short("c") };
    assert_eq!(peer.methods(), [(1, expected.into())], "it is over, which is what was asked for");
}

#[test]
fn a_consumer_whose_queue_is_gone_is_told_if_it_said_so() {
    for hears in [true, false] {
        let (mut peer, consumer) = Peer::consumer(|_| {});
        peer.connection.client.hears_of_cancel = hears;
        peer.deliver(consumer, 1);
        peer.frames();
        peer.commands();
        peer.effect(Effect::ConsumerEnded { consumer });
        let cancel = BasicCancel { consumer_tag: short("c"), no_wait: true };
        let expected: Vec<(u16, Method)> = hears.then(|| (1, cancel.into())).into_iter().collect();
        assert_eq!(peer.methods(), expected);
        peer.send(1, ack(1, false));
        assert_eq!((peer.commands(), peer.methods()), (vec![], vec![]), "its entry went with it");
        peer.consume("c", |_| {});
    }
}

#[test]
fn a_channel_that_ends_leaves_what_it_has_to_others() {
    let (mut peer, consumer) = Peer::consumer(|_| {});
    let other = peer.consume("d", |_| {}).consumer;
    peer.send(2, ChannelOpen::default());
    peer.methods();
    peer.connection.handle_effect(NOW, Effect::Deliver(delivery(consumer, 1)));
    let mut close = BytesMut::new();
    Method::from(ChannelClose::default()).encode(1, &mut close);
    peer.bytes(&close);
    assert_eq!(peer.methods(), [(1, ChannelCloseOk::default().into())], "nothing more is sent");
    let leave = |consumer| Command::Leave { consumer };
    assert_eq!(peer.commands(), [leave(consumer), leave(other)]);
    peer.deliver(consumer, 2);
    assert_eq!((peer.frames().len(), peer.connection.held_bytes()), (0, 0));

    let (mut peer, consumer) = Peer::consumer(|_| {});
    peer.send(0, ConnectionClose::default());
    assert_eq!(peer.commands(), [leave(consumer), CLOSED.unwrap()]);
}

#[test]
fn recovering_delivers_everything_again() {
    let (mut peer, consumer) = Peer::consumer(|_| {});
    for offset in 1..=2 {
        peer.deliver(consumer, offset);
    }
    peer.frames();
    peer.commands();
    // One that is not written is not: it comes again.
    peer.connection.handle_effect(NOW, Effect::Deliver(delivery(consumer, 3)));
    peer.send(1, BasicRecover { requeue: true });
    assert_eq!(peer.methods(), [(1, BasicRecoverOk::default().into())]);
    let released = |offset| settled(consumer, offset, Outcome::Released);
    assert_eq!(peer.commands(), [released(1), released(2), released(3)]);
    peer.deliver(consumer, 1);
    assert_eq!(peer.tags(), [4], "under another tag");
    peer.send(1, BasicRecoverAsync { requeue: true });
    assert_eq!(peer.methods(), []);

    peer.send(1, BasicRecover { requeue: false });
    let expected = "NOT_IMPLEMENTED - requeue=false".to_owned();
    assert_eq!(peer.closed_with(), (540, expected, (60, 110)));
}

#[test]
fn messages_can_be_had_one_by_one() {
    let mut peer = Peer::publisher(Settings::default(), false);
    let get = |no_ack| BasicGet { queue: short("q"), no_ack, ..BasicGet::default() };
    let asked = |peer: &mut Peer| -> (Token, u32) {
        match peer.command() {
            Some(Command::Get { token, consumer, queue, group }) => {
                assert_eq!((queue.as_str(), group.as_str()), ("q", "default"));
                (token, consumer)
            }
            other => panic!("{other:?} asks for nothing"),
        }
    };
    peer.send(1, get(false));
    let (token, getter) = asked(&mut peer);
    peer.effect(Effect::Got { token, result: Ok(None) });
    assert_eq!(peer.methods(), [(1, BasicGetEmpty::default().into())]);

    // The broker names what it gave by a number of its own.
    let theirs = crate::model::consume::CONSUMERS_END + 5;
    for (no_ack, tag) in [(false, 1), (true, 2)] {
        peer.send(1, get(no_ack));
        let (token, again) = asked(&mut peer);
        assert_eq!(again, getter);
        let got = Got { delivery: delivery(theirs, tag), remaining: 4 };
        peer.effect(Effect::Got { token, result: Ok(Some(Box::new(got))) });
        let frames = peer.frames();
        let expected = BasicGetOk {
            delivery_tag: tag,
            redelivered: false,
            exchange: short(""),
            routing_key: short("q"),
            message_count: 4,
        };
        assert_eq!(Method::decode(frames[0].payload.clone()), Ok(expected.into()));
        assert_eq!((frames.len(), &frames[2].payload[..]), (3, &b"body"[..]));
    }
    assert_eq!(peer.commands(), [settled(theirs, 2, Outcome::Accepted)]);
    peer.send(1, ack(1, false));
    assert_eq!(peer.commands(), [settled(theirs, 1, Outcome::Accepted)]);
    peer.send(1, ChannelClose::default());
    assert_eq!(peer.commands(), [Command::Leave { consumer: getter }]);
}

#[test]
fn a_delivery_that_is_held_for_too_long_closes_its_channel() {
    let (mut peer, consumer) = Peer::consumer(|_| {});
    peer.deliver(consumer, 1);
    peer.frames();
    peer.commands();
    let due = NOW.plus(30 * 60_000);
    while peer.wait(due) < due {
        assert!(peer.frames().iter().all(|frame| frame.kind == FrameKind::Heartbeat));
        peer.bytes(b"\x08\0\0\0\0\0\0\xce");
    }
    let expected = "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1800000 ms. This timeout value can be configured, see consumers doc guide to learn more".to_owned();
    let closes = peer.methods();
    assert!(
        matches!(&closes[..], [(1, Method::ChannelClose(close))] if close.reply_text == ShortString::truncated(&expected) && close.reply_code == 406),
        "{closes:?}"
    );
    assert_eq!(peer.commands(), [Command::Leave { consumer }]);

    let settings = Settings { consumer_timeout_ms: 0, ..Settings::default() };
    let mut peer = Peer::publisher(settings, false);
    let consumer = peer.consume("c", |_| {}).consumer;
    peer.deliver(consumer, 1);
    assert_eq!(peer.connection.consumer_timeout(), None);
}

#[test]
fn a_peer_that_does_not_read_keeps_nothing_but_its_deliveries() {
    let (mut peer, consumer) = Peer::consumer(|_| {});
    let frame = Bytes::from(vec![7; 100_000]);
    let sliced = |offset| {
        let mut delivery = delivery(consumer, offset);
        Arc::get_mut(&mut delivery.message).unwrap().payload = frame.slice(..100);
        Effect::Deliver(delivery)
    };
    peer.connection.handle_effect(NOW, sliced(1));
    peer.connection.handle_congestion(true);
    peer.connection.handle_effect(NOW, sliced(2));
    assert!(frame.is_unique(), "what waits is copied out of what it was read with");
    assert!(peer.connection.wants_input(), "its acknowledgements are still read");
    assert!(peer.connection.held_bytes() > 200);
    peer.drain();
    assert_eq!(peer.tags(), [1, 2]);
}

#[test]
fn where_to_begin_and_with_whom_is_said_by_arguments() {
    let mut peer = Peer::publisher(Settings::default(), false);
    let with = |entries: &[(&str, Value)]| {
        let arguments: Table = entries.iter().cloned().collect();
        move |consume: &mut BasicConsume| consume.arguments = arguments
    };
    let group = with(&[("x-consumer-group", "audit".into()), ("x-stream-offset", "first".into())]);
    let asked = peer.consume("a", group);
    assert_eq!((asked.group.as_str(), &asked.own), ("audit", &None));
    assert_eq!(asked.position, Some(Bytes::from("earliest")));
    let alone = peer.consume("b", with(&[("x-stream-offset", Value::I32(5))]));
    let own = alone.own.expect("it reads for itself");
    assert!(own.as_str().starts_with("amq.group-"));
    assert_eq!(alone.group.as_str(), "default", "of whatever says nothing else");
    assert_eq!(alone.position, Some(Bytes::from("offset=5")));
    peer.consume("c", with(&[("x-priority", Value::I32(10))]));
    peer.methods();

    let bad = BasicConsume {
        arguments: [("x-stream-offset", "now".into())].into_iter().collect(),
        ..consume("d")
    };
    peer.send(1, bad);
    let expected = "PRECONDITION_FAILED - invalid arg 'x-stream-offset' for queue 'q' in vhost '/': invalid_stream_offset_arg".to_owned();
    assert_eq!(peer.channel_closed_with(), (406, expected, (60, 20)));
}
