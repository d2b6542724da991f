//! `jiexi dns`: what the zones of a node say, and one of them as a zone file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::{
    Failed,
    bulk::Destination,
    exit,
    output::{self, Format},
    place::Place,
    target::{self, Target},
};
use crate::bulk::import;
use crate::clock;
use crate::config::Config;
use crate::control::client::Node as Running;
use crate::control::command::{Command, Outcome, StoreAction};
use crate::maintenance;
use crate::node;
use crate::server::dns::export::{self, Counts};
use crate::server::dns::view::View;
use crate::server::dns::zone::{self, Zone};
use crate::server::dns::{self, Shared};
use crate::store::{Store, StoreError};

/// Look at the DNS zones of a node
#[derive(Debug, Args)]
pub(super) struct Dns {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check the zones, or write one as a zone file
    #[command(subcommand)]
    Zone(ZoneAction),
}

#[derive(Debug, Subcommand)]
enum ZoneAction {
    Check(Check),
    Export(Export),
}

/// Count what every zone holds: identifiers, names, records, and identifiers that DNS cannot show
///
/// Identifiers without a name are not of the form of the zone's mapping, or too long; those without records have no
/// public value that a rule of the zone reads. A running node is asked for its records, a stopped one is opened.
#[derive(Debug, Args)]
struct Check {
    #[command(flatten)]
    place: Place,
    /// Form of the report
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Write a zone in the form that every DNS server reads
///
/// The serial number is that of the last change, as the node itself says it.
#[derive(Debug, Args)]
struct Export {
    /// The zone, such as id.example.net
    zone: String,
    /// Where to write; without it to stdout
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

impl Dns {
    pub(super) fn run(self) -> Result<(), Failed> {
        match self.action {
            Action::Zone(ZoneAction::Check(check)) => check.run(),
            Action::Zone(ZoneAction::Export(export)) => export.run(),
        }
    }
}

impl Check {
    fn run(self) -> Result<(), Failed> {
        let records = Records::of(&self.place.load()?)?;
        let mut rows = Vec::new();
        for zone in records.shared.zones.iter() {
            let counts = records.export(zone, |_| Ok(()))?;
            rows.push((zone::text(&zone.apex), counts));
        }
        records.close()?;
        match self.output {
            Format::Json => {
                let zones: Vec<Json> = rows
                    .iter()
                    .map(|(name, counts)| report(name, counts))
                    .collect();
                output::print_json(&json!({ "zones": zones }))
            }
            Format::Table => output::print(&table(&rows)),
        }
    }
}

fn report(name: &str, counts: &Counts) -> Json {
    json!({
        "zone": name,
        "identifiers": counts.identifiers,
        "names": counts.names,
        "records": counts.records,
        "without_name": counts.nameless,
        "without_records": counts.empty,
    })
}

fn table(rows: &[(String, Counts)]) -> String {
    let header = [
        "ZONE",
        "IDENTIFIERS",
        "NAMES",
        "RECORDS",
        "WITHOUT NAME",
        "WITHOUT RECORDS",
    ];
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|(name, counts)| {
            let numbers = [
                counts.identifiers,
                counts.names,
                counts.records,
                counts.nameless,
                counts.empty,
            ];
            std::iter::once(name.clone())
                .chain(numbers.map(|number| number.to_string()))
                .collect()
        })
        .collect();
    output::table(&header, &rows)
}

impl Export {
    fn run(self) -> Result<(), Failed> {
        let records = Records::of(&self.place.load()?)?;
        let apex = zone::parse(&self.zone);
        let found = records
            .shared
            .zones
            .iter()
            .find(|zone| Some(&zone.apex) == apex.as_ref());
        let Some(zone) = found else {
            let all: Vec<String> = records
                .shared
                .zones
                .iter()
                .map(|zone| zone::text(&zone.apex))
                .collect();
            return Err(Failed::not_found(format_args!(
                "{}: no such zone in the configuration; there are: {}",
                self.zone,
                all.join(" ")
            )));
        };
        let path = self.file.as_deref().unwrap_or_else(|| Path::new("-"));
        let mut sink = Destination::open(path)
            .map_err(|error| Failed::report(format_args!("{}: {error}", path.display())))?;
        let counts = records.export(zone, |lines| {
            sink.write_all(lines.as_bytes()).map_err(ExportError::Write)
        })?;
        sink.finish()
            .map_err(|error| Failed::output("cannot write the zone", &error))?;
        exit::say(format_args!(
            "{} names with {} records; {} identifiers have no name, {} no records",
            counts.names, counts.records, counts.nameless, counts.empty
        ));
        records.close()
    }
}

/// Why a zone could not be written.
enum ExportError {
    Store(StoreError),
    Write(io::Error),
}

impl From<StoreError> for ExportError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The records of a node: its own store when it is stopped, a copy when it runs.
struct Records {
    shared: Shared,
    serial: u32,
    /// The copy, gone with this.
    _copy: Option<Copy>,
}

impl Records {
    fn of(config: &Config) -> Result<Self, Failed> {
        if config.dns.zones.is_empty() {
            return Err(Failed::report(
                "no zones: describe one as [[dns.zones]]; `jiexi config template` says how",
            ));
        }
        let (store, serial, copy) = match target::find(config)? {
            Target::Stopped(store) => {
                let sequence = store.sequence();
                (*store, sequence, None)
            }
            Target::Running(running) => {
                let copy = Copy::new()?;
                let (store, sequence) = copy.fill(config, running)?;
                (store, sequence, Some(copy))
            }
        };
        let site = node::read_site(&config.site_file()).map_err(Failed::report)?;
        let mut wire = Vec::new();
        site.encode(&mut wire);
        let store = std::sync::Arc::new(store);
        let shared =
            node::dns_shared(config, &store, &Bytes::from(wire)).map_err(Failed::report)?;
        Ok(Self {
            shared,
            serial: dns::serial(serial),
            _copy: copy,
        })
    }

