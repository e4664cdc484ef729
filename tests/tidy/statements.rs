//! The normative statements of MQTT and the tests that hold us to them: docs/protocol/mqtt-statements.md against the source.
//!
//! Every section of docs/protocol/mqtt.md names tests or statements. A row names tests that exist, or says why there is none. A statement that code, documents or the name of a test cite is one of the
//! table, so that numbers are right.

use std::collections::{BTreeMap, BTreeSet};

use super::{Source, TREE, Tree, at};

const TABLE: &str = "docs/protocol/mqtt-statements.md";
const SECTIONS: &str = "docs/protocol/mqtt.md";
/// The columns of its table.
const SECTIONS_HEADING: &str = "| Section | | How | Tests |";
/// The standards by their headings, and how many statements each numbers.
const STANDARDS: [(&str, usize); 2] = [("## MQTT 5.0", 251), ("## MQTT 3.1.1", 141)];
/// What the last column may say instead of naming a test.
const EXCUSES: [&str; 2] = ["client's duty", "none: "];

/// One statement: its line, its section and number, and what is said of its tests.
#[derive(Debug)]
struct Row<'a> {
    line: usize,
    statement: &'a str,
    tests: &'a str,
}

#[test]
fn every_statement_of_mqtt_has_its_test() {
    let findings = open_statements(&TREE);
    assert!(findings.is_empty(), "{} findings:\n{}\n", findings.len(), findings.join("\n"));
}

#[test]
fn every_statement_that_is_cited_exists() {
    let findings = wrong_citations(&TREE);
    assert!(findings.is_empty(), "{} findings:\n{}\n", findings.len(), findings.join("\n"));
}

#[test]
fn every_section_of_mqtt_has_its_tests() {
    let findings = open_sections(&TREE);
    assert!(findings.is_empty(), "{} findings:\n{}\n", findings.len(), findings.join("\n"));
}

fn open_sections(tree: &Tree) -> Vec<String> {
    let (sections, functions) = (tree.file(SECTIONS), functions(tree));
    let [v5, _] = numbers(tree);
    let lines = sections.text.lines().enumerate();
    let table = lines.skip_while(|(_, line)| *line != SECTIONS_HEADING).skip(2);
    let mut findings = Vec::new();
    let mut count = 0;
    for (number, line) in table.take_while(|(_, line)| line.starts_with('|')) {
        count += 1;
        let mut report = |what: String| findings.push(at(sections, number + 1, &what));
        let tests = line.trim_end_matches('|').rsplit('|').next().unwrap_or_default().trim();
        let named = tests.split('`').skip(1).step_by(2);
        named.filter(|name| !functions.contains(*name)).for_each(|name| {
            report(format!("no test {name}"));
        });
        let words = tests.split('`').step_by(2).flat_map(|rest| rest.split([' ', ',', ';']));
        let cited: Vec<&str> = words.filter(|word| word.contains('.')).collect();
        cited.iter().filter(|it| !v5.contains(**it)).for_each(|it| report(format!("no {it}")));
        if cited.is_empty() && !tests.contains('`') {
            report("names no tests".to_owned());
        }
    }
    if count == 0 {
        findings.push(at(sections, 1, "has no table of sections"));
    }
    findings
}

fn functions(tree: &Tree) -> BTreeSet<String> {
    let names = tree.rust().flat_map(|source| source.functions().into_iter());
    names.map(|(name, _, _)| name).collect()
}

/// The statements of both standards.
fn numbers(tree: &Tree) -> [BTreeSet<String>; 2] {
    rows(tree.file(TABLE)).map(|rows| rows.iter().map(|row| row.statement.to_owned()).collect())
}

fn open_statements(tree: &Tree) -> Vec<String> {
    let (table, functions) = (tree.file(TABLE), functions(tree));
    let mut findings = Vec::new();
    for ((heading, count), rows) in STANDARDS.iter().zip(rows(table)) {
        let mut seen = BTreeMap::new();
        for row in &rows {
            if let Some(line) = seen.insert(row.statement, row.line) {
                findings.push(at(table, row.line, &format!("is on line {line} already")));
            }
            let named: Vec<&str> = row.tests.split('`').skip(1).step_by(2).collect();
            let is_excused = EXCUSES.iter().any(|excuse| row.tests.starts_with(excuse));
            if named.is_empty() && !is_excused {
                findings.push(at(table, row.line, &format!("{} is open", row.statement)));
            }
            let missing = named.iter().filter(|name| !functions.contains(**name));
            findings.extend(missing.map(|name| at(table, row.line, &format!("no test {name}"))));
        }
        if rows.len() != *count {
            let message = format!("{heading} has {} of {count} statements", rows.len());
            findings.push(at(table, 1, &message));
        }
    }
    findings
}

fn wrong_citations(tree: &Tree) -> Vec<String> {
    let [v5, v311] = numbers(tree);
    let mut findings = Vec::new();
    for source in &tree.files {
        for (number, line) in source.text.lines().enumerate() {
            let unknown = cited(line).filter(|it| !v5.contains(it) && !v311.contains(it));
            findings.extend(unknown.map(|it| at(source, number + 1, &format!("no [MQTT-{it}]"))));
        }
        if !source.is_rust() {
            continue;
        }
        for (name, line, _) in source.functions() {
            let (statements, of) = match name.strip_prefix("mqtt_311_") {
                Some(rest) => (in_name(rest), &v311),
                None => (name.strip_prefix("mqtt_").map(in_name).unwrap_or_default(), &v5),
            };
            let unknown = statements.into_iter().filter(|it| !of.contains(it));
            findings.extend(unknown.map(|it| at(source, line, &format!("{name}: no {it}"))));
        }
    }
    findings
}

