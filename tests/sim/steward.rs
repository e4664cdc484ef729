//! What a node does for queues without any client: its steward, and somebody who declares queues and sends dead letters back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use fluxmq::broker::{Steward, WillPublisher};
use fluxmq::model::queue::DeadLetterTarget;
use fluxmq::model::{Filter, PartitionId, QueueName, Refusal, Token};
use fluxmq::partition::request::{ConnectionId, Event as Said, QueueAction, QueueAnswer, Request};

use crate::checkers::Invariant;
use crate::coverage::Point;
use crate::node::State;
use crate::plan::SECOND;
use crate::world::{Event, World, brief};

/// Time between two looks of the one who administers queues.
const MANAGE_EVERY: u64 = SECOND / 2;
/// A question that was not answered by then is asked again: who was asked may be gone.
const ANSWERED_WITHIN: u64 = 3 * SECOND;
/// Letters that go back at a time.
const REDRIVEN_MAX: usize = 8;

/// The steward of one process, or who publishes its wills.
pub struct Service {
    pub node: usize,
    /// The process of the node that has it.
    pub life: u32,
    machine: Machine,
    /// When what was said last arrives, by node.
    asked: BTreeMap<usize, u64>,
    told: BTreeMap<usize, u64>,
    /// Where it last asked for history, or brought it, and the process that it asked.
    reads: BTreeMap<PartitionId, (usize, u32)>,
}

/// What it does.
enum Machine {
    Steward(Steward),
    Wills(WillPublisher),
}

impl Machine {
    fn poll_request(&mut self) -> Option<(PartitionId, Request)> {
        match self {
            Machine::Steward(steward) => steward.poll_request(),
            Machine::Wills(wills) => wills.poll_request(),
        }
    }

    fn handle_event(&mut self, from: PartitionId, event: Said) {
        match self {
            Machine::Steward(steward) => steward.handle_event(from, event),
            Machine::Wills(wills) => wills.handle_event(from, event),
        }
    }

    fn steward(&mut self) -> Option<&mut Steward> {
        match self {
            Machine::Steward(steward) => Some(steward),
            Machine::Wills(_) => None,
        }
    }
}

/// Who administers queues.
pub struct Admin {
    /// Since when each declared queue stands, as far as whoever declared it was told.
    pub since: Vec<Option<u64>>,
    asked: Option<Asked>,
}

impl Admin {
    /// Nothing is declared yet.
    pub fn new(count: usize) -> Admin {
        Admin { since: vec![None; count], asked: None }
    }
}

struct Asked {
    at: u64,
    by: ConnectionId,
    token: Token,
    /// The queue that is declared; `None` is a redrive.
    declares: Option<usize>,
}

fn in_order(last: &mut u64, wanted: u64) -> u64 {
    *last = wanted.max(*last + 1);
    *last
}

impl World {
    /// A process has started: its steward carries letters, and somebody publishes its wills.
    pub fn start_services(&mut self, node: usize) {
        if !self.plan.declared.is_empty() {
            let mut steward = Steward::new(self.placement.clone());
            steward.carry_letters();
            self.start_service(node, Machine::Steward(steward));
        }
        if self.plan.has_wills {
            let wills = WillPublisher::new(self.placement.clone(), Arc::default());
            self.start_service(node, Machine::Wills(wills));
        }
    }

    fn start_service(&mut self, node: usize, machine: Machine) {
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        let (asked, told) = (BTreeMap::new(), BTreeMap::new());
        let life = self.nodes[node].life;
        let reads = BTreeMap::new();
        self.services.insert(id, Service { node, life, machine, asked, told, reads });
        self.drive_service(id);
    }

    /// The node and the process that have a connection, or one of these.
    pub fn process_of(&self, id: ConnectionId) -> Option<(usize, u32)> {
        let connection = self.connections.get(&id).map(|it| (it.node, it.life));
        connection.or_else(|| self.services.get(&id).map(|it| (it.node, it.life)))
    }

