//! What one connection may do: `authorize(action, topic)` is the one decision, for every publish and every delivery (ADR 0021).
//!
//! Compiled once for a connection out of the access list, then remembered for the topics it used last. Without an access list it is one
//! comparison.

use std::sync::Arc;

use super::acl::{Acl, Marks, Rule, Section};
use super::filter::{covers, intersects};
use crate::model::{Principal, Topic, VirtualHost};

/// What is done with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A message of this topic is stored or passed on in the principal's name.
    Publish,
    /// A message of this topic goes to the principal.
    Receive,
}

/// Of how much of a filter something may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// No topic of it.
    Nothing,
    /// Not every topic, as far as one can see.
    Some,
    /// Every topic.
    All,
}

/// The rights of one connection, which change only with the access list. Shared and immutable.
#[derive(Debug)]
pub struct Rights {
    sections: Vec<Arc<Section>>,
    substituted: Vec<Rule>,
}

/// The rights of one connection and the topics they were asked about lately.
#[derive(Debug, Default)]
pub struct Access {
    /// `None` may do everything: there is no access list.
    rights: Option<Arc<Rights>>,
    /// By a hash of the topic; made when first used.
    lately: Vec<Option<Seen>>,
}

#[derive(Clone, Debug)]
struct Seen {
    topic: Box<[u8]>,
    marks: Marks,
}

/// Topics remembered for each connection, and the longest worth it: 4 KiB in all.
const SEEN_COUNT: usize = 16;
const SEEN_BYTES_MAX: usize = 256;

impl Rights {
    /// Compiles what a principal may do under a client id.
    pub fn new(acl: &Acl, principal: &Principal, client_id: &[u8]) -> Rights {
        let sections = acl.sections(principal);
        // A client id is checked to be UTF-8 by its protocol; one that is not is no plain level.
        let client_id = std::str::from_utf8(client_id).unwrap_or_default();
        let user = principal.name();
        let substituted = sections.iter().flat_map(|it| it.substituted(user, client_id)).collect();
        Rights { sections, substituted }
    }

    /// Decides. Denials win, and what nothing allows is denied.
    pub fn authorize(&self, action: Action, topic: &Topic) -> bool {
        is_allowed(self.marks(topic.as_bytes()), action)
    }

    /// Tells of how much of a filter something may be done.
    pub fn reach(&self, action: Action, filter: &str) -> Reach {
        let (allow, deny) = marks_of(action);
        let rules = || self.sections.iter().flat_map(|it| &it.rules).chain(&self.substituted);
        let denials = || rules().filter(|rule| rule.marks.has(deny));
        let mut allowances = rules()
            .filter(|rule| rule.marks.has(allow) && intersects(&rule.filter, filter))
            .peekable();
        let permissions = self.sections.iter().flat_map(|it| &it.permissions);
        let permitted =
            permissions.map(|it| it.reach(action, filter)).max().unwrap_or(Reach::Nothing);
        let has_none = allowances.peek().is_none() && permitted == Reach::Nothing;
        if has_none || denials().any(|denial| covers(&denial.filter, filter)) {
            return Reach::Nothing;
        }
        let is_undone = |rule: &Rule| denials().any(|denial| covers(&denial.filter, &rule.filter));
        let is_whole = |rule: &Rule| covers(&rule.filter, filter);
        let allowances: Vec<&Rule> = allowances.filter(|rule| !is_undone(rule)).collect();
        if allowances.is_empty() && permitted == Reach::Nothing {
            return Reach::Nothing;
        }
        let is_cut = denials().any(|denial| intersects(&denial.filter, filter));
        let is_all = permitted == Reach::All || allowances.into_iter().any(is_whole);
        if is_all && !is_cut { Reach::All } else { Reach::Some }
    }

    /// Tells whether a client may have its names in a virtual host: by a line for it. `/` is also there for those of whom lines say what
    /// they may do with topics.
    pub fn may_enter(&self, host: &VirtualHost) -> bool {
        let mut permissions = self.sections.iter().flat_map(|it| &it.permissions);
        permissions.any(|it| it.host == *host)
            || (host.is_default() && self.sections.iter().any(|it| it.has_topics()))
    }

    fn marks(&self, topic: &[u8]) -> Marks {
        let matching =
            |rule: &&Rule| fluxmq_index::topic_trie::matches(rule.filter.as_bytes(), topic);
        let substituted = self.substituted.iter().filter(matching).map(|rule| rule.marks);
        let marks = self.sections.iter().map(|section| section.marks(topic)).chain(substituted);
        marks.fold(Marks::default(), Marks::with)
    }
}

