//! `jiexi resolve`: ask a server, follow referrals, print the record.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use bytes::Bytes;
use clap::Args;
use jiexi_proto::{code::ResponseCode, handle};
use serde_json::{Value as Json, json};

use super::{
    Failed, exit,
    output::{self, Format},
    record, resolve_dns, target,
};
use crate::{
    client::{Client, Hop, Lead, Place, Question, Reply, Transports},
    clock,
};

/// Resolve a handle: ask a server, and follow referrals to the one that knows
///
/// Exit code 0: found; 3: no such handle, or none of its values match; 1: anything else.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Resolve {
    /// The handle, such as 88.118.1/CNC-2026-001001
    handle: String,
    /// The server to begin with: address or name, with port 2641 (53 with --dns) unless another is given
    #[arg(
        long,
        short,
        default_value = "127.0.0.1",
        value_name = "ADDR",
        env = "JIEXI_SERVER",
        hide_env_values = true
    )]
    server: String,
    /// Ask DNS, for the name of the handle in this zone, such as id.example.net. How names make handles is what --mapping,
    /// --handles and --case say, else what the configuration of the node on this machine says of the zone, else
    /// "handle" without a prefix
    #[arg(long, value_name = "ZONE", conflicts_with_all = ["types", "indexes", "digest"])]
    dns: Option<String>,
    #[command(flatten)]
    naming: resolve_dns::Naming,
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
    /// Show the way: each server that was asked, why that one, what it said and how long it took; on stderr, with
    /// -o json in the answer
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
        if let Some(zone) = &self.dns {
            let server = target::block_on(async { address_at(&self.server, DNS_PORT).await })??;
            let asking = resolve_dns::Asking {
                server,
                udp: !self.tcp,
                tcp: !self.udp,
                trace: self.trace,
            };
            let names = self.naming.of(zone)?;
            return resolve_dns::resolve(&self.handle, &names, &asking, self.output);
        }
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
            let mut hops = Vec::new();
            let resolved = client.resolve_along(place, question, &mut hops).await;
            Ok((resolved, hops))
        })?;
        let (resolved, hops) = resolved?;
        if self.trace && self.output == Format::Table {
            exit::say(trace(&hops).trim_end());
        }
        match resolved {
            Ok(reply) => self.print(&reply, &hops),
            Err(error) => {
                if self.trace && self.output == Format::Json {
                    let trace: Vec<Json> = hops.iter().map(trace_json).collect();
                    let answer = json!({
                        "handle": self.handle, "message": error.to_string(), "trace": trace,
                    });
                    output::print_json(&answer)?;
                }
                Err(Failed::report(error))
            }
        }
    }

    /// Prints the answer; its code decides how the command ends.
    fn print(&self, reply: &Reply, hops: &[Hop]) -> Result<(), Failed> {
        let mut printed = Ok(());
        if self.output == Format::Json {
            let mut answer = answer(&self.handle, reply);
            if let Some(object) = answer.as_object_mut().filter(|_| self.trace) {
                object.insert("trace".into(), hops.iter().map(trace_json).collect());
            }
            printed = output::print_json(&answer);
        }
        match reply.code {
            // Old servers find a handle all of whose values are restricted, and show none of them.
            ResponseCode::SUCCESS if reply.values.is_empty() => {
                Err(Failed::not_found(format_args!(
                    "{}: the handle has no value as asked for (code 1, without values)",
                    self.handle
                )))
            }
            ResponseCode::SUCCESS if self.output == Format::Table => {
                output::print(&record::table(&reply.values))
            }
            ResponseCode::SUCCESS => printed,
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
pub(super) async fn address(server: &str) -> Result<SocketAddr, Failed> {
    address_at(server, DEFAULT_PORT).await
}

/// The same with another port for what does not say its own.
async fn address_at(server: &str, port: u16) -> Result<SocketAddr, Failed> {
    if let Ok(address) = server.parse::<SocketAddr>() {
        return Ok(address);
    }
    if let Ok(address) = server.trim_matches(['[', ']']).parse() {
        return Ok(SocketAddr::new(address, port));
    }
    let named = if server.contains(':') {
        server.to_owned()
    } else {
        format!("{server}:{port}")
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

/// The port of DNS.
const DNS_PORT: u16 = 53;

/// What `--help` says at its end.
const EXAMPLES: &str = "\
Examples:
  jiexi resolve 88.118.1/CNC-2026-001001
  jiexi resolve 88.118.1/CNC-2026-001001 --server 192.0.2.10 --type URL -o json
  jiexi resolve 88.118.1/CNC-2026-001001 --trace       which servers were asked, and how long each took
  jiexi resolve 88.118.1/CNC-2026-001001 --dns id.example.net --server 192.0.2.10
  jiexi resolve 1.2.156.3 --dns oid.example.net --mapping oid --server 192.0.2.10";

/// The way in columns.
fn trace(hops: &[Hop]) -> String {
    let milliseconds = |took: Duration| format!("{:.2} ms", took.as_secs_f64() * 1e3);
    let mut rows: Vec<Vec<String>> = hops
        .iter()
        .map(|hop| {
            vec![
                output::visible(&String::from_utf8_lossy(&hop.handle)),
                why(hop),
                format!("{} {}", hop.server, hop.transport),
                said(hop),
                milliseconds(hop.took),
            ]
        })
        .collect();
    let total = hops.iter().map(|hop| hop.took).sum();
    let servers: HashSet<_> = hops.iter().map(|hop| hop.server).collect();
    rows.push(vec![
        "in all".to_owned(),
        String::new(),
        format!("servers: {}", servers.len()),
        String::new(),
        milliseconds(total),
    ]);
    output::table(&["HANDLE", "BECAUSE OF", "SERVER", "ANSWER", "TIME"], &rows)
}

/// What a server said, or why it said nothing.
fn said(hop: &Hop) -> String {
    let code = match &hop.said {
        Ok(code) => code,
        Err(error) => return output::visible(error),
    };
    let name = code.name().unwrap_or("unknown code");
    match hop.stale {
        true => format!("{name} ({}), stale: its home does not answer", code.0),
        false => format!("{name} ({})", code.0),
    }
}

/// Why this server was asked this.
fn why(hop: &Hop) -> String {
    let is_prefix = handle::is_prefix_handle(&hop.handle);
    match &hop.lead {
        Lead::Given if is_prefix => "where is the prefix?".to_owned(),
        Lead::Given => "asked first".to_owned(),
        Lead::Remembered(prefix) => {
            let prefix = output::visible(&String::from_utf8_lossy(prefix));
            format!("site of {prefix}, remembered")
        }
        Lead::Site { server, servers } => format!("its site: server {server} of {servers}"),
    }
}
/// One question of the way.
fn trace_json(hop: &Hop) -> Json {
    json!({
        "handle": String::from_utf8_lossy(&hop.handle),
        "reason": why(hop),
        "server": hop.server.to_string(),
        "transport": hop.transport.to_string(),
        "responseCode": hop.said.as_ref().ok().map(|code| code.0),
        "error": hop.said.as_ref().err(),
        "stale": hop.stale,
        "milliseconds": hop.took.as_secs_f64() * 1e3,
    })
}

/// The answer in the shape of the Handle JSON REST API.
fn answer(handle: &str, reply: &Reply) -> Json {
    let mut answer = json!({"responseCode": reply.code.0, "handle": handle});
    if let Some(object) = answer.as_object_mut() {
        if reply.code == ResponseCode::SUCCESS {
            object.insert(
                "values".into(),
                reply.values.iter().map(record::json_value).collect(),
            );
        } else if !reply.message.is_empty() {
            object.insert("message".into(), reply.message.clone().into());
        }
    }
    answer
}
