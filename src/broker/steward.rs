//! What is done for queues and no client asks for: dead letters go to queues in other partitions, histories to the queues that follow
//! them, and administrators' requests to their homes.
//!
//! Pure, a connection's machine like [`Client`](super::Client): one in each process, serving all partitions. It keeps nothing that
//! matters: a letter is announced by where it died until this machine has said that it is stored.

mod letters;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use fluxmq_index::Offset;

use self::letters::Letters;
use super::Placement;
use crate::model::{ExchangeId, PartitionId, QueueName, QueueSettings, Refusal, Token};
use crate::partition::request::{
    Event, ExchangeAction, Followed, Following, Letter, QueueAction, QueueAnswer, QueueRequest,
    ReadHistory, ReadOn, Request,
};

/// Carries letters, and asks for administrators.
pub struct Steward {
    placement: Placement,
    carries: bool,
    /// Letters that their targets are storing.
    letters: Letters,
    /// What is under way for retroactive queues, and the request that each waits for.
    following: BTreeMap<(QueueName, PartitionId), Token>,
    asked_for: BTreeMap<Token, Course>,
    /// Exchanges that end because the last binding to them did, by the request that each waits for; and those that were asked for
    /// since there was none.
    ending: BTreeMap<Token, ExchangeId>,
    ended: BTreeSet<ExchangeId>,
    /// Requests that are not answered, with whom they were asked.
    asked: BTreeMap<Token, PartitionId>,
    next_token: u64,
    requests: VecDeque<(PartitionId, Request)>,
    answers: VecDeque<(Token, Result<QueueAnswer, Refusal>)>,
}

/// One partition's history on its way to a queue.
struct Course {
    queue: QueueName,
    settings: Arc<QueueSettings>,
    source: PartitionId,
    /// Where the queue is when the request is done.
    next: Offset,
}

impl Steward {
    /// Returns one that carries nothing.
    pub fn new(placement: Placement) -> Steward {
        Steward {
            placement,
            carries: false,
            letters: Letters::default(),
            following: BTreeMap::new(),
            asked_for: BTreeMap::new(),
            ending: BTreeMap::new(),
            ended: BTreeSet::new(),
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
                if !self.letters.is_part(token) {
                    return self.history_arrived(token, result.is_ok());
                }
                if let Some((home, arrived)) = self.letters.answered(token, result) {
                    let request = Request::LetterArrived(Box::new(arrived));
                    self.requests.push_back((home, request));
                }
            }
            Event::Follow(following) => self.follow(&following),
            Event::BindingsEnded => self.end_unused(),
            Event::Written { token, .. } if self.ending.remove(&token).is_some() => {
                self.end_unused();
            }
            Event::FollowEnded(queue) => self.follow_ended(&queue),
            Event::ReadOn { token, found } => self.bring(token, found),
            Event::Queue { token, result } if self.asked.remove(&token).is_some() => {
                self.answers.push_back((token, result));
            }
            // What it waits for there may have been done or not: letters are announced again, administrators ask again.
            Event::Resigned(refusal) => {
                if self.carries {
                    self.requests.push_back((from, Request::CarryLetters));
                }
                self.letters.give_up(from);
                if from == PartitionId::META {
                    self.ending.clear();
                    self.ended.clear();
                }
                self.give_up(from);
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
        let next = &mut self.next_token;
        let token = || {
            *next += 1;
            Token(*next)
        };
        match self.letters.carry(&self.placement, from, letter, token) {
            Ok(parts) => {
                let parts = parts.into_iter().map(|(to, part)| (to, Request::Publish(part)));
                self.requests.extend(parts);
            }
            Err(arrived) => self.requests.push_back((from, Request::LetterArrived(arrived))),
        }
    }

    /// Ends the exchanges that end with the last binding to them, and those that end with them: each is asked for once, whatever
    /// becomes of that.
    fn end_unused(&mut self) {
        let unused = self.placement.bindings().routing().unused();
        for id in unused {
            if self.ended.insert(id.clone()) {
                let token = self.token();
                self.ending.insert(token, id.clone());
                let action = Box::new(ExchangeAction::DeleteUnused(id));
                let request = Request::Exchange { token, action };
                self.requests.push_back((PartitionId::META, request));
            }
        }
        if self.ending.is_empty() {
            self.ended.clear();
        }
    }

    /// Begins to read for a queue that follows, where nothing is under way.
    fn follow(&mut self, following: &Following) {
        let Following { queue, settings, places } = following;
        for source in self.placement.data() {
            let key = (queue.clone(), source);
            let course = self.following.get(&key).and_then(|token| self.asked_for.get(token));
            if course.is_some_and(|course| course.settings.bindings == settings.bindings) {
                continue;
            }
            let place = places.iter().find(|(of, _)| *of == source);
            let next = place.map_or(Offset::ZERO, |(_, next)| *next);
            let (queue, settings) = (queue.clone(), settings.clone());
            self.read_on(Course { queue, settings, source, next });
        }
    }

    /// A queue is gone, and nobody keeps history for it any more.
    fn follow_ended(&mut self, queue: &QueueName) {
        for source in self.placement.data() {
            if let Some(token) = self.following.remove(&(queue.clone(), source)) {
                self.asked_for.remove(&token);
            }
            self.requests.push_back((source, Request::ReadNoMore(queue.clone())));
        }
    }

    fn read_on(&mut self, course: Course) {
        let token = self.token();
        let Course { queue, settings, next: from, .. } = &course;
        let (queue, settings) = (queue.clone(), settings.clone());
        let read = ReadOn { token, queue, settings, from: *from };
        self.requests.push_back((course.source, Request::ReadOn(Box::new(read))));
        self.wait_for(token, course);
    }

    /// Brings what a history has to the queue.
    fn bring(&mut self, read: Token, found: ReadHistory) {
        let Some(course) = self.take_course(read) else { return };
        let Course { queue, settings, source, next: from } = course;
        let (token, home) = (self.token(), self.placement.queue(&queue));
        let next = found.next;
        let followed = Followed {
            token,
            queue: queue.clone(),
            settings: settings.clone(),
            source,
            from,
            found,
        };
        self.requests.push_back((home, Request::Follow(Box::new(followed))));
        self.wait_for(token, Course { queue, settings, source, next });
    }

    /// The queue has it, and wants what comes next. Where it has not, its home says again where it is.
    fn history_arrived(&mut self, token: Token, is_stored: bool) {
        if let Some(course) = self.take_course(token).filter(|_| is_stored) {
            self.read_on(course);
        }
    }

    /// What was under way from or to a partition is lost.
    fn give_up(&mut self, partition: PartitionId) {
        let placement = &self.placement;
        let following = &mut self.following;
        self.asked_for.retain(|_, course| {
            let is_kept = course.source != partition && placement.queue(&course.queue) != partition;
            if !is_kept {
                following.remove(&(course.queue.clone(), course.source));
            }
            is_kept
        });
    }

    fn wait_for(&mut self, token: Token, course: Course) {
        let key = (course.queue.clone(), course.source);
        if let Some(before) = self.following.insert(key, token) {
            self.asked_for.remove(&before);
        }
        self.asked_for.insert(token, course);
    }

    fn take_course(&mut self, token: Token) -> Option<Course> {
        let course = self.asked_for.remove(&token)?;
        self.following.remove(&(course.queue.clone(), course.source));
        Some(course)
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }
}
