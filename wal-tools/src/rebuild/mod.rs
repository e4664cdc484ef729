//! Derives again what is derived from the log, the views in snapshots and the indexes of sealed segments, and compares it with what is
//! there; writes what is not the same, unless it is only to verify.
//!
//! Two states are compared beside the files: that of the whole log, from its beginning, and that of the newest snapshot with the rest of
//! the log, which is how a broker starts.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fluxmq::view::{Views, digest, section_name};
use fluxmq_log::format::FrameKind;
use fluxmq_log::os_disk::OsDisk;
use fluxmq_log::{SnapshotAt, write_snapshot};

use crate::arguments::RebuildArguments;
use crate::fold::{Fold, FoldError, To};
use crate::index::{self, State, index_path};
use crate::lock;
use crate::log_files::{Gap, LogFiles};
use crate::scan::{Opened, Segment};
use crate::side::snapshot_path;
use crate::tree::Tree;
use crate::{CommandError, EXIT_CORRUPTION, source};

/// Rebuilds or verifies what is under a path and returns the exit code: 1 when something is different and stays so, 2 when the log is
/// damaged.
pub fn run(arguments: &RebuildArguments, out: &mut impl Write) -> Result<u8, CommandError> {
    let _lock = lock::hold(&arguments.path)?;
    let mut code = 0;
    for partition in source::partitions(&arguments.path)? {
        let log = LogFiles::open(&partition)?;
        let mut report = Report::compare(&log)?;
        if !arguments.verify && report.gap.is_none() {
            report.rebuild(&log)?;
        }
        if arguments.json {
            writeln!(out, "{}", report.to_tree().to_json())?;
        } else {
            report.print(out)?;
        }
        code = code.max(report.exit_code());
    }
    Ok(code)
}

/// What is there of a partition, and what should be.
struct Report {
    name: String,
    /// What the whole log says.
    whole: Fold,
    whole_digest: u128,
    /// What a broker would start with.
    start_digest: u128,
    snapshots: u64,
    indexes: u64,
    findings: Vec<Finding>,
    gap: Option<Gap>,
}

/// Something derived that is not what the log says.
struct Finding {
    file: PathBuf,
    what: String,
    /// What should be there, if that is known.
    right: Option<Right>,
    /// Reading goes another way while it is not there: no difference.
    is_missing: bool,
    is_rebuilt: bool,
}

/// The right content of a file.
enum Right {
    Snapshot(SnapshotAt, Vec<Bytes>),
    Index(Vec<u8>),
}

/// A snapshot as it is there.
struct Stored {
    at: SnapshotAt,
    sections: Vec<Bytes>,
    /// The members of the group, which are no view.
    members: Bytes,
}

impl Report {
    fn compare(log: &LogFiles) -> Result<Report, CommandError> {
        let mut stored = BTreeMap::new();
        let mut findings = Vec::new();
        for index in &log.snapshots {
            let found = log.snapshot(*index)?.map(|(at, mut sections)| {
                let members = sections.pop().unwrap_or_default();
                Stored { at, sections, members }
            });
            stored.insert(*index, found);
        }
        let mut whole = begin(log, &stored)?;
        let mut right = BTreeMap::new();
        let mut changes = BTreeSet::new();
        if stored.contains_key(&whole.index)
            && let Some(at) = whole.start
        {
            right.insert(whole.index, (at, whole.views.snapshot()));
        }
        let gap = log.frames(whole.index + 1, |listed, placed| {
            let header = &placed.frame.header;
            let step: ControlFlow<()> = whole.entry(listed, placed, None)?;
            if header.kind == FrameKind::ConfChange {
                changes.insert(header.index);
            }
            if stored.contains_key(&header.index) {
                let (index, term, end) = (header.index, header.term, header.end_offset());
                let sections = whole.views.snapshot();
                right.insert(index, (SnapshotAt { index, term, end }, sections));
            }
            Ok(step)
        })?;
        for (index, found) in &stored {
            let what = match (found, right.get(index)) {
                (Err(damage), None) => Some(damage.to_string()),
                (Ok(_), None) => Some("is of an entry that the log does not have".to_owned()),
                (Err(damage), Some(_)) => Some(damage.to_string()),
                (Ok(found), Some((at, sections))) => difference(found, *at, sections),
            };
            let Some(what) = what else { continue };
            let members = members_at(*index, &stored, &changes);
            let right = right.remove(index).zip(members).map(|((at, mut sections), members)| {
                sections.push(members);
                Right::Snapshot(at, sections)
            });
            let file = snapshot_path(&log.dir, *index);
            findings.push(Finding { file, what, right, is_missing: false, is_rebuilt: false });
        }
        let mut report = Report {
            name: log.name.clone(),
            whole_digest: digest(&whole.views.snapshot()),
            start_digest: digest(&Fold::of(log, To::End)?.views.snapshot()),
            whole,
            snapshots: stored.len() as u64,
            indexes: 0,
            findings,
            gap: gap.filter(|gap| !gap.is_tail),
        };
        report.compare_indexes(log)?;
        Ok(report)
    }

