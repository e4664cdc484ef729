//! Replicas whose logs are damaged: they take no part until their peers have put back what they lost.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use fluxmq::partition::request::Request;
use fluxmq::partition::{MemberChange, Options, Partition, Repaired, ReplicaId, Role};
use fluxmq::planted::{PlantedBug, plant};
use fluxmq_log::disk::Disk;
use fluxmq_log::planted::PlantedBug as LogBug;
use fluxmq_log::sim_disk::SimDisk;

use crate::cluster::{Cluster, id};

/// Where an envelope says what it is about.
const KIND_AT: usize = 1;
/// The connection of a process that publishes wills.
const SERVICE: u64 = 99;

/// Three replicas with several sealed segments, at rest.
fn filled() -> (Cluster, ReplicaId) {
    let mut cluster = Cluster::new(3);
    let leader = cluster.elect();
    cluster.publish(leader, 60, 4000);
    cluster.ticks(5);
    assert!(cluster.partition(leader).log().segments().len() > 3);
    (cluster, leader)
}

fn other(cluster: &Cluster, than: &[ReplicaId]) -> ReplicaId {
    cluster.voters.iter().copied().find(|other| !than.contains(other)).expect("another")
}

/// Lets time pass until everybody runs; returns what was repaired at each replica that was fenced meanwhile.
fn heal(cluster: &mut Cluster, ticks: usize) -> Vec<Repaired> {
    let mut repaired = std::collections::BTreeMap::new();
    for _ in 0..ticks {
        let fenced =
            cluster.replicas.iter().filter_map(|(id, it)| Some((*id, it.fenced.as_ref()?)));
        for (id, fenced) in fenced {
            repaired.insert(id, fenced.status().repaired);
        }
        cluster.tick();
    }
    for (id, replica) in &cluster.replicas {
        let status = replica.fenced.as_ref().map(|fenced| fenced.status());
        assert_eq!(status, None, "replica {id}");
    }
    repaired.into_values().collect()
}

#[test]
fn a_damaged_replica_is_repaired_and_votes_again() {
    let (mut cluster, leader) = filled();
    let damaged = other(&cluster, &[leader]);
    let places = cluster.places(damaged);
    cluster.rot(damaged, &[8]);
    let headers: Vec<_> = places.iter().filter(|place| place.3 == 0).collect();
    let disk = cluster.replicas[&damaged].disk.clone();
    cluster.kill(damaged, None);
    disk.remove(&headers[1].0).expect("removes");
    disk.zero(&headers[2].0, 0..9000).expect("zeroes");
    cluster.start(damaged);
    assert!(cluster.replicas[&damaged].fenced.is_some());
    let repaired = heal(&mut cluster, 20);
    let [Repaired { segments: 1, .. }] = repaired[..] else { panic!("{repaired:?}") };
    cluster.assert_identical();
    let status = cluster.partition(damaged).status();
    assert!(!status.muted && status.leader == Some(leader), "{status:?}");
    cluster.partition_mut(leader).transfer_leadership(damaged).expect("transfers");
    cluster.settle();
    assert_eq!(cluster.leader(), Some(damaged), "it can lead");
    cluster.publish(damaged, 3, 100);
}

#[test]
fn who_publishes_wills_and_carries_letters_is_known_after_a_repair() {
    for tells_late in [false, true] {
        let (mut cluster, leader) = filled();
        let damaged = other(&cluster, &[leader]);
        match tells_late {
            true => {
                cluster.kill(damaged, None);
                let disk = cluster.replicas[&damaged].disk.clone();
                disk.flip_bit(Path::new("p0001/log/00000000000000000001.seg"), 80).expect("flips");
                cluster.start(damaged);
                cluster.ask_for(SERVICE, damaged, Request::PublishWills);
            }
            false => {
                cluster.ask_for(SERVICE, damaged, Request::PublishWills);
                cluster.rot(damaged, &[8]);
                cluster.fence(damaged);
            }
        }
        assert!(cluster.replicas[&damaged].fenced.is_some());
        heal(&mut cluster, 20);
        cluster.partition_mut(leader).transfer_leadership(damaged).expect("transfers");
        cluster.settle();
        assert_eq!(cluster.leader(), Some(damaged));

        cluster.lose_mortal(2, damaged, (0, 0));
        cluster.ticks(3);

        assert_eq!(cluster.wills_told(damaged, SERVICE), 1, "told late: {tells_late}");
    }
}

