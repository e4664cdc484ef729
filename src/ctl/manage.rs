//! Asking the broker: a publish below `$management/`, its answer, and its acknowledgement (ADR 0051).

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::connection::{ConnectionArguments, refusal};
use super::error::CtlError;
use crate::client::{Client, Event, PublishRequest};
use crate::model::{AddressError, QoS, QueueName, VirtualHost};
use crate::protocol::mqtt::property::Property;
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::Version;

/// Where answers come. An access list that allows `$management/#` allows it, too.
const ANSWERS: &str = "$management/answer";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rows of a list that are asked for at a time.
const ROWS_AT_ONCE: usize = 1000;
/// How long it may take after the request was acknowledged.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// A connection that asks.
pub(super) struct Asking {
    client: Client,
    asked: u64,
}

impl Asking {
    /// Connects.
    pub(super) async fn connect(connection: &ConnectionArguments) -> Result<Asking, CtlError> {
        if connection.mqtt_version != Version::V5 {
            let reason = "the broker is managed over MQTT 5: leave -V out".to_owned();
            return Err(CtlError::Usage(reason));
        }
        let (client, _) = connection.connect(&connection.options()?).await?;
        Ok(Asking { client, asked: 0 })
    }

    /// Asks, and waits for the answer.
    pub(super) async fn ask(&mut self, address: &str, body: &Value) -> Result<Value, CtlError> {
        self.asked += 1;
        let number = Bytes::from(self.asked.to_string());
        let request = PublishRequest {
            topic: Bytes::from(format!("$management/{address}")),
            payload: Bytes::from(body.to_string()),
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: [
                Property::ResponseTopic(Bytes::from_static(ANSWERS.as_bytes())),
                Property::CorrelationData(number.clone()),
            ]
            .into_iter()
            .collect(),
        };
        self.client.publish(self.asked, &request)?;
        let answer = timeout(PATIENCE, self.answer(&number)).await;
        answer.unwrap_or_else(|_| {
            let seconds = PATIENCE.as_secs();
            Err(CtlError::Timeout(format!("no answer within {seconds} s: is this FluxMQ?")))
        })
    }

    /// Waits for the answer and for the acknowledgement, whichever comes first.
    async fn answer(&mut self, number: &Bytes) -> Result<Value, CtlError> {
        let (mut answer, mut is_done) = (None, false);
        loop {
            if let (Some(answer), true) = (&mut answer, is_done) {
                return Ok(std::mem::take(answer));
            }
            let next = self.client.next();
            let event = match is_done {
                false => next.await?,
                true => timeout(ANSWER_PATIENCE, next).await.map_err(|_| {
                    CtlError::refused(format!(
                        "done, and the answer did not come: may this client read '{ANSWERS}'?"
                    ))
                })??,
            };
            match event {
                Event::Message(message) => {
                    let is_ours = message.properties.iter().any(|property| {
                        matches!(property, Property::CorrelationData(data) if data == number)
                    });
                    if is_ours {
                        answer = serde_json::from_slice(&message.payload).ok();
                    }
                }
                Event::Published { token, reason, text } if token == self.asked => {
                    if reason.is_error() {
                        let said = match text.is_empty() {
                            true => refusal(reason, &text),
                            false => text,
                        };
                        return Err(CtlError::Refused { said, reason: Some(reason) });
                    }
                    is_done = true;
                }
                _ => {}
            }
        }
    }

    /// Ends the connection.
    pub(super) async fn end(self) -> Result<(), CtlError> {
        let (_, left) = self.client.disconnect(ReasonCode::SUCCESS, None).await;
        Ok(left?)
    }
}

/// Reads a name as addresses have it, or as AMQP does: one that cannot be in an address is the latter.
pub(super) fn level(name: &str) -> Result<String, AddressError> {
    let queue = QueueName::from_text(Bytes::copy_from_slice(name.as_bytes()));
    let queue =
        queue.or_else(|_| VirtualHost::DEFAULT.queue(&Bytes::copy_from_slice(name.as_bytes())))?;
    Ok(queue.as_str().to_owned())
}

/// A queue's name in addresses, and where that is another one the name that AMQP has for it.
pub(super) fn with_name(level: &str) -> String {
    let Ok(queue) = QueueName::from_text(Bytes::copy_from_slice(level.as_bytes())) else {
        return level.to_owned();
    };
    let host = queue.virtual_host();
    match queue.name() {
        name if !host.is_default() => format!("{level} ({name} in {host})"),
        name if name != level => format!("{level} ({name})"),
        _ => level.to_owned(),
    }
}

/// Asks one thing on a connection of its own.
pub(super) async fn ask_once(
    connection: &ConnectionArguments,
    address: &str,
    body: &Value,
) -> Result<Value, CtlError> {
    let mut asking = Asking::connect(connection).await?;
    let answer = asking.ask(address, body).await?;
    asking.end().await?;
    Ok(answer)
}