impl Access {
    /// Everything, when there is no access list.
    pub fn new(rights: Option<Arc<Rights>>) -> Access {
        Access { rights, lately: Vec::new() }
    }

    /// Decides about one message.
    #[inline]
    pub fn authorize(&mut self, action: Action, topic: &Topic) -> bool {
        match &self.rights {
            None => true,
            Some(_) => self.look_up(action, topic.as_bytes()),
        }
    }

    /// Tells how much of a filter may be received.
    pub fn reach(&self, filter: &str) -> Reach {
        self.reach_to(Action::Receive, filter)
    }

    /// Tells of how much of a filter something may be done.
    pub fn reach_to(&self, action: Action, filter: &str) -> Reach {
        self.rights.as_ref().map_or(Reach::All, |rights| rights.reach(action, filter))
    }

    /// Tells whether a client may have its names in a virtual host.
    pub fn may_enter(&self, host: &VirtualHost) -> bool {
        self.rights.as_ref().is_none_or(|rights| rights.may_enter(host))
    }

    /// The rights behind it; `None` is everything.
    pub fn rights(&self) -> Option<&Arc<Rights>> {
        self.rights.as_ref()
    }

    fn look_up(&mut self, action: Action, topic: &[u8]) -> bool {
        let Some(rights) = &self.rights else { return true };
        if topic.len() > SEEN_BYTES_MAX {
            return is_allowed(rights.marks(topic), action);
        }
        self.lately.resize(SEEN_COUNT, None);
        let place = xxhash_rust::xxh3::xxh3_64(topic) as usize % SEEN_COUNT;
        if let Some(seen) = self.lately[place].as_ref().filter(|seen| &*seen.topic == topic) {
            return is_allowed(seen.marks, action);
        }
        let marks = rights.marks(topic);
        self.lately[place] = Some(Seen { topic: topic.into(), marks });
        is_allowed(marks, action)
    }
}

fn is_allowed(marks: Marks, action: Action) -> bool {
    let (allow, deny) = marks_of(action);
    marks.has(allow) && !marks.has(deny)
}

