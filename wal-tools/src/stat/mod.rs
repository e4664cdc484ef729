//! Counts what is stored, and what it costs.

use std::collections::HashMap;
use std::io::Write;
use std::ops::ControlFlow;

use bytes::Bytes;
use fluxmq::model::Millis;
use fluxmq_index::Offset;
use fluxmq_log::format::{BatchRecord, FRAME_HEADER_BYTES, FrameHeader, SEGMENT_HEADER_BYTES};

use self::live::{Known, SegmentBytes};
use crate::arguments::StatArguments;
use crate::names::control_name;
use crate::source::{self, Partition};
use crate::walk::Walk;
use crate::{CommandError, EXIT_CORRUPTION, text};

mod live;

/// Prints the counts of each partition under a path, and of all together, and returns the exit code.
pub fn run(arguments: &StatArguments, out: &mut impl Write) -> Result<u8, CommandError> {
    let partitions = source::partitions(&arguments.path)?;
    let mut walk = Walk::default();
    let mut total = Counts { is_known: true, ..Counts::default() };
    for partition in &partitions {
        let known = Known::of(partition)?;
        let start = known.as_ref().map_or(Offset::ZERO, |known| known.start);
        let mut counts = Counts { is_known: known.is_ok(), ..Counts::default() };
        let segments = counts.partition(partition, start, &mut walk)?;
        counts.print(&partition.name, arguments.top, out)?;
        match known {
            Ok(known) => known.print(Millis(counts.time), &segments, arguments.top, out)?,
            Err(reason) => writeln!(out, "  live and dead bytes are not known: {reason}")?,
        }
        total.add(counts);
    }
    if partitions.len() > 1 {
        total.print("total", arguments.top, out)?;
    }
    Ok(if walk.damage_count > 0 { EXIT_CORRUPTION } else { 0 })
}

/// What a partition holds.
#[derive(Debug, Default)]
struct Counts {
    segments: u64,
    /// Log time of the last record.
    time: u64,
    /// Lengths of the files, unused room included.
    file_bytes: u64,
    /// Headers, frames and their padding.
    stored_bytes: u64,
    frames: u64,
    messages: u64,
    controls: u64,
    topic_bytes: u64,
    payload_bytes: u64,
    control_bytes: u64,
    moved: u64,
    moved_bytes: u64,
    /// Of what is stored: from where history begins on, and below.
    live_bytes: u64,
    dead_bytes: u64,
    /// Whether that is known.
    is_known: bool,
    /// Frames by the power of two at or below their number of records; index 0 is no record.
    batches: [u64; 18],
    topics: HashMap<Bytes, TopicCounts>,
}

#[derive(Clone, Copy, Debug, Default)]
struct TopicCounts {
    messages: u64,
    payload_bytes: u64,
}

impl Counts {
    /// Counts a partition whose history begins at `start`; returns what of each segment is below.
    fn partition(
        &mut self,
        partition: &Partition,
        start: Offset,
        walk: &mut Walk,
    ) -> Result<Vec<SegmentBytes>, CommandError> {
        let mut segments = Vec::new();
        for listed in walk.segments(partition)? {
            let mut segment = SegmentBytes::of(&listed);
            self.segments += 1;
            self.stored_bytes += SEGMENT_HEADER_BYTES as u64;
            self.file_bytes += walk.frames(&listed, |walk, placed| {
                let header = &placed.frame.header;
                self.frame(header);
                segment.add(header, start);
                let Some(batch) = walk.batch(&listed, placed) else {
                    return Ok(ControlFlow::Continue(()));
                };
                walk.records(&listed, placed, batch, |_, record| {
                    self.record(record);
                    Ok(ControlFlow::Continue(()))
                })
            })?;
            segment.finish(start);
            self.live_bytes += segment.live;
            self.dead_bytes += segment.dead;
            segments.push(segment);
        }
        Ok(segments)
    }

    fn frame(&mut self, header: &FrameHeader) {
        self.frames += 1;
        self.time = self.time.max(header.max_ts());
        self.stored_bytes += header.frame_bytes();
        let bucket = (u32::BITS - header.record_count.leading_zeros()) as usize;
        self.batches[bucket.min(self.batches.len() - 1)] += 1;
    }

    fn record(&mut self, record: BatchRecord) {
        match record {
            BatchRecord::Message(message) => self.message(message.topic, &message.payload),
            BatchRecord::Control { op, payload, .. } => {
                self.controls += 1;
                self.control_bytes += payload.len() as u64;
                if control_name(op) == Some("moved") {
                    self.moved += 1;
                    self.moved_bytes += payload.len() as u64;
                }
            }
        }
    }

