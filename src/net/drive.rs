//! The one loop that every client connection runs in, whatever its protocol.
//!
//! Bytes go to the protocol machine, its commands to the broker's client, the client's requests to the shards; events come back the
//! same way. One turn reads what there is, asks everything at once, and writes once.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use tokio::io::Interest;
use tokio::sync::watch;

use crate::auth::Authority;
use crate::broker::{Broker, Caller, Client, ClientLimits, Passing};
use crate::model::{ConnectionQuestion, Effect, Millis};
use crate::net::gate::{Gate, Seat, Verdict};
use crate::net::linger::linger;
use crate::net::mailbox::Mailbox;
use crate::net::pressure::Pressure;
use crate::net::shortage::Shortage;
use crate::net::transport::Transport;
use crate::partition::request::{Asked, Event, ToldOf};
use crate::protocol::{Connection, Counters};
use crate::shard::Events;
use crate::telemetry::statistics::{Count, Presence, Statistics};

/// Bytes read from a socket at a time: little from a quiet peer, much from a busy one.
const READ_BYTES_MIN: usize = 2 << 10;
const READ_BYTES_MAX: usize = 128 << 10;
/// Bytes encoded and written at a time.
const WRITE_BYTES_MAX: usize = 16 << 10;
/// Fewer for a peer that does not read, all of them written before more are encoded: they are kept in room for twice as many.
const CONGESTED_BYTES_MAX: usize = 8 << 10;
/// Time between checkpoints of a stored session.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(15);

/// Time that a peer has to take what is said to it before the connection closes.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What connections of one listener share.
#[derive(Clone)]
pub struct Shared {
    /// The partitions.
    pub broker: Arc<Broker>,
    /// Limits of each connection.
    pub limits: ClientLimits,
    /// Bytes of messages passed on without being stored that may wait for a connection.
    pub passed_on_bytes_max: usize,
    /// Becomes true when the server stops.
    pub stopping: watch::Receiver<bool>,
    /// When the process started: timers count from here.
    pub started: Instant,
    /// The rules in force.
    pub authority: watch::Receiver<Arc<Authority>>,
    /// False when nothing could change them.
    pub rules_may_change: bool,
    /// Runs checks of credentials.
    pub gate: Arc<Gate>,
    /// Where what goes through is counted.
    pub statistics: Arc<Statistics>,
    /// How short of memory the process is.
    pub pressure: Arc<Pressure>,
    /// Whether publishes are taken.
    pub shortage: watch::Receiver<Shortage>,
}

impl Shared {
    /// Milliseconds since the start.
    pub fn now(&self) -> Millis {
        Millis(self.started.elapsed().as_millis() as u64)
    }
}

/// Runs a connection from its first byte to the end of its session's hold.
///
/// The future is small, since a quiet connection is little more than it: what a connection needs is made before it, not inside it, and
/// no other future is to hold it. `places` are given back at its end.
pub fn drive<C: Connection, P: Send>(
    transport: Transport,
    connection: C,
    address: IpAddr,
    mut shared: Shared,
    places: P,
) -> impl Future<Output = ()> + use<C, P> {
    let mailbox = Arc::new(Mailbox::new(shared.passed_on_bytes_max));
    let caller = shared.broker.connect(mailbox.clone());
    let authority = shared.authority.borrow_and_update().clone();
    let client = Client::new(caller.id(), shared.broker.placement(), shared.limits, authority);
    let mut driver = Box::new(Driver {
        transport: Some(transport),
        connection,
        client,
        caller,
        mailbox,
        input: BytesMut::new(),
        read_bytes: READ_BYTES_MIN,
        output: BytesMut::new(),
        passing: None,
        address,
        verdict: None,
        seat: None,
        shared,
        next_checkpoint: Instant::now() + CHECKPOINT_EVERY,
        closing_by: None,
        parting: None,
        told_to_stop: false,
        is_congested: false,
        unread_bytes: 0,
        paused_until: Millis(0),
        counted: Counters::default(),
        presence: None,
    });
    driver.shared.statistics.add(Count::Sockets, 1);
    async move {
        driver.run().await;
        let parting = driver.parting.take();
        // What it holds must not wait for a peer that takes its time to go.
        drop(driver);
        if let Some(transport) = parting {
            Box::pin(linger(transport.into_stream())).await;
        }
        drop(places);
    }
}

