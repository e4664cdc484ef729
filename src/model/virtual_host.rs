//! Virtual hosts, and the names in them: which level of an address a queue or an exchange is that AMQP names.
//!
//! AMQP takes any UTF-8 for a name, and the same name in each virtual host. In an address a name is one level:
//!
//! ```text
//! level := [host "%3A"] name      the host '/' is left out
//! ```
//!
//! In both, `/`, `+`, `#` and NUL are written `%2F`, `%2B`, `%23` and `%00`. A `%` is written `%25` where it would be read as the beginning of one
//! of these or of the `%3A` between, any number of `25` behind it; every other `%` is itself. So a name that needs nothing of this is its
//! own level, and each level that is valid is one name in one host, which is undone exactly (ADR 0056).

use std::borrow::Cow;

use bytes::Bytes;

use super::address::{DEAD_LETTERS, NAME_BYTES_MAX};
use super::{AddressError, QueueName, Topic};

/// The name of the virtual host that is always there, and the only one that other protocols know of.
pub const DEFAULT_NAME: &str = "/";
/// First level of the topics of all other virtual hosts.
pub const TOPICS: &str = "$vhost";

/// What no level may contain, and its code.
const ESCAPED: [(u8, &[u8; 2]); 4] = [(0, b"00"), (b'#', b"23"), (b'+', b"2B"), (b'/', b"2F")];
/// The code of what is between host and name.
const SEPARATOR: &[u8; 2] = b"3A";

/// A name space of queues, exchanges and topics.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualHost {
    /// Its name as a level; empty for the default one.
    level: Bytes,
}

impl VirtualHost {
    /// `/`.
    pub const DEFAULT: VirtualHost = VirtualHost { level: Bytes::new() };

    /// Checks a name: 1 to 255 bytes of UTF-8. A `*` would be a wildcard in patterns of its topics.
    pub fn new(name: &[u8]) -> Result<VirtualHost, AddressError> {
        let is_long = name.is_empty() || name.len() > NAME_BYTES_MAX;
        if is_long || name.contains(&b'*') || std::str::from_utf8(name).is_err() {
            return Err(AddressError::VirtualHost);
        }
        if name == DEFAULT_NAME.as_bytes() {
            return Ok(VirtualHost::default());
        }
        Ok(VirtualHost { level: escaped(Vec::new(), name) })
    }

    /// The host of a level, as far as it says one, and the name in it.
    pub fn of_level(level: &[u8]) -> (VirtualHost, Cow<'_, [u8]>) {
        if !level.contains(&b'%') {
            return (VirtualHost::default(), Cow::Borrowed(level));
        }
        match split(level) {
            Some((host, name)) => {
                (VirtualHost { level: Bytes::copy_from_slice(host) }, unescaped(name))
            }
            None => (VirtualHost::default(), unescaped(level)),
        }
    }

    /// The part of a level that names what is in the host, as it is written there.
    pub(super) fn name_in_level(level: &[u8]) -> &[u8] {
        split(level).map_or(level, |(_, name)| name)
    }

