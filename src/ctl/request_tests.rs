//! `mqttctl request` against a small broker that answers as told.

use bytes::Bytes;
use serde_json::Value;

use super::tests::run_on;
use crate::client::scripted;
use crate::client::tiny_broker::{Behaviour, TinyBroker};
use crate::model::QoS;
use crate::model::command::RetainHandling;
use crate::protocol::mqtt::property::Property;
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::{ConnAck, Packet, Publish};

/// Where a request wants its response, and with which correlation data.
fn asked(request: &Publish) -> (Bytes, Option<Bytes>) {
    let topic = request.properties.find(|property| match property {
        Property::ResponseTopic(topic) => Some(topic),
        _ => None,
    });
    let data = request.properties.find(|property| match property {
        Property::CorrelationData(data) => Some(data),
        _ => None,
    });
    (topic.unwrap_or(Bytes::from_static(b"r")), data)
}

fn response(request: &Publish, data: Option<Bytes>, payload: &'static str) -> Publish {
    Publish {
        topic: asked(request).0,
        properties: data.map(Property::CorrelationData).into_iter().collect(),
        ..scripted::publish(0, QoS::AtLeastOnce, payload)
    }
}

/// What is not for us.
fn strangers(request: &Publish) -> Vec<Publish> {
    let other = Bytes::from_static(b"other");
    vec![response(request, Some(other), "another's"), response(request, None, "nobody's")]
}

/// That, and two responses.
fn responses(request: &Publish) -> Vec<Publish> {
    let (_, data) = asked(request);
    let ours = ["first", "second"].map(|payload| response(request, data.clone(), payload));
    strangers(request).into_iter().chain(ours).collect()
}

/// The same without the strangers, and something that was retained before it: what 3.1.1 has.
fn plain(request: &Publish) -> Vec<Publish> {
    let stale = Publish { retain: true, ..response(request, None, "stale") };
    vec![stale, response(request, None, "first")]
}

async fn broker_that(respond: fn(&Publish) -> Vec<Publish>) -> TinyBroker {
    TinyBroker::start(Behaviour { respond: Some(respond), ..Behaviour::default() }).await
}

#[tokio::test]
async fn a_request_says_where_to_answer_and_takes_what_carries_its_correlation_data() {
    let broker = broker_that(responses).await;
    let mut seen = Vec::new();
    for round in 1..=2 {
        let said = run_on(&broker, "mqttctl request ask/x -m question -U k=v").await.unwrap();
        assert_eq!(said, "first\n");

        let request = broker.publishes().pop().unwrap();
        assert_eq!(broker.publishes().len(), round);
        assert_eq!((&request.topic[..], &request.payload[..]), (&b"ask/x"[..], &b"question"[..]));
        assert_eq!((request.qos, request.retain), (QoS::AtLeastOnce, false));
        let user = Property::User(Bytes::from_static(b"k"), Bytes::from_static(b"v"));
        assert!(request.properties.iter().any(|property| property == user));
        let (topic, data) = asked(&request);
        let data = data.unwrap();
        assert!(!seen.contains(&topic) && !seen.contains(&data), "each its own");
        let packets = broker.received();
        let at = |is_it: fn(&Packet) -> bool| packets.iter().rposition(is_it).unwrap();
        let subscribed_at = at(|packet| matches!(packet, Packet::Subscribe(_)));
        assert!(subscribed_at < at(|packet| matches!(packet, Packet::Publish(_))));
        let Packet::Subscribe(subscribe) = &packets[subscribed_at] else { unreachable!() };
        assert_eq!(subscribe.filters[0].filter, topic);
        assert_eq!(subscribe.filters[0].retain_handling, RetainHandling::DontSend);
        seen.extend([topic, data]);
    }
}

