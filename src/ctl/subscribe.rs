//! `mqttctl subscribe`: prints messages as they come in, and settles each once it is printed.

use std::collections::VecDeque;
use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use tokio::time::{Instant, sleep_until, timeout};

use super::connection::{ConnectionArguments, parse_qos, refusal};
use super::course::{Course, ends_reported, place_of};
use super::error::CtlError;
use super::format::{Format, Style, StyleArguments, parse_format, print};
use super::progress::Progress;
use crate::auth::filter::covers;
use crate::client::{Client, Event, Incoming, PublishRequest, SubscribeRequest, user};
use crate::model::command::RetainHandling;
use crate::model::{Filter, QoS};
use crate::protocol::mqtt::property::{Property, PropertyList};
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::{SubscribeFilter, Version};

/// What to subscribe to, and when to stop.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Runs until Ctrl-C, or until --count, --timeout or --idle say so. A message of QoS 1 or 2 is \
acknowledged after it is printed; one that could not be printed comes again.

Positions for --from: earliest, latest, resume, offset=N, timestamp=MS, an RFC 3339 time, -15m, -2h, -7d, last=N.

Examples:
  mqttctl subscribe 'sensors/#' -v
  mqttctl subscribe 'sensors/#' --from=-15m --idle 2 --format json    what was said, then the end
  mqttctl subscribe '$queue/orders' -q 1 --group billing --from earliest
  mqttctl subscribe '$share/workers/jobs/+' -q 1 --count 10 --timeout 30
  mqttctl subscribe 'config/#' --retained-only --idle 1 -v             what is retained, then the end
  mqttctl subscribe 'old/#' --remove-retained --idle 1                 removes it
  mqttctl subscribe 'jobs/#' -q 1 -i worker --resume --session-expiry 86400 -E
                                                                       makes a session, and leaves")]
pub(super) struct Arguments {
    /// Filters to subscribe to; + is one level, # the rest.
    #[arg(value_name = "FILTER", required_unless_present_any = ["filter_flags", "unsubscribe"])]
    pub filters: Vec<String>,
    /// A filter, for those used to it.
    #[arg(short = 't', long = "topic", value_name = "FILTER", hide = true)]
    pub filter_flags: Vec<String>,
    /// Takes a subscription of this session back first; repeat for several.
    #[arg(long, value_name = "FILTER")]
    pub unsubscribe: Vec<String>,
    /// User property of UNSUBSCRIBE (5.0); repeat for several.
    #[arg(long, value_name = "KEY=VALUE", requires = "unsubscribe", value_parser = super::properties::parse_pair)]
    pub unsubscribe_property: Vec<(String, String)>,
    /// Does not print what this filter matches; repeat for several.
    #[arg(short = 'T', long, value_name = "FILTER", value_parser = parse_filter)]
    pub filter_out: Vec<Filter>,
    /// The most wanted: 0, 1 or 2. Queues need 1 or 2.
    #[arg(short = 'q', long, default_value = "0", value_parser = parse_qos)]
    pub qos: QoS,
    /// Reads history first: where to start (5.0).
    #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
    pub from: Option<String>,
    /// Reads queues as a member of this consumer group (5.0).
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Does not want what this client publishes (5.0).
    #[arg(long)]
    pub no_local: bool,
    /// Keeps the retain flag of what is passed on (5.0).
    #[arg(long)]
    pub retain_as_published: bool,
    /// Which retained messages to send at the beginning (5.0).
    #[arg(long, value_enum, default_value_t = Retained::Always)]
    pub retained: Retained,
    /// Does not print retained messages, in any version.
    #[arg(short = 'R', long, conflicts_with_all = ["retained_only", "remove_retained"])]
    pub no_retained: bool,
    /// Prints retained messages only, and ends when the first other one comes.
    #[arg(long)]
    pub retained_only: bool,
    /// Removes each retained message that is printed.
    #[arg(long)]
    pub remove_retained: bool,
    /// User property of SUBSCRIBE (5.0); repeat for several.
    #[arg(short = 'U', long = "user-property", value_name = "KEY=VALUE", value_parser = super::properties::parse_pair)]
    pub user: Vec<(String, String)>,
    /// Number that comes back with each delivery of these subscriptions (5.0); shown with -vv and in JSON.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=268_435_455))]
    pub subscription_id: Option<u32>,
    /// Stops after this many messages.
    #[arg(short = 'c', long, value_name = "N")]
    pub count: Option<u64>,
    /// Stops after this many seconds; with --count, exit code 1 when there were fewer.
    #[arg(short = 'W', long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// Leaves as soon as the broker has confirmed the subscriptions.
    #[arg(short = 'E', long, conflicts_with_all = ["count", "timeout", "idle"])]
    pub exit_after_subscribe: bool,
    /// Stops when nothing came in for this many seconds.
    #[arg(long, value_name = "SECONDS")]
    pub idle: Option<u64>,
    /// How to print: text, json (also --json), pretty (JSON over several lines), payload, or a template as of mosquitto_sub: %t topic, %p payload, %x in hex,
    /// %l its length, %q QoS, %r retain, %d dup, %j JSON, %C content type, %R response topic, %D correlation data, %E expiry,
    /// %F payload format, %P user properties, %S subscription ids, %I time (UTC), %U seconds since 1970, %% a percent sign, \n \t \r \0.
    #[arg(short = 'F', long, default_value = "text", value_parser = parse_format)]
    pub format: Format,
    #[command(flatten)]
    pub style: StyleArguments,
    /// Shows progress on standard error; by default when --from is given and standard output is not a terminal.
    #[arg(long)]
    pub progress: bool,
    /// Deliveries of QoS 1 and 2 that may be under way at a time.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub receive_maximum: u16,
    #[command(flatten)]
    pub connection: ConnectionArguments,
}

