//! A broker without sockets, threads or clock: partitions on a simulated disk and the clients of connections, stepped by hand.

#[allow(dead_code, reason = "processes keep directories")]
#[path = "../kept/mod.rs"]
mod kept;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use fluxmq::auth::{Acl, Anonymous, Authority, Policy, TlsIdentity};
use fluxmq::broker::{
    Bindings, Client, ClientLimits, Live, Passing, Placement, Steward, WillPublisher,
};
use fluxmq::model::command::{Close, Credentials, Open, Subscribe};
use fluxmq::model::effect::Opened;
use fluxmq::model::queue::Binding;
use fluxmq::model::{
    CertificateIdentity, ChannelDescription, Command, ConnectionDescription, ConnectionQuestion,
    Delivery, DeliveryId, Effect, Filter, Message, Millis, Outcome, PartitionId, PeerInfo,
    Properties, QoS, QueueCommand, QueueName, QueueSettings, Refusal, RetainHandling, Token, Topic,
};
use fluxmq::partition::request::{
    Asked, ConnectionId, Counts, Event, Outbox, QueueAction, QueueAnswer, QueueStats, Request,
    Routing, ToldOf,
};
use fluxmq::partition::{Durability, Member, Options, Partition, PartitionError};
use fluxmq::shard::{Events as Sent, Receiver};
use fluxmq_log::format::{BatchReader, BatchRecord};
use fluxmq_log::sim_disk::SimDisk;
use fluxmq_log::{Flush, Log, LogOptions};

/// What is answered when a queue was not there.
pub const DECLARED: QueueAnswer =
    QueueAnswer::Declared { existed: false, counts: Counts { messages: 0, consumers: 0 } };

/// The connection of the process itself that publishes wills.
const PUBLISHES_WILLS: ConnectionId = ConnectionId(u64::MAX);

/// The connection of the process itself that looks after queues.
const STEWARD: ConnectionId = ConnectionId(u64::MAX - 1);

/// The broker.
pub struct World {
    options: Options,
    pub disk: SimDisk,
    _kept: kept::KeptDisk,
    pub partitions: BTreeMap<PartitionId, Partition<SimDisk>>,
    pub now: Millis,
    clients: BTreeMap<ConnectionId, Peer>,
    live: Live,
    wills: WillPublisher,
    /// The rules in force; see [`World::rules`].
    pub authority: Arc<Authority>,
    next: u64,
    data_partitions: u16,
    pub placement: Placement,
    /// Carries letters and asks what no protocol asks.
    steward: Steward,
    /// What it asks for stays where it is.
    pub steward_rests: bool,
    /// What the steward says comes twice.
    pub steward_stutters: bool,
    /// A partition whose disk is slow: it does not get to flush.
    pub slow: Option<PartitionId>,
    /// A partition whose disk has stalled: a flush that it begins does not end.
    pub stalled: Option<PartitionId>,
    flights: BTreeMap<PartitionId, Flush<SimDisk>>,
    /// Partitions that are to stop.
    failed: BTreeSet<PartitionId>,
    /// Limits of connections that come.
    pub client_limits: ClientLimits,
}

struct Events {
    sent: VecDeque<(ConnectionId, PartitionId, Event)>,
    from: PartitionId,
    bindings: Arc<Bindings>,
}

impl Events {
    fn new(placement: &Placement) -> Events {
        let bindings = placement.bindings().clone();
        Events { sent: VecDeque::new(), from: PartitionId::META, bindings }
    }
}

impl Outbox for Events {
    fn send(&mut self, to: ConnectionId, event: Event) {
        self.sent.push_back((to, self.from, event));
    }

    fn bound(&mut self, binding: &Binding, is_bound: bool) {
        self.bindings.change(self.from, binding, is_bound);
    }

    fn routed(&mut self, routing: &Routing) {
        self.bindings.change_routing(self.from, routing);
    }
}

/// One connection, as its protocol would see it.
struct Peer {
    client: Client,
    effects: Vec<Effect>,
    passing: Passing,
    passed_on: Arc<PassedOn>,
    /// Its network connection is over; what it still has to do it does without.
    has_hung_up: bool,
}

/// What other connections passed on to one, until its turn.
#[derive(Default)]
struct PassedOn(Mutex<Sent>);

