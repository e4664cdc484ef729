//! Elections, replication, and what becomes of a leader that is deposed.

use bytes::Bytes;
use fluxmq::model::record::{DedupKey, Tenure};
use fluxmq::model::{
    Control, Message, PartitionId, Principal, Properties, QoS, QueueName, Refusal, SessionProgress,
    Token, Topic,
};
use fluxmq::partition::ReplicaId;
use fluxmq::partition::request::{Event, Publish, QueueAction, QueueRequest, Request, Target};
use fluxmq_index::Offset;

use crate::cluster::{Cluster, id};

#[test]
fn three_voters_elect_one_and_have_the_same_bytes() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.publish(leader, 60, 5000);
    cluster.ticks(3);
    assert!(cluster.partition(leader).log().segments().len() > 2, "segments were rolled");
    cluster.assert_identical();
    assert_eq!(cluster.refused, Vec::<String>::new());
}

#[test]
fn one_voter_takes_the_same_path() {
    let mut cluster = Cluster::new(1);
    assert_eq!(cluster.leader(), Some(id(1)), "nobody to wait for");
    cluster.publish(id(1), 60, 1000);
    assert!(cluster.network.is_empty(), "nobody to talk to");
}

#[test]
fn the_same_seed_elects_the_same_leader_at_the_same_tick() {
    let run = || {
        let mut cluster = Cluster::new(3);
        let leader = cluster.elect();
        (leader, cluster.now, cluster.partition(leader).status().term)
    };
    assert_eq!(run(), run());
}

#[test]
fn a_follower_refuses_and_says_who_leads() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = cluster.voters.iter().copied().find(|other| *other != leader).unwrap();
    let token = cluster.say(follower, "x");
    let refusal = Refusal::NotLeader { partition: 1, hint: Some(leader.0) };
    assert_eq!(cluster.answer(follower, token), Some(Err(refusal)));
}

#[test]
fn nothing_is_confirmed_without_a_majority_and_the_next_leader_replaces_it() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    cluster.publish(old, 5, 100);
    cluster.isolate(old);
    let tokens: Vec<_> = (0..40).map(|_| cluster.say(old, vec![b'y'; 1000])).collect();
    cluster.settle();
    assert!(tokens.iter().all(|token| cluster.answer(old, *token).is_none()));
    cluster.ticks(40);
    let new = cluster.leader().expect("the majority elects another");
    assert_ne!(new, old);
    let resigned = cluster.replicas[&old].heard.0.iter();
    let resigned = resigned.filter(|(_, event)| matches!(event, Event::Resigned(_))).count();
    assert_eq!(resigned, 1, "whoever waits is told that there is no answer");
    cluster.publish(new, 20, 1000);
    let before = cluster.partition(old).log().last_index();
    cluster.heal();
    cluster.ticks(10);
    assert!(before > 6, "there was something to take back");
    cluster.assert_identical();
    assert!(tokens.iter().all(|token| cluster.answer(old, *token).is_none()));
}

#[test]
fn what_a_flush_is_writing_is_taken_back_after_it() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    cluster.publish(old, 5, 100);
    cluster.isolate(old);
    cluster.replicas.get_mut(&old).expect("known").slow = true;
    for _ in 0..5 {
        cluster.say(old, vec![b'y'; 1000]);
    }
    cluster.ticks(40);
    let new = cluster.leader().expect("another");
    cluster.publish(new, 20, 1000);
    cluster.heal();
    cluster.ticks(10);
    assert!(cluster.replicas[&old].held.is_some(), "the flush is still under way");
    cluster.replicas.get_mut(&old).expect("known").slow = false;
    cluster.ticks(10);
    cluster.assert_identical();
}

