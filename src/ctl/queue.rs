//! `mqttctl queue`: declares queues, looks into them, empties them, and brings dead letters back.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::binding::{self, Bound};
use super::connection::ConnectionArguments;
use super::error::CtlError;
use super::manage::{
    Asking, ListArguments, Listing, ask_once, cell, group_rows, level, lines, messages, say, table,
};

/// Letters that are brought back at a time.
const REDRIVEN_AT_ONCE: u64 = 256;

#[derive(Debug, Args)]
#[command(after_help = "\
Needs FluxMQ and MQTT 5. With an access list, who may write a topic may ask for it: \
'topic write $management/queues' lists, 'topic write $management/queue/orders/+' manages one queue, and answers are \
read from '$management/answer'.

Examples:
  mqttctl queue list
  mqttctl queue declare orders --binding 'shop/+/order' --deliveries-max 5 --backoff 1000,5000
  mqttctl queue declare temps --binding 'sensors/+/temp' --from earliest
  mqttctl queue stats orders
  mqttctl queue peek orders --from 100 --count 10 --json
  mqttctl queue redrive orders --filter 'eu/#'
  mqttctl queue bind orders shop --routing-key 'order.#'
  mqttctl queue purge orders")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the queues, by name.
    List(ListArguments),
    /// Prints what a queue was declared to be and what it has.
    Show(Named),
    /// Prints how far each consumer group is: lag in messages and in seconds.
    Stats(Named),
    /// Declares a queue. One that is there and is just so stays; any other is refused.
    Declare(Box<Declare>),
    /// Deletes a queue, its groups and its entries; refused while somebody reads it.
    Delete(Delete),
    /// Binds a queue to an exchange: what the exchange routes by this key and these arguments is in the queue.
    Bind(binding::Arguments),
    /// Ends that.
    Unbind(binding::Arguments),
    /// Lists what a queue is bound to.
    Bindings(Named),
    /// Takes everything out that is in it now.
    Purge(Named),
    /// Prints entries without any group knowing.
    Peek(Peek),
    /// Publishes dead letters again where they died.
    Redrive(Redrive),
}

#[derive(Debug, Args)]
struct Named {
    /// The queue's name, as addresses or as AMQP have it; '$dlq/orders' is that of the dead letters of 'orders'.
    #[arg(value_name = "QUEUE", value_parser = level)]
    queue: String,
    #[command(flatten)]
    connection: ConnectionArguments,
}

#[derive(Debug, Args)]
struct Delete {
    #[command(flatten)]
    named: Named,
    /// Also while somebody reads it: consumers are told.
    #[arg(long)]
    if_used: bool,
    /// Only without messages.
    #[arg(long)]
    if_empty: bool,
}

#[derive(Debug, Args)]
struct Peek {
    /// The queue's name.
    #[arg(value_name = "QUEUE", value_parser = level)]
    queue: String,
    /// The first entry; the oldest that is there when it is left out.
    #[arg(long, value_name = "OFFSET", default_value_t = 0, hide_default_value = true)]
    from: u64,
    /// The most to print, 256 at a time.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    count: u64,
    #[command(flatten)]
    connection: ConnectionArguments,
}

#[derive(Debug, Args)]
struct Redrive {
    /// The queue whose dead letters go back; a name that is no '$dlq/…' means '$dlq/<name>'. Where letters go to a queue of
    /// your own, it needs --as-it-is.
    #[arg(value_name = "QUEUE", value_parser = level)]
    queue: String,
    /// Takes the name as it is.
    #[arg(long)]
    as_it_is: bool,
    /// Those whose topics match, below the queue's address: 'eu/#'.
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
    /// The most to bring back; all when it is left out.
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    connection: ConnectionArguments,
}

