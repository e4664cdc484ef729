//! The topics of a segment, by shape and then by what tells them apart, and which of them a filter matches.
//!
//! ```text
//! dictionary := u32 shapes | u32 len of shapes | shape* | restarts: packed | keys
//! shape      := u8 flags: 1 topics begin with $ | varint levels | level* | varint topics
//! level      := varint 0 for a level that differs, else its length + 1 and its bytes
//! key        := varint bytes shared with the key before | varint len | the other bytes
//! ```
//!
//! The key of a topic are its differing levels, joined by `/`. Topics are numbered in order, so a shape is a range of numbers, and in
//! it keys ascend. Every 16th key, and the first of each shape, shares nothing; `restarts` says where every 16th begins.

use std::ops::Range;

use super::learn::Learned;
use super::packed::{self, Packed};
use crate::topic_trie::levels;
use crate::varint::{self, Input};

const RESTART_EVERY: usize = 16;
const FLAG_RESERVED: u8 = 1;

/// A dictionary in bytes that somebody else holds, its shapes decoded.
#[derive(Debug)]
pub(crate) struct Dictionary {
    shapes: Vec<Shape>,
    topic_count: u32,
    /// Where the restarts and where the keys begin.
    restarts_at: usize,
    keys_at: usize,
}

#[derive(Debug)]
struct Shape {
    is_reserved: bool,
    /// Where its literal levels are in the bytes; `None` for one that differs.
    levels: Vec<Option<Range<usize>>>,
    topics: Range<u32>,
}

/// Appends the dictionary of learned shapes, and returns the numbers given to their topics: first that of topic number 0 in the
/// learner's count, and so on.
pub(crate) fn encode(topics: &[&[u8]], learned: &[Learned], out: &mut Vec<u8>) -> Vec<u32> {
    let mut shapes = Vec::new();
    let mut keys = Keys::default();
    let mut numbers = vec![0; topics.len()];
    for shape in learned {
        shapes.push(if shape.is_reserved { FLAG_RESERVED } else { 0 });
        varint::put(&mut shapes, shape.levels.len() as u64);
        for level in &shape.levels {
            varint::put(&mut shapes, level.as_ref().map_or(0, |level| level.len() as u64 + 1));
            shapes.extend_from_slice(level.as_deref().unwrap_or_default());
        }
        varint::put(&mut shapes, shape.topics.len() as u64);
        keys.begin_shape();
        for_each_sorted(topics, shape, |id, key| {
            numbers[id as usize] = keys.count;
            keys.push(key);
        });
    }
    out.extend_from_slice(&(learned.len() as u32).to_le_bytes());
    let len = u32::try_from(shapes.len()).expect("shapes are shorter than their segment");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&shapes);
    packed::encode(&keys.restarts, out);
    out.extend_from_slice(&keys.bytes);
    numbers
}

/// Keys in the making.
#[derive(Default)]
struct Keys {
    bytes: Vec<u8>,
    restarts: Vec<u32>,
    last: Vec<u8>,
    count: u32,
}

impl Keys {
    fn begin_shape(&mut self) {
        self.last.clear();
    }

    fn push(&mut self, key: &[u8]) {
        if (self.count as usize).is_multiple_of(RESTART_EVERY) {
            let at = u32::try_from(self.bytes.len()).expect("keys are shorter than their segment");
            self.restarts.push(at);
            self.last.clear();
        }
        let shared = key.iter().zip(&self.last).take_while(|(left, right)| left == right).count();
        varint::put(&mut self.bytes, shared as u64);
        varint::put(&mut self.bytes, (key.len() - shared) as u64);
        self.bytes.extend_from_slice(&key[shared..]);
        self.last.truncate(shared);
        self.last.extend_from_slice(&key[shared..]);
        self.count += 1;
    }
}

/// Visits the topics of a shape with their keys, by key.
///
/// Sorts numbers with the first eight bytes of each key beside them: a comparison seldom has to look at the keys themselves.
fn for_each_sorted(topics: &[&[u8]], shape: &Learned, mut visit: impl FnMut(u32, &[u8])) {
    let mut bytes = Vec::new();
    let mut ends = vec![0];
    let mut keys = Vec::with_capacity(shape.topics.len());
    for &id in &shape.topics {
        let start = bytes.len();
        let differing = levels(topics[id as usize]).zip(&shape.levels);
        let differing = differing.filter(|(_, literal)| literal.is_none());
        for (number, (level, _)) in differing.enumerate() {
            if number > 0 {
                bytes.push(b'/');
            }
            bytes.extend_from_slice(level);
        }
        let mut first = [0; 8];
        let head = &bytes[start..bytes.len().min(start + 8)];
        first[..head.len()].copy_from_slice(head);
        keys.push((u64::from_be_bytes(first), keys.len() as u32));
        ends.push(bytes.len());
    }
    let key = |at: u32| &bytes[ends[at as usize]..ends[at as usize + 1]];
    keys.sort_unstable_by(|left, right| {
        left.0.cmp(&right.0).then_with(|| key(left.1).cmp(key(right.1)))
    });
    keys.iter().for_each(|(_, at)| visit(shape.topics[*at as usize], key(*at)));
}

