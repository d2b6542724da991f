//! Site records: `HS_SITE`, `HS_SITE.6`, `HS_SITE.PREFIX`, and the answer to "get site info".
//!
//! A site is a set of servers that share the handles of its prefixes by hash (RFC 3651 §3.2.3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use crate::code::{HashOption, Version};
use crate::error::DecodeError;
use crate::limits::{ARRAY_MAX, ATTRIBUTES_MAX, SERVERS_MAX};
use crate::wire::{Reader, Writer};

open_code! {
    /// What an interface may be asked.
    InterfaceKind(u8) {
        /// Nothing: it is out of service.
        NONE = 0 => "none",
        /// Changes only.
        ADMIN = 1 => "admin",
        /// Questions only.
        QUERY = 2 => "query",
        /// Both.
        BOTH = 3 => "admin and query",
    }
}

open_code! {
    /// How an interface is reached.
    Transport(u8) {
        /// UDP.
        UDP = 0 => "UDP",
        /// TCP.
        TCP = 1 => "TCP",
        /// HTTP, messages as POST bodies.
        HTTP = 2 => "HTTP",
        /// The same over TLS.
        HTTPS = 3 => "HTTPS",
    }
}

flags! {
    /// What kind of site this is.
    SiteFlags(u8) {
        /// Changes are made here.
        PRIMARY = 0x80 => "primary",
        /// There are several such sites.
        MULTI_PRIMARY = 0x40 => "multi-primary",
    }
}

/// A site: its servers and how handles are shared among them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SiteRecord {
    /// The layout; always 1.
    pub format: u16,
    /// The newest version of the protocol that it speaks.
    pub version: Version,
    /// Grows with every change of the record.
    pub serial: u16,
    /// Primary or mirror.
    pub flags: SiteFlags,
    /// Which part of a handle is hashed.
    pub hash_option: HashOption,
    /// Never used; empty.
    pub hash_filter: Bytes,
    /// Names and values for people, `desc` above all.
    pub attributes: Vec<(Bytes, Bytes)>,
    /// The servers, in the order that the hash counts.
    pub servers: Vec<Server>,
}

/// One server of a site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    /// Its number within the site.
    pub id: u32,
    /// Its address in 16 octets; IPv4 has 12 zeros in front. See [`Self::ip`].
    pub address: [u8; 16],
    /// Its public key in wire form; see [`crate::value::key::PublicKey`].
    pub public_key: Bytes,
    /// Where it listens. Chinese clients take the first one that speaks TCP.
    pub interfaces: Vec<Interface>,
}

/// One way to reach a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interface {
    /// What it may be asked.
    pub kind: InterfaceKind,
    /// How it is reached.
    pub protocol: Transport,
    /// The port.
    pub port: u32,
}

impl SiteRecord {
    /// Reads a record that is all of `data`.
    ///
    /// # Errors
    /// Octets missing or left over, a length or count above its limit.
    pub fn decode(data: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::over(data);
        let site = Self::read(&mut reader)?;
        reader.finish("site record")?;
        Ok(site)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// Octets missing, a length or count above its limit.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            format: reader.u16("site format")?,
            version: Version::new(
                reader.u8("site major version")?,
                reader.u8("site minor version")?,
            ),
            serial: reader.u16("site serial")?,
            flags: SiteFlags(reader.u8("site flags")?),
            hash_option: HashOption(reader.u8("hash option")?),
            hash_filter: reader.owned(ARRAY_MAX, "hash filter")?,
            attributes: reader.list(ATTRIBUTES_MAX, 8, "attributes", |r| {
                Ok((
                    r.owned(ARRAY_MAX, "attribute name")?,
                    r.owned(ARRAY_MAX, "attribute value")?,
                ))
            })?,
            servers: reader.list(SERVERS_MAX, Server::SIZE_MIN, "servers", Server::read)?,
        })
    }

    /// Appends the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.write(&mut Writer::new(out));
    }

    pub(crate) fn write(&self, writer: &mut Writer<'_>) {
        writer.u16(self.format);
        writer.u8(self.version.major);
        writer.u8(self.version.minor);
        writer.u16(self.serial);
        writer.u8(self.flags.0);
        writer.u8(self.hash_option.0);
        writer.bytes(&self.hash_filter);
        writer.list(&self.attributes, |w, (name, value)| {
            w.bytes(name);
            w.bytes(value);
        });
        writer.list(&self.servers, |w, server| server.write(w));
    }
}

impl Server {
    /// The fewest octets a server has.
    const SIZE_MIN: usize = 28;

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            id: reader.u32("server id")?,
            address: reader.array("server address")?,
            public_key: reader.owned(ARRAY_MAX, "server public key")?,
            interfaces: reader.list(SERVERS_MAX, 6, "interfaces", |r| {
                Ok(Interface {
                    kind: InterfaceKind(r.u8("interface type")?),
                    protocol: Transport(r.u8("interface protocol")?),
                    port: r.u32("interface port")?,
                })
            })?,
        })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.u32(self.id);
        writer.raw(&self.address);
        writer.bytes(&self.public_key);
        writer.list(&self.interfaces, |w, interface| {
            w.u8(interface.kind.0);
            w.u8(interface.protocol.0);
            w.u32(interface.port);
        });
    }

    /// The address. Twelve zeros in front mean IPv4, but for the loopback of IPv6.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        match self.address {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] if [a, b, c, d] != [0, 0, 0, 1] => {
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
            octets => IpAddr::V6(Ipv6Addr::from(octets)),
        }
    }

    /// The 16 octets of an address: 12 zeros and four octets for IPv4.
    #[must_use]
    pub fn address_of(ip: IpAddr) -> [u8; 16] {
        match ip {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
            }
            IpAddr::V6(v6) => v6.octets(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back() {
        for text in ["127.0.0.1", "2001:db8::1", "::1", "10.0.0.1"] {
            let ip: IpAddr = text.parse().unwrap();
            let server = Server {
                id: 1,
                address: Server::address_of(ip),
                public_key: Bytes::new(),
                interfaces: Vec::new(),
            };
            assert_eq!(server.ip(), ip);
        }
    }
}
