//! The exchanges and what is bound to them, as a table that finds the queues of a publish (ADR 0054).
//!
//! Pure: filled by what partitions say, in any order. A binding is kept by the life of its exchange, so one that comes before its exchange
//! waits for it, and one to an exchange that is gone is found by nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use fluxmq_index::{HeaderMatch, Headers, WordTrie};

use crate::model::exchange::{fields, is_same_value};
use crate::model::{
    ExchangeBinding, ExchangeId, ExchangeKind, ExchangeSettings, PartitionId, QueueName,
    TopicPattern, exchange,
};
use crate::partition::request::{RoutedTo, Routing};

/// All exchanges and bindings that partitions have said.
#[derive(Debug, Default)]
pub struct RoutingTable {
    exchanges: BTreeMap<Bytes, (ExchangeId, Arc<ExchangeSettings>)>,
    sources: BTreeMap<ExchangeId, Source>,
    /// Exchanges that end with the last binding to them, and have had one.
    used: BTreeSet<ExchangeId>,
}

/// Who gets what an exchange routes: a queue where it lives, or another exchange.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Destination {
    Queue(PartitionId, QueueName),
    Exchange(ExchangeId),
}

/// The bindings to one life of an exchange.
#[derive(Debug)]
struct Source {
    kind: ExchangeKind,
    /// By routing key, and then by arguments.
    by_key: BTreeMap<Bytes, BTreeMap<(Bytes, Destination), Option<HeaderMatch>>>,
    /// Of a topic exchange, the keys that there are.
    patterns: WordTrie<Bytes>,
    /// How many there are.
    count: usize,
}

/// A publish, as exchanges look at it.
#[derive(Clone, Copy, Debug)]
pub struct Routed<'a> {
    /// Where it begins.
    pub exchange: &'a Bytes,
    /// What it is routed by.
    pub routing_key: &'a [u8],
    /// What else it is routed by: who any of them leads to gets it, once.
    pub more_keys: &'a [Bytes],
    /// A table as AMQP 0.9.1 encodes it, without its length.
    pub headers: &'a [u8],
}

/// Who gets a publish.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// What the exchange is that it was published to, if there is one.
    pub entry: Option<Arc<ExchangeSettings>>,
    /// Queues by where they live, each once.
    pub homes: Vec<(PartitionId, Arc<[QueueName]>)>,
    /// It is published to the topic that its key is, too.
    pub to_topic: bool,
    /// Headers were looked at: another publish with this key may go elsewhere.
    pub by_headers: bool,
}

impl RoutingTable {
    /// Takes what a partition says. Saying it twice changes nothing; true when something changed.
    pub fn change(&mut self, partition: PartitionId, routing: &Routing) -> bool {
        match routing {
            Routing::Exchange(id, Some(settings)) => {
                let known = (id.clone(), settings.clone());
                self.exchanges.insert(id.name.clone(), known.clone()).as_ref() != Some(&known)
            }
            Routing::Exchange(id, None) => {
                self.used.remove(id);
                let is_this = self.exchanges.get(&id.name).is_some_and(|(known, _)| known == id);
                is_this && self.exchanges.remove(&id.name).is_some()
            }
            Routing::Binding { binding, to, is_bound } => {
                let to = match to {
                    RoutedTo::Queue(name) => Destination::Queue(partition, name.clone()),
                    RoutedTo::Exchange(id) => Destination::Exchange(id.clone()),
                };
                match is_bound {
                    true => self.bind(binding, to),
                    false => self.unbind(binding, to),
                }
            }
            Routing::Topics(..) => false,
        }
    }

    fn bind(&mut self, binding: &ExchangeBinding, to: Destination) -> bool {
        let source = self.sources.entry(binding.exchange.clone());
        let source = source.or_insert_with(|| Source::new(binding.kind));
        let is_new = source.insert(binding, to);
        self.used.insert(binding.exchange.clone());
        is_new
    }

