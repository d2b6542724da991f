//! `jiexi resolve --dns`: the identifier as any DNS client sees it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use serde_json::{Value as Json, json};

use super::{
    Failed, exit,
    output::{self, Format},
};
use crate::server::dns::name::{Mapping, Scheme};
use crate::server::dns::records::{self, URI};
use crate::server::dns::zone;
use jiexi_proto::handle::{self, CaseRule};

/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Questions over UDP before TCP is tried.
const ATTEMPTS: usize = 2;

/// The types that identifiers have records of.
const TYPES: [RecordType; 6] = [
    RecordType::NAPTR,
    RecordType::Unknown(URI),
    RecordType::TXT,
    RecordType::A,
    RecordType::AAAA,
    RecordType::SRV,
];

/// One way to ask.
pub(super) struct Asking {
    /// The server.
    pub(super) server: SocketAddr,
    /// Ask over UDP; over TCP alone without it.
    pub(super) udp: bool,
    /// Ask over TCP what UDP cannot carry.
    pub(super) tcp: bool,
    /// Say on stderr what was asked.
    pub(super) trace: bool,
}

/// Resolves `handle` in a zone that maps handles.
pub(super) fn resolve(
    handle: &str,
    apex: &str,
    asking: &Asking,
    format: Format,
) -> Result<(), Failed> {
    let name = name(handle, apex)?;
    let mut found = Vec::new();
    for kind in TYPES {
        let answer = ask(&name, kind, asking)?;
        if asking.trace {
            let code = answer.metadata.response_code;
            exit::say(format_args!(
                "{} {name} {kind}: {code} ({} records)",
                asking.server,
                answer.answers.len()
            ));
        }
        match answer.metadata.response_code {
            ResponseCode::NoError => found.extend(answer.answers),
            ResponseCode::NXDomain => {
                return Err(Failed::not_found(format_args!(
                    "{handle}: no such name: {name}"
                )));
            }
            code => {
                return Err(Failed::report(format_args!(
                    "{handle}: {} answered {code} to {name}",
                    asking.server
                )));
            }
        }
    }
    if found.is_empty() {
        return Err(Failed::not_found(format_args!(
            "{handle}: {name} has no records"
        )));
    }
    match format {
        Format::Json => {
            let records: Vec<Json> = found.iter().map(report).collect();
            output::print_json(
                &json!({"handle": handle, "name": name.to_ascii(), "records": records}),
            )
        }
        Format::Table => {
            let rows: Vec<Vec<String>> = found
                .iter()
                .map(|record| {
                    vec![
                        records::type_name(record.record_type().into()).to_owned(),
                        record.ttl.to_string(),
                        output::visible(&data(record)),
                    ]
                })
                .collect();
            output::print(&output::table(&["TYPE", "TTL", "DATA"], &rows))
        }
    }
}

/// The name of a handle. DNS does not say how the store folds; names do not tell letters apart.
fn name(handle: &str, apex: &str) -> Result<Name, Failed> {
    let mapping = Mapping {
        scheme: Scheme::Handle,
        stem: Vec::new(),
        case: CaseRule::Whole,
    };
    let mut key = Vec::new();
    handle::canonical(handle.as_bytes(), CaseRule::Whole, &mut key);
    let mut wire = Vec::new();
    let zone = zone::parse(apex)
        .ok_or_else(|| Failed::usage(format_args!("--dns {apex}: not the name of a zone")))?;
    if !mapping.write(&key, &mut wire) {
        return Err(Failed::report(format_args!(
            "{handle}: its prefix does not fit a label of DNS"
        )));
    }
    wire.extend_from_slice(&zone);
    let labels = crate::server::dns::name::labels(&wire);
    Name::from_labels(labels)
        .map_err(|error| Failed::report(format_args!("{handle}: no name in {apex}: {error}")))
}

/// The answer to one question; a cut one is asked for again over TCP.
fn ask(name: &Name, kind: RecordType, asking: &Asking) -> Result<Message, Failed> {
    let mut message = Message::query();
    message.add_query(Query::query(name.clone(), kind));
    message.edns = Some(Edns::new());
    let failed =
        |error: &dyn std::fmt::Display| Failed::report(format_args!("{}: {error}", asking.server));
    let octets = message.to_vec().map_err(|error| failed(&error))?;
    let answer = |octets: Vec<u8>| {
        let answer = Message::from_vec(&octets).map_err(|error| failed(&error))?;
        let mine = answer.metadata.id == message.metadata.id && answer.queries == message.queries;
        mine.then_some(answer)
            .ok_or_else(|| failed(&"answered something else"))
    };
    if asking.udp {
        match over_udp(&octets, asking.server) {
            Ok(octets) => {
                let answer = answer(octets)?;
                if !answer.metadata.truncation || !asking.tcp {
                    return Ok(answer);
                }
            }
            Err(error) if !asking.tcp => return Err(failed(&error)),
            Err(_) => {}
        }
    }
    answer(over_tcp(&octets, asking.server).map_err(|error| failed(&error))?)
}

fn over_udp(question: &[u8], server: SocketAddr) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE / 2))?;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        socket.send(question)?;
        let mut buffer = vec![0; 4096];
        match socket.recv(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::ErrorKind::TimedOut.into()))
}

fn over_tcp(question: &[u8], server: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = u16::try_from(question.len()).unwrap_or(u16::MAX);
    stream.write_all(&[&length.to_be_bytes(), question].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn report(record: &Record) -> Json {
    json!({"type": records::type_name(record.record_type().into()), "ttl": record.ttl, "data": data(record)})
}

/// The data of a record as people write it.
fn data(record: &Record) -> String {
    use hickory_proto::rr::RData;
    match &record.data {
        RData::Unknown { rdata, .. } if record.record_type() == RecordType::from(URI) => {
            let (numbers, uri) = rdata.anything.split_at(rdata.anything.len().min(4));
            let number = |at: usize| {
                numbers
                    .get(at..at + 2)
                    .map_or(0, |two| u16::from_be_bytes([two[0], two[1]]))
            };
            format!(
                "{} {} {}",
                number(0),
                number(2),
                String::from_utf8_lossy(uri)
            )
        }
        other => other.to_string(),
    }
}
