//! Files of two 4 KiB slots, `hs.bin` and `sync.bin`; the valid slot with the higher sequence number counts.

use fluxmq_log::format::varint::Input;

const SLOT_BYTES: usize = 4096;

/// What a file of two slots holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Slots {
    /// The state in the newest valid slot.
    pub newest: Option<Vec<u8>>,
    /// How many slots are not valid.
    pub damaged_count: usize,
}

impl Slots {
    /// Reads both slots.
    pub fn read(content: &[u8], magic: &[u8; 8]) -> Slots {
        let slot = |number: usize| {
            let at = number * SLOT_BYTES;
            decode(content.get(at..at + SLOT_BYTES)?, magic)
        };
        let valid: Vec<_> = [slot(0), slot(1)].into_iter().flatten().collect();
        let damaged_count = 2 - valid.len();
        let newest = valid.into_iter().max_by_key(|(seq, _)| *seq).map(|(_, state)| state);
        Slots { newest, damaged_count }
    }
}

fn decode(slot: &[u8], magic: &[u8; 8]) -> Option<(u64, Vec<u8>)> {
    let mut input = Input::new(slot);
    let is_ours = input.take(8)? == magic;
    let is_intact = input.u32()? == crc32c::crc32c(&slot[12..]);
    let (len, seq) = (input.u32()?, input.u64()?);
    let state = input.take(len as usize)?;
    (is_ours && is_intact).then(|| (seq, state.to_vec()))
}
