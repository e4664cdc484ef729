//! Dotted routing keys and the patterns of topic exchanges.

const SEPARATOR: u8 = b'.';

/// Tells whether a pattern matches a routing key (AMQP 0.9.1 §3.1.3.3).
///
/// Words are what is between dots; the empty key has none. `*` is one word, `#` any number of them, none too. Allocates nothing.
/// Only the last `#` that was passed is ever tried again, since an earlier one could give it nothing new: so a pattern like
/// `#.#.#` takes one pass, and none takes more steps than its words times the key's.
pub fn matches(pattern: &[u8], key: &[u8]) -> bool {
    let (mut pattern, mut key) = (words(pattern), words(key));
    // Behind the last `#`, and the words of the key that it leaves.
    let mut retry = None;
    loop {
        let wanted = pattern.next();
        if wanted == Some(b"#") {
            retry = Some((pattern.clone(), key.clone()));
            continue;
        }
        match (wanted, key.next()) {
            (None, None) => return true,
            (Some(b"*"), Some(_)) => continue,
            (Some(wanted), Some(word)) if wanted == word => continue,
            // A `#` that takes more leaves even less.
            (Some(_), None) => return false,
            (_, Some(_)) => {}
        }
        let Some((behind, left)) = &mut retry else { return false };
        if left.next().is_none() {
            return false;
        }
        (pattern, key) = (behind.clone(), left.clone());
    }
}

pub(crate) fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    text.split(|byte| *byte == SEPARATOR).skip(usize::from(text.is_empty()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_is_one_word_and_a_hash_is_any_number() {
        let cases: [(&str, &[&str], &[&str]); 9] = [
            ("a.b", &["a.b"], &["a", "a.b.c", "a.B", "a.", ""]),
            ("a.*", &["a.b", "a."], &["a", "a.b.c"]),
            ("*", &["a"], &["", "a.b", "."]),
            ("#", &["", "a", "a.b", ".", "a..b"], &[]),
            ("a.#", &["a", "a.b", "a.b.c"], &["", "b.a", "ab"]),
            ("#.a", &["a", "b.a", "a.a"], &["", "a.b"]),
            ("#.*", &["a", "a.b"], &[""]),
            ("*.#.b", &["a.b", "a.b.b", "a.x.y.b"], &["b", "a", "a.b.c"]),
            ("", &[""], &["a", "."]),
        ];
        for (pattern, matched, others) in cases {
            for key in matched {
                assert!(matches(pattern.as_bytes(), key.as_bytes()), "{pattern:?} {key:?}");
            }
            for key in others {
                assert!(!matches(pattern.as_bytes(), key.as_bytes()), "{pattern:?} {key:?}");
            }
        }
    }

    #[test]
    fn wildcards_are_words_of_their_own() {
        assert!(matches(b"a*.b#", b"a*.b#"));
        assert!(!matches(b"a*", b"ab"));
        assert!(!matches(b"a.b#", b"a.b.c"));
    }

    /// As many wildcards as a short string holds: whoever tries each `#` at each word is not done in a lifetime.
    #[test]
    fn many_hashes_cost_no_more_than_one() {
        let pattern = format!("{}b", "#.".repeat(127));
        let key = ["a"; 128].join(".");

        assert!(!matches(pattern.as_bytes(), key.as_bytes()));
        assert!(matches(pattern.as_bytes(), format!("{key}.b").as_bytes()));
    }

    /// The definition, word by word.
    fn defined(pattern: &[&[u8]], key: &[&[u8]]) -> bool {
        match pattern.split_first() {
            None => key.is_empty(),
            Some((&b"#", rest)) => (0..=key.len()).any(|taken| defined(rest, &key[taken..])),
            Some((wanted, rest)) => key.split_first().is_some_and(|(word, left)| {
                (*wanted == b"*" || wanted == word) && defined(rest, left)
            }),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn matching_is_what_it_is_defined_to_be(pattern in "[ab*#.]{0,12}", key in "[ab.]{0,12}") {
            let split = |text: &str| -> Vec<Vec<u8>> {
                match text {
                    "" => Vec::new(),
                    text => text.split('.').map(|word| word.as_bytes().to_vec()).collect(),
                }
            };
            let (pattern_words, key_words) = (split(&pattern), split(&key));
            let expected = defined(
                &pattern_words.iter().map(|word| &word[..]).collect::<Vec<_>>(),
                &key_words.iter().map(|word| &word[..]).collect::<Vec<_>>(),
            );
            prop_assert_eq!(matches(pattern.as_bytes(), key.as_bytes()), expected);
        }
    }
}
