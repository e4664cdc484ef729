//! The broker's statistics, gathered from whoever counted them and shown below `$SYS/` (ADR 0037).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::MissedTickBehavior;

use crate::model::Topic;
use crate::net::admission::Admission;
use crate::net::drive::Shared;
use crate::telemetry::statistics::{Loads, Snapshot, tree};

/// Shows them at once and then at every interval, for as long as it is polled.
pub(super) async fn show(shared: Shared, admission: Arc<Admission>, every: Duration) {
    let mut loads = Loads::default();
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let statistics = tree(&snapshot(&shared, &admission), &mut loads);
        let statistics = statistics.into_iter().map(|(topic, value)| {
            // Names of our own, none of them odd.
            (Topic::from_stored(Bytes::from(topic)), Bytes::from(value))
        });
        shared.broker.live().show(statistics.collect());
    }
}

fn snapshot(shared: &Shared, admission: &Admission) -> Snapshot {
    let live = shared.broker.live();
    let gauges = shared.broker.gauges();
    let (subscriptions, shared_subscriptions) = live.subscription_counts();
    let turned_away = admission.turned_away();
    Snapshot {
        uptime_s: shared.started.elapsed().as_secs(),
        sessions_away: gauges.away.sessions as u64,
        subscriptions: (subscriptions + gauges.away.subscriptions) as u64,
        shared_subscriptions: shared_subscriptions as u64,
        retained: gauges.retained as u64,
        retained_bytes: gauges.retained_bytes,
        records: gauges.records,
        history_records_gone: gauges.history_records_gone,
        history_bytes_dropped: gauges.history_bytes_dropped,
        histories_cut: gauges.histories_cut,
        passed_on_dropped: live.dropped(),
        memory: shared.pressure.used(),
        memory_limit: shared.pressure.limit(),
        backlogs_cut: gauges.backlogs_cut,
        accept_failures: turned_away.accept,
        duplicates: gauges.duplicates,
        turned_away: vec![
            ("connections", turned_away.connections),
            ("connect_rate", turned_away.rate),
            ("connections_per_address", turned_away.address_connections),
            ("connect_rate_per_address", turned_away.address_rate),
            ("handshake", turned_away.handshake),
            ("memory", turned_away.memory),
        ],
        ..Snapshot::of(&shared.statistics)
    }
}
