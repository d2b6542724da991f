//! `jiexi resolve`: ask a server, follow referrals, print the record.

use std::net::SocketAddr;

use bytes::Bytes;
use clap::Args;
use jiexi_proto::{
    code::ResponseCode,
    value::{Ttl, Value},
};
use serde_json::{Value as Json, json};

use super::{
    Failed,
    output::{self, Format},
    target,
};
use crate::{
    client::{Client, Hop, Place, Question, Reply, Transports},
    clock,
    json::{data, line, value},
};

/// Longest text of a value in a table; JSON has all of it.
const DATA_SHOWN: usize = 200;

/// Resolve a handle: ask a server, and follow referrals to the one that knows
///
/// Exit code 0: found; 3: no such handle, or none of its values match; 1: anything else.
#[derive(Debug, Args)]
pub(super) struct Resolve {
    /// The handle, such as 88.118.1/CNC-2026-001001
    handle: String,
    /// The server to begin with: address or name, with port 2641 unless another is given
    #[arg(long, short, default_value = "127.0.0.1:2641", value_name = "ADDR")]
    server: String,
    /// Use UDP alone
    #[arg(long, conflicts_with = "tcp")]
    udp: bool,
    /// Use TCP alone
    #[arg(long)]
    tcp: bool,
    /// Only values of this type; "URL." also takes URL.x. May be repeated; types and indexes are a union
    #[arg(long = "type", short = 't', value_name = "TYPE")]
    types: Vec<String>,
    /// Only the value of this index. May be repeated
    #[arg(long = "index", short = 'i', value_name = "N")]
    indexes: Vec<u32>,
    /// Demand a digest of the question in the answer, and check it
    #[arg(long)]
    digest: bool,
    /// Show on stderr which servers were asked
    #[arg(long)]
    trace: bool,
    /// Form of the answer
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

impl Resolve {
    pub(super) fn run(self) -> Result<(), Failed> {
        if self.handle.is_empty() {
            return Err(Failed::usage("the handle is empty"));
        }
        let transports = match (self.udp, self.tcp) {
            (true, _) => Transports::Udp,
            (_, true) => Transports::Tcp,
            _ => Transports::Any,
        };
        let mut client = Client::new(transports, clock::unix_seconds);
        client.digest = self.digest;
        let question = Question {
            handle: Bytes::from(self.handle.clone()),
            types: self
                .types
                .iter()
                .map(|kind| Bytes::from(kind.clone()))
                .collect(),
            indexes: self.indexes.clone(),
        };
        let server = self.server.clone();
        let resolved = target::block_on(async move {
            let place = Place::at(address(&server).await?);
            client
                .resolve(place, question)
                .await
                .map_err(Failed::report)
        })?;
        let (reply, hops) = resolved?;
        if self.trace {
            hops.iter().for_each(|hop| eprintln!("{}", trace_line(hop)));
        }
        self.print(&reply)
    }

