//! What a command has to say as named fields, told once: as indented lines for people, as JSON for programs.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::{text, time};

/// A value with everything in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tree {
    /// Text that others chose, or ours.
    Text(String),
    /// A number.
    Number(u64),
    /// Yes or no.
    Flag(bool),
    /// A log time, in milliseconds.
    Time(u64),
    /// An identifier of 64 bits: hexadecimal, because many JSON readers round numbers.
    Id(u64),
    /// A line as [`record_line`](crate::record_line) makes it: escaped already, or JSON.
    Line(String),
    /// Nothing.
    None,
    /// Some of a kind.
    List(Vec<Tree>),
    /// Named ones, in this order.
    Fields(Vec<(&'static str, Tree)>),
}

impl Tree {
    /// Bytes as text; what is not UTF-8 becomes U+FFFD.
    pub fn bytes(bytes: &[u8]) -> Tree {
        Tree::Text(String::from_utf8_lossy(bytes).into_owned())
    }

    /// A log time, or nothing.
    pub fn time(time: Option<u64>) -> Tree {
        time.map_or(Tree::None, Tree::Time)
    }

    /// Some of a kind.
    pub fn list(items: impl IntoIterator<Item = Tree>) -> Tree {
        Tree::List(items.into_iter().collect())
    }

    /// Returns it as one line of JSON, without the end of the line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always serialize")
    }

    /// Returns it as lines for people, without a line's end at the end.
    pub fn to_text(&self) -> String {
        self.lines().join("\n")
    }

    fn lines(&self) -> Vec<String> {
        match self {
            Tree::Fields(fields) => {
                fields.iter().flat_map(|(name, value)| field(name, value)).collect()
            }
            Tree::List(items) => items.iter().flat_map(item).collect(),
            scalar => vec![scalar.word()],
        }
    }

    fn word(&self) -> String {
        match self {
            Tree::Text(text) => text::escaped(text.as_bytes()),
            Tree::Number(number) => number.to_string(),
            Tree::Flag(flag) => if *flag { "yes" } else { "no" }.to_owned(),
            Tree::Time(ms) => time::to_rfc3339(*ms),
            Tree::Id(id) => format!("{id:016x}"),
            Tree::Line(line) => line.clone(),
            Tree::None => "none".to_owned(),
            Tree::List(_) | Tree::Fields(_) => self.lines().join(" "),
        }
    }

    fn is_nested(&self) -> bool {
        match self {
            Tree::List(items) => !items.is_empty(),
            Tree::Fields(fields) => !fields.is_empty(),
            _ => false,
        }
    }
}

fn field(name: &str, value: &Tree) -> Vec<String> {
    if value.is_nested() {
        let below = value.lines().into_iter().map(|line| format!("  {line}"));
        return std::iter::once(format!("{name}:")).chain(below).collect();
    }
    let word = value.word();
    vec![format!("{name}: {}", if word.is_empty() { "none" } else { &word })]
}

fn item(value: &Tree) -> Vec<String> {
    let lines = value.lines().into_iter().enumerate();
    lines.map(|(at, line)| format!("{}{line}", if at == 0 { "- " } else { "  " })).collect()
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Tree::Text(text) => serializer.serialize_str(text),
            Tree::Number(number) => serializer.serialize_u64(*number),
            Tree::Flag(flag) => serializer.serialize_bool(*flag),
            Tree::Time(ms) => serializer.serialize_str(&time::to_rfc3339(*ms)),
            Tree::Id(id) => serializer.serialize_str(&format!("{id:016x}")),
            Tree::Line(line) => match serde_json::from_str::<serde_json::Value>(line) {
                Ok(json) => json.serialize(serializer),
                Err(_) => serializer.serialize_str(line),
            },
            Tree::None => serializer.serialize_none(),
            Tree::List(items) => serializer.collect_seq(items),
            Tree::Fields(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_told_to_people_and_to_programs() {
        let tree = Tree::Fields(vec![
            ("name", Tree::bytes(b"a\nb")),
            ("since", Tree::time(Some(0))),
            ("until", Tree::time(None)),
            ("ids", Tree::list([Tree::Id(10), Tree::Number(3)])),
            ("none", Tree::list([])),
            ("in", Tree::list([Tree::Fields(vec![("x", Tree::Flag(true)), ("y", Tree::None)])])),
        ]);

        let text = "name: a\\nb\nsince: 1970-01-01T00:00:00.000Z\nuntil: none\nids:\n  - 000000000000000a\n  - 3\n\
                    none: none\nin:\n  - x: yes\n    y: none";
        assert_eq!(tree.to_text(), text);
        let json = r#"{"name":"a\nb","since":"1970-01-01T00:00:00.000Z","until":null,"ids":["000000000000000a",3],"none":[],"in":[{"x":true,"y":null}]}"#;
        assert_eq!(tree.to_json(), json);
    }
}
