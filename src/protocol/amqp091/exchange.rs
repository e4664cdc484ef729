//! Exchanges and bindings: what routes publishes, and what goes where (AMQP 0.9.1 §1.6, §1.7).

use std::sync::Arc;

use bytes::Bytes;

use super::ReplyCode;
use super::codec::method::{
    ExchangeBind, ExchangeBindOk, ExchangeDeclare, ExchangeDeclareOk, ExchangeDelete,
    ExchangeDeleteOk, ExchangeUnbind, ExchangeUnbindOk, QueueBind, QueueBindOk, QueueUnbind,
    QueueUnbindOk,
};
use super::codec::{Method, ShortString, Table, Value};
use super::connection::AmqpConnection;
use super::convert::lossy;
use super::requests::About;
use super::violation::Violation;
use crate::model::exchange::ExchangeSettings;
use crate::model::{
    Bind, Command, Destination, ExchangeCommand, ExchangeId, ExchangeKind, ExchangeRefusal,
    QueueRefusal, Refusal, Token, VirtualHost,
};

/// The argument that names an alternate exchange.
const ALTERNATE: &str = "alternate-exchange";

/// `exchange.delete`, `exchange.unbind` and `queue.unbind`: there is nothing to do where there is nothing.
const ENDINGS: [(u16, u16); 3] = [(40, 20), (40, 40), (50, 50)];

/// A binding, as its methods say it.
struct Said<'a> {
    exchange: &'a ShortString,
    routing_key: &'a ShortString,
    arguments: &'a Table,
    is_bound: bool,
}

impl AmqpConnection {
    pub(super) fn on_exchange_declare(
        &mut self,
        channel: u16,
        declare: &ExchangeDeclare,
    ) -> Result<(), Violation> {
        let name = &declare.exchange;
        check_not_default(name)?;
        let predeclared = ExchangeSettings::predeclared(name.as_bytes());
        let ok = (!declare.no_wait).then(|| Method::from(ExchangeDeclareOk::default()));
        let (settings, command) = match declare.passive {
            true => (None, ExchangeCommand::Inspect),
            false => {
                let settings = Arc::new(self.exchange_settings(declare)?);
                (Some(settings.clone()), ExchangeCommand::Declare(settings))
            }
        };
        match (&predeclared, &settings) {
            (None, Some(_)) if ExchangeId::is_reserved(name.as_bytes()) => {
                let text = format!(
                    "exchange name '{}' contains reserved prefix 'amq.*'",
                    lossy(name.as_bytes())
                );
                return Err(Violation::new(ReplyCode::AccessRefused, text));
            }
            (None, _) => {
                let about = About::Exchange { settings, ok: ok.map(Box::new) };
                return self.ask_exchange((channel, (40, 10)), about, name, command);
            }
            (Some(current), Some(asked)) => {
                if let Some(violation) = self.inequivalent(asked, current, &lossy(name.as_bytes()))
                {
                    return Err(violation);
                }
            }
            (Some(_), None) => {}
        }
        // It is there, as what it is, without anybody's declaration.
        ok.into_iter().for_each(|ok| self.send(channel, ok));
        Ok(())
    }

    fn exchange_settings(&self, declare: &ExchangeDeclare) -> Result<ExchangeSettings, Violation> {
        let Some(kind) = ExchangeKind::from_name(declare.kind.as_bytes()) else {
            let text = format!("invalid exchange type '{}'", lossy(declare.kind.as_bytes()));
            return Err(Violation::new(ReplyCode::PreconditionFailed, text));
        };
        let alternate = match declare.arguments.get(ALTERNATE) {
            None => None,
            Some(Value::LongString(name)) => {
                Some(self.exchange_named(&Bytes::copy_from_slice(&name))?)
            }
            Some(_) => {
                let (name, vhost) = (lossy(declare.exchange.as_bytes()), &self.host);
                let text = format!(
                    "invalid arg '{ALTERNATE}' for exchange '{name}' in vhost '{vhost}': it is the name of an exchange"
                );
                return Err(Violation::new(ReplyCode::PreconditionFailed, text));
            }
        };
        Ok(ExchangeSettings {
            kind,
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            alternate,
            // Nothing else that is said makes another exchange of it.
            arguments: Bytes::new(),
        })
    }

