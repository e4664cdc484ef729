//! Runs checks of credentials away from those who serve: few at a time, a bounded number waiting, and none for addresses that guess.
//!
//! A check of argon2id takes tens of milliseconds and as many MiB. Two at a time leave room for everybody who is in already.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Semaphore;

use crate::auth::throttle::{Noted, Throttle};
use crate::auth::{Check, Verified};
use crate::model::{Millis, Principal, Refusal};

/// Checks that run at a time.
const RUNNING_MAX: usize = 2;
/// Checks that wait for one of those to end: some ten seconds of them.
const WAITING_MAX: usize = 1_024;

/// What all connections share that are being authenticated.
#[derive(Debug)]
pub struct Gate {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    records: Mutex<Records>,
    connections_per_user_max: usize,
    started: Instant,
}

#[derive(Debug, Default)]
struct Records {
    throttle: Throttle,
    /// Connections by user.
    connections: HashMap<Principal, usize>,
}

/// A user's connection: one place among its user's until it is dropped.
#[derive(Debug)]
pub struct Seat {
    gate: Arc<Gate>,
    principal: Principal,
}

/// What became of a check.
pub type Verdict = Result<(Verified, Seat), Refusal>;

impl Gate {
    /// Returns one with nobody waiting.
    pub fn new(connections_per_user_max: usize) -> Gate {
        Gate {
            running: Arc::new(Semaphore::new(RUNNING_MAX)),
            waiting: Arc::new(Semaphore::new(RUNNING_MAX + WAITING_MAX)),
            records: Mutex::default(),
            connections_per_user_max,
            started: Instant::now(),
        }
    }

    /// Runs a check when its turn has come. Failures are logged, without what was sent as a password, and counted for the address.
    pub async fn verify(self: Arc<Gate>, address: IpAddr, check: Box<Check>) -> Verdict {
        let user = check.user().to_owned();
        if !self.records(|records, now| records.throttle.admits(address, now)) {
            return Err(Refusal::Throttled);
        }
        let verified = self.run(check).await;
        let verdict = verified.and_then(|verified| {
            let seat = self.seat(verified.principal.clone())?;
            Ok((verified, seat))
        });
        match &verdict {
            Ok(_) => {}
            Err(Refusal::BadCredentials) => self.note_failure(address, &user),
            Err(refusal) => tracing::warn!(%address, ?user, %refusal, "client refused"),
        }
        verdict
    }

    async fn run(&self, check: Box<Check>) -> Result<Verified, Refusal> {
        if !check.is_costly() {
            return check.run();
        }
        let place = self.waiting.clone().try_acquire_owned().map_err(|_| Refusal::Busy)?;
        let turn = self.running.clone().acquire_owned().await.map_err(|_| Refusal::Busy)?;
        // Both go with the check: a client that leaves does not make room for another check while its own still runs.
        let run = move || {
            let _held = (place, turn);
            check.run()
        };
        tokio::task::spawn_blocking(run).await.unwrap_or(Err(Refusal::Busy))
    }

    fn seat(self: &Arc<Gate>, principal: Principal) -> Result<Seat, Refusal> {
        self.records(|records, _| {
            let count = records.connections.entry(principal.clone()).or_default();
            if *count >= self.connections_per_user_max {
                return Err(Refusal::Quota { limit: "limits.connections_per_user_max" });
            }
            *count += 1;
            Ok(Seat { gate: self.clone(), principal })
        })
    }

    fn note_failure(&self, address: IpAddr, user: &str) {
        match self.records(|records, now| records.throttle.failed(address, now)) {
            Noted::Failure => tracing::warn!(%address, ?user, "authentication failed"),
            Noted::Throttled => tracing::warn!(
                %address,
                ?user,
                "authentication failed too often: further attempts from this address are refused for now and not logged"
            ),
            Noted::Quiet => {}
        }
    }

    fn records<T>(&self, with: impl FnOnce(&mut Records, Millis) -> T) -> T {
        let now = Millis(self.started.elapsed().as_millis() as u64);
        // Nothing panics while it is held.
        with(&mut self.records.lock().unwrap_or_else(PoisonError::into_inner), now)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let principal = &self.principal;
        self.gate.records(|records, _| {
            if let Some(count) = records.connections.get_mut(principal) {
                *count -= 1;
                if *count == 0 {
                    records.connections.remove(principal);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::auth::{Admission, Authority, Credential, Policy, Users};
    use crate::model::PeerInfo;
    use crate::model::command::Credentials;

    fn authority() -> Authority {
        let credential = Credential::argon2id(b"secret", [1; 16]).unwrap();
        let users = Users::parse(&format!("alice:{credential}\n")).unwrap();
        Authority::new(Policy::default(), Some(users), None, [1; 32])
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn check(authority: &Authority, password: &'static str) -> Box<Check> {
        let password = Bytes::from(password).into();
        let credentials = Credentials::Password { user: Bytes::from("alice"), password };
        let peer = PeerInfo::tcp("192.0.2.1:1".parse().unwrap());
        match authority.admit(&peer, &credentials, [0, 0]) {
            Admission::Check(check) => check,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_user_has_a_bounded_number_of_connections() {
        let (gate, authority) = (Arc::new(Gate::new(2)), authority());
        let verify = || gate.clone().verify(address("192.0.2.1"), check(&authority, "secret"));

        let (_, first) = verify().await.unwrap();
        let (_, _second) = verify().await.unwrap();
        let third = verify().await.map(|_| ());
        drop(first);
        let fourth = verify().await.map(|_| ());

        assert!(matches!(third, Err(Refusal::Quota { .. })), "{third:?}");
        assert_eq!(fourth, Ok(()));
    }

    #[tokio::test]
    async fn an_address_that_guesses_is_not_listened_to_and_others_are() {
        let (gate, authority) = (Arc::new(Gate::new(9)), authority());
        // Without users there is nothing to verify: twenty real checks would take long enough for some to be forgotten.
        let nobody = Authority::default();
        for _ in 0..25 {
            let guessed = gate.clone().verify(address("192.0.2.1"), check(&nobody, "guess")).await;
            if guessed.is_err_and(|refusal| refusal == Refusal::Throttled) {
                break;
            }
        }

        let right = gate.clone().verify(address("192.0.2.1"), check(&authority, "secret")).await;
        let other = gate.clone().verify(address("192.0.2.2"), check(&authority, "secret")).await;

        assert_eq!(right.map(|_| ()), Err(Refusal::Throttled));
        assert_eq!(other.map(|_| ()), Ok(()));
    }

    #[tokio::test]
    async fn only_so_many_wait_for_their_turn() {
        let (gate, authority) = (Arc::new(Gate::new(9)), authority());
        let _busy = gate.waiting.clone().try_acquire_many_owned((RUNNING_MAX + WAITING_MAX) as u32);

        let refused = gate.clone().verify(address("192.0.2.1"), check(&authority, "secret")).await;

        assert_eq!(refused.map(|_| ()), Err(Refusal::Busy));
    }
}
