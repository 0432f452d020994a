//! Durations and sizes as people write them: `500ms`, `2s`, `5m`, `4MiB`, `64KiB`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A length of time. Text form: a whole number and `ms`, `s`, `m` or `h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub std::time::Duration);

/// A number of bytes. Text form: a whole number and `B`, `KiB`, `MiB` or `GiB`; a bare number is bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const DURATION_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
const SIZE_UNITS: [(&str, u64); 4] =
    [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl Duration {
    /// This many milliseconds.
    pub const fn from_millis(ms: u64) -> Self {
        Self(std::time::Duration::from_millis(ms))
    }

    /// Whole milliseconds.
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Size {
    /// As the platform counts memory.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text.trim(), &DURATION_UNITS).map(Self::from_millis).ok_or_else(|| {
            format!("`{text}` is no duration: write a whole number and ms, s, m or h, as in 500ms")
        })
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let bare = text.parse::<u64>().ok();
        bare.or_else(|| parse(text, &SIZE_UNITS)).map(Self).ok_or_else(|| {
            format!("`{text}` is no size: write a whole number and B, KiB, MiB or GiB, as in 4MiB")
        })
    }
}

fn show(value: u64, units: impl Iterator<Item = (&'static str, u64)>) -> Option<String> {
    units
        .into_iter()
        .find(|(_, f)| value.is_multiple_of(*f) && value > 0)
        .map(|(u, f)| format!("{}{u}", value / f))
}

impl fmt::Display for Duration {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = show(self.as_millis(), DURATION_UNITS.into_iter().rev());
        out.write_str(&text.unwrap_or_else(|| "0ms".to_string()))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&show(self.0, SIZE_UNITS.into_iter()).unwrap_or_else(|| "0B".to_string()))
    }
}

macro_rules! text_form {
    ($name:ident, $title:literal, $pattern:literal) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(Deserialize)]
                #[serde(untagged)]
                enum Form {
                    Number(u64),
                    Text(String),
                }
                let text = match Form::deserialize(deserializer)
                    .map_err(|_| D::Error::custom(concat!("expected a ", $title)))?
                {
                    Form::Number(number) => number.to_string(),
                    Form::Text(text) => text,
                };
                text.parse().map_err(D::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "title": $title })
            }
        }
    };
}

text_form!(Duration, "duration such as 500ms", r"^[0-9]+ ?(ms|s|m|h)$");
text_form!(Size, "size such as 4MiB", r"^[0-9]+ ?(B|KiB|MiB|GiB)?$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_come_back() {
        for text in ["500ms", "2s", "5m", "1h", "0ms"] {
            assert_eq!(text.parse::<Duration>().unwrap().to_string(), text);
        }
        for text in ["4MiB", "1KiB", "3B", "2GiB", "0B"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        assert_eq!("1024".parse::<Size>().unwrap(), Size(1024));
        assert_eq!("60000ms".parse::<Duration>().unwrap().to_string(), "1m");
    }

    #[test]
    fn nonsense_is_refused_with_the_form() {
        for text in ["", "5", "ms", "-1s", "1.5s", "99999999999999999999s", "18446744073709551615h"]
        {
            assert!(text.parse::<Duration>().unwrap_err().contains("500ms"), "{text}");
        }
        for text in ["", "MiB", "4MB", "1e3", "18446744073709551615GiB"] {
            assert!(text.parse::<Size>().unwrap_err().contains("4MiB"), "{text}");
        }
    }
}
