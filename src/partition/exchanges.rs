//! Exchanges as their clients see them, where this is the meta partition; and what the queues that live here are bound to (ADR 0054).

use std::sync::Arc;

use bytes::Bytes;
use fluxmq_log::disk::Disk;

use super::Partition;
use super::request::{ConnectionId, Event, ExchangeAction, Outbox, RoutedTo, Routing};
use super::stage::Waiting;
use crate::model::record::queue_id;
use crate::model::{
    Control, ExchangeBinding, ExchangeId, ExchangeKind, ExchangeRefusal, ExchangeSettings,
    QueueName, QueueRefusal, Refusal, Token, TopicPattern,
};
use crate::view::Views;

/// What becomes of an exchange.
pub(super) struct ExchangeChange {
    /// What it is; `None` when it ends.
    becomes: Option<Arc<ExchangeSettings>>,
    /// Records that say so and are not applied.
    records: u32,
}

impl<D: Disk> Partition<D> {
    /// What its records say of exchanges and bindings, for who begins to find the way for publishes; changes are said to the outbox.
    pub fn routing(&self) -> Vec<Routing> {
        routing_of(&self.views)
    }

    /// Takes a request to exchanges.
    pub(super) fn exchange(
        &mut self,
        (from, token): (ConnectionId, Token),
        action: ExchangeAction,
        out: &mut impl Outbox,
    ) {
        match self.exchange_staged(from, action) {
            Ok(()) => self.answer_with_next(Waiting::Written { to: from, token }, out),
            Err(refusal) => out.send(from, Event::Written { token, result: Err(refusal) }),
        }
    }

    fn exchange_staged(
        &mut self,
        from: ConnectionId,
        action: ExchangeAction,
    ) -> Result<(), Refusal> {
        match action {
            ExchangeAction::Declare { name, settings } => self.declare_exchange(name, &settings),
            ExchangeAction::Inspect { name } => match self.exchange_becomes(&name) {
                Some(_) => Ok(()),
                None => Err(ExchangeRefusal::missing(&name)),
            },
            ExchangeAction::Delete { name, if_unused } => {
                let id =
                    self.settled_exchange(&name).ok_or_else(|| ExchangeRefusal::missing(&name))?;
                if if_unused && self.views.exchanges.routes(&id) {
                    return Err(ExchangeRefusal::in_use(&name));
                }
                self.delete_exchange(id);
                Ok(())
            }
            ExchangeAction::DeleteUnused(id) => {
                let known = self.views.exchanges.get(&id.name).filter(|known| known.id == id);
                let ends = known.is_some_and(|known| known.settings.auto_delete);
                let is_there = self.settled_exchange(&id.name).as_ref() == Some(&id);
                if ends && is_there && !self.views.exchanges.routes(&id) {
                    self.delete_exchange(id);
                }
                Ok(())
            }
            ExchangeAction::Bind { from, to, routing_key, arguments, is_bound } => {
                let (from, kind) = self.routing_exchange(&from)?;
                let (to, _) = self.routing_exchange(&to)?;
                let binding = ExchangeBinding::new(from, kind, &routing_key, &arguments);
                if self.is_quiet_and(self.views.exchanges.is_bound(&binding, &to) == is_bound) {
                    return Ok(());
                }
                let binding = Box::new(binding);
                let control = match is_bound {
                    true => Control::ExchangeBound { binding, to },
                    false => Control::ExchangeUnbound { binding, to },
                };
                self.write(&control, None);
                Ok(())
            }
            ExchangeAction::BindQueue { queue, binding, is_bound } => {
                self.check_owner(from, queue_id(queue.as_bytes()))?;
                self.bind_queue(&queue, binding, is_bound)
            }
        }
    }

    fn declare_exchange(
        &mut self,
        name: Bytes,
        settings: &ExchangeSettings,
    ) -> Result<(), Refusal> {
        let settings = Arc::new(settings.checked());
        if let Some(known) = self.exchange_becomes(&name) {
            return match settings.difference(known) {
                None => Ok(()),
                Some(field) => Err(ExchangeRefusal::differs(&name, field, known.clone())),
            };
        }
        self.exchange_changes(&name, Some(settings.clone()));
        self.write(&Control::ExchangeDeclared { name, settings }, None);
        Ok(())
    }

