//! Channels: opened, closed, and what comes on them put together (AMQP 0.9.1 §1.5).
//!
//! What a command means is asked in one place, [`AmqpConnection::on_command`]. What only servers say is refused.

use std::collections::{BTreeMap, VecDeque};

use super::ReplyCode;
use super::assembly::{Assembly, Command};
use super::codec::method::{
    AccessRequestOk, ChannelClose, ChannelCloseOk, ChannelFlowOk, ChannelOpenOk, peek_id,
};
use super::codec::{Frame, FrameKind, Method, ShortString};
use super::connection::AmqpConnection;
use super::publish::Publishes;
use super::settle::Ledger;
use super::transaction::Gathered;
use super::violation::Violation;
use crate::model::Delivery;

/// One channel.
#[derive(Debug, Default)]
pub(super) struct Channel {
    assembly: Assembly,
    /// What was begun, but for its body, is in memory of its own.
    is_detached: bool,
    pub(super) publishes: Publishes,
    /// The queue it declared last.
    pub(super) last_queue: ShortString,
    /// Consumers by their tags.
    pub(super) tags: BTreeMap<ShortString, u32>,
    /// The broker's consumer that stands for what it gets one by one.
    pub(super) getter: Option<u32>,
    /// Unsettled deliveries of each consumer to come, at most; 0 is no limit.
    pub(super) prefetch: u16,
    /// Unsettled deliveries of all its consumers, at most; 0 is no limit.
    pub(super) limit: u16,
    /// Unsettled deliveries of consumers.
    pub(super) out: u32,
    pub(super) last_tag: u64,
    pub(super) ledger: Ledger,
    /// What waits for its commit, where it works in transactions.
    pub(super) transaction: Option<Box<Gathered>>,
    /// Delivered beyond the limit: its consumers share it, and any of them may be the one that something comes for.
    pub(super) held: VecDeque<Delivery>,
    /// Who consumes its replies, and the name of the queue behind that.
    pub(super) replies: Option<Box<(u32, ShortString)>>,
    /// We have closed it; nothing counts but the answer.
    is_closing: bool,
}

/// The channels of a connection, by their numbers and iterated in their order.
///
/// Each is in memory of its own: a node of the map has room for eleven, and most connections have one.
#[derive(Debug, Default)]
pub(super) struct Channels(BTreeMap<u16, Box<Channel>>);

impl Channels {
    pub(super) fn get(&self, number: &u16) -> Option<&Channel> {
        self.0.get(number).map(|channel| &**channel)
    }

    pub(super) fn get_mut(&mut self, number: &u16) -> Option<&mut Channel> {
        self.0.get_mut(number).map(|channel| &mut **channel)
    }

    fn insert(&mut self, number: u16, channel: Channel) {
        self.0.insert(number, Box::new(channel));
    }

