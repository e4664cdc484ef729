//! Enhanced authentication (MQTT 5 §4.12) over a real socket, by a client of SCRAM-SHA-256 written from RFC 5802.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use fluxmq::auth::Credential;
use fluxmq::client::{Client, ClientError, ConnectOptions, Endpoint, Session};
use fluxmq::protocol::mqtt::types::{Auth, Connect, Packet};
use fluxmq::protocol::mqtt::{Property, PropertyList, ReasonCode};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;

use super::support::{Broker, PATIENCE, Peer, connect};

const METHOD: &str = "SCRAM-SHA-256";

fn mac(key: &[u8], text: &str) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().into()
}

/// What one side says next.
fn properties(method: &str, data: &str) -> PropertyList {
    let method = Property::AuthenticationMethod(Bytes::from(method.to_owned()));
    let data = Property::AuthenticationData(Bytes::from(data.to_owned()));
    [method, data].into_iter().collect()
}

/// What the server said, under our method.
fn data(properties: &PropertyList) -> String {
    let method = properties.find(|property| match property {
        Property::AuthenticationMethod(method) => Some(method),
        _ => None,
    });
    assert_eq!(method.as_deref(), Some(METHOD.as_bytes()), "[MQTT-4.12.0-5]");
    let data = properties.find(|property| match property {
        Property::AuthenticationData(data) => Some(data),
        _ => None,
    });
    String::from_utf8(data.unwrap().to_vec()).unwrap()
}

/// A client's side of one exchange.
struct Scram {
    first_bare: String,
    password: &'static str,
    /// The signature that the server must have.
    signature: String,
}

impl Scram {
    fn new(user: &str, password: &'static str, nonce: &str) -> Scram {
        let first_bare = format!("n={user},r={nonce}");
        Scram { first_bare, password, signature: String::new() }
    }

    fn first(&self) -> String {
        format!("n,,{}", self.first_bare)
    }

    /// Answers the server's first message with the proof.
    fn last(&mut self, server_first: &str) -> String {
        let field = |name: &str| {
            let mut fields = server_first.split(',');
            fields.find_map(|field| field.strip_prefix(name)).unwrap().to_owned()
        };
        let (nonce, salt, rounds) = (field("r="), field("s="), field("i="));
        let own = self.first_bare.rsplit_once("r=").unwrap().1;
        assert!(nonce.starts_with(own) && nonce.len() > own.len(), "{nonce}");
        let mut salted = [0; 32];
        let salt = BASE64.decode(salt).unwrap();
        let rounds = rounds.parse().unwrap();
        pbkdf2::pbkdf2_hmac::<Sha256>(self.password.as_bytes(), &salt, rounds, &mut salted);
        let without_proof = format!("c=biws,r={nonce}");
        let signed = format!("{},{server_first},{without_proof}", self.first_bare);
        let mut proof = mac(&salted, "Client Key");
        let stored: [u8; 32] = Sha256::digest(proof).into();
        proof.iter_mut().zip(mac(&stored, &signed)).for_each(|(byte, mask)| *byte ^= mask);
        self.signature = BASE64.encode(mac(&mac(&salted, "Server Key"), &signed));
        format!("{without_proof},p={}", BASE64.encode(proof))
    }

    fn assert_is_the_server(&self, last: &str) {
        assert_eq!(last, format!("v={}", self.signature));
    }
}

fn broker(dir: &std::path::Path) -> Broker {
    let scram = |password: &[u8]| Credential::scram(password, [3; 16]).unwrap();
    let users = dir.join("users");
    std::fs::write(&users, format!("alice:{}\nbob:{}\n", scram(b"pencil"), scram(b"eraser")))
        .unwrap();
    Broker::with(|config| config.authentication.users_file = Some(users))
}

async fn begin(broker: &Broker, method: &str, first: &str) -> Peer<TcpStream> {
    let mut peer = Peer::on(broker.tcp().await);
    let Packet::Connect(connect) = connect("c") else { unreachable!() };
    let properties = properties(method, first);
    peer.send(&Packet::Connect(Box::new(Connect { properties, ..*connect }))).await;
    peer
}

async fn say(peer: &mut Peer<TcpStream>, reason: ReasonCode, message: &str) {
    let properties = properties(METHOD, message);
    peer.send(&Packet::Auth(Auth { reason, properties })).await;
}

/// What the server says in AUTH.
async fn hear(peer: &mut Peer<TcpStream>, reason: ReasonCode) -> String {
    match peer.receive().await {
        Some(Packet::Auth(auth)) => {
            assert_eq!(auth.reason, reason);
            data(&auth.properties)
        }
        other => panic!("no AUTH: {other:?}"),
    }
}

