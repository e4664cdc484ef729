//! How much one receiver may have out: a number of deliveries, and their bytes.
//!
//! What is out is in memory, so the bytes are bounded too: a receiver that is slow costs its window and no more. The window begins
//! small and grows by what the receiver settles, so one that never settles has a small one for ever, and one that gives deliveries
//! back has a small one again. One delivery larger than that goes out alone.
//!
//! Consumers by name, of which one connection may have many, share what their connection has in a partition (ADR 0057): each its part, and none of
//! them more while together they have all of it.
//!
//! Where the receiver is told apart from its client, as consumers by name are, a delivery is in memory until it is sent, not until it
//! is settled: from then on it counts for the number only.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::request::CARRIER_BYTES;
use crate::model::{Credit, Message};

/// Bytes out at a receiver that has settled nothing, with what carries them.
const BYTES_MIN: u64 = 8 << 10;
/// Bytes out at a receiver that settles fast.
const BYTES_MAX: u64 = 256 << 10;

/// Bytes out at a consumer of a queue that stores nothing: there is no log that it could read on in, and what has no room is lost.
const PASSING_BYTES: u64 = 16 << 20;
/// Bytes out at all consumers of a connection, of one partition, beside one delivery that is larger.
const SHARED_BYTES: u64 = 1 << 20;

/// What the windows of one connection have out together.
#[derive(Debug)]
pub struct Pool {
    bytes: AtomicU64,
    windows: AtomicU64,
    bytes_max: u64,
    /// The least that each window may have.
    part_min: u64,
}

impl Pool {
    /// Returns one for consumers of what is stored, or of what nothing stores: of that whoever comes first has all.
    pub fn new(is_passing: bool) -> Pool {
        let (bytes_max, part_min) = match is_passing {
            true => (PASSING_BYTES, PASSING_BYTES),
            false => (SHARED_BYTES, BYTES_MIN),
        };
        let (bytes, windows) = (AtomicU64::default(), AtomicU64::default());
        Pool { bytes, windows, bytes_max, part_min }
    }

    /// Returns true when nothing more goes out before something of it is sent.
    pub fn is_used_up(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= self.bytes_max
    }

    /// What each window may have: no less than at the beginning.
    fn part(&self) -> u64 {
        let windows = self.windows.load(Ordering::Relaxed).max(1);
        (self.bytes_max / windows).max(self.part_min)
    }
}

/// What one receiver may still be sent.
#[derive(Debug)]
pub struct Window {
    credit: Credit,
    bytes: u64,
    bytes_max: u64,
    /// Nothing more goes out before something is given back.
    is_held: bool,
    /// Deliveries that are not settled.
    out: u32,
    /// Of each of them that is in memory, in sending order. Settling is counted, not named: an early one stands for the oldest.
    sizes: VecDeque<u32>,
    pool: Option<Arc<Pool>>,
}

impl Window {
    /// Returns a window of so many deliveries.
    pub fn new(credit: Credit) -> Window {
        let (bytes, bytes_max, is_held) = (0, BYTES_MIN, false);
        Window { credit, bytes, bytes_max, is_held, out: 0, sizes: VecDeque::new(), pool: None }
    }

    /// Returns one that shares what a connection may have out.
    pub fn sharing(credit: Credit, pool: Arc<Pool>) -> Window {
        pool.windows.fetch_add(1, Ordering::Relaxed);
        let mut window = Window::new(credit);
        window.pool = Some(pool);
        window
    }

    /// Returns the window of a consumer of what nothing stores.
    pub fn passing(credit: Credit, pool: Arc<Pool>) -> Window {
        let mut window = Window::sharing(credit, pool);
        window.bytes_max = PASSING_BYTES;
        window
    }

    /// How many more deliveries may go out now; the bytes may stop them earlier.
    pub fn credit(&self) -> u32 {
        match self.is_pool_used_up() {
            true => 0,
            false => self.own_credit(),
        }
    }

    /// Returns true for one that could have more if others of its connection had less.
    pub fn waits_for_others(&self) -> bool {
        self.is_pool_used_up() && self.own_credit() > 0
    }

    fn own_credit(&self) -> u32 {
        let part = self.pool.as_ref().map_or(u64::MAX, |pool| pool.part());
        match self.credit {
            _ if self.is_held || self.bytes >= self.bytes_max.min(part) => 0,
            Credit::Window(max) => max.saturating_sub(self.out),
            Credit::Granted(left) => left,
        }
    }

    fn is_pool_used_up(&self) -> bool {
        self.pool.as_ref().is_some_and(|pool| pool.is_used_up())
    }

    /// How many deliveries are out.
    pub fn out_count(&self) -> usize {
        self.out as usize
    }

    /// Lets so many more out, where that is not said by settling.
    pub fn grant(&mut self, count: u32) {
        if let Credit::Granted(left) = &mut self.credit {
            *left = left.saturating_add(count);
        }
    }

