//! Topics and filters for properties: what an index selects must be what a look at every topic selects.
//!
//! One generator for all of them, so that no index is asked for less than another.

use proptest::prelude::*;

/// A topic of few levels: some are empty, some begin with a dollar, and some would be wildcards in a filter.
pub fn topic() -> impl Strategy<Value = String> {
    let level = prop::sample::select(vec!["", "a", "b", "$x", "ab", "7", "+", "#", "\u{0}"]);
    prop::collection::vec(level, 1..4).prop_map(|levels| levels.join("/"))
}

/// A filter: levels and wildcards in any order, or one of these topics with wildcards in place of some levels, or of all from one on.
pub fn filter(topics: impl Strategy<Value = String> + 'static) -> impl Strategy<Value = String> {
    let levels = vec!["", "a", "b", "s", "$x", "$SYS", "+", "#", "7", "3", "x", "1"];
    let composed = prop::collection::vec(prop::sample::select(levels), 1..5);
    let composed = composed.prop_map(|levels| levels.join("/"));
    let wild = prop::collection::vec(any::<bool>(), 6);
    let cut = prop::option::of(0..5usize);
    let of_topic = (topics, wild, cut).prop_map(|(topic, wild, cut)| {
        let levels = topic.split('/').zip(wild.into_iter().chain(std::iter::repeat(false)));
        let levels = levels.map(|(level, is_wild)| if is_wild { "+" } else { level });
        let mut levels: Vec<&str> = levels.collect();
        if let Some(cut) = cut.filter(|cut| *cut <= levels.len()) {
            levels.truncate(cut);
            levels.push("#");
        }
        levels.join("/")
    });
    prop_oneof![1 => composed, 2 => of_topic]
}
