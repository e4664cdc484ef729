//! A peer that does not read: what is kept for it, byte for byte.

use super::*;

/// What a connection keeps of messages that nothing stores.
const HELD_BYTES_MAX: usize = 8 << 10;
/// What a driver takes at a time.
const WRITE_BYTES_MAX: usize = 16 << 10;

/// Something large of which payloads are slices: a frame of the log, what a socket was read into.
struct Frame {
    bytes: Vec<u8>,
    _alive: Arc<()>,
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn frame(alive: &Arc<()>) -> Bytes {
    Bytes::from_owner(Frame { bytes: vec![7; 64 << 10], _alive: alive.clone() })
}

fn slice_of(frame: &Bytes, offset: u64, qos: QoS, source: DeliverySource) -> Delivery {
    let payload = frame.slice(offset as usize..offset as usize + 100);
    let message = Message { payload, ..message("t/1", qos) };
    let id = delivery_id(source, offset);
    Delivery { id, message: Arc::new(message), ..delivery(offset, qos) }
}

#[test]
fn what_nothing_stores_is_kept_up_to_a_limit_and_dropped_and_counted_beyond() {
    let mut peer = Peer::connected(Version::V5);
    let frame = frame(&Arc::new(()));
    let passed_on = |at| slice_of(&frame, at, QoS::AtMostOnce, DeliverySource::Live);
    // All of it comes in one turn, before anything is written: the peer may well be fast.
    (0..1000).for_each(|at| peer.deliver(passed_on(at)));
    let mut written = BytesMut::new();
    peer.connection.poll_transmit(peer.now, &mut written, WRITE_BYTES_MAX);
    assert!(written.len() < WRITE_BYTES_MAX + 200 && peer.connection.held_bytes() > 200_000);

    peer.connection.handle_congestion(true);
    let at_once = peer.connection.held_bytes();
    (0..1000).for_each(|at| peer.deliver(passed_on(at)));

    let held = peer.connection.held_bytes();
    assert!(held == at_once && (HELD_BYTES_MAX / 2..=HELD_BYTES_MAX).contains(&held), "{held}");
    let dropped = peer.connection.counters().deliveries_without_room;
    peer.connection.handle_congestion(false);
    peer.deliver(passed_on(5));
    peer.bytes();
    assert_eq!(peer.connection.counters().publishes_sent + dropped, 2001, "sent or counted");
    assert_eq!(peer.connection.held_bytes(), 0);
}

#[test]
fn room_comes_back_while_little_is_written_at_a_time() {
    let mut peer = Peer::connected(Version::V5);
    let frame = frame(&Arc::new(()));
    let passed_on = |at| slice_of(&frame, at, QoS::AtMostOnce, DeliverySource::Live);
    peer.connection.handle_congestion(true);
    for round in 1..=50 {
        (0..100).for_each(|at| peer.deliver(passed_on(at)));
        assert!(peer.connection.held_bytes() <= HELD_BYTES_MAX);
        let before = peer.connection.counters().publishes_sent;
        assert_eq!(
            peer.publishes().len() as u64 + before,
            peer.connection.counters().publishes_sent
        );
        assert!(peer.connection.counters().publishes_sent >= round * 10);
    }
}

#[test]
fn what_is_stored_is_kept_whole_and_keeps_no_frame_in_memory() {
    let mut peer = Peer::connected(Version::V5);
    let alive = Arc::new(());
    let frame = frame(&alive);
    for at in 0..200 {
        let qos = if at % 3 == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        peer.deliver(slice_of(&frame, at, qos, DeliverySource::SESSION));
    }
    peer.commands();
    peer.connection.handle_congestion(true);
    peer.deliver(slice_of(&frame, 200, QoS::AtLeastOnce, DeliverySource::SESSION));

    drop(frame);
    assert_eq!(Arc::strong_count(&alive), 1, "nothing is left of it");
    peer.connection.handle_congestion(false);
    let mut count = 0;
    loop {
        let publishes = peer.publishes();
        if publishes.is_empty() {
            break;
        }
        for publish in publishes {
            count += 1;
            assert_eq!(publish.payload, vec![7; 100]);
            if publish.qos == QoS::AtLeastOnce {
                peer.send(Packet::PubAck(ack(publish.packet_id)));
            }
        }
        peer.commands();
    }
    assert_eq!(count, 201);
}
