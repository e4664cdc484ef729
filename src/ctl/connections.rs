//! `mqttctl connection` and `mqttctl channel`: who is connected, by whatever protocol, and what each of them is doing.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::connection::ConnectionArguments;
use super::error::CtlError;
use super::manage::{ListArguments, Listing, ask_once, lines, say, table};

#[derive(Debug, Args)]
#[command(after_help = "\
A connection has a number, which no other gets as long as the broker runs. Nobody keeps these lists: connections are asked.

Examples:
  mqttctl connection list
  mqttctl connection list --json | jq 'select(.protocol == \"AMQP\")'
  mqttctl connection show 17
  mqttctl connection close 17 --reason 'moving to another broker'")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the connections, by number.
    List(ListArguments),
    /// Prints one connection, with its channels.
    Show(Named),
    /// Ends a connection: its client is told that an administrator did, and why.
    Close(Close),
}

#[derive(Debug, Args)]
struct Named {
    /// The connection's number.
    #[arg(value_name = "NUMBER")]
    number: u64,
    #[command(flatten)]
    connection: ConnectionArguments,
}

#[derive(Debug, Args)]
struct Close {
    #[command(flatten)]
    named: Named,
    /// What its client is told.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mqttctl channel list
  mqttctl channel show 17 1")]
pub(super) struct ChannelArguments {
    #[command(subcommand)]
    command: ChannelCommand,
}

#[derive(Debug, Subcommand)]
enum ChannelCommand {
    /// Lists the channels of AMQP connections, by connection and number.
    List(ListArguments),
    /// Prints one channel.
    Show(Channel),
}

#[derive(Debug, Args)]
struct Channel {
    #[command(flatten)]
    named: Named,
    /// The channel's number.
    #[arg(value_name = "CHANNEL")]
    channel: u16,
}

const CHANNEL_COLUMNS: &[&str] = &[
    "connection",
    "channel",
    "mode",
    "consumers",
    "unacked",
    "unconfirmed",
    "prefetch",
    "channel_prefetch",
];

/// Does what the arguments say.
pub(super) async fn run(
    arguments: &Arguments,
    json: bool,
    output: &mut impl Write,
) -> Result<(), CtlError> {
    match &arguments.command {
        Command::List(list) => {
            let listing = Listing {
                address: "connections".to_owned(),
                field: "connections",
                columns: &[
                    "connection",
                    "protocol",
                    "version",
                    "address",
                    "user",
                    "client_id",
                    "client.connection_name",
                    "vhost",
                    "state",
                    "channels",
                    "consumers",
                    "subscriptions",
                ],
            };
            listing.print(list, json, output).await
        }
        Command::Show(named) => {
            let mut answer = named.ask("show", &json!({})).await?;
            if json {
                return say(&answer, "", true, output);
            }
            let channels = answer["channel_list"].take();
            let channels = channels.as_array().map_or(&[][..], Vec::as_slice);
            if let Some(fields) = answer.as_object_mut() {
                fields.remove("channel_list");
                let since = fields.remove("since_ms").and_then(|since| since.as_i64());
                let since = since.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
                fields.insert("since".to_owned(), json!(since.map(|since| since.to_string())));
            }
            let mut text = lines(&answer);
            if !channels.is_empty() {
                text.push('\n');
                text.push_str(&table(&channel_rows(channels)));
            }
            say(&answer, &text, false, output)
        }
        Command::Close(Close { named, reason }) => {
            let answer = named.ask("close", &json!({ "reason": reason })).await?;
            say(&answer, &format!("{}: closed", named.number), json, output)
        }
    }
}

/// Does what the arguments of `channel` say.
pub(super) async fn run_channel(
    arguments: &ChannelArguments,
    json: bool,
    output: &mut impl Write,
) -> Result<(), CtlError> {
    match &arguments.command {
        ChannelCommand::List(list) => {
            let (address, field) = ("channels".to_owned(), "channels");
            Listing { address, field, columns: CHANNEL_COLUMNS }.print(list, json, output).await
        }
        ChannelCommand::Show(Channel { named, channel }) => {
            let mut answer = named.ask("show", &json!({})).await?;
            let channels = answer["channel_list"].take();
            let channels = channels.as_array().into_iter().flatten();
            let found = channels.into_iter().find(|found| found["channel"] == json!(channel));
            let found = found.ok_or_else(|| {
                let number = named.number;
                CtlError::refused(format!("connection {number} has no channel {channel}"))
            })?;
            say(found, &lines(found), json, output)
        }
    }
}

fn channel_rows(channels: &[Value]) -> Vec<Vec<String>> {
    let heading = CHANNEL_COLUMNS[1..].iter().map(|name| (*name).to_owned()).collect();
    let row = |channel: &Value| {
        CHANNEL_COLUMNS[1..].iter().map(|name| super::manage::cell(&channel[*name])).collect()
    };
    std::iter::once(heading).chain(channels.iter().map(row)).collect()
}

impl Named {
    async fn ask(&self, operation: &str, body: &Value) -> Result<Value, CtlError> {
        let address = format!("connection/{}/{operation}", self.number);
        ask_once(&self.connection, &address, body).await
    }
}
