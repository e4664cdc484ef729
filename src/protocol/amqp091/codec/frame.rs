//! The protocol header and frames (AMQP 0.9.1 §4.2.2, §4.2.3).
//!
//! ```text
//! header := 'A' 'M' 'Q' 'P' 0 0 9 1
//! frame  := kind u8 · channel u16 · length u32 · payload · 0xCE
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::DecodeError;

/// What a 0.9.1 client says first, and what a client of anything else is answered with.
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";
/// The octet behind every payload.
pub const FRAME_END: u8 = 0xCE;
/// Bytes of a frame that are not payload.
pub const FRAME_BYTES: usize = 8;
/// Bytes of a frame that every peer takes, whatever is agreed on later (§1.1, frame-min-size).
pub const FRAME_BYTES_MIN: u32 = 4096;

/// What a connection began with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// 0.9.1.
    Amqp091,
    /// 1.0; the number says whether SASL (3), TLS (2) or AMQP itself (0) is to follow.
    Amqp10 {
        /// The protocol id.
        id: u8,
    },
    /// Anything else, earlier versions among it.
    Unknown,
}

impl Greeting {
    /// Takes it off the front; `None` while it may still become one that is known.
    pub fn take(input: &mut BytesMut) -> Option<Greeting> {
        const NAME: &[u8] = b"AMQP";
        let said = &input[..input.len().min(PROTOCOL_HEADER.len())];
        let shared = said.len().min(NAME.len());
        if said[..shared] != NAME[..shared] {
            return Some(Greeting::Unknown);
        }
        let greeting = match said.get(4..8)? {
            [0, 0, 9, 1] => Greeting::Amqp091,
            [id @ (0 | 2 | 3), 1, 0, 0] => Greeting::Amqp10 { id: *id },
            _ => Greeting::Unknown,
        };
        input.advance(PROTOCOL_HEADER.len());
        Some(greeting)
    }
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A method.
    Method = 1,
    /// The header of content.
    Header = 2,
    /// A part of a content's body.
    Body = 3,
    /// Nothing: the peer is alive.
    Heartbeat = 8,
}

/// One frame. Its payload shares the memory of what it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it holds.
    pub kind: FrameKind,
    /// Whose it is; 0 is the connection's own.
    pub channel: u16,
    /// What it holds, encoded.
    pub payload: Bytes,
}

/// Takes one frame from the front of `input`; leaves a partial one untouched and returns `None`.
///
/// `bytes_max` is what was agreed on, header and end included. The length is judged before anything is waited for. The caller must
/// close after an error: where the next frame begins is not known.
pub fn decode(input: &mut BytesMut, bytes_max: u32) -> Result<Option<Frame>, DecodeError> {
    let Some(kind) = input.first() else { return Ok(None) };
    let kind = match kind {
        1 => FrameKind::Method,
        2 => FrameKind::Header,
        3 => FrameKind::Body,
        8 => FrameKind::Heartbeat,
        kind => return Err(DecodeError::FrameKind { kind: *kind }),
    };
    let Some(mut header) = input.get(1..7) else { return Ok(None) };
    let (channel, payload_bytes) = (header.get_u16(), header.get_u32());
    let bytes = u64::from(payload_bytes) + FRAME_BYTES as u64;
    if bytes > u64::from(bytes_max) {
        return Err(DecodeError::FrameTooLarge { bytes, bytes_max });
    }
    let payload_bytes = payload_bytes as usize;
    if kind == FrameKind::Heartbeat && (channel, payload_bytes) != (0, 0) {
        return Err(DecodeError::Heartbeat { channel, bytes: payload_bytes });
    }
    let Some(found) = input.get(7 + payload_bytes).copied() else { return Ok(None) };
    if found != FRAME_END {
        return Err(DecodeError::FrameEnd { found });
    }
    let mut frame = input.split_to(payload_bytes + FRAME_BYTES).freeze();
    frame.advance(7);
    frame.truncate(payload_bytes);
    Ok(Some(Frame { kind, channel, payload: frame }))
}

/// Appends a frame whose payload `write` appends.
///
/// Panics if that is 4 GiB or more.
pub fn encode(
    kind: FrameKind,
    channel: u16,
    out: &mut BytesMut,
    write: impl FnOnce(&mut BytesMut),
) {
    let [high, low] = channel.to_be_bytes();
    out.put_slice(&[kind as u8, high, low, 0, 0, 0, 0]);
    let begin = out.len();
    write(out);
    let payload_bytes = u32::try_from(out.len() - begin).expect("frames are below 4 GiB");
    out[begin - 4..begin].copy_from_slice(&payload_bytes.to_be_bytes());
    out.put_u8(FRAME_END);
}

/// Appends a heartbeat.
pub fn encode_heartbeat(out: &mut BytesMut) {
    encode(FrameKind::Heartbeat, 0, out, |_| {});
}
