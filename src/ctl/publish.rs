//! `mqttctl publish`: one message, the same message many times, or one for each line of standard input.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::connection::{ConnectionArguments, parse_qos, refusal};
use super::error::CtlError;
use super::properties::PropertyArguments;
use crate::client::{Client, Connected, Event, PublishRequest, reason_words};
use crate::model::QoS;
use crate::protocol::mqtt::property::Property;
use crate::protocol::mqtt::reason::ReasonCode;

/// Bytes waiting for the socket before a QoS 0 publisher waits, too.
const OUTPUT_BYTES_MAX: usize = 256 << 10;
/// Lines read ahead of what was sent.
const LINES_MAX: usize = 256;

/// What to publish.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The message is one of -m, -f, --stdin, --stdin-lines and -n. With QoS 1 and 2 it ends once everything \
is confirmed, which from FluxMQ means: stored.

Examples:
  mqttctl publish sensors/1 -m 21.5
  mqttctl publish config/lamp --file lamp.json --retain -q 1 --content-type application/json
  mqttctl publish config/lamp -n --retain                     clears the retained message
  tail -F access.log | mqttctl publish logs/web --stdin-lines -q 1
  mqttctl publish '$queue/orders/eu' -m 42 -q 1               a queue
  mqttctl publish '$queue/orders/$ack' -n -q 1 -U message-id=orders:7 -U group-id=billing")]
pub(super) struct Arguments {
    /// Topic to publish to.
    #[arg(value_name = "TOPIC", required_unless_present = "topic_flag")]
    pub topic: Option<String>,
    /// The topic, for those used to it.
    #[arg(
        short = 't',
        long = "topic",
        value_name = "TOPIC",
        conflicts_with = "topic",
        hide = true
    )]
    pub topic_flag: Option<String>,
    #[command(flatten)]
    pub source: SourceArguments,
    /// 0 at most once, 1 at least once, 2 exactly once.
    #[arg(short = 'q', long, default_value = "0", value_parser = parse_qos)]
    pub qos: QoS,
    /// The broker keeps it as the topic's last message.
    #[arg(short = 'r', long)]
    pub retain: bool,
    /// Publishes the message this many times.
    #[arg(
        short = 'c',
        long,
        visible_alias = "repeat",
        default_value_t = 1,
        value_name = "N",
        conflicts_with = "stdin_lines"
    )]
    pub count: u64,
    /// Milliseconds between two messages.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub delay_ms: u64,
    /// QoS 1 and 2 messages under way at a time.
    #[arg(short = 'M', long, default_value_t = 64, value_name = "N")]
    pub inflight: u16,
    /// Names the topic once, with this alias, and the alias alone from then on (5.0).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub topic_alias: Option<u16>,
    /// Seconds without an answer before giving up.
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    pub timeout: u64,
    /// Says on standard error what was published, and how often the broker gave which reason code.
    #[arg(short = 'v', long)]
    pub verbose: bool,
    #[command(flatten)]
    pub properties: PropertyArguments,
    #[command(flatten)]
    pub connection: ConnectionArguments,
}

/// Where the message comes from.
#[derive(Clone, Debug, Default, Args)]
#[group(required = true, multiple = false)]
pub(super) struct SourceArguments {
    /// The message.
    #[arg(short = 'm', long, value_name = "TEXT")]
    pub message: Option<String>,
    /// The content of a file.
    #[arg(short = 'f', long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// All of standard input.
    #[arg(short = 's', long)]
    pub stdin: bool,
    /// Each line of standard input, as it comes.
    #[arg(short = 'l', long)]
    pub stdin_lines: bool,
    /// An empty message.
    #[arg(short = 'n', long)]
    pub null: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    /// Handed to the socket, or confirmed for QoS 1 and 2.
    pub published_count: u64,
    /// Confirmed, and nobody subscribes.
    pub unmatched_count: u64,
    pub refused_count: u64,
    /// The first refusal: its code, and in words.
    pub refusal: Option<(ReasonCode, String)>,
    /// How often each code came; QoS 0 has none.
    pub reasons: BTreeMap<u8, u64>,
}

/// The messages, one after the other.
pub(super) enum Source {
    /// The same one.
    Repeated { payload: Bytes, left: u64 },
    /// What somebody else produces.
    Lines(mpsc::Receiver<std::io::Result<Bytes>>),
}

