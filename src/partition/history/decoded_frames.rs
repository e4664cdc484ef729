//! Frames whose records are decoded, kept for those who read the same ones: consumers that keep up, and readers that follow one another.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use fluxmq_index::Offset;

use crate::model::frame::Decoded;

/// Bytes of frames that are kept, records as they are in memory included. The newest frame is kept whatever it has.
const BYTES_MAX: usize = 4 << 20;

/// One frame.
#[derive(Debug)]
pub struct DecodedFrame {
    base: Offset,
    records: Vec<Decoded>,
}

/// The frames, by base offset. What nobody asks for goes with the second tick, or earlier where there are too many bytes.
#[derive(Debug, Default)]
pub struct DecodedFrames {
    frames: BTreeMap<Offset, Kept>,
    /// Base offsets, the oldest frame first.
    order: VecDeque<Offset>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    frame: Arc<DecodedFrame>,
    bytes: usize,
    /// Since the last tick.
    is_used: bool,
}

impl DecodedFrame {
    /// The records of a frame that begins at `base`.
    pub fn new(base: Offset, records: Vec<Decoded>) -> DecodedFrame {
        DecodedFrame { base, records }
    }

    /// Returns a record, if it is in the frame.
    pub fn get(&self, offset: Offset) -> Option<&Decoded> {
        self.records.get(offset.0.checked_sub(self.base.0)? as usize)
    }
}

impl DecodedFrames {
    /// Keeps a frame of so many bytes in the log.
    pub fn keep(&mut self, frame: Arc<DecodedFrame>, bytes: usize) {
        let base = frame.base;
        let bytes = bytes + frame.records.len() * size_of::<Decoded>();
        if let Some(old) = self.frames.insert(base, Kept { frame, bytes, is_used: true }) {
            self.bytes -= old.bytes;
        } else {
            self.order.push_back(base);
        }
        self.bytes += bytes;
        while self.bytes > BYTES_MAX && self.order.len() > 1 {
            let oldest = self.order.pop_front().expect("there are two");
            self.bytes -= self.frames.remove(&oldest).map_or(0, |kept| kept.bytes);
        }
    }

    /// What is kept, in bytes.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Finds the frame of a record.
    pub fn get(&mut self, offset: Offset) -> Option<&Arc<DecodedFrame>> {
        let (_, kept) = self.frames.range_mut(..=offset).next_back()?;
        kept.frame.get(offset)?;
        kept.is_used = true;
        Some(&kept.frame)
    }

    /// Time passes: lets go of what nobody asked for since the last time.
    pub fn tick(&mut self) {
        if self.order.is_empty() {
            return;
        }
        let bytes = &mut self.bytes;
        self.frames.retain(|_, kept| {
            let is_used = std::mem::take(&mut kept.is_used);
            *bytes -= if is_used { 0 } else { kept.bytes };
            is_used
        });
        self.order.retain(|base| self.frames.contains_key(base));
        self.order.shrink_to(self.frames.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Control;

    fn frame(base: u64, records: u64) -> Arc<DecodedFrame> {
        let record = || Decoded::Control(Control::HistoryTrimmed { to: Offset(0) });
        Arc::new(DecodedFrame::new(Offset(base), (0..records).map(|_| record()).collect()))
    }

    fn has(frames: &mut DecodedFrames, offset: u64) -> bool {
        frames.get(Offset(offset)).is_some()
    }

    #[test]
    fn a_record_is_found_in_its_frame_and_nowhere_else() {
        let mut frames = DecodedFrames::default();
        frames.keep(frame(30, 3), 0);
        frames.keep(frame(10, 5), 0);
        let found: Vec<u64> = (0..40).filter(|offset| has(&mut frames, *offset)).collect();
        assert_eq!(found, [10, 11, 12, 13, 14, 30, 31, 32]);
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_bytes_and_the_newest_stays() {
        let mut frames = DecodedFrames::default();
        (0..3).for_each(|number| frames.keep(frame(10 * number, 1), BYTES_MAX / 2 - 1_000));
        assert_eq!([0, 10, 20].map(|offset| has(&mut frames, offset)), [false, true, true]);
        frames.keep(frame(20, 1), BYTES_MAX / 4);
        frames.keep(frame(0, 1), BYTES_MAX / 4 - 2_000);
        assert_eq!([0, 10, 20].map(|offset| has(&mut frames, offset)), [true; 3]);
        frames.keep(frame(30, 1), 2 * BYTES_MAX);
        assert_eq!(
            [0, 10, 20, 30].map(|offset| has(&mut frames, offset)),
            [false, false, false, true]
        );
        frames.keep(frame(40, 1), 0);
        assert!(!has(&mut frames, 30) && has(&mut frames, 40));
        assert_eq!(frames.bytes, size_of::<Decoded>());
    }

    #[test]
    fn what_nobody_asks_for_between_two_ticks_goes() {
        let mut frames = DecodedFrames::default();
        frames.keep(frame(0, 1), 10);
        frames.keep(frame(10, 1), 10);
        frames.tick();
        assert!(has(&mut frames, 10));
        frames.tick();
        assert!(!has(&mut frames, 0) && has(&mut frames, 10));
        frames.tick();
        frames.tick();
        assert!(!has(&mut frames, 10));
        assert_eq!((frames.bytes, frames.order.len()), (0, 0));
    }
}