impl Dictionary {
    /// Reads the shapes; `None` for bytes that are no dictionary.
    pub(crate) fn read(bytes: &[u8]) -> Option<Dictionary> {
        let mut input = Input::new(bytes);
        let (shape_count, shapes_len) = (input.u32()?, input.u32()? as usize);
        let shapes_end = input.position().checked_add(shapes_len)?;
        let mut head = Input::at(bytes.get(..shapes_end)?, input.position());
        let mut shapes = Vec::new();
        let mut topic_count = 0u32;
        for _ in 0..shape_count {
            let is_reserved = match head.u8()? {
                0 => false,
                FLAG_RESERVED => true,
                _ => return None,
            };
            let mut levels = Vec::new();
            for _ in 0..head.varint()? {
                let literal = usize::try_from(head.varint()?).ok()?.checked_sub(1);
                levels.push(match literal {
                    Some(len) => {
                        head.take(len)?;
                        Some(head.position() - len..head.position())
                    }
                    None => None,
                });
            }
            let end = topic_count.checked_add(head.varint_u32()?)?;
            shapes.push(Shape { is_reserved, levels, topics: topic_count..end });
            topic_count = end;
        }
        input.take(shapes_len)?;
        let restarts_at = input.position();
        let restarts = Packed::read(&mut input)?;
        let is_whole = head.remaining() == 0
            && restarts.len() == (topic_count as usize).div_ceil(RESTART_EVERY);
        let keys_at = input.position();
        is_whole.then_some(Dictionary { shapes, topic_count, restarts_at, keys_at })
    }

    /// Returns how many topics there are.
    pub(crate) fn topic_count(&self) -> u32 {
        self.topic_count
    }

    /// Returns how many shapes there are.
    pub(crate) fn shape_count(&self) -> usize {
        self.shapes.len()
    }

    /// Returns about how many bytes it takes beside those it was read from.
    pub(crate) fn memory_bytes(&self) -> usize {
        let level = size_of::<Option<Range<usize>>>();
        let levels = self.shapes.iter().map(|shape| shape.levels.capacity() * level);
        self.shapes.capacity() * size_of::<Shape>() + levels.sum::<usize>()
    }

