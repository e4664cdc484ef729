//! `mqttctl binding`, and what `queue` and `exchange` have of binding and unbinding.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::connection::ConnectionArguments;
use super::error::CtlError;
use super::manage::{Asking, ListArguments, Listing, ask_once, level, say};

#[derive(Debug, Args)]
#[command(after_help = "\
Bindings of queues come first, by queue, then those of exchanges. What a queue's own declaration binds it to has a filter and no source.

Examples:
  mqttctl binding list
  mqttctl binding list --json | jq -r 'select(.source == \"orders\").destination'
  mqttctl queue bindings jobs")]
pub(super) struct Bindings {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists what is bound to what: queues and exchanges to exchanges, queues to topics.
    List(List),
}

#[derive(Debug, Args)]
struct List {
    /// The most to list; all when it is left out.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    connection: ConnectionArguments,
}

/// What is to be bound, or not any more.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Who gets it.
    #[arg(value_name = "DESTINATION", value_parser = level)]
    destination: String,
    /// The exchange that routes.
    #[arg(value_name = "EXCHANGE", value_parser = level)]
    source: String,
    /// What it routes by, but for fanout and headers exchanges.
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    routing_key: String,
    /// What a headers exchange routes by, as a JSON object: '{"x-match":"any","colour":"red"}'.
    #[arg(long, value_name = "JSON", value_parser = parse_object, default_value = "{}", hide_default_value = true)]
    arguments: Map<String, Value>,
    #[command(flatten)]
    connection: ConnectionArguments,
}

/// What is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    Queue,
    Exchange,
}

impl Bound {
    pub(super) fn name(self) -> &'static str {
        match self {
            Bound::Queue => "queue",
            Bound::Exchange => "exchange",
        }
    }
}

/// Does what the arguments say.
pub(super) async fn run(
    arguments: &Bindings,
    json: bool,
    output: &mut impl Write,
) -> Result<(), CtlError> {
    let Command::List(List { limit, connection }) = &arguments.command;
    let wanted =
        ListArguments { after: String::new(), limit: *limit, connection: connection.clone() };
    listing("bindings".to_owned()).print(&wanted, json, output).await
}

/// What is bound to what.
pub(super) fn listing(address: String) -> Listing {
    let columns = &[
        "destination",
        "destination_type",
        "source",
        "type",
        "routing_key",
        "arguments",
        "filter",
    ];
    Listing { address, field: "bindings", columns }
}

impl Arguments {
    pub(super) async fn bind(
        &self,
        bound: Bound,
        json: bool,
        output: &mut impl Write,
    ) -> Result<(), CtlError> {
        let address = format!("{}/{}/bind", bound.name(), self.destination);
        let answer = ask_once(&self.connection, &address, &self.body()).await?;
        say(&answer, &format!("{} is bound to {}", self.destination, self.source), json, output)
    }

    /// Arguments are a part of what a binding is, with types that JSON does not know: the one that reads like this is looked for.
    pub(super) async fn unbind(
        &self,
        bound: Bound,
        json: bool,
        output: &mut impl Write,
    ) -> Result<(), CtlError> {
        let Arguments { destination, source, connection, .. } = self;
        let mut asking = Asking::connect(connection).await?;
        let (address, after) = match bound {
            Bound::Queue => (format!("queue/{destination}/bindings"), String::new()),
            Bound::Exchange => ("bindings".to_owned(), format!("e0:{destination}")),
        };
        let mut found = Vec::new();
        listing(address)
            .each(&mut asking, &after, None, |row| {
                found.extend(self.is_meant(bound, &row).then_some(row));
                Ok(())
            })
            .await?;
        if found.is_empty() {
            let name = bound.name();
            let said = format!(
                "{name} '{destination}' is not bound to '{source}' by that key and those arguments"
            );
            return Err(CtlError::refused(said));
        }
        let address = format!("{}/{destination}/unbind", bound.name());
        let mut answer = Value::Null;
        for row in found {
            let mut body = self.body();
            if let Some(encoded) = row.get("arguments_encoded") {
                body["arguments_encoded"] = encoded.clone();
                body["arguments"].take();
            }
            answer = asking.ask(&address, &body).await?;
        }
        asking.end().await?;
        say(&answer, &format!("{destination} is bound to {source} no more"), json, output)
    }

    fn is_meant(&self, bound: Bound, row: &Value) -> bool {
        row["destination"] == json!(self.destination)
            && row["destination_type"] == json!(bound.name())
            && row["source"] == json!(self.source)
            && row["routing_key"] == json!(self.routing_key)
            && row["arguments"].as_object() == Some(&self.arguments)
    }

    fn body(&self) -> Value {
        json!({
            "source": self.source, "routing_key": self.routing_key, "arguments": self.arguments
        })
    }
}

fn parse_object(text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("must be a JSON object".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
