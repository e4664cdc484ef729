//! What a benchmark found, for people and for programs.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::Arguments;
use super::publisher::Published;
use super::subscriber::Received;
use crate::model::QoS;

/// One minute: what takes longer is recorded as that.
const LATENCY_US_MAX: u64 = 60_000_000;

/// Makes a histogram of microseconds, exact to three digits.
pub(super) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are in order")
}

/// Everything that was found; the fields are the JSON output's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Report {
    /// What was asked for.
    pub plan: Plan,
    /// From the first publish to the last confirmation.
    pub elapsed_s: f64,
    pub sent: u64,
    /// For QoS 0, written to the socket.
    pub confirmed: u64,
    pub refused: u64,
    pub unconfirmed: u64,
    pub confirmed_per_s: f64,
    /// Payloads alone.
    pub confirmed_mib_per_s: f64,
    /// Deliveries that confirmed publishes should have caused.
    pub expected: u64,
    pub received: u64,
    pub missing: u64,
    pub duplicates: u64,
    pub out_of_order: u64,
    pub received_per_s: f64,
    /// None for QoS 0.
    pub publish_latency_us: Option<Latency>,
    /// None without deliveries.
    pub delivery_latency_us: Option<Latency>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Plan {
    pub publishers: u32,
    pub subscribers: u32,
    pub topics: u32,
    pub size_bytes: u32,
    pub qos: u8,
    pub inflight: u16,
    pub rate_per_publisher: u64,
}

/// A distribution in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Latency {
    pub count: u64,
    pub mean: f64,
    pub min: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

impl Report {
    pub(super) fn new(
        arguments: &Arguments,
        published: Vec<Published>,
        received: Vec<Received>,
        elapsed: Duration,
    ) -> Report {
        let sum = |of: fn(&Published) -> u64| published.iter().map(of).sum::<u64>();
        let count = |of: fn(&Received) -> u64| received.iter().map(of).sum::<u64>();
        let confirmed = sum(|publisher| publisher.confirmed_count);
        let received_count = count(|subscriber| subscriber.unique_count);
        let expected = arguments.expected(confirmed);
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let mib = confirmed as f64 * f64::from(arguments.size) / f64::from(1 << 20);
        Report {
            plan: Plan {
                publishers: arguments.publishers,
                subscribers: arguments.subscribers,
                topics: arguments.topics,
                size_bytes: arguments.size,
                qos: arguments.qos as u8,
                inflight: arguments.inflight,
                rate_per_publisher: arguments.rate,
            },
            elapsed_s: seconds,
            sent: sum(|publisher| publisher.sent_count),
            confirmed,
            refused: sum(|publisher| publisher.refused_count),
            unconfirmed: sum(|publisher| publisher.unconfirmed_count),
            confirmed_per_s: confirmed as f64 / seconds,
            confirmed_mib_per_s: mib / seconds,
            expected,
            received: received_count,
            missing: expected.saturating_sub(received_count),
            duplicates: count(|subscriber| subscriber.duplicate_count),
            out_of_order: count(|subscriber| subscriber.out_of_order_count),
            received_per_s: received_count as f64 / seconds,
            publish_latency_us: Latency::of(published.iter().map(|it| &it.latency)),
            delivery_latency_us: Latency::of(received.iter().map(|it| &it.latency)),
        }
    }

