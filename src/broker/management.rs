//! What administrators ask and are told, as JSON: publishes below `$management/` and the answers to them (ADR 0051).
//!
//! Fields of a declaration have the names that the configuration has (`queues.declared`). A field that is not known is refused: left
//! out, it would be a rule that somebody believes in. Lists come in pages of so many rows and bytes, each with where the next begins.

mod connection;
mod exchange;
mod queue;

use bytes::Bytes;
use fluxmq_index::Offset;
use serde_json::{Value, json};

use super::position;
use crate::model::address::{ManageAddress, ManagedKind};
use crate::model::fields::{Fields, invalid};
use crate::model::{
    Bind, ConnectionQuestion, Destination, ExchangeCommand, Filter, Millis, QueueName, Refusal,
    queue_json,
};
use crate::partition::request::{ConnectionId, QueueAction};

pub use connection::{describe, list_channels, list_connections};
pub use exchange::{ExchangeFound, list_bindings, list_exchanges, show_exchange};
pub use queue::{answer, list_queues};

/// Rows of one answer, and bytes of them: an answer is one packet.
const LISTED_MAX: usize = 1000;
const LISTED_BYTES_MAX: usize = 256 << 10;
/// Entries in one answer, and bytes of their payloads.
const PEEKED_MAX: usize = 256;
const PEEKED_BYTES_MAX: usize = 256 << 10;
/// Bytes of the reason for which a connection is ended.
const REASON_BYTES_MAX: usize = 200;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Which there are.
    List(Page),
    /// Something of one queue.
    Queue(QueueName, QueueAction),
    /// What an exchange is.
    ShowExchange(Bytes),
    /// Something of one exchange.
    Exchange(Bytes, ExchangeCommand),
    /// Binds something, or ends that.
    Bind(Box<Bind>),
    /// Something of one connection.
    Connection(ConnectionId, ConnectionQuestion),
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Of what.
    pub what: ManagedKind,
    /// What is bound to this queue alone.
    pub only: Option<QueueName>,
    /// Where the one before said that this begins; empty for the first.
    pub after: String,
    /// Rows, at most.
    pub count_max: usize,
}

/// Where a list of bindings goes on: those of queues come first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BindingsFrom {
    /// Bindings of exchanges.
    pub to_exchanges: bool,
    /// The name of who gets it.
    pub name: Bytes,
    /// So many of that one's were listed.
    pub skip: usize,
}

impl std::fmt::Display for BindingsFrom {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.to_exchanges { 'e' } else { 'q' };
        write!(formatter, "{kind}{}:{}", self.skip, text(&self.name))
    }
}

/// Where a list of channels goes on: behind a connection, or a channel of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelsFrom {
    /// The connection.
    pub connection: u64,
    /// The channel; `None` when all of them were listed.
    pub channel: Option<u16>,
}

/// Reads a request: its address, and its body, a JSON object or nothing.
pub fn read(address: ManageAddress, body: &[u8], now: Millis) -> Result<Asked, Refusal> {
    let mut fields = Fields::read(body)?;
    let asked = match address {
        ManageAddress::List(what) => Asked::List(page(what, None, &mut fields)?),
        ManageAddress::Queue(queue, operation) => match operation.as_str() {
            "bind" | "unbind" => {
                let is_bound = operation == "bind";
                exchange::bind(Destination::Queue(queue), is_bound, &mut fields)?
            }
            "bindings" => Asked::List(page(ManagedKind::Bindings, Some(queue), &mut fields)?),
            operation => {
                let action = action(operation, &queue, &mut fields, now)?;
                Asked::Queue(queue, action)
            }
        },
        ManageAddress::Exchange(name, operation) => {
            exchange::read(name.as_bytes(), &operation, &mut fields)?
        }
        ManageAddress::Connection(number, operation) => {
            Asked::Connection(ConnectionId(number), question(&operation, &mut fields)?)
        }
    };
    fields.finish()?;
    Ok(asked)
}

fn page(what: ManagedKind, only: Option<QueueName>, fields: &mut Fields) -> Result<Page, Refusal> {
    let page = Page {
        what,
        only,
        after: fields.text("after")?.unwrap_or_default(),
        count_max: fields.count("count", LISTED_MAX)?,
    };
    let is_place = match what {
        ManagedKind::Queues | ManagedKind::Exchanges => true,
        ManagedKind::Bindings => page.bindings_from().is_some(),
        ManagedKind::Connections | ManagedKind::Channels => page.channels_from().is_some(),
    };
    match is_place {
        true => Ok(page),
        false => Err(invalid(format!("'after' is '{}', and no list went that far", page.after))),
    }
}

impl Page {
    /// Where a list of bindings begins; `None` where that is no place.
    pub fn bindings_from(&self) -> Option<BindingsFrom> {
        let from = match &self.only {
            Some(queue) => BindingsFrom { name: queue.as_bytes().clone(), ..Default::default() },
            None => BindingsFrom::default(),
        };
        if self.after.is_empty() {
            return Some(from);
        }
        let (number, name) = self.after.split_once(':')?;
        let to_exchanges = number.starts_with('e');
        let skip = number.strip_prefix(['e', 'q'])?.parse().ok()?;
        Some(BindingsFrom { to_exchanges, name: Bytes::copy_from_slice(name.as_bytes()), skip })
    }