    fn export(
        &self,
        zone: &Zone,
        each: impl FnMut(&str) -> Result<(), ExportError>,
    ) -> Result<Counts, Failed> {
        let reader = self.shared.store.reader();
        let authority = self.shared.authority().map_err(Failed::report)?;
        let session = reader.session();
        let view = View {
            shared: &self.shared,
            authority: &authority,
            session: &session,
            serial: self.serial,
            unix_seconds: clock::unix_seconds(),
        };
        export::export(&view, zone, each).map_err(|error| match error {
            ExportError::Store(error) => Failed::report(error),
            ExportError::Write(error) => Failed::output("cannot write the zone", &error),
        })
    }

    fn close(self) -> Result<(), Failed> {
        target::close(&self.shared.store)
    }
}

/// A copy of the records of a running node, in a directory that ends with it.
struct Copy {
    directory: tempfile::TempDir,
}

impl Copy {
    fn new() -> Result<Self, Failed> {
        let directory = tempfile::tempdir();
        let directory = directory
            .map_err(|error| Failed::report(format_args!("cannot make a directory: {error}")))?;
        Ok(Self { directory })
    }

    /// Copies the records; the copy and the sequence of the last change before that.
    fn fill(&self, config: &Config, running: Running) -> Result<(Store, u64), Failed> {
        let stats = Command::Store {
            action: StoreAction::Stats,
        };
        let nothing = |_: &[u8]| Ok(());
        let stats =
            target::block_on(running.run(stats, None::<tokio::io::Empty>, nothing, |_| {}))?;
        let sequence = match stats.map_err(target::explain)? {
            Outcome::Report { report, .. } => report["sequence"].as_u64().unwrap_or_default(),
            Outcome::Counts(_) | Outcome::Told(_) => 0,
        };
        let path = self.directory.path().join("records.ndjson");
        let failed = |error: io::Error| Failed::report(format_args!("{}: {error}", path.display()));
        let mut file = BufWriter::new(File::create(&path).map_err(failed)?);
        let Some(running) = target::running(config)? else {
            return Err(Failed::report("the node has stopped meanwhile; try again"));
        };
        let command = Command::Export {
            hex: true,
            with_secrets: false,
        };
        let write = |data: &[u8]| file.write_all(data);
        let copied =
            target::block_on(running.run(command, None::<tokio::io::Empty>, write, |_| {}))?;
        copied.map_err(target::explain)?;
        file.flush().map_err(failed)?;
        let store = self.store(config)?;
        let options = import::Options {
            known: import::Known::Overwrite,
            dry_run: false,
            keep_going: false,
            live: false,
            now: clock::unix_seconds(),
            alone: true,
            sealer: None,
        };
        let lines = File::open(&path).map_err(failed)?;
        let copied = import::import(lines, &store, options, &|_| {});
        copied.map_err(|stopped| Failed::report(stopped.error))?;
        Ok((store, sequence))
    }

    fn store(&self, config: &Config) -> Result<Store, Failed> {
        let mut settings = config.store_config();
        settings.dir = self.directory.path().join("store");
        (settings.guard_free_bytes, settings.guard_free_percent) = (0, 0);
        Store::create(&settings).map_err(Failed::report)?;
        maintenance::open(settings).map_err(Failed::report)
    }
}
