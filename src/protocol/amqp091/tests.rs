//! One connection and a client that is played by hand: what is answered, what closes what, and when.

mod blocked;
mod consume;
mod exchange;
mod publish;
mod queue;
mod replies;
mod transaction;

use bytes::{BufMut, Bytes, BytesMut};

use super::codec::content;
use super::codec::frame::{self, PROTOCOL_HEADER};
use super::codec::method::*;
use super::codec::{Frame, FrameKind, Method, Properties, ShortString, Table, Value};
use super::*;
use crate::model::command::{Close, Credentials};
use crate::model::effect::Opened;
use crate::model::{Command, Effect, Millis, PeerInfo, Refusal, VirtualHost};
use crate::protocol::Connection;

const NOW: Millis = Millis(1_000);

/// Something that the client does.
type Act = fn(&mut Peer);

/// What the client sees of one connection.
struct Peer {
    connection: AmqpConnection,
    now: Millis,
    received: BytesMut,
}

impl Peer {
    fn new(settings: Settings) -> Peer {
        let peer = PeerInfo::tcp("127.0.0.1:4".parse().unwrap());
        let connection = AmqpConnection::new(settings.into(), peer, Bytes::from("amqp-1"), NOW);
        Peer { connection, now: NOW, received: BytesMut::new() }
    }

    /// A peer with an open connection.
    fn open(settings: Settings) -> Peer {
        let mut peer = Peer::admitted(settings);
        peer.tune(2047, 131_072, 60);
        peer.send(0, open("/"));
        peer.enter(Ok(()));
        assert_eq!(peer.methods(), [(0, ConnectionOpenOk::default().into())]);
        peer
    }

    /// Lets a peer into the virtual host that it asked for, or not.
    fn enter(&mut self, result: Result<(), Refusal>) -> VirtualHost {
        assert!(!self.connection.wants_input(), "whatever follows waits for the broker");
        let host = match self.connection.commands.pop_back() {
            Some(Command::Enter { host }) => host,
            other => panic!("{other:?} enters no virtual host"),
        };
        self.effect(Effect::Entered(result));
        host
    }

    /// A peer that is told what it may tune.
    fn admitted(settings: Settings) -> Peer {
        let mut peer = Peer::started(settings, true);
        peer.effect(Effect::Opened(Opened {
            session_present: false,
            persistent: false,
            outbound: Vec::new(),
            inbound: Vec::new(),
        }));
        let tune = ConnectionTune { channel_max: 2047, frame_max: 131_072, heartbeat: 60 };
        assert_eq!(peer.methods(), [(0, tune.into())]);
        peer
    }

    /// A peer that has said who it is.
    fn started(settings: Settings, hears_of_refusal: bool) -> Peer {
        let mut peer = Peer::new(settings);
        peer.bytes(&PROTOCOL_HEADER);
        assert!(matches!(&peer.methods()[..], [(0, Method::ConnectionStart(_))]));
        peer.send(0, start_ok("PLAIN", b"\0ann\0pw", hears_of_refusal));
        peer
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let mut input = BytesMut::from(bytes);
        self.connection.handle_input(self.now, &mut input);
        self.drain();
    }

    fn send(&mut self, channel: u16, method: impl Into<Method>) {
        let mut out = BytesMut::new();
        method.into().encode(channel, &mut out);
        self.bytes(&out);
    }

    fn frame(&mut self, kind: FrameKind, channel: u16, payload: &[u8]) {
        let mut out = BytesMut::new();
        frame::encode(kind, channel, &mut out, |out| out.put_slice(payload));
        self.bytes(&out);
    }

    fn effect(&mut self, effect: Effect) {
        self.connection.handle_effect(self.now, effect);
        self.drain();
    }

    /// The broker has nothing of the connection any more.
    fn released(&mut self) {
        self.connection.handle_released(self.now);
        self.drain();
    }

    fn tune(&mut self, channel_max: u16, frame_max: u32, heartbeat: u16) {
        self.send(0, ConnectionTuneOk { channel_max, frame_max, heartbeat });
    }

    /// Lets the time come that the connection waits for, if that is before `until`; returns when that is.
    fn wait(&mut self, until: Millis) -> Millis {
        self.now = self.connection.poll_timeout().map_or(until, |due| due.min(until));
        self.connection.handle_timeout(self.now);
        self.drain();
        self.now
    }

