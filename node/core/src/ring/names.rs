//! Small values of the cluster document that need their own text form in JSON.
//!
//! A bucket name is any 1 to 255 bytes, so its text form escapes what JSON strings or readers would
//! garble; secrets and seeds are hexadecimal. Each text form is canonical: reading and writing again
//! gives the same bytes, since the hash of the document is taken over them.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;

/// A bucket's name: 1 to 255 bytes of any value. In JSON: printable ASCII except `%` as it is,
/// every other byte as `%XX`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketName(Box<[u8]>);

impl BucketName {
    /// A name from its bytes; none when it is empty or longer than 255 bytes.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (1..=255).contains(&bytes.len()).then(|| Self(bytes.into()))
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes().iter().copied();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'%' => hex_digit(rest.next()?)? << 4 | hex_digit(rest.next()?)?,
                _ => byte,
            });
        }
        let name = Self::new(&bytes)?;
        (name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in &self.0 {
            if (byte.is_ascii_graphic() || byte == b' ') && byte != b'%' {
                write!(out, "{}", byte as char)?;
            } else {
                write!(out, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for BucketName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "\"{self}\"")
    }
}

impl Serialize for BucketName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BucketName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom("a bucket name has 1 to 255 bytes, escaped as %XX outside ASCII")
        })
    }
}

/// The key with which this cluster signs its tokens: 32 bytes, hexadecimal in JSON, never shown in
/// logs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenSecret(pub [u8; 32]);

impl fmt::Debug for TokenSecret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("TokenSecret(hidden)")
    }
}

impl Serialize for TokenSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for TokenSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        from_hex(&text).map(Self).ok_or_else(|| D::Error::custom("expected 64 hexadecimal digits"))
    }
}

/// The ring's seed as 16 hexadecimal digits: JSON readers that hold numbers as floats would garble
/// it.
pub(super) mod hex_u64 {
    use super::*;

    pub fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_hex(&value.to_be_bytes()))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        from_hex(&text)
            .map(u64::from_be_bytes)
            .ok_or_else(|| D::Error::custom("expected 16 hexadecimal digits"))
    }
}

/// Lower-case hexadecimal text of some bytes.
pub(super) fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]])
        .map(char::from)
        .collect()
}

/// Bytes of a lower-case hexadecimal text of exactly twice as many digits.
pub(super) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N || digits.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
    }
    Some(bytes)
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bucket_names_have_one_text_form() {
        assert!(serde_json::from_str::<BucketName>("\"a%2fb\"").is_err(), "lower-case escape");
        assert!(serde_json::from_str::<BucketName>("\"%41\"").is_err(), "needless escape");
        assert!(serde_json::from_str::<BucketName>("\"\"").is_err());
        assert!(serde_json::from_str::<BucketName>("\"%4\"").is_err());
        assert_eq!(BucketName::new(b"a%\xff/").unwrap().to_string(), "a%25%FF/");
        assert_eq!(BucketName::new(&[0; 256]), None);
    }

    #[test]
    fn secrets_stay_out_of_debug_output() {
        assert!(!format!("{:?}", TokenSecret([7; 32])).contains("07"));
    }

    proptest! {
        #[test]
        fn bucket_names_come_back(bytes in prop::collection::vec(any::<u8>(), 1..=255)) {
            let name = BucketName::new(&bytes).unwrap();
            let text = serde_json::to_string(&name).unwrap();
            prop_assert_eq!(serde_json::from_str::<BucketName>(&text).unwrap(), name);
        }

        #[test]
        fn hex_comes_back(bytes: [u8; 32]) {
            prop_assert_eq!(from_hex::<32>(&to_hex(&bytes)), Some(bytes));
        }
    }
}
