//! SUBSCRIBE and UNSUBSCRIBE: what we refuse ourselves, what the broker decides, and one answer for both.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::connection::{MqttConnection, TokenKind};
use super::convert::detached;
use super::property::{Property, PropertyList};
use super::reason::ReasonCode;
use super::refusal::{self, Violation};
use super::settings::DeniedSubscribe;
use super::types::{Packet, SubAck, Subscribe, SubscribeFilter, UnsubAck, Unsubscribe};
use crate::model::address::SubscribeAddress;
use crate::model::command::Subscribe as Subscription;
use crate::model::{AddressError, Command, Filter, QoS, QueueName, Refusal, Token};

/// Requests that wait for the broker, by the number of their token.
#[derive(Debug, Default)]
pub(super) struct Requests {
    awaiting: BTreeMap<u64, Request>,
    next: u64,
    /// Commands that wait for the answers to others, in order, and whether each subscribes.
    held: VecDeque<(bool, Command)>,
    /// UNSUBSCRIBE and SUBSCRIBE packets that the broker was asked for and has not answered.
    asked: [usize; 2],
}

#[derive(Debug)]
struct Request {
    packet_id: u16,
    is_subscribe: bool,
    /// `None` is for the broker to fill.
    reasons: Vec<Option<ReasonCode>>,
    /// Why the first refused filter was refused.
    text: Option<String>,
    /// What else is answered.
    said: Vec<Property>,
}

/// What the user properties of a SUBSCRIBE ask for, for all its filters (MQTT 5 only).
#[derive(Default)]
struct Options {
    subscription_id: u32,
    /// Of queues.
    cursor: Option<Bytes>,
    /// Of ordinary filters.
    replay_from: Option<Bytes>,
    reports_end: bool,
    group: Option<Bytes>,
    settle_explicit: bool,
    /// Something they ask for and do not get.
    refusal: Option<Refusal>,
}

/// Why one filter is refused.
struct Refused {
    reason: ReasonCode,
    text: String,
}

impl Requests {
    pub(super) fn awaiting_count(&self) -> usize {
        self.awaiting.len()
    }

    fn push(&mut self, request: Request) -> Token {
        let number = self.next;
        self.next += 1;
        self.awaiting.insert(number, request);
        TokenKind::Request.token(number)
    }

    fn take(&mut self, token: Token) -> Option<Request> {
        let request = self.awaiting.remove(&TokenKind::Request.number(token)?)?;
        self.asked[usize::from(request.is_subscribe)] -= 1;
        Some(request)
    }

    /// The next command for the broker. What removes subscriptions waits until those asked for before are there, and the other way
    /// round: the broker may take several steps for one, and a client need not wait for our answers.
    fn next_command(&mut self) -> Option<Command> {
        let (is_subscribe, _) = self.held.front()?;
        if self.asked[usize::from(!is_subscribe)] > 0 {
            return None;
        }
        self.asked[usize::from(*is_subscribe)] += 1;
        self.held.pop_front().map(|(_, command)| command)
    }

    /// Where history ends for a replay, as `<partition>:<offset>` for each partition that has some.
    pub(super) fn note_ends(&mut self, token: Token, ends: Vec<String>) {
        let request =
            TokenKind::Request.number(token).and_then(|number| self.awaiting.get_mut(&number));
        let Some(request) = request else { return };
        let property =
            |text: String| Property::User(Bytes::from_static(b"x-replay-end"), Bytes::from(text));
        if ends.is_empty() {
            request.said.push(property("none".to_owned()));
        }
        request.said.extend(ends.into_iter().map(property));
    }

    /// The connection is over: nothing more is asked.
    pub(super) fn stop(&mut self) {
        self.held = VecDeque::new();
    }
}

impl Request {
    fn new(packet_id: u16, is_subscribe: bool, count: usize) -> Request {
        Request {
            packet_id,
            is_subscribe,
            reasons: Vec::with_capacity(count),
            text: None,
            said: Vec::new(),
        }
    }

    fn refuse(&mut self, refused: Refused) {
        self.reasons.push(Some(refused.reason));
        self.text.get_or_insert(refused.text);
    }