    fn unbind(&mut self, binding: &ExchangeBinding, to: Destination) -> bool {
        let Some(source) = self.sources.get_mut(&binding.exchange) else { return false };
        let was_there = source.remove(binding, to);
        if source.by_key.is_empty() {
            self.sources.remove(&binding.exchange);
        }
        was_there
    }

    /// An exchange of a name: its life, and what it is. The broker's own are there without being said.
    pub fn get(&self, name: &Bytes) -> Option<(ExchangeId, Arc<ExchangeSettings>)> {
        match ExchangeSettings::predeclared(name) {
            Some(settings) => Some((ExchangeId::predeclared(name)?, Arc::new(settings))),
            None => self.exchanges.get(name).cloned(),
        }
    }

    /// Lists the exchanges whose names are above one, by name: the broker's own among them, but for the default one.
    pub fn list(&self, after: &Bytes) -> impl Iterator<Item = (ExchangeId, Arc<ExchangeSettings>)> {
        let own =
            ExchangeSettings::predeclared_names().map(|name| Bytes::from_static(name.as_bytes()));
        let own: BTreeSet<Bytes> = own.filter(|name| name > after).collect();
        let declared = self.exchanges.range(after.clone()..).map(|(name, _)| name.clone());
        let mut declared = declared.filter(|name| name > after).peekable();
        let mut own = own.into_iter().peekable();
        let names = std::iter::from_fn(move || match (own.peek(), declared.peek()) {
            (Some(one), Some(other)) if other < one => declared.next(),
            (Some(_), _) => own.next(),
            (None, _) => declared.next(),
        });
        names.filter_map(|name| self.get(&name))
    }

    /// How many bindings there are to an exchange; those of queues to the topics are not known here.
    pub fn binding_count(&self, exchange: &ExchangeId) -> usize {
        self.sources.get(exchange).map_or(0, |source| source.count)
    }

    /// Returns true when something is bound to an exchange.
    pub fn has_bindings(&self, exchange: &ExchangeId) -> bool {
        self.sources.contains_key(exchange)
    }

    /// Returns true when an exchange is bound to the one of the topics of some virtual host.
    pub fn forwards_topics(&self) -> bool {
        self.sources.keys().any(|id| exchange::is_topics(&id.name))
    }

    /// Lists the exchanges that end with the last binding to them, and have none any more.
    pub fn unused(&self) -> Vec<ExchangeId> {
        let ended = self.used.iter().filter(|id| !self.has_bindings(id));
        let ends = |id: &&ExchangeId| {
            let known = self.exchanges.get(&id.name).filter(|(known, _)| known == *id);
            known.is_some_and(|(_, settings)| settings.auto_delete)
        };
        ended.filter(ends).cloned().collect()
    }

    /// Finds who gets a publish: the queues of its exchange, of the exchanges that are bound to that, and so on, each once. One that routes to
    /// nobody hands over to its alternate exchange.
    pub fn route(&self, publish: Routed<'_>) -> Routes {
        let headers: Headers<'_> = fields(publish.headers).collect();
        let entry = self.get(publish.exchange).map(|(_, settings)| settings);
        let mut routes = Routes { entry, ..Routes::default() };
        let mut queues: BTreeMap<PartitionId, BTreeSet<QueueName>> = BTreeMap::new();
        let mut seen: BTreeSet<Bytes> = BTreeSet::new();
        let mut next = vec![publish.exchange.clone()];
        while let Some(name) = next.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            // Its queues are found with the topic; exchanges are bound to it as to any other.
            let is_topics = exchange::is_topics(&name);
            routes.to_topic |= is_topics;
            let Some((id, settings)) = self.get(&name) else { continue };
            routes.by_headers |= settings.kind == ExchangeKind::Headers;
            let mut is_routed = false;
            if let Some(source) = self.sources.get(&id) {
                let mut found = |to: &Destination| match to {
                    Destination::Queue(home, queue) => {
                        is_routed = true;
                        queues.entry(*home).or_default().insert(queue.clone());
                    }
                    Destination::Exchange(to) if self.is_there(to) => {
                        is_routed = true;
                        next.push(to.name.clone());
                    }
                    Destination::Exchange(_) => {}
                };
                source.find(publish.routing_key, &headers, is_topics, &mut found);
                for key in publish.more_keys {
                    source.find(key, &headers, is_topics, &mut found);
                }
            }
            next.extend(settings.alternate.clone().filter(|_| !is_routed));
        }
        let home = |(home, queues): (PartitionId, BTreeSet<QueueName>)| {
            (home, queues.into_iter().collect())
        };
        routes.homes = queues.into_iter().map(home).collect();
        routes
    }

    /// Returns true while an exchange has not ended.
    pub fn is_there(&self, exchange: &ExchangeId) -> bool {
        self.get(&exchange.name).is_some_and(|(known, _)| known == *exchange)
    }
}