    /// Its name.
    pub fn name(&self) -> Cow<'_, str> {
        match self.is_default() {
            true => Cow::Borrowed(DEFAULT_NAME),
            false => text(unescaped(&self.level)),
        }
    }

    /// Returns true for `/`.
    pub fn is_default(&self) -> bool {
        self.level.is_empty()
    }

    /// The queue of a name. `$dlq/<name>` is the one for the dead letters of another.
    pub fn queue(&self, name: &Bytes) -> Result<QueueName, AddressError> {
        match name.strip_prefix(DEAD_LETTERS.as_bytes()) {
            Some(of) => Ok(QueueName::new(self.level_of(&name.slice_ref(of)))?.dead_letters()),
            None => QueueName::new(self.level_of(name)),
        }
    }

    /// A consumer group of a name, which is of no host.
    pub fn group(name: &Bytes) -> Result<QueueName, AddressError> {
        QueueName::new(VirtualHost::default().level_of(name))
    }

    /// The level that stands for an exchange; the default exchange has an empty name.
    pub fn exchange(&self, name: &Bytes) -> Result<Bytes, AddressError> {
        if name.len() > NAME_BYTES_MAX {
            return Err(AddressError::Name);
        }
        std::str::from_utf8(name).map_err(|_| AddressError::NotUtf8)?;
        Ok(self.level_of(name))
    }

    /// What is before each of its topics: nothing, or `$vhost/<host>/`.
    pub fn topic_prefix(&self) -> Bytes {
        match self.is_default() {
            true => Bytes::new(),
            false => [TOPICS.as_bytes(), b"/", &self.level[..], b"/"].concat().into(),
        }
    }

    /// The host whose topics are below a level of `$vhost`; `None` where there is nothing below, or nobody's.
    pub fn of_topics(rest: &[u8]) -> Option<VirtualHost> {
        let end = rest.iter().position(|byte| *byte == b'/')?;
        let host = VirtualHost::new(&unescaped(&rest[..end])).ok()?;
        (host.level == rest[..end]).then_some(host)
    }

    /// The topic of this host that others call so.
    pub fn topic(&self, name: Bytes) -> Result<Topic, AddressError> {
        let topic = Topic::new(name)?;
        match self.is_default() {
            true if !self.has_topic(topic.as_bytes()) => {
                Err(AddressError::Reserved { name: TOPICS.to_owned() })
            }
            true => Ok(topic),
            false => Topic::new([&self.topic_prefix()[..], topic.as_bytes()].concat().into()),
        }
    }

    /// Tells whether a topic or filter is of this host: in the default one all are that do not begin as those of others do.
    pub fn has_topic(&self, topic: &[u8]) -> bool {
        match self.is_default() {
            true => topic.split(|byte| *byte == b'/').next() != Some(TOPICS.as_bytes()),
            false => topic.starts_with(&self.topic_prefix()),
        }
    }

    fn level_of(&self, name: &Bytes) -> Bytes {
        match self.is_default() {
            true if !is_unusual(name) => name.clone(),
            true => escaped(Vec::new(), name),
            false => escaped([&self.level[..], b"%", SEPARATOR].concat(), name),
        }
    }
}

/// Checks that a level is one name in one host.
pub(super) fn check_level(level: &[u8]) -> Result<(), AddressError> {
    let (host, name) = match split(level) {
        Some((host, name)) => {
            let name_of_host = unescaped(host);
            // Which is written without.
            if *name_of_host == *DEFAULT_NAME.as_bytes() || split(name).is_some() {
                return Err(AddressError::Name);
            }
            VirtualHost::new(&name_of_host)?;
            (host, name)
        }
        None => (&b""[..], level),
    };
    let name = unescaped(name);
    let is_long = name.is_empty() || name.len() > NAME_BYTES_MAX;
    // The queue for dead letters has another address.
    if is_long || name.starts_with(DEAD_LETTERS.as_bytes()) || host.len() > 3 * NAME_BYTES_MAX {
        return Err(AddressError::Name);
    }
    Ok(())
}

/// The name of a level in its host, as it is written there: what the broker's own exchanges are told by.
pub fn local_part(level: &[u8]) -> &[u8] {
    split(level).map_or(level, |(_, name)| name)
}

fn split(level: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_separator = |at: &usize| code_at(&level[*at..]) == Some((0, *SEPARATOR));
    let at = (0..level.len()).filter(|at| level[*at] == b'%').find(is_separator)?;
    Some((&level[..at], &level[at + 3..]))
}

/// Reads a `%`, any number of `25` and one of the codes: how many `25` there are, and the code.
fn code_at(bytes: &[u8]) -> Option<(usize, [u8; 2])> {
    let mut rest = bytes.strip_prefix(b"%")?;
    let mut count = 0;
    while let Some(behind) = rest.strip_prefix(b"25") {
        (rest, count) = (behind, count + 1);
    }
    let code: [u8; 2] = *rest.first_chunk()?;
    let is_known = code == *SEPARATOR || ESCAPED.iter().any(|(_, known)| **known == code);
    is_known.then_some((count, code))
}

