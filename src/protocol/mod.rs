//! Client protocols as sans-IO machines: bytes, effects and the time in, bytes and commands out.
//!
//! A protocol knows [`model`](crate::model) and nothing else: no sockets, no clock, no other protocol.

pub mod amqp091;
pub mod mqtt;

use bytes::BytesMut;

use crate::model::{Command, Effect, Millis};

/// What went through one connection, for statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets decoded.
    pub packets_received: u64,
    /// Packets encoded.
    pub packets_sent: u64,
    /// Publishes decoded.
    pub publishes_received: u64,
    /// Deliveries encoded.
    pub publishes_sent: u64,
    /// Bytes of the payloads of publishes.
    pub payload_bytes_received: u64,
    /// Bytes of the payloads of deliveries.
    pub payload_bytes_sent: u64,
    /// Publishes that were refused, which nobody can be told.
    pub publishes_dropped: u64,
    /// Deliveries that were too large for the client, or expired while they waited.
    pub deliveries_dropped: u64,
    /// QoS 0 deliveries that were too many for a peer that does not read.
    pub deliveries_without_room: u64,
}

/// One client connection. The driver calls `handle_*` for what happened, then polls until everything is `None` and nothing is
/// written: commands first, then transmit, then the timeout.
///
/// Back-pressure: while [`wants_input`](Connection::wants_input) is false the driver does not read the socket; whole
/// packets may be left in the input, so it calls `handle_input` with them again once it is true, after an effect or after transmitting.
pub trait Connection {
    /// Consumes what it can of `input`; leaves a partial packet. Slices of `input` may live on in commands.
    fn handle_input(&mut self, now: Millis, input: &mut BytesMut);
    /// Takes an answer or a delivery.
    fn handle_effect(&mut self, now: Millis, effect: Effect);
    /// The time of `poll_timeout` has come.
    fn handle_timeout(&mut self, now: Millis);
    /// The peer is gone: closed, reset, or timed out by the driver.
    fn handle_disconnect(&mut self, now: Millis);
    /// The next thing to ask the broker.
    fn poll_command(&mut self) -> Option<Command>;
    /// Appends what is to be sent, until `out` holds at least `limit` bytes; the rest waits for the next call.
    fn poll_transmit(&mut self, now: Millis, out: &mut BytesMut, limit: usize);
    /// The peer does not read: the socket took less than was there. Or it does again. Meanwhile little may be kept for it.
    fn handle_congestion(&mut self, is_congested: bool);
    /// When to call `handle_timeout`, if nothing happens before.
    fn poll_timeout(&self) -> Option<Millis>;
    /// True when the socket is to be closed after everything has been transmitted.
    fn is_closing(&self) -> bool;
    /// What went through so far.
    fn counters(&self) -> &Counters;
    /// Bytes that wait in the connection to be sent, with what carries them. 0 where a protocol keeps none.
    fn held_bytes(&self) -> usize {
        0
    }
    /// False while the broker or the peer must catch up before more input is taken.
    fn wants_input(&self) -> bool {
        true
    }
    /// Bytes of input the driver must be able to hold at present: one packet of the largest size the peer may send now.
    fn input_bytes_max(&self) -> usize {
        1 << 20
    }
}
