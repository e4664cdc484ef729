//! How often an address may fail: a bucket of attempts for each, refilled with time.
//!
//! Bounded: when too many addresses fail at once, those that failed least are forgotten first.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use crate::model::Millis;

/// Failures in a row that cost nothing: people mistype, and devices share addresses.
const BURST: u32 = 20;
/// Time until one of them is forgotten.
const REFILL_MS: u64 = 1_000;
const ADDRESSES_MAX: usize = 10_000;

/// The addresses that failed lately.
#[derive(Debug, Default)]
pub struct Throttle {
    failures: BTreeMap<IpAddr, Failures>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    since: Millis,
}

/// What a failure means for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// One of a few: worth a line.
    Failure,
    /// The last before further attempts are refused unseen: worth a line that says so.
    Throttled,
    /// One of many: said already.
    Quiet,
}

impl Throttle {
    /// Returns false while an address has failed too often: what it sends is not looked at.
    pub fn admits(&self, address: IpAddr, now: Millis) -> bool {
        self.failures.get(&block_of(address)).is_none_or(|failures| failures.at(now).count < BURST)
    }

    /// Notes a failure.
    pub fn failed(&mut self, address: IpAddr, now: Millis) -> Noted {
        if self.failures.len() >= ADDRESSES_MAX {
            self.make_room(now);
        }
        let entry =
            self.failures.entry(block_of(address)).or_insert(Failures { count: 0, since: now });
        *entry = entry.at(now);
        entry.count += 1;
        match entry.count {
            count if count < BURST => Noted::Failure,
            BURST => Noted::Throttled,
            _ => Noted::Quiet,
        }
    }

    fn make_room(&mut self, now: Millis) {
        self.failures.retain(|_, failures| failures.at(now).count > 0);
        let mut least = 1;
        while self.failures.len() >= ADDRESSES_MAX {
            self.failures.retain(|_, failures| failures.at(now).count > least);
            least *= 2;
        }
    }
}

impl Failures {
    /// What is left of them at `now`.
    fn at(self, now: Millis) -> Failures {
        let forgotten = now.0.saturating_sub(self.since.0) / REFILL_MS;
        let count = u64::from(self.count).saturating_sub(forgotten) as u32;
        let since = if count == 0 { now } else { self.since.plus(forgotten * REFILL_MS) };
        Failures { count, since }
    }
}

/// Whoever has one IPv6 address has its whole /64.
fn block_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_that_guesses_is_refused_until_time_has_passed() {
        let mut throttle = Throttle::default();
        let guesser = address("192.0.2.1");
        let now = Millis(5_000);

        let noted: Vec<Noted> = (0..22).map(|_| throttle.failed(guesser, now)).collect();

        assert_eq!(noted[..19], [Noted::Failure; 19]);
        assert_eq!(noted[19..], [Noted::Throttled, Noted::Quiet, Noted::Quiet]);
        assert!(!throttle.admits(guesser, now));
        assert!(throttle.admits(address("192.0.2.2"), now));
        assert!(!throttle.admits(guesser, now.plus(2_999)));
        assert!(throttle.admits(guesser, now.plus(3_000)));
        assert_eq!(throttle.failed(guesser, now.plus(3_000)), Noted::Throttled);
    }

    #[test]
    fn a_whole_ipv6_network_is_one_address() {
        let mut throttle = Throttle::default();
        for host in 0..20 {
            throttle.failed(address(&format!("2001:db8::{host:x}")), Millis(0));
        }

        assert!(!throttle.admits(address("2001:db8::ffff"), Millis(0)));
        assert!(throttle.admits(address("2001:db8:0:1::1"), Millis(0)));
    }

    #[test]
    fn many_addresses_take_bounded_memory_and_the_worst_are_remembered() {
        let mut throttle = Throttle::default();
        let worst = address("198.51.100.1");
        (0..20).for_each(|_| _ = throttle.failed(worst, Millis(0)));

        for n in 0..30_000u32 {
            throttle.failed(IpAddr::V4((n + (10 << 24)).into()), Millis(0));
        }

        assert!(throttle.failures.len() <= ADDRESSES_MAX);
        assert!(!throttle.admits(worst, Millis(0)));
    }
}
