//! rumqttc, 3.1.1 and 5.0: what somebody does in the first hour. It is a crate, so nothing needs to be installed.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes as five;
use rumqttc::v5::mqttbytes::v5::{LastWill as Will5, Packet as Packet5, PublishProperties};
use rumqttc::{Event, LastWill, Packet, QoS};

use crate::process::{BrokerProcess, PATIENCE};

const COUNT: usize = 50;

/// What a client was told, of either version.
#[derive(Debug)]
enum Told {
    Connected {
        session_present: bool,
    },
    Granted(String),
    Removed,
    Message(Message),
    /// PUBACK or PUBCOMP.
    Published,
    Over,
}

#[derive(Debug)]
struct Message {
    topic: String,
    text: String,
    qos: u8,
    retain: bool,
    properties: Option<PublishProperties>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Version {
    Three,
    Five,
}

const VERSIONS: [Version; 2] = [Version::Three, Version::Five];

enum Client {
    Three(rumqttc::Client),
    Five(rumqttc::v5::Client),
}

/// A client, its connection in a thread of its own, and what it was told.
struct Peer {
    client: Client,
    told: Receiver<Told>,
    messages: Vec<Message>,
    session_present: bool,
}

/// How to connect.
#[derive(Default)]
struct Options<'a> {
    stays: bool,
    will: Option<&'a str>,
}

impl Peer {
    fn connect(broker: &BrokerProcess, version: Version, name: &str, options: &Options) -> Peer {
        let (host, port) = broker.address().rsplit_once(':').unwrap();
        let port: u16 = port.parse().unwrap();
        let (sender, told) = channel();
        let client = match version {
            Version::Three => Client::Three(three(host, port, name, options, sender)),
            Version::Five => Client::Five(five(host, port, name, options, sender)),
        };
        let mut peer = Peer { client, told, messages: Vec::new(), session_present: false };
        peer.session_present = peer.wait(|told| match told {
            Told::Connected { session_present } => Some(*session_present),
            _ => None,
        });
        peer
    }

    /// Waits for something to be told; keeps the messages that come meanwhile.
    fn wait<T>(&mut self, pick: impl Fn(&Told) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let told = self.told.recv_timeout(left).expect("it is told in time");
            if let Some(picked) = pick(&told) {
                return picked;
            }
            match told {
                Told::Message(message) => self.messages.push(message),
                Told::Over => panic!("the connection ended"),
                _ => {}
            }
        }
    }

    /// Waits until there are so many messages; returns their texts.
    fn texts(&mut self, count: usize) -> Vec<String> {
        while self.messages.len() < count {
            let message = self.wait_for_message(PATIENCE).expect("it comes");
            self.messages.push(message);
        }
        self.messages.iter().map(|message| message.text.clone()).collect()
    }

    fn wait_for_message(&mut self, patience: Duration) -> Result<Message, RecvTimeoutError> {
        loop {
            match self.told.recv_timeout(patience)? {
                Told::Message(message) => return Ok(message),
                Told::Over => panic!("the connection ended"),
                _ => {}
            }
        }
    }

    fn subscribe(&mut self, filter: &str, qos: u8) {
        match &self.client {
            Client::Three(client) => client.subscribe(filter, qos_of(qos)).unwrap(),
            Client::Five(client) => client.subscribe(filter, qos_of_5(qos)).unwrap(),
        }
        let granted = self.wait(|told| match told {
            Told::Granted(code) => Some(code.clone()),
            _ => None,
        });
        assert!(granted.contains("Success"), "{granted}");
    }

    fn unsubscribe(&mut self, filter: &str) {
        match &self.client {
            Client::Three(client) => client.unsubscribe(filter).unwrap(),
            Client::Five(client) => client.unsubscribe(filter).unwrap(),
        }
        self.wait(|told| matches!(told, Told::Removed).then_some(()));
    }

    /// Publishes, and waits for the end of the exchange where there is one.
    fn publish(&mut self, topic: &str, payload: &str, qos: u8, retain: bool) {
        match &self.client {
            Client::Three(client) => client.publish(topic, qos_of(qos), retain, payload).unwrap(),
            Client::Five(client) => {
                let payload = payload.to_owned();
                client.publish(topic, qos_of_5(qos), retain, payload).unwrap();
            }
        }
        if qos > 0 {
            self.wait(|told| matches!(told, Told::Published).then_some(()));
        }
    }

    /// Says goodbye, and waits until it is gone.
    fn leave(self) {
        match &self.client {
            Client::Three(client) => client.disconnect().unwrap(),
            Client::Five(client) => client.disconnect().unwrap(),
        }
        while !matches!(self.told.recv_timeout(PATIENCE), Ok(Told::Over) | Err(_)) {}
    }
}

