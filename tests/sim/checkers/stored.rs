//! The checkers of what is stored at the end: I1, I2, I3, I5, I6.

use std::collections::BTreeMap;

use fluxmq::model::address::source_topic;
use fluxmq::model::{PartitionId, QoS};
use fluxmq::partition::request::ConnectionId;
use fluxmq_index::Offset;
use fluxmq_log::format::Message;

use super::queues::is_letter;
use super::{Invariant, Observer, Violation, wrong};
use crate::history::{History, MessageId, Outcome, Publish, id_of, payload};
use crate::ledger::{Ledger, Record};
use crate::plan::Plan;

/// Where each message is, in the order of offsets.
pub type Places = BTreeMap<MessageId, Vec<(PartitionId, Offset)>>;

pub fn check(
    history: &History,
    ledger: &Ledger,
    places: &Places,
    observer: &Observer,
    plan: &Plan,
) -> Vec<Result<(), Violation>> {
    vec![
        no_phantom(history, ledger, plan),
        no_acknowledged_loss(history, places),
        no_duplicate(history, places),
        producer_order(history, places, observer),
        real_time_order(history, places),
    ]
}

/// Returns true for what queues have of a message that is stored elsewhere, or was before: what a binding captured, dead letters, and
/// those that went back.
pub fn is_copy(message: &Message) -> bool {
    message.topic.starts_with(b"$queue//") || is_letter(message)
}

/// Finds every message, without copies.
pub fn places(ledger: &Ledger) -> Places {
    let mut places = Places::new();
    for partition in ledger.partitions() {
        for (offset, _, record) in ledger.records(partition) {
            if let Record::Message { message, .. } = record
                && let Some(id) = id_of(&message.payload)
                && !is_copy(&message)
            {
                places.entry(id).or_default().push((partition, offset));
            }
        }
    }
    places
}

/// I2.
fn no_phantom(history: &History, ledger: &Ledger, plan: &Plan) -> Result<(), Violation> {
    for partition in ledger.partitions() {
        for (offset, _, record) in ledger.records(partition) {
            let Record::Message { message, .. } = record else { continue };
            let at = format!("p{} offset {offset}", partition.0);
            let known = id_of(&message.payload).and_then(|id| history.publish(id));
            let Some(publish) = known else {
                return wrong(Invariant::I2, format!("{at}: nobody published this"));
            };
            let topic = source_topic(&message.topic).unwrap_or(&message.topic);
            // A letter is settled by who reads it.
            let qos =
                if is_letter(&message) { publish.qos.max(QoS::AtLeastOnce) } else { publish.qos };
            if message.payload != payload(publish.id, plan.filling_max)
                || topic != publish.topic.as_bytes()
                || message.qos != qos as u8
            {
                let what = format!("{at}: {:x} was published otherwise", publish.id);
                return wrong(Invariant::I2, what);
            }
            // Where several partitions store it, one may have done so before another refused.
            if publish.outcome == Outcome::Failed && !plan.is_bound(&publish.topic) {
                return wrong(Invariant::I2, format!("{at}: {:x} was refused", publish.id));
            }
        }
    }
    Ok(())
}

/// I1.
fn no_acknowledged_loss(history: &History, places: &Places) -> Result<(), Violation> {
    let lost =
        |publish: &&Publish| publish.outcome == Outcome::Acked && !places.contains_key(&publish.id);
    match history.publishes.iter().find(lost) {
        Some(publish) => {
            wrong(Invariant::I1, format!("{:x} was acknowledged and is lost", publish.id))
        }
        None => Ok(()),
    }
}

/// I3.
fn no_duplicate(history: &History, places: &Places) -> Result<(), Violation> {
    for publish in history.publishes.iter().filter(|publish| publish.is_idempotent) {
        let copies = places.get(&publish.id).map_or(0, Vec::len);
        if copies > 1 {
            return wrong(Invariant::I3, format!("{:x} is stored {copies} times", publish.id));
        }
    }
    Ok(())
}

/// I5: first copies of one client's publishes of one QoS to one topic are in the order they were sent, on one connection and from one
/// to the next.
///
/// But for those that were refused on the way, the disk being full: a client that did not hear of it sends them again, after others. And
/// those that a client gave up with its session are in the order of their connection only: a process that was stopped may have them.
fn producer_order(
    history: &History,
    places: &Places,
    observer: &Observer,
) -> Result<(), Violation> {
    let mut last = BTreeMap::new();
    for publish in history.publishes.iter().filter(|publish| publish.qos != QoS::AtMostOnce) {
        let Some(&(partition, offset)) = places.get(&publish.id).and_then(|at| at.first()) else {
            continue;
        };
        if observer.is_refused(publish.id) {
            continue;
        }
        let key = |connection: Option<ConnectionId>| {
            (publish.client, publish.topic.as_str(), publish.qos, connection)
        };
        let finished = (publish.outcome == Outcome::Acked).then(|| key(None));
        for key in finished.into_iter().chain([key(Some(publish.connection))]) {
            if let Some((before_in, before, id)) = last.insert(key, (partition, offset, publish.id))
                && (before_in != partition || before >= offset)
            {
                let at = format!("{id:x} at {before}");
                let what = format!("{at} was sent before {:x} at {offset}", publish.id);
                return wrong(Invariant::I5, what);
            }
        }
    }
    Ok(())
}

/// I6.
fn real_time_order(history: &History, places: &Places) -> Result<(), Violation> {
    let mut acked: Vec<&Publish> =
        history.publishes.iter().filter(|publish| publish.outcome == Outcome::Acked).collect();
    acked.sort_by_key(|publish| publish.done);
    let mut acked = acked.into_iter().peekable();
    let mut highest: BTreeMap<PartitionId, (Offset, MessageId)> = BTreeMap::new();
    // `publishes` is in the order of invocation.
    for publish in &history.publishes {
        while let Some(done) = acked.next_if(|done| done.done < publish.invoked) {
            let Some(&(partition, offset)) = places.get(&done.id).and_then(|at| at.first()) else {
                continue;
            };
            let highest = highest.entry(partition).or_insert((offset, done.id));
            *highest = (*highest).max((offset, done.id));
        }
        let Some(&(partition, offset)) = places.get(&publish.id).and_then(|at| at.first()) else {
            continue;
        };
        if let Some((before, id)) = highest.get(&partition)
            && *before >= offset
        {
            let what =
                format!("{id:x} at {before} was done before {:x} at {offset} began", publish.id);
            return wrong(Invariant::I6, what);
        }
    }
    Ok(())
}
