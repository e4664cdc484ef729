//! The law of views: for every cut, restoring a snapshot and applying the rest equals applying everything, and both snapshots are
//! byte-equal. One property for all views.

#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fluxmq::model::command::Will;
use fluxmq::model::message::publisher_id;
use fluxmq::model::queue::{
    DeadLetterExchange, DeadLetterTarget, DeadLetters, Lifetime, Overflow, QueueKind, QueueLimits,
    QueueSettings,
};
use fluxmq::model::record::{DedupKey, Tenure, filter_id, queue_id};
use fluxmq::model::{
    Control, ExchangeBinding, ExchangeId, ExchangeKind, ExchangeSettings, Filter, Input, Message,
    Millis, OutboundEntry, PartitionId, Principal, Properties, QoS, QueueName, ReaderId, Record,
    RetainHandling, SessionProgress, StoredMessage, Subscription, Topic,
};
use fluxmq::view::Views;
use fluxmq_index::Offset;
use fluxmq_log::format::Retain;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Said {
    Message(StoredMessage, Vec<u64>),
    Control(Control),
}

fn name() -> impl Strategy<Value = Bytes> {
    prop_oneof![Just("a"), Just("b"), Just("c")]
        .prop_map(|text| Bytes::from_static(text.as_bytes()))
}

fn queue() -> impl Strategy<Value = u64> {
    name().prop_map(|name| queue_id(&name))
}

fn selection() -> impl Strategy<Value = u64> {
    prop_oneof![queue(), filter().prop_map(|filter| filter_id(&filter))]
}

fn offset() -> impl Strategy<Value = Offset> {
    (0u64..40).prop_map(Offset)
}

fn partition() -> impl Strategy<Value = PartitionId> {
    (1u16..4).prop_map(PartitionId)
}

fn filter() -> impl Strategy<Value = Filter> {
    prop_oneof![Just("a/+"), Just("#"), Just("b"), Just("$queue/a/#")]
        .prop_map(|text| Filter::new(Bytes::from_static(text.as_bytes())).unwrap())
}

fn qos() -> impl Strategy<Value = QoS> {
    (0u8..3).prop_map(|bits| QoS::from_bits(bits).unwrap())
}

fn message() -> impl Strategy<Value = Said> {
    let retain = prop_oneof![Just(Retain::No), Just(Retain::Set), Just(Retain::Clear)];
    let queues = proptest::collection::btree_set(queue(), 0..3);
    (name(), retain, qos(), proptest::option::of(0u32..10), 0u32..4, queues).prop_map(
        |(topic, retain, qos, expiry_s, packet_id, queues)| {
            let message = StoredMessage {
                topic,
                payload: Bytes::from_static(b"x"),
                properties: Bytes::new(),
                qos,
                retain,
                time: Millis(0),
                expiry_s,
                deliver_at: None,
                priority: 0,
                publisher: 7,
                dedup: DedupKey { incarnation: 1, seq: packet_id },
            };
            Said::Message(message, queues.into_iter().collect())
        },
    )
}

fn progress() -> impl Strategy<Value = SessionProgress> {
    let entry = (1u16..6, reader(), partition(), offset(), 1u8..3).prop_map(
        |(packet_id, reader, partition, offset, qos)| OutboundEntry {
            packet_id,
            reader,
            partition,
            offset,
            qos: QoS::from_bits(qos).unwrap(),
            retain: false,
            received: false,
        },
    );
    let list = |range: std::ops::Range<usize>| proptest::collection::vec(1u16..6, range);
    let cursors = proptest::collection::vec((partition(), offset()), 0..3);
    let replayed = (1u32..4, partition(), offset()).prop_map(|(id, at, to)| (ReaderId(id), at, to));
    let replayed = proptest::collection::vec(replayed, 0..3);
    let entries = proptest::collection::vec(entry, 0..3);
    (name(), offset(), (cursors, replayed), entries, list(0..3), list(0..3)).prop_map(
        |(client_id, epoch, (cursors, replayed), assigned, received, done)| SessionProgress {
            client_id,
            epoch,
            cursors,
            replayed,
            assigned,
            received,
            done,
        },
    )
}

fn reader() -> impl Strategy<Value = ReaderId> {
    (0u32..4).prop_map(ReaderId)
}

fn subscription() -> impl Strategy<Value = Subscription> {
    (filter(), qos(), any::<bool>(), 0u32..3, proptest::option::of(name()), reader()).prop_map(
        |(filter, qos, no_local, subscription_id, group, reader)| Subscription {
            filter,
            qos,
            no_local,
            retain_as_published: no_local,
            retain_handling: RetainHandling::SendIfNew,
            subscription_id,
            group,
            settle_explicit: false,
            reader,
        },
    )
}

