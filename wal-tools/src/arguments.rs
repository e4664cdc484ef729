//! What can be asked on the command line.

use std::path::PathBuf;
use std::str::FromStr;

use bytes::Bytes;
use clap::{Args, Parser, Subcommand, ValueEnum};
use fluxmq::model::{AddressError, Filter};
use fluxmq_index::{Offset, OffsetRange};
use regex::bytes::{Regex, RegexBuilder};

use crate::fold::To;
use crate::time;

/// Inspects the segments of a FluxMQ data directory.
///
/// Reads only, unless told to rebuild indexes: a running broker is not disturbed, and a copied segment file can be read alone.
/// Exit codes: 0 clean, 1 torn tail or rot in unused bytes only, 2 corruption, 3 usage.
#[derive(Debug, Parser)]
#[command(name = "wal-tools", version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One thing to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print records, one a line.
    #[command(after_help = DUMP_EXAMPLES)]
    Dump(DumpArguments),
    /// Check every checksum and the continuity of the log, and name what is damaged.
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(VerifyArguments),
    /// Print sizes, counts and the busiest topics.
    #[command(after_help = STAT_EXAMPLES)]
    Stat(StatArguments),
    /// List the indexes of sealed segments, compare each with its segment, build what is missing or wrong.
    #[command(after_help = INDEX_EXAMPLES)]
    Index(IndexArguments),
    /// Compare two replicas, byte for byte but for what is a replica's own.
    ///
    /// Exit codes: 0 one is equal to a part of the other, 2 they differ or one is damaged, 3 usage.
    #[command(after_help = DIFF_EXAMPLES)]
    Diff(DiffArguments),
    /// Print what the broker knew at any offset or time: a session, a queue, a group, retained messages, or how much of each.
    ///
    /// Folds the log with the broker's own views, from the newest snapshot before that place. Reads only. Exit codes: 0 printed,
    /// 1 nothing of that name, 2 damage before the place that was asked for (the state before it is printed), 3 usage.
    #[command(after_help = STATE_EXAMPLES)]
    State(StateArguments),
    /// Derive snapshots and indexes from the log again, compare them with what is there, and write what is different.
    ///
    /// Holds the data directory's lock: no broker may run there. Exit codes: 0 equal, or written, 1 something is different and stays
    /// so, 2 the log is damaged and nothing was written, 3 usage, or the directory is in use.
    #[command(after_help = REBUILD_EXAMPLES)]
    Rebuild(RebuildArguments),
    /// Print the messages that match a topic filter, a queue, a payload: through the indexes of sealed segments, reading little else.
    ///
    /// Exit codes: 0, 2 damage had to be stepped over, 3 usage.
    #[command(after_help = GREP_EXAMPLES)]
    Grep(GrepArguments),
    /// Take messages out of the log into files, byte for byte.
    ///
    /// A file that exists is not overwritten, and none appears before it is whole. Exit codes: 0, 1 nothing matches, 2 damage had to
    /// be stepped over and something may be missing, 3 usage.
    #[command(after_help = EXTRACT_EXAMPLES)]
    Extract(ExtractArguments),
    /// Put back what a partition lost, from the directory of another replica; without one, say what is damaged and what can be done.
    ///
    /// What comes from there is believed when its checksums, its links at both ends and the segment's seal are right, and is written
    /// only then; what it replaces is kept in quarantine/. Never cuts anything off. Holds the lock of the data directory: no broker may
    /// run there. Exit codes: 0 nothing is damaged any more, 1 only what the broker mends by itself, 2 damage stays, 3 usage.
    #[command(after_help = REPAIR_EXAMPLES)]
    Repair(RepairArguments),
}

const REPAIR_EXAMPLES: &str = "Examples:
  wal-tools repair data/p0001                                             what is damaged, and what can be done
  wal-tools repair data/p0001 --from replica-2/data/p0001 --dry-run       what would be put back
  wal-tools repair data/p0001 --from replica-2/data/p0001
";

const EXTRACT_EXAMPLES: &str = "Examples:
  wal-tools extract data --partition 1 --offset 40150 -o picture.jpg   one payload
  wal-tools extract data 'cameras/+/picture' -o pictures/              a file for each, p0001-<offset>.payload
  wal-tools extract data --queue orders --as json -o orders.jsonl      everything of the messages, payloads in base64
  wal-tools extract data/p0001 --range 40100..40200 --as frames -o frames.bin
";

