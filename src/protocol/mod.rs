//! Client protocols as sans-IO machines: bytes, effects and the time in, bytes and commands out.
//!
//! A protocol knows [`model`](crate::model) and nothing else: no sockets, no clock, no other protocol.

pub mod amqp091;
pub mod mqtt;

use bytes::BytesMut;

use crate::model::connection::Traffic;
use crate::model::{Command, ConnectionDescription, Effect, Millis};

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

impl Counters {
    /// What of it says how busy the connection is.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            packets_received: self.packets_received,
            packets_sent: self.packets_sent,
            publishes_received: self.publishes_received,
            publishes_sent: self.publishes_sent,
            payload_bytes_received: self.payload_bytes_received,
            payload_bytes_sent: self.payload_bytes_sent,
        }
    }
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
    /// True while the peer waits to hear that what it had is released: when the broker has nothing more to do for the connection, the driver
    /// lets go of it and calls [`handle_released`](Connection::handle_released).
    fn awaits_release(&self) -> bool {
        false
    }
    /// Nothing is left of the connection in the broker.
    fn handle_released(&mut self, _now: Millis) {}
    /// What went through so far.
    fn counters(&self) -> &Counters;
    /// What it knows of itself and of its client, for an administrator; of its channels only where that is asked for.
    fn describe(&self, with_channels: bool) -> ConnectionDescription;
    /// Bytes that wait in the connection to be sent, with what carries them. 0 where a protocol keeps none.
    fn held_bytes(&self) -> usize {
        0
    }
    /// False while the broker or the peer must catch up before more input is taken.
    fn wants_input(&self) -> bool {
        true
    }
    /// True when [`Effect::Publishing`] is to come at once; others hear of it when something else happens.
    fn hears_of_publishing(&self) -> bool {
        false
    }
    /// Bytes of input the driver must be able to hold at present: one packet of the largest size the peer may send now.
    fn input_bytes_max(&self) -> usize {
        1 << 20
    }
}
