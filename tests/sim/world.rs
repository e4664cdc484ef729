//! The cluster, its clients and the one queue of events: everything that happens, happens here, one thing after another.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fluxmq::broker::{Live, Passing, Placement};
use fluxmq::model::PartitionId;
use fluxmq::model::record::queue_id;
use fluxmq::partition::request::{ConnectionId, Event as Said, Request};
use fluxmq::partition::{Opened, Options};

use crate::checkers::queues::Queues;
use crate::checkers::replays::Replays;
use crate::checkers::wills::Wills;
use crate::checkers::{Invariant, Observer, Violation};
use crate::client::SimClient;
use crate::connection::Connection;
use crate::coverage::{Coverage, Point};
use crate::group::Group;
use crate::history::History;
use crate::ledger::Ledger;
use crate::network::Network;
use crate::node::{Node, Owned, Post, State, member, open};
use crate::overtaken::is_late;
use crate::plan::{Fault, Plan};
use crate::random::Random;
use crate::schedule::Schedule;
use crate::steward::{Admin, Service};
use crate::trace::Trace;

/// Time between ticks of a node's partitions, as in the shard.
const TICK: u64 = 100_000;

/// One thing that happens.
pub enum Event {
    Tick {
        node: usize,
        life: u32,
    },
    /// A turn of a node that had more to do.
    Turn {
        node: usize,
        life: u32,
    },
    Flushed {
        node: usize,
        life: u32,
        partition: PartitionId,
    },
    Requests {
        node: usize,
        life: u32,
        from: ConnectionId,
        requests: Vec<(PartitionId, Request)>,
    },
    Told {
        to: ConnectionId,
        events: Vec<(PartitionId, Said)>,
    },
    Upstream {
        to: ConnectionId,
        bytes: Bytes,
    },
    /// The client's end is closed.
    Hangup {
        to: ConnectionId,
    },
    Downstream {
        from: ConnectionId,
        bytes: Bytes,
    },
    /// The broker's end is closed, or its node is gone.
    Closed {
        from: ConnectionId,
    },
    Act {
        client: usize,
    },
    Fault {
        fault: Fault,
        mean: u64,
    },
    Start {
        node: usize,
    },
    Resume {
        node: usize,
        life: u32,
    },
    /// What a fault did ends.
    Mend(Fault, usize),
    /// A message between replicas.
    Message {
        to: usize,
        from: usize,
        partition: PartitionId,
        bytes: Bytes,
    },
    Checkpoint {
        to: ConnectionId,
    },
    /// A node dies for a reason of its own.
    Crash {
        node: usize,
    },
    /// An image of a disk is put back.
    PutBack,
    /// Whoever administers queues looks at them.
    Manage,
}

/// The cluster and everybody around it.
pub struct World {
    pub plan: Plan,
    pub now: u64,
    pub schedule: Schedule<Event>,
    pub random: Random,
    pub network: Network,
    pub nodes: Vec<Node>,
    pub group: Group,
    pub connections: BTreeMap<ConnectionId, Connection>,
    /// Who listens, anywhere: what is passed on goes from the node that leads to whoever it is for.
    pub live: Live,
    pub next_connection: u64,
    pub clients: Vec<SimClient>,
    pub history: History,
    pub ledger: Ledger,
    pub observer: Observer,
    pub queues: Queues,
    pub wills: Wills,
    pub replays: Replays,
    pub services: BTreeMap<ConnectionId, Service>,
    pub admin: Admin,
    pub coverage: Coverage,
    pub trace: Trace,
    pub options: Options,
    pub placement: Placement,
    /// Nothing new is begun and nothing goes wrong any more.
    pub resting: bool,
    /// Microseconds a flush takes at most, by node.
    pub flush_max: Vec<u64>,
    /// The one checker that counts; `None` is all of them.
    pub armed: Option<Invariant>,
    /// Nothing more is owed: see [`crate::checkers::group::is_stopped_for_good`].
    pub is_stopped: bool,
    pub violation: Option<Violation>,
    /// Nodes and segments of theirs that rotted and were not looked through since.
    pub rotten: BTreeSet<(usize, PartitionId, u64)>,
    /// Segments that ever rotted, and the one node that may lose all of it.
    pub rotten_files: BTreeMap<(PartitionId, u64), Option<usize>>,
}

