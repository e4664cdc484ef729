//! Where values come from: the YAML file, the environment and the command line, as one tree that remembers its origins.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::Overrides;
use super::error::FieldProblem;

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// `file:line:column`, a variable's name or a flag.
    pub origin: String,
    pub value: Value,
}

/// What was written, before anyone knows what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Text(String),
    List(Vec<Node>),
    /// In the order written, keys distinct.
    Map(Vec<(String, Node)>),
}

impl Node {
    pub(super) fn empty_map() -> Node {
        Node { origin: String::new(), value: Value::Map(Vec::new()) }
    }

    /// Returns true when something is written below `key`.
    pub(super) fn has_entries(&self, key: &str) -> bool {
        let Value::Map(entries) = &self.value else { return false };
        entries.iter().any(|(name, node)| {
            name == key && matches!(&node.value, Value::Map(below) if !below.is_empty())
        })
    }

    fn text(origin: &str, text: impl Into<String>) -> Node {
        Node { origin: origin.to_owned(), value: Value::Text(text.into()) }
    }

    /// Puts `node` at `path`, making maps and the next list element on the way; false where a list has no such element.
    fn put(&mut self, path: &[&str], node: Node) -> bool {
        let Some((first, rest)) = path.split_first() else {
            *self = node;
            return true;
        };
        let child = match (&mut self.value, first.parse::<usize>()) {
            (Value::List(nodes), Ok(index)) if index <= nodes.len() => {
                if index == nodes.len() {
                    nodes.push(Node { origin: node.origin.clone(), ..Node::empty_map() });
                }
                &mut nodes[index]
            }
            (Value::List(_), _) => return false,
            (_, Ok(index)) if index > 0 => return false,
            (_, Ok(_)) => {
                let element = Node { origin: node.origin.clone(), ..Node::empty_map() };
                *self = Node { origin: node.origin.clone(), value: Value::List(vec![element]) };
                return self.put(path, node);
            }
            (Value::Map(entries), Err(_)) => {
                let index = entries.iter().position(|(key, _)| key == first).unwrap_or_else(|| {
                    let child = Node { origin: node.origin.clone(), value: Value::Null };
                    entries.push(((*first).to_owned(), child));
                    entries.len() - 1
                });
                &mut entries[index].1
            }
            (Value::Null | Value::Text(_), Err(_)) => {
                *self = Node { origin: node.origin.clone(), ..Node::empty_map() };
                return self.put(path, node);
            }
        };
        child.put(rest, node)
    }
}

/// Reads a YAML file; `${NAME}` and its forms with defaults are replaced out of the environment.
pub(super) fn read_file(
    path: &Path,
    environment: &[(String, String)],
) -> Result<Node, FieldProblem> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| FieldProblem {
        path: String::new(),
        origin: Some(name.clone()),
        problem: format!("cannot be read: {error}"),
        remedy: "name a readable file with --config".to_owned(),
    })?;
    parse(&text, &name, environment)
}

/// Parses one YAML document; an empty one is an empty section.
pub(super) fn parse(
    text: &str,
    name: &str,
    environment: &[(String, String)],
) -> Result<Node, FieldProblem> {
    let properties: HashMap<String, String> = environment.iter().cloned().collect();
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    let options = options.with_properties(properties);
    let raw = serde_saphyr::from_str_with_options::<Option<Spanned<Raw>>>(text, options);
    match raw {
        Ok(Some(raw)) => Ok(located(raw, name)),
        Ok(None) => Ok(Node::empty_map()),
        Err(error) => {
            let at = error.location().map_or_else(String::new, |location| {
                format!(":{}:{}", location.line(), location.column())
            });
            // The place is in front already.
            let said = error.without_snippet().to_string();
            let problem = said.split(" at line ").next().unwrap_or(&said).to_owned();
            Err(FieldProblem {
                path: String::new(),
                origin: Some(format!("{name}{at}")),
                problem,
                remedy: "correct it: the rest of the file is not read before".to_owned(),
            })
        }
    }
}