    pub(super) fn on_exchange_delete(
        &mut self,
        channel: u16,
        delete: &ExchangeDelete,
    ) -> Result<(), Violation> {
        let ExchangeDelete { exchange: name, if_unused, no_wait, .. } = delete;
        check_not_default(name)?;
        if ExchangeId::is_reserved(name.as_bytes()) {
            let (name, vhost) = (lossy(name.as_bytes()), &self.host);
            let text =
                format!("deletion of system exchange '{name}' in vhost '{vhost}' not allowed");
            return Err(Violation::new(ReplyCode::AccessRefused, text));
        }
        let ok = (!no_wait).then(|| Box::new(ExchangeDeleteOk::default().into()));
        let about = About::Exchange { settings: None, ok };
        let command = ExchangeCommand::Delete { if_unused: *if_unused };
        self.ask_exchange((channel, (40, 20)), about, name, command)
    }

    fn ask_exchange(
        &mut self,
        method: (u16, (u16, u16)),
        about: About,
        exchange: &ShortString,
        command: ExchangeCommand,
    ) -> Result<(), Violation> {
        let exchange = self.exchange_named(&exchange.detached().into_bytes())?;
        self.ask(method, about, |token| Command::Exchange { token, exchange, command });
        Ok(())
    }

    /// The level that stands for an exchange.
    pub(super) fn exchange_named(&self, name: &Bytes) -> Result<Bytes, Violation> {
        self.host.exchange(name).map_err(|error| {
            let text = format!("exchange name '{}': {error}", lossy(name));
            Violation::new(ReplyCode::PreconditionFailed, text)
        })
    }

    pub(super) fn on_exchange_bind(
        &mut self,
        channel: u16,
        bind: &ExchangeBind,
    ) -> Result<(), Violation> {
        let ok = (!bind.no_wait).then(|| ExchangeBindOk::default().into());
        let ExchangeBind { source, destination, routing_key, arguments, .. } = bind;
        let said = Said { exchange: source, routing_key, arguments, is_bound: true };
        check_not_default(destination)?;
        let name = self.exchange_named(&destination.detached().into_bytes())?;
        self.bind((channel, (40, 30)), ok, Destination::Exchange(name), said)
    }

    pub(super) fn on_exchange_unbind(
        &mut self,
        channel: u16,
        unbind: &ExchangeUnbind,
    ) -> Result<(), Violation> {
        let ok = (!unbind.no_wait).then(|| ExchangeUnbindOk::default().into());
        let ExchangeUnbind { source, destination, routing_key, arguments, .. } = unbind;
        let said = Said { exchange: source, routing_key, arguments, is_bound: false };
        check_not_default(destination)?;
        let name = self.exchange_named(&destination.detached().into_bytes())?;
        self.bind((channel, (40, 40)), ok, Destination::Exchange(name), said)
    }

    pub(super) fn on_queue_bind(
        &mut self,
        channel: u16,
        bind: &QueueBind,
    ) -> Result<(), Violation> {
        let ok = (!bind.no_wait).then(|| QueueBindOk::default().into());
        let QueueBind { queue, exchange, routing_key, arguments, .. } = bind;
        let said = Said { exchange, routing_key, arguments, is_bound: true };
        self.bind_queue((channel, (50, 20)), ok, queue, said)
    }

    pub(super) fn on_queue_unbind(
        &mut self,
        channel: u16,
        unbind: &QueueUnbind,
    ) -> Result<(), Violation> {
        let ok = Some(QueueUnbindOk::default().into());
        let QueueUnbind { queue, exchange, routing_key, arguments, .. } = unbind;
        let said = Said { exchange, routing_key, arguments, is_bound: false };
        self.bind_queue((channel, (50, 50)), ok, queue, said)
    }

