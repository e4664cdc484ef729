//! Declaring, counting, emptying and ending queues, by name.

use super::{Client, Waiting};
use crate::model::{Effect, QueueAnswer as Counts, QueueCommand, QueueName, Refusal, Token};
use crate::partition::request::{QueueAction, QueueAnswer, QueueRequest, Request};

impl Client {
    /// Asks the home of a queue. Who makes, empties or ends one needs the right to ask for it below `$management/`; who counts one, some
    /// of what it has.
    pub(super) fn ask_queue(&mut self, token: Token, queue: &QueueName, command: QueueCommand) {
        let allowed = match &command {
            QueueCommand::Declare(settings) => {
                let may_declare = self.standing.may_manage(queue, "declare");
                may_declare.and_then(|()| self.standing.may_send_letters(queue, settings))
            }
            QueueCommand::Purge => self.standing.may_manage(queue, "purge"),
            QueueCommand::Delete { .. } => self.standing.may_manage(queue, "delete"),
            QueueCommand::Inspect => self.standing.may_inspect(queue),
        };
        if let Err(refusal) = allowed {
            return self.effects.push_back(Effect::Queue { token, result: Err(refusal) });
        }
        let action = match command {
            QueueCommand::Declare(settings) => QueueAction::Declare(settings),
            QueueCommand::Inspect => QueueAction::Inspect,
            QueueCommand::Purge => QueueAction::Purge,
            QueueCommand::Delete { if_unused, if_empty } => {
                QueueAction::Delete { if_unused, if_empty }
            }
        };
        let home = self.placement.queue(queue);
        let (token, queue) = (self.wait_for(Waiting::Asked(token)), queue.clone());
        self.request(home, Request::Queue(QueueRequest { token, queue, action }));
    }

    /// The home of a queue has answered.
    pub(super) fn asked(&mut self, token: Token, result: Result<QueueAnswer, Refusal>) {
        let result = result.map(|answer| match answer {
            QueueAnswer::Declared { counts, .. } | QueueAnswer::Counted(counts) => counts,
            QueueAnswer::Done { count } => Counts { messages: count, consumers: 0 },
            QueueAnswer::Sought { .. } | QueueAnswer::Stats(_) | QueueAnswer::Entries(_) => {
                unreachable!("no command asks for it")
            }
        });
        self.effects.push_back(Effect::Queue { token, result });
    }

    /// A queue is gone that this connection read. Only protocols that name their consumers can say so to the peer; to a subscription nothing
    /// more comes.
    pub(super) fn membership_ended(&mut self, membership: u32) {
        self.consumer_is_gone(membership);
    }
}
