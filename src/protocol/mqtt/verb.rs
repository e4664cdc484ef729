//! Settling by address: a publish to `$queue/<q>/…/$ack` and its kin is a command, not a message.
//!
//! What to settle is in its user properties: `message-id` and `group-id`, for `$commit` `x-group-id` and `x-offset`; `$nack` may have
//! `x-delay`, in milliseconds.

use bytes::Bytes;

use super::convert::detached;
use super::property::PropertyList;
use crate::model::address::Verb;
use crate::model::command::Outcome;
use crate::model::{Command, QueueName, Refusal, Token};

/// Reads a settling publish. A malformed one is refused, with what it should have had.
pub(super) fn command(
    queue: QueueName,
    verb: Verb,
    properties: &PropertyList,
    token: Token,
) -> Result<Command, Refusal> {
    let outcome = match verb {
        Verb::Ack => Outcome::Accepted,
        Verb::Nack => match properties.user(b"x-delay") {
            None => Outcome::Released,
            Some(delay) => Outcome::ReleasedAfter { delay_ms: delay_ms(&delay)? },
        },
        Verb::Reject => Outcome::Rejected,
        Verb::Commit => {
            let group = group(properties, "x-group-id")?;
            let offset = number(&needed(properties, "x-offset")?).ok_or_else(|| {
                invalid("the user property 'x-offset' must be a decimal number".to_owned())
            })?;
            return Ok(Command::CommitCursor { token, queue, group, offset });
        }
    };
    let group = group(properties, "group-id")?;
    let offset = offset_of(&queue, &needed(properties, "message-id")?)?;
    Ok(Command::SettleEntry { token, queue, group, offset, outcome })
}

/// Reads `<queue>:<offset>`; the queue must be the addressed one.
fn offset_of(queue: &QueueName, message_id: &[u8]) -> Result<u64, Refusal> {
    let text = std::str::from_utf8(message_id).unwrap_or_default();
    let parsed = text.rsplit_once(':').and_then(|(name, offset)| {
        Some((name, number(offset.as_bytes())?)).filter(|_| !name.is_empty())
    });
    match parsed {
        Some((name, offset)) if name == queue.as_str() => Ok(offset),
        Some((name, _)) => {
            Err(invalid(format!("the message id names queue '{name}', the topic '{queue}'")))
        }
        None => {
            Err(invalid("the user property 'message-id' must be '<queue>:<offset>'".to_owned()))
        }
    }
}

fn group(properties: &PropertyList, name: &str) -> Result<QueueName, Refusal> {
    Ok(QueueName::new(detached(&needed(properties, name)?))?)
}

fn needed(properties: &PropertyList, name: &str) -> Result<Bytes, Refusal> {
    properties
        .user(name.as_bytes())
        .ok_or_else(|| invalid(format!("the user property '{name}' is missing")))
}

fn delay_ms(text: &[u8]) -> Result<u32, Refusal> {
    number(text).and_then(|delay| u32::try_from(delay).ok()).ok_or_else(|| {
        invalid("the user property 'x-delay' must be a number of milliseconds".to_owned())
    })
}

fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

fn invalid(reason: String) -> Refusal {
    Refusal::Invalid { reason }
}
