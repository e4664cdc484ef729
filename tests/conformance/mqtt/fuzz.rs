//! Whatever the peer sends and the broker says, in whatever order: nothing panics, and the promises below hold.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// One thing that happens to a connection.
#[derive(Clone, Debug)]
enum Step {
    Bytes(Vec<u8>),
    Publish(QoS, u16),
    Answer(u8, u16),
    Confirm(usize, bool),
    Deliver(QoS, bool, u64),
    Assigned(u64),
    Stored(u16),
    Released(u16),
    Wait(u64),
    Transmit(usize),
}

fn qos() -> impl Strategy<Value = QoS> {
    (0u8..3).prop_map(|bits| QoS::from_bits(bits).expect("below 3"))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => vec(any::<u8>(), 0..12).prop_map(Step::Bytes),
        6 => (qos(), 1u16..6).prop_map(|(qos, id)| Step::Publish(qos, id)),
        6 => (0u8..4, 1u16..6).prop_map(|(kind, id)| Step::Answer(kind, id)),
        6 => (0usize..4, any::<bool>()).prop_map(|(at, ok)| Step::Confirm(at, ok)),
        6 => (qos(), any::<bool>(), 0u64..99).prop_map(|(qos, live, at)| Step::Deliver(qos, live, at)),
        2 => (0u64..4).prop_map(Step::Assigned),
        2 => (1u16..6).prop_map(Step::Stored),
        2 => (1u16..6).prop_map(Step::Released),
        1 => (0u64..3_000).prop_map(Step::Wait),
        3 => (0usize..100).prop_map(Step::Transmit),
    ]
}

/// The test's broker: what it was asked and has not answered.
#[derive(Default)]
struct Broker {
    publishes: Vec<Token>,
    closed: usize,
}

impl Broker {
    fn take(&mut self, peer: &mut Peer) {
        for command in peer.commands() {
            assert_eq!(self.closed, 0, "Close is the last command, not {command:?}");
            match command {
                Command::Publish { token, message, .. } if message.qos != QoS::AtMostOnce => {
                    self.publishes.push(token);
                }
                Command::Close(_) => self.closed += 1,
                _ => {}
            }
        }
    }
}

fn apply(step: Step, peer: &mut Peer, broker: &mut Broker) {
    match step {
        Step::Bytes(bytes) => peer.send_bytes(&bytes),
        Step::Publish(qos, id) => {
            let id = if qos == QoS::AtMostOnce { 0 } else { id };
            peer.send(Packet::Publish(publish(qos, id)));
        }
        Step::Answer(kind, id) => peer.send(match kind {
            0 => Packet::PubAck(ack(id)),
            1 => Packet::PubRec(ack(id)),
            2 => Packet::PubRel(ack(id)),
            _ => Packet::PubComp(ack(id)),
        }),
        Step::Confirm(at, ok) if at < broker.publishes.len() => {
            let token = broker.publishes.remove(at);
            let result = if ok { Ok(true) } else { Err(Refusal::DiskFull) };
            peer.effect(Effect::Confirm { token, result });
        }
        Step::Confirm(..) => {}
        Step::Deliver(qos, live, offset) => {
            let source = if live { DeliverySource::Live } else { DeliverySource::SESSION };
            let id = delivery_id(source, offset);
            peer.deliver(Delivery { id, ..delivery(offset, qos) });
        }
        Step::Assigned(number) => peer.effect(Effect::Assigned { token: Token(number << 3 | 4) }),
        Step::Stored(packet_id) => peer.effect(Effect::ReceivedStored { packet_id }),
        Step::Released(packet_id) => peer.effect(Effect::Released { packet_id }),
        Step::Wait(ms) => peer.after(ms),
        Step::Transmit(limit) => {
            let mut out = BytesMut::new();
            peer.connection.poll_transmit(peer.now, &mut out, limit);
        }
    }
}

proptest! {
    #[test]
    fn any_sequence_of_events_keeps_the_promises(
        version in prop_oneof![Just(Version::V311), Just(Version::V5)],
        steps in vec(step(), 0..60),
    ) {
        let mut peer = Peer::persistent(version);
        let mut broker = Broker::default();
        for step in steps {
            apply(step, &mut peer, &mut broker);
            broker.take(&mut peer);
        }
        peer.connection.handle_disconnect(peer.now);
        broker.take(&mut peer);
        prop_assert_eq!(broker.closed, 1, "what was opened is closed once");
    }

    #[test]
    fn any_bytes_in_any_pieces_never_panic(pieces in vec(vec(any::<u8>(), 0..40), 0..8)) {
        let mut peer = Peer::new(Version::V5);
        for piece in pieces {
            peer.send_bytes(&piece);
            peer.commands();
            peer.bytes();
        }
    }
}