    fn delete_exchange(&mut self, exchange: ExchangeId) {
        self.exchange_changes(&exchange.name, None);
        self.write(&Control::ExchangeDeleted { exchange }, None);
    }

    /// Ends what an earlier term leaves of exchanges that do not outlive it.
    pub(super) fn end_transient_exchanges(&mut self) {
        let all = self.views.exchanges.iter();
        let transient = all.filter(|it| !it.settings.durable).map(|it| it.id.clone());
        for id in transient.collect::<Vec<ExchangeId>>() {
            self.delete_exchange(id);
        }
    }

    fn bind_queue(
        &mut self,
        queue: &QueueName,
        binding: Box<ExchangeBinding>,
        is_bound: bool,
    ) -> Result<(), Refusal> {
        let id = queue_id(queue.as_bytes());
        if self.queue(id).is_none_or(|(known, _)| known != queue.as_bytes()) {
            return Err(QueueRefusal::Missing { queue: queue.to_string() }.into());
        }
        if self.is_quiet_and(self.views.bindings.is_bound(id, &binding) == is_bound) {
            return Ok(());
        }
        let control = match is_bound {
            true => Control::QueueBound { queue: id, binding },
            false => Control::QueueUnbound { queue: id, binding },
        };
        self.write(&control, None);
        Ok(())
    }

    /// Returns true when something is so already, and nothing is on its way that might change it.
    fn is_quiet_and(&self, is_so: bool) -> bool {
        is_so && self.building.is_none() && self.in_flight.is_empty()
    }

    /// What an exchange is, or is about to be.
    fn exchange_becomes(&self, name: &Bytes) -> Option<&Arc<ExchangeSettings>> {
        match self.overlay.exchanges.get(name) {
            Some(change) => change.becomes.as_ref(),
            None => self.views.exchanges.get(name).map(|known| &known.settings),
        }
    }

    /// An exchange that is there: neither on its way in, nor out.
    fn settled_exchange(&self, name: &Bytes) -> Option<ExchangeId> {
        let known = self.views.exchanges.get(name)?;
        (!self.overlay.exchanges.contains_key(name)).then(|| known.id.clone())
    }

    /// One that can be bound: the broker's own among them.
    fn routing_exchange(&self, name: &Bytes) -> Result<(ExchangeId, ExchangeKind), Refusal> {
        if let Some(settings) = ExchangeSettings::predeclared(name) {
            let id = ExchangeId { name: name.clone(), declared: fluxmq_index::Offset::ZERO };
            return Ok((id, settings.kind));
        }
        let id = self.settled_exchange(name).ok_or_else(|| ExchangeRefusal::missing(name))?;
        let kind = self.views.exchanges.get(name).map(|known| known.settings.kind);
        Ok((id, kind.expect("it is settled")))
    }

    fn exchange_changes(&mut self, name: &Bytes, becomes: Option<Arc<ExchangeSettings>>) {
        let changes = &mut self.overlay.exchanges;
        let records = changes.get(name).map_or(0, |change| change.records) + 1;
        changes.insert(name.clone(), ExchangeChange { becomes, records });
    }

    /// It is in the views now. Another leader's was never in here.
    pub(super) fn exchange_applied(&mut self, name: &Bytes) {
        if let Some(change) = self.overlay.exchanges.get_mut(name) {
            change.records -= 1;
            if change.records == 0 {
                self.overlay.exchanges.remove(name);
            }
        }
    }

    /// What of the routing a record may end.
    pub(super) fn routing_ended_by(&self, control: &Control) -> Vec<Routing> {
        let (queue, bindings) = match control {
            Control::QueueDeleted { queue } => {
                (*queue, self.views.bindings.of(*queue).cloned().collect())
            }
            Control::QueueBound { queue, binding } => {
                (*queue, self.views.bindings.replaced_by(*queue, binding))
            }
            Control::QueueUnbound { queue, binding } => (*queue, vec![(**binding).clone()]),
            Control::ExchangeUnbound { binding, to } => {
                let (binding, to) = ((**binding).clone(), RoutedTo::Exchange(to.clone()));
                return vec![Routing::Binding { binding, to, is_bound: false }];
            }
            Control::ExchangeDeleted { exchange } => {
                return routing_without(&self.views, exchange);
            }
            _ => return Vec::new(),
        };
        let Some(known) = self.views.queues.get(queue) else { return Vec::new() };
        let name = QueueName::from_stored(known.name().clone());
        let ended = |binding| routing(&name, binding, false);
        bindings.into_iter().map(ended).collect()
    }

