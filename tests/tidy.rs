//! Rules about the source text, one test each: layers, sizes, banned calls, documents.
//!
//! A rule is a function from the tree to findings, each `path:line: what is wrong`. Rules without exceptions have no list; the lists of
//! those that have one are constants here, so that an exception is a visible change. `tidy/planted.rs` breaks every rule on purpose.

#[path = "tidy/planted.rs"]
mod planted;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/statements.rs"]
mod statements;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use source::{Named, Source, Token, Tree};

/// What each part may use of ours, most specific first (docs/architecture.md, "Layers"). A part may always use itself, except that
/// protocols do not use one another. Names of the root package begin with their module, those of other packages with the package.
const LAYERS: &[(&str, &[&str])] = &[
    ("index/src", &[]),
    ("log/src", &["fluxmq_index"]),
    ("wal-tools/src", &["fluxmq_index", "fluxmq_log", "fluxmq::model", "fluxmq::view"]),
    ("src/model", &["fluxmq_index", "fluxmq_log::format"]),
    ("src/auth", &["model", "fluxmq_index"]),
    ("src/config", &[]),
    ("src/planted", &[]),
    ("src/telemetry", &["config"]),
    ("src/view", &["planted", "model", "fluxmq_index"]),
    ("src/raft", &["planted", "fluxmq_index", "fluxmq_log"]),
    ("src/protocol", &["planted", "model"]),
    ("src/partition", &["planted", "raft", "view", "model", "fluxmq_index", "fluxmq_log"]),
    ("src/shard", &["partition", "model", "fluxmq_log"]),
    ("src/broker/mod.rs", &["shard", "partition::request", "model"]),
    ("src/broker/live", &["shard", "partition::request", "model", "fluxmq_index"]),
    ("src/broker", &["auth", "planted", "partition::request", "model", "fluxmq_index"]),
    ("src/client", &["planted", "protocol::mqtt", "model", "auth::scram"]),
    (
        "src/net",
        &["auth", "broker", "shard", "partition::request", "protocol", "model", "telemetry"],
    ),
    ("src/ctl", &["auth", "client", "protocol::mqtt", "protocol::amqp091::definition", "model"]),
    ("src/bin", &["fluxmq::ctl", "fluxmq::client", "fluxmq::protocol::mqtt", "fluxmq::model"]),
    (
        "src/server",
        &[
            "auth",
            "broker",
            "config",
            "model",
            "net",
            "partition",
            "protocol",
            "shard",
            "telemetry",
            "fluxmq_log",
        ],
    ),
    ("src/main.rs", &["fluxmq::config", "fluxmq::server", "fluxmq::telemetry"]),
    ("src/cli", &["fluxmq::config"]),
];
/// Packages of ours as code names them.
const PACKAGES: [&str; 3] = ["fluxmq", "fluxmq_index", "fluxmq_log"];
/// The parts that know the runtime.
const RUNTIME: &[&str] = &[
    "src/net",
    "src/server",
    "src/main.rs",
    "src/shard",
    "src/broker/mod.rs",
    "src/client",
    "src/ctl",
    "src/bin",
];
/// The parts that may read a clock; everybody else is told the time. The client's machine is told too.
const CLOCKS: &[&str] = &[
    "src/net",
    "src/server",
    "src/shard",
    "src/client/driver.rs",
    "src/ctl",
    "src/bin",
    "src/telemetry",
];
/// What is at home in a few places only: the beginning of a path, and where it may be named.
const HOMES: [(&str, &[&str]); 7] = [
    ("tokio", RUNTIME),
    (
        "std::thread",
        &[
            "src/shard",
            "src/server",
            "src/main.rs",
            "src/ctl",
            "src/bin",
            "wal-tools/src/scan.rs",
            "wal-tools/src/verify",
        ],
    ),
    (
        "std::fs",
        &[
            "log/src/os_disk.rs",
            "src/config",
            "src/server/rules.rs",
            "src/server/memory.rs",
            "wal-tools/src",
            "src/ctl",
            "src/bin",
        ],
    ),
    (
        "std::net",
        &[
            "src/net",
            "src/server",
            "src/config",
            "src/client",
            "src/ctl",
            "src/bin",
            "src/model/peer.rs",
            "src/auth/throttle.rs",
        ],
    ),
    ("raft", &["src/raft"]),
    ("slog", &["src/raft"]),
    ("bincode", &["src/view/section.rs"]),
];
/// Where a lock may be held: a simulated disk stands for hardware that everybody shares; a mailbox swaps a list under it and
/// takes no other; shared filters hold one lock for one filter or one match; bindings change when queues are declared; admission looks at one address, when a connection from another machine begins or ends; the gate counts under it.
const LOCKS: &[&str] = &[
    "log/src/sim_disk",
    "src/net/mailbox.rs",
    "index/src/shared_filters.rs",
    "src/broker/live.rs",
    "src/broker/bindings.rs",
    "src/net/admission.rs",
    "src/net/gate.rs",
];
/// Hash maps whose iteration reaches no effect: file, field, and why.
const UNORDERED: [(&str, &str, &str); 2] = [
    ("src/broker/client/outbound.rs", "moved", "sorted before it is written"),
    (
        "src/broker/client/admission.rs",
        "subscriptions",
        "memberships are sorted before they are left",
    ),
];
/// Parts whose every effect must repeat under the same input.
const DETERMINISTIC: [&str; 5] =
    ["src/model", "src/partition", "src/broker", "log/src", "index/src"];
