//! A damaged log begins behind its damage, where history is over.

use std::path::PathBuf;

use crate::disk::Disk;
use crate::fence::{Fenced, Hole};
use crate::format::SegmentHeader;
use crate::housekeeping::quarantine;
use crate::layout::segment_path;
use crate::manifest_edit::Edit;
use crate::recovery::OpenError;
use crate::snapshot_store::{Origin, SnapshotAt};

impl<D: Disk> Fenced<D> {
    /// Gives up the segment with a hole and all before it: another replica's log begins with `begins`, so history is over up to there.
    /// Nothing behind `begins` is touched, and the replica remembers what it voted and acknowledged. Where it has a snapshot up to there that a
    /// segment begins after, the log begins there and can be given away (ADR 0024); else right behind the hole. Returns false, and
    /// changes nothing, when the segment is not over, or no snapshot that can be read holds what it led to.
    pub fn begin_after(&mut self, hole: &Hole, begins: u64) -> Result<bool, OpenError> {
        let next = self.spans.partition_point(|span| span.segment_no <= hole.damage.segment_no);
        let newest = self.newest_readable()?.map_or(0, |(at, _)| at.index);
        let mut found = None;
        for number in next..self.spans.len() {
            let Ok(header) = self.header_of(self.spans[number].segment_no)? else {
                // A log cannot begin where nobody knows what is.
                if found.is_none() {
                    break;
                }
                continue;
            };
            let base = base_of(&header);
            if header.base_index > begins || newest < base.index {
                break;
            }
            if found.is_none() || self.has_snapshot(base)? {
                found = Some((number, header));
            }
        }
        let Some((first, header)) = found else { return Ok(false) };
        self.drop_before(first, &header)?;
        Ok(true)
    }

    /// The log begins with a segment. What can be read of those before it may be of use to somebody: they are kept in `quarantine/`.
    fn drop_before(&mut self, first: usize, header: &SegmentHeader) -> Result<(), OpenError> {
        self.patch = None;
        let base = base_of(header);
        let numbers: Vec<u64> = self.spans[..first].iter().map(|span| span.segment_no).collect();
        let paths = numbers.iter().map(|segment_no| segment_path(&self.dir, *segment_no));
        let there: Vec<PathBuf> = paths.filter(|path| self.disk.open_read(path).is_ok()).collect();
        let older = self.manifest.state().snapshots.range(..base.index);
        let older: Vec<Edit> =
            older.map(|(index, _)| Edit::DropSnapshot { index: *index }).collect();
        let drops = numbers.into_iter().map(|segment_no| Edit::Drop { segment_no });
        // Were its only segment cut, the next one would be the same as everybody else's.
        let begins = [Edit::Base(base), Edit::Origin(Origin::of(header))];
        let edits: Vec<Edit> = begins.into_iter().chain(drops).chain(older).collect();
        self.manifest.append(&edits)?;
        quarantine(&self.disk, &self.dir, &there)?;
        self.spans.drain(..first);
        self.check_again_from(0);
        Ok(())
    }
}

/// The entry that the log begins after where it begins with a segment.
fn base_of(header: &SegmentHeader) -> SnapshotAt {
    let SegmentHeader { base_index, prev_term: term, base_offset: end, .. } = *header;
    SnapshotAt { index: base_index.saturating_sub(1), term, end }
}
