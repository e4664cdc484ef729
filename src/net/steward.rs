//! The tasks behind [`Steward`]: its requests to the shards, their events to it.

use std::sync::Arc;

use crate::broker::{Broker, Passing, Steward};
use crate::model::{PartitionId, QueueName, Refusal};
use crate::net::mailbox::Mailbox;
use crate::partition::request::{QueueAction, QueueAnswer, Request};

/// Carries dead letters between partitions for as long as it is polled. Nothing is lost when it is not: what is due is told again.
pub async fn carry_letters(broker: Arc<Broker>) {
    let mailbox = Arc::new(Mailbox::own());
    let mut caller = broker.connect(mailbox.clone());
    let mut steward = Steward::new(broker.placement());
    steward.carry_letters();
    let mut requests: Vec<(PartitionId, Request)> = Vec::new();
    loop {
        requests.extend(std::iter::from_fn(|| steward.poll_request()));
        if !requests.is_empty() {
            broker.submit(&mut caller, &mut requests, &mut Passing::default()).await;
        }
        for (from, event) in mailbox.receive().await {
            steward.handle_event(from, event);
        }
    }
}

/// Asks for something of each of these queues, and returns the answers when all have come.
pub async fn ask_of_queues(
    broker: &Broker,
    asked: Vec<(QueueName, QueueAction)>,
) -> Vec<(QueueName, Result<QueueAnswer, Refusal>)> {
    let mailbox = Arc::new(Mailbox::own());
    let mut caller = broker.connect(mailbox.clone());
    let mut steward = Steward::new(broker.placement());
    let mut waiting: Vec<_> = asked
        .into_iter()
        .map(|(queue, action)| (steward.ask(queue.clone(), action), queue))
        .collect();
    let mut requests: Vec<(PartitionId, Request)> = Vec::new();
    requests.extend(std::iter::from_fn(|| steward.poll_request()));
    broker.submit(&mut caller, &mut requests, &mut Passing::default()).await;
    let mut answers = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        for (from, event) in mailbox.receive().await {
            steward.handle_event(from, event);
        }
        while let Some((token, result)) = steward.poll_answer() {
            if let Some(at) = waiting.iter().position(|(asked, _)| *asked == token) {
                answers.push((waiting.swap_remove(at).1, result));
            }
        }
    }
    broker.disconnect(&caller);
    answers
}