#[derive(Debug, Args)]
struct Declare {
    /// The queue's name.
    #[arg(value_name = "QUEUE", value_parser = level)]
    queue: String,
    /// How it is read.
    #[arg(long = "type", value_name = "TYPE", value_parser = ["classic", "stream", "ephemeral"])]
    kind: Option<String>,
    /// Publishes that match this filter are in the queue; repeat for several.
    #[arg(long = "binding", value_name = "FILTER")]
    bindings: Vec<String>,
    /// Where it begins: latest, or earliest for what history still has of its bindings.
    #[arg(long, value_parser = ["latest", "earliest"])]
    from: Option<String>,
    /// Time a member has to settle an entry.
    #[arg(long, value_name = "SECONDS")]
    visibility_timeout: Option<f64>,
    /// Deliveries of one entry to one group, at most; 0 is no limit.
    #[arg(long, value_name = "N")]
    deliveries_max: Option<u64>,
    /// How long a released entry waits, the first time, the second, and so on.
    #[arg(long, value_name = "MS,MS", value_delimiter = ',')]
    backoff: Vec<u64>,
    /// Where dead letters go: $dlq, another queue, $exchange/EXCHANGE, $exchange/EXCHANGE/KEY, or none.
    #[arg(long, value_name = "PLACE")]
    dead_letters: Option<String>,
    /// Entries whose time was over are dead letters.
    #[arg(long)]
    dead_letter_expired: bool,
    /// Entries that were too many are dead letters.
    #[arg(long)]
    dead_letter_overflow: bool,
    /// Time after which an entry is not delivered any more.
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<f64>,
    /// Entries that are kept.
    #[arg(long, value_name = "N")]
    messages_max: Option<u64>,
    /// Bytes that are kept.
    #[arg(long, value_name = "BYTES")]
    bytes_max: Option<u64>,
    /// Time that entries are kept.
    #[arg(long, value_name = "SECONDS")]
    age_max: Option<f64>,
    /// What gives way when it is full.
    #[arg(long, value_parser = ["drop_head", "reject_publish", "reject_publish_dlx"])]
    overflow: Option<String>,
    /// One member of a group gets everything, until it leaves.
    #[arg(long)]
    single_active: bool,
    /// One connection at a time may read it.
    #[arg(long)]
    exclusive: bool,
    /// Every reader of a stream is told how far this group is.
    #[arg(long, value_name = "GROUP")]
    primary_group: Option<String>,
    /// The highest priority that entries are told apart by, 1 to 9.
    #[arg(long, value_name = "N")]
    priority_max: Option<u64>,
    /// What it outlives: everything, or no restart of the broker.
    #[arg(long, value_parser = ["durable", "transient"])]
    lifetime: Option<String>,
    /// It ends when the last of its consumers leaves.
    #[arg(long)]
    auto_delete: bool,
    /// Time without a consumer and a redeclaration, after which it ends.
    #[arg(long, value_name = "SECONDS")]
    expires: Option<f64>,
    #[command(flatten)]
    connection: ConnectionArguments,
}

/// The queues, by name.
pub(super) fn listing() -> Listing {
    Listing {
        address: "queues".to_owned(),
        field: "queues",
        columns: &[
            "queue",
            "type",
            "lifetime",
            "messages",
            "ready",
            "unacked",
            "bytes",
            "groups",
            "consumers",
        ],
    }
}

/// Does what the arguments say.
pub(super) async fn run(
    arguments: &Arguments,
    json: bool,
    output: &mut impl Write,
) -> Result<(), CtlError> {
    match &arguments.command {
        Command::List(list) => listing().print(list, json, output).await,
        Command::Show(named) => show(named, json, output).await,
        Command::Stats(named) => stats(named, json, output).await,
        Command::Declare(declare) => {
            let address = format!("queue/{}/declare", declare.queue);
            let answer = ask_once(&declare.connection, &address, &declare.body()).await?;
            let said = match answer["existed"] == json!(true) {
                true => "was there, and is just so",
                false => "declared",
            };
            say(&answer, &format!("{}: {said}", declare.queue), json, output)
        }
        Command::Delete(Delete { named, if_used, if_empty }) => {
            let body = json!({ "if_used": if_used, "if_empty": if_empty });
            count(named, ("delete", &body), "deleted, with", json, output).await
        }
        Command::Purge(named) => {
            count(named, ("purge", &json!({})), "purged of", json, output).await
        }
        Command::Bind(arguments) => arguments.bind(Bound::Queue, json, output).await,
        Command::Unbind(arguments) => arguments.unbind(Bound::Queue, json, output).await,
        Command::Bindings(named) => {
            let wanted = ListArguments {
                after: String::new(),
                limit: None,
                connection: named.connection.clone(),
            };
            let address = format!("queue/{}/bindings", named.queue);
            binding::listing(address).print(&wanted, json, output).await
        }
        Command::Peek(peek) => peek_entries(peek, json, output).await,
        Command::Redrive(redrive) => redrive_letters(redrive, json, output).await,
    }
}

async fn count(
    named: &Named,
    (operation, body): (&str, &Value),
    meaning: &str,
    json: bool,
    output: &mut impl Write,
) -> Result<(), CtlError> {
    let address = format!("queue/{}/{operation}", named.queue);
    let answer = ask_once(&named.connection, &address, body).await?;
    let meaning = format!("{}: {meaning} {}", named.queue, messages(&answer["count"]));
    say(&answer, &meaning, json, output)
}

async fn show(named: &Named, json: bool, output: &mut impl Write) -> Result<(), CtlError> {
    let address = format!("queue/{}/show", named.queue);
    let answer = ask_once(&named.connection, &address, &json!({})).await?;
    let mut text = String::new();
    for field in [
        "queue", "type", "lifetime", "owner", "messages", "ready", "unacked", "bytes", "head",
        "end",
    ] {
        text.push_str(&format!("{field:<14} {}\n", cell(&answer[field])));
    }
    text.push_str(&lines(&answer["settings"]));
    let groups = answer["groups"].as_array().map_or(&[][..], Vec::as_slice);
    if !groups.is_empty() {
        text.push('\n');
        text.push_str(&table(&group_rows(groups)));
    }
    say(&answer, &text, json, output)
}

