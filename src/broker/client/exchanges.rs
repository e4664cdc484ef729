//! Declaring, ending and binding exchanges.
//!
//! The meta partition knows exchanges and the bindings between them, a queue's home those of the queue. What of an exchange's name is
//! asked of one and of the other meets in the routing table, which knows both before anybody is answered (ADR 0054).

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::{Value, json};

use super::manage::Asker;
use super::{Client, Waiting};
use crate::auth::Reach;
use crate::model::address::exchange_topic;
use crate::model::{
    Bind, Destination, Effect, ExchangeBinding, ExchangeCommand, ExchangeId, ExchangeKind,
    ExchangeRefusal, ExchangeSettings, PartitionId, QueueName, Refusal, Token, Topic, TopicPattern,
    VirtualHost,
};
use crate::partition::request::{ExchangeAction, Request};

/// What was asked, and is not answered.
pub(super) struct Changing {
    owed: Owed,
    /// The exchange that must still be there when it is done.
    bound: Option<ExchangeId>,
    /// It may have ended the last binding to some exchange.
    ends: bool,
    /// Exchanges that it was, and that have ended with it, or have not.
    ended: BTreeSet<ExchangeId>,
    /// How many of them are asked for.
    missing: usize,
}

/// Who is owed the answer.
enum Owed {
    /// The protocol.
    Protocol(Token),
    /// An administrator, who is told this when it is done.
    Asker(Asker, Value),
}

type Asked = (PartitionId, ExchangeAction);

impl Client {
    /// Asks the meta partition. The right to write `$management/exchange/<name>/…` is the right to ask.
    pub(super) fn ask_exchange(&mut self, token: Token, name: &Bytes, command: ExchangeCommand) {
        self.exchange_for(Owed::Protocol(token), name, command);
    }

    /// The same for an administrator.
    pub(super) fn manage_exchange(&mut self, asker: Asker, name: &Bytes, command: ExchangeCommand) {
        let existed = self.placement.bindings().routing().get(name).is_some();
        let answer = json!({ "exchange": String::from_utf8_lossy(name), "existed": existed });
        self.exchange_for(Owed::Asker(asker, answer), name, command);
    }

    fn exchange_for(&mut self, owed: Owed, name: &Bytes, command: ExchangeCommand) {
        let ends = matches!(command, ExchangeCommand::Delete { .. });
        let asked = self.exchange_action(name, command);
        self.change_exchange(Changing::new(owed, ends), asked);
    }

    /// Asks the home of what is bound.
    pub(super) fn bind(&mut self, bind: Bind) {
        self.bind_for(Owed::Protocol(bind.token), bind);
    }

    /// The same for an administrator.
    pub(super) fn manage_binding(&mut self, asker: Asker, bind: Bind) {
        let (destination_type, destination) = match &bind.destination {
            Destination::Queue(queue) => ("queue", queue.as_bytes()),
            Destination::Exchange(name) => ("exchange", name),
        };
        let [source, destination] =
            [&bind.exchange, destination].map(|name| String::from_utf8_lossy(name).into_owned());
        let answer = json!({
            "source": source, "destination": destination, "destination_type": destination_type
        });
        self.bind_for(Owed::Asker(asker, answer), bind);
    }

    fn bind_for(&mut self, owed: Owed, bind: Bind) {
        let mut changing = Changing::new(owed, !bind.is_bound);
        let asked = self.bind_action(bind, &mut changing).map(Some);
        self.change_exchange(changing, asked);
    }

    fn change_exchange(&mut self, changing: Changing, asked: Result<Option<Asked>, Refusal>) {
        match asked {
            Ok(Some((to, action))) => {
                let token = self.wait_for(Waiting::Changing(Box::new(changing)));
                let action = Box::new(action);
                self.request(to, Request::Exchange { token, action });
            }
            Ok(None) => self.answer_exchange(changing.owed, Ok(())),
            Err(refusal) => self.answer_exchange(changing.owed, Err(refusal)),
        }
    }