impl Source {
    fn new(kind: ExchangeKind) -> Source {
        Source { kind, by_key: BTreeMap::new(), patterns: WordTrie::default(), count: 0 }
    }

    fn insert(&mut self, binding: &ExchangeBinding, to: Destination) -> bool {
        let key = &binding.routing_key;
        if self.kind == ExchangeKind::Topic && !self.by_key.contains_key(key) {
            self.patterns.insert(key, key.clone());
        }
        // One that makes no sense was refused; of a record that does not, nobody gets anything.
        let wanted = match self.kind {
            ExchangeKind::Headers => binding.header_match(),
            ExchangeKind::Direct | ExchangeKind::Fanout | ExchangeKind::Topic => None,
        };
        let here = self.by_key.entry(key.clone()).or_default();
        let is_new = here.insert((binding.arguments.clone(), to), wanted).is_none();
        self.count += usize::from(is_new);
        is_new
    }

    fn remove(&mut self, binding: &ExchangeBinding, to: Destination) -> bool {
        let key = &binding.routing_key;
        let Some(here) = self.by_key.get_mut(key) else { return false };
        let was_there = here.remove(&(binding.arguments.clone(), to)).is_some();
        self.count -= usize::from(was_there);
        if here.is_empty() {
            self.by_key.remove(key);
            self.patterns.remove(key, key);
        }
        was_there
    }