/// Modules that may contain the word; memory maps will be the one.
const UNSAFE: &[&str] = &[];

const FILE_LINES_MAX: usize = 600;
const FILE_AND_TESTS_LINES_MAX: usize = 900;
const FUNCTION_LINES_MAX: usize = 70;
/// Folders of somebody's machine. Written without their slashes, or this file would break its own rule.
const MACHINE_FOLDERS: [&str; 6] = ["home", "root", "work", "Users", "tmp", "mnt"];
/// File names that say nothing.
const EMPTY_NAMES: [&str; 8] =
    ["utils", "util", "helpers", "common", "manager", "base", "impl", "misc"];
const ADR_SECTIONS: [&str; 6] = [
    "Status",
    "Context",
    "Decision",
    "Consequences",
    "Rejected",
    "How we would notice we were wrong",
];

type Rule = fn(&Tree) -> Vec<String>;

static TREE: LazyLock<Tree> = LazyLock::new(Tree::read);

#[test]
fn layers_use_only_what_is_below_them() {
    check(layers);
}

#[test]
fn runtime_threads_files_sockets_and_the_raft_library_stay_at_home() {
    check(homes);
}

#[test]
fn only_the_edges_await() {
    check(awaits);
}

#[test]
fn only_the_edges_read_a_clock() {
    check(clocks);
}

#[test]
fn views_and_consensus_have_no_hash_maps() {
    check(no_hash_maps);
}

#[test]
fn no_effect_depends_on_the_order_of_a_hash_map() {
    check(hash_map_order);
}

#[test]
fn state_has_one_owner_and_no_lock() {
    check(locks);
}

#[test]
fn files_have_at_most_600_lines_and_900_with_tests() {
    check(file_sizes);
}

#[test]
fn functions_have_at_most_70_lines() {
    check(function_sizes);
}

#[test]
fn files_begin_with_what_they_are() {
    check(headers);
}

#[test]
fn files_have_names_that_say_something() {
    check(file_names);
}

#[test]
fn nothing_is_unwrapped_outside_tests() {
    check(unwraps);
}

#[test]
fn nothing_is_left_for_later() {
    check(leftovers);
}

#[test]
fn nothing_is_unsafe() {
    check(unsafe_code);
}

#[test]
fn no_path_of_a_machine_is_written_down() {
    check(machine_paths);
}

#[test]
fn every_dependency_says_what_it_is_for() {
    check(dependencies);
}

#[test]
fn positions_are_called_offsets() {
    check(synonyms);
}

#[test]
fn every_document_is_linked_from_the_index() {
    check(unlinked_documents);
}

#[test]
fn links_and_named_documents_exist() {
    check(dead_links);
}

#[test]
fn every_adr_has_its_sections() {
    check(adr_sections);
}

