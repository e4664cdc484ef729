//! Replicas that are behind the leader's first entry.

use std::path::PathBuf;

use fluxmq::partition::{MemberChange, Options, ReplicaId};
use fluxmq_log::sim_disk::SimDisk;

use crate::cluster::{Cluster, id};

/// A group whose logs begin late, with views of several chunks; one replica is down and has nothing of it.
fn trimmed() -> (Cluster, ReplicaId, ReplicaId) {
    let mut cluster =
        Cluster::with(3, Options { snapshot_every_bytes: 100_000, ..Options::default() });
    let leader = cluster.elect();
    let away = cluster.voters.iter().copied().find(|other| *other != leader).expect("another");
    cluster.publish(leader, 3, 100);
    cluster.ticks(3);
    cluster.kill(away, None);
    let level = "x".repeat(900);
    for number in 0..800 {
        cluster.say_on(leader, &format!("r/{number}/{level}"), true, "kept");
    }
    cluster.settle();
    cluster.publish(leader, 80, 3000);
    cluster.ticks(3);
    for replica in cluster.voters.clone().into_iter().filter(|replica| *replica != away) {
        let last = cluster.partition(replica).status().last;
        let first = cluster.partition_mut(replica).trim(last).expect("trims");
        assert!(first > 10, "the log begins at {first}");
    }
    (cluster, leader, away)
}

#[test]
fn a_replica_behind_the_first_entry_is_given_a_snapshot_and_all_entries_after() {
    let (mut cluster, leader, away) = trimmed();
    cluster.start(away);
    cluster.ticks(30);
    assert!(cluster.partition(away).log().first_index() > 10);
    cluster.publish(leader, 50, 3000);
    cluster.ticks(3);
    cluster.assert_identical();
    // It is a replica like the others: it leads, and gives the same snapshot away.
    cluster.partition_mut(leader).transfer_leadership(away).expect("transfers");
    cluster.settle();
    assert_eq!(cluster.leader(), Some(away));
    cluster.joining.insert(id(4));
    cluster.add(id(4), SimDisk::new(4));
    cluster.partition_mut(away).change_members(&[MemberChange::Learner(id(4))]).expect("changes");
    cluster.ticks(30);
    cluster.assert_identical();
    cluster.kill(id(4), Some(4));
    cluster.start(id(4));
    cluster.publish(away, 50, 3000);
    cluster.ticks(10);
    cluster.assert_identical();
}

/// Whoever leads next has one of its own (seed 1795440043285).
#[test]
fn a_leader_that_has_no_snapshot_to_give_makes_way_for_one_that_has() {
    let (mut cluster, leader, away) = trimmed();
    let base = cluster.partition(leader).log().base().index;
    let disk = &cluster.replicas[&leader].disk;
    disk.zero(&PathBuf::from(format!("p0001/snap/{base:020}.snap")), 0..5000).expect("zeroes");

    cluster.start(away);
    cluster.ticks(30);
    assert_eq!(cluster.leader(), Some(leader), "it is asked for some seconds");
    assert!(cluster.partition(away).log().last_index() < base);

    cluster.ticks(60);
    let next = cluster.leader().expect("somebody leads");
    assert!(![leader, away].contains(&next), "{next} leads");
    cluster.publish(next, 3, 100);
    cluster.ticks(5);
    cluster.assert_identical();
    assert_eq!(cluster.partition(away).log().first_index(), base + 1);
}

#[test]
fn history_begins_at_the_same_record_on_all_replicas_and_the_files_of_each_go() {
    let mut cluster = Cluster::with(
        3,
        Options { snapshot_every_bytes: 100_000, history_bytes_max: 400_000, ..Options::default() },
    );
    let leader = cluster.elect();
    let away = cluster.voters.iter().copied().find(|other| *other != leader).expect("another");
    cluster.say_on(leader, "r/old", true, "kept");
    let publish = |cluster: &mut Cluster| {
        for _ in 0..10 {
            cluster.publish(leader, 40, 3000);
            cluster.ticks(12);
        }
    };
    publish(&mut cluster);
    cluster.kill(away, Some(3));
    publish(&mut cluster);
    cluster.start(away);
    cluster.ticks(30);
    publish(&mut cluster);
    cluster.ticks(30);

    let horizon = |cluster: &Cluster, id| cluster.partition(id).views().horizon.start();
    let start = horizon(&cluster, leader);
    assert!(start.0 > 800, "{start}");
    for replica in cluster.voters.clone() {
        assert_eq!(horizon(&cluster, replica), start, "{replica}");
        let partition = cluster.partition(replica);
        let first = partition.log().first_offset();
        assert!(first.0 > 500 && first <= start, "the log of {replica} begins at {first}");
        assert_eq!(partition.views().snapshot(), cluster.partition(leader).views().snapshot());
        assert_eq!(partition.views().retained.len(), 1);
    }
}

#[test]
fn a_transfer_is_finished_whatever_is_lost_and_whoever_restarts() {
    let mut chunks_seen = 0;
    for lost in 0..6 {
        let (mut cluster, leader, away) = trimmed();
        cluster.start(away);
        let mut large = 0;
        for _ in 0..400 {
            cluster.tick_all();
            cluster.now = cluster.now.plus(100);
            cluster.flush();
            while let Some((from, to, message)) = cluster.network.pop_front() {
                let is_chunk = to == away && message.len() > 200_000;
                large += usize::from(is_chunk);
                match lost / 2 + 1 {
                    at if is_chunk && at == large && lost % 2 == 0 => continue,
                    at if is_chunk && at == large => {
                        cluster.kill(away, Some(lost as u64));
                        cluster.start(away);
                        continue;
                    }
                    _ => cluster.deliver(from, to, message),
                }
                cluster.flush();
            }
            if cluster.partition(away).status().applied
                == cluster.partition(leader).status().applied
            {
                break;
            }
        }
        chunks_seen = chunks_seen.max(large);
        cluster.ticks(5);
        cluster.assert_identical();
    }
    assert!(chunks_seen >= 3, "several chunks: {chunks_seen}");
}

#[test]
fn the_source_dies_half_way_and_another_goes_on() {
    let (mut cluster, leader, away) = trimmed();
    cluster.start(away);
    let other = cluster
        .voters
        .iter()
        .copied()
        .find(|other| ![leader, away].contains(other))
        .expect("a third");
    let mut chunks = 0;
    while chunks < 3 {
        cluster.tick_all();
        cluster.now = cluster.now.plus(100);
        cluster.flush();
        while let Some((from, to, message)) = cluster.network.pop_front() {
            chunks += usize::from(to == away && message.len() > 200_000);
            if chunks == 3 {
                break;
            }
            cluster.deliver(from, to, message);
            cluster.flush();
        }
    }
    cluster.kill(leader, None);
    // The one that is half way has nothing yet, and votes for the one that has everything.
    cluster.ticks(80);
    assert_eq!(cluster.leader(), Some(other));
    cluster.publish(other, 3, 10);
    cluster.ticks(3);
    cluster.assert_identical();
}
