//! What is done for queues and no client asks for: dead letters go to queues in other partitions, and administrators' requests to
//! their homes.
//!
//! Pure, a connection's machine like [`Client`](super::Client): one in each process, serving all partitions. It keeps nothing that
//! matters: a letter is announced by where it died until this machine has said that it is stored.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::Placement;
use crate::model::record::DedupKey;
use crate::model::{PartitionId, QueueName, Refusal, Token};
use crate::partition::request::{
    Event, Letter, LetterId, Publish, QueueAction, QueueAnswer, QueueRequest, Request,
};

/// Carries letters, and asks for administrators.
pub struct Steward {
    placement: Placement,
    carries: bool,
    /// Letters that their targets are storing, with where they died.
    carried: BTreeMap<Token, (PartitionId, PartitionId, LetterId)>,
    /// Requests that are not answered, with whom they were asked.
    asked: BTreeMap<Token, PartitionId>,
    next_token: u64,
    requests: VecDeque<(PartitionId, Request)>,
    answers: VecDeque<(Token, Result<QueueAnswer, Refusal>)>,
}

impl Steward {
    /// Returns one that carries nothing.
    pub fn new(placement: Placement) -> Steward {
        Steward {
            placement,
            carries: false,
            carried: BTreeMap::new(),
            asked: BTreeMap::new(),
            next_token: 0,
            requests: VecDeque::new(),
            answers: VecDeque::new(),
        }
    }

    /// Takes over the letters of every partition. Of several stewards the last one has them.
    pub fn carry_letters(&mut self) {
        self.carries = true;
        let ask = |partition| (partition, Request::CarryLetters);
        self.requests.extend(self.placement.data().map(ask));
    }

    /// Asks for something of a queue; [`poll_answer`](Steward::poll_answer) has what became of it.
    pub fn ask(&mut self, queue: QueueName, action: QueueAction) -> Token {
        let (token, home) = (self.token(), self.placement.queue(&queue));
        self.asked.insert(token, home);
        let request = Request::Queue(QueueRequest { token, queue, action });
        self.requests.push_back((home, request));
        token
    }

    /// Takes an event of a partition.
    pub fn handle_event(&mut self, from: PartitionId, event: Event) {
        match event {
            Event::Letter(letter) => self.carry(from, *letter),
            Event::Confirm { token, result } => {
                if let Some((_, home, id)) = self.carried.remove(&token) {
                    let result = result.map(|_| ());
                    self.requests.push_back((home, Request::LetterArrived { id, result }));
                }
            }
            Event::Queue { token, result } if self.asked.remove(&token).is_some() => {
                self.answers.push_back((token, result));
            }
            // What it waits for there may have been done or not: letters are announced again, administrators ask again.
            Event::Resigned(refusal) => {
                if self.carries {
                    self.requests.push_back((from, Request::CarryLetters));
                }
                self.carried.retain(|_, (target, ..)| *target != from);
                let asked = std::mem::take(&mut self.asked);
                let (lost, kept) = asked.into_iter().partition(|(_, home)| *home == from);
                self.asked = kept;
                let lost: BTreeMap<Token, PartitionId> = lost;
                self.answers.extend(lost.into_keys().map(|token| (token, Err(refusal.clone()))));
            }
            // It opens no session, reads nothing and joins no group.
            _ => {}
        }
    }

    /// The next request, with the partition it is for.
    pub fn poll_request(&mut self) -> Option<(PartitionId, Request)> {
        self.requests.pop_front()
    }

    /// The next answer.
    pub fn poll_answer(&mut self) -> Option<(Token, Result<QueueAnswer, Refusal>)> {
        self.answers.pop_front()
    }

    fn carry(&mut self, from: PartitionId, letter: Letter) {
        let Letter { id, target, message } = letter;
        let (token, to) = (self.token(), self.placement.queue(&target));
        self.carried.insert(token, (to, from, id));
        let publish = Publish {
            token: Some(token),
            message: Arc::new(message),
            dedup: DedupKey::default(),
            queue: Some(target),
            is_copy: false,
        };
        self.requests.push_back((to, Request::Publish(publish)));
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }
}