async fn stats(named: &Named, json: bool, output: &mut impl Write) -> Result<(), CtlError> {
    let address = format!("queue/{}/show", named.queue);
    let answer = ask_once(&named.connection, &address, &json!({})).await?;
    let groups = answer["groups"].as_array().map_or(&[][..], Vec::as_slice);
    let brief = json!({
        "queue": answer["queue"],
        "messages": answer["messages"],
        "bytes": answer["bytes"],
        "groups": groups,
    });
    let heading = format!("{}, {} bytes\n", messages(&answer["messages"]), cell(&answer["bytes"]));
    say(&brief, &format!("{heading}{}", table(&group_rows(groups))), json, output)
}

async fn peek_entries(peek: &Peek, json: bool, output: &mut impl Write) -> Result<(), CtlError> {
    let mut asking = Asking::connect(&peek.connection).await?;
    let (mut from, mut left) = (peek.from, peek.count);
    while left > 0 {
        let address = format!("queue/{}/peek", peek.queue);
        let answer = asking.ask(&address, &json!({ "from": from, "count": left })).await?;
        let entries = answer["entries"].as_array().cloned().unwrap_or_default();
        let Some(last) = entries.last().and_then(|entry| entry["offset"].as_u64()) else { break };
        for entry in &entries {
            let [offset, topic] = ["offset", "topic"].map(|field| cell(&entry[field]));
            let payload = match entry["payload"].is_null() {
                true => format!("{} (base64)", cell(&entry["payload_base64"])),
                false => cell(&entry["payload"]),
            };
            say(entry, &format!("{offset} {topic} {payload}"), json, output)?;
        }
        left = left.saturating_sub(entries.len() as u64);
        from = last + 1;
    }
    asking.end().await
}

async fn redrive_letters(
    redrive: &Redrive,
    json: bool,
    output: &mut impl Write,
) -> Result<(), CtlError> {
    let queue = match redrive.as_it_is || redrive.queue.starts_with("$dlq/") {
        true => redrive.queue.clone(),
        false => format!("$dlq/{}", redrive.queue),
    };
    let mut asking = Asking::connect(&redrive.connection).await?;
    let mut total = 0;
    loop {
        let left = redrive.count.map_or(REDRIVEN_AT_ONCE, |count| count - total);
        let body = json!({ "filter": redrive.filter, "count": left.min(REDRIVEN_AT_ONCE) });
        let answer = asking.ask(&format!("queue/{queue}/redrive"), &body).await;
        let answer = answer.map_err(|error| match error {
            CtlError::Refused { said, reason } if total == 0 && queue != redrive.queue => {
                let said = format!(
                    "{said}: nothing of '{}' has died, or its letters go to another queue; name that one with --as-it-is",
                    redrive.queue
                );
                CtlError::Refused { said, reason }
            }
            other => other,
        })?;
        let count = answer["count"].as_u64().unwrap_or(0);
        total += count;
        if count == 0 || redrive.count.is_some_and(|count| total >= count) {
            break;
        }
    }
    asking.end().await?;
    let answer = json!({ "queue": queue, "count": total });
    say(&answer, &format!("{queue}: {} published again", messages(&json!(total))), json, output)
}

impl Declare {
    fn body(&self) -> Value {
        let mut body = Map::new();
        let mut note = |field: &str, value: Value, is_said: bool| {
            if is_said {
                body.insert(field.to_owned(), value);
            }
        };
        for (field, text) in [
            ("type", &self.kind),
            ("from", &self.from),
            ("dead_letters", &self.dead_letters),
            ("overflow", &self.overflow),
            ("primary_group", &self.primary_group),
            ("lifetime", &self.lifetime),
        ] {
            note(field, json!(text), text.is_some());
        }
        for (field, number) in [
            ("deliveries_max", self.deliveries_max),
            ("messages_max", self.messages_max),
            ("bytes_max", self.bytes_max),
            ("priority_max", self.priority_max),
        ] {
            note(field, json!(number), number.is_some());
        }
        for (field, seconds) in [
            ("visibility_timeout_s", self.visibility_timeout),
            ("ttl_s", self.ttl),
            ("age_max_s", self.age_max),
            ("expires_s", self.expires),
        ] {
            note(field, json!(seconds), seconds.is_some());
        }
        for (field, flag) in [
            ("dead_letter_expired", self.dead_letter_expired),
            ("dead_letter_overflow", self.dead_letter_overflow),
            ("single_active", self.single_active),
            ("exclusive", self.exclusive),
            ("auto_delete", self.auto_delete),
        ] {
            note(field, json!(true), flag);
        }
        note("bindings", json!(self.bindings), !self.bindings.is_empty());
        note("backoff_ms", json!(self.backoff), !self.backoff.is_empty());
        Value::Object(body)
    }
}
