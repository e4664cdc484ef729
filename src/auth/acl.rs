//! The access list: who may publish and subscribe where, in the words of mosquitto's `acl_file`.
//!
//! ```text
//! topic read public/#                 above the first 'user': anonymous clients
//! user alice
//! topic readwrite home/#              read (subscribe) · write (publish) · readwrite (also when left out) · deny
//! topic deny write home/door/lock     ours: deny for one of the two
//! pattern write devices/%u/%c/#       everybody; %u is the user's name, %c the client id
//! vhost / ^mine\. .* ^mine\.          ours: RabbitMQ's permissions, for the user or anonymous clients (`permission`)
//! ```
//!
//! Denials win wherever they stand, so the order of lines says nothing (ADR 0022). What no line allows is denied.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::TopicTrie;

use super::permission::Permission;
use super::problem::{Problems, read_lines};
use crate::model::{Filter, Principal};

/// What lines say about a topic, both actions at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Marks(pub(super) u8);

impl Marks {
    pub(super) const ALLOW_PUBLISH: Marks = Marks(1);
    pub(super) const ALLOW_RECEIVE: Marks = Marks(2);
    pub(super) const DENY_PUBLISH: Marks = Marks(4);
    pub(super) const DENY_RECEIVE: Marks = Marks(8);
    const ALLOW: Marks = Marks(3);

    pub(super) fn has(self, mark: Marks) -> bool {
        self.0 & mark.0 != 0
    }

    pub(super) fn with(self, more: Marks) -> Marks {
        Marks(self.0 | more.0)
    }
}

/// One line's filter, nothing left to be substituted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) filter: String,
    pub(super) marks: Marks,
}

/// Lines that apply to the same clients.
#[derive(Debug, Default)]
pub(super) struct Section {
    /// Those without substitution.
    pub(super) rules: Vec<Rule>,
    /// The same, by topic.
    index: TopicTrie<Marks>,
    /// Those with `%u` or `%c`.
    templates: Vec<Rule>,
    /// What it says of virtual hosts.
    pub(super) permissions: Vec<Permission>,
}

/// The access list.
#[derive(Debug, Default)]
pub struct Acl {
    anonymous: Arc<Section>,
    by_user: BTreeMap<String, Arc<Section>>,
    everybody: Arc<Section>,
}

#[derive(Default)]
struct Drafts {
    anonymous: Section,
    by_user: BTreeMap<String, Section>,
    everybody: Section,
    user: Option<String>,
}

impl Acl {
    /// Reads a file; the error names every bad line.
    pub fn parse(text: &str) -> Result<Acl, Problems> {
        let mut drafts = Drafts::default();
        read_lines(text, |_, line| drafts.take(line))?;
        let Drafts { anonymous, by_user, everybody, user: _ } = drafts;
        Ok(Acl {
            anonymous: Arc::new(anonymous),
            by_user: by_user.into_iter().map(|(name, section)| (name, Arc::new(section))).collect(),
            everybody: Arc::new(everybody),
        })
    }

    /// The sections that apply to a principal.
    pub(super) fn sections(&self, principal: &Principal) -> Vec<Arc<Section>> {
        let own = match principal.name() {
            None => Some(&self.anonymous),
            Some(name) => self.by_user.get(name),
        };
        own.into_iter().chain([&self.everybody]).filter(|it| !it.is_empty()).cloned().collect()
    }
}

impl Drafts {
    fn take(&mut self, line: &str) -> Result<(), String> {
        let (keyword, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match keyword {
            "user" => {
                Principal::user(Bytes::copy_from_slice(rest.as_bytes()))
                    .map_err(|error| error.to_string())?;
                self.by_user.entry(rest.to_owned()).or_default();
                self.user = Some(rest.to_owned());
                Ok(())
            }
            "topic" => {
                let rule = Rule::parse(rest)?;
                self.section().add(rule);
                Ok(())
            }
            "pattern" => {
                self.everybody.add(Rule::parse(rest)?);
                Ok(())
            }
            "vhost" => {
                self.section().permissions.push(Permission::parse(rest)?);
                Ok(())
            }
            _ => Err("begins with none of 'user', 'topic', 'pattern' and 'vhost'".to_owned()),
        }
    }
}

impl Drafts {
    /// Whose lines are being read.
    fn section(&mut self) -> &mut Section {
        match &self.user {
            None => &mut self.anonymous,
            Some(user) => self.by_user.entry(user.clone()).or_default(),
        }
    }
}

impl Rule {
    /// Reads `[read|write|readwrite|deny [read|write|readwrite]] <filter>`.
    fn parse(text: &str) -> Result<Rule, String> {
        let (marks, filter) = match next_word(text) {
            ("deny", rest) => match access_of(next_word(rest)) {
                Some((allowed, filter)) => (Marks(allowed.0 << 2), filter),
                None => (Marks(Marks::ALLOW.0 << 2), rest),
            },
            word => access_of(word).unwrap_or((Marks::ALLOW, text)),
        };
        if filter.is_empty() {
            return Err("has no topic filter".to_owned());
        }
        Filter::new(Bytes::copy_from_slice(filter.as_bytes()))
            .map_err(|error| format!("'{filter}': {error}"))?;
        if matches!(filter.split('/').next(), Some("$share" | "$replay")) {
            return Err(format!(
                "'{filter}': write the filter that follows the group or the position: it is what is checked"
            ));
        }
        Ok(Rule { filter: filter.to_owned(), marks })
    }

    fn is_template(&self) -> bool {
        self.filter.contains("%u") || self.filter.contains("%c")
    }

