//! Four walks over the same fields: read them, check them, print them, list them.
//!
//! A section names each of its fields once, in `fields`; it destructures itself there, so a field that is not named does not
//! compile. Everything that must know all fields is a walk.

use std::collections::BTreeMap;

use super::error::FieldProblem;
use super::setting::{Complaint, Setting};
use super::source::{Node, Value};

/// A struct of fields.
pub(super) trait Section {
    /// Shows every field to `walk`, in the order of the documentation.
    fn fields(&mut self, walk: &mut dyn Walk);
}

/// A list of sections.
pub(super) trait SectionList {
    /// Makes it `count` long, new elements at their defaults.
    fn resize(&mut self, count: usize);
    /// Returns how many there are.
    fn count(&self) -> usize;
    /// Returns one of them.
    fn at(&mut self, index: usize) -> &mut dyn Section;
}

impl<T: Section + Default> SectionList for Vec<T> {
    fn resize(&mut self, count: usize) {
        self.resize_with(count, T::default);
    }

    fn count(&self) -> usize {
        self.len()
    }

    fn at(&mut self, index: usize) -> &mut dyn Section {
        &mut self[index]
    }
}

/// Sees every field.
pub(super) trait Walk {
    /// A field with one value.
    fn leaf(&mut self, name: &'static str, setting: &mut dyn Setting);
    /// A field that is a section.
    fn section(&mut self, name: &'static str, section: &mut dyn Section);
    /// A field that is a list of sections.
    fn list(&mut self, name: &'static str, list: &mut dyn SectionList);
}

/// Fills fields from a tree and notes what it could not read.
pub(super) struct Reader {
    /// Maps from the root to where we are, each without the fields already read.
    open: Vec<Level>,
    path: Path,
    problems: Vec<FieldProblem>,
    origins: BTreeMap<String, String>,
}

struct Level {
    rest: Vec<(String, Node)>,
    known: Vec<&'static str>,
}

impl Reader {
    pub(super) fn new(tree: Node) -> Reader {
        let mut reader = Reader {
            open: Vec::new(),
            path: Path::default(),
            problems: Vec::new(),
            origins: BTreeMap::new(),
        };
        let rest = reader.entries(tree);
        reader.open.push(Level { rest, known: Vec::new() });
        reader
    }

    /// Notes the keys that no field took, adds what was wrong to `problems`, and returns where each field came from.
    pub(super) fn finish(mut self, problems: &mut Vec<FieldProblem>) -> BTreeMap<String, String> {
        self.close();
        problems.append(&mut self.problems);
        self.origins
    }

    fn take(&mut self, name: &'static str) -> Option<Node> {
        let level = self.open.last_mut().expect("the root is open until the end");
        level.known.push(name);
        let index = level.rest.iter().position(|(key, _)| key == name)?;
        let (_, node) = level.rest.remove(index);
        self.origins.insert(self.path.with(name), node.origin.clone());
        Some(node)
    }

    fn enter(&mut self, node: Node, section: &mut dyn Section) {
        let rest = self.entries(node);
        self.open.push(Level { rest, known: Vec::new() });
        section.fields(self);
        self.close();
    }

    fn close(&mut self) {
        let level = self.open.pop().expect("levels close once");
        for (key, node) in level.rest {
            let remedy = did_you_mean(&self.path, &key, &level.known);
            let path = self.path.with(&key);
            self.problem(path, &node, "unknown key".to_owned(), remedy);
        }
    }

    fn entries(&mut self, node: Node) -> Vec<(String, Node)> {
        let found = match node.value {
            Value::Map(entries) => return entries,
            Value::Null => return Vec::new(),
            Value::Text(ref text) => format!("'{text}' is a value, not a section"),
            Value::List(_) => "is a list, not a section".to_owned(),
        };
        self.problem(self.path.to_string(), &node, found, "write its fields below it".to_owned());
        Vec::new()
    }

    fn problem(&mut self, path: String, node: &Node, problem: String, remedy: String) {
        let origin = Some(node.origin.clone());
        self.problems.push(FieldProblem { path, origin, problem, remedy });
    }
}

impl Walk for Reader {
    fn leaf(&mut self, name: &'static str, setting: &mut dyn Setting) {
        let Some(node) = self.take(name) else { return };
        let Complaint { problem, remedy } = match &node.value {
            Value::Text(text) => match setting.read(text) {
                Ok(()) => return,
                Err(complaint) => complaint,
            },
            Value::Null => Complaint {
                problem: "has no value".to_owned(),
                remedy: format!("write {} or leave it out", setting.accepts()),
            },
            Value::List(_) | Value::Map(_) => Complaint {
                problem: "takes one value".to_owned(),
                remedy: format!("write {}", setting.accepts()),
            },
        };
        self.problem(self.path.with(name), &node, problem, remedy);
    }

    fn section(&mut self, name: &'static str, section: &mut dyn Section) {
        let Some(node) = self.take(name) else { return };
        self.path.push(name);
        self.enter(node, section);
        self.path.pop();
    }

    fn list(&mut self, name: &'static str, list: &mut dyn SectionList) {
        let Some(node) = self.take(name) else { return };
        let Value::List(nodes) = node.value else {
            let remedy = "write '- ' before each of its entries".to_owned();
            self.problem(self.path.with(name), &node, "is not a list".to_owned(), remedy);
            return;
        };
        list.resize(0);
        list.resize(nodes.len());
        self.path.push(name);
        for (index, node) in nodes.into_iter().enumerate() {
            self.path.push(&index.to_string());
            self.enter(node, list.at(index));
            self.path.pop();
        }
        self.path.pop();
    }
}

/// Finds the key that was probably meant: near this one in its section, or the same one in another section.
fn did_you_mean(section: &Path, key: &str, known: &[&'static str]) -> String {
    let near = known.iter().map(|name| (strsim::damerau_levenshtein(name, key), *name)).min();
    if let Some((distance, name)) = near
        && distance <= (key.len() / 3).max(1)
    {
        return format!("did you mean '{name}'?");
    }
    let elsewhere = paths().into_iter().find(|path| path.rsplit('.').next() == Some(key));
    match elsewhere {
        Some(path) => format!("did you mean '{path}'?"),
        None if section.is_root() => format!("known here: {}", known.join(", ")),
        None => format!("known in '{section}': {}", known.join(", ")),
    }
}

/// Notes the fields whose values are out of bounds.
#[derive(Default)]
pub(super) struct Checker {
    path: Path,
    problems: Vec<FieldProblem>,
}

impl Checker {
    pub(super) fn finish(self) -> Vec<FieldProblem> {
        self.problems
    }
}

impl Walk for Checker {
    fn leaf(&mut self, name: &'static str, setting: &mut dyn Setting) {
        if let Err(Complaint { problem, remedy }) = setting.check() {
            let path = self.path.with(name);
            self.problems.push(FieldProblem { path, origin: None, problem, remedy });
        }
    }

    fn section(&mut self, name: &'static str, section: &mut dyn Section) {
        self.path.push(name);
        section.fields(self);
        self.path.pop();
    }

    fn list(&mut self, name: &'static str, list: &mut dyn SectionList) {
        self.path.push(name);
        for index in 0..list.count() {
            self.path.push(&index.to_string());
            list.at(index).fields(self);
            self.path.pop();
        }
        self.path.pop();
    }
}

/// Writes YAML.
#[derive(Default)]
pub(super) struct Printer {
    out: String,
    depth: usize,
    /// The next field is the first of a list's element.
    bullet: bool,
}

impl Printer {
    pub(super) fn finish(self) -> String {
        self.out
    }

    fn line(&mut self, name: &str, value: &str) {
        let bullet = std::mem::take(&mut self.bullet);
        let depth = if bullet { self.depth - 1 } else { self.depth };
        self.out.push_str(&"  ".repeat(depth));
        self.out.push_str(if bullet { "- " } else { "" });
        self.out.push_str(name);
        self.out.push(':');
        if !value.is_empty() {
            self.out.push(' ');
            self.out.push_str(value);
        }
        self.out.push('\n');
    }
}

impl Walk for Printer {
    fn leaf(&mut self, name: &'static str, setting: &mut dyn Setting) {
        self.line(name, &setting.show());
    }

    fn section(&mut self, name: &'static str, section: &mut dyn Section) {
        self.line(name, "");
        self.depth += 1;
        section.fields(self);
        self.depth -= 1;
    }

    fn list(&mut self, name: &'static str, list: &mut dyn SectionList) {
        self.line(name, if list.count() == 0 { "[]" } else { "" });
        self.depth += 2;
        for index in 0..list.count() {
            self.bullet = true;
            list.at(index).fields(self);
        }
        self.depth -= 2;
    }
}

/// One field, for documentation and for finding what was meant.
pub struct FieldDescription {
    /// `limits.packet_bytes_max`; an element of a list has `*` for its number.
    pub path: String,
    /// The default, as YAML.
    pub default: String,
    /// What may be written.
    pub accepts: String,
}

/// Returns every field of the configuration, in the order of its documentation.
pub fn described() -> Vec<FieldDescription> {
    let mut lister = Lister::default();
    super::Config::default().fields(&mut lister);
    lister.fields
}

/// Returns the path of every field.
pub(super) fn paths() -> Vec<String> {
    described().into_iter().map(|field| field.path).collect()
}

#[derive(Default)]
struct Lister {
    path: Path,
    fields: Vec<FieldDescription>,
}

impl Walk for Lister {
    fn leaf(&mut self, name: &'static str, setting: &mut dyn Setting) {
        let (default, accepts) = (setting.show(), setting.accepts());
        self.fields.push(FieldDescription { path: self.path.with(name), default, accepts });
    }

    fn section(&mut self, name: &'static str, section: &mut dyn Section) {
        self.path.push(name);
        section.fields(self);
        self.path.pop();
    }

    fn list(&mut self, name: &'static str, list: &mut dyn SectionList) {
        list.resize(1);
        self.path.push(name);
        self.path.push("*");
        list.at(0).fields(self);
        self.path.pop();
        self.path.pop();
    }
}

/// Where a walk is.
#[derive(Clone, Debug, Default)]
struct Path(Vec<String>);

impl Path {
    fn push(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn pop(&mut self) {
        self.0.pop();
    }

    fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    fn with(&self, name: &str) -> String {
        if self.is_root() { name.to_owned() } else { format!("{self}.{name}") }
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0.join("."))
    }
}