/// Returns true for a name that may not be its own level.
fn is_unusual(name: &[u8]) -> bool {
    name.iter().any(|byte| matches!(byte, b'%' | b'/' | b'+' | b'#' | 0))
}

fn escaped(mut out: Vec<u8>, name: &[u8]) -> Bytes {
    for (at, byte) in name.iter().enumerate() {
        let code = ESCAPED.iter().find(|(known, _)| known == byte).map(|(_, code)| *code);
        match code {
            Some(code) => out.extend([b'%', code[0], code[1]]),
            None if *byte == b'%' && code_at(&name[at..]).is_some() => out.extend(b"%25"),
            None => out.push(*byte),
        }
    }
    out.into()
}

fn unescaped(level: &[u8]) -> Cow<'_, [u8]> {
    if !level.contains(&b'%') {
        return Cow::Borrowed(level);
    }
    let (mut out, mut rest) = (Vec::with_capacity(level.len()), level);
    while let Some((first, behind)) = rest.split_first() {
        let (byte, left) = match code_at(rest) {
            Some((0, code)) => match ESCAPED.iter().find(|(_, known)| **known == code) {
                Some((byte, _)) => (*byte, &rest[3..]),
                None => (*first, behind),
            },
            Some(_) => (b'%', &rest[3..]),
            None => (*first, behind),
        };
        out.push(byte);
        rest = left;
    }
    Cow::Owned(out)
}

impl std::fmt::Display for VirtualHost {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.name())
    }
}

