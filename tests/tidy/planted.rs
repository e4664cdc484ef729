//! One violation of each rule, in a repository of a file or two: a checker that never caught anything is decoration.

use super::*;

/// What the finding must say, the rule that must make it, and the files of a small repository that break it.
type Planted = (&'static str, Rule, &'static [(&'static str, &'static str)]);

const PLANTED: &[Planted] = &[
    (
        "src/view/queue.rs:1: src/view may not use partition::Partition",
        layers,
        &[("src/view/queue.rs", "use crate::partition::Partition;")],
    ),
    (
        "src/view/a.rs:2: src/view may not use shard::Post",
        layers,
        &[("src/view/a.rs", "fn f() {\n    super::super::shard::Post::new()\n}")],
    ),
    (
        "src/net/drive.rs:1: src/net may not use partition::Partition",
        layers,
        &[("src/net/drive.rs", "use crate::partition::{request::{self, Event}, Partition};")],
    ),
    (
        "src/protocol/amqp/a.rs:1: src/protocol may not use protocol::mqtt",
        layers,
        &[("src/protocol/amqp/a.rs", "use crate::protocol::{Connection, mqtt};")],
    ),
    (
        "index/src/a.rs:1: index/src may not use fluxmq_log::Log",
        layers,
        &[("index/src/a.rs", "type Log = fluxmq_log::Log<D>;")],
    ),
    ("src/rooms/a.rs:1: belongs to no layer", layers, &[("src/rooms/a.rs", "struct A;")]),
    (
        "src/partition/mod.rs:1: tokio::sync::mpsc is not at home",
        homes,
        &[("src/partition/mod.rs", "use tokio::sync::{mpsc};")],
    ),
    (
        "log/src/log.rs:2: std::fs::File is not at home",
        homes,
        &[("log/src/log.rs", "use std::{\n    fs::File, io,\n};")],
    ),
    (
        "src/partition/mod.rs:1: raft::RawNode is not at home",
        homes,
        &[("src/partition/mod.rs", "use raft::RawNode;")],
    ),
    (
        "src/broker/client.rs:1: 'async' outside",
        awaits,
        &[("src/broker/client.rs", "pub async fn f() {}")],
    ),
    (
        "src/view/mod.rs:1: Instant::now reads",
        clocks,
        &[("src/view/mod.rs", "let now = Instant::now();")],
    ),
    (
        "src/view/mod.rs:1: 'elapsed' reads",
        clocks,
        &[("src/view/mod.rs", "let spent = start.elapsed();")],
    ),
    (
        "src/view/mod.rs:1: 'HashMap'",
        no_hash_maps,
        &[("src/view/mod.rs", "struct A { a: HashMap<u8, u8> }")],
    ),
    (
        "src/broker/b.rs:1: 'held'",
        hash_map_order,
        &[
            ("src/broker/a.rs", "struct A { held: std::collections::HashMap<u8, u8> }"),
            ("src/broker/b.rs", "fn f(&self) { for one in &self.held { drop(one) } }"),
        ],
    ),
    (
        "src/broker/a.rs:2: 'held'",
        hash_map_order,
        &[(
            "src/broker/a.rs",
            "struct A { held: HashSet<u8>, other: u32 }\nfn f() { self.held.iter().map(g) }",
        )],
    ),
    ("src/broker/a.rs:1: 'Mutex'", locks, &[("src/broker/a.rs", "struct A(Arc<Mutex<u8>>);")]),
    ("src/a.rs:1: does not begin", headers, &[("src/a.rs", "use a::b;\n//! Late.")]),
    ("src/view/utils.rs:1: is named after nothing", file_names, &[("src/view/utils.rs", "//! A.")]),
    ("src/a.rs:1: unwrap()", unwraps, &[("src/a.rs", "let a = b.unwrap(); // .unwrap()")]),
    ("docs/a.md:1: ", leftovers, &[("docs/a.md", concat!("Write this. TO", "DO"))]),
    ("src/a.rs:1: todo!", leftovers, &[("src/a.rs", "fn a() { todo!() }")]),
    ("src/a.rs:1: unsafe", unsafe_code, &[("src/a.rs", "unsafe { b() }")]),
    ("docs/a.md:1: ", machine_paths, &[("docs/a.md", concat!("in `/ho", "me/me/data` here"))]),
    (
        "Cargo.toml:2: does not say",
        dependencies,
        &[("Cargo.toml", "[workspace.dependencies]\nbytes = \"1\"")],
    ),
    (
        "log/Cargo.toml:2: is not in",
        dependencies,
        &[("log/Cargo.toml", "[dev-dependencies]\nbytes = \"1\" # bodies")],
    ),
    ("log/src/a.rs:1: 'lsn'", synonyms, &[("log/src/a.rs", "let last_lsn = 1;")]),
    (
        "docs/b.md:1: is not linked",
        unlinked_documents,
        &[("docs/index.md", "[a](a.md)"), ("docs/a.md", "a"), ("docs/b.md", "b")],
    ),
    ("docs/c/a.md:1: docs/b does not exist", dead_links, &[("docs/c/a.md", "[b](../b#part)")]),
    ("src/a.rs:1: docs", dead_links, &[("src/a.rs", concat!("// As docs", "/b.md says."))]),
    (
        "docs/adr/0001-a.md:1: does not have",
        adr_sections,
        &[("docs/adr/0001-a.md", "# A\n\n## Status")],
    ),
];

#[test]
fn every_rule_finds_what_was_planted_for_it() {
    for (expected, rule, files) in PLANTED {
        let findings = rule(&Tree::of(files));
        let found = findings.iter().any(|finding| finding.starts_with(expected));
        assert!(found, "not found: {expected}\nbut: {findings:?}");
        assert_eq!(findings.len(), 1, "{findings:?}");
    }
}

#[test]
fn one_line_too_many_is_found() {
    let function = |lines: usize| format!("fn long() {{\n{}}}\n", "    a();\n".repeat(lines - 2));
    let file = |code: usize, test: usize| {
        let test = "    // b\n".repeat(test - 3);
        format!("{}#[cfg(test)]\nmod tests {{\n{test}}}\n", "// a\n".repeat(code))
    };
    let found = |rule: Rule, text: &str| rule(&Tree::of(&[("src/a.rs", text)])).len();

    assert_eq!(
        (found(function_sizes, &function(70)), found(function_sizes, &function(71))),
        (0, 1)
    );
    assert_eq!((found(file_sizes, &file(600, 300)), found(file_sizes, &file(601, 299))), (0, 1));
    assert_eq!(found(file_sizes, &file(600, 301)), 1);
}

#[test]
fn comments_literals_and_tests_are_no_code() {
    let text = r##"//! A.
/* use tokio::a; /* nested */ unsafe */
fn a<'a>(b: &'a str) -> char { let c = "a.unwrap() \" unsafe"; let d = r#"" unsafe "#; '"' }
#[cfg(test)]
mod tests {
    fn b() { c.unwrap(); let now = Instant::now(); }
}
"##;
    let tree = Tree::of(&[("src/view/a.rs", text)]);

    let rules: [Rule; 5] = [unwraps, unsafe_code, clocks, homes, layers];

    for rule in rules {
        assert_eq!(rule(&tree), Vec::<String>::new());
    }
    assert_eq!(tree.files[0].functions().len(), 2);
}