impl Receiver for PassedOn {
    fn send(&self, events: Sent) {
        self.0.lock().expect("one thread").extend(events);
    }

    fn has_room(&self, _more: usize) -> bool {
        true
    }

    fn wants_time(&self) -> bool {
        false
    }
}

impl World {
    /// Starts an empty broker.
    pub fn new(data_partitions: u16) -> World {
        World::on(SimDisk::new(7), data_partitions)
    }

    /// Starts a broker on what a disk holds.
    pub fn on(disk: SimDisk, data_partitions: u16) -> World {
        World::with(disk, data_partitions, Options::default()).expect("the logs recover")
    }

    /// Starts a broker that behaves as said; fails where its disk does.
    pub fn with(disk: SimDisk, data_partitions: u16, options: Options) -> anyhow::Result<World> {
        World::at(Millis(1_000_000), disk, data_partitions, options)
    }

    fn at(
        now: Millis,
        disk: SimDisk,
        data_partitions: u16,
        options: Options,
    ) -> anyhow::Result<World> {
        let placement = Placement::new(data_partitions);
        let mut steward = Steward::new(placement.clone());
        steward.carry_letters();
        let mut world = World {
            options,
            _kept: kept::KeptDisk(disk.clone()),
            disk,
            partitions: BTreeMap::new(),
            now,
            clients: BTreeMap::new(),
            live: Live::default(),
            wills: WillPublisher::new(placement.clone(), authority(None)),
            authority: authority(None),
            next: 1,
            data_partitions,
            placement,
            steward,
            steward_rests: false,
            steward_stutters: false,
            slow: None,
            stalled: None,
            flights: BTreeMap::new(),
            failed: BTreeSet::new(),
            client_limits: ClientLimits::default(),
        };
        for id in 0..=data_partitions {
            let id = PartitionId(id);
            let partition = open(&world.disk, id, world.options.clone(), world.now)?;
            for routing in partition.routing() {
                world.placement.bindings().change_routing(id, &routing);
            }
            for binding in partition.bindings() {
                world.placement.bindings().change(id, binding, true);
            }
            world.partitions.insert(id, partition);
        }
        Ok(world)
    }

    /// Kills the broker, cuts the power with this seed, and starts it again.
    pub fn crash(mut self, seed: u64) -> World {
        self.restart(seed);
        self
    }

    /// Does the same in place.
    pub fn restart(&mut self, seed: u64) {
        let disk = self.disk.crash(seed);
        let now = self.now.plus(1000);
        let world = World::at(now, disk, self.data_partitions, self.options.clone());
        let mut world = world.expect("the logs recover");
        world.next = self.next;
        world.wills.handle_authority(self.authority.clone());
        world.authority = self.authority.clone();
        *self = world;
    }

    /// Has history keep what connections that come from now on publish at QoS 0 to topics that these match.
    pub fn keep(&mut self, filters: &[&str]) {
        let filter = |text: &&str| Filter::new(Bytes::from((*text).to_owned())).expect("a filter");
        self.placement = self.placement.clone().keeping(filters.iter().map(filter).collect());
    }

    /// Opens a session; panics when it is refused.
    pub fn open(
        &mut self,
        client_id: &str,
        clean_start: bool,
        expiry_s: u32,
    ) -> (ConnectionId, Opened) {
        let id = self.connect();
        self.command(id, open_command(client_id, clean_start, expiry_s));
        let opened = self.take(id, |effect| match effect {
            Effect::Opened(opened) => Some(opened.clone()),
            _ => None,
        });
        (id, opened.expect("the session opens"))
    }

    /// Opens a session for a user, who shows a certificate.
    pub fn open_as(
        &mut self,
        user: &str,
        client_id: &str,
        expiry_s: u32,
    ) -> Result<ConnectionId, Refusal> {
        let id = self.connect();
        let Command::Open(open) = open_command(client_id, false, expiry_s) else { unreachable!() };
        self.command(id, Command::Open(Box::new(Open { peer: certified(user), ..*open })));
        let opened = self.take(id, |effect| match effect {
            Effect::Opened(_) => Some(Ok(id)),
            Effect::OpenRefused(refusal) => Some(Err(refusal.clone())),
            _ => None,
        });
        opened.expect("answered")
    }

