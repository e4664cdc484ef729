//! Properties of the codec: what is encoded comes back, what is cut waits, and nothing panics.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::model::QoS;
use crate::model::command::RetainHandling;
use crate::protocol::mqtt::property::{Property, PropertyList};
use crate::protocol::mqtt::types::*;

fn text() -> impl Strategy<Value = Bytes> {
    "[a-zA-Z0-9/äß€𝄞 $]{0,20}".prop_map(Bytes::from)
}

fn binary() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn qos() -> impl Strategy<Value = QoS> {
    (0u8..3).prop_map(|bits| QoS::from_bits(bits).expect("below 3"))
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V31), Just(Version::V311), Just(Version::V5)]
}

fn users() -> impl Strategy<Value = Vec<Property>> {
    vec((text(), text()).prop_map(|(key, value)| Property::User(key, value)), 0..4)
}

/// Some of `once`, then user properties, shuffled.
fn list(version: Version, once: Vec<BoxedStrategy<Property>>) -> BoxedStrategy<PropertyList> {
    if !version.is_v5() {
        return Just(PropertyList::default()).boxed();
    }
    let once: Vec<_> = once.into_iter().map(option::of).collect();
    (once, users())
        .prop_map(|(once, users)| once.into_iter().flatten().chain(users).collect::<Vec<_>>())
        .prop_shuffle()
        .prop_map(|list| list.into_iter().collect())
        .boxed()
}

fn message_properties() -> Vec<BoxedStrategy<Property>> {
    vec![
        any::<bool>().prop_map(Property::PayloadFormat).boxed(),
        any::<u32>().prop_map(Property::MessageExpiry).boxed(),
        text().prop_map(Property::ContentType).boxed(),
        text().prop_map(Property::ResponseTopic).boxed(),
        binary().prop_map(Property::CorrelationData).boxed(),
    ]
}

fn connect_properties(version: Version) -> BoxedStrategy<PropertyList> {
    let once = vec![
        any::<u32>().prop_map(Property::SessionExpiry).boxed(),
        (1..=u16::MAX).prop_map(Property::ReceiveMaximum).boxed(),
        (1..=u32::MAX).prop_map(Property::MaximumPacketSize).boxed(),
        any::<u16>().prop_map(Property::TopicAliasMaximum).boxed(),
        any::<bool>().prop_map(Property::RequestResponseInformation).boxed(),
        any::<bool>().prop_map(Property::RequestProblemInformation).boxed(),
        text().prop_map(Property::AuthenticationMethod).boxed(),
    ];
    list(version, once)
}

fn connack_properties(version: Version) -> BoxedStrategy<PropertyList> {
    let once = vec![
        any::<u32>().prop_map(Property::SessionExpiry).boxed(),
        any::<bool>().prop_map(Property::MaximumQoS).boxed(),
        any::<bool>().prop_map(Property::RetainAvailable).boxed(),
        text().prop_map(Property::AssignedClientId).boxed(),
        text().prop_map(Property::ReasonString).boxed(),
        text().prop_map(Property::ResponseInformation).boxed(),
        text().prop_map(Property::ServerReference).boxed(),
        any::<u16>().prop_map(Property::ServerKeepAlive).boxed(),
        any::<bool>().prop_map(Property::WildcardSubscriptionAvailable).boxed(),
        any::<bool>().prop_map(Property::SubscriptionIdsAvailable).boxed(),
        any::<bool>().prop_map(Property::SharedSubscriptionAvailable).boxed(),
    ];
    list(version, once)
}

fn will(version: Version) -> impl Strategy<Value = Will> {
    let mut once = message_properties();
    once.push(any::<u32>().prop_map(Property::WillDelay).boxed());
    (text(), binary(), qos(), any::<bool>(), list(version, once)).prop_map(
        |(topic, payload, qos, retain, properties)| Will {
            topic,
            payload,
            qos,
            retain,
            properties,
        },
    )
}

fn connect(version: Version) -> BoxedStrategy<Packet> {
    let head = (any::<bool>(), any::<u16>(), text(), option::of(will(version)));
    (head, option::of(text()), option::of(binary()), connect_properties(version))
        .prop_map(move |(head, username, password, properties)| {
            let (clean_start, keep_alive_s, client_id, will) = head;
            // Before 5.0 a password needs a user name.
            let password = password.filter(|_| version.is_v5() || username.is_some());
            Packet::Connect(Box::new(Connect {
                version,
                clean_start,
                keep_alive_s,
                client_id,
                will,
                username,
                password,
                properties,
            }))
        })
        .boxed()
}

