//! Permissions of virtual hosts: regular expressions over the names of queues and exchanges, as RabbitMQ has them.
//!
//! ```text
//! vhost <host> <configure> <write> <read>      fields with spaces, and empty ones, in double quotes
//! ```
//!
//! They are lines of the access list like others: each allows addresses, so that every protocol asks the one question there is (ADR 0021).
//! Which right an address needs, and on what, is [`Wanted::of`], RabbitMQ's table in terms of addresses (ADR 0056).

use std::borrow::Cow;

use bytes::Bytes;
use regex::bytes::{Regex, RegexBuilder};

use super::access::{Action, Reach};
use super::acl::Marks;
use crate::model::address::REPLY_QUEUES;
use crate::model::{QueueName, VirtualHost, virtual_host};

/// What RabbitMQ calls the default exchange, where its permissions are about it.
const DEFAULT_EXCHANGE: &[u8] = b"amq.default";
/// The exchange that is the topics of a virtual host.
const TOPIC_EXCHANGE: &[u8] = crate::model::exchange::TOPIC_EXCHANGE.as_bytes();
/// Bytes of a compiled expression, at most.
const EXPRESSION_BYTES_MAX: usize = 1 << 20;

/// One line: what its clients may do in a virtual host.
#[derive(Debug)]
pub(super) struct Permission {
    pub(super) host: VirtualHost,
    configure: Expression,
    write: Expression,
    read: Expression,
}

/// Names that an expression is found in; an empty one is found in none.
#[derive(Debug)]
struct Expression(Option<Regex>);

/// What is done with a queue or an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Right {
    Configure,
    Write,
    Read,
    /// Configure, write and read.
    All,
    /// Whatever a line says of the host.
    Any,
}