    fn drain(&mut self) {
        self.connection.poll_transmit(self.now, &mut self.received, usize::MAX);
    }

    fn frames(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| frame::decode(&mut self.received, 131_072).unwrap()).collect()
    }

    fn methods(&mut self) -> Vec<(u16, Method)> {
        let method = |frame: Frame| (frame.channel, Method::decode(frame.payload).unwrap());
        self.frames().into_iter().map(method).collect()
    }

    fn command(&mut self) -> Option<Command> {
        self.connection.poll_command()
    }

    fn is_closed(&self) -> bool {
        self.connection.is_closing()
    }

    /// The connection was closed: the code, the text, and the method it is about.
    fn closed_with(&mut self) -> (u16, String, (u16, u16)) {
        match &self.methods()[..] {
            [(0, Method::ConnectionClose(close))] => (
                close.reply_code,
                close.reply_text.as_str().unwrap().to_owned(),
                (close.class_id, close.method_id),
            ),
            other => panic!("{other:?} is not one connection.close"),
        }
    }
}

fn open(virtual_host: &'static str) -> ConnectionOpen {
    ConnectionOpen {
        virtual_host: ShortString::from_static(virtual_host),
        ..ConnectionOpen::default()
    }
}

fn start_ok(
    mechanism: &'static str,
    response: &'static [u8],
    hears_of_refusal: bool,
) -> ConnectionStartOk {
    let capabilities: Table =
        [("authentication_failure_close", Value::Boolean(hears_of_refusal))].into_iter().collect();
    ConnectionStartOk {
        client_properties: [("capabilities", Value::Table(capabilities))].into_iter().collect(),
        mechanism: ShortString::from_static(mechanism),
        response: Bytes::from_static(response),
        locale: ShortString::from_static("en_US"),
    }
}

fn publish() -> BasicPublish {
    BasicPublish { routing_key: ShortString::from_static("q"), ..BasicPublish::default() }
}

const CLOSED: Option<Command> = Some(Command::Close(Close { will: false, session_expiry_s: None }));

#[test]
fn an_unknown_protocol_header_is_answered_with_ours() {
    let headers: [&[u8]; 4] =
        [b"AMQP\x01\x01\x00\x09", b"AMQP\x00\x01\x00\x00", b"GET / HTTP/1.1\r\n\r\n", b"\x10\x0c"];
    for header in headers {
        let mut peer = Peer::new(Settings::default());
        peer.bytes(header);
        assert_eq!(&peer.received[..], PROTOCOL_HEADER, "{header:?}");
        assert!(peer.is_closed());
        assert_eq!(peer.command(), None, "the broker never heard of it");
    }
}

#[test]
fn the_handshake_opens_a_session_that_ends_with_the_connection() {
    let mut peer = Peer::new(Settings::default());
    peer.bytes(&PROTOCOL_HEADER[..5]);
    assert!(peer.received.is_empty());
    let mut input = BytesMut::from(&PROTOCOL_HEADER[..]);
    peer.connection.handle_input(NOW, &mut input);
    peer.drain();

    let methods = peer.methods();
    let [(0, Method::ConnectionStart(start))] = &methods[..] else { panic!("{methods:?}") };
    assert_eq!((start.version_major, start.version_minor), (0, 9));
    assert_eq!(&start.mechanisms[..], b"PLAIN AMQPLAIN");
    assert_eq!(start.server_properties.get("product"), Some("FluxMQ".into()));

    peer.send(0, start_ok("PLAIN", b"\0ann\0pw", true));
    let Some(Command::Open(open_command)) = peer.command() else {
        panic!("a session is asked for")
    };
    assert_eq!((open_command.clean_start, open_command.session_expiry_s), (true, 0));
    let Credentials::Password { user, password } = &open_command.credentials else {
        panic!("a password")
    };
    assert_eq!((&user[..], &password.0[..]), (&b"ann"[..], &b"pw"[..]));
    assert!(!peer.connection.wants_input(), "whatever follows waits for the broker");

    let mut peer = Peer::open(Settings::default());
    assert!(matches!(peer.command(), Some(Command::Open(_))));
    peer.send(0, ConnectionClose { reply_code: 200, ..ConnectionClose::default() });
    assert_eq!((peer.command(), peer.command()), (CLOSED, None));
    assert!(!peer.is_closed() && peer.connection.awaits_release());
    peer.released();
    assert_eq!(peer.methods(), [(0, ConnectionCloseOk::default().into())]);
    assert!(peer.is_closed());
}