#[test]
fn a_majority_confirms_while_the_leaders_own_disk_is_slow() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.replicas.get_mut(&leader).expect("known").slow = true;
    let token = cluster.say(leader, "x");
    cluster.settle();
    let commit = cluster.partition(leader).status().commit;
    assert_eq!(commit, cluster.partition(leader).log().last_index(), "two of three have it");
    assert_eq!(cluster.answer(leader, token), None, "applied when its own flush is done");
    cluster.replicas.get_mut(&leader).expect("known").slow = false;
    cluster.settle();
    assert_eq!(cluster.answer(leader, token), Some(Ok(true)));
}

#[test]
fn a_follower_answers_after_its_flush_and_not_before() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    for other in cluster.voters.clone() {
        cluster.replicas.get_mut(&other).expect("known").slow = other != leader;
    }
    let token = cluster.say(leader, "x");
    cluster.ticks(30);
    assert_eq!(cluster.leader(), Some(leader), "heartbeats are answered meanwhile");
    assert_eq!(cluster.answer(leader, token), None);
    cluster.replicas.values_mut().for_each(|replica| replica.slow = false);
    cluster.settle();
    assert_eq!(cluster.answer(leader, token), Some(Ok(true)));
}

#[test]
fn everybody_restarts_and_nothing_confirmed_is_lost() {
    let mut cluster = Cluster::new(3);
    for round in 0..6 {
        let leader = cluster.elect();
        cluster.publish(leader, 10, 700);
        cluster.say(leader, "perhaps");
        let end = cluster.partition(leader).applied().end;
        for other in cluster.voters.clone() {
            cluster.kill(other, Some(round * 10 + other.0));
        }
        cluster.voters.clone().into_iter().for_each(|other| cluster.start(other));
        let leader = cluster.elect();
        assert!(cluster.partition(leader).applied().end >= end, "round {round}");
        cluster.ticks(5);
        cluster.assert_identical();
    }
}

#[test]
fn a_replica_that_was_away_catches_up() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let away = cluster.voters.iter().copied().find(|other| *other != leader).unwrap();
    cluster.publish(leader, 3, 100);
    cluster.kill(away, None);
    cluster.publish(leader, 60, 1000);
    cluster.start(away);
    cluster.ticks(20);
    cluster.assert_identical();
}

#[test]
fn damaged_and_foreign_messages_change_nothing() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.flush();
    cluster.say(leader, "x");
    cluster.flush();
    let (from, to, message) = cluster.network[0].clone();
    let before = cluster.partition(to).status();
    for at in 0..message.len() {
        let mut damaged = message.to_vec();
        damaged[at] ^= 1 << (at % 8);
        cluster.deliver(from, to, damaged.into());
        cluster.deliver(from, to, message.slice(..at));
    }
    assert_eq!(cluster.refused.len(), 2 * message.len());
    let third = cluster.voters.iter().copied().find(|other| ![from, to].contains(other)).unwrap();
    cluster.deliver(third, to, message.clone());
    cluster.deliver(from, third, message.clone());
    assert_eq!(cluster.refused.len(), 2 * message.len() + 2);
    assert_eq!(cluster.partition(to).status(), before);
    // Twice is as good as once.
    cluster.deliver(from, to, message.clone());
    cluster.deliver(from, to, message);
    cluster.settle();
    cluster.ticks(3);
    cluster.assert_identical();
}

/// Lets a replica lead again that did before.
fn lead_again(cluster: &mut Cluster, from: ReplicaId, to: ReplicaId) {
    cluster.heal();
    cluster.ticks(10);
    cluster.partition_mut(from).transfer_leadership(to).expect("it may be asked");
    cluster.settle();
    assert_eq!(cluster.leader(), Some(to));
}

#[test]
fn what_a_connection_publishes_does_not_overtake_what_another_leader_replaced() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    cluster.isolate(old);
    let first = cluster.say(old, "first");
    cluster.ticks(40);
    let new = cluster.leader().expect("the majority elects another");
    cluster.publish(new, 1, 100);
    lead_again(&mut cluster, new, old);

    let second = cluster.say(old, "second");
    cluster.settle();

    assert_eq!(cluster.answer(old, first), None, "nobody knows");
    let refusal = Refusal::NotLeader { partition: 1, hint: None };
    assert_eq!(cluster.answer(old, second), Some(Err(refusal)));
    cluster.ask(old, Request::Forget);
    cluster.publish(old, 1, 100);
}

