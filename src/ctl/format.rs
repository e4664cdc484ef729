//! How a received message is printed.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Map, Value, json};

use crate::client::Incoming;
use crate::model::base64;
use crate::protocol::mqtt::property::Property;

/// How a received message is printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Format {
    /// One line: the payload as text, control characters escaped; -v puts the topic before it, -vv everything else.
    #[default]
    Text,
    /// One object per line.
    Json,
    /// One object over several lines.
    Pretty,
    /// The payload's bytes as they are, and a line feed unless --no-newline.
    Payload,
    /// Text with places for parts of the message, as mosquitto_sub's -F has it, and a line feed unless --no-newline.
    Template(Vec<Piece>),
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    /// The letter behind `%`.
    Place(char),
}

/// What may stand behind `%`.
const PLACES: &str = "%tpqrdlxXjCRDEFPSIU";

/// Reads the name of a format, or a template: anything with a `%`.
pub(super) fn parse_format(text: &str) -> Result<Format, String> {
    match text {
        "text" => return Ok(Format::Text),
        "json" => return Ok(Format::Json),
        "pretty" => return Ok(Format::Pretty),
        "payload" => return Ok(Format::Payload),
        _ if !text.contains('%') => {
            let names = "text, json, pretty, payload, or a template such as '%t %p'";
            return Err(format!("write {names}"));
        }
        _ => {}
    }
    let (mut pieces, mut plain) = (Vec::new(), String::new());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, characters.clone().next()) {
            ('\\', Some(escape @ ('n' | 't' | 'r' | '0' | '\\'))) => {
                characters.next();
                plain.push(match escape {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    '0' => '\0',
                    other => other,
                });
            }
            ('%', Some(place)) if PLACES.contains(place) => {
                characters.next();
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
                pieces.push(Piece::Place(place));
            }
            ('%', place) => {
                let place = place.map_or_else(|| "%".to_owned(), |place| format!("%{place}"));
                return Err(format!("'{place}' means nothing; behind % may be one of {PLACES}"));
            }
            (other, _) => plain.push(other),
        }
    }
    pieces.push(Piece::Text(plain));
    Ok(Format::Template(pieces))
}

/// Everything about printing.
#[derive(Clone, Debug, Default)]
pub(super) struct Style {
    pub format: Format,
    /// How often -v was given.
    pub verbosity: u8,
    pub newline: bool,
}

/// How to print, beside the format: which ones there are, each command says itself.
#[derive(Clone, Debug, Args)]
pub(super) struct StyleArguments {
    /// Prints the topic, too; -vv also QoS, flags and properties.
    #[arg(short = 'v', long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// No line feed after a payload (--format payload).
    #[arg(short = 'N', long)]
    no_newline: bool,
}

impl StyleArguments {
    /// Returns how to print in a format; --json goes before it.
    pub(super) fn with(&self, format: &Format, json: bool) -> Style {
        let format = if json { Format::Json } else { format.clone() };
        Style { format, verbosity: self.verbose, newline: !self.no_newline }
    }
}

/// Prints one message.
pub(super) fn print(
    message: &Incoming,
    style: &Style,
    output: &mut impl Write,
) -> std::io::Result<()> {
    match &style.format {
        Format::Text => print_text(message, style.verbosity, output),
        Format::Json => writeln!(output, "{}", to_json(message)),
        Format::Pretty => writeln!(output, "{:#}", to_json(message)),
        Format::Payload => {
            output.write_all(&message.payload)?;
            if style.newline { output.write_all(b"\n") } else { Ok(()) }
        }
        Format::Template(pieces) => {
            for piece in pieces {
                match piece {
                    Piece::Text(text) => output.write_all(text.as_bytes())?,
                    Piece::Place(place) => print_place(message, *place, output)?,
                }
            }
            if style.newline { output.write_all(b"\n") } else { Ok(()) }
        }
    }
}

fn print_place(message: &Incoming, place: char, output: &mut impl Write) -> std::io::Result<()> {
    let hex = |upper: bool| {
        let digits = |byte: &u8| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") };
        message.payload.iter().map(digits).collect::<String>()
    };
    match place {
        't' => output.write_all(&message.topic),
        'p' => output.write_all(&message.payload),
        'q' => write!(output, "{}", message.qos as u8),
        'r' => write!(output, "{}", u8::from(message.retain)),
        'd' => write!(output, "{}", u8::from(message.dup)),
        'l' => write!(output, "{}", message.payload.len()),
        'x' => output.write_all(hex(false).as_bytes()),
        'X' => output.write_all(hex(true).as_bytes()),
        'j' => write!(output, "{}", to_json(message)),
        'I' => write!(output, "{:.0}", jiff::Timestamp::now()),
        'U' => write!(output, "{:.6}", seconds_since_1970()),
        '%' => output.write_all(b"%"),
        _ => {
            let of_it = |property: Property| value_at(place, &property);
            let values: Vec<Vec<u8>> = message.properties.iter().filter_map(of_it).collect();
            output.write_all(&values.join(&b' '))
        }
    }
}