/// Publishes, prints a summary when asked, and fails when anything was refused.
pub(super) async fn run(
    arguments: &Arguments,
    json: bool,
    output: &mut impl Write,
) -> Result<(), CtlError> {
    let source = open(&arguments.source, arguments.count)?;
    let started = Instant::now();
    let summary = publish(arguments, source).await?;
    let elapsed_ms = started.elapsed().as_millis() as u64;
    if json {
        let line = json!({
            "published": summary.published_count,
            "no_subscribers": summary.unmatched_count,
            "refused": summary.refused_count,
            "reason_codes": summary.reasons_by_code(),
            "elapsed_ms": elapsed_ms,
        });
        writeln!(output, "{line}").map_err(CtlError::Output)?;
    } else if arguments.verbose {
        let _ = writeln!(std::io::stderr(), "{}", summary.in_words(elapsed_ms));
    }
    match summary.refusal {
        None => Ok(()),
        Some((reason, said)) => {
            let said = match summary.refused_count {
                1 => said,
                count => format!("{count} messages refused, the first: {said}"),
            };
            Err(CtlError::Refused { said, reason: Some(reason) })
        }
    }
}

/// Opens what is to be published; what is no stream of lines is repeated `count` times.
pub(super) fn open(source: &SourceArguments, count: u64) -> Result<Source, CtlError> {
    let unreadable = |what: &str, error| CtlError::Usage(format!("cannot read {what}: {error}"));
    let payload = if source.stdin_lines {
        return Ok(Source::Lines(read_lines(std::io::stdin())));
    } else if let Some(path) = &source.file {
        let name = path.display().to_string();
        Bytes::from(std::fs::read(path).map_err(|error| unreadable(&name, error))?)
    } else if source.stdin {
        let mut bytes = Vec::new();
        let read = std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes);
        read.map_err(|error| unreadable("standard input", error))?;
        Bytes::from(bytes)
    } else {
        Bytes::from(source.message.clone().unwrap_or_default())
    };
    Ok(Source::Repeated { payload, left: count })
}

/// Reads lines in a thread of their own: nothing else waits for a standard input that says nothing.
pub(super) fn read_lines(
    input: impl std::io::Read + Send + 'static,
) -> mpsc::Receiver<std::io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || {
        let mut input = std::io::BufReader::new(input);
        loop {
            let mut line = Vec::new();
            let item = match input.read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(_) => {
                    if line.ends_with(b"\n") {
                        line.pop();
                    }
                    Ok(Bytes::from(line))
                }
                Err(error) => Err(error),
            };
            let is_last = item.is_err();
            if sender.blocking_send(item).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

impl Source {
    /// Returns the next message; may be dropped while it waits.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, CtlError> {
        match self {
            Source::Repeated { left: 0, .. } => Ok(None),
            Source::Repeated { payload, left } => {
                *left -= 1;
                Ok(Some(payload.clone()))
            }
            Source::Lines(receiver) => {
                receiver.recv().await.transpose().map_err(|error| {
                    CtlError::Usage(format!("cannot read standard input: {error}"))
                })
            }
        }
    }
}

/// Connects, publishes everything, waits for the confirmations and leaves.
pub(super) async fn publish(arguments: &Arguments, source: Source) -> Result<Summary, CtlError> {
    let topic = arguments.topic.as_ref().or(arguments.topic_flag.as_ref());
    let mut request = PublishRequest {
        topic: Bytes::from(topic.cloned().unwrap_or_default()),
        payload: Bytes::new(),
        qos: arguments.qos,
        retain: arguments.retain,
        properties: arguments.properties.list(arguments.connection.mqtt_version)?,
    };
    if arguments.topic_alias.is_some() && !arguments.connection.mqtt_version.is_v5() {
        return Err(CtlError::Usage("only MQTT 5 has --topic-alias".to_owned()));
    }
    let mut options = arguments.connection.options()?;
    options.inflight_max = arguments.inflight.max(1);
    let (mut client, connected) = arguments.connection.connect(&options).await?;
    if let Some(alias) = arguments.topic_alias {
        check_alias(alias, &connected)?;
        let alias = Property::TopicAlias(alias);
        request.properties = std::iter::once(alias).chain(request.properties.iter()).collect();
    }
    let patience = Duration::from_secs(arguments.timeout.max(1));
    let delay = Duration::from_millis(arguments.delay_ms);
    let summary = send(&mut client, request, source, patience, delay).await;
    let (_, left) = client.disconnect(ReasonCode::SUCCESS, None).await;
    let summary = summary?;
    if request_is_lost_without_goodbye(arguments.qos) {
        left?;
    }
    Ok(summary)
}

