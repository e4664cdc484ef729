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
    let group = DeliverySource::Group(1);
    peer.deliver(slice_of(&frame, 200, QoS::AtLeastOnce, group));
    peer.commands();
    peer.connection.handle_congestion(true);
    peer.deliver(slice_of(&frame, 201, QoS::AtLeastOnce, group));
    peer.commands();
    peer.after(LEFT_FOR_MS);
    let given_back = given_back(&mut peer);

    drop(frame);
    assert_eq!(Arc::strong_count(&alive), 1, "nothing is left of it");
    assert!(given_back.iter().all(|id| id.source == DeliverySource::SESSION));
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
    assert_eq!(count + given_back.len(), 202);
}

/// Time after which what a client leaves goes back.
const LEFT_FOR_MS: u64 = 200;

/// What the connection gives back now.
fn given_back(peer: &mut Peer) -> Vec<DeliveryId> {
    let commands = peer.commands().into_iter();
    let given_back = commands.filter_map(|command| match command {
        Command::GiveBack { deliveries } => Some(deliveries),
        _ => None,
    });
    given_back.flatten().collect()
}

fn large(offset: u64, qos: QoS) -> Delivery {
    let message = Message { payload: Bytes::from(vec![7; 2_000]), ..message("t/1", qos) };
    Delivery { message: Arc::new(message), ..delivery(offset, qos) }
}

#[test]
fn what_a_client_does_not_read_goes_back_but_for_what_has_a_packet_id_and_what_is_little() {
    for (qos, kept_max) in [(QoS::AtMostOnce, 0), (QoS::AtLeastOnce, 8), (QoS::ExactlyOnce, 8)] {
        for mut peer in [Peer::connected(Version::V5), Peer::persistent(Version::V5)] {
            (0..50).for_each(|offset| peer.deliver(large(offset, qos)));
            peer.commands();
            peer.connection.handle_congestion(true);
            peer.commands();

            peer.after(LEFT_FOR_MS - 1);
            let early = given_back(&mut peer);
            peer.after(1);
            let late = given_back(&mut peer);

            assert!(early.is_empty(), "it may only be busy");
            let first = 50 - late.len() as u64;
            assert!(first <= kept_max, "{qos:?}: {first} are kept");
            let expected: Vec<u64> = (first..50).collect();
            assert_eq!(late.iter().map(|id| id.offset.0).collect::<Vec<_>>(), expected);
            assert!(peer.connection.held_bytes() < 8 * 2_500, "{}", peer.connection.held_bytes());
            assert_eq!(peer.connection.poll_timeout(), None, "there is nothing to look at again");

            // A few more stay, and many more do not.
            (50..53).for_each(|offset| peer.deliver(large(offset, qos)));
            peer.commands();
            peer.after(LEFT_FOR_MS);
            assert!(given_back(&mut peer).is_empty());
            peer.deliver(large(53, qos));
            peer.commands();
            peer.after(LEFT_FOR_MS);
            assert_eq!(given_back(&mut peer).len(), 4);
        }
    }
}

#[test]
fn readers_go_on_when_everything_that_was_kept_is_written() {
    let mut peer = Peer::connected(Version::V5);
    (0..50).for_each(|offset| peer.deliver(large(offset, QoS::AtLeastOnce)));
    peer.commands();
    peer.connection.handle_congestion(true);
    peer.commands();
    peer.after(LEFT_FOR_MS);
    let given_back = given_back(&mut peer);
    let mut some = BytesMut::new();
    peer.connection.poll_transmit(peer.now, &mut some, 4_000);
    assert!(!peer.commands().contains(&Command::GoOn), "its socket is still full");

    peer.connection.handle_congestion(false);
    assert!(!peer.commands().contains(&Command::GoOn), "something is still to be written");
    let rest = peer.publishes().len();
    assert_eq!(peer.commands(), [Command::GoOn]);
    assert_eq!(2 + rest + given_back.len(), 50);
    assert!(peer.commands().is_empty(), "it is said once");
}

#[test]
fn what_a_client_does_not_acknowledge_goes_back_and_waits_for_its_acknowledgement() {
    let mut peer = Peer::connected_with(Version::V5, settings(), |connect| {
        connect.properties = list(&[Property::ReceiveMaximum(2)]);
    });
    (0..50).for_each(|offset| peer.deliver(large(offset, QoS::AtLeastOnce)));
    let publishes = peer.publishes();
    assert_eq!(publishes.len(), 2);
    peer.commands();

    // One that acknowledges is not given up, however slow it is.
    peer.after(LEFT_FOR_MS - 1);
    peer.send(Packet::PubAck(ack(publishes[0].packet_id)));
    peer.commands();
    assert_eq!(peer.publishes().len(), 1);
    peer.commands();
    peer.after(LEFT_FOR_MS - 1);
    assert!(given_back(&mut peer).is_empty());
    peer.after(1);
    assert_eq!(given_back(&mut peer).len(), 47);

    peer.after(LEFT_FOR_MS);
    assert!(!peer.commands().contains(&Command::GoOn));
    peer.send(Packet::PubAck(ack(publishes[1].packet_id)));
    assert!(peer.commands().contains(&Command::GoOn));
}

#[test]
fn what_was_overtaken_by_a_later_one_of_its_reader_is_not_given_back() {
    let mut peer = Peer::connected_with(Version::V5, settings(), |connect| {
        connect.properties = list(&[Property::ReceiveMaximum(1)]);
    });
    (0..20).for_each(|offset| peer.deliver(large(offset, QoS::AtLeastOnce)));
    peer.deliver(large(20, QoS::AtMostOnce));
    (21..40).for_each(|offset| peer.deliver(large(offset, QoS::AtLeastOnce)));
    peer.commands();
    assert_eq!(peer.publishes().len(), 2, "the first, and the one of QoS 0");
    peer.commands();

    peer.after(LEFT_FOR_MS);

    let given_back: Vec<u64> = given_back(&mut peer).iter().map(|id| id.offset.0).collect();
    assert_eq!(given_back, (21..40).collect::<Vec<_>>());
}