#[test]
fn a_replica_that_waits_for_repair_does_not_vote() {
    let (mut cluster, leader) = filled();
    let damaged = other(&cluster, &[leader]);
    cluster.kill(leader, None);
    cluster.rot(damaged, &[8]);
    let disk = cluster.replicas[&damaged].disk.clone();
    cluster.kill(damaged, None);
    // So that the scan finds it at once.
    disk.flip_bit(Path::new("p0001/log/00000000000000000001.seg"), 80).expect("flips");
    cluster.start(damaged);
    cluster.is_lost = Some(|message| message[KIND_AT] == 6);
    for _ in 0..60 {
        cluster.tick();
        let mut running = cluster.replicas.values().filter_map(|it| it.partition.as_ref());
        let leads = |it: &Partition<SimDisk>| it.status().role == Role::Leader;
        assert!(!running.any(leads), "one of three votes, and one waits");
    }
    cluster.is_lost = None;
    heal(&mut cluster, 60);
    let next = cluster.elect();
    cluster.publish(next, 1, 10);
    cluster.start(leader);
    cluster.ticks(10);
    cluster.assert_identical();
}

#[test]
fn a_leader_that_finds_rot_hands_over_and_is_repaired() {
    let (mut cluster, leader) = filled();
    let away = other(&cluster, &[leader]);
    cluster.isolate(away);
    cluster.publish(leader, 40, 4000);
    cluster.rot(leader, &[70]);
    cluster.heal();
    let mut was_fenced = false;
    let mut ticks = 0;
    for tick in 0..40 {
        cluster.tick();
        was_fenced |= cluster.replicas[&leader].fenced.is_some();
        if ticks == 0 && was_fenced && cluster.leader().is_some() {
            ticks = tick + 1;
        }
    }
    assert!(was_fenced && ticks < 10, "another leads after {ticks} ticks");
    assert_ne!(cluster.elect(), leader);
    cluster.assert_identical();
    let next = cluster.elect();
    cluster.publish(next, 3, 100);
}

#[test]
fn what_nobody_has_any_more_stops_the_partition_and_says_so() {
    let (mut cluster, _) = filled();
    for id in cluster.voters.clone() {
        let disk = cluster.replicas[&id].disk.clone();
        cluster.rot(id, &[20, 5 + 3 * id.0]);
        cluster.kill(id, None);
        // So that it looks.
        let header = format!("p0001/log/{:020}.seg", id.0 - 1);
        disk.flip_bit(Path::new(&header), 80).expect("flips");
    }
    for id in cluster.voters.clone() {
        cluster.start(id);
    }
    cluster.ticks(60);
    assert_eq!(cluster.leader(), None);
    for (id, replica) in &cluster.replicas {
        let status = replica.fenced.as_ref().expect("it waits").status();
        let words = status.to_string();
        assert!(words.contains("stopped: replicas"), "{words}");
        assert!(words.contains(".seg: damaged at byte"), "{words}");
        assert_eq!(status.peers.len(), 2, "{id}");
        let [damage] = &status.damage[..] else { panic!("all but one is repaired: {status:?}") };
        assert_eq!(damage.first_index, 20, "{words}");
    }
}

#[test]
fn a_replica_that_forgot_its_vote_and_its_snapshots_comes_back() {
    let (mut cluster, leader) = filled();
    let damaged = other(&cluster, &[leader]);
    cluster.partition_mut(damaged).checkpoint().expect("saves");
    let disk = cluster.replicas[&damaged].disk.clone();
    cluster.kill(damaged, None);
    let snapshots = disk.list(Path::new("p0001/snap")).expect("lists");
    assert_eq!(snapshots.len(), 1);
    disk.flip_bit(&Path::new("p0001/snap").join(&snapshots[0].name), 99).expect("flips");
    disk.zero(Path::new("p0001/hs.bin"), 0..8192).expect("zeroes");
    cluster.start(damaged);
    let mut was_muted = false;
    for _ in 0..20 {
        cluster.tick();
        let partition = cluster.replicas[&damaged].partition.as_ref();
        was_muted |= partition.is_some_and(|it| it.status().muted);
    }
    assert!(was_muted && !cluster.partition(damaged).status().muted);
    cluster.assert_identical();
}

