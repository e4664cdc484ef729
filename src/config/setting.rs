//! How one value is written, read and bounded.
//!
//! A setting borrows the field it stands for. Reading fails only where the text means nothing for the field's type; bounds are
//! checked on the value, so that a configuration built in code obeys them too.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// What is wrong with a value and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub problem: String,
    pub remedy: String,
}

/// A field that holds one value.
pub(super) trait Setting {
    /// Replaces the value by what `text` says.
    fn read(&mut self, text: &str) -> Result<(), Complaint>;
    /// Checks the value against its bounds.
    fn check(&self) -> Result<(), Complaint>;
    /// Writes the value as YAML that `read` takes back.
    fn show(&self) -> String;
    /// Says what is accepted, for people.
    fn accepts(&self) -> String;
}

/// A whole number.
pub(super) struct Number<'a, T>(pub &'a mut T, pub RangeInclusive<u64>);

/// A size in bytes: a whole number, or one with KiB, MiB, GiB or TiB behind it.
pub(super) struct Size<'a, T>(pub &'a mut T, pub RangeInclusive<u64>);

/// `true` or `false`.
pub(super) struct Flag<'a>(pub &'a mut bool);

/// A directory.
pub(super) struct Location<'a>(pub &'a mut PathBuf);

/// A file that must be named.
pub(super) struct File<'a>(pub &'a mut PathBuf);

/// A file that may be left out; written as an empty text then.
pub(super) struct OptionalFile<'a>(pub &'a mut Option<PathBuf>);

/// The path of a URL.
pub(super) struct UrlPath<'a>(pub &'a mut String);

/// `same_host`, `any`, or a list of origins with commas between.
pub(super) struct Origins<'a>(pub &'a mut String);

/// An IP address and a port.
pub(super) struct Address<'a>(pub &'a mut SocketAddr);

/// Any text, and what it means.
pub(super) struct Text<'a>(pub &'a mut String, pub &'static str);

/// What to log: a level, and levels for parts of the program behind it.
pub(super) struct LogFilter<'a>(pub &'a mut String);

/// One of a few names.
pub(super) struct Choice<'a, T>(pub &'a mut T);

/// The names that a [`Choice`] knows.
pub(super) trait Named: Copy + PartialEq + 'static {
    /// Every value with its name.
    const NAMES: &'static [(&'static str, Self)];
    /// What to write instead of a name that is nearly one of them but means something unsafe or unclear.
    fn hint(_text: &str) -> Option<&'static str> {
        None
    }
}

impl<T: TryFrom<u64> + Copy + Into<u64>> Setting for Number<'_, T> {
    fn read(&mut self, text: &str) -> Result<(), Complaint> {
        let Ok(number) = text.parse::<u64>() else {
            return Err(complaint(format!("'{text}' is not a whole number"), self.accepts()));
        };
        let fits = T::try_from(number).map_err(|_| out_of_bounds(text, &self.1, decimal))?;
        *self.0 = fits;
        Ok(())
    }

    fn check(&self) -> Result<(), Complaint> {
        let number: u64 = (*self.0).into();
        if self.1.contains(&number) {
            return Ok(());
        }
        Err(out_of_bounds(&number.to_string(), &self.1, decimal))
    }

    fn show(&self) -> String {
        decimal((*self.0).into())
    }

    fn accepts(&self) -> String {
        between(&self.1, decimal)
    }
}

impl<T: TryFrom<u64> + Copy + Into<u64>> Setting for Size<'_, T> {
    fn read(&mut self, text: &str) -> Result<(), Complaint> {
        let Some(bytes) = parse_size(text) else {
            let accepts = format!("{}, in bytes or as 64 KiB, 1 MiB, 2 GiB", self.accepts());
            return Err(complaint(format!("'{text}' is not a size"), accepts));
        };
        let fits = T::try_from(bytes).map_err(|_| out_of_bounds(text, &self.1, size))?;
        *self.0 = fits;
        Ok(())
    }

    fn check(&self) -> Result<(), Complaint> {
        let bytes: u64 = (*self.0).into();
        if self.1.contains(&bytes) {
            return Ok(());
        }
        Err(out_of_bounds(&size(bytes), &self.1, size))
    }

    fn show(&self) -> String {
        size((*self.0).into())
    }

    fn accepts(&self) -> String {
        between(&self.1, size)
    }
}

