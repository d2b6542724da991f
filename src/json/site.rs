//! A site record as JSON, both ways; also the form of the file `site.json` of a node.
//!
//! ```json
//! {"version":1,"protocolVersion":"2.11","serialNumber":1,"primarySite":true,"multiPrimary":false,
//!  "attributes":[{"name":"desc","value":"…"}],
//!  "servers":[{"serverId":1,"address":"192.0.2.10","publicKey":{"format":"key","value":{"kty":"RSA",…}},
//!              "interfaces":[{"query":true,"admin":true,"protocol":"TCP","port":2641}]}]}
//! ```
//!
//! `hashOption` (0 prefix, 1 suffix, 2 whole handle) is left out when it is 2, an empty `hashFilter` always.

use std::net::IpAddr;

use bytes::Bytes;
use jiexi_proto::{
    code::{HashOption, Version},
    value::site::{Interface, InterfaceKind, Server, SiteFlags, SiteRecord, Transport},
};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::{JsonError, data};

/// The names of transports.
const TRANSPORTS: [(Transport, &str); 4] = [
    (Transport::UDP, "UDP"),
    (Transport::TCP, "TCP"),
    (Transport::HTTP, "HTTP"),
    (Transport::HTTPS, "HTTPS"),
];

/// A site as JSON; `None` when a name is not text or a code has no name.
#[must_use]
pub fn write(site: &SiteRecord) -> Option<Json> {
    let mut object = Map::new();
    object.insert("version".into(), site.format.into());
    object.insert(
        "protocolVersion".into(),
        format!("{}.{}", site.version.major, site.version.minor).into(),
    );
    object.insert("serialNumber".into(), site.serial.into());
    object.insert(
        "primarySite".into(),
        site.flags.contains(SiteFlags::PRIMARY).into(),
    );
    object.insert(
        "multiPrimary".into(),
        site.flags.contains(SiteFlags::MULTI_PRIMARY).into(),
    );
    if site.hash_option != HashOption(2) {
        object.insert("hashOption".into(), site.hash_option.0.into());
    }
    if !site.hash_filter.is_empty() {
        object.insert(
            "hashFilter".into(),
            std::str::from_utf8(&site.hash_filter).ok()?.into(),
        );
    }
    let attributes: Option<Vec<Json>> = site
        .attributes
        .iter()
        .map(|(name, value)| Some(json!({"name": text(name)?, "value": text(value)?})))
        .collect();
    object.insert("attributes".into(), attributes?.into());
    let servers: Option<Vec<Json>> = site.servers.iter().map(write_server).collect();
    object.insert("servers".into(), servers?.into());
    Some(Json::Object(object))
}

fn write_server(server: &Server) -> Option<Json> {
    let interfaces: Option<Vec<Json>> = server.interfaces.iter().map(write_interface).collect();
    Some(json!({
        "serverId": server.id,
        "address": server.ip().to_string(),
        "publicKey": data::write(b"HS_PUBKEY", &server.public_key),
        "interfaces": interfaces?,
    }))
}

fn write_interface(interface: &Interface) -> Option<Json> {
    let (_, protocol) = TRANSPORTS
        .iter()
        .find(|(transport, _)| *transport == interface.protocol)?;
    Some(json!({
        "query": interface.kind.0 & InterfaceKind::QUERY.0 != 0,
        "admin": interface.kind.0 & InterfaceKind::ADMIN.0 != 0,
        "protocol": protocol,
        "port": interface.port,
    }))
}

fn text(bytes: &Bytes) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// A site as people may write it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(default = "one")]
    version: u16,
    protocol_version: String,
    serial_number: u16,
    #[serde(default)]
    primary_site: bool,
    #[serde(default)]
    multi_primary: bool,
    hash_option: Option<u8>,
    #[serde(default)]
    hash_filter: String,
    #[serde(default)]
    attributes: Vec<WrittenAttribute>,
    servers: Vec<WrittenServer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenAttribute {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenServer {
    server_id: u32,
    address: IpAddr,
    public_key: Option<Json>,
    interfaces: Vec<WrittenInterface>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenInterface {
    query: bool,
    admin: bool,
    protocol: String,
    port: u16,
}

/// The only layout of site records there is.
fn one() -> u16 {
    1
}

/// Reads a site.
///
/// # Errors
/// Names the field and what is wrong with it.
pub fn read(json: &Json) -> Result<SiteRecord, JsonError> {
    let written = Written::deserialize(json).map_err(|error| JsonError::new("", error))?;
    let version = written
        .protocol_version
        .split_once('.')
        .and_then(|(major, minor)| Some(Version::new(major.parse().ok()?, minor.parse().ok()?)))
        .ok_or_else(|| JsonError::new("protocolVersion", "must be a version such as \"2.11\""))?;
    let flag = |set: bool, flag: SiteFlags| if set { flag } else { SiteFlags(0) };
    let servers: Result<Vec<Server>, JsonError> = written
        .servers
        .into_iter()
        .enumerate()
        .map(|(place, server)| {
            server
                .into_server()
                .map_err(|error| error.within(&format!("servers[{place}]")))
        })
        .collect();
    Ok(SiteRecord {
        format: written.version,
        version,
        serial: written.serial_number,
        flags: flag(written.primary_site, SiteFlags::PRIMARY)
            .with(flag(written.multi_primary, SiteFlags::MULTI_PRIMARY)),
        hash_option: HashOption(written.hash_option.unwrap_or(2)),
        hash_filter: Bytes::from(written.hash_filter),
        attributes: written
            .attributes
            .into_iter()
            .map(|attribute| (Bytes::from(attribute.name), Bytes::from(attribute.value)))
            .collect(),
        servers: servers?,
    })
}

impl WrittenServer {
    fn into_server(self) -> Result<Server, JsonError> {
        let public_key = match &self.public_key {
            Some(json) => data::read(json).map_err(|error| error.within("publicKey"))?,
            None => Vec::new(),
        };
        let interfaces: Result<Vec<Interface>, JsonError> = self
            .interfaces
            .into_iter()
            .map(WrittenInterface::into_interface)
            .collect();
        Ok(Server {
            id: self.server_id,
            address: Server::address_of(self.address),
            public_key: Bytes::from(public_key),
            interfaces: interfaces?,
        })
    }
}

impl WrittenInterface {
    fn into_interface(self) -> Result<Interface, JsonError> {
        let found = TRANSPORTS
            .iter()
            .find(|(_, name)| name.eq_ignore_ascii_case(&self.protocol));
        let wrong = || JsonError::new("interfaces.protocol", "must be UDP, TCP, HTTP or HTTPS");
        let (protocol, _) = found.ok_or_else(wrong)?;
        let kind = InterfaceKind(
            u8::from(self.admin) * InterfaceKind::ADMIN.0
                + u8::from(self.query) * InterfaceKind::QUERY.0,
        );
        Ok(Interface {
            kind,
            protocol: *protocol,
            port: u32::from(self.port),
        })
    }
}
