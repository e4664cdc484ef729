//! The repository's text as the rules read it: files, and for Rust files what is code, what is a test, and which paths are named.
//!
//! A small lexer, not a parser: comments and the content of literals are blanked out byte for byte, so that lines and columns stay,
//! and a rule that looks for a word finds it in code only. Macros are read as the tokens they are.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Folders that hold nothing of ours.
const SKIPPED_FOLDERS: [&str; 2] = ["target", "data"];
/// What is read: Rust, documents, manifests, scripts.
const TEXT_SUFFIXES: [&str; 6] = [".rs", ".md", ".toml", ".sh", ".py", ".yaml"];
/// Scripts without a suffix.
const SCRIPTS: [&str; 1] = [".ci/run"];

/// One text file.
pub struct Source {
    /// Relative to the root of the repository, with `/`.
    pub path: String,
    /// As it is.
    pub text: String,
    /// Of a Rust file, with comments and the content of literals blanked out; empty for all others.
    pub code: String,
    /// For each line: true when it belongs to a test, or the whole file does.
    pub is_test: Vec<bool>,
}

/// The files of the repository.
pub struct Tree {
    /// What is text, by path.
    pub files: Vec<Source>,
    /// Everything there is, folders too.
    paths: BTreeSet<String>,
}

/// A path named in code, with its line. `use` trees are written out: one for each leaf.
pub struct Named {
    /// From 1.
    pub line: usize,
    /// The identifiers between the `::`, from the root of its package where the code says `crate`, `self` or `super`.
    pub segments: Vec<String>,
    /// True when it began with `crate`, `self` or `super`.
    pub is_own: bool,
}

/// An identifier or a mark, and where it begins.
#[derive(Clone, Copy)]
pub struct Token<'a> {
    /// From 1.
    pub line: usize,
    /// The identifier or number; or one other character.
    pub text: &'a str,
}

impl Tree {
    /// Reads the repository.
    pub fn read() -> Tree {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = Vec::new();
        let mut paths = BTreeSet::new();
        read_folder(root, root, &mut files, &mut paths);
        files.sort();
        assert!(files.len() > 50, "the repository is where the rules look for it");
        Tree::new(files, paths)
    }

    /// Makes a tree of paths and texts: what the tests of the rules do.
    pub fn of(files: &[(&str, &str)]) -> Tree {
        let files = files.iter().map(|(path, text)| (path.to_string(), text.to_string()));
        let files: Vec<(String, String)> = files.collect();
        let paths = files.iter().map(|(path, _)| path.clone()).collect();
        Tree::new(files, paths)
    }

    fn new(files: Vec<(String, String)>, paths: BTreeSet<String>) -> Tree {
        let mut files: Vec<Source> =
            files.into_iter().map(|(path, text)| Source::new(path, text)).collect();
        let tests: BTreeSet<String> = files.iter().flat_map(Source::test_modules).collect();
        let is_test = |path: &str| {
            let test_folders = ["tests", "benches", "fuzz_targets"];
            let in_folder = path.split('/').any(|part| test_folders.contains(&part));
            let declared = tests.iter().any(|module| {
                path.strip_prefix(module).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
            });
            in_folder || declared
        };
        for file in files.iter_mut().filter(|file| is_test(&file.path)) {
            file.is_test.fill(true);
        }
        Tree { files, paths }
    }

    /// Lists the Rust files.
    pub fn rust(&self) -> impl Iterator<Item = &Source> {
        self.files.iter().filter(|file| file.is_rust())
    }

    /// Returns one file; panics when it is not there.
    pub fn file(&self, path: &str) -> &Source {
        let found = self.files.iter().find(|file| file.path == path);
        found.unwrap_or_else(|| panic!("{path} is missing"))
    }

    /// Returns true when there is a file or folder of this path.
    pub fn has(&self, path: &str) -> bool {
        self.paths.contains(path)
    }
}

fn read_folder(
    root: &Path,
    folder: &Path,
    files: &mut Vec<(String, String)>,
    paths: &mut BTreeSet<String>,
) {
    for entry in fs::read_dir(folder).expect("folders of the repository can be listed") {
        let entry = entry.expect("folders of the repository can be listed");
        let path = entry.path();
        let relative =
            path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().expect("entries have a type");
        let hidden = name.starts_with('.') && name != ".ci";
        if hidden || SKIPPED_FOLDERS.contains(&name.as_str()) {
            continue;
        }
        paths.insert(relative.clone());
        if kind.is_dir() {
            read_folder(root, &path, files, paths);
        } else if TEXT_SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
            || SCRIPTS.contains(&relative.as_str())
        {
            let text = fs::read_to_string(&path).expect("sources are UTF-8");
            files.push((relative, text));
        }
    }
}

