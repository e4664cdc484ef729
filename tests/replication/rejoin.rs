//! Replicas that come back with less than they had promised.

use fluxmq::model::Millis;
use fluxmq::partition::{MemberChange, ReplicaId};
use fluxmq_log::sim_disk::SimDisk;

use crate::cluster::{Cluster, id};

/// Everybody but these, in order.
fn others(cluster: &Cluster, except: &[ReplicaId]) -> Vec<ReplicaId> {
    cluster.voters.iter().copied().filter(|id| !except.contains(id)).collect()
}

#[test]
fn a_replaced_disk_does_not_vote_until_it_has_everything() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let [behind, replaced] = others(&cluster, &[leader])[..] else { unreachable!() };
    // What follows is on the leader and the one that loses its disk, and nowhere else.
    cluster.isolate(behind);
    cluster.publish(leader, 20, 200);
    cluster.kill(replaced, None);
    cluster.joining.insert(replaced);
    cluster.add(replaced, SimDisk::new(77));
    assert!(cluster.partition(replaced).status().muted);

    cluster.heal();
    cluster.isolate(leader);
    cluster.ticks(100);
    assert_eq!(cluster.partition(replaced).status().last, 0);
    let leads = |id| cluster.partition(id).status().serves;
    assert!(!leads(behind) && !leads(replaced), "two that miss what is confirmed elect nobody");

    cluster.heal();
    let leader = cluster.elect();
    cluster.ticks(20);
    cluster.assert_identical();
    assert!(!cluster.partition(replaced).status().muted, "it has what the leader has");
    cluster.kill(leader, None);
    cluster.ticks(40);
    let next = cluster.elect();
    cluster.publish(next, 1, 10);
}

/// A leader that was stopped and goes on does not know that there is another. What the replaced disk had acknowledged to that one is
/// forgotten; its answers to the old one would be a majority for something else.
#[test]
fn a_replaced_disk_does_not_help_a_leader_that_was_deposed() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    cluster.publish(old, 5, 200);
    cluster.ticks(5);
    let stopped = cluster.replicas.remove(&old).expect("it leads");
    cluster.ticks(40);
    let new = cluster.elect();
    let replaced = others(&cluster, &[old, new])[0];
    cluster.publish(new, 5, 200);

    cluster.kill(replaced, None);
    cluster.joining.insert(replaced);
    cluster.add(replaced, SimDisk::new(77));
    cluster.isolate(new);
    cluster.replicas.insert(old, stopped);
    let token = cluster.say(old, "a majority has gone on without this");
    cluster.ticks(6);

    assert_eq!(cluster.answer(old, token), None);
    assert!(cluster.partition(replaced).status().muted);
    cluster.heal();
    cluster.ticks(60);
    assert_eq!(cluster.answer(old, token), None);
    assert!(!cluster.partition(replaced).status().muted, "both others are heard");
    cluster.assert_identical();
}

#[test]
fn a_replaced_disk_stays_muted_over_a_restart() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let replaced = others(&cluster, &[leader])[0];
    cluster.publish(leader, 5, 200);
    cluster.kill(replaced, None);
    cluster.joining.insert(replaced);
    cluster.cut.extend([(replaced, leader), (leader, replaced)]);
    cluster.add(replaced, SimDisk::new(77));
    cluster.ticks(5);
    cluster.kill(replaced, Some(3));
    cluster.joining.clear();
    cluster.start(replaced);
    assert!(cluster.partition(replaced).status().muted, "it knows that it knows nothing");
    cluster.heal();
    cluster.ticks(20);
    assert!(!cluster.partition(replaced).status().muted);
    cluster.assert_identical();
}

#[test]
fn an_old_image_of_a_disk_is_told_what_it_forgot() {
    for restarts in 0..3 {
        let mut cluster = Cluster::new(3);
        let leader = cluster.elect();
        let old = others(&cluster, &[leader])[0];
        cluster.publish(leader, 5, 200);
        let image = cluster.replicas[&old].disk.crash(1);
        for _ in 0..restarts {
            cluster.kill(old, None);
            cluster.start(old);
            cluster.ticks(10);
        }
        let leader = cluster.elect();
        cluster.publish(leader, 30, 200);
        cluster.ticks(5);
        cluster.kill(old, None);
        cluster.add(old, image);
        assert!(!cluster.partition(old).status().muted, "it cannot know");
        let term = cluster.partition(leader).status().term;
        let mut was_muted = false;
        for _ in 0..20 {
            cluster.tick();
            was_muted |= cluster.partition(old).status().muted;
        }
        assert!(was_muted, "its leader tells it, after {restarts} restarts");
        assert!(!cluster.partition(old).status().muted);
        assert_eq!(cluster.partition(leader).status().term, term, "and goes on leading");
        cluster.assert_identical();
    }
}

