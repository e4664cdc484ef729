//! `mqttctl replay`: prints what is stored, and ends where history did when it began.
//!
//! The broker says where that is, as the newest matching message of each partition (`x-replay-end` in SUBACK). What is published
//! meanwhile comes after those, and is not printed.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::Args;
use tokio::time::{Instant, sleep_until};

use super::connection::{ConnectionArguments, parse_qos};
use super::error::CtlError;
use super::format::{Format, Style, StyleArguments, parse_format, print};
use super::progress::Progress;
use crate::client::{Client, Event, Incoming, SubscribeRequest, user};
use crate::model::command::RetainHandling;
use crate::model::{Millis, QoS, moment};
use crate::protocol::mqtt::property::{Property, PropertyList};
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
    let course = Course { until, ..Course::of(&said)? };
    let progress = Progress::new(arguments.progress, true, None);
    let mut replay = Replay { arguments, style, progress, course, count: 0 };
    let result = replay.read(&mut client, output).await;
    replay.progress.finish();
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
    let properties = [
        ("replay-from".to_owned(), arguments.from.clone()),
        ("replay-end".to_owned(), "report".to_owned()),
    ];
    let filter = SubscribeFilter {
        // History has them where they were published.
        retain_handling: RetainHandling::DontSend,
        retain_as_published: true,
        ..SubscribeFilter::new(Bytes::from(arguments.filter.clone()), arguments.qos)
    };
    SubscribeRequest { filters: vec![filter], properties: user(&properties).collect() }
}

/// How far a replay goes, and how far it is.
#[derive(Debug, Default)]
struct Course {
    /// The last offset of each partition that is not over.
    ends: BTreeMap<u16, u64>,
    /// The first offset that came, the newest, and the last, of all partitions that were heard of.
    places: BTreeMap<u16, [u64; 3]>,
    until: Option<Millis>,
}

/// Where a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    partition: u16,
    offset: u64,
    time: Millis,
}

impl Course {
    /// Reads the broker's answer.
    fn of(said: &PropertyList) -> Result<Course, CtlError> {
        let mut course = Course::default();
        let mut is_said = false;
        for property in said.iter() {
            let Property::User(key, value) = property else { continue };
            if key != "x-replay-end" {
                continue;
            }
            is_said = true;
            let text = String::from_utf8_lossy(&value);
            let place = text.split_once(':').and_then(|(partition, offset)| {
                Some((partition.parse::<u16>().ok()?, offset.parse::<u64>().ok()?))
            });
            course.ends.extend(place);
        }
        match is_said {
            true => Ok(course),
            false => Err(CtlError::refused(
                "the broker does not say where history ends: use 'mqttctl subscribe --from' with --idle".to_owned(),
            )),
        }
    }

    fn is_over(&self) -> bool {
        self.ends.is_empty()
    }

    /// Takes note of a message; true when it is to be printed.
    fn passes(&mut self, place: Place) -> bool {
        let Place { partition, offset, time } = place;
        let Some(end) = self.ends.get(&partition).copied() else { return false };
        let seen = self.places.entry(partition).or_insert([offset, offset, end]);
        seen[1] = offset.min(end);
        let is_late = self.until.is_some_and(|until| time > until);
        if is_late || offset >= end {
            seen[1] = end;
            self.ends.remove(&partition);
        }
        !is_late && offset <= end
    }

    /// How much is done of how much, in offsets.
    fn done(&self) -> (u64, u64) {
        let sum =
            |at: usize| -> u64 { self.places.values().map(|place| place[at] + 1 - place[0]).sum() };
        (sum(1), sum(2))
    }
}

/// Where a message is, as its delivery says; `None` for one that nothing stored.
fn place_of(message: &Incoming) -> Option<Place> {
    let number = |name: &str| -> Option<u64> {
        let value = message.properties.user(name.as_bytes())?;
        std::str::from_utf8(&value).ok()?.parse().ok()
    };
    Some(Place {
        partition: u16::try_from(number("x-stream-partition")?).ok()?,
        offset: number("x-stream-offset")?,
        time: Millis(number("x-stream-timestamp")?),
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn said(values: &[&str]) -> PropertyList {
        let pairs = values.iter().map(|value| ("x-replay-end".to_owned(), (*value).to_owned()));
        user(&pairs.collect::<Vec<_>>()).collect()
    }

    fn at(partition: u16, offset: u64, time: u64) -> Place {
        Place { partition, offset, time: Millis(time) }
    }

    #[test]
    fn it_is_over_when_every_partition_has_reached_its_end() {
        let mut course = Course::of(&said(&["1:10", "2:5"])).unwrap();
        assert!(course.passes(at(1, 4, 0)) && course.passes(at(1, 10, 0)));
        assert_eq!(course.done(), (7, 7), "what is known of");
        assert!(!course.is_over());
        assert!(!course.passes(at(1, 11, 0)), "published meanwhile");
        assert!(!course.passes(at(3, 1, 0)), "where nothing was");
        assert!(course.passes(at(2, 4, 0)));
        assert_eq!(course.done(), (8, 9));
        // The message at its end is gone, by its expiry for one: a later one says so too.
        assert!(!course.passes(at(2, 6, 0)));
        assert!(course.is_over());
    }

    #[test]
    fn a_time_ends_it_and_is_the_last_that_is_printed() {
        let mut course =
            Course { until: Some(Millis(50)), ..Course::of(&said(&["1:10"])).unwrap() };
        assert!(course.passes(at(1, 4, 49)) && course.passes(at(1, 5, 50)));
        assert!(!course.is_over());
        assert!(!course.passes(at(1, 6, 51)));
        assert!(course.is_over());
    }

    #[test]
    fn nothing_stored_is_over_at_once_and_silence_is_another_broker() {
        assert!(Course::of(&said(&["none"])).unwrap().is_over());
        assert!(matches!(Course::of(&said(&[])), Err(CtlError::Refused { .. })));
    }
}