#[test]
fn what_a_connection_publishes_does_not_overtake_what_was_refused() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let follower = cluster.voters.iter().copied().find(|other| *other != leader).unwrap();
    let first = cluster.say(follower, "first");
    lead_again(&mut cluster, leader, follower);

    let second = cluster.say(follower, "second");
    cluster.settle();

    assert!(matches!(cluster.answer(follower, first), Some(Err(Refusal::NotLeader { .. }))));
    assert!(matches!(cluster.answer(follower, second), Some(Err(Refusal::NotLeader { .. }))));
    assert_eq!(resignations(&cluster, follower), 1, "the connection is told once that it ends");
}

/// Asks a replica to store a QoS 2 publish of a session that is kept, under number 7.
fn say_once(cluster: &mut Cluster, to: ReplicaId, token: u64) -> Token {
    let message = Message {
        topic: Topic::new(Bytes::from_static(b"a/b")).expect("a topic"),
        payload: Bytes::from_static(b"once"),
        qos: QoS::ExactlyOnce,
        retain: false,
        expiry_s: None,
        properties: Properties::default(),
        publisher: 3,
    };
    let token = Token(token);
    let dedup = DedupKey { incarnation: 1, seq: 7 };
    let message = std::sync::Arc::new(message);
    cluster.ask(
        to,
        Request::Publish(Publish {
            is_kept: false,
            token: Some(token),
            message,
            dedup,
            tenure: Tenure::default(),
            target: Target::Topic,
            input: None,
        }),
    );
    token
}

fn resignations(cluster: &Cluster, of: ReplicaId) -> usize {
    let heard = cluster.replicas[&of].heard.0.iter();
    heard.filter(|(_, event)| matches!(event, Event::Resigned(_))).count()
}

/// PUBREC with an error would free the number at the client, while the first copy keeps it: the next message under it would be taken
/// for that copy, acknowledged and lost (seed 14623).
#[test]
fn a_copy_of_what_may_be_stored_is_not_refused_where_nobody_leads() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let stored = say_once(&mut cluster, leader, 101);
    cluster.settle();
    let follower = cluster.voters.iter().copied().find(|other| *other != leader).unwrap();

    let copy = say_once(&mut cluster, follower, 102);

    assert_eq!(cluster.answer(leader, stored), Some(Ok(true)));
    assert_eq!(cluster.answer(follower, copy), None, "neither yes nor no");
    assert_eq!(resignations(&cluster, follower), 1, "the connection is told once that it ends");
}

#[test]
fn a_copy_of_what_may_be_stored_is_not_refused_by_a_partition_that_stops() {
    let mut cluster = Cluster::new(1);
    let leader = cluster.elect();
    // The first is in the log, not flushed; its copy waits with what came in between.
    let first = say_once(&mut cluster, leader, 101);
    cluster.replicas.get_mut(&leader).unwrap().slow = true;
    cluster.flush();
    let other = cluster.say(leader, "other");
    let copy = say_once(&mut cluster, leader, 102);

    let replica = cluster.replicas.get_mut(&leader).unwrap();
    replica.partition.as_mut().unwrap().stop(&mut replica.heard);
    let late = say_once(&mut cluster, leader, 103);

    let refusal = Refusal::Unavailable { partition: 1 };
    assert_eq!(cluster.answer(leader, other), Some(Err(refusal)), "it was not proposed");
    for token in [first, copy, late] {
        assert_eq!(cluster.answer(leader, token), None, "neither yes nor no");
    }
    assert_eq!(resignations(&cluster, leader), 2, "once as it stops, once for what came after");
}

#[test]
fn a_reader_of_an_earlier_term_is_not_told_how_far_it_was() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.publish(leader, 5, 100);

    cluster.ask(leader, Request::Detach);

    let last = cluster.replicas[&leader].heard.0.last();
    assert!(matches!(last, Some((_, Event::Detached { next: Offset::ZERO, .. }))), "{last:?}");
}

