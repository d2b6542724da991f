//! Values as records: which values, by the rules of a zone, make which records. Pure.
//!
//! A [`Datum`] is what a record says, borrowed from the value it is made of. The full way turns it into
//! a record of hickory-proto, the fast one writes its octets.

use std::net::IpAddr;

use bytes::Bytes;
use hickory_proto::rr::rdata::{A, AAAA, NAPTR, NULL, SRV, TXT};
use hickory_proto::rr::{Name, RData, RecordType};
use jiexi_proto::value::site::{SiteRecord, Transport};
use jiexi_proto::value::{self, Ttl, ValueView};

use crate::config::{self, RuleKind};
use crate::resolver::{Selection, type_matches};

/// Type of SOA records (RFC 1035 §3.2.2).
pub const SOA: u16 = 6;
/// Type of NS records (RFC 1035 §3.2.2).
pub const NS: u16 = 2;
/// Type of address records (RFC 1035 §3.2.2).
pub const ADDRESS: u16 = 1;
/// Type of text records (RFC 1035 §3.2.2).
pub const TEXT: u16 = 16;
/// Type of IPv6 address records (RFC 3596 §2.1).
pub const ADDRESS6: u16 = 28;
/// Type of service records (RFC 2782).
pub const SERVICE: u16 = 33;
/// Type of rewrite rules (RFC 3403 §4).
pub const REWRITE: u16 = 35;
/// Type of URI records (RFC 7553 §4).
pub const URI: u16 = 256;

/// The longest character string (RFC 1035 §3.3).
const STRING_MAX: usize = 255;

/// The longest text or URI that becomes a record; far above what is of use in DNS.
const DATA_MAX: usize = 16_384;

/// What the expression of a NAPTR record matches: everything, for the identifier is in the name.
const EVERYTHING: &[u8] = b"^.*$";

/// What types of values begin with that no rule reads: keys and rights.
const NEVER: [&[u8]; 2] = [b"HS_SECKEY", b"HS_ADMIN"];

/// Whether values of a type never leave. What only begins like a type of keys may be a subtype of it or a mistake in its
/// name; neither is for everybody.
fn is_secret(kind: &[u8]) -> bool {
    let begins = |never: &&[u8]| {
        let start = kind.get(..never.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(never))
    };
    NEVER.iter().any(begins)
}

/// Which values become which records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    record: RuleKind,
    kind: Vec<u8>,
    numbers: (u16, u16),
    flags: Vec<u8>,
    service: Vec<u8>,
}

