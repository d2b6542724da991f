//! A value line of a batch file: `index type ttl permissions form data`.
//!
//! | form | data |
//! |---|---|
//! | `UTF8` | text, to the end of the line |
//! | `ADMIN` | `index:rights:handle`, twelve rights of `0` and `1` |
//! | `LIST` | `index:handle;` and more of them |
//! | `FILE` | the path of a file with the data; a site record may be JSON |

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use bytes::Bytes;
use jiexi_proto::code::Permissions;
use jiexi_proto::limits::MESSAGE_MAX;
use jiexi_proto::value::admin::{Admin, AdminRights};
use jiexi_proto::value::{Reference, Ttl, Value, list};

use super::batch::trim;
use crate::json::{data, site};

/// Octets of a file with data: JSON of a site record is longer than what it says.
const FILE_MAX: u64 = 4 * MESSAGE_MAX as u64;
/// The rights of an administrator, in the order in which a line has them. It is that of the bits but for one.
const RIGHTS: [AdminRights; 12] = [
    AdminRights::ADD_HANDLE,
    AdminRights::DELETE_HANDLE,
    AdminRights::ADD_PREFIX,
    AdminRights::DELETE_PREFIX,
    AdminRights::MODIFY_VALUE,
    AdminRights::REMOVE_VALUE,
    AdminRights::ADD_VALUE,
    AdminRights::READ_VALUE,
    AdminRights::MODIFY_ADMIN,
    AdminRights::REMOVE_ADMIN,
    AdminRights::ADD_ADMIN,
    AdminRights::LIST_HANDLES,
];

/// Reads a line; `now` (Unix seconds) is the value's timestamp.
pub(super) fn read(text: &str, now: u32) -> Result<Value, String> {
    let mut rest = text;
    let mut next = |what: &str| {
        let (word, behind) = word(rest);
        rest = behind;
        match word.is_empty() {
            true => Err(format!(
                "{what} is missing; a value line is: index type ttl permissions form data"
            )),
            false => Ok(word),
        }
    };
    let index = next("the index")?;
    let index = index
        .parse::<i32>()
        .ok()
        .and_then(|index| u32::try_from(index).ok());
    let index = index.filter(|index| *index > 0).ok_or_else(|| {
        "the index must be a number from 1 on; a blank line ends the values of a handle".to_owned()
    })?;
    let kind = Bytes::copy_from_slice(next("the type")?.as_bytes());
    let ttl = next("the time to live")?;
    let ttl = ttl
        .parse::<i32>()
        .map_err(|_| format!("{ttl:?} is no time to live in seconds"))?;
    let permissions = permissions(next("the permissions")?)?;
    let form = next("UTF8, ADMIN, LIST or FILE")?.to_ascii_uppercase();
    let data = match &*form {
        "UTF8" => trim(rest).as_bytes().to_vec(),
        "ADMIN" => admin(rest)?,
        "LIST" => references(rest)?,
        "FILE" => file(&kind, Path::new(trim(rest)))?,
        other => return Err(format!("{other:?} is not UTF8, ADMIN, LIST or FILE")),
    };
    Ok(Value {
        index,
        timestamp: now,
        ttl: Ttl::Relative(ttl),
        permissions,
        kind,
        data: Bytes::from(data),
        references: Vec::new(),
    })
}

/// The next word, and what follows it.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start_matches(' ');
    text.split_once(' ').unwrap_or((text, ""))
}

/// Four of 0 and 1: administrators may read, write; everybody may read, write.
fn permissions(text: &str) -> Result<Permissions, String> {
    let good = text.len() == 4 && text.bytes().all(|octet| matches!(octet, b'0' | b'1'));
    let bits = u8::from_str_radix(text, 2).ok().filter(|_| good);
    bits.map(Permissions)
        .ok_or_else(|| format!("{text:?} is not four permissions of 0 and 1, such as 1110"))
}

fn admin(text: &str) -> Result<Vec<u8>, String> {
    let wrong = || {
        "ADMIN takes index:rights:handle with twelve rights of 0 and 1, such as 300:111111111111:0.NA/88.118"
            .to_owned()
    };
    let mut parts = text.splitn(3, ':').map(trim);
    let mut part = || {
        parts
            .next()
            .filter(|part| !part.is_empty())
            .ok_or_else(wrong)
    };
    let (index, bits, handle) = (index(part()?), part()?, part()?);
    if bits.len() != RIGHTS.len() || bits.bytes().any(|bit| !matches!(bit, b'0' | b'1')) {
        return Err(wrong());
    }
    let set = bits.bytes().zip(RIGHTS).filter(|(bit, _)| *bit == b'1');
    let rights = set.fold(AdminRights(0), |rights, (_, right)| rights.with(right));
    let admin = Admin {
        rights,
        admin: Reference {
            handle: Bytes::copy_from_slice(handle.as_bytes()),
            index: index.ok_or_else(wrong)?,
        },
        padded: false,
    };
    Ok(data::encoded(|out| admin.encode(out)))
}

fn references(text: &str) -> Result<Vec<u8>, String> {
    let wrong = || "LIST takes index:handle;index:handle, such as 300:88.118/ADMIN;".to_owned();
    let members = text
        .split(';')
        .map(trim)
        .filter(|member| !member.is_empty());
    let members: Option<Vec<Reference>> = members
        .map(|member| {
            let (place, handle) = member.split_once(':')?;
            let handle = Some(trim(handle)).filter(|handle| !handle.is_empty())?;
            Some(Reference {
                handle: Bytes::copy_from_slice(handle.as_bytes()),
                index: index(trim(place))?,
            })
        })
        .collect();
    let members = members
        .filter(|members| !members.is_empty())
        .ok_or_else(wrong)?;
    Ok(data::encoded(|out| list::encode(&members, out)))
}

/// The index of a reference; 0 is any.
fn index(text: &str) -> Option<u32> {
    u32::try_from(text.parse::<i32>().ok()?).ok()
}

/// Data out of a file.
fn file(kind: &[u8], path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let wrong = |error: &dyn std::fmt::Display| format!("FILE {shown}: {error}");
    let mut octets = Vec::new();
    let read = File::open(path)
        .and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut octets))
        .map_err(|error| wrong(&error))?;
    if read as u64 > FILE_MAX {
        return Err(wrong(&"longer than a record may be"));
    }
    let kind = kind.to_ascii_uppercase();
    let is_site = kind == b"HS_SITE" || kind.starts_with(b"HS_SITE.");
    if !is_site || octets.trim_ascii_start().first() != Some(&b'{') {
        return Ok(octets);
    }
    let json = serde_json::from_slice(&octets).map_err(|error| wrong(&error))?;
    let site = site::read(&json).map_err(|error| wrong(&error))?;
    Ok(data::encoded(|out| site.encode(out)))
}
