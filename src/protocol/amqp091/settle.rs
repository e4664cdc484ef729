//! What is out at a channel's client, by delivery tag, until it is acknowledged (AMQP 0.9.1 §1.8.3.13).

use std::collections::BTreeMap;

use super::ReplyCode;
use super::channels::Channel;
use super::codec::method::{BasicAck, BasicNack, BasicRecoverOk, BasicReject};
use super::connection::AmqpConnection;
use super::violation::Violation;
use crate::model::{Command, DeliveryId, DeliverySource, Millis, Outcome};

/// Deliveries that are not settled, by their tags.
pub(super) type Ledger = BTreeMap<u64, Unsettled>;

/// A delivery that is out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unsettled {
    /// Who has it.
    pub(super) consumer: u32,
    pub(super) delivery: DeliveryId,
    since: Millis,
}

/// The consumer of a delivery. Only consumers of queues deliver to AMQP clients.
pub(super) fn consumer_of(delivery: DeliveryId) -> Option<u32> {
    match delivery.source {
        DeliverySource::Group(number) => Some(number),
        DeliverySource::Live | DeliverySource::Reader(_) | DeliverySource::Retained(..) => None,
    }
}

impl AmqpConnection {
    /// The next delivery tag of a channel.
    pub(super) fn next_tag(&mut self, channel: u16) -> u64 {
        let Some(channel) = self.channels.get_mut(&channel) else { return 0 };
        channel.last_tag += 1;
        channel.last_tag
    }

    /// Enters a delivery that is to be acknowledged; returns its tag.
    pub(super) fn enter(&mut self, channel: u16, consumer: u32, delivery: DeliveryId) -> u64 {
        let (tag, since) = (self.next_tag(channel), self.now());
        let Some(state) = self.channels.get_mut(&channel) else { return tag };
        if let Some(consumer) = self.consumers.get_mut(&consumer) {
            consumer.out += 1;
            state.out += 1;
        }
        state.ledger.insert(tag, Unsettled { consumer, delivery, since });
        tag
    }

    /// Returns true for a delivery that is not settled.
    pub(super) fn is_out(&self, channel: u16, tag: u64) -> bool {
        self.channels.get(&channel).is_some_and(|channel| channel.ledger.contains_key(&tag))
    }

    pub(super) fn on_ack(&mut self, channel: u16, ack: &BasicAck) -> Result<(), Violation> {
        let BasicAck { delivery_tag, multiple } = *ack;
        self.settle(channel, (delivery_tag, multiple), Outcome::Accepted)
    }

    pub(super) fn on_nack(&mut self, channel: u16, nack: &BasicNack) -> Result<(), Violation> {
        let BasicNack { delivery_tag, multiple, requeue } = *nack;
        self.settle(channel, (delivery_tag, multiple), outcome(requeue))
    }

    pub(super) fn on_reject(
        &mut self,
        channel: u16,
        reject: &BasicReject,
    ) -> Result<(), Violation> {
        let BasicReject { delivery_tag, requeue } = *reject;
        self.settle(channel, (delivery_tag, false), outcome(requeue))
    }

    /// Settles deliveries, now or with their transaction.
    fn settle(
        &mut self,
        channel: u16,
        tags: (u64, bool),
        outcome: Outcome,
    ) -> Result<(), Violation> {
        let Some(Channel { ledger, transaction, .. }) = self.channels.get_mut(&channel) else {
            return Ok(());
        };
        match (tags, transaction) {
            ((tag, false), None) => {
                let unsettled = ledger.remove(&tag).ok_or_else(|| unknown(tag))?;
                self.settle_entered(channel, unsettled, outcome);
            }
            (tags, Some(gathered)) => {
                gathered.settle(take_entered(ledger, tags)?, outcome);
                return Ok(());
            }
            (tags, None) => {
                for unsettled in take_entered(ledger, tags)?.into_values() {
                    self.settle_entered(channel, unsettled, outcome);
                }
            }
        }
        self.hand_out_held(channel);
        Ok(())
    }

