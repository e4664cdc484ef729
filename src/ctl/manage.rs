//! Asking the broker: a publish below `$management/`, its answer, and its acknowledgement (ADR 0051).

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::time::timeout;

use super::connection::{ConnectionArguments, refusal};
use super::error::CtlError;
use crate::client::{Client, Event, PublishRequest};
use crate::model::QoS;
use crate::protocol::mqtt::property::Property;
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::Version;

/// Where answers come. An access list that allows `$management/#` allows it, too.
const ANSWERS: &str = "$management/answer";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
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
            let reason = "queues and groups are managed over MQTT 5: leave -V out".to_owned();
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
    use serde_json::json;

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
