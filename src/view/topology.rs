//! What the meta partition knows of the others: how many there are, fixed at the first start.

use fluxmq_index::Offset;

use super::section::{decode_rows, encode_rows};
use super::{SectionError, View};
use crate::model::{Control, Millis, Record};

/// The shape of the broker.
#[derive(Debug, Default)]
pub struct Topology {
    data_partitions: Option<u16>,
}

impl Topology {
    /// Returns the number of data partitions; `None` before the first start has fixed it.
    pub fn data_partitions(&self) -> Option<u16> {
        self.data_partitions
    }
}

impl View for Topology {
    fn name(&self) -> &'static str {
        "topology"
    }

    fn apply(&mut self, _at: Offset, _time: Millis, record: Record<'_>) {
        if let Record::Control(Control::PartitionsFixed { count }) = record {
            self.data_partitions.get_or_insert(*count);
        }
    }

    fn due(&self, _now: Millis, _out: &mut Vec<Control>) {}

    fn snapshot(&self) -> Vec<u8> {
        encode_rows(&self.data_partitions)
    }

    fn restore(&mut self, section: &[u8]) -> Result<(), SectionError> {
        self.data_partitions = decode_rows(section)?;
        Ok(())
    }
}