/// Which part of a list is wanted.
#[derive(Debug, clap::Args)]
pub(super) struct ListArguments {
    /// Begins behind this one.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub after: String,
    /// The most to list; all when it is left out.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    #[command(flatten)]
    pub connection: ConnectionArguments,
}

/// What is listed: where to ask, the field of the answer that has the rows, and the columns that people see; `a.b` is a field within one.
pub(super) struct Listing {
    pub address: String,
    pub field: &'static str,
    pub columns: &'static [&'static str],
}

impl Listing {
    /// Asks page by page. As JSON, rows are printed as they come, one a line; otherwise as a table.
    pub(super) async fn print(
        &self,
        wanted: &ListArguments,
        json: bool,
        output: &mut impl Write,
    ) -> Result<(), CtlError> {
        let mut asking = Asking::connect(&wanted.connection).await?;
        let mut rows = Vec::new();
        self.each(&mut asking, &wanted.after, wanted.limit, |row| match json {
            true => say(&row, "", true, output),
            false => {
                rows.push(row);
                Ok(())
            }
        })
        .await?;
        asking.end().await?;
        match json {
            true => Ok(()),
            false => write!(output, "{}", self.table(&rows)).map_err(CtlError::Output),
        }
    }

    /// Asks page by page, and gives out the rows.
    pub(super) async fn each(
        &self,
        asking: &mut Asking,
        after: &str,
        limit: Option<usize>,
        mut row: impl FnMut(Value) -> Result<(), CtlError>,
    ) -> Result<(), CtlError> {
        let (mut left, mut after) = (limit.unwrap_or(usize::MAX), after.to_owned());
        while left > 0 {
            let body = json!({ "after": after, "count": left.min(ROWS_AT_ONCE) });
            let mut answer = asking.ask(&self.address, &body).await?;
            let Value::Array(rows) = answer[self.field].take() else { break };
            left = left.saturating_sub(rows.len());
            rows.into_iter().try_for_each(&mut row)?;
            match answer["next"].as_str() {
                Some(next) => after = next.to_owned(),
                None => break,
            }
        }
        Ok(())
    }

    fn table(&self, rows: &[Value]) -> String {
        let name = |column: &&str| column.rsplit('.').next().unwrap_or(column).to_owned();
        let heading = self.columns.iter().map(name).collect();
        let cells = |row: &Value| {
            let column = |column: &&str| {
                let said = cell(column.split('.').fold(row, |value, at| &value[at]));
                match *column {
                    "queue" | "exchange" | "destination" | "source" => with_name(&said),
                    _ => said,
                }
            };
            self.columns.iter().map(column).collect()
        };
        table(&std::iter::once(heading).chain(rows.iter().map(cells)).collect::<Vec<_>>())
    }
}

/// Prints an answer, or what it means.
pub(super) fn say(
    answer: &Value,
    meaning: &str,
    json: bool,
    output: &mut impl Write,
) -> Result<(), CtlError> {
    let written = match json {
        true => writeln!(output, "{answer}"),
        false => writeln!(output, "{}", meaning.trim_end()),
    };
    written.map_err(CtlError::Output)
}

/// "1 message", "2 messages".
pub(super) fn messages(count: &Value) -> String {
    let plural = if count == &json!(1) { "" } else { "s" };
    format!("{} message{plural}", cell(count))
}

/// The fields of an object, one a line; those within one are put behind its name.
pub(super) fn lines(object: &Value) -> String {
    let mut text = String::new();
    for (field, value) in object.as_object().into_iter().flatten() {
        match value {
            Value::Object(inner) => {
                let inner = inner.iter().map(|(name, value)| format!("{name} {}", cell(value)));
                let inner: Vec<String> = inner.collect();
                text.push_str(&format!("{field:<14} {}\n", inner.join(", ")));
            }
            value => text.push_str(&format!("{field:<14} {}\n", cell(value))),
        }
    }
    text
}

/// Lays rows out in columns, the first of them a heading.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A field as people read it.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().flat_map(escaped).collect(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn escaped(character: char) -> Vec<char> {
    match character.is_control() {
        true => character.escape_default().collect(),
        false => vec![character],
    }
}

/// The fields of a consumer group, as columns.
pub(super) fn group_rows(groups: &[Value]) -> Vec<Vec<String>> {
    let names = ["group", "consumers", "committed", "cursor", "pending", "lag", "lag_s"];
    let heading = names.iter().map(|name| (*name).to_owned()).collect();
    let row = |group: &Value| names.iter().map(|name| cell(&group[*name])).collect();
    std::iter::once(heading).chain(groups.iter().map(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let groups = [json!({
            "group": "workers\n", "consumers": 2, "committed": 10, "cursor": 12, "pending": 2, "lag": 5, "lag_s": 1.5
        })];
        let text = table(&group_rows(&groups));
        assert_eq!(
            text,
            "group      consumers  committed  cursor  pending  lag  lag_s\n\
             workers\\n  2          10         12      2        5    1.5\n"
        );
    }
}
