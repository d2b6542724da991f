//! `jiexi status`: how the node of this machine is, at a glance.

use std::time::Duration;

use clap::Args;
use std::io;

use serde_json::{Value as Json, json};

use super::{
    Failed,
    output::{self, Format},
    place::Place,
};
use crate::clock;
use crate::probe::{self, Scrape};

/// Seconds of a day.
const DAY: i64 = 86_400;

/// Show how the node of this machine is; exit code 0 when it does its work, 1 when not
///
/// Its work is to answer look-ups and, unless it is a standby, to take changes; with --look-ups the first is enough.
///
/// It asks the node's operations listener, which needs no rights and no configuration but its address: what is wrong with
/// the file is a warning, since the node may run all the same. Why something is as it is, says `jiexi doctor`.
#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    place: Place,
    /// Form of the report
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// Exit code 0 also when it takes no changes: for whoever restarts what is not well, which would end the look-ups, too
    #[arg(long)]
    look_ups: bool,
}

impl Status {
    pub(super) fn run(self) -> Result<(), Failed> {
        let config = self.place.load_to_look();
        let address = probe::local(config.operations.listen);
        let unanswered = |error: io::Error| {
            Failed::report(format_args!(
                "no node answers at http://{address} ({error}); is it running? `jiexi doctor` looks further"
            ))
        };
        let (code, ready) = probe::ready(address).map_err(unanswered)?;
        let (_, scrape) = probe::get(address, "/metrics").map_err(unanswered)?;
        let scrape = Scrape::read(&scrape);
        let report = report(&ready, &scrape, clock::unix_seconds().into());
        let printed = match self.output {
            Format::Json => output::print_json(&report),
            Format::Table => output::print(&table(&report)),
        };
        match probe::complaint(&ready) {
            Some(complaint) if code != 200 || !self.look_ups => {
                Err(Failed::report(format_args!("the node {complaint}")))
            }
            _ => printed,
        }
    }
}

/// What is worth knowing at a glance.
fn report(ready: &Json, scrape: &Scrape, now: i64) -> Json {
    let ago = |name: &str| match scrape.sum(name, &[]) {
        0.0 => Json::Null,
        at => json!(now - at as i64),
    };
    let number = |name: &str| scrape.sum(name, &[]) as u64;
    let counted = |name: &str, labels: &[(&str, &str)]| scrape.sum(name, labels) as u64;
    let responses = "jiexi_responses_total";
    let mut report = json!({
        "ready": ready["ready"],
        "state": ready["state"],
        "takes_changes": ready["takes_changes"],
        "reason": ready["reason"],
        "role": ready["role"],
        "version": scrape.label("jiexi_build_info", "version"),
        "running_seconds": ago("process_start_time_seconds"),
        "records": number("jiexi_index_records"),
        "prefixes": number("jiexi_prefixes_homed"),
        "requests": number("jiexi_requests_total"),
        "failed": counted(responses, &[("outcome", "error")]),
        "busy": counted(responses, &[("outcome", "busy")]),
        "dropped": number("jiexi_dropped_total") + number("jiexi_udp_kernel_drops_total"),
        "connections": number("jiexi_connections"),
        "changes": counted("jiexi_changes_total", &[("result", "committed")]),
        "store_errors": number("jiexi_store_errors_total"),
        "behind_changes": number("jiexi_store_lag_changes"),
        "snapshot_age_seconds": ago("jiexi_snapshot_timestamp_seconds"),
        "backup_age_seconds": ago("jiexi_backup_last_success_timestamp_seconds"),
        "disk_free_bytes": number("jiexi_disk_free_bytes"),
        "disk_reserve_bytes": number("jiexi_disk_reserve_bytes"),
        "memory_bytes": number("process_resident_memory_bytes"),
        "certificate_seconds": scrape.least("jiexi_certificate_expiry_timestamp_seconds")
            .map(|at| at as i64 - now),
        "configuration_good": scrape.sum("jiexi_config_last_reload_successful", &[]) == 1.0,
    });
    let standby = &ready["standby"];
    if standby.is_object() {
        report["primary"] = standby["primary"].clone();
        report["primary_reached"] = standby["connected"].clone();
        report["standby_behind_changes"] = standby["lag_sequences"].clone();
        let behind = standby["lag_seconds"].as_f64();
        report["standby_behind_seconds"] = json!(behind.map(|seconds| seconds.ceil() as i64));
    }
    report
}

/// A line for each fact, with people's units.
fn table(report: &Json) -> String {
    let mut lines = Vec::new();
    for (name, value) in report.as_object().into_iter().flatten() {
        let (title, shown) = if let Some(title) = name.strip_suffix("_bytes") {
            (
                title,
                bytesize::ByteSize(value.as_u64().unwrap_or(0)).to_string(),
            )
        } else if let Some(title) = name.strip_suffix("_seconds") {
            let length = value.as_i64().map(length);
            (title, length.unwrap_or_else(|| "none".into()))
        } else {
            (
                name.as_str(),
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned),
            )
        };
        if !shown.is_empty() {
            lines.push(vec![title.replace('_', " "), output::visible(&shown)]);
        }
    }
    output::table(&["WHAT", "VALUE"], &lines)
}

/// A time in words, as exactly as is of use at a glance: days, or seconds.
fn length(seconds: i64) -> String {
    if seconds.abs() >= 2 * DAY {
        return format!("{} days", seconds / DAY);
    }
    let length = humantime::format_duration(Duration::from_secs(seconds.unsigned_abs()));
    let sign = if seconds < 0 { "-" } else { "" };
    format!("{sign}{length}")
}
