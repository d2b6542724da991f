//! `jiexi decode`: one message to JSON.

use std::io::Read;

use clap::Args;

use super::{Failed, output};

/// The longest input: a message of the largest size in hexadecimal, with room for spaces and line ends.
const INPUT_MAX: u64 = 4 << 20;

/// Show one protocol message, given in hexadecimal, as JSON
///
/// The JSON has the fields envelope, header, body and credential. A message that is malformed is an error that names the
/// field and the byte where decoding stopped.
#[derive(Debug, Args)]
pub(super) struct Decode {
    /// The message in hexadecimal (spaces, colons and line ends are ignored), or - for standard input
    #[arg(value_name = "HEX|-")]
    message: String,
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
        let described = jiexi_proto::json::describe(&bytes).map_err(|error| {
            Failed::report(format_args!(
                "malformed message of {} bytes: {error}",
                bytes.len()
            ))
        })?;
        output::print_json(&described)
    }
}
