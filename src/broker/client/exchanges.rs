//! Declaring, ending and binding exchanges.

use bytes::Bytes;

use super::Client;
use crate::model::{Bind, Effect, ExchangeCommand, Refusal, Token};

impl Client {
    /// Asks the meta partition, which knows all exchanges.
    pub(super) fn ask_exchange(&mut self, token: Token, _name: &Bytes, _command: ExchangeCommand) {
        let result = Err(Refusal::Unsupported { what: "declaring exchanges" });
        self.effects.push_back(Effect::Exchange { token, result });
    }

    /// Asks the home of what is bound.
    pub(super) fn bind(&mut self, bind: Bind) {
        let result = Err(Refusal::Unsupported { what: "binding to exchanges" });
        self.effects.push_back(Effect::Exchange { token: bind.token, result });
    }
}
