//! Rights that change while deliveries wait to be sent.

use std::collections::VecDeque;

use super::{Ready, Stage, Unfinished};
use crate::model::effect::Recheck;
use crate::model::{Delivery, DeliveryId, Outcome, QoS};
use crate::protocol::mqtt::connection::MqttConnection;

impl MqttConnection {
    /// Gives up what was delivered, is not sent yet, and may not be any more.
    pub(in crate::protocol::mqtt) fn on_rights_changed(&mut self, recheck: &Recheck) {
        let is_forbidden = |delivery: &Delivery| !recheck.may_receive(&delivery.message.topic);
        let outbound = &mut self.outbound;
        let lines = [&mut outbound.at_most_once, &mut outbound.waiting];
        let mut given_up: Vec<DeliveryId> = lines
            .into_iter()
            .flat_map(|line| take_where(line, |it| is_forbidden(&it.delivery)))
            .map(|queued| queued.delivery.id)
            .collect();
        outbound.recount();
        let batch = outbound.assigning.as_mut().map(|assigning| &mut assigning.batch);
        let numbered: Vec<Ready> = [Some(&mut outbound.ready), batch]
            .into_iter()
            .flatten()
            .flat_map(|line| take_where(line, |it| is_forbidden(&it.queued.delivery)))
            .collect();
        for ready in numbered {
            outbound.land(ready.packet_id);
            given_up.push(ready.queued.delivery.id);
        }
        for delivery in given_up {
            self.give_up(delivery, Outcome::Accepted);
        }
        self.give_up_unfinished(is_forbidden);
    }

    /// What an earlier connection began and may not be sent again: QoS 2 ends with PUBREL, so that the client forgets its number.
    fn give_up_unfinished(&mut self, is_forbidden: impl Fn(&Delivery) -> bool) {
        for item in std::mem::take(&mut self.outbound.unfinished) {
            match item {
                Unfinished::Publish { packet_id, delivery } if is_forbidden(&delivery) => {
                    let Some(flight) = self.outbound.flights.get_mut(&packet_id) else { continue };
                    if delivery.qos == QoS::ExactlyOnce {
                        flight.has_place = false;
                        flight.stage = Stage::AwaitingComplete;
                        let delivery = delivery.id;
                        self.outbound
                            .unfinished
                            .push_back(Unfinished::Release { packet_id, delivery });
                    } else {
                        self.outbound.flights.remove(&packet_id);
                        self.give_up(delivery.id, Outcome::Accepted);
                    }
                }
                item => self.outbound.unfinished.push_back(item),
            }
        }
    }
}

/// Takes out of a line what `is_taken` says; the rest keeps its order.
pub(super) fn take_where<T>(line: &mut VecDeque<T>, is_taken: impl Fn(&T) -> bool) -> Vec<T> {
    let (taken, rest) = std::mem::take(line).into_iter().partition(|item| is_taken(item));
    *line = rest;
    let taken: VecDeque<T> = taken;
    taken.into()
}