#[test]
fn a_client_that_is_not_admitted_hears_why_when_it_said_it_would() {
    let mut peer = Peer::started(Settings::default(), true);
    assert!(matches!(peer.command(), Some(Command::Open(_))));
    peer.effect(Effect::OpenRefused(Refusal::BadCredentials));
    let expected = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile.";
    assert_eq!(peer.closed_with(), (403, expected.to_owned(), (0, 0)));
    assert!(!peer.is_closed());
    peer.send(0, ConnectionCloseOk::default());
    assert!(peer.is_closed());
    assert_eq!(peer.command(), None, "nothing was opened, so nothing is closed");

    let mut peer = Peer::started(Settings::default(), false);
    peer.effect(Effect::OpenRefused(Refusal::BadCredentials));
    assert!(peer.is_closed() && peer.received.is_empty());
}

#[test]
fn a_connection_over_a_limit_is_told_so_and_asks_nothing_of_the_broker() {
    let full = Refusal::Quota { limit: "limits.connections_max" };
    let mut peer = Peer::started(Settings { turned_away: Some(full), ..Settings::default() }, true);
    let expected = "NOT_ALLOWED - limits.connections_max reached".to_owned();
    assert_eq!(peer.closed_with(), (530, expected, (0, 0)));
    assert_eq!(peer.command(), None);
}

#[test]
fn nobody_is_told_anything_before_it_is_admitted() {
    let mut wrong_mechanism = Peer::new(Settings::default());
    wrong_mechanism.bytes(&PROTOCOL_HEADER);
    wrong_mechanism.methods();
    wrong_mechanism.send(0, start_ok("CRAM-MD5", b"", true));
    let mut too_early = Peer::new(Settings::default());
    too_early.bytes(&PROTOCOL_HEADER);
    too_early.methods();
    too_early.send(0, open("/"));
    for mut peer in [wrong_mechanism, too_early] {
        assert!(peer.is_closed() && peer.received.is_empty());
        assert_eq!(peer.command(), None);
    }
}

#[test]
fn a_client_takes_what_it_is_offered_or_less() {
    let cases = [
        (
            2048,
            131_072,
            "negotiated channel_max = 2048 is higher than the maximum allowed value (2047)",
        ),
        (
            0,
            131_072,
            "negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (2047)",
        ),
        (
            1,
            131_073,
            "negotiated frame_max = 131073 is higher than the maximum allowed value (131072)",
        ),
        (
            1,
            0,
            "negotiated frame_max = 0 (no limit) is higher than the maximum allowed value (131072)",
        ),
        (1, 4095, "negotiated frame_max = 4095 is lower than the minimum allowed value (4096)"),
    ];
    for (channel_max, frame_max, expected) in cases {
        let mut peer = Peer::admitted(Settings::default());
        peer.tune(channel_max, frame_max, 0);
        assert_eq!(peer.closed_with(), (530, format!("NOT_ALLOWED - {expected}"), (10, 31)));
    }
    let mut peer = Peer::admitted(Settings::default());
    peer.tune(1, 4096, 0);
    peer.send(0, open("/"));
    peer.enter(Ok(()));
    assert_eq!(peer.methods(), [(0, ConnectionOpenOk::default().into())]);
    assert_eq!(peer.connection.input_bytes_max(), 4096);
    peer.frame(FrameKind::Body, 1, &[0; 4089]);
    assert_eq!(peer.closed_with().0, 501);
    assert!(peer.is_closed(), "where the next frame begins is not known");
}

#[test]
fn another_virtual_host_is_not_found() {
    let mut peer = Peer::admitted(Settings::default());
    peer.tune(10, 8192, 0);
    peer.send(0, open("other"));
    let expected = "NOT_ALLOWED - vhost other not found".to_owned();
    assert_eq!(peer.closed_with(), (530, expected, (10, 40)));
}

