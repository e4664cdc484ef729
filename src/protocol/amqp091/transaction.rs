//! The class tx: what a channel publishes and settles takes effect with `tx.commit`, all of it or nothing (AMQP 0.9.1 §1.9).
//!
//! It is gathered here, and goes to the broker as one command. Until then nobody has heard of it: what is settled is still out, and counts for
//! the prefetch. A rollback gives it back to the client, which may settle it again.

use bytes::Bytes;

use super::ReplyCode;
use super::assembly::Content;
use super::channels::Channel;
use super::codec::ShortString;
use super::codec::method::{BasicPublish, TxCommitOk, TxRollbackOk, TxSelectOk};
use super::connection::AmqpConnection;
use super::publish::headers_of;
use super::requests::About;
use super::settle::{Ledger, Unsettled};
use super::violation::{self, Violation};
use crate::model::{Command, Commit, DeliveryId, Message, Outcome, Refusal, Route, Token};

/// Publishes of one transaction, at most: they are one frame of the log.
const PUBLISHES_MAX: usize = 10_000;
/// Bytes of several.
const BYTES_MAX: usize = 16 << 20;

/// What a channel's transaction has.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    publishes: Vec<Route>,
    /// Those of them that are mandatory.
    returnable: Vec<Returnable>,
    settled: Vec<(u64, Unsettled, Outcome)>,
    bytes: usize,
}

/// A publish that comes back if it comes to nobody.
#[derive(Debug)]
struct Returnable {
    /// Which of the transaction's.
    index: usize,
    exchange: ShortString,
    routing_key: ShortString,
    content: Content,
}

/// A transaction that the broker has.
#[derive(Debug)]
pub(super) struct Committing {
    returnable: Vec<Returnable>,
    settled: Vec<Unsettled>,
}

impl Gathered {
    /// Adds deliveries that are to end so.
    pub(super) fn settle(&mut self, taken: Ledger, outcome: Outcome) {
        self.settled.extend(taken.into_iter().map(|(tag, unsettled)| (tag, unsettled, outcome)));
    }
}

impl AmqpConnection {
    /// §1.9.2.1: from here on the channel works in transactions. Confirms are another promise, and a channel gives one of them.
    pub(super) fn on_tx_select(&mut self, channel: u16) -> Result<(), Violation> {
        let Some(state) = self.channels.get_mut(&channel) else { return Ok(()) };
        if state.publishes.are_confirmed() {
            let text = "cannot switch from confirm to tx mode";
            return Err(Violation::new(ReplyCode::PreconditionFailed, text));
        }
        state.transaction.get_or_insert_default();
        self.send(channel, TxSelectOk::default());
        Ok(())
    }

    /// Adds a publish to the channel's transaction.
    pub(super) fn gather(
        &mut self,
        channel: u16,
        publish: BasicPublish,
        (content, more_keys): (Content, Vec<Bytes>),
        message: Message,
    ) -> Result<(), Violation> {
        let level = self.exchange_named(publish.exchange.as_bytes())?;
        let Some(Channel { transaction: Some(gathered), .. }) = self.channels.get_mut(&channel)
        else {
            return Ok(());
        };
        let exchange = publish.exchange.detached();
        let routing_key = publish.routing_key.detached();
        let route = Route {
            token: Token(0),
            headers: Bytes::copy_from_slice(&headers_of(&exchange, &content)),
            exchange: Bytes::copy_from_slice(&level),
            routing_key: routing_key.as_bytes().clone(),
            more_keys: more_keys.iter().map(|key| Bytes::copy_from_slice(key)).collect(),
            // It may wait for long, and is not to keep what was read with it.
            message: message.detached(),
        };
        let keys = route.more_keys.iter().map(|key| size_of::<Bytes>() + key.len());
        let mut bytes = size_of::<Route>() + route.message.len_bytes() + route.headers.len();
        bytes += keys.sum::<usize>();
        if publish.mandatory {
            let body = route.message.payload.clone();
            let content = Content { properties: content.properties.detached(), body };
            bytes += size_of::<Returnable>() + content.properties.len_bytes();
            let index = gathered.publishes.len();
            gathered.returnable.push(Returnable { index, exchange, routing_key, content });
        }
        gathered.publishes.push(route);
        gathered.bytes += bytes;
        self.gathered_bytes += bytes;
        let (count, bytes) = (gathered.publishes.len(), gathered.bytes);
        if count > PUBLISHES_MAX || (count > 1 && bytes > BYTES_MAX) {
            let text = format!(
                "a transaction has at most {PUBLISHES_MAX} messages and {BYTES_MAX} bytes, and this one {count} and {bytes}: commit more often"
            );
            return Err(Violation::new(ReplyCode::PreconditionFailed, text));
        }
        self.check_unfinished()
    }