    /// What to ask the meta partition; `None` where the answer is yes.
    fn exchange_action(
        &mut self,
        name: &Bytes,
        command: ExchangeCommand,
    ) -> Result<Option<Asked>, Refusal> {
        let own = ExchangeSettings::predeclared(name);
        let action = match command {
            ExchangeCommand::Inspect if own.is_some() => return Ok(None),
            ExchangeCommand::Inspect if name.is_empty() => {
                return Err(ExchangeRefusal::reserved(name));
            }
            ExchangeCommand::Inspect => {
                self.may_change("exchange", name, "inspect")?;
                ExchangeAction::Inspect { name: name.clone() }
            }
            ExchangeCommand::Declare(settings) => {
                if let Some(own) = own {
                    return match settings.checked().difference(&own) {
                        None => Ok(None),
                        Some(field) => Err(ExchangeRefusal::differs(name, field, own.into())),
                    };
                }
                if ExchangeId::is_reserved(name) {
                    return Err(ExchangeRefusal::reserved(name));
                }
                self.may_change("exchange", name, "declare")?;
                if let Some(alternate) = &settings.alternate {
                    self.may_hand_over(name, alternate)?;
                }
                ExchangeAction::Declare { name: name.clone(), settings }
            }
            ExchangeCommand::Delete { if_unused } => {
                if ExchangeId::is_reserved(name) {
                    return Err(ExchangeRefusal::reserved(name));
                }
                self.may_change("exchange", name, "delete")?;
                let table = self.placement.bindings().routing();
                let known = table.get(name);
                if if_unused && known.is_some_and(|(id, _)| table.has_bindings(&id)) {
                    return Err(ExchangeRefusal::in_use(name));
                }
                ExchangeAction::Delete { name: name.clone(), if_unused }
            }
        };
        Ok(Some((PartitionId::META, action)))
    }

    fn bind_action(&mut self, bind: Bind, changing: &mut Changing) -> Result<Asked, Refusal> {
        let Bind { exchange, destination, routing_key, arguments, is_bound, .. } = bind;
        let operation = if is_bound { "bind" } else { "unbind" };
        let (what, name) = match &destination {
            Destination::Queue(queue) => ("queue", queue.as_bytes()),
            Destination::Exchange(name) => ("exchange", name),
        };
        if let Some(own) = [&exchange, name].into_iter().find(|name| name.is_empty()) {
            return Err(ExchangeRefusal::reserved(own));
        }
        self.may_change(what, name, operation)?;
        let known = self.placement.bindings().routing().get(&exchange);
        let (id, settings) = known.ok_or_else(|| ExchangeRefusal::missing(&exchange))?;
        let binding = ExchangeBinding::new(id, settings.kind, &routing_key, &arguments);
        self.may_read_of(&binding)?;
        if is_bound {
            if binding.kind == ExchangeKind::Headers && binding.header_match().is_none() {
                let reason = "'x-match' must be 'all', 'any', 'all-with-x' or 'any-with-x'";
                return Err(Refusal::Invalid { reason: reason.to_owned() });
            }
            changing.bound = Some(binding.exchange.clone());
        }
        Ok(match destination {
            Destination::Queue(queue) => {
                let (to, binding) = (self.placement.queue(&queue), Box::new(binding));
                (to, ExchangeAction::BindQueue { queue, binding, is_bound })
            }
            Destination::Exchange(to) => {
                let from = exchange;
                let action = ExchangeAction::Bind { from, to, routing_key, arguments, is_bound };
                (PartitionId::META, action)
            }
        })
    }

    /// What was asked is stored, or was refused.
    pub(super) fn exchange_changed(
        &mut self,
        changing: Box<Changing>,
        result: Result<(), Refusal>,
    ) {
        if result.is_err() {
            return self.answer_exchange(changing.owed, result);
        }
        if let Some(bound) = &changing.bound
            && !self.placement.bindings().routing().is_there(bound)
        {
            let missing = ExchangeRefusal::missing(&bound.name);
            return self.answer_exchange(changing.owed, Err(missing));
        }
        match changing.ends {
            true => self.end_unused(changing),
            false => self.answer_exchange(changing.owed, Ok(())),
        }
    }

