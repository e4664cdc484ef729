//! Replays: subscriptions with readers of their own, which begin where the client says and go on live.
//!
//! A partition finds where a time or an offset is. The last so many messages of several partitions are found here: each says which its
//! newest are, and the newest of them all are taken one by one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use fluxmq_index::Offset;

use super::subscribe::Subscribed;
use super::{Client, Waiting};
use crate::model::address::{SubscribeAddress, check_replayed};
use crate::model::{
    DeliverySource, Filter, Millis, OutboundEntry, PartitionId, ReaderId, Refusal, Subscription,
    Token,
};
use crate::partition::request::{Attach, Newest, OpenedSession, Position, Request};

/// The most that `last=N` counts: all of them are looked at before the replay begins.
const LAST_MAX: u64 = 10_000;
/// How many of the newest a partition is asked for at a time.
const NEWEST_PER_REQUEST: usize = 256;

/// The replays of a connection.
#[derive(Debug, Default)]
pub(super) struct Replays {
    partitions: BTreeMap<ReaderId, Vec<PartitionId>>,
    last: ReaderId,
}

/// A replay on its way to its partitions.
#[derive(Clone, Debug)]
pub(super) struct NewReplay {
    pub(super) reader: ReaderId,
    pub(super) partitions: Vec<PartitionId>,
    /// What it replays.
    filter: Filter,
    /// `None` goes on where it is.
    position: Option<Position>,
    retained: bool,
}

/// A replay of the last so many messages, before it is known where they begin.
#[derive(Debug)]
pub(super) struct Last {
    part: (Token, usize),
    subscription: Arc<Subscription>,
    replay: NewReplay,
    /// So many more.
    missing: u64,
    lists: BTreeMap<PartitionId, List>,
}

/// The newest messages of one partition.
#[derive(Debug, Default)]
struct List {
    /// Newest first, those that the client may read.
    found: VecDeque<(Millis, Offset)>,
    /// Where the partition is asked to go on.
    before: Option<Offset>,
    is_asked: bool,
    /// Where the replay begins there, as far as is known.
    start: Option<Offset>,
}

impl Replays {
    /// Returns true for what a replay that is over has handed out.
    pub(super) fn is_over(&self, source: DeliverySource) -> bool {
        let is_over =
            |reader: ReaderId| reader.is_replay() && !self.partitions.contains_key(&reader);
        source.reader().is_some_and(is_over)
    }

    fn next(&mut self) -> ReaderId {
        self.last = ReaderId(self.last.0 + 1);
        self.last
    }
}

impl Client {
    /// Decides whether a filter is replayed, and from where: `None` is a plain subscription.
    ///
    /// A subscription that names no position goes on where it is, and so does `resume`: nothing is lost by subscribing again
    /// [MQTT-3.8.4-4]. One that names a position begins there, whatever was before.
    pub(super) fn place_replay(
        &mut self,
        written: &Filter,
        filter: &Filter,
        position: Option<Position>,
        retained: bool,
    ) -> Result<Option<NewReplay>, Refusal> {
        let known = self.subscriptions.get(written).cloned();
        let partitions = self.placement.filter(filter);
        let position = match (position, &known) {
            (None | Some(Position::Resume), Some(Subscribed::Replay(reader))) => {
                let (reader, filter) = (*reader, filter.clone());
                let replay = NewReplay { reader, partitions, filter, position: None, retained };
                return Ok(Some(replay));
            }
            (None, _) | (Some(Position::Resume), Some(_)) => return Ok(None),
            (Some(Position::Resume), None) => Position::Earliest,
            (Some(Position::Last(0)), _) => Position::Latest,
            (Some(position), _) => position,
        };
        check_replayed(filter)?;
        check_position(position, filter, partitions.len())?;
        let replaces = u32::from(matches!(known, Some(Subscribed::Replay(_))));
        if self.replays.partitions.len() >= self.limits.replays_max + replaces as usize {
            return Err(Refusal::Quota { limit: "replays of one client" });
        }
        match known {
            Some(Subscribed::Replay(reader)) => self.end_replay(reader),
            Some(Subscribed::Filter) => self.detach_filter(written),
            Some(Subscribed::Group(_)) | None => {}
        }
        let reader = self.replays.next();
        self.replays.partitions.insert(reader, partitions.clone());
        self.subscriptions.insert(written.clone(), Subscribed::Replay(reader));
        let (filter, position) = (filter.clone(), Some(position));
        Ok(Some(NewReplay { reader, partitions, filter, position, retained }))
    }

