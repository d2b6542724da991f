//! `jiexi resolve --dns`: the identifier as any DNS client sees it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use clap::Args;
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use serde_json::{Value as Json, json};

use super::{
    Failed, exit,
    output::{self, Format},
    place::Place,
};
use crate::config::{Case, Config};
use crate::server::dns::name::{Mapping, Scheme, labels};
use crate::server::dns::records::URI;
use crate::server::dns::view::SERVICE;
use crate::server::dns::zone;
use jiexi_proto::handle::{self, CaseRule};

/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Questions over UDP before TCP is tried.
const ATTEMPTS: usize = 2;

/// The types that identifiers have records of at their own name. Ports stand below it.
const TYPES: [RecordType; 5] = [
    RecordType::NAPTR,
    RecordType::Unknown(URI),
    RecordType::TXT,
    RecordType::A,
    RecordType::AAAA,
];

/// How the names of a zone make handles; what is not said here the configuration of a node on this machine says.
#[derive(Debug, Args)]
pub(super) struct Naming {
    /// With --dns: which identifiers the names of the zone are
    #[arg(long, value_enum, requires = "dns")]
    mapping: Option<Scheme>,
    /// With --dns: what the handles of the zone begin with, such as 88.118.1/. For "oid" and "gs1" what stands before the
    /// first slash need not be named
    #[arg(long, value_name = "START", requires = "dns")]
    handles: Option<String>,
    /// With --dns: what of a handle ignores the case of letters at the node that serves the zone
    #[arg(long, value_enum, requires = "dns")]
    case: Option<Case>,
    #[command(flatten)]
    place: Place,
}

/// The names of a zone.
pub(super) struct Names {
    /// The zone as it was named.
    zone: String,
    /// The same in wire form.
    apex: Vec<u8>,
    scheme: Scheme,
    /// What its handles begin with; empty: anything.
    handles: String,
    case: CaseRule,
}

impl Naming {
    /// How the names of a zone make handles.
    pub(super) fn of(&self, zone: &str) -> Result<Names, Failed> {
        let apex = zone::parse(zone)
            .ok_or_else(|| Failed::usage(format_args!("--dns {zone}: not the name of a zone")))?;
        let config = self.local()?;
        let mut zones = config.iter().flat_map(|config| &config.dns.zones);
        let local = zones.find(|known| zone::parse(&known.name).as_ref() == Some(&apex));
        let case = local.and(config.as_ref()).map(|config| config.store.case);
        let handles = self.handles.as_ref();
        let handles = handles.or_else(|| local.map(|zone| &zone.handles));
        let scheme = self.mapping.or_else(|| local.map(|zone| zone.mapping));
        Ok(Names {
            zone: zone.to_owned(),
            apex,
            scheme: scheme.unwrap_or(Scheme::Handle),
            handles: handles.cloned().unwrap_or_default(),
            case: self.case.or(case).unwrap_or_default().rule(),
        })
    }

    /// The configuration of a node on this machine, if it is needed and there is one. One that is only found may belong
    /// to somebody else: that it cannot be read is said and no more.
    fn local(&self) -> Result<Option<Config>, Failed> {
        if self.mapping.is_some() && self.handles.is_some() && self.case.is_some() {
            return Ok(None);
        }
        if self.place.is_named() {
            return self.place.load().map(Some);
        }
        if self.place.file().is_none() {
            return Ok(None);
        }
        match self.place.read() {
            Ok(config) => Ok(Some(config)),
            Err(why) => {
                exit::say(format_args!(
                    "jiexi: {why}; what --mapping, --handles and --case do not say is as in a zone of handles"
                ));
                Ok(None)
            }
        }
    }
}

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

