//! Records as JSON: the shape of the Handle JSON REST API, in files (one handle a line) and in answers.
//!
//! A line of a file is one of three:
//!
//! ```text
//! {"handle":"88.118.1/a","values":[{"index":1,"type":"URL","data":{"format":"string","value":"…"},"ttl":86400,
//!                                   "timestamp":"2023-11-14T22:13:20Z"}]}
//! {"handle":"88.118.1/a","values_hex":["000000016553f1…"]}     each value in wire form
//! {"prefix":"88.118.1"}                                        a homed prefix: this node answers for it
//! ```
//!
//! * [`mod@line`] — lines of files, both ways.
//! * [`value`] — one value, both ways; what is not said has the usual meaning: `ttl` 86400, `timestamp` now,
//!   `permissions` "1110" (admin read, admin write, public read, not public write), no `references`.
//! * [`data`] — the data of a value: `string`, `base64`, `hex`, `admin`, `vlist`, `site`, `key`.
//! * [`direct`] — a value as text straight from its wire form, for many at a time.
//!
//! Writing never loses: data whose JSON form would not read back as the same bytes become base64, and a record that has
//! no JSON form at all is written as `values_hex`.

pub mod data;
pub mod direct;
pub mod key;
pub mod line;
pub mod site;
pub mod value;

use std::fmt;

/// What is wrong with a piece of JSON: where inside it, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    /// The field, such as `values[2].data.value`; empty: the whole.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl JsonError {
    /// A problem with `field`.
    pub(crate) fn new(field: impl Into<String>, message: impl fmt::Display) -> Self {
        Self {
            field: field.into(),
            message: message.to_string(),
        }
    }

    /// The same problem seen from outside: `prefix` stands before the field.
    pub(crate) fn within(mut self, prefix: &str) -> Self {
        self.field = match self.field.as_str() {
            "" => prefix.to_owned(),
            field => format!("{prefix}.{field}"),
        };
        self
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for JsonError {}

#[cfg(test)]
mod tests;