    /// Puts another access list in force, for everybody who is connected as well.
    pub fn rules(&mut self, acl: &str) {
        self.authority = authority(Some(acl));
        for peer in self.clients.values_mut() {
            peer.client.handle_authority(self.authority.clone());
        }
        self.wills.handle_authority(self.authority.clone());
        self.run();
    }

    /// Adds a connection that has said nothing.
    pub fn connect(&mut self) -> ConnectionId {
        let id = ConnectionId(self.next);
        self.next += 1;
        let placement = self.placement.clone();
        let client = Client::new(id, placement, self.client_limits, self.authority.clone());
        let passed_on = Arc::new(PassedOn::default());
        self.live.connect(id, passed_on.clone());
        let peer = Peer {
            client,
            effects: Vec::new(),
            passing: Passing::default(),
            passed_on,
            has_hung_up: false,
        };
        self.clients.insert(id, peer);
        id
    }

    /// Gives a command and runs until nothing happens any more.
    pub fn command(&mut self, id: ConnectionId, command: Command) {
        self.say(id, command);
        self.run();
    }

    /// Gives a command and lets nothing happen.
    pub fn say(&mut self, id: ConnectionId, command: Command) {
        let now = self.now;
        // A connection that is over has nobody to tell.
        if let Some(peer) = self.clients.get_mut(&id) {
            peer.client.handle_command(now, command);
        }
    }

    /// Subscribes at QoS 2 unless the filter is changed by `with`.
    pub fn subscribe(
        &mut self,
        id: ConnectionId,
        filter: &str,
        with: impl Fn(&mut Subscribe),
    ) -> Result<QoS, Refusal> {
        let mut subscribe = Subscribe {
            filter: Filter::new(Bytes::from(filter.to_owned())).expect("a filter"),
            qos: QoS::ExactlyOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
            subscription_id: 0,
            position: None,
            reports_end: false,
            group: None,
            settle_explicit: false,
        };
        with(&mut subscribe);
        let token = self.token();
        self.command(id, Command::Subscribe { token, subscriptions: vec![subscribe] });
        let results = self.take(id, |effect| match effect {
            Effect::Subscribed { token: answered, results } if *answered == token => {
                Some(results.clone())
            }
            _ => None,
        });
        results.expect("subscribed").remove(0)
    }

    /// Publishes and returns the confirmation; `None` at QoS 0.
    pub fn publish(
        &mut self,
        id: ConnectionId,
        message: impl Into<Arc<Message>>,
        packet_id: Option<u16>,
    ) -> Option<Result<bool, Refusal>> {
        let (token, message) = (self.token(), message.into());
        self.command(id, Command::Publish { token, message, packet_id });
        self.take(id, |effect| match effect {
            Effect::Confirm { token: answered, result } if *answered == token => {
                Some(result.clone())
            }
            _ => None,
        })
    }

    /// Takes every delivery that has come.
    pub fn deliveries(&mut self, id: ConnectionId) -> Vec<Delivery> {
        let peer = self.clients.get_mut(&id).expect("connected");
        let mut deliveries = Vec::new();
        peer.effects.retain(|effect| match effect {
            Effect::Deliver(delivery) => {
                deliveries.push(delivery.clone());
                false
            }
            _ => true,
        });
        deliveries
    }

    /// Takes deliveries, settling each, until no more come; returns their payloads.
    pub fn drain(&mut self, id: ConnectionId) -> Vec<String> {
        let mut payloads = Vec::new();
        loop {
            let deliveries = self.deliveries(id);
            if deliveries.is_empty() {
                return payloads;
            }
            for delivery in deliveries {
                payloads.push(text(&delivery));
                self.say(id, Command::Settle { delivery: delivery.id, outcome: Outcome::Accepted });
            }
            self.run();
        }
    }

    /// Settles one delivery.
    pub fn settle(&mut self, id: ConnectionId, delivery: DeliveryId, outcome: Outcome) {
        self.command(id, Command::Settle { delivery, outcome });
    }