    /// §1.7.2.3: without a name of the queue and without a key, the key is the queue's name.
    fn bind_queue(
        &mut self,
        method: (u16, (u16, u16)),
        ok: Option<Method>,
        name: &ShortString,
        said: Said<'_>,
    ) -> Result<(), Violation> {
        let queue = self.queue_of(method.0, name)?;
        let own = ShortString::truncated(&queue.name());
        let said = match name.is_empty() && said.routing_key.is_empty() {
            true => Said { routing_key: &own, ..said },
            false => said,
        };
        self.bind(method, ok, Destination::Queue(queue), said)
    }

    fn bind(
        &mut self,
        method: (u16, (u16, u16)),
        ok: Option<Method>,
        destination: Destination,
        said: Said<'_>,
    ) -> Result<(), Violation> {
        // Every queue is bound to it by its name, and by nothing else.
        check_not_default(said.exchange)?;
        let queue = match &destination {
            Destination::Queue(queue) => Some(queue.clone()),
            Destination::Exchange(_) => None,
        };
        let Said { exchange, routing_key, arguments, is_bound } = said;
        let exchange = self.exchange_named(&exchange.detached().into_bytes())?;
        let (routing_key, arguments) = (routing_key.detached(), arguments.detached());
        self.ask(method, About::Bind { queue, ok: ok.map(Box::new) }, |token| {
            Command::Bind(Box::new(Bind {
                token,
                exchange,
                destination,
                routing_key: routing_key.into_bytes(),
                arguments: arguments.as_bytes().clone(),
                is_bound,
            }))
        });
        Ok(())
    }

    /// An exchange, or a binding, is as was asked for, or not.
    pub(super) fn on_exchange_answer(&mut self, token: Token, result: Result<(), Refusal>) {
        let Some(mut request) = self.take_request(token) else { return };
        let (About::Exchange { ok, .. } | About::Bind { ok, .. }) = &mut request.about else {
            return;
        };
        let ok = ok.take();
        match result {
            // As in RabbitMQ: it is gone, or bound to nothing, which is what was asked for.
            Err(refusal) if !(ENDINGS.contains(&request.method) && is_missing(&refusal)) => {
                self.on_request_refused(&request, &refusal);
            }
            Ok(()) | Err(_) => ok.into_iter().for_each(|ok| self.send(request.channel, *ok)),
        }
    }

    /// Why an exchange cannot be declared as it is asked for: it is there, and otherwise.
    pub(super) fn inequivalent(
        &self,
        asked: &ExchangeSettings,
        current: &ExchangeSettings,
        name: &str,
    ) -> Option<Violation> {
        let alternate = |settings: &ExchangeSettings| match &settings.alternate {
            None => "none".to_owned(),
            Some(level) => {
                let (_, name) = VirtualHost::of_level(level);
                format!("the value '{}' of type 'longstr'", lossy(&name))
            }
        };
        let quoted = |value: &str| format!("'{value}'");
        let said = |settings: &ExchangeSettings| {
            [
                ("type", quoted(settings.kind.name())),
                ("durable", quoted(&settings.durable.to_string())),
                ("auto_delete", quoted(&settings.auto_delete.to_string())),
                ("internal", quoted(&settings.internal.to_string())),
                (ALTERNATE, alternate(settings)),
            ]
        };
        let mut pairs = said(asked).into_iter().zip(said(current));
        let ((argument, asked), (_, current)) = pairs.find(|(asked, current)| asked != current)?;
        let vhost = &self.host;
        let text = format!(
            "inequivalent arg '{argument}' for exchange '{name}' in vhost '{vhost}': received {asked} but current is {current}"
        );
        Some(Violation::new(ReplyCode::PreconditionFailed, text))
    }
}

/// Returns true when what was named is not there.
fn is_missing(refusal: &Refusal) -> bool {
    let is_exchange = matches!(refusal, Refusal::Exchange(refused) if matches!(**refused, ExchangeRefusal::Missing { .. }));
    is_exchange
        || matches!(refusal, Refusal::Queue(refused) if matches!(**refused, QueueRefusal::Missing { .. }))
}

/// Nobody declares, ends or binds the default exchange.
fn check_not_default(name: &ShortString) -> Result<(), Violation> {
    match name.is_empty() {
        false => Ok(()),
        true => {
            let text = "operation not permitted on the default exchange";
            Err(Violation::new(ReplyCode::AccessRefused, text))
        }
    }
}