    fn find<'a>(
        &'a self,
        key: &[u8],
        headers: &Headers<'_>,
        is_topics: bool,
        mut found: impl FnMut(&'a Destination),
    ) {
        let is_hidden = |pattern: &[u8]| is_topics && !TopicPattern::matches(pattern, key);
        let mut under = |key: &[u8]| {
            let here = self.by_key.get(key).into_iter().flat_map(BTreeMap::keys);
            here.for_each(|(_, to)| found(to));
        };
        match self.kind {
            ExchangeKind::Direct => under(key),
            ExchangeKind::Topic => self.patterns.for_each_match(key, |pattern| {
                if !is_hidden(pattern) {
                    under(pattern);
                }
            }),
            ExchangeKind::Fanout => {
                self.by_key.values().flat_map(BTreeMap::keys).for_each(|(_, to)| found(to));
            }
            ExchangeKind::Headers => {
                for ((_, to), wanted) in self.by_key.values().flatten() {
                    if wanted.as_ref().is_some_and(|wanted| wanted.matches(headers, is_same_value))
                    {
                        found(to);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use fluxmq_index::{Offset, routing_key};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// What is said in a test: exchanges by number, in one of two lives, queues by number.
    #[derive(Clone, Debug)]
    enum Said {
        Declared { exchange: usize, life: u64, alternate: Option<usize>, auto_delete: bool },
        Deleted { exchange: usize, life: u64 },
        Bound { from: (usize, u64), to: Result<usize, (usize, u64)>, key: usize, is_bound: bool },
    }

    const NAMES: [&str; 5] = ["direct", "fanout", "topic", "headers", "more"];
    const KINDS: [ExchangeKind; 5] = [
        ExchangeKind::Direct,
        ExchangeKind::Fanout,
        ExchangeKind::Topic,
        ExchangeKind::Headers,
        ExchangeKind::Topic,
    ];
    /// Routing keys of bindings; the last two differ in their arguments only.
    const KEYS: [(&str, &[u8]); 7] = [
        ("", b""),
        ("a", b"\x01ht\x01"),
        ("a.b", b"\x01ht\x02"),
        ("*.b", b"\x01ht\x01\x01it\x01"),
        ("a.#", b"\x01hV"),
        ("#.b", b""),
        ("#.b", b"\x01hV"),
    ];

    fn id((exchange, life): (usize, u64)) -> ExchangeId {
        ExchangeId { name: Bytes::from(NAMES[exchange]), declared: Offset(life) }
    }

    fn queue(number: usize) -> QueueName {
        QueueName::new(Bytes::from(format!("q{number}"))).unwrap()
    }

    fn binding(from: (usize, u64), key: usize) -> ExchangeBinding {
        let (text, arguments) = KEYS[key];
        ExchangeBinding::new(id(from), KINDS[from.0], text.as_bytes(), arguments)
    }

    fn settings(exchange: usize, alternate: Option<usize>, auto_delete: bool) -> ExchangeSettings {
        ExchangeSettings {
            kind: KINDS[exchange],
            durable: true,
            auto_delete,
            internal: false,
            alternate: alternate.map(|it| Bytes::from(NAMES[it])),
            arguments: Bytes::new(),
        }
    }

    /// The home of a queue, and what a partition says.
    fn to_routing(said: &Said) -> (PartitionId, Routing) {
        let meta = PartitionId::META;
        match said {
            Said::Declared { exchange, life, alternate, auto_delete } => {
                let settings = settings(*exchange, *alternate, *auto_delete);
                (meta, Routing::Exchange(id((*exchange, *life)), Some(settings.into())))
            }
            Said::Deleted { exchange, life } => {
                (meta, Routing::Exchange(id((*exchange, *life)), None))
            }
            Said::Bound { from, to, key, is_bound } => {
                let (home, to) = match to {
                    Ok(number) => {
                        (PartitionId(1 + *number as u16 % 2), RoutedTo::Queue(queue(*number)))
                    }
                    Err(exchange) => (meta, RoutedTo::Exchange(id(*exchange))),
                };
                let binding = binding(*from, *key);
                (home, Routing::Binding { binding, to, is_bound: *is_bound })
            }
        }
    }

    /// An exchange by number, and which life of it.
    type Life = (usize, u64);

    /// The definition: lists that are looked through, and a set of exchanges that grows until it does not.
    #[derive(Default)]
    struct Plain {
        exchanges: Vec<(usize, u64, Option<usize>, bool)>,
        bindings: Vec<(Life, Result<usize, Life>, usize)>,
        had_one: Vec<(usize, u64)>,
    }

    impl Plain {
        fn take(&mut self, said: &Said) {
            match said.clone() {
                Said::Declared { exchange, life, alternate, auto_delete } => {
                    self.exchanges.retain(|(known, ..)| *known != exchange);
                    self.exchanges.push((exchange, life, alternate, auto_delete));
                }
                Said::Deleted { exchange, life } => {
                    self.exchanges.retain(|it| (it.0, it.1) != (exchange, life));
                    self.had_one.retain(|it| *it != (exchange, life));
                }
                Said::Bound { from, to, key, is_bound } => {
                    self.bindings.retain(|it| *it != (from, to, key));
                    if is_bound {
                        self.bindings.push((from, to, key));
                        self.had_one.push(from);
                    }
                }
            }
        }

        fn is_there(&self, exchange: (usize, u64)) -> bool {
            self.exchanges.iter().any(|it| (it.0, it.1) == exchange)
        }

        /// Where one exchange routes.
        fn matching(
            &self,
            from: (usize, u64),
            key: &str,
            headers: &[u8],
        ) -> Vec<Result<usize, usize>> {
            let is_match = |number: usize| match KINDS[from.0] {
                ExchangeKind::Direct => KEYS[number].0 == key,
                ExchangeKind::Fanout => true,
                ExchangeKind::Topic => {
                    routing_key::matches(KEYS[number].0.as_bytes(), key.as_bytes())
                }
                ExchangeKind::Headers => {
                    let found: Vec<_> = fields(headers).collect();
                    fields(KEYS[number].1).all(|(name, value)| {
                        let said = found.iter().find(|(other, _)| *other == name);
                        said.is_some_and(|(_, said)| value == b"V" || value == *said)
                    })
                }
            };
            let its =
                self.bindings.iter().filter(|(of, _, number)| *of == from && is_match(*number));
            let there =
                its.filter(|(_, to, _)| to.is_ok() || to.is_err_and(|to| self.is_there(to)));
            there.map(|(_, to, _)| to.map_err(|(exchange, _)| exchange)).collect()
        }

        fn route(&self, first: usize, keys: &[&str], headers: &[u8]) -> BTreeSet<usize> {
            let (mut reached, mut queues) = (BTreeSet::from([first]), BTreeSet::new());
            loop {
                let before = reached.len();
                for exchange in reached.clone() {
                    let known = self.exchanges.iter().find(|it| it.0 == exchange);
                    let Some((_, life, alternate, _)) = known else { continue };
                    let of = |key: &&str| self.matching((exchange, *life), key, headers);
                    let found: Vec<_> = keys.iter().flat_map(of).collect();
                    reached.extend(alternate.filter(|_| found.is_empty()));
                    reached.extend(found.iter().filter_map(|to| to.err()));
                    queues.extend(found.iter().filter_map(|to| to.ok()));
                }
                if reached.len() == before {
                    return queues;
                }
            }
        }

        fn unused(&self) -> BTreeSet<ExchangeId> {
            let ends = self.exchanges.iter().filter(|(.., auto_delete)| *auto_delete);
            let ids = ends.map(|it| (it.0, it.1)).filter(|it| self.had_one.contains(it));
            let unbound = ids.filter(|it| self.bindings.iter().all(|(from, ..)| from != it));
            unbound.map(id).collect()
        }
    }

    fn said() -> impl Strategy<Value = Said> {
        let life = || (0usize..5, 1u64..3);
        let to = prop_oneof![(0usize..6).prop_map(Ok), life().prop_map(Err)];
        prop_oneof![
            2 => (life(), proptest::option::of(0usize..5), any::<bool>()).prop_map(
                |((exchange, life), alternate, auto_delete)| Said::Declared {
                    exchange, life, alternate, auto_delete
                }
            ),
            1 => life().prop_map(|(exchange, life)| Said::Deleted { exchange, life }),
            6 => (life(), to, 0usize..7, prop::bool::weighted(0.75)).prop_map(
                |(from, to, key, is_bound)| Said::Bound { from, to, key, is_bound }
            ),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]

        #[test]
        fn the_table_finds_what_looking_through_lists_finds(
            all in vec(said(), 0..60),
            publishes in vec((0usize..5, "(a|b|a\\.b|c\\.b|)", 0usize..7), 1..6),
            more in vec("(a|b|a\\.b)", 0..3),
        ) {
            let more_keys: Vec<&str> = more.iter().map(String::as_str).collect();
            let more: Vec<Bytes> = more.iter().map(|key| Bytes::from(key.clone())).collect();
            let (mut table, mut plain) = (RoutingTable::default(), Plain::default());
            for said in &all {
                let (from, routing) = to_routing(said);
                table.change(from, &routing);
                prop_assert!(!table.change(from, &routing), "saying it twice changes nothing");
                plain.take(said);
            }
            for (exchange, key, headers) in publishes {
                let (name, headers) = (Bytes::from(NAMES[exchange]), KEYS[headers].1);
                let publish = Routed {
                    exchange: &name,
                    routing_key: key.as_bytes(),
                    more_keys: &more,
                    headers,
                };
                let found = table.route(publish);
                let mut queues = BTreeSet::new();
                for (home, names) in &found.homes {
                    for name in names.iter() {
                        let number: usize = name.as_str()[1..].parse().unwrap();
                        prop_assert_eq!(*home, PartitionId(1 + number as u16 % 2));
                        prop_assert!(queues.insert(number), "each once");
                    }
                }
                let keys: Vec<&str> = std::iter::once(&*key).chain(more_keys.clone()).collect();
                prop_assert_eq!(queues, plain.route(exchange, &keys, headers), "{} {:?}", exchange, keys);
            }
            prop_assert_eq!(table.unused().into_iter().collect::<BTreeSet<_>>(), plain.unused());
        }
    }

    /// What is published to topics goes on to exchanges that are bound to them, and comes back to them once, however they are bound.
    #[test]
    fn topics_route_on_and_around_once() {
        let mut table = RoutingTable::default();
        let topics = ExchangeId::predeclared(&Bytes::from_static(b"amq.topic")).unwrap();
        let bind = |from: &ExchangeId, kind, key: &str, to| Routing::Binding {
            binding: ExchangeBinding::new(from.clone(), kind, key.as_bytes(), b""),
            to,
            is_bound: true,
        };
        let fanout = id((1, 1));
        let declared = Said::Declared { exchange: 1, life: 1, alternate: None, auto_delete: false };
        let said = [
            to_routing(&declared).1,
            bind(&topics, ExchangeKind::Topic, "#.b", RoutedTo::Exchange(fanout.clone())),
            bind(&fanout, ExchangeKind::Fanout, "", RoutedTo::Exchange(topics.clone())),
            bind(&fanout, ExchangeKind::Fanout, "", RoutedTo::Queue(queue(1))),
        ];
        assert!(!table.forwards_topics());
        for routing in &said {
            assert!(table.change(PartitionId(2), routing));
        }
        assert!(table.forwards_topics());

        let homes = |exchange: &'static str, key: &str| {
            let exchange = Bytes::from_static(exchange.as_bytes());
            let (exchange, more_keys) = (&exchange, &[][..]);
            let routing_key = key.as_bytes();
            let publish = Routed { exchange, routing_key, more_keys, headers: b"" };
            let found = table.route(publish);
            assert!(found.to_topic);
            found.homes
        };
        let one = vec![(PartitionId(2), Arc::from([queue(1)]))];
        assert_eq!(homes("amq.topic", "a.b"), one);
        assert_eq!(homes("fanout", "other"), one);
        assert_eq!(homes("amq.topic", "other"), []);
        assert_eq!(homes("amq.topic", "$a.b"), [], "a first wildcard does not match it");
    }

    /// What an exchange that is gone leaves behind in the table is nothing.
    #[test]
    fn what_was_said_and_taken_back_leaves_nothing() {
        let mut table = RoutingTable::default();
        let bound = |is_bound| Said::Bound { from: (2, 1), to: Ok(3), key: 5, is_bound };
        let declared = Said::Declared { exchange: 2, life: 1, alternate: None, auto_delete: true };
        for said in [bound(true), declared, bound(false), Said::Deleted { exchange: 2, life: 1 }] {
            let (from, routing) = to_routing(&said);
            assert!(table.change(from, &routing), "{said:?}");
        }
        assert!(table.exchanges.is_empty() && table.sources.is_empty() && table.used.is_empty());
    }
}