const GREP_EXAMPLES: &str = r#"Examples:
  wal-tools grep data 'sensors/+/temp' --from 2026-11-20T00:00:00Z --to 2026-11-21T00:00:00Z
  wal-tools grep data --queue orders --payload '"id": ?4711'
  wal-tools grep data 'alarms/#' --count --stats
  wal-tools grep data 'site/#' --format mosquitto | head     "topic payload", as mosquitto_sub -v prints
"#;

const REBUILD_EXAMPLES: &str = "Examples:
  wal-tools rebuild --verify data     compare only; the state of the whole log with that of the newest snapshot and the rest
  wal-tools rebuild data              write snapshots and indexes that are not what the log makes
  wal-tools rebuild --verify --json data/p0001 | jq .outcome";

const DUMP_EXAMPLES: &str = "Examples:
  wal-tools dump data --from 2026-11-21T08:00:00Z --limit 100
  wal-tools dump data --topic 'site/+/temperature' --format json | jq -r .payload
  wal-tools dump data --queue orders --headers-only | tail -5
";

const VERIFY_EXAMPLES: &str = "Examples:
  wal-tools verify data                                         everything
  wal-tools verify data/p0001                                   one partition
  wal-tools verify data/p0001/log/00000000000000000007.seg      one segment, or a copy of it
";

const STAT_EXAMPLES: &str = "Examples:
  wal-tools stat data --top 20
  wal-tools stat data/p0001
";

const INDEX_EXAMPLES: &str = "Examples:
  wal-tools index data                which are right, wrong or missing
  wal-tools index data/p0001 --show   what is in them
  wal-tools index data --rebuild      write those that are missing or wrong
";

const DIFF_EXAMPLES: &str = "Examples:
  wal-tools diff data replica-2/data
  wal-tools diff data/p0001 replica-2/data/p0001 --json | jq .outcome
";

const STATE_EXAMPLES: &str = "Examples:
  wal-tools state data                                        how much there is of everything, now
  wal-tools state data --session thermostat-7                 a session: subscriptions, cursors, what is out
  wal-tools state data --queue orders --at 2026-11-21T08:00:00Z   a queue and its groups as of then
  wal-tools state data/p0001 --group workers --at 40150       a group with everything up to that offset
  wal-tools state data --retained 'sensors/+/temp' --format json";

/// What to print, and how.
#[derive(Debug, Args)]
pub struct DumpArguments {
    /// A data directory, a partition's directory, or one segment file.
    pub path: PathBuf,
    /// Only this partition.
    #[arg(long, value_name = "N")]
    pub partition: Option<u32>,
    /// Only messages sent to this queue by its address, `$queue/NAME` or below.
    #[arg(long, value_name = "NAME", conflicts_with = "topic")]
    pub queue: Option<String>,
    /// Only messages routed to the queue of this id, by a route set or its address.
    #[arg(long, value_name = "ID")]
    pub queue_id: Option<u64>,
    /// Only messages whose topic matches this filter; `+` and `#` as in MQTT.
    #[arg(long, value_name = "FILTER")]
    pub topic: Option<String>,
    /// Where to start: earliest, an offset, timestamp=<ms>, or an RFC 3339 time.
    #[arg(long, value_name = "POSITION", default_value = "earliest")]
    pub from: From,
    /// Stop after so many records.
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// How to print a record.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Leave payloads out.
    #[arg(long)]
    pub headers_only: bool,
    /// How to print payloads.
    #[arg(long, value_enum, default_value_t = PayloadFormat::Text)]
    pub payload: PayloadFormat,
}

/// What to check.
#[derive(Debug, Args)]
pub struct VerifyArguments {
    /// A data directory, a partition's directory, or one segment file.
    pub path: PathBuf,
}

/// What to count.
#[derive(Debug, Args)]
pub struct StatArguments {
    /// A data directory, a partition's directory, or one segment file.
    pub path: PathBuf,
    /// How many topics to list.
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub top: usize,
}

/// What to list, and what to build.
#[derive(Debug, Args)]
pub struct IndexArguments {
    /// A data directory, a partition's directory, or one segment file.
    pub path: PathBuf,
    /// Print the sections of each index, its largest shapes of topics, and its queues.
    #[arg(long)]
    pub show: bool,
    /// Build what is missing or wrong from the segments. Writes beside them; safe while a broker runs.
    #[arg(long)]
    pub rebuild: bool,
}

/// What to compare.
#[derive(Debug, Args)]
pub struct DiffArguments {
    /// A data directory, a partition's directory, or one segment file.
    #[arg(value_name = "DIR_A")]
    pub path: PathBuf,
    /// The same of another replica.
    #[arg(value_name = "DIR_B")]
    pub other: PathBuf,
    /// One JSON object for each partition.
    #[arg(long)]
    pub json: bool,
}