    /// Returns the numbers of the topics that match a filter, ascending; `None` when the keys do not read as keys.
    pub(crate) fn select(&self, bytes: &[u8], filter: &[u8]) -> Option<Vec<Range<u32>>> {
        let filter: Vec<&[u8]> = levels(filter).collect();
        let mut found: Vec<Range<u32>> = Vec::new();
        let mut add = |range: Range<u32>| match found.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => found.push(range),
        };
        for shape in &self.shapes {
            match shape.relate(bytes, &filter) {
                Some(wanted) if wanted.is_empty() => add(shape.topics.clone()),
                Some(wanted) => self.select_in(bytes, shape, &wanted, &mut add)?,
                None => {}
            }
        }
        Some(found)
    }

    /// Adds the topics of one shape that have the wanted values where they differ.
    fn select_in(
        &self,
        bytes: &[u8],
        shape: &Shape,
        wanted: &[(usize, &[u8])],
        add: &mut impl FnMut(Range<u32>),
    ) -> Option<()> {
        let leading = wanted.iter().enumerate().take_while(|(at, (level, _))| at == level).count();
        let mut prefix =
            wanted[..leading].iter().map(|(_, value)| *value).collect::<Vec<_>>().join(&b'/');
        let is_whole = leading == shape.differing();
        if leading > 0 && !is_whole {
            prefix.push(b'/');
        }
        let topics = shape.topics.clone();
        let start = self.lower_bound(bytes, topics.clone(), |key| key < prefix.as_slice())?;
        let is_before_end = |key: &[u8]| match is_whole {
            true => key <= prefix.as_slice(),
            false => key < prefix.as_slice() || key.starts_with(&prefix),
        };
        let end = self.lower_bound(bytes, start..topics.end, is_before_end)?;
        if leading == wanted.len() {
            if start < end {
                add(start..end);
            }
            return Some(());
        }
        self.walk(bytes, start..end, |number, key| {
            let mut values = levels(key);
            let mut next = 0;
            let is_match = wanted[leading..].iter().all(|(level, value)| {
                let found = values.nth(level - next);
                next = level + 1;
                found == Some(*value)
            });
            if is_match {
                add(number..number + 1);
            }
            true
        })
    }

    /// Returns the first topic in `range` of whose key `is_before` does not hold.
    fn lower_bound(
        &self,
        bytes: &[u8],
        range: Range<u32>,
        is_before: impl Fn(&[u8]) -> bool,
    ) -> Option<u32> {
        let restarts = Packed::read(&mut Input::at(bytes, self.restarts_at))?;
        // Restarts inside the range: their keys share nothing and can be looked at alone.
        let (mut low, mut high) = (
            range.start as usize / RESTART_EVERY + 1,
            (range.end as usize).div_ceil(RESTART_EVERY),
        );
        while low < high {
            let middle = usize::midpoint(low, high);
            let mut input = self.key_input(bytes, restarts.get(middle))?;
            input.varint()?;
            let len = usize::try_from(input.varint()?).ok()?;
            if is_before(input.take(len)?) { low = middle + 1 } else { high = middle }
        }
        let start = range.start.max(((low - 1) * RESTART_EVERY) as u32);
        let mut found = range.end;
        self.walk(bytes, start..range.end, |number, key| {
            let is_found = !is_before(key);
            if is_found {
                found = number;
            }
            !is_found
        })?;
        Some(found)
    }

    /// Visits the keys of a range of topics while `visit` says to go on.
    fn walk(
        &self,
        bytes: &[u8],
        range: Range<u32>,
        mut visit: impl FnMut(u32, &[u8]) -> bool,
    ) -> Option<()> {
        if range.is_empty() {
            return Some(());
        }
        let restarts = Packed::read(&mut Input::at(bytes, self.restarts_at))?;
        let restart = range.start as usize / RESTART_EVERY;
        let mut input = self.key_input(bytes, restarts.get(restart))?;
        let mut key = Vec::new();
        for number in (restart * RESTART_EVERY) as u32..range.end {
            let (shared, len) = (input.varint()?, input.varint()?);
            let shared = usize::try_from(shared).ok().filter(|shared| *shared <= key.len())?;
            key.truncate(shared);
            key.extend_from_slice(input.take(usize::try_from(len).ok()?)?);
            if number >= range.start && !visit(number, &key) {
                break;
            }
        }
        Some(())
    }

    fn key_input<'a>(&self, bytes: &'a [u8], at: u32) -> Option<Input<'a>> {
        let at = self.keys_at.checked_add(at as usize)?;
        (at <= bytes.len()).then(|| Input::at(bytes, at))
    }

    /// Returns a topic; `None` when there is none of this number, or its key does not fit its shape.
    pub(crate) fn topic(&self, bytes: &[u8], number: u32) -> Option<Vec<u8>> {
        let mut found = None;
        let after = self.shapes.partition_point(|shape| shape.topics.end <= number);
        let shape = self.shapes.get(after)?;
        self.walk(bytes, number..number + 1, |_, key| {
            found = shape.name(bytes, key);
            false
        })?;
        found
    }

    /// Visits all topics; `None` when one does not read as a topic.
    pub(crate) fn for_each(&self, bytes: &[u8], mut visit: impl FnMut(u32, &[u8])) -> Option<()> {
        for shape in &self.shapes {
            let mut is_whole = true;
            self.walk(bytes, shape.topics.clone(), |number, key| {
                let name = shape.name(bytes, key);
                is_whole = name.is_some();
                name.iter().for_each(|name| visit(number, name));
                is_whole
            })?;
            if !is_whole {
                return None;
            }
        }
        Some(())
    }

    /// Visits the shapes as filters, each with how many topics it has.
    pub(crate) fn for_each_shape(&self, bytes: &[u8], mut visit: impl FnMut(&[u8], u32)) {
        for shape in &self.shapes {
            let level = |level: &Option<Range<usize>>| match level {
                Some(level) => &bytes[level.clone()],
                None => b"+",
            };
            let pattern = shape.levels.iter().map(level).collect::<Vec<_>>().join(&b'/');
            visit(&pattern, shape.topics.end - shape.topics.start);
        }
    }
}

impl Shape {
    fn differing(&self) -> usize {
        self.levels.iter().filter(|level| level.is_none()).count()
    }

