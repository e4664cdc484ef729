//! Positions as users write them: `earliest`, `offset=5`, `-15m`, `2026-01-31T12:00:00Z` …

use crate::model::{Millis, Refusal, moment};
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
    if let Some(time) = moment::parse(text, now) {
        return Some(Position::Time(time));
    }
    let offset = text.strip_prefix("offset=").unwrap_or(text);
    offset.parse().ok().map(|offset| Position::At(Offset(offset)))
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