    /// Settles a delivery that was entered; what its queue took along when it went is not settled.
    fn settle_entered(&mut self, channel: u16, unsettled: Unsettled, outcome: Outcome) {
        if self.is_somebodys(channel, unsettled) {
            let delivery = unsettled.delivery;
            self.commands.push_back(Command::Settle { delivery, outcome });
            self.note_settled(channel, unsettled);
        }
    }

    /// Returns true for a delivery that its queue has not taken along.
    pub(super) fn is_somebodys(&self, channel: u16, unsettled: Unsettled) -> bool {
        let number = unsettled.consumer;
        let is_getter = |channel: &Channel| channel.getter == Some(number);
        self.consumers.contains_key(&number) || self.channels.get(&channel).is_some_and(is_getter)
    }

    /// A delivery is out no more.
    pub(super) fn note_settled(&mut self, channel: u16, unsettled: Unsettled) {
        let number = unsettled.consumer;
        let Some(state) = self.channels.get_mut(&channel) else { return };
        let Some(consumer) = self.consumers.get_mut(&number) else { return };
        consumer.out -= 1;
        state.out -= 1;
        if consumer.is_granted() {
            self.due.insert(channel);
        }
        self.leave_if_over(number);
    }

    /// Everything that is out goes back to its queues (§1.8.3.16).
    pub(super) fn on_recover(
        &mut self,
        channel: u16,
        requeue: bool,
        is_answered: bool,
    ) -> Result<(), Violation> {
        if !requeue {
            return Err(Violation::new(ReplyCode::NotImplemented, "requeue=false"));
        }
        // What is not sent yet is not sent: it comes again.
        self.outbox.forget_entered(channel);
        // No transaction holds it back, as in RabbitMQ.
        let ledger = self.channels.get_mut(&channel).map(|it| std::mem::take(&mut it.ledger));
        for unsettled in ledger.unwrap_or_default().into_values() {
            self.settle_entered(channel, unsettled, Outcome::Released);
        }
        self.hand_out_held(channel);
        if is_answered {
            self.send(channel, BasicRecoverOk::default());
        }
        Ok(())
    }

    /// When the oldest delivery that is out has been so for too long, and in which channel.
    pub(super) fn consumer_timeout(&self) -> Option<(Millis, u16)> {
        let timeout_ms = Some(self.settings.consumer_timeout_ms).filter(|timeout| *timeout > 0)?;
        let oldest = self.channels.iter().filter_map(|(number, channel)| {
            let (_, unsettled) = channel.ledger.first_key_value()?;
            Some((unsettled.since.plus(timeout_ms), number))
        });
        oldest.min()
    }

    /// Closes the channels whose clients hold deliveries for too long.
    pub(super) fn end_timed_out(&mut self) {
        while let Some((due, channel)) = self.consumer_timeout()
            && due <= self.now()
        {
            let text = format!(
                "delivery acknowledgement on channel {channel} timed out. Timeout value used: {} ms. This timeout value can be configured, see consumers doc guide to learn more",
                self.settings.consumer_timeout_ms
            );
            let violation = Violation::new(ReplyCode::PreconditionFailed, text);
            self.fail_channel(channel, (0, 0), violation);
        }
    }
}

/// Takes a tag off the ledger, or with `multiple` everything up to it; 0 is then everything.
fn take_entered(ledger: &mut Ledger, (tag, multiple): (u64, bool)) -> Result<Ledger, Violation> {
    let is_all = tag == 0 && multiple;
    if !is_all && !ledger.contains_key(&tag) {
        return Err(unknown(tag));
    }
    Ok(match (is_all, multiple) {
        (true, _) => std::mem::take(ledger),
        (false, true) => {
            let rest = ledger.split_off(&(tag + 1));
            std::mem::replace(ledger, rest)
        }
        (false, false) => ledger.remove(&tag).map(|it| (tag, it)).into_iter().collect(),
    })
}

fn unknown(tag: u64) -> Violation {
    Violation::new(ReplyCode::PreconditionFailed, format!("unknown delivery tag {tag}"))
}

fn outcome(requeue: bool) -> Outcome {
    if requeue { Outcome::Released } else { Outcome::Rejected }
}
