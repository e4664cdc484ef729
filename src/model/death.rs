//! How a message died: what a dead letter says of the queues that it was in, in its user properties.
//!
//! One certificate for each queue and cause, the newest death first; each begins with `x-death-queue`. The same death again counts on: its
//! certificate comes to the front, and says how the message had come the first time.

use bytes::Bytes;

use super::{Millis, Properties, Property};

/// Why an entry is a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// A consumer said so.
    Rejected,
    /// Its time was over.
    Expired,
    /// It came back too often.
    Deliveries,
    /// The queue was too long, or had no room for it.
    Overflow,
}

/// What a letter says of one way in which it died.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Where.
    pub queue: Bytes,
    /// Why.
    pub death: Death,
    /// How often.
    pub count: u64,
    /// When, the first time.
    pub time: Millis,
    /// Whose it was; `None` where it left the queue for everybody.
    pub group: Option<Bytes>,
    /// The exchange that had routed it there, and by which keys; `None` where none had.
    pub published: Option<(Bytes, Vec<Bytes>)>,
    /// The exchange that had routed it there the last time, where that is another.
    pub last_exchange: Option<Bytes>,
    /// The milliseconds that it had been given to live, as text: what comes after has none.
    pub expiration: Option<Bytes>,
    /// It is the first death of all, and not the last of the certificates.
    pub is_first: bool,
}

const QUEUE: &str = "x-death-queue";
const REASON: &str = "x-death-reason";
const COUNT: &str = "x-death-count";
const TIME: &str = "x-death-time";
const GROUP: &str = "x-death-group";
const EXCHANGE: &str = "x-death-exchange";
const ROUTING_KEY: &str = "x-death-routing-key";
const LAST_EXCHANGE: &str = "x-death-last-exchange";
const EXPIRATION: &str = "x-death-expiration";
const FIRST: &str = "x-death-first";

/// The names of the user properties that certificates are made of. Publishers cannot set them.
pub(super) const NAMES: [&[u8]; 10] = [
    QUEUE.as_bytes(),
    REASON.as_bytes(),
    COUNT.as_bytes(),
    TIME.as_bytes(),
    GROUP.as_bytes(),
    EXCHANGE.as_bytes(),
    ROUTING_KEY.as_bytes(),
    LAST_EXCHANGE.as_bytes(),
    EXPIRATION.as_bytes(),
    FIRST.as_bytes(),
];

impl Death {
    const ALL: [Death; 4] = [Death::Rejected, Death::Expired, Death::Deliveries, Death::Overflow];

    /// As `x-death-reason` says it.
    pub fn reason(self) -> &'static str {
        match self {
            Death::Rejected => "rejected",
            Death::Expired => "expired",
            Death::Deliveries => "max-deliveries",
            Death::Overflow => "max-length",
        }
    }
}

/// Takes a list apart: what the publisher said, and how the message died, the newest death first.
pub fn split(properties: &Properties) -> (Vec<Property>, Vec<Certificate>) {
    let (mut others, mut deaths) = (Vec::new(), Vec::<Certificate>::new());
    for property in properties.iter() {
        match property {
            Property::User(key, queue) if key == QUEUE => deaths.push(Certificate::of(queue)),
            Property::User(key, value) if NAMES.contains(&&key[..]) => {
                deaths
                    .iter_mut()
                    .next_back()
                    .into_iter()
                    .for_each(|death| death.take(&key, &value));
            }
            other => others.push(other),
        }
    }
    (others, deaths)
}

/// Lists how a message died, the newest death first.
pub fn deaths(properties: &Properties) -> Vec<Certificate> {
    split(properties).1
}

/// Puts the newest death before all earlier ones. The same again counts on.
pub fn record(deaths: &mut Vec<Certificate>, new: Certificate) {
    let Some(at) = deaths.iter().position(|death| death.is_same(&new)) else {
        return deaths.insert(0, new);
    };
    // The last is the first death of all, unless another says that it is.
    let is_first = deaths[at].is_first || first(deaths) == Some(&deaths[at]);
    let again = deaths.remove(at);
    let is_first = is_first && !deaths.is_empty();
    let exchange =
        |death: &Certificate| death.published.as_ref().map(|(exchange, _)| exchange.clone());
    let last_exchange = exchange(&new).filter(|last| Some(last) != exchange(&again).as_ref());
    deaths.insert(0, Certificate { count: again.count + 1, last_exchange, is_first, ..again });
}

/// The first death of all.
pub fn first(deaths: &[Certificate]) -> Option<&Certificate> {
    deaths.iter().find(|death| death.is_first).or(deaths.last())
}

/// Returns true when a letter would come round again to a queue in which it died, and nobody rejected it since: it would go on so for ever.
pub fn is_cycle(deaths: &[Certificate], queue: &[u8]) -> bool {
    let since = deaths.iter().position(|death| death.queue == queue);
    since.is_some_and(|at| deaths[..=at].iter().all(|death| death.death != Death::Rejected))
}

impl Certificate {
    fn of(queue: Bytes) -> Certificate {
        Certificate {
            queue,
            death: Death::Rejected,
            count: 1,
            time: Millis(0),
            group: None,
            published: None,
            last_exchange: None,
            expiration: None,
            is_first: false,
        }
    }

    fn is_same(&self, other: &Certificate) -> bool {
        self.queue == other.queue && self.death == other.death && self.group == other.group
    }

