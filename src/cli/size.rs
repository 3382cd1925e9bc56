//! Sizes as people write them: `50GiB`, `500MB`, `1073741824`, and for the free-space floor also `5%`.
//!
//! `KiB`, `MiB`, … count in powers of 1024 and `kB`, `MB`, … in powers of 1000, as their standards say.

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let starts_with_digit = text.trim_start().starts_with(|first: char| first.is_ascii_digit());
        match text.parse::<ByteSize>() {
            Ok(size) if starts_with_digit => Ok(Self(size.as_u64())),
            _ => Err(format!("{text:?} is no size; write for example 50GiB, 500MB or 1073741824")),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", ByteSize::b(self.0).display().iec())
    }
}

/// How much of the file system stays free.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Floor {
    /// So many bytes.
    Bytes(u64),
    /// That part of the file system, in percent from 0 to 100.
    Percent(f64),
}

impl FromStr for Floor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(number) = text.strip_suffix('%') else {
            return text
                .parse::<Size>()
                .map(|size| Self::Bytes(size.0))
                .map_err(|error| format!("{error}, or a part of the file system such as 5%"));
        };
        match number.trim().parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Self::Percent(percent)),
            _ => Err(format!("{text:?} is no percentage from 0% to 100%")),
        }
    }
}

impl fmt::Display for Floor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Exact, since it is also how the floor travels to the owner process.
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("50GiB", 50 << 30),
            ("50 GiB", 50 << 30),
            ("1.5KiB", 1536),
            ("2MB", 2_000_000),
            ("1tib", 1 << 40),
        ] {
            assert_eq!(text.parse::<Size>(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "GiB", "-1", "12 parsecs", "1e9GiB!", "5%"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        assert_eq!(Size(3 << 30).to_string(), "3.0 GiB");
    }

    #[test]
    fn floors_are_sizes_or_percentages() {
        assert_eq!("5%".parse(), Ok(Floor::Percent(5.0)));
        assert_eq!("0.5 %".parse(), Ok(Floor::Percent(0.5)));
        assert_eq!("1GiB".parse(), Ok(Floor::Bytes(1 << 30)));
        for text in ["101%", "-1%", "%", "NaN%", "five"] {
            assert!(text.parse::<Floor>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_floor_survives_being_handed_on_as_text() {
        for floor in [Floor::Percent(2.5), Floor::Bytes(12345)] {
            assert_eq!(floor.to_string().parse(), Ok(floor));
        }
    }
}
