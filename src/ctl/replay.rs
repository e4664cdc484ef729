//! `mqttctl replay`: prints what is stored, and ends where history did when it began.
//!
//! The broker says where that is, as the newest matching message of each partition (`x-replay-end` in SUBACK). What is published
//! meanwhile comes after those, and is not printed.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::Args;
use tokio::time::{Instant, sleep_until};

use super::connection::{ConnectionArguments, parse_qos};
use super::course::{Course, ends_reported, place_of};
use super::error::CtlError;
use super::format::{Format, Style, StyleArguments, parse_format, print};
use super::progress::Progress;
use crate::client::{Client, Event, SubscribeRequest, user};
use crate::model::command::RetainHandling;
use crate::model::{Millis, QoS, moment};
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::{SubscribeFilter, Version};

/// What to replay.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Prints what was stored when it began, then ends. Within a partition messages come in their order; a filter with \
wildcards is read in all partitions side by side. -vv and JSON show x-stream-timestamp, -offset and -partition.

Positions for --from: earliest, latest, offset=N, timestamp=MS, an RFC 3339 time, -15m, -2h, -7d, last=N.
Times for --to: timestamp=MS, an RFC 3339 time, -15m, -2h, -7d.

Examples:
  mqttctl replay 'sensors/#' --from=-24h --format json > yesterday.jsonl
  mqttctl replay 'sensors/+/temp' --from 2026-01-01T00:00:00Z --to 2026-01-02T00:00:00Z -v
  mqttctl replay 'audit/#' --from last=100")]
pub(super) struct Arguments {
    /// Filter to replay; + is one level, # the rest.
    #[arg(value_name = "FILTER")]
    pub filter: String,
    /// Where to begin.
    #[arg(long, value_name = "POSITION", default_value = "earliest", allow_hyphen_values = true)]
    pub from: String,
    /// The last time to print; later messages are left out.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub to: Option<String>,
    /// The most wanted: 0, 1 or 2. 2 shows what each message was published with.
    #[arg(short = 'q', long, default_value = "0", value_parser = parse_qos)]
    pub qos: QoS,
    /// Stops with exit code 1 when the next message does not come for this many seconds.
    #[arg(short = 'W', long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u64,
    /// How to print: text, json, payload, or a template as for subscribe; --json is --format json.
    #[arg(short = 'F', long, default_value = "text", value_parser = parse_format)]
    pub format: Format,
    #[command(flatten)]
    pub style: StyleArguments,
    /// Shows progress on standard error; by default when standard error is a terminal and standard output is none.
    #[arg(long)]
    pub progress: bool,
    /// Deliveries of QoS 1 and 2 that may be under way at a time.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub receive_maximum: u16,
    #[command(flatten)]
    pub connection: ConnectionArguments,
}

/// Replays and prints.
pub(super) async fn run(
    arguments: &Arguments,
    json: bool,
    output: &mut impl Write,
) -> Result<(), CtlError> {
    let until = arguments.to.as_deref().map(parse_time).transpose()?;
    check(arguments)?;
    let mut options = arguments.connection.options()?;
    options.receive_maximum = arguments.receive_maximum.max(1);
    options.topic_alias_max = 64;
    let (mut client, _) = arguments.connection.connect(&options).await?;
    let said = arguments.connection.subscribe(&mut client, &request(arguments)).await?;
    let style = arguments.style.with(&arguments.format, json);
    let course = Course::of(&said).map(|course| course.until(until)).ok_or_else(|| {
        let reason = "the broker does not say where history ends: use 'mqttctl subscribe --from' with --idle";
        CtlError::refused(reason.to_owned())
    })?;
    let progress = Progress::new(arguments.progress, true, None);
    let mut replay = Replay { arguments, style, progress, course, count: 0 };
    let result = replay.read(&mut client, output).await;
    replay.progress.finish(replay.count, Some(replay.course.done()));
    let (_, left) = client.disconnect(ReasonCode::SUCCESS, None).await;
    result?;
    Ok(left?)
}

fn check(arguments: &Arguments) -> Result<(), CtlError> {
    let reason = if arguments.connection.mqtt_version != Version::V5 {
        "a replay that ends needs MQTT 5; with 3.1.1 subscribe to $replay/<position>/<filter>"
    } else if arguments.connection.resume {
        "a replay begins where --from says, not where a session was: leave --resume out"
    } else if arguments.filter.starts_with('$') {
        "a replay is of topics: read a queue with 'mqttctl subscribe --from', and leave $replay/<position>/ out"
    } else {
        return Ok(());
    };
    Err(CtlError::Usage(reason.to_owned()))
}

fn parse_time(text: &str) -> Result<Millis, CtlError> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = Millis(since.map_or(0, |since| since.as_millis() as u64));
    moment::parse(text, now).ok_or_else(|| {
        let forms = "use timestamp=<ms>, an RFC 3339 time, or -15m, -2h, -7d";
        CtlError::Usage(format!("--to '{text}' is no time: {forms}"))
    })
}

fn request(arguments: &Arguments) -> SubscribeRequest {
    let properties = [("replay-from".to_owned(), arguments.from.clone()), ends_reported()];
    let filter = SubscribeFilter {
        // History has them where they were published.
        retain_handling: RetainHandling::DontSend,
        retain_as_published: true,
        ..SubscribeFilter::new(Bytes::from(arguments.filter.clone()), arguments.qos)
    };
    SubscribeRequest { filters: vec![filter], properties: user(&properties).collect() }
}

struct Replay<'a> {
    arguments: &'a Arguments,
    style: Style,
    progress: Progress,
    course: Course,
    count: u64,
}

impl Replay<'_> {
    async fn read(&mut self, client: &mut Client, output: &mut impl Write) -> Result<(), CtlError> {
        let patience = Duration::from_secs(self.arguments.timeout.max(1));
        let mut last = Instant::now();
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        while !self.course.is_over() {
            let wakes_at = self.progress.due().into_iter().fold(last + patience, Instant::min);
            tokio::select! {
                event = client.next() => {
                    if self.on_events(client, event?, output)? {
                        last = Instant::now();
                    }
                }
                () = sleep_until(wakes_at) => {
                    let now = Instant::now();
                    self.progress.tick(now, self.count, Some(self.course.done()));
                    if now >= last + patience {
                        let (count, seconds) = (self.count, patience.as_secs());
                        let reason = format!("{count} messages, then none for {seconds} s before the end of history");
                        return Err(CtlError::Timeout(reason));
                    }
                }
                _ = &mut interrupted => return Ok(()),
            }
        }
        Ok(())
    }

    /// Prints what is there, writes it out once for all of it, and only then acknowledges. True when something of history was there.
    fn on_events(
        &mut self,
        client: &mut Client,
        event: Event,
        output: &mut impl Write,
    ) -> Result<bool, CtlError> {
        let (mut next, mut printed, mut is_heard) = (Some(event), Vec::new(), false);
        while let Some(event) = next {
            if let Event::Message(message) = event {
                let place = place_of(&message);
                is_heard |= place.is_some();
                if place.is_some_and(|place| self.course.passes(place)) {
                    let print = || print(&message, &self.style, output);
                    self.progress.aside(print).map_err(CtlError::Output)?;
                    self.count += 1;
                }
                printed.extend(message.handle);
            }
            next = if self.course.is_over() { None } else { client.try_next() };
        }
        output.flush().map_err(CtlError::Output)?;
        for handle in printed {
            client.acknowledge(handle, ReasonCode::SUCCESS);
        }
        Ok(is_heard)
    }
}