    /// A process is gone, and with it what it asked of others.
    pub fn end_service(&mut self, node: usize, notice: u64) {
        let gone: Vec<ConnectionId> =
            self.services.iter().filter(|(_, it)| it.node == node).map(|(id, _)| *id).collect();
        for id in gone {
            self.services.remove(&id);
            for other in (0..self.nodes.len()).filter(|other| *other != node) {
                self.forget_at(id, other, self.now + notice);
            }
        }
    }

    /// Sends what a steward asks: of its own node's replicas where letters die, of leaders where they are stored.
    fn drive_service(&mut self, id: ConnectionId) {
        while let Some(service) = self.services.get_mut(&id) {
            let Some((partition, request)) = service.machine.poll_request() else { break };
            let here = service.node;
            let follows = matches!(request, Request::ReadOn(_) | Request::Follow(_));
            let node = match request {
                Request::Publish(_) | Request::Queue(_) | Request::Write { .. } => {
                    self.leader_seen_from(here, partition)
                }
                _ if follows => self.leader_seen_from(here, partition),
                _ => here,
            };
            if !self.is_linked(here, node) {
                self.resign(id, std::iter::once(partition));
                continue;
            }
            let delay = 20 + self.random.below(200) + if here == node { 0 } else { 300 };
            let service = self.services.get_mut(&id).expect("it asks");
            let at = in_order(service.asked.entry(node).or_default(), self.now + delay);
            let (life, requests) = (self.nodes[node].life, vec![(partition, request)]);
            if follows {
                service.reads.insert(partition, (node, life));
            }
            self.schedule.at(at, Event::Requests { node, life, from: id, requests });
        }
        while let Some(answer) =
            self.services.get_mut(&id).and_then(|it| it.machine.steward()?.poll_answer())
        {
            self.answered(id, answer);
        }
    }

    /// Sends on what a node has to say to a steward. What is lost on the way is told again, or asked again.
    pub fn deliver_to_service(
        &mut self,
        node: usize,
        to: ConnectionId,
        events: Vec<(PartitionId, Said)>,
    ) {
        let here = self.services[&to].node;
        let is_linked = self.is_linked(node, here);
        let resigned = events.iter().filter(|(_, event)| matches!(event, Said::Resigned(_)));
        let resigned: BTreeSet<PartitionId> = resigned.map(|(from, _)| *from).collect();
        if node != here && (!is_linked || !resigned.is_empty()) {
            // The stream ends, and with it all that was asked on it; the next one begins anew.
            self.forget_at(to, node, self.now + 300);
            let reads = self.services[&to].reads.iter();
            let asked = reads.filter(|(_, (asked, _))| *asked == node).map(|(from, _)| *from);
            let lost = asked.filter(|it| !is_linked || !resigned.contains(it));
            let lost: Vec<PartitionId> = lost.collect();
            self.resign(to, lost.into_iter());
        }
        if !is_linked {
            return;
        }
        let letters = events.iter().filter(|(_, event)| matches!(event, Said::Letter(_))).count();
        (0..letters).for_each(|_| self.coverage.hit(Point::LetterSent));
        let delay = 20 + self.random.below(200) + if here == node { 0 } else { 300 };
        let service = self.services.get_mut(&to).expect("just seen");
        let at = in_order(service.told.entry(node).or_default(), self.now + delay);
        self.schedule.at(at, Event::Told { to, events });
    }

    /// A steward is told something; false when it is none.
    pub fn told_service(&mut self, to: ConnectionId, events: &[(PartitionId, Said)]) -> bool {
        let Some(service) = self.services.get_mut(&to) else { return false };
        for (from, event) in events {
            self.trace.note(self.now, "told", &[to.0, u64::from(from.0)], || {
                format!("steward of {} by p{} {}", service.node, from.0, brief(event))
            });
            service.machine.handle_event(*from, event.clone());
        }
        self.drive_service(to);
        true
    }

