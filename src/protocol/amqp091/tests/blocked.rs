//! `connection.blocked`: who is told, who is read no further, and what becomes of what was sent.

use super::*;

impl Peer {
    /// An open connection with channel 1, of a client that hears of being blocked, or does not.
    fn hearing(hears: bool) -> Peer {
        let mut peer = Peer::open(Settings::default());
        peer.connection.client.hears_of_blocked = hears;
        peer.send(1, ChannelOpen::default());
        peer.methods();
        while peer.command().is_some() {}
        peer
    }

    fn say_publish(&mut self) {
        let mut out = BytesMut::new();
        let to = BasicPublish { exchange: ShortString::from_static("x"), ..publish() };
        Method::from(to).encode(1, &mut out);
        content::encode(1, &Properties::default(), b"body", 4096, &mut out);
        self.bytes(&out);
    }

    fn passed_on(&mut self) -> usize {
        let commands = std::iter::from_fn(|| self.command());
        commands.filter(|command| matches!(command, Command::Route(_))).count()
    }
}

fn blocked(reason: &'static str) -> [(u16, Method); 1] {
    [(0, ConnectionBlocked { reason: ShortString::from_static(reason) }.into())]
}

fn unblocked() -> [(u16, Method); 1] {
    [(0, ConnectionUnblocked::default().into())]
}

const FULL: Effect = Effect::Publishing(Err(Refusal::DiskFull));
const TAKEN: Effect = Effect::Publishing(Ok(()));

#[test]
fn who_has_published_is_told_and_read_no_further_until_it_is_over() {
    let mut peer = Peer::hearing(true);
    peer.say_publish();
    assert_eq!(peer.passed_on(), 1);

    peer.effect(FULL);
    assert_eq!(peer.methods(), blocked("low on disk"));
    assert!(!peer.connection.wants_input());
    peer.effect(Effect::Publishing(Err(Refusal::MemoryFull)));
    assert_eq!(peer.methods(), [], "it knows");
    let mut input = BytesMut::new();
    Method::from(ChannelOpen::default()).encode(2, &mut input);
    peer.connection.handle_input(NOW, &mut input);
    assert!(!input.is_empty(), "what it sends meanwhile waits");

    peer.effect(TAKEN);
    assert_eq!(peer.methods(), unblocked());
    assert!(peer.connection.wants_input());
    peer.connection.handle_input(NOW, &mut input);
    peer.drain();
    assert_eq!(peer.methods(), [(2, ChannelOpenOk::default().into())]);
}

#[test]
fn who_has_not_published_goes_on_and_its_first_publish_waits() {
    for (hears, refusal, reason) in
        [(true, Refusal::MemoryFull, "low on memory"), (false, Refusal::DiskFull, "")]
    {
        let mut peer = Peer::hearing(hears);
        peer.effect(Effect::Publishing(Err(refusal)));
        peer.send(1, BasicQos { prefetch_count: 1, ..BasicQos::default() });
        assert_eq!(peer.methods(), [(1, BasicQosOk::default().into())]);

        peer.say_publish();
        assert_eq!(peer.methods(), if hears { blocked(reason).to_vec() } else { vec![] });
        assert!(!peer.connection.wants_input());
        assert_eq!(peer.passed_on(), 0, "it would be refused");

        peer.effect(TAKEN);
        assert_eq!(peer.methods(), if hears { unblocked().to_vec() } else { vec![] });
        assert_eq!(peer.passed_on(), 1);
    }
}

#[test]
fn a_transaction_that_publishes_waits_before_its_commit() {
    let mut peer = Peer::hearing(true);
    peer.send(1, TxSelect::default());
    peer.methods();
    peer.effect(FULL);
    peer.say_publish();
    assert_eq!(peer.methods(), blocked("low on disk"));
    let mut input = BytesMut::new();
    Method::from(TxCommit::default()).encode(1, &mut input);
    peer.connection.handle_input(NOW, &mut input);
    assert_eq!((peer.command(), input.is_empty()), (None, false));

    peer.effect(TAKEN);
    assert_eq!(peer.methods(), unblocked());
    peer.connection.handle_input(NOW, &mut input);
    assert!(matches!(peer.command(), Some(Command::Commit(_))));
}

#[test]
fn nobody_is_taken_for_gone_who_is_not_read() {
    let mut peer = Peer::hearing(true);
    peer.say_publish();
    peer.effect(FULL);
    let until = peer.now.plus(600_000);
    while peer.wait(until) < until {}
    assert!(!peer.is_closed());
    assert!(peer.frames().iter().any(|frame| frame.kind == FrameKind::Heartbeat));

    peer.effect(TAKEN);
    let until = until.plus(600_000);
    while peer.wait(until) < until && !peer.is_closed() {}
    assert!(peer.is_closed(), "it is silent again");
}

#[test]
fn a_connection_that_ends_takes_with_it_what_waits() {
    let mut peer = Peer::hearing(true);
    peer.effect(FULL);
    peer.say_publish();
    peer.connection.handle_disconnect(peer.now);
    peer.effect(TAKEN);
    assert_eq!((peer.command(), peer.command()), (CLOSED, None));
}
