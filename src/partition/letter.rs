//! The text of a dead letter: the message as it was published, with how it died, and where it is published to now.

use bytes::Bytes;

use super::request::Publish;
use crate::model::address::{captured_topic, exchange_topic, source_topic};
use crate::model::death;
use crate::model::published::{Own, readdressed};
use crate::model::queue::{DeadLetterExchange, DeadLetterTarget};
use crate::model::{
    Certificate, Death, Message, Millis, Properties, Property, Published, QoS, QueueName,
    QueueSettings, StoredMessage, Topic, VirtualHost,
};

/// What is said of a death: in this queue, now, of one group's entry or of everybody's.
pub(super) fn certificate(
    message: &StoredMessage,
    queue: Bytes,
    death: Death,
    (group, time): (Option<&Bytes>, Millis),
) -> Certificate {
    let properties = Properties::from_encoded(message.properties.clone());
    let Published { exchange, routing_keys, expiration, .. } =
        Published::of(&message.topic, &properties, message.expiry_s);
    Certificate {
        queue,
        death,
        count: 1,
        time,
        group: group.cloned(),
        published: Own::of(&properties).map(|_| (exchange, routing_keys)),
        last_exchange: None,
        // After its first death a message lives as long as its queues let it.
        expiration: expiration.filter(|_| death::deaths(&properties).is_empty()),
        is_first: false,
    }
}

/// A message with one death more, on its way to where its queue says; and all of its deaths.
pub(super) fn of(
    stored: &StoredMessage,
    certificate: Certificate,
    target: &DeadLetterTarget,
) -> (Message, Vec<Certificate>) {
    let own = QueueName::from_stored(certificate.queue.clone()).dead_letters();
    let properties = Properties::from_encoded(stored.properties.clone());
    let (mut list, mut deaths) = death::split(&properties);
    death::record(&mut deaths, certificate);
    let mut topic = topic(stored);
    match target {
        DeadLetterTarget::Nowhere => {}
        DeadLetterTarget::Own => list = to_queue(list, &stored.topic, &own),
        DeadLetterTarget::Queue(queue) => list = to_queue(list, &stored.topic, queue),
        DeadLetterTarget::Exchange(DeadLetterExchange { exchange, routing_key }) => {
            let (_, name) = VirtualHost::of_level(exchange);
            let address = (name.into_owned().into(), routing_key.clone());
            list = readdressed(list, &stored.topic, address);
            let address = Own::of(&Properties::encode(&list)).and_then(|own| own.address);
            topic = routed_topic(exchange, &address.unwrap_or_default().1);
        }
    }
    deaths.iter().for_each(|death| death.put(&mut list));
    (to_message(stored, topic, Properties::encode(&list)), deaths)
}

/// Returns true when an exchange would route a letter round to a queue where it died, and nobody rejected it since.
pub(super) fn goes_round(settings: &QueueSettings, deaths: &[Certificate], to: &QueueName) -> bool {
    let is_routed = matches!(settings.dead_letters.target, DeadLetterTarget::Exchange(_));
    is_routed && death::is_cycle(deaths, to.as_bytes())
}

/// A dead letter as it is published again to the queue where it died last.
pub(super) fn again(stored: &StoredMessage, origin: &QueueName) -> Message {
    let list = Properties::from_encoded(stored.properties.clone()).iter().collect();
    let list = to_queue(list, &stored.topic, origin);
    to_message(stored, topic(stored), Properties::encode(&list))
}

/// The queue in which a dead letter died last.
pub(super) fn origin(message: &StoredMessage) -> Option<QueueName> {
    let properties = Properties::from_encoded(message.properties.clone());
    let last = death::deaths(&properties).into_iter().next()?;
    QueueName::from_text(last.queue).ok()
}

/// A publish as its record would have been.
pub(super) fn as_stored(publish: &Publish, now: Millis) -> StoredMessage {
    let stored = StoredMessage::of(&publish.message, now);
    match publish.is_copy() {
        true => StoredMessage { topic: captured_topic(&stored.topic), ..stored },
        false => stored,
    }
}

/// What AMQP published says that it is in a queue by the default exchange; of others the queue says so.
fn to_queue(list: Vec<Property>, topic: &Bytes, queue: &QueueName) -> Vec<Property> {
    match list.iter().any(|property| matches!(property, Property::Amqp091(_))) {
        true => {
            readdressed(list, topic, (Bytes::new(), Some(Bytes::from(queue.name().into_owned()))))
        }
        false => list,
    }
}

fn topic(stored: &StoredMessage) -> Topic {
    Topic::from_stored(match source_topic(&stored.topic) {
        // What is in a queue for a binding alone must not be read as a message of its topic again.
        Some(source) => captured_topic(source),
        None => stored.topic.clone(),
    })
}

/// The topic of what an exchange routes; of the default one it is the address of the queue.
fn routed_topic(exchange: &Bytes, key: &Bytes) -> Topic {
    let (host, name) = VirtualHost::of_level(exchange);
    match name.is_empty() {
        false => exchange_topic(&QueueName::from_stored(exchange.clone()), key),
        true => {
            let queue = host.queue(key).ok();
            let topic = queue.and_then(|queue| Topic::new(queue.address().into()).ok());
            topic.unwrap_or_else(|| Topic::from_stored(Bytes::from_static(b"$queue")))
        }
    }
}

fn to_message(stored: &StoredMessage, topic: Topic, properties: Properties) -> Message {
    Message {
        topic,
        payload: stored.payload.clone(),
        // A letter is settled by who reads it, not by the socket that took it.
        qos: stored.qos.max(QoS::AtLeastOnce),
        retain: false,
        expiry_s: None,
        properties,
        publisher: stored.publisher,
    }
}