    /// Begins a replay in its partitions; each answers for the part of the SUBSCRIBE.
    pub(super) fn begin_replay(
        &mut self,
        part: (Token, usize),
        subscription: &Arc<Subscription>,
        replay: NewReplay,
    ) {
        let Some(Position::Last(count)) = replay.position else {
            for partition in &replay.partitions {
                self.attach_replay(part, subscription, &replay, (*partition, replay.position));
            }
            return;
        };
        let lists = replay.partitions.iter().map(|partition| (*partition, List::default()));
        let (lists, subscription) = (lists.collect(), subscription.clone());
        let last = Last { part, subscription, replay, missing: count, lists };
        let whole = self.own_token();
        self.look_further(whole, last);
    }

    fn attach_replay(
        &mut self,
        (whole, index): (Token, usize),
        subscription: &Arc<Subscription>,
        replay: &NewReplay,
        (partition, position): (PartitionId, Option<Position>),
    ) {
        let token = self.wait_for(Waiting::PartOf(whole, index));
        // Partitions know what is replayed, not how its client wrote it.
        let filter = replay.filter.clone();
        let read = Arc::new(Subscription { filter, ..Subscription::clone(subscription) });
        let attach = Attach {
            reader: replay.reader,
            position,
            subscriptions: vec![(read, None)],
            retained: vec![replay.retained],
            ..self.new_attach(token)
        };
        self.begin_reading(partition, attach);
    }

    /// A partition has listed its newest messages.
    pub(super) fn found_newest(
        &mut self,
        from: PartitionId,
        token: Token,
        result: Result<Newest, Refusal>,
    ) {
        let whole = match self.waiting.remove(&token) {
            Some(Waiting::NewestOf(whole)) => whole,
            Some(Waiting::EndOf(whole, index, filter)) => {
                return self.found_end(from, (whole, index), filter, result);
            }
            _ => return,
        };
        let Some(Waiting::Last(mut last)) = self.waiting.remove(&whole) else { return };
        let newest = match result {
            Ok(newest) => newest,
            Err(refusal) => return self.give_up(&last, &refusal),
        };
        let list = last.lists.get_mut(&from).expect("asked for its newest");
        list.is_asked = false;
        list.before = newest.before;
        list.start.get_or_insert(newest.end);
        for (time, offset, topic) in newest.found {
            if self.standing.may_receive(&topic) {
                list.found.push_back((time, offset));
            }
        }
        self.look_further(whole, *last);
    }

    /// Asks where history ends for a replay that begins.
    pub(super) fn look_for_ends(&mut self, (whole, index): (Token, usize), replay: &NewReplay) {
        for partition in &replay.partitions {
            let token = self.wait_for(Waiting::EndOf(whole, index, replay.filter.clone()));
            let filter = replay.filter.clone();
            let request = Request::ListNewest { filter, before: None, count: 1, token };
            self.request(*partition, request);
        }
    }

    fn found_end(
        &mut self,
        from: PartitionId,
        part: (Token, usize),
        filter: Filter,
        result: Result<Newest, Refusal>,
    ) {
        // One that cannot be read refuses the replay, too.
        let Ok(newest) = result else { return self.end_found(from, part, None) };
        let mut found = newest.found.iter();
        let end = found.find(|(_, _, topic)| self.standing.may_receive(topic));
        let end = end.map(|(_, offset, _)| *offset);
        match newest.before.filter(|_| end.is_none()) {
            None => self.end_found(from, part, end),
            before => {
                let token = self.wait_for(Waiting::EndOf(part.0, part.1, filter.clone()));
                let count = NEWEST_PER_REQUEST;
                self.request(from, Request::ListNewest { filter, before, count, token });
            }
        }
    }

    /// Takes the newest message of all, so many times, as long as every partition has said what its newest is.
    fn look_further(&mut self, whole: Token, mut last: Last) {
        while last.missing > 0 {
            let mut waits = false;
            for (partition, list) in &mut last.lists {
                let is_known = list.start.is_some() && list.before.is_none();
                if !list.found.is_empty() || is_known {
                    continue;
                }
                waits = true;
                if !std::mem::replace(&mut list.is_asked, true) {
                    let token = self.wait_for(Waiting::NewestOf(whole));
                    let filter = last.replay.filter.clone();
                    // More than are wanted, where the first were not for this client.
                    let wanted = if list.before.is_none() { last.missing } else { u64::MAX };
                    let count = NEWEST_PER_REQUEST.min(wanted as usize);
                    let before = list.before;
                    let request = Request::ListNewest { filter, before, count, token };
                    self.request(*partition, request);
                }
            }
            if waits {
                self.waiting.insert(whole, Waiting::Last(Box::new(last)));
                return;
            }
            let lists = last.lists.iter_mut();
            let newest = lists.max_by_key(|(at, list)| (list.found.front().map(|it| it.0), **at));
            let taken = newest.and_then(|(_, list)| Some((list.found.pop_front()?, list)));
            let Some(((_, offset), list)) = taken else { break };
            list.start = Some(offset);
            last.missing -= 1;
        }
        self.begin_last(&last);
    }