/// One that was removed and does not know it, and an old image of the group that had it, are a majority of that group: the image must
/// not vote before its leader can have told it what it forgot. Found by the simulator, seed 1795298768263.
#[test]
fn an_old_image_does_not_vote_for_one_that_was_removed() {
    // Whoever was removed asks for votes now and then: at one of these times, when the image has just come.
    for ticks in 0..25 {
        let mut cluster = Cluster::new(3);
        let leader = cluster.elect();
        let [old, gone] = others(&cluster, &[leader])[..] else { unreachable!() };
        cluster.publish(leader, 5, 200);
        let image = cluster.replicas[&old].disk.crash(1);
        cluster.joining.insert(id(4));
        cluster.add(id(4), SimDisk::new(4));
        cluster.isolate(gone);
        let changes = [MemberChange::Voter(id(4)), MemberChange::Remove(gone)];
        cluster.partition_mut(leader).change_members(&changes).expect("changes");
        cluster.ticks(15);
        cluster.publish(leader, 5, 200);
        cluster.kill(old, None);
        cluster.ticks(ticks);
        let leader = cluster.leader().expect("two of three are there");

        cluster.heal();
        cluster.add(old, image);
        for _ in 0..25 {
            cluster.tick();
            assert!(!cluster.partition(gone).status().serves, "two leaders, after {ticks} ticks");
        }

        cluster.publish(leader, 1, 10);
        assert!(!cluster.partition(old).status().muted, "it has everything again");
    }
}

/// Starts a replica while its clock stands at a time, which may be long ago or far ahead.
fn start_at(cluster: &mut Cluster, id: ReplicaId, at: Millis) {
    let now = std::mem::replace(&mut cluster.now, at);
    cluster.start(id);
    cluster.now = now;
}

/// Seed 400001297: both count on from the life of the image, and the clock, which has gone back, does not tell them apart.
#[test]
fn an_image_and_its_original_that_start_at_one_time_are_told_apart() {
    for seed in 1..=6 {
        let mut cluster = Cluster::new(3);
        let leader = cluster.elect();
        let old = others(&cluster, &[leader])[0];
        cluster.publish(leader, 5, 200);
        let image = cluster.replicas[&old].disk.crash(1);
        cluster.kill(old, None);
        start_at(&mut cluster, old, Millis(500_000));
        cluster.ticks(10);
        cluster.publish(leader, 30, 200);
        cluster.ticks(5);

        cluster.kill(old, None);
        cluster.replicas.get_mut(&old).expect("known").disk = image;
        cluster.seed = seed;
        start_at(&mut cluster, old, Millis(500_000));

        assert!(!cluster.partition(old).status().muted, "it cannot know");
        let mut was_muted = false;
        for _ in 0..20 {
            cluster.tick();
            was_muted |= cluster.partition(old).status().muted;
        }
        assert!(was_muted, "its leader tells it, with seed {seed}");
        assert!(!cluster.partition(old).status().muted);
        cluster.assert_identical();
    }
}

/// What its disk remembers is ahead of every clock from then on, and lives count on from it.
#[test]
fn a_clock_that_was_wrong_once_leaves_lives_in_order() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let wrong = others(&cluster, &[leader])[0];
    cluster.publish(leader, 5, 200);
    cluster.kill(wrong, None);
    start_at(&mut cluster, wrong, Millis(32_503_680_000_000));
    cluster.ticks(10);
    let image = cluster.replicas[&wrong].disk.crash(1);
    for _ in 0..3 {
        cluster.kill(wrong, None);
        cluster.start(wrong);
        cluster.publish(leader, 10, 200);
        cluster.ticks(10);
    }
    let is_of_an_earlier_life = |refusal: &String| refusal.contains("speaks in its life");
    assert!(!cluster.refused.iter().any(is_of_an_earlier_life), "{:?}", cluster.refused);
    assert!(!cluster.partition(wrong).status().muted);

    cluster.kill(wrong, None);
    cluster.add(wrong, image);
    let mut was_muted = false;
    for _ in 0..20 {
        cluster.tick();
        was_muted |= cluster.partition(wrong).status().muted;
    }

    assert!(was_muted && !cluster.partition(wrong).status().muted);
    cluster.assert_identical();
}

