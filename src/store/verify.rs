//! Reading and comparing everything that is on the disk with what is in memory. Damage that is found is healed: what is
//! in the index is the truth, and the other files can be made from it.

use std::fs;

use super::Report;
use super::error::StoreError;
use super::journal;
use super::journal::entry::{Piece, for_each_piece, read_segment_head};
use super::metrics::Part;
use super::run;
use super::shared::Shared;
use super::sled::{Engine, Found};
use super::snapshot::{self, Tally};
use super::{SnapshotInfo, State};

/// Verifies a store that is loaded.
pub(crate) fn verify(shared: &Shared) -> Result<Report, StoreError> {
    if matches!(shared.state(), State::Loading | State::Verifying) {
        return Err(StoreError::Loading);
    }
    if let Some(failure) = shared.failure() {
        return Err(StoreError::Failed(failure));
    }
    let mut report = Report {
        sequence: shared.overlay.durable().sequence,
        ..Report::default()
    };
    index(shared, &mut report);
    match shared.wait_sled() {
        Some((engine, applied)) => sled(shared, &engine, applied.sequence, &mut report)?,
        None => report.problems.push("sled is being made anew".to_owned()),
    }
    journal(shared, &mut report)?;
    snapshots(shared, &mut report)?;
    runs(shared, &mut report);
    for _ in &report.problems {
        shared.metrics.count_error(Part::Scrub);
    }
    Ok(report)
}

fn index(shared: &Shared, report: &mut Report) {
    shared.index.for_each(|packed| {
        report.index_records += 1;
        report.index_damaged += u64::from(!packed.is_whole());
    });
    if report.index_damaged > 0 {
        shared.metrics.count_error(Part::Index);
        let damaged = report.index_damaged;
        report.problems.push(format!(
            "{damaged} records in memory have a wrong checksum: check the machine's memory, and start again"
        ));
    }
}

/// Adds up sled, with the journal after what it holds at least, as a snapshot does.
fn sled(
    shared: &Shared,
    engine: &Engine,
    from: u64,
    report: &mut Report,
) -> Result<(), StoreError> {
    let mut tally = Tally::default();
    // What the journal says counts for more, but how far it must be read is known at the end only.
    let mut records: Vec<(u64, Option<u64>)> = Vec::new();
    let read = engine.for_each(|found| {
        records.push(match found {
            Found::Record(packed) => (
                tally.hash(packed.space_number(), packed.key()),
                Some(packed.checksum()),
            ),
            Found::Damaged { space, key } => (tally.hash(space, &key), None),
        });
        !shared.is_stopping()
    });
    if shared.is_stopping() {
        return Err(StoreError::Closed);
    }
    let to = shared.overlay.durable();
    let epoch = shared.identity.epoch;
    journal::tail::read(shared.dir(), epoch, (from, to.sequence), |entry| {
        tally.entry(entry, to, shared).map(drop)
    })?;
    report.sled_records = records.len() as u64;
    for (hash, checksum) in records {
        tally.record(hash, checksum);
    }
    report.sled_damaged = tally.damaged;
    report.sled_agrees = read.is_ok() && tally.damaged == 0 && tally.total(to.sequence) == to;
    if !report.sled_agrees {
        let why = read.err().map_or_else(
            || "its records are not those of the journal".to_owned(),
            |error| error.message,
        );
        report.problems.push(format!(
            "{}: {why}; it is made anew",
            engine.directory().display()
        ));
        shared.request(|requests| requests.rebuild = true);
    }
    Ok(())
}

fn journal(shared: &Shared, report: &mut Report) -> Result<(), StoreError> {
    let segments = journal::segments(shared.dir())?;
    let mut problems = Vec::new();
    for (number, segment) in segments.iter().enumerate() {
        let Ok(bytes) = fs::read(&segment.path) else {
            // Pruned meanwhile, or a problem that the snapshot taken because of it does not have.
            continue;
        };
        let mut note = |what: &str| problems.push(format!("{}: {what}", segment.path.display()));
        if read_segment_head(&bytes, shared.identity.epoch).is_none() {
            note("its head is damaged");
        }
        let mut last = segment.first - 1;
        let mut unbroken = true;
        for_each_piece(&bytes, shared.identity.epoch, |piece| match piece {
            Piece::Entry(entry) => {
                report.journal_entries += 1;
                unbroken &= entry.first == last + 1;
                last = entry.after.sequence;
            }
            Piece::Hole { .. } => unbroken = false,
            // The writer may be at work behind what is durable.
            Piece::Torn { .. } => {
                unbroken &= number + 1 == segments.len() && last >= report.sequence
            }
        });
        let next = segments
            .get(number + 1)
            .map_or(report.sequence, |next| next.first - 1);
        if !unbroken || last < next {
            note("an entry is missing or damaged");
        }
    }
    if !problems.is_empty() {
        shared.request(|requests| requests.renew = true);
        let healing = |problem| format!("{problem}; a new snapshot takes its place");
        report.problems.extend(problems.into_iter().map(healing));
    }
    Ok(())
}

/// Reads the runs that are still needed.
fn runs(shared: &Shared, report: &mut Report) {
    for (_, path, _) in run::list(shared.dir()) {
        match run::verify(&path, shared.identity.epoch) {
            Ok(()) => {}
            // Removed meanwhile: sled and the snapshots have it.
            Err(_) if !path.exists() => {}
            Err(error) => {
                shared.request(|requests| requests.renew = true);
                report
                    .problems
                    .push(format!("{error}; a new snapshot takes its place"));
            }
        }
    }
}

fn snapshots(shared: &Shared, report: &mut Report) -> Result<(), StoreError> {
    for (_, path) in snapshot::list(shared.dir())? {
        match snapshot::verify(&path) {
            Ok((manifest, bytes)) => report
                .snapshots
                .push(SnapshotInfo::new(path, &manifest, bytes)),
            // Removed meanwhile, because newer ones are kept.
            Err(_) if !path.exists() => {}
            Err(error) => {
                shared.metrics.count_error(Part::Snapshot);
                shared.request(|requests| requests.renew = true);
                report.problems.push(error.to_string());
            }
        }
    }
    Ok(())
}