/// What allows it, and what denies it.
fn marks_of(action: Action) -> (Marks, Marks) {
    match action {
        Action::Publish => (Marks::ALLOW_PUBLISH, Marks::DENY_PUBLISH),
        Action::Receive => (Marks::ALLOW_RECEIVE, Marks::DENY_RECEIVE),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn rights(acl: &str, user: &str, client_id: &str) -> Arc<Rights> {
        let principal = Principal::from_stored(Bytes::copy_from_slice(user.as_bytes()));
        Arc::new(Rights::new(&Acl::parse(acl).unwrap(), &principal, client_id.as_bytes()))
    }

    fn topic(text: &str) -> Topic {
        Topic::new(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    const ACL: &str = "topic read public/#\nuser alice\ntopic readwrite home/#\ntopic deny write home/door\n\
                       topic read $queue/jobs/#\npattern write devices/%u/%c/#\npattern deny home/safe/#\n";

    #[test]
    fn a_topic_is_allowed_by_a_line_and_by_no_denial() {
        let mut alice = Access::new(Some(rights(ACL, "alice", "c1")));
        let cases = [
            ("home/lamp", true, true),
            ("home/door", false, true),
            ("home/safe/1", false, false),
            ("public/a", false, false),
            ("devices/alice/c1/x", true, false),
            ("devices/alice/c2/x", false, false),
            ("$queue/jobs/1", false, true),
            ("$queue/other", false, false),
        ];
        for round in 0..2 {
            for (name, publish, receive) in cases {
                let found = [Action::Publish, Action::Receive]
                    .map(|action| alice.authorize(action, &topic(name)));
                assert_eq!(found, [publish, receive], "{name}, round {round}");
            }
        }
        let mut nobody = Access::new(Some(rights(ACL, "", "c1")));
        assert!(nobody.authorize(Action::Receive, &topic("public/a")));
        assert!(!nobody.authorize(Action::Publish, &topic("public/a")));
        assert!(!nobody.authorize(Action::Receive, &topic("home/lamp")));
        let mut stranger = Access::new(Some(rights(ACL, "carol", "c1")));
        assert!(!stranger.authorize(Action::Receive, &topic("public/a")));
        assert!(stranger.authorize(Action::Publish, &topic("devices/carol/c1/x")));
    }

    #[test]
    fn an_empty_list_allows_nothing_and_none_allows_everything() {
        let any = topic("a");
        assert!(!Access::new(Some(rights("", "alice", "c"))).authorize(Action::Receive, &any));
        assert!(Access::default().authorize(Action::Publish, &any));
        assert_eq!(Access::default().reach("#"), Reach::All);
    }

    #[test]
    fn a_filter_is_refused_only_when_nothing_in_it_is_allowed() {
        let alice = rights(ACL, "alice", "c1");
        let cases = [
            ("home/lamp", Reach::All),
            ("home/#", Reach::Some),
            ("#", Reach::Some),
            ("home/safe/1", Reach::Nothing),
            ("home/safe/+", Reach::Nothing),
            ("public/#", Reach::Nothing),
            ("$queue/jobs/#", Reach::All),
            ("$queue/#", Reach::Some),
            ("devices/alice/c1/x", Reach::Nothing),
        ];
        for (filter, expected) in cases {
            assert_eq!(alice.reach(Action::Receive, filter), expected, "{filter}");
        }
        let denied = rights("topic deny a/#\ntopic read a/b\n", "", "c");
        assert_eq!(denied.reach(Action::Receive, "#"), Reach::Nothing);
    }

    const PERMISSIONS: &str = "topic deny read $queue/jobs/#\nuser alice\nvhost / ^jobs ^(amq\\.default|amq\\.topic)$ ^(jobs|amq\\.topic)\n\
                               topic deny home/safe/#\ntopic read $SYS/#\nuser bob\nvhost staging \"\" \"\" \"\"\nuser carol\ntopic read a\n";

    #[test]
    fn permissions_are_lines_like_others() {
        let mut alice = Access::new(Some(rights(PERMISSIONS, "alice", "c1")));
        for (name, publish, receive) in [
            ("home/lamp", true, true),
            ("home/safe/1", false, false),
            ("$queue/jobs", true, true),
            ("$queue/other", true, false),
            ("$SYS/broker", false, true),
            ("$management/queue/jobs/declare", true, false),
            ("$queue/staging%3Ajobs", false, false),
        ] {
            let found = [Action::Publish, Action::Receive]
                .map(|action| alice.authorize(action, &topic(name)));
            assert_eq!(found, [publish, receive], "{name}");
        }
        for (filter, expected) in [
            ("#", Reach::Some),
            ("site/#", Reach::All),
            ("home/safe/+", Reach::Nothing),
            ("$queue/jobs/#", Reach::All),
            ("$queue/other/#", Reach::Nothing),
        ] {
            assert_eq!(alice.reach(filter), expected, "{filter}");
        }
    }

    #[test]
    fn a_host_is_entered_by_a_line_for_it() {
        let staging = VirtualHost::new(b"staging").unwrap();
        let entered = |user: &str| {
            let rights = rights(PERMISSIONS, user, "c1");
            [&VirtualHost::DEFAULT, &staging].map(|host| rights.may_enter(host))
        };
        assert_eq!(entered("alice"), [true, false]);
        assert_eq!(entered("bob"), [false, true], "three empty expressions let in, and no further");
        assert_eq!(entered("carol"), [true, false], "topics are in the default host");
        assert_eq!(entered("nobody"), [false, false]);
        assert!(
            Access::default().may_enter(&staging),
            "without a list everybody may do everything"
        );
    }

    fn level() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "b", "+", "%u", "%c", "$s"])
    }

    fn line() -> impl Strategy<Value = String> {
        let keyword = prop::sample::select(vec!["topic", "pattern"]);
        let access =
            prop::sample::select(vec!["read", "write", "readwrite", "deny", "deny read", ""]);
        (keyword, access, prop::collection::vec(level(), 1..4), any::<bool>()).prop_map(
            |(keyword, access, mut levels, rest)| {
                levels.extend(rest.then_some("#"));
                format!("{keyword} {access} {}", levels.join("/"))
            },
        )
    }

    /// The same decision, made the long way for a client without a name: every line by itself, level by level, no index, no memory.
    fn oracle(lines: &[String], client_id: &str, action: Action, topic: &str) -> bool {
        let names: Vec<&str> = topic.split('/').collect();
        let is_odd = client_id.contains(['+', '#', '/']) || client_id.starts_with('$');
        let mut allowed = false;
        for line in lines.iter().filter(|line| !line.contains("%u")) {
            let (_, rest) = line.split_once(' ').unwrap();
            let (access, filter) = rest.rsplit_once(' ').unwrap();
            let denies = access.starts_with("deny");
            let concerns = match access.split(' ').next_back().unwrap() {
                "read" => action == Action::Receive,
                "write" => action == Action::Publish,
                _ => true,
            };
            let mut wanted: Vec<&str> = filter.split('/').collect();
            if let Some(at) = wanted.iter().position(|level| *level == "%c") {
                match (is_odd, denies) {
                    (true, true) => wanted.splice(at.., ["#"]),
                    (true, false) => continue,
                    (false, _) => wanted.splice(at..=at, [client_id]),
                };
            }
            wanted.iter_mut().filter(|level| **level == "%c").for_each(|level| *level = client_id);
            let is_hidden = names[0].starts_with('$') && ["+", "#"].contains(&wanted[0]);
            let is_open = wanted.last() == Some(&"#");
            let fixed = wanted.len() - usize::from(is_open);
            let fits = names.len() == fixed || (is_open && names.len() > fixed);
            let level = |at: usize| wanted[at] == "+" || names.get(at) == Some(&wanted[at]);
            if concerns && !is_hidden && fits && (0..fixed).all(level) {
                match denies {
                    true => return false,
                    false => allowed = true,
                }
            }
        }
        allowed
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

        #[test]
        fn the_decision_is_the_one_that_reading_every_line_makes(
            lines in prop::collection::vec(line(), 0..8),
            client_id in prop::sample::select(vec!["a", "b", "$s", "a/b", "x"]),
            asked in prop::collection::vec((prop::collection::vec(
                prop::sample::select(vec!["a", "b", "$s", "x"]), 1..4), any::<bool>()), 1..24),
        ) {
            let mut access = Access::new(Some(rights(&lines.join("\n"), "", client_id)));
            for (levels, publish) in asked {
                let name = levels.join("/");
                let action = if publish { Action::Publish } else { Action::Receive };
                let expected = oracle(&lines, client_id, action, &name);
                prop_assert_eq!(access.authorize(action, &topic(&name)), expected, "{} {:?}", name, lines);
            }
        }

        #[test]
        fn what_permissions_reach_is_what_they_allow(
            lines in prop::collection::vec(prop::sample::select(vec![
                "vhost / \"\" \"\" ^a", "vhost / \"\" \"\" .*", "vhost a \"\" \"\" amq", "vhost a \"\" \"\" ^b$",
                "topic deny read a/#", "topic deny read $queue/a/#", "topic read $queue/+/b", "topic deny read $vhost/a/b",
            ]), 0..4),
            filter in prop::sample::select(vec![
                "#", "+", "a/#", "$queue/a/#", "$queue/+/#", "$queue/a%3Ab/#", "$exchange/a/#", "$vhost/#", "$vhost/a/#", "$vhost/+/b",
            ]),
            name in prop::sample::select(vec![
                "a", "b", "a/b", "$queue/a/b", "$queue/b/b", "$queue/a%3Ab/b", "$exchange/a/b", "$vhost/a/b", "$vhost/a/c", "$vhost/b/b",
            ]),
        ) {
            let rights = rights(&lines.join("\n"), "", "a");
            if !fluxmq_index::topic_trie::matches(filter.as_bytes(), name.as_bytes()) {
                return Ok(());
            }
            let allowed = rights.authorize(Action::Receive, &topic(name));
            match rights.reach(Action::Receive, filter) {
                Reach::Nothing => prop_assert!(!allowed, "{} {} {:?}", filter, name, lines),
                Reach::All => prop_assert!(allowed, "{} {} {:?}", filter, name, lines),
                Reach::Some => {}
            }
        }

        #[test]
        fn a_refused_filter_holds_nothing_and_a_whole_one_everything(
            lines in prop::collection::vec(line(), 0..8),
            filter in prop::collection::vec(prop::sample::select(vec!["a", "b", "+", "$s"]), 1..3),
            rest in any::<bool>(),
            levels in prop::collection::vec(prop::sample::select(vec!["a", "b", "$s"]), 1..4),
        ) {
            let rights = rights(&lines.join("\n"), "", "a");
            let filter = filter.join("/") + if rest { "/#" } else { "" };
            let name = levels.join("/");
            if !fluxmq_index::topic_trie::matches(filter.as_bytes(), name.as_bytes()) {
                return Ok(());
            }
            for action in [Action::Receive, Action::Publish] {
                let allowed = rights.authorize(action, &topic(&name));
                match rights.reach(action, &filter) {
                    Reach::Nothing => prop_assert!(!allowed, "{} {} {:?}", filter, name, lines),
                    Reach::All => prop_assert!(allowed, "{} {} {:?}", filter, name, lines),
                    Reach::Some => {}
                }
            }
        }
    }
}