fn seconds_since_1970() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

/// Returns a property's value where it is what the letter stands for; several have blanks between them.
fn value_at(place: char, property: &Property) -> Option<Vec<u8>> {
    Some(match (place, property) {
        ('C', Property::ContentType(value))
        | ('R', Property::ResponseTopic(value))
        | ('D', Property::CorrelationData(value)) => value.to_vec(),
        ('E', Property::MessageExpiry(seconds)) => seconds.to_string().into_bytes(),
        ('F', Property::PayloadFormat(is_text)) => u8::from(*is_text).to_string().into_bytes(),
        ('S', Property::SubscriptionId(id)) => id.to_string().into_bytes(),
        ('P', Property::User(key, value)) => [key, &b":"[..], value].concat(),
        _ => return None,
    })
}

fn print_text(message: &Incoming, verbosity: u8, output: &mut impl Write) -> std::io::Result<()> {
    let payload = escaped(&message.payload);
    if verbosity == 0 {
        return writeln!(output, "{payload}");
    }
    write!(output, "{} ", escaped(&message.topic))?;
    if verbosity > 1 {
        write!(output, "[qos={}", message.qos as u8)?;
        for (flag, is_set) in [("retain", message.retain), ("dup", message.dup)] {
            if is_set {
                write!(output, " {flag}")?;
            }
        }
        for property in message.properties.iter() {
            if let Some((name, value)) = described(&property) {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                write!(output, " {}={}", escaped(name.as_bytes()), escaped(value.as_bytes()))?;
            }
        }
        write!(output, "] ")?;
    }
    writeln!(output, "{payload}")
}

/// Returns the message as one JSON object. What is not UTF-8 is in `payload_base64` instead of `payload`.
pub(super) fn to_json(message: &Incoming) -> Value {
    let mut object = Map::new();
    object.insert("topic".to_owned(), String::from_utf8_lossy(&message.topic).into());
    let (name, payload) = match std::str::from_utf8(&message.payload) {
        Ok(text) => ("payload", text.to_owned()),
        Err(_) => ("payload_base64", base64::encode(&message.payload)),
    };
    object.insert(name.to_owned(), payload.into());
    object.insert("qos".to_owned(), (message.qos as u8).into());
    object.insert("retain".to_owned(), message.retain.into());
    object.insert("dup".to_owned(), message.dup.into());
    let (mut properties, mut user, mut subscription_ids) = (Map::new(), Vec::new(), Vec::new());
    for property in message.properties.iter() {
        match &property {
            Property::User(key, value) => {
                user.push(json!([String::from_utf8_lossy(key), String::from_utf8_lossy(value)]))
            }
            Property::SubscriptionId(id) => subscription_ids.push(json!(id)),
            _ => properties.extend(described(&property)),
        }
    }
    if !user.is_empty() {
        properties.insert("user".to_owned(), user.into());
    }
    if !subscription_ids.is_empty() {
        properties.insert("subscription_ids".to_owned(), subscription_ids.into());
    }
    if !properties.is_empty() {
        object.insert("properties".to_owned(), properties.into());
    }
    object.into()
}

/// Names a property that a delivery can have; topic aliases are resolved and not worth telling.
fn described(property: &Property) -> Option<(String, Value)> {
    let text = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes));
    let (name, value) = match property {
        Property::PayloadFormat(is_text) => ("utf8", (*is_text).into()),
        Property::MessageExpiry(seconds) => ("expiry_s", (*seconds).into()),
        Property::ContentType(value) => ("content_type", text(value)),
        Property::ResponseTopic(value) => ("response_topic", text(value)),
        Property::CorrelationData(value) => match std::str::from_utf8(value) {
            Ok(value) => ("correlation_data", value.into()),
            Err(_) => ("correlation_data_base64", base64::encode(value).into()),
        },
        Property::SubscriptionId(id) => ("subscription_id", (*id).into()),
        Property::User(key, value) => {
            return Some((String::from_utf8_lossy(key).into_owned(), text(value)));
        }
        _ => return None,
    };
    Some((name.to_owned(), value))
}

