//! Values on the command line, in files and as JSON.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use clap::Args;
use jiexi_proto::{
    code::Permissions,
    limits::MESSAGE_MAX,
    value::{
        Reference, Ttl, Value,
        admin::{Admin, AdminRights},
        list,
    },
};
use serde_json::Value as Json;

use super::{Failed, access::reference};
use crate::{
    clock,
    identity::ADMIN_INDEX,
    json::{data, site, value},
    keyring,
    registry::seal,
};

/// Permissions of secrets: for administrators only.
const SECRET_PERMISSIONS: u8 = 0b1100;

/// What values are, for `--help`.
pub(super) const FORMS: &str = "\
Values:
  --value 1:URL=https://example.cn/a       index, type and data, which are text; HS_ADMIN and HS_VLIST take
                                           INDEX:HANDLE, HS_VLIST several with commas between them
  --value-file 2:PHOTO=photo.jpg           data from a file, byte by byte; - is standard input. HS_SECKEY takes the
                                           first line, HS_PUBKEY a key and HS_SITE a site record in any form
  --json FILE                              one value, a list of values, or {\"values\":[…]}, each as
                                           {\"index\":1,\"type\":\"URL\",\"data\":{\"format\":\"string\",\"value\":\"…\"}}
                                           with \"ttl\" and \"permissions\" if need be: what -o json prints";

/// Values that a command is given.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Values")]
pub(super) struct Values {
    /// A value as text. May be repeated
    #[arg(long = "value", short = 'v', value_name = "INDEX:TYPE=DATA")]
    texts: Vec<String>,
    /// A value whose data are in a file; - is standard input. May be repeated
    #[arg(long = "value-file", value_name = "INDEX:TYPE=FILE")]
    files: Vec<String>,
    /// Values as JSON; - is standard input
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// An administrator with every right: an HS_ADMIN value, from index 100 on. May be repeated
    #[arg(long = "admin", value_name = "INDEX:HANDLE")]
    admins: Vec<String>,
    /// Time to live of --value, --value-file and --admin, in seconds
    #[arg(long, default_value_t = value::TTL_DEFAULT, value_name = "SECONDS")]
    ttl: i32,
    /// Their permissions: admin read, admin write, public read, public write; secrets are never for the public
    #[arg(long, value_name = "BITS", value_parser = bits, default_value = "1110")]
    permissions: u8,
}

/// Reads four bits.
fn bits(text: &str) -> Result<u8, String> {
    let good = text.len() == 4 && text.bytes().all(|octet| matches!(octet, b'0' | b'1'));
    let bits = u8::from_str_radix(text, 2).ok().filter(|_| good);
    bits.ok_or_else(|| "must be four of 0 and 1, such as 1110".to_owned())
}

impl Values {
    /// All of them, in the order of their indexes.
    pub(super) fn read(&self) -> Result<Vec<Value>, Failed> {
        let mut values = Vec::new();
        for text in &self.texts {
            let (index, kind, rest) = parts("--value", text)?;
            values.push(self.value(index, kind, from_text(kind, rest)?));
        }
        for text in &self.files {
            let (index, kind, rest) = parts("--value-file", text)?;
            values.push(self.value(index, kind, from_file(kind, Path::new(rest))?));
        }
        for (index, text) in (ADMIN_INDEX..).zip(&self.admins) {
            let data = admin(reference("--admin", text)?);
            values.push(self.value(index, "HS_ADMIN", data));
        }
        if let Some(path) = &self.json {
            values.extend(from_json(path)?);
        }
        values.sort_by_key(|value| value.index);
        match values
            .windows(2)
            .find(|pair| matches!(pair, [a, b] if a.index == b.index))
        {
            Some([twice, ..]) => Err(Failed::usage(format_args!(
                "index {} is given to two values",
                twice.index
            ))),
            _ => Ok(values),
        }
    }

    /// As [`Self::read`], where at least one is needed.
    pub(super) fn some(&self) -> Result<Vec<Value>, Failed> {
        let values = self.read()?;
        match values.is_empty() {
            true => Err(Failed::usage(
                "no value is given: --value INDEX:TYPE=DATA, --value-file INDEX:TYPE=FILE or --json FILE",
            )),
            false => Ok(values),
        }
    }

    fn value(&self, index: u32, kind: &str, data: Vec<u8>) -> Value {
        let permissions = match seal::is_secret(kind.as_bytes()) {
            true => self.permissions & SECRET_PERMISSIONS,
            false => self.permissions,
        };
        Value {
            index,
            timestamp: clock::unix_seconds(),
            ttl: Ttl::Relative(self.ttl),
            permissions: Permissions(permissions),
            kind: Bytes::copy_from_slice(kind.as_bytes()),
            data: Bytes::from(data),
            references: Vec::new(),
        }
    }
}

/// Whether one of these must not be seen by others.
pub(super) fn has_secret(values: &[Value]) -> bool {
    values.iter().any(|value| seal::is_secret(&value.kind))
}

/// Reads `INDEX:TYPE=…`.
fn parts<'a>(option: &str, text: &'a str) -> Result<(u32, &'a str, &'a str), Failed> {
    let parsed = text.split_once(':').and_then(|(index, rest)| {
        let (kind, rest) = rest.split_once('=')?;
        let index: u32 = index.parse().ok().filter(|index| *index > 0)?;
        (!kind.is_empty()).then_some((index, kind, rest))
    });
    parsed.ok_or_else(|| {
        // What stands behind the sign may be anything, and is nobody's business.
        let shown = text.split('=').next().unwrap_or_default();
        Failed::usage(format_args!(
            "{option}: {shown:?} is not INDEX:TYPE=…, such as 1:URL=https://example.cn/a"
        ))
    })
}

/// Data out of text on the command line. Types are the same in any case, as for the node.
fn from_text(kind: &str, text: &str) -> Result<Vec<u8>, Failed> {
    match &kind.to_ascii_uppercase().into_bytes()[..] {
        seal::SECRET_TYPE => Err(Failed::usage(
            "a secret on the command line is seen by everybody on this machine: put it into a file and give \
             --value-file INDEX:HS_SECKEY=FILE",
        )),
        Admin::TYPE => reference("--value HS_ADMIN", text).map(admin),
        list::TYPE => {
            let members = text
                .split(',')
                .map(|member| reference("--value HS_VLIST", member.trim()));
            let members: Vec<Reference> = members.collect::<Result<_, _>>()?;
            Ok(data::encoded(|out| list::encode(&members, out)))
        }
        b"HS_PUBKEY" => Err(Failed::usage(
            "keys come from files: --value-file INDEX:HS_PUBKEY=FILE",
        )),
        kind if is_site(kind) => Err(Failed::usage(
            "site records come from files: --value-file INDEX:HS_SITE=site.json",
        )),
        _ => Ok(text.as_bytes().to_vec()),
    }
}

/// Data out of a file.
fn from_file(kind: &str, path: &Path) -> Result<Vec<u8>, Failed> {
    let shown = path.display();
    let kind = kind.to_ascii_uppercase();
    match kind.as_bytes() {
        b"HS_PUBKEY" if path != Path::new("-") => {
            let key = keyring::read_public(path, None).map_err(Failed::report)?;
            return Ok(key.to_vec());
        }
        _ => {}
    }
    let octets = contents(path)?;
    match kind.as_bytes() {
        seal::SECRET_TYPE => {
            let line = octets.split(|octet| *octet == b'\n').next();
            let line = line.unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            match line.is_empty() {
                true => Err(Failed::report(format_args!(
                    "{shown}: the first line is empty; it must be the secret"
                ))),
                false => Ok(line.to_vec()),
            }
        }
        kind if is_site(kind) && octets.first() == Some(&b'{') => {
            let json: Json = serde_json::from_slice(&octets)
                .map_err(|error| Failed::report(format_args!("{shown}: {error}")))?;
            let site = site::read(&json)
                .map_err(|error| Failed::report(format_args!("{shown}: {error}")))?;
            Ok(data::encoded(|out| site.encode(out)))
        }
        _ => Ok(octets),
    }
}

/// Values out of JSON.
fn from_json(path: &Path) -> Result<Vec<Value>, Failed> {
    let shown = path.display();
    let wrong = |error: &dyn std::fmt::Display| Failed::report(format_args!("{shown}: {error}"));
    let json: Json = serde_json::from_slice(&contents(path)?).map_err(|error| wrong(&error))?;
    let list = match json {
        Json::Array(list) => list,
        Json::Object(mut object) => match object.remove("values") {
            Some(Json::Array(list)) => list,
            Some(_) => return Err(wrong(&"values: must be a list")),
            None => vec![Json::Object(object)],
        },
        _ => {
            return Err(wrong(
                &"must be a value, a list of values, or {\"values\":[…]}",
            ));
        }
    };
    let mut values = Vec::new();
    for (place, json) in list.into_iter().enumerate() {
        let says = json.get("permissions").is_some();
        let read = value::read(json, clock::unix_seconds());
        let mut value = read.map_err(|error| wrong(&format_args!("values[{place}]: {error}")))?;
        if seal::is_secret(&value.kind) && !says {
            value.permissions = Permissions(SECRET_PERMISSIONS);
        }
        values.push(value);
    }
    Ok(values)
}

/// All of a file, or of standard input, as far as it can be a message.
fn contents(path: &Path) -> Result<Vec<u8>, Failed> {
    // JSON of a message is longer than the message: hexadecimal twice as long, with names around.
    const MAX: u64 = 4 * MESSAGE_MAX as u64;
    let shown = path.display();
    let wrong = |error| Failed::report(format_args!("{shown}: {error}"));
    let mut octets = Vec::new();
    let read = match path == Path::new("-") {
        true => std::io::stdin().take(MAX + 1).read_to_end(&mut octets),
        false => fs::File::open(path)
            .map_err(wrong)?
            .take(MAX + 1)
            .read_to_end(&mut octets),
    };
    match read.map_err(wrong)? as u64 > MAX {
        true => Err(Failed::report(format_args!(
            "{shown}: longer than a record may be"
        ))),
        false => Ok(octets),
    }
}

/// The data of an administrator with every right.
fn admin(admin: Reference) -> Vec<u8> {
    let admin = Admin {
        rights: AdminRights::ALL,
        admin,
        padded: false,
    };
    data::encoded(|out| admin.encode(out))
}

fn is_site(kind: &[u8]) -> bool {
    kind == b"HS_SITE" || kind.starts_with(b"HS_SITE.")
}