/// Resolves `handle` in a zone.
pub(super) fn resolve(
    handle: &str,
    names: &Names,
    asking: &Asking,
    format: Format,
) -> Result<(), Failed> {
    let name = names.name(handle)?;
    let mut found = Vec::new();
    for (owner, kind) in questions(&name) {
        let answer = ask(&owner, kind, asking)?;
        match answer.metadata.response_code {
            ResponseCode::NoError => found.extend(answer.answers),
            ResponseCode::NXDomain if owner == name => {
                return Err(Failed::not_found(format_args!(
                    "{handle}: no such name: {name}"
                )));
            }
            // Most identifiers have no ports.
            ResponseCode::NXDomain => {}
            code => {
                return Err(Failed::report(format_args!(
                    "{handle}: {} answered {code} to {owner}",
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
                        output::visible(&record.name.to_ascii()),
                        type_name(record.record_type()),
                        record.ttl.to_string(),
                        output::visible(&data(record)),
                    ]
                })
                .collect();
            output::print(&output::table(&["NAME", "TYPE", "TTL", "DATA"], &rows))
        }
    }
}

/// What is asked about an identifier: every type at its name, and the ports of its servers below that, where the name is
/// not too long for them.
fn questions(name: &Name) -> Vec<(Name, RecordType)> {
    let own = TYPES.map(|kind| (name.clone(), kind));
    let ports = [&b"_tcp"[..], b"_udp"].into_iter().filter_map(|protocol| {
        let labels = [SERVICE, protocol].into_iter().chain(name.iter());
        Some((Name::from_labels(labels).ok()?, RecordType::SRV))
    });
    own.into_iter().chain(ports).collect()
}

impl Names {
    /// The name of a handle, or of an identifier that is written without its prefix.
    fn name(&self, handle: &str) -> Result<Name, Failed> {
        let bare = self.scheme != Scheme::Handle && !handle.contains('/');
        let mut key = Vec::new();
        if bare {
            key.extend_from_slice(handle.as_bytes());
        } else {
            handle::canonical(handle.as_bytes(), self.case, &mut key);
        }
        let mapping = self.mapping(handle, bare)?;
        if !key.starts_with(&mapping.stem) {
            return Err(Failed::report(format_args!(
                "{handle}: not in {}, whose handles begin with {}; --handles says otherwise",
                self.zone, self.handles
            )));
        }
        let mut wire = Vec::new();
        if !mapping.write(&key, &mut wire) {
            return Err(Failed::report(format_args!(
                "{handle}: {}; --mapping says what the names of {} are",
                nameless(self.scheme),
                self.zone
            )));
        }
        wire.extend_from_slice(&self.apex);
        Name::from_labels(labels(&wire)).map_err(|error| {
            Failed::report(format_args!("{handle}: no name in {}: {error}", self.zone))
        })
    }

    /// How names make handles like `handle`. An object identifier or GTIN ends its handle, so that what stands before it
    /// need not be known.
    fn mapping(&self, handle: &str, bare: bool) -> Result<Mapping, Failed> {
        let prefix = handle.find('/').and_then(|slash| handle.get(..=slash));
        let handles: &str = match prefix {
            _ if bare => {
                return Ok(Mapping {
                    scheme: self.scheme,
                    stem: Vec::new(),
                    case: self.case,
                });
            }
            Some(prefix) if self.scheme != Scheme::Handle && self.handles.is_empty() => prefix,
            _ => &self.handles,
        };
        zone::mapping(self.scheme, handles, self.case)
            .map_err(|why| Failed::usage(format_args!("--handles: {why}")))
    }
}

/// Why a handle has no name.
const fn nameless(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Handle => "its prefix does not fit a label of DNS",
        Scheme::Oid => "no object identifier such as 1.2.156.3",
        Scheme::Gs1 => "no GTIN of 14 digits with its check digit; shorter ones begin with zeros",
    }
}

/// The answer to one question; a cut one is asked for again over TCP.
fn ask(name: &Name, kind: RecordType, asking: &Asking) -> Result<Message, Failed> {
    let mut message = Message::query();
    message.add_query(Query::query(name.clone(), kind));
    message.edns = Some(Edns::new());
    let failed =
        |error: &dyn std::fmt::Display| Failed::report(format_args!("{}: {error}", asking.server));
    let octets = message.to_vec().map_err(|error| failed(&error))?;
    let answer = |octets: Vec<u8>, transport| {
        let answer = Message::from_vec(&octets).map_err(|error| failed(&error))?;
        if answer.metadata.id != message.metadata.id || answer.queries != message.queries {
            return Err(failed(&"answered something else"));
        }
        if asking.trace {
            trace(asking.server, transport, name, kind, &answer);
        }
        Ok(answer)
    };
    if asking.udp {
        match over_udp(&octets, asking.server) {
            Ok(octets) => {
                let answer = answer(octets, "UDP")?;
                if !answer.metadata.truncation {
                    return Ok(answer);
                }
                if !asking.tcp {
                    return Err(Failed::report(format_args!(
                        "{name} {}: the answer of {} is too long for UDP and was cut; ask without --udp",
                        type_name(kind),
                        asking.server
                    )));
                }
            }
            Err(error) if !asking.tcp => return Err(failed(&error)),
            Err(_) => {}
        }
    }
    let octets = over_tcp(&octets, asking.server).map_err(|error| failed(&error))?;
    let answer = answer(octets, "TCP")?;
    match answer.metadata.truncation {
        false => Ok(answer),
        true => Err(Failed::report(format_args!(
            "{name} {}: {} cut the answer over TCP as well: the records are too many for one DNS message (64 KiB); \
             resolve the handle over the Handle protocol, or with --type or --index",
            type_name(kind),
            asking.server
        ))),
    }
}

/// Says what was asked, over what, and what came.
fn trace(server: SocketAddr, transport: &str, name: &Name, kind: RecordType, answer: &Message) {
    let cut = if answer.metadata.truncation {
        ", cut"
    } else {
        ""
    };
    exit::say(format_args!(
        "{server} {transport} {name} {}: {} ({} records{cut})",
        type_name(kind),
        answer.metadata.response_code,
        answer.answers.len()
    ));
}

/// The name of a type. hickory-proto does not know URI records.
fn type_name(kind: RecordType) -> String {
    if u16::from(kind) == URI {
        "URI".to_owned()
    } else {
        kind.to_string()
    }
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
    json!({
        "name": record.name.to_ascii(),
        "type": type_name(record.record_type()),
        "ttl": record.ttl,
        "data": data(record),
    })
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
