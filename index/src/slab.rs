//! Growing a vector of numbered entries.

/// Adds an entry and returns its number.
///
/// Grows by a quarter, not by doubling: with millions of entries the unused half would be the largest
/// part of the memory. Panics at 2^32 - 4 entries; the numbers above are markers.
pub(crate) fn push<T>(entries: &mut Vec<T>, entry: T) -> u32 {
    if entries.len() == entries.capacity() {
        entries.reserve_exact((entries.len() / 4).max(4));
    }
    let id = u32::try_from(entries.len()).ok().filter(|&id| id < u32::MAX - 3);
    entries.push(entry);
    id.expect("fewer than 2^32 - 4 entries")
}

/// Spreads a 64-bit key over a hash table: the high half of a multiplication folded into the low one.
pub(crate) fn fold_hash(key: u64, seed: u64) -> u64 {
    let product = u128::from(key ^ seed ^ 0x9E37_79B9_7F4A_7C15) * 0xD6E8_FEB8_6659_FD93;
    (product as u64) ^ ((product >> 64) as u64)
}
