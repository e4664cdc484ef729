//! A connection that has lost its session goes on with what it had read: the latest one publishes, whoever leads.

use bytes::Bytes;
use fluxmq::model::record::{DedupKey, Tenure};
use fluxmq::model::{Message, Properties, QoS, Token, Topic};
use fluxmq::partition::ReplicaId;
use fluxmq::partition::request::{ConnectionId, Event, Publish, Request, Target};
use fluxmq_index::Offset;

use crate::cluster::Cluster;

const PUBLISHER: u64 = 3;
const INCARNATION: u32 = 1;
/// The first connection of the session and its number; and the second, whose opening another term has seen.
const OLD: (u64, Tenure) = (1, Tenure { term: 1, epoch: Offset(10) });
const NEW: (u64, Tenure) = (2, Tenure { term: 2, epoch: Offset(4) });

/// Publishes at QoS 2 under number 7.
fn publish(cluster: &mut Cluster, to: ReplicaId, by: (u64, Tenure), token: u64) {
    let message = Message {
        topic: Topic::new(Bytes::from_static(b"a/b")).expect("a topic"),
        payload: Bytes::from_static(b"once"),
        qos: QoS::ExactlyOnce,
        retain: false,
        expiry_s: None,
        properties: Properties::default(),
        publisher: PUBLISHER,
    };
    let publish = Publish {
        is_kept: false,
        token: Some(Token(token)),
        message: std::sync::Arc::new(message),
        dedup: DedupKey { incarnation: INCARNATION, seq: 7 },
        tenure: by.1,
        target: Target::Topic,
        input: None,
    };
    cluster.ask_for(by.0, to, Request::Publish(publish));
}

fn release(cluster: &mut Cluster, to: ReplicaId, by: (u64, Tenure), token: u64) {
    let request = Request::Release {
        token: Some(Token(token)),
        publisher: PUBLISHER,
        incarnation: INCARNATION,
        packet_ids: vec![7],
        tenure: by.1,
    };
    cluster.ask_for(by.0, to, request);
}

fn begin(cluster: &mut Cluster, to: ReplicaId, by: (u64, Tenure), token: u64) {
    let request = Request::BeginTenure { token: Token(token), publisher: PUBLISHER, tenure: by.1 };
    cluster.ask_for(by.0, to, request);
}

fn is_written(cluster: &Cluster, by: ReplicaId, token: u64) -> bool {
    let is_it = |event: &Event| matches!(event, Event::Written { token: found, result: Ok(()) } if found.0 == token);
    cluster.replicas[&by].heard.0.iter().any(|(_, event)| is_it(event))
}

/// How often the first connection was told by a replica that it has lost its session.
fn times_told(cluster: &Cluster, by: ReplicaId) -> usize {
    let heard = cluster.replicas[&by].heard.0.iter();
    let is_told =
        |(to, event): &&(ConnectionId, Event)| to.0 == OLD.0 && matches!(event, Event::TakenOver);
    heard.filter(is_told).count()
}

fn open_ids(cluster: &Cluster, of: ReplicaId) -> Vec<u16> {
    cluster.partition(of).views().dedup.open_ids(PUBLISHER, INCARNATION)
}

/// Seed 300001985: the exchange was over, its number free, and the copy was stored once more.
#[test]
fn what_comes_late_on_a_connection_that_lost_its_session_is_not_stored() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    begin(&mut cluster, leader, NEW, 1);
    publish(&mut cluster, leader, NEW, 2);
    cluster.settle();
    release(&mut cluster, leader, NEW, 3);
    cluster.settle();
    assert_eq!(cluster.answer(leader, Token(2)), Some(Ok(true)));
    assert!(is_written(&cluster, leader, 1) && is_written(&cluster, leader, 3));
    let end = cluster.partition(leader).applied().end;

    publish(&mut cluster, leader, OLD, 4);
    cluster.settle();

    assert_eq!(cluster.answer(leader, Token(4)), None, "neither yes nor no");
    assert_eq!(times_told(&cluster, leader), 1);
    assert_eq!(cluster.partition(leader).applied().end, end, "nothing is stored");
}

#[test]
fn the_next_leader_knows_who_has_the_session() {
    for restarts in [false, true] {
        let mut cluster = Cluster::new(3);
        let first = cluster.elect();
        begin(&mut cluster, first, NEW, 1);
        cluster.settle();
        cluster.ticks(3);
        if restarts {
            for id in cluster.voters.clone() {
                cluster.partition_mut(id).checkpoint().expect("saves");
                cluster.kill(id, Some(id.0));
                cluster.start(id);
            }
        } else {
            cluster.kill(first, None);
            cluster.ticks(40);
        }
        let next = cluster.elect();

        publish(&mut cluster, next, OLD, 4);
        cluster.settle();

        assert_eq!(times_told(&cluster, next), 1, "restarts: {restarts}");
        assert_eq!(open_ids(&cluster, next), Vec::<u16>::new());
        publish(&mut cluster, next, NEW, 5);
        cluster.settle();
        assert_eq!(cluster.answer(next, Token(5)), Some(Ok(true)));
    }
}

/// What is on its way is in the order of the log, also while none of it is committed.
#[test]
fn a_copy_that_came_before_is_known_and_one_right_behind_is_not_taken() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    publish(&mut cluster, leader, OLD, 1);
    begin(&mut cluster, leader, NEW, 2);
    publish(&mut cluster, leader, NEW, 3);
    release(&mut cluster, leader, NEW, 4);
    publish(&mut cluster, leader, OLD, 5);
    begin(&mut cluster, leader, OLD, 6);
    let before = cluster.partition(leader).applied().end;
    cluster.settle();

    assert_eq!(cluster.answer(leader, Token(1)), Some(Ok(true)), "it was there first");
    assert_eq!(cluster.answer(leader, Token(3)), Some(Ok(true)), "it is a copy");
    assert_eq!((cluster.answer(leader, Token(5)), times_told(&cluster, leader)), (None, 2));
    assert!(!is_written(&cluster, leader, 6));
    let records = cluster.partition(leader).applied().end.0 - before.0;
    assert_eq!(records, 3, "one publish, one tenure, one release");
}

/// PUBREL of the exchange before would free a number that is another message's by now, and a copy of that be stored once more.
#[test]
fn a_late_release_frees_no_number_that_is_in_use_again() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    publish(&mut cluster, leader, OLD, 1);
    cluster.settle();
    begin(&mut cluster, leader, NEW, 2);
    release(&mut cluster, leader, NEW, 3);
    cluster.settle();
    publish(&mut cluster, leader, NEW, 4);
    cluster.settle();
    assert_eq!(open_ids(&cluster, leader), [7]);

    release(&mut cluster, leader, OLD, 5);
    cluster.settle();

    assert!(!is_written(&cluster, leader, 5) && times_told(&cluster, leader) == 1);
    assert_eq!(open_ids(&cluster, leader), [7]);
    release(&mut cluster, leader, NEW, 6);
    cluster.settle();
    assert_eq!(open_ids(&cluster, leader), Vec::<u16>::new());
}
