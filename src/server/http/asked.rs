//! The handle in a path and the parameters of a query, each decoded exactly once.

use std::borrow::Cow;

use bytes::Bytes;
use jiexi_proto::limits::HANDLE_MAX;
use jiexi_proto::message::resolution::{Resolution, ResolutionView};
use jiexi_proto::wire::Writer;
use percent_encoding::percent_decode_str;
use url::form_urlencoded;

use super::answer::Refusal;
use jiexi_proto::code::ResponseCode;

/// Parameters of a query that are looked at.
const PARAMETERS_MAX: usize = 2_200;
/// Longest name of a JSONP function.
const CALLBACK_MAX: usize = 64;

/// The handle that a raw path names behind `route`: everything that follows, `/` and all, with
/// percent signs decoded once. A `+` is a plus.
pub(super) fn handle<'a>(path: &'a str, route: &str) -> Result<Cow<'a, str>, Refusal> {
    let wrong = |detail: &'static str| Refusal::new(ResponseCode::INVALID_HANDLE, detail);
    let raw = path.strip_prefix(route).unwrap_or_default();
    let handle = percent_decode_str(raw).decode_utf8();
    let handle = handle.map_err(|_| wrong("the handle in the path is not UTF-8"))?;
    match handle.len() {
        0 => Err(wrong("the path names no handle")),
        length if length > HANDLE_MAX => Err(wrong("the handle is longer than 2048 octets")),
        _ => Ok(handle),
    }
}

/// The parameters of a query, in their order.
pub(super) fn parameters(query: Option<&str>) -> impl Iterator<Item = (String, String)> {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .into_owned()
        .take(PARAMETERS_MAX)
}

/// Refuses a parameter that has none of these names: where something is changed or paid for, a misspelt one must not pass.
pub(super) fn only(query: Option<&str>, known: &[&[&str]]) -> Result<(), Refusal> {
    let unknown = parameters(query)
        .map(|(name, _)| name)
        .find(|name| !known.iter().any(|names| names.contains(&&**name)));
    match unknown {
        Some(name) => Err(Refusal::field(name, "no such parameter")),
        None => Ok(()),
    }
}

/// What `GET /api/handles/{handle}` may ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resolving {
    /// `index=`, any number of times.
    pub(super) indexes: Vec<u32>,
    /// `type=`, any number of times; with the indexes they are a union.
    pub(super) types: Vec<String>,
    /// `publicOnly=`: restricted values are left out.
    pub(super) public_only: Option<bool>,
    /// `pretty`: for people.
    pub(super) pretty: bool,
    /// `callback=`: JSONP.
    pub(super) callback: Option<String>,
    /// `noredirect`: the record instead of where it leads.
    pub(super) no_redirect: bool,
    /// `locatt=key:value`: how a location is chosen.
    pub(super) locatt: Vec<(String, String)>,
}

impl Resolving {
    /// Reads a query. Parameters that are not known are left alone.
    pub(super) fn read(query: Option<&str>) -> Result<Self, Refusal> {
        let mut asked = Self::default();
        if query.is_none() {
            return Ok(asked);
        }
        for (name, value) in parameters(query) {
            match name.as_str() {
                "index" => asked.indexes.push(index(&value)?),
                "type" => asked.types.push(value),
                "publicOnly" => asked.public_only = Some(flag(&name, &value)?),
                "auth" => drop(flag(&name, &value)?),
                "pretty" => asked.pretty = flag(&name, &value)?,
                "callback" => asked.callback = Some(function(value)?),
                "noredirect" => asked.no_redirect = flag(&name, &value)?,
                "locatt" => {
                    let (key, value) = value.split_once(':').unwrap_or((&value, ""));
                    asked.locatt.push((key.to_owned(), value.to_owned()));
                }
                _ => {}
            }
        }
        Ok(asked)
    }
}