#[test]
fn a_virtual_host_is_entered_by_those_whom_the_broker_lets() {
    let staging = VirtualHost::new(b"staging").unwrap();
    let settings = || Settings { virtual_hosts: vec![staging.clone()], ..Settings::default() };
    let asked = |settings| {
        let mut peer = Peer::admitted(settings);
        peer.tune(10, 8192, 0);
        peer.send(0, open("staging"));
        peer
    };
    let mut peer = asked(settings());
    assert_eq!(peer.methods(), []);
    assert_eq!(peer.enter(Ok(())), staging);
    assert_eq!(peer.methods(), [(0, ConnectionOpenOk::default().into())]);

    let mut peer = asked(settings());
    peer.enter(Err(Refusal::NotAuthorized));
    let expected = "NOT_ALLOWED - access to vhost 'staging' refused for user 'ann'".to_owned();
    assert_eq!(peer.closed_with(), (530, expected, (10, 40)));
    assert!(matches!(peer.command(), Some(Command::Open(_))));
    assert_eq!((peer.command(), peer.command()), (CLOSED, None), "its session ends");
}

#[test]
fn a_new_secret_is_checked_as_the_first_one_was() {
    let update = ConnectionUpdateSecret {
        new_secret: Bytes::from_static(b"new"),
        reason: ShortString::from_static("renewal"),
    };
    let asked = || {
        let mut peer = Peer::open(Settings::default());
        peer.send(0, update.clone());
        while let Some(command) = peer.command() {
            if let Command::Renew(credentials) = command {
                let (user, password) = (Bytes::from("ann"), Bytes::from("new").into());
                assert_eq!(*credentials, Credentials::Password { user, password });
            }
        }
        assert!(!peer.connection.wants_input(), "whatever follows waits for the broker");
        peer
    };
    let mut peer = asked();
    peer.effect(Effect::Authenticated { last: Bytes::new() });
    assert_eq!(peer.methods(), [(0, ConnectionUpdateSecretOk::default().into())]);
    assert!(peer.connection.wants_input());

    let mut peer = asked();
    peer.effect(Effect::Expelled(Refusal::BadCredentials));
    let expected = "NOT_ALLOWED - New secret was refused by one of the backends".to_owned();
    assert_eq!(peer.closed_with(), (530, expected, (10, 70)));
}

#[test]
fn channels_are_opened_and_closed_by_their_number() {
    let mut peer = Peer::open(Settings::default());
    for channel in [1, 2047] {
        peer.send(channel, ChannelOpen::default());
        assert_eq!(peer.methods(), [(channel, ChannelOpenOk::default().into())]);
    }
    peer.send(1, ChannelFlow { active: true });
    assert_eq!(peer.methods(), [(1, ChannelFlowOk { active: true }.into())]);
    peer.send(1, AccessRequest::default());
    assert_eq!(peer.methods(), [(1, AccessRequestOk { ticket: 1 }.into())]);
    peer.send(1, ChannelClose { reply_code: 200, ..ChannelClose::default() });
    assert_eq!(peer.methods(), [(1, ChannelCloseOk::default().into())]);
    peer.send(1, ChannelOpen::default());
    assert_eq!(peer.methods(), [(1, ChannelOpenOk::default().into())]);
}

#[test]
fn what_is_wrong_with_a_channel_closes_the_connection() {
    let cases: [(&str, u16, Act); 8] = [
        ("expected 'channel.open'", 504, |peer| peer.send(2, BasicQos::default())),
        ("second 'channel.open' seen", 504, |peer| peer.send(1, ChannelOpen::default())),
        ("channel 2048 is higher than the negotiated channel_max (2047)", 530, |peer| {
            peer.send(2048, ChannelOpen::default());
        }),
        ("expected method frame, got non method frame instead", 505, |peer| {
            peer.frame(FrameKind::Header, 2, b"");
        }),
        ("active=false", 540, |peer| peer.send(1, ChannelFlow { active: false })),
        ("basic.deliver is not a method for a server", 503, |peer| {
            peer.send(1, BasicDeliver::default());
        }),
        ("connection.tune is not a method for a server", 503, |peer| {
            peer.send(1, ConnectionTune::default());
        }),
        ("class 60 has no method 99", 540, |peer| {
            peer.frame(FrameKind::Method, 1, b"\0\x3c\0\x63");
        }),
    ];
    for (text, code, act) in cases {
        let mut peer = Peer::open(Settings::default());
        peer.send(1, ChannelOpen::default());
        peer.methods();
        act(&mut peer);
        let (found, reply, _) = peer.closed_with();
        let name = ReplyCode::from_number(code).unwrap().name();
        assert_eq!((found, reply), (code, format!("{name} - {text}")));
        assert!(!peer.is_closed(), "the answer is waited for");
    }
}

