//! `mqttctl bench`: pipelined publishers and subscribers, what got through, and how long it took.
//!
//! Every message carries who sent it, its number and its time, so that subscribers can tell what is missing, double or out of
//! order. Runs for a time or a count, waits a bounded while for what is under way, and stops.

mod payload;
mod publisher;
mod report;
mod subscriber;

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connection::{ConnectionArguments, parse_qos};
use super::error::CtlError;
use crate::client::ConnectOptions;
use crate::model::QoS;
use payload::PAYLOAD_BYTES_MIN;
use publisher::Published;
use report::Report;
use subscriber::Received;

/// How much of what to send, and for how long.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Latency of publishes is from sending (with --rate, from when it was due) to the confirmation; \
latency of deliveries is from sending to arrival here, so both ends are on this machine's clock. \
Exit code 1 when messages of QoS 1 or 2 are missing, refused, or not confirmed in time.

Examples:
  mqttctl bench                                         1 publisher, 1 subscriber, QoS 1, 10 s
  mqttctl bench -x 8 -y 8 --topics 8 -q 2 -z 30
  mqttctl bench -x 1 -y 0 --rate 1000 --inflight 1      latency of a confirmed publish
  mqttctl bench --topic '$queue/bench' -y 4 --group g --count 100000 --json")]
pub(super) struct Arguments {
    /// Publishers, one connection each.
    #[arg(short = 'x', long, default_value_t = 1, value_name = "N")]
    pub publishers: u32,
    /// Subscribers, one connection each; each gets everything unless they share.
    #[arg(short = 'y', long, default_value_t = 1, value_name = "N")]
    pub subscribers: u32,
    /// Topics below --topic that every publisher takes in turn.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub topics: u32,
    /// What all topics begin with.
    #[arg(short = 't', long, default_value = "bench", value_name = "PREFIX")]
    pub topic: String,
    /// What subscribers subscribe to; by default everything below --topic.
    #[arg(long, value_name = "FILTER")]
    pub filter: Option<String>,
    /// Subscribers read a queue as members of this consumer group, and share its messages (5.0).
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Bytes of a payload; 32 at least.
    #[arg(short = 's', long, default_value_t = 256, value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(PAYLOAD_BYTES_MIN as i64..=268_000_000))]
    pub size: u32,
    /// QoS of publishes.
    #[arg(short = 'q', long, default_value = "1", value_parser = parse_qos)]
    pub qos: QoS,
    /// QoS of subscriptions; that of publishes by default.
    #[arg(short = 'Q', long, value_parser = parse_qos, value_name = "QOS")]
    pub subscribe_qos: Option<QoS>,
    /// Unconfirmed publishes of one publisher at a time.
    #[arg(short = 'I', long, default_value_t = 64, value_name = "N")]
    pub inflight: u16,
    /// Messages a second of one publisher, at most; 0 is as fast as it goes.
    #[arg(short = 'r', long, default_value_t = 0, value_name = "N")]
    pub rate: u64,
    /// Seconds to publish for.
    #[arg(short = 'z', long, default_value_t = 10, value_name = "SECONDS", conflicts_with = "count",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Messages of one publisher, instead of a time.
    #[arg(short = 'C', long, value_name = "N")]
    pub count: Option<u64>,
    /// Seconds without anything arriving, after which what is under way counts as lost.
    #[arg(long, default_value_t = 5, value_name = "SECONDS")]
    pub drain: u64,
    #[command(flatten)]
    pub connection: ConnectionArguments,
}

/// What every task of one run knows.
struct Run {
    arguments: Arguments,
    options: ConnectOptions,
    /// Tells our messages from others on the same topics.
    id: u64,
    started: Instant,
    published_count: AtomicU64,
    received_count: AtomicU64,
}

/// Measures, prints the report, and fails when something that was confirmed did not arrive.
pub(super) async fn run(
    arguments: &Arguments,
    json: bool,
    output: &mut impl Write,
) -> Result<(), CtlError> {
    let report = measure(arguments, !json && std::io::stderr().is_terminal()).await?;
    let text = if json { report.to_json() } else { report.to_text() };
    writeln!(output, "{text}").map_err(CtlError::Output)?;
    match report.complaint() {
        None => Ok(()),
        Some(complaint) => Err(CtlError::refused(complaint)),
    }
}