    /// §1.9.2.3: asks the broker for all of it.
    pub(super) fn on_tx_commit(&mut self, channel: u16) -> Result<(), Violation> {
        let Gathered { publishes, returnable, settled, .. } = self.take_gathered(channel)?;
        let settled = settled.into_iter().filter(|(_, it, _)| self.is_somebodys(channel, *it));
        let settled: Vec<(Unsettled, Outcome)> =
            settled.map(|(_, unsettled, outcome)| (unsettled, outcome)).collect();
        let ended = |(unsettled, outcome): &(Unsettled, Outcome)| (unsettled.delivery, *outcome);
        let ends: Vec<(DeliveryId, Outcome)> = settled.iter().map(ended).collect();
        let settled = settled.into_iter().map(|(unsettled, _)| unsettled).collect();
        let about = About::Commit(Box::new(Committing { returnable, settled }));
        self.ask((channel, (90, 20)), about, |token| {
            Command::Commit(Box::new(Commit { token, publishes, settled: ends }))
        });
        Ok(())
    }

    /// The broker has stored all of it, or nothing.
    pub(super) fn on_committed(&mut self, token: Token, result: Result<Vec<usize>, Refusal>) {
        let Some(request) = self.take_request(token) else { return };
        let channel = request.channel;
        let unrouted = match result {
            Ok(unrouted) => unrouted,
            Err(refusal) => {
                let host = &self.host;
                let violation = violation::of_commit(&refusal, host, &self.client.user);
                return self.fail_channel(channel, request.method, violation);
            }
        };
        let About::Commit(committing) = request.about else { return };
        let Committing { returnable, settled } = *committing;
        for Returnable { index, exchange, routing_key, content } in returnable {
            if unrouted.binary_search(&index).is_ok() {
                self.return_unrouted(channel, (exchange, routing_key), &content);
            }
        }
        for unsettled in settled {
            self.note_settled(channel, unsettled);
        }
        self.hand_out_held(channel);
        self.send(channel, TxCommitOk::default());
    }

    /// §1.9.2.5: nothing was published, and what was settled is out again.
    pub(super) fn on_tx_rollback(&mut self, channel: u16) -> Result<(), Violation> {
        let Gathered { settled, .. } = self.take_gathered(channel)?;
        if let Some(Channel { ledger, .. }) = self.channels.get_mut(&channel) {
            ledger.extend(settled.into_iter().map(|(tag, unsettled, _)| (tag, unsettled)));
        }
        self.send(channel, TxRollbackOk::default());
        Ok(())
    }

    /// A channel ends: nothing of its transaction has happened. What it had out goes back with its consumers.
    pub(super) fn forget_transaction(&mut self, channel: u16) {
        let Some(state) = self.channels.get_mut(&channel) else { return };
        self.gathered_bytes -= state.transaction.take().map_or(0, |gathered| gathered.bytes);
    }

    /// Takes what a channel has gathered; the next transaction begins.
    fn take_gathered(&mut self, channel: u16) -> Result<Gathered, Violation> {
        let transaction = self.channels.get_mut(&channel).map(|channel| &mut channel.transaction);
        let Some(Some(transaction)) = transaction else {
            let text = "channel is not transactional";
            return Err(Violation::new(ReplyCode::PreconditionFailed, text));
        };
        let gathered = std::mem::take(&mut **transaction);
        self.gathered_bytes -= gathered.bytes;
        Ok(gathered)
    }
}
