//! Export: homed prefixes, then all records in the order of their keys, as lines.
//!
//! Pages of the store are read one after the other while changes go on, so an export of a running node is a consistent
//! view of each record, not of one moment for all. A snapshot is that.

use std::{
    borrow::Cow,
    fmt,
    io::{self, Write},
    ops::Bound,
};

use jiexi_proto::value;

use super::Counts;
use crate::{
    json::line,
    registry::seal::{self, Sealer},
    store::{OwnedRecord, Space, Store, StoreError},
};

/// Records read from the store at once.
const PAGE: usize = 512;

/// How to export.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// All values in wire form.
    pub hex: bool,
    /// Secret values too; without it they are left out and counted.
    pub with_secrets: bool,
    /// Opens sealed secrets; without it they are left out and counted.
    pub sealer: Option<Sealer>,
}

/// Why an export stopped.
#[derive(Debug)]
pub enum ExportError {
    /// The output takes no more.
    Write(io::Error),
    /// The store cannot be read.
    Store(StoreError),
}

impl fmt::Display for ExportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(error) => write!(f, "cannot write the export: {error}"),
            Self::Store(error) => write!(f, "cannot read the store: {error}"),
        }
    }
}

impl std::error::Error for ExportError {}

/// Writes all of `store` to `output`. Blocks; `watch` hears the counts so far after each page.
///
/// # Errors
/// See [`ExportError`]; the output is then incomplete.
pub fn export(
    store: &Store,
    output: &mut impl Write,
    options: &Options,
    watch: &dyn Fn(Counts),
) -> Result<Counts, ExportError> {
    let mut counts = Counts::default();
    for space in [Space::Prefix, Space::Handle] {
        let mut from = Bound::Unbounded;
        loop {
            let page = store
                .scan(space, bound(&from), b"", PAGE)
                .map_err(ExportError::Store)?;
            let Some(last) = page.last() else { break };
            from = Bound::Excluded(last.key().to_vec());
            for record in &page {
                write_record(space, record, output, options, &mut counts)
                    .map_err(ExportError::Write)?;
            }
            watch(counts);
        }
    }
    output.flush().map_err(ExportError::Write)?;
    Ok(counts)
}

/// A borrowed bound.
fn bound(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    match bound {
        Bound::Unbounded => Bound::Unbounded,
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
    }
}

/// One line.
fn write_record(
    space: Space,
    record: &OwnedRecord,
    output: &mut impl Write,
    options: &Options,
    counts: &mut Counts,
) -> io::Result<()> {
    let json = if space == Space::Prefix {
        counts.prefixes += 1;
        line::write_prefix(&record.handle())
    } else {
        let (mut values, mut left_out) = (Vec::new(), 0);
        for entry in record.entries() {
            let secret = entry.sealed || seal::is_secret(value::type_of(entry.wire));
            let opened = match (secret && !options.with_secrets, entry.sealed) {
                (true, _) => None,
                (false, false) => Some(Cow::Borrowed(entry.wire)),
                (false, true) => {
                    let sealer = options.sealer.as_ref();
                    let opened = sealer.and_then(|sealer| sealer.open_entry(record.key(), &entry));
                    opened.map(Cow::Owned)
                }
            };
            match opened {
                Some(wire) => values.push(wire),
                None => left_out += 1,
            }
        }
        let values: Vec<&[u8]> = values.iter().map(|wire| &**wire).collect();
        counts.records += 1;
        counts.values += u64::try_from(values.len()).unwrap_or_default();
        counts.secrets_left_out += left_out;
        line::write(&record.handle(), &values, options.hex)
    };
    counts.lines += 1;
    serde_json::to_writer(&mut *output, &json)?;
    output.write_all(b"\n")
}
