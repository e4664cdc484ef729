//! How many connections there may be, and how fast they may come: for the node and for each address.
//!
//! Peers on this machine are counted for the node only: they share one address and are not strangers. The one lock is held for one
//! look at one address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::Refusal;

/// Time between two lines of the log about the same breach.
const QUIET: Duration = Duration::from_secs(10);
/// Addresses without connections that are remembered for their rate; beyond, those are swept whose burst is whole again.
const IDLE_ADDRESSES_MAX: usize = 4096;

/// The limits, from the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Connections at a time.
    pub connections_max: u32,
    /// Connections of one address at a time.
    pub per_address_max: u32,
    /// New connections in a second.
    pub rate_max: u32,
    /// New connections of one address in a second, in the long run.
    pub address_rate_max: u32,
    /// New connections of one address at once.
    pub address_burst: u32,
    /// Connections over a limit that are told so at a time; the others are closed without a word.
    pub told_max: u32,
}

/// The limit that a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Breach {
    /// Of connections at a time.
    #[error("limits.connections_max reached")]
    Connections,
    /// Of new connections in a second.
    #[error("limits.connect_rate_max reached")]
    Rate,
    /// Of connections of one address at a time.
    #[error("limits.connections_per_address_max reached")]
    AddressConnections,
    /// Of new connections of one address in a second.
    #[error("limits.connect_rate_per_address_max reached")]
    AddressRate,
    /// Not a limit: the connection did not get through its handshakes.
    #[error("handshake failed")]
    Handshake,
    /// Not a limit of ours: the system has no socket for another connection, which waits. In most cases the open files are too many.
    #[error("cannot accept connections")]
    Accept,
    /// Of memory.
    #[error("memory is short: limits.memory_bytes_max")]
    Memory,
}

/// What was turned away, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TurnedAway {
    /// By [`Breach::Connections`].
    pub connections: u64,
    /// By [`Breach::Rate`].
    pub rate: u64,
    /// By [`Breach::AddressConnections`].
    pub address_connections: u64,
    /// By [`Breach::AddressRate`].
    pub address_rate: u64,
    /// By [`Breach::Handshake`].
    pub handshake: u64,
    /// How often [`Breach::Accept`] made the others wait.
    pub accept: u64,
    /// By [`Breach::Memory`].
    pub memory: u64,
}

/// Who may come in.
pub struct Admission {
    limits: AdmissionLimits,
    places: Arc<Semaphore>,
    telling: Arc<Semaphore>,
    started: Instant,
    node: AtomicBucket,
    addresses: Mutex<HashMap<IpAddr, Address>>,
    turned_away: [Burst; 7],
    is_short_of_memory: AtomicBool,
}

/// A place among the node's connections; free again when dropped.
pub type Place = OwnedSemaphorePermit;

/// A place among the connections of one address; free again when dropped.
pub struct AddressPlace {
    admission: Arc<Admission>,
    address: IpAddr,
}

struct Address {
    connections: u32,
    bucket: Bucket,
}

impl Admission {
    /// Returns an empty house.
    pub fn new(limits: AdmissionLimits) -> Arc<Admission> {
        Arc::new(Admission {
            limits,
            places: Arc::new(Semaphore::new(limits.connections_max as usize)),
            telling: Arc::new(Semaphore::new(limits.told_max as usize)),
            started: Instant::now(),
            node: AtomicBucket::default(),
            addresses: Mutex::default(),
            turned_away: Default::default(),
            is_short_of_memory: AtomicBool::new(false),
        })
    }

    /// Takes a place for a connection; `is_local` ones are not held to the rate.
    pub fn admit(&self, is_local: bool) -> Result<Place, Breach> {
        if self.is_short_of_memory.load(Ordering::Relaxed) {
            return Err(Breach::Memory);
        }
        let place = self.places.clone().try_acquire_owned().map_err(|_| Breach::Connections)?;
        if !is_local && !self.node.take(self.now_us(), self.limits.rate_max) {
            return Err(Breach::Rate);
        }
        Ok(place)
    }

    /// While the process is short of memory nobody is admitted.
    pub fn set_short_of_memory(&self, is_short: bool) {
        self.is_short_of_memory.store(is_short, Ordering::Relaxed);
    }

