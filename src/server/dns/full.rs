//! The full way of a question: any message, read and written by hickory-proto.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::rdata::{HINFO, NS, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable as _, BinEncoder};

use super::cookie::Cookie;
use super::name::{labels, put_label};
use super::records::{self, visit};
use super::view::{Place, Seat, View};
use super::zone::{self, Zone};
use super::{Channel, Written, finish};
use crate::clock::Now;
use crate::metrics::{Op, Outcome, Reason};
use crate::resolver::Selection;

/// Octets of a header (RFC 1035 §4.1.1).
pub(super) const HEADER: usize = 12;

/// EDNS options (IANA registry "DNS EDNS0 Option Codes").
const COOKIE: u16 = 10;
const KEEPALIVE: u16 = 11;
const PADDING: u16 = 12;
const ERROR: u16 = 15;

/// Why an answer is what it is, for people (RFC 8914 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extended {
    Other = 0,
    NotReady = 14,
    Prohibited = 18,
    NotAuthoritative = 20,
    NotSupported = 21,
}

/// Answers one message by appending to `out`; or says why there is no answer. `key` is that of the record asked for.
pub(super) fn respond(
    view: &View<'_>,
    request: &[u8],
    client: IpAddr,
    channel: Channel,
    now: Now,
    key: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<Written, Reason> {
    let (Some(flags), true) = (request.get(2), request.len() >= HEADER) else {
        return Err(Reason::Short);
    };
    if flags & 0x80 != 0 {
        return Err(Reason::NotARequest);
    }
    let mut reply = Reply::new(view, client, channel, now, key);
    match Message::from_vec(request) {
        Ok(message) => reply.answer(&message),
        Err(_) => match without_options(request) {
            Some((message, true)) => reply.answer(&message),
            Some((message, false)) => reply.malformed_options(&message),
            None => reply.unreadable(request),
        },
    }
    reply.write(request.len(), out)
}

/// A question whose options cannot be understood, without them; and whether they are at least whole. What nobody here
/// knows is ignored, however it looks inside (RFC 6891 §6.1.2).
fn without_options(request: &[u8]) -> Option<(Message, bool)> {
    /// The root, type OPT.
    const OPT: [u8; 3] = [0, 0, 41];
    const FIXED: usize = 11;
    if request.get(4..HEADER)? != [0, 1, 0, 0, 0, 0, 0, 1] {
        return None;
    }
    let name = labels(&request[HEADER..]).map(|label| label.len() + 1);
    let start = HEADER + name.sum::<usize>() + 1 + 4;
    let fixed = request.get(start..start + FIXED)?;
    if fixed[..OPT.len()] != OPT {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([fixed[FIXED - 2], fixed[FIXED - 1]]));
    let mut options = &request[start + FIXED..];
    let mut plain = request[..start + FIXED].to_vec();
    plain[start + FIXED - 2..].fill(0);
    let message = Message::from_vec(&plain).ok()?;
    let mut whole = length == options.len();
    while whole && !options.is_empty() {
        let rest = match options {
            [_, _, high, low, rest @ ..] => {
                rest.get(usize::from(u16::from_be_bytes([*high, *low]))..)
            }
            _ => None,
        };
        whole = rest.is_some();
        options = rest.unwrap_or_default();
    }
    Some((message, whole))
}

/// An answer being made.
struct Reply<'r, 's> {
    view: &'r View<'s>,
    client: IpAddr,
    channel: Channel,
    now: Now,
    /// The key of the record that was asked for.
    key: &'r mut Vec<u8>,
    message: Message,
    op: Op,
    outcome: Outcome,
    /// The largest answer that the client and we take, octets.
    limit: usize,
    /// The client has shown that answers reach it.
    proven: bool,
    padded: bool,
}

impl<'r, 's> Reply<'r, 's> {
    fn new(
        view: &'r View<'s>,
        client: IpAddr,
        channel: Channel,
        now: Now,
        key: &'r mut Vec<u8>,
    ) -> Self {
        Self {
            key,
            view,
            client,
            channel,
            now,
            message: Message::response(0, OpCode::Query),
            op: Op::Other,
            outcome: Outcome::Invalid,
            limit: channel.limit(view.shared.udp_payload, None),
            proven: false,
            padded: false,
        }
    }

    fn code(&mut self, code: ResponseCode, outcome: Outcome) {
        self.message.metadata.response_code = code;
        self.outcome = outcome;
    }

    /// FORMERR to what cannot be read beyond its header (RFC 1035 §4.1.1); NOTIMP when it was no question.
    fn unreadable(&mut self, request: &[u8]) {
        let op_code = OpCode::from_u8(request[2] >> 3 & 0xF);
        let metadata = &mut self.message.metadata;
        metadata.id = u16::from_be_bytes([request[0], request[1]]);
        metadata.op_code = op_code;
        metadata.recursion_desired = request[2] & 1 != 0;
        let code = if op_code == OpCode::Query {
            ResponseCode::FormErr
        } else {
            ResponseCode::NotImp
        };
        self.code(code, Outcome::Invalid);
    }

    /// FORMERR to a question with options that are not whole; ours are in the answer (RFC 6891 §7).
    fn malformed_options(&mut self, request: &Message) {
        let asked = &request.metadata;
        self.message.metadata = Metadata::new(asked.id, MessageType::Response, asked.op_code);
        self.message.metadata.recursion_desired = asked.recursion_desired;
        self.message.queries.clone_from(&request.queries);
        self.edns(request);
        self.code(ResponseCode::FormErr, Outcome::Invalid);
    }

    fn answer(&mut self, request: &Message) {
        let asked = &request.metadata;
        self.message.metadata = Metadata::new(asked.id, MessageType::Response, asked.op_code);
        self.message.metadata.recursion_desired = asked.recursion_desired;
        if asked.op_code != OpCode::Query {
            self.message.queries.clone_from(&request.queries);
            self.edns(request);
            self.extended(Extended::NotSupported, "");
            return self.code(ResponseCode::NotImp, Outcome::Invalid);
        }
        self.op = Op::Resolve;
        let cookie_alone = request.queries.is_empty() && self.has_cookie(request);
        let shaped = request.answers.is_empty() && request.authorities.is_empty();
        if !shaped || request.queries.len() != 1 && !cookie_alone {
            self.edns(request);
            return self.code(ResponseCode::FormErr, Outcome::Invalid);
        }
        self.message.queries.clone_from(&request.queries);
        if !self.edns(request) {
            return;
        }
        match request.queries.first() {
            Some(query) => self.question(query),
            // A client may ask for a cookie and nothing else (RFC 7873 §5.4).
            None => self.code(ResponseCode::NoError, Outcome::Success),
        }
    }

    fn has_cookie(&self, request: &Message) -> bool {
        let edns = request.edns.as_ref();
        edns.is_some_and(|edns| edns.option(EdnsCode::Cookie).is_some())
    }

    /// Reads the client's OPT record and begins ours; whether the question is to be answered.
    fn edns(&mut self, request: &Message) -> bool {
        let Some(asked) = &request.edns else {
            return true;
        };
        let shared = self.view.shared;
        let mut edns = Edns::new();
        edns.set_max_payload(shared.receives());
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        self.limit = self
            .channel
            .limit(shared.udp_payload, Some(asked.max_payload()));
        if asked.version() > 0 {
            self.message.edns = Some(edns);
            self.code(ResponseCode::BADVERS, Outcome::Invalid);
            return false;
        }
        let mut good = true;
        if let Some(EdnsOption::Unknown(_, octets)) = asked.option(EdnsCode::Cookie) {
            let judged = shared
                .cookies
                .judge(octets, self.client, self.now.unix_seconds);
            self.proven = matches!(judged, Cookie::Proven(_));
            match judged {
                Cookie::Malformed => good = false,
                Cookie::Unproven(cookie) | Cookie::Proven(cookie) => {
                    put_option(&mut edns, COOKIE, cookie.to_vec());
                }
            }
        }
        if asked.option(EdnsCode::NSID).is_some() && !shared.nsid.is_empty() {
            put_option(&mut edns, u16::from(EdnsCode::NSID), shared.nsid.clone());
        }
        if let Some(option) = asked.option(EdnsCode::Keepalive)
            && self.channel != Channel::Udp
        {
            // A client's option has no time in it (RFC 7828 §3.2.1).
            good &= option.is_empty();
            put_option(
                &mut edns,
                KEEPALIVE,
                shared.keepalive.to_be_bytes().to_vec(),
            );
        }
        self.padded = self.channel == Channel::Tls && asked.option(EdnsCode::Padding).is_some();
        self.message.edns = Some(edns);
        if !good {
            self.code(ResponseCode::FormErr, Outcome::Invalid);
        }
        good
    }

    /// Says why, to clients that can hear it.
    fn extended(&mut self, why: Extended, text: &str) {
        if let Some(edns) = &mut self.message.edns {
            let mut octets = (why as u16).to_be_bytes().to_vec();
            octets.extend_from_slice(text.as_bytes());
            put_option(edns, ERROR, octets);
        }
    }

    fn refuse(&mut self, why: Extended, text: &str, outcome: Outcome) {
        self.extended(why, text);
        self.code(ResponseCode::Refused, outcome);
    }

    fn question(&mut self, query: &Query) {
        if query.query_class != DNSClass::IN {
            // Questions about the server itself in class CH tell strangers its version.
            return self.refuse(Extended::Prohibited, "", Outcome::Denied);
        }
        if matches!(query.query_type, RecordType::AXFR | RecordType::IXFR) {
            return self.refuse(Extended::NotSupported, "no zone transfer", Outcome::Denied);
        }
        let mut lower = Vec::new();
        for label in query.name.iter() {
            put_label(&label.to_ascii_lowercase(), &mut lower);
        }
        lower.push(0);
        let view = self.view;
        let Some((zone, relative)) = view.shared.zones.find(&lower) else {
            return self.refuse(Extended::NotAuthoritative, "", Outcome::NotResponsible);
        };
        let place = view.locate(zone, relative, self.key);
        let name = &query.name;
        self.message.metadata.authoritative = true;
        match place {
            Place::Apex => self.apex(zone, query),
            Place::Values(values, owner) => self.values(zone, query, &values, owner),
            Place::Inner => self.nothing(zone, name, ResponseCode::NoError),
            Place::Nothing => self.nothing(zone, name, ResponseCode::NXDomain),
            Place::Loading => self.fail(Extended::NotReady, "still loading", Outcome::Busy),
            Place::Damaged => self.fail(Extended::Other, "the record is damaged", Outcome::Error),
        }
    }

    fn fail(&mut self, why: Extended, text: &str, outcome: Outcome) {
        self.message.metadata.authoritative = false;
        self.extended(why, text);
        self.code(ResponseCode::ServFail, outcome);
    }

    /// Records of the apex: SOA and NS, and nothing of any identifier.
    fn apex(&mut self, zone: &Zone, query: &Query) {
        let name = &query.name;
        match u16::from(query.query_type) {
            records::SOA => {
                let record = self.soa(zone, name, zone.ttl);
                self.found(record);
            }
            records::NS => {
                for server in &zone.nameservers {
                    let data = RData::NS(NS(name_of(server)));
                    self.found(Record::from_rdata(name.clone(), zone.ttl, data));
                }
            }
            _ if query.query_type == RecordType::ANY => self.minimal(zone, name),
            _ => self.nothing(zone, name, ResponseCode::NoError),
        }
    }

    /// Records of an identifier.
    fn values(&mut self, zone: &Zone, query: &Query, values: &Selection<'_, '_>, owner: Seat) {
        let wanted = u16::from(query.query_type);
        let name = &query.name;
        let target = name_without(name, owner.depth());
        let mut exists = false;
        let mut found: Vec<RData> = Vec::new();
        let mut least = u32::MAX;
        visit(
            values,
            &zone.rules,
            None,
            self.now.unix_seconds,
            |kind, at, datum, ttl| {
                exists |= owner.covers(at);
                if kind == wanted && owner.is(at) {
                    let data = datum.rdata(&target);
                    least = least.min(ttl);
                    if !found.contains(&data) {
                        found.push(data);
                    }
                }
            },
        );
        if found.is_empty() {
            return match (exists, owner.has_records(), query.query_type) {
                (true, true, RecordType::ANY) => self.minimal(zone, name),
                (true, ..) => self.nothing(zone, name, ResponseCode::NoError),
                (false, ..) => self.nothing(zone, name, ResponseCode::NXDomain),
            };
        }
        for data in found {
            // One RRset has one TTL (RFC 2181 §5.2).
            self.found(Record::from_rdata(name.clone(), least, data));
        }
    }

    fn found(&mut self, record: Record) {
        self.message.answers.push(record);
        self.code(ResponseCode::NoError, Outcome::Success);
    }

    /// One small record instead of all (RFC 8482 §4.2).
    fn minimal(&mut self, zone: &Zone, name: &Name) {
        let data = RData::HINFO(HINFO::new("RFC8482".into(), String::new()));
        self.found(Record::from_rdata(name.clone(), zone.negative_ttl, data));
    }

    /// There is no such name, or no such type: with the SOA record, whose TTL says how long that may be
    /// remembered (RFC 2308 §3).
    fn nothing(&mut self, zone: &Zone, name: &Name, code: ResponseCode) {
        let ttl = zone.negative_ttl.min(zone.ttl);
        let record = self.soa(zone, name, ttl);
        self.message.authorities.push(record);
        let outcome = match code {
            ResponseCode::NXDomain => Outcome::NotFound,
            _ => Outcome::ValuesNotFound,
        };
        self.code(code, outcome);
    }

    /// The SOA record; its owner is written as the client wrote it.
    fn soa(&self, zone: &Zone, name: &Name, ttl: u32) -> Record {
        let depth = name.iter().count() - labels(&zone.apex).count();
        let primary = zone
            .nameservers
            .first()
            .map_or_else(Name::root, |name| name_of(name));
        let data = RData::SOA(SOA::new(
            primary,
            name_of(&zone.mail),
            self.view.serial,
            zone::REFRESH,
            zone::RETRY,
            zone::EXPIRE,
            zone.negative_ttl,
        ));
        Record::from_rdata(name_without(name, depth), ttl, data)
    }

    /// Appends the answer, shortened if it must be.
    fn write(mut self, asked: usize, out: &mut Vec<u8>) -> Result<Written, Reason> {
        let mut octets = Vec::with_capacity(512);
        let emitted = self.message.emit(&mut BinEncoder::new(&mut octets));
        if emitted.is_err() {
            let id = self.message.metadata.id;
            self.message = Message::error_msg(id, OpCode::Query, ResponseCode::ServFail);
            self.outcome = Outcome::Error;
            octets.clear();
            let again = self.message.emit(&mut BinEncoder::new(&mut octets));
            again.map_err(|_| Reason::Malformed)?;
        }
        if octets.get(2).is_some_and(|flags| flags & 2 != 0) {
            // It is too long for any transport, and what was written ends in the middle of something.
            self.message.answers.clear();
            self.message.authorities.clear();
            self.message.additionals.clear();
            self.message.metadata.truncation = true;
            octets.clear();
            let again = self.message.emit(&mut BinEncoder::new(&mut octets));
            again.map_err(|_| Reason::Malformed)?;
        }
        let mut options = 0;
        if let Some(edns) = &self.message.edns {
            // The OPT record stands last: its fixed part and its options.
            options = 11
                + edns
                    .options()
                    .as_ref()
                    .iter()
                    .map(|(_, option)| 4 + usize::from(option.len()))
                    .sum::<usize>();
        }
        let start = out.len();
        out.extend_from_slice(&octets);
        let written = Written {
            end: 0,
            options,
            proven: self.proven,
            op: self.op,
            outcome: self.outcome,
        };
        let mut written = finish(written, start, asked, self.limit, self.channel, out);
        if self.padded {
            pad(start, &mut written, out);
        }
        Ok(written)
    }
}

/// Pads an answer over TLS to a multiple of 468 octets (RFC 8467 §4.1), as the last option of the OPT
/// record, which is the last of the message.
fn pad(start: usize, written: &mut Written, out: &mut Vec<u8>) {
    const BLOCK: usize = 468;
    let length = out.len() - start + 4;
    let padded = length.next_multiple_of(BLOCK);
    if padded > usize::from(u16::MAX) {
        return;
    }
    let padding = padded - length;
    let options = written.options - 11 + 4 + padding;
    let at = out.len() - written.options + 9;
    let Ok(octets) = u16::try_from(options) else {
        return;
    };
    out[at..at + 2].copy_from_slice(&octets.to_be_bytes());
    out.extend_from_slice(&PADDING.to_be_bytes());
    out.extend_from_slice(&u16::try_from(padding).unwrap_or(0).to_be_bytes());
    out.resize(out.len() + padding, 0);
    written.options += 4 + padding;
    written.end = out.len();
}

fn put_option(edns: &mut Edns, code: u16, octets: Vec<u8>) {
    edns.options_mut().insert(EdnsOption::Unknown(code, octets));
}

/// A name of hickory-proto from its wire form.
fn name_of(wire: &[u8]) -> Name {
    Name::from_labels(labels(wire)).unwrap_or_else(|_| Name::root())
}

/// `name` without its first labels, as its client wrote it.
fn name_without(name: &Name, labels: usize) -> Name {
    Name::from_labels(name.iter().skip(labels)).unwrap_or_else(|_| Name::root())
}