/// Seed 200000332: it was muted again by what was said before it was whole, and told nobody of its life in that term any more.
#[test]
fn what_a_leader_said_of_a_life_before_it_was_whole_may_come_late() {
    /// The byte after the version of a message, for a leader's answer to a life.
    const WELCOME: u8 = 2;
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let old = others(&cluster, &[leader])[0];
    cluster.publish(leader, 5, 200);
    let image = cluster.replicas[&old].disk.crash(1);
    cluster.publish(leader, 30, 200);
    cluster.ticks(5);
    cluster.kill(old, None);
    cluster.add(old, image);
    let mut said = Vec::new();
    let mut was_muted = false;
    for _ in 0..20 {
        cluster.now = cluster.now.plus(100);
        cluster.tick_all();
        cluster.flush();
        while let Some((from, to, message)) = cluster.network.pop_front() {
            said.extend((to == old && message[1] == WELCOME).then(|| message.clone()));
            cluster.deliver(from, to, message);
            cluster.flush();
            was_muted |= cluster.partition(old).status().muted;
        }
    }
    assert!(was_muted && said.len() > 1 && !cluster.partition(old).status().muted);

    cluster.deliver(leader, old, said[0].clone());
    cluster.ticks(20);

    assert!(!cluster.partition(old).status().muted, "it is whole, and was told so");
}

/// Seed 200002960: as long as the leader's log, it was taken for whole, and how far the leader had committed for its own.
#[test]
fn an_old_image_that_ends_in_what_was_replaced_has_forgotten() {
    let mut cluster = Cluster::new(3);
    let old = cluster.elect();
    cluster.publish(old, 5, 200);
    cluster.isolate(old);
    for number in 0..20 {
        cluster.say(old, format!("nobody else has this: {number}"));
        cluster.settle();
    }
    let image = cluster.replicas[&old].disk.crash(1);
    cluster.ticks(40);
    cluster.heal();
    let new = cluster.elect();
    cluster.publish(new, 3, 200);
    cluster.ticks(10);
    cluster.kill(old, None);
    cluster.add(old, image);
    let ends = [old, new].map(|id| cluster.partition(id).status().last);
    assert!(new != old && ends[0] > ends[1], "{ends:?}");

    let mut was_muted = false;
    for _ in 0..20 {
        cluster.tick();
        was_muted |= cluster.partition(old).status().muted;
    }

    assert!(was_muted, "what it had acknowledged is gone");
    cluster.assert_identical();
}

/// Seed 200002069: a follower that alone knew of a later life of its leader, as the clock had gone back, stayed without one for ever.
#[test]
fn a_leader_is_heard_whatever_the_number_of_its_life() {
    let mut cluster = Cluster::new(3);
    let first = cluster.elect();
    let [replaced, other] = others(&cluster, &[first])[..] else { unreachable!() };
    cluster.publish(first, 5, 200);
    cluster.ticks(5);
    cluster.kill(replaced, None);
    cluster.kill(first, None);
    cluster.start(first);
    if cluster.elect() == other {
        cluster.partition_mut(other).transfer_leadership(first).expect("it votes");
        cluster.ticks(5);
    }
    assert_eq!(cluster.leader(), Some(first), "it has not heard of the life that is lost");

    let now = std::mem::replace(&mut cluster.now, Millis(500_000));
    cluster.joining.insert(replaced);
    cluster.cut.extend([(replaced, other), (other, replaced)]);
    cluster.add(replaced, SimDisk::new(77));
    cluster.now = now;
    cluster.ticks(20);
    assert!(!cluster.partition(replaced).status().muted);
    cluster.partition_mut(first).transfer_leadership(replaced).expect("it votes");
    cluster.ticks(5);
    assert_eq!(cluster.leader(), Some(replaced));
    cluster.heal();

    cluster.publish(replaced, 3, 10);
    cluster.ticks(5);

    cluster.assert_identical();
}