fn owner() -> impl Strategy<Value = Principal> {
    proptest::sample::select(vec!["", "alice", "bob"])
        .prop_map(|name| Principal::from_stored(Bytes::from(name)))
}

fn session_control() -> impl Strategy<Value = Control> {
    let starts = proptest::collection::vec((partition(), offset()), 0..3);
    prop_oneof![
        (name(), any::<bool>(), 0u32..5, owner()).prop_map(
            |(client_id, clean, expiry_s, principal)| Control::SessionOpened {
                client_id,
                clean,
                expiry_s,
                principal,
            }
        ),
        (name(), offset(), 0u32..5).prop_map(|(client_id, epoch, expiry_s)| {
            Control::SessionClosed { client_id, epoch, expiry_s }
        }),
        (name(), offset())
            .prop_map(|(client_id, epoch)| Control::SessionRemoved { client_id, epoch }),
        (name(), subscription(), starts).prop_map(|(client_id, subscription, starts)| {
            Control::Subscribed { client_id, subscription, starts }
        }),
        (name(), filter())
            .prop_map(|(client_id, filter)| Control::Unsubscribed { client_id, filter }),
        progress().prop_map(Control::SessionProgress),
    ]
}

fn time() -> impl Strategy<Value = Millis> {
    (0u64..60_000).prop_map(Millis)
}

fn settings() -> impl Strategy<Value = QueueSettings> {
    let number = || proptest::option::of(1u64..1000);
    let bindings = proptest::collection::vec(
        proptest::sample::select(vec!["a/+", "#", "b", "a"])
            .prop_map(|text| Filter::new(Bytes::from_static(text.as_bytes())).unwrap()),
        0..3,
    );
    let target = prop_oneof![
        Just(DeadLetterTarget::Own),
        Just(DeadLetterTarget::Nowhere),
        proptest::sample::select(vec!["b", "$dlq/a"]).prop_map(|name| {
            DeadLetterTarget::Queue(QueueName::from_text(Bytes::from(name)).unwrap())
        }),
        ("(|dlx)", proptest::option::of("(|k|a\\.b)")).prop_map(|(exchange, key)| {
            let (exchange, routing_key) = (exchange.into(), key.map(Bytes::from));
            DeadLetterTarget::Exchange(DeadLetterExchange { exchange, routing_key })
        }),
    ];
    let dead_letters =
        (target, any::<bool>(), any::<bool>()).prop_map(|(target, with_expired, with_overflow)| {
            DeadLetters { target, with_expired, with_overflow }
        });
    let overflow = proptest::sample::select(vec![
        Overflow::DropHead,
        Overflow::RejectPublish,
        Overflow::RejectPublishDlx,
    ]);
    let limits = (number(), number(), number(), overflow).prop_map(
        |(messages_max, bytes_max, age_max_ms, overflow)| QueueLimits {
            messages_max,
            bytes_max,
            age_max_ms,
            overflow,
        },
    );
    let backoff = proptest::collection::vec(0u64..100, 0..3);
    let rules = (dead_letters, limits, number(), number(), 0u32..30, backoff);
    let kind =
        proptest::sample::select(vec![QueueKind::Classic, QueueKind::Stream, QueueKind::Ephemeral]);
    let lifetime =
        proptest::sample::select(vec![Lifetime::Durable, Lifetime::Transient, Lifetime::Owned]);
    let life = (lifetime, any::<bool>(), number());
    (kind, bindings, rules, life, any::<bool>(), any::<bool>()).prop_map(
        |(kind, bindings, rules, life, single_active, exclusive)| {
            let (lifetime, auto_delete, expires_ms) = life;
            let (dead_letters, limits, ttl_ms, visibility_timeout_ms, deliveries_max, backoff_ms) =
                rules;
            let group = QueueName::new(Bytes::from_static(b"workers")).unwrap();
            let (is_stream, is_kept) = (kind == QueueKind::Stream, kind != QueueKind::Ephemeral);
            QueueSettings {
                kind,
                bindings,
                visibility_timeout_ms: visibility_timeout_ms.filter(|_| is_kept),
                deliveries_max,
                backoff_ms: if kind == QueueKind::Classic { backoff_ms } else { Vec::new() },
                dead_letters,
                ttl_ms: ttl_ms.filter(|_| is_kept),
                limits: if is_kept { limits } else { QueueLimits::default() },
                single_active,
                exclusive,
                primary_group: is_stream.then_some(group),
                retroactive: false,
                lifetime,
                auto_delete,
                expires_ms,
                priority_max: if is_stream || !is_kept { 0 } else { (deliveries_max % 10) as u8 },
            }
        },
    )
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        prop_oneof![0u128..4, Just(u128::MAX)].prop_map(Input::Id),
        (0u64..3, 0u32..3, 0u64..200).prop_map(|(producer, epoch, seq)| Input::Sequence {
            producer,
            epoch,
            seq
        }),
    ]
}

