//! A program that is run or left running, never longer than it may, and killed by its pid when dropped.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use crate::process::{PATIENCE, wait};

/// Returns true when `program` can be run; says so, or fails, when it cannot.
pub fn is_installed(program: &str, arguments: &[&str]) -> bool {
    match probe(program, arguments) {
        Ok(()) => true,
        Err(reason) => skip(&reason),
    }
}

/// Returns true when a program can be run, whatever it is needed for.
pub fn can_run(program: &str, arguments: &[&str]) -> bool {
    probe(program, arguments).is_ok()
}

/// Returns true when a file is there; says so, or fails, when it is not. `variable` says where it is looked for.
pub fn is_there(file: &Path, variable: &str) -> bool {
    file.is_file() || skip(&format!("{variable}: there is no {}", file.display()))
}

fn skip(reason: &str) -> bool {
    let is_required = std::env::var("FLUXMQ_INTEROP").is_ok_and(|value| value == "required");
    assert!(!is_required, "FLUXMQ_INTEROP=required, but {reason}");
    eprintln!("SKIPPED: {reason}");
    false
}

fn probe(program: &str, arguments: &[&str]) -> Result<(), String> {
    let status = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match status {
        Ok(_) if arguments.is_empty() => Ok(()),
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("'{program} {}' ends with {status}", arguments.join(" "))),
        Err(error) => Err(format!("cannot run {program}: {error}")),
    }
}

/// A running program. Its output is read line by line, standard error among it.
pub struct Program {
    child: Child,
    name: String,
    lines: Receiver<String>,
    /// Everything it has said so far.
    pub said: VecDeque<String>,
}

impl Program {
    /// Starts a program with something to read.
    pub fn start(program: &str, arguments: &[&str], input: &str) -> Program {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_owned());
        // A program that ends early does not read everything: that is for its test to judge.
        std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let name = format!("{program} {}", arguments.join(" "));
        Program { child, name, lines, said: VecDeque::new() }
    }

    /// Waits for a line that contains `words`.
    pub fn expect(&mut self, words: &str) {
        self.expect_count(words, 1);
    }

    /// Waits for `count` lines that contain `words`, counted from now on.
    pub fn expect_count(&mut self, words: &str, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        let mut found = 0;
        while found < count {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    found += usize::from(line.contains(words));
                    self.said.push_back(line);
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!(
                        "{}: {found} of {count} lines say '{words}':\n{}",
                        self.name,
                        self.text()
                    );
                }
            }
        }
    }

    /// Kills it and returns everything it said.
    pub fn stop(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.end().1
    }

    /// Waits for the end of the program; fails when it is not a success. Returns everything it said.
    pub fn finish(self) -> Vec<String> {
        let (code, lines) = self.end();
        assert_eq!(code.0, Some(0), "{}:\n{}", code.1, lines.join("\n"));
        lines
    }

    /// Waits for the end of the program, however it ends.
    pub fn end(mut self) -> ((Option<i32>, String), Vec<String>) {
        let status = wait(&mut self.child, Instant::now() + PATIENCE);
        if status.is_none() {
            let _ = (self.child.kill(), self.child.wait());
        }
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.said.push_back(line);
        }
        let lines = std::mem::take(&mut self.said).into();
        let code = status.and_then(|status| status.code());
        ((code, std::mem::take(&mut self.name)), lines)
    }

    /// Kills it with SIGKILL: the broker sees the connection end without a word.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn text(&self) -> String {
        self.said.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

/// Runs a program to its end and returns what it said; fails when it fails.
pub fn run(program: &str, arguments: &[&str], input: &str) -> Vec<String> {
    Program::start(program, arguments, input).finish()
}