impl Source {
    fn new(path: String, text: String) -> Source {
        let code = if path.ends_with(".rs") { blank(&text) } else { String::new() };
        let is_test = vec![false; text.lines().count()];
        let mut source = Source { path, text, code, is_test };
        for (first, last, _) in source.test_items() {
            source.is_test[first - 1..last].fill(true);
        }
        source
    }

    /// Returns true for a Rust file.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Returns true when line `line`, counted from 1, is part of a test.
    pub fn is_test(&self, line: usize) -> bool {
        self.is_test[line - 1]
    }

    /// Returns true when all of it is a test.
    pub fn is_all_test(&self) -> bool {
        !self.is_test.is_empty() && self.is_test.iter().all(|is_test| *is_test)
    }

    /// The tokens of its code, tests included.
    pub fn tokens(&self) -> Vec<Token<'_>> {
        let mut tokens = Vec::new();
        for (number, line) in self.code.lines().enumerate() {
            let mut rest = line;
            while let Some(first) = rest.chars().next() {
                let is_word = |c: char| c.is_alphanumeric() || c == '_';
                let end = match is_word(first) {
                    true => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
                    false => first.len_utf8(),
                };
                if !first.is_whitespace() {
                    tokens.push(Token { line: number + 1, text: &rest[..end] });
                }
                rest = &rest[end..];
            }
        }
        tokens
    }

    /// Lists the paths of two segments and more that its code outside tests names.
    pub fn named(&self) -> Vec<Named> {
        let tokens: Vec<Token<'_>> =
            self.tokens().into_iter().filter(|token| !self.is_test(token.line)).collect();
        let mut found = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            if tokens[at].text == "use" && tokens.get(at + 1).is_none_or(|next| next.text != "<") {
                at = use_tree(&tokens, at + 1, &[], &mut found);
            } else if is_identifier(tokens[at].text) {
                let start = at;
                let mut segments = vec![tokens[at].text.to_owned()];
                while is_separator(&tokens, at + 1)
                    && tokens.get(at + 3).is_some_and(|next| is_identifier(next.text))
                {
                    segments.push(tokens[at + 3].text.to_owned());
                    at += 3;
                }
                if segments.len() > 1 {
                    found.push((tokens[start].line, segments));
                }
                at += 1;
            } else {
                at += 1;
            }
        }
        found.into_iter().map(|(line, segments)| self.resolve(line, segments)).collect()
    }

    /// Lists its functions with a body: name, first and last line.
    pub fn functions(&self) -> Vec<(String, usize, usize)> {
        let tokens = self.tokens();
        let mut found = Vec::new();
        for (at, pair) in tokens.windows(2).enumerate() {
            if pair[0].text == "fn"
                && is_identifier(pair[1].text)
                && let Some((open, true)) = body(&tokens, at)
            {
                let close = matching(&tokens, open);
                found.push((pair[1].text.to_owned(), pair[0].line, tokens[close].line));
            }
        }
        found
    }

    /// The module path of the file within its package: `src/view/queue.rs` is `view::queue`.
    fn module(&self) -> Vec<String> {
        let inside = self.path.split_once("src/").map_or("", |(_, inside)| inside);
        let mut module: Vec<String> =
            inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            module.pop();
        }
        module
    }

    fn resolve(&self, line: usize, segments: Vec<String>) -> Named {
        let mut base = self.module();
        let mut rest = segments.as_slice();
        match rest[0].as_str() {
            "crate" => {
                base.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|segment| segment == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            _ => return Named { line, segments, is_own: false },
        }
        base.extend_from_slice(rest);
        Named { line, segments: base, is_own: true }
    }

    /// Items under `#[cfg(test)]`: first line, last line, and the name of a module that is another file.
    fn test_items(&self) -> Vec<(usize, usize, Option<String>)> {
        let tokens = self.tokens();
        let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
        let mut found = Vec::new();
        for at in 0..tokens.len().saturating_sub(attribute.len()) {
            let texts = tokens[at..].iter().map(|token| token.text);
            if !attribute.iter().copied().eq(texts.take(attribute.len())) {
                continue;
            }
            let mut item = at + attribute.len();
            while tokens.get(item).is_some_and(|token| token.text == "#") {
                item = matching(&tokens, item + 1) + 1;
            }
            let Some((end, has_body)) = body(&tokens, item) else { continue };
            let end = if has_body { matching(&tokens, end) } else { end };
            let is_file = !has_body && tokens[end - 2].text == "mod";
            let module = is_file.then(|| tokens[end - 1].text.to_owned());
            found.push((tokens[at].line, tokens[end].line, module));
        }
        found
    }

    /// The paths, without `.rs`, of modules that exist for tests only.
    fn test_modules(&self) -> Vec<String> {
        let stem = self.path.trim_end_matches(".rs");
        let folder = match stem.rsplit_once('/') {
            Some((folder, "mod" | "lib" | "main")) => folder,
            _ => stem,
        };
        let modules = self.test_items().into_iter().filter_map(|(_, _, module)| module);
        modules.map(|module| format!("{folder}/{module}")).collect()
    }
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn is_separator(tokens: &[Token<'_>], at: usize) -> bool {
    tokens.get(at).is_some_and(|token| token.text == ":")
        && tokens.get(at + 1).is_some_and(|token| token.text == ":")
}

/// Reads a `use` tree from `at` on; returns the position after it.
fn use_tree(
    tokens: &[Token<'_>],
    mut at: usize,
    prefix: &[String],
    found: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    let mut path = prefix.to_vec();
    let line = tokens.get(at).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(at) {
        match token.text {
            ":" => at += 1,
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at = use_tree(tokens, at, &path, found);
                    at += usize::from(tokens.get(at).is_some_and(|token| token.text == ","));
                }
                return at + 1;
            }
            "," | "}" | ";" => break,
            "as" => at += 2,
            // `{self, …}` names what is before the braces.
            "self" if !path.is_empty() => at += 1,
            text => {
                path.push(text.to_owned());
                at += 1;
            }
        }
    }
    if !path.is_empty() {
        found.push((line, path));
    }
    at
}

/// Finds where an item's body opens, or the `;` that ends an item without one.
fn body(tokens: &[Token<'_>], from: usize) -> Option<(usize, bool)> {
    let mut at = from;
    while let Some(token) = tokens.get(at) {
        match token.text {
            "(" | "[" => at = matching(tokens, at),
            "{" if tokens[from].text != "use" => return Some((at, true)),
            ";" => return Some((at, false)),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Finds the bracket that closes the one at `open`.
fn matching(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len() - 1
}

/// Blanks out comments and the content of string and character literals.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let after_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let end = at
            + match rest {
                [b'/', b'/', ..] => rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
                [b'/', b'*', ..] => block_comment_len(rest),
                [b'r', ..] | [b'b' | b'c', b'r', ..] if !after_word => raw_string_len(rest),
                [b'"', ..] => string_len(rest),
                [b'\'', ..] => char_len(rest),
                _ => 0,
            };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(out).expect("only whole literals and comments are blanked")
}

fn block_comment_len(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// The length of a raw string, or 0 when it is none.
fn raw_string_len(rest: &[u8]) -> usize {
    let prefix = if rest[0] == b'r' { 1 } else { 2 };
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    let open = prefix + hashes;
    if rest.get(open) != Some(&b'"') {
        return 0;
    }
    let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let body = &rest[open + 1..];
    let end = body.windows(close.len()).position(|window| window == close);
    end.map_or(rest.len(), |end| open + 1 + end + close.len())
}

fn string_len(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of a character literal, or 0 for a lifetime.
fn char_len(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        let end = rest.iter().skip(3).position(|byte| *byte == b'\'');
        return end.map_or(rest.len(), |end| end + 4);
    }
    let text = std::str::from_utf8(&rest[..rest.len().min(6)]);
    let valid = text.unwrap_or_else(|error| {
        std::str::from_utf8(&rest[..error.valid_up_to()]).expect("valid up to there")
    });
    let length = valid.chars().nth(1).map_or(0, char::len_utf8);
    if rest.get(1 + length) == Some(&b'\'') { length + 2 } else { 0 }
}
