//! A broker for tests, over loopback TCP: matches filters literally, with `#` at the end, and forgets everything.
//!
//! Says what its [`Behaviour`] says and writes down what it was told. Not a model of ours: only enough to talk to.

use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::model::QoS;
use crate::protocol::mqtt::codec::{Limits, decode, encode};
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::{Ack, ConnAck, Packet, Publish, SubAck, UnsubAck, Version};

/// What the broker says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Behaviour {
    /// To CONNECT.
    pub connack: ConnAck,
    /// To PUBLISH of QoS 1 and 2.
    pub publish_reason: ReasonCode,
    /// To SUBSCRIBE; the QoS asked for when it is success.
    pub subscribe_reason: ReasonCode,
    /// Delivered after SUBACK, whatever the filter.
    pub stored: Vec<Publish>,
    /// Delivered to a publisher for its PUBLISH, behind the answer, whatever it subscribed to.
    pub respond: Option<fn(&Publish) -> Vec<Publish>>,
    /// The connection is dropped instead of answering this many PUBLISH packets and all later ones.
    pub publishes_max: Option<usize>,
}

/// A running broker; stops with the test's runtime.
pub(crate) struct TinyBroker {
    /// `host:port`.
    pub address: String,
    hub: Arc<Mutex<Hub>>,
}

#[derive(Default)]
struct Hub {
    received: Vec<Packet>,
    publish_count: usize,
    subscribers: Vec<(String, QoS, mpsc::UnboundedSender<Publish>)>,
}

impl TinyBroker {
    pub(crate) async fn start(behaviour: Behaviour) -> TinyBroker {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let hub = Arc::new(Mutex::new(Hub::default()));
        let shared = hub.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (hub, behaviour) = (shared.clone(), behaviour.clone());
                tokio::spawn(async move { Peer::serve(stream, hub, behaviour).await });
            }
        });
        TinyBroker { address, hub }
    }

    /// Every packet that came in, in the order of arrival.
    pub(crate) fn received(&self) -> Vec<Packet> {
        self.hub.lock().unwrap().received.clone()
    }

    /// Every PUBLISH that came in.
    pub(crate) fn publishes(&self) -> Vec<Publish> {
        let only = |packet| match packet {
            Packet::Publish(publish) => Some(publish),
            _ => None,
        };
        self.received().into_iter().filter_map(only).collect()
    }
}

struct Peer {
    hub: Arc<Mutex<Hub>>,
    behaviour: Behaviour,
    version: Option<Version>,
    output: BytesMut,
    deliveries: mpsc::UnboundedSender<Publish>,
    last_packet_id: u16,
}

impl Peer {
    async fn serve(mut stream: TcpStream, hub: Arc<Mutex<Hub>>, behaviour: Behaviour) {
        let (deliveries, mut queue) = mpsc::unbounded_channel();
        let (version, output) = (None, BytesMut::new());
        let mut peer = Peer { hub, behaviour, version, output, deliveries, last_packet_id: 0 };
        let mut input = BytesMut::new();
        loop {
            while let Some(packet) = decode(&mut input, peer.version, &Limits::default()).unwrap() {
                if !peer.on_packet(packet) {
                    let _ = stream.write_all_buf(&mut peer.output).await;
                    return;
                }
            }
            if stream.write_all_buf(&mut peer.output).await.is_err() {
                return;
            }
            tokio::select! {
                read = stream.read_buf(&mut input) => if !read.is_ok_and(|count| count > 0) { return },
                Some(publish) = queue.recv() => peer.deliver(publish),
            }
        }
    }

    /// Answers a packet; false drops the connection.
    fn on_packet(&mut self, packet: Packet) -> bool {
        self.hub.lock().unwrap().received.push(packet.clone());
        match packet {
            Packet::Connect(connect) => {
                self.version = Some(connect.version);
                self.say(&Packet::ConnAck(self.behaviour.connack.clone()));
                self.behaviour.connack.reason == ReasonCode::SUCCESS
            }
            Packet::Publish(publish) => self.on_publish(publish),
            Packet::PubRel(ack) => {
                self.say(&Packet::PubComp(Ack { packet_id: ack.packet_id, ..Ack::default() }));
                true
            }
            Packet::PubRec(ack) => {
                self.say(&Packet::PubRel(Ack { packet_id: ack.packet_id, ..Ack::default() }));
                true
            }
            Packet::Subscribe(subscribe) => {
                let (packet_id, properties) = (subscribe.packet_id, Default::default());
                let mut reasons = Vec::new();
                for filter in subscribe.filters {
                    let name = String::from_utf8(filter.filter.to_vec()).unwrap();
                    let deliveries = self.deliveries.clone();
                    self.hub.lock().unwrap().subscribers.push((name, filter.qos, deliveries));
                    reasons.push(match self.behaviour.subscribe_reason {
                        ReasonCode::SUCCESS => ReasonCode(filter.qos as u8),
                        error => error,
                    });
                }
                self.say(&Packet::SubAck(SubAck { packet_id, properties, reasons }));
                for publish in self.behaviour.stored.clone() {
                    self.deliver(publish);
                }
                true
            }
            Packet::Unsubscribe(packet) => {
                let reasons = vec![ReasonCode::SUCCESS; packet.filters.len()];
                let (packet_id, properties) = (packet.packet_id, Default::default());
                self.say(&Packet::UnsubAck(UnsubAck { packet_id, properties, reasons }));
                true
            }
            Packet::PingReq => {
                self.say(&Packet::PingResp);
                true
            }
            Packet::Disconnect(_) => false,
            _ => true,
        }
    }

    fn on_publish(&mut self, publish: Publish) -> bool {
        let ack = Ack {
            packet_id: publish.packet_id,
            reason: self.behaviour.publish_reason,
            ..Ack::default()
        };
        let mut hub = self.hub.lock().unwrap();
        hub.publish_count += 1;
        if self.behaviour.publishes_max.is_some_and(|count_max| hub.publish_count > count_max) {
            return false;
        }
        let topic = std::str::from_utf8(&publish.topic).unwrap();
        for (filter, qos, deliveries) in &hub.subscribers {
            let prefix = filter.strip_suffix('#');
            if filter == topic || prefix.is_some_and(|prefix| topic.starts_with(prefix)) {
                let qos = publish.qos.min(*qos);
                let _ = deliveries.send(Publish { qos, dup: false, ..publish.clone() });
            }
        }
        drop(hub);
        match publish.qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.say(&Packet::PubAck(ack)),
            QoS::ExactlyOnce => self.say(&Packet::PubRec(ack)),
        }
        let responses = self.behaviour.respond.map(|respond| respond(&publish));
        responses.into_iter().flatten().for_each(|response| self.deliver(response));
        true
    }

    fn deliver(&mut self, publish: Publish) {
        let packet_id = match publish.qos {
            QoS::AtMostOnce => 0,
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
                self.last_packet_id
            }
        };
        self.say(&Packet::Publish(Publish { packet_id, ..publish }));
    }

    fn say(&mut self, packet: &Packet) {
        encode(packet, self.version.unwrap(), &mut self.output).unwrap();
    }
}