fn check(rule: Rule) {
    let findings = rule(&TREE);
    assert!(findings.is_empty(), "{} findings:\n{}\n", findings.len(), findings.join("\n"));
}

fn layers(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for source in tree.rust().filter(|source| !source.is_all_test() && source.path != "src/lib.rs")
    {
        let Some((part, allowed)) = LAYERS.iter().find(|(part, _)| is_in(&source.path, part))
        else {
            findings.push(at(
                source,
                1,
                "belongs to no layer: add it to LAYERS and to docs/architecture.md",
            ));
            continue;
        };
        for named in source.named().iter().filter(|named| is_ours(named)) {
            let target = named.segments.join("::");
            let allows =
                |allowed: &&str| target == **allowed || target.starts_with(&format!("{allowed}::"));
            if !is_itself(source, named) && !allowed.iter().any(allows) {
                findings.push(at(source, named.line, &format!("{part} may not use {target}")));
            }
        }
    }
    findings
}

/// Returns true for a path into this package or another of ours.
fn is_ours(named: &Named) -> bool {
    named.is_own || PACKAGES.contains(&named.segments[0].as_str())
}

/// Returns true when a file of a part names the part itself; between protocols only what is not another's.
fn is_itself(source: &Source, named: &Named) -> bool {
    let Some(inside) = source.path.strip_prefix("src/") else { return named.is_own };
    let part = inside.split(['/', '.']).next().unwrap_or(inside);
    if !named.is_own {
        return false;
    }
    // A binary's own modules lie beside its root.
    let is_binary = ["main", "cli", "bin"].contains(&part);
    if named.segments.first().is_none_or(|first| first != part) {
        return is_binary;
    }
    let Some(protocol) = inside.strip_prefix("protocol/").filter(|rest| rest.contains('/')) else {
        return true;
    };
    let protocol = protocol.split('/').next();
    let target = named.segments.get(1).map(String::as_str);
    let is_type = target.is_some_and(|target| target.starts_with(char::is_uppercase));
    target == protocol || is_type
}

fn homes(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for source in tree.rust() {
        for named in source.named().iter().filter(|named| !named.is_own) {
            let path = named.segments.join("::");
            for (banned, homes) in HOMES {
                let is_banned = path == banned || path.starts_with(&format!("{banned}::"));
                if is_banned && !is_in_any(&source.path, homes) {
                    findings.push(at(source, named.line, &format!("{path} is not at home here")));
                }
            }
        }
    }
    findings
}

fn awaits(tree: &Tree) -> Vec<String> {
    find_tokens(
        tree,
        |source| !is_in_any(&source.path, RUNTIME),
        |tokens| {
            matches!(tokens[0].text, "async" | "await")
                .then(|| format!("'{}' outside the edges", tokens[0].text))
        },
    )
}

fn clocks(tree: &Tree) -> Vec<String> {
    let is_clock = |named: &Named| {
        let last_two = named.segments.iter().rev().take(2).rev().map(String::as_str);
        let last_two: Vec<&str> = last_two.collect();
        matches!(
            last_two[..],
            ["Instant" | "SystemTime" | "Timestamp" | "Zoned" | "Utc" | "Local", "now"]
        )
    };
    let mut findings = find_tokens(
        tree,
        |source| !is_in_any(&source.path, CLOCKS),
        |tokens| {
            let texts = [tokens[0].text, tokens[1].text, tokens[2].text];
            (texts == [".", "elapsed", "("]).then(|| "'elapsed' reads the clock".to_owned())
        },
    );
    for source in tree.rust().filter(|source| !is_in_any(&source.path, CLOCKS)) {
        let named = source.named();
        let clocks = named.iter().filter(|named| is_clock(named));
        findings.extend(clocks.map(|named| {
            at(source, named.line, &format!("{} reads the clock", named.segments.join("::")))
        }));
    }
    findings
}