    /// Ends the exchanges that end with what was asked, and those that end with them, before that is answered.
    fn end_unused(&mut self, mut changing: Box<Changing>) {
        let unused = self.placement.bindings().routing().unused();
        let new: Vec<ExchangeId> =
            unused.into_iter().filter(|id| !changing.ended.contains(id)).collect();
        if new.is_empty() {
            return self.answer_exchange(changing.owed, Ok(()));
        }
        changing.missing = new.len();
        changing.ended.extend(new.iter().cloned());
        let whole = self.wait_for(Waiting::Ending(changing));
        for id in new {
            let token = self.wait_for(Waiting::EndOfExchange(whole));
            let action = Box::new(ExchangeAction::DeleteUnused(id));
            let request = Request::Exchange { token, action };
            self.request(PartitionId::META, request);
        }
    }

    /// The meta partition has ended an exchange that nothing is bound to any more, or could not: then it is ended another time.
    pub(super) fn unused_ended(&mut self, whole: Token) {
        let Some(Waiting::Ending(changing)) = self.waiting.get_mut(&whole) else { return };
        changing.missing -= 1;
        if changing.missing == 0
            && let Some(Waiting::Ending(changing)) = self.waiting.remove(&whole)
        {
            self.end_unused(changing);
        }
    }

    fn answer_exchange(&mut self, owed: Owed, result: Result<(), Refusal>) {
        match owed {
            Owed::Protocol(token) => self.effects.push_back(Effect::Exchange { token, result }),
            Owed::Asker(asker, answer) => self.answer_asker(asker, result.map(|()| answer)),
        }
    }

    fn may_change(&mut self, what: &str, name: &Bytes, operation: &str) -> Result<(), Refusal> {
        if what == "queue" {
            return self.standing.may_manage(&QueueName::from_text(name.clone())?, operation);
        }
        let exchange = QueueName::new(name.clone())?;
        let topic = Topic::new(format!("$management/{what}/{exchange}/{operation}").into())?;
        self.standing.may_publish_by(name, &topic)
    }

    /// What an exchange routes nowhere another publishes: that needs the rights to have the one and to publish to the other.
    fn may_hand_over(&mut self, exchange: &Bytes, alternate: &Bytes) -> Result<(), Refusal> {
        if VirtualHost::of_level(alternate).1.is_empty() {
            // By which nothing is routed on.
            return Ok(());
        }
        self.may_read_all(exchange)?;
        let topic = exchange_topic(&QueueName::new(alternate.clone())?, b"");
        self.standing.may_publish_by(alternate, &topic)
    }

    /// Binding needs the right to read what is bound: the topics, or what the exchange gets. So does ending that.
    fn may_read_of(&self, binding: &ExchangeBinding) -> Result<(), Refusal> {
        let name = &binding.exchange.name;
        let (host, _) = VirtualHost::of_level(name);
        let reach = match TopicPattern::of(binding) {
            None => return self.may_read_all(name),
            // Below the names of other hosts nothing is in this one.
            Some(_)
                if host.is_default()
                    && !host.has_topic(&TopicPattern::key_of(&binding.routing_key)) =>
            {
                Reach::Nothing
            }
            Some(TopicPattern::Filter(filter)) => self.standing.access.reach(filter.as_str()),
            Some(TopicPattern::Words(_)) => {
                let topics = String::from_utf8_lossy(&host.topic_prefix()).into_owned();
                self.standing.access.reach(&format!("{topics}#"))
            }
        };
        if reach == Reach::All { Ok(()) } else { Err(ExchangeRefusal::forbidden(name)) }
    }

    fn may_read_all(&self, exchange: &Bytes) -> Result<(), Refusal> {
        let address = format!("$exchange/{}/#", String::from_utf8_lossy(exchange));
        match self.standing.access.reach(&address) {
            Reach::All => Ok(()),
            Reach::Some | Reach::Nothing => Err(ExchangeRefusal::forbidden(exchange)),
        }
    }
}

impl Changing {
    fn new(owed: Owed, ends: bool) -> Changing {
        Changing { owed, bound: None, ends, ended: BTreeSet::new(), missing: 0 }
    }
}