/// When retained messages are sent (MQTT 5 §3.8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Retained {
    /// Always.
    Always,
    /// When the session has no such subscription yet.
    New,
    /// Never.
    Never,
}

/// Subscribes and prints until it is enough.
pub(super) async fn run(
    arguments: &Arguments,
    json: bool,
    output: &mut impl Write,
) -> Result<(), CtlError> {
    let progress = Progress::new(arguments.progress, arguments.from.is_some(), arguments.count);
    let requests = requests(arguments, progress.is_shown())?;
    let mut options = arguments.connection.options()?;
    options.receive_maximum = arguments.receive_maximum.max(1);
    options.topic_alias_max = 64;
    let started = Instant::now();
    let (mut client, _) = arguments.connection.connect(&options).await?;
    let style = arguments.style.with(&arguments.format, json);
    let removals = Removals::default();
    let (course, count, is_over) = (None, 0, false);
    let mut reading = Reading { arguments, style, progress, course, count, is_over, removals };
    let result = match subscribe(arguments, &mut client, &requests).await {
        Ok(_) if arguments.exit_after_subscribe => Ok(()),
        Ok(course) => {
            reading.course = course;
            reading.read(&mut client, started, output).await
        }
        Err(error) => Err(error),
    };
    reading.progress.finish(reading.count, reading.done());
    let result = match result {
        Ok(()) => reading.removals.finish(&mut client, arguments.connection.patience()).await,
        Err(error) => Err(error),
    };
    // The goodbye carries the last acknowledgements out.
    let (_, left) = client.disconnect(ReasonCode::SUCCESS, None).await;
    result?;
    Ok(left?)
}

/// Returns one SUBSCRIBE for each filter: where to read from is a property of the whole packet, and differs by kind.
fn requests(
    arguments: &Arguments,
    shows_progress: bool,
) -> Result<Vec<SubscribeRequest>, CtlError> {
    let is_v5 = arguments.connection.mqtt_version == Version::V5;
    let needs_v5 = arguments.from.is_some()
        || arguments.group.is_some()
        || !arguments.user.is_empty()
        || !arguments.unsubscribe_property.is_empty()
        || arguments.no_local
        || arguments.subscription_id.is_some()
        || arguments.retain_as_published
        || arguments.retained != Retained::Always;
    if needs_v5 && !is_v5 {
        let said = "--from, --group, --user-property and the options of subscriptions need MQTT 5; with 3.1.1 write \
                    $replay/<position>/<filter> and $share/<group>/<filter>";
        return Err(CtlError::Usage(said.to_owned()));
    }
    let filters: Vec<&String> = arguments.filters.iter().chain(&arguments.filter_flags).collect();
    // Of several replays nobody could tell whose a message is.
    let reports_end = shows_progress && filters.len() == 1;
    Ok(filters.into_iter().map(|filter| request(arguments, filter, reports_end)).collect())
}