#[test]
fn a_log_that_begins_after_a_lost_snapshot_is_fetched_anew() {
    let mut cluster =
        Cluster::with(3, Options { snapshot_every_bytes: 60_000, ..Options::default() });
    let leader = cluster.elect();
    cluster.publish(leader, 90, 4000);
    cluster.ticks(5);
    for id in cluster.voters.clone() {
        let last = cluster.partition(id).status().last;
        assert!(cluster.partition_mut(id).trim(last).expect("trims") > 10);
    }
    let damaged = other(&cluster, &[leader]);
    let disk = cluster.replicas[&damaged].disk.clone();
    cluster.kill(damaged, None);
    for snapshot in disk.list(Path::new("p0001/snap")).expect("lists") {
        disk.zero(&Path::new("p0001/snap").join(&snapshot.name), 0..5000).expect("zeroes");
    }
    cluster.start(damaged);
    heal(&mut cluster, 40);
    cluster.publish(leader, 3, 100);
    cluster.ticks(3);
    cluster.assert_identical();
}

#[test]
fn logs_begin_behind_what_is_lost_where_history_is_over_and_keep_the_rest() {
    let mut cluster =
        Cluster::with(3, Options { snapshot_every_bytes: 60_000, ..Options::default() });
    let leader = cluster.elect();
    cluster.publish(leader, 90, 4000);
    cluster.ticks(5);
    let last = cluster.partition(leader).status().last;
    assert!(cluster.partition_mut(leader).trim(last).expect("trims") > 10);
    let one = other(&cluster, &[leader]);
    let damaged = [one, other(&cluster, &[leader, one])];
    for id in damaged {
        cluster.rot(id, &[8]);
        cluster.kill(id, None);
        // So that it looks.
        let header = format!("p0001/log/{:020}.seg", 0);
        cluster.replicas[&id].disk.flip_bit(Path::new(&header), 80).expect("flips");
    }
    cluster.ticks(40);
    assert_eq!(cluster.leader(), None, "it has no majority");

    // Nobody leads: with what is behind the damage given up on two of three, nobody ever would.
    damaged.into_iter().for_each(|id| cluster.start(id));
    let repaired = heal(&mut cluster, 40);

    let [Repaired { begun: 1, cuts: 0, .. }, Repaired { begun: 1, cuts: 0, .. }] = repaired[..]
    else {
        panic!("{repaired:?}")
    };
    for id in damaged {
        let log = cluster.partition(id).log();
        assert!(log.first_index() > 8 && log.last_index() >= last, "{id}");
    }
    // Whoever leads can also give the log to a replica that has nothing.
    let leader = cluster.elect();
    cluster.publish(leader, 3, 100);
    let empty = other(&cluster, &[leader]);
    cluster.kill(empty, None);
    cluster.replicas.get_mut(&empty).expect("it is one of them").disk = SimDisk::new(7);
    cluster.start(empty);
    heal(&mut cluster, 60);
    assert!(!cluster.partition(empty).status().muted);
    assert_eq!(
        cluster.partition(empty).log().last_index(),
        cluster.partition(leader).log().last_index()
    );
}

#[test]
fn damaged_entries_that_were_never_committed_are_given_up() {
    let (mut cluster, old) = filled();
    cluster.isolate(old);
    for number in 0..20 {
        cluster.say(old, vec![b'y'; 1000 + number]);
        cluster.settle();
    }
    let last = cluster.partition(old).status().last;
    cluster.rot(old, &[last - 10]);
    cluster.kill(old, None);
    cluster.ticks(40);
    let new = cluster.elect();
    cluster.publish(new, 5, 4000);
    cluster.start(old);
    cluster.heal();
    let repaired = heal(&mut cluster, 40);
    assert!(repaired.iter().any(|repaired| repaired.cuts == 1), "{repaired:?}");
    cluster.assert_identical();
}

#[test]
fn entries_of_another_history_that_a_peer_gave_are_dropped_and_nothing_is_given_up() {
    let (mut cluster, old) = filled();
    let common = cluster.partition(old).status().last;
    cluster.isolate(old);
    for _ in 0..3 {
        cluster.say(old, vec![b'y'; 1000]);
        cluster.settle();
    }
    cluster.ticks(40);
    let new = cluster.elect();
    let damaged = other(&cluster, &[old, new]);
    cluster.publish(new, 30, 4000);
    cluster.ticks(5);
    let segments = cluster.partition(damaged).log().segments();
    let lost = segments.iter().find(|it| it.last_index > common).expect("it went on").clone();
    assert!(lost.base_index <= common && segments.last() != Some(&lost), "it has some of both");
    cluster.kill(damaged, None);
    cluster.replicas[&damaged].disk.remove(&lost.path).expect("it is there");

    // Who has other entries behind the common ones is the first that can be asked.
    cluster.heal();
    cluster.isolate(new);
    cluster.start(damaged);
    cluster.ticks(5);
    let fenced = cluster.replicas[&damaged].fenced.as_ref().expect("waits").status();
    assert_eq!(fenced.damage.len(), 1, "{fenced}");
    cluster.heal();
    let repaired = heal(&mut cluster, 60);

    let [Repaired { segments: 1, cuts: 0, .. }] = repaired[..] else { panic!("{repaired:?}") };
    cluster.elect();
    cluster.ticks(5);
    cluster.assert_identical();
}