/// Runs everything once.
async fn measure(arguments: &Arguments, show_progress: bool) -> Result<Report, CtlError> {
    let mut options = arguments.connection.options()?;
    options.inflight_max = arguments.inflight.max(1);
    options.receive_maximum = 1_024;
    options.clean_start = true;
    options.session_expiry_s = 0;
    let run = Arc::new(Run {
        arguments: arguments.clone(),
        options,
        id: run_id(),
        started: Instant::now(),
        published_count: AtomicU64::new(0),
        received_count: AtomicU64::new(0),
    });

    let (stop, stopped) = watch::channel(false);
    let mut subscribers = JoinSet::new();
    let (ready, mut is_ready) = tokio::sync::mpsc::channel(1);
    for index in 0..arguments.subscribers {
        subscribers.spawn(subscriber::run(run.clone(), index, ready.clone(), stopped.clone()));
    }
    drop(ready);
    let mut ready_count = 0;
    for _ in 0..arguments.subscribers {
        if is_ready.recv().await.is_none() {
            break;
        }
        ready_count += 1;
    }
    // A subscriber that ended before it was ready says why.
    while ready_count < arguments.subscribers {
        let Some(ended) = subscribers.join_next().await else { break };
        finished(ended)?;
        ready_count += 1;
    }

    let mut publishers = JoinSet::new();
    let began = Instant::now();
    for index in 0..arguments.publishers {
        publishers.spawn(publisher::run(run.clone(), index));
    }
    let mut published: Vec<Published> = Vec::new();
    let mut progress = Progress::new(show_progress);
    while !publishers.is_empty() {
        tokio::select! {
            Some(ended) = publishers.join_next() => published.push(finished(ended)?),
            Some(ended) = subscribers.join_next(), if !subscribers.is_empty() => {
                finished(ended)?;
            }
            () = tokio::time::sleep(Duration::from_millis(200)) => progress.tick(&run),
        }
    }
    let elapsed = began.elapsed();
    wait_for_deliveries(&run, &published, &mut progress).await;
    progress.finish();
    let _ = stop.send(true);
    let mut received: Vec<Received> = Vec::new();
    while let Some(ended) = subscribers.join_next().await {
        received.push(finished(ended)?);
    }
    Ok(Report::new(&run.arguments, published, received, elapsed))
}

/// Waits until everything confirmed has arrived, or nothing has for a while.
async fn wait_for_deliveries(run: &Run, published: &[Published], progress: &mut Progress) {
    let confirmed_count: u64 = published.iter().map(|publisher| publisher.confirmed_count).sum();
    let expected_count = run.arguments.expected(confirmed_count);
    let patience = Duration::from_secs(run.arguments.drain);
    let (mut last_count, mut last_change) = (0, Instant::now());
    loop {
        let count = run.received_count.load(Ordering::Relaxed);
        if count != last_count {
            (last_count, last_change) = (count, Instant::now());
        }
        if count >= expected_count || last_change.elapsed() >= patience {
            return;
        }
        progress.tick(run);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn finished<T>(ended: Result<Result<T, CtlError>, tokio::task::JoinError>) -> Result<T, CtlError> {
    match ended {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Differs between runs on one machine and, nearly always, between machines.
fn run_id() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanoseconds = now.map_or(0, |since| since.as_nanos() as u64);
    nanoseconds ^ u64::from(std::process::id()).rotate_left(48)
}

impl Arguments {
    /// What subscribers subscribe to.
    fn subscription(&self) -> String {
        self.filter.clone().unwrap_or_else(|| format!("{}/#", self.topic))
    }

    /// Returns true when subscribers share messages instead of getting all of them each.
    fn is_shared(&self) -> bool {
        self.group.is_some() || self.subscription().starts_with("$share/")
    }

    /// How many deliveries `confirmed_count` publishes cause.
    fn expected(&self, confirmed_count: u64) -> u64 {
        match (self.subscribers, self.is_shared()) {
            (0, _) => 0,
            (_, true) => confirmed_count,
            (subscribers, false) => confirmed_count * u64::from(subscribers),
        }
    }
}

impl Run {
    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }
}

/// A line on standard error that moves, on a terminal.
struct Progress(Option<indicatif::ProgressBar>);

impl Progress {
    fn new(is_shown: bool) -> Progress {
        Progress(is_shown.then(indicatif::ProgressBar::new_spinner))
    }

    fn tick(&mut self, run: &Run) {
        if let Some(bar) = &self.0 {
            let published = run.published_count.load(Ordering::Relaxed);
            let received = run.received_count.load(Ordering::Relaxed);
            bar.set_message(format!("{published} published, {received} received"));
            bar.tick();
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
