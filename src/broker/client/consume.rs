//! Consumers of queues by name, and entries that are asked for one by one.

use super::Client;
use crate::model::consume::Consume;
use crate::model::{Effect, QueueName, Refusal, Token};

impl Client {
    pub(super) fn consume(&mut self, consume: &Consume) {
        let result = Err(Refusal::Unsupported { what: "consuming queues" });
        self.effects.push_back(Effect::Consuming { token: consume.token, result });
    }

    pub(super) fn grant(&mut self, _consumer: u32, _count: u32) {}

    pub(super) fn sent(&mut self, _consumer: u32, _count: u32) {}

    pub(super) fn stop_consuming(&mut self, token: Token, _consumer: u32) {
        self.effects.push_back(Effect::Stopped { token });
    }

    pub(super) fn leave(&mut self, _consumer: u32) {}

    pub(super) fn get(&mut self, token: Token, _at: (u32, &QueueName, &QueueName)) {
        let result = Err(Refusal::Unsupported { what: "getting messages" });
        self.effects.push_back(Effect::Got { token, result });
    }
}
