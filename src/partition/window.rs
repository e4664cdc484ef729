//! How much one receiver may have out: a number of deliveries, and their bytes.
//!
//! What is out is in memory, so the bytes are bounded too: a receiver that is slow costs its window and no more. The window begins
//! small and grows by what the receiver settles, so one that never settles has a small one for ever, and one that gives deliveries
//! back has a small one again. One delivery larger than that goes out alone.

use std::collections::VecDeque;

use crate::model::Message;

/// Bytes out at a receiver that has settled nothing, with what carries them.
const BYTES_MIN: u64 = 8 << 10;
/// Bytes out at a receiver that settles fast.
const BYTES_MAX: u64 = 256 << 10;
/// What a delivery costs beside its message.
const CARRIER_BYTES: u32 = 128;

/// What one receiver may still be sent.
#[derive(Debug)]
pub struct Window {
    count_max: u32,
    bytes: u64,
    bytes_max: u64,
    /// Nothing more goes out before something is given back.
    is_held: bool,
    /// Of each delivery that is out, in sending order. Settling is counted, not named: an early one stands for the oldest.
    sizes: VecDeque<u32>,
}

impl Window {
    /// Returns a window of so many deliveries.
    pub fn new(credit: u32) -> Window {
        let (bytes, bytes_max, is_held) = (0, BYTES_MIN, false);
        Window { count_max: credit, bytes, bytes_max, is_held, sizes: VecDeque::new() }
    }

    /// How many more deliveries may go out now; the bytes may stop them earlier.
    pub fn credit(&self) -> u32 {
        let out = u32::try_from(self.sizes.len()).unwrap_or(u32::MAX);
        let is_open = self.bytes < self.bytes_max && !self.is_held;
        if is_open { self.count_max.saturating_sub(out) } else { 0 }
    }

    /// How many deliveries are out.
    pub fn out_count(&self) -> usize {
        self.sizes.len()
    }

    /// Takes room for a delivery.
    pub fn spend(&mut self, message: &Message) {
        let bytes = u32::try_from(message.len_bytes()).unwrap_or(u32::MAX);
        self.spend_bytes(bytes.saturating_add(CARRIER_BYTES));
    }

    /// Takes room for deliveries that an earlier connection left open and whose size is not known.
    pub fn spend_unknown(&mut self, count: usize) {
        (0..count).for_each(|_| self.spend_bytes(0));
    }

    /// Lets nothing more out before the next [`give_back`](Window::give_back), also of nothing.
    pub fn hold(&mut self) {
        self.is_held = true;
    }

    /// Takes the newest deliveries back, which were not sent. Whoever had them is slow: the window begins small again.
    pub fn take_back(&mut self, count: u32) {
        let kept = self.sizes.len().saturating_sub(count as usize);
        self.bytes -= self.sizes.drain(kept..).map(u64::from).sum::<u64>();
        self.sizes.shrink_to_fit();
        self.bytes_max = BYTES_MIN;
    }

    /// Gives the room of settled deliveries back.
    pub fn give_back(&mut self, count: u32) {
        self.is_held = false;
        for size in self.sizes.drain(..self.sizes.len().min(count as usize)) {
            self.bytes -= u64::from(size);
            self.bytes_max = BYTES_MAX.min(self.bytes_max + u64::from(size));
        }
        if self.sizes.is_empty() {
            self.sizes = VecDeque::new();
        }
    }

    fn spend_bytes(&mut self, bytes: u32) {
        self.bytes += u64::from(bytes);
        self.sizes.push_back(bytes);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::{Properties, QoS, Topic};

    fn message(bytes: usize) -> Message {
        Message {
            topic: Topic::new(Bytes::from_static(b"t")).unwrap(),
            payload: Bytes::from(vec![0; bytes]),
            qos: QoS::AtLeastOnce,
            retain: false,
            expiry_s: None,
            properties: Properties::default(),
            publisher: 0,
        }
    }

    #[test]
    fn the_number_and_the_bytes_both_end_it_and_settling_opens_it_again() {
        let mut window = Window::new(3);
        window.spend(&message(1));
        window.spend(&message(2 << 20));
        assert_eq!(window.credit(), 0, "the bytes are used up");

        window.give_back(1);
        assert_eq!(window.credit(), 0, "the large one is still out");
        window.give_back(1);
        assert_eq!(window.credit(), 3);

        (0..3).for_each(|_| window.spend(&message(1)));
        assert_eq!(window.credit(), 0, "the number is used up");
        window.give_back(9);
        assert_eq!(window.credit(), 3, "no more comes back than was out");
    }

    #[test]
    fn what_is_taken_back_makes_room_once_the_window_is_not_held_any_more_and_it_is_small_again() {
        let mut window = Window::new(1_000);
        while window.bytes_max < BYTES_MAX {
            window.spend(&message(4_000));
            window.give_back(1);
        }
        (0..40).for_each(|_| window.spend(&message(4_000)));
        assert!(window.credit() > 0, "it has grown");

        window.hold();
        assert_eq!(window.credit(), 0);
        window.take_back(39);
        assert_eq!((window.out_count(), window.credit()), (1, 0));
        window.give_back(0);
        assert_eq!(window.credit(), 999);
        window.spend(&message(4_000));
        assert_eq!(window.credit(), 0, "8 KiB, as at the beginning");
    }

    #[test]
    fn a_session_that_left_more_open_than_its_credit_gets_no_more_than_its_credit_later() {
        // Counting down from the credit and up again gave back what it had never had.
        let mut window = Window::new(3);
        window.spend_unknown(5);
        assert_eq!(window.credit(), 0);

        window.give_back(1);
        assert_eq!(window.credit(), 0, "four are still out");
        window.give_back(4);
        assert_eq!(window.credit(), 3);
    }
}