    /// Takes room for a delivery.
    pub fn spend(&mut self, message: &Message) {
        let bytes = u32::try_from(message.len_bytes()).unwrap_or(u32::MAX);
        self.spend_bytes(bytes.saturating_add(CARRIER_BYTES));
        if let Credit::Granted(left) = &mut self.credit {
            *left = left.saturating_sub(1);
        }
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
        let bytes = self.sizes.drain(kept..).map(u64::from).sum::<u64>();
        self.give_bytes_back(bytes);
        self.sizes.shrink_to_fit();
        self.out = self.out.saturating_sub(count);
        self.bytes_max = BYTES_MIN;
    }

    /// Gives the room of settled deliveries back.
    pub fn give_back(&mut self, count: u32) {
        self.is_held = false;
        self.out = self.out.saturating_sub(count);
        // Whatever is settled was sent.
        self.leave_memory(self.sizes.len().saturating_sub(self.out as usize));
    }

    /// The oldest deliveries that are in memory are not any more.
    pub fn sent(&mut self, count: u32) {
        self.leave_memory(count as usize);
    }

    fn leave_memory(&mut self, count: usize) {
        let sizes = self.sizes.drain(..self.sizes.len().min(count));
        let bytes = sizes.map(u64::from).sum::<u64>();
        self.give_bytes_back(bytes);
        let grown = BYTES_MAX.min(self.bytes_max + bytes);
        self.bytes_max = self.bytes_max.max(grown);
        if self.sizes.is_empty() {
            self.sizes = VecDeque::new();
        }
    }

    fn give_bytes_back(&mut self, bytes: u64) {
        self.bytes -= bytes;
        if let Some(pool) = &self.pool {
            pool.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    fn spend_bytes(&mut self, bytes: u32) {
        self.bytes += u64::from(bytes);
        if let Some(pool) = &self.pool {
            pool.bytes.fetch_add(bytes.into(), Ordering::Relaxed);
        }
        self.out += 1;
        self.sizes.push_back(bytes);
    }
}

impl Drop for Window {
    /// What it had out is its client's, or has gone back.
    fn drop(&mut self) {
        self.give_bytes_back(self.bytes);
        if let Some(pool) = &self.pool {
            pool.windows.fetch_sub(1, Ordering::Relaxed);
        }
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
        let mut window = Window::new(Credit::Window(3));
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
        let mut window = Window::new(Credit::Window(1_000));
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
        let mut window = Window::new(Credit::Window(3));
        window.spend_unknown(5);
        assert_eq!(window.credit(), 0);

        window.give_back(1);
        assert_eq!(window.credit(), 0, "four are still out");
        window.give_back(4);
        assert_eq!(window.credit(), 3);
    }

    #[test]
    fn what_is_sent_leaves_its_bytes_and_counts_until_it_is_settled() {
        let mut window = Window::new(Credit::Window(u32::MAX));
        (0..2).for_each(|_| window.spend(&message(6_000)));
        assert_eq!(window.credit(), 0, "12 kB are on their way");

        window.sent(1);
        assert_eq!((window.out_count(), window.credit()), (2, u32::MAX - 2));
        // The second is settled before it is said to be sent, and the first after it was.
        window.give_back(2);
        assert_eq!((window.out_count(), window.bytes), (0, 0));

        let mut window = Window::new(Credit::Window(2));
        (0..2).for_each(|_| window.spend(&message(1)));
        window.sent(2);
        assert_eq!(window.credit(), 0, "sending them settles nothing");
        window.give_back(1);
        assert_eq!(window.credit(), 1);
    }

    #[test]
    fn windows_of_one_connection_have_a_part_each_and_together_no_more_than_there_is() {
        let pool = Arc::new(Pool::new(false));
        let sharing = || Window::sharing(Credit::Window(u32::MAX), pool.clone());
        let mut windows: Vec<Window> = (0..64).map(|_| sharing()).collect();
        for window in &mut windows {
            // Each has grown to its most.
            (0..64).for_each(|_| window.spend(&message(8_000)));
            window.sent(64);
            while window.credit() > 0 {
                window.spend(&message(1_000));
            }
            assert!(window.bytes < 18 << 10, "a part and a message: {}", window.bytes);
        }
        let out = |pool: &Pool| pool.bytes.load(Ordering::Relaxed);
        assert!((SHARED_BYTES..SHARED_BYTES + 2_000).contains(&out(&pool)));
        assert!(!windows[0].waits_for_others(), "it has its part");
        let mut new = sharing();
        assert_eq!(new.credit(), 0);
        assert!(new.waits_for_others());

        windows.truncate(32);
        assert!(!pool.is_used_up() && new.credit() > 0);
        new.spend(&message(2 << 20));
        assert!(pool.is_used_up(), "one may be larger");
        new.give_back(1);
        drop((new, windows));
        assert_eq!((out(&pool), pool.windows.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn credit_that_is_granted_is_used_up_by_sending_and_not_given_back_by_settling() {
        let mut window = Window::new(Credit::Granted(2));
        (0..2).for_each(|_| window.spend(&message(1)));
        window.give_back(2);
        assert_eq!(window.credit(), 0);

        window.grant(3);
        assert_eq!(window.credit(), 3);
        window.spend(&message(9_000));
        assert_eq!(window.credit(), 0, "the bytes are used up");
        window.sent(1);
        assert_eq!(window.credit(), 2);
    }
}