    /// Takes a place for a connection among those of its address.
    pub fn admit_address(self: &Arc<Admission>, address: IpAddr) -> Result<AddressPlace, Breach> {
        let address = group_of(address);
        let (limits, now_us) = (&self.limits, self.now_us());
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.len() >= IDLE_ADDRESSES_MAX && !addresses.contains_key(&address) {
            let is_needed = |known: &Address| {
                known.connections > 0
                    || !known.bucket.is_full(now_us, limits.address_rate_max, limits.address_burst)
            };
            // At most once for as many new addresses as are kept: the sweep costs each of them a constant.
            if addresses.len() >= addresses.capacity() {
                addresses.retain(|_, known| is_needed(known));
            }
        }
        let known = addresses.entry(address).or_insert_with(|| Address {
            connections: 0,
            bucket: Bucket::full(limits.address_burst, now_us),
        });
        if known.connections >= limits.per_address_max {
            return Err(Breach::AddressConnections);
        }
        if !known.bucket.take(now_us, limits.address_rate_max, limits.address_burst) {
            return Err(Breach::AddressRate);
        }
        known.connections += 1;
        Ok(AddressPlace { admission: self.clone(), address })
    }

    /// Takes one of the places for connections that are over a limit and are told so.
    pub fn tell(&self) -> Option<Place> {
        self.telling.clone().try_acquire_owned().ok()
    }

    /// Counts a connection that was turned away; returns how many there were since the last line of the log about it, when it is
    /// time for the next.
    pub fn count(&self, breach: Breach) -> Option<u64> {
        self.turned_away[breach as usize].note(self.now_us())
    }

    /// What was turned away so far.
    pub fn turned_away(&self) -> TurnedAway {
        let count =
            |breach: Breach| self.turned_away[breach as usize].count.load(Ordering::Relaxed);
        TurnedAway {
            connections: count(Breach::Connections),
            rate: count(Breach::Rate),
            address_connections: count(Breach::AddressConnections),
            address_rate: count(Breach::AddressRate),
            handshake: count(Breach::Handshake),
            accept: count(Breach::Accept),
            memory: count(Breach::Memory),
        }
    }

    /// Waits until every connection has ended.
    pub async fn all_gone(&self) {
        // Closed semaphores are the only error, and nothing closes it.
        let _ = self.places.acquire_many(self.limits.connections_max).await;
    }

    fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let addresses = self.admission.addresses.lock();
        let mut addresses = addresses.unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut known) = addresses.entry(self.address) {
            known.get_mut().connections -= 1;
            // Its rate is forgotten with it when nothing of its burst was used up for long.
            if known.get().connections == 0 {
                let now_us = self.admission.now_us();
                let limits = &self.admission.limits;
                let bucket = &known.get().bucket;
                if bucket.is_full(now_us, limits.address_rate_max, limits.address_burst) {
                    known.remove();
                }
            }
        }
    }
}

impl Breach {
    /// What a client is told.
    pub fn refusal(self) -> Refusal {
        match self {
            Breach::Connections | Breach::Handshake | Breach::Accept | Breach::Memory => {
                Refusal::Busy
            }
            Breach::Rate => Refusal::ConnectionRate { limit: "limits.connect_rate_max" },
            Breach::AddressConnections => {
                Refusal::Quota { limit: "limits.connections_per_address_max" }
            }
            Breach::AddressRate => {
                Refusal::ConnectionRate { limit: "limits.connect_rate_per_address_max" }
            }
        }
    }
}

/// Who counts as one address: who has one IPv6 address has 2^64 of them.
fn group_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !0 << 64)),
        v4 => v4,
    }
}

/// Counts, and says when to speak of it.
#[derive(Default)]
struct Burst {
    count: AtomicU64,
    /// Of them, those that the log knows.
    told: AtomicU64,
    /// When the log may hear of it again, in microseconds.
    quiet_until: AtomicU64,
}

impl Burst {
    fn note(&self, now_us: u64) -> Option<u64> {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let quiet_until = self.quiet_until.load(Ordering::Relaxed);
        if now_us < quiet_until {
            return None;
        }
        let next = now_us + QUIET.as_micros() as u64;
        let order = Ordering::Relaxed;
        self.quiet_until.compare_exchange(quiet_until, next, order, order).ok()?;
        Some(count - self.told.swap(count, order))
    }
}

/// Tokens that come back with time, a million to the whole one.
struct Bucket {
    micros: u64,
    at_us: u64,
}

impl Bucket {
    fn full(burst: u32, now_us: u64) -> Bucket {
        Bucket { micros: u64::from(burst) * 1_000_000, at_us: now_us }
    }

