//! Publishing to exchanges: which queues get a message is found here, and each of their homes stores it once (ADR 0054).

use std::sync::Arc;

use super::{Client, theirs};
use crate::model::consume::Route;
use crate::model::record::DedupKey;
use crate::model::{Input, Message, QueueName, Refusal, Topic};
use crate::partition::request::{Publish, Request, Target};

impl Client {
    /// Finds the queues that a publish to an exchange is for, and stores it there.
    pub(super) fn route(&mut self, route: Route) {
        let token = route.token;
        match self.routed(route) {
            Ok(true) => {}
            Ok(false) => self.confirm(token, Ok(false)),
            Err(refusal) => self.confirm(token, Err(refusal)),
        }
    }

    /// Sends a publish to whom it is for; false when that is nobody.
    fn routed(&mut self, route: Route) -> Result<bool, Refusal> {
        if !route.exchange.is_empty() {
            return Err(Refusal::Unsupported { what: "publishing to exchanges" });
        }
        // What is no name is no queue's.
        let Ok(queue) = QueueName::new(route.routing_key) else { return Ok(false) };
        let topic = Topic::new(queue.address().into())?;
        self.standing.may_publish(&topic)?;
        let input = Input::of(&self.standing.principal, &topic, &route.message.properties)?;
        let publisher = self.identity.publisher;
        let message = Message { topic, publisher, retain: false, ..route.message };
        let to = self.placement.queue(&queue);
        let publish = Publish {
            token: Some(theirs(route.token)),
            message: Arc::new(message),
            dedup: DedupKey::default(),
            tenure: self.tenure(),
            target: Target::Queues([queue].into()),
            input,
        };
        self.request(to, Request::Publish(publish));
        Ok(true)
    }
}