#[test]
fn the_log_goes_on_after_a_repair_with_another_member() {
    let (mut cluster, leader) = filled();
    let damaged = other(&cluster, &[leader]);
    cluster.joining.insert(id(4));
    cluster.add(id(4), SimDisk::new(4));
    let changed = cluster.partition_mut(leader).change_members(&[MemberChange::Learner(id(4))]);
    changed.expect("changes");
    cluster.ticks(20);
    // Everybody else is away: the learner has what is lost.
    cluster.partition_mut(damaged).checkpoint().expect("saves");
    cluster.rot(damaged, &[8]);
    let disk = cluster.replicas[&damaged].disk.clone();
    cluster.kill(damaged, None);
    disk.flip_bit(Path::new("p0001/log/00000000000000000001.seg"), 80).expect("flips");
    for other in cluster.voters.clone().into_iter().filter(|other| *other != damaged) {
        cluster.kill(other, None);
    }
    cluster.start(damaged);
    heal(&mut cluster, 40);
    assert_eq!(cluster.frames(damaged), cluster.frames(id(4)));
}

/// SplitMix64.
fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut value = *state;
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Stops all replicas, damages a share of all frames and headers, each on one of them, and starts them.
fn damage_thirds(cluster: &mut Cluster, places: &[(std::path::PathBuf, u64, u64, u64)], seed: u64) {
    let mut state = seed;
    let share = 1 + mix(&mut state) % 4;
    for (path, from, to, _) in places {
        let disk = &cluster.replicas[&id(1 + mix(&mut state) % 3)].disk;
        if mix(&mut state) % 4 >= share {
            continue;
        }
        let at = from + mix(&mut state) % (to - from);
        match mix(&mut state) % 2 {
            0 => disk.flip_bit(path, at * 8 + 1).expect("flips"),
            _ => {
                let end = to.min(&(at + 1 + mix(&mut state) % 3000)).to_owned();
                disk.zero(path, at..end).expect("zeroes");
            }
        }
    }
    for replica in cluster.voters.clone() {
        cluster.start(replica);
    }
}

/// So many layouts of disjoint damage; returns what was repaired in all.
fn layouts(count: u64) -> Repaired {
    let (mut cluster, leader) = filled();
    let places = cluster.places(leader);
    let frames = cluster.frames(leader);
    for replica in cluster.voters.clone() {
        cluster.kill(replica, None);
    }
    let pristine: Vec<SimDisk> = cluster.replicas.values().map(|it| it.disk.clone()).collect();
    let mut all = Repaired::default();
    for seed in 1..=count {
        cluster.network.clear();
        for (replica, disk) in cluster.replicas.values_mut().zip(&pristine) {
            replica.disk = disk.crash(seed);
            (replica.partition, replica.fenced) = (None, None);
        }
        damage_thirds(&mut cluster, &places, seed);
        let mut is_rested = false;
        for _ in 0..400 {
            cluster.tick();
            let fenced: Vec<_> =
                cluster.replicas.values().filter_map(|it| it.fenced.as_ref()).collect();
            if fenced.is_empty() && cluster.leader().is_some() {
                is_rested = true;
                break;
            }
            let status = fenced.iter().map(|it| it.status().repaired);
            let given = status.clone().map(|it| it.given).max().unwrap_or(0);
            let cuts = status.map(|it| it.cuts).sum::<u64>();
            assert_eq!(cuts, 0, "layout {seed}: nothing committed is given up");
            all.given = all.given.max(given);
        }
        let stuck = cluster.replicas.values().filter_map(|it| it.fenced.as_ref());
        let stuck: Vec<String> = stuck.map(|it| it.status().to_string()).collect();
        assert!(is_rested, "layout {seed}: {stuck:?}");
        let leader = cluster.elect();
        cluster.publish(leader, 1, 10);
        cluster.ticks(10);
        cluster.assert_identical();
        let found = cluster.frames(leader);
        assert!(found.len() > frames.len(), "layout {seed}");
        assert_eq!(found[..frames.len()], frames, "layout {seed}");
        all.frames += 1;
    }
    all
}

