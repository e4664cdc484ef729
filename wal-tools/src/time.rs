//! Log time, milliseconds since the Unix epoch, to and from RFC 3339 text.
//!
//! The calendar is the proleptic Gregorian one without leap seconds, as log time has it.

const MS_PER_DAY: i64 = 86_400_000;
const DAYS_PER_400_YEARS: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAY: i64 = 719_468;

/// Returns a time as `2026-11-21T08:00:00.123Z`.
///
/// Years above 9999 have more digits, which RFC 3339 does not allow but nobody misreads.
pub fn to_rfc3339(ms: u64) -> String {
    let days = (ms / MS_PER_DAY as u64) as i64;
    let ms = ms % MS_PER_DAY as u64;
    let (year, month, day) = date(days);
    let (second, ms) = (ms / 1000, ms % 1000);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Reads an RFC 3339 time; `None` for anything else, and for times before 1970.
///
/// Digits below the millisecond are dropped.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let (clock, offset_minutes) = split_zone(text)?;
    let (date, clock) = clock.split_once(['T', 't', ' '])?;
    let [year, month, day] = fields(date, '-', [4, 2, 2])?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [hour, minute, second] = fields(clock, ':', [2, 2, 2])?;
    let is_date = (1..=12).contains(&month) && (1..=days_in_month(year, month)).contains(&day);
    if !is_date || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let ms: i64 = format!("{fraction:0<3}")[..3].parse().ok()?;
    let second = (hour * 60 + minute - offset_minutes) * 60 + second;
    let time = days_since_epoch(year, month, day) * MS_PER_DAY + second * 1000 + ms;
    u64::try_from(time).ok()
}

/// Splits the zone from the end of a time and returns it in minutes east of UTC.
fn split_zone(text: &str) -> Option<(&str, i64)> {
    if let Some(clock) = text.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let at = text.len().checked_sub(6).filter(|&at| text.is_char_boundary(at))?;
    let (clock, zone) = text.split_at(at);
    let sign = match zone.as_bytes()[0] {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let [hours, minutes] = fields(&zone[1..], ':', [2, 2])?;
    (hours < 24 && minutes < 60).then_some((clock, sign * (hours * 60 + minutes)))
}

/// Reads numbers of the given widths.
fn fields<const N: usize>(text: &str, separator: char, widths: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; N];
    for (number, width) in numbers.iter_mut().zip(widths) {
        let part = parts.next().filter(|part| part.len() == width)?;
        let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
        *number = part.parse().ok().filter(|_| is_number)?;
    }
    parts.next().is_none().then_some(numbers)
}

/// Returns year, month and day of a day counted from 1970-01-01.
///
/// Years are counted from March, so that the leap day is the last.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH_DAY;
    let era = days.div_euclid(DAYS_PER_400_YEARS);
    let day = days.rem_euclid(DAYS_PER_400_YEARS);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * day + 2) / 153;
    let day = day - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

/// The inverse of [`date`].
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let day = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * DAYS_PER_400_YEARS + year * 365 + year / 4 - year / 100 + day - EPOCH_DAY
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_times_are_written_and_read() {
        let known = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ];
        for (ms, text) in known {
            assert_eq!(to_rfc3339(ms), text);
            assert_eq!(parse_rfc3339(text), Some(ms));
        }
    }

    #[test]
    fn zones_and_fractions_count() {
        assert_eq!(parse_rfc3339("1970-01-01T01:00:00+01:00"), Some(0));
        assert_eq!(parse_rfc3339("1969-12-31T23:30:00-00:30"), Some(0));
        assert_eq!(parse_rfc3339("1970-01-01 00:00:00.0019Z"), Some(1));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let wrong = [
            "1970-01-01T00:00:00",
            "2023-02-29T00:00:00Z",
            "2023-13-01T00:00:00Z",
            "2023-00-01T00:00:00Z",
            "2023-01-01T24:00:00Z",
            "2023-01-01T00:00:00.Z",
            "2023-1-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "+023-01-01T00:00:00Z",
            "2023-01-01T00:00:00+24:00",
            "ä",
        ];
        for text in wrong {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_time_survives_the_round_trip(ms in 0..253_402_300_800_000u64) {
            prop_assert_eq!(parse_rfc3339(&to_rfc3339(ms)), Some(ms));
        }

        #[test]
        fn a_later_time_is_a_greater_text(ms in 0..253_402_200_800_000u64, more in 1..100_000_000u64) {
            prop_assert!(to_rfc3339(ms) < to_rfc3339(ms + more));
        }
    }
}