impl<C: Connection> Drop for Driver<C> {
    /// However the connection ends, also by a defect of ours, what it holds goes to others.
    fn drop(&mut self) {
        self.shared.broker.disconnect(&self.caller);
        for (_, event) in self.mailbox.try_receive() {
            if let Event::Asked(asked) = event {
                self.shared.broker.live().tell(&asked, ToldOf::Gone);
            }
        }
        self.count_unread(0);
    }
}

struct Driver<C: Connection> {
    /// `None` once the peer is gone: the session may still have something to finish.
    transport: Option<Transport>,
    connection: C,
    client: Client,
    caller: Caller,
    mailbox: Arc<Mailbox>,
    input: BytesMut,
    read_bytes: usize,
    output: BytesMut,
    /// `None` in one that asks for nothing.
    passing: Option<Box<Passing>>,
    /// Where the peer is.
    address: IpAddr,
    /// A check of the client's credentials that is under way.
    verdict: Option<Pin<Box<dyn Future<Output = Verdict> + Send>>>,
    /// The client's place among its user's connections.
    seat: Option<Seat>,
    shared: Shared,
    next_checkpoint: Instant,
    /// When a peer that does not read is left without our last words.
    closing_by: Option<Instant>,
    /// The socket that we close, and that the peer has yet to read.
    parting: Option<Box<Transport>>,
    told_to_stop: bool,
    is_congested: bool,
    /// Bytes that are kept for a peer that does not read, as the statistics know them.
    unread_bytes: usize,
    /// When one that publishes is read again, where memory is scarce.
    paused_until: Millis,
    /// What of the connection's counters is among the statistics.
    counted: Counters,
    presence: Option<Presence>,
}

enum Woken {
    Socket,
    Closed,
    Events(Events),
    Time,
    Verdict(Verdict),
    Rules,
    Shortage,
    Stopping,
}

impl<C: Connection> Driver<C> {
    async fn run(&mut self) {
        self.heed_shortage();
        loop {
            self.step().await;
            if self.client.is_done() {
                if self.transport.is_none() {
                    return;
                }
                if self.connection.awaits_release() {
                    self.release();
                    continue;
                }
            }
            match self.wait().await {
                Woken::Socket => {}
                Woken::Closed => self.lose(),
                Woken::Events(events) => self.give(events),
                Woken::Time => self.on_time(),
                Woken::Verdict(verdict) => self.judge(verdict),
                Woken::Rules => self.take_rules(),
                // Seen already: it is not to be asked for again.
                Woken::Shortage => self.take_shortage(),
                Woken::Stopping => {
                    self.told_to_stop = true;
                    self.client.handle_shutdown();
                }
            }
            self.heed_rules();
            self.heed_shortage();
            // Both sides have their turn, whichever woke us: neither a flood in nor one out holds up the other.
            self.read();
            let events = self.mailbox.try_receive();
            self.give(events);
        }
    }

    /// Lets go of what is this connection's for as long as it is there, and has its peer told.
    fn release(&mut self) {
        self.shared.broker.disconnect(&self.caller);
        self.connection.handle_released(self.now());
    }

    /// Lets the machines talk until neither has anything to say, sends what they ask, writes what they send.
    async fn step(&mut self) {
        let now = self.now();
        loop {
            let mut idle = true;
            if !self.input.is_empty() && self.transport.is_some() {
                let before = self.input.len();
                self.connection.handle_input(now, &mut self.input);
                idle = self.input.len() == before;
            }
            while let Some(command) = self.connection.poll_command() {
                self.client.handle_command(now, command);
                idle = false;
            }
            while let Some(effect) = self.client.poll_effect() {
                if matches!(effect, Effect::Opened(_)) {
                    self.presence = Some(self.shared.statistics.connected());
                }
                self.connection.handle_effect(now, effect);
                idle = false;
            }
            if idle {
                break;
            }
        }
        self.transmit(now);
        let unread_bytes = if self.is_congested { self.kept_bytes() } else { 0 };
        self.count_unread(unread_bytes);
        // Writing settles QoS 0 deliveries: those commands belong to this turn.
        while let Some(command) = self.connection.poll_command() {
            self.client.handle_command(now, command);
        }
        self.count();
        if let Some(check) = self.client.poll_check() {
            let verdict = self.shared.gate.clone().verify(self.address, check);
            self.verdict = Some(Box::pin(verdict));
        }
        let mut requests = Vec::with_capacity(self.client.request_count());
        while let Some(request) = self.client.poll_request() {
            requests.push(request);
        }
        if !requests.is_empty() {
            let broker = &self.shared.broker;
            let passing = self.passing.get_or_insert_default();
            broker.submit(&mut self.caller, &mut requests, passing).await;
        }
    }

