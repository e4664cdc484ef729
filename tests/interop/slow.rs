//! Subscribers that stop reading, against the real binary: what each of them costs, and that nobody else waits.
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
/// What the allocator may keep beside, of everything that was under way. Without the bound 100 cost 87 MiB.
const SLACK: u64 = 24 << 20;
const PAYLOAD_BYTES: usize = 4_000;

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

fn subscribe(stream: &mut TcpStream, qos: u8) {
    stream.write_all(&[b"\x82\x06\x00\x01\x00\x01t", &[qos][..]].concat()).unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0x90, 3, 0, 1, qos]);
}

/// A PUBLISH to `t`.
fn publish(qos: u8, packet_id: u16) -> Vec<u8> {
    let rest = 3 + 2 * usize::from(qos > 0) + PAYLOAD_BYTES;
    let mut packet = vec![0x30 | qos << 1, rest as u8 | 0x80, (rest >> 7) as u8, 0, 1, b't'];
    if qos > 0 {
        packet.extend_from_slice(&packet_id.to_be_bytes());
    }
    packet.resize(packet.len() + PAYLOAD_BYTES, b'x');
    packet
}

/// Publishes until the broker has `count` more of them; QoS 1 in windows of 64.
fn flood(stream: &mut TcpStream, qos: u8, count: usize, pause: Duration) {
    for _ in 0..count / 64 {
        let packets: Vec<u8> = (1..=64).flat_map(|packet_id| publish(qos, packet_id)).collect();
        stream.write_all(&packets).unwrap();
        match qos {
            0 => stream.write_all(b"\xC0\x00").unwrap(),
            _ => drop(read(stream, 63 * 4)),
        }
        // The last PUBACK, or PINGRESP: all before it was taken.
        read(stream, if qos == 0 { 2 } else { 4 });
        // What waits for want of processor time is not what a slow peer costs.
        std::thread::sleep(pause);
    }
}

fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Reads the memory once it has settled: what is under way is written, the allocator gives back when it is used again.
fn settled(broker: &BrokerProcess) -> u64 {
    let mut lowest = u64::MAX;
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(200));
        drop(dial(broker, "probe"));
        lowest = lowest.min(broker.resident_bytes());
    }
    lowest
}

#[cfg(target_os = "linux")]
#[test]
fn a_subscriber_that_does_not_read_costs_at_most_64_kib_and_slows_nobody() {
    for qos in [0, 1] {
        let data = tempfile::tempdir().unwrap();
        // The cache of the log is not a subscriber's, nor is what the allocator keeps for later.
        let variables = vec![
            ("FLUXMQ_STORAGE__CACHE_BYTES", "0".to_owned()),
            ("MIMALLOC_PURGE_DELAY", "0".to_owned()),
        ];
        let start = Start { variables, ..Start::default() };
        let broker = BrokerProcess::start_with(data.path(), &start);
        let mut publisher = dial(&broker, "publish");
        let wave = |publisher: &mut TcpStream| {
            let slow = |number: usize| {
                let mut stream = dial(&broker, &number.to_string());
                subscribe(&mut stream, qos);
                stream
            };
            let slow: Vec<TcpStream> = (0..SLOW_COUNT).map(slow).collect();
            flood(publisher, qos, 2_048, Duration::from_millis(100));
            slow
        };
        flood(&mut publisher, qos, 2_048, Duration::ZERO);
        let before = settled(&broker);
        let mut slow = wave(&mut publisher);
        let cost = settled(&broker).saturating_sub(before);

        eprintln!("QoS {qos}: {SLOW_COUNT} slow subscribers cost {} KiB", cost >> 10);
        let cost_max = SLOW_COUNT as u64 * COST_MAX + SLACK;
        assert!(cost <= cost_max, "QoS {qos}: {SLOW_COUNT} cost {cost} bytes, at most {cost_max}");
        // One that reads gets everything meanwhile.
        let mut fast = dial(&broker, "fast");
        subscribe(&mut fast, 0);
        let begun = Instant::now();
        flood(&mut publisher, qos, 64, Duration::ZERO);
        assert!(read(&mut fast, 64 * (6 + PAYLOAD_BYTES)).ends_with(b"xxx"));
        assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
        // And those that did not read are whole: what comes is packets.
        let header = read(&mut slow[0], 3 + 3);
        assert_eq!((header[0] & 0xF0, &header[3..6]), (0x30, &b"\x00\x01t"[..]));
    }
}
