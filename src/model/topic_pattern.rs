//! What a binding to the exchange of the topics means: key and topic are one name, with `.` and `/` exchanged (ADR 0054).

use bytes::Bytes;
use fluxmq_index::routing_key;

use super::exchange::is_topics;
use super::{ExchangeBinding, Filter, VirtualHost};

/// The topics that a binding wants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicPattern {
    /// Those that a filter matches.
    Filter(Filter),
    /// Those whose keys match a pattern that no filter can say, with `#` before its end.
    Words(Bytes),
}

impl TopicPattern {
    /// The pattern of a binding to the exchange of the topics; `None` for one to any other.
    pub fn of(binding: &ExchangeBinding) -> Option<TopicPattern> {
        is_topics(&binding.exchange.name).then(|| {
            let (host, _) = VirtualHost::of_level(&binding.exchange.name);
            TopicPattern::of_key(&binding.routing_key).within(&host, &binding.routing_key)
        })
    }

    /// The pattern of a key, of the topics of a virtual host.
    fn within(self, host: &VirtualHost, key: &Bytes) -> TopicPattern {
        if host.is_default() {
            return self;
        }
        let before = host.topic_prefix();
        if let TopicPattern::Filter(filter) = self
            && let Ok(whole) = Filter::new([&before[..], filter.as_bytes()].concat().into())
        {
            return TopicPattern::Filter(whole);
        }
        TopicPattern::Words([&TopicPattern::key_of(&before)[..], key].concat().into())
    }

    /// The pattern that a routing key is.
    pub fn of_key(key: &Bytes) -> TopicPattern {
        let to_filter = || {
            let count = key.split(|byte| *byte == b'.').count();
            let mut filter = Vec::with_capacity(key.len());
            for (number, word) in key.split(|byte| *byte == b'.').enumerate() {
                if number > 0 {
                    filter.push(b'/');
                }
                match word {
                    b"*" => filter.push(b'+'),
                    b"#" if number + 1 == count => filter.push(b'#'),
                    word if word.iter().any(|byte| matches!(byte, b'+' | b'#')) => return None,
                    word => filter.extend(exchanged(word)),
                }
            }
            Filter::new(filter.into()).ok()
        };
        to_filter().map_or_else(|| TopicPattern::Words(key.clone()), TopicPattern::Filter)
    }

    /// The key of a topic, and the topic of a key.
    pub fn key_of(topic: &[u8]) -> Bytes {
        exchanged(topic).collect()
    }

    /// Tells whether words match the key of a topic. What begins with `$` is not matched by a first wildcard [MQTT-4.7.2-1].
    pub fn matches(words: &[u8], key: &[u8]) -> bool {
        let first = words.split(|byte| *byte == b'.').next();
        let is_hidden = key.starts_with(b"$") && matches!(first, Some(b"*" | b"#"));
        !is_hidden && routing_key::matches(words, key)
    }
}

fn exchanged(name: &[u8]) -> impl Iterator<Item = u8> {
    name.iter().map(|byte| match byte {
        b'.' => b'/',
        b'/' => b'.',
        other => *other,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{ExchangeId, ExchangeKind};

    fn pattern(key: &str) -> TopicPattern {
        TopicPattern::of_key(&Bytes::from(key.to_owned()))
    }

    fn is_matched(key: &str, topic: &str) -> bool {
        match pattern(key) {
            TopicPattern::Filter(filter) => {
                fluxmq_index::matches(filter.as_bytes(), topic.as_bytes())
            }
            TopicPattern::Words(words) => {
                TopicPattern::matches(&words, &TopicPattern::key_of(topic.as_bytes()))
            }
        }
    }

    #[test]
    fn what_a_filter_can_say_is_one() {
        let filter = |text: &'static str| {
            TopicPattern::Filter(Filter::new(Bytes::from_static(text.as_bytes())).unwrap())
        };
        let cases =
            [("a.*.c", "a/+/c"), ("a.#", "a/#"), ("#", "#"), ("a/b.c", "a.b/c"), ("a*", "a*")];
        for (key, expected) in cases {
            assert_eq!(pattern(key), filter(expected), "{key}");
        }
        for key in ["#.a", "a.#.b", "a.+", "a#", "", "#.#"] {
            assert_eq!(pattern(key), TopicPattern::Words(Bytes::from(key)), "{key:?}");
        }
    }

    #[test]
    fn a_literal_plus_is_no_wildcard_and_a_dollar_hides() {
        assert!(!is_matched("+", "a") && !is_matched("a.+", "a/b"));
        for key in ["#", "*", "#.b", "*.#.b"] {
            assert!(!is_matched(key, "$x/b") && !is_matched(key, "$x"), "{key}");
        }
        assert!(is_matched("$x.#.b", "$x/b") && is_matched("$x.#", "$x"));
    }

    #[test]
    fn each_host_has_topics_of_its_own() {
        let pattern = |host: &str, key: &'static str| {
            let host = VirtualHost::new(host.as_bytes()).unwrap();
            let name = host.exchange(&Bytes::from("amq.topic")).unwrap();
            let exchange = ExchangeId::predeclared(&name).unwrap();
            let binding = ExchangeBinding::new(exchange, ExchangeKind::Topic, key.as_bytes(), b"");
            TopicPattern::of(&binding).unwrap()
        };
        let filter =
            |text: &'static str| TopicPattern::Filter(Filter::new(Bytes::from(text)).unwrap());
        assert_eq!(pattern("/", "a.*"), filter("a/+"));
        assert_eq!(pattern("staging", "a.*"), filter("$vhost/staging/a/+"));
        assert_eq!(pattern("a/b.c", "#"), filter("$vhost/a%2Fb.c/#"));

        let words = pattern("a/b.c", "#.x");
        let TopicPattern::Words(words) = words else { panic!("{words:?}") };
        let is_matched = |topic: &[u8]| TopicPattern::matches(&words, &TopicPattern::key_of(topic));
        assert!(is_matched(b"$vhost/a%2Fb.c/y/x") && is_matched(b"$vhost/a%2Fb.c/x"));
        assert!(!is_matched(b"$vhost/a/y/x") && !is_matched(b"y/x"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_topic_is_wanted_when_its_key_matches(key in "[ab*#./]{0,8}", topic in "[ab./]{1,8}") {
            let defined = routing_key::matches(key.as_bytes(), &TopicPattern::key_of(topic.as_bytes()));
            prop_assert_eq!(is_matched(&key, &topic), defined, "{:?}", pattern(&key));
        }
    }
}
