//! The rules between fields; the bounds of each are where the field is.

use std::collections::BTreeSet;

use super::{ClientCertificates, Config, FieldProblem, History};

/// Adds every broken rule to `problems`.
pub(super) fn between_fields(config: &Config, problems: &mut Vec<FieldProblem>) {
    listeners(config, problems);
    let Config { storage, history, limits, partitions, .. } = config;
    if storage.segment_bytes_min > storage.segment_bytes_max {
        add(
            problems,
            "storage.segment_bytes_min",
            format!("{} is above storage.segment_bytes_max", storage.segment_bytes_min),
            format!("write at most {}", storage.segment_bytes_max),
        );
    }
    // A record is a packet and a frame header around it, and a batch is never split over two segments.
    let smallest = u64::from(limits.packet_bytes_max).saturating_mul(2);
    if storage.segment_bytes_max < smallest {
        add(
            problems,
            "storage.segment_bytes_max",
            format!("{} holds less than two of the largest packets", storage.segment_bytes_max),
            format!("write at least {smallest} or lower limits.packet_bytes_max"),
        );
    }
    // What the machine's own number is, is not known here: at least 2.
    let count = if partitions.data == 0 { 2 } else { partitions.data };
    let smallest = config.history_bytes_least(count);
    if (1..smallest).contains(&history.bytes_max) {
        add(
            problems,
            "history.bytes_max",
            format!("{} is less than two segments of each partition", history.bytes_max),
            format!(
                "write at least {smallest}, or 0 for no limit, or lower storage.segment_bytes_max"
            ),
        );
    }
    topic_ages(history, problems);
    if limits.connect_packet_bytes_max > limits.packet_bytes_max {
        add(
            problems,
            "limits.connect_packet_bytes_max",
            format!("{} is above limits.packet_bytes_max", limits.connect_packet_bytes_max),
            format!("write at most {}", limits.packet_bytes_max),
        );
    }
    if u32::from(limits.inflight_max) > limits.deliveries_buffered_max {
        add(
            problems,
            "limits.deliveries_buffered_max",
            format!("{} is below limits.inflight_max", limits.deliveries_buffered_max),
            format!("write at least {}", limits.inflight_max),
        );
    }
}

fn topic_ages(history: &History, problems: &mut Vec<FieldProblem>) {
    for (index, topics) in history.topics.iter().enumerate() {
        if history.age_max_s > 0 && topics.age_max_s >= history.age_max_s {
            add(
                problems,
                &format!("history.topics.{index}.age_max_s"),
                format!("{} is not below history.age_max_s", topics.age_max_s),
                "write less, raise history.age_max_s, or keep these topics longer in a queue of type \
                 stream that is bound to them"
                    .to_owned(),
            );
        }
    }
}

fn listeners(config: &Config, problems: &mut Vec<FieldProblem>) {
    if config.listeners.sockets().next().is_none() {
        let remedy =
            "write at least one address below mqtt, mqtts, ws, wss, amqp or amqps".to_owned();
        add(problems, "listeners", "nobody could connect".to_owned(), remedy);
    }
    for (path, tls) in config.listeners.tls() {
        let needs_authorities = tls.client_certificates != ClientCertificates::None;
        if needs_authorities && tls.client_ca.is_none() {
            add(
                problems,
                &format!("{path}.client_ca"),
                "is needed to verify client certificates".to_owned(),
                "write a PEM file, or none in client_certificates".to_owned(),
            );
        }
    }
    let mut seen = BTreeSet::new();
    for (path, listener) in config.listeners.sockets() {
        let address = listener.address;
        // Port 0 asks for any free port, so two of them do not meet.
        if address.port() != 0 && !seen.insert(address) {
            let path = format!("{path}.address");
            let remedy = "remove one of the two".to_owned();
            add(problems, &path, format!("{address} is listened on twice"), remedy);
        }
    }
}

fn add(problems: &mut Vec<FieldProblem>, path: &str, problem: String, remedy: String) {
    problems.push(FieldProblem { path: path.to_owned(), origin: None, problem, remedy });
}
