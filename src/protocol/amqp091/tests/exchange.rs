//! Exchanges and bindings: what is asked of the broker, and what is said of it.

use std::sync::Arc;

use super::publish::short;
use super::*;
use crate::model::exchange::ExchangeSettings;
use crate::model::{
    Bind, Destination, ExchangeCommand, ExchangeKind, ExchangeRefusal, QueueAnswer, QueueName,
    QueueRefusal, Token,
};

impl Peer {
    fn answer_exchange(&mut self, token: Token, result: Result<(), Refusal>) {
        self.effect(Effect::Exchange { token, result });
    }

    fn asked_of_exchange(&mut self) -> (Token, ExchangeCommand) {
        match self.command() {
            Some(Command::Exchange { token, exchange, command }) => {
                assert_eq!(&exchange[..], b"orders");
                (token, command)
            }
            other => panic!("{other:?} is nothing of an exchange"),
        }
    }

    fn bound(&mut self) -> Bind {
        match self.command() {
            Some(Command::Bind(bind)) => *bind,
            other => panic!("{other:?} is no binding"),
        }
    }
}

fn declare(exchange: &'static str, kind: &'static str) -> ExchangeDeclare {
    let (exchange, kind) = (short(exchange), short(kind));
    ExchangeDeclare { exchange, kind, durable: true, ..ExchangeDeclare::default() }
}

fn settings(kind: ExchangeKind) -> ExchangeSettings {
    let topics = ExchangeSettings::predeclared(b"amq.topic").unwrap();
    ExchangeSettings { kind, ..topics }
}

#[test]
fn an_exchange_is_declared_and_asked_for() {
    let mut peer = Peer::publisher(Settings::default(), false);
    let arguments: Table = [("alternate-exchange", "rest".into())].into_iter().collect();
    peer.send(1, ExchangeDeclare { arguments, ..declare("orders", "direct") });
    let (token, command) = peer.asked_of_exchange();
    let alternate = Some(Bytes::from("rest"));
    let expected = ExchangeSettings { alternate, ..settings(ExchangeKind::Direct) };
    assert_eq!(command, ExchangeCommand::Declare(Arc::new(expected)));
    assert_eq!((peer.methods(), peer.connection.wants_input()), (vec![], false));
    peer.answer_exchange(token, Ok(()));
    assert_eq!(peer.methods(), [(1, ExchangeDeclareOk::default().into())]);

    let passive = ExchangeDeclare { passive: true, ..declare("orders", "") };
    peer.send(1, ExchangeDeclare { no_wait: true, ..passive.clone() });
    let (token, command) = peer.asked_of_exchange();
    assert_eq!(command, ExchangeCommand::Inspect);
    peer.answer_exchange(token, Ok(()));
    assert_eq!(peer.methods(), []);
    peer.send(1, passive);
    let (token, _) = peer.asked_of_exchange();
    peer.answer_exchange(token, Err(ExchangeRefusal::missing(b"orders")));
    let expected = "NOT_FOUND - no exchange 'orders' in vhost '/'".to_owned();
    assert_eq!(peer.channel_closed_with(), (404, expected, (40, 10)));
}

#[test]
fn an_exchange_that_is_there_and_otherwise_is_not_declared() {
    let alternate = Some(Bytes::from("rest"));
    let alternate = ExchangeSettings { alternate, ..settings(ExchangeKind::Topic) };
    let cases = [
        (settings(ExchangeKind::Fanout), "type", "received 'topic' but current is 'fanout'"),
        (
            alternate,
            "alternate-exchange",
            "received none but current is the value 'rest' of type 'longstr'",
        ),
    ];
    for (current, argument, text) in cases {
        let mut peer = Peer::publisher(Settings::default(), false);
        peer.send(1, declare("orders", "topic"));
        let (token, _) = peer.asked_of_exchange();
        let refusal = ExchangeRefusal::differs(b"orders", "type", current.into());
        peer.answer_exchange(token, Err(refusal));
        let expected = format!(
            "PRECONDITION_FAILED - inequivalent arg '{argument}' for exchange 'orders' in vhost '/': {text}"
        );
        assert_eq!(peer.channel_closed_with(), (406, expected, (40, 10)));
    }
}

#[test]
fn an_exchange_ends_and_is_not_missed() {
    let mut peer = Peer::publisher(Settings::default(), false);
    let delete =
        ExchangeDelete { exchange: short("orders"), if_unused: true, ..ExchangeDelete::default() };
    for result in [Ok(()), Err(ExchangeRefusal::missing(b"orders"))] {
        peer.send(1, delete.clone());
        let (token, command) = peer.asked_of_exchange();
        assert_eq!(command, ExchangeCommand::Delete { if_unused: true });
        peer.answer_exchange(token, result);
        assert_eq!(peer.methods(), [(1, ExchangeDeleteOk::default().into())]);
    }
    peer.send(1, delete);
    let (token, _) = peer.asked_of_exchange();
    peer.answer_exchange(token, Err(ExchangeRefusal::in_use(b"orders")));
    let expected = "PRECONDITION_FAILED - exchange 'orders' in vhost '/' in use".to_owned();
    assert_eq!(peer.channel_closed_with(), (406, expected, (40, 20)));
}