    /// Returns one line of JSON.
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and names become JSON")
    }

    /// Returns a table, its last line without a line feed.
    pub(super) fn to_text(&self) -> String {
        let Plan { publishers, subscribers, topics, size_bytes, qos, .. } = self.plan;
        let mut lines = vec![
            format!(
                "{publishers} publishers, {subscribers} subscribers, {topics} topics each, {size_bytes} bytes, QoS {qos}"
            ),
            format!(
                "published  {:>12} in {:.2} s  {:>12.0}/s  {:>9.2} MiB/s  {} refused, {} unconfirmed",
                self.confirmed,
                self.elapsed_s,
                self.confirmed_per_s,
                self.confirmed_mib_per_s,
                self.refused,
                self.unconfirmed
            ),
        ];
        if subscribers > 0 {
            lines.push(format!(
                "received   {:>12} of {}  {:>12.0}/s  {} missing, {} duplicates, {} out of order",
                self.received,
                self.expected,
                self.received_per_s,
                self.missing,
                self.duplicates,
                self.out_of_order
            ));
        }
        lines.push(format!(
            "{:<11}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}  microseconds",
            "latency", "min", "p50", "p90", "p99", "p99.9", "max"
        ));
        let rows = [("publish", &self.publish_latency_us), ("delivery", &self.delivery_latency_us)];
        for (name, latency) in rows {
            if let Some(Latency { min, p50, p90, p99, p999, max, .. }) = latency {
                let row =
                    format!("{name:<11}{min:>10}{p50:>10}{p90:>10}{p99:>10}{p999:>10}{max:>10}");
                lines.push(row);
            }
        }
        lines.join("\n")
    }

    /// Says what went wrong: with QoS 1 and 2 nothing confirmed may be missing, and with QoS 2 nothing may come twice.
    pub(super) fn complaint(&self) -> Option<String> {
        let is_reliable = self.plan.qos != QoS::AtMostOnce as u8;
        let counts = [
            (self.refused, "publishes were refused", true),
            (self.unconfirmed, "publishes were not confirmed in time", true),
            (self.missing, "confirmed messages did not arrive", is_reliable),
            (self.duplicates, "messages came twice", self.plan.qos == QoS::ExactlyOnce as u8),
        ];
        let said: Vec<String> = counts
            .into_iter()
            .filter(|(count, _, matters)| *matters && *count > 0)
            .map(|(count, what, _)| format!("{count} {what}"))
            .collect();
        (!said.is_empty()).then(|| said.join(", "))
    }
}

impl Latency {
    fn of<'a>(histograms: impl Iterator<Item = &'a Histogram<u64>>) -> Option<Latency> {
        let mut all = latencies();
        for histogram in histograms {
            all.add(histogram).expect("all histograms have the same bounds");
        }
        (!all.is_empty()).then(|| Latency {
            count: all.len(),
            mean: all.mean(),
            min: all.min(),
            p50: all.value_at_quantile(0.5),
            p90: all.value_at_quantile(0.9),
            p99: all.value_at_quantile(0.99),
            p999: all.value_at_quantile(0.999),
            max: all.max(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut histogram = latencies();
        (1..=1_000).for_each(|latency_us| histogram.record(latency_us).unwrap());
        Report {
            plan: Plan {
                publishers: 1,
                subscribers: 2,
                topics: 1,
                size_bytes: 256,
                qos: 1,
                inflight: 64,
                rate_per_publisher: 0,
            },
            elapsed_s: 2.0,
            sent: 1_000,
            confirmed: 1_000,
            refused: 0,
            unconfirmed: 0,
            confirmed_per_s: 500.0,
            confirmed_mib_per_s: 0.12,
            expected: 2_000,
            received: 2_000,
            missing: 0,
            duplicates: 1,
            out_of_order: 0,
            received_per_s: 1_000.0,
            publish_latency_us: Latency::of([&histogram].into_iter()),
            delivery_latency_us: None,
        }
    }

    #[test]
    fn percentiles_are_those_of_the_distribution() {
        let latency = report().publish_latency_us.unwrap();

        assert_eq!((latency.count, latency.min, latency.max), (1_000, 1, 1_000));
        assert_eq!((latency.p50, latency.p90, latency.p99, latency.p999), (500, 900, 990, 999));
    }

    #[test]
    fn the_table_has_a_row_for_what_was_measured_and_none_for_what_was_not() {
        let text = report().to_text();

        assert!(text.contains("received           2000 of 2000"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("publish ") && line.contains("990")));
        assert!(!text.lines().any(|line| line.starts_with("delivery")), "{text}");
    }

    #[test]
    fn json_has_the_numbers_by_name() {
        let value: serde_json::Value = serde_json::from_str(&report().to_json()).unwrap();

        assert_eq!(value["plan"]["size_bytes"], 256);
        assert_eq!(value["confirmed"], 1_000);
        assert_eq!(value["publish_latency_us"]["p99"], 990);
        assert_eq!(value["delivery_latency_us"], serde_json::Value::Null);
    }

    #[test]
    fn what_the_qos_promises_is_complained_about_when_broken() {
        let good = report();
        let missing = Report { missing: 3, ..report() };
        let at_most_once = Report { plan: Plan { qos: 0, ..report().plan }, ..missing.clone() };
        let exactly_once = Report { plan: Plan { qos: 2, ..report().plan }, ..report() };

        assert_eq!(good.complaint(), None, "QoS 1 may come twice");
        assert_eq!(missing.complaint().unwrap(), "3 confirmed messages did not arrive");
        assert_eq!(at_most_once.complaint(), None);
        assert_eq!(exactly_once.complaint().unwrap(), "1 messages came twice");
    }
}