    fn transmit(&mut self, now: Millis) {
        let Some(transport) = &mut self.transport else {
            return self.output.clear();
        };
        loop {
            if self.output.is_empty() && self.is_congested {
                self.connection.poll_transmit(now, &mut self.output, CONGESTED_BYTES_MAX);
            } else if self.output.len() < WRITE_BYTES_MAX && !self.is_congested {
                self.connection.poll_transmit(now, &mut self.output, WRITE_BYTES_MAX);
            }
            if self.output.is_empty() && transport.is_flushed() {
                break;
            }
            let before = self.output.len();
            let written = transport.try_write(&mut self.output);
            let taken = before - self.output.len();
            self.shared.statistics.add(Count::BytesSent, taken as u64);
            match written {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.set_congested(true);
                    if self.connection.is_closing() && self.closing_by.is_none() {
                        self.closing_by = Some(Instant::now() + LAST_WORDS);
                    }
                    return;
                }
                Err(_) => return self.lose(),
            }
        }
        // Everything is written: an idle connection holds no buffer.
        self.output = BytesMut::new();
        self.set_congested(false);
        if self.connection.is_closing() {
            self.lose();
        }
    }

    /// Notes that the peer does not read, or does again. Events are taken all the same: the protocol keeps little of them.
    fn set_congested(&mut self, is_congested: bool) {
        if std::mem::replace(&mut self.is_congested, is_congested) == is_congested {
            return;
        }
        self.mailbox.set_congested(is_congested);
        self.connection.handle_congestion(is_congested);
        if is_congested {
            // Without the room that it grew into.
            let room = self.output.len().max(2 * CONGESTED_BYTES_MAX);
            let mut output = BytesMut::with_capacity(room);
            output.extend_from_slice(&self.output);
            self.output = output;
        }
    }

    /// Bytes that wait for the peer, wherever they are, with the room they are in.
    fn kept_bytes(&self) -> usize {
        self.output.capacity() + self.connection.held_bytes() + self.mailbox.passed_on_bytes()
    }

    fn count_unread(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.unread_bytes, bytes);
        if before != bytes {
            self.shared.statistics.unread(before, bytes);
        }
    }

    /// Waits for whatever comes first.
    async fn wait(&mut self) -> Woken {
        let deadline = self.deadline();
        let interest = self.interest();
        let reads = self.wants_read();
        let rules_may_change = self.shared.rules_may_change;
        let rules = self.shared.authority.changed();
        let stop = self.shared.stopping.wait_for(|stopping| *stopping);
        let hears_of_publishing = self.connection.hears_of_publishing();
        let shortage = self.shared.shortage.changed();
        let verdict = async {
            match &mut self.verdict {
                None => std::future::pending().await,
                Some(verdict) => verdict.await,
            }
        };
        let socket = async {
            match self.transport.as_ref().zip(interest) {
                None => std::future::pending().await,
                Some((transport, interest)) => transport.ready(interest).await,
            }
        };
        tokio::select! {
            biased;
            ready = socket => match ready {
                Ok(ready) if ready.is_read_closed() && !reads => Woken::Closed,
                Ok(_) => Woken::Socket,
                Err(_) => Woken::Closed,
            },
            events = self.mailbox.receive() => Woken::Events(events),
            verdict = verdict => Woken::Verdict(verdict),
            Ok(()) = rules, if rules_may_change => Woken::Rules,
            Ok(()) = shortage, if hears_of_publishing => Woken::Shortage,
            Ok(_) = stop, if !self.told_to_stop => Woken::Stopping,
            () = tokio::time::sleep_until(deadline.into()) => Woken::Time,
        }
    }

    /// What to wait for on the socket: input while it is wanted and there is room for it, and room for output while there is some.
    fn interest(&self) -> Option<Interest> {
        let read = self.wants_read().then_some(Interest::READABLE);
        let is_flushed = self.transport.as_ref().is_none_or(Transport::is_flushed);
        let write = (!self.output.is_empty() || !is_flushed).then_some(Interest::WRITABLE);
        match (read, write) {
            (Some(read), Some(write)) => Some(read | write),
            (read, write) => read.or(write),
        }
    }

    fn wants_read(&self) -> bool {
        self.connection.wants_input()
            && self.paused_until == Millis(0)
            && self.input.len() < self.connection.input_bytes_max()
    }

    fn read(&mut self) {
        if self.paused_until > Millis(0) && self.paused_until <= self.now() {
            self.paused_until = Millis(0);
        }
        if !self.wants_read() {
            return;
        }
        let Some(transport) = &mut self.transport else { return };
        let packet_bytes_max = self.connection.input_bytes_max();
        let before = self.input.len();
        let read_bytes = self.read_bytes.min(packet_bytes_max);
        match transport.try_read(&mut self.input, read_bytes, packet_bytes_max) {
            Ok(0) => self.lose(),
            Ok(count) if count >= read_bytes => {
                self.read_bytes = (self.read_bytes * 4).min(READ_BYTES_MAX);
            }
            Ok(count) if count < self.read_bytes / 8 => {
                self.read_bytes = (self.read_bytes / 2).max(READ_BYTES_MIN);
            }
            Ok(_) => {}
            // A peer that says nothing but control frames has had its turn, and there may be more.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(_) => self.lose(),
        }
        let taken = self.input.len().saturating_sub(before);
        self.shared.statistics.add(Count::BytesReceived, taken as u64);
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }

    /// Adds what went through since the last turn to the statistics.
    fn count(&mut self) {
        let now = *self.connection.counters();
        let before = std::mem::replace(&mut self.counted, now);
        self.slow_down(now.publishes_received > before.publishes_received);
        if now == before {
            return;
        }
        let counts = [
            (Count::PacketsReceived, now.packets_received - before.packets_received),
            (Count::PacketsSent, now.packets_sent - before.packets_sent),
            (Count::PublishesReceived, now.publishes_received - before.publishes_received),
            (Count::PublishesSent, now.publishes_sent - before.publishes_sent),
            (
                Count::PayloadBytesReceived,
                now.payload_bytes_received - before.payload_bytes_received,
            ),
            (Count::PayloadBytesSent, now.payload_bytes_sent - before.payload_bytes_sent),
            (Count::PublishesRefused, now.publishes_dropped - before.publishes_dropped),
            (
                Count::DeliveriesWithoutRoom,
                now.deliveries_without_room - before.deliveries_without_room,
            ),
            (Count::DeliveriesDropped, now.deliveries_dropped - before.deliveries_dropped),
        ];
        for (count, more) in counts.into_iter().filter(|(_, more)| *more > 0) {
            self.shared.statistics.add(count, more);
        }
    }

    /// Reads one that publishes later, where memory is scarce: also when what it publishes is long and not here yet.
    fn slow_down(&mut self, has_published: bool) {
        if has_published || self.input.len() > READ_BYTES_MIN {
            let pause_ms = self.shared.pressure.pause_ms();
            if pause_ms > 0 && self.paused_until == Millis(0) {
                self.paused_until = self.now().plus(pause_ms);
            }
        }
    }

    fn give(&mut self, events: Events) {
        for (partition, event) in events {
            match event {
                Event::Asked(asked) => self.answer(&asked),
                event => self.client.handle_event(partition, event),
            }
        }
    }

    /// Says who it is to another connection, and ends if that is what it asks.
    fn answer(&mut self, asked: &Asked) {
        let question = &asked.question;
        let with_channels =
            matches!(question, ConnectionQuestion::Describe { with_channels: true });
        let mut described = self.connection.describe(with_channels);
        self.client.describe(&mut described);
        described.traffic = self.connection.counters().traffic();
        described.since = on_the_wall(described.since, self.now());
        if let ConnectionQuestion::Close { reason } = question {
            self.client.handle_administrator(reason);
        }
        let answer = ToldOf::Described(Box::new(described));
        self.shared.broker.live().tell(asked, answer);
    }

    fn judge(&mut self, verdict: Verdict) {
        self.verdict = None;
        let verdict = verdict.map(|(verified, seat)| {
            // Who authenticates again has a place already: the new one takes over from it.
            self.seat = Some(seat);
            verified
        });
        self.client.handle_verdict(verdict);
    }

    /// New rules hold before anything else is handed over.
    fn heed_rules(&mut self) {
        if self.shared.rules_may_change && self.shared.authority.has_changed().unwrap_or(false) {
            self.take_rules();
        }
    }

    /// Takes the rules in force. Who waits for a change has seen it when it comes: it is not to be asked for again.
    fn take_rules(&mut self) {
        let authority = self.shared.authority.borrow_and_update().clone();
        self.client.handle_authority(authority);
    }

    fn heed_shortage(&mut self) {
        if self.shared.shortage.has_changed().unwrap_or(false) {
            self.take_shortage();
        }
    }

    /// Tells the protocol whether publishes are taken.
    fn take_shortage(&mut self) {
        let shortage = *self.shared.shortage.borrow_and_update();
        let now = self.now();
        self.connection.handle_effect(now, Effect::Publishing(shortage.verdict()));
    }

    fn on_time(&mut self) {
        let now = self.now();
        if self.connection.poll_timeout().is_some_and(|at| at <= now) {
            self.connection.handle_timeout(now);
        }
        if self.closing_by.is_some_and(|by| by <= Instant::now()) {
            self.lose();
        }
        if Instant::now() >= self.next_checkpoint {
            self.next_checkpoint = Instant::now() + CHECKPOINT_EVERY;
            self.client.checkpoint();
            self.passing = None;
        }
    }

    /// The peer is gone, or is to go.
    fn lose(&mut self) {
        if let Some(mut transport) = self.transport.take() {
            self.presence = None;
            transport.close();
            // Ours to close, and everything is written.
            let is_ours = self.connection.is_closing() && self.output.is_empty();
            self.parting = is_ours.then(|| Box::new(transport));
            let now = self.now();
            self.connection.handle_disconnect(now);
            self.input = BytesMut::new();
            self.output = BytesMut::new();
            while let Some(command) = self.connection.poll_command() {
                self.client.handle_command(now, command);
            }
        }
    }

    fn deadline(&self) -> Instant {
        let at = |millis: Millis| self.shared.started + Duration::from_millis(millis.0);
        let timers = self.connection.poll_timeout().map(at).into_iter();
        let paused = (self.paused_until > Millis(0)).then(|| at(self.paused_until));
        let timers = timers.chain(self.closing_by).chain(paused);
        timers.chain([self.next_checkpoint]).min().expect("the checkpoint is always among them")
    }

    fn now(&self) -> Millis {
        self.shared.now()
    }
}

