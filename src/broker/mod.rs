//! What connections hold of the broker: where addresses live, and the machine that turns one connection's commands into requests to
//! partitions and their events into its effects.

mod bindings;
pub mod client;
mod live;
mod management;
pub mod placement;
pub mod position;
mod routing;
mod steward;
pub mod wills;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use client::{Client, ClientLimits};
pub use live::{Live, Passing};
pub use placement::{Bindings, Placement};
pub use steward::Steward;
pub use wills::WillPublisher;

use crate::model::PartitionId;
use crate::model::queue::Binding;
use crate::partition::request::{ConnectionId, Request, Routing};
use crate::shard::{Binder, Gauges, Place, Receiver, Requests, ShardHandle};

/// Messages that nothing stores, passed on before their receivers are looked at again.
const PASSED_ON_AT_ONCE_MAX: usize = 256;
/// How often a connection gives way to receivers in one go, at most, and how often of these by yielding; then by a millisecond.
const PAUSES_MAX: u32 = 16;
const YIELDS_MAX: u32 = 8;

impl Binder for Bindings {
    fn bound(&self, partition: PartitionId, binding: &Binding, is_bound: bool) {
        self.change(partition, binding, is_bound);
    }

    fn routed(&self, partition: PartitionId, routing: &Routing) {
        self.change_routing(partition, routing);
    }
}

/// A connection, as the broker names it.
pub struct Caller {
    id: ConnectionId,
    /// Where it receives, until it asks for something for the first time: nobody needs to know of it before.
    unannounced: Option<Arc<dyn Receiver>>,
}

impl Caller {
    /// Its number; never used again.
    pub fn id(&self) -> ConnectionId {
        self.id
    }
}

/// The broker, as connections hold it.
pub struct Broker {
    placement: Placement,
    live: Live,
    shards: Vec<ShardHandle>,
    by_partition: BTreeMap<PartitionId, usize>,
    next_connection: AtomicU64,
}

impl Broker {
    /// Joins shards into a broker; `owners` says which shard owns each partition.
    pub fn new(
        placement: Placement,
        live: Live,
        shards: Vec<ShardHandle>,
        owners: HashMap<PartitionId, usize>,
    ) -> Broker {
        let by_partition = owners.into_iter().collect();
        Broker { placement, live, shards, by_partition, next_connection: AtomicU64::new(1) }
    }

    /// Where addresses live.
    pub fn placement(&self) -> Placement {
        self.placement.clone()
    }

    /// Who listens right now.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// How much all partitions have together.
    pub fn gauges(&self) -> Gauges {
        self.shards.iter().map(ShardHandle::gauges).sum()
    }

    /// Names a connection. Nobody hears of it before it asks for something.
    pub fn connect(&self, receiver: Arc<dyn Receiver>) -> Caller {
        let id = ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed));
        Caller { id, unannounced: Some(receiver) }
    }

    /// Forgets a connection.
    pub fn disconnect(&self, caller: &Caller) {
        if caller.unannounced.is_none() {
            self.live.disconnect(caller.id);
            self.shards.iter().for_each(|shard| shard.disconnect(caller.id));
        }
    }

    fn announce(&self, caller: &mut Caller) {
        if let Some(receiver) = caller.unannounced.take() {
            self.live.connect(caller.id, receiver.clone());
            self.shards.iter().for_each(|shard| shard.connect(caller.id, receiver.clone()));
        }
    }

    /// Lets receivers run that have no time to take what this connection sends them: they share its processors. One that does not
    /// take for another reason, because its peer does not read, is not waited for.
    async fn give_way(&self, passing: &Passing) {
        for pause in 0..PAUSES_MAX {
            if !self.live.is_crowded(passing) {
                return;
            }
            match pause {
                0..YIELDS_MAX => tokio::task::yield_now().await,
                _ => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }

    /// Sends a turn's requests to their partitions, waiting while a shard is behind, and what is passed on to those who listen. Takes
    /// all of `requests`.
    pub async fn submit(
        &self,
        caller: &mut Caller,
        requests: &mut Vec<(PartitionId, Request)>,
        passing: &mut Passing,
    ) {
        self.announce(caller);
        let connection = caller.id;
        if requests.iter().any(|(_, request)| Live::is_in_order(request)) {
            // Rare enough for an allocation: its state would be a part of every quiet connection.
            return Box::pin(self.submit_in_order(connection, requests, passing)).await;
        }
        let count = requests.len();
        let mut by_shard: Vec<Requests> = self.shards.iter().map(|_| Vec::new()).collect();
        let mut passed_on = 0;
        for (partition, request) in requests.drain(..) {
            match self.live.route(connection, request, passing) {
                Some(request) => {
                    let requests = &mut by_shard[self.by_partition[&partition]];
                    if requests.is_empty() {
                        requests.reserve(count);
                    }
                    requests.push((partition, request));
                }
                None => passed_on += 1,
            }
            if passed_on == PASSED_ON_AT_ONCE_MAX {
                passed_on = 0;
                self.live.send(passing);
                self.give_way(passing).await;
            }
        }
        if self.live.send(passing) {
            self.give_way(passing).await;
        }
        for (shard, requests) in self.shards.iter().zip(by_shard) {
            if !requests.is_empty() {
                shard.submit(connection, requests).await;
            }
        }
    }

    /// The same for requests of which some change who listens, or are passed on and stored: nobody else's come between what [`Live`]
    /// makes of them and their places in the shards' inboxes. What could wait is waited for before.
    async fn submit_in_order(
        &self,
        connection: ConnectionId,
        requests: &mut Vec<(PartitionId, Request)>,
        passing: &mut Passing,
    ) {
        while !requests.is_empty() {
            let count = requests.len().min(PASSED_ON_AT_ONCE_MAX);
            let mut places: Vec<Option<Place<'_>>> = Vec::with_capacity(self.shards.len());
            for (number, shard) in self.shards.iter().enumerate() {
                let is_for = |partition: &PartitionId| self.by_partition[partition] == number;
                let is_asked = requests[..count].iter().any(|(partition, _)| is_for(partition));
                places.push(if is_asked { Some(shard.place().await) } else { None });
            }
            self.hand_over(connection, requests.drain(..count).collect(), places, passing);
            if self.live.send(passing) {
                self.give_way(passing).await;
            }
        }
    }

    fn hand_over(
        &self,
        connection: ConnectionId,
        requests: Requests,
        places: Vec<Option<Place<'_>>>,
        passing: &mut Passing,
    ) {
        let mut by_shard: Vec<Requests> = self.shards.iter().map(|_| Vec::new()).collect();
        let mut turn = self.live.begin(requests.iter().map(|(_, request)| request));
        for (partition, request) in requests {
            if let Some(request) = turn.route(connection, request, passing) {
                by_shard[self.by_partition[&partition]].push((partition, request));
            }
        }
        for (place, requests) in places.into_iter().zip(by_shard) {
            if let Some(place) = place.filter(|_| !requests.is_empty()) {
                place.submit(connection, requests);
            }
        }
        drop(turn);
    }
}