fn queue_control() -> impl Strategy<Value = Control> {
    let finished = proptest::collection::vec((offset(), 1u64..5), 0..4);
    let released = proptest::collection::vec(offset(), 0..3);
    let kept = proptest::collection::btree_set(offset(), 0..3);
    prop_oneof![
        (name(), settings()).prop_map(|(name, settings)| {
            let settings = Arc::new(settings.checked().expect("made to make sense"));
            Control::QueueDeclared { name, settings }
        }),
        queue().prop_map(|queue| Control::QueueDeleted { queue }),
        (queue(), name()).prop_map(|(queue, group)| Control::GroupDeleted { queue, group }),
        (input(), time()).prop_map(|(input, until)| Control::InputNoted { input, until }),
        (queue(), partition(), offset()).prop_map(|(queue, source, next)| Control::QueueFollowed {
            queue,
            source,
            next
        }),
        (queue(), offset(), 0u64..20).prop_map(|(queue, to, bytes)| Control::QueueTrimmed {
            queue,
            to,
            bytes
        }),
        (queue(), proptest::collection::vec(offset(), 0..4), 0u64..20)
            .prop_map(|(queue, entries, bytes)| Control::QueueRemoved { queue, entries, bytes }),
        (
            queue(),
            offset(),
            proptest::collection::btree_map(name(), kept, 0..3),
            proptest::collection::vec(0u64..20, 0..12)
        )
            .prop_map(|(queue, to, kept, lengths)| {
                let kept = kept.into_iter().map(|(group, it)| (group, it.into_iter().collect()));
                Control::QueuePurged { queue, to, kept: kept.collect(), lengths }
            }),
        (queue(), any::<bool>()).prop_map(|(queue, goes_on)| Control::QueueUsed { queue, goes_on }),
        (queue(), name(), proptest::collection::vec((offset(), time()), 0..3))
            .prop_map(|(queue, group, entries)| Control::Postponed { queue, group, entries }),
        (queue(), name(), offset()).prop_map(|(queue, group, start)| Control::GroupCreated {
            queue,
            group,
            start
        }),
        (selection(), name(), finished, released).prop_map(
            |(selection, group, finished, released)| {
                Control::Settled { selection, group, finished, released }
            }
        ),
        (queue(), name(), offset()).prop_map(|(queue, group, to)| Control::CursorSet {
            queue,
            group,
            to
        }),
        proptest::collection::vec(0u32..4, 0..3).prop_map(|packet_ids| Control::Released {
            publisher: 7,
            incarnation: 1,
            packet_ids
        }),
        (6u64..8, 1u64..4, offset()).prop_map(|(publisher, term, epoch)| Control::TenureBegun {
            publisher,
            tenure: Tenure { term, epoch },
        }),
        (1u16..9).prop_map(|count| Control::PartitionsFixed { count }),
    ]
}

fn exchange() -> impl Strategy<Value = ExchangeId> {
    let name = prop_oneof![Just("x"), Just("y"), Just("amq.topic"), Just("amq.fanout")];
    (name, 0u64..6).prop_map(|(name, at)| ExchangeId {
        name: Bytes::from(name),
        declared: Offset(if name.starts_with("amq.") { 0 } else { at }),
    })
}

fn exchange_binding() -> impl Strategy<Value = Box<ExchangeBinding>> {
    let arguments = prop_oneof![Just(&b""[..]), Just(&b"\x01aV"[..])];
    let key = prop_oneof![Just(""), Just("a.#"), Just("#.b"), Just("*.b")];
    (exchange(), 0usize..4, key, arguments).prop_map(|(exchange, kind, key, arguments)| {
        let kind = ExchangeKind::ALL[kind];
        Box::new(ExchangeBinding::new(exchange, kind, key.as_bytes(), arguments))
    })
}