/// What is needed to publish to an address and to receive from it.
#[derive(Debug, PartialEq, Eq)]
struct Wanted<'a> {
    host: VirtualHost,
    publish: Option<(Right, Cow<'a, [u8]>)>,
    receive: Option<(Right, Cow<'a, [u8]>)>,
}

impl Permission {
    /// Reads what follows the word `vhost`.
    pub(super) fn parse(text: &str) -> Result<Permission, String> {
        let fields = fields(text)?;
        let [host, configure, write, read] = &fields[..] else {
            return Err(format!(
                "has {} fields behind 'vhost': write the host and three expressions, for configure, write and read; an empty one is \"\"",
                fields.len()
            ));
        };
        Ok(Permission {
            host: VirtualHost::new(host.as_bytes())
                .map_err(|error| format!("'{host}': {error}"))?,
            configure: Expression::parse(configure)?,
            write: Expression::parse(write)?,
            read: Expression::parse(read)?,
        })
    }

    /// What it allows to be done with a topic.
    pub(super) fn marks(&self, topic: &[u8]) -> Marks {
        let wanted = Wanted::of(topic).filter(|wanted| wanted.host == self.host);
        let Some(Wanted { publish, receive, .. }) = wanted else { return Marks::default() };
        let mark = |wanted: Option<(Right, Cow<'_, [u8]>)>, mark| {
            let is_allowed = wanted.is_some_and(|(right, name)| self.allows(right, &name));
            if is_allowed { mark } else { Marks::default() }
        };
        mark(publish, Marks::ALLOW_PUBLISH).with(mark(receive, Marks::ALLOW_RECEIVE))
    }

    /// With how much of a filter it allows something to be done.
    pub(super) fn reach(&self, action: Action, filter: &str) -> Reach {
        let (right, mark) = match action {
            Action::Publish => (Right::Write, Marks::ALLOW_PUBLISH),
            Action::Receive => (Right::Read, Marks::ALLOW_RECEIVE),
        };
        let (first, rest) = filter.split_once('/').unwrap_or((filter, ""));
        let second = rest.split('/').next().unwrap_or_default();
        let is_wild = |level: &str| matches!(level, "+" | "#");
        let whole = |is_allowed| if is_allowed { Reach::All } else { Reach::Nothing };
        if is_wild(first) {
            // Which matches no name that begins with a `$`.
            return whole(self.host.is_default() && self.allows(right, TOPIC_EXCHANGE));
        }
        let has_names = ["$queue", "$dlq", "$exchange", virtual_host::TOPICS].contains(&first);
        if has_names && is_wild(second) {
            // Of which names there are nothing is known here: what comes is looked at by itself.
            let is_any = match action {
                Action::Publish => self.write.0.is_some(),
                Action::Receive => self.read.0.is_some(),
            };
            // Whoever publishes by the default exchange of `/` publishes to all queues that there are for MQTT.
            let is_default_exchange = first == "$queue" && action == Action::Publish;
            if is_default_exchange && self.host.is_default() {
                return whole(self.allows(right, DEFAULT_EXCHANGE));
            }
            return if is_any { Reach::Some } else { Reach::Nothing };
        }
        whole(self.marks(filter.as_bytes()).has(mark))
    }

    fn allows(&self, right: Right, name: &[u8]) -> bool {
        // Whoever asks a question may hear the answer (RabbitMQ, direct reply-to).
        let is_answer = name.starts_with(REPLY_QUEUES.as_bytes());
        match right {
            Right::Configure | Right::Read if is_answer => true,
            Right::Configure => self.configure.finds(name),
            Right::Write => self.write.finds(name),
            Right::Read => self.read.finds(name),
            Right::All => [Right::Configure, Right::Write, Right::Read]
                .into_iter()
                .all(|right| self.allows(right, name)),
            Right::Any => true,
        }
    }
}

impl Expression {
    fn parse(text: &str) -> Result<Expression, String> {
        if text.is_empty() {
            return Ok(Expression(None));
        }
        // Bytes and ASCII classes, as in RabbitMQ.
        let mut builder = RegexBuilder::new(text);
        let built = builder.unicode(false).size_limit(EXPRESSION_BYTES_MAX).build();
        built.map(|regex| Expression(Some(regex))).map_err(|error| {
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("'{text}' is no regular expression: {reason}")
        })
    }

    fn finds(&self, name: &[u8]) -> bool {
        self.0.as_ref().is_some_and(|regex| regex.is_match(name))
    }
}

impl Wanted<'_> {
    /// Reads an address. `None` where permissions say nothing of it.
    fn of(topic: &[u8]) -> Option<Wanted<'_>> {
        let (first, rest) = split(topic);
        match first {
            b"$queue" => {
                let (host, name) = VirtualHost::of_level(split(rest).0);
                let publish = Some((Right::Write, Cow::Borrowed(DEFAULT_EXCHANGE)));
                Some(Wanted { host, publish, receive: Some((Right::Read, name)) })
            }
            b"$dlq" if !rest.is_empty() => {
                let (host, name) = named(&topic[..first.len() + 1 + split(rest).0.len()])?;
                Some(Wanted { host, publish: None, receive: Some((Right::Read, name)) })
            }
            b"$exchange" => {
                let (host, name) = VirtualHost::of_level(split(rest).0);
                let publish = Some((Right::Write, name.clone()));
                Some(Wanted { host, publish, receive: Some((Right::Read, name)) })
            }
            b"$management" => Wanted::of_request(rest),
            b"$SYS" | b"$dlq" | b"$replay" | b"$share" => None,
            _ => {
                let host = match first == virtual_host::TOPICS.as_bytes() {
                    true => VirtualHost::of_topics(rest)?,
                    false => VirtualHost::default(),
                };
                let wanted = |right| Some((right, Cow::Borrowed(TOPIC_EXCHANGE)));
                Some(Wanted { host, publish: wanted(Right::Write), receive: wanted(Right::Read) })
            }
        }
    }

    /// `queue/<name>/<operation>` and `exchange/<name>/<operation>`.
    fn of_request(request: &[u8]) -> Option<Wanted<'_>> {
        let (kind, rest) = split(request);
        let at = rest.iter().rposition(|byte| *byte == b'/')?;
        let (name, operation) = (&rest[..at], &rest[at + 1..]);
        let (host, name) = match kind {
            b"queue" => named(name)?,
            b"exchange" => VirtualHost::of_level(name),
            _ => return None,
        };
        let right = match operation {
            b"declare" | b"delete" => Right::Configure,
            b"bind" | b"unbind" => Right::Write,
            b"purge" | b"peek" | b"seek" | b"delete_group" => Right::Read,
            b"inspect" | b"show" => Right::Any,
            // Publishes again what died.
            b"redrive" => Right::All,
            _ => return None,
        };
        Some(Wanted { host, publish: Some((right, name)), receive: None })
    }
}

/// The host and the name of a queue.
fn named(queue: &[u8]) -> Option<(VirtualHost, Cow<'_, [u8]>)> {
    let queue = QueueName::from_text(Bytes::copy_from_slice(queue)).ok()?;
    Some((queue.virtual_host(), Cow::Owned(queue.name().into_owned().into_bytes())))
}

fn split(levels: &[u8]) -> (&[u8], &[u8]) {
    match levels.iter().position(|byte| *byte == b'/') {
        Some(at) => (&levels[..at], &levels[at + 1..]),
        None => (levels, &[]),
    }
}