#[test]
fn what_is_wrong_on_channel_0_closes_the_connection() {
    let cases: [(u16, Act); 5] = [
        (504, |peer| peer.send(0, BasicQos::default())),
        (504, |peer| peer.send(0, start_ok("PLAIN", b"", true))),
        (505, |peer| peer.frame(FrameKind::Header, 0, b"")),
        (502, |peer| peer.frame(FrameKind::Method, 0, b"\0\x0a\0\x28\x09/")),
        (501, |peer| peer.bytes(b"\x08\0\x01\0\0\0\0\xce")),
    ];
    for (code, act) in cases {
        let mut peer = Peer::open(Settings::default());
        act(&mut peer);
        assert_eq!(peer.closed_with().0, code);
        assert!(matches!(peer.command(), Some(Command::Open(_))));
        assert_eq!((peer.command(), peer.command()), (CLOSED, None));
    }
}

#[test]
fn a_message_that_is_too_large_closes_its_channel_alone() {
    let mut peer = Peer::open(Settings { message_bytes_max: 10, ..Settings::default() });
    for channel in [1, 2] {
        peer.send(channel, ChannelOpen::default());
    }
    peer.methods();
    let mut out = BytesMut::new();
    Method::from(publish()).encode(1, &mut out);
    content::encode(1, &Properties::default(), b"eleven byte", 4096, &mut out);
    peer.bytes(&out);

    let expected = ChannelClose {
        reply_code: 406,
        reply_text: ShortString::from_static(
            "PRECONDITION_FAILED - message size 11 is larger than configured max size 10",
        ),
        class_id: 60,
        method_id: 40,
    };
    assert_eq!(peer.methods(), [(1, expected.into())], "its body, which still came, is ignored");
    peer.send(1, BasicQos::default());
    assert_eq!(peer.methods(), [], "so is everything until the answer");
    peer.send(2, ChannelFlow { active: true });
    assert_eq!(peer.methods(), [(2, ChannelFlowOk { active: true }.into())]);
    peer.send(1, ChannelCloseOk::default());
    peer.send(1, ChannelOpen::default());
    assert_eq!(peer.methods(), [(1, ChannelOpenOk::default().into())]);
}

#[test]
fn when_both_close_a_channel_each_answers_the_other() {
    let mut peer = Peer::open(Settings { message_bytes_max: 0, ..Settings::default() });
    peer.send(1, ChannelOpen::default());
    peer.methods();
    let mut out = BytesMut::new();
    Method::from(publish()).encode(1, &mut out);
    content::encode(1, &Properties::default(), b"x", 4096, &mut out);
    Method::from(ChannelClose::default()).encode(1, &mut out);
    peer.bytes(&out);

    let methods = peer.methods();
    assert!(matches!(&methods[..], [(1, Method::ChannelClose(_)), (1, Method::ChannelCloseOk(_))]));
    peer.send(1, ChannelCloseOk::default());
    peer.send(1, ChannelCloseOk::default());
    assert_eq!(peer.methods(), [], "a second answer is for nobody and harms nobody");
}

#[test]
fn what_all_channels_have_begun_is_bounded() {
    let settings = Settings { unfinished_bytes_max: 10_000, ..Settings::default() };
    let mut peer = Peer::open(settings);
    let begin = |peer: &mut Peer, channel: u16| {
        let mut out = BytesMut::new();
        Method::from(ChannelOpen::default()).encode(channel, &mut out);
        Method::from(publish()).encode(channel, &mut out);
        content::encode(channel, &Properties::default(), &[7; 4000], 4096, &mut out);
        out.truncate(out.len() - 4008);
        frame::encode(FrameKind::Body, channel, &mut out, |out| out.put_slice(&[7; 3999]));
        peer.bytes(&out);
        peer.methods()
    };

    assert_eq!(begin(&mut peer, 1).len(), 1);
    assert_eq!(begin(&mut peer, 2).len(), 1);
    let methods = begin(&mut peer, 3);
    let [_, (0, Method::ConnectionClose(close))] = &methods[..] else { panic!("{methods:?}") };
    assert_eq!((close.reply_code, close.class_id, close.method_id), (506, 60, 40));
    assert_eq!(peer.connection.unfinished_bytes, 0);
}

