//! History that is over: what is too old or too much goes from the log's beginning.
//!
//! The leader decides where history is to begin and says so in the log (`HistoryTrimmed`). Views never let it begin above what
//! somebody will ask for (`Views::pinned`), so records that keep it back are stored again first (`Moved`), as many as publishers do not
//! notice (`retention/pace.rs`). Whole segments below the beginning go on every replica by itself, as far as it has a snapshot
//! for its log to begin after (ADR 0024, 0046, 0047, 0052).

mod needed;
mod pace;

use std::collections::VecDeque;

use fluxmq_index::Offset;
use fluxmq_log::disk::Disk;
use fluxmq_log::{Log, SegmentInfo};

use self::pace::Pace;
use super::{APPLY_READ_BYTES, Applied, Partition, PartitionError, RECORDS_PER_TURN_MAX};
use crate::model::frame::{Decoded, decode};
use crate::model::{Control, Millis};

/// Milliseconds between two looks at how much history there is.
const LOOK_EVERY_MS: u64 = 1_000;
/// The same after a look that found history kept back by more than may be moved.
const LOOK_AGAIN_MS: u64 = 10_000;
/// The age of history is kept to within so many milliseconds: a thousandth of it, as far as these allow.
const AGE_STEP_MS_MIN: u64 = 1_000;
const AGE_STEP_MS_MAX: u64 = 60_000;
/// How history gets to where it is to begin.
#[derive(Debug, Default)]
pub(super) struct Retention {
    look_at: Millis,
    /// Log time up to which the age was looked at.
    aged_to: Millis,
    /// Where history is to begin.
    goal: Offset,
    step: Step,
    /// How much may be stored again now.
    pub(super) pace: Pace,
    /// Bytes of frames applied since the last snapshot that ends a segment.
    pub(super) since_end: u64,
    /// Segments may be below where history begins, and a snapshot may allow them to go.
    may_drop: bool,
}

/// What is under way.
#[derive(Debug, Default)]
enum Step {
    #[default]
    None,
    /// What is needed below `to` is being stored again.
    Moving { to: Offset, rest: VecDeque<(Offset, Entries)>, under_way: usize },
    /// The record that says where history begins is on its way.
    Trimming,
}

/// The entries of queues that one record is; none of a retained message that is in no queue.
type Entries = Vec<(u64, Offset)>;

impl Retention {
    /// Begins with a log that was opened.
    pub(super) fn new<D: Disk>(log: &Log<D>, applied: Applied) -> Retention {
        let ends = log.snapshots().into_iter().map(|at| at.index);
        let end = ends.filter(|index| log.ends_segment(*index)).max().unwrap_or(0);
        let segments = log.segments();
        let behind =
            segments.iter().filter(|it| it.base_index > end && it.last_index <= applied.index);
        let since_end = behind.map(|segment| segment.end_bytes).sum();
        Retention { since_end, may_drop: true, ..Retention::default() }
    }

    /// There is another snapshot.
    pub(super) fn snapshot_saved(&mut self, ends_segment: bool) {
        self.may_drop = true;
        if ends_segment {
            self.since_end = 0;
        }
    }

    /// Leadership is gone, and with it the part of deciding.
    pub(super) fn resign(&mut self) {
        let Retention { since_end, may_drop, pace, .. } = *self;
        *self = Retention { since_end, may_drop, pace, ..Retention::default() };
    }

    /// A record was stored again.
    pub(super) fn moved(&mut self) {
        if let Step::Moving { under_way, .. } = &mut self.step {
            *under_way = under_way.saturating_sub(1);
        }
    }

    /// Returns true while the record that says where history begins is on its way.
    pub(super) fn is_trimming(&self) -> bool {
        matches!(self.step, Step::Trimming)
    }

    /// History begins where it was said to begin: what is next is looked for at once.
    pub(super) fn trimmed(&mut self) {
        self.step = Step::None;
        self.look_at = Millis(0);
        self.may_drop = true;
    }
}

impl<D: Disk> Partition<D> {
    /// Where history begins: the oldest record that anybody is given.
    pub(super) fn history_start(&self) -> Offset {
        self.views.horizon.start().max(self.log().first_offset())
    }

    /// Brings history nearer to what it is to be.
    pub(super) fn retain_history(&mut self) -> Result<(), PartitionError> {
        if self.options.history_age_max_ms == 0 && self.options.history_bytes_max == 0 {
            return Ok(());
        }
        self.retention.pace.tick(self.flushing);
        if self.now >= self.retention.look_at && matches!(self.retention.step, Step::None) {
            self.retention.look_at = self.now.plus(LOOK_EVERY_MS);
            self.set_goal()?;
            if self.retention.goal > self.history_start() {
                self.find_way()?;
            }
        }
        self.go_on()
    }