fn no_hash_maps(tree: &Tree) -> Vec<String> {
    let applies = |source: &Source| is_in_any(&source.path, &["src/view", "src/raft"]);
    find_tokens(tree, applies, |tokens| {
        let is_hashed = matches!(tokens[0].text, "HashMap" | "HashSet" | "hashbrown" | "HashTable");
        is_hashed.then(|| {
            format!("'{}': use a BTreeMap, whose order is the same everywhere", tokens[0].text)
        })
    })
}

fn hash_map_order(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for part in DETERMINISTIC {
        let sources = || tree.rust().filter(|source| is_in(&source.path, part));
        let hashed: BTreeSet<String> = sources().flat_map(|source| fields(source, true)).collect();
        for source in sources() {
            let tokens = code(source);
            let own: BTreeSet<String> = fields(source, true).into_iter().collect();
            let others: BTreeSet<String> = fields(source, false).into_iter().collect();
            let is_hashed = |field: &str| {
                own.contains(field) || (hashed.contains(field) && !others.contains(field))
            };
            for window in
                tokens.windows(6).filter(|window| window[1].text == "self" && window[2].text == ".")
            {
                let field = window[3].text;
                let is_excused =
                    UNORDERED.iter().any(|(path, name, _)| *path == source.path && *name == field);
                if is_hashed(field) && !is_excused && is_iterated(window) {
                    let message =
                        format!("'{field}' is a hash map: its order reaches what follows");
                    findings.push(at(source, window[3].line, &message));
                }
            }
        }
    }
    findings
}

/// Names of fields and arguments whose type is a hash map or set, or of those whose type is not.
fn fields(source: &Source, hashed: bool) -> Vec<String> {
    let tokens = code(source);
    let is_field = |window: &&[Token<'_>]| {
        let mut kind = window[2..].iter().take_while(|token| !",;={}()<".contains(token.text));
        let is_typed = window[1].text == ":" && window[0].text != ":" && window[2].text != ":";
        is_typed && hashed == kind.any(|token| ["HashMap", "HashSet"].contains(&token.text))
    };
    tokens.windows(10).filter(is_field).map(|window| window[0].text.to_owned()).collect()
}

/// Decides whether `? self . field ? ?` walks through the field.
fn is_iterated(window: &[Token<'_>]) -> bool {
    const WALKS: [&str; 9] = [
        "iter",
        "iter_mut",
        "keys",
        "values",
        "values_mut",
        "drain",
        "into_iter",
        "into_keys",
        "into_values",
    ];
    let is_called = window[4].text == "." && WALKS.contains(&window[5].text);
    let is_looped = ["in", "mut", "&"].contains(&window[0].text) && window[4].text == "{";
    // `mem::take` hands over the whole map: whoever takes it walks through it.
    let is_taken = window[0].text == "mut" && window[4].text == ")";
    is_called || is_looped || is_taken
}

fn locks(tree: &Tree) -> Vec<String> {
    find_tokens(
        tree,
        |source| !is_in_any(&source.path, LOCKS),
        |tokens| {
            let is_lock = matches!(tokens[0].text, "Mutex" | "RwLock" | "RefCell");
            is_lock.then(|| format!("'{}': send a message to the owner instead", tokens[0].text))
        },
    )
}

fn file_sizes(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for source in tree.rust() {
        let lines = source.is_test.len();
        let code_lines = source.is_test.iter().filter(|is_test| !**is_test).count();
        if code_lines > FILE_LINES_MAX {
            findings.push(at(
                source,
                1,
                &format!("{code_lines} lines without tests, {FILE_LINES_MAX} allowed"),
            ));
        } else if lines > FILE_AND_TESTS_LINES_MAX {
            findings.push(at(
                source,
                1,
                &format!("{lines} lines, {FILE_AND_TESTS_LINES_MAX} allowed"),
            ));
        }
    }
    findings
}

fn function_sizes(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for source in tree.rust() {
        for (name, first, last) in source.functions() {
            let lines = last - first + 1;
            if lines > FUNCTION_LINES_MAX {
                findings.push(at(
                    source,
                    first,
                    &format!("fn {name} has {lines} lines, {FUNCTION_LINES_MAX} allowed"),
                ));
            }
        }
    }
    findings
}

fn headers(tree: &Tree) -> Vec<String> {
    let headless = tree.rust().filter(|source| !source.text.starts_with("//! "));
    headless.map(|source| at(source, 1, "does not begin with '//!' and what it is")).collect()
}

fn file_names(tree: &Tree) -> Vec<String> {
    let says_nothing =
        |source: &&Source| source.path.split(['/', '.']).any(|part| EMPTY_NAMES.contains(&part));
    tree.rust().filter(says_nothing).map(|source| at(source, 1, "is named after nothing")).collect()
}

fn unwraps(tree: &Tree) -> Vec<String> {
    find_tokens(
        tree,
        |_| true,
        |tokens| {
            let texts = [tokens[0].text, tokens[1].text, tokens[2].text];
            (texts == [".", "unwrap", "("])
                .then(|| "unwrap(): say in expect() why it cannot fail".to_owned())
        },
    )
}

fn leftovers(tree: &Tree) -> Vec<String> {
    let notes = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
    let mut findings = Vec::new();
    for source in &tree.files {
        for (number, line) in source.text.lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_alphanumeric());
            if let Some(note) = words.find(|word| notes.contains(word)) {
                findings.push(at(
                    source,
                    number + 1,
                    &format!("'{note}': do it, or open an issue"),
                ));
            }
        }
        for pair in source.tokens().windows(2).filter(|pair| pair[1].text == "!") {
            if matches!(pair[0].text, "todo" | "dbg" | "unimplemented") {
                findings.push(at(
                    source,
                    pair[0].line,
                    &format!("{}! is for drafts", pair[0].text),
                ));
            }
        }
    }
    findings
}