    /// Says what of the routing is other since a record, before anybody is answered who waited for it.
    pub(super) fn announce_routing(
        &self,
        control: &Control,
        ended: Vec<Routing>,
        out: &mut impl Outbox,
    ) {
        let has_ended = !ended.is_empty();
        for routing in ended {
            match &routing {
                // Another queue is bound to the same.
                Routing::Topics(pattern, _) if self.views.bindings.is_topic_bound(pattern) => {}
                _ => out.routed(&routing),
            }
        }
        match control {
            Control::ExchangeDeclared { name, .. } => {
                if let Some(known) = self.views.exchanges.get(name) {
                    let settings = Some(known.settings.clone());
                    out.routed(&Routing::Exchange(known.id.clone(), settings));
                }
            }
            Control::ExchangeBound { binding, to } => {
                let (binding, is_bound) = (binding.detached(), true);
                if self.views.exchanges.is_bound(&binding, to) {
                    let to = RoutedTo::Exchange(to.detached());
                    out.routed(&Routing::Binding { binding, to, is_bound });
                }
            }
            Control::QueueBound { queue, binding } => {
                if let Some(known) = self.views.queues.get(*queue) {
                    let name = QueueName::from_stored(known.name().clone());
                    out.routed(&routing(&name, binding.detached(), true));
                }
            }
            // Nobody who asked for it looks after the exchanges that end with it.
            Control::QueueDeleted { .. } if has_ended && self.leading.is_some() => {
                if let Some(courier) = self.letters.courier() {
                    out.send(courier, Event::BindingsEnded);
                }
            }
            _ => {}
        }
    }

    /// Says what of the routing is other since the views were replaced.
    pub(super) fn announce_all_routing(&self, before: &Views, out: &mut impl Outbox) {
        let now = routing_of(&self.views);
        for routing in routing_of(before).into_iter().filter(|it| !now.contains(it)) {
            out.routed(&match routing {
                Routing::Exchange(id, _) => Routing::Exchange(id, None),
                Routing::Binding { binding, to, .. } => {
                    Routing::Binding { binding, to, is_bound: false }
                }
                Routing::Topics(pattern, _) => Routing::Topics(pattern, false),
            });
        }
        now.iter().for_each(|routing| out.routed(routing));
    }
}

fn routing_of(views: &Views) -> Vec<Routing> {
    let exchanges = views.exchanges.iter();
    let exchanges =
        exchanges.map(|known| Routing::Exchange(known.id.clone(), Some(known.settings.clone())));
    let between = views.exchanges.bindings().map(|(binding, to)| {
        let (binding, to) = (binding.clone(), RoutedTo::Exchange(to.clone()));
        Routing::Binding { binding, to, is_bound: true }
    });
    let of_queues = views.bindings.iter().filter_map(|(queue, binding)| {
        let name = QueueName::from_stored(views.queues.get(queue)?.name().clone());
        Some(routing(&name, binding.clone(), true))
    });
    exchanges.chain(between).chain(of_queues).collect()
}

/// What ends with an exchange.
fn routing_without(views: &Views, exchange: &ExchangeId) -> Vec<Routing> {
    let bindings = views.exchanges.bindings();
    let its = bindings.filter(|(binding, to)| binding.exchange == *exchange || to == exchange);
    let ended = its.map(|(binding, to)| {
        let (binding, to) = (binding.clone(), RoutedTo::Exchange(to.clone()));
        Routing::Binding { binding, to, is_bound: false }
    });
    ended.chain([Routing::Exchange(exchange.clone(), None)]).collect()
}

fn routing(queue: &QueueName, binding: ExchangeBinding, is_bound: bool) -> Routing {
    match TopicPattern::of(&binding) {
        Some(pattern) => Routing::Topics(pattern, is_bound),
        None => Routing::Binding { binding, to: RoutedTo::Queue(queue.clone()), is_bound },
    }
}
