//! Filters as sets of topics: does one contain another, do they meet.
//!
//! Linear in the levels of the shorter one. `$` topics are never matched by a wildcard at the first level [MQTT-4.7.2-1], here too.

/// Tells whether every topic that `inner` matches is matched by `outer`. False where it would take several steps to see.
pub fn covers(outer: &str, inner: &str) -> bool {
    if hides_from(outer, inner) {
        return false;
    }
    let (mut outer, mut inner) = (outer.split('/'), inner.split('/'));
    loop {
        match (outer.next(), inner.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(level)) if level != "#" => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

/// Tells whether some topic is matched by both.
pub fn intersects(left: &str, right: &str) -> bool {
    if hides_from(left, right) || hides_from(right, left) {
        return false;
    }
    let (mut left, mut right) = (left.split('/'), right.split('/'));
    loop {
        match (left.next(), right.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some("+"), Some(_)) | (Some(_), Some("+")) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

fn hides_from(filter: &str, other: &str) -> bool {
    filter.starts_with(['+', '#']) && other.starts_with('$')
}

#[cfg(test)]
mod tests {
    use fluxmq_index::topic_trie;
    use proptest::prelude::*;

    use super::*;

    /// All topics of up to four levels over a small alphabet, `$` and the empty level among them; the empty topic too, which nobody can
    /// publish to.
    fn topics() -> Vec<String> {
        let levels = ["a", "b", "", "$s"];
        let mut topics: Vec<String> = levels.iter().map(|level| level.to_string()).collect();
        let mut last = topics.clone();
        for _ in 0..3 {
            last = last.iter().flat_map(|t| levels.map(|level| format!("{t}/{level}"))).collect();
            topics.extend(last.iter().cloned());
        }
        topics
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["a", "b", "", "+", "$s"]);
        (prop::collection::vec(level, 1..4), any::<bool>())
            .prop_map(|(mut levels, rest)| {
                if rest {
                    levels.push("#");
                }
                levels.join("/")
            })
            .prop_filter("an address", |filter| !filter.is_empty())
    }

    fn matches(filter: &str, topic: &str) -> bool {
        topic_trie::matches(filter.as_bytes(), topic.as_bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn two_filters_meet_where_a_topic_matches_both(left in filter(), right in filter()) {
            let both = |topic: &String| matches(&left, topic) && matches(&right, topic);
            prop_assert_eq!(intersects(&left, &right), topics().iter().any(both), "{} {}", left, right);
        }

        #[test]
        fn a_filter_that_covers_another_matches_all_it_matches(outer in filter(), inner in filter()) {
            let outside = |topic: &String| matches(&inner, topic) && !matches(&outer, topic);
            if covers(&outer, &inner) {
                let found = topics().into_iter().find(outside);
                prop_assert_eq!(found, None, "{} {}", outer, inner);
            }
        }
    }

    #[test]
    fn the_usual_cases_are_seen() {
        for (outer, inner) in
            [("#", "a/#"), ("a/#", "a"), ("a/+/c", "a/b/c"), ("a/#", "a/+/#"), ("$s/#", "$s/+")]
        {
            assert!(covers(outer, inner), "{outer} {inner}");
        }
        for (outer, inner) in [
            ("a/+", "a/#"),
            ("a", "a/#"),
            ("#", "$s/a"),
            ("+/a", "$s/a"),
            ("a/b", "a/+"),
            ("a/#", "#"),
        ] {
            assert!(!covers(outer, inner), "{outer} {inner}");
        }
    }
}