fn unsafe_code(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for source in tree.rust().filter(|source| !is_in_any(&source.path, UNSAFE)) {
        let tokens = source.tokens();
        let found = tokens.iter().filter(|token| token.text == "unsafe");
        findings.extend(found.map(|token| at(source, token.line, "unsafe outside its module")));
    }
    findings
}

fn machine_paths(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for source in &tree.files {
        for (number, line) in source.text.lines().enumerate() {
            if let Some(path) = MACHINE_FOLDERS.iter().find_map(|folder| machine_path(line, folder))
            {
                findings.push(at(
                    source,
                    number + 1,
                    &format!("'{path}' is a path of one machine"),
                ));
            }
        }
    }
    findings
}

/// Finds `/folder/` at the beginning of a path, with something below it.
fn machine_path<'a>(line: &'a str, folder: &str) -> Option<&'a str> {
    let absolute = format!("/{folder}/");
    line.match_indices(&absolute).map(|(start, _)| start).find_map(|start| {
        let before = line[..start].chars().next_back();
        let is_inside = before.is_some_and(|c| c.is_alphanumeric() || "_./-$+#*}>".contains(c));
        let rest = &line[start..];
        let end = rest.find([' ', '"', '\'', '`', ')']).unwrap_or(rest.len());
        (!is_inside && end > absolute.len()).then(|| &rest[..end])
    })
}

fn dependencies(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for source in tree.files.iter().filter(|source| source.path.ends_with("Cargo.toml")) {
        let mut section = "";
        for (number, line) in source.text.lines().enumerate() {
            if line.starts_with('[') {
                section = line.trim();
            } else if line.contains('=') && !line.starts_with('#') {
                // Our own packages are explained by their own manifests.
                let is_explained = line.contains("# ") || line.contains("path = ");
                let is_shared = line.contains("workspace = true");
                let message = match section {
                    "[workspace.dependencies]" if !is_explained => "does not say what it is for",
                    "[dependencies]" | "[dev-dependencies]" | "[build-dependencies]"
                        if !is_shared =>
                    {
                        "is not in [workspace.dependencies]"
                    }
                    _ => continue,
                };
                findings.push(at(source, number + 1, message));
            }
        }
    }
    findings
}

fn synonyms(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    let is_source =
        |source: &&Source| source.path.starts_with("src/") || source.path.contains("/src/");
    for source in tree.rust().filter(is_source) {
        for (number, line) in source.text.lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_alphanumeric());
            let is_synonym = |word: &&str| {
                let lower = word.to_lowercase();
                lower == "lsn" || lower.contains("seqno") || word.contains("Lsn")
            };
            if let Some(word) = words.find(is_synonym) {
                findings.push(at(
                    source,
                    number + 1,
                    &format!("'{word}': the word is offset (docs/glossary.md)"),
                ));
            }
        }
    }
    findings
}

