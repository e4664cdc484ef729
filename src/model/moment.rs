//! Points in time as users write them: `timestamp=1767225600000`, `-15m`, `2026-01-31T12:00:00Z`.

use super::Millis;

/// Reads a point in time; `now` is for those that are so long ago. `None` where it is none.
pub fn parse(text: &str, now: Millis) -> Option<Millis> {
    if let Some(time) = text.strip_prefix("timestamp=") {
        return time.parse().ok().map(Millis);
    }
    if let Some(ago) = text.strip_prefix('-') {
        return parse_ago(ago).map(|ms| Millis(now.0.saturating_sub(ms)));
    }
    text.contains('T').then(|| parse_rfc3339(text)).flatten().map(Millis)
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
