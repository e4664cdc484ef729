//! The real binary with little memory: publishers are slowed down, newcomers turned away, publishes refused, and it passes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use fluxmq::model::QoS;
use fluxmq::protocol::mqtt::types::{Packet, Publish, Subscribe, SubscribeFilter};
use fluxmq::protocol::mqtt::{PropertyList, ReasonCode};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::process::{BrokerProcess, Start};
use super::support::{PATIENCE, Peer};

/// What the broker may have; a few MiB of it are there from the start.
const LIMIT: u64 = 48 << 20;
/// More than enough connections to take it, at a MiB each.
const HOGS: usize = 96;

fn start(limit: u64) -> Start {
    let variables = [
        ("FLUXMQ_LIMITS__MEMORY_BYTES_MAX", limit.to_string()),
        ("FLUXMQ_STATISTICS__INTERVAL_S", "1".to_owned()),
        ("FLUXMQ_STORAGE__DISK_LOW_PERCENT", "0".to_owned()),
        ("FLUXMQ_STORAGE__DISK_LOW_BYTES", "0".to_owned()),
        ("FLUXMQ_PARTITIONS__DATA", "1".to_owned()),
        // The allocator keeps nothing for later.
        ("MIMALLOC_PURGE_DELAY", "0".to_owned()),
        ("TOKIO_WORKER_THREADS", "1".to_owned()),
    ];
    Start { variables: variables.to_vec(), ..Start::default() }
}

async fn dial(broker: &BrokerProcess) -> Peer<TcpStream> {
    Peer::on(TcpStream::connect(broker.address()).await.unwrap())
}

async fn publish(peer: &mut Peer<TcpStream>) -> ReasonCode {
    let publish = Publish {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: false,
        topic: Bytes::from_static(b"t"),
        packet_id: 1,
        properties: PropertyList::default(),
        payload: Bytes::from_static(b"x"),
    };
    peer.send(&Packet::Publish(publish)).await;
    match peer.receive().await {
        Some(Packet::PubAck(ack)) => ack.reason,
        other => panic!("no PUBACK: {other:?}"),
    }
}

/// Publishes until it is answered so.
async fn until_answered(peer: &mut Peer<TcpStream>, reason: ReasonCode) {
    let begun = Instant::now();
    while publish(peer).await != reason {
        assert!(begun.elapsed() < PATIENCE, "{reason} does not come");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until a statistic is as it should be.
async fn statistic(peer: &mut Peer<TcpStream>, name: &str, is_it: impl Fn(u64) -> bool) {
    let topic = Bytes::from(format!("$SYS/broker/{name}"));
    let filters = vec![SubscribeFilter::new(topic.clone(), QoS::AtMostOnce)];
    let properties = PropertyList::default();
    peer.send(&Packet::Subscribe(Subscribe { packet_id: 1, properties, filters })).await;
    loop {
        match peer.receive().await {
            Some(Packet::Publish(publish)) if publish.topic == topic => {
                if is_it(str::from_utf8(&publish.payload).unwrap().parse().unwrap()) {
                    return;
                }
            }
            Some(_) => {}
            None => panic!("{name} does not come"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_runs_short_slows_then_turns_away_then_refuses_and_comes_back() {
    let data = tempfile::tempdir().unwrap();
    let mut broker = BrokerProcess::start_with(data.path(), &start(LIMIT));
    let mut publisher = dial(&broker).await;
    assert_eq!(publisher.connect("publisher").await, Some(ReasonCode::SUCCESS));
    let mut hogs = Vec::new();
    for number in 0..HOGS {
        let mut hog = dial(&broker).await;
        assert_eq!(hog.connect(&format!("hog{number}")).await, Some(ReasonCode::SUCCESS));
        hogs.push(hog);
    }

    // Packets of almost a MiB that never become whole.
    let mut waiting = hogs.iter_mut();
    take_memory(&mut waiting, || broker.says("memory is scarce") > 0).await;
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(publish(&mut publisher).await, ReasonCode::SUCCESS);
    }
    assert!(begun.elapsed() >= Duration::from_millis(4 * 5), "each waits for its turn");
    assert_eq!(dial(&broker).await.connect("in time").await, Some(ReasonCode::SUCCESS));

    take_memory(&mut waiting, || broker.says("memory is nearly used up") > 0).await;
    until_answered(&mut publisher, ReasonCode::QUOTA_EXCEEDED).await;
    assert_eq!(dial(&broker).await.connect("newcomer").await, Some(ReasonCode::SERVER_BUSY));
    publisher.ping().await;

    drop(hogs);
    broker.expect("there is enough memory again", 1);
    until_answered(&mut publisher, ReasonCode::SUCCESS).await;
    let mut newcomer = dial(&broker).await;
    assert_eq!(newcomer.connect("newcomer").await, Some(ReasonCode::SUCCESS));
    statistic(&mut newcomer, "limits/memory/bytes", |bytes| bytes == LIMIT).await;
    statistic(&mut newcomer, "heap/maximum", |bytes| bytes > LIMIT * 9 / 10).await;
    statistic(&mut newcomer, "limits/connections/refused/memory", |count| count > 0).await;
}

/// Lets one after the other begin a packet, until it is so.
async fn take_memory(
    hogs: &mut impl Iterator<Item = &mut Peer<TcpStream>>,
    is_enough: impl Fn() -> bool,
) {
    let mut begun_packet = vec![0x30, 0xF0, 0xFF, 0x3F];
    begun_packet.resize(1_000_000, 0);
    while !is_enough() {
        let hog = hogs.next().expect("there is memory left");
        // Where memory is scarce the broker takes its time to read, and nobody waits for it here.
        let written = timeout(Duration::from_secs(5), hog.stream.write_all(&begun_packet)).await;
        written.expect("it is read in the end").unwrap();
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}