/// Makes bytes safe for a terminal and for one line: control characters and what is not UTF-8 are escaped.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\t' => text.push(character),
                _ if character.is_control() => text.extend(character.escape_default()),
                _ => text.push(character),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::QoS;

    fn message(payload: &'static [u8]) -> Incoming {
        let user = |key: &'static str, value: &'static str| {
            Property::User(Bytes::from_static(key.as_bytes()), Bytes::from_static(value.as_bytes()))
        };
        Incoming {
            topic: Bytes::from_static(b"a/b"),
            payload: Bytes::from_static(payload),
            qos: QoS::AtLeastOnce,
            retain: true,
            dup: false,
            properties: [
                Property::ContentType(Bytes::from_static(b"text/plain")),
                user("offset", "7"),
                user("offset", "8"),
                Property::SubscriptionId(3),
            ]
            .into_iter()
            .collect(),
            handle: None,
        }
    }

    fn printed(payload: &'static [u8], format: Format, verbosity: u8, newline: bool) -> Vec<u8> {
        let mut output = Vec::new();
        print(&message(payload), &Style { format, verbosity, newline }, &mut output).unwrap();
        output
    }

    #[test]
    fn text_is_one_safe_line_and_says_more_when_asked() {
        assert_eq!(printed(b"21.5", Format::Text, 0, true), b"21.5\n");
        assert_eq!(printed(b"21.5", Format::Text, 1, true), b"a/b 21.5\n");
        assert_eq!(
            printed(b"21.5", Format::Text, 2, true),
            b"a/b [qos=1 retain content_type=text/plain offset=7 offset=8 subscription_id=3] 21.5\n"
        );
        let hostile = printed(b"\x1b[2J\nx\xff\xc3\xa4", Format::Text, 0, true);
        assert_eq!(hostile, "\\u{1b}[2J\\nx\\xffä\n".as_bytes());
    }

    #[test]
    fn payload_is_the_bytes_alone() {
        assert_eq!(printed(b"\x00\xff", Format::Payload, 2, true), b"\x00\xff\n");
        assert_eq!(printed(b"\x00\xff", Format::Payload, 0, false), b"\x00\xff");
    }

    #[test]
    fn a_template_has_places_for_every_part_of_a_message() {
        let shown = |template: &str, newline| {
            printed(b"hi\xff", parse_format(template).unwrap(), 0, newline)
        };
        assert_eq!(shown("%t %q%r%d %l: %p", true), b"a/b 110 3: hi\xff\n");
        assert_eq!(
            shown("%x|%X%%\\t%C|%P|%S|%R", false),
            b"6869ff|6869FF%\ttext/plain|offset:7 offset:8|3|"
        );
        let times = String::from_utf8(shown("%I %U", false)).unwrap();
        let (day, seconds) = times.split_once(' ').unwrap();
        let day: jiff::Timestamp = day.parse().unwrap();
        let seconds: f64 = seconds.parse().unwrap();
        assert!((day.as_second() as f64 - seconds).abs() < 2.0, "{times}");
        for (wrong, said) in
            [("xml", "text, json, pretty, payload"), ("%t %z", "'%z'"), ("100%", "'%'")]
        {
            let error = parse_format(wrong).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn pretty_is_the_same_object_over_several_lines() {
        let line = printed(b"hi", Format::Json, 0, true);
        let pretty = printed(b"hi", Format::Pretty, 0, true);
        let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        assert_eq!(read(&line), read(&pretty));
        assert!(pretty.starts_with(b"{\n  \"") && pretty.ends_with(b"}\n"));
    }

    #[test]
    fn json_keeps_repeated_user_properties_in_order() {
        let line = printed(b"hi", Format::Json, 0, true);

        let value: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(
            value,
            json!({
                "topic": "a/b", "payload": "hi", "qos": 1, "retain": true, "dup": false,
                "properties": {
                    "content_type": "text/plain",
                    "user": [["offset", "7"], ["offset", "8"]],
                    "subscription_ids": [3]
                }
            })
        );
    }

    #[test]
    fn json_has_binary_payloads_in_base64() {
        let value: Value =
            serde_json::from_slice(&printed(b"\xff\xfe", Format::Json, 0, true)).unwrap();

        assert_eq!(value["payload_base64"], "//4=");
        assert_eq!(value.get("payload"), None);
    }
}