#[test]
fn a_connection_that_lost_its_session_moves_it_no_more() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    let client_id = Bytes::from_static(b"c");
    cluster.ask(
        old,
        Request::OpenSession {
            client_id: client_id.clone(),
            principal: Principal::default(),
            clean_start: false,
            expiry_s: 60,
            will: None,
        },
    );
    cluster.settle();
    let heard = cluster.replicas[&old].heard.0.iter();
    let mut opened = heard.filter_map(|(_, event)| match event {
        Event::SessionOpened(Ok(session)) => Some(session.epoch),
        _ => None,
    });
    let epoch = opened.next_back().expect("it has the session");
    cluster.isolate(old);
    cluster.ticks(40);
    let new = cluster.leader().expect("the majority elects another");
    lead_again(&mut cluster, new, old);

    let progress = SessionProgress {
        client_id,
        epoch,
        cursors: vec![(PartitionId(1), Offset(9))],
        replayed: Vec::new(),
        assigned: Vec::new(),
        received: Vec::new(),
        done: Vec::new(),
    };
    let control = Control::SessionProgress(progress);
    cluster.ask(old, Request::Write { token: Some(Token(77)), control: Box::new(control) });
    cluster.settle();

    let written = cluster.replicas[&old].heard.0.iter().find_map(|(_, event)| match event {
        Event::Written { token: Token(77), result } => Some(result.clone()),
        _ => None,
    });
    let refusal = Refusal::NotLeader { partition: 1, hint: None };
    assert_eq!(written, Some(Err(refusal)), "what it wrote before may be lost");
    let views = cluster.partition(old).views();
    assert!(views.sessions.get(b"c").is_some_and(|session| session.cursors.is_empty()));
}

#[test]
fn a_leader_that_nobody_hears_any_more_lets_no_will_out() {
    const SERVICE: u64 = 99;
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    for id in cluster.voters.clone() {
        cluster.ask_for(SERVICE, id, Request::PublishWills);
    }
    cluster.lose_mortal(2, leader, (300, 1));
    cluster.ticks(9);
    let told = |cluster: &Cluster| {
        cluster.voters.iter().map(|id| cluster.wills_told(*id, SERVICE)).collect::<Vec<_>>()
    };
    assert_eq!(told(&cluster), [0, 0, 0], "its time has not come");

    // Its client may be back with another leader already, which it cannot know of.
    cluster.isolate(leader);
    cluster.ticks(3);
    assert!(cluster.partition(leader).status().serves, "it does not know yet");
    assert_eq!(told(&cluster), [0, 0, 0]);

    cluster.heal();
    cluster.ticks(40);
    assert_eq!(told(&cluster).iter().sum::<usize>(), 1, "it goes out once somebody leads");
}

#[test]
fn who_carries_letters_is_heard_while_what_it_asked_before_waits_for_an_answer_that_never_comes() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    let other = cluster.voters.iter().copied().find(|other| *other != old).unwrap();
    cluster.ask(old, Request::CarryLetters);
    cluster.isolate(old);
    let queue = QueueName::new(Bytes::from_static(b"jobs")).expect("a name");
    let action = QueueAction::Inspect;
    cluster.ask(old, Request::Queue(QueueRequest { token: Token(1), queue, action }));
    // Its letter is refused, for leadership is being handed over: it says again that it is there.
    cluster.partition_mut(old).transfer_leadership(other).expect("it may be asked");
    let refused = cluster.say(old, "letter");
    assert!(matches!(cluster.answer(old, refused), Some(Err(Refusal::NotLeader { .. }))));
    cluster.ask(old, Request::CarryLetters);
    cluster.ticks(40);
    let new = cluster.leader().expect("the majority elects another");
    lead_again(&mut cluster, new, old);

    let letter = cluster.say(old, "letter");
    cluster.settle();

    assert_eq!(cluster.answer(old, letter), Some(Ok(true)));
}
