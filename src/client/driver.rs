//! A [`Machine`] on a stream.
//!
//! One owner, no tasks, no channels: whoever holds the client drives it by awaiting. Every method that waits may be dropped
//! while it waits and called again; nothing is lost by that.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use super::endpoint::{Endpoint, Url};
use super::error::{ClientError, RequestError};
use super::event::{AckHandle, Connected, Event, PublishRequest, SubscribeRequest};
use super::machine::Machine;
use super::options::ConnectOptions;
use super::session::Session;
use super::stream::Stream;
use crate::model::Millis;
use crate::protocol::mqtt::property::PropertyList;
use crate::protocol::mqtt::reason::ReasonCode;

/// Bytes read at a time, at least.
const READ_BYTES: usize = 64 << 10;

/// One connection to a broker.
pub struct Client {
    stream: Stream,
    pending: Pending,
    machine: Machine,
    started: Instant,
    input: BytesMut,
    output: BytesMut,
    /// Taken from the machine while waiting for a particular one.
    events: VecDeque<Event>,
}

impl Client {
    /// Connects to `host:port`, or what a URL says, [`Client::connect_to`].
    pub async fn connect(
        address: &str,
        options: &ConnectOptions,
        session: &mut Session,
        timeout_after: Duration,
    ) -> Result<(Client, Connected), ClientError> {
        let endpoint = Url::parse(address, 1883)?.endpoint;
        Client::connect_to(&endpoint, options, session, timeout_after).await
    }

    /// Connects to a broker and completes the handshake within `timeout_after`.
    ///
    /// On success the session moves into the client; [`Client::into_session`] gives it back. On failure it stays where it is.
    pub async fn connect_to(
        endpoint: &Endpoint,
        options: &ConnectOptions,
        session: &mut Session,
        timeout_after: Duration,
    ) -> Result<(Client, Connected), ClientError> {
        let timeout_ms = timeout_after.as_millis() as u64;
        let opened = timeout(timeout_after, async {
            let stream = Stream::connect(endpoint).await?;
            let mut client = Client::on(stream, options.clone(), session.clone())?;
            let connected = client.connected().await?;
            Ok((client, connected))
        });
        let opened = opened.await.unwrap_or(Err(ClientError::ConnectTimeout { timeout_ms }))?;
        *session = Session::default();
        Ok(opened)
    }

    fn on(
        stream: Stream,
        options: ConnectOptions,
        session: Session,
    ) -> Result<Client, ClientError> {
        let machine = Machine::new(options, session, Millis(0))
            .map_err(|_| ClientError::Protocol("CONNECT has a field that is too long"))?;
        Ok(Client {
            stream,
            pending: Pending { is_flushed: true, reads_first: false },
            machine,
            started: Instant::now(),
            input: BytesMut::new(),
            output: BytesMut::new(),
            events: VecDeque::new(),
        })
    }

    async fn connected(&mut self) -> Result<Connected, ClientError> {
        match self.next().await? {
            Event::Connected(connected) => Ok(connected),
            _ => Err(ClientError::Protocol("something came before CONNACK")),
        }
    }

