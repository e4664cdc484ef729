//! Finding the shapes of a segment's topics: which levels tell topics apart, and which are the same in all.
//!
//! Top down, one level at a time: topics that share a pattern so far are split by their next level as long as it has few values,
//! and stay together under a `+` when it has many. With hindsight, so that the outcome depends on the set of topics alone.
//! Topics that begin with `$` are kept apart: no wildcard at the first level matches them [MQTT-4.7.2-1].

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use crate::topic_trie::is_reserved;

/// More values than this make a level a `+`: at the first level, and below.
const VALUES_MAX: [usize; 2] = [100, 10];
/// A cursor behind the last level.
const ENDED: u32 = u32::MAX;
const ROOT: u32 = 0;

/// A pattern and the topics that have it, by their numbers among those given.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Learned {
    /// The topics begin with `$`.
    pub(crate) is_reserved: bool,
    /// The levels; `None` where topics differ.
    pub(crate) levels: Vec<Option<Vec<u8>>>,
    pub(crate) topics: Vec<u32>,
}

/// Returns the shapes of distinct topics, reserved ones last, then by their levels.
pub(crate) fn learn(topics: &[&[u8]]) -> Vec<Learned> {
    let mut learner = Learner {
        topics,
        cursors: vec![0; topics.len()],
        order: Vec::with_capacity(topics.len()),
        classes: vec![0; topics.len()],
        patterns: vec![Pattern { parent: ROOT, level: None }],
        work: Vec::new(),
        shapes: Vec::new(),
    };
    let ids = 0..topics.len() as u32;
    let (reserved, others): (Vec<u32>, Vec<u32>) =
        ids.partition(|id| is_reserved(topics[*id as usize]));
    let middle = others.len();
    learner.order.extend(others.into_iter().chain(reserved));
    for range in [0..middle, middle..learner.order.len()] {
        learner.work.push(Work { range, pattern: ROOT, depth: 0 });
    }
    while let Some(work) = learner.work.pop() {
        learner.split(work);
    }
    let mut shapes: Vec<Learned> = learner.shapes();
    shapes.sort_unstable_by(|left, right| {
        (left.is_reserved, &left.levels).cmp(&(right.is_reserved, &right.levels))
    });
    shapes
}

struct Learner<'a> {
    topics: &'a [&'a [u8]],
    /// Where the next level of each topic begins.
    cursors: Vec<u32>,
    /// The topics; those of one piece of work side by side.
    order: Vec<u32>,
    /// Which value of the level at hand each topic of `order` has.
    classes: Vec<u32>,
    patterns: Vec<Pattern<'a>>,
    work: Vec<Work>,
    shapes: Vec<(u32, std::ops::Range<usize>)>,
}

/// One more level behind the pattern of the parent.
struct Pattern<'a> {
    parent: u32,
    level: Option<&'a [u8]>,
}

struct Work {
    range: std::ops::Range<usize>,
    pattern: u32,
    depth: usize,
}

impl<'a> Learner<'a> {
    fn split(&mut self, work: Work) {
        let Work { range, pattern, depth } = work;
        let ended = self.take_ended(range.clone());
        if ended > range.start {
            self.shapes.push((pattern, range.start..ended));
        }
        let rest = ended..range.end;
        if rest.is_empty() {
            return;
        }
        let values_max = VALUES_MAX[depth.min(1)];
        let values = self.classify(rest.clone(), values_max);
        for &id in &self.order[rest.clone()] {
            let cursor = &mut self.cursors[id as usize];
            let level = level_at(self.topics[id as usize], *cursor);
            let end = *cursor + level.len() as u32;
            let is_last = end as usize == self.topics[id as usize].len();
            *cursor = if is_last { ENDED } else { end + 1 };
        }
        if values.len() > values_max {
            let pattern = self.pattern(pattern, None);
            self.work.push(Work { range: rest, pattern, depth: depth + 1 });
            return;
        }
        for (range, value) in self.group(rest, &values) {
            let pattern = self.pattern(pattern, Some(value));
            self.work.push(Work { range, pattern, depth: depth + 1 });
        }
    }

    /// Brings the topics without a next level to the front, and returns where they end.
    fn take_ended(&mut self, range: std::ops::Range<usize>) -> usize {
        let mut end = range.start;
        for at in range {
            if self.cursors[self.order[at] as usize] == ENDED {
                self.order.swap(at, end);
                end += 1;
            }
        }
        end
    }

