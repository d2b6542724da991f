//! Sizes as text, `"4MiB"`, in serde fields that hold bytes as `u64`. A bare number is refused: its unit would be a guess.

use std::str::FromStr;

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Writes bytes in the largest binary unit that loses nothing.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text(*bytes))
}

/// Reads `"4MiB"`, `"64 KiB"`, `"1GB"`.
///
/// # Errors
/// Not a text, or a text that is not a number with a unit.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer).map_err(|_| {
        D::Error::custom("expected a size in quotes with its unit, such as \"4MiB\"")
    })?;
    if text.trim_end().ends_with(|c: char| c.is_ascii_digit()) {
        return Err(D::Error::custom(format!(
            "size {text:?} has no unit; write for example \"{text}KiB\""
        )));
    }
    ByteSize::from_str(&text)
        .map(|size| size.as_u64())
        .map_err(|_| {
            D::Error::custom(format!(
                "{text:?} is not a size; write for example \"4MiB\""
            ))
        })
}

/// The shortest exact text of a number of bytes: `4MiB`, `1500B`.
#[must_use]
pub fn text(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ];
    UNITS
        .iter()
        .find(|(unit, _)| bytes != 0 && bytes.is_multiple_of(*unit))
        .map_or_else(
            || format!("{bytes}B"),
            |(unit, name)| format!("{}{name}", bytes / unit),
        )
}