/// A moment of this process as one of the world: milliseconds since 1970.
fn on_the_wall(moment: Millis, now: Millis) -> Millis {
    let today = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ago_ms = now.0.saturating_sub(moment.0);
    Millis((today.as_millis() as u64).saturating_sub(ago_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::admission::{AddressPlace, Place};
    use crate::protocol::amqp091::AmqpConnection;
    use crate::protocol::mqtt::MqttConnection;

    type Places = (Place, Option<Box<AddressPlace>>);

    fn size_of_result<C, F>(_: impl FnOnce(Transport, C, IpAddr, Shared, Places) -> F) -> usize {
        size_of::<F>()
    }

    /// The allocator's sizes hereabouts are 1024, 1280, 2048, 2560 and 3072 bytes; the runtime adds some 100 to a task.
    #[test]
    fn what_a_quiet_connection_holds_is_small() {
        let tasks = [
            size_of_result(drive::<MqttConnection, Places>),
            size_of_result(drive::<AmqpConnection, Places>),
        ];
        assert!(
            tasks.iter().all(|task| *task <= 920),
            "the tasks of connections have {tasks:?} bytes"
        );
        let drivers = [size_of::<Driver<MqttConnection>>(), size_of::<Driver<AmqpConnection>>()];
        assert!(
            drivers.iter().all(|driver| *driver <= 2560),
            "what they point to has {drivers:?} bytes"
        );
    }
}