/// Seed 1795334508773: a follower that alone knew of a later life refused the votes of the one that was made whole since, and said
/// nothing; the two could elect nobody when the leader went.
#[test]
fn a_replica_that_was_made_whole_votes_also_where_a_later_life_of_it_is_known() {
    let mut cluster = Cluster::new(3);
    let first = cluster.elect();
    let [replaced, behind] = others(&cluster, &[first])[..] else { unreachable!() };
    cluster.publish(first, 5, 200);
    cluster.partition_mut(first).transfer_leadership(behind).expect("it votes");
    cluster.ticks(5);
    assert_eq!(cluster.leader(), Some(behind), "it hears of the life that will be lost");
    cluster.kill(replaced, None);
    cluster.kill(first, None);
    cluster.start(first);
    cluster.elect();
    cluster.partition_mut(behind).transfer_leadership(first).expect("it votes");
    cluster.ticks(5);
    assert_eq!(cluster.leader(), Some(first), "it has not heard of the life that is lost");
    cluster.joining.insert(replaced);
    cluster.replicas.get_mut(&replaced).expect("known").disk = SimDisk::new(77);
    cluster.cut.extend([(replaced, behind), (behind, replaced)]);
    start_at(&mut cluster, replaced, Millis(500_000));
    cluster.ticks(20);
    assert!(!cluster.partition(replaced).status().muted, "its leader has made it whole");
    cluster.isolate(behind);
    cluster.publish(first, 20, 200);
    cluster.kill(first, None);
    cluster.refused.clear();

    cluster.heal();
    cluster.ticks(60);

    assert!(cluster.refused.iter().any(|refusal| refusal.contains("speaks in its life")));
    assert_eq!(cluster.leader(), Some(replaced), "only it has what is confirmed");
    assert!(!cluster.partition(replaced).status().muted);
    cluster.publish(replaced, 1, 10);
}

#[test]
fn what_an_earlier_life_acknowledged_is_not_counted() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let [away, replaced] = others(&cluster, &[leader])[..] else { unreachable!() };
    cluster.publish(leader, 5, 200);
    cluster.isolate(away);
    let token = cluster.say(leader, "only the leader and a lost disk have this");
    cluster.flush();
    while let Some((from, to, message)) = cluster.network.pop_front() {
        cluster.deliver(from, to, message);
    }
    cluster.flush();
    let late: Vec<_> = cluster.network.drain(..).filter(|(_, to, _)| *to == leader).collect();
    assert!(!late.is_empty(), "the acknowledgement is on its way when the disk is lost");
    cluster.kill(replaced, None);
    cluster.joining.insert(replaced);
    cluster.add(replaced, SimDisk::new(77));
    // Heartbeats pass and entries do not: the leader hears of the new life, and the new life has nothing.
    for _ in 0..3 {
        cluster.now = cluster.now.plus(100);
        cluster.tick_all();
        cluster.flush();
        while let Some((from, to, message)) = cluster.network.pop_front() {
            if to != replaced || message.len() < 200 {
                cluster.deliver(from, to, message);
                cluster.flush();
            }
        }
    }
    assert_eq!(cluster.partition(replaced).status().last, 0);
    assert_eq!(cluster.answer(leader, token), None);
    cluster.refused.clear();
    for (from, to, message) in late {
        cluster.deliver(from, to, message);
    }
    assert_eq!(cluster.answer(leader, token), None, "nobody has it but the leader");
    assert!(cluster.refused[0].contains("speaks in its life"), "{:?}", cluster.refused);
    cluster.ticks(3);
    assert_eq!(cluster.answer(leader, token), None, "a majority that needs it does not count");
    cluster.heal();
    cluster.ticks(20);
    assert_eq!(cluster.answer(leader, token), Some(Ok(true)), "stored again by its new life");
    assert_eq!(cluster.frames(leader), cluster.frames(replaced));
}

#[test]
fn an_end_that_is_lost_is_cut_and_fetched_again() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    let damaged = others(&cluster, &[leader])[0];
    cluster.publish(leader, 30, 200);
    cluster.ticks(5);
    let segment = cluster.partition(damaged).log().segments().pop().expect("one");
    cluster.kill(damaged, None);
    let disk = cluster.replicas[&damaged].disk.clone();
    disk.zero(&segment.path, segment.end_bytes - 1500..segment.end_bytes).expect("zeroes");
    cluster.start(damaged);
    assert!(cluster.replicas[&damaged].fenced.is_some(), "it looks through all of its log");
    cluster.tick_all();
    assert!(cluster.partition(damaged).status().muted);
    cluster.ticks(20);
    assert!(!cluster.partition(damaged).status().muted);
    cluster.assert_identical();
}
