//! Subscribers that stop reading, against the real binary: what each of them costs, however fast it was before, and that nobody else
//! waits.
//!
//! Needs nothing installed. What the kernel keeps in its socket buffers is not ours, and made small.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::process::{BrokerProcess, PATIENCE, Start};

const SLOW_COUNT: usize = 100;
/// What one of them may cost.
const COST_MAX: u64 = 64 << 10;
/// What the log and the allocator may take beside what they took before. On a busy machine QoS 0 that nothing stores was seen to cost 93 KiB each:
/// whether that is the allocator's holes or ours is not known.
const SLACK: u64 = 8 << 20;
const TRIES: usize = 3;
const PAYLOAD_BYTES: usize = 4_000;
/// Messages that a subscriber reads before it stops: its window is as large as it gets after so many.
const READ_FIRST: usize = 64;
/// Messages that it does not read, more than its window and its socket have room for.
const LEFT: usize = 192;
/// The topic of messages that are nobody's.
const NOBODYS: &str = "none";

/// Connects with a client id of eight bytes; the kernel takes little for a peer that does not read.
fn dial(broker: &BrokerProcess, client_id: &str) -> TcpStream {
    let address: SocketAddr = broker.address().parse().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    socket.connect(&address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"\x10\x14\x00\x04MQTT\x04\x02\x00\x00\x00\x08").unwrap();
    stream.write_all(format!("{client_id:0>8}").as_bytes()).unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"\x20\x02\x00\x00");
    stream
}

/// Subscribes to a topic of four bytes.
fn subscribe(stream: &mut TcpStream, topic: &str, qos: u8) {
    let packet = [&[0x82, 9, 0, 1, 0, 4], topic.as_bytes(), &[qos]].concat();
    stream.write_all(&packet).unwrap();
    assert_eq!(read(stream, 5), [0x90, 3, 0, 1, qos]);
}

fn publish(topic: &str, qos: u8, packet_id: u16) -> Vec<u8> {
    let rest = 6 + 2 * usize::from(qos > 0) + PAYLOAD_BYTES;
    let mut packet = vec![0x30 | qos << 1, rest as u8 | 0x80, (rest >> 7) as u8, 0, 4];
    packet.extend_from_slice(topic.as_bytes());
    if qos > 0 {
        packet.extend_from_slice(&packet_id.to_be_bytes());
    }
    packet.resize(packet.len() + PAYLOAD_BYTES, b'x');
    packet
}

/// Publishes until the broker has `count` more; QoS 1 in windows of 64.
fn flood(stream: &mut TcpStream, topic: &str, qos: u8, count: usize) {
    for _ in 0..count / 64 {
        let packets = (1..=64).flat_map(|packet_id| publish(topic, qos, packet_id));
        stream.write_all(&packets.collect::<Vec<u8>>()).unwrap();
        match qos {
            0 => stream.write_all(b"\xC0\x00").unwrap(),
            _ => drop(read(stream, 63 * 4)),
        }
        // The last PUBACK, or PINGRESP: all before it was taken.
        read(stream, if qos == 0 { 2 } else { 4 });
    }
}

fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Takes so many messages, acknowledging those of QoS 1, and checks that they are whole.
fn take(stream: &mut TcpStream, topic: &str, qos: u8, count: usize) {
    for _ in 0..count {
        let header_bytes = 9 + 2 * usize::from(qos > 0);
        let packet = read(stream, header_bytes + PAYLOAD_BYTES);
        assert_eq!((packet[0], &packet[5..9]), (0x30 | qos << 1, topic.as_bytes()));
        assert!(packet[header_bytes..].iter().all(|byte| *byte == b'x'));
        if qos > 0 {
            stream.write_all(&[0x40, 2, packet[9], packet[10]]).unwrap();
        }
    }
}

/// Reads the memory once it has settled: what is under way is written, and the allocator gives back what is free only where it is used
/// again, so somebody else publishes.
fn settled(broker: &BrokerProcess) -> u64 {
    let mut lowest = u64::MAX;
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(200));
        flood(&mut dial(broker, "probe"), NOBODYS, 1, 64);
        lowest = lowest.min(broker.resident_bytes());
    }
    lowest
}

/// Starts a broker with subscribers that stop reading; returns what they cost together, after looking whether anybody noticed.
fn stop_reading((published, subscribed): (u8, u8)) -> u64 {
    let is_stored = published > 0;
    let data = tempfile::tempdir().unwrap();
    // The cache of the log is not a subscriber's, nor is what the allocator keeps for later.
    let variables = vec![
        ("FLUXMQ_STORAGE__CACHE_BYTES", "0".to_owned()),
        ("MIMALLOC_PURGE_DELAY", "0".to_owned()),
        ("TOKIO_WORKER_THREADS", "1".to_owned()),
    ];
    let start = Start { variables, ..Start::default() };
    let broker = BrokerProcess::start_with(data.path(), &start);
    let mut publisher = dial(&broker, "publish");
    // Each has messages of its own, where they are stored: what several are sent is in memory once.
    let topic = |number: usize| if is_stored { format!("{number:04}") } else { "live".to_owned() };
    let mut send = |read: usize| {
        let slow = |number: usize| {
            let mut stream = dial(&broker, &number.to_string());
            subscribe(&mut stream, &topic(number), subscribed);
            stream
        };
        let mut streams: Vec<TcpStream> = (0..SLOW_COUNT).map(slow).collect();
        for (number, stream) in streams.iter_mut().enumerate() {
            if is_stored {
                // They are fast at first.
                flood(&mut publisher, &topic(number), published, READ_FIRST);
                take(stream, &topic(number), subscribed, READ_FIRST);
            }
            flood(&mut publisher, &topic(number), published, LEFT);
            if is_stored {
                take(stream, &topic(number), subscribed, read);
            }
        }
        streams
    };
    // What the same takes when all of it is read is the log's and the allocator's.
    drop(send(LEFT));
    let before = settled(&broker);
    let mut slow = send(0);
    let cost = settled(&broker).saturating_sub(before);

    // One that reads gets everything meanwhile.
    let mut fast = dial(&broker, "fast");
    subscribe(&mut fast, &topic(0), 0);
    let begun = Instant::now();
    flood(&mut publisher, &topic(0), published, 64);
    take(&mut fast, &topic(0), 0, 64);
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
    // And one that did not read is whole: what comes is packets, and everything that is in the log.
    let count = if is_stored { LEFT + 64 } else { 1 };
    take(&mut slow[0], &topic(0), subscribed, count);
    cost
}

#[cfg(target_os = "linux")]
#[test]
fn a_subscriber_that_does_not_read_costs_at_most_64_kib_and_slows_nobody() {
    // What nothing stores, and what the log has, for both kinds of subscriptions.
    for kind in [(0, 0), (1, 0), (1, 1)] {
        let what = format!("{SLOW_COUNT} at QoS {} of what is published at {}", kind.1, kind.0);
        // What was under way at once on a busy machine leaves holes that the allocator cannot give back: another try has others.
        let cost_max = SLOW_COUNT as u64 * COST_MAX + SLACK;
        let mut lowest = u64::MAX;
        for _ in 0..TRIES {
            lowest = lowest.min(stop_reading(kind));
            if lowest <= cost_max {
                break;
            }
            eprintln!("{what} cost {} KiB", lowest >> 10);
        }
        eprintln!("{what} cost {} KiB each", (lowest / SLOW_COUNT as u64) >> 10);
        assert!(lowest <= cost_max, "{what} cost {lowest} bytes, at most {cost_max}");
    }
}
