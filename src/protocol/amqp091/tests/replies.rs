//! Direct reply-to: the queue behind a consumer of replies, and its name in what is published.

use super::publish::short;
use super::*;
use crate::model::queue::{Lifetime, QueueKind};
use crate::model::{Consume, QueueAnswer, QueueCommand, QueueSettings, Token};
use crate::protocol::amqp091::codec::Property;

const REPLIES: &str = "amq.rabbitmq.reply-to";

impl Peer {
    /// What was asked of a queue.
    fn asked_of_queue(&mut self) -> (Token, String, QueueCommand) {
        match self.command() {
            Some(Command::Queue { token, queue, command }) => (token, queue.to_string(), command),
            other => panic!("{other:?} is nothing of a queue"),
        }
    }

    /// A consumer of replies, and the queue that is behind it.
    fn consume_replies(&mut self) -> (Box<Consume>, std::sync::Arc<QueueSettings>) {
        self.send(1, BasicConsume { no_ack: true, ..consume() });
        let (token, name, command) = self.asked_of_queue();
        let QueueCommand::Declare(settings) = command else { panic!("{command:?}") };
        let answer = QueueAnswer { messages: 0, consumers: 0 };
        self.effect(Effect::Queue { token, result: Ok(answer) });
        let Some(Command::Consume(consume)) = self.command() else { panic!("{name} is read") };
        assert_eq!(consume.queue.to_string(), name);
        self.effect(Effect::Consuming { token: consume.token, result: Ok(()) });
        assert_eq!(self.methods(), [(1, BasicConsumeOk { consumer_tag: short("c") }.into())]);
        (consume, settings)
    }

    fn asks(&mut self) {
        let publish = BasicPublish { routing_key: short("rpc"), ..BasicPublish::default() };
        let list = vec![Property::ReplyTo(short(REPLIES)), Property::CorrelationId(short("7"))];
        self.publish(publish, list);
    }
}

fn consume() -> BasicConsume {
    BasicConsume { queue: short(REPLIES), consumer_tag: short("c"), ..BasicConsume::default() }
}

fn failed(peer: &mut Peer) -> String {
    let (code, text, _) = peer.channel_closed_with();
    assert_eq!(code, 406);
    text
}

#[test]
fn a_consumer_of_replies_has_a_queue_that_stores_nothing_and_ends_with_it() {
    let mut peer = Peer::publisher(Settings::default(), false);
    let (consume, settings) = peer.consume_replies();
    let name = consume.queue.to_string();
    assert!(name.starts_with("amq.rabbitmq.reply-to.") && name.len() == 44, "{name}");
    assert!(consume.is_exclusive);
    let QueueSettings { kind, lifetime, auto_delete, .. } = *settings;
    assert_eq!((kind, lifetime), (QueueKind::Ephemeral, Lifetime::Transient));
    assert!(auto_delete);
    assert_eq!((*settings).clone().checked().as_ref(), Ok(&*settings));
}

#[test]
fn a_question_names_the_queue_of_the_channels_replies() {
    let mut peer = Peer::publisher(Settings::default(), false);
    let (consume, _) = peer.consume_replies();
    peer.asks();
    let neutral: Vec<_> = peer.routed().message.properties.iter().collect();
    let address = Bytes::from(format!("$queue/{}", consume.queue));
    assert!(neutral.contains(&crate::model::Property::ResponseTopic(address)), "{neutral:?}");

    // Another channel has none.
    peer.send(2, ChannelOpen::default());
    peer.methods();
    let mut out = BytesMut::new();
    Method::from(BasicPublish::default()).encode(2, &mut out);
    let list = Properties::encode([Property::ReplyTo(short(REPLIES))]);
    content::encode(2, &list, b"", 4096, &mut out);
    peer.bytes(&out);
    let methods = peer.methods();
    let [(2, Method::ChannelClose(close))] = &methods[..] else { panic!("{methods:?}") };
    let expected = "PRECONDITION_FAILED - fast reply consumer does not exist";
    assert_eq!(close.reply_text, short(expected));
}

#[test]
fn a_question_without_anybody_to_hear_the_answer_is_refused() {
    let mut peer = Peer::publisher(Settings::default(), false);
    let (consume, _) = peer.consume_replies();
    peer.send(1, BasicCancel { consumer_tag: short("c"), no_wait: true });
    let Some(Command::StopConsuming { token, consumer }) = peer.command() else {
        panic!("it ends")
    };
    assert_eq!(consumer, consume.consumer);
    peer.effect(Effect::Stopped { token });
    peer.asks();
    assert!(failed(&mut peer).ends_with("fast reply consumer does not exist"));
}

#[test]
fn a_channel_has_one_consumer_of_replies_and_it_acknowledges_nothing() {
    let mut peer = Peer::publisher(Settings::default(), false);
    peer.send(1, consume());
    assert!(failed(&mut peer).ends_with("reply consumer cannot acknowledge"));
    let mut peer = Peer::publisher(Settings::default(), false);
    peer.consume_replies();
    peer.send(1, BasicConsume { no_ack: true, consumer_tag: short("d"), ..consume() });
    assert!(failed(&mut peer).ends_with("reply consumer already set"));
}

#[test]
fn the_name_of_replies_is_declared_by_whoever_likes_and_made_by_nobody() {
    let mut peer = Peer::publisher(Settings::default(), false);
    for passive in [false, true] {
        peer.send(1, QueueDeclare { queue: short(REPLIES), passive, ..QueueDeclare::default() });
        let ok =
            QueueDeclareOk { queue: short(REPLIES), message_count: 0, consumer_count: 1 }.into();
        assert_eq!((peer.command(), peer.methods()), (None, vec![(1, ok)]));
        // Whoever is asked looks whether anybody still listens.
        let queue = short("amq.rabbitmq.reply-to.x");
        peer.send(1, QueueDeclare { queue: queue.clone(), passive, ..QueueDeclare::default() });
        let (token, _, command) = peer.asked_of_queue();
        assert_eq!(command, QueueCommand::Inspect);
        let answer = QueueAnswer { messages: 0, consumers: 1 };
        peer.effect(Effect::Queue { token, result: Ok(answer) });
        assert_eq!(peer.methods().len(), 1);
    }
}
