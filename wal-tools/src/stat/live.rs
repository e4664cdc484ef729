//! What of a partition's log is needed, and by whom: its views say where history begins and who asks for records again.

use std::io::Write;

use fluxmq::model::Millis;
use fluxmq::view::{Pin, Views};
use fluxmq_index::Offset;
use fluxmq_log::format::{FrameHeader, SEGMENT_HEADER_BYTES};

use crate::fold::{Fold, FoldError, To};
use crate::source::{self, Partition};
use crate::walk::Listed;
use crate::{CommandError, text};

/// What the views of a partition say at the end of its log.
pub struct Known {
    /// The oldest record that is history.
    pub start: Offset,
    views: Views,
    /// What the views lack.
    gap: Option<String>,
}

/// Bytes of one segment.
#[derive(Clone, Debug, Default)]
pub struct SegmentBytes {
    number: Option<u64>,
    base: Offset,
    /// After its last record.
    end: Offset,
    /// From where history begins on, and below.
    pub live: u64,
    pub dead: u64,
}

impl Known {
    /// Folds the views, or says why nothing is known.
    pub fn of(partition: &Partition) -> Result<Result<Known, String>, CommandError> {
        match Fold::of_partition(partition, To::End) {
            Ok((_, Fold { views, gap, .. })) => {
                let gap = gap.filter(|gap| !gap.is_tail).map(|gap| gap.to_string());
                Ok(Ok(Known { start: views.horizon.start(), views, gap }))
            }
            Err(CommandError::Fold(FoldError::Alone { .. })) => {
                Ok(Err("one segment does not say it; its partition's directory does".to_owned()))
            }
            Err(CommandError::Fold(error)) => Ok(Err(error.to_string())),
            Err(error) => Err(error),
        }
    }

    /// Prints where history begins, what of each segment is needed, who needs the oldest records at `now`, and what keeps the oldest
    /// segment.
    pub fn print(
        &self,
        now: Millis,
        segments: &[SegmentBytes],
        top: usize,
        out: &mut impl Write,
    ) -> Result<(), CommandError> {
        if let Some(gap) = &self.gap {
            writeln!(out, "  what follows is as of before the damage: {gap}")?;
        }
        writeln!(out, "  {:<16} {:>16}", "history begins", self.start.0)?;
        let mut pins: Vec<(Offset, Pin<'_>)> = self.views.pins(now).collect();
        pins.sort_by_key(|(oldest, _)| *oldest);
        writeln!(out, "  {:<16} {:>16}", "pinned by", pins.len())?;
        for (oldest, pin) in pins.iter().take(top) {
            let who = self.who(*pin, *oldest, now);
            let segment = segments.iter().find(|it| (it.base..it.end).contains(oldest));
            let place = match segment.and_then(|segment| segment.number) {
                Some(number) => format!("in segment {number}"),
                None => "not in the log".to_owned(),
            };
            writeln!(out, "    {who}: from offset {oldest} on, {place}")?;
        }
        writeln!(out, "  segments by bytes         live         dead")?;
        for segment in segments {
            let name = segment.number.map_or_else(String::new, |number| number.to_string());
            writeln!(out, "    {name:<12} {:>12} {:>12}", segment.live, segment.dead)?;
        }
        if let Some(oldest) = segments.first() {
            let here = pins.iter().filter(|(at, _)| *at < oldest.end);
            let here: Vec<String> = here.map(|(at, pin)| self.who(*pin, *at, now)).collect();
            let reason = self.reason(oldest, segments.len(), &here);
            writeln!(out, "  the oldest segment stays: {reason}")?;
        }
        Ok(())
    }

    /// Why a partition's oldest segment is there.
    fn reason(&self, oldest: &SegmentBytes, count: usize, needed_by: &[String]) -> String {
        if count == 1 {
            return "it is the one that is written".to_owned();
        }
        if oldest.is_over(self.start) {
            return "it is over, and goes when the log can begin after a snapshot behind it"
                .to_owned();
        }
        match needed_by {
            [] => "its records are history".to_owned(),
            [who] => format!("{who} needs what is in it"),
            [who, more @ ..] => format!("{who} needs what is in it, and {} more do", more.len()),
        }
    }

    /// Who asks for records, by name.
    fn who(&self, pin: Pin<'_>, oldest: Offset, now: Millis) -> String {
        let retained = match pin {
            Pin::Queue(queue) => return format!("queue {}", text::quoted(queue.name())),
            Pin::Retained => &self.views.retained,
        };
        let topic = retained.iter().find(|(_, message)| message.offset() == oldest);
        let topic = topic.map_or_else(String::new, |(topic, _)| text::quoted(topic));
        match retained.alive(now).count() {
            0 | 1 => format!("retained message {topic}"),
            count => format!("retained message {topic} and {} later ones", count - 1),
        }
    }
}

impl SegmentBytes {
    /// Nothing of a segment yet.
    pub fn of(listed: &Listed) -> SegmentBytes {
        let base = listed.header.base_offset;
        let number = source::segment_number(&listed.path);
        SegmentBytes { number, base, end: base, ..SegmentBytes::default() }
    }

    /// Adds a frame; one without records belongs to what is behind it.
    pub fn add(&mut self, header: &FrameHeader, start: Offset) {
        self.end = header.end_offset();
        match header.base_offset < start && self.end <= start {
            true => self.dead += header.frame_bytes(),
            false => self.live += header.frame_bytes(),
        }
    }

    /// Adds the header of the file, and its seal with it: needed as long as any record is.
    pub fn finish(&mut self, start: Offset) {
        let all = self.live + self.dead + SEGMENT_HEADER_BYTES as u64;
        match self.is_over(start) {
            true => (self.live, self.dead) = (0, all),
            false => self.live = all - self.dead,
        }
    }

    fn is_over(&self, start: Offset) -> bool {
        self.base < start && self.end <= start
    }
}