    fn take(&mut self, key: &Bytes, value: &Bytes) {
        let number = || std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        let value = value.clone();
        match std::str::from_utf8(key).unwrap_or_default() {
            REASON => {
                let known = Death::ALL.into_iter().find(|death| value == death.reason());
                self.death = known.unwrap_or(Death::Rejected);
            }
            COUNT => self.count = number().unwrap_or(1),
            TIME => self.time = Millis(number().unwrap_or(0)),
            GROUP => self.group = Some(value),
            EXCHANGE => self.published = Some((value, Vec::new())),
            ROUTING_KEY => self.published.get_or_insert_default().1.push(value),
            LAST_EXCHANGE => self.last_exchange = Some(value),
            EXPIRATION => self.expiration = Some(value),
            FIRST => self.is_first = true,
            _ => {}
        }
    }

    /// Adds it to a list, which it is read from again.
    pub fn put(&self, out: &mut Vec<Property>) {
        let mut say = |key: &'static str, value: Bytes| {
            out.push(Property::User(Bytes::from_static(key.as_bytes()), value));
        };
        say(QUEUE, self.queue.clone());
        say(REASON, Bytes::from_static(self.death.reason().as_bytes()));
        say(COUNT, Bytes::from(self.count.to_string()));
        say(TIME, Bytes::from(self.time.0.to_string()));
        if let Some(group) = &self.group {
            say(GROUP, group.clone());
        }
        if let Some((exchange, keys)) = &self.published {
            say(EXCHANGE, exchange.clone());
            keys.iter().for_each(|key| say(ROUTING_KEY, key.clone()));
        }
        if let Some(exchange) = &self.last_exchange {
            say(LAST_EXCHANGE, exchange.clone());
        }
        if let Some(expiration) = &self.expiration {
            say(EXPIRATION, expiration.clone());
        }
        if self.is_first {
            say(FIRST, Bytes::from_static(b"1"));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn died(queue: &'static str, death: Death) -> Certificate {
        Certificate { death, ..Certificate::of(Bytes::from(queue)) }
    }

    fn certificate() -> impl Strategy<Value = Certificate> {
        let text = || "[a-z.]{0,6}".prop_map(Bytes::from);
        let published = (text(), proptest::collection::vec(text(), 0..3));
        let how = (prop::sample::select(Death::ALL.to_vec()), 1u64..9, 0u64..9, any::<bool>());
        (
            text(),
            how,
            proptest::option::of(text()),
            proptest::option::of(published),
            (proptest::option::of(text()), proptest::option::of(text())),
        )
            .prop_map(
                |(
                    queue,
                    (death, count, time, is_first),
                    group,
                    published,
                    (last_exchange, expiration),
                )| Certificate {
                    queue,
                    death,
                    count,
                    time: Millis(time),
                    group,
                    published,
                    last_exchange,
                    expiration,
                    is_first,
                },
            )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(deaths in proptest::collection::vec(certificate(), 0..5)) {
            let other = Property::User(Bytes::from("x-deaths"), Bytes::from("the publisher's"));
            let mut list = vec![other.clone()];
            deaths.iter().for_each(|death| death.put(&mut list));
            prop_assert_eq!(split(&Properties::encode(&list)), (vec![other], deaths));
        }

        /// The history, as a list of all deaths that is looked through.
        #[test]
        fn each_way_to_die_is_listed_once_by_its_last_time_and_the_first_is_known(
            all in proptest::collection::vec((0usize..3, 0usize..4), 1..20),
        ) {
            let names = ["a", "b", "c"];
            let mut deaths = Vec::new();
            for (at, (queue, cause)) in all.iter().enumerate() {
                let new = died(names[*queue], Death::ALL[*cause]);
                record(&mut deaths, Certificate { time: Millis(at as u64), ..new });
                let is_there = |same: &(usize, usize)| (names[same.0], Death::ALL[same.1]);
                let so_far = &all[..=at];
                let mut expected: Vec<(usize, usize)> = Vec::new();
                for same in so_far.iter().rev() {
                    if !expected.contains(same) {
                        expected.push(*same);
                    }
                }
                prop_assert_eq!(deaths.len(), expected.len());
                for (death, same) in deaths.iter().zip(&expected) {
                    prop_assert_eq!((&death.queue[..], death.death), (is_there(same).0.as_bytes(), is_there(same).1));
                    let count = so_far.iter().filter(|it| *it == same).count() as u64;
                    let time = so_far.iter().position(|it| it == same).unwrap() as u64;
                    prop_assert_eq!((death.count, death.time), (count, Millis(time)));
                }
                let earliest = first(&deaths).unwrap();
                prop_assert_eq!(earliest.time, Millis(0));
            }
        }
    }

    #[test]
    fn only_what_nobody_rejected_goes_round_for_ever() {
        let (late, long) = (died("q", Death::Expired), died("r", Death::Overflow));
        let rejected = died("s", Death::Rejected);
        assert!(!is_cycle(&[], b"q"));
        assert!(is_cycle(std::slice::from_ref(&late), b"q"), "from a queue to itself");
        assert!(!is_cycle(std::slice::from_ref(&late), b"r"), "it was not there");
        assert!(is_cycle(&[long.clone(), late.clone()], b"q"));
        assert!(!is_cycle(&[long.clone(), rejected.clone(), late.clone()], b"q"));
        assert!(is_cycle(&[long, late, rejected.clone()], b"q"), "that was before");
        assert!(!is_cycle(&[rejected], b"s"));
    }
}