fn unlinked_documents(tree: &Tree) -> Vec<String> {
    let index = tree.file("docs/index.md");
    let linked: BTreeSet<String> = links(index).into_iter().map(|(_, target)| target).collect();
    let is_document =
        |source: &&Source| source.path.starts_with("docs/") && source.path.ends_with(".md");
    let documents =
        tree.files.iter().filter(is_document).filter(|source| source.path != index.path);
    let unlinked = documents.filter(|source| !linked.contains(&source.path));
    unlinked.map(|source| at(source, 1, "is not linked from docs/index.md")).collect()
}

fn dead_links(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for source in &tree.files {
        let mut targets = Vec::new();
        if source.path.ends_with(".md") {
            targets = links(source);
        }
        // Code names documents from the root; tests may name some that are made up.
        let code = source.text.lines().enumerate().filter(|(number, _)| !source.is_test[*number]);
        for (number, line) in code {
            let words = line.split(|c: char| !c.is_alphanumeric() && !"/._-".contains(c));
            let documents = words.filter(|word| word.starts_with("docs/") && word.ends_with(".md"));
            targets.extend(documents.map(|word| (number + 1, word.to_owned())));
        }
        let dead = targets.into_iter().filter(|(_, target)| !tree.has(target));
        findings.extend(
            dead.map(|(line, target)| at(source, line, &format!("{target} does not exist"))),
        );
    }
    findings
}

/// Lists the relative links of a document, with their lines, as paths from the root.
fn links(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        for (_, rest) in
            line.match_indices("](").map(|(start, mark)| line.split_at(start + mark.len()))
        {
            let target = rest.split([')', '#']).next().unwrap_or(rest);
            if !target.is_empty() && !target.contains(':') {
                found.push((number + 1, join(&source.path, target)));
            }
        }
    }
    found
}

/// Follows a relative link from a document.
fn join(from: &str, link: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

fn adr_sections(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    let mut numbers = BTreeSet::new();
    for source in tree.files.iter().filter(|source| source.path.starts_with("docs/adr/")) {
        let name = source.path.trim_start_matches("docs/adr/");
        let number: String = name.chars().take_while(char::is_ascii_digit).collect();
        if number.len() != 4 || !numbers.insert(number) {
            findings.push(at(source, 1, "is not named by four digits of its own"));
        }
        let headings = source.text.lines().filter_map(|line| line.strip_prefix("## "));
        if !headings.eq(ADR_SECTIONS) {
            findings.push(at(
                source,
                1,
                &format!("does not have the sections {}", ADR_SECTIONS.join(" · ")),
            ));
        }
    }
    findings
}

/// Slides a window of three tokens over the code outside tests.
fn find_tokens(
    tree: &Tree,
    applies: impl Fn(&Source) -> bool,
    find: impl Fn(&[Token<'_>]) -> Option<String>,
) -> Vec<String> {
    let mut findings = Vec::new();
    for source in tree.rust().filter(|source| applies(source)) {
        let tokens = code(source);
        let found = tokens.windows(3).filter_map(|window| Some((window[0].line, find(window)?)));
        findings.extend(found.map(|(line, message)| at(source, line, &message)));
    }
    findings
}

/// The tokens outside tests.
fn code(source: &Source) -> Vec<Token<'_>> {
    source.tokens().into_iter().filter(|token| !source.is_test(token.line)).collect()
}

fn is_in_any(path: &str, parts: &[&str]) -> bool {
    parts.iter().any(|part| is_in(path, part))
}

/// Returns true when a file is `part`, `part.rs` or below it.
fn is_in(path: &str, part: &str) -> bool {
    path.strip_prefix(part).is_some_and(|rest| matches!(rest, "" | ".rs") || rest.starts_with('/'))
}

fn at(source: &Source, line: usize, message: &str) -> String {
    format!("{}:{line}: {message}", source.path)
}
