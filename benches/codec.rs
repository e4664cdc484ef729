//! What one MQTT packet costs: bytes to command, delivery to bytes.
//!
//! Goals for QoS 0 without properties: at most 100 ns in, 60 ns out. A batch per iteration, as a socket read brings one.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fluxmq::model::effect::Opened;
use fluxmq::model::{
    Delivery, DeliveryId, DeliverySource, Effect, Message, Millis, PartitionId, PeerInfo,
    Properties, QoS, Topic,
};
use fluxmq::protocol::Connection;
use fluxmq::protocol::mqtt::codec::{Limits, PublishHeader, decode, encode, encode_publish};
use fluxmq::protocol::mqtt::types::Connect;
use fluxmq::protocol::mqtt::{MqttConnection, Packet, PropertyList, Settings, Version};
use fluxmq_index::Offset;

const BATCH: u64 = 256;
const TOPIC: &[u8] = b"sensors/building-7/temperature";
const PAYLOAD: [u8; 64] = [b'x'; 64];

fn publish_bytes(version: Version, qos: QoS) -> BytesMut {
    let header = PublishHeader { topic: TOPIC, qos, retain: false, dup: false, packet_id: 7 };
    let mut bytes = BytesMut::new();
    for _ in 0..BATCH {
        encode_publish(&header, b"", &PAYLOAD, version, &mut bytes).expect("it is short");
    }
    bytes
}

/// What a socket read does: the room of the packets before is used again once they are gone.
fn read(input: &mut BytesMut, bytes: &[u8]) {
    input.reserve(64 << 10);
    input.extend_from_slice(bytes);
}

fn open_connection(version: Version) -> MqttConnection {
    let settings = Arc::new(Settings::default());
    let peer = PeerInfo::tcp(SocketAddr::from(([127, 0, 0, 1], 40_000)));
    let mut connection =
        MqttConnection::new(settings, peer, Bytes::from_static(b"auto-1"), Millis(0));
    let connect = Packet::Connect(Box::new(Connect {
        version,
        clean_start: true,
        keep_alive_s: 0,
        client_id: Bytes::from_static(b"bench"),
        will: None,
        username: None,
        password: None,
        properties: PropertyList::default(),
    }));
    let mut bytes = BytesMut::new();
    encode(&connect, version, &mut bytes).expect("it is short");
    connection.handle_input(Millis(0), &mut bytes);
    assert!(connection.poll_command().is_some(), "CONNECT opens");
    let opened = Opened {
        session_present: false,
        persistent: false,
        outbound: Vec::new(),
        inbound: Vec::new(),
    };
    connection.handle_effect(Millis(0), Effect::Opened(opened));
    connection.poll_transmit(Millis(0), &mut bytes, 4096);
    connection
}

fn delivery(qos: QoS) -> Delivery {
    Delivery {
        id: DeliveryId {
            source: DeliverySource::Live,
            partition: PartitionId(1),
            offset: Offset(1),
        },
        message: std::sync::Arc::new(Message {
            topic: Topic::new(Bytes::from_static(TOPIC)).expect("it is a topic"),
            payload: Bytes::from(PAYLOAD.to_vec()),
            qos,
            retain: false,
            expiry_s: None,
            properties: Properties::default(),
            publisher: 1,
        }),
        qos,
        retain: false,
        redelivered: false,
        subscription_ids: Vec::new(),
        annotations: Default::default(),
        settle_explicit: false,
    }
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Elements(BATCH));
    for version in [Version::V311, Version::V5] {
        let bytes = publish_bytes(version, QoS::AtMostOnce);
        group.bench_function(format!("decode_publish_{version:?}"), |bencher| {
            let limits = Limits::default();
            let mut input = BytesMut::with_capacity(64 << 10);
            bencher.iter(|| {
                read(&mut input, &bytes);
                while let Ok(Some(packet)) = decode(&mut input, Some(version), &limits) {
                    black_box(&packet);
                }
            });
        });
        group.bench_function(format!("encode_publish_{version:?}"), |bencher| {
            let header = PublishHeader {
                topic: TOPIC,
                qos: QoS::AtMostOnce,
                retain: false,
                dup: false,
                packet_id: 0,
            };
            let mut out = BytesMut::with_capacity(64 << 10);
            bencher.iter(|| {
                out.clear();
                for _ in 0..BATCH {
                    let encoded = encode_publish(&header, b"", &PAYLOAD, version, &mut out);
                    black_box(encoded.is_ok());
                }
            });
        });
    }
    group.finish();
}

fn connection(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("connection");
    group.throughput(Throughput::Elements(BATCH));
    // What making and dropping a delivery costs by itself: to be taken off the numbers for deliveries.
    group.bench_function("clone_delivery", |bencher| {
        let one = delivery(QoS::AtMostOnce);
        bencher.iter(|| {
            for _ in 0..BATCH {
                black_box(Effect::Deliver(black_box(&one).clone()));
            }
        });
    });
    for version in [Version::V311, Version::V5] {
        let bytes = publish_bytes(version, QoS::AtMostOnce);
        let mut connection = open_connection(version);
        group.bench_function(format!("bytes_to_command_{version:?}"), |bencher| {
            let mut input = BytesMut::with_capacity(64 << 10);
            bencher.iter(|| {
                read(&mut input, &bytes);
                connection.handle_input(Millis(0), &mut input);
                while let Some(command) = connection.poll_command() {
                    black_box(&command);
                }
            });
        });
        let mut connection = open_connection(version);
        let mut out = BytesMut::with_capacity(64 << 10);
        let one = delivery(QoS::AtMostOnce);
        group.bench_function(format!("delivery_to_bytes_{version:?}"), |bencher| {
            bencher.iter(|| {
                for _ in 0..BATCH {
                    let effect = Effect::Deliver(black_box(&one).clone());
                    connection.handle_effect(Millis(0), effect);
                }
                out.clear();
                connection.poll_transmit(Millis(0), &mut out, usize::MAX);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, codec, connection);
criterion_main!(benches);