    /// It is known where the last messages begin in each partition.
    fn begin_last(&mut self, last: &Last) {
        let written = &last.subscription.filter;
        let is_mine = matches!(self.subscriptions.get(written), Some(Subscribed::Replay(reader)) if *reader == last.replay.reader);
        if !is_mine {
            let reason = "a later subscription to the same filter took its place".to_owned();
            return self.give_up(last, &Refusal::Invalid { reason });
        }
        for (partition, list) in &last.lists {
            let start = list.start.expect("every partition has answered");
            let place = (*partition, Some(Position::At(start)));
            self.attach_replay(last.part, &last.subscription, &last.replay, place);
        }
    }

    fn give_up(&mut self, last: &Last, refusal: &Refusal) {
        let (whole, index) = last.part;
        for partition in &last.replay.partitions {
            let token = self.wait_for(Waiting::PartOf(whole, index));
            self.part_done(*partition, token, Err(refusal.clone()));
        }
    }

    /// Goes on with the replay of a resumed session.
    pub(super) fn resume_replay(
        &mut self,
        subscription: &Subscription,
        starts: &[(PartitionId, Offset)],
        outbound: &[OutboundEntry],
    ) {
        let filter = match SubscribeAddress::of(&subscription.filter) {
            Ok(SubscribeAddress::Filter(filter) | SubscribeAddress::Replay { filter, .. }) => {
                filter
            }
            // Nothing else is replayed.
            Ok(_) | Err(_) => return,
        };
        let reader = subscription.reader;
        let mine = |entry: &&OutboundEntry| entry.reader == reader;
        let written = subscription.filter.clone();
        self.subscriptions.insert(written, Subscribed::Replay(reader));
        let partitions = starts.iter().map(|(partition, _)| *partition).collect();
        self.replays.partitions.insert(reader, partitions);
        let read = Arc::new(Subscription { filter, ..subscription.clone() });
        for (partition, start) in starts {
            let out = outbound.iter().filter(mine).filter(|entry| entry.partition == *partition);
            let token = self.wait_for(Waiting::Resumed);
            let attach = Attach {
                reader,
                subscriptions: vec![(read.clone(), Some(*start))],
                outbound: out.map(|entry| entry.offset).collect(),
                retained: vec![false],
                ..self.new_attach(token)
            };
            self.outbound.resumed((reader, *partition), *start);
            self.begin_reading(*partition, attach);
        }
    }

    /// No reader gets a number that something of the session still bears.
    pub(super) fn note_readers(&mut self, session: &OpenedSession) {
        let stored = session.subscriptions.iter();
        let subscribed = stored.map(|stored| stored.subscription.reader);
        let out = session.outbound.iter().map(|entry| entry.reader);
        self.replays.last = subscribed.chain(out).max().unwrap_or_default();
    }

    /// Ends a replay that a partition refused, unless another has its filter already.
    pub(super) fn withdraw_replay(&mut self, subscription: &Subscription) {
        let reader = subscription.reader;
        if matches!(self.subscriptions.get(&subscription.filter), Some(Subscribed::Replay(it)) if *it == reader)
        {
            self.subscriptions.remove(&subscription.filter);
        }
        self.end_replay(reader);
    }

    /// Ends a replay. What is out of it stays out.
    pub(super) fn end_replay(&mut self, reader: ReaderId) {
        for partition in self.replays.partitions.remove(&reader).into_iter().flatten() {
            self.credits.remove(&(partition, reader));
            self.given_back.ended((partition, reader));
            self.request(partition, Request::EndReplay { reader });
        }
        self.outbound.replay_ended(reader);
    }
}

/// Refuses positions that mean nothing over so many partitions.
fn check_position(position: Position, filter: &Filter, partitions: usize) -> Result<(), Refusal> {
    let reason = match position {
        Position::At(_) if partitions > 1 => format!(
            "an offset is a place in one partition, and '{filter}' is read in {partitions}: use a time, last=N, or a filter \
             without wildcards"
        ),
        Position::Last(count) if count > LAST_MAX => {
            format!("last={count} is more than {LAST_MAX}: use a time instead, such as -15m")
        }
        _ => return Ok(()),
    };
    Err(Refusal::Invalid { reason })
}