/// Below which names of the identifier's own the records of a rule stand (RFC 2782).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The name itself.
    Name,
    /// `_hdl-srv._tcp` below it.
    Tcp,
    /// `_hdl-srv._udp` below it.
    Udp,
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datum<'v> {
    /// A rewrite rule to a URI, with the character that separates its parts.
    Naptr(&'v Rule, &'v [u8], u8),
    /// A URI.
    Uri(&'v Rule, &'v [u8]),
    /// Text.
    Txt(&'v [u8]),
    /// An address.
    Address(IpAddr),
    /// A port.
    Srv(&'v Rule, u16),
}

impl Rule {
    /// A rule as configured.
    ///
    /// # Errors
    /// What cannot work, for people.
    pub fn new(config: &config::Rule) -> Result<Self, String> {
        let numbers = match config.record {
            RuleKind::Naptr => (config.order, config.preference),
            _ => (config.priority, config.weight),
        };
        if config.kind.is_empty() {
            return Err("a rule has an empty type; name the type of the values".into());
        }
        if config.service.len() > STRING_MAX || config.flags.len() > STRING_MAX {
            return Err("a rule has flags or a service above 255 octets (RFC 1035 §3.3)".into());
        }
        if !config
            .flags
            .bytes()
            .all(|octet| octet.is_ascii_alphanumeric())
        {
            return Err(format!(
                "flags {:?}: letters and digits alone (RFC 3403 §4.1)",
                config.flags
            ));
        }
        if is_secret(config.kind.as_bytes()) {
            return Err(format!(
                "{} values are never served; name another type, or take the rule out",
                config.kind
            ));
        }
        Ok(Self {
            record: config.record,
            kind: config.kind.clone().into_bytes(),
            numbers,
            flags: config.flags.clone().into_bytes(),
            service: config.service.clone().into_bytes(),
        })
    }

    /// The type of the records it makes.
    #[must_use]
    pub const fn record_type(&self) -> u16 {
        match self.record {
            RuleKind::Naptr => REWRITE,
            RuleKind::Uri => URI,
            RuleKind::Txt => TEXT,
            RuleKind::A => ADDRESS,
            RuleKind::Aaaa => ADDRESS6,
            RuleKind::Srv => SERVICE,
        }
    }

    /// Whether it reads site records, which takes decoding.
    #[must_use]
    pub const fn reads_sites(&self) -> bool {
        matches!(self.record, RuleKind::A | RuleKind::Aaaa | RuleKind::Srv)
    }

    fn reads(&self, kind: &[u8]) -> bool {
        type_matches(&self.kind, kind) && !is_secret(kind)
    }

    /// What the data of a value say as a record of this rule; none when DNS cannot carry them.
    fn make<'v>(&'v self, data: &'v [u8]) -> Option<Datum<'v>> {
        if data.is_empty() || data.len() > DATA_MAX {
            return None;
        }
        match self.record {
            RuleKind::Naptr => {
                // A backslash would begin a reference to a part of the match (RFC 3402 §3.2).
                let fits =
                    data.len() + EVERYTHING.len() + 3 <= STRING_MAX && !data.contains(&b'\\');
                let delimiter = *b"!|~#".iter().find(|delimiter| !data.contains(delimiter))?;
                fits.then_some(Datum::Naptr(self, data, delimiter))
            }
            RuleKind::Uri => Some(Datum::Uri(self, data)),
            RuleKind::Txt => Some(Datum::Txt(data)),
            RuleKind::A | RuleKind::Aaaa | RuleKind::Srv => None,
        }
    }

    /// What the servers of a site say as records of this rule.
    fn make_of_site<'v>(&'v self, data: &[u8], each: &mut impl FnMut(Owner, Datum<'v>)) {
        let Ok(site) = SiteRecord::decode(&Bytes::copy_from_slice(data)) else {
            return;
        };
        for server in &site.servers {
            match (self.record, server.ip()) {
                (RuleKind::A, ip @ IpAddr::V4(_)) | (RuleKind::Aaaa, ip @ IpAddr::V6(_)) => {
                    each(Owner::Name, Datum::Address(ip));
                }
                (RuleKind::Srv, _) => {
                    for interface in &server.interfaces {
                        let owner = match interface.protocol {
                            Transport::TCP => Owner::Tcp,
                            Transport::UDP => Owner::Udp,
                            _ => continue,
                        };
                        if let Ok(port) = u16::try_from(interface.port) {
                            each(owner, Datum::Srv(self, port));
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

/// Calls `each` with the type, place, content and TTL of every record that the public values of an
/// identifier make by `rules`, of the type `wanted` if one is given.
pub fn visit<'v>(
    values: &Selection<'v, '_>,
    rules: &'v [Rule],
    wanted: Option<u16>,
    unix_seconds: u32,
    mut each: impl FnMut(u16, Owner, Datum<'v>, u32),
) {
    for rule in rules {
        let record_type = rule.record_type();
        if wanted.is_some_and(|wanted| wanted != record_type) {
            continue;
        }
        for entry in values.public() {
            if !rule.reads(value::type_of(entry.wire)) {
                continue;
            }
            let Ok((value, _)) = ValueView::split(entry.wire) else {
                continue;
            };
            let ttl = seconds(value.ttl, unix_seconds);
            if rule.reads_sites() {
                let mut each = |owner, datum| each(record_type, owner, datum, ttl);
                rule.make_of_site(value.data, &mut each);
            } else if let Some(datum) = rule.make(value.data) {
                each(record_type, Owner::Name, datum, ttl);
            }
        }
    }
}

/// A time to live from now on, at most 2^31 − 1 (RFC 2181 §8).
fn seconds(ttl: Ttl, unix_seconds: u32) -> u32 {
    match ttl {
        Ttl::Relative(seconds) => u32::try_from(seconds).unwrap_or(0),
        Ttl::Absolute(end) => u32::try_from(end).unwrap_or(0).saturating_sub(unix_seconds),
    }
}

impl Datum<'_> {
    /// Appends the octets of the record's data; none of these types compresses names.
    pub fn write(&self, target: &[u8], out: &mut Vec<u8>) {
        match *self {
            Self::Naptr(rule, uri, delimiter) => {
                out.extend_from_slice(&rule.numbers.0.to_be_bytes());
                out.extend_from_slice(&rule.numbers.1.to_be_bytes());
                put_string(&rule.flags, out);
                put_string(&rule.service, out);
                out.push(u8::try_from(EVERYTHING.len() + uri.len() + 3).unwrap_or(u8::MAX));
                out.push(delimiter);
                out.extend_from_slice(EVERYTHING);
                out.push(delimiter);
                out.extend_from_slice(uri);
                out.push(delimiter);
                out.push(0);
            }
            Self::Uri(rule, uri) => {
                out.extend_from_slice(&rule.numbers.0.to_be_bytes());
                out.extend_from_slice(&rule.numbers.1.to_be_bytes());
                out.extend_from_slice(uri);
            }
            Self::Txt(text) => text
                .chunks(STRING_MAX)
                .for_each(|part| put_string(part, out)),
            Self::Address(IpAddr::V4(ip)) => out.extend_from_slice(&ip.octets()),
            Self::Address(IpAddr::V6(ip)) => out.extend_from_slice(&ip.octets()),
            Self::Srv(rule, port) => {
                out.extend_from_slice(&rule.numbers.0.to_be_bytes());
                out.extend_from_slice(&rule.numbers.1.to_be_bytes());
                out.extend_from_slice(&port.to_be_bytes());
                out.extend_from_slice(target);
            }
        }
    }

    /// The same for hickory-proto; `target` is the name of the identifier.
    #[must_use]
    pub fn rdata(&self, target: &Name) -> RData {
        match *self {
            Self::Naptr(rule, uri, delimiter) => {
                let mut regexp = vec![delimiter];
                regexp.extend_from_slice(EVERYTHING);
                regexp.push(delimiter);
                regexp.extend_from_slice(uri);
                regexp.push(delimiter);
                let (flags, service) = (rule.flags.clone(), rule.service.clone());
                RData::NAPTR(NAPTR::new(
                    rule.numbers.0,
                    rule.numbers.1,
                    flags.into(),
                    service.into(),
                    regexp.into(),
                    Name::root(),
                ))
            }
            // hickory-proto does not know URI records.
            Self::Uri(..) => {
                let mut octets = Vec::new();
                self.write(&[], &mut octets);
                RData::Unknown {
                    code: RecordType::from(URI),
                    rdata: NULL::with(octets),
                }
            }
            Self::Txt(text) => RData::TXT(TXT::from_bytes(text.chunks(STRING_MAX).collect())),
            Self::Address(IpAddr::V4(ip)) => RData::A(A(ip)),
            Self::Address(IpAddr::V6(ip)) => RData::AAAA(AAAA(ip)),
            Self::Srv(rule, port) => RData::SRV(SRV::new(
                rule.numbers.0,
                rule.numbers.1,
                port,
                target.clone(),
            )),
        }
    }

    /// The data in the form of a zone file (RFC 1035 §5.1, RFC 3597 §5).
    #[must_use]
    pub fn text(&self, target: &str) -> String {
        match *self {
            Self::Naptr(rule, uri, delimiter) => {
                let mut regexp = vec![delimiter];
                regexp.extend_from_slice(EVERYTHING);
                regexp.push(delimiter);
                regexp.extend_from_slice(uri);
                regexp.push(delimiter);
                let (order, preference) = rule.numbers;
                let (flags, service) = (quoted(&rule.flags), quoted(&rule.service));
                format!(
                    "{order} {preference} {flags} {service} {} .",
                    quoted(&regexp)
                )
            }
            Self::Uri(rule, uri) => {
                format!("{} {} {}", rule.numbers.0, rule.numbers.1, quoted(uri))
            }
            Self::Txt(text) => {
                let parts: Vec<String> = text.chunks(STRING_MAX).map(quoted).collect();
                parts.join(" ")
            }
            Self::Address(ip) => ip.to_string(),
            Self::Srv(rule, port) => {
                format!("{} {} {port} {target}", rule.numbers.0, rule.numbers.1)
            }
        }
    }
}

/// The name of a record type in a zone file.
#[must_use]
pub const fn type_name(record_type: u16) -> &'static str {
    match record_type {
        REWRITE => "NAPTR",
        URI => "URI",
        TEXT => "TXT",
        ADDRESS => "A",
        ADDRESS6 => "AAAA",
        SERVICE => "SRV",
        SOA => "SOA",
        NS => "NS",
        _ => "ANY",
    }
}

fn put_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(text);
}

/// A character string in quotes; what is not printable is escaped.
fn quoted(text: &[u8]) -> String {
    let mut out = String::from("\"");
    for &octet in text {
        match octet {
            b'"' | b'\\' => out.extend(['\\', char::from(octet)]),
            b' '..=b'~' => out.push(char::from(octet)),
            _ => out.push_str(&format!("\\{octet:03}")),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: no table of rules makes records of keys and rights. Method: rules that a configuration is refused, made
    /// without it.
    #[test]
    fn keys_and_rights_make_no_record() {
        let types = [
            "HS_SECKEY",
            "hs_seckey",
            "HS_SECKEY.OLD",
            "HS_ADMIN",
            "Hs_Admin.x.y",
            "HS_ADMINS",
        ];
        let allowed = Rule::new(&config::Rule::new(RuleKind::Txt, "HS_PUBKEY.", "")).unwrap();
        for wanted in types.iter().chain(&["HS_SECKEY.", "HS_ADMIN."]) {
            assert!(Rule::new(&config::Rule::new(RuleKind::Txt, wanted, "")).is_err());
            let rule = Rule {
                kind: wanted.as_bytes().to_vec(),
                ..allowed.clone()
            };
            for kind in types {
                assert!(!rule.reads(kind.as_bytes()), "{wanted} {kind}");
            }
        }
        assert!(allowed.reads(b"HS_PUBKEY.OLD"));
    }
}