/// Which messages to find.
#[derive(Clone, Debug, Args)]
pub struct SearchArguments {
    /// A data directory, a partition's directory, or one segment file.
    pub path: PathBuf,
    /// Only messages whose topic matches this filter; `+` and `#` as in MQTT.
    #[arg(value_parser = parse_filter)]
    pub filter: Option<String>,
    /// Only messages that are in the queue of this name, or were.
    #[arg(long, value_name = "NAME")]
    pub queue: Option<String>,
    /// Only messages whose payload matches this regular expression, byte by byte: `\w` and `.` know no Unicode, `(?i)` no case.
    #[arg(long, value_name = "REGEX", value_parser = parse_regex)]
    pub payload: Option<Regex>,
    /// Where to start: earliest, an offset, timestamp=<ms>, or an RFC 3339 time.
    #[arg(long, value_name = "POSITION", default_value = "earliest")]
    pub from: From,
    /// Where to end: before this offset or time.
    #[arg(long, value_name = "POSITION")]
    pub to: Option<From>,
    /// Only this partition.
    #[arg(long, value_name = "N")]
    pub partition: Option<u32>,
}

/// What to find, and how to print it.
#[derive(Debug, Args)]
pub struct GrepArguments {
    /// Which messages.
    #[command(flatten)]
    pub search: SearchArguments,
    /// Stop after so many messages.
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Print how many match in each partition, not what.
    #[arg(long)]
    pub count: bool,
    /// How to print a message.
    #[arg(long, value_enum, default_value_t = GrepFormat::Text)]
    pub format: GrepFormat,
    /// How to print payloads, but for mosquitto's format.
    #[arg(long, value_enum, default_value_t = PayloadFormat::Text)]
    pub payload_as: PayloadFormat,
    /// Say on standard error how much was read.
    #[arg(long)]
    pub stats: bool,
}

/// What to take out, and where to put it.
#[derive(Debug, Args)]
pub struct ExtractArguments {
    /// Which messages.
    #[command(flatten)]
    pub search: SearchArguments,
    /// Only the message at this offset; of each partition, if several are looked through.
    #[arg(long, value_name = "N", conflicts_with_all = ["from", "to", "range"])]
    pub offset: Option<u64>,
    /// Only messages from offset A on and before offset B.
    #[arg(long, value_name = "A..B", conflicts_with_all = ["from", "to"], value_parser = parse_range)]
    pub range: Option<OffsetRange>,
    /// A file, a directory (one that exists, or a name with `/` at its end), or `-` for standard output.
    #[arg(short, long, value_name = "FILE|DIR")]
    pub output: PathBuf,
    /// What to write.
    #[arg(long = "as", value_enum, default_value_t = ExtractForm::Payload)]
    pub form: ExtractForm,
    /// Overwrite files.
    #[arg(long)]
    pub force: bool,
}

/// What to repair, and with what.
#[derive(Debug, Args)]
pub struct RepairArguments {
    /// A partition's directory.
    pub path: PathBuf,
    /// The same partition's directory of another replica, or a backup. Only read; no broker may be writing to it.
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// Say what would be done.
    #[arg(long, requires = "from")]
    pub dry_run: bool,
}

/// What is taken out of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExtractForm {
    /// The payload and nothing else: into a directory, or of one message.
    Payload,
    /// One JSON object a line, as `dump` has it, with the payload in base64.
    Json,
    /// The frames that hold the messages, whole, as they lie in the segment.
    Frames,
}

/// How a found message is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GrepFormat {
    /// As `dump` prints it.
    Text,
    /// As `dump --format json` prints it.
    Json,
    /// Topic, space, payload, as `mosquitto_sub -v` does: for terminals that can take it.
    Mosquitto,
}

/// What to derive again.
#[derive(Debug, Args)]
pub struct RebuildArguments {
    /// A data directory, or a partition's directory.
    pub path: PathBuf,
    /// Compare only, write nothing.
    #[arg(long)]
    pub verify: bool,
    /// One JSON object for each partition.
    #[arg(long)]
    pub json: bool,
}

