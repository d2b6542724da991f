//! `jiexi decode`: one message to JSON.

use std::io::Read;

use clap::Args;

use serde_json::Value as Json;

use super::{Failed, output};
use crate::registry::seal;

/// The longest input: a message of the largest size in hexadecimal, with room for spaces and line ends.
const INPUT_MAX: u64 = 4 << 20;

/// Show one protocol message, given in hexadecimal, as JSON
///
/// The JSON has the fields envelope, header, body and credential. A message that is malformed is an error that names the
/// field where decoding stopped, and its first octet, counted from the beginning of the part that it is in.
#[derive(Debug, Args)]
pub(super) struct Decode {
    /// The message in hexadecimal (spaces, colons and line ends are ignored), or - for standard input
    #[arg(value_name = "HEX|-")]
    message: String,
    /// Show secret values (HS_SECKEY) too
    #[arg(long)]
    with_secrets: bool,
}

impl Decode {
    pub(super) fn run(self) -> Result<(), Failed> {
        let mut text = self.message;
        if text == "-" {
            text.clear();
            let read = std::io::stdin().take(INPUT_MAX).read_to_string(&mut text);
            read.map_err(|error| Failed::report(format_args!("standard input: {error}")))?;
        }
        let digits: String = text
            .chars()
            .filter(|c| !c.is_whitespace() && *c != ':')
            .collect();
        let bytes = hex::decode(digits.strip_prefix("0x").unwrap_or(&digits)).map_err(|error| {
            Failed::report(format_args!("the message is not hexadecimal: {error}"))
        })?;
        let mut described = jiexi_proto::json::describe(&bytes).map_err(|error| {
            Failed::report(format_args!(
                "malformed message of {} bytes: {error}",
                bytes.len()
            ))
        })?;
        if !self.with_secrets {
            hide_secrets(&mut described);
        }
        output::print_json(&described)
    }
}

/// Takes the data of secret values out, wherever they stand.
fn hide_secrets(json: &mut Json) {
    match json {
        Json::Object(object) => {
            let kind = object.get("type").and_then(Json::as_str);
            if kind.is_some_and(|kind| seal::is_secret(kind.as_bytes())) {
                object.insert("data".into(), "secret: --with-secrets shows it".into());
                object.retain(|name, _| !name.starts_with("data_"));
            }
            object.values_mut().for_each(hide_secrets);
        }
        Json::Array(array) => array.iter_mut().for_each(hide_secrets),
        _ => {}
    }
}