#[tokio::test]
async fn as_many_responses_are_taken_as_were_asked_for() {
    let broker = broker_that(responses).await;

    let two = run_on(&broker, "mqttctl request ask -m x --count 2").await.unwrap();
    let all = run_on(&broker, "mqttctl request ask -m x --all -W 1 -q 2").await.unwrap();
    let any = "mqttctl request ask -m x --any-response --count 3 --response-topic here -v";
    let any = run_on(&broker, any).await.unwrap();
    let json = "mqttctl request ask -m x --correlation-data mine --json";
    let json: Value = serde_json::from_str(&run_on(&broker, json).await.unwrap()).unwrap();

    assert_eq!((&*two, &*all), ("first\nsecond\n", "first\nsecond\n"));
    assert_eq!(any, "here another's\nhere nobody's\nhere first\n");
    assert_eq!(json["payload"], "first");
    assert_eq!(json["properties"]["correlation_data"], "mine");
}

#[tokio::test]
async fn a_request_without_its_responses_is_exit_code_1_and_says_what_came_instead() {
    let silent = TinyBroker::start(Behaviour::default()).await;
    let mistaken = broker_that(strangers).await;
    let sparing = broker_that(responses).await;

    let none = run_on(&silent, "mqttctl request ask -m x -W 1").await.unwrap_err();
    let all = run_on(&silent, "mqttctl request ask -m x -W 1 --all").await.unwrap_err();
    let line = "mqttctl request ask -m x -W 1 --response-topic here";
    let others = run_on(&mistaken, line).await.unwrap_err();
    let few = run_on(&sparing, "mqttctl request ask -m x -W 1 --count 3").await.unwrap_err();

    assert_eq!((none.exit_code(), &*none.to_string()), (1, "no response within 1 s"));
    assert_eq!(all.to_string(), "no response within 1 s");
    let said = "no response within 1 s; 2 messages on 'here' do not carry this request's correlation data \
                (--any-response takes them)";
    assert_eq!(others.to_string(), said);
    assert!(few.to_string().starts_with("2 of 3 responses within 1 s; 2 messages"), "{few}");
}

#[tokio::test]
async fn a_request_that_nobody_hears_or_that_is_refused_is_not_waited_for() {
    for (publish_reason, said, code) in [
        (
            ReasonCode::NO_MATCHING_SUBSCRIBERS,
            "nobody subscribes to 'ask': 0x10 no matching subscribers",
            0x10,
        ),
        (ReasonCode::NOT_AUTHORIZED, "request refused: 0x87 not authorized", 0x87),
    ] {
        let broker = TinyBroker::start(Behaviour { publish_reason, ..Behaviour::default() }).await;

        let error = run_on(&broker, "mqttctl request ask -m x -W 600").await.unwrap_err();

        assert_eq!((error.exit_code(), &*error.to_string()), (1, said));
        assert_eq!(error.to_json()["reason_code"], code);
    }
}

#[tokio::test]
async fn with_3_1_1_what_comes_to_the_named_topic_after_the_request_is_the_response() {
    let broker = broker_that(plain).await;

    let line = "mqttctl request ask -m x -V 3.1.1 --response-topic r";
    assert_eq!(run_on(&broker, line).await.unwrap(), "first\n");
}

#[tokio::test]
async fn the_response_topic_is_below_what_the_broker_says_is_ours() {
    let information = Property::ResponseInformation(Bytes::from_static(b"for/me/"));
    let connack = ConnAck { properties: [information].into_iter().collect(), ..ConnAck::default() };
    let respond = Some(responses as fn(&Publish) -> Vec<Publish>);
    let broker = TinyBroker::start(Behaviour { connack, respond, ..Behaviour::default() }).await;

    run_on(&broker, "mqttctl request ask -m x").await.unwrap();

    let (topic, _) = asked(&broker.publishes()[0]);
    assert!(topic.starts_with(b"for/me/") && topic.len() > 20, "{topic:?}");
    let Packet::Connect(connect) = &broker.received()[0] else { panic!("no CONNECT") };
    let wanted = Property::RequestResponseInformation(true);
    assert!(connect.properties.iter().any(|property| property == wanted));
}
