//! Declaring, counting, emptying and ending queues.

use super::Client;
use crate::model::{Effect, QueueCommand, QueueName, Refusal, Token};

impl Client {
    /// Asks the home of a queue.
    pub(super) fn ask_queue(&mut self, token: Token, _queue: &QueueName, _command: QueueCommand) {
        let result = Err(Refusal::Unsupported { what: "declaring queues" });
        self.effects.push_back(Effect::Queue { token, result });
    }
}