/// Splits a line at its spaces, but for those in double quotes.
fn fields(text: &str) -> Result<Vec<String>, String> {
    let (mut fields, mut rest) = (Vec::new(), text.trim());
    while !rest.is_empty() {
        let (field, behind) = match rest.strip_prefix('"') {
            Some(quoted) => quoted
                .split_once('"')
                .filter(|(_, behind)| behind.is_empty() || behind.starts_with(char::is_whitespace))
                .ok_or("has a field whose quotes do not end it")?,
            None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        fields.push(field.to_owned());
        rest = behind.trim_start();
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permission(line: &str) -> Permission {
        Permission::parse(line).expect(line)
    }

    /// Which of publishing and receiving a line allows for a topic.
    fn allowed(line: &str, topic: &str) -> (bool, bool) {
        let marks = permission(line).marks(topic.as_bytes());
        (marks.has(Marks::ALLOW_PUBLISH), marks.has(Marks::ALLOW_RECEIVE))
    }

    #[test]
    fn each_address_needs_the_right_that_rabbitmq_asks_for() {
        let line = "/ ^configured ^(written|amq.default) ^read";
        let cases = [
            ("$management/queue/configured/declare", (true, false)),
            ("$management/queue/configured/delete", (true, false)),
            ("$management/queue/read/declare", (false, false)),
            ("$management/queue/read/purge", (true, false)),
            ("$management/queue/written/bind", (true, false)),
            ("$management/queue/configured/unbind", (false, false)),
            ("$management/queue/x/inspect", (true, false)),
            ("$management/queue/configured/redrive", (false, false)),
            ("$management/exchange/configured.x/declare", (true, false)),
            ("$management/exchange/written/bind", (true, false)),
            ("$management/queues", (false, false)),
            ("$management/connections", (false, false)),
            ("$exchange/written/key/1", (true, false)),
            ("$exchange/read/key", (false, true)),
            // Publishing by a queue's name is publishing to the default exchange.
            ("$queue/read", (true, true)),
            ("$queue/read/eu/1", (true, true)),
            ("$queue/other", (true, false)),
            ("$dlq/read", (false, false)),
            ("site/1", (false, false)),
            ("$SYS/broker", (false, false)),
            ("$queue/staging%3Aread", (false, false)),
        ];
        for (topic, expected) in cases {
            assert_eq!(allowed(line, topic), expected, "{topic}");
        }
        assert_eq!(allowed("/ \"\" amq\\.topic \"\"", "site/1"), (true, false));
        assert_eq!(allowed("/ \"\" \"\" ^\\$dlq/a/b$", "$dlq/a%2Fb/x"), (false, true));
        assert_eq!(allowed("/ \"\" \"\" ^a/b$", "$queue/a%2Fb"), (false, true));
        assert_eq!(allowed("/ .* .* .*", "$management/queue/q/redrive"), (true, false));
        let answers = "$queue/amq.rabbitmq.reply-to.1";
        assert_eq!(allowed("/ \"\" \"\" \"\"", answers), (false, true));
    }

    #[test]
    fn a_host_is_a_name_space_of_its_own() {
        let line = "staging .* .* .*";
        for topic in ["$queue/staging%3Aq", "$exchange/staging%3Ax/k", "$vhost/staging/a/b"] {
            assert_eq!(allowed(line, topic), (true, true), "{topic}");
        }
        for topic in
            ["$queue/q", "$exchange/x/k", "a/b", "$vhost/other/a", "$vhost", "$vhost/staging"]
        {
            assert_eq!(allowed(line, topic), (false, false), "{topic}");
        }
        assert_eq!(allowed("/ .* .* .*", "$vhost/staging/a"), (false, false));
        assert_eq!(allowed("a/b .* .* .*", "$vhost/a%2Fb/t"), (true, true));
    }

    #[test]
    fn a_filter_is_reached_as_far_as_is_known() {
        let all = permission("/ \"\" \"\" .*");
        let some = permission("/ \"\" \"\" ^orders");
        let cases = [
            ("#", Reach::All, Reach::Nothing),
            ("site/#", Reach::All, Reach::Nothing),
            ("$queue/orders.eu/#", Reach::All, Reach::All),
            ("$queue/other/#", Reach::All, Reach::Nothing),
            ("$queue/#", Reach::Some, Reach::Some),
            ("$exchange/orders/#", Reach::All, Reach::All),
            ("$vhost/+/a", Reach::Some, Reach::Some),
            ("$vhost/x/#", Reach::Nothing, Reach::Nothing),
            ("$SYS/#", Reach::Nothing, Reach::Nothing),
        ];
        for (filter, of_all, of_some) in cases {
            let reach = |permission: &Permission| permission.reach(Action::Receive, filter);
            assert_eq!((reach(&all), reach(&some)), (of_all, of_some), "{filter}");
        }
    }

    #[test]
    fn who_writes_an_exchange_publishes_all_that_comes_by_it() {
        let line = permission("/ \"\" ^(amq\\.default|x)$ \"\"");
        let cases = [
            ("$exchange/x/#", Reach::All),
            ("$exchange/y/#", Reach::Nothing),
            ("$queue/#", Reach::All),
            ("$exchange/#", Reach::Some),
            ("#", Reach::Nothing),
        ];
        for (filter, expected) in cases {
            assert_eq!(line.reach(Action::Publish, filter), expected, "{filter}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        for (line, expected) in [
            ("/", "has 1 fields"),
            ("/ a b", "has 3 fields"),
            ("/ a b c d", "has 5 fields"),
            ("/ \"a b c", "quotes do not end it"),
            ("/ \"a\"b c d", "quotes do not end it"),
            ("/ ( b c", "'(' is no regular expression"),
            ("/ ^(?!amq) b c", "look-around"),
            ("* a b c", "no '*'"),
        ] {
            let error = Permission::parse(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
        let quoted = permission("\"my host\" \"a b\" \"\" c");
        assert_eq!(
            (&*quoted.host.name(), quoted.allows(Right::Configure, b"a b")),
            ("my host", true)
        );
        assert!(!quoted.allows(Right::Write, b"") && !quoted.allows(Right::Write, b"a"));
    }
}
