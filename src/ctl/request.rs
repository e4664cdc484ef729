//! `mqttctl request`: asks on one topic and prints what comes back on another (MQTT 5 §4.10).
//!
//! A response is one that carries the request's correlation data, which is made up for each request. Nobody else knows the response
//! topic unless it was given.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use tokio::time::{Instant, sleep_until};

use super::connection::{ConnectionArguments, parse_qos, refusal};
use super::error::CtlError;
use super::format::{Format, Style, StyleArguments, parse_format, print};
use super::properties::PropertyArguments;
use super::publish::{SourceArguments, open};
use crate::client::{Client, Connected, Event, Incoming, PublishRequest, SubscribeRequest};
use crate::model::QoS;
use crate::model::command::RetainHandling;
use crate::protocol::mqtt::property::{Property, PropertyList};
use crate::protocol::mqtt::reason::ReasonCode;
use crate::protocol::mqtt::types::SubscribeFilter;

/// What to ask, and which answers to wait for.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The request is one of -m, -f, --stdin and -n; with --stdin-lines each line is one, asked when the one before \
is answered. It says where to answer to (--response-topic, by default a topic of its own) and carries \
correlation data, which a response must carry, too; --any-response takes whatever comes to the response topic. \
A request that is refused is not waited for, nor one that the broker says nobody subscribes to.

With MQTT 3.1.1 both sides must know the response topic: name it. There is no correlation data.

Examples:
  mqttctl request ask/time -m now
  mqttctl request ask/all -m who --all -W 2 -v          everybody who answers within two seconds
  mqttctl request ask/sum --stdin-lines --json < jobs   one response for each line
  mqttctl request ask/time -m now -V 3.1.1 --response-topic answers/7")]
pub(super) struct Arguments {
    /// Topic to ask on.
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
    /// 0 at most once, 1 at least once, 2 exactly once; of the request, and at most of its responses.
    #[arg(short = 'q', long, default_value = "1", value_parser = parse_qos)]
    pub qos: QoS,
    /// Responses to wait for.
    #[arg(short = 'c', long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    /// Takes every response that comes within --timeout; fails when there is none.
    #[arg(long, conflicts_with = "count")]
    pub all: bool,
    /// Seconds to wait for the responses to a request.
    #[arg(short = 'W', long, default_value_t = 10, value_name = "SECONDS")]
    pub timeout: u64,
    /// Takes what carries other correlation data or none for a response, too.
    #[arg(long)]
    pub any_response: bool,
    /// How to print: text, json (also --json), pretty (JSON over several lines), payload, or a template as for subscribe.
    #[arg(short = 'F', long, default_value = "text", value_parser = parse_format)]
    pub format: Format,
    #[command(flatten)]
    pub style: StyleArguments,
    #[command(flatten)]
    pub properties: PropertyArguments,
    #[command(flatten)]
    pub connection: ConnectionArguments,
}

/// Asks, prints the responses, and fails when there are too few.
pub(super) async fn run(
    arguments: &Arguments,
    json: bool,
    output: &mut impl Write,
) -> Result<(), CtlError> {
    let is_v5 = arguments.connection.mqtt_version.is_v5();
    if !is_v5 && arguments.properties.response_topic.is_none() {
        let said = "MQTT 3.1.1 cannot say where to answer to: name a topic that both sides know with --response-topic";
        return Err(CtlError::Usage(said.to_owned()));
    }
    // What a version cannot carry is refused before anything is sent.
    properties_of(arguments, "", None)?;
    let mut source = open(&arguments.source, 1)?;
    let mut options = arguments.connection.options()?;
    options.wants_response_information = is_v5 && arguments.properties.response_topic.is_none();
    let (mut client, connected) = arguments.connection.connect(&options).await?;
    let style = arguments.style.with(&arguments.format, json);
    let mut asking = Asking {
        arguments,
        style,
        response_topic: response_topic(arguments, &connected),
        asked_count: 0,
    };
    let asked = async {
        asking.listen(&mut client).await?;
        while let Some(payload) = source.next().await? {
            asking.ask(&mut client, payload, output).await?;
        }
        Ok::<(), CtlError>(())
    };
    let result = asked.await;
    // The goodbye carries the last acknowledgements out.
    let (_, left) = client.disconnect(ReasonCode::SUCCESS, None).await;
    result?;
    Ok(left?)
}

/// Where responses go: as told, else below what the broker says is ours alone, else to a topic that nobody can guess.
fn response_topic(arguments: &Arguments, connected: &Connected) -> String {
    if let Some(topic) = &arguments.properties.response_topic {
        return topic.clone();
    }
    let information = connected.properties.find(|property| match property {
        Property::ResponseInformation(beginning) => Some(beginning),
        _ => None,
    });
    let own = uuid::Uuid::new_v4().simple();
    match information.as_deref().map(String::from_utf8_lossy) {
        Some(beginning) => format!("{}/{own}", beginning.trim_end_matches('/')),
        None => format!("response/{own}"),
    }
}

