//! `mqttctl group`: how far consumer groups are, and moving them.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::connection::ConnectionArguments;
use super::error::CtlError;
use super::manage::{ask_once, group_rows, level, lines, messages, say, table};

#[derive(Debug, Args)]
#[command(after_help = "\
A group that is moved back reads everything from there on again, settled or not; one that is moved on has finished \
everything below. Positions: earliest, latest, offset=N, last=N, timestamp=MS, an RFC 3339 time, -15m, -2h, -7d.

Examples:
  mqttctl group list orders
  mqttctl group show orders billing --json
  mqttctl group seek orders billing --to earliest
  mqttctl group seek orders billing --to=-1h
  mqttctl group delete orders billing")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the groups of a queue, with their lag in messages and in seconds.
    List(Listed),
    /// Prints one group.
    Show(Named),
    /// Moves a group.
    Seek(Seek),
    /// Deletes a group and forgets how far it was; refused while somebody reads with it.
    Delete(Named),
}

#[derive(Debug, Args)]
struct Listed {
    /// The queue's name.
    #[arg(value_name = "QUEUE", value_parser = level)]
    queue: String,
    #[command(flatten)]
    connection: ConnectionArguments,
}

#[derive(Debug, Args)]
struct Named {
    /// The queue's name.
    #[arg(value_name = "QUEUE", value_parser = level)]
    queue: String,
    /// The group's name.
    #[arg(value_name = "GROUP", value_parser = level)]
    group: String,
    #[command(flatten)]
    connection: ConnectionArguments,
}

#[derive(Debug, Args)]
struct Seek {
    /// The queue's name.
    #[arg(value_name = "QUEUE", value_parser = level)]
    queue: String,
    /// The group's name.
    #[arg(value_name = "GROUP", value_parser = level)]
    group: String,
    /// Where to.
    #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
    to: String,
    #[command(flatten)]
    connection: ConnectionArguments,
}

/// Does what the arguments say.
pub(super) async fn run(
    arguments: &Arguments,
    json: bool,
    output: &mut impl Write,
) -> Result<(), CtlError> {
    match &arguments.command {
        Command::List(Listed { queue, connection }) => {
            let groups = groups_of(queue, connection).await?;
            match json {
                true => groups.iter().try_for_each(|group| say(group, "", true, output)),
                false => say(&Value::Null, &table(&group_rows(&groups)), false, output),
            }
        }
        Command::Show(Named { queue, group, connection }) => {
            let groups = groups_of(queue, connection).await?;
            let found = groups.into_iter().find(|it| it["group"] == json!(group));
            let found = found.ok_or_else(|| {
                CtlError::refused(format!("queue '{queue}' has no consumer group '{group}'"))
            })?;
            say(&found, &lines(&found), json, output)
        }
        Command::Seek(Seek { queue, group, to, connection }) => {
            let body = json!({ "group": group, "to": to });
            let answer = ask_once(connection, &format!("queue/{queue}/seek"), &body).await?;
            let moved = messages(&answer["count"]);
            let gone = match &answer["gap"] {
                Value::Null => String::new(),
                Value::Number(count) => format!("; {count} before it are not kept any more"),
                _ => "; some before it are not kept any more".to_owned(),
            };
            say(&answer, &format!("{group} moved over {moved}{gone}"), json, output)
        }
        Command::Delete(Named { queue, group, connection }) => {
            let address = format!("queue/{queue}/delete_group");
            let answer = ask_once(connection, &address, &json!({ "group": group })).await?;
            say(&answer, &format!("{group} deleted"), json, output)
        }
    }
}

async fn groups_of(queue: &str, connection: &ConnectionArguments) -> Result<Vec<Value>, CtlError> {
    let answer = ask_once(connection, &format!("queue/{queue}/show"), &json!({})).await?;
    Ok(answer["groups"].as_array().cloned().unwrap_or_default())
}