    fn message(&mut self, topic: Bytes, payload: &Bytes) {
        self.messages += 1;
        self.topic_bytes += topic.len() as u64;
        self.payload_bytes += payload.len() as u64;
        let counts = match self.topics.get_mut(&topic) {
            Some(counts) => counts,
            // A copy: the topic would keep its whole frame in memory.
            None => self.topics.entry(Bytes::copy_from_slice(&topic)).or_default(),
        };
        counts.messages += 1;
        counts.payload_bytes += payload.len() as u64;
    }

    fn add(&mut self, other: Counts) {
        self.segments += other.segments;
        self.file_bytes += other.file_bytes;
        self.stored_bytes += other.stored_bytes;
        self.frames += other.frames;
        self.messages += other.messages;
        self.controls += other.controls;
        self.topic_bytes += other.topic_bytes;
        self.payload_bytes += other.payload_bytes;
        self.control_bytes += other.control_bytes;
        self.moved += other.moved;
        self.moved_bytes += other.moved_bytes;
        self.live_bytes += other.live_bytes;
        self.dead_bytes += other.dead_bytes;
        self.is_known &= other.is_known;
        for (bucket, frames) in self.batches.iter_mut().zip(other.batches) {
            *bucket += frames;
        }
        for (topic, more) in other.topics {
            let counts = self.topics.entry(topic).or_default();
            counts.messages += more.messages;
            counts.payload_bytes += more.payload_bytes;
        }
    }

    fn print(&self, name: &str, top: usize, out: &mut impl Write) -> Result<(), CommandError> {
        let content = self.topic_bytes + self.payload_bytes;
        // Negative where a topic is stored once for many messages.
        let overhead = self.stored_bytes as i64 - (content + self.control_bytes) as i64;
        let frame_headers = self.frames * FRAME_HEADER_BYTES as u64;
        writeln!(out, "{name}")?;
        let mut line = |what: &str, count: u64| writeln!(out, "  {what:<16} {count:>16}");
        line("segments", self.segments)?;
        line("file bytes", self.file_bytes)?;
        line("stored bytes", self.stored_bytes)?;
        line("frames", self.frames)?;
        line("frame headers", frame_headers)?;
        line("messages", self.messages)?;
        line("control records", self.controls)?;
        line("payload bytes", self.payload_bytes)?;
        line("topic bytes", self.topic_bytes)?;
        line("control bytes", self.control_bytes)?;
        line("moved records", self.moved)?;
        line("moved bytes", self.moved_bytes)?;
        if self.is_known {
            line("live bytes", self.live_bytes)?;
            line("dead bytes", self.dead_bytes)?;
        }
        writeln!(out, "  overhead bytes   {overhead:>16}")?;
        if content > 0 {
            // Topics count once for each message, as if nothing were shared.
            let amplification = self.stored_bytes as f64 / content as f64;
            writeln!(out, "  write amplification {amplification:>13.3}")?;
        }
        self.print_batches(out)?;
        self.print_topics(top, out)
    }

    fn print_batches(&self, out: &mut impl Write) -> Result<(), CommandError> {
        writeln!(out, "  frames by number of records")?;
        for (bucket, &frames) in self.batches.iter().enumerate().filter(|(_, frames)| **frames > 0)
        {
            let range = match bucket {
                0 | 1 => bucket.to_string(),
                _ => format!("{}-{}", 1u64 << (bucket - 1), (1u64 << bucket) - 1),
            };
            writeln!(out, "    {range:<14} {frames:>16}")?;
        }
        Ok(())
    }

    /// Prints the topics with the most bytes; the name decides between equals.
    fn print_topics(&self, top: usize, out: &mut impl Write) -> Result<(), CommandError> {
        let mut topics: Vec<_> = self.topics.iter().collect();
        topics.sort_by(|(left_topic, left), (right_topic, right)| {
            right.payload_bytes.cmp(&left.payload_bytes).then_with(|| left_topic.cmp(right_topic))
        });
        writeln!(out, "  {:<16} {:>16}", "topics", topics.len())?;
        for (topic, counts) in topics.into_iter().take(top) {
            let (messages, bytes) = (counts.messages, counts.payload_bytes);
            writeln!(
                out,
                "    {messages:>12} messages {bytes:>12} bytes  {}",
                text::quoted(topic)
            )?;
        }
        Ok(())
    }
}
