//! `jiexi audit`: who changed what; whether the trail is whole.

use clap::{Args, Subcommand};
use serde_json::json;

use super::Failed;
use super::output::{self, Format};
use super::place::Place;
use crate::identity;
use crate::registry::audit::{self, Entry, Filter, Known};

/// Show who changed what, from where, with which result
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Audit {
    #[command(subcommand)]
    action: Option<Action>,
    /// Only entries about this handle
    #[arg(long, value_name = "HANDLE")]
    handle: Option<String>,
    /// Only entries of this identity, as index:handle
    #[arg(long, value_name = "IDENTITY")]
    identity: Option<String>,
    /// Only entries since this time: 2026-11-24T08:00:00Z, or seconds since 1970
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Form of the output; JSON is one object a line
    #[arg(long, short = 'o', value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check that no entry was changed, taken out or put in, and that nothing was cut off
    ///
    /// The last entry is sealed with the node's key. Whoever has that key as well can write another trail; to see that
    /// too, note number and hash that this prints elsewhere, and give them as --known the next time.
    Verify {
        /// An entry that was noted elsewhere, as number:hash; may be given several times. When older files have been
        /// put away, the last entry of them
        #[arg(long, value_name = "NUMBER:HASH", value_parser = known)]
        known: Vec<Known>,
        /// Form of the output
        #[arg(long, short = 'o', value_enum, default_value_t)]
        output: Format,
        #[command(flatten)]
        place: Place,
    },
}

impl Audit {
    pub(super) fn run(self) -> Result<(), Failed> {
        if let Some(Action::Verify {
            known,
            output,
            place,
        }) = self.action
        {
            return verify(&place, &known, output);
        }
        let since = self.since.as_deref();
        let since = since.map(|text| seconds("--since", text)).transpose()?;
        let filter = Filter {
            handle: self.handle,
            identity: self.identity,
            since,
        };
        let directory = self.place.load()?.audit_dir();
        let shown = directory.display();
        let (mut rows, mut lines) = (Vec::new(), String::new());
        let each = |entry: &Entry| match self.output {
            Format::Table => rows.push(row(entry)),
            Format::Json => {
                lines.push_str(&serde_json::to_string(entry).unwrap_or_default());
                lines.push('\n');
            }
        };
        audit::read(&directory, &filter, each)
            .map_err(|error| Failed::report(format_args!("audit trail {shown}: {error}")))?;
        match self.output {
            Format::Json => output::print(&lines),
            Format::Table => {
                let header = [
                    "TIME",
                    "IDENTITY",
                    "FROM",
                    "OPERATION",
                    "HANDLE",
                    "RESULT",
                    "CODE",
                ];
                output::print(&output::table(&header, &rows))
            }
        }
    }
}

fn row(entry: &Entry) -> Vec<String> {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(entry.time);
    vec![
        humantime::format_rfc3339_seconds(time).to_string(),
        entry.identity.clone(),
        entry.source.clone(),
        entry.operation.clone(),
        entry.handle.clone(),
        match entry.recovered {
            true => format!("{} (recovered)", entry.result),
            false => entry.result.clone(),
        },
        entry.code.to_string(),
    ]
}

fn verify(place: &Place, known: &[Known], form: Format) -> Result<(), Failed> {
    let config = place.load()?;
    let directory = config.audit_dir();
    let key = identity::node_key(&config.node_key()).map_err(Failed::report)?;
    let report = audit::verify(&directory, &key, known).map_err(|error| {
        Failed::report(format_args!("audit trail {}: {error}", directory.display()))
    })?;
    let good = report.problems.is_empty();
    let printed = match form {
        Format::Json => output::print_json(&json!({
            "good": good,
            "entries": report.entries,
            "recovered": report.recovered,
            "last": report.sequence,
            "hash": report.hash,
            "problems": report.problems,
        })),
        Format::Table => {
            let mut text = format!(
                "{} entries, the last one is {}:{}\n",
                report.entries, report.sequence, report.hash
            );
            if report.recovered > 0 {
                text += &format!(
                    "{} of them were completed from the journal after a crash: the changes are durable, but nobody was \
                     told so\n",
                    report.recovered
                );
            }
            report
                .problems
                .iter()
                .for_each(|problem| text.extend([problem, "\n"]));
            output::print(&text)
        }
    };
    match good {
        true => printed,
        false => Err(Failed::report("the audit trail is not whole")),
    }
}

fn known(text: &str) -> Result<Known, String> {
    let parts = text.split_once(':');
    let parsed = parts.and_then(|(sequence, hash)| {
        let whole = hash.len() == 64 && hash.bytes().all(|octet| octet.is_ascii_hexdigit());
        let sequence = sequence.parse().ok()?;
        whole.then(|| Known {
            sequence,
            hash: hash.to_ascii_lowercase(),
        })
    });
    parsed.ok_or_else(|| "give number and hash, as jiexi audit verify prints them".to_owned())
}

/// The time that an option gives.
pub(super) fn seconds(option: &str, text: &str) -> Result<u64, Failed> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let time = humantime::parse_rfc3339_weak(text);
    let passed = time
        .ok()
        .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    passed.map(|passed| passed.as_secs()).ok_or_else(|| {
        Failed::usage(format_args!(
            "{option}: {text:?} is no time; give 2026-11-24T08:00:00Z or seconds since 1970"
        ))
    })
}