/// Refuses an alias that the broker does not take [MQTT-3.2.2-17].
fn check_alias(alias: u16, connected: &Connected) -> Result<(), CtlError> {
    let most = connected.properties.find(|property| match property {
        Property::TopicAliasMaximum(most) => Some(most),
        _ => None,
    });
    match most.unwrap_or(0) {
        0 => Err(CtlError::Usage("the broker takes no topic aliases".to_owned())),
        most if alias > most => {
            Err(CtlError::Usage(format!("the broker takes topic aliases up to {most}")))
        }
        _ => Ok(()),
    }
}

/// QoS 0 messages are only known to be written once the goodbye behind them is.
fn request_is_lost_without_goodbye(qos: QoS) -> bool {
    qos == QoS::AtMostOnce
}

async fn send(
    client: &mut Client,
    mut request: PublishRequest,
    mut source: Source,
    patience: Duration,
    delay: Duration,
) -> Result<Summary, CtlError> {
    let mut summary = Summary::default();
    let (mut token, mut exhausted) = (0u64, false);
    let is_alias = |property| matches!(property, Property::TopicAlias(_));
    let is_aliased = request.properties.iter().any(is_alias);
    let mut next_at = Instant::now();
    let mut deadline = Instant::now() + patience;
    loop {
        // The session may know of more answers than were counted: they wait to be taken.
        let unfinished_count = token - summary.published_count - summary.refused_count;
        if exhausted && unfinished_count == 0 {
            return Ok(summary);
        }
        let is_stateful = request.qos != QoS::AtMostOnce;
        let may_send = !exhausted && (!is_stateful || client.window() > 0);
        let message = async {
            sleep_until(next_at).await;
            source.next().await
        };
        tokio::select! {
            biased;
            message = message, if may_send => match message? {
                None => exhausted = true,
                Some(payload) => {
                    request.payload = payload;
                    client.publish(token, &request)?;
                    token += 1;
                    if is_aliased {
                        request.topic = Bytes::new();
                    }
                    if !is_stateful {
                        summary.published_count += 1;
                        client.flush(OUTPUT_BYTES_MAX).await?;
                    }
                    deadline = Instant::now() + patience;
                    if !delay.is_zero() {
                        next_at = Instant::now() + delay;
                    }
                }
            },
            event = client.next() => {
                deadline = Instant::now() + patience;
                if let Event::Published { reason, text, .. } = event? {
                    summary.count(reason, &text);
                }
            }
            () = sleep_until(deadline), if unfinished_count > 0 => {
                let seconds = patience.as_secs();
                let said = format!("{unfinished_count} messages not confirmed within {seconds} s");
                return Err(CtlError::Timeout(said));
            }
        }
    }
}

impl Summary {
    fn count(&mut self, reason: ReasonCode, text: &str) {
        *self.reasons.entry(reason.0).or_default() += 1;
        if !reason.is_error() {
            self.published_count += 1;
            self.unmatched_count += u64::from(reason == ReasonCode::NO_MATCHING_SUBSCRIBERS);
            return;
        }
        self.refused_count += 1;
        let said = format!("publish refused: {}", refusal(reason, text));
        self.refusal.get_or_insert((reason, said));
    }

    /// The codes as `0x00`, in their order, with how often each came.
    fn reasons_by_code(&self) -> serde_json::Map<String, serde_json::Value> {
        let reasons = self.reasons.iter();
        reasons.map(|(code, count)| (ReasonCode(*code).to_string(), (*count).into())).collect()
    }

    fn in_words(&self, elapsed_ms: u64) -> String {
        let mut said = format!("published {} in {elapsed_ms} ms", self.published_count);
        for (code, count) in &self.reasons {
            let reason = ReasonCode(*code);
            said.push_str(&format!(", {count} × {reason} {}", reason_words(reason)));
        }
        said
    }
}