    /// Lets the broker say something of itself.
    pub fn show(&mut self, statistics: &[(&str, &str)]) {
        let bytes = |text: &str| Bytes::from(text.to_owned());
        let statistic = |(topic, value): &(&str, &str)| {
            (Topic::new(bytes(topic)).expect("a topic"), bytes(value))
        };
        self.live.show(statistics.iter().map(statistic).collect());
        self.run();
    }

    /// Asks for something of a queue that no protocol asks for, and runs until it is answered.
    pub fn manage(&mut self, queue: &str, action: QueueAction) -> Result<QueueAnswer, Refusal> {
        let token = self.begin_to_manage(queue, action);
        self.managed(token).expect("answered")
    }

    /// The same where it cannot be answered yet.
    pub fn begin_to_manage(&mut self, queue: &str, action: QueueAction) -> Token {
        let queue = QueueName::from_text(Bytes::from(queue.to_owned())).expect("a name");
        let token = self.steward.ask(queue, action);
        self.run();
        token
    }

    /// What was answered, if it was.
    pub fn managed(&mut self, token: Token) -> Option<Result<QueueAnswer, Refusal>> {
        let (answered, result) = self.steward.poll_answer()?;
        assert_eq!(answered, token);
        Some(result)
    }

    /// Declares a queue; panics when it is refused.
    pub fn declare(&mut self, queue: &str, settings: QueueSettings) {
        let declared = self.manage(queue, QueueAction::Declare(Arc::new(settings)));
        assert_eq!(declared, Ok(DECLARED), "{queue}");
    }

    /// Asks for something of a queue as a protocol does that knows queues by name.
    pub fn queue(
        &mut self,
        id: ConnectionId,
        queue: &str,
        command: QueueCommand,
    ) -> Result<Counts, Refusal> {
        let token = self.say_queue(id, queue, command);
        self.run();
        self.queue_answer(id, token).expect("answered")
    }

    /// Asks and lets nothing happen.
    pub fn say_queue(&mut self, id: ConnectionId, queue: &str, command: QueueCommand) -> Token {
        let queue = QueueName::from_text(Bytes::from(queue.to_owned())).expect("a name");
        let token = self.token();
        self.say(id, Command::Queue { token, queue, command });
        token
    }

    /// Takes the answer.
    pub fn queue_answer(
        &mut self,
        id: ConnectionId,
        token: Token,
    ) -> Option<Result<Counts, Refusal>> {
        self.take(id, |effect| match effect {
            Effect::Queue { token: answered, result } if *answered == token => Some(result.clone()),
            _ => None,
        })
    }

    /// Counts a queue.
    pub fn stats(&mut self, queue: &str) -> QueueStats {
        match self.manage(queue, QueueAction::Stats) {
            Ok(QueueAnswer::Stats(stats)) => *stats,
            other => panic!("{queue}: {other:?}"),
        }
    }

    /// Where a queue lives.
    pub fn home(&self, queue: &str) -> PartitionId {
        let queue = QueueName::from_text(Bytes::from(queue.to_owned())).expect("a name");
        self.placement.queue(&queue)
    }

    /// Ends a connection.
    pub fn close(&mut self, id: ConnectionId, will: bool) {
        self.command(id, Command::Close(Close { will, session_expiry_s: None }));
    }

    /// Asks a partition something for who publishes wills in another process.
    pub fn ask(&mut self, to: PartitionId, request: Request) {
        let mut events = Events::new(&self.placement);
        events.from = to;
        let partition = self.partitions.get_mut(&to).expect("one of ours");
        partition.handle(ConnectionId(u64::MAX - 2), request, self.now, &mut events);
        self.deliver(events);
        self.run();
    }

    /// Stops a partition, as after a disk error.
    pub fn stop_partition(&mut self, id: PartitionId) {
        let mut events = Events::new(&self.placement);
        self.partitions.get_mut(&id).expect("one of ours").stop(&mut events);
    }

    /// Forgets a connection, as when its task failed: nothing of it says goodbye.
    pub fn vanish(&mut self, id: ConnectionId) {
        self.forget(id);
        self.run();
    }

    /// The steward's connection ends, and what it was waited for with it; for another one to come it must rest no more.
    pub fn lose_steward(&mut self) {
        self.vanish(STEWARD);
    }