    /// Waits for the next event. An error ends the connection; events that came before it are returned first.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        loop {
            if let Some(event) = self.try_next() {
                return Ok(event);
            }
            if let Some(error) = self.machine.poll_failure() {
                return Err(error);
            }
            self.step().await;
        }
    }

    /// Returns the next event if it is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        self.events.pop_front().or_else(|| self.machine.poll_event())
    }

    /// Waits until at most `bytes_max` bytes are still to be written to the socket. Events stay for [`Client::next`].
    pub async fn flush(&mut self, bytes_max: usize) -> Result<(), ClientError> {
        loop {
            self.machine.poll_transmit(self.now(), &mut self.output);
            if self.output.len() <= bytes_max && (self.pending.is_flushed || bytes_max > 0) {
                return Ok(());
            }
            if let Some(error) = self.machine.poll_failure() {
                return Err(error);
            }
            self.step().await;
            self.keep_events();
        }
    }

    /// Sends a message; goes out while something is awaited. `token` comes back in [`Event::Published`] unless the QoS is 0.
    pub fn publish(&mut self, token: u64, request: &PublishRequest) -> Result<(), RequestError> {
        self.machine.publish(token, request)
    }

    /// Returns how many more publishes of QoS 1 and 2 may be sent now.
    pub fn window(&self) -> usize {
        self.machine.window()
    }

    /// Asks for subscriptions; answered by [`Event::Subscribed`].
    pub fn subscribe(
        &mut self,
        token: u64,
        request: &SubscribeRequest,
    ) -> Result<(), RequestError> {
        self.machine.subscribe(token, request)
    }

    /// Takes subscriptions back, with properties that UNSUBSCRIBE may have; answered by [`Event::Unsubscribed`].
    pub fn unsubscribe(
        &mut self,
        token: u64,
        filters: Vec<Bytes>,
        properties: PropertyList,
    ) -> Result<(), RequestError> {
        self.machine.unsubscribe(token, filters, properties)
    }

    /// Acknowledges a delivery, [`Machine::acknowledge`].
    pub fn acknowledge(&mut self, handle: AckHandle, reason: ReasonCode) {
        self.machine.acknowledge(handle, reason);
    }

    /// Waits until `wanted` returns something for an event; the other events stay for [`Client::next`].
    pub async fn wait_for<T>(
        &mut self,
        mut wanted: impl FnMut(&Event) -> Option<T>,
    ) -> Result<T, ClientError> {
        let mut seen = 0;
        loop {
            self.keep_events();
            while let Some(event) = self.events.get(seen) {
                if let Some(found) = wanted(event) {
                    self.events.remove(seen);
                    return Ok(found);
                }
                seen += 1;
            }
            if let Some(error) = self.machine.poll_failure() {
                return Err(error);
            }
            self.step().await;
        }
    }

    /// Says goodbye, waits until that is written, and closes. `session_expiry_s` replaces the one of CONNECT.
    pub async fn disconnect(
        mut self,
        reason: ReasonCode,
        session_expiry_s: Option<u32>,
    ) -> (Session, Result<(), ClientError>) {
        self.machine.disconnect(reason, session_expiry_s);
        let result = match self.flush(0).await {
            Ok(()) => self.stream.shutdown().await.map_err(ClientError::Io),
            Err(error) => Err(error),
        };
        (self.machine.into_session(), result)
    }

    /// Drops the connection without a word, as a crash would; returns what the next one needs.
    pub fn into_session(self) -> Session {
        self.machine.into_session()
    }

    /// The session as it stands.
    pub fn session(&self) -> &Session {
        self.machine.session()
    }

    fn now(&self) -> Millis {
        Millis(self.started.elapsed().as_millis() as u64)
    }

    fn keep_events(&mut self) {
        while let Some(event) = self.machine.poll_event() {
            self.events.push_back(event);
        }
    }

    /// Waits for one thing: bytes in, bytes out, or time.
    async fn step(&mut self) {
        self.machine.poll_transmit(self.now(), &mut self.output);
        let due = self.machine.poll_timeout();
        let due_at = self.started + Duration::from_millis(due.unwrap_or_default().0);
        self.input.reserve(READ_BYTES);
        let moved = {
            let Client { stream, pending, input, output, .. } = self;
            tokio::select! {
                moved = poll_fn(|cx| poll_stream(stream, pending, input, output, cx)) => moved,
                () = sleep_until(due_at), if due.is_some() => Moved::Nothing,
            }
        };
        match moved {
            Moved::In(Ok(0)) => self.machine.handle_disconnect(None),
            Moved::In(Ok(_)) => self.machine.handle_input(self.now(), &mut self.input),
            Moved::In(Err(error)) => self.machine.handle_disconnect(Some(error)),
            Moved::Out(Ok(())) => {}
            Moved::Out(Err(error)) => self.on_write_error(error),
            Moved::Nothing => self.machine.handle_timeout(self.now()),
        }
    }

    /// What the server said before it closed explains more than that writing failed.
    fn on_write_error(&mut self, error: std::io::Error) {
        let mut cx = Context::from_waker(Waker::noop());
        while matches!(poll_read(&mut self.stream, &mut self.input, &mut cx), Poll::Ready(Ok(count)) if count > 0)
        {
        }
        self.machine.handle_input(self.now(), &mut self.input);
        self.machine.handle_disconnect(Some(error));
    }
}

/// What the next look at a stream must know.
struct Pending {
    /// False when the stream may hold back what it took.
    is_flushed: bool,
    reads_first: bool,
}

/// What a stream did.
enum Moved {
    In(io::Result<usize>),
    Out(io::Result<()>),
    /// It was time for something else.
    Nothing,
}

/// Writes what there is, or reads what has come: each goes first every other time, so that neither waits for the other to end.
fn poll_stream(
    stream: &mut Stream,
    pending: &mut Pending,
    input: &mut BytesMut,
    output: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<Moved> {
    pending.reads_first = !pending.reads_first;
    if pending.reads_first
        && let Poll::Ready(read) = poll_read(stream, input, cx)
    {
        return Poll::Ready(Moved::In(read));
    }
    if !output.is_empty() {
        // The future has no state of its own: the next call begins it anew.
        if let Poll::Ready(written) = pin!(stream.write_buf(output)).poll(cx) {
            pending.is_flushed = stream.is_direct();
            return Poll::Ready(Moved::Out(written.map(drop)));
        }
    } else if !pending.is_flushed
        && let Poll::Ready(flushed) = Pin::new(&mut *stream).poll_flush(cx)
    {
        pending.is_flushed = true;
        return Poll::Ready(Moved::Out(flushed));
    }
    match pending.reads_first {
        true => Poll::Pending,
        false => poll_read(stream, input, cx).map(Moved::In),
    }
}

fn poll_read(
    stream: &mut Stream,
    input: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    pin!(stream.read_buf(input)).poll(cx)
}
