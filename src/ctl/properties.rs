//! The flags for what a message says beside its payload (MQTT 5 §3.3.2.3).

use bytes::Bytes;
use clap::Args;

use super::error::CtlError;
use crate::client::user;
use crate::protocol::mqtt::property::{Property, PropertyList};
use crate::protocol::mqtt::types::Version;

/// Properties of published messages.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Message properties (5.0)")]
pub(super) struct PropertyArguments {
    /// User property; repeat for several, order is kept.
    #[arg(short = 'U', long = "user-property", value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub user: Vec<(String, String)>,
    /// Content type, such as application/json.
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// Topic to answer to.
    #[arg(long, value_name = "TOPIC")]
    pub response_topic: Option<String>,
    /// Ties an answer to this request.
    #[arg(long, value_name = "TEXT")]
    pub correlation_data: Option<String>,
    /// Seconds after which the message must not be delivered any more.
    #[arg(short = 'e', long, value_name = "SECONDS")]
    pub expiry: Option<u32>,
    /// Says that the payload is UTF-8 text.
    #[arg(long)]
    pub utf8: bool,
}

impl PropertyArguments {
    /// Returns the properties, or says that the version has none.
    pub(super) fn list(&self, version: Version) -> Result<PropertyList, CtlError> {
        let bytes = |text: &String| Bytes::from(text.clone());
        let mut list = Vec::new();
        list.extend(self.utf8.then_some(Property::PayloadFormat(true)));
        list.extend(self.expiry.map(Property::MessageExpiry));
        list.extend(self.content_type.as_ref().map(|it| Property::ContentType(bytes(it))));
        list.extend(self.response_topic.as_ref().map(|it| Property::ResponseTopic(bytes(it))));
        list.extend(self.correlation_data.as_ref().map(|it| Property::CorrelationData(bytes(it))));
        list.extend(user(&self.user));
        if !list.is_empty() && !version.is_v5() {
            return Err(CtlError::Usage("message properties need MQTT 5 (-V 5)".to_owned()));
        }
        Ok(list.into_iter().collect())
    }
}

/// Reads `key=value`; the value may have more of them.
pub(super) fn parse_pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| "write KEY=VALUE".to_owned())
}