fn publish(version: Version) -> BoxedStrategy<Packet> {
    let mut once = message_properties();
    once.push((1..=u16::MAX).prop_map(Property::TopicAlias).boxed());
    once.push((1u32..268_435_456).prop_map(Property::SubscriptionId).boxed());
    let flags = (any::<bool>(), qos(), any::<bool>(), 1..=u16::MAX);
    (flags, text(), list(version, once), binary())
        .prop_map(|((dup, qos, retain, packet_id), topic, properties, payload)| {
            let is_sure = qos != QoS::AtMostOnce;
            let packet_id = if is_sure { packet_id } else { 0 };
            let dup = dup && is_sure;
            Packet::Publish(Publish { dup, qos, retain, topic, packet_id, properties, payload })
        })
        .boxed()
}

fn ack(version: Version, reasons: &'static [u8]) -> impl Strategy<Value = Ack> {
    let reasons = if version.is_v5() { reasons } else { &reasons[..1] };
    let once = vec![text().prop_map(Property::ReasonString).boxed()];
    (1..=u16::MAX, proptest::sample::select(reasons), list(version, once)).prop_map(
        |(packet_id, reason, properties)| Ack { packet_id, reason: ReasonCode(reason), properties },
    )
}

fn acks(version: Version) -> BoxedStrategy<Packet> {
    const PUBACK: &[u8] = &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
    prop_oneof![
        ack(version, PUBACK).prop_map(Packet::PubAck),
        ack(version, PUBACK).prop_map(Packet::PubRec),
        ack(version, &[0, 0x92]).prop_map(Packet::PubRel),
        ack(version, &[0, 0x92]).prop_map(Packet::PubComp),
    ]
    .boxed()
}

fn filter(version: Version) -> impl Strategy<Value = SubscribeFilter> {
    let handling = prop_oneof![
        Just(RetainHandling::Send),
        Just(RetainHandling::SendIfNew),
        Just(RetainHandling::DontSend)
    ];
    (text(), qos(), any::<bool>(), any::<bool>(), handling).prop_map(
        move |(filter, qos, no_local, retain_as_published, retain_handling)| {
            let plain = SubscribeFilter::new(filter, qos);
            match version.is_v5() {
                true => SubscribeFilter { no_local, retain_as_published, retain_handling, ..plain },
                false => plain,
            }
        },
    )
}

fn subscriptions(version: Version) -> BoxedStrategy<Packet> {
    let id = || vec![(1u32..268_435_456).prop_map(Property::SubscriptionId).boxed()];
    let reason = || vec![text().prop_map(Property::ReasonString).boxed()];
    let granted: &[u8] = if version.is_v5() { &[0, 1, 2, 0x87, 0x9E] } else { &[0, 1, 2, 0x80] };
    let removed = if version.is_v5() { 0..5 } else { 0..1 };
    let codes = |codes: &'static [u8], count| {
        vec(proptest::sample::select(codes).prop_map(ReasonCode), count)
    };
    prop_oneof![
        (1..=u16::MAX, list(version, id()), vec(filter(version), 1..5)).prop_map(
            |(packet_id, properties, filters)| Packet::Subscribe(Subscribe {
                packet_id,
                properties,
                filters
            })
        ),
        (1..=u16::MAX, list(version, reason()), codes(granted, 0..5)).prop_map(
            |(packet_id, properties, reasons)| Packet::SubAck(SubAck {
                packet_id,
                properties,
                reasons
            })
        ),
        (1..=u16::MAX, list(version, vec![]), vec(text(), 1..5)).prop_map(
            |(packet_id, properties, filters)| Packet::Unsubscribe(Unsubscribe {
                packet_id,
                properties,
                filters
            })
        ),
        (1..=u16::MAX, list(version, reason()), codes(&[0, 0x11, 0x8F], removed)).prop_map(
            |(packet_id, properties, reasons)| Packet::UnsubAck(UnsubAck {
                packet_id,
                properties,
                reasons
            })
        ),
    ]
    .boxed()
}