    fn remove(&mut self, number: u16) {
        self.0.remove(&number);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn numbers(&self) -> Vec<u16> {
        self.0.keys().copied().collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, &Channel)> {
        self.0.iter().map(|(number, channel)| (*number, &**channel))
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Channel> {
        self.0.values_mut().map(|channel| &mut **channel)
    }
}

impl Channel {
    /// Returns true once we have closed it.
    pub(super) fn is_closing(&self) -> bool {
        self.is_closing
    }

    /// Returns true when its limit allows another delivery.
    pub(super) fn has_room(&self) -> bool {
        self.limit == 0 || self.out < u32::from(self.limit)
    }
}

impl AmqpConnection {
    /// Takes a frame of a channel. What is wrong closes the channel, or the connection, by its code.
    pub(super) fn on_channel_frame(&mut self, frame: Frame) {
        let (number, id) = (frame.channel, peek_id(&frame));
        match self.channels.get_mut(&number) {
            None => {
                if let Err(violation) = self.open_channel(frame) {
                    self.fail(id, violation);
                }
            }
            Some(channel) if channel.is_closing => self.on_frame_of_closing(frame),
            Some(Channel { assembly, is_detached, .. }) => {
                *is_detached &= frame.kind == FrameKind::Body;
                // A message is refused by its publish, whichever frame of it is wrong.
                let begun = assembly.method().map(Method::id);
                self.unfinished_bytes -= assembly.unfinished_bytes();
                let command = assembly.handle(frame, self.settings.message_bytes_max);
                self.unfinished_bytes += assembly.unfinished_bytes();
                let done = match command {
                    Ok(Some(command)) => self.on_command(number, command),
                    Ok(None) => {
                        if self.begun.last() != Some(&number) {
                            self.begun.push(number);
                        }
                        self.check_unfinished()
                    }
                    Err(violation) => Err(violation),
                };
                if let Err(violation) = done {
                    self.fail_channel(number, begun.unwrap_or(id), violation);
                }
            }
        }
    }

    /// Copies what was begun and has not come whole with the input that is taken now.
    pub(super) fn detach_begun(&mut self) {
        for number in std::mem::take(&mut self.begun) {
            let Some(channel) = self.channels.get_mut(&number) else { continue };
            match std::mem::replace(&mut channel.is_detached, true) {
                true => channel.assembly.detach_body(),
                false => channel.assembly.detach(),
            }
        }
    }

    /// The first frame of a channel must open it.
    fn open_channel(&mut self, frame: Frame) -> Result<(), Violation> {
        if frame.kind != FrameKind::Method {
            let text = "expected method frame, got non method frame instead";
            return Err(Violation::new(ReplyCode::UnexpectedFrame, text));
        }
        match Method::decode(frame.payload)? {
            Method::ChannelOpen(_) => {}
            // Ours and theirs crossed, and it is gone already.
            Method::ChannelCloseOk(_) => return Ok(()),
            _ => return Err(Violation::new(ReplyCode::ChannelError, "expected 'channel.open'")),
        }
        let channels_max = self.tuned.channels_max;
        if frame.channel > channels_max {
            let text = format!(
                "channel {} is higher than the negotiated channel_max ({channels_max})",
                frame.channel
            );
            return Err(Violation::new(ReplyCode::NotAllowed, text));
        }
        self.channels.insert(frame.channel, Channel::default());
        self.send(frame.channel, ChannelOpenOk::default());
        Ok(())
    }

    /// What the client sent before it knew is for nobody (§1.5.2.5).
    fn on_frame_of_closing(&mut self, frame: Frame) {
        if frame.kind != FrameKind::Method {
            return;
        }
        match Method::decode(frame.payload) {
            Ok(Method::ChannelCloseOk(_)) => {
                self.channels.remove(frame.channel);
            }
            // Both at once: each answers the other, and ours is still to be answered.
            Ok(Method::ChannelClose(_)) => self.send(frame.channel, ChannelCloseOk::default()),
            _ => {}
        }
    }

    /// What a whole command asks for.
    fn on_command(&mut self, channel: u16, command: Command) -> Result<(), Violation> {
        match command.method {
            Method::ChannelClose(_) => {
                self.ask_to_close(channel);
                Ok(())
            }
            Method::ChannelOpen(_) => {
                Err(Violation::new(ReplyCode::ChannelError, "second 'channel.open' seen"))
            }
            // As in RabbitMQ: a client that wants less sets its prefetch.
            Method::ChannelFlow(flow) if flow.active => {
                self.send(channel, ChannelFlowOk { active: true });
                Ok(())
            }
            Method::ChannelFlow(_) => {
                Err(Violation::new(ReplyCode::NotImplemented, "active=false"))
            }
            Method::BasicPublish(publish) => {
                let content = command.content.expect("a publish is whole with its content");
                self.on_publish(channel, publish, content)
            }
            Method::ConfirmSelect(select) => self.on_confirm_select(channel, select.no_wait),
            Method::TxSelect(_) => self.on_tx_select(channel),
            Method::TxCommit(_) => self.on_tx_commit(channel),
            Method::TxRollback(_) => self.on_tx_rollback(channel),
            Method::AccessRequest(_) => {
                self.send(channel, AccessRequestOk { ticket: 1 });
                Ok(())
            }
            Method::ExchangeDeclare(declare) => self.on_exchange_declare(channel, &declare),
            Method::ExchangeDelete(delete) => self.on_exchange_delete(channel, &delete),
            Method::ExchangeBind(bind) => self.on_exchange_bind(channel, &bind),
            Method::ExchangeUnbind(unbind) => self.on_exchange_unbind(channel, &unbind),
            Method::QueueBind(bind) => self.on_queue_bind(channel, &bind),
            Method::QueueUnbind(unbind) => self.on_queue_unbind(channel, &unbind),
            Method::QueueDeclare(declare) => self.on_queue_declare(channel, &declare),
            Method::QueuePurge(purge) => self.on_queue_purge(channel, &purge),
            Method::QueueDelete(delete) => self.on_queue_delete(channel, &delete),
            method => self.on_basic(channel, method),
        }
    }

    fn on_basic(&mut self, channel: u16, method: Method) -> Result<(), Violation> {
        match method {
            Method::BasicQos(qos) => self.on_qos(channel, &qos),
            Method::BasicConsume(consume) => self.on_consume(channel, &consume),
            Method::BasicCancel(cancel) => {
                self.on_cancel(channel, cancel);
                Ok(())
            }
            // The answer of a client that was told of a queue's end.
            Method::BasicCancelOk(_) => Ok(()),
            Method::BasicGet(get) => self.on_get(channel, &get),
            Method::BasicAck(ack) => self.on_ack(channel, &ack),
            Method::BasicNack(nack) => self.on_nack(channel, &nack),
            Method::BasicReject(reject) => self.on_reject(channel, &reject),
            Method::BasicRecover(recover) => self.on_recover(channel, recover.requeue, true),
            Method::BasicRecoverAsync(recover) => self.on_recover(channel, recover.requeue, false),
            method => {
                let text = format!("{} is not a method for a server", method.name());
                Err(Violation::new(ReplyCode::CommandInvalid, text))
            }
        }
    }

    /// Says what a channel is owed, and leaves what it has to others.
    fn end_channel(&mut self, channel: u16) {
        self.say_all_settled();
        self.forget_publishes(channel);
        self.forget_transaction(channel);
        self.leave_consumers(channel);
    }

    /// Closes a channel as its client wants.
    pub(super) fn close_channel(&mut self, channel: u16) {
        self.end_channel(channel);
        self.channels.remove(channel);
        self.send(channel, ChannelCloseOk::default());
    }

    /// Many channels may each have begun a large message, or have a transaction: together they are bounded.
    pub(super) fn check_unfinished(&self) -> Result<(), Violation> {
        let bytes = self.unfinished_bytes + self.gathered_bytes;
        let bytes_max = self.settings.unfinished_bytes_max;
        if bytes <= bytes_max {
            return Ok(());
        }
        let text = format!(
            "messages that were begun, or wait for tx.commit, have {bytes} bytes, more than {bytes_max}: finish some first"
        );
        Err(Violation::new(ReplyCode::ResourceError, text))
    }

    /// Closes the channel, and the connection where the code says so; other channels and connections are left as they are.
    pub(super) fn fail_channel(&mut self, number: u16, method: (u16, u16), violation: Violation) {
        if violation.code.closes_connection() {
            return self.fail(method, violation);
        }
        let is_closed_too = self.is_asked_to_close(number);
        self.end_channel(number);
        self.channels.insert(number, Channel { is_closing: true, ..Channel::default() });
        self.send(
            number,
            ChannelClose {
                reply_code: violation.code.number(),
                reply_text: ShortString::truncated(&violation.reply_text()),
                class_id: method.0,
                method_id: method.1,
            },
        );
        if is_closed_too {
            self.send(number, ChannelCloseOk::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_value<V>(_: &BTreeMap<u16, V>) -> usize {
        size_of::<V>()
    }

    /// Most connections are quiet and have one channel: it, and the node that it is in.
    #[test]
    fn one_channel_is_small() {
        let channel = size_of::<Channel>();
        assert!(channel <= 512, "a channel has {channel} bytes");
        let room = 11 * size_of_value(&Channels::default().0);
        assert!(room <= 88, "the room for values of a node of channels has {room} bytes");
    }
}
