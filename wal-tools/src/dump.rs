//! Prints records, one a line, in the order of partitions and offsets.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;

use bytes::Bytes;
use fluxmq_index::{Offset, matches};
use fluxmq_log::format::{BatchRecord, FrameHeader, Message};

use crate::arguments::{DumpArguments, From};
use crate::record_line::{self, Place, Style};
use crate::scan::Placed;
use crate::source::{self, Partition};
use crate::walk::{Listed, Walk};
use crate::{CommandError, EXIT_CORRUPTION};

/// Queues of the route sets that a segment has defined so far.
type Routes = BTreeMap<u32, Vec<u64>>;

/// Prints the records under a path and returns the exit code.
///
/// Damage does not stop it: that is said on standard error and makes the exit code, a torn tail does not.
pub fn run(arguments: &DumpArguments, out: &mut impl Write) -> Result<u8, CommandError> {
    let payload = (!arguments.headers_only).then_some(arguments.payload);
    let mut dump = Dump {
        arguments,
        selection: Selection::new(arguments),
        style: Style { format: arguments.format, payload },
        left: arguments.limit.unwrap_or(u64::MAX),
        out,
    };
    let mut walk = Walk::default();
    for partition in source::partitions(&arguments.path)? {
        dump.partition(&partition, &mut walk)?;
    }
    Ok(if walk.damage_count > 0 { EXIT_CORRUPTION } else { 0 })
}

struct Dump<'a, W> {
    arguments: &'a DumpArguments,
    selection: Selection<'a>,
    style: Style,
    /// How many records may still be printed.
    left: u64,
    out: &'a mut W,
}

/// Which messages are wanted.
struct Selection<'a> {
    /// The queue's address, and the start of every address below it.
    queue: Option<(String, String)>,
    queue_id: Option<u64>,
    topic: Option<&'a str>,
}

impl<W: Write> Dump<'_, W> {
    fn partition(&mut self, partition: &Partition, walk: &mut Walk) -> Result<(), CommandError> {
        let wanted = self.arguments.partition;
        let is_wanted = |number| wanted.is_none_or(|wanted| wanted == number);
        if partition.number.is_some_and(|number| !is_wanted(number)) {
            return Ok(());
        }
        let mut segments = walk.segments(partition)?;
        segments.retain(|listed| is_wanted(listed.header.partition));
        for listed in &segments[self.first_segment(&segments)..] {
            if self.left == 0 {
                break;
            }
            let mut routes = Routes::new();
            walk.frames(listed, |walk, placed| self.frame(walk, listed, placed, &mut routes))?;
        }
        Ok(())
    }

    /// Returns the number of the first segment that may hold a wanted record.
    fn first_segment(&self, segments: &[Listed]) -> usize {
        let is_before = |listed: &Listed| match self.arguments.from {
            From::Earliest => false,
            From::Offset(offset) => listed.header.base_offset <= offset,
            // The last records of a segment may be as young as the first of the next.
            From::Time(ms) => listed.header.base_ts < ms,
        };
        segments.partition_point(is_before).saturating_sub(1)
    }

    fn frame(
        &mut self,
        walk: &mut Walk,
        listed: &Listed,
        placed: &Placed,
        routes: &mut Routes,
    ) -> Result<ControlFlow<()>, CommandError> {
        let header = &placed.frame.header;
        let Some(batch) = walk.batch(listed, placed) else {
            return Ok(ControlFlow::Continue(()));
        };
        for route in batch.routes() {
            routes.insert(route.id, route.queues.clone());
        }
        if self.is_before_start(header) {
            return Ok(ControlFlow::Continue(()));
        }
        walk.records(listed, placed, batch, |offset, record| {
            self.record(Place::of(listed, header, offset), record, routes)
        })
    }

    fn record(
        &mut self,
        place: Place,
        record: BatchRecord,
        routes: &Routes,
    ) -> Result<ControlFlow<()>, CommandError> {
        let line = match record {
            BatchRecord::Message(message) => {
                let queues = routes.get(&message.route_set).map_or(&[][..], Vec::as_slice);
                let is_wanted = self.selection.wants(&message, queues);
                (is_wanted && self.is_reached(place.offset, message.ts))
                    .then(|| record_line::message(place, &message, queues, self.style))
            }
            BatchRecord::Control { op, payload, ts } => {
                let is_wanted = !self.selection.is_selective();
                (is_wanted && self.is_reached(place.offset, ts))
                    .then(|| record_line::control(place, op, &payload, ts, self.style.format))
            }
        };
        if let Some(line) = line {
            if self.left == 0 {
                return Ok(ControlFlow::Break(()));
            }
            self.left -= 1;
            writeln!(self.out, "{line}")?;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Tells whether the dump starts at or before a record.
    fn is_reached(&self, offset: Offset, ts: u64) -> bool {
        match self.arguments.from {
            From::Earliest => true,
            From::Offset(from) => offset >= from,
            From::Time(from) => ts >= from,
        }
    }

    /// Tells whether the dump starts behind every record of a frame.
    fn is_before_start(&self, header: &FrameHeader) -> bool {
        match self.arguments.from {
            From::Earliest => false,
            From::Offset(from) => header.end_offset() <= from,
            From::Time(from) => header.max_ts() < from,
        }
    }
}

impl Selection<'_> {
    fn new(arguments: &DumpArguments) -> Selection<'_> {
        let queue = arguments.queue.as_ref();
        Selection {
            queue: queue.map(|name| (format!("$queue/{name}"), format!("$queue/{name}/"))),
            queue_id: arguments.queue_id,
            topic: arguments.topic.as_deref(),
        }
    }

    /// Tells whether anything is left out.
    fn is_selective(&self) -> bool {
        self.queue.is_some() || self.queue_id.is_some() || self.topic.is_some()
    }

    fn wants(&self, message: &Message, queues: &[u64]) -> bool {
        let topic: &Bytes = &message.topic;
        let is_topic = self.topic.is_none_or(|filter| matches(filter.as_bytes(), topic));
        let is_queue = self.queue.as_ref().is_none_or(|(address, below)| {
            topic == address.as_bytes() || topic.starts_with(below.as_bytes())
        });
        is_topic && is_queue && self.queue_id.is_none_or(|id| queues.contains(&id))
    }
}
