//! Every message that is let through, the library survives; what it does not survive is named one by one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use bytes::Bytes;
use fluxmq_log::sim_disk::SimDisk;
use fluxmq_log::{Log, LogOptions, Offset, SnapshotAt};
use raft::eraftpb::{ConfState, Entry, Message, MessageType};

use super::guard::{Known, check};
use super::member::{Member, Members, ReplicaId};
use super::node::{Node, Role};
use super::random::mix;

/// What a replica is when the message comes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Fresh,
    Follower,
    Candidate,
    Leader,
    /// Its log begins after a snapshot.
    Trimmed,
}

const STAGES: [Stage; 5] =
    [Stage::Fresh, Stage::Fresh, Stage::Candidate, Stage::Leader, Stage::Trimmed];

fn message(kind: MessageType, from: u64, term: u64) -> Message {
    let mut message = Message { from, to: 1, term, ..Message::default() };
    message.set_msg_type(kind);
    message
}

fn entries(first: u64, terms: &[u64]) -> Vec<Entry> {
    let entry = |(at, term): (usize, &u64)| Entry {
        index: first + at as u64,
        term: *term,
        ..Entry::default()
    };
    terms.iter().enumerate().map(entry).collect()
}

/// Replica 1 of three.
fn node(stage: Stage) -> Node<SimDisk> {
    let options = LogOptions { partition: 1, ..LogOptions::default() };
    let (mut log, _) = Log::open(SimDisk::new(1), PathBuf::from("p"), options).expect("opens");
    let ids = [1, 2, 3].map(ReplicaId).to_vec();
    let member = Member { id: ids[0], voters: ids, learners: Vec::new(), joins: false, seed: 1 };
    let mut applied = 0;
    if stage == Stage::Trimmed {
        applied = 4;
        let at = SnapshotAt { index: applied, term: 2, end: Offset(0) };
        log.install_snapshot(at, None, &[Bytes::from_static(b"x")]).expect("installs");
    }
    let mut node =
        Node::open(log, &member, Members::first(&member), applied, 1_000).expect("opens");
    // Votes are looked at.
    node.age = 1_000;
    if stage == Stage::Fresh {
        return node;
    }
    let (index, terms): (u64, &[u64]) = match applied {
        0 => (0, &[1, 1, 2, 3]),
        _ => (4, &[2, 3]),
    };
    let mut append = message(MessageType::MsgAppend, 2, 3);
    (append.index, append.commit) = (index, index + 1);
    append.log_term = node.log().term(index).expect("it has the one before");
    append.set_entries(entries(index + 1, terms).into());
    take(&mut node, append);
    if matches!(stage, Stage::Candidate | Stage::Leader) {
        node.raw.campaign().expect("stands");
        node.advance().expect("stands");
        take(&mut node, message(MessageType::MsgRequestPreVoteResponse, 3, 4));
        assert_eq!(node.role(), Role::Candidate);
    }
    if stage == Stage::Leader {
        take(&mut node, message(MessageType::MsgRequestVoteResponse, 3, 4));
        assert_eq!(node.role(), Role::Leader);
    }
    node
}

fn take(node: &mut Node<SimDisk>, message: Message) {
    node.step(Box::new(message)).expect("goes on");
    while let Some(flush) = node.begin_flush() {
        node.finish_flush(flush.run()).expect("flushes");
    }
}

fn is_let_through(node: &Node<SimDisk>, message: &Message) -> bool {
    let known = Known {
        log: node.log(),
        term: node.term(),
        commit: node.commit(),
        is_leader: node.role() == Role::Leader,
    };
    check(message, &known).is_ok()
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = mix(&[self.0]);
        self.0 % limit
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }
}

