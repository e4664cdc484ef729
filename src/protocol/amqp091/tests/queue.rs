//! Queues: what is asked of the broker, what is said of it, and that input waits for the answer.

use super::publish::short;
use super::*;
use crate::model::{QueueAnswer, QueueCommand, QueueRefusal, Token};

impl Peer {
    /// What was asked of a queue.
    fn asked(&mut self) -> (Token, String, QueueCommand) {
        match self.command() {
            Some(Command::Queue { token, queue, command }) => (token, queue.to_string(), command),
            other => panic!("{other:?} is nothing of a queue"),
        }
    }

    /// Answers a request to a queue.
    fn answer_queue(&mut self, token: Token, result: Result<(u64, u64), QueueRefusal>) {
        let answer = |(messages, consumers)| QueueAnswer { messages, consumers };
        let result = result.map(answer).map_err(Refusal::from);
        self.effect(Effect::Queue { token, result });
    }

    /// The channel was closed: the code, the text, and the method it is about.
    pub(super) fn channel_closed_with(&mut self) -> (u16, String, (u16, u16)) {
        match &self.methods()[..] {
            [(1, Method::ChannelClose(close))] => (
                close.reply_code,
                close.reply_text.as_str().unwrap().to_owned(),
                (close.class_id, close.method_id),
            ),
            other => panic!("{other:?} is not one channel.close"),
        }
    }
}

fn declare(queue: &'static str) -> QueueDeclare {
    QueueDeclare { queue: short(queue), durable: true, ..QueueDeclare::default() }
}

fn declared(queue: &'static str, message_count: u32, consumer_count: u32) -> (u16, Method) {
    (1, QueueDeclareOk { queue: short(queue), message_count, consumer_count }.into())
}

fn missing() -> QueueRefusal {
    QueueRefusal::Missing { queue: "q".to_owned() }
}

#[test]
fn a_queue_is_declared_and_counted() {
    let mut peer = Peer::publisher(Settings::default(), false);
    peer.send(1, declare("orders"));
    let (token, name, command) = peer.asked();
    assert!(matches!(&command, QueueCommand::Declare(settings) if settings.priority_max == 0));
    assert_eq!((&name[..], peer.methods().len()), ("orders", 0));
    peer.answer_queue(token, Ok((3, 1)));
    assert_eq!(peer.methods(), [declared("orders", 3, 1)]);

    peer.send(1, QueueDeclare { passive: true, durable: false, ..declare("orders") });
    let (token, _, command) = peer.asked();
    assert_eq!(command, QueueCommand::Inspect);
    peer.answer_queue(token, Ok((4, 0)));
    assert_eq!(peer.methods(), [declared("orders", 4, 0)]);

    peer.send(1, QueueDeclare { no_wait: true, ..declare("orders") });
    let (token, _, _) = peer.asked();
    peer.answer_queue(token, Ok((4, 0)));
    assert_eq!(peer.methods(), []);
}

#[test]
fn input_waits_for_a_request_and_a_request_for_what_was_published_before() {
    let mut peer = Peer::publisher(Settings::default(), false);
    let mut input = BytesMut::new();
    Method::from(publish()).encode(1, &mut input);
    content::encode(1, &Properties::default(), b"body", 4096, &mut input);
    Method::from(QueueDeclare { passive: true, ..declare("q") }).encode(1, &mut input);
    Method::from(ChannelFlow { active: true }).encode(1, &mut input);
    peer.connection.handle_input(NOW, &mut input);
    let published = peer.routed();
    assert_eq!(peer.command(), None, "it is not stored yet, and would not be counted");
    assert!(!peer.connection.wants_input() && !input.is_empty());

    peer.confirm([(published.token, Ok(true))]);
    let (token, _, _) = peer.asked();
    assert!(!peer.connection.wants_input());
    peer.answer_queue(token, Ok((1, 0)));
    assert_eq!(peer.methods(), [declared("q", 1, 0)]);
    assert_eq!(peer.connection.poll_timeout(), Some(NOW), "the driver is to come back");
    peer.connection.handle_input(NOW, &mut input);
    peer.drain();
    assert_eq!(peer.methods(), [(1, ChannelFlowOk { active: true }.into())]);
}

#[test]
fn a_queue_without_a_name_gets_one_and_is_the_one_that_is_meant_then() {
    let mut peer = Peer::publisher(Settings::default(), false);
    peer.send(1, QueuePurge::default());
    let expected = "NOT_FOUND - no previously declared queue".to_owned();
    assert_eq!(peer.channel_closed_with(), (404, expected, (50, 30)));

    let mut names = Vec::new();
    for channel in [2, 3] {
        peer.send(channel, ChannelOpen::default());
        peer.send(channel, declare(""));
        let (token, name, _) = peer.asked();
        assert!(name.starts_with("amq.gen-") && name.len() == 30, "{name}");
        peer.answer_queue(token, Ok((0, 0)));
        names.push(name);
    }
    peer.methods();
    assert_ne!(names[0], names[1]);
    peer.send(2, QueueDelete::default());
    assert_eq!(peer.asked().1, names[0], "the channel's last, and no other's");
}

