//! The host: keys, certificates, clock, limits, disk.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use nix::sys::resource::{Resource, getrlimit};

use super::{Finding, Verdict};
use crate::clock;
use crate::config::Config;
use crate::identity;
use crate::probe::Scrape;
use crate::reload::Certificates;

/// A certificate should have so many seconds left.
const CERTIFICATE_LEFT: i64 = 21 * 86_400;
/// Syncs that are measured, and what each writes.
const SYNCS: usize = 32;
const SYNC_BYTES: usize = 4096;
/// A disk for a journal syncs within this time; from the other on changes come at a crawl.
const SYNC_GOOD: Duration = Duration::from_millis(10);
const SYNC_BAD: Duration = Duration::from_millis(250);
/// By how much the newest file may be younger than now: clocks of network disks differ a little.
const CLOCK_SLACK: Duration = Duration::from_secs(60);
/// What services that keep the clock leave behind.
const CLOCK_KEEPERS: [&str; 5] = [
    "/run/systemd/timesync/synchronized",
    "/run/chrony/chronyd.pid",
    "/run/chronyd.pid",
    "/run/ntpd.pid",
    "/run/ntpsec/ntpd.pid",
];
/// Descriptors beside those of connections: files of the store, listeners, the control socket.
const DESCRIPTORS_BESIDE: u64 = 512;

/// Key, site record and configuration belong together, and nobody else reads the key.
pub(super) fn keys(config: &Config, findings: &mut Vec<Finding>) {
    let key = config.node_key();
    let site = config.site_file();
    findings.push(match identity::check(&key, &site, &config.node.addresses) {
        Err(error) => Finding::new(
            "keys",
            Verdict::Bad,
            error.to_string(),
            "`jiexi init` makes key and site record",
        ),
        Ok(()) if identity::is_exposed(&key) => Finding::new(
            "keys",
            Verdict::Warning,
            format!("others may read {}", key.display()),
            format!("chmod 600 {}", key.display()),
        ),
        Ok(()) => Finding::good(
            "keys",
            format!("{} belongs to {}", key.display(), site.display()),
        ),
    });
}

/// What is configured can be used, and for how long.
pub(super) fn certificates(config: &Config, findings: &mut Vec<Finding>) -> Option<Certificates> {
    let check = "certificates";
    let certificates = match Certificates::load(config) {
        Ok(certificates) => certificates,
        Err(error) => {
            let advice = "mend the files or the names in the configuration; chain and key are PEM";
            findings.push(Finding::new(check, Verdict::Bad, error, advice));
            return None;
        }
    };
    let now = i64::from(clock::unix_seconds());
    let all = [
        ("http", Some(&certificates.http)),
        ("dns", certificates.dns.as_ref()),
    ];
    for (section, identity) in all {
        let Some(identity) = identity else { continue };
        let left = i64::try_from(identity.expires()).unwrap_or(i64::MAX) - now;
        let verdict = match left {
            ..=0 => Verdict::Bad,
            1..CERTIFICATE_LEFT => Verdict::Warning,
            _ => Verdict::Good,
        };
        let advice = match verdict {
            Verdict::Good => String::new(),
            _ => format!("renew what [{section}] certificate names; the node takes it by itself"),
        };
        let found = format!("[{section}] {} days left", left.div_euclid(86_400));
        findings.push(Finding::new(check, verdict, found, advice));
    }
    Some(certificates)
}

/// The clock has not gone back, and somebody keeps it.
pub(super) fn clock(config: &Config, findings: &mut Vec<Finding>) {
    let check = "clock";
    let now = Duration::from_secs(clock::unix_seconds().into());
    let newest = newest_file(&config.store_dir()).unwrap_or_default();
    if newest > now + CLOCK_SLACK {
        let found = format!(
            "{} s behind the newest file of the store",
            (newest - now).as_secs()
        );
        let advice = "set the clock: proofs of identity, certificates and the audit trail need it";
        return findings.push(Finding::new(check, Verdict::Bad, found, advice));
    }
    findings.push(
        match CLOCK_KEEPERS.iter().find(|path| Path::new(path).exists()) {
            Some(keeper) => Finding::good(check, format!("kept ({keeper})")),
            None => Finding::new(
                check,
                Verdict::Warning,
                "no service that keeps the clock was found",
                "install chrony or enable systemd-timesyncd; in a container the host's counts",
            ),
        },
    );
}