/// Names are checked when they enter, and an escape changes nothing but ASCII.
pub(super) fn text(name: Cow<'_, [u8]>) -> Cow<'_, str> {
    const CHECKED: &str = "names are checked when they enter";
    match name {
        Cow::Borrowed(name) => Cow::Borrowed(std::str::from_utf8(name).expect(CHECKED)),
        Cow::Owned(name) => Cow::Owned(String::from_utf8(name).expect(CHECKED)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(name: &str) -> VirtualHost {
        VirtualHost::new(name.as_bytes()).unwrap()
    }

    fn queue(host_name: &str, name: &str) -> Result<QueueName, AddressError> {
        host(host_name).queue(&Bytes::copy_from_slice(name.as_bytes()))
    }

    fn level(host_name: &str, name: &str) -> String {
        queue(host_name, name).unwrap().as_str().to_owned()
    }

    #[test]
    fn a_name_is_its_own_level_unless_it_cannot_be() {
        let cases = [
            ("orders", "orders"),
            ("celery@host.celery.pidbox", "celery@host.celery.pidbox"),
            ("a/b", "a%2Fb"),
            ("a+b#", "a%2Bb%23"),
            ("\0", "%00"),
            ("100%", "100%"),
            ("50%25", "50%25"),
            ("%2f", "%2f"),
            ("%2F", "%252F"),
            ("%252F", "%25252F"),
            ("%%2B", "%%252B"),
            ("%2/", "%2%2F"),
            ("a%3Ab", "a%253Ab"),
            ("ü/ö", "ü%2Fö"),
            ("$dlq/a/b", "$dlq/a%2Fb"),
        ];
        for (name, expected) in cases {
            assert_eq!(level("/", name), expected, "{name:?}");
        }
        assert_eq!(level("staging", "a/b"), "staging%3Aa%2Fb");
        assert_eq!(level("a/b", "$dlq/c"), "$dlq/a%2Fb%3Ac");
        assert_eq!(host("staging").exchange(&Bytes::new()).unwrap(), "staging%3A");
        assert_eq!(host("/").exchange(&Bytes::from("a/b")).unwrap(), "a%2Fb");
        assert_eq!(host("/").exchange(&Bytes::new()).unwrap(), "");
    }

    #[test]
    fn topics_of_other_hosts_are_below_a_name_of_their_own() {
        let staging = host("a/b");
        assert_eq!(staging.topic_prefix(), "$vhost/a%2Fb/");
        assert!(staging.has_topic(b"$vhost/a%2Fb/t") && !staging.has_topic(b"t"));
        assert!(!staging.has_topic(b"$vhost/a/t"));
        let default = VirtualHost::default();
        assert!(default.has_topic(b"t") && default.has_topic(b"$vhosts/a"));
        assert!(!default.has_topic(b"$vhost/a%2Fb/t") && !default.has_topic(b"$vhost"));
        let topic = |host: &VirtualHost, name| host.topic(Bytes::from(name));
        assert_eq!(topic(&staging, "$SYS/t").unwrap().as_str(), "$vhost/a%2Fb/$SYS/t");
        assert_eq!(topic(&default, "t").unwrap().as_str(), "t");
        assert!(topic(&default, "$vhost/x/t").is_err() && topic(&staging, "").is_err());
        assert_eq!(VirtualHost::of_topics(b"a%2Fb/t"), Some(staging));
        for nobody in ["", "a", "%2F/t", "*/t", "a%3Ab/t"] {
            assert_eq!(VirtualHost::of_topics(nobody.as_bytes()), None, "{nobody:?}");
        }
    }

    #[test]
    fn what_is_no_name_of_one_host_is_no_level() {
        for bad in ["", "%3Aq", "a%3A", "%2F%3Aq", "a%3Ab%3Ac", "*%3Aq", "$dlq%2Fq", "a%3A$dlq%2Fq"]
        {
            let refused = QueueName::new(Bytes::from(bad));
            assert!(refused.is_err(), "{bad}");
        }
        let long = "/".repeat(255);
        assert_eq!(level("/", &long).len(), 765);
        assert_eq!(queue("/", &"/".repeat(256)), Err(AddressError::Name));
        assert_eq!(VirtualHost::new(b"*"), Err(AddressError::VirtualHost));
        assert_eq!(VirtualHost::new(b""), Err(AddressError::VirtualHost));
        assert_eq!(VirtualHost::new(b"\xff"), Err(AddressError::VirtualHost));
        let bytes = Bytes::from_static(b"\xff");
        assert_eq!(host("/").queue(&bytes), Err(AddressError::NotUtf8));
        assert_eq!(VirtualHost::group(&Bytes::from("a/b")).unwrap().as_str(), "a%2Fb");
    }

    /// Names out of what escapes are made of.
    fn name() -> impl Strategy<Value = String> {
        let part = prop::sample::select(vec![
            "%", "25", "2", "5", "2F", "2B", "23", "00", "3A", "/", "+", "#", "\0", "a", "ü", ":",
            "%2F", "%25", "%3A",
        ]);
        prop::collection::vec(part, 1..8).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn a_level_is_one_name_in_one_host(host_name in name(), name in name()) {
            for host in [host(&host_name), VirtualHost::default()] {
                let queue = host.queue(&Bytes::from(name.clone())).unwrap();
                prop_assert_eq!((&*queue.name(), queue.virtual_host()), (&name[..], host.clone()));
                let level = queue.as_bytes();
                prop_assert!(!level.iter().any(|byte| matches!(byte, b'/' | b'+' | b'#' | 0)));
                let (found, back) = VirtualHost::of_level(level);
                prop_assert_eq!((&found, &*back), (&host, name.as_bytes()), "{:?}", queue);
                prop_assert_eq!(&*host.name(), if host.is_default() { "/" } else { &host_name });
                prop_assert_eq!(QueueName::new(level.clone()), Ok(queue));
            }
        }

        #[test]
        fn a_name_of_one_host_is_one_level(text in name()) {
            let Ok(queue) = QueueName::new(Bytes::from(text)) else { return Ok(()) };
            let (host, name) = VirtualHost::of_level(queue.as_bytes());
            prop_assert_eq!(host.queue(&name.into_owned().into()), Ok(queue));
        }
    }
}