impl Setting for Flag<'_> {
    fn read(&mut self, text: &str) -> Result<(), Complaint> {
        *self.0 = match text {
            "true" => true,
            "false" => false,
            _ => {
                return Err(complaint(
                    format!("'{text}' is neither true nor false"),
                    self.accepts(),
                ));
            }
        };
        Ok(())
    }

    fn check(&self) -> Result<(), Complaint> {
        Ok(())
    }

    fn show(&self) -> String {
        self.0.to_string()
    }

    fn accepts(&self) -> String {
        "true or false".to_owned()
    }
}

impl Setting for Location<'_> {
    fn read(&mut self, text: &str) -> Result<(), Complaint> {
        *self.0 = PathBuf::from(text);
        Ok(())
    }

    fn check(&self) -> Result<(), Complaint> {
        if self.0.as_os_str().is_empty() {
            return Err(complaint("is empty", self.accepts()));
        }
        Ok(())
    }

    fn show(&self) -> String {
        quoted(&self.0.to_string_lossy())
    }

    fn accepts(&self) -> String {
        "a directory".to_owned()
    }
}

impl Setting for File<'_> {
    fn read(&mut self, text: &str) -> Result<(), Complaint> {
        *self.0 = PathBuf::from(text);
        Ok(())
    }

    fn check(&self) -> Result<(), Complaint> {
        if self.0.as_os_str().is_empty() {
            return Err(complaint("is needed", self.accepts()));
        }
        Ok(())
    }

    fn show(&self) -> String {
        quoted(&self.0.to_string_lossy())
    }

    fn accepts(&self) -> String {
        "a PEM file".to_owned()
    }
}

impl Setting for OptionalFile<'_> {
    fn read(&mut self, text: &str) -> Result<(), Complaint> {
        *self.0 = (!text.is_empty()).then(|| PathBuf::from(text));
        Ok(())
    }

    fn check(&self) -> Result<(), Complaint> {
        Ok(())
    }

    fn show(&self) -> String {
        quoted(&self.0.as_deref().unwrap_or("".as_ref()).to_string_lossy())
    }

    fn accepts(&self) -> String {
        "a file, or nothing".to_owned()
    }
}

impl Setting for UrlPath<'_> {
    fn read(&mut self, text: &str) -> Result<(), Complaint> {
        *self.0 = text.to_owned();
        Ok(())
    }

    fn check(&self) -> Result<(), Complaint> {
        let is_clean = |byte: u8| byte.is_ascii_graphic() && !b"?#\"".contains(&byte);
        match self.0.starts_with('/') && self.0.bytes().all(is_clean) {
            true => Ok(()),
            false => Err(complaint(format!("'{}' is not a path", self.0), self.accepts())),
        }
    }

    fn show(&self) -> String {
        quoted(self.0)
    }

    fn accepts(&self) -> String {
        "a path that begins with /".to_owned()
    }
}

impl Setting for Origins<'_> {
    fn read(&mut self, text: &str) -> Result<(), Complaint> {
        *self.0 = text.to_owned();
        Ok(())
    }

    fn check(&self) -> Result<(), Complaint> {
        if matches!(self.0.as_str(), "same_host" | "any") {
            return Ok(());
        }
        for origin in self.0.split(',').map(str::trim) {
            let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            if !host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '*', ' '])) {
                return Err(complaint(format!("'{origin}' is not an origin"), self.accepts()));
            }
        }
        Ok(())
    }

    fn show(&self) -> String {
        quoted(self.0)
    }

    fn accepts(&self) -> String {
        "same_host, any, or origins such as https://app.example with commas between".to_owned()
    }
}

impl Setting for Text<'_> {
    fn read(&mut self, text: &str) -> Result<(), Complaint> {
        *self.0 = text.to_owned();
        Ok(())
    }

    fn check(&self) -> Result<(), Complaint> {
        Ok(())
    }

    fn show(&self) -> String {
        quoted(self.0)
    }

    fn accepts(&self) -> String {
        self.1.to_owned()
    }
}

