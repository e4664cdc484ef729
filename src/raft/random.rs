//! Numbers that look random and are a function of a seed: election timeouts must differ between replicas (Raft §5.2), and repeat.

/// Mixes words into one; every bit of each reaches every bit of the result.
pub(super) fn mix(words: &[u64]) -> u64 {
    words.iter().fold(0x9E37_79B9_7F4A_7C15, |state: u64, word| {
        let mut mixed = state.wrapping_add(0x9E37_79B9_7F4A_7C15) ^ word;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_words_give_the_same_number_and_others_spread() {
        assert_eq!(mix(&[1, 2, 3]), mix(&[1, 2, 3]));
        let buckets: std::collections::BTreeSet<u64> =
            (0..100).map(|term| mix(&[7, term]) % 10).collect();
        assert_eq!(buckets.len(), 10, "every timeout comes up");
    }
}