const KINDS: [MessageType; 10] = [
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgTimeoutNow,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

/// A message whose fields are those that something hangs on.
fn any(random: &mut Random, node: &Node<SimDisk>) -> Message {
    let (term, last) = (node.term(), node.log().last_index());
    let terms = [0, 1, 2, 3, term, term, term, term + 1, u64::MAX];
    let (low, commit) = (node.log().first_index() - 1, node.commit());
    let indexes = [0, low, commit, commit + 1, last, last, last + 1, last + 9, u64::MAX];
    let mut message = message(random.pick(&KINDS), random.pick(&[2, 2, 3, 9]), random.pick(&terms));
    message.log_term = random.pick(&terms);
    message.index = random.pick(&indexes);
    if random.below(2) == 0 {
        message.log_term = node.log().term(message.index).unwrap_or(0);
    }
    message.commit = random.pick(&indexes);
    message.commit_term = random.pick(&terms);
    message.reject = random.below(2) == 0;
    message.reject_hint = random.pick(&indexes);
    message.request_snapshot = random.pick(&[0, 0, 0, 0, 0, last, u64::MAX]);
    message.priority = random.pick(&[0, 0, 0, 0, 0, -1, i64::MIN, 7]);
    message.context = random.pick::<&[u8]>(&[b"", b"CampaignTransfer", b"12345678"]).into();
    let mut next = message.index.wrapping_add(1);
    for _ in 0..random.below(4) {
        let entry = Entry { index: next, term: random.pick(&terms), ..Entry::default() };
        message.mut_entries().push(entry);
        next = next.wrapping_add(random.pick(&[1, 1, 1, 1, 0, 2]));
    }
    if message.get_msg_type() == MessageType::MsgSnapshot {
        let mut ids = || -> Vec<u64> {
            let count = random.below(4);
            (0..count).map(|_| random.pick(&[1, 2, 3, 4, 0, 1, 2, 3])).collect()
        };
        let mut state = ConfState::from((ids(), ids()));
        (state.voters_outgoing, state.learners_next) = (ids(), ids());
        if random.below(2) == 0 {
            state = ConfState::from((vec![2, 3], vec![1]));
        }
        state.auto_leave = random.below(3) == 0;
        let metadata = message.mut_snapshot().mut_metadata();
        metadata.set_conf_state(state);
        (metadata.index, metadata.term) = (random.pick(&indexes), random.pick(&terms));
    }
    message
}

/// Returns false when the library panics on it.
fn survives(node: &mut Node<SimDisk>, message: &Message) -> bool {
    let is_snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
    let step = || match is_snapshot {
        // What it does with an offer once all of it has come.
        true => drop(node.raw.step(message.clone())),
        false => take(node, message.clone()),
    };
    catch_unwind(AssertUnwindSafe(step)).is_ok()
}

#[test]
fn the_library_survives_whatever_is_let_through() {
    let mut random = Random(1);
    let (mut through, mut refused) = (0, 0);
    for round in 0..500 {
        let stage = STAGES[round % STAGES.len()];
        let mut node = node(stage);
        for _ in 0..8 {
            let message = any(&mut random, &node);
            if !is_let_through(&node, &message) {
                refused += 1;
                continue;
            }
            through += 1;
            assert!(survives(&mut node, &message), "{stage:?}: {message:?}");
            if message.get_msg_type() == MessageType::MsgSnapshot {
                break;
            }
        }
    }
    assert!(through > 500 && refused > 500, "{through} let through, {refused} refused");
}

/// What the library panics on, and is therefore never told.
#[test]
fn what_the_library_does_not_survive_is_refused() {
    use MessageType::*;
    let of = |kind, term, change: &dyn Fn(&mut Message)| {
        let mut message = message(kind, 2, term);
        change(&mut message);
        message
    };
    let snapshot = |term: u64, voters: &[u64], learners: &[u64]| {
        of(MsgSnapshot, 3, &|message| {
            let metadata = message.mut_snapshot().mut_metadata();
            metadata.set_conf_state(ConfState::from((voters.to_vec(), learners.to_vec())));
            (metadata.index, metadata.term) = (9, term);
        })
    };
    let cases: [(Stage, Message); 10] = [
        (
            Stage::Fresh,
            of(MsgRequestVote, 0, &|message| (message.index, message.log_term) = (9, 9)),
        ),
        (Stage::Fresh, of(MsgRequestPreVote, 0, &|_| {})),
        (Stage::Fresh, of(MsgRequestPreVote, 1, &|message| message.priority = -1)),
        (Stage::Follower, of(MsgAppend, 3, &|message| (message.index, message.commit) = (9, 9))),
        (
            Stage::Follower,
            of(MsgAppend, 3, &|message| {
                message.index = 9;
                message.set_entries(entries(10, &[3]).into());
            }),
        ),
        (
            Stage::Fresh,
            of(MsgAppend, 3, &|message| {
                message.commit = 1;
                message.set_entries(entries(1, &[0]).into());
            }),
        ),
        (
            Stage::Leader,
            of(MsgAppendResponse, 4, &|message| {
                (message.index, message.reject, message.reject_hint) = (4, true, u64::MAX);
            }),
        ),
        (Stage::Follower, snapshot(0, &[1, 2, 3], &[])),
        (Stage::Follower, snapshot(3, &[], &[1])),
        (Stage::Follower, snapshot(3, &[2, 3], &[1, 2])),
    ];
    for (stage, message) in cases {
        let mut node = node(stage);
        assert!(!is_let_through(&node, &message), "{stage:?}: {message:?}");
        // Without overflow checks it goes on with the wrong number.
        let wraps = message.reject_hint == u64::MAX && !cfg!(debug_assertions);
        assert!(
            wraps || !survives(&mut node, &message),
            "the library takes it now: {stage:?}: {message:?}"
        );
    }
}