    /// Prints the answer; its code decides how the command ends.
    fn print(&self, reply: &Reply) -> Result<(), Failed> {
        if self.output == Format::Json {
            output::print_json(&answer(&self.handle, reply))?;
        }
        match reply.code {
            ResponseCode::SUCCESS if self.output == Format::Table => output::print(&table(reply)),
            ResponseCode::SUCCESS => Ok(()),
            ResponseCode::HANDLE_NOT_FOUND => Err(Failed::not_found(format_args!(
                "{}: no such handle (code 100)",
                self.handle
            ))),
            ResponseCode::VALUES_NOT_FOUND => Err(Failed::not_found(format_args!(
                "{}: the handle has no value as asked for (code 200)",
                self.handle
            ))),
            code => {
                let said = if reply.message.is_empty() {
                    String::new()
                } else {
                    format!(": {}", reply.message)
                };
                Err(Failed::report(format_args!(
                    "{}: {} answered {} (code {}){said}",
                    self.handle,
                    reply.server,
                    code.name().unwrap_or("an unknown code"),
                    code.0
                )))
            }
        }
    }
}

/// The address of a server given as `ADDR`, `ADDR:PORT`, `NAME` or `NAME:PORT`.
async fn address(server: &str) -> Result<SocketAddr, Failed> {
    if let Ok(address) = server.parse::<SocketAddr>() {
        return Ok(address);
    }
    if let Ok(address) = server.trim_matches(['[', ']']).parse() {
        return Ok(SocketAddr::new(address, DEFAULT_PORT));
    }
    let named = if server.contains(':') {
        server.to_owned()
    } else {
        format!("{server}:{DEFAULT_PORT}")
    };
    let mut found = tokio::net::lookup_host(&named)
        .await
        .map_err(|error| Failed::report(format_args!("--server {server}: {error}")))?;
    found
        .next()
        .ok_or_else(|| Failed::report(format_args!("--server {server}: the name has no address")))
}

/// The port that IANA gave to the Handle protocol.
const DEFAULT_PORT: u16 = 2641;

/// One question of the way.
fn trace_line(hop: &Hop) -> String {
    let handle = output::visible(&String::from_utf8_lossy(&hop.handle));
    let code = hop.code.name().unwrap_or("unknown code");
    format!(
        "{} {}: {handle}: {code} ({})",
        hop.server, hop.transport, hop.code.0
    )
}

/// The answer in the shape of the Handle JSON REST API.
fn answer(handle: &str, reply: &Reply) -> Json {
    let mut answer = json!({"responseCode": reply.code.0, "handle": handle});
    if let Some(object) = answer.as_object_mut() {
        if reply.code == ResponseCode::SUCCESS {
            object.insert(
                "values".into(),
                reply.values.iter().map(json_value).collect(),
            );
        } else if !reply.message.is_empty() {
            object.insert("message".into(), reply.message.clone().into());
        }
    }
    answer
}

/// A value as JSON; one that has no JSON form is given in wire form.
fn json_value(value: &Value) -> Json {
    value::write(value).unwrap_or_else(
        || json!({"index": value.index, "hex": hex::encode(line::wire(value).wire)}),
    )
}

/// The values in columns.
fn table(reply: &Reply) -> String {
    let rows: Vec<Vec<String>> = reply
        .values
        .iter()
        .map(|value| {
            vec![
                value.index.to_string(),
                output::visible(&String::from_utf8_lossy(&value.kind)),
                ttl(value.ttl),
                permissions(value.permissions.0),
                shown(value),
            ]
        })
        .collect();
    output::table(&["INDEX", "TYPE", "TTL", "RIGHTS", "DATA"], &rows)
}

/// A time to live in a column.
fn ttl(ttl: Ttl) -> String {
    match ttl {
        Ttl::Relative(seconds) => seconds.to_string(),
        Ttl::Absolute(seconds) => format!("until {seconds}"),
    }
}

/// Four permissions as letters: admin read and write, public read and write.
fn permissions(bits: u8) -> String {
    [(8, 'r'), (4, 'w'), (2, 'r'), (1, 'w')]
        .iter()
        .map(|(bit, c)| if bits & bit == 0 { '-' } else { *c })
        .collect()
}

/// Data on one line.
fn shown(value: &Value) -> String {
    let described = data::write(&value.kind, &value.data);
    let text = match (
        described.get("format").and_then(Json::as_str),
        described.get("value"),
    ) {
        (Some("string"), Some(Json::String(text))) => output::visible(text),
        (Some("base64"), _) => format!("{} bytes: {}", value.data.len(), hex::encode(&value.data)),
        (_, Some(json)) => json.to_string(),
        _ => String::new(),
    };
    match text.char_indices().nth(DATA_SHOWN) {
        Some((end, _)) => format!(
            "{}… ({} bytes, all of it with -o json)",
            text.get(..end).unwrap_or(&text),
            value.data.len()
        ),
        None => text,
    }
}