/// When the newest file of a directory was written, since 1970.
fn newest_file(directory: &Path) -> Option<Duration> {
    let written = |entry: fs::DirEntry| entry.metadata().ok()?.modified().ok();
    let times = fs::read_dir(directory).ok()?.flatten().filter_map(written);
    times.max()?.duration_since(std::time::UNIX_EPOCH).ok()
}

/// Descriptors for every connection, receive buffers as configured.
pub(super) fn limits(config: &Config, running: Option<&Scrape>, findings: &mut Vec<Finding>) {
    let check = "limits";
    let dns = if config.dns.enabled {
        config.dns.connections_max
    } else {
        0
    };
    let connections = [
        config.handle.connections_max,
        config.http.connections_max,
        dns,
    ];
    let needed = connections.into_iter().map(u64::from).sum::<u64>() + DESCRIPTORS_BESIDE;
    let (whose, allowed) = match running {
        Some(scrape) => ("the node", scrape.sum("process_max_fds", &[]) as u64),
        None => (
            "a node started from here",
            getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
        ),
    };
    let found = format!(
        "{whose} may open {allowed} files; {needed} are needed at the configured maximum of connections"
    );
    findings.push(match allowed < needed {
        true => Finding::new(
            check,
            Verdict::Warning,
            found,
            format!("LimitNOFILE={needed} in the unit (`ulimit -n`), or lower connections_max"),
        ),
        false => Finding::good(check, found),
    });
    let Some(granted) = receive_buffer_max() else {
        return;
    };
    let wanted = config.handle.udp_receive_buffer;
    let found = format!("the kernel grants receive buffers of {}", ByteSize(granted));
    findings.push(match granted < wanted {
        true => Finding::new(
            check,
            Verdict::Warning,
            found,
            format!("sysctl -w net.core.rmem_max={wanted}, for bursts over UDP ([handle] udp_receive_buffer)"),
        ),
        false => Finding::good(check, found),
    });
}

fn receive_buffer_max() -> Option<u64> {
    fs::read_to_string("/proc/sys/net/core/rmem_max")
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Room on the disk, and how long it takes until it has something.
pub(super) fn disk(config: &Config, findings: &mut Vec<Finding>) {
    let directory = config.store_dir();
    match crate::store::free_space(&directory) {
        Ok((free, total)) => findings.push(room(config, free, total)),
        Err(error) => {
            let found = format!("{}: {error}", directory.display());
            return findings.push(Finding::new(
                "disk",
                Verdict::Bad,
                found,
                "`jiexi init` makes it",
            ));
        }
    }
    findings.push(match sync_times(&config.node.data) {
        Err(error) => Finding::new(
            "sync",
            Verdict::Bad,
            format!("{}: {error}", config.node.data.display()),
            "run this as the user of the node; it must own its data",
        ),
        Ok(times) => speed(times[times.len() / 2], times[times.len() - 1]),
    });
}

fn room(config: &Config, free: u64, total: u64) -> Finding {
    let reserve = config.store_config().reserve_bytes(total);
    let found = format!(
        "{} of {} free; below {} no changes are taken",
        ByteSize(free),
        ByteSize(total),
        ByteSize(reserve)
    );
    let advice =
        "make room or enlarge the disk, or lower [store] disk_free_min and disk_free_percent";
    match free {
        _ if free < reserve => Finding::new("disk", Verdict::Bad, found, advice),
        _ if free < 2 * reserve => Finding::new("disk", Verdict::Warning, found, advice),
        _ => Finding::good("disk", found),
    }
}

fn speed(median: Duration, worst: Duration) -> Finding {
    let found = format!("a sync of the disk takes {median:.1?}, at worst {worst:.1?}");
    let advice =
        "a disk whose cache survives power cuts, on this machine: every change waits for one sync";
    match median {
        _ if median > SYNC_BAD => Finding::new("sync", Verdict::Bad, found, advice),
        _ if median > SYNC_GOOD => Finding::new("sync", Verdict::Warning, found, advice),
        _ => Finding::good("sync", found),
    }
}

/// How long each of some syncs takes, as the journal does them; sorted.
fn sync_times(directory: &Path) -> io::Result<Vec<Duration>> {
    let mut file = tempfile::Builder::new()
        .prefix(".doctor-")
        .tempfile_in(directory)?;
    let mut times = Vec::new();
    for _ in 0..SYNCS {
        let begun = Instant::now();
        file.write_all(&[0x5A; SYNC_BYTES])?;
        file.as_file().sync_data()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}