fn request(arguments: &Arguments, filter: &str, reports_end: bool) -> SubscribeRequest {
    let mut properties = Vec::new();
    if let Some(from) = &arguments.from {
        let name = position_property(filter);
        properties.push((name.to_owned(), from.clone()));
        properties.extend((reports_end && name == REPLAY).then(ends_reported));
    }
    properties
        .extend(arguments.group.iter().map(|name| ("consumer-group".to_owned(), name.clone())));
    properties.extend(arguments.user.iter().cloned());
    let id = arguments.subscription_id.map(Property::SubscriptionId);
    let properties: PropertyList = id.into_iter().chain(user(&properties)).collect();
    let filter = SubscribeFilter {
        no_local: arguments.no_local,
        retain_as_published: arguments.retain_as_published,
        retain_handling: match arguments.retained {
            Retained::Always => RetainHandling::Send,
            Retained::New => RetainHandling::SendIfNew,
            Retained::Never => RetainHandling::DontSend,
        },
        ..SubscribeFilter::new(Bytes::from(filter.to_owned()), arguments.qos)
    };
    SubscribeRequest { filters: vec![filter], properties }
}

/// Where a replay begins.
const REPLAY: &str = "replay-from";

/// Queues read from a cursor, everything else replays.
fn position_property(filter: &str) -> &'static str {
    let shared = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
    let inner = shared.map_or(filter, |(_, inner)| inner);
    if inner.starts_with("$queue/") { "cursor" } else { REPLAY }
}

/// Returns how far a single replay goes.
async fn subscribe(
    arguments: &Arguments,
    client: &mut Client,
    requests: &[SubscribeRequest],
) -> Result<Option<Course>, CtlError> {
    if !arguments.unsubscribe.is_empty() {
        let Arguments { connection, unsubscribe, unsubscribe_property, .. } = arguments;
        connection.unsubscribe(client, unsubscribe, unsubscribe_property).await?;
    }
    let mut course = None;
    for request in requests {
        let said = arguments.connection.subscribe(client, request).await?;
        course = Course::of(&said);
    }
    Ok(course)
}

struct Reading<'a> {
    arguments: &'a Arguments,
    style: Style,
    progress: Progress,
    /// How far it is in history, where it was asked for and the broker says it.
    course: Option<Course>,
    count: u64,
    /// Nothing more is to be printed, however many were asked for.
    is_over: bool,
    removals: Removals,
}

