//! What a publisher names a message by, so that sending it again stores it once.
//!
//! Either a name of the message's own (`dedup-id`), remembered for a while, or a producer's count of its messages (`producer-id`,
//! `producer-seq`, `producer-epoch`), remembered for as long as the producer goes on. Both mean something within one address and to one
//! user only: what two users or two topics have in common by chance is not the same message.

use super::{Principal, Properties, Property, Topic};

/// Bytes of a `dedup-id` or a `producer-id`, at most.
pub const INPUT_ID_BYTES_MAX: usize = 255;

/// A message's name, as records have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Input {
    /// A hash of a `dedup-id`, its address and its user.
    Id(u128),
    /// A producer's message.
    Sequence {
        /// A hash of a `producer-id`, its address and its user.
        producer: u64,
        /// Which life of the producer: a later one ends the earlier ones.
        epoch: u32,
        /// The message's number in it.
        seq: u64,
    },
}

/// Why a message's name makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// Two names.
    #[error("a message has a 'dedup-id' or a 'producer-id', not both")]
    Both,
    /// A producer without a count, or the other way round.
    #[error("'producer-id' and 'producer-seq' belong together")]
    Half,
    /// Empty or too long.
    #[error("'{key}' must have 1 to {INPUT_ID_BYTES_MAX} bytes")]
    Length {
        /// Which.
        key: &'static str,
    },
    /// Not a number, or too large a one.
    #[error("'{key}' must be a decimal number below {limit}")]
    Number {
        /// Which.
        key: &'static str,
        /// What it is below.
        limit: &'static str,
    },
}

impl Input {
    /// Reads how a message is named, if it is.
    pub fn of(
        principal: &Principal,
        topic: &Topic,
        properties: &Properties,
    ) -> Result<Option<Input>, InputError> {
        if properties.is_plain() {
            return Ok(None);
        }
        let (mut id, mut producer, mut seq, mut epoch) = (None, None, None, None);
        for property in properties.iter() {
            let Property::User(key, value) = property else { continue };
            let said = match &key[..] {
                b"dedup-id" => &mut id,
                b"producer-id" => &mut producer,
                b"producer-seq" => &mut seq,
                b"producer-epoch" => &mut epoch,
                _ => continue,
            };
            said.get_or_insert(value);
        }
        let name = |key: &'static str, value: &[u8]| match value.len() {
            1..=INPUT_ID_BYTES_MAX => Ok(scoped(principal, topic, value)),
            _ => Err(InputError::Length { key }),
        };
        match (id, producer, seq) {
            (Some(_), Some(_), _) => Err(InputError::Both),
            (None, Some(_), None) | (_, None, Some(_)) => Err(InputError::Half),
            (None, None, None) if epoch.is_some() => Err(InputError::Half),
            (None, None, None) => Ok(None),
            (Some(id), None, None) => {
                let hash = xxhash_rust::xxh3::xxh3_128(&name("dedup-id", &id)?);
                Ok(Some(Input::Id(hash)))
            }
            (None, Some(producer), Some(seq)) => {
                let hash = xxhash_rust::xxh3::xxh3_64(&name("producer-id", &producer)?);
                let wrong = |key, limit| InputError::Number { key, limit };
                let seq = number(&seq).filter(|seq| *seq < u64::MAX);
                let epoch = epoch.map_or(Some(0), |epoch| u32::try_from(number(&epoch)?).ok());
                Ok(Some(Input::Sequence {
                    producer: hash,
                    epoch: epoch.ok_or(wrong("producer-epoch", "2^32"))?,
                    seq: seq.ok_or(wrong("producer-seq", "2^64 - 1"))?,
                }))
            }
        }
    }
}

/// No user's name and no topic contains a NUL: what is before and behind cannot be mistaken.
fn scoped(principal: &Principal, topic: &Topic, id: &[u8]) -> Vec<u8> {
    let parts: [&[u8]; 5] = [principal.as_bytes(), b"\0", topic.as_bytes(), b"\0", id];
    parts.concat()
}

fn number(text: &[u8]) -> Option<u64> {
    let is_decimal = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    is_decimal.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn read(topic: &str, said: &[(&str, &str)]) -> Result<Option<Input>, InputError> {
        let user = |(key, value): &(&str, &str)| {
            Property::User(Bytes::from((*key).to_owned()), Bytes::from((*value).to_owned()))
        };
        let properties = Properties::encode(&said.iter().map(user).collect::<Vec<_>>());
        let topic = Topic::new(Bytes::from(topic.to_owned())).unwrap();
        Input::of(&Principal::ANONYMOUS, &topic, &properties)
    }

    #[test]
    fn a_name_means_something_within_its_address_and_its_user() {
        let one = read("a", &[("dedup-id", "x")]).unwrap();
        assert_eq!(one, read("a", &[("other", "y"), ("dedup-id", "x")]).unwrap());
        assert_ne!(one, read("b", &[("dedup-id", "x")]).unwrap());
        let properties = [Property::User(Bytes::from("dedup-id"), Bytes::from("x"))];
        let topic = Topic::new(Bytes::from("a")).unwrap();
        let alice = Principal::from_stored(Bytes::from("alice"));
        assert_ne!(one, Input::of(&alice, &topic, &Properties::encode(&properties)).unwrap());
        assert_eq!(read("a", &[("content", "x")]), Ok(None));
    }

    #[test]
    fn a_producer_counts() {
        let of = |seq: &str| read("a", &[("producer-id", "p"), ("producer-seq", seq)]);
        let Ok(Some(Input::Sequence { producer, epoch, seq })) = of("18446744073709551614") else {
            panic!("a number")
        };
        assert_eq!((epoch, seq), (0, u64::MAX - 1));
        let later = [("producer-id", "p"), ("producer-seq", "0"), ("producer-epoch", "7")];
        assert_eq!(read("a", &later), Ok(Some(Input::Sequence { producer, epoch: 7, seq: 0 })));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let long = "x".repeat(256);
        let cases: [(&[(&str, &str)], &str); 8] = [
            (&[("dedup-id", "a"), ("producer-id", "p"), ("producer-seq", "1")], "not both"),
            (&[("producer-id", "p")], "belong together"),
            (&[("producer-seq", "1")], "belong together"),
            (&[("producer-epoch", "1")], "belong together"),
            (&[("dedup-id", "")], "'dedup-id' must have 1 to 255 bytes"),
            (&[("dedup-id", &long)], "'dedup-id' must have 1 to 255 bytes"),
            (&[("producer-id", "p"), ("producer-seq", "-1")], "'producer-seq' must be a decimal"),
            (
                &[("producer-id", "p"), ("producer-seq", "1"), ("producer-epoch", "4294967296")],
                "'producer-epoch' must be a decimal",
            ),
        ];
        for (said, expected) in cases {
            let error = read("a", said).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