fn three(
    host: &str,
    port: u16,
    name: &str,
    options: &Options,
    told: Sender<Told>,
) -> rumqttc::Client {
    let mut settings = rumqttc::MqttOptions::new(name, host, port);
    settings.set_clean_session(!options.stays).set_max_packet_size(2 << 20, 2 << 20);
    if let Some(topic) = options.will {
        settings.set_last_will(LastWill::new(topic, "dead", QoS::AtLeastOnce, false));
    }
    let (client, mut connection) = rumqttc::Client::new(settings, 100);
    std::thread::spawn(move || {
        for event in connection.iter().map_while(Result::ok) {
            let Event::Incoming(packet) = event else { continue };
            let news = match packet {
                Packet::ConnAck(it) => Told::Connected { session_present: it.session_present },
                Packet::SubAck(it) => Told::Granted(format!("{:?}", it.return_codes)),
                Packet::UnsubAck(_) => Told::Removed,
                Packet::PubAck(_) | Packet::PubComp(_) => Told::Published,
                Packet::Publish(it) => Told::Message(Message {
                    topic: it.topic,
                    text: String::from_utf8(it.payload.to_vec()).unwrap(),
                    qos: it.qos as u8,
                    retain: it.retain,
                    properties: None,
                }),
                _ => continue,
            };
            if told.send(news).is_err() {
                // The test has forgotten this client: so does the network.
                return;
            }
        }
        let _ = told.send(Told::Over);
    });
    client
}

fn five(
    host: &str,
    port: u16,
    name: &str,
    options: &Options,
    told: Sender<Told>,
) -> rumqttc::v5::Client {
    let mut settings = rumqttc::v5::MqttOptions::new(name, host, port);
    settings.set_clean_start(!options.stays).set_max_packet_size(Some(2 << 20));
    if options.stays {
        settings.set_session_expiry_interval(Some(3_600));
    }
    if let Some(topic) = options.will {
        settings.set_last_will(Will5::new(topic, "dead", five::QoS::AtLeastOnce, false, None));
    }
    let (client, mut connection) = rumqttc::v5::Client::new(settings, 100);
    std::thread::spawn(move || {
        for event in connection.iter().map_while(Result::ok) {
            let rumqttc::v5::Event::Incoming(packet) = event else { continue };
            let news = match packet {
                Packet5::ConnAck(it) => Told::Connected { session_present: it.session_present },
                Packet5::SubAck(it) => Told::Granted(format!("{:?}", it.return_codes)),
                Packet5::UnsubAck(_) => Told::Removed,
                Packet5::PubAck(_) | Packet5::PubComp(_) => Told::Published,
                Packet5::Publish(it) => Told::Message(Message {
                    topic: String::from_utf8(it.topic.to_vec()).unwrap(),
                    text: String::from_utf8(it.payload.to_vec()).unwrap(),
                    qos: it.qos as u8,
                    retain: it.retain,
                    properties: it.properties,
                }),
                _ => continue,
            };
            if told.send(news).is_err() {
                return;
            }
        }
        let _ = told.send(Told::Over);
    });
    client
}

fn qos_of(qos: u8) -> QoS {
    rumqttc::qos(qos).unwrap()
}

fn qos_of_5(qos: u8) -> five::QoS {
    five::qos(qos).unwrap()
}

/// Runs a scene for both versions, each on a broker of its own.
fn with_both(scene: impl Fn(&BrokerProcess, Version)) {
    for version in VERSIONS {
        let data = tempfile::tempdir().unwrap();
        scene(&BrokerProcess::start(data.path()), version);
    }
}

fn numbers() -> Vec<String> {
    (0..COUNT).map(|number| number.to_string()).collect()
}

#[test]
fn every_quality_of_service_goes_both_ways_in_order() {
    with_both(|broker, version| {
        let mut speaker = Peer::connect(broker, version, "speaks", &Options::default());
        for qos in 0..3 {
            let name = format!("hears-{qos}");
            let mut listener = Peer::connect(broker, version, &name, &Options::default());
            listener.subscribe(&format!("r/{qos}/#"), qos);
            for number in numbers() {
                speaker.publish(&format!("r/{qos}/x"), &number, qos, false);
            }
            assert_eq!(listener.texts(COUNT), numbers(), "{version:?} {qos}");
            let as_sent = |it: &Message| it.qos == qos && !it.retain && it.topic.ends_with("/x");
            assert!(listener.messages.iter().all(as_sent), "{version:?} {qos}");
        }
    });
}