    /// Where a list of connections, or of their channels, begins; `None` where that is no place.
    pub fn channels_from(&self) -> Option<ChannelsFrom> {
        if self.after.is_empty() {
            return Some(ChannelsFrom::default());
        }
        let (connection, channel) = match self.after.split_once('/') {
            Some((connection, channel)) => (connection, Some(channel.parse().ok()?)),
            None => (self.after.as_str(), None),
        };
        Some(ChannelsFrom { connection: connection.parse().ok()?, channel })
    }

    /// An answer: rows until there are as many as it may have, each with where a list goes on behind it. `beyond` is where it goes on behind
    /// the last.
    fn answer(
        &self,
        field: &str,
        rows: impl IntoIterator<Item = (String, Value)>,
        beyond: Option<String>,
    ) -> Value {
        let (mut listed, mut bytes, mut next) = (Vec::new(), 0, beyond);
        let mut last = None;
        for (place, row) in rows {
            bytes += row.to_string().len();
            if listed.len() >= self.count_max || (bytes > LISTED_BYTES_MAX && last.is_some()) {
                next = last;
                break;
            }
            listed.push(row);
            last = Some(place);
        }
        json!({ field: listed, "next": next })
    }
}

fn action(
    operation: &str,
    queue: &QueueName,
    fields: &mut Fields,
    now: Millis,
) -> Result<QueueAction, Refusal> {
    Ok(match operation {
        "declare" => QueueAction::Declare(queue_json::read(fields)?.into()),
        "delete" => QueueAction::Delete {
            if_unused: !fields.flag("if_used")?,
            if_empty: fields.flag("if_empty")?,
        },
        "purge" => QueueAction::Purge,
        "show" => QueueAction::Stats,
        "peek" => QueueAction::Peek {
            from: Offset(fields.number("from")?.unwrap_or(0)),
            count_max: fields.count("count", PEEKED_MAX)?,
        },
        "redrive" => QueueAction::Redrive {
            filter: redriven(queue, fields.text("filter")?.as_deref())?,
            count_max: fields.count("count", PEEKED_MAX)?,
        },
        "seek" => QueueAction::Seek {
            group: fields.group()?,
            to: position::parse(&fields.needed("to")?, now)?,
        },
        "delete_group" => QueueAction::DeleteGroup { group: fields.group()? },
        other => {
            return Err(invalid(format!(
                "'{other}' is no operation: use declare, delete, purge, show, bindings, bind, unbind, peek, redrive, seek or delete_group"
            )));
        }
    })
}

fn question(operation: &str, fields: &mut Fields) -> Result<ConnectionQuestion, Refusal> {
    match operation {
        "show" => Ok(ConnectionQuestion::Describe { with_channels: true }),
        "close" => {
            let reason = fields.text("reason")?.unwrap_or_default();
            if reason.len() > REASON_BYTES_MAX {
                let text = format!("'reason' must have {REASON_BYTES_MAX} bytes at most");
                return Err(invalid(text));
            }
            Ok(ConnectionQuestion::Close { reason })
        }
        other => Err(invalid(format!("'{other}' is no operation: use show or close"))),
    }
}

