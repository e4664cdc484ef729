//! The client over loopback TCP.

use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;

use super::scripted::publish;
use super::tiny_broker::{Behaviour, TinyBroker};
use super::*;
use crate::model::QoS;
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::{ConnAck, Packet, SubscribeFilter};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn what_is_published_comes_back_to_a_subscriber() {
    let broker = TinyBroker::start(Behaviour::default()).await;
    let mut client = connect(&broker.address, &mut Session::default()).await;
    let filter = SubscribeFilter::new(Bytes::from_static(b"t/#"), QoS::ExactlyOnce);
    let subscribe = SubscribeRequest { filters: vec![filter], ..SubscribeRequest::default() };
    client.subscribe(1, &subscribe).unwrap();

    for token in 0..3 {
        client.publish(token, &request(QoS::ExactlyOnce)).unwrap();
    }
    let (mut finished, mut taken) = (Vec::new(), 0);
    while finished.len() < 3 || taken < 3 {
        match client.next().await.unwrap() {
            Event::Published { token, .. } => finished.push(token),
            Event::Message(message) => {
                assert_eq!((&message.topic[..], &message.payload[..]), (&b"t/x"[..], &b"p"[..]));
                client.acknowledge(message.handle.unwrap(), ReasonCode::SUCCESS);
                taken += 1;
            }
            Event::Subscribed { reasons, .. } => {
                assert_eq!(reasons, [ReasonCode::GRANTED_QOS_2]);
            }
            other => panic!("{other:?}"),
        }
    }
    let (session, left) = client.disconnect(ReasonCode::SUCCESS, None).await;

    assert!(left.is_ok(), "{left:?}");
    assert_eq!(session.unfinished_count(), 0);
    finished.sort();
    assert_eq!(finished, [0, 1, 2]);
}

#[tokio::test]
async fn waiting_for_one_event_keeps_the_others() {
    let stored = vec![publish(0, QoS::AtMostOnce, "kept")];
    let broker = TinyBroker::start(Behaviour { stored, ..Behaviour::default() }).await;
    let mut client = connect(&broker.address, &mut Session::default()).await;
    let filter = SubscribeFilter::new(Bytes::from_static(b"x"), QoS::AtMostOnce);
    let subscribe = SubscribeRequest { filters: vec![filter], ..SubscribeRequest::default() };

    client.subscribe(1, &subscribe).unwrap();
    client.publish(2, &request(QoS::AtLeastOnce)).unwrap();
    let wanted = |event: &Event| matches!(event, Event::Published { token: 2, .. }).then_some(());
    client.wait_for(wanted).await.unwrap();

    assert!(matches!(client.next().await, Ok(Event::Subscribed { token: 1, .. })));
    assert!(
        matches!(client.next().await, Ok(Event::Message(message)) if message.payload == "kept")
    );
}

#[tokio::test]
async fn a_lost_connection_keeps_the_session_and_the_next_one_finishes_it() {
    let first = TinyBroker::start(Behaviour { publishes_max: Some(1), ..Behaviour::default() });
    let connack = ConnAck { session_present: true, ..ConnAck::default() };
    let second = TinyBroker::start(Behaviour { connack, ..Behaviour::default() });
    let (first, second) = (first.await, second.await);
    let mut session = Session::default();

    let mut client = connect(&first.address, &mut session).await;
    client.publish(1, &request(QoS::AtLeastOnce)).unwrap();
    client.publish(2, &request(QoS::AtLeastOnce)).unwrap();
    let error = loop {
        match client.next().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    let mut session = client.into_session();
    let unfinished: Vec<u64> = session.unfinished().collect();
    let mut client = connect(&second.address, &mut session).await;
    let mut finished = Vec::new();
    while finished.len() < unfinished.len() {
        if let Event::Published { token, .. } = client.next().await.unwrap() {
            finished.push(token);
        }
    }

    assert!(matches!(error, ClientError::Closed | ClientError::Io(_)), "{error}");
    // The broker answered the first or dropped the connection before the answer left.
    assert!(unfinished.ends_with(&[2]), "{unfinished:?}");
    assert_eq!(finished, unfinished);
    assert!(second.publishes().iter().all(|publish| publish.dup));
}

#[tokio::test]
async fn a_failed_connect_leaves_the_session_where_it_is() {
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let broker = TinyBroker::start(Behaviour { publishes_max: Some(0), ..Behaviour::default() });
    let mut client = connect(&broker.await.address, &mut Session::default()).await;
    client.publish(1, &request(QoS::AtLeastOnce)).unwrap();
    while client.next().await.is_ok() {}
    let mut session = client.into_session();

    let refused = Client::connect(&nobody, &options(), &mut session, PATIENCE).await;

    assert!(matches!(refused, Err(ClientError::Connect { .. })));
    assert_eq!(session.unfinished().collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn a_refusal_is_told_in_its_own_words() {
    let connack = ConnAck { reason: ReasonCode::SERVER_BUSY, ..ConnAck::default() };
    let broker = TinyBroker::start(Behaviour { connack, ..Behaviour::default() }).await;

    let refused =
        Client::connect(&broker.address, &options(), &mut Session::default(), PATIENCE).await;

    let error = refused.err().unwrap();
    assert!(matches!(error, ClientError::Refused { reason: ReasonCode::SERVER_BUSY, .. }));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_given_up_after_the_timeout() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();

    let waited = Duration::from_secs(3);
    let result = Client::connect(&address, &options(), &mut Session::default(), waited).await;

    assert!(matches!(result, Err(ClientError::ConnectTimeout { timeout_ms: 3_000 })));
}

#[tokio::test]
async fn qos_0_is_written_out_by_flush_and_by_saying_goodbye() {
    let broker = TinyBroker::start(Behaviour::default()).await;
    let mut client = connect(&broker.address, &mut Session::default()).await;

    for _ in 0..500 {
        client.publish(0, &request(QoS::AtMostOnce)).unwrap();
        client.flush(1024).await.unwrap();
    }
    let (_, left) = client.disconnect(ReasonCode::SUCCESS, None).await;
    left.unwrap();
    let mut rounds = 0;
    while !matches!(broker.received().last(), Some(Packet::Disconnect(_))) {
        tokio::task::yield_now().await;
        rounds += 1;
        assert!(rounds < 1_000_000, "DISCONNECT did not arrive");
    }

    assert_eq!(broker.publishes().len(), 500);
}

async fn connect(address: &str, session: &mut Session) -> Client {
    match Client::connect(address, &options(), session, PATIENCE).await {
        Ok((client, _)) => client,
        Err(error) => panic!("{error}"),
    }
}

fn options() -> ConnectOptions {
    ConnectOptions {
        client_id: "c".to_owned(),
        clean_start: false,
        session_expiry_s: 60,
        ..ConnectOptions::default()
    }
}

fn request(qos: QoS) -> PublishRequest {
    let (topic, payload) = (Bytes::from_static(b"t/x"), Bytes::from_static(b"p"));
    PublishRequest { topic, payload, qos, ..PublishRequest::default() }
}