impl World {
    pub fn new(plan: Plan, is_read: bool, armed: Option<Invariant>) -> World {
        let mut random = Random::new(plan.seed);
        let mut nodes: Vec<Node> = (0..plan.nodes).map(|_| Node::new(random.next())).collect();
        let spare = |number: usize| Node { is_new: true, ..Node::new(plan.seed ^ number as u64) };
        nodes.extend((0..plan.spares).map(spare));
        let options = Options {
            visibility_timeout_ms: plan.visibility_timeout_ms,
            snapshot_every_bytes: plan.snapshot_every_bytes,
            snapshot_every_ms: 15_000,
            snapshot_chunk_bytes: plan.chunk_bytes,
            history_age_max_ms: plan.history_age_ms,
            history_bytes_max: plan.history_bytes,
            ..Options::default()
        };
        let mut world = World {
            now: 0,
            schedule: Schedule::new(),
            network: Network::new(),
            group: Group::default(),
            connections: BTreeMap::new(),
            live: Live::default(),
            next_connection: 1,
            clients: SimClient::all(&plan, &mut random),
            history: History::default(),
            ledger: Ledger::default(),
            observer: Observer::default(),
            queues: Queues::default(),
            wills: Wills::default(),
            replays: Replays::default(),
            services: BTreeMap::new(),
            admin: Admin::new(plan.declared.len()),
            coverage: Coverage::default(),
            trace: Trace::new(is_read),
            options,
            placement: Placement::new(plan.partitions),
            resting: false,
            flush_max: vec![2_000; nodes.len()],
            armed,
            violation: None,
            is_stopped: false,
            rotten: BTreeSet::new(),
            rotten_files: BTreeMap::new(),
            random,
            nodes,
            plan,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        (0..self.nodes.len()).for_each(|node| self.schedule.at(0, Event::Start { node }));
        if !self.plan.declared.is_empty() {
            self.schedule.at(0, Event::Manage);
        }
        self.doubt_spares();
        for client in 0..self.clients.len() {
            let at = self.random.below(self.plan.act_every);
            self.schedule.at(at, Event::Act { client });
        }
        for (fault, mean) in self.plan.faults.clone() {
            let at = self.random.spread(mean);
            self.schedule.at(at, Event::Fault { fault, mean });
        }
    }

    /// Lets everything happen that happens before `until`, or until something is wrong.
    pub fn run(&mut self, until: u64) {
        while self.violation.is_none() && self.schedule.next_time().is_some_and(|at| at < until) {
            let (at, event) = self.schedule.pop().expect("just seen");
            self.now = at;
            self.take(event);
        }
        self.now = self.now.max(until);
    }

    fn take(&mut self, event: Event) {
        if let Some(node) = self.paused_for(&event) {
            // Whatever is for a stopped process waits in its sockets, in its order; what its timers say happens once.
            return self.nodes[node].waiting.push(event);
        }
        match event {
            Event::Tick { node, life } if self.is_alive(node, life) => self.tick(node),
            Event::Turn { node, life } if self.is_alive(node, life) => self.turn(node),
            Event::Flushed { node, life, partition } if self.is_alive(node, life) => {
                self.flushed(node, partition);
            }
            Event::Requests { node, life, from, requests } if self.is_alive(node, life) => {
                self.requested(node, from, requests);
            }
            Event::Tick { .. } | Event::Turn { .. } | Event::Flushed { .. } => {}
            Event::Requests { .. } => {}
            Event::Told { to, events } => self.told(to, events),
            Event::Upstream { to, bytes } => self.upstream(to, &bytes),
            Event::Hangup { to } => self.hangup(to),
            Event::Downstream { from, bytes } => self.downstream(from, &bytes),
            Event::Closed { from } => self.closed(from),
            Event::Act { client } => self.act(client),
            Event::Fault { fault, mean } => self.fault(fault, mean),
            Event::Start { node } => self.start(node),
            Event::Resume { node, life } => self.resume(node, life),
            Event::Mend(fault, node) => self.mend(fault, node),
            Event::Checkpoint { to } => self.checkpoint_session(to),
            Event::Crash { node } => self.crash(node, false),
            Event::PutBack => self.put_back(),
            Event::Manage => self.manage(),
            Event::Message { to, from, partition, bytes } => {
                self.receive(to, from, partition, bytes);
            }
        }
    }

    pub fn is_alive(&self, node: usize, life: u32) -> bool {
        self.nodes[node].is_up() && self.nodes[node].life == life
    }

    /// Returns the stopped node that an event is for.
    fn paused_for(&self, event: &Event) -> Option<usize> {
        let node = match event {
            Event::Tick { node, life }
            | Event::Turn { node, life }
            | Event::Flushed { node, life, .. }
            | Event::Requests { node, life, .. } => {
                Some(*node).filter(|_| self.is_alive(*node, *life))
            }
            Event::Message { to, .. } => Some(*to).filter(|to| self.nodes[*to].is_up()),
            Event::Told { to, .. }
            | Event::Upstream { to, .. }
            | Event::Hangup { to }
            | Event::Checkpoint { to } => {
                let (node, life) = self.process_of(*to)?;
                Some(node).filter(|node| self.is_alive(*node, life))
            }
            _ => None,
        }?;
        (self.nodes[node].state == State::Paused).then_some(node)
    }

    /// A stopped process goes on, with what came for it meanwhile.
    pub fn unpause(&mut self, node: usize) {
        if self.nodes[node].state == State::Paused {
            self.nodes[node].state = State::Up;
            let waiting = std::mem::take(&mut self.nodes[node].waiting);
            // Like a shard's thread, it looks at the clock before it hands anything out.
            let (ticks, others): (Vec<Event>, Vec<Event>) =
                waiting.into_iter().partition(|it| matches!(it, Event::Tick { .. }));
            ticks.into_iter().chain(others).for_each(|it| self.take(it));
        }
    }

    /// Starts a node on what its disk holds.
    pub fn start(&mut self, node: usize) {
        if self.nodes[node].is_up() {
            return;
        }
        if self.is_held(node) {
            return self.schedule.at(self.now + 200_000, Event::Start { node });
        }
        let wall = self.nodes[node].wall(self.now);
        let disk = self.nodes[node].disk.clone();
        let (mut owned, mut fenced) = (BTreeMap::new(), BTreeMap::new());
        for partition in (1..=self.plan.partitions).map(PartitionId) {
            let seed = self.random.next();
            let member = member(node, self.plan.nodes, self.nodes[node].is_new, seed);
            match open(&disk, partition, &self.options, &member, wall) {
                Ok((opened, recovery, has_snapshot)) => {
                    if has_snapshot {
                        self.coverage.hit(Point::RestoredSnapshot);
                    }
                    self.observer.recovered(&mut self.coverage, &recovery);
                    self.trace.note(self.now, "recovered", &[node as u64], || {
                        format!("{node} p{} {recovery:?}", partition.0)
                    });
                    let opened = match opened {
                        Opened::Running(opened) => *opened,
                        Opened::Fenced(opened) => {
                            self.coverage.hit(Point::Fenced);
                            fenced.insert(partition, *opened);
                            continue;
                        }
                    };
                    self.bind(&opened);
                    owned.insert(partition, Owned::new(opened));
                }
                Err(error) => {
                    self.trace.note(self.now, "no-open", &[node as u64], || error.clone());
                    if error.contains("(os error") && !self.resting {
                        // The disk is still failing or full, as it was told to.
                        self.schedule.at(self.now + 500_000, Event::Start { node });
                        return;
                    }
                    let what =
                        format!("node {node} cannot open partition {}: {error}", partition.0);
                    return self.violate(Invariant::I25, what);
                }
            }
        }
        let state = &mut self.nodes[node];
        state.owned = owned;
        state.fenced = fenced;
        state.state = State::Up;
        state.life += 1;
        state.started = self.now;
        let life = state.life;
        self.trace
            .note(self.now, "start", &[node as u64, u64::from(life)], || format!("node {node}"));
        self.schedule.at(self.now + TICK, Event::Tick { node, life });
        // What is compared must be readable.
        self.scrub(node);
        let found =
            self.observer.started(node, &self.nodes[node], &mut self.ledger, &mut self.coverage);
        self.accept(found);
        self.learn();
        self.note_image(node);
        self.start_services(node);
        self.turn(node);
    }

    fn tick(&mut self, node: usize) {
        let life = self.nodes[node].life;
        self.schedule.at(self.now + TICK, Event::Tick { node, life });
        let wall = self.nodes[node].wall(self.now);
        let mut post = Post::default();
        let ids: Vec<PartitionId> = self.nodes[node].owned.keys().copied().collect();
        for partition in ids {
            self.step(node, partition, &mut post, |partition, post| {
                partition.tick(wall, post)?;
                if let Some(job) = partition.prepare_spare() {
                    partition.finish_spare(job.run());
                }
                if let Some(job) = partition.prepare_index() {
                    partition.finish_index(job.run());
                }
                Ok(())
            });
        }
        self.look_at_replicas(node);
        self.deliver(node, post);
        self.tick_fenced(node);
        self.tick_connections(node);
        self.look_at_group(node);
        self.look_at_queues(node, true);
        self.turn(node);
    }

    /// A turn of the shard: serve readers and groups, begin flushes, send what gathered.
    pub fn turn(&mut self, node: usize) {
        let mut post = Post::default();
        let mut busy = false;
        let ids: Vec<PartitionId> = self.nodes[node].owned.keys().copied().collect();
        for partition in ids {
            let mut flush = None;
            self.step(node, partition, &mut post, |partition, post| {
                busy |= partition.pump(post)?;
                flush = partition.persist()?;
                Ok(())
            });
            let Some(flush) = flush else { continue };
            let takes = 100 + self.random.below(self.flush_max[node]);
            if takes > 200_000 {
                self.coverage.hit(Point::SlowFlush);
            }
            let life = self.nodes[node].life;
            let Some(owned) = self.nodes[node].owned.get_mut(&partition) else { continue };
            owned.flush = Some(flush);
            self.schedule.at(self.now + takes, Event::Flushed { node, life, partition });
        }
        self.observe(node);
        self.deliver(node, post);
        if busy {
            let life = self.nodes[node].life;
            self.schedule.at(self.now + 50, Event::Turn { node, life });
        }
    }

    fn flushed(&mut self, node: usize, partition: PartitionId) {
        let Some(owned) = self.nodes[node].owned.get_mut(&partition) else { return };
        let Some(flush) = owned.flush.take() else { return };
        let flushed = flush.run();
        let mut post = Post::default();
        if owned.failed.is_some() {
            return;
        }
        self.step(node, partition, &mut post, |partition, post| partition.flushed(flushed, post));
        let numbers = [node as u64, u64::from(partition.0)];
        self.trace.note(self.now, "flushed", &numbers, || {
            let Some(owned) = self.nodes[node].owned.get(&partition) else {
                return String::new();
            };
            let status = owned.partition.status();
            let (durable, commit, last) = (status.durable, status.commit, status.last);
            format!("{node} p{} durable {durable} of {last}, commit {commit}", partition.0)
        });
        self.observe(node);
        self.deliver(node, post);
        self.turn(node);
    }

    fn requested(
        &mut self,
        node: usize,
        from: ConnectionId,
        requests: Vec<(PartitionId, Request)>,
    ) {
        let wall = self.nodes[node].wall(self.now);
        let (mut post, mut passing) = (Post::default(), Passing::default());
        for (partition, request) in requests {
            self.trace.note(self.now, "request", &[node as u64, from.0], || {
                format!("{node} p{} c{} {}", partition.0, from.0, brief(&request))
            });
            let Some(request) = self.live.route(from, request, &mut passing) else { continue };
            self.observer.requested(from, partition, &request);
            if matches!(request, Request::Forget) {
                self.queues.forgets(node, partition, from);
            }
            if let Some(fenced) = self.nodes[node].fenced.get_mut(&partition) {
                post.from = partition;
                fenced.handle(from, &request, &mut post);
            }
            let Some(owned) = self.nodes[node].owned.get_mut(&partition) else { continue };
            post.from = partition;
            if owned.partition.status().serves && is_late(&request, owned.partition.views()) {
                self.coverage.hit(Point::Superseded);
            }
            if let (true, Request::ReadOn(read)) = (owned.partition.status().serves, &request) {
                self.queues.asks(queue_id(read.queue.as_bytes()), partition);
            }
            owned.partition.handle(from, request, wall, &mut post);
        }
        self.live.send(&mut passing);
        for (to, connection) in &self.connections {
            post.sent.extend(connection.take_passed_on().map(|(from, event)| (*to, from, event)));
        }
        self.deliver(node, post);
        self.turn(node);
    }

    /// Steps one partition; an error stops it, and the node is started anew later.
    pub fn step(
        &mut self,
        node: usize,
        partition: PartitionId,
        post: &mut Post,
        step: impl FnOnce(
            &mut fluxmq::partition::Partition<fluxmq_log::sim_disk::SimDisk>,
            &mut Post,
        ) -> Result<(), fluxmq::partition::PartitionError>,
    ) {
        let Some((error, is_rot)) = self.nodes[node].step(partition, post, step) else { return };
        if is_rot && self.nodes.len() > 1 {
            self.coverage.hit(Point::RotFound);
            return self.fence(node, partition);
        }
        self.coverage.hit(Point::PartitionStopped);
        self.observer.failed.insert((node, partition));
        self.trace.note(self.now, "stopped", &[node as u64, u64::from(partition.0)], || {
            format!("{node} p{}: {error}", partition.0)
        });
        if self.nodes[node].owned[&partition].partition.log().is_poisoned() {
            self.coverage.hit(Point::LogPoisoned);
        }
        self.restart_soon(node);
    }

    /// Looks at what a node has applied and flushed, and sends what it has to say to others.
    pub fn observe(&mut self, node: usize) {
        self.look_at_replicas(node);
        self.send_messages(node);
    }

    /// Looks at what a node has applied and flushed: before anybody hears of it.
    fn look_at_replicas(&mut self, node: usize) {
        let Some(state) = self.nodes.get_mut(node) else { return };
        for (partition, owned) in &mut state.owned {
            let status = owned.partition.status();
            let serves = status.serves.then_some(status.term);
            let first_index = owned.partition.log().first_index();
            if first_index > std::mem::replace(&mut owned.first_index, first_index)
                && self.plan.ends_history()
            {
                self.coverage.hit(Point::SegmentsGone);
            }
            if let Some(truce) = self.group.truce.as_mut().filter(|_| status.muted) {
                truce.saw_muted(node, *partition);
            }
            if serves != owned.served {
                self.observer.resets.push((*partition, self.now));
                self.wills.reset(*partition);
                let is_in_flight = owned.served.is_some() && status.last > status.commit;
                let seen = [
                    (Point::LeaderChanged, serves.is_some_and(|term| term > 1)),
                    (Point::LeaderChangedInFlight, is_in_flight && self.plan.nodes > 1),
                ];
                seen.into_iter().filter(|it| it.1).for_each(|it| self.coverage.hit(it.0));
                let numbers = [node as u64, u64::from(partition.0), serves.unwrap_or(0)];
                self.trace.note(self.now, "role", &numbers, || {
                    format!(
                        "{node} p{} serves {serves:?}, {:?} of term {}",
                        partition.0, status.role, status.term
                    )
                });
                owned.served = serves;
                serves.into_iter().for_each(|term| self.queues.serves(*partition, term));
            }
        }
        let found = self.observer.observe(
            node,
            &self.nodes[node],
            &mut self.ledger,
            self.now,
            &mut self.coverage,
        );
        self.accept(found);
        for violation in std::mem::take(&mut self.observer.found) {
            self.accept(Err(violation));
        }
        self.learn();
        self.look_at_queues(node, false);
    }

    pub fn accept(&mut self, found: Result<(), Violation>) {
        if let Err(Violation { invariant, what }) = found {
            self.violate(invariant, what);
        }
    }

    pub fn violate(&mut self, invariant: Invariant, what: String) {
        if self.armed.is_none_or(|armed| armed == invariant) {
            self.violation.get_or_insert(Violation { invariant, what });
        }
    }

    /// Sends events on to connections, in order, a little later.
    pub fn deliver(&mut self, node: usize, post: Post) {
        let mut by_connection: BTreeMap<ConnectionId, Vec<(PartitionId, Said)>> = BTreeMap::new();
        for (partition, filter, is_bound) in post.bound {
            self.placement.bindings().change(partition, &filter, is_bound);
        }
        for (to, from, event) in post.sent {
            let found = self.observer.sent(to, from, &event, self.plan.credit, self.now);
            self.accept(found);
            self.look_at_entry(node, (to, from), &event);
            by_connection.entry(to).or_default().push((from, event));
        }
        for (to, events) in by_connection {
            if self.services.contains_key(&to) {
                self.deliver_to_service(node, to, events);
                continue;
            }
            let delay = 20 + self.random.below(200);
            let Some(connection) = self.connections.get(&to) else { continue };
            if !self.is_linked(node, connection.node) {
                self.break_stream(to, node);
                continue;
            }
            let far = if connection.node == node { 0 } else { 300 };
            let connection = self.connections.get_mut(&to).expect("just seen");
            if let Some(at) = connection.told_at(node, self.now + far + delay) {
                self.schedule.at(at, Event::Told { to, events });
            }
        }
    }
}

/// A request or an event in a few words.
pub fn brief(said: &impl std::fmt::Debug) -> String {
    let text = format!("{said:?}");
    text.chars().take(600).collect()
}