impl Resolving {
    /// Indexes and types as the resolver reads them: in wire form, and good. None when all values are asked for.
    pub(super) fn filter(&self) -> Result<Option<Vec<u8>>, Refusal> {
        if self.indexes.is_empty() && self.types.is_empty() {
            return Ok(None);
        }
        let mut body = Vec::new();
        Resolution {
            handle: Bytes::new(),
            indexes: self.indexes.clone(),
            types: self.types.iter().cloned().map(Bytes::from).collect(),
            trailer: None,
        }
        .encode(&mut Writer::new(&mut body));
        let wrong = |_| Refusal::field("type", "too many, or too long");
        ResolutionView::decode(&body).map_err(wrong)?;
        Ok(Some(body))
    }
}

/// Which values a change is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changing {
    /// `overwrite=`: what exists is replaced.
    pub(super) overwrite: Option<bool>,
    /// `index=`, any number of times; empty: the whole handle.
    pub(super) indexes: Vec<u32>,
    /// `index=various`: those in the body.
    pub(super) various: bool,
}

impl Changing {
    /// Reads a query.
    pub(super) fn read(query: Option<&str>) -> Result<Self, Refusal> {
        let mut asked = Self::default();
        for (name, value) in parameters(query) {
            match (name.as_str(), value.as_str()) {
                ("overwrite", _) => asked.overwrite = Some(flag(&name, &value)?),
                ("index", "various") => asked.various = true,
                ("index", _) => asked.indexes.push(index(&value)?),
                _ => {}
            }
        }
        Ok(asked)
    }
}

/// An index: a positive number.
fn index(text: &str) -> Result<u32, Refusal> {
    let number = text
        .parse()
        .ok()
        .filter(|index| i32::try_from(*index).is_ok());
    let wrong = || Refusal::field("index", "must be a number from 1 to 2147483647");
    number.filter(|index| *index > 0).ok_or_else(wrong)
}

/// A flag; its name alone sets it.
pub(super) fn flag(name: &str, text: &str) -> Result<bool, Refusal> {
    match text {
        "" | "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(Refusal::field(name, "must be true or false")),
    }
}

/// The name of a function in JavaScript, with dots.
fn function(text: String) -> Result<String, Refusal> {
    let part = |part: &str| {
        let mut characters = part.chars();
        let first = characters.next();
        first.is_some_and(|c| c.is_ascii_alphabetic() || matches!(c, '_' | '$'))
            && characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$'))
    };
    let good = text.len() <= CALLBACK_MAX && text.split('.').all(part);
    match good {
        true => Ok(text),
        false => Err(Refusal::field(
            "callback",
            "must be the name of a function in JavaScript",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: one decoding, nothing normalised. Method: what clients send raw and encoded.
    #[test]
    fn handles() {
        for (path, expected) in [
            ("/api/handles/88.118/a", "88.118/a"),
            ("/api/handles/88.118%2Fa", "88.118/a"),
            ("/api/handles/88.118/a%252Fb", "88.118/a%2Fb"),
            ("/api/handles/88.118/a+b%2B", "88.118/a+b+"),
            ("/api/handles/88.118//a//", "88.118//a//"),
            ("/api/handles/88.118/../a/./b", "88.118/../a/./b"),
            ("/api/handles/88.118/a%3Fb%23c", "88.118/a?b#c"),
            ("/api/handles/88.118/%E5%B7%A5%E4%B8%9A", "88.118/工业"),
            ("/api/handles/88.118/100%", "88.118/100%"),
            ("/api/handles/88.118/a%00b", "88.118/a\0b"),
        ] {
            assert_eq!(handle(path, "/api/handles/").unwrap(), expected);
        }
        for path in ["/api/handles/", "/api/handles/88.118/%FF"] {
            assert!(handle(path, "/api/handles/").is_err(), "{path}");
        }
    }

    /// Goal: no script gets in by the name of a function.
    #[test]
    fn functions() {
        for good in ["f", "jQuery123_4", "a.b.$c"] {
            assert!(function(good.into()).is_ok(), "{good}");
        }
        for bad in ["", "1a", "a-b", "a(b", "alert(1)//", "a..b", "名"] {
            assert!(function(bad.into()).is_err(), "{bad}");
        }
    }
}