    /// Notes that the network connection is over.
    pub fn hang_up(&mut self, id: ConnectionId) {
        if let Some(peer) = self.clients.get_mut(&id) {
            peer.has_hung_up = true;
        }
    }

    /// Forgets the connections that are over and have nothing left to do, as their tasks do at their ends.
    pub fn drop_done(&mut self) {
        let done = |peer: &Peer| peer.has_hung_up && peer.client.is_done();
        let peers = self.clients.iter().filter(|(_, peer)| done(peer));
        for id in peers.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: ConnectionId) {
        self.clients.remove(&id);
        self.live.disconnect(id);
        let mut events = Events::new(&self.placement);
        for (at, partition) in &mut self.partitions {
            events.from = *at;
            partition.handle(id, Request::Forget, self.now, &mut events);
        }
        self.deliver(events);
    }

    /// Takes every effect there is.
    pub fn take_effects(&mut self, id: ConnectionId) -> Vec<Effect> {
        let peer = self.clients.get_mut(&id);
        peer.map_or_else(Vec::new, |peer| std::mem::take(&mut peer.effects))
    }

    /// Takes the first effect that `pick` wants.
    pub fn take<T>(&mut self, id: ConnectionId, pick: impl Fn(&Effect) -> Option<T>) -> Option<T> {
        let peer = self.clients.get_mut(&id).expect("connected");
        let at = peer.effects.iter().position(|effect| pick(effect).is_some())?;
        pick(&peer.effects.remove(at))
    }

    /// Returns true when the connection has nothing left to do.
    pub fn is_done(&self, id: ConnectionId) -> bool {
        self.clients[&id].client.is_done()
    }

    /// Lets time pass.
    pub fn pass(&mut self, millis: u64) {
        self.now = self.now.plus(millis);
        for partition in self.partitions.values_mut() {
            // As the shard does: a partition that fails stops, and no other. Whoever waits hears of it in the next turn.
            if partition.tick(self.now, &mut Events::new(&self.placement)).is_err() {
                self.failed.insert(partition.id());
            } else if let Some(job) = partition.prepare_index() {
                partition.finish_index(job.run());
            }
        }
        self.run();
    }

    /// Lets stored sessions write down how far they are.
    pub fn checkpoint_sessions(&mut self) {
        self.say_checkpoint();
        self.run();
    }

    /// Does the same, and lets nothing happen.
    pub fn say_checkpoint(&mut self) {
        self.clients.values_mut().for_each(|peer| peer.client.checkpoint());
    }

    /// Writes snapshots of all partitions.
    pub fn snapshot(&mut self) {
        self.partitions
            .values_mut()
            .for_each(|partition| partition.checkpoint().expect("snapshot"));
    }

    /// Bytes of all logs.
    pub fn log_bytes(&self) -> u64 {
        let end = |partition: &Partition<SimDisk>| {
            partition.log().segments().iter().map(|segment| segment.end_bytes).sum::<u64>()
        };
        self.partitions.values().map(end).sum()
    }

    /// Payloads of the stored messages of a topic, in the order of partitions and offsets.
    pub fn stored(&self, topic: &str) -> Vec<String> {
        let mut payloads = Vec::new();
        for partition in self.partitions.values() {
            let end = partition.applied().end;
            let mut at = partition.log().first_offset();
            while at < end {
                let frames = partition.log().read(at, 1 << 20).expect("committed frames read");
                at = frames.last().expect("there are records below the end").header.end_offset();
                for frame in frames.iter().filter(|frame| frame.header.kind.has_records()) {
                    let batch = BatchReader::new(&frame.header, frame.body.clone());
                    for record in batch.expect("a batch") {
                        if let BatchRecord::Message(message) = record.expect("a record").1
                            && message.topic == topic.as_bytes()
                        {
                            let payload = String::from_utf8(message.payload.to_vec());
                            payloads.push(payload.expect("text"));
                        }
                    }
                }
            }
        }
        payloads
    }

    /// Returns true when history of some partition is over.
    pub fn has_let_history_go(&self) -> bool {
        let mut views = self.partitions.values().map(|partition| partition.views());
        views.any(|views| views.horizon.start().0 > 0)
    }

