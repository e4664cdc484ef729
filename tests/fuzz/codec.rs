//! Bytes from anywhere, read as packets of any version and either direction.
//!
//! Nothing panics; what is read can be written, and comes back as it was; nothing is allocated for a length that the input only claims.

use bytes::BytesMut;
use fluxmq::protocol::mqtt::codec::{Limits, decode, encode, packet_bytes};
use fluxmq::protocol::mqtt::{Packet, Version};

/// Checks one input: its first byte chooses the version, the others are the stream.
pub fn check(data: &[u8]) {
    let Some((first, stream)) = data.split_first() else { return };
    // Without a version only CONNECT can be read, and says it.
    let version = [None, Some(Version::V31), Some(Version::V311), Some(Version::V5)];
    let version = version[usize::from(first % 4)];
    let mut input = BytesMut::from(stream);
    loop {
        let before = input.clone();
        let declared = packet_bytes(&before);
        match decode(&mut input, version, &Limits::default()) {
            Ok(None) => return assert_eq!(input, before, "what is not whole is left as it is"),
            Err(_) => return,
            Ok(Some(packet)) => {
                let taken = before.len() - input.len();
                assert_eq!(declared, Ok(Some(taken)), "a packet is as long as it says");
                assert_allocates_no_more_than(&packet, taken);
                assert_comes_back(&packet, version);
            }
        }
    }
}

fn assert_comes_back(packet: &Packet, version: Option<Version>) {
    let version = match packet {
        Packet::Connect(connect) => connect.version,
        _ => version.expect("only CONNECT is read without a version"),
    };
    // A server of 3.1.1 refuses a client of 5.0 in its own form, which is read and never written.
    if matches!(packet, Packet::ConnAck(ack) if version == Version::V5 && (1..=5).contains(&ack.reason.0))
    {
        return;
    }
    let mut bytes = BytesMut::new();
    encode(packet, version, &mut bytes).expect("what was read can be written");
    let again = decode(&mut bytes, Some(version), &Limits::default());
    assert_eq!(again.as_ref(), Ok(&Some(packet.clone())), "what was written comes back");
    assert!(bytes.is_empty());
}

fn assert_allocates_no_more_than(packet: &Packet, bytes: usize) {
    let capacity = match packet {
        Packet::Subscribe(it) => it.filters.capacity(),
        Packet::Unsubscribe(it) => it.filters.capacity(),
        Packet::SubAck(it) => it.reasons.capacity(),
        Packet::UnsubAck(it) => it.reasons.capacity(),
        _ => 0,
    };
    assert!(capacity <= 2 * bytes + 8, "{capacity} places for {bytes} bytes");
}