/// `FLUXMQ_LAYOUTS` says how many.
#[test]
fn disjoint_damage_on_all_replicas_is_repaired_by_themselves() {
    let count = std::env::var("FLUXMQ_LAYOUTS").map_or(40, |text| text.parse().expect("a number"));
    let all = layouts(count);
    assert!(all.given > 0, "fenced replicas gave something away");
}

/// The leader has other entries where some are lost that were never committed, and together they are as long.
fn asks_another_history() {
    let (mut cluster, old) = filled();
    let common = cluster.partition(old).status().last;
    cluster.isolate(old);
    for _ in 0..10 {
        cluster.say(old, vec![b'y'; 1000]);
        cluster.settle();
    }
    cluster.rot(old, &[common + 1]);
    cluster.kill(old, None);
    cluster.ticks(40);
    let new = cluster.elect();
    // A new leader's first entry is empty: 96 bytes.
    cluster.say(new, vec![b'z'; 1000 - 96]);
    cluster.settle();
    cluster.start(old);
    cluster.heal();
    let repaired = heal(&mut cluster, 60);
    let [Repaired { frames: 0, blocks: 0, cuts: 1, .. }] = repaired[..] else {
        panic!("something was put back that was never there: {repaired:?}")
    };
    cluster.assert_identical();
}

/// The only peer that can be reached has the same frame damaged, and does not know.
fn asks_a_rotten_peer() {
    let (mut cluster, leader) = filled();
    let damaged = other(&cluster, &[leader]);
    let rotten = other(&cluster, &[leader, damaged]);
    cluster.rot(damaged, &[8]);
    cluster.rot(rotten, &[8]);
    let disk = cluster.replicas[&damaged].disk.clone();
    cluster.kill(damaged, None);
    disk.flip_bit(Path::new("p0001/log/00000000000000000001.seg"), 80).expect("flips");
    cluster.cut.extend([(leader, damaged), (damaged, leader)]);
    cluster.start(damaged);
    let mut was_told = false;
    for _ in 0..15 {
        cluster.tick();
        was_told |= cluster.replicas[&rotten].fenced.is_some();
    }
    let repaired = cluster.replicas[&damaged].fenced.as_ref().expect("waits").status().repaired;
    assert_eq!((repaired.frames, repaired.blocks), (0, 1), "put back from what was not looked at");
    assert!(was_told, "it was asked, and looked");
    cluster.heal();
    heal(&mut cluster, 40);
    cluster.elect();
    cluster.ticks(5);
    cluster.assert_identical();
}

/// The damage is below what is proven: what is behind it is not given up.
fn keeps_what_is_proven() {
    let (mut cluster, _) = filled();
    let all = cluster.partition(id(1)).status().last;
    for replica in cluster.voters.clone() {
        let last = cluster.partition(replica).status().last;
        assert_eq!(last, all);
        cluster.rot(replica, &[last - replica.0]);
        cluster.kill(replica, None);
    }
    for replica in cluster.voters.clone() {
        cluster.start(replica);
    }
    cluster.ticks(60);
    let leader = cluster.elect();
    assert!(cluster.partition(leader).status().last > all);
    cluster.ticks(20);
    cluster.assert_identical();
}

#[test]
fn planted_defects_of_repair_are_caught() {
    let caught = |scenario: fn()| catch_unwind(AssertUnwindSafe(scenario)).is_err();
    for scenario in [asks_another_history, asks_a_rotten_peer, keeps_what_is_proven] {
        assert!(!caught(scenario), "without a defect");
    }
    fluxmq_log::planted::plant(Some(LogBug::RepairUnverified));
    assert!(caught(asks_a_rotten_peer), "repair is believed unverified");
    fluxmq_log::planted::plant(Some(LogBug::RepairUnchained));
    assert!(caught(asks_another_history), "the chain is not checked");
    fluxmq_log::planted::plant(Some(LogBug::TruncateAtAnyBadRecord));
    assert!(caught(keeps_what_is_proven), "cut below the proven point");
    fluxmq_log::planted::plant(None);
    plant(Some(PlantedBug::FencedVotes));
    assert!(caught(a_replica_that_waits_for_repair_does_not_vote), "a fenced replica votes");
    plant(None);
}