/// Reads the rows of both standards.
fn rows(table: &Source) -> [Vec<Row<'_>>; 2] {
    STANDARDS.map(|(heading, _)| {
        let lines = table.text.lines().enumerate();
        let section = lines.skip_while(|(_, line)| *line != heading).skip(1);
        let section = section.take_while(|(_, line)| !line.starts_with("## "));
        section.filter_map(|(number, line)| row_of(number + 1, line)).collect()
    })
}

fn row_of(line: usize, text: &str) -> Option<Row<'_>> {
    let mut cells = text.strip_prefix("| ")?.strip_suffix(" |")?.split('|').map(str::trim);
    let statement = cells.next().filter(|cell| cell.starts_with(|c: char| c.is_ascii_digit()))?;
    Some(Row { line, statement, tests: cells.next_back()? })
}

/// The statements that a line cites: `MQTT-`, section and number.
fn cited(line: &str) -> impl Iterator<Item = String> {
    let citations = line.match_indices("MQTT-").map(|(start, mark)| &line[start + mark.len()..]);
    citations.filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let section = rest[..end].trim_end_matches('.');
        let number: String =
            rest[end..].strip_prefix('-')?.chars().take_while(char::is_ascii_digit).collect();
        (section.contains('.') && !number.is_empty()).then(|| format!("{section}-{number}"))
    })
}

/// The statements in the name of a test: four numbers, `and` or `to` with another one of the same section, or with four.
fn in_name(name: &str) -> Vec<String> {
    let words: Vec<&str> = name.split('_').collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u32>().ok());
    let four = |at: usize| -> Option<[u32; 4]> {
        Some([number(at)?, number(at + 1)?, number(at + 2)?, number(at + 3)?])
    };
    let mut found: Vec<[u32; 4]> = Vec::new();
    let (mut at, mut last) = match four(0) {
        Some(first) => (4, first),
        None => return Vec::new(),
    };
    found.push(last);
    while let Some(word @ ("and" | "to")) = words.get(at).copied() {
        if let Some(next) = four(at + 1) {
            (at, last) = (at + 5, next);
            found.push(last);
        } else if let Some(next) = number(at + 1) {
            let from = if word == "to" { last[3] + 1 } else { next };
            found.extend((from..=next).map(|number| [last[0], last[1], last[2], number]));
            (at, last[3]) = (at + 2, next);
        } else {
            break;
        }
    }
    found.iter().map(|[a, b, c, number]| format!("{a}.{b}.{c}-{number}")).collect()
}

#[test]
fn names_and_lines_cite_what_they_say() {
    assert_eq!(in_name("4_3_3_10_a_publish"), ["4.3.3-10"]);
    assert_eq!(in_name("3_3_2_4_and_13_to_15_x"), ["3.3.2-4", "3.3.2-13", "3.3.2-14", "3.3.2-15"]);
    assert_eq!(in_name("3_3_1_1_and_4_4_0_1_an"), ["3.3.1-1", "4.4.0-1"]);
    assert_eq!(in_name("3_1_has_no_flag"), Vec::<String>::new());
    let line = "/// [MQTT-3.3.4-2..5], MQTT-5 and [MQTT-4.7.1-1].";
    assert_eq!(cited(line).collect::<Vec<_>>(), ["3.3.4-2", "4.7.1-1"]);
}

#[test]
fn an_open_statement_a_missing_test_and_a_wrong_number_are_found() {
    let table = "## MQTT 5.0\n| 1.5.4-1 | x | `mqtt_1_5_4_1_a` |\n| 1.5.4-2 | x | `gone` |\n\
                 | 1.5.4-3 | x |  |\n## MQTT 3.1.1\n| 1.5.3-1 | x | client's duty |\n";
    let code = "/// [MQTT\x2D9.9.9-9]\nfn mqtt_1_5_4_1_a() {}\nfn mqtt_1_5_4_7_b() {}\n";
    let tree = Tree::of(&[(TABLE, table), ("tests/a.rs", code)]);
    let findings = [open_statements(&tree), wrong_citations(&tree)].concat().join("\n");
    for words in [
        "mqtt-statements.md:3: no test gone",
        "mqtt-statements.md:4: 1.5.4-3 is open",
        "has 3 of 251 statements",
        "tests/a.rs:1: no [MQTT\x2D9.9.9-9]",
        "tests/a.rs:3: mqtt_1_5_4_7_b: no 1.5.4-7",
    ] {
        assert!(findings.contains(words), "'{words}' is not among:\n{findings}");
    }
    assert!(!findings.contains("mqtt_1_5_4_1_a"), "{findings}");
}

#[test]
fn a_section_without_tests_and_one_with_wrong_ones_are_found() {
    let table = "## MQTT 5.0\n| 1.5.4-1 | x | `a` |\n## MQTT 3.1.1\n| 1.5.3-1 | x | `a` |\n";
    let sections = "| Section | | How | Tests |\n|---|---|---|---|\n| 1 good | s | h | 1.5.4-1 to 3; `a` |\n\
                    | 2 open | s | h | |\n| 3 gone | s | h | `b` |\n| 4 wrong | s | h | 1.5.3-1 |\n\nend\n";
    let tree = Tree::of(&[(TABLE, table), (SECTIONS, sections), ("tests/a.rs", "fn a() {}\n")]);
    let findings = open_sections(&tree).join("\n");
    for words in ["mqtt.md:4: names no tests", "mqtt.md:5: no test b", "mqtt.md:6: no 1.5.3-1"] {
        assert!(findings.contains(words), "'{words}' is not among:\n{findings}");
    }
    assert_eq!(findings.lines().count(), 3, "{findings}");
}
