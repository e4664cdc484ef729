//! `mqttctl definitions`: what there is, written down in the shape of RabbitMQ's definitions, and made so from what is written down.
//!
//! Everything that a file says is accounted for, object by object: made, there already, otherwise, or not taken and why ([`report`]).

mod export;
mod file;
mod import;
mod plan;
mod policy;
mod report;
mod standing;
#[cfg(test)]
mod tests;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::connection::ConnectionArguments;
use super::error::CtlError;

#[derive(Debug, Args)]
#[command(after_help = "\
The file is what RabbitMQ's 'rabbitmqctl export_definitions', its management page and its HTTP API write, and what they read. Queues, \
exchanges and bindings are taken; policies are applied to the queues and exchanges of the file that they match, as arguments. Users, permissions \
and parameters are not taken, and the report says so, one by one: exit code 1, unless --without says that they are left out.

Examples:
  mqttctl definitions import rabbit.json --dry-run
  mqttctl definitions import rabbit.json --without users,permissions,topic_permissions,parameters,global_parameters
  mqttctl definitions export topology.json")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes the queues, exchanges and bindings that there are.
    Export(Export),
    /// Declares what a file says and is not there. Doing it again changes nothing.
    Import(Import),
}

#[derive(Debug, Args)]
struct Export {
    /// Where to; standard output when it is left out.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    connection: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(super) struct Import {
    /// What to read; standard input when it is left out, or '-'.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Says what would be done, and does nothing.
    #[arg(long)]
    dry_run: bool,
    /// Sections of the file to leave out.
    #[arg(long, value_name = "SECTION,SECTION", value_delimiter = ',', value_parser = file::SECTIONS)]
    without: Vec<String>,
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
        Command::Export(Export { file, connection }) => {
            let (definitions, notes) = export::export(connection).await?;
            for note in notes {
                let _ = writeln!(std::io::stderr(), "mqttctl: {note}");
            }
            let text = serde_json::to_string_pretty(&definitions)
                .map_err(|error| CtlError::Output(error.into()))?;
            match file {
                Some(file) => std::fs::write(file, text + "\n").map_err(CtlError::Output),
                None => writeln!(output, "{text}").map_err(CtlError::Output),
            }
        }
        Command::Import(import) => {
            let text = read(import.file.as_deref())?;
            let definitions = file::Definitions::parse(&text)
                .map_err(|error| CtlError::Usage(format!("no definitions: {error}")))?;
            import::import(import, definitions, json, output).await
        }
    }
}

fn read(file: Option<&Path>) -> Result<String, CtlError> {
    let name = |file: &Path| file.display().to_string();
    let (read, name) = match file.filter(|file| file.as_os_str() != "-") {
        Some(file) => (std::fs::read_to_string(file), name(file)),
        None => {
            let mut text = String::new();
            (std::io::stdin().read_to_string(&mut text).map(|_| text), "standard input".to_owned())
        }
    };
    read.map_err(|error| CtlError::Usage(format!("cannot read {name}: {error}")))
}