fn control(version: Version) -> BoxedStrategy<Packet> {
    let reason = || vec![text().prop_map(Property::ReasonString).boxed()];
    let codes: &[u8] = if version.is_v5() { &[0, 4, 0x82, 0x8E, 0xA2] } else { &[0] };
    let connack: &[u8] = if version.is_v5() { &[0, 0x84, 0x9F] } else { &[0, 1, 5] };
    let disconnect = (proptest::sample::select(codes), list(version, reason())).prop_map(
        |(reason, properties)| {
            Packet::Disconnect(Disconnect { reason: ReasonCode(reason), properties })
        },
    );
    let connack = (any::<bool>(), proptest::sample::select(connack), connack_properties(version))
        .prop_map(|(session_present, reason, properties)| {
            let reason = ReasonCode(reason);
            Packet::ConnAck(ConnAck { session_present, reason, properties })
        });
    let small = prop_oneof![Just(Packet::PingReq), Just(Packet::PingResp)];
    if !version.is_v5() {
        return prop_oneof![disconnect, connack, small].boxed();
    }
    let auth = (proptest::sample::select(&[0u8, 0x18, 0x19][..]), list(version, reason()))
        .prop_map(|(reason, properties)| {
            Packet::Auth(Auth { reason: ReasonCode(reason), properties })
        });
    prop_oneof![disconnect, connack, small, auth].boxed()
}

fn any_packet() -> impl Strategy<Value = (Version, Packet)> {
    version().prop_flat_map(|version| {
        let packet = prop_oneof![
            connect(version),
            publish(version),
            acks(version),
            subscriptions(version),
            control(version)
        ];
        (Just(version), packet)
    })
}

fn known(packet: &Packet, version: Version) -> Option<Version> {
    if matches!(packet, Packet::Connect(_)) { None } else { Some(version) }
}

proptest! {
    #[test]
    fn what_is_encoded_comes_back_and_leaves_what_follows((version, packet) in any_packet()) {
        let mut bytes = BytesMut::new();
        encode(&packet, version, &mut bytes).unwrap();
        prop_assert_eq!(packet_bytes(&bytes), Ok(Some(bytes.len())));
        bytes.extend_from_slice(b"next");
        let back = decode(&mut bytes, known(&packet, version), &Limits::default());
        prop_assert_eq!(back, Ok(Some(packet)));
        prop_assert_eq!(&bytes[..], b"next");
    }

    #[test]
    fn a_packet_cut_anywhere_waits_and_is_left_as_it_is((version, packet) in any_packet()) {
        let mut bytes = BytesMut::new();
        encode(&packet, version, &mut bytes).unwrap();
        for length in 0..bytes.len() {
            let mut part = BytesMut::from(&bytes[..length]);
            let waits = decode(&mut part, known(&packet, version), &Limits::default());
            prop_assert_eq!(waits, Ok(None));
            prop_assert_eq!(&part[..], &bytes[..length]);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        version in option::of(version()),
        bytes in vec(any::<u8>(), 0..64),
    ) {
        let mut input = BytesMut::from(&bytes[..]);
        while let Ok(Some(packet)) = decode(&mut input, version, &Limits::default()) {
            let mut out = BytesMut::new();
            encode(&packet, version.unwrap_or(Version::V5), &mut out).unwrap();
        }
    }

    /// Random bytes rarely pass the header: a packet with one byte changed goes deeper.
    #[test]
    fn a_changed_byte_never_panics(
        (version, packet) in any_packet(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = BytesMut::new();
        encode(&packet, version, &mut bytes).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let judged = decode(&mut bytes, known(&packet, version), &Limits::default());
        if let Ok(Some(packet)) = judged {
            let mut out = BytesMut::new();
            encode(&packet, version, &mut out).unwrap();
        }
    }

    #[test]
    fn the_size_of_a_publish_is_known_before_it_is_written(
        (version, packet) in version().prop_flat_map(|version| (Just(version), publish(version)))
    ) {
        let Packet::Publish(publish) = &packet else { panic!("asked for a PUBLISH") };
        let header = PublishHeader {
            topic: &publish.topic,
            qos: publish.qos,
            retain: publish.retain,
            dup: publish.dup,
            packet_id: publish.packet_id,
        };
        let section = publish.properties.as_bytes();
        let mut out = BytesMut::new();
        encode(&packet, version, &mut out).unwrap();
        prop_assert_eq!(publish_bytes(&header, section, &publish.payload, version), out.len());
    }
}
