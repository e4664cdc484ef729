//! `mqttctl exchange`: declares exchanges, looks at them, binds them to one another, deletes them.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::binding::{self, Bound};
use super::connection::ConnectionArguments;
use super::error::CtlError;
use super::manage::{ListArguments, Listing, ask_once, level, lines, say};

#[derive(Debug, Args)]
#[command(after_help = "\
With an access list, 'topic write $management/exchanges' lists, 'topic write $management/exchange/orders/+' manages one.

Examples:
  mqttctl exchange list
  mqttctl exchange declare orders --type topic --alternate unrouted
  mqttctl exchange bind audit orders --routing-key 'order.#'
  mqttctl queue bind jobs orders --routing-key 'order.*.paid'
  mqttctl exchange delete orders --if-unused")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the exchanges, by name: the broker's own too, but for the default one.
    List(ListArguments),
    /// Prints what an exchange was declared to be, and how much is bound to it.
    Show(Named),
    /// Declares an exchange. One that is there and is just so stays; any other is refused.
    Declare(Declare),
    /// Deletes an exchange, and the bindings to it and of it.
    Delete(Delete),
    /// Binds an exchange to another: what that one routes by this key and these arguments goes through it, too.
    Bind(binding::Arguments),
    /// Ends that.
    Unbind(binding::Arguments),
}

#[derive(Debug, Args)]
struct Named {
    /// The exchange's name.
    #[arg(value_name = "EXCHANGE", value_parser = level)]
    exchange: String,
    #[command(flatten)]
    connection: ConnectionArguments,
}

#[derive(Debug, Args)]
struct Declare {
    #[command(flatten)]
    named: Named,
    /// What it routes by.
    #[arg(long = "type", value_name = "TYPE", value_parser = ["direct", "fanout", "topic", "headers"], default_value = "direct")]
    kind: String,
    /// What it outlives: everything, or no restart of the broker.
    #[arg(long, value_parser = ["durable", "transient"], default_value = "durable")]
    lifetime: String,
    /// It ends with the last binding to it.
    #[arg(long)]
    auto_delete: bool,
    /// Only other exchanges publish to it.
    #[arg(long)]
    internal: bool,
    /// The exchange that gets what it routes nowhere.
    #[arg(long, value_name = "EXCHANGE")]
    alternate: Option<String>,
}

#[derive(Debug, Args)]
struct Delete {
    #[command(flatten)]
    named: Named,
    /// Only when nothing is bound to it.
    #[arg(long)]
    if_unused: bool,
}

/// Does what the arguments say.
pub(super) async fn run(
    arguments: &Arguments,
    json: bool,
    output: &mut impl Write,
) -> Result<(), CtlError> {
    match &arguments.command {
        Command::List(list) => listing().print(list, json, output).await,
        Command::Show(named) => {
            let answer = named.ask("show", &json!({})).await?;
            say(&answer, &lines(&answer), json, output)
        }
        Command::Declare(declare) => {
            let answer = declare.named.ask("declare", &declare.body()).await?;
            let said = match answer["existed"] == json!(true) {
                true => "was there, and is just so",
                false => "declared",
            };
            say(&answer, &format!("{}: {said}", declare.named.exchange), json, output)
        }
        Command::Delete(Delete { named, if_unused }) => {
            let answer = named.ask("show", &json!({})).await;
            // Deleting what is not there is no news to AMQP, and a typing error to people.
            answer?;
            let answer = named.ask("delete", &json!({ "if_unused": if_unused })).await?;
            say(&answer, &format!("{}: deleted", named.exchange), json, output)
        }
        Command::Bind(arguments) => arguments.bind(Bound::Exchange, json, output).await,
        Command::Unbind(arguments) => arguments.unbind(Bound::Exchange, json, output).await,
    }
}

/// The exchanges, by name.
pub(super) fn listing() -> Listing {
    Listing {
        address: "exchanges".to_owned(),
        field: "exchanges",
        columns: &[
            "exchange",
            "type",
            "lifetime",
            "auto_delete",
            "internal",
            "alternate",
            "bindings",
        ],
    }
}

impl Named {
    async fn ask(&self, operation: &str, body: &Value) -> Result<Value, CtlError> {
        let address = format!("exchange/{}/{operation}", self.exchange);
        ask_once(&self.connection, &address, body).await
    }
}

impl Declare {
    fn body(&self) -> Value {
        let Declare { kind, lifetime, auto_delete, internal, alternate, .. } = self;
        json!({
            "type": kind, "lifetime": lifetime, "auto_delete": auto_delete, "internal": internal,
            "alternate": alternate
        })
    }
}