    fn compare_indexes(&mut self, log: &LogFiles) -> Result<(), CommandError> {
        for listed in &log.segments {
            let Opened::Segment(segment) = Segment::open(&listed.path)? else { continue };
            let judged = index::judge(&segment)?;
            if listed.is_last && !judged.is_sealed {
                continue;
            }
            self.indexes += 1;
            // Of a damaged segment nothing can be said; the gap tells of it.
            let Some(bytes) = judged.bytes else { continue };
            if judged.state != State::Right {
                self.findings.push(Finding {
                    file: index_path(&listed.path),
                    what: judged.state.to_string(),
                    right: Some(Right::Index(bytes)),
                    is_missing: judged.state == State::Missing,
                    is_rebuilt: false,
                });
            }
        }
        Ok(())
    }

    /// Writes what is known to be right where something else is.
    fn rebuild(&mut self, log: &LogFiles) -> Result<(), CommandError> {
        let failed = |path: &Path, source| CommandError::Write { path: path.to_owned(), source };
        let disk = OsDisk::new(log.dir.clone()).map_err(|source| failed(&log.dir, source))?;
        for finding in &mut self.findings {
            match &finding.right {
                Some(Right::Snapshot(at, chunks)) => {
                    write_snapshot(&disk, Path::new(""), *at, chunks)?;
                }
                Some(Right::Index(bytes)) => {
                    index::write_index(&finding.file, bytes)
                        .map_err(|source| failed(&finding.file, source))?;
                }
                None => continue,
            }
            finding.is_rebuilt = true;
        }
        if self.findings.iter().any(|finding| finding.is_rebuilt) {
            self.start_digest = digest(&Fold::of(log, To::End)?.views.snapshot());
        }
        Ok(())
    }

    fn is_different(&self) -> bool {
        let mut findings = self.findings.iter();
        self.whole_digest != self.start_digest
            || findings.any(|finding| !finding.is_rebuilt && !finding.is_missing)
    }

    fn exit_code(&self) -> u8 {
        match (&self.gap, self.is_different()) {
            (Some(_), _) => EXIT_CORRUPTION,
            (None, is_different) => u8::from(is_different),
        }
    }

