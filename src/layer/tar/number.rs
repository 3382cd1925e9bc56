//! Numbers as tar writes them: octal or base-256 in the fields of a header, decimal in extended headers.
//!
//! A value is given as it was written or refused: nothing wraps, nothing is cut off, and no text counts as zero
//! except an empty field, where the reader of the field says so.

use crate::base::{Error, ErrorKind, Result};
use crate::layer::Timestamp;

/// First byte of a field that holds a number of zero or more, big endian, in the bytes after it.
const BASE_256: u8 = 0x80;
/// The same for a negative number in two's complement.
const BASE_256_NEGATIVE: u8 = 0xff;

/// The number in a header's field; none if the field is empty.
///
/// # Errors
/// `Invalid` for anything that is not one number: also for what GNU tar and other readers take in different ways.
pub(super) fn header_number(field: &[u8]) -> Result<Option<i128>> {
    match field.split_first() {
        None => Ok(None),
        // Fields have twelve bytes at most, so the value fits with room to spare.
        Some((&BASE_256, digits)) => Ok(Some(base_256(0, digits))),
        Some((&BASE_256_NEGATIVE, digits)) => Ok(Some(base_256(-1, digits))),
        Some(_) => octal(field),
    }
}

fn base_256(start: i128, digits: &[u8]) -> i128 {
    digits.iter().fold(start, |value, digit| (value << 8) | i128::from(*digit))
}

/// Spaces, octal digits, then spaces up to a NUL or the end. What stands after the NUL does not count.
fn octal(field: &[u8]) -> Result<Option<i128>> {
    let malformed =
        || Error::new(ErrorKind::Invalid, format!("a number reads {:?}", String::from_utf8_lossy(field)));
    let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
    // Some readers step over a leading NUL and others stop at it.
    if text.is_empty() && field.iter().any(|byte| *byte != 0) {
        return Err(malformed());
    }
    let digits = text.trim_ascii();
    if digits.is_empty() {
        return Ok(None);
    }
    let mut value = 0;
    for digit in digits {
        let (b'0'..=b'7') = digit else { return Err(malformed()) };
        value = value * 8 + i128::from(digit - b'0');
    }
    Ok(Some(value))
}

/// A decimal number without sign, as extended headers hold sizes and owners.
///
/// # Errors
/// `Invalid` for anything else and for what does not fit.
pub(super) fn decimal(text: &[u8]) -> Result<u64> {
    let value = std::str::from_utf8(text)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok());
    value.ok_or_else(|| {
        let shown = String::from_utf8_lossy(&text[..text.len().min(40)]).into_owned();
        Error::new(ErrorKind::Invalid, format!("{shown:?} is no number of 64 bits"))
    })
}

/// Seconds with an optional sign and fraction. What is finer than a nanosecond is rounded down, before 1970 too, as
/// GNU tar does.
///
/// # Errors
/// `Invalid` for anything else and for seconds beyond 64 bits.
pub(super) fn time(text: &[u8]) -> Result<Timestamp> {
    parse_time(text).ok_or_else(|| {
        let shown = String::from_utf8_lossy(&text[..text.len().min(40)]).into_owned();
        Error::new(ErrorKind::Invalid, format!("{shown:?} is no time in seconds"))
    })
}

fn parse_time(text: &[u8]) -> Option<Timestamp> {
    let (is_negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next().filter(|whole| !whole.is_empty())?).ok()?).ok()?;
    let fraction = match parts.next() {
        Some(fraction) if fraction.is_empty() || !fraction.iter().all(u8::is_ascii_digit) => return None,
        Some(fraction) => fraction,
        None => b"",
    };
    let (shown, finer) = fraction.split_at(fraction.len().min(9));
    let mut nanoseconds = 0;
    for place in 0..9 {
        nanoseconds = nanoseconds * 10 + shown.get(place).map_or(0, |digit| u32::from(digit - b'0'));
    }
    if !is_negative {
        return Some(Timestamp { seconds, nanoseconds });
    }
    nanoseconds += u32::from(finer.iter().any(|digit| *digit != b'0'));
    match nanoseconds {
        0 => Some(Timestamp { seconds: -seconds, nanoseconds }),
        _ => {
            Some(Timestamp { seconds: (-seconds).checked_sub(1)?, nanoseconds: 1_000_000_000 - nanoseconds })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_whole_or_refused() {
        let read = |field: &[u8]| header_number(field).map_err(|error| error.to_string());
        assert_eq!(read(b"0000644\0"), Ok(Some(0o644)));
        assert_eq!(read(b"   644 \0"), Ok(Some(0o644)));
        assert_eq!(read(b"77777777"), Ok(Some(0o77_777_777)));
        assert_eq!(read(b"7\0garbage"), Ok(Some(7)));
        assert_eq!(read(b"        "), Ok(None));
        assert_eq!(read(&[0; 8]), Ok(None));
        assert_eq!(read(b"\x80\0\0\0\0\0\0\0\0\0\x01\0"), Ok(Some(256)));
        assert_eq!(read(&[0xff; 12]), Ok(Some(-1)));
        // Nothing wraps around 64 bits.
        assert_eq!(read(b"\x80\0\0\x01\0\0\0\0\0\0\0\0"), Ok(Some(1 << 64)));
        for field in [
            b"+7\0\0".as_slice(),
            b"-7\0\0",
            b"8\0\0\0",
            b"7 7\0",
            b"\x007\0\0",
            b"\x90\0\0\0",
            b"0x1\0",
            b"1_0\0",
        ] {
            assert!(header_number(field).is_err(), "{field:?}");
        }
    }

    #[test]
    fn decimals_have_digits_and_nothing_else() {
        assert_eq!(decimal(b"18446744073709551615").unwrap(), u64::MAX);
        for text in ["", "+1", "-1", " 1", "1 ", "1\0", "0x1", "1.0", "18446744073709551616", "\u{661}"] {
            assert!(decimal(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn times_keep_nanoseconds_and_round_down() {
        let read = |text: &str| time(text.as_bytes()).map(|time| (time.seconds, time.nanoseconds)).ok();
        assert_eq!(read("1"), Some((1, 0)));
        assert_eq!(read("1.5"), Some((1, 500_000_000)));
        assert_eq!(read("1.0000000019"), Some((1, 1)));
        assert_eq!(read("-1.5"), Some((-2, 500_000_000)));
        assert_eq!(read("-0.25"), Some((-1, 750_000_000)));
        assert_eq!(read("-0.0000000001"), Some((-1, 999_999_999)));
        assert_eq!(read("-1.9999999999"), Some((-2, 0)));
        assert_eq!(read("-7"), Some((-7, 0)));
        assert_eq!(read("9223372036854775807"), Some((i64::MAX, 0)));
        for text in ["", "-", ".5", "1.", "1.-5", "1e3", "+1", "1.5.5", "9223372036854775808", "nan"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