/// Lays the variables that are ours over the tree.
pub(super) fn lay_environment_over(
    tree: &mut Node,
    environment: &[(String, String)],
    known: &[String],
    problems: &mut Vec<FieldProblem>,
) {
    let mut ours: Vec<&(String, String)> =
        environment.iter().filter(|(name, _)| name.starts_with("FLUXMQ_")).collect();
    // The environment has no order of its own; ours must not depend on it.
    ours.sort();
    for (name, value) in ours {
        let path = name["FLUXMQ_".len()..].to_lowercase().replace("__", ".");
        let is_field = path.contains('.') || known.contains(&path);
        if !is_field {
            if let Some(meant) = slip(&path, known) {
                problems.push(FieldProblem {
                    path: String::new(),
                    origin: Some(name.clone()),
                    problem: "no field has this name".to_owned(),
                    remedy: format!("did you mean '{}'?", variable(&meant)),
                });
            }
            continue;
        }
        // `[::1]:1883` begins like a list and is none.
        let structured = (value.starts_with('[') && value.ends_with(']'))
            || (value.starts_with('{') && value.ends_with('}'));
        let node = match structured.then(|| parse(value, name, &[])) {
            Some(Ok(mut node)) => {
                node.origin = name.clone();
                node
            }
            Some(Err(problem)) => {
                problems.push(FieldProblem { path, ..problem });
                continue;
            }
            None => Node::text(name, value),
        };
        let segments: Vec<&str> = path.split('.').collect();
        if !tree.put(&segments, node) {
            problems.push(FieldProblem {
                path,
                origin: Some(name.clone()),
                problem: "the list has no such element".to_owned(),
                remedy: "number its elements from 0 without gaps".to_owned(),
            });
        }
    }
}

/// Lays the command line over the tree.
pub(super) fn lay_overrides_over(tree: &mut Node, overrides: &Overrides) {
    let Overrides { data_dir, mqtt_addresses, amqp_addresses, log_level } = overrides;
    if let Some(data_dir) = data_dir {
        tree.put(&["data_dir"], Node::text("--data", data_dir.to_string_lossy()));
    }
    for (kind, flag, addresses) in
        [("mqtt", "--mqtt", mqtt_addresses), ("amqp", "--amqp", amqp_addresses)]
    {
        if addresses.is_empty() {
            continue;
        }
        let listener = |address: &String| Node {
            origin: flag.to_owned(),
            value: Value::Map(vec![("address".to_owned(), Node::text(flag, address))]),
        };
        let list = Value::List(addresses.iter().map(listener).collect());
        tree.put(&["listeners", kind], Node { origin: flag.to_owned(), value: list });
    }
    if let Some(level) = log_level {
        tree.put(&["log", "level"], Node::text("--log-level", level));
    }
}

/// Returns the field that a variable without `__` nearly names: one with single underscores, or one letter off.
fn slip(path: &str, known: &[String]) -> Option<String> {
    let flat = |text: &str| text.replace(['_', '.'], "");
    let distance = |field: &&String| strsim::damerau_levenshtein(&flat(field), &flat(path));
    let nearest = known.iter().min_by_key(distance)?;
    (distance(&nearest) <= 1).then(|| nearest.clone())
}

fn variable(path: &str) -> String {
    format!("FLUXMQ_{}", path.replace('.', "__").to_uppercase())
}

/// A node without its own location.
enum Raw {
    Null,
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

fn located(raw: Spanned<Raw>, name: &str) -> Node {
    let origin = format!("{name}:{}:{}", raw.referenced.line(), raw.referenced.column());
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Text(text) => Value::Text(text),
        Raw::List(nodes) => {
            Value::List(nodes.into_iter().map(|node| located(node, name)).collect())
        }
        Raw::Map(entries) => {
            let entry = |(key, node): (Spanned<String>, Spanned<Raw>)| {
                // The key's place is where people look, also when the value is a whole section.
                let mut node = located(node, name);
                let at = key.referenced;
                node.origin = format!("{name}:{}:{}", at.line(), at.column());
                (key.value, node)
            };
            Value::Map(entries.into_iter().map(entry).collect())
        }
    };
    Node { origin, value }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value, a list or a section")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = access.next_element()? {
            nodes.push(node);
        }
        Ok(Raw::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}