    fn level(&self, now_us: u64, rate: u32, burst: u32) -> u64 {
        let more = now_us.saturating_sub(self.at_us).saturating_mul(rate.into());
        self.micros.saturating_add(more).min(u64::from(burst) * 1_000_000)
    }

    fn is_full(&self, now_us: u64, rate: u32, burst: u32) -> bool {
        self.level(now_us, rate, burst) == u64::from(burst) * 1_000_000
    }

    fn take(&mut self, now_us: u64, rate: u32, burst: u32) -> bool {
        let level = self.level(now_us, rate, burst);
        let left = level.checked_sub(1_000_000);
        *self = Bucket { micros: left.unwrap_or(level), at_us: now_us };
        left.is_some()
    }
}

/// A rate over all listeners without a lock: when the next connection would be due if they came evenly (GCRA), with a burst of a second.
#[derive(Default)]
struct AtomicBucket {
    due_us: AtomicU64,
}

impl AtomicBucket {
    fn take(&self, now_us: u64, rate: u32) -> bool {
        let step = 1_000_000 / u64::from(rate.max(1));
        let order = Ordering::Relaxed;
        let next = |due_us: u64| {
            let next = due_us.max(now_us) + step;
            (next <= now_us + 1_000_000).then_some(next)
        };
        self.due_us.fetch_update(order, order, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: AdmissionLimits = AdmissionLimits {
        connections_max: 3,
        per_address_max: 2,
        rate_max: 1000,
        address_rate_max: 50,
        address_burst: 200,
        told_max: 1,
    };

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let admission = Admission::new(LIMITS);
        let places: Vec<Place> = (0..3).map(|_| admission.admit(true).unwrap()).collect();

        assert_eq!(admission.admit(true).err(), Some(Breach::Connections));
        drop(places);
        assert!(admission.admit(true).is_ok());
    }

    #[test]
    fn nobody_is_admitted_while_memory_is_short() {
        let admission = Admission::new(LIMITS);
        let _before = admission.admit(true).unwrap();
        admission.set_short_of_memory(true);

        assert_eq!(admission.admit(true).err(), Some(Breach::Memory));
        admission.set_short_of_memory(false);
        assert!(admission.admit(true).is_ok());
    }

    #[test]
    fn only_so_many_are_told_why_they_may_not_stay() {
        let admission = Admission::new(LIMITS);
        let told = admission.tell();
        assert!(told.is_some() && admission.tell().is_none());
        drop(told);
        assert!(admission.tell().is_some());
    }

    #[test]
    fn an_address_has_its_own_limit_and_a_v6_network_is_one_address() {
        let admission = Admission::new(LIMITS);
        let admit = |text: &str| admission.admit_address(text.parse().unwrap());
        for (first, second, third, other) in [
            ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("2001:db8::1", "2001:db8::2", "2001:db8::ffff:0:0:1", "2001:db8:0:1::1"),
        ] {
            let (one, two) = (admit(first).unwrap(), admit(second).unwrap());
            assert_eq!(admit(third).err(), Some(Breach::AddressConnections));
            assert!(admit(other).is_ok());
            drop(one);
            assert!(admit(third).is_ok());
            drop(two);
        }
    }

    #[test]
    fn a_burst_is_spent_at_once_and_comes_back_at_the_rate() {
        let mut bucket = Bucket::full(200, 0);
        let spent = (0..300).filter(|_| bucket.take(0, 50, 200)).count();
        let after_a_second = (0..300).filter(|_| bucket.take(1_000_000, 50, 200)).count();

        assert_eq!((spent, after_a_second), (200, 50));
        assert!(!bucket.is_full(4_900_000, 50, 200));
        assert!(bucket.is_full(5_000_000, 50, 200));
    }

    #[test]
    fn the_node_takes_its_rate_in_every_second_and_no_more() {
        let bucket = AtomicBucket::default();
        let take = |now_us| (0..5_000).filter(|_| bucket.take(now_us, 1000)).count();

        assert_eq!(take(0), 1000);
        assert_eq!(take(500_000), 500);
        assert_eq!(take(9_000_000), 1000);
    }

    #[test]
    fn the_log_hears_of_a_breach_once_in_a_while_with_the_number() {
        let burst = Burst::default();
        let told: Vec<u64> = (0..100).filter_map(|_| burst.note(5)).collect();
        let later = burst.note(5 + 10_000_000);

        assert_eq!(told, [1]);
        assert_eq!(later, Some(100));
        assert_eq!(burst.count.load(Ordering::Relaxed), 101);
    }
}