#[test]
fn a_connection_that_we_close_waits_for_the_answer_and_not_for_ever() {
    let mut peer = Peer::open(Settings::default());
    peer.send(1, ChannelOpen::default());
    peer.methods();
    peer.effect(Effect::ShuttingDown);
    let (code, text, _) = peer.closed_with();
    assert_eq!(code, 320);
    assert_eq!(text, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'");

    peer.send(1, ChannelClose::default());
    assert_eq!(peer.methods(), [], "what still comes is for nobody");
    peer.send(0, ConnectionClose::default());
    assert_eq!(peer.methods(), [(0, ConnectionCloseOk::default().into())]);
    assert!(!peer.is_closed());
    let end = NOW.plus(3_000);
    assert_eq!(peer.wait(Millis(u64::MAX)), end);
    assert!(peer.is_closed());
}

#[test]
fn a_client_that_closes_hears_of_it_when_its_queues_are_gone_or_in_time() {
    let mut peer = Peer::open(Settings::default());
    peer.send(0, ConnectionClose::default());
    peer.send(1, ChannelOpen::default());
    assert_eq!(peer.methods(), [], "what still comes is for nobody");
    assert_eq!(peer.wait(Millis(u64::MAX)), NOW.plus(3_000));
    assert_eq!(peer.methods(), [(0, ConnectionCloseOk::default().into())]);
    assert!(peer.is_closed() && !peer.connection.awaits_release());
    peer.released();
    assert_eq!(peer.methods(), []);
}

#[test]
fn a_handshake_has_its_time() {
    let mut slow = Peer::new(Settings::default());
    slow.bytes(b"AMQ");
    let mut tuning = Peer::admitted(Settings::default());
    for peer in [&mut slow, &mut tuning] {
        assert_eq!(peer.wait(Millis(u64::MAX)), NOW.plus(10_000));
        assert!(peer.is_closed() && peer.received.is_empty());
    }
}

#[test]
fn heartbeats_go_both_ways() {
    let mut peer = Peer::admitted(Settings::default());
    peer.tune(10, 8192, 4);
    peer.send(0, open("/"));
    peer.enter(Ok(()));
    peer.methods();

    // Half an interval of silence of ours, and again.
    for count in 1..=2 {
        assert_eq!(peer.wait(Millis(u64::MAX)), NOW.plus(2_000 * count));
        let [frame] = &peer.frames()[..] else { panic!("one heartbeat") };
        assert_eq!(frame.kind, FrameKind::Heartbeat);
    }
    // Theirs counts, and so does a part of a frame.
    peer.bytes(b"\x08\0\0\0\0\0\0\xce");
    assert!(peer.frames().is_empty(), "a heartbeat is not answered");
    peer.wait(NOW.plus(6_000));
    let mut partial = BytesMut::from(&b"\x01\0\x01"[..]);
    peer.connection.handle_input(peer.now, &mut partial);
    let heard = peer.now;
    while !peer.is_closed() {
        peer.wait(Millis(u64::MAX));
        peer.frames();
    }
    // Two intervals without a byte: gone, without a word.
    assert_eq!(peer.now, heard.plus(8_000));
    assert!(peer.received.is_empty());
}

#[test]
fn no_heartbeats_are_asked_for_with_an_interval_of_0() {
    let mut peer = Peer::admitted(Settings::default());
    peer.tune(10, 8192, 0);
    peer.send(0, open("/"));
    assert_eq!(peer.connection.poll_timeout(), None);
}

#[test]
fn a_peer_that_does_not_take_its_answers_is_not_read() {
    let mut peer = Peer::open(Settings { answer_bytes_max: 64, ..Settings::default() });
    let mut input = BytesMut::new();
    for channel in 1..=100 {
        Method::from(ChannelOpen::default()).encode(channel, &mut input);
    }
    peer.connection.handle_input(NOW, &mut input);
    assert!(!input.is_empty() && !peer.connection.wants_input());

    let mut answered = 0;
    while !input.is_empty() {
        peer.drain();
        answered += peer.methods().len();
        assert_eq!(peer.connection.poll_timeout(), Some(NOW), "the driver is to come back");
        peer.connection.handle_input(NOW, &mut input);
    }
    peer.drain();
    assert_eq!(answered + peer.methods().len(), 100);
}

#[test]
fn methods_that_only_servers_send_are_refused() {
    let mut peer = Peer::open(Settings::default());
    peer.send(1, ChannelOpen::default());
    peer.methods();
    peer.send(1, TxSelectOk::default());
    let expected = "COMMAND_INVALID - tx.select-ok is not a method for a server".to_owned();
    assert_eq!(peer.closed_with(), (503, expected, (90, 11)));
}