fn exchange_control() -> impl Strategy<Value = Control> {
    let settings = (0usize..4, any::<[bool; 3]>(), proptest::option::of(Just("y"))).prop_map(
        |(kind, [durable, auto_delete, internal], alternate)| ExchangeSettings {
            kind: ExchangeKind::ALL[kind],
            durable,
            auto_delete,
            internal,
            alternate: alternate.map(Bytes::from),
            arguments: Bytes::from_static(b"\x01at\x01"),
        },
    );
    prop_oneof![
        (prop_oneof![Just("x"), Just("y")], settings).prop_map(|(name, settings)| {
            Control::ExchangeDeclared { name: Bytes::from(name), settings: Arc::new(settings) }
        }),
        exchange().prop_map(|exchange| Control::ExchangeDeleted { exchange }),
        (exchange_binding(), exchange())
            .prop_map(|(binding, to)| Control::ExchangeBound { binding, to }),
        (exchange_binding(), exchange())
            .prop_map(|(binding, to)| Control::ExchangeUnbound { binding, to }),
        (queue(), exchange_binding())
            .prop_map(|(queue, binding)| Control::QueueBound { queue, binding }),
        (queue(), exchange_binding())
            .prop_map(|(queue, binding)| Control::QueueUnbound { queue, binding }),
    ]
}

fn will_control() -> impl Strategy<Value = Control> {
    let will = (name(), any::<bool>(), qos(), proptest::option::of(0u32..10), 0u32..5);
    prop_oneof![
        (name(), owner(), will).prop_map(|(client_id, principal, will)| {
            let (topic, retain, qos, expiry_s, delay_s) = will;
            let message = Message {
                topic: Topic::new(topic).unwrap(),
                payload: Bytes::from_static(b"gone"),
                qos,
                retain,
                expiry_s,
                properties: Properties::default(),
                publisher: publisher_id(&client_id),
            };
            let will = Box::new(Will { message, delay_s });
            Control::WillSet { client_id, will, principal }
        }),
        (name(), offset(), 0u32..5).prop_map(|(client_id, epoch, delay_s)| {
            Control::WillDue { client_id, epoch, delay_s }
        }),
        (name(), offset()).prop_map(|(client_id, epoch)| Control::WillCleared { client_id, epoch }),
    ]
}

fn member_control() -> impl Strategy<Value = Control> {
    let id = || filter().prop_map(|filter| filter_id(&filter));
    let sent = proptest::collection::vec((1u16..6, offset()), 0..4);
    let received = proptest::collection::vec(offset(), 0..3);
    prop_oneof![
        (filter(), name(), name(), 0u32..5).prop_map(|(filter, group, client_id, expiry_s)| {
            Control::MemberJoined { filter, group, client_id, expiry_s }
        }),
        (id(), name(), name(), 0u32..5).prop_map(|(selection, group, client_id, expiry_s)| {
            Control::MemberLeft { selection, group, client_id, expiry_s }
        }),
        (id(), name(), name(), sent, received).prop_map(
            |(selection, group, client_id, sent, received)| Control::Claimed {
                selection,
                group,
                client_id,
                sent,
                received
            }
        ),
    ]
}

fn history_control() -> impl Strategy<Value = Control> {
    let queues = proptest::collection::vec((queue(), offset()), 0..3);
    prop_oneof![
        offset().prop_map(|to| Control::HistoryTrimmed { to }),
        (offset(), queues, message(), time(), proptest::option::of(time())).prop_map(
            |(from, queues, message, time, deliver_at)| {
                let Said::Message(message, _) = message else { unreachable!("a message") };
                let dedup = DedupKey::default();
                let priority = (time.0 % 10) as u8;
                let again = StoredMessage { time, deliver_at, dedup, priority, ..message };
                let message = Box::new(again);
                Control::Moved { from, queues, message }
            }
        ),
    ]
}

fn said() -> impl Strategy<Value = Said> {
    prop_oneof![
        2 => history_control().prop_map(Said::Control),
        3 => message(),
        4 => session_control().prop_map(Said::Control),
        4 => queue_control().prop_map(Said::Control),
        2 => will_control().prop_map(Said::Control),
        2 => exchange_control().prop_map(Said::Control),
        4 => member_control().prop_map(Said::Control),
    ]
}

fn apply(views: &mut Views, said: &[Said], first: usize) {
    for (step, said) in said.iter().enumerate() {
        let at = Offset((first + step) as u64);
        let time = Millis(1000 * at.0);
        match said {
            Said::Message(message, queues) => {
                let message = StoredMessage { time, ..message.clone() };
                views.apply(at, time, Record::Message(&message, queues));
            }
            Said::Control(control) => views.apply(at, time, Record::Control(control)),
        }
    }
}

