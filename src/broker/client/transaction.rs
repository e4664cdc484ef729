//! Several publishes to queues of one partition that are stored together or not at all.
//!
//! They are gathered here, under the name that they have in common (`tx`), until the last one says how many they are (`tx-end`). Then the
//! partition takes or refuses all of them at once (ADR 0050). What is gathered by a connection that ends was never published.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Client, theirs};
use crate::model::{PartitionId, Properties, Property, QoS, Refusal, Token};
use crate::partition::request::{Publish, Request, Target, Transaction};

/// Messages of one transaction: each waits for its acknowledgement, and clients have a window.
const MESSAGES_MAX: usize = 256;
/// Bytes of them: they are one frame.
const BYTES_MAX: usize = 1 << 20;
/// Transactions that a connection has open.
const OPEN_MAX: usize = 16;

/// The transactions that a connection has open; most never have any, and take no room for them.
#[derive(Debug, Default)]
#[allow(
    clippy::box_collection,
    reason = "eight bytes for connections without a transaction, and that is nearly all of them"
)]
pub(super) struct Transactions(Option<Box<BTreeMap<Bytes, Open>>>);

#[derive(Debug)]
enum Open {
    Gathering {
        home: PartitionId,
        publishes: Vec<Publish>,
        bytes: usize,
    },
    /// What is still to come of it is refused, up to its end.
    Refused(Refusal),
}

impl Transactions {
    fn take(&mut self, name: &Bytes) -> Option<Open> {
        let open = self.0.as_mut()?;
        let taken = open.remove(name);
        if open.is_empty() {
            self.0 = None;
        }
        taken
    }

    fn put(&mut self, name: Bytes, transaction: Open) {
        self.0.get_or_insert_default().insert(name, transaction);
    }

    fn is_full(&self) -> bool {
        self.0.as_ref().is_some_and(|open| open.len() >= OPEN_MAX)
    }
}

/// A publish's part in a transaction.
pub(super) struct Part {
    name: Bytes,
    /// How many there are, where this is the last.
    count: Option<usize>,
}

impl Part {
    /// Reads which transaction a publish is in, if any.
    pub(super) fn of(properties: &Properties) -> Result<Option<Part>, Refusal> {
        if properties.is_empty() {
            return Ok(None);
        }
        let (mut name, mut end) = (None, None);
        for property in properties.iter() {
            match property {
                Property::User(key, value) if key == "tx" => name = name.or(Some(value)),
                Property::User(key, value) if key == "tx-end" => end = end.or(Some(value)),
                _ => {}
            }
        }
        let Some(name) = name else {
            return match end {
                None => Ok(None),
                Some(_) => {
                    Err(invalid("'tx-end' ends a transaction, and 'tx' says which: it is missing"))
                }
            };
        };
        if name.is_empty() || name.len() > 255 {
            return Err(invalid("'tx' must have 1 to 255 bytes"));
        }
        let count = |value: Bytes| std::str::from_utf8(&value).ok()?.parse().ok();
        let count = match end {
            None => None,
            Some(value) => Some(count(value).ok_or_else(|| {
                invalid("'tx-end' must be the number of messages in the transaction, this one among them")
            })?),
        };
        Ok(Some(Part { name: Bytes::copy_from_slice(&name), count }))
    }
}

impl Client {
    /// Adds a publish to a transaction; the last one sends it.
    pub(super) fn gather_publish(
        &mut self,
        part: Part,
        token: Token,
        home: PartitionId,
        publish: Publish,
    ) {
        let Part { name, count } = part;
        let publish = Publish { token: Some(theirs(token)), ..publish };
        let before = match self.transactions.take(&name) {
            Some(Open::Refused(refusal)) => {
                self.confirm(token, Err(refusal.clone()));
                if count.is_none() {
                    self.transactions.put(name, Open::Refused(refusal));
                }
                return;
            }
            Some(Open::Gathering { home, publishes, bytes }) => Some((home, publishes, bytes)),
            None => None,
        };
        let is_new = before.is_none();
        let (at, mut publishes, mut bytes) = before.unwrap_or((home, Vec::new(), 0));
        bytes += publish.message.len_bytes();
        publishes.push(publish);
        let is_one_too_many = is_new && self.transactions.is_full();
        let refusal = match is_one_too_many {
            true => Some(Refusal::Quota { limit: "16 open transactions of one client" }),
            false => refusal_of(&publishes, bytes, at == home, count),
        };
        match (refusal, count) {
            (Some(refusal), _) => {
                self.refuse_transaction(&name, &publishes, refusal, count.is_some())
            }
            (None, Some(_)) => {
                let transaction = Transaction { publishes, settled: Vec::new(), token: None };
                self.request(home, Request::Transact(Box::new(transaction)));
            }
            (None, None) => {
                self.transactions.put(name, Open::Gathering { home, publishes, bytes });
            }
        }
    }

    /// A publish that is refused takes its transaction with it.
    pub(super) fn fail_transaction(&mut self, part: Part, token: Token, refusal: Refusal) {
        let Part { name, count } = part;
        let publishes = match self.transactions.take(&name) {
            Some(Open::Gathering { publishes, .. }) => publishes,
            Some(Open::Refused(_)) | None => Vec::new(),
        };
        self.refuse_transaction(&name, &publishes, refusal.clone(), count.is_some());
        self.confirm(token, Err(refusal));
    }

    fn refuse_transaction(
        &mut self,
        name: &Bytes,
        publishes: &[Publish],
        refusal: Refusal,
        is_over: bool,
    ) {
        for token in publishes.iter().filter_map(|publish| publish.token) {
            self.confirm(Token(token.0 >> 1), Err(refusal.clone()));
        }
        if !is_over && !self.transactions.is_full() {
            self.transactions.put(name.clone(), Open::Refused(refusal));
        }
    }
}

/// Why the newest of a transaction's publishes cannot be in it.
fn refusal_of(
    publishes: &[Publish],
    bytes: usize,
    is_together: bool,
    count: Option<usize>,
) -> Option<Refusal> {
    let (first, last) = (publishes.first()?, publishes.last()?);
    let Target::Queue(queue) = &last.target else {
        return Some(invalid("a transaction is of publishes to queues: '$queue/…'"));
    };
    if last.message.qos != QoS::AtLeastOnce {
        return Some(invalid("messages of a transaction are published at QoS 1"));
    }
    if let (false, Target::Queue(first)) = (is_together, &first.target) {
        let reason = format!(
            "queues '{first}' and '{queue}' live in different partitions, and a transaction in one: name them alike \
             in braces, such as '{{orders}}.in' and '{{orders}}.out'"
        );
        return Some(Refusal::Invalid { reason });
    }
    if publishes.len() > MESSAGES_MAX || bytes > BYTES_MAX {
        return Some(Refusal::Quota { limit: "256 messages or 1 MiB of a transaction" });
    }
    let said = count.filter(|count| *count != publishes.len())?;
    let came = publishes.len();
    let reason = format!("the transaction is of {said} messages, and {came} came");
    Some(Refusal::Invalid { reason })
}

fn invalid(reason: &str) -> Refusal {
    Refusal::Invalid { reason: reason.to_owned() }
}