#[test]
fn names_of_the_brokers_own_are_not_declared_and_are_found() {
    let mut peer = Peer::publisher(Settings::default(), false);
    peer.send(1, QueueDeclare { passive: true, ..declare("amq.gen-1") });
    let (token, _, _) = peer.asked();
    peer.answer_queue(token, Err(missing()));
    let expected = "NOT_FOUND - no queue 'amq.gen-1' in vhost '/'".to_owned();
    assert_eq!(peer.channel_closed_with(), (404, expected, (50, 10)));

    let mut peer = Peer::publisher(Settings::default(), false);
    peer.send(1, declare("amq.mine"));
    let expected =
        "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'".to_owned();
    assert_eq!(peer.channel_closed_with(), (403, expected, (50, 10)));
    assert_eq!(peer.command(), None);

    let mut peer = Peer::publisher(Settings::default(), false);
    peer.send(1, declare("a/b"));
    let (_, queue, _) = peer.asked();
    assert_eq!(queue.as_str(), "a%2Fb", "one level of an address");
}

#[test]
fn purging_and_deleting_say_how_many_messages_went() {
    let mut peer = Peer::publisher(Settings::default(), false);
    peer.send(1, QueuePurge { queue: short("q"), ..QueuePurge::default() });
    let (token, _, command) = peer.asked();
    assert_eq!(command, QueueCommand::Purge);
    peer.answer_queue(token, Ok((7, 0)));
    assert_eq!(peer.methods(), [(1, QueuePurgeOk { message_count: 7 }.into())]);

    let delete = QueueDelete { queue: short("q"), if_unused: true, ..QueueDelete::default() };
    peer.send(1, delete.clone());
    let (token, _, command) = peer.asked();
    assert_eq!(command, QueueCommand::Delete { if_unused: true, if_empty: false });
    peer.answer_queue(token, Ok((u64::MAX, 0)));
    assert_eq!(peer.methods(), [(1, QueueDeleteOk { message_count: u32::MAX }.into())]);
    peer.send(1, delete);
    let (token, _, _) = peer.asked();
    peer.answer_queue(token, Err(missing()));
    assert_eq!(peer.methods(), [(1, QueueDeleteOk { message_count: 0 }.into())], "as in RabbitMQ");
}

#[test]
fn refusals_close_the_channel_in_rabbitmqs_words() {
    let queue = || "q".to_owned();
    let locked = "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration.";
    let cases = [
        (missing(), 404, "NOT_FOUND - no queue 'q' in vhost '/'"),
        (
            QueueRefusal::InUse { queue: queue(), members: 1 },
            406,
            "PRECONDITION_FAILED - queue 'q' in vhost '/' in use",
        ),
        (
            QueueRefusal::NotEmpty { queue: queue(), messages: 1 },
            406,
            "PRECONDITION_FAILED - queue 'q' in vhost '/' not empty",
        ),
        (QueueRefusal::Locked { queue: queue() }, 405, locked),
    ];
    for (refusal, code, text) in cases {
        let mut peer = Peer::publisher(Settings::default(), false);
        peer.send(1, QueuePurge { queue: short("q"), ..QueuePurge::default() });
        let (token, _, _) = peer.asked();
        peer.answer_queue(token, Err(refusal));
        assert_eq!(peer.channel_closed_with(), (code, text.chars().take(255).collect(), (50, 30)));
        assert!(peer.connection.wants_input(), "others are as they were");
    }
}

#[test]
fn a_queue_that_is_there_and_otherwise_is_not_declared() {
    let mut peer = Peer::publisher(Settings::default(), false);
    peer.send(1, declare("q"));
    let (token, _, command) = peer.asked();
    let QueueCommand::Declare(asked) = command else { panic!("{command:?}") };
    let current = crate::model::QueueSettings { auto_delete: true, ..(*asked).clone() };
    let refusal = QueueRefusal::Differs {
        queue: "q".to_owned(),
        setting: "auto_delete",
        current: current.into(),
    };
    peer.answer_queue(token, Err(refusal));
    let expected = "PRECONDITION_FAILED - inequivalent arg 'auto_delete' for queue 'q' in vhost '/': received 'false' but current is 'true'".to_owned();
    assert_eq!(peer.channel_closed_with(), (406, expected, (50, 10)));
}

#[test]
fn an_answer_for_a_channel_that_is_gone_is_for_nobody() {
    let mut peer = Peer::publisher(Settings::default(), true);
    peer.publish(BasicPublish { routing_key: short("t"), ..BasicPublish::default() }, vec![]);
    let published = peer.routed();
    peer.send(1, declare("q"));
    peer.confirm([(published.token, Err(Refusal::NotAuthorized))]);
    assert_eq!(peer.channel_closed_with().0, 403);
    assert_eq!(peer.command(), None, "nothing is declared for a channel that was closed before");
    assert!(peer.connection.wants_input());

    let mut peer = Peer::publisher(Settings::default(), false);
    peer.send(1, declare("q"));
    let (token, _, _) = peer.asked();
    peer.effect(Effect::ShuttingDown);
    peer.answer_queue(token, Ok((0, 0)));
    assert_eq!(peer.closed_with().0, 320);
}