/// Which state to print.
#[derive(Debug, Args)]
pub struct StateArguments {
    /// A data directory, or a partition's directory.
    pub path: PathBuf,
    /// As of when: end, an offset, timestamp=<ms>, or an RFC 3339 time; each with the records of that offset or time.
    #[arg(long, value_name = "POSITION", default_value = "end")]
    pub at: To,
    /// The session of this client id, and its wills.
    #[arg(long, value_name = "CLIENT_ID", conflicts_with_all = ["queue", "group", "retained"])]
    pub session: Option<String>,
    /// The queue of this name, and its groups.
    #[arg(long, value_name = "NAME", conflicts_with = "retained")]
    pub queue: Option<String>,
    /// The groups of this name: of the queue, when that is given too.
    #[arg(long, value_name = "NAME", conflicts_with = "retained")]
    pub group: Option<String>,
    /// The retained messages of topics that match this filter.
    #[arg(long, value_name = "FILTER")]
    pub retained: Option<String>,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// How to print payloads of retained messages.
    #[arg(long, value_enum, default_value_t = PayloadFormat::Text)]
    pub payload: PayloadFormat,
}

impl StateArguments {
    /// Returns true when one thing is asked for, not all of them.
    pub fn is_selective(&self) -> bool {
        let named = [&self.session, &self.queue, &self.group, &self.retained];
        named.into_iter().any(Option::is_some)
    }
}

/// How a record is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// How a payload is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PayloadFormat {
    /// As text; what is not UTF-8 is escaped, or base64 in JSON.
    Text,
    /// As hexadecimal digits.
    Hex,
    /// As base64.
    Base64,
}

/// Where to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At the oldest record.
    Earliest,
    /// At an offset.
    Offset(Offset),
    /// At the first record of this log time or later, in milliseconds since the Unix epoch.
    Time(u64),
}

/// Why a range is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected two offsets like 100..200: from the first on, before the second")]
pub struct RangeError;

fn parse_range(text: &str) -> Result<OffsetRange, RangeError> {
    let parse = |text: &str| text.parse().map(Offset).map_err(|_| RangeError);
    let (start, end) = text.split_once("..").ok_or(RangeError)?;
    Ok(parse(start)?..parse(end)?)
}

fn parse_filter(text: &str) -> Result<String, AddressError> {
    Filter::new(Bytes::from(text.to_owned())).map(|_| text.to_owned())
}

fn parse_regex(text: &str) -> Result<Regex, regex::Error> {
    // Payloads are bytes, and what is not UTF-8 must be found too.
    RegexBuilder::new(text).unicode(false).build()
}

/// Why a position is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected earliest, an offset, timestamp=<ms> or a time like 2026-11-21T08:00:00Z")]
pub struct FromError;

impl FromStr for From {
    type Err = FromError;

    fn from_str(text: &str) -> Result<From, FromError> {
        if text == "earliest" {
            return Ok(From::Earliest);
        }
        if let Some(ms) = text.strip_prefix("timestamp=") {
            return ms.parse().map(From::Time).map_err(|_| FromError);
        }
        let number = text.strip_prefix("offset=").unwrap_or(text);
        if let Ok(offset) = number.parse() {
            return Ok(From::Offset(Offset(offset)));
        }
        time::parse_rfc3339(text).map(From::Time).ok_or(FromError)
    }
}

/// Why a place is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected end, an offset, timestamp=<ms> or a time like 2026-11-21T08:00:00Z")]
pub struct ToError;

impl FromStr for To {
    type Err = ToError;

    fn from_str(text: &str) -> Result<To, ToError> {
        if text == "end" {
            return Ok(To::End);
        }
        match text.parse() {
            Ok(From::Offset(offset)) => Ok(To::Offset(offset)),
            Ok(From::Time(time)) => Ok(To::Time(time)),
            Ok(From::Earliest) | Err(FromError) => Err(ToError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_as_of_the_end_an_offset_or_a_time() {
        assert_eq!("end".parse(), Ok(To::End));
        assert_eq!("17".parse(), Ok(To::Offset(Offset(17))));
        assert_eq!("timestamp=5".parse(), Ok(To::Time(5)));
        for wrong in ["", "earliest", "now"] {
            assert_eq!(wrong.parse::<To>(), Err(ToError), "{wrong}");
        }
    }

    #[test]
    fn positions_are_read_as_documented() {
        assert_eq!("earliest".parse(), Ok(From::Earliest));
        assert_eq!("17".parse(), Ok(From::Offset(Offset(17))));
        assert_eq!("offset=17".parse(), Ok(From::Offset(Offset(17))));
        assert_eq!("timestamp=1700000000000".parse(), Ok(From::Time(1_700_000_000_000)));
        assert_eq!("1970-01-01T00:00:01.5Z".parse(), Ok(From::Time(1_500)));
        for wrong in ["", "latest", "-1", "timestamp=", "1970-01-01"] {
            assert_eq!(wrong.parse::<From>(), Err(FromError), "{wrong}");
        }
    }

    #[test]
    fn the_arguments_are_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }
}
