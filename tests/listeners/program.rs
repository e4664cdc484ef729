//! The real binary: no file descriptors left, more connections than it may have, SIGHUP, and peers that never finish what they began.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fluxmq::auth::Credential;
use fluxmq::model::QoS;
use fluxmq::protocol::mqtt::types::{Ack, Connect, Packet, Publish, Subscribe, SubscribeFilter};
use fluxmq::protocol::mqtt::{PropertyList, ReasonCode};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::process::{BrokerProcess, Start};
use super::support::{Authority, PATIENCE, Peer, bytes_of, connect};

/// Statistics every second, and no regard for how full the disk of this machine is.
const COMMON: [(&str, &str); 4] = [
    ("FLUXMQ_STATISTICS__INTERVAL_S", "1"),
    ("FLUXMQ_STORAGE__DISK_LOW_PERCENT", "0"),
    ("FLUXMQ_STORAGE__DISK_LOW_BYTES", "0"),
    ("FLUXMQ_PARTITIONS__DATA", "1"),
];

fn start(more: &[(&'static str, &str)]) -> Start {
    let all = COMMON.iter().chain(more);
    let variables = all.map(|(name, value)| (*name, (*value).to_owned())).collect();
    Start { variables, ..Start::default() }
}

/// A broker of the configuration in `text`.
fn start_on(data: &Path, text: &str, more: &[(&'static str, &str)]) -> BrokerProcess {
    let config = data.join("fluxmq.yaml");
    std::fs::write(&config, text).unwrap();
    let start = Start { listen: String::new(), config: Some(config), ..start(more) };
    BrokerProcess::start_with(&data.join("data"), &start)
}

async fn dial(address: &str) -> Peer<TcpStream> {
    Peer::on(TcpStream::connect(address).await.unwrap())
}

async fn client(address: &str, client_id: &str) -> Peer<TcpStream> {
    let mut peer = dial(address).await;
    assert_eq!(peer.connect(client_id).await, Some(ReasonCode::SUCCESS));
    peer
}

async fn subscribe<S: AsyncRead + AsyncWrite + Unpin>(
    peer: &mut Peer<S>,
    filter: &str,
) -> ReasonCode {
    let filters = vec![SubscribeFilter::new(Bytes::from(filter.to_owned()), QoS::AtLeastOnce)];
    let properties = PropertyList::default();
    peer.send(&Packet::Subscribe(Subscribe { packet_id: 1, properties, filters })).await;
    match peer.receive().await {
        Some(Packet::SubAck(suback)) => suback.reasons[0],
        other => panic!("no SUBACK: {other:?}"),
    }
}

/// Publishes numbered messages, each confirmed before the next, and takes them.
async fn exchange(
    publisher: &mut Peer<TcpStream>,
    subscriber: &mut Peer<TcpStream>,
    numbers: std::ops::Range<u32>,
) {
    for number in numbers {
        let mut payload = number.to_be_bytes().to_vec();
        payload.resize(2_048, b'x');
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: Bytes::from_static(b"t"),
            packet_id: 1,
            properties: PropertyList::default(),
            payload: Bytes::from(payload.clone()),
        };
        publisher.send(&Packet::Publish(publish)).await;
        match publisher.receive().await {
            Some(Packet::PubAck(ack)) => assert_eq!(ack.reason, ReasonCode::SUCCESS, "{number}"),
            other => panic!("{number}: {other:?}"),
        }
        let Some(Packet::Publish(publish)) = subscriber.receive().await else {
            panic!("{number} does not come")
        };
        assert_eq!(publish.payload, payload, "{number}");
        let packet_id = publish.packet_id;
        subscriber.send(&Packet::PubAck(Ack { packet_id, ..Ack::default() })).await;
    }
}

/// Waits until a statistic is as it should be.
async fn statistic(address: &str, name: &str, is_it: impl Fn(u64) -> bool) {
    let mut peer = client(address, "statistics").await;
    let filter = Bytes::from(format!("$SYS/broker/{name}"));
    let filters = vec![SubscribeFilter::new(filter, QoS::AtMostOnce)];
    let properties = PropertyList::default();
    peer.send(&Packet::Subscribe(Subscribe { packet_id: 1, properties, filters })).await;
    loop {
        match peer.receive().await {
            Some(Packet::SubAck(_)) => {}
            Some(Packet::Publish(publish)) => {
                let text = str::from_utf8(&publish.payload).unwrap();
                if is_it(text.parse().unwrap()) {
                    return;
                }
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// The numbers of the files that a process has open.
fn open_files(broker: &BrokerProcess) -> Vec<u64> {
    let files = std::fs::read_dir(format!("/proc/{}/fd", broker.id())).unwrap();
    files.map(|file| file.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

/// Lets a process open files with numbers below `count` only; those it has stay.
fn limit_open_files(broker: &BrokerProcess, count: u64) {
    let pid = Pid::from_raw(broker.id().try_into().unwrap());
    let maximum = getrlimit(Resource::Nofile).maximum;
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(count), maximum }).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_file_descriptors_new_connections_wait_and_the_others_go_on() {
    let data = tempfile::tempdir().unwrap();
    let mut broker = BrokerProcess::start_with(data.path(), &start(&[]));
    let address = broker.address().to_owned();
    let mut subscriber = client(&address, "subscriber").await;
    assert_eq!(subscribe(&mut subscriber, "t").await, ReasonCode::GRANTED_QOS_1);
    let mut publisher = client(&address, "publisher").await;
    exchange(&mut publisher, &mut subscriber, 0..20).await;

    // Numbers are given from below: four are left.
    let open = open_files(&broker);
    let limit = (0..).filter(|number| !open.contains(number)).nth(4).unwrap();
    limit_open_files(&broker, limit);
    let mut newcomers = Vec::new();
    for number in 0..60 {
        let mut peer = dial(&address).await;
        peer.send(&connect(&format!("newcomer-{number}"))).await;
        newcomers.push(peer);
    }
    broker.expect("cannot accept connections", 1);
    exchange(&mut publisher, &mut subscriber, 20..220).await;

    // They are served in the order in which they came; the others wait and are not turned away.
    let mut served = 0;
    let moment = Duration::from_millis(500);
    while served < newcomers.len()
        && let Ok(answer) = timeout(moment, newcomers[served].receive()).await
    {
        assert!(matches!(answer, Some(Packet::ConnAck(_))), "{answer:?}");
        served += 1;
    }
    assert!((1..50).contains(&served), "{served} were served");
    let mut waiting = newcomers.split_off(served);
    drop(newcomers);
    assert!(matches!(waiting[0].receive().await, Some(Packet::ConnAck(_))), "places came free");
    limit_open_files(&broker, limit + 200);
    for peer in &mut waiting[1..] {
        assert!(matches!(peer.receive().await, Some(Packet::ConnAck(_))));
        peer.ping().await;
    }
    exchange(&mut publisher, &mut subscriber, 220..240).await;

    broker.expect("accepting connections again", 1);
    assert!(broker.says("cannot accept connections") <= 5, "once in ten seconds");
    assert_eq!(broker.says("ERROR"), 0);
    statistic(&address, "limits/connections/accept_failures", |count| count >= 1).await;
    assert_eq!(broker.terminate().code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_take_no_file_from_the_logs() {
    let data = tempfile::tempdir().unwrap();
    let small = [
        ("FLUXMQ_LIMITS__CONNECT_PACKET_BYTES_MAX", "32 KiB"),
        ("FLUXMQ_LIMITS__PACKET_BYTES_MAX", "32 KiB"),
        ("FLUXMQ_STORAGE__SEGMENT_BYTES_MIN", "64 KiB"),
        ("FLUXMQ_STORAGE__SEGMENT_BYTES_MAX", "128 KiB"),
    ];
    let start = Start { open_files: Some(160), ..start(&small) };
    let mut broker = BrokerProcess::start_with(data.path(), &start);
    broker.expect("connections_max is lowered", 1);
    let address = broker.address().to_owned();
    let mut subscriber = client(&address, "subscriber").await;
    assert_eq!(subscribe(&mut subscriber, "t").await, ReasonCode::GRANTED_QOS_1);
    let mut publisher = client(&address, "publisher").await;
    exchange(&mut publisher, &mut subscriber, 0..20).await;

    let mut strangers = Vec::new();
    for number in 0..400 {
        let mut peer = dial(&address).await;
        // One that is not even told is closed, perhaps before this.
        let _ = peer.stream.write_all(&bytes_of(&connect(&format!("stranger-{number}")))).await;
        strangers.push(peer);
    }
    // Some megabytes: the log goes through segment after segment meanwhile.
    exchange(&mut publisher, &mut subscriber, 20..620).await;
    let mut answers = Vec::new();
    for peer in &mut strangers {
        answers.push(match peer.receive().await {
            Some(Packet::ConnAck(connack)) => Some(connack.reason),
            _ => None,
        });
    }

    let admitted = answers.iter().filter(|it| **it == Some(ReasonCode::SUCCESS)).count();
    let told = answers.iter().filter(|it| **it == Some(ReasonCode::SERVER_BUSY)).count();
    assert!((50..100).contains(&admitted), "{admitted} of them were admitted");
    assert!(told >= 1, "nobody was told");
    assert_eq!(broker.says("cannot accept connections") + broker.says("ERROR"), 0);
    drop(strangers);
    // Their places come back.
    client_in_the_end(&address, "later").await;
    exchange(&mut publisher, &mut subscriber, 620..640).await;
    assert_eq!(broker.terminate().code, Some(0));
}

/// Replaces a file so that nobody sees it from outside: same length, same time.
fn replace_unseen(file: &Path, content: &[u8]) {
    let before = file.metadata().unwrap();
    assert_eq!(content.len() as u64, before.len(), "{}", file.display());
    let time = before.modified().unwrap();
    std::fs::write(file, content).unwrap();
    let file = std::fs::File::options().write(true).open(file).unwrap();
    file.set_modified(time).unwrap();
}

/// A certificate of another authority, in files as long as these.
fn renewed_as_long_as(authority: &Authority, files: &(PathBuf, PathBuf)) -> (PathBuf, PathBuf) {
    let length = |path: &PathBuf| path.metadata().unwrap().len();
    for _ in 0..200 {
        let new = authority.sign("broker");
        if (length(&new.0), length(&new.1)) == (length(&files.0), length(&files.1)) {
            return new;
        }
    }
    panic!("signatures differ by a byte or two, half of the time");
}

fn users(alice: &[u8]) -> String {
    let of = |password: &[u8]| Credential::argon2id(password, [1; 16]).unwrap();
    format!("alice:{}\nbob:{}\n", of(alice), of(b"bobs"))
}

fn as_user(user: &str, password: &str) -> Packet {
    let Packet::Connect(connect) = connect(user) else { unreachable!() };
    Packet::Connect(Box::new(Connect {
        username: Some(Bytes::from(user.to_owned())),
        password: Some(Bytes::from(password.to_owned())),
        ..*connect
    }))
}

async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(
    peer: &mut Peer<S>,
    user: &str,
    password: &str,
) -> ReasonCode {
    peer.send(&as_user(user, password)).await;
    match peer.receive().await {
        Some(Packet::ConnAck(connack)) => connack.reason,
        other => panic!("no CONNACK: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_takes_certificates_users_and_rights_anew() {
    let data = tempfile::tempdir().unwrap();
    let file = |name: &str| data.path().join(name);
    let (old, new) = (Authority::new(data.path(), "old"), Authority::new(data.path(), "new"));
    let files = old.sign("broker");
    std::fs::write(file("users"), users(b"one")).unwrap();
    std::fs::write(file("acl"), "pattern read a\n").unwrap();
    let text = format!(
        "listeners:\n  mqtt:\n    - address: 127.0.0.1:0\n  mqtts:\n    - address: 127.0.0.1:0\n      \
         certificate: {}\n      key: {}\nauthentication:\n  users_file: {}\nauthorization:\n  acl_file: {}\n",
        files.0.display(),
        files.1.display(),
        file("users").display(),
        file("acl").display(),
    );
    let mut broker = start_on(data.path(), &text, &[]);
    let address = broker.address_of("mqtt");
    let secure = broker.address_of("mqtts").parse().unwrap();
    let (mut alice, mut bob) = (dial(&address).await, dial(&address).await);
    assert_eq!(log_in(&mut alice, "alice", "one").await, ReasonCode::SUCCESS);
    assert_eq!(log_in(&mut bob, "bob", "bobs").await, ReasonCode::SUCCESS);
    assert_eq!(subscribe(&mut bob, "a").await, ReasonCode::GRANTED_QOS_1);
    assert_eq!(subscribe(&mut bob, "b").await, ReasonCode::NOT_AUTHORIZED);
    let mut encrypted = Peer::on(old.client(None).connect(secure).await.unwrap());
    encrypted.send(&as_user("bob", "bobs")).await;
    // Bob over TLS takes the session of Bob over TCP: one client id.
    assert!(matches!(encrypted.receive().await, Some(Packet::ConnAck(_))));
    assert!(matches!(bob.receive().await, Some(Packet::Disconnect(_))));

    let renewed = renewed_as_long_as(&new, &files);
    replace_unseen(&files.0, &std::fs::read(renewed.0).unwrap());
    replace_unseen(&files.1, &std::fs::read(renewed.1).unwrap());
    replace_unseen(&file("users"), users(b"two").as_bytes());
    replace_unseen(&file("acl"), b"pattern read b\n");
    // Longer than the broker takes to notice files that changed: nothing is to be seen of these.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(subscribe(&mut encrypted, "b").await, ReasonCode::NOT_AUTHORIZED);
    alice.ping().await;

    broker.hang_up();
    broker.expect("users and access list read again", 1);
    broker.expect("certificate reloaded", 1);

    // Who has another password now is told; the others stay, with the rights that hold now.
    match alice.receive().await {
        Some(Packet::Disconnect(goodbye)) => assert_eq!(goodbye.reason, ReasonCode::NOT_AUTHORIZED),
        other => panic!("{other:?}"),
    }
    assert_eq!(subscribe(&mut encrypted, "b").await, ReasonCode::GRANTED_QOS_1);
    assert_eq!(subscribe(&mut encrypted, "a").await, ReasonCode::NOT_AUTHORIZED);
    let refused = log_in(&mut dial(&address).await, "alice", "one").await;
    assert_eq!(refused, ReasonCode::BAD_USER_NAME_OR_PASSWORD);
    let mut alice = dial(&address).await;
    assert_eq!(log_in(&mut alice, "alice", "two").await, ReasonCode::SUCCESS);
    assert!(old.client(None).connect(secure).await.is_err(), "another authority's by now");
    let mut renewed = Peer::on(new.client(None).connect(secure).await.unwrap());
    assert_eq!(log_in(&mut renewed, "alice", "two").await, ReasonCode::SUCCESS);

    // Files that are wrong change nothing, and the log says which.
    std::fs::write(file("users"), "nonsense\n").unwrap();
    std::fs::write(&files.1, "no key\n").unwrap();
    broker.hang_up();
    broker.expect("the rules before it stay in force", 1);
    broker.expect("certificate not reloaded", 1);
    let mut again = Peer::on(new.client(None).connect(secure).await.unwrap());
    assert_eq!(log_in(&mut again, "alice", "two").await, ReasonCode::SUCCESS);
    encrypted.ping().await;
    assert_eq!(broker.terminate().code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_finish_a_handshake_or_connect_is_gone_in_time_and_its_place_is_free() {
    let data = tempfile::tempdir().unwrap();
    let authority = Authority::new(data.path(), "ca");
    let (certificate, key) = authority.sign("broker");
    let tls = format!("certificate: {}\n      key: {}", certificate.display(), key.display());
    let text = format!(
        "listeners:\n  mqtt:\n    - address: 127.0.0.1:0\n    - address: 127.0.0.1:0\n      proxy_protocol: true\n  \
         mqtts:\n    - address: 127.0.0.1:0\n      {tls}\n  ws:\n    - address: 127.0.0.1:0\n\
         limits:\n  handshake_timeout_s: 1\n  connect_timeout_s: 3\n  connections_max: 12\n"
    );
    let mut broker = start_on(data.path(), &text, &[]);
    let (plain, secure, web) =
        (broker.addresses_of("mqtt", 2), broker.address_of("mqtts"), broker.address_of("ws"));
    let mut good = client(&plain[0], "good").await;
    let silence = |address: &str, said: &'static [u8], seconds: u64| {
        tokio::spawn(end_of(address.to_owned(), said, Duration::from_secs(seconds)))
    };
    let silences = [
        silence(&plain[0], b"", 3),
        silence(&plain[0], b"\x10", 3),
        silence(&plain[0], b"\x10\x0D\x00\x04MQTT\x04\x02\x00\x00\x00", 3),
        silence(&plain[1], b"", 1),
        silence(&plain[1], b"PROXY TCP4 192.0.2.1", 1),
        silence(&secure, b"", 1),
        silence(&secure, b"\x16\x03\x01\x00\xF4\x01\x00\x00\xF0\x03\x03", 1),
        silence(&web, b"", 1),
        silence(&web, b"GET /mqtt HTTP/1.1\r\nHost: x\r\n", 1),
        silence(&web, UPGRADE, 3),
    ];
    for silence in silences {
        silence.await.unwrap();
        good.ping().await;
    }

    // Twelve places: one is taken, one is for asking.
    let mut others = Vec::new();
    for number in 0..10 {
        others.push(client_in_the_end(&plain[0], &format!("other-{number}")).await);
    }
    statistic(&plain[0], "limits/connections/refused/handshake", |count| count == 6).await;
    assert_eq!(broker.terminate().code, Some(0));
}

/// A WebSocket that is opened, and nothing else.
const UPGRADE: &[u8] =
    b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Protocol: mqtt\r\n\r\n";

/// As [`client`], while places may still be taken by those who just left.
async fn client_in_the_end(address: &str, client_id: &str) -> Peer<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut peer = dial(address).await;
        if peer.connect(client_id).await == Some(ReasonCode::SUCCESS) {
            return peer;
        }
        assert!(Instant::now() < deadline, "no place comes free");
    }
}

/// Falls silent and waits until the broker has closed, which is neither too early nor too late.
async fn end_of(address: String, said: &'static [u8], after: Duration) {
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let began = Instant::now();
    stream.write_all(said).await.unwrap();
    let mut rest = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest);
    let _ = timeout(PATIENCE, read).await.expect("the broker closes");
    let took = began.elapsed();
    // A clock of milliseconds, and a machine that does other things.
    let (earliest, latest) = (after - Duration::from_millis(20), after + Duration::from_secs(10));
    assert!((earliest..latest).contains(&took), "{address} {said:?}: {took:?}");
}

/// Connections from `addresses` in turn, through a proxy, as fast as they go; which of them were let in, and how long it took.
async fn storm(
    proxied: &str,
    count: usize,
    addresses: usize,
) -> (Vec<Option<ReasonCode>>, Vec<Peer<TcpStream>>, Duration) {
    let began = Instant::now();
    let (mut answers, mut peers) = (Vec::new(), Vec::new());
    for number in 0..count {
        let mut peer = dial(proxied).await;
        let from = format!("192.0.2.{}", addresses + number % addresses);
        let header = format!("PROXY TCP4 {from} 198.51.100.1 40000 1883\r\n");
        let mut bytes = header.into_bytes();
        bytes.extend_from_slice(&bytes_of(&connect(&format!("storm-{addresses}-{number}"))));
        // What is over the node's rate is closed at once, perhaps before this.
        let _ = peer.stream.write_all(&bytes).await;
        answers.push(match peer.receive().await {
            Some(Packet::ConnAck(connack)) => Some(connack.reason),
            _ => None,
        });
        peers.push(peer);
    }
    (answers, peers, began.elapsed())
}

fn count(answers: &[Option<ReasonCode>], reason: Option<ReasonCode>) -> u64 {
    answers.iter().filter(|it| **it == reason).count() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn storms_of_connections_are_held_to_their_rates_and_counted() {
    let data = tempfile::tempdir().unwrap();
    let text = "listeners:\n  mqtt:\n    - address: 127.0.0.1:0\n    - address: 127.0.0.1:0\n      proxy_protocol: true\n\
                authentication:\n  anonymous: unsafe_always\n\
                limits:\n  connect_rate_max: 40\n  connect_rate_per_address_max: 2\n  connect_burst_per_address: 5\n";
    let mut broker = start_on(data.path(), text, &[]);
    let addresses = broker.addresses_of("mqtt", 2);
    let (plain, proxied) = (&addresses[0], &addresses[1]);
    let mut good = client(plain, "good").await;

    // One address: its burst, and what its rate gives back meanwhile.
    let (answers, mut one, took) = storm(proxied, 30, 1).await;
    let let_in = count(&answers, Some(ReasonCode::SUCCESS));
    let refused = count(&answers, Some(ReasonCode::CONNECTION_RATE_EXCEEDED));
    assert_eq!(answers[..5], [Some(ReasonCode::SUCCESS); 5]);
    assert!(let_in <= 5 + 2 * (took.as_secs() + 1), "{let_in} in {took:?}");
    assert_eq!(let_in + refused, 30, "told why, every one: {answers:?}");
    one[0].ping().await;
    good.ping().await;
    let name = "limits/connections/refused/connect_rate_per_address";
    statistic(plain, name, |count| count == refused).await;

    // Many addresses: the node's rate, and nobody is told behind a proxy.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let (answers, _many, took) = storm(proxied, 200, 100).await;
    let let_in = count(&answers, Some(ReasonCode::SUCCESS));
    let closed = count(&answers, None);
    assert!(let_in <= 40 * (took.as_secs() + 2), "{let_in} in {took:?}");
    assert_eq!(let_in + closed, 200, "{answers:?}");
    if took < Duration::from_secs(3) {
        assert!(closed > 0, "200 connections in {took:?}");
    }
    good.ping().await;
    let mut newcomer = client(plain, "from this machine").await;
    newcomer.ping().await;
    one[0].ping().await;
    statistic(plain, "limits/connections/refused/connect_rate", |count| count == closed).await;
    assert_eq!(broker.terminate().code, Some(0));
}
