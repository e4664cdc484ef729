//! Compares a seal with the segment it closes.

use std::ops::Range;

use fluxmq_log::format::{SEAL_BLOCK_BYTES, Seal};

use super::segment::SegmentCheck;
use crate::scan::Placed;

impl SegmentCheck {
    /// Returns where the seal and the bytes before it disagree.
    ///
    /// Counts are compared only if everything before could be read, digests only where nothing else is wrong:
    /// the damage is told once.
    pub(super) fn compare(&self, seal: &Seal, placed: &Placed) -> Vec<(Range<u64>, String)> {
        let frame = placed.position..placed.position + placed.frame.header.frame_bytes();
        let mut wrong = Vec::new();
        let mut compare = |what: &str, found: u64, sealed: u64| {
            if found != sealed {
                wrong.push((frame.clone(), format!("seal says {sealed} {what}, found {found}")));
            }
        };
        if seal.first_index < self.first_index {
            // The segment began with a snapshot here: its frames are not those the leader sealed.
            return wrong;
        }
        compare("as the first index", self.first_index, seal.first_index);
        compare("data bytes", placed.position, seal.data_bytes);
        if self.doubts.is_empty() {
            compare("records", self.record_count, seal.record_count);
            compare("frames", self.frame_count, seal.frame_count);
            compare("as the earliest time", self.ts_min.unwrap_or(u64::MAX), seal.ts_min);
            compare("as the latest time", self.ts_max, seal.ts_max);
            let terms = seal.terms.iter().map(|run| (run.first_index, run.term));
            if !terms.eq(self.terms.iter().copied()) {
                wrong.push((frame.clone(), "seal disagrees on the terms of the entries".into()));
            }
        }
        let Some(blocks) = &placed.blocks else {
            return wrong;
        };
        if seal.blocks.len() != blocks.len() {
            let (sealed, found) = (seal.blocks.len(), blocks.len());
            wrong.push((frame, format!("seal has {sealed} digests for {found} blocks")));
            return wrong;
        }
        let blocks = blocks.iter().zip(&seal.blocks).enumerate();
        for (number, (found, sealed)) in blocks.filter(|(_, (found, sealed))| found != sealed) {
            let start = number as u64 * SEAL_BLOCK_BYTES;
            let block = start..placed.position.min(start + SEAL_BLOCK_BYTES);
            let is_told = |position: u64, end: u64| position < block.end && block.start < end;
            if !self.doubts.iter().any(|doubt| is_told(doubt.position, doubt.end)) {
                let what =
                    format!("block digest {found:#010x} does not match sealed {sealed:#010x}");
                wrong.push((block, what));
            }
        }
        wrong
    }
}