    fn outcome(&self) -> &'static str {
        match (&self.gap, self.is_different()) {
            (Some(_), _) => "damaged",
            (None, true) => "different",
            (None, false) if self.findings.iter().any(|finding| finding.is_rebuilt) => "rebuilt",
            (None, false) => "equal",
        }
    }

    fn print(&self, out: &mut impl Write) -> Result<(), CommandError> {
        let outcome = match self.outcome() {
            "damaged" => "DAMAGED",
            "different" => "DIFFERENT",
            quiet => quiet,
        };
        let (end, index) = (self.whole.end, self.whole.index);
        let Report { name, whole_digest, snapshots, indexes, .. } = self;
        writeln!(
            out,
            "{name}: {outcome}: state {whole_digest:032x} before offset {end}, index {index}; \
             {snapshots} snapshots, {indexes} indexes"
        )?;
        if *whole_digest != self.start_digest {
            let start = self.start_digest;
            writeln!(out, "  the newest snapshot and the rest of the log are {start:032x}")?;
        }
        for finding in &self.findings {
            let done = if finding.is_rebuilt { "; built again" } else { "" };
            writeln!(out, "  {}: {}{done}", finding.file.display(), finding.what)?;
            if finding.right.is_none() {
                writeln!(out, "    cannot be built from here: a broker that starts does without")?;
            }
        }
        if let Some(gap) = &self.gap {
            writeln!(out, "  {gap}")?;
            writeln!(
                out,
                "    nothing was compared behind it, and nothing written; see wal-tools repair"
            )?;
        }
        Ok(())
    }

    fn to_tree(&self) -> Tree {
        let finding = |finding: &Finding| {
            Tree::Fields(vec![
                ("file", Tree::Text(finding.file.display().to_string())),
                ("what", Tree::Text(finding.what.clone())),
                ("is_missing", Tree::Flag(finding.is_missing)),
                ("is_rebuilt", Tree::Flag(finding.is_rebuilt)),
            ])
        };
        let hex = |digest: u128| Tree::Text(format!("{digest:032x}"));
        Tree::Fields(vec![
            ("partition", Tree::Text(self.name.clone())),
            ("outcome", Tree::Text(self.outcome().to_owned())),
            ("before_offset", Tree::Number(self.whole.end.0)),
            ("index", Tree::Number(self.whole.index)),
            ("whole_log", hex(self.whole_digest)),
            ("newest_snapshot_and_rest", hex(self.start_digest)),
            ("snapshots", Tree::Number(self.snapshots)),
            ("indexes", Tree::Number(self.indexes)),
            ("findings", Tree::list(self.findings.iter().map(finding))),
            ("damage", self.gap.as_ref().map_or(Tree::None, |gap| Tree::Text(gap.to_string()))),
        ])
    }
}

/// A snapshot or why there is none.
type Found = Result<Stored, crate::side::snapshot::SnapshotDamage>;

/// Begins where the log begins: with nothing, or with the oldest snapshot that can be read of a log that was trimmed.
fn begin(log: &LogFiles, stored: &BTreeMap<u64, Found>) -> Result<Fold, CommandError> {
    let index = log.base.index;
    if index == 0 {
        return Ok(Fold::empty());
    }
    let lost = || FoldError::NoSnapshot {
        name: log.name.clone(),
        base: log.base.offset,
        path: snapshot_path(&log.dir, index),
        dir: log.dir.clone(),
    };
    let Some(first) = stored.values().flatten().next() else { return Err(lost().into()) };
    let views = Views::restore(&first.sections).map_err(|_| lost())?;
    Ok(Fold::restored(views, first.at))
}

/// Says how a snapshot differs from what the log makes.
fn difference(found: &Stored, at: SnapshotAt, sections: &[Bytes]) -> Option<String> {
    if found.at != at {
        return Some(format!("says {:?}, the log {at:?}", found.at));
    }
    if found.sections == sections {
        return None;
    }
    // One of an older release may lack views that were not there then: what it stands for is what a broker makes of it.
    let restored = match Views::restore(&found.sections) {
        Ok(views) => views.snapshot(),
        Err(error) => return Some(error.to_string()),
    };
    let mut pairs = restored.iter().zip(sections);
    let (_, wrong) = pairs.find(|(restored, right)| restored != right)?;
    let name = section_name(wrong).unwrap_or("?");
    Some(format!("its view '{name}' is not the one that the log makes"))
}

/// Returns the members of the group at an entry: those of a snapshot between which and the entry they did not change.
fn members_at(index: u64, stored: &BTreeMap<u64, Found>, changes: &BTreeSet<u64>) -> Option<Bytes> {
    let is_same = |other: u64| {
        let (from, to) = (index.min(other), index.max(other));
        changes.range(from + 1..=to).next().is_none()
    };
    let intact = stored.values().flatten();
    let mut same = intact.filter(|stored| is_same(stored.at.index));
    same.next().map(|stored| stored.members.clone())
}
