//! The class exchange: `amq.topic` is there, and can be declared as what it is.

use super::ReplyCode;
use super::codec::ShortString;
use super::codec::method::{ExchangeDeclare, ExchangeDeclareOk};
use super::connection::AmqpConnection;
use super::publish::TOPICS;
use super::violation::Violation;

impl AmqpConnection {
    /// The exchange that is there can be declared, as what it is.
    pub(super) fn on_exchange_declare(
        &mut self,
        channel: u16,
        declare: &ExchangeDeclare,
    ) -> Result<(), Violation> {
        let name = &declare.exchange;
        if name.as_bytes() != TOPICS {
            return Err(match declare.passive {
                true => self.no_exchange(name),
                false => Violation::new(
                    ReplyCode::NotImplemented,
                    format!("exchanges other than '{TOPICS}' are not served"),
                ),
            });
        }
        let flags = [
            ("durable", declare.durable, true),
            ("auto_delete", declare.auto_delete, false),
            ("internal", declare.internal, false),
        ];
        let kind = String::from_utf8_lossy(declare.kind.as_bytes());
        let flags = flags.into_iter().filter(|(_, said, is)| said != is);
        let mut differences =
            flags.map(|(flag, said, is)| (flag, said.to_string(), is.to_string()));
        let kind = (kind != "topic").then(|| ("type", kind.into_owned(), "topic".to_owned()));
        let difference = kind.or_else(|| differences.next()).filter(|_| !declare.passive);
        if let Some((field, said, is)) = difference {
            let vhost = &self.settings.virtual_host;
            let text = format!(
                "inequivalent arg '{field}' for exchange '{TOPICS}' in vhost '{vhost}': received '{said}' but current is '{is}'"
            );
            return Err(Violation::new(ReplyCode::PreconditionFailed, text));
        }
        if !declare.no_wait {
            self.send(channel, ExchangeDeclareOk::default());
        }
        Ok(())
    }

    fn no_exchange(&self, exchange: &ShortString) -> Violation {
        let vhost = &self.settings.virtual_host;
        match String::from_utf8_lossy(exchange.as_bytes()) {
            name => {
                let text = format!("no exchange '{name}' in vhost '{vhost}'");
                Violation::new(ReplyCode::NotFound, text)
            }
        }
    }
}
