//! Batch files of the Handle.Net tools (GenericBatch; Technical Manual, "Handle Batch Operations"): commands, some with
//! lines of their own behind them, which a blank line ends.
//!
//! ```text
//! CREATE handle           DELETE handle             AUTHENTICATE SECKEY:index:handle     SESSIONSETUP
//! value                   REMOVE index,…:handle     secret                               NAME:…
//! …                       HOME address:port:TCP     AUTHENTICATE PUBKEY:index:handle     …
//! (ADD and MODIFY alike)  0.NA/prefix …             file|passphrase
//! ```
//!
//! Commands are in any case, blanks around a line count for nothing. What cannot be read is told with its line, and the
//! rest is read on: everything that is wrong with a file is found at once.

use std::io::{self, BufRead, Read as _};

use bytes::Bytes;
use jiexi_proto::limits::{HANDLE_MAX, VALUES_MAX};
use jiexi_proto::value::Value;

use super::report::shown;
use super::value;
use crate::json::line;
use crate::registry::plan::Request;

/// Octets of a line: the data of a value are one, and a record has 256 KiB.
pub const LINE_MAX: usize = 1 << 20;
/// The commands, for people.
const COMMANDS: &str =
    "CREATE, DELETE, ADD, MODIFY, REMOVE, HOME, UNHOME, AUTHENTICATE or SESSIONSETUP";

/// Something that a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The line of its command, or of the prefix that is homed.
    pub line: u64,
    /// What is to be done.
    pub what: What,
}

/// What a step is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A change.
    Change(Request),
    /// Who asks from here on: whoever runs a node needs no key for it.
    Identity,
    /// How a session is made: there is none.
    Session,
}

/// Something that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// The line that is wrong.
    pub line: u64,
    /// The handle it is about, as far as that is known.
    pub handle: Option<String>,
    /// What is wrong.
    pub message: String,
}

/// A step, or what cannot be one.
pub type Item = Result<Step, Bad>;

/// The steps of a file, in their order.
pub struct Steps<R> {
    lines: Lines<R>,
    /// Unix seconds: the timestamp of values, as a server gives them when it carries a batch out.
    now: u32,
    /// Prefixes are being homed, or the opposite.
    homing: Option<bool>,
}

impl<R: BufRead> Steps<R> {
    /// The steps of `input`; `now` is Unix seconds.
    pub fn new(input: R, now: u32) -> Self {
        Self {
            lines: Lines::new(input),
            now,
            homing: None,
        }
    }

    /// Octets that were read.
    pub const fn octets(&self) -> u64 {
        self.lines.octets
    }

    /// The next step; none at the end.
    fn step(&mut self) -> io::Result<Option<Item>> {
        loop {
            let Some(text) = self.lines.next()? else {
                return Ok(None);
            };
            let line = self.lines.number;
            let text = match text {
                Ok(text) if text.is_empty() => {
                    self.homing = None;
                    continue;
                }
                Ok(text) => text,
                Err(message) => return Ok(Some(Err(bad(line, None, message)))),
            };
            if let Some(home) = self.homing {
                return Ok(Some(prefix(line, &text, home)));
            }
            let (command, rest) = text.split_once(' ').unwrap_or((&text, ""));
            let rest = trim(rest);
            let step = match &*command.to_ascii_uppercase() {
                "HOME" | "UNHOME" => {
                    if let Err(message) = server(rest) {
                        return Ok(Some(Err(bad(line, None, message))));
                    }
                    self.homing = Some(command.eq_ignore_ascii_case("HOME"));
                    continue;
                }
                "CREATE" | "ADD" | "MODIFY" => self.with_values(line, command, rest)?,
                "DELETE" => {
                    named(line, rest).map(|handle| change(line, Request::Delete { handle }))
                }
                "REMOVE" => remove(line, rest),
                "AUTHENTICATE" => self.identity(line, rest)?,
                "SESSIONSETUP" => self.session(line)?,
                _ => self.unknown(line, command)?,
            };
            return Ok(Some(step));
        }
    }

