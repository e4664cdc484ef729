//! Why no publish is taken: told to connections, so that protocols can say so before they are asked.

use crate::model::Refusal;

/// What the node is short of, so that it refuses publishes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shortage {
    /// The disk watermark is reached.
    pub disk: bool,
    /// Memory is nearly used up.
    pub memory: bool,
}

impl Shortage {
    /// Whether publishes are taken, and what they are refused with.
    pub fn verdict(self) -> Result<(), Refusal> {
        match self {
            Shortage { disk: true, .. } => Err(Refusal::DiskFull),
            Shortage { memory: true, .. } => Err(Refusal::MemoryFull),
            Shortage { disk: false, memory: false } => Ok(()),
        }
    }
}
