//! Transactions of protocols that gather what is in one: publishes and ends of deliveries, in one request to the one partition that all of
//! it is of, which takes it into one frame (ADR 0054).

use super::route::Parts;
use super::{Client, Waiting};
use crate::model::{
    Commit, DeliveryId, DeliverySource, Effect, Outcome, PartitionId, Refusal, Route, Token,
};
use crate::partition::request::{Publish, Request, Settled, Target, Transaction};

/// A transaction that a partition has.
pub(super) struct Committing {
    token: Token,
    /// Of each publish, whether it came to somebody.
    routed: Vec<bool>,
    /// Whose deliveries end with it.
    memberships: Vec<u32>,
}

/// Where all of a transaction is, and the first thing there, in words.
#[derive(Default)]
struct Place(Option<(PartitionId, String)>);

impl Place {
    fn take(&mut self, at: PartitionId, what: impl FnOnce() -> String) -> Result<(), Refusal> {
        match &self.0 {
            None => self.0 = Some((at, what())),
            Some((home, _)) if *home == at => {}
            Some((_, first)) => {
                let reason = format!(
                    "{first} and {} live in different partitions, and a transaction in one: name queues alike in braces, such as '{{orders}}.in' and '{{orders}}.out'",
                    what()
                );
                return Err(Refusal::Invalid { reason });
            }
        }
        Ok(())
    }
}

impl Client {
    /// Finds where a transaction goes, and sends it there as a whole.
    pub(super) fn commit(&mut self, commit: Commit) {
        let Commit { token, publishes, settled } = commit;
        let mut place = Place::default();
        let parts = self.parts_of_all(publishes, &mut place);
        let settled = self.settled_there(&settled, &mut place);
        let (parts, settled) = match (parts, settled) {
            (Ok(parts), Ok(settled)) => (parts, settled),
            (Err(refusal), _) | (_, Err(refusal)) => {
                return self.effects.push_back(Effect::Committed { token, result: Err(refusal) });
            }
        };
        let memberships: Vec<u32> = settled.iter().map(|settled| settled.membership).collect();
        let routed = vec![false; parts.len()];
        let committing = Committing { token, routed, memberships: memberships.clone() };
        let Place(Some((home, _))) = place else {
            return self.committed(committing, Ok(()));
        };
        let whole = self.wait_for(Waiting::Committing(Box::new(committing)));
        let mut publishes = Vec::with_capacity(parts.len());
        for (index, parts) in parts.into_iter().enumerate() {
            for (_, part) in parts {
                let token = Some(self.wait_for(Waiting::PublishOf(whole, index)));
                publishes.push(Publish { token, ..part });
            }
        }
        // What is told of deliveries from here on is told behind this.
        memberships.into_iter().for_each(|membership| self.settling(membership));
        let transaction = Transaction { publishes, settled, token: Some(whole) };
        self.group_request(home, Request::Transact(Box::new(transaction)));
    }

    /// What each publish comes to.
    fn parts_of_all(
        &mut self,
        publishes: Vec<Route>,
        place: &mut Place,
    ) -> Result<Vec<Parts>, Refusal> {
        let mut all = Vec::with_capacity(publishes.len());
        for route in publishes {
            let parts = self.parts_of(route)?;
            for (at, part) in &parts {
                place.take(*at, || name_of(part))?;
            }
            all.push(parts);
        }
        Ok(all)
    }

    /// The ends of deliveries, but for those that went with their queue.
    fn settled_there(
        &self,
        settled: &[(DeliveryId, Outcome)],
        place: &mut Place,
    ) -> Result<Vec<Settled>, Refusal> {
        let mut there = Vec::with_capacity(settled.len());
        for (delivery, outcome) in settled {
            let DeliverySource::Group(membership) = delivery.source else { continue };
            if !self.memberships.contains_key(&membership) {
                continue;
            }
            place.take(delivery.partition, || match self.queue_of(membership) {
                Some(queue) => format!("queue '{queue}'"),
                None => "the queue of a message that was asked for".to_owned(),
            })?;
            there.push(Settled { membership, entry: delivery.offset, outcome: *outcome });
        }
        Ok(there)
    }

    /// A publish of a transaction is stored, or passed on, or its queues are gone.
    pub(super) fn publish_taken(
        &mut self,
        whole: Token,
        publish: usize,
        result: &Result<bool, Refusal>,
    ) {
        if let Some(Waiting::Committing(committing)) = self.waiting.get_mut(&whole) {
            committing.routed[publish] |= *result == Ok(true);
        }
    }

    /// A transaction is stored, or was refused and nothing of it has happened.
    pub(super) fn committed(&mut self, committing: Committing, result: Result<(), Refusal>) {
        let Committing { token, routed, memberships } = committing;
        let result = result.map(|()| {
            memberships.into_iter().for_each(|membership| self.has_settled(membership));
            let unrouted = routed.iter().enumerate().filter(|(_, is_routed)| !**is_routed);
            unrouted.map(|(index, _)| index).collect()
        });
        self.effects.push_back(Effect::Committed { token, result });
    }
}

/// Where a part of a publish goes, in words.
fn name_of(part: &Publish) -> String {
    match &part.target {
        Target::Queue(queue) => format!("queue '{queue}'"),
        Target::Queues(queues) => {
            let names: Vec<&str> = queues.iter().map(|queue| queue.as_str()).collect();
            format!("queue '{}'", names.join("', '"))
        }
        Target::Topic | Target::TopicAnd(_) => format!("topic '{}'", part.message.topic),
        Target::Bound | Target::BoundAnd(_) => {
            format!("what is bound to topic '{}'", part.message.topic)
        }
    }
}