    /// A command with value lines. A bad one makes all of it bad: half a record would be another record.
    fn with_values(&mut self, line: u64, command: &str, rest: &str) -> io::Result<Item> {
        let mut wrong = named(line, rest).err();
        let about = (!rest.is_empty()).then_some(rest);
        let mut values: Vec<Value> = Vec::new();
        while let Some(text) = self.lines.next()? {
            let at = self.lines.number;
            let read = match text {
                Ok(text) if text.is_empty() => break,
                Ok(_) if values.len() == VALUES_MAX => {
                    Err(format!("more than {VALUES_MAX} values"))
                }
                Ok(text) => value::read(&text, self.now),
                Err(message) => Err(message),
            };
            match read {
                Ok(value) => values.push(value),
                Err(message) if wrong.is_none() => wrong = Some(bad(at, about, message)),
                Err(_) => {}
            }
        }
        if let Some(wrong) = wrong {
            return Ok(Err(wrong));
        }
        if values.is_empty() {
            let message = format!("{command} has no value lines behind it");
            return Ok(Err(bad(line, about, message)));
        }
        values.sort_by_key(|value| value.index);
        if let Err(error) = line::check_record(rest.as_bytes(), &values) {
            return Ok(Err(bad(line, about, error.to_string())));
        }
        let handle = Bytes::copy_from_slice(rest.as_bytes());
        let request = match &*command.to_ascii_uppercase() {
            "CREATE" => Request::Create {
                handle,
                values,
                overwrite: false,
                mint: false,
            },
            "ADD" => Request::Add {
                handle,
                values,
                overwrite: false,
            },
            _ => Request::Modify { handle, values },
        };
        Ok(Ok(change(line, request)))
    }

    /// `AUTHENTICATE`, whose secret or key file has a line of its own.
    fn identity(&mut self, line: u64, rest: &str) -> io::Result<Item> {
        let mut parts = rest.splitn(3, ':').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_uppercase();
        let index = parts
            .next()
            .is_some_and(|index| index.parse::<i32>().is_ok());
        let handle = parts.next().is_some_and(|handle| !handle.is_empty());
        // The line behind it is no command, whatever it says, and is shown to nobody.
        let proof = self.lines.next()?;
        let proof = matches!(proof, Some(Ok(text)) if !text.is_empty());
        if !index || !handle || !matches!(&*kind, "SECKEY" | "PUBKEY") {
            let message = "AUTHENTICATE takes SECKEY:index:handle or PUBKEY:index:handle";
            return Ok(Err(bad(line, None, message)));
        }
        if !proof {
            let message =
                "the line behind AUTHENTICATE must have the secret, or the file of the private key";
            return Ok(Err(bad(line + 1, None, message)));
        }
        let what = What::Identity;
        Ok(Ok(Step { line, what }))
    }

    fn session(&mut self, line: u64) -> io::Result<Item> {
        let mut wrong = None;
        while let Some(text) = self.lines.next()? {
            match text {
                Ok(text) if text.is_empty() => break,
                Ok(text) if text.contains(':') => {}
                _ if wrong.is_none() => {
                    let message = "a line of SESSIONSETUP is NAME:…, and a blank line ends them";
                    wrong = Some(bad(self.lines.number, None, message));
                }
                _ => {}
            }
        }
        let what = What::Session;
        Ok(wrong.map_or(Ok(Step { line, what }), Err))
    }

    /// No command. What looks like its values is part of the same mistake.
    fn unknown(&mut self, line: u64, command: &str) -> io::Result<Item> {
        let shown: String = command.chars().take(40).collect();
        let is_value = |text: &str| {
            let first = text.split(' ').next().unwrap_or_default();
            !first.is_empty() && first.bytes().all(|octet| octet.is_ascii_digit())
        };
        self.lines.skip_while(is_value)?;
        let message = match is_value(command) {
            true => {
                "a value without a command: a blank line ends the values of a handle".to_owned()
            }
            false => format!("{shown:?} is no command: {COMMANDS}"),
        };
        Ok(Err(bad(line, None, message)))
    }
}