    /// Tells how a filter relates to the topics of the shape: `None` when it matches none of them, else what those that it matches
    /// have where they differ, as pairs of which differing level and its value. Nothing there: it matches all.
    fn relate<'f>(&self, bytes: &[u8], filter: &[&'f [u8]]) -> Option<Vec<(usize, &'f [u8])>> {
        if self.is_reserved && matches!(filter[0], b"+" | b"#") {
            return None;
        }
        let mut wanted = Vec::new();
        let mut differing = 0;
        for (at, level) in self.levels.iter().enumerate() {
            let asked = *filter.get(at)?;
            if asked == b"#" && at + 1 == filter.len() {
                return Some(wanted);
            }
            match level {
                Some(literal) if asked != b"+" && *asked != bytes[literal.clone()] => return None,
                None if asked != b"+" => wanted.push((differing, asked)),
                Some(_) | None => {}
            }
            differing += usize::from(level.is_none());
        }
        // A final # also matches its parent [MQTT-4.7.1-2].
        let rest = &filter[self.levels.len()..];
        (rest.is_empty() || rest == [b"#"]).then_some(wanted)
    }

    /// Puts a topic together.
    fn name(&self, bytes: &[u8], key: &[u8]) -> Option<Vec<u8>> {
        let mut values = levels(key);
        let mut name = Vec::new();
        for (number, level) in self.levels.iter().enumerate() {
            if number > 0 {
                name.push(b'/');
            }
            name.extend_from_slice(match level {
                Some(literal) => &bytes[literal.clone()],
                None => values.next()?,
            });
        }
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::learn::learn;
    use super::*;
    use crate::any_topic::{filter, topic};
    use crate::topic_trie::matches;

    #[test]
    fn a_literal_a_prefix_and_a_value_in_the_middle_are_found() {
        let names: Vec<String> = (0..2000).map(|n| format!("s/{}/d/{n}/t", n % 40)).collect();

        for filter in ["s/7/d/47/t", "s/7/#", "s/+/d/47/#", "s/+/d/+/t", "s/7/d/8/t", "s/7", "+/#"]
        {
            let expected: Vec<&String> =
                names.iter().filter(|name| matches(filter.as_bytes(), name.as_bytes())).collect();
            assert_eq!(selected(&names, filter).len(), expected.len(), "{filter}");
        }
    }

    #[test]
    fn the_part_that_all_topics_share_is_stored_once() {
        let names: Vec<String> =
            (0..10_000).map(|n| format!("a/long/beginning/{n}/and/a/long/end")).collect();
        let topics: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
        let mut bytes = Vec::new();

        encode(&topics, &learn(&topics), &mut bytes);

        assert!(bytes.len() < 6 * names.len(), "{} bytes", bytes.len());
    }

    fn name() -> impl Strategy<Value = String> {
        let many = (0..40u32, 0..40u32).prop_map(|(x, y)| format!("a/{x}/b/{y}"));
        prop_oneof![topic(), many, (0..400u32).prop_map(|n| format!("{n}/x"))]
    }

    proptest! {
        #[test]
        fn what_a_filter_selects_is_what_it_matches(
            names in prop::collection::btree_set(name(), 0..300),
            filters in prop::collection::vec(filter(name()), 1..10),
        ) {
            let names: Vec<String> = names.into_iter().collect();
            for filter in filters {
                let matching = names.iter().filter(|n| matches(filter.as_bytes(), n.as_bytes()));
                let mut expected: Vec<String> = matching.cloned().collect();
                expected.sort();
                prop_assert_eq!(selected(&names, &filter), expected, "{}", filter);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            names in prop::collection::btree_set(name(), 0..60),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            filter in filter(name()),
        ) {
            let names: Vec<String> = names.into_iter().collect();
            let topics: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
            let mut bytes = Vec::new();
            encode(&topics, &learn(&topics), &mut bytes);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }

            if let Some(dictionary) = Dictionary::read(&bytes) {
                let _ = dictionary.select(&bytes, filter.as_bytes());
                let _ = dictionary.topic(&bytes, 3);
                let _ = dictionary.for_each(&bytes, |_, _| {});
            }
        }
    }

    fn selected(names: &[String], filter: &str) -> Vec<String> {
        let topics: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
        let mut bytes = Vec::new();
        let numbers = encode(&topics, &learn(&topics), &mut bytes);
        let dictionary = Dictionary::read(&bytes).unwrap();
        for (name, number) in names.iter().zip(&numbers) {
            assert_eq!(dictionary.topic(&bytes, *number).as_deref(), Some(name.as_bytes()));
        }
        let ranges = dictionary.select(&bytes, filter.as_bytes()).unwrap();
        assert!(ranges.is_sorted_by(|left, right| left.end < right.start));
        let found = ranges.into_iter().flatten();
        let found = found.map(|number| dictionary.topic(&bytes, number).unwrap());
        let mut found: Vec<_> = found.map(|name| String::from_utf8(name).unwrap()).collect();
        found.sort();
        found
    }
}
