//! Inspects the segments of a FluxMQ data directory, of a stopped or a running broker.
//!
//! Reads only, without a lock, but for two commands: `index --rebuild` puts indexes in place, which is safe at any time; `rebuild` and
//! `repair` hold the data directory's lock. Exit codes: 0 clean, 1 only a torn
//! tail or rot where nothing is stored, 2 corruption, 3 usage or a path that cannot be read.

mod arguments;
mod diff;
mod dump;
mod extract;
mod finding;
mod fold;
mod grep;
mod index;
mod link;
mod lock;
mod log_files;
mod names;
mod rebuild;
mod record_line;
mod repair;
mod scan;
mod search;
mod side;
mod source;
mod stat;
mod state;
mod text;
mod time;
mod tree;
mod verify;
mod walk;

use std::fmt::Display;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};
use extract::ExtractError;
use fluxmq_log::SnapshotReadError;
use fold::FoldError;
use lock::LockError;
use repair::RepairError;
use source::SourceError;

const EXIT_CORRUPTION: u8 = 2;
const EXIT_USAGE: u8 = 3;

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Fold(#[from] FoldError),
    #[error(transparent)]
    Extract(#[from] ExtractError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Repair(#[from] RepairError),
    #[error("cannot write the snapshot: {0}")]
    Snapshot(#[from] SnapshotReadError),
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

impl CommandError {
    fn exit_code(&self) -> u8 {
        match self {
            CommandError::Fold(FoldError::NoSnapshot { .. } | FoldError::Decode { .. })
            | CommandError::Extract(ExtractError::Frame { .. })
            | CommandError::Repair(RepairError::HardState { .. } | RepairError::Open(_)) => {
                EXIT_CORRUPTION
            }
            CommandError::Fold(FoldError::Alone { .. } | FoldError::Before { .. })
            | CommandError::Extract(ExtractError::Exists { .. } | ExtractError::Several { .. })
            | CommandError::Source(_)
            | CommandError::Lock(_)
            | CommandError::Repair(_)
            | CommandError::Snapshot(_)
            | CommandError::Write { .. }
            | CommandError::Output(_) => EXIT_USAGE,
        }
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return say_usage(&error),
    };
    let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    let outcome = run(arguments.command, &mut out).and_then(|code| {
        out.flush()?;
        Ok(code)
    });
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(CommandError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            // The reader, `head` for one, has seen enough.
            ExitCode::SUCCESS
        }
        Err(error) => {
            warn(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command: Command, out: &mut impl Write) -> Result<u8, CommandError> {
    match command {
        Command::Diff(arguments) => diff::run(&arguments, out),
        Command::Dump(arguments) => dump::run(&arguments, out),
        Command::Verify(arguments) => verify::run(&arguments, out),
        Command::Stat(arguments) => stat::run(&arguments, out),
        Command::Extract(arguments) => extract::run(&arguments, out),
        Command::Grep(arguments) => grep::run(&arguments, out),
        Command::Index(arguments) => index::run(&arguments, out),
        Command::Rebuild(arguments) => rebuild::run(&arguments, out),
        Command::Repair(arguments) => repair::run(&arguments, out),
        Command::State(arguments) => state::run(&arguments, out),
    }
}

/// Says something beside the output, on standard error.
fn warn(message: &dyn Display) {
    // Nobody to tell when standard error is gone too.
    let _ = writeln!(io::stderr(), "wal-tools: {message}");
}

/// Prints what clap has to say: help and version are asked for, everything else is a mistake.
fn say_usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS }
}