    /// Puts the broker's results where it was asked.
    fn fill<T>(
        &mut self,
        results: Vec<Result<T, Refusal>>,
        granted: impl Fn(T) -> ReasonCode,
        refused: impl Fn(&Refusal) -> Refused,
    ) {
        let open = self.reasons.iter_mut().filter(|reason| reason.is_none());
        for (reason, result) in open.zip(results) {
            *reason = Some(match result {
                Ok(value) => granted(value),
                Err(refusal) => {
                    let Refused { reason, text } = refused(&refusal);
                    self.text.get_or_insert(text);
                    reason
                }
            });
        }
    }
}

impl MqttConnection {
    pub(super) fn on_subscribe(&mut self, subscribe: Subscribe) -> Result<(), Violation> {
        let options = options(&subscribe.properties);
        let mut request = Request::new(subscribe.packet_id, true, subscribe.filters.len());
        let mut subscriptions = Vec::with_capacity(subscribe.filters.len());
        for filter in &subscribe.filters {
            if filter.no_local && filter.filter.starts_with(b"$share/") {
                // [MQTT-3.8.3-4]
                return Err(Violation::protocol("shared subscriptions cannot be No Local"));
            }
            match subscription(filter, &options) {
                Ok(subscription) => {
                    subscriptions.push(subscription);
                    request.reasons.push(None);
                }
                Err(refused) => request.refuse(refused),
            }
        }
        if subscriptions.is_empty() {
            self.answer_request(request);
        } else {
            let token = self.requests.push(request);
            self.requests.held.push_back((true, Command::Subscribe { token, subscriptions }));
            self.ask();
        }
        Ok(())
    }

    pub(super) fn on_unsubscribe(&mut self, unsubscribe: Unsubscribe) -> Result<(), Violation> {
        let mut request = Request::new(unsubscribe.packet_id, false, unsubscribe.filters.len());
        let mut filters = Vec::with_capacity(unsubscribe.filters.len());
        for filter in &unsubscribe.filters {
            match Filter::new(detached(filter)) {
                Ok(filter) => {
                    filters.push(filter);
                    request.reasons.push(None);
                }
                Err(error) => request.refuse(Refused {
                    reason: ReasonCode::TOPIC_FILTER_INVALID,
                    text: error.to_string(),
                }),
            }
        }
        if filters.is_empty() {
            self.answer_request(request);
        } else {
            let token = self.requests.push(request);
            self.requests.held.push_back((false, Command::Unsubscribe { token, filters }));
            self.ask();
        }
        Ok(())
    }

    fn ask(&mut self) {
        self.commands.extend(std::iter::from_fn(|| self.requests.next_command()));
    }

    pub(super) fn on_subscribed(&mut self, token: Token, results: Vec<Result<QoS, Refusal>>) {
        if let Some(mut request) = self.requests.take(token) {
            let hides_denial = self.settings.denied_subscribe == DeniedSubscribe::Unspecified;
            let refused = |refusal: &Refusal| match refusal {
                Refusal::NotAuthorized if hides_denial => hidden(),
                refusal => refused(refusal),
            };
            request.fill(results, |qos| ReasonCode(qos as u8), refused);
            self.answer_request(request);
            self.ask();
        }
    }

    pub(super) fn on_unsubscribed(&mut self, token: Token, results: Vec<Result<bool, Refusal>>) {
        let granted = |existed| match existed {
            true => ReasonCode::SUCCESS,
            false => ReasonCode::NO_SUBSCRIPTION_EXISTED,
        };
        if let Some(mut request) = self.requests.take(token) {
            let refused = |refusal: &Refusal| Refused {
                reason: refusal::of_unsubscribe(refusal),
                text: refusal.to_string(),
            };
            request.fill(results, granted, refused);
            self.answer_request(request);
            self.ask();
        }
    }

    /// [MQTT-3.8.4-6], [MQTT-3.11.3-1]: one code for each filter, in order.
    fn answer_request(&mut self, request: Request) {
        let Request { packet_id, is_subscribe, reasons, text, said } = request;
        let reasons: Vec<_> = reasons
            .into_iter()
            .map(|reason| reason.unwrap_or(ReasonCode::UNSPECIFIED_ERROR))
            .collect();
        let said_bytes: usize = said.iter().map(said_bytes).sum();
        let properties = match text {
            Some(text) => self.reason_string(&text, 16 + reasons.len()),
            // Asked for; a client with room for less than that asks in vain [MQTT-3.1.2-24].
            None if 16 + reasons.len() + said_bytes <= self.client.packet_bytes_max => {
                said.into_iter().collect()
            }
            None => PropertyList::default(),
        };
        self.send(&match is_subscribe {
            true => Packet::SubAck(SubAck { packet_id, properties, reasons }),
            false => Packet::UnsubAck(UnsubAck { packet_id, properties, reasons }),
        });
    }
}