/// The properties of a request; none before 5.0.
fn properties_of(
    arguments: &Arguments,
    response_topic: &str,
    correlation_data: Option<String>,
) -> Result<PropertyList, CtlError> {
    let version = arguments.connection.mqtt_version;
    let is_v5 = version.is_v5();
    let properties = PropertyArguments {
        response_topic: is_v5.then(|| response_topic.to_owned()),
        correlation_data: match correlation_data {
            Some(data) => is_v5.then_some(data),
            None => arguments.properties.correlation_data.clone(),
        },
        ..arguments.properties.clone()
    };
    properties.list(version)
}

struct Asking<'a> {
    arguments: &'a Arguments,
    style: Style,
    response_topic: String,
    asked_count: u64,
}

impl Asking<'_> {
    /// Subscribes to the responses, before anybody can send one.
    async fn listen(&self, client: &mut Client) -> Result<(), CtlError> {
        let filter = SubscribeFilter {
            retain_handling: match self.arguments.connection.mqtt_version.is_v5() {
                true => RetainHandling::DontSend,
                false => RetainHandling::Send,
            },
            ..SubscribeFilter::new(Bytes::from(self.response_topic.clone()), self.arguments.qos)
        };
        let request = SubscribeRequest { filters: vec![filter], ..SubscribeRequest::default() };
        self.arguments.connection.subscribe(client, &request).await?;
        Ok(())
    }

    /// Sends one request and prints its responses until there are enough.
    async fn ask(
        &mut self,
        client: &mut Client,
        payload: Bytes,
        output: &mut impl Write,
    ) -> Result<(), CtlError> {
        let arguments = self.arguments;
        let correlation_data = arguments.properties.correlation_data.clone();
        let correlation_data =
            correlation_data.unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
        let request = PublishRequest {
            topic: Bytes::from(self.topic().to_owned()),
            payload,
            qos: arguments.qos,
            retain: false,
            properties: properties_of(
                arguments,
                &self.response_topic,
                Some(correlation_data.clone()),
            )?,
        };
        client.publish(self.asked_count, &request)?;
        self.asked_count += 1;
        let ends_at = Instant::now() + Duration::from_secs(arguments.timeout);
        let (mut count, mut other_count) = (0, 0);
        while arguments.all || count < arguments.count {
            tokio::select! {
                biased;
                event = client.next() => match event? {
                    Event::Published { reason, text, .. } => self.judge(reason, &text)?,
                    Event::Message(message) => {
                        match self.is_response(&message, &correlation_data) {
                            true => {
                                print(&message, &self.style, output).map_err(CtlError::Output)?;
                                output.flush().map_err(CtlError::Output)?;
                                count += 1;
                            }
                            false => other_count += 1,
                        }
                        if let Some(handle) = message.handle {
                            client.acknowledge(handle, ReasonCode::SUCCESS);
                        }
                    }
                    _ => {}
                },
                () = sleep_until(ends_at) => return self.timed_out(count, other_count),
            }
        }
        Ok(())
    }

    fn topic(&self) -> &str {
        let topic = self.arguments.topic.as_ref().or(self.arguments.topic_flag.as_ref());
        topic.map(String::as_str).unwrap_or_default()
    }

    /// Ends the wait for a request that nobody will see. A queue keeps it for who comes later.
    fn judge(&self, reason: ReasonCode, text: &str) -> Result<(), CtlError> {
        let topic = self.topic();
        let is_unheard =
            reason == ReasonCode::NO_MATCHING_SUBSCRIBERS && !topic.starts_with("$queue/");
        let said = match (reason.is_error(), is_unheard) {
            (true, _) => format!("request refused: {}", refusal(reason, text)),
            (false, true) => format!("nobody subscribes to '{topic}': {}", refusal(reason, text)),
            (false, false) => return Ok(()),
        };
        Err(CtlError::Refused { said, reason: Some(reason) })
    }

    fn is_response(&self, message: &Incoming, correlation_data: &str) -> bool {
        // What is retained was there before the request.
        if message.retain {
            return false;
        }
        let is_v5 = self.arguments.connection.mqtt_version.is_v5();
        let carried = message.properties.find(|property| match property {
            Property::CorrelationData(data) => Some(data),
            _ => None,
        });
        self.arguments.any_response
            || !is_v5
            || carried.is_some_and(|data| data == correlation_data.as_bytes())
    }

    fn timed_out(&self, count: u64, other_count: u64) -> Result<(), CtlError> {
        if self.arguments.all && count > 0 {
            return Ok(());
        }
        let seconds = self.arguments.timeout;
        let mut said = match (self.arguments.all, self.arguments.count) {
            (true, _) | (false, 1) => format!("no response within {seconds} s"),
            (false, wanted) => format!("{count} of {wanted} responses within {seconds} s"),
        };
        if other_count > 0 {
            said.push_str(&format!(
                "; {other_count} messages on '{}' do not carry this request's correlation data (--any-response takes them)",
                self.response_topic
            ));
        }
        Err(CtlError::Timeout(said))
    }
}