#[test]
fn bindings_say_what_goes_where() {
    let mut peer = Peer::publisher(Settings::default(), false);
    let arguments: Table = [("x-match", "any".into())].into_iter().collect();
    peer.send(
        1,
        QueueBind {
            queue: short("q"),
            exchange: short("orders"),
            routing_key: short("new.*"),
            arguments: arguments.clone(),
            ..QueueBind::default()
        },
    );
    let bind = peer.bound();
    let queue = Destination::Queue(QueueName::new(Bytes::from("q")).unwrap());
    assert_eq!((&bind.exchange[..], &bind.routing_key[..]), (&b"orders"[..], &b"new.*"[..]));
    assert_eq!((bind.destination, bind.is_bound), (queue.clone(), true));
    assert_eq!(&bind.arguments, arguments.as_bytes());
    peer.answer_exchange(bind.token, Ok(()));
    assert_eq!(peer.methods(), [(1, QueueBindOk::default().into())]);

    let exchange = short("orders");
    peer.send(1, QueueUnbind { queue: short("q"), exchange, ..QueueUnbind::default() });
    let bind = peer.bound();
    assert_eq!((bind.destination, bind.is_bound), (queue, false));
    peer.answer_exchange(bind.token, Ok(()));
    assert_eq!(peer.methods(), [(1, QueueUnbindOk::default().into())]);

    let (source, destination) = (short("orders"), short("audit"));
    peer.send(1, ExchangeBind { source, destination, ..ExchangeBind::default() });
    let bind = peer.bound();
    assert_eq!(bind.destination, Destination::Exchange(Bytes::from("audit")));
    peer.answer_exchange(bind.token, Ok(()));
    assert_eq!(peer.methods(), [(1, ExchangeBindOk::default().into())]);
    let (source, destination) = (short("orders"), short("audit"));
    peer.send(1, ExchangeUnbind { source, destination, ..ExchangeUnbind::default() });
    let bind = peer.bound();
    assert!(!bind.is_bound);
    peer.answer_exchange(bind.token, Ok(()));
    assert_eq!(peer.methods(), [(1, ExchangeUnbindOk::default().into())]);
}

#[test]
fn a_binding_of_what_is_not_there_closes_the_channel() {
    let missing = QueueRefusal::Missing { queue: "q".to_owned() };
    let cases = [
        (missing.into(), "NOT_FOUND - no queue 'q' in vhost '/'"),
        (ExchangeRefusal::missing(b"orders"), "NOT_FOUND - no exchange 'orders' in vhost '/'"),
    ];
    for (refusal, text) in cases {
        let mut peer = Peer::publisher(Settings::default(), false);
        let exchange = short("orders");
        peer.send(1, QueueBind { queue: short("q"), exchange, ..QueueBind::default() });
        let token = peer.bound().token;
        peer.answer_exchange(token, Err(refusal));
        assert_eq!(peer.channel_closed_with(), (404, text.to_owned(), (50, 20)));
    }
}

#[test]
fn without_names_the_last_queue_is_bound_by_its_name() {
    let mut peer = Peer::publisher(Settings::default(), false);
    peer.send(1, QueueDeclare { queue: short("last"), ..QueueDeclare::default() });
    let Some(Command::Queue { token, .. }) = peer.command() else { panic!("a queue") };
    let answer = QueueAnswer { messages: 0, consumers: 0 };
    peer.effect(Effect::Queue { token, result: Ok(answer) });
    peer.send(1, QueueBind { exchange: short("orders"), ..QueueBind::default() });
    let bind = peer.bound();
    assert_eq!(&bind.routing_key[..], b"last");
    assert!(matches!(bind.destination, Destination::Queue(queue) if queue.as_str() == "last"));
}

#[test]
fn what_is_the_brokers_own_is_left_to_it() {
    let default = "ACCESS_REFUSED - operation not permitted on the default exchange";
    let acts: [(&str, Act); 6] = [
        (default, |peer| peer.send(1, declare("", "direct"))),
        (default, |peer| peer.send(1, QueueBind { queue: short("q"), ..QueueBind::default() })),
        ("ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'", |peer| {
            peer.send(1, declare("amq.mine", "direct"));
        }),
        (
            "ACCESS_REFUSED - deletion of system exchange 'amq.topic' in vhost '/' not allowed",
            |peer| {
                let exchange = short("amq.topic");
                peer.send(1, ExchangeDelete { exchange, ..ExchangeDelete::default() });
            },
        ),
        (
            "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'amq.topic' in vhost '/': received 'direct' but current is 'topic'",
            |peer| peer.send(1, declare("amq.topic", "direct")),
        ),
        (
            "PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'amq.fanout' in vhost '/': received 'false' but current is 'true'",
            |peer| {
                let declare = declare("amq.fanout", "fanout");
                peer.send(1, ExchangeDeclare { durable: false, ..declare });
            },
        ),
    ];
    for (text, act) in acts {
        let mut peer = Peer::publisher(Settings::default(), false);
        act(&mut peer);
        assert_eq!(peer.channel_closed_with().1, text);
        assert_eq!(peer.command(), None);
    }
    let mut peer = Peer::publisher(Settings::default(), false);
    for passive in [true, false] {
        peer.send(1, ExchangeDeclare { passive, ..declare("amq.topic", "topic") });
        assert_eq!(peer.methods(), [(1, ExchangeDeclareOk::default().into())]);
    }
    peer.send(1, declare("orders", "heap"));
    let expected = "PRECONDITION_FAILED - invalid exchange type 'heap'".to_owned();
    assert_eq!(peer.channel_closed_with(), (406, expected, (40, 10)));
}
