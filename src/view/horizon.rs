//! Where a partition's history begins, by the leader's word: records below are given to nobody any more.
//!
//! The files follow, each replica's when it can: a segment goes when all of it is below.

use fluxmq_index::Offset;

use super::section::{decode_rows, encode_rows};
use super::{SectionError, View};
use crate::model::{Control, Millis, Record};

/// The beginning of history.
#[derive(Debug, Default)]
pub struct Horizon {
    start: Offset,
}

impl Horizon {
    /// Returns the oldest record that is history.
    pub fn start(&self) -> Offset {
        self.start
    }
}

impl View for Horizon {
    fn name(&self) -> &'static str {
        "horizon"
    }

    fn apply(&mut self, _at: Offset, _time: Millis, record: Record<'_>) {
        if let Record::Control(Control::HistoryTrimmed { to }) = record {
            self.start = self.start.max(*to);
        }
    }

    fn due(&self, _now: Millis, _out: &mut Vec<Control>) {}

    fn snapshot(&self) -> Vec<u8> {
        encode_rows(&self.start.0)
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), SectionError> {
        self.start = Offset(decode_rows(section)?);
        Ok(())
    }
}
