//! Prints what the broker knew at any place of its log: a session, a queue, a group, retained messages, or how much there was of each.
//!
//! The state is folded from the log by the broker's own views (`fold.rs`); nothing is written and no lock is taken.

use std::io::Write;

use fluxmq::model::record::queue_id;
use fluxmq::view::digest;
use fluxmq_index::matches;

use crate::arguments::{Format, StateArguments};
use crate::fold::{Fold, FoldError};
use crate::log_files::LogFiles;
use crate::record_line::{self, Style};
use crate::tree::Tree;
use crate::{CommandError, EXIT_CORRUPTION, EXIT_USAGE, side, source, warn};

mod group;
mod queue;
mod session;

/// Prints the state under a path and returns the exit code: 1 when what was asked for is not there.
pub fn run(arguments: &StateArguments, out: &mut impl Write) -> Result<u8, CommandError> {
    let mut state = State { arguments, out, found: 0, code: 0 };
    for partition in source::partitions(&arguments.path)? {
        match Fold::of_partition(&partition, arguments.at) {
            Ok((log, fold)) => state.partition(&log, &fold)?,
            // The others may go further back.
            Err(CommandError::Fold(error @ FoldError::Before { .. })) => {
                warn(&error);
                state.code = state.code.max(EXIT_USAGE);
            }
            Err(error) => return Err(error),
        }
    }
    if state.found == 0 && state.code == 0 && arguments.is_selective() {
        warn(&"nothing of that name was there then; without a selection everything is counted");
        state.code = 1;
    }
    Ok(state.code)
}

struct State<'a, W> {
    arguments: &'a StateArguments,
    out: &'a mut W,
    /// How much of what was asked for was there.
    found: usize,
    code: u8,
}

impl<W: Write> State<'_, W> {
    fn partition(&mut self, log: &LogFiles, fold: &Fold) -> Result<(), CommandError> {
        match &fold.gap {
            Some(gap) if gap.is_tail => warn(&format_args!("{gap}; not proven durable, left out")),
            Some(gap) => {
                warn(&format_args!("{gap}; the state is that before the damage"));
                self.code = self.code.max(EXIT_CORRUPTION);
            }
            None => {}
        }
        let arguments = self.arguments;
        let found = match (&arguments.session, &arguments.queue, &arguments.group) {
            (Some(client_id), _, _) => session::find(fold, client_id.as_bytes()),
            (None, Some(name), None) => queue::find(fold, name.as_bytes()),
            (None, queue, Some(group)) => {
                let queue = queue.as_ref().map(|name| queue_id(name.as_bytes()));
                group::find(fold, group.as_bytes(), queue)
            }
            (None, None, None) => match &arguments.retained {
                Some(filter) => self.retained(log, fold, filter.as_bytes())?,
                None => vec![summary(fold)],
            },
        };
        self.found += found.len();
        for what in found {
            let as_of = as_of(log, fold)?;
            let line = match arguments.format {
                Format::Json => {
                    let Tree::Fields(what) = what else { unreachable!("everything has fields") };
                    Tree::Fields([as_of, what].concat()).to_json()
                }
                Format::Text => {
                    format!("{}\n{}\n", Tree::Fields(as_of).to_text(), what.to_text())
                }
            };
            writeln!(self.out, "{line}")?;
        }
        Ok(())
    }

    fn retained(
        &self,
        log: &LogFiles,
        fold: &Fold,
        filter: &[u8],
    ) -> Result<Vec<Tree>, CommandError> {
        let mut found = Vec::new();
        for (topic, retained) in fold.views.retained.iter().filter(|(it, _)| matches(filter, it)) {
            let style =
                Style { format: self.arguments.format, payload: Some(self.arguments.payload) };
            let record = match log.message(retained.offset())? {
                Some((place, message)) => record_line::message(place, &message, &[], style),
                None => "not in the log any more".to_owned(),
            };
            found.push(Tree::Fields(vec![
                ("topic", Tree::bytes(topic)),
                ("offset", Tree::Number(retained.offset().0)),
                ("expires_at", Tree::time(retained.expires_at().map(|at| at.0))),
                ("bytes", Tree::Number(retained.bytes())),
                ("record", Tree::Line(record)),
            ]));
        }
        Ok(found)
    }
}

/// Returns which state it is.
fn as_of(log: &LogFiles, fold: &Fold) -> Result<Vec<(&'static str, Tree)>, CommandError> {
    let commit = side::read_commit(&log.dir)?.unwrap_or(0).max(fold.committed);
    let mut fields = vec![
        ("partition", Tree::Text(log.name.clone())),
        ("before_offset", Tree::Number(fold.end.0)),
        ("index", Tree::Number(fold.index)),
        ("time", Tree::time(fold.time)),
    ];
    if fold.index > commit {
        // On a single node they are all the same; a replica's last entries may be replaced by a new leader's.
        fields.push(("committed_for_certain_to_index", Tree::Number(commit)));
    }
    Ok(fields)
}

/// Counts everything.
fn summary(fold: &Fold) -> Tree {
    let views = &fold.views;
    let number = |count: usize| Tree::Number(count as u64);
    let away = views.sessions.away();
    let sections = views.snapshot();
    let (ids, producers) = views.inputs.counts();
    let mut fields = vec![
        ("from_snapshot", fold.start.map_or(Tree::None, |at| Tree::Number(at.index))),
        ("entries_read", Tree::Number(fold.entries)),
        ("digest", Tree::Text(format!("{:032x}", digest(&sections)))),
        ("snapshot_bytes", number(sections.iter().map(|section| section.len()).sum())),
        ("sessions", number(views.sessions.len())),
        ("sessions_away", number(away.sessions)),
        ("wills", number(views.wills.len())),
        ("retained", number(views.retained.len())),
        ("retained_bytes", Tree::Number(views.retained.bytes())),
        ("open_qos2_publishes", number(views.dedup.len())),
        ("remembered_ids", number(ids)),
        ("remembered_producers", number(producers)),
        ("history_begins_at", Tree::Number(views.horizon.start().0)),
        ("exchanges", number(views.exchanges.iter().count())),
        ("bindings", number(views.exchanges.bindings().count() + views.bindings.iter().count())),
        ("queues", Tree::list(views.queues.iter().map(|(_, queue)| queue::line(queue)))),
        ("groups", Tree::list(views.groups.iter().map(|it| group::line(fold, it)))),
    ];
    if let Some(count) = views.topology.data_partitions() {
        fields.push(("data_partitions", Tree::Number(u64::from(count))));
    }
    Tree::Fields(fields)
}