    /// Returns true when no partition keeps a will, nor, for longer than an hour, the key that one was published under.
    pub fn wills_are_over(&self) -> bool {
        let later = self.now.plus(3_600_000);
        let over = |partition: &Partition<SimDisk>| {
            let views = partition.views();
            views.wills.is_empty() && views.dedup.lapses_by(later)
        };
        self.partitions.values().all(over)
    }

    /// Runs until nothing happens any more.
    pub fn run(&mut self) {
        while self.turn(true) {}
    }

    /// One turn of everything, with or without flushing; true when something happened.
    pub fn turn(&mut self, flush: bool) -> bool {
        let mut events = Events::new(&self.placement);
        let mut busy = false;
        for (id, peer) in &mut self.clients {
            while let Some(check) = peer.client.poll_check() {
                peer.client.handle_verdict(check.run());
            }
            while let Some((to, request)) = peer.client.poll_request() {
                busy = true;
                let Some(request) = self.live.route(*id, request, &mut peer.passing) else {
                    continue;
                };
                events.from = to;
                let partition = self.partitions.get_mut(&to).expect("placed");
                partition.handle(*id, request, self.now, &mut events);
            }
            self.live.send(&mut peer.passing);
        }
        while !self.steward_rests
            && let Some((to, request)) = self.steward.poll_request()
        {
            events.from = to;
            let partition = self.partitions.get_mut(&to).expect("placed");
            if self.steward_stutters {
                partition.handle(STEWARD, request.clone(), self.now, &mut events);
            }
            partition.handle(STEWARD, request, self.now, &mut events);
            busy = true;
        }
        while let Some((to, request)) = self.wills.poll_request() {
            events.from = to;
            let partition = self.partitions.get_mut(&to).expect("placed");
            partition.handle(PUBLISHES_WILLS, request, self.now, &mut events);
            busy = true;
        }
        for (id, partition) in &mut self.partitions {
            events.from = *id;
            let flush = flush && self.slow != Some(*id);
            let (is_stalled, now) = (self.stalled == Some(*id), self.now);
            let flight = (&mut self.flights, is_stalled);
            let served =
                serve(partition, flush, flight, (now, self.options.durability), &mut events);
            let failed = self.failed.remove(id) || served.is_err();
            if failed {
                partition.stop(&mut events);
            }
            busy |= failed || served.unwrap_or(false);
        }
        busy |= !events.sent.is_empty();
        self.deliver(events);
        for peer in self.clients.values_mut() {
            let passed_on = std::mem::take(&mut *peer.passed_on.0.lock().expect("one thread"));
            busy |= !passed_on.is_empty();
            for (from, event) in passed_on {
                match event {
                    Event::Asked(asked) => answer(&self.live, &mut peer.client, &asked),
                    event => peer.client.handle_event(from, event),
                }
            }
            while let Some(effect) = peer.client.poll_effect() {
                peer.effects.push(effect);
            }
        }
        busy
    }

    fn deliver(&mut self, events: Events) {
        for (to, from, event) in events.sent {
            if to == STEWARD {
                self.steward.handle_event(from, event);
            } else if to == PUBLISHES_WILLS {
                self.wills.handle_event(from, event);
            } else if let Some(peer) = self.clients.get_mut(&to) {
                peer.client.handle_event(from, event);
            }
        }
    }

    /// One that was not used.
    pub fn token(&mut self) -> Token {
        self.next += 1;
        Token(self.next)
    }
}

/// What a connection's driver says when it is asked; its protocol has two channels.
fn answer(live: &Live, client: &mut Client, asked: &Asked) {
    let channel = |number| ChannelDescription { number, ..ChannelDescription::default() };
    let mut described = ConnectionDescription::default();
    match &asked.question {
        ConnectionQuestion::Describe { with_channels } => {
            described.channels.extend([1, 2].map(channel).into_iter().filter(|_| *with_channels));
        }
        ConnectionQuestion::Close { reason } => client.handle_administrator(reason),
    }
    client.describe(&mut described);
    live.tell(asked, ToldOf::Described(Box::new(described)));
}