impl Reading<'_> {
    async fn read(
        &mut self,
        client: &mut Client,
        started: Instant,
        output: &mut impl Write,
    ) -> Result<(), CtlError> {
        let seconds_after = |from: Instant, seconds: Option<u64>| {
            seconds.map(|seconds| from + Duration::from_secs(seconds))
        };
        let ends_at = seconds_after(started, self.arguments.timeout);
        let mut last_message = Instant::now();
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        while !self.is_enough() {
            let idle_at = seconds_after(last_message, self.arguments.idle);
            let wakes_at = [ends_at, idle_at, self.progress.due()].into_iter().flatten().min();
            tokio::select! {
                event = client.next() => {
                    let before = self.count;
                    self.on_events(client, event?, output)?;
                    if self.count > before {
                        last_message = Instant::now();
                    }
                }
                () = sleep_until(wakes_at.unwrap_or(started)), if wakes_at.is_some() => {
                    let now = Instant::now();
                    self.progress.tick(now, self.count, self.done());
                    if ends_at.is_some_and(|at| at <= now) {
                        return self.timed_out();
                    }
                    if idle_at.is_some_and(|at| at <= now) {
                        return Ok(());
                    }
                }
                _ = &mut interrupted => return Ok(()),
            }
        }
        Ok(())
    }

    /// Prints what is there, writes it out once for all of it, and only then acknowledges.
    fn on_events(
        &mut self,
        client: &mut Client,
        event: Event,
        output: &mut impl Write,
    ) -> Result<(), CtlError> {
        let (mut next, mut printed) = (Some(event), Vec::new());
        while let Some(event) = next {
            match event {
                Event::Message(message) => {
                    if let (Some(course), Some(place)) = (&mut self.course, place_of(&message)) {
                        course.passes(place);
                    }
                    if self.is_wanted(&message) {
                        let print = || print(&message, &self.style, output);
                        self.progress.aside(print).map_err(CtlError::Output)?;
                        self.count += 1;
                        if self.arguments.remove_retained && message.retain {
                            self.removals.waiting.push_back(message.topic.clone());
                        }
                    }
                    if !self.is_over {
                        printed.extend(message.handle);
                    }
                }
                Event::Published { reason, text, .. } => self.removals.settle(reason, &text)?,
                _ => {}
            }
            next = if self.is_enough() { None } else { client.try_next() };
        }
        output.flush().map_err(CtlError::Output)?;
        for handle in printed {
            client.acknowledge(handle, ReasonCode::SUCCESS);
        }
        self.removals.send(client)
    }

    /// How much of history there was of how much.
    fn done(&self) -> Option<(u64, u64)> {
        self.course.as_ref().map(Course::done)
    }

    fn is_enough(&self) -> bool {
        self.is_over || self.arguments.count.is_some_and(|count| self.count >= count)
    }

    /// Whether a message is printed; what is not is acknowledged all the same, but for the one that ends it all.
    fn is_wanted(&mut self, message: &Incoming) -> bool {
        let arguments = self.arguments;
        if arguments.retained_only && !message.retain {
            self.is_over = true;
            return false;
        }
        let is_matched = |filter: &Filter| {
            str::from_utf8(&message.topic).is_ok_and(|topic| covers(filter.as_str(), topic))
        };
        let is_stale = arguments.no_retained && message.retain;
        !is_stale && !arguments.filter_out.iter().any(is_matched)
    }

    fn timed_out(&self) -> Result<(), CtlError> {
        let Some(wanted) = self.arguments.count else { return Ok(()) };
        let (count, seconds) = (self.count, self.arguments.timeout.unwrap_or_default());
        Err(CtlError::Timeout(format!("{count} of {wanted} messages within {seconds} s")))
    }
}

/// Retained messages that are to be removed, each by an empty one in its place [MQTT-3.3.1-6].
#[derive(Default)]
struct Removals {
    waiting: VecDeque<Bytes>,
    unconfirmed_count: u64,
    next_token: u64,
}

impl Removals {
    /// Sends what the window has room for.
    fn send(&mut self, client: &mut Client) -> Result<(), CtlError> {
        while client.window() > 0
            && let Some(topic) = self.waiting.pop_front()
        {
            let qos = QoS::AtLeastOnce;
            let request = PublishRequest { topic, qos, retain: true, ..PublishRequest::default() };
            client.publish(self.next_token, &request)?;
            self.next_token += 1;
            self.unconfirmed_count += 1;
        }
        Ok(())
    }

    fn settle(&mut self, reason: ReasonCode, text: &str) -> Result<(), CtlError> {
        self.unconfirmed_count -= 1;
        match reason.is_error() {
            false => Ok(()),
            true => {
                let refusal = refusal(reason, text);
                let said = format!("a retained message is not removed: {refusal}");
                Err(CtlError::Refused { said, reason: Some(reason) })
            }
        }
    }

    /// Waits until all are confirmed.
    async fn finish(&mut self, client: &mut Client, patience: Duration) -> Result<(), CtlError> {
        self.send(client)?;
        while self.unconfirmed_count > 0 {
            let Ok(event) = timeout(patience, client.next()).await else {
                let (count, seconds) = (self.unconfirmed_count, patience.as_secs());
                let said = format!("{count} removals not confirmed within {seconds} s");
                return Err(CtlError::Timeout(said));
            };
            if let Event::Published { reason, text, .. } = event? {
                self.settle(reason, &text)?;
            }
            self.send(client)?;
        }
        Ok(())
    }
}

/// Reads a filter, as the broker would.
fn parse_filter(text: &str) -> Result<Filter, String> {
    Filter::new(Bytes::from(text.to_owned())).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_read_from_a_cursor_and_filters_are_replayed() {
        for filter in ["$queue/orders", "$queue/orders/eu/#", "$share/g/$queue/orders"] {
            assert_eq!(position_property(filter), "cursor", "{filter}");
        }
        for filter in ["sensors/#", "#", "$share/g/a/b", "a/$queue/x", "$share/g"] {
            assert_eq!(position_property(filter), "replay-from", "{filter}");
        }
    }
}