/// A filter over the topics that letters had, or all of them.
fn redriven(queue: &QueueName, filter: Option<&str>) -> Result<Filter, Refusal> {
    let address = queue.address();
    let filter = match filter {
        None | Some("#") => format!("{address}/#"),
        Some(filter) if filter.starts_with(&address) => filter.to_owned(),
        Some(filter) => format!("{address}/{filter}"),
    };
    Ok(Filter::new(filter.into())?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Topic;
    use crate::model::address::PublishAddress;

    fn request(address: &str, body: &str) -> Result<Asked, String> {
        let topic = Topic::new(Bytes::from(format!("$management/{address}"))).unwrap();
        let PublishAddress::Manage(address) = PublishAddress::of(&topic).unwrap() else { panic!() };
        read(address, body.as_bytes(), Millis(1_000_000)).map_err(|refusal| refusal.to_string())
    }

    fn asked(operation: &str, body: &str) -> Result<QueueAction, String> {
        match request(&format!("queue/jobs/{operation}"), body)? {
            Asked::Queue(_, action) => Ok(action),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_could() {
        let cases = [
            ("queue/jobs/drop", "", "'drop' is no operation: use declare"),
            ("queue/jobs/declare", "[]", "must be a JSON object"),
            ("queue/jobs/declare", "{", "is no JSON"),
            ("queue/jobs/declare", r#"{"bindngs":["a"]}"#, "'bindngs' means nothing here"),
            ("queue/jobs/declare", r#"{"bindings":["a/#/b"]}"#, "'#' in the last"),
            ("queue/jobs/declare", r#"{"type":"lifo"}"#, "one of classic, stream, ephemeral"),
            (
                "queue/jobs/declare",
                r##"{"dead_letters":"$exchange/a#b"}"##,
                "a name must have 1 to 255",
            ),
            ("queue/jobs/declare", r#"{"lifetime":"owned"}"#, "one of durable, transient"),
            ("queue/jobs/declare", r#"{"ttl_s":-1}"#, "'ttl_s' must be a number, 0 or more"),
            ("queue/jobs/declare", r#"{"exclusive":"yes"}"#, "'exclusive' must be true or false"),
            ("queue/jobs/seek", r#"{"group":"g"}"#, "'to' is missing"),
            ("queue/jobs/seek", r#"{"to":"earliest"}"#, "'group' is missing"),
            ("queue/jobs/seek", r#"{"group":"g","to":"yesterday"}"#, "'yesterday' is no position"),
            ("queue/jobs/delete_group", r#"{"group":"a/b"}"#, "a name must have 1 to 255 bytes"),
            ("queue/jobs/purge", r#"{"all":true}"#, "'all' means nothing here"),
            ("queue/jobs/bind", "", "'source' is missing"),
            ("queue/jobs/bind", r#"{"source":"x","arguments":[]}"#, "must be an object"),
            ("queue/jobs/bind", r#"{"source":"x","arguments_encoded":"?"}"#, "must be base64"),
            ("exchange/x/declare", r#"{"type":"x-random"}"#, "direct, fanout, topic, headers"),
            ("exchange/x/purge", "", "'purge' is no operation: use declare, delete, show"),
            ("connection/7/pause", "", "'pause' is no operation: use show or close"),
            ("connections", r#"{"after":"seven"}"#, "no list went that far"),
            ("bindings", r#"{"after":"orders"}"#, "no list went that far"),
            ("queues", r#"{"before":"x"}"#, "'before' means nothing here"),
        ];
        for (address, body, expected) in cases {
            let refused = request(address, body).expect_err(expected);
            assert!(refused.contains(expected), "{address} {body}: {refused}");
        }
        for address in ["queue/jobs", "exchange//show", "connection/x/show", "users"] {
            let topic = Topic::new(Bytes::from(format!("$management/{address}"))).unwrap();
            assert!(PublishAddress::of(&topic).is_err(), "{address}");
        }
    }

    #[test]
    fn a_queue_that_is_read_is_deleted_only_when_that_is_said() {
        let delete = |if_unused, if_empty| Ok(QueueAction::Delete { if_unused, if_empty });
        assert_eq!(asked("delete", ""), delete(true, false));
        assert_eq!(asked("delete", r#"{"if_used":true,"if_empty":true}"#), delete(false, true));
    }

    #[test]
    fn a_page_ends_where_its_rows_or_bytes_do_and_says_where_the_next_begins() {
        let page = |count_max| Page {
            what: ManagedKind::Queues,
            only: None,
            after: String::new(),
            count_max,
        };
        let rows =
            |bytes: usize| (0..5).map(move |at| (format!("at{at}"), json!("x".repeat(bytes))));
        let shape = |answer: Value| {
            (answer["queues"].as_array().unwrap().len(), answer["next"].as_str().map(str::to_owned))
        };
        assert_eq!(shape(page(5).answer("queues", rows(1), None)), (5, None));
        assert_eq!(shape(page(2).answer("queues", rows(1), None)), (2, Some("at1".to_owned())));
        let beyond = Some("further".to_owned());
        assert_eq!(shape(page(5).answer("queues", rows(1), beyond.clone())), (5, beyond));
        let (count, next) = shape(page(5).answer("queues", rows(100 << 10), None));
        assert_eq!((count, next), (2, Some("at1".to_owned())));
        let (count, next) = shape(page(5).answer("queues", rows(1 << 20), None));
        assert_eq!((count, next), (1, Some("at0".to_owned())), "one row is always on it");
    }

    #[test]
    fn places_in_lists_come_back_as_they_were_said() {
        let at = |after: &str| Page {
            what: ManagedKind::Bindings,
            only: None,
            after: after.to_owned(),
            count_max: 1,
        };
        for place in ["q0:", "q12:a:b", "e3:$dlq/x"] {
            assert_eq!(at(place).bindings_from().unwrap().to_string(), place);
        }
        let from = |connection, channel| Some(ChannelsFrom { connection, channel });
        assert_eq!(at("").channels_from(), from(0, None));
        assert_eq!(at("17").channels_from(), from(17, None));
        assert_eq!(at("17/3").channels_from(), from(17, Some(3)));
    }

    #[test]
    fn redriven_letters_are_chosen_by_the_topics_they_had() {
        let queue = QueueName::from_text(Bytes::from("$dlq/jobs")).unwrap();
        for (said, filter) in [
            (None, "$dlq/jobs/#"),
            (Some("#"), "$dlq/jobs/#"),
            (Some("eu/+"), "$dlq/jobs/eu/+"),
            (Some("$dlq/jobs/eu"), "$dlq/jobs/eu"),
        ] {
            assert_eq!(redriven(&queue, said).unwrap().as_str(), filter);
        }
    }
}
