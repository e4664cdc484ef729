//! The real binary against segments built frame by frame, and against directories that the log engine wrote.

#![allow(clippy::unwrap_used)]

mod diff;
mod dump;
mod engine;
mod extract;
mod fixture;
mod grep;
mod index;
mod rebuild;
mod repair;
mod stat;
mod state;
mod stored;
mod usage;
mod verify;

use std::path::Path;
use std::process::{Command, Output};

/// Runs the binary.
fn wal_tools(arguments: &[&str], path: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wal-tools"));
    command.args(&arguments[..1]).arg(path).args(&arguments[1..]);
    command.output().unwrap()
}

fn exit_code(output: &Output) -> i32 {
    output.status.code().expect("the process was not killed")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
