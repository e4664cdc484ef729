//! What became of each object of a file, and what is said of that.

use std::fmt;

use serde_json::{Value, json};

/// One object of a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// What it is: `queue`, `binding`, `user`.
    pub(super) kind: String,
    /// Which.
    pub(super) name: String,
    pub(super) outcome: Outcome,
    /// What is to be known beside.
    pub(super) notes: Vec<String>,
}

/// What became of it, or would.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    /// It was not there.
    Made,
    /// It was there, just so.
    There,
    /// It is part of others now.
    Applied(String),
    /// Its section was to be left out.
    Skipped,
    /// It is there, otherwise, and stays as it is: in what it differs.
    Differs(Vec<String>),
    /// There is nothing here that it could become: why.
    Left(String),
    /// The broker did not want it: why.
    Refused(String),
}

/// How many came to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) made: usize,
    pub(super) there: usize,
    pub(super) applied: usize,
    pub(super) skipped: usize,
    pub(super) differs: usize,
    pub(super) left: usize,
    pub(super) refused: usize,
}

impl Entry {
    pub(super) fn new(kind: &str, name: impl Into<String>, outcome: Outcome) -> Entry {
        Entry { kind: kind.to_owned(), name: name.into(), outcome, notes: Vec::new() }
    }

    pub(super) fn to_json(&self) -> Value {
        let detail = self.outcome.detail();
        json!({
            "outcome": self.outcome.word(), "kind": self.kind, "name": self.name, "detail": detail,
            "notes": self.notes
        })
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Entry { kind, name, outcome, notes } = self;
        write!(formatter, "{:<8} {kind} '{name}'", outcome.word())?;
        if let Some(detail) = outcome.detail() {
            write!(formatter, ": {detail}")?;
        }
        notes.iter().try_for_each(|note| write!(formatter, "\n         {note}"))
    }
}

impl Outcome {
    fn word(&self) -> &'static str {
        match self {
            Outcome::Made => "made",
            Outcome::There => "there",
            Outcome::Applied(_) => "applied",
            Outcome::Skipped => "skipped",
            Outcome::Differs(_) => "differs",
            Outcome::Left(_) => "left",
            Outcome::Refused(_) => "refused",
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Outcome::Made | Outcome::There => None,
            Outcome::Skipped => Some("as it was asked for".to_owned()),
            Outcome::Differs(differences) => Some(differences.join("; ")),
            Outcome::Applied(detail) | Outcome::Left(detail) | Outcome::Refused(detail) => {
                Some(detail.clone())
            }
        }
    }
}

impl Summary {
    pub(super) fn of(entries: &[Entry]) -> Summary {
        let mut summary = Summary::default();
        for entry in entries {
            let count = match entry.outcome {
                Outcome::Made => &mut summary.made,
                Outcome::There => &mut summary.there,
                Outcome::Applied(_) => &mut summary.applied,
                Outcome::Skipped => &mut summary.skipped,
                Outcome::Differs(_) => &mut summary.differs,
                Outcome::Left(_) => &mut summary.left,
                Outcome::Refused(_) => &mut summary.refused,
            };
            *count += 1;
        }
        summary
    }

    /// Objects that are not here as the file has them.
    pub(super) fn not_taken(&self) -> usize {
        self.differs + self.left + self.refused
    }

    pub(super) fn to_json(self) -> Value {
        let Summary { made, there, applied, skipped, differs, left, refused } = self;
        json!({
            "made": made, "there": there, "applied": applied, "skipped": skipped, "differs": differs,
            "left": left, "refused": refused
        })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { made, there, applied, skipped, differs, left, refused } = self;
        write!(
            formatter,
            "{made} made, {there} there, {applied} applied, {skipped} skipped, {differs} differ, {left} left, {refused} refused"
        )
    }
}