impl Setting for Address<'_> {
    fn read(&mut self, text: &str) -> Result<(), Complaint> {
        let address = text.parse().map_err(|_| {
            complaint(format!("'{text}' is not an IP address with a port"), self.accepts())
        })?;
        *self.0 = address;
        Ok(())
    }

    fn check(&self) -> Result<(), Complaint> {
        Ok(())
    }

    fn show(&self) -> String {
        quoted(&self.0.to_string())
    }

    fn accepts(&self) -> String {
        "an address such as 127.0.0.1:1883, 0.0.0.0:1883 or [::]:1883".to_owned()
    }
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl Setting for LogFilter<'_> {
    fn read(&mut self, text: &str) -> Result<(), Complaint> {
        *self.0 = text.to_owned();
        Ok(())
    }

    fn check(&self) -> Result<(), Complaint> {
        for (index, part) in self.0.split(',').enumerate() {
            let level = match part.split_once('=') {
                Some((target, level)) if index > 0 && !target.is_empty() => level,
                None if index == 0 => part,
                _ => return Err(complaint(format!("'{part}' is not a level"), self.accepts())),
            };
            if !LEVELS.contains(&level) {
                return Err(complaint(format!("'{level}' is not a level"), self.accepts()));
            }
        }
        Ok(())
    }

    fn show(&self) -> String {
        quoted(self.0)
    }

    fn accepts(&self) -> String {
        format!("{}, and target=level after commas", one_of(&LEVELS))
    }
}

impl<T: Named> Setting for Choice<'_, T> {
    fn read(&mut self, text: &str) -> Result<(), Complaint> {
        let Some((_, value)) = T::NAMES.iter().find(|(name, _)| *name == text) else {
            let accepts = T::hint(text).map_or_else(|| self.accepts(), str::to_owned);
            return Err(complaint(format!("'{text}' is not known here"), accepts));
        };
        *self.0 = *value;
        Ok(())
    }

    fn check(&self) -> Result<(), Complaint> {
        Ok(())
    }

    fn show(&self) -> String {
        let named = T::NAMES.iter().find(|(_, value)| value == self.0);
        named.expect("every value has a name").0.to_owned()
    }

    fn accepts(&self) -> String {
        let names: Vec<&str> = T::NAMES.iter().map(|(name, _)| *name).collect();
        one_of(&names)
    }
}

/// Makes a complaint whose remedy says what to write.
fn complaint(problem: impl Into<String>, accepts: String) -> Complaint {
    Complaint { problem: problem.into(), remedy: format!("write {accepts}") }
}

fn out_of_bounds(
    value: &str,
    bounds: &RangeInclusive<u64>,
    show: impl Fn(u64) -> String,
) -> Complaint {
    let beyond = if value_is_below(value, bounds) { "too small" } else { "too large" };
    complaint(format!("{value} is {beyond}"), between(bounds, show))
}

fn value_is_below(value: &str, bounds: &RangeInclusive<u64>) -> bool {
    parse_size(value).is_some_and(|number| number < *bounds.start())
}

fn between(bounds: &RangeInclusive<u64>, show: impl Fn(u64) -> String) -> String {
    format!("{} to {}", show(*bounds.start()), show(*bounds.end()))
}

fn one_of(names: &[&str]) -> String {
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

fn decimal(number: u64) -> String {
    number.to_string()
}

const UNITS: [(&str, u64); 4] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// Reads `4096` or `4 KiB`.
fn parse_size(text: &str) -> Option<u64> {
    for (unit, bytes) in UNITS {
        if let Some(count) = text.strip_suffix(unit) {
            return count.trim_end().parse::<u64>().ok()?.checked_mul(bytes);
        }
    }
    text.parse().ok()
}

/// Writes a size with the largest unit that divides it.
fn size(bytes: u64) -> String {
    match UNITS.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{} {name}", bytes / unit),
        None => bytes.to_string(),
    }
}

/// Writes a YAML string that nothing in it can end or expand.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_or_a_number_with_a_unit() {
        let cases =
            [("0", 0), ("512", 512), ("64 KiB", 65_536), ("1MiB", 1 << 20), ("3 GiB", 3 << 30)];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "KiB", "1 KB", "-1", "1.5 MiB", "99999999999 TiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_written_with_the_largest_exact_unit() {
        for (bytes, text) in [(0, "0"), (1000, "1000"), (65_536, "64 KiB"), (1 << 30, "1 GiB")] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_log_filter_begins_with_a_level() {
        for (text, good) in [
            ("info", true),
            ("warn,fluxmq::partition=debug", true),
            ("inof", false),
            ("fluxmq=debug", false),
            ("info,debug", false),
            ("info,fluxmq=loud", false),
            ("", false),
        ] {
            let mut value = text.to_owned();
            assert_eq!(LogFilter(&mut value).check().is_ok(), good, "{text}");
        }
    }

    #[test]
    fn a_number_that_does_not_fit_its_type_is_out_of_bounds_not_wrapped() {
        let mut value = 7u16;

        let complaint = Number(&mut value, 1..=9).read("65537").unwrap_err();

        assert_eq!(complaint.problem, "65537 is too large");
        assert_eq!(complaint.remedy, "write 1 to 9");
        assert_eq!(value, 7);
    }
}
