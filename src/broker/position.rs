//! Positions as users write them: `earliest`, `offset=5`, `-15m`, `2026-01-31T12:00:00Z` …

use crate::model::{Millis, Refusal};
use crate::partition::request::Position;
use fluxmq_index::Offset;

/// Reads a position; `now` is log time, for the relative ones.
pub fn parse(text: &str, now: Millis) -> Result<Position, Refusal> {
    let position = match text {
        "earliest" | "first" => Some(Position::Earliest),
        "latest" | "next" => Some(Position::Latest),
        "resume" => Some(Position::Resume),
        _ => parse_number(text, now),
    };
    position.ok_or_else(|| Refusal::Invalid {
        reason: format!(
            "'{text}' is no position: use earliest, latest, resume, an offset, offset=N, last=N, \
             timestamp=<ms>, an RFC 3339 time, or -15m, -2h, -7d"
        ),
    })
}

fn parse_number(text: &str, now: Millis) -> Option<Position> {
    if let Some(count) = text.strip_prefix("last=") {
        return count.parse().ok().map(Position::Last);
    }
    if let Some(time) = text.strip_prefix("timestamp=") {
        return time.parse().ok().map(|ms| Position::Time(Millis(ms)));
    }
    if let Some(ago) = text.strip_prefix('-') {
        return parse_ago(ago).map(|ms| Position::Time(Millis(now.0.saturating_sub(ms))));
    }
    if text.contains('T') {
        return parse_rfc3339(text).map(|ms| Position::Time(Millis(ms)));
    }
    let offset = text.strip_prefix("offset=").unwrap_or(text);
    offset.parse().ok().map(|offset| Position::At(Offset(offset)))
}

fn parse_ago(text: &str) -> Option<u64> {
    let unit = text.chars().last()?;
    let unit_ms: u64 = match unit {
        's' => 1000,
        'm' => 60_000,
        'h' => 3_600_000,
        'd' => 86_400_000,
        _ => return None,
    };
    text[..text.len() - 1].parse::<u64>().ok()?.checked_mul(unit_ms)
}

/// Reads an RFC 3339 time as milliseconds since the epoch.
fn parse_rfc3339(text: &str) -> Option<u64> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_understood() {
        let now = Millis(10_000_000);
        let cases = [
            ("earliest", Position::Earliest),
            ("latest", Position::Latest),
            ("resume", Position::Resume),
            ("7", Position::At(Offset(7))),
            ("offset=7", Position::At(Offset(7))),
            ("last=3", Position::Last(3)),
            ("timestamp=1000", Position::Time(Millis(1000))),
            ("-15m", Position::Time(Millis(10_000_000 - 900_000))),
            ("1970-01-02T00:00:00Z", Position::Time(Millis(86_400_000))),
            ("2024-02-29T12:30:15.250+02:00", Position::Time(Millis(1_709_202_615_250))),
        ];
        for (text, position) in cases {
            assert_eq!(parse(text, now), Ok(position), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_forms_there_are() {
        for text in ["", "soon", "offset=", "-15", "-x", "2024-13-01T00:00:00Z", "last=-1", "1T2"] {
            let refusal = parse(text, Millis(0)).expect_err(text);
            assert!(refusal.to_string().contains("use earliest"), "{text}");
        }
    }
}