#[test]
fn retained_messages_large_payloads_and_unsubscribing() {
    with_both(|broker, version| {
        let mut speaker = Peer::connect(broker, version, "speaks", &Options::default());
        speaker.publish("r/kept", "kept", 1, true);
        let mut listener = Peer::connect(broker, version, "hears", &Options::default());
        listener.subscribe("r/+", 1);
        assert_eq!(listener.texts(1), ["kept"]);
        assert!(listener.messages[0].retain);

        let large = "x".repeat(900 << 10);
        speaker.publish("r/large", &large, 2, false);
        assert!(listener.texts(2)[1] == large, "whole, in {version:?}");

        listener.unsubscribe("r/+");
        listener.subscribe("other", 1);
        speaker.publish("r/large", "not heard", 1, false);
        speaker.publish("other", "heard", 1, false);
        assert_eq!(listener.texts(3)[2], "heard");
    });
}

#[test]
fn a_session_waits_for_its_client() {
    with_both(|broker, version| {
        let stays = Options { stays: true, ..Options::default() };
        let mut first = Peer::connect(broker, version, "stays", &stays);
        assert!(!first.session_present);
        first.subscribe("r/#", 1);
        first.leave();
        let mut speaker = Peer::connect(broker, version, "speaks", &Options::default());
        for number in numbers() {
            speaker.publish("r/x", &number, 1, false);
        }
        let mut second = Peer::connect(broker, version, "stays", &stays);
        assert!(second.session_present);
        assert_eq!(second.texts(COUNT), numbers(), "{version:?}");
    });
}

#[test]
fn a_client_that_is_gone_without_a_word_has_its_will_published() {
    with_both(|broker, version| {
        let mut listener = Peer::connect(broker, version, "hears", &Options::default());
        listener.subscribe("will", 1);
        let options = Options { will: Some("will"), ..Options::default() };
        Peer::connect(broker, version, "polite", &options).leave();
        let mut mortal = Peer::connect(broker, version, "mortal", &options);
        mortal.subscribe("death", 1);
        drop(mortal);
        // Its thread ends, and with it the connection, at the next news that nobody takes.
        let mut speaker = Peer::connect(broker, version, "speaks", &Options::default());
        speaker.publish("death", "now", 1, false);
        assert_eq!(listener.texts(1), ["dead"], "{version:?}");
    });
}

#[test]
fn a_request_of_5_0_gets_its_response() {
    let data = tempfile::tempdir().unwrap();
    let broker = BrokerProcess::start(data.path());
    let mut asker = Peer::connect(&broker, Version::Five, "asks", &Options::default());
    asker.subscribe("answers", 1);
    let mut answerer = Peer::connect(&broker, Version::Five, "answers", &Options::default());
    answerer.subscribe("questions", 1);
    let user_properties = vec![("b".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())];
    let properties = PublishProperties {
        response_topic: Some("answers".to_owned()),
        correlation_data: Some(b"7"[..].into()),
        content_type: Some("text/plain".to_owned()),
        message_expiry_interval: Some(600),
        payload_format_indicator: Some(1),
        user_properties: user_properties.clone(),
        ..PublishProperties::default()
    };
    publish_with(&asker, "questions", "?", properties);

    answerer.texts(1);
    let got = answerer.messages[0].properties.clone().unwrap();
    assert_eq!(got.user_properties, user_properties);
    assert_eq!(got.content_type.as_deref(), Some("text/plain"));
    assert_eq!(got.payload_format_indicator, Some(1));
    assert!(got.message_expiry_interval.is_some_and(|left| (590..=600).contains(&left)));
    let correlation_data = got.correlation_data;
    let answer = PublishProperties { correlation_data, ..PublishProperties::default() };
    publish_with(&answerer, &got.response_topic.unwrap(), "!", answer);

    assert_eq!(asker.texts(1), ["!"]);
    let got = asker.messages[0].properties.clone().unwrap();
    assert_eq!(got.correlation_data.as_deref(), Some(&b"7"[..]));
}

fn publish_with(peer: &Peer, topic: &str, payload: &str, properties: PublishProperties) {
    let Client::Five(client) = &peer.client else { panic!("5.0 has properties") };
    let payload = payload.to_owned();
    client
        .publish_with_properties(topic, five::QoS::AtLeastOnce, false, payload, properties)
        .unwrap();
}