/// Returns how many bytes a user property takes.
fn said_bytes(property: &Property) -> usize {
    match property {
        Property::User(key, value) => 5 + key.len() + value.len(),
        _ => 0,
    }
}

fn options(properties: &PropertyList) -> Options {
    let mut options = Options::default();
    for property in properties.iter() {
        match property {
            Property::SubscriptionId(id) => options.subscription_id = id,
            Property::User(key, value) => match &key[..] {
                b"cursor" => options.cursor = Some(detached(&value)),
                b"consumer-group" => options.group = Some(detached(&value)),
                b"settle" => options.read_settle(&value),
                b"replay-end" => options.read_replay_end(&value),
                b"replay-from" => options.replay_from = Some(detached(&value)),
                _ => {}
            },
            // The codec lets nothing else into SUBSCRIBE.
            _ => {}
        }
    }
    if let Some(group) = &options.group
        && QueueName::new(group.clone()).is_err()
    {
        let reason = "the user property 'consumer-group' is not a name".to_owned();
        options.refusal = Some(Refusal::Invalid { reason });
    }
    options
}

impl Options {
    fn read_replay_end(&mut self, value: &[u8]) {
        match value {
            b"report" => self.reports_end = true,
            _ => {
                let reason = "the user property 'replay-end' must be 'report'".to_owned();
                self.refusal = Some(Refusal::Invalid { reason });
            }
        }
    }

    fn read_settle(&mut self, value: &[u8]) {
        match value {
            b"explicit" => self.settle_explicit = true,
            b"auto" => self.settle_explicit = false,
            _ => {
                let reason = "the user property 'settle' must be 'explicit' or 'auto'".to_owned();
                self.refusal = Some(Refusal::Invalid { reason });
            }
        }
    }
}

fn subscription(asked: &SubscribeFilter, options: &Options) -> Result<Subscription, Refused> {
    if let Some(refusal) = &options.refusal {
        return Err(refused(refusal));
    }
    let filter = Filter::new(detached(&asked.filter)).map_err(invalid)?;
    let mut subscription = Subscription {
        filter,
        qos: asked.qos,
        no_local: asked.no_local,
        retain_as_published: asked.retain_as_published,
        retain_handling: asked.retain_handling,
        subscription_id: options.subscription_id,
        position: None,
        reports_end: options.reports_end,
        group: None,
        settle_explicit: false,
    };
    match SubscribeAddress::of(&subscription.filter).map_err(invalid)? {
        SubscribeAddress::Filter(_) => {
            check_reserved(&subscription.filter)?;
            subscription.position = options.replay_from.clone();
        }
        SubscribeAddress::Queue { group, .. } => {
            let named = group.map(|group| detached(group.as_bytes()));
            subscription.group = named.or_else(|| options.group.clone());
            subscription.position = options.cursor.clone();
            subscription.settle_explicit = options.settle_explicit;
        }
        SubscribeAddress::Shared { .. } => subscription.position = options.replay_from.clone(),
        // It says itself where it begins.
        SubscribeAddress::Replay { .. } => {}
    }
    Ok(subscription)
}

/// A bare `$share`, `$queue` or `$replay` would match nothing for ever.
fn check_reserved(filter: &Filter) -> Result<(), Refused> {
    match filter.as_str() {
        name @ ("$share" | "$queue" | "$replay") => {
            Err(invalid(AddressError::Reserved { name: name.to_owned() }))
        }
        _ => Ok(()),
    }
}

fn invalid(error: AddressError) -> Refused {
    refused(&Refusal::Address(error))
}

/// A denial that does not say it is one.
fn hidden() -> Refused {
    Refused {
        reason: ReasonCode::UNSPECIFIED_ERROR,
        text: "the subscription is refused".to_owned(),
    }
}

fn refused(refusal: &Refusal) -> Refused {
    Refused { reason: refusal::of_subscribe(refusal), text: refusal.to_string() }
}
