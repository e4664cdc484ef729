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
/// What is kept of messages for one of them, as the broker counts it: 16 KiB encoded and a message, 8 KiB of QoS 0 in the connection, as
/// much on its way there, 8 KiB of stored messages; the rest of `COST_MAX` is the connection itself, and what the allocator adds.
const COUNTED_MAX: u64 = 48 << 10;
/// What the allocator may take beside, for all of them: each thread has pages of its own of 64 KiB, and of 512 KiB for what is larger than
/// 8 KiB, for each of some dozen sizes, and what was under way at once on a busy machine leaves holes in them. The log's index is in it, too.
const SLACK: u64 = 2 << 20;
const TRIES: usize = 25;
/// Subscribers whose sockets are filled to the brim with what is stored: the system takes 4 MiB for each.
const BRIMMING: usize = 4;
const PAYLOAD_BYTES: usize = 4_000;
/// Messages that a subscriber reads before it stops: its window is as large as it gets after so many.
const READ_FIRST: usize = 64;
/// Messages that it does not read.
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

/// What the broker itself says that it keeps for clients that do not read: how many they are, and bytes.
fn kept(broker: &BrokerProcess) -> (u64, u64) {
    let mut stream = dial(broker, "statist");
    ["clients/not_reading", "bytes/not_read"]
        .map(|name| {
            let topic = format!("$SYS/broker/limits/{name}");
            let length = topic.len() as u8;
            let packet = [&[0x82, 5 + length, 0, 1, 0, length], topic.as_bytes(), &[0]].concat();
            stream.write_all(&packet).unwrap();
            // The value may come before SUBACK, and again behind it.
            loop {
                let header = read(&mut stream, 2);
                let rest = read(&mut stream, header[1].into());
                if header[0] & 0xF0 == 0x30 && rest[2..].starts_with(topic.as_bytes()) {
                    let value = String::from_utf8(rest[2 + topic.len()..].to_vec()).unwrap();
                    return value.parse().unwrap();
                }
            }
        })
        .into()
}

/// What subscribers that stopped reading cost together.
struct Cost {
    resident_bytes: u64,
    /// How many the broker knows to have stopped, and what it counted for them, byte for byte.
    counted: (u64, u64),
}

/// Starts a broker with subscribers that stop reading; returns what they cost together, after looking whether anybody noticed.
fn stop_reading((published, subscribed): (u8, u8)) -> Cost {
    let is_stored = published > 0;
    let data = tempfile::tempdir().unwrap();
    // The cache of the log is not a subscriber's, nor is what the allocator keeps for later.
    let variables = vec![
        ("FLUXMQ_STORAGE__CACHE_BYTES", "0".to_owned()),
        ("MIMALLOC_PURGE_DELAY", "0".to_owned()),
        ("TOKIO_WORKER_THREADS", "1".to_owned()),
        ("FLUXMQ_STATISTICS__INTERVAL_S", "1".to_owned()),
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
    let resident_bytes = settled(&broker).saturating_sub(before);
    let cost = Cost { resident_bytes, counted: kept(&broker) };

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
            let cost = stop_reading(kind);
            let (count, bytes) = cost.counted;
            let resident = (cost.resident_bytes / SLOW_COUNT as u64) >> 10;
            eprintln!(
                "{what}: {resident} KiB of resident memory each; {count} counted with {bytes} bytes"
            );
            // What is stored fits into their sockets here.
            let has_stopped = kind.0 > 0 || count == SLOW_COUNT as u64;
            assert!(has_stopped, "{count} of {SLOW_COUNT} do not read");
            assert!(bytes <= count * COUNTED_MAX, "{what}: {bytes} bytes are kept for {count}");
            lowest = lowest.min(cost.resident_bytes);
            if lowest <= cost_max {
                break;
            }
        }
        assert!(lowest <= cost_max, "{what} cost {lowest} bytes, at most {cost_max}");
    }
}

/// What is stored and larger than any socket buffer: most of it waits in the log.
#[test]
fn what_is_stored_and_not_read_is_counted_byte_for_byte_and_stays_in_the_log() {
    let data = tempfile::tempdir().unwrap();
    let variables = vec![("FLUXMQ_STATISTICS__INTERVAL_S", "1".to_owned())];
    let start = Start { variables, ..Start::default() };
    let broker = BrokerProcess::start_with(data.path(), &start);
    let mut publisher = dial(&broker, "publish");
    let slow = |number: usize| {
        let mut stream = dial(&broker, &number.to_string());
        subscribe(&mut stream, "full", 0);
        stream
    };
    let mut streams: Vec<TcpStream> = (0..BRIMMING).map(slow).collect();
    let (mut sent, begun) = (0, Instant::now());
    loop {
        flood(&mut publisher, "full", 1, 4 * 64);
        sent += 4 * 64;
        if kept(&broker).0 == BRIMMING as u64 {
            break;
        }
        assert!(begun.elapsed() < 4 * PATIENCE, "{sent} messages fit into sockets");
    }
    // Time for what was handed out to go back, and for the next statistics.
    std::thread::sleep(Duration::from_millis(2_500));
    let (count, bytes) = kept(&broker);
    eprintln!("{count} that do not read {sent} messages are kept {bytes} bytes");
    assert!((1..=count * COUNTED_MAX).contains(&bytes), "{bytes} bytes for {count}");
    for stream in &mut streams {
        take(stream, "full", 0, sent);
    }
}