/// The entries of every queue, each with whether it is still in it: what `view::Queues` says with a head and holes. What goes with
/// history another property looks after.
fn list_entries(lists: &mut BTreeMap<u64, Vec<bool>>, said: &Said, views: &Views) {
    match said {
        Said::Control(Control::HistoryTrimmed { .. }) => {
            for (id, list) in lists {
                let queue = views.queues.get(*id).expect("listed");
                for (entry, is_in) in list.iter_mut().enumerate() {
                    *is_in &= !queue.is_removed(Offset(entry as u64));
                }
            }
        }
        Said::Message(_, queues) => {
            for queue in queues {
                lists.entry(*queue).and_modify(|list| list.push(true));
            }
        }
        Said::Control(Control::QueueDeclared { name, .. }) => {
            lists.entry(queue_id(name)).or_default();
        }
        Said::Control(Control::QueueDeleted { queue }) => drop(lists.remove(queue)),
        Said::Control(Control::QueueTrimmed { queue, to, .. }) => {
            if let Some(list) = lists.get_mut(queue) {
                list.iter_mut().take(to.0 as usize).for_each(|is_in| *is_in = false);
            }
        }
        Said::Control(Control::QueueRemoved { queue, entries, .. }) => {
            for entry in entries {
                let list = lists.get_mut(queue);
                if let Some(is_in) = list.and_then(|list| list.get_mut(entry.0 as usize)) {
                    *is_in = false;
                }
            }
        }
        Said::Control(Control::QueuePurged { queue, to, kept, .. }) => {
            let list = lists.get_mut(queue).into_iter().flatten().take(to.0 as usize);
            for (entry, is_in) in list.enumerate() {
                *is_in &= kept.iter().any(|(_, it)| it.contains(&Offset(entry as u64)));
            }
        }
        Said::Control(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_snapshot_and_the_rest_equal_the_whole(
        said in proptest::collection::vec(said(), 0..60),
        cut in any::<prop::sample::Index>(),
    ) {
        let cut = cut.index(said.len() + 1);
        let mut whole = Views::default();
        apply(&mut whole, &said, 0);
        let mut first = Views::default();
        apply(&mut first, &said[..cut], 0);

        let snapshot = first.snapshot();
        let mut restored = Views::restore(&snapshot).expect("our own snapshot restores");
        prop_assert_eq!(restored.snapshot(), snapshot);
        apply(&mut restored, &said[cut..], cut);

        prop_assert_eq!(restored.snapshot(), whole.snapshot());
        let later = Millis(1 << 40);
        prop_assert_eq!(restored.due(later), whole.due(later));
    }

    /// After every record: what each queue has is what a plain list of its entries has, and committed is the first that is not finished.
    #[test]
    fn queues_and_groups_keep_their_laws_at_every_step(
        said in proptest::collection::vec(said(), 0..60),
    ) {
        let mut views = Views::default();
        let mut lists: BTreeMap<u64, Vec<bool>> = BTreeMap::new();
        for (step, said) in said.iter().enumerate() {
            apply(&mut views, std::slice::from_ref(said), step);
            list_entries(&mut lists, said, &views);
            for (id, queue) in views.queues.iter() {
                let list = &lists[&id];
                let removed = |entry: usize| queue.is_removed(Offset(entry as u64));
                prop_assert_eq!(queue.end(), Offset(list.len() as u64));
                prop_assert_eq!((0..list.len()).map(|e| !removed(e)).collect::<Vec<_>>(), list.clone());
                prop_assert_eq!(queue.len(), list.iter().filter(|is_in| **is_in).count() as u64);
                let head = list.iter().position(|is_in| *is_in).unwrap_or(list.len());
                prop_assert_eq!(queue.head(), Offset(head as u64));
                prop_assert_eq!(queue.is_empty(), !list.contains(&true));
                if let Some((mark, _)) = queue.mark_before(queue.head()) {
                    prop_assert!(mark <= queue.head());
                }
                prop_assert_eq!(queue.check(), Ok(()));
            }
            prop_assert_eq!(lists.len(), views.queues.iter().count());
            for (_, group) in views.groups.iter() {
                prop_assert_eq!(group.check(), Ok(()));
            }
        }
    }

    #[test]
    fn a_control_survives_its_bytes(said in said()) {
        if let Said::Control(control) = said {
            let mut body = Vec::new();
            control.encode(&mut body);
            let decoded = Control::decode(control.opcode(), &Bytes::from(body));
            prop_assert_eq!(decoded, Ok(control));
        }
    }

    #[test]
    fn arbitrary_control_bytes_never_panic(
        opcode in any::<u8>(),
        body in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        if let Ok(control) = Control::decode(opcode, &Bytes::from(body)) {
            prop_assert_eq!(control.opcode(), opcode);
        }
    }
}
