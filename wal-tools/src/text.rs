//! Bytes that others chose, made fit to print.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Returns bytes as text in which nothing can move the cursor or break the line.
///
/// Control characters, backslashes and what is not UTF-8 are escaped as in a string literal.
pub fn escaped(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => out.push_str("\\\\"),
                _ if is_unsafe(character) => out.extend(character.escape_default()),
                _ => out.push(character),
            }
        }
        for byte in chunk.invalid() {
            put(&mut out, format_args!("\\x{byte:02x}"));
        }
    }
    out
}

/// Returns bytes as text in quotes.
pub fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", escaped(bytes).replace('"', "\\\""))
}

/// Returns bytes as two hexadecimal digits each.
pub fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        put(&mut out, format_args!("{byte:02x}"));
    }
    out
}

/// Returns bytes as padded base64 (RFC 4648 §4).
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Returns a number of bytes for people: `1.5 MiB`.
pub fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = bytes as f64;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < units.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{scaled:.1} {}", units[unit]) }
}

/// Control characters, and those that reorder or hide what stands beside them.
fn is_unsafe(character: char) -> bool {
    let hides = matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}');
    character.is_control() || hides || matches!(character, '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_break_the_line_or_move_the_cursor() {
        assert_eq!(escaped(b"a\n\x1b[2J\\"), r"a\n\u{1b}[2J\\");
        assert_eq!(escaped("ä\u{202e}".as_bytes()), r"ä\u{202e}");
        assert_eq!(escaped(b"a\xffb"), r"a\xffb");
        assert_eq!(quoted(b"say \"a\""), r#""say \"a\"""#);
    }

    #[test]
    fn sizes_are_rounded_to_their_unit() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(3 << 40), "3.0 TiB");
    }

    #[test]
    fn base64_and_hex_are_the_usual_ones() {
        assert_eq!(base64(b"any carnal pleas"), "YW55IGNhcm5hbCBwbGVhcw==");
        assert_eq!(hex(&[0, 255, 16]), "00ff10");
    }
}