/// One turn of a partition; true when something happened.
fn serve(
    partition: &mut Partition<SimDisk>,
    flush: bool,
    (flights, is_stalled): (&mut BTreeMap<PartitionId, Flush<SimDisk>>, bool),
    (now, durability): (Millis, Durability),
    events: &mut Events,
) -> Result<bool, PartitionError> {
    let mut busy = partition.pump(events)?;
    if flush && durability == Durability::QuorumMem {
        busy |= partition.persist_in_memory(now, events)?;
    }
    if flush && let Some(job) = partition.persist()? {
        flights.insert(partition.id(), job);
    }
    if !is_stalled && let Some(job) = flights.remove(&partition.id()) {
        partition.flushed(job.run(), events)?;
        busy = true;
    }
    Ok(busy)
}

fn open(
    disk: &SimDisk,
    id: PartitionId,
    behaviour: Options,
    now: Millis,
) -> anyhow::Result<Partition<SimDisk>> {
    let options = LogOptions {
        partition: u32::from(id.0),
        segment_bytes_min: 64 << 10,
        segment_bytes_max: 64 << 10,
        cache_bytes: 16 << 10,
        ..LogOptions::default()
    };
    let (log, _) = Log::open(disk.clone(), PathBuf::from(format!("p{:04}", id.0)), options)?;
    Ok(Partition::open(id, log, behaviour, &Member::alone(), now)?)
}

/// Users are known by their certificates; without an access list everything is allowed.
fn authority(acl: Option<&str>) -> Arc<Authority> {
    let policy = Policy { anonymous: Anonymous::Everybody, tls_identity: TlsIdentity::CommonName };
    let acl = acl.map(|text| Acl::parse(text).expect("an access list"));
    Arc::new(Authority::new(policy, None, acl, [5; 32]))
}

/// Runs a test in a world of one partition, and in one of four.
pub fn with_one_and_four(test: impl Fn(World)) {
    test(World::new(1));
    test(World::new(4));
}

/// A peer whose certificate says who it is.
pub fn certified(user: &str) -> Box<PeerInfo> {
    let identity = CertificateIdentity {
        common_name: Some(user.to_owned()),
        ..CertificateIdentity::default()
    };
    Box::new(PeerInfo { certificate: Some(Arc::new(identity)), ..*here() })
}

/// A peer on this machine that shows nothing.
pub fn here() -> Box<PeerInfo> {
    Box::new(PeerInfo::tcp("127.0.0.1:40000".parse().expect("an address")))
}

/// The command that opens a session.
pub fn open_command(client_id: &str, clean_start: bool, expiry_s: u32) -> Command {
    Command::Open(Box::new(Open {
        peer: here(),
        credentials: Credentials::None,
        client_id: Bytes::from(client_id.to_owned()),
        clean_start,
        session_expiry_s: expiry_s,
        inflight_max: 64,
        will: None,
    }))
}

/// A client without a broker: what its two partitions answer, its test says. It has asked to open the session `c`.
pub struct Opening {
    pub client: Client,
    /// Where the session lives.
    pub home: PartitionId,
    /// The other partition.
    pub other: PartitionId,
}

impl Opening {
    /// Makes the client, and lets it ask.
    pub fn ask() -> Opening {
        let placement = Placement::new(2);
        let limits = ClientLimits::default();
        let mut client = Client::new(ConnectionId(1), placement.clone(), limits, Arc::default());
        client.handle_command(Millis(0), open_command("c", false, 60));
        let home = placement.session(b"c");
        let other = placement.data().find(|partition| *partition != home).expect("there are two");
        Opening { client, home, other }
    }
}

/// A message.
pub fn message(topic: &str, payload: impl Into<String>, qos: QoS) -> Message {
    Message {
        topic: Topic::new(Bytes::from(topic.to_owned())).expect("a topic"),
        payload: Bytes::from(payload.into()),
        qos,
        retain: false,
        expiry_s: None,
        properties: Properties::default(),
        publisher: 0,
    }
}

/// A delivery's payload.
pub fn text(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message.payload.to_vec()).expect("text")
}

/// Returns true when a test fails with a defect.
#[cfg(feature = "planted-bugs")]
pub fn catches(bug: fluxmq::planted::PlantedBug, test: fn()) -> bool {
    fluxmq::planted::plant(Some(bug));
    let outcome = std::panic::catch_unwind(test);
    fluxmq::planted::plant(None);
    outcome.is_err()
}