async fn log_in(broker: &Broker, nonce: &str) -> Peer<TcpStream> {
    let mut scram = Scram::new("alice", "pencil", nonce);
    let mut peer = begin(broker, METHOD, &scram.first()).await;
    let challenge = hear(&mut peer, ReasonCode::CONTINUE_AUTHENTICATION).await;
    say(&mut peer, ReasonCode::CONTINUE_AUTHENTICATION, &scram.last(&challenge)).await;
    match peer.receive().await {
        Some(Packet::ConnAck(connack)) => {
            assert_eq!(connack.reason, ReasonCode::SUCCESS);
            scram.assert_is_the_server(&data(&connack.properties));
        }
        other => panic!("no CONNACK: {other:?}"),
    }
    peer
}

/// Authenticates again; returns what ends it.
async fn again(peer: &mut Peer<TcpStream>, mut scram: Scram) -> Option<Packet> {
    say(peer, ReasonCode::REAUTHENTICATE, &scram.first()).await;
    let challenge = hear(peer, ReasonCode::CONTINUE_AUTHENTICATION).await;
    // The connection works meanwhile.
    peer.ping().await;
    say(peer, ReasonCode::CONTINUE_AUTHENTICATION, &scram.last(&challenge)).await;
    let end = peer.receive().await;
    if let Some(Packet::Auth(auth)) = &end {
        scram.assert_is_the_server(&data(&auth.properties));
    }
    end
}

#[tokio::test]
async fn a_client_and_the_broker_prove_to_one_another_who_they_are_and_do_so_again() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path());
    let mut peer = log_in(&broker, "one").await;
    peer.ping().await;

    for nonce in ["two", "three"] {
        match again(&mut peer, Scram::new("alice", "pencil", nonce)).await {
            Some(Packet::Auth(auth)) => assert_eq!(auth.reason, ReasonCode::SUCCESS),
            other => panic!("{other:?}"),
        }
        peer.ping().await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_wrong_password_an_unknown_user_and_another_method_are_refused_in_connack() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path());
    for (user, password) in [("alice", "pen"), ("nobody", "pencil")] {
        let mut scram = Scram::new(user, password, "one");
        let mut peer = begin(&broker, METHOD, &scram.first()).await;
        let challenge = hear(&mut peer, ReasonCode::CONTINUE_AUTHENTICATION).await;
        say(&mut peer, ReasonCode::CONTINUE_AUTHENTICATION, &scram.last(&challenge)).await;
        match peer.receive().await {
            Some(Packet::ConnAck(connack)) => {
                assert_eq!(connack.reason, ReasonCode::BAD_USER_NAME_OR_PASSWORD, "{user}");
            }
            other => panic!("{user}: {other:?}"),
        }
        assert_eq!(peer.receive().await, None);
    }
    let mut peer = begin(&broker, "SCRAM-SHA-1", "n,,n=alice,r=one").await;
    match peer.receive().await {
        Some(Packet::ConnAck(connack)) => {
            assert_eq!(connack.reason, ReasonCode::BAD_AUTHENTICATION_METHOD);
        }
        other => panic!("{other:?}"),
    }
    broker.stop().await;
}

#[tokio::test]
async fn authenticating_again_as_somebody_else_or_in_vain_ends_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path());
    for scram in [Scram::new("bob", "eraser", "two"), Scram::new("alice", "pen", "two")] {
        let mut peer = log_in(&broker, "one").await;
        match again(&mut peer, scram).await {
            Some(Packet::Disconnect(goodbye)) => {
                assert_eq!(goodbye.reason, ReasonCode::NOT_AUTHORIZED);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(peer.receive().await, None);
    }
    broker.stop().await;
}

/// Our own client, as `mqttctl --scram` uses it.
#[tokio::test]
async fn our_client_proves_its_password_and_is_refused_with_a_wrong_one() {
    let dir = tempfile::tempdir().unwrap();
    let broker = broker(dir.path());
    let endpoint = Endpoint::tcp(&broker.address().ip().to_string(), broker.address().port());
    for (password, is_right) in [("pencil", true), ("pen", false)] {
        let options = ConnectOptions {
            username: Some("alice".to_owned()),
            password: Some(Bytes::from(password)),
            scram_nonce: Some(format!("never{password}")),
            ..ConnectOptions::default()
        };
        let mut session = Session::default();
        let connected = Client::connect_to(&endpoint, &options, &mut session, PATIENCE).await;
        match connected {
            Ok((client, _)) if is_right => {
                client.disconnect(ReasonCode::SUCCESS, None).await.1.unwrap();
            }
            Err(ClientError::Refused { reason, .. }) if !is_right => {
                assert_eq!(reason, ReasonCode::BAD_USER_NAME_OR_PASSWORD);
            }
            other => panic!("{password}: {:?}", other.map(|_| ())),
        }
    }
    broker.stop().await;
}