    /// Decides where history is to begin, by its age and its bytes.
    fn set_goal(&mut self) -> Result<(), PartitionError> {
        let bytes_max = self.options.history_bytes_max;
        let mut goal = self.retention.goal;
        if bytes_max > 0 {
            let mut bytes = 0;
            for (newer, segment) in self.log().segments().iter().rev().enumerate() {
                bytes += segment.end_bytes;
                if newer > 0 && bytes > bytes_max {
                    goal = goal.max(segment.end_offset);
                    break;
                }
            }
        }
        let age = self.options.history_age_max_ms;
        let until = Millis(self.now.0.saturating_sub(age));
        let step = (age / 1_000).clamp(AGE_STEP_MS_MIN, AGE_STEP_MS_MAX);
        if age > 0 && until >= self.retention.aged_to.plus(step) {
            self.retention.aged_to = until;
            let aged = self.log().offset_at_time(until.0)?.min(self.applied.end);
            if aged > goal.max(self.history_start()) && self.is_worth_a_record(aged)? {
                goal = aged;
            }
        }
        self.retention.goal = goal.min(self.applied.end);
        Ok(())
    }

    /// Returns true when history below has a message, or much of anything. A record that says where history begins gets old itself: were
    /// it worth another one, an idle partition would write for ever.
    fn is_worth_a_record(&self, to: Offset) -> Result<bool, PartitionError> {
        let mut at = self.history_start();
        if to.0 - at.0 > RECORDS_PER_TURN_MAX as u64 {
            return Ok(true);
        }
        while at < to {
            let frames = self.log().read(at, APPLY_READ_BYTES)?;
            let Some(last) = frames.last() else { break };
            at = last.header.end_offset();
            for frame in &frames {
                for record in decode(frame)? {
                    let (offset, _, record) = record?;
                    if offset < to && matches!(record, Decoded::Message(..)) {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }

    /// Takes the next part of the way to the goal, within one segment, and finds what is needed in it.
    fn find_way(&mut self) -> Result<(), PartitionError> {
        let start = self.history_start();
        let goal = self
            .retention
            .goal
            .min(self.follows.pinned(self.said_now()).unwrap_or(Offset(u64::MAX)));
        let segments = self.log().segments();
        let end = segments.iter().map(|segment| segment.end_offset).find(|end| *end > start);
        let to = end.unwrap_or(goal).min(goal);
        // What is mostly needed stays: storing it again would make as much as goes, and again when its turn comes.
        let (to, rest) = match self.is_mostly_over(to) || self.is_mostly_over(goal) {
            true => self.needed_below(to)?,
            false => (start, VecDeque::new()),
        };
        if to <= start {
            self.retention.look_at = self.now.plus(LOOK_AGAIN_MS);
            return Ok(());
        }
        self.retention.step = Step::Moving { to, rest, under_way: 0 };
        Ok(())
    }

    /// Returns true when less than half of the history below is needed by anybody.
    fn is_mostly_over(&self, to: Offset) -> bool {
        let start = self.history_start();
        let share = |segment: &SegmentInfo| {
            let count = segment.end_offset.0 - segment.base_offset.0;
            let part =
                segment.end_offset.min(to).0.saturating_sub(segment.base_offset.max(start).0);
            (segment.end_bytes as u128 * u128::from(part) / u128::from(count.max(1))) as u64
        };
        let bytes: u64 = self.log().segments().iter().map(share).sum();
        2 * self.views.needed_bytes(to, self.now) <= bytes
    }

    /// Stores again what is next, and says where history begins once all of it is.
    pub(super) fn go_on(&mut self) -> Result<(), PartitionError> {
        self.move_some()?;
        let Step::Moving { to, rest, under_way: 0 } = &self.retention.step else { return Ok(()) };
        if !rest.is_empty() {
            return Ok(());
        }
        let pins = [self.views.pinned(self.now), self.follows.pinned(self.said_now())];
        let to = pins.into_iter().flatten().fold(*to, Offset::min);
        if to > self.history_start() {
            self.retention.step = Step::Trimming;
            self.write(&Control::HistoryTrimmed { to }, None);
        } else {
            self.retention.step = Step::None;
            self.retention.look_at = self.now.plus(LOOK_AGAIN_MS);
        }
        Ok(())
    }

    fn move_some(&mut self) -> Result<(), PartitionError> {
        let Step::Moving { under_way: 0, .. } = &self.retention.step else { return Ok(()) };
        let mut turn = self.retention.pace.turn();
        while turn.has_room() {
            let Step::Moving { rest, under_way, .. } = &mut self.retention.step else { break };
            let Some((from, queues)) = rest.pop_front() else { break };
            let Some(message) = self.history.fetch(self.node.log(), from)? else { continue };
            let message = message.into_message();
            *under_way += 1;
            turn.take(message.len_bytes());
            self.write(&Control::Moved { from, queues, message: Box::new(message) }, None);
        }
        self.retention.pace.took(&turn);
        Ok(())
    }

    /// Removes the segments that are wholly below the beginning of history, as far as there is a snapshot that the log can begin after.
    pub(super) fn drop_segments(&mut self) -> Result<(), PartitionError> {
        if !self.retention.may_drop || self.flushing {
            return Ok(());
        }
        self.retention.may_drop = false;
        let start = self.views.horizon.start();
        if start <= self.log().first_offset() {
            return Ok(());
        }
        let segments = self.log().segments();
        let stays = |segment: &&SegmentInfo| segment.end_offset > start || segment.is_active;
        let Some(first) = segments.iter().find(stays) else { return Ok(()) };
        let left = self.trim(first.base_index)?;
        let gone = segments.iter().filter(|segment| segment.last_index < left);
        self.counters.history_bytes_dropped += gone.map(|segment| segment.end_bytes).sum::<u64>();
        self.history.indexes.forget_below(self.node.log().first_offset());
        Ok(())
    }
}
