//! Whether records are read with all that is between them: for those who read on, and not for those who want one here and one there.

use std::collections::VecDeque;
use std::ops::Range;

use fluxmq_log::LONG_FRAME_BYTES;

/// Records with no more than this between them are near.
const NEAR_BYTES: u64 = 8 << 10;
/// After so many near ones their frame is read: two may be near by chance.
const NEAR_MIN: u32 = 2;
/// So many who read one record at a time are told apart.
const PLACES_MAX: usize = 8;

/// Where the last records were that were not in memory.
#[derive(Debug, Default)]
pub struct Course {
    places: VecDeque<Place>,
}

#[derive(Debug)]
struct Place {
    segment_no: u64,
    /// The byte behind what was read.
    end: u64,
    /// How many were near one another up to here.
    near: u32,
}

impl Course {
    /// Comes to a record in a segment's file, and the frame that it is in. Returns true when the frame is to be read, as a short one always is,
    /// and then goes on behind it.
    pub fn comes_to(&mut self, segment_no: u64, record: Range<u64>, frame: Range<u64>) -> bool {
        let is_near = |place: &Place| {
            place.segment_no == segment_no && place.end.abs_diff(record.start) < NEAR_BYTES
        };
        let last = self.places.iter().position(is_near).and_then(|at| self.places.remove(at));
        let near = last.map_or(0, |last| last.near + 1);
        let is_whole = near >= NEAR_MIN || frame.end - frame.start < LONG_FRAME_BYTES;
        let end = if is_whole { frame.end } else { record.end };
        self.places.push_back(Place { segment_no, end, near });
        if self.places.len() > PLACES_MAX {
            self.places.pop_front();
        }
        is_whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    /// Reads records of a KiB in frames of a hundred; returns how many records and how many frames are read.
    fn read(starts: impl IntoIterator<Item = u64>) -> (usize, usize) {
        let (mut course, mut alone, mut frames) = (Course::default(), 0, Vec::new());
        for start in starts {
            let frame = start / (100 * KIB);
            if frames.last() == Some(&frame) {
                continue;
            }
            let bytes = frame * 100 * KIB..(frame + 1) * 100 * KIB;
            match course.comes_to(1, start..start + KIB, bytes) {
                true => frames.push(frame),
                false => alone += 1,
            }
        }
        (alone, frames.len())
    }

    #[test]
    fn who_reads_on_reads_frames_and_who_wants_few_reads_those() {
        assert_eq!(read((0..1000).map(|at| at * KIB)), (2, 10), "all");
        assert_eq!(read((0..1000).step_by(3).map(|at| at * KIB)), (2, 10), "every third");
        assert_eq!(read((0..1000).step_by(20).map(|at| at * KIB)), (50, 0), "every twentieth");
        let pairs = (0..10).flat_map(|at| [at * 100 * KIB, (at * 100 + 1) * KIB]);
        assert_eq!(read(pairs), (20, 0), "two here and two there");
    }

    #[test]
    fn readers_that_take_turns_are_told_apart() {
        let mut course = Course::default();
        for (record, is_whole) in [(0, false), (1, false), (2, true), (100, true), (200, true)] {
            for reader in 0..PLACES_MAX as u64 {
                let (start, frame) = (record * KIB, record / 100 * 100 * KIB);
                let frame = frame..frame + 100 * KIB;
                let is_read = course.comes_to(reader, start..start + KIB, frame);
                assert_eq!(is_read, is_whole, "record {record} of reader {reader}");
            }
        }
    }

    #[test]
    fn short_frames_are_read_and_places_of_other_segments_are_not_near() {
        let mut course = Course::default();
        assert!(course.comes_to(1, 0..10, 0..LONG_FRAME_BYTES - 1));
        let long = 0..LONG_FRAME_BYTES;
        let whole = [1, 2, 3, 3, 3].map(|segment| course.comes_to(segment, 0..10, long.clone()));
        assert_eq!(whole, [false, false, false, false, true]);
    }
}
