//! What is wrong with a file of rules: every bad line at once, none of them quoted, for it may hold a secret.

use std::fmt;

use thiserror::Error;

/// One bad line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong and what to write.
    pub text: String,
}

/// Every bad line of a file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let end = if index + 1 < self.0.len() { "\n" } else { "" };
            write!(formatter, "line {}: {}{end}", problem.line, problem.text)?;
        }
        Ok(())
    }
}

/// Reads a file line by line: `read` takes each that says something, with its number, and complains about bad ones.
pub(super) fn read_lines(
    text: &str,
    mut read: impl FnMut(usize, &str) -> Result<(), String>,
) -> Result<(), Problems> {
    let mut problems = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Err(text) = read(index + 1, line) {
            problems.push(Problem { line: index + 1, text });
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Problems(problems)) }
}