impl<R: BufRead> Iterator for Steps<R> {
    type Item = io::Result<Item>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

/// Both texts may be most of a line.
fn bad(line: u64, handle: Option<&str>, message: impl AsRef<str>) -> Bad {
    Bad {
        line,
        handle: handle.map(shown),
        message: shown(message.as_ref()),
    }
}

const fn change(line: u64, request: Request) -> Step {
    let what = What::Change(request);
    Step { line, what }
}

/// The handle behind a command.
fn named(line: u64, handle: &str) -> Result<Bytes, Bad> {
    if handle.is_empty() {
        return Err(bad(line, None, "the handle is missing"));
    }
    if handle.len() > HANDLE_MAX {
        let message = format!("the handle is longer than {HANDLE_MAX} bytes");
        return Err(bad(line, Some(handle), message));
    }
    Ok(Bytes::copy_from_slice(handle.as_bytes()))
}

/// `REMOVE`: indexes with commas between them, a colon, and the handle, in which there may be others.
fn remove(line: u64, rest: &str) -> Item {
    let (indexes, handle) = rest.split_once(':').unwrap_or((rest, ""));
    let handle = named(line, trim(handle))?;
    let indexes: Result<Vec<u32>, _> = indexes
        .split(',')
        .map(|index| index.trim().parse::<i32>())
        .map(|index| {
            index
                .map_err(drop)
                .and_then(|index| u32::try_from(index).map_err(drop))
        })
        .collect();
    match indexes {
        Ok(indexes) if indexes.len() <= VALUES_MAX && !indexes.contains(&0) => {
            Ok(change(line, Request::Remove { handle, indexes }))
        }
        _ => {
            let message = "REMOVE takes index,index:handle, such as 5,6:88.118/a";
            let handle = String::from_utf8_lossy(&handle).into_owned();
            Err(bad(line, Some(&handle), message))
        }
    }
}

/// The server that a prefix was homed at; that is this node now, whatever the line says.
fn server(text: &str) -> Result<(), &'static str> {
    let mut parts = text.rsplitn(3, ':');
    let protocol = parts.next().unwrap_or_default().to_ascii_uppercase();
    let port = parts.next().is_some_and(|port| port.parse::<u16>().is_ok());
    let address = parts.next().is_some_and(|address| !address.is_empty());
    match address && port && matches!(&*protocol, "TCP" | "UDP" | "HTTP") {
        true => Ok(()),
        false => Err("HOME and UNHOME take address:port:TCP, such as 192.0.2.1:2641:TCP"),
    }
}

/// A prefix below `HOME` or `UNHOME`.
fn prefix(line: u64, text: &str, home: bool) -> Item {
    let space = text
        .get(..5)
        .is_some_and(|space| space.eq_ignore_ascii_case("0.NA/"));
    if !space {
        let message = "must be a prefix as 0.NA/88.118; a blank line ends those of HOME and UNHOME";
        return Err(bad(line, Some(text), message));
    }
    let prefix = line::parse_prefix(text);
    let prefix = Bytes::from(prefix.map_err(|error| bad(line, Some(text), error.to_string()))?);
    let record = None;
    Ok(change(
        line,
        match home {
            true => Request::Home { prefix, record },
            false => Request::Unhome {
                prefix,
                record: false,
            },
        },
    ))
}

/// Lines without what stands around them.
struct Lines<R> {
    input: R,
    /// The number of the newest line, from 1.
    number: u64,
    octets: u64,
    buffer: Vec<u8>,
    /// A line that was looked at and not taken.
    held: Option<Result<String, String>>,
}

impl<R: BufRead> Lines<R> {
    const fn new(input: R) -> Self {
        Self {
            input,
            number: 0,
            octets: 0,
            buffer: Vec::new(),
            held: None,
        }
    }

    /// The next line, or what is wrong with it; none at the end.
    fn next(&mut self) -> io::Result<Option<Result<String, String>>> {
        let line = match self.held.take() {
            Some(line) => Some(line),
            None => self.read()?,
        };
        self.number += u64::from(line.is_some());
        Ok(line)
    }

    /// Passes over lines.
    fn skip_while(&mut self, of: impl Fn(&str) -> bool) -> io::Result<()> {
        while let Some(line) = self.next()? {
            if !line.as_deref().is_ok_and(&of) {
                self.number -= 1;
                self.held = Some(line);
                break;
            }
        }
        Ok(())
    }

    fn read(&mut self) -> io::Result<Option<Result<String, String>>> {
        self.buffer.clear();
        let room = (LINE_MAX + 1) as u64;
        let read = (&mut self.input)
            .take(room)
            .read_until(b'\n', &mut self.buffer)?;
        if read == 0 {
            return Ok(None);
        }
        if read > LINE_MAX && self.buffer.last() != Some(&b'\n') {
            // What follows might be gigabytes without a line end.
            let line = self.number + 1;
            let text = format!("line {line} is longer than {LINE_MAX} bytes");
            return Err(io::Error::other(text));
        }
        self.octets += read as u64;
        let mut octets = &self.buffer[..];
        if self.octets == read as u64 {
            octets = octets.strip_prefix("\u{feff}".as_bytes()).unwrap_or(octets);
        }
        let text = std::str::from_utf8(octets).map(|text| trim(text).to_owned());
        Ok(Some(text.map_err(|_| "is not UTF-8".to_owned())))
    }
}

/// As the tools trim: everything up to the blank.
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c <= ' ')
}

#[cfg(test)]
mod tests;
