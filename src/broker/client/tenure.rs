//! The first QoS 2 exchange on a connection that resumed a session: every partition hears of the connection before it goes on.
//!
//! An earlier connection may not know that it has lost the session, and have a publish on its way that is sent again here. The copy is
//! known by its number, until the number is released: after that it would be stored once more, or free a number that is in use again. So
//! no exchange begins or ends here before partitions have a record that refuses whatever comes later on an earlier connection
//! (ADR 0034). Sessions that publish nothing at QoS 2, and connections without an earlier one, pay nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Client, Phase, Waiting};
use crate::model::record::Tenure;
use crate::model::{Effect, Message, Refusal, Token};
use crate::partition::request::Request;

/// Whether partitions know of this connection.
#[derive(Debug, Default)]
pub(super) enum Announcement {
    /// All of them do, or there was no earlier connection.
    #[default]
    Made,
    /// None does.
    Due,
    /// They are being told.
    UnderWay(Box<UnderWay>),
}

#[derive(Debug)]
pub(super) struct UnderWay {
    /// Answers that have not come.
    missing: usize,
    /// What the client has done meanwhile, as much as its Receive Maximum lets it.
    held: VecDeque<Step>,
}

/// A client's step in a QoS 2 exchange.
#[derive(Debug)]
pub(super) enum Step {
    /// PUBLISH.
    Publish { token: Token, message: Arc<Message>, packet_id: u16 },
    /// PUBREL.
    Release { packet_id: u16 },
}

impl Client {
    /// Takes a step, once partitions know of this connection.
    pub(super) fn exchange(&mut self, step: Step) {
        if matches!(self.publishing.announcement, Announcement::Due) {
            self.announce();
        }
        match &mut self.publishing.announcement {
            Announcement::UnderWay(under_way) => under_way.held.push_back(step),
            Announcement::Made | Announcement::Due => self.take_step(step),
        }
    }

    fn announce(&mut self) {
        let (publisher, tenure) = (self.identity.publisher, self.tenure());
        let mut missing = 0;
        for to in self.placement.data() {
            let token = self.wait_for(Waiting::Tenure);
            self.request(to, Request::BeginTenure { token, publisher, tenure });
            missing += 1;
        }
        let under_way = UnderWay { missing, held: VecDeque::new() };
        self.publishing.announcement = Announcement::UnderWay(Box::new(under_way));
    }

    /// A partition knows of this connection, or cannot be told.
    pub(super) fn tenure_begun(&mut self, result: &Result<(), Refusal>) {
        if result.is_err() {
            // What waits was not stored, and not refused: the client comes back with it.
            return self.effects.push_back(Effect::ShuttingDown);
        }
        let Announcement::UnderWay(under_way) = &mut self.publishing.announcement else { return };
        under_way.missing -= 1;
        if under_way.missing > 0 || !matches!(self.phase, Phase::Open) {
            return;
        }
        let held = std::mem::take(&mut under_way.held);
        self.publishing.announcement = Announcement::Made;
        held.into_iter().for_each(|step| self.take_step(step));
    }

    fn take_step(&mut self, step: Step) {
        match step {
            Step::Publish { token, message, packet_id } => {
                self.publish(token, message, Some(packet_id));
            }
            Step::Release { packet_id } => self.release(packet_id),
        }
    }

    /// This connection's hold on its session.
    pub(super) fn tenure(&self) -> Tenure {
        Tenure { term: self.identity.term, epoch: self.identity.epoch }
    }
}