    /// Tells those who follow histories of processes that they asked and that are gone, or out of reach.
    fn watch_reads(&mut self) {
        let mut lost = Vec::new();
        for (id, service) in &self.services {
            let is_gone = |node: usize, life: u32| {
                !self.is_alive(node, life) || !self.is_linked(service.node, node)
            };
            let reads = service.reads.iter().filter(|(_, (node, life))| is_gone(*node, *life));
            lost.extend(reads.map(|(partition, (node, _))| (*id, *partition, *node)));
        }
        for (id, partition, node) in lost {
            self.services.get_mut(&id).expect("just seen").reads.remove(&partition);
            let notice = self.resign(id, std::iter::once(partition));
            self.forget_at(id, node, notice);
        }
    }

    /// Whoever administers queues looks what is to be done.
    pub fn manage(&mut self) {
        self.schedule.at(self.now + MANAGE_EVERY, Event::Manage);
        self.watch_reads();
        if self.admin.asked.as_ref().is_some_and(|it| self.now < it.at + ANSWERED_WITHIN) {
            return;
        }
        self.admin.asked = None;
        let is_up = |service: &Service| {
            let is_steward = matches!(service.machine, Machine::Steward(_));
            is_steward && self.nodes[service.node].state == State::Up
        };
        let services = self.services.iter().filter(|(_, service)| is_up(service));
        let services: Vec<ConnectionId> = services.map(|(id, _)| *id).collect();
        if services.is_empty() {
            return;
        }
        let by = *self.random.pick(&services);
        let declared = &self.plan.declared;
        let due =
            |queue: &usize| self.admin.since[*queue].is_none() && declared[*queue].at <= self.now;
        let declares = (0..declared.len()).find(due);
        let (name, action) = match declares {
            Some(queue) => {
                let settings = Arc::new(declared[queue].settings.clone());
                (declared[queue].name.clone(), QueueAction::Declare(settings))
            }
            None if self.resting || !self.random.chance(150) => return,
            None => {
                let declared = self.random.pick(&self.plan.declared);
                let name = match declared.settings.dead_letters.target {
                    DeadLetterTarget::Queue(ref elsewhere) => elsewhere.to_string(),
                    DeadLetterTarget::Own
                    | DeadLetterTarget::Exchange(_)
                    | DeadLetterTarget::Nowhere => {
                        format!("$dlq/{}", declared.name)
                    }
                };
                (name.clone(), redrive(&name))
            }
        };
        let name = QueueName::from_text(Bytes::from(name)).expect("a name");
        let service = self.services.get_mut(&by).expect("just listed");
        let token = service.machine.steward().expect("chosen so").ask(name, action);
        self.admin.asked = Some(Asked { at: self.now, by, token, declares });
        self.drive_service(by);
    }

    fn answered(&mut self, by: ConnectionId, answer: (Token, Result<QueueAnswer, Refusal>)) {
        let (token, result) = answer;
        let Some(asked) = self.admin.asked.take_if(|it| (it.by, it.token) == (by, token)) else {
            return;
        };
        self.trace.note(self.now, "answered", &[by.0, token.0], || brief(&result));
        match (asked.declares, result) {
            (Some(queue), Ok(QueueAnswer::Declared { .. })) => {
                self.admin.since[queue].get_or_insert(self.now);
                self.coverage.hit(Point::QueueDeclared);
            }
            (Some(queue), Err(Refusal::Invalid { reason })) => {
                let name = &self.plan.declared[queue].name;
                self.violate(Invariant::I25, format!("{name} cannot be declared: {reason}"));
            }
            // Not led there, or nothing to send back.
            _ => {}
        }
    }
}

/// Sends some of a queue's letters back; of one that has none, nothing.
fn redrive(name: &str) -> QueueAction {
    let address = if name.starts_with('$') { name.to_owned() } else { format!("$queue/{name}") };
    let filter = Filter::new(Bytes::from(format!("{address}/#"))).expect("a filter");
    QueueAction::Redrive { filter, count_max: REDRIVEN_MAX }
}
