//! `mqttctl`: one module per subcommand, on our own client.
//!
//! Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 refused or not in time, 2 no connection
//! or a lost one, 3 wrong usage. A closed standard output ends a command quietly, as `head` expects.

mod bench;
mod binding;
mod connection;
mod connections;
mod course;
mod definitions;
mod error;
mod exchange;
mod format;
mod group;
mod manage;
mod progress;
mod properties;
mod publish;
mod queue;
mod replay;
mod request;
mod subscribe;
mod users;

#[cfg(test)]
mod request_tests;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

pub use error::CtlError;

/// Publishes, subscribes, administers and measures over MQTT 3.1, 3.1.1 and 5.0.
#[derive(Debug, Parser)]
#[command(
    name = "mqttctl",
    version,
    disable_version_flag = true,
    disable_help_subcommand = true,
    after_help = "\
Exit codes: 0 done · 1 refused, or not in time · 2 no connection, or a lost one · 3 wrong usage

Examples:
  mqttctl publish sensors/1 -m 21.5 -q 1
  mqttctl subscribe 'sensors/#' -v
  mqttctl request ask/time -m now
  mqttctl subscribe '$queue/orders' --from earliest --group billing --format json
  mqttctl replay 'sensors/#' --from=-24h --format json
  mqttctl queue stats orders
  mqttctl group seek orders billing --to=-1h
  mqttctl bench --publishers 4 --subscribers 2 --seconds 10 --json"
)]
struct Arguments {
    /// Prints the version of mqttctl.
    #[arg(long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// Prints results and errors as JSON, one object per line.
    #[arg(long, short = 'j', global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Publishes one message, or many.
    #[command(visible_alias = "pub")]
    Publish(publish::Arguments),
    /// Prints messages as they come in.
    #[command(visible_alias = "sub")]
    Subscribe(subscribe::Arguments),
    /// Publishes a request and prints its responses.
    #[command(visible_alias = "rr")]
    Request(request::Arguments),
    /// Prints what is stored, and ends where history does.
    Replay(replay::Arguments),
    /// Measures throughput and latency, and stops by itself.
    Bench(bench::Arguments),
    /// Declares queues, looks into them, empties them, brings dead letters back.
    Queue(queue::Arguments),
    /// Shows how far consumer groups are, and moves them.
    Group(group::Arguments),
    /// Declares exchanges, looks at them, binds them to one another, deletes them.
    Exchange(exchange::Arguments),
    /// Lists what is bound to what.
    Binding(binding::Bindings),
    /// Shows who is connected, and ends connections.
    Connection(connections::Arguments),
    /// Shows what the channels of AMQP connections are doing.
    Channel(connections::ChannelArguments),
    /// Writes down what there is as RabbitMQ does, and makes what is written down so.
    Definitions(definitions::Arguments),
    /// Writes the broker's file of users.
    Users(users::Arguments),
}

/// Runs the command that `arguments` say, the program's name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let is_answer =
                matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let _ = error.print();
            return if is_answer { ExitCode::SUCCESS } else { ExitCode::from(3) };
        }
    };
    let json = arguments.json;
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut stderr = std::io::stderr();
            let _ = match json {
                true => writeln!(stderr, "{}", error.to_json()),
                false => writeln!(stderr, "mqttctl: {error}"),
            };
            ExitCode::from(error.exit_code())
        }
    }
}

impl Command {
    async fn run(&self, json: bool, output: &mut impl Write) -> Result<(), CtlError> {
        match self {
            Command::Publish(arguments) => publish::run(arguments, json, output).await,
            Command::Subscribe(arguments) => subscribe::run(arguments, json, output).await,
            Command::Request(arguments) => request::run(arguments, json, output).await,
            Command::Replay(arguments) => replay::run(arguments, json, output).await,
            Command::Bench(arguments) => bench::run(arguments, json, output).await,
            Command::Queue(arguments) => queue::run(arguments, json, output).await,
            Command::Group(arguments) => group::run(arguments, json, output).await,
            Command::Exchange(arguments) => exchange::run(arguments, json, output).await,
            Command::Binding(arguments) => binding::run(arguments, json, output).await,
            Command::Connection(arguments) => connections::run(arguments, json, output).await,
            Command::Channel(arguments) => connections::run_channel(arguments, json, output).await,
            Command::Definitions(arguments) => definitions::run(arguments, json, output).await,
            Command::Users(arguments) => users::run(arguments, output),
        }
    }
}

fn run(arguments: Arguments) -> Result<(), CtlError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CtlError::Usage(format!("cannot start threads: {error}")))?;
    let json = arguments.json;
    let mut output = std::io::BufWriter::new(std::io::stdout());
    let result = runtime.block_on(arguments.command.run(json, &mut output));
    // A thread that waits for standard input must not keep the program.
    runtime.shutdown_background();
    let written = output.flush().map_err(CtlError::Output);
    match result.and(written) {
        Err(CtlError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