    /// Finds the values of the next level, one more than `max` at most, and which each topic has.
    fn classify(&mut self, range: std::ops::Range<usize>, max: usize) -> Vec<&'a [u8]> {
        let mut values: Vec<&'a [u8]> = Vec::new();
        let mut known: HashTable<u32> = HashTable::new();
        let mut last = u32::MAX;
        for at in range {
            let id = self.order[at] as usize;
            let value = level_at(self.topics[id], self.cursors[id]);
            if values.get(last as usize) != Some(&value) {
                let hash = xxh3_64(value);
                last = match known.find(hash, |class| values[*class as usize] == value) {
                    Some(class) => *class,
                    None => {
                        let class = values.len() as u32;
                        values.push(value);
                        if values.len() > max {
                            return values;
                        }
                        known.insert_unique(hash, class, |class| xxh3_64(values[*class as usize]));
                        class
                    }
                };
            }
            self.classes[at] = last;
        }
        values
    }

    /// Brings topics of the same value together.
    fn group(
        &mut self,
        range: std::ops::Range<usize>,
        values: &[&'a [u8]],
    ) -> Vec<(std::ops::Range<usize>, &'a [u8])> {
        let mut ends = vec![0; values.len()];
        for &class in &self.classes[range.clone()] {
            ends[class as usize] += 1;
        }
        let mut start = range.start;
        let mut groups = Vec::with_capacity(values.len());
        for (end, value) in ends.iter_mut().zip(values) {
            groups.push((start..start + *end, *value));
            let next = start + *end;
            *end = start;
            start = next;
        }
        if values.len() > 1 {
            let before = self.order[range.clone()].to_vec();
            for (id, &class) in before.into_iter().zip(&self.classes[range]) {
                self.order[ends[class as usize]] = id;
                ends[class as usize] += 1;
            }
        }
        groups
    }

    fn pattern(&mut self, parent: u32, level: Option<&'a [u8]>) -> u32 {
        self.patterns.push(Pattern { parent, level });
        (self.patterns.len() - 1) as u32
    }

    fn shapes(self) -> Vec<Learned> {
        let shape = |(pattern, range): &(u32, std::ops::Range<usize>)| {
            let mut levels = Vec::new();
            let mut at = *pattern;
            while at != ROOT {
                let Pattern { parent, level } = &self.patterns[at as usize];
                levels.push(level.map(<[u8]>::to_vec));
                at = *parent;
            }
            levels.reverse();
            let topics = self.order[range.clone()].to_vec();
            let is_reserved = is_reserved(self.topics[topics[0] as usize]);
            Learned { is_reserved, levels, topics }
        };
        self.shapes.iter().map(shape).collect()
    }
}

/// Returns the level that begins at `start`.
fn level_at(topic: &[u8], start: u32) -> &[u8] {
    let rest = &topic[start as usize..];
    &rest[..rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_with_many_values_is_a_plus_and_what_follows_is_learned_from_all_together() {
        let names: Vec<String> = (0..11)
            .flat_map(|room| ["heat", "light"].map(|what| format!("site/{room}/{what}")))
            .chain(["site".into(), "$SYS/up".into()])
            .collect();

        let shapes = patterns(&names);

        let expected = ["site", "site/+/heat", "site/+/light", "$SYS/up"];
        assert_eq!(shapes, expected.map(str::to_owned));
    }

    #[test]
    fn the_first_level_may_have_a_hundred_values_and_others_ten() {
        let names: Vec<String> = (0..100).map(|number| format!("{number}/x")).collect();
        assert_eq!(patterns(&names).len(), 100);

        let names: Vec<String> = (0..101).map(|number| format!("{number}/x")).collect();
        assert_eq!(patterns(&names), ["+/x"]);

        let names: Vec<String> = (0..10).map(|number| format!("x/{number}")).collect();
        assert_eq!(patterns(&names).len(), 10);
    }

    #[test]
    fn empty_levels_are_levels_and_depth_has_no_limit() {
        let deep = "/".repeat(40_000);
        let names = ["".to_owned(), "/".to_owned(), "a/".to_owned(), deep.clone()];

        let expected = ["", "/", deep.as_str(), "a/"];
        assert_eq!(patterns(&names), expected.map(str::to_owned));
    }

    #[test]
    fn the_order_of_the_topics_does_not_matter() {
        let mut names: Vec<String> = (0..30).map(|n| format!("{}/{n}/{}", n % 3, n % 7)).collect();
        let expected = patterns(&names);
        names.reverse();

        assert_eq!(patterns(&names), expected);
    }

    fn patterns(names: &[String]) -> Vec<String> {
        let topics: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
        let shapes = learn(&topics);
        assert_eq!(shapes.iter().map(|shape| shape.topics.len()).sum::<usize>(), names.len());
        let text = |level: &Option<Vec<u8>>| match level {
            Some(level) => String::from_utf8(level.clone()).unwrap(),
            None => "+".to_owned(),
        };
        let pattern = |shape: &Learned| shape.levels.iter().map(text).collect::<Vec<_>>().join("/");
        shapes.iter().map(pattern).collect()
    }
}
