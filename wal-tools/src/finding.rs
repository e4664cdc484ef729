//! What verification found to be wrong, and how it is told.

use std::fmt;
use std::io::{self, Write};
use std::ops::Range;
use std::path::PathBuf;

use fluxmq_index::Offset;

/// How bad it is. The order is that of the exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// What is derived from the log, and can be derived again, is not what it should be.
    Derived,
    /// Bytes in which nothing is stored are not the zeros they should be.
    Unused,
    /// Bytes at the end that were never confirmed to anyone.
    TornTail,
    /// Bytes that were durable are damaged or missing.
    Corruption,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file.
    pub file: PathBuf,
    /// Where in the file, in bytes.
    pub bytes: Range<u64>,
    /// What is wrong.
    pub what: String,
    /// Which records are concerned.
    pub records: Records,
    /// What to do.
    pub advice: Advice,
}

/// What to do about a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Nothing: the broker cuts a torn tail off.
    Cut,
    /// Nothing: the broker repairs or rebuilds the file.
    Rebuilt,
    /// Nothing: the broker fills the bytes with zeros again.
    Wiped,
    /// Nothing: the broker throws the file away.
    Discarded,
    /// The file must come back from somewhere else.
    Restore,
    /// Nothing: the broker builds the index again when it meets it.
    Indexed,
    /// The node forgot whom it voted for.
    JoinAgain,
    /// A snapshot must not be relied on.
    OtherSnapshot,
}

/// Which records a finding concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// None: only the bytes around records, or no record at all.
    None,
    /// Exactly these.
    Known {
        /// The first.
        start: Offset,
        /// Behind the last.
        end: Offset,
    },
    /// These and possibly more.
    From {
        /// The first.
        start: Offset,
    },
}

impl Finding {
    /// Prints where, what, and what to do.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let Range { start, end } = self.bytes;
        writeln!(out, "  {}: {}, bytes {start}..{end}", self.severity, self.file.display())?;
        writeln!(out, "    {}", self.what)?;
        match self.records {
            Records::None => writeln!(out, "    no record is concerned")?,
            Records::Known { start, end } => writeln!(out, "    offsets {start}..{end}")?,
            Records::From { start } => writeln!(out, "    offsets {start} and later")?,
        }
        let advice = match self.advice {
            Advice::Cut => {
                "nothing confirmed was lost: the broker cuts the tail off when it starts; \
                 while it runs, this may be a write in progress"
            }
            Advice::Rebuilt => "the broker repairs this when it starts; nothing is lost",
            Advice::Wiped => {
                "nothing is stored there, and the broker fills it with zeros again when it starts; \
                 have an eye on the disk"
            }
            Advice::Discarded => {
                "nothing is stored there, and the broker makes a new one when it starts; \
                 have an eye on the disk"
            }
            Advice::Restore => {
                "copy the directory before anything else, then restore this file from \
                 another replica or a backup; what is intact can be read with wal-tools dump"
            }
            Advice::Indexed => {
                "nothing is lost: the broker reads the segment instead, and builds its index \
                 again; so does wal-tools index --rebuild"
            }
            Advice::JoinAgain => {
                "the broker does not start from this: let the node join again with an empty \
                 directory, or restore the partition from a backup if there is no other replica"
            }
            Advice::OtherSnapshot => {
                "the broker starts from the snapshot before it, if that is intact"
            }
        };
        writeln!(out, "    {advice}")
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Severity::Derived => "wrong index",
            Severity::Unused => "rot in unused bytes",
            Severity::TornTail => "torn tail",
            Severity::Corruption => "corruption",
        })
    }
}

/// Returns the exit code for the worst of the findings.
pub fn exit_code<'a>(findings: impl Iterator<Item = &'a Finding>) -> u8 {
    match findings.map(|finding| finding.severity).max() {
        None => 0,
        Some(Severity::Derived | Severity::Unused | Severity::TornTail) => 1,
        Some(Severity::Corruption) => crate::EXIT_CORRUPTION,
    }
}
