//! Transactions: what is gathered, what bounds it, and that nothing is asked of the broker before the commit.

use super::*;
use crate::model::{Commit, Token};

impl Peer {
    /// A peer whose channel 1 transacts.
    fn transacting(settings: Settings) -> Peer {
        let mut peer = Peer::publisher(settings, false);
        peer.send(1, TxSelect::default());
        assert_eq!(peer.methods(), [(1, TxSelectOk::default().into())]);
        peer
    }

    fn committed(&mut self) -> Box<Commit> {
        match self.command() {
            Some(Command::Commit(commit)) => commit,
            other => panic!("{other:?} is no commit"),
        }
    }

    /// Publishes a body of so many bytes to a queue.
    fn gather(&mut self, channel: u16, bytes: usize, mandatory: bool) {
        let publish =
            BasicPublish { routing_key: publish::short("q"), mandatory, ..Default::default() };
        let mut out = BytesMut::new();
        Method::from(publish).encode(channel, &mut out);
        content::encode(channel, &Properties::default(), &vec![b'x'; bytes], 131_072, &mut out);
        self.bytes(&out);
    }

    fn closing(&mut self) -> (u16, String) {
        match self.methods().pop() {
            Some((_, Method::ChannelClose(close))) => {
                (close.reply_code, close.reply_text.as_str().unwrap().to_owned())
            }
            Some((_, Method::ConnectionClose(close))) => {
                (close.reply_code, close.reply_text.as_str().unwrap().to_owned())
            }
            other => panic!("{other:?} closes nothing"),
        }
    }
}

#[test]
fn nothing_is_asked_of_the_broker_before_the_commit() {
    let mut peer = Peer::transacting(Settings::default());
    peer.gather(1, 10, false);
    peer.gather(1, 20, true);
    assert_eq!(peer.command(), None);

    peer.send(1, TxCommit::default());

    let commit = peer.committed();
    let bodies: Vec<usize> = commit.publishes.iter().map(|it| it.message.payload.len()).collect();
    assert_eq!((bodies, commit.settled.len()), (vec![10, 20], 0));
    assert_eq!(peer.methods(), [], "it is answered when it is stored");
    peer.effect(Effect::Committed { token: commit.token, result: Ok(vec![0]) });
    assert_eq!(peer.methods(), [(1, TxCommitOk::default().into())], "the first is not mandatory");
    peer.gather(1, 30, false);
    peer.send(1, TxRollback::default());
    assert_eq!(peer.methods(), [(1, TxRollbackOk::default().into())]);
    peer.send(1, TxCommit::default());
    assert!(peer.committed().publishes.is_empty());
}

#[test]
fn an_answer_to_a_transaction_whose_channel_is_gone_is_for_nobody() {
    let mut peer = Peer::transacting(Settings::default());
    peer.gather(1, 10, false);
    peer.send(1, TxCommit::default());
    let token = peer.committed().token;
    peer.effect(Effect::Committed { token: Token(token.0 + 1), result: Ok(vec![]) });
    assert_eq!(peer.methods(), []);
    let refusal = Refusal::Quota { limit: "some limit" };
    peer.effect(Effect::Committed { token, result: Err(refusal) });
    let text = "PRECONDITION_FAILED - the transaction is rolled back: some limit reached";
    assert_eq!(peer.closing(), (406, text.to_owned()));
    peer.effect(Effect::Committed { token, result: Ok(vec![]) });
    assert_eq!(peer.methods(), []);
}

#[test]
fn a_transaction_is_bounded_in_number_and_in_bytes() {
    let mut peer = Peer::transacting(Settings::default());
    for _ in 0..10_000 {
        peer.gather(1, 1, false);
    }
    assert_eq!(peer.methods(), []);
    peer.gather(1, 1, false);
    let (code, text) = peer.closing();
    assert_eq!(code, 406);
    assert!(text.starts_with("PRECONDITION_FAILED - a transaction has at most 10000 messages"));

    let mut peer = Peer::transacting(Settings::default());
    let largest = Settings::default().message_bytes_max as usize;
    peer.gather(1, largest, false);
    assert_eq!(peer.methods(), [], "one message may be as large as any");
    peer.gather(1, 1, false);
    assert_eq!(peer.closing().0, 406);
    peer.send(1, ChannelCloseOk::default());
    // What it had is given back.
    for channel in [1, 2] {
        peer.send(channel, ChannelOpen::default());
        peer.send(channel, TxSelect::default());
        peer.gather(channel, largest - 1_000, false);
    }
    peer.methods();
    peer.send(3, ChannelOpen::default());
    peer.send(3, TxSelect::default());
    peer.methods();
    peer.gather(3, 10_000, false);
    let (code, text) = peer.closing();
    assert_eq!(code, 506);
    assert!(text.contains("wait for tx.commit"), "{text}");
}