    fn is_denial(&self) -> bool {
        self.marks.has(Marks::DENY_PUBLISH) || self.marks.has(Marks::DENY_RECEIVE)
    }
}

/// Splits the first word off; what follows has no space around it.
fn next_word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (word, rest.trim_start())
}

/// A word of access that is followed by a filter; alone it is a filter itself.
fn access_of<'a>((word, rest): (&str, &'a str)) -> Option<(Marks, &'a str)> {
    let marks = match word {
        "read" => Marks::ALLOW_RECEIVE,
        "write" => Marks::ALLOW_PUBLISH,
        "readwrite" => Marks::ALLOW,
        _ => return None,
    };
    (!rest.is_empty()).then_some((marks, rest))
}

impl Section {
    fn add(&mut self, rule: Rule) {
        if rule.is_template() {
            return self.templates.push(rule);
        }
        self.index.insert(rule.filter.as_bytes(), rule.marks);
        self.rules.push(rule);
    }

    fn is_empty(&self) -> bool {
        !self.has_topics() && self.permissions.is_empty()
    }

    /// Returns true when it says something of topics by themselves.
    pub(super) fn has_topics(&self) -> bool {
        !self.rules.is_empty() || !self.templates.is_empty()
    }

    /// What its lines without substitution say about a topic.
    pub(super) fn marks(&self, topic: &[u8]) -> Marks {
        let mut marks = Marks::default();
        self.index.for_each_match(topic, |found| marks = marks.with(*found));
        self.permissions.iter().fold(marks, |marks, it| marks.with(it.marks(topic)))
    }

    /// Its lines with substitution, for one client. Those with `%u` are not for clients without a name.
    ///
    /// A value that is no plain level could widen an allowance: such a line allows nothing. In a denial everything from there down is
    /// denied, which is more than any value would.
    pub(super) fn substituted(
        &self,
        user: Option<&str>,
        client_id: &str,
    ) -> impl Iterator<Item = Rule> {
        let concerned = move |template: &&Rule| user.is_some() || !template.filter.contains("%u");
        let user = user.unwrap_or_default();
        self.templates.iter().filter(concerned).filter_map(move |template| {
            let mut filter = String::with_capacity(template.filter.len() + client_id.len());
            for (index, level) in template.filter.split('/').enumerate() {
                let has = |name: &str, value: &str| level.contains(name) && !is_plain_level(value);
                if has("%u", user) || has("%c", client_id) {
                    filter.push_str(if index == 0 { "#" } else { "/#" });
                    let rule = Rule { filter, marks: template.marks };
                    return template.is_denial().then_some(rule);
                }
                if index > 0 {
                    filter.push('/');
                }
                substitute(level, user, client_id, &mut filter);
            }
            Some(Rule { filter, marks: template.marks })
        })
    }
}

/// One pass: what a value contains is not substituted again.
fn substitute(level: &str, user: &str, client_id: &str, out: &mut String) {
    let mut rest = level;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let value = match rest.get(at..at + 2) {
            Some("%u") => Some(user),
            Some("%c") => Some(client_id),
            _ => None,
        };
        out.push_str(value.unwrap_or("%"));
        rest = &rest[at + if value.is_some() { 2 } else { 1 }..];
    }
    out.push_str(rest);
}

fn is_plain_level(value: &str) -> bool {
    !value.is_empty() && !value.starts_with('$') && !value.contains(['+', '#', '/', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mosquitto_mean_what_they_mean_there() {
        let acl = Acl::parse(
            "# comment\ntopic read public/#\n\nuser alice\ntopic home/my lamp\ntopic write a/#\ntopic deny a/secret\n\
             topic deny write a/door\npattern read $SYS/#\nuser bob\n",
        )
        .unwrap();
        let rule = |filter: &str, marks| Rule { filter: filter.to_owned(), marks: Marks(marks) };

        assert_eq!(acl.anonymous.rules, [rule("public/#", 2)]);
        let expected =
            [rule("home/my lamp", 3), rule("a/#", 1), rule("a/secret", 12), rule("a/door", 4)];
        assert_eq!(acl.by_user["alice"].rules, expected);
        assert!(acl.by_user["bob"].is_empty());
        assert_eq!(acl.everybody.rules, [rule("$SYS/#", 2)]);
    }

    #[test]
    fn every_bad_line_is_named() {
        let text =
            "topics a\nuser\ntopic\ntopic read a/#/b\npattern $share/g/a\ntopic deny\nuser a:b\n";
        let problems = Acl::parse(text).unwrap_err();
        // 'topic deny' alone: the filter is missing.
        let lines: Vec<usize> = problems.0.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [1, 2, 3, 4, 5, 6, 7]);
    }

    fn of_template(line: &str, user: &str, client_id: &str) -> Vec<String> {
        let acl = Acl::parse(line).unwrap();
        acl.everybody.substituted(Some(user), client_id).map(|rule| rule.filter).collect()
    }

    #[test]
    fn values_are_substituted_once() {
        assert_eq!(of_template("pattern write d/%u/%c/#", "u", "c"), ["d/u/c/#"]);
        assert_eq!(of_template("pattern write d/x%c-%u%/50%", "%c", "1"), ["d/x1-%c%/50%"]);
    }

    #[test]
    fn a_value_that_is_no_plain_level_widens_nothing() {
        for value in ["+", "#", "a/b", "/", "$SYS", "$share", "", "a+", "x#"] {
            assert_eq!(of_template("pattern readwrite d/%c", "u", value), [""; 0], "{value}");
            assert_eq!(of_template("pattern deny d/%c/e", "u", value), ["d/#"], "{value}");
            assert_eq!(of_template("pattern deny %c/e", "u", value), ["#"], "{value}");
        }
        assert_eq!(of_template("pattern read d/%c", "u", "a$b"), ["d/a$b"]);
    }
}
