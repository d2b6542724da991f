//! The host: user, keys, certificates, files, clock, limits, disk.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::geteuid;

use super::reach::Running;
use super::{Finding, Verdict, access};
use crate::clock;
use crate::config::{Config, Origins};
use crate::identity;
use crate::owner;
use crate::preflight;
use crate::reload::Certificates;
use crate::store::{Store, StoreError};

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
/// What to do when the disk fails in some way.
const DISK_REMEDY: &str = "is the disk sound, and mounted for writing? `dmesg | tail`";
/// Descriptors beside those of connections: files of the store, listeners, the control socket.
const DESCRIPTORS_BESIDE: u64 = 512;

/// Whether this process sees what the node would see. Who may not look at the files would take them for lost, and is told so
/// instead: then this is false.
pub(super) fn user(config: &Config, findings: &mut Vec<Finding>) -> bool {
    let (check, data) = ("user", &config.node.data);
    if let Some((user, command)) = owner::as_owner(data, std::env::args_os()) {
        let found = format!(
            "this is root, who may more than {user}, the node's user: what is ok here may not be for that one"
        );
        findings.push(Finding::new(check, Verdict::Warning, found, command));
    }
    let Some(advice) = owner::refuse_stranger(data) else {
        return true;
    };
    let found = format!(
        "this is {}, not the node's user: keys, certificates, files and disk were not looked at",
        owner::name(geteuid().as_raw())
    );
    findings.push(Finding::new(check, Verdict::Bad, found, advice));
    false
}

/// Everything that takes the node's user to look at.
pub(super) fn data(
    config: &Config,
    origins: &Origins,
    findings: &mut Vec<Finding>,
) -> Option<Certificates> {
    keys(config, findings);
    let certificates = certificates(config, findings);
    files(config, origins, findings);
    disk(config, findings);
    certificates
}

/// What `serve` needs besides certificates, and whether the node may use what it has.
fn files(config: &Config, origins: &Origins, findings: &mut Vec<Finding>) {
    let check = "files";
    let before = findings.len();
    for problem in preflight::beside_certificates(config, origins) {
        let advice = "`jiexi serve` refuses to start like this";
        findings.push(Finding::new(
            check,
            Verdict::Bad,
            problem.to_string(),
            advice,
        ));
    }
    let token = &config.follow.token_file;
    if !config.follow.url.is_empty()
        && let Err(error) = fs::File::open(token)
    {
        let found = format!("[follow] token_file {}: {error}", token.display());
        let advice = match error.kind() {
            io::ErrorKind::PermissionDenied => owner::advice(token),
            _ => "the standby does not reach its primary without it".to_owned(),
        };
        findings.push(Finding::new(check, Verdict::Bad, found, advice));
    }
    store(config, findings);
    if let Some(denied) = access::denied(config) {
        let found = match denied.more {
            0 => format!("{}: the node's user may not use it", denied.path.display()),
            more => format!(
                "{} and {more} more: the node's user may not use them",
                denied.path.display()
            ),
        };
        let advice = match owner::as_owner(&config.node.data, [""; 0]) {
            Some((user, _)) => owner::hand_over(&denied.place, &user),
            None => owner::advice(&denied.path),
        };
        findings.push(Finding::new(check, Verdict::Bad, found, advice));
    }
    if findings.len() == before {
        let found = format!("{} is the node's", config.node.data.display());
        findings.push(Finding::good(check, found));
    }
}

/// The store says what it is, as it is asked when the node starts. Of one that may not be read others tell, and a standby gets
/// its own from the primary.
fn store(config: &Config, findings: &mut Vec<Finding>) {
    let directory = config.store_dir();
    if !directory.is_dir() || !config.follow.url.is_empty() {
        return;
    }
    let (found, advice) = match Store::case_in(&directory) {
        Ok(_) => return,
        Err(error) if error.is_forbidden() => return,
        Err(StoreError::NotInitialised { path }) => (
            format!("{}: no store here", path.display()),
            advice_without_store(config),
        ),
        Err(error) => (
            error.to_string(),
            "`jiexi serve` refuses to start like this",
        ),
    };
    findings.push(Finding::new("files", Verdict::Bad, found, advice));
}

/// Key, site record and configuration belong together, and nobody else reads the key.
fn keys(config: &Config, findings: &mut Vec<Finding>) {
    let key = config.node_key();
    let site = config.site_file();
    let is_node = [&key, &site, &config.store_dir()]
        .iter()
        .any(|part| part.exists());
    findings.push(match identity::check(&key, &site, &config.node.addresses) {
        Err(error) => {
            let (found, remedy) = error.parts();
            let advice = match remedy {
                _ if !is_node => "`jiexi init` makes a node in an empty directory",
                Some(remedy) => remedy,
                None => "mend the file that is named; with a new key it would be another node",
            };
            Finding::new("keys", Verdict::Bad, found, advice)
        }
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
fn certificates(config: &Config, findings: &mut Vec<Finding>) -> Option<Certificates> {
    let check = "certificates";
    let certificates = match Certificates::load(config) {
        Ok(certificates) => certificates,
        Err(error) => {
            let advice = advice_on_certificates(config);
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
        findings.push(lasts(section, left));
    }
    Some(certificates)
}

/// A certificate that has so many seconds left.
fn lasts(section: &str, left: i64) -> Finding {
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
    Finding::new("certificates", verdict, found, advice)
}

/// What to do about certificates that cannot be used.
fn advice_on_certificates(config: &Config) -> String {
    let (http, dns) = (&config.http, &config.dns);
    let named = [&http.certificate, &http.key, &dns.certificate, &dns.key];
    let closed = |path: &&&PathBuf| {
        let denied = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        fs::File::open(path).is_err_and(denied)
    };
    match named.iter().find(closed) {
        Some(path) => owner::advice(path),
        // Without one of its own, HTTPS has one of the node's key.
        None if http.certificate.as_os_str().is_empty() && !config.dns.enabled => {
            "it is made with the node's key: see there".to_owned()
        }
        None => {
            "mend the files or the names in the configuration; chain and key are PEM".to_owned()
        }
    }
}

/// The clock has not gone back, and somebody keeps it.
pub(super) fn clock(config: &Config, findings: &mut Vec<Finding>) {
    let check = "clock";
    let now = Duration::from_secs(clock::unix_seconds().into());
    let newest = newest_file(&config.store_dir()).unwrap_or_default();
    if let Some(behind) = behind(now, newest) {
        return findings.push(behind);
    }
    let there = |path: &str| fs::symlink_metadata(path).map(drop);
    findings.push(match keeper(there) {
        Some(keeper) => Finding::good(check, format!("kept ({keeper})")),
        None => Finding::new(
            check,
            Verdict::Warning,
            "no service that keeps the clock was found",
            "install chrony or enable systemd-timesyncd; in a container the host's counts",
        ),
    });
}

/// A clock that stands before the time at which the newest file was written.
fn behind(now: Duration, newest: Duration) -> Option<Finding> {
    let found = format!(
        "{} s behind the newest file of the store",
        newest.saturating_sub(now).as_secs()
    );
    let advice = "set the clock: proofs of identity, certificates and the audit trail need it";
    (newest > now + CLOCK_SLACK).then(|| Finding::new("clock", Verdict::Bad, found, advice))
}

/// The first sign of a service that keeps the clock. One that lies in a closed directory counts: chrony closes its own to all
/// others, and takes it away when it ends.
fn keeper(there: impl Fn(&str) -> io::Result<()>) -> Option<&'static str> {
    let is_sign = |path: &&&'static str| match there(path) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    };
    CLOCK_KEEPERS.iter().find(is_sign).copied()
}

/// When the newest file of a directory was written, since 1970.
fn newest_file(directory: &Path) -> Option<Duration> {
    let written = |entry: fs::DirEntry| entry.metadata().ok()?.modified().ok();
    let times = fs::read_dir(directory).ok()?.flatten().filter_map(written);
    times.max()?.duration_since(std::time::UNIX_EPOCH).ok()
}

/// Descriptors for every connection, receive buffers as configured.
pub(super) fn limits(config: &Config, running: &Running, findings: &mut Vec<Finding>) {
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
        Running::Yes(scrape) => ("the node", scrape.sum("process_max_fds", &[]) as u64),
        // The unit has limits of its own.
        Running::Hung | Running::Elsewhere | Running::No => (
            "a node started from this shell, not by its unit,",
            getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
        ),
    };
    let runs = matches!(running, Running::Yes(_));
    findings.push(descriptors(whose, runs, allowed, needed));
    let Some(granted) = receive_buffer_max() else {
        return;
    };
    findings.push(receive_buffer(granted, config.handle.udp_receive_buffer));
}

/// The limit of a node that does not run is only noted.
fn descriptors(whose: &str, runs: bool, allowed: u64, needed: u64) -> Finding {
    let found = format!(
        "{whose} may open {allowed} files; {needed} are needed at the configured maximum of connections"
    );
    match allowed < needed && runs {
        true => Finding::new(
            "limits",
            Verdict::Warning,
            found,
            format!("LimitNOFILE={needed} in the unit (`ulimit -n`), or lower connections_max"),
        ),
        false => Finding::good("limits", found),
    }
}

fn receive_buffer(granted: u64, wanted: u64) -> Finding {
    let found = format!("the kernel grants receive buffers of {}", ByteSize(granted));
    match granted < wanted {
        true => Finding::new(
            "limits",
            Verdict::Warning,
            found,
            format!(
                "sysctl -w net.core.rmem_max={wanted}, for bursts over UDP ([handle] udp_receive_buffer)"
            ),
        ),
        false => Finding::good("limits", found),
    }
}

fn receive_buffer_max() -> Option<u64> {
    fs::read_to_string("/proc/sys/net/core/rmem_max")
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Room on the disk, and how long it takes until it has something.
fn disk(config: &Config, findings: &mut Vec<Finding>) {
    let directory = config.store_dir();
    match crate::store::free_space(&directory) {
        Ok((free, total)) => findings.push(room(
            free,
            total,
            config.store_config().reserve_bytes(total),
        )),
        Err(error) => {
            let found = format!("{}: {error}", directory.display());
            let advice = match error.kind() {
                io::ErrorKind::PermissionDenied => owner::advice(&directory),
                io::ErrorKind::NotFound => advice_without_store(config).to_owned(),
                _ => DISK_REMEDY.to_owned(),
            };
            return findings.push(Finding::new("disk", Verdict::Bad, found, advice));
        }
    }
    findings.push(match sync_times(&config.node.data) {
        Err(error) => Finding::new(
            "sync",
            Verdict::Bad,
            format!("{}: {error}", config.node.data.display()),
            match error.kind() {
                io::ErrorKind::PermissionDenied => owner::advice(&config.node.data),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "make room or enlarge the disk".to_owned()
                }
                _ => DISK_REMEDY.to_owned(),
            },
        ),
        Ok(times) => speed(times[times.len() / 2], times[times.len() - 1]),
    });
}

/// What to do where there is no store. `jiexi init` wants an empty directory: where the key of a node is, its store is wanted
/// back.
fn advice_without_store(config: &Config) -> &'static str {
    match config.node_key().exists() {
        true => "`jiexi backup restore` brings the store back; the key that goes with it is here",
        false => {
            "`jiexi init` makes a node in an empty directory, `jiexi backup restore` brings one back"
        }
    }
}

fn room(free: u64, total: u64, reserve: u64) -> Finding {
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
    // Without a name: whoever ends this leaves nothing behind.
    let mut file = tempfile::tempfile_in(directory)?;
    let mut times = Vec::new();
    for _ in 0..SYNCS {
        let begun = Instant::now();
        file.write_all(&[0x5A; SYNC_BYTES])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MICROSECOND: Duration = Duration::from_micros(1);

    /// Goal: a clock is behind when it is more than the slack of network disks behind what was written.
    #[test]
    fn a_clock_that_went_back() {
        let now = 1_000_000 * SECOND;
        assert!(behind(now, Duration::ZERO).is_none());
        assert!(behind(now, now + CLOCK_SLACK).is_none());
        let found = behind(now, now + CLOCK_SLACK + SECOND).unwrap();
        assert_eq!(found.verdict, Verdict::Bad);
        assert!(found.found.starts_with("61 s behind"), "{}", found.found);
    }

    /// Goal: a service that keeps the clock is found also where its directory is closed, and nothing else is one.
    #[test]
    fn who_keeps_the_clock() {
        let chrony = "/run/chrony/chronyd.pid";
        let with = |kind: Option<io::ErrorKind>| {
            keeper(move |path| match (path == chrony, kind) {
                (true, None) => Ok(()),
                (true, Some(kind)) => Err(kind.into()),
                (false, _) => Err(io::ErrorKind::NotFound.into()),
            })
        };
        assert_eq!(with(None), Some(chrony));
        assert_eq!(with(Some(io::ErrorKind::PermissionDenied)), Some(chrony));
        assert_eq!(with(Some(io::ErrorKind::NotFound)), None);
    }

    /// Goal: the time of a sync is good, slow or too slow by its median, to the microsecond.
    #[test]
    fn how_long_a_sync_may_take() {
        let verdict = |median| speed(median, 100 * SYNC_BAD).verdict;
        assert_eq!(verdict(SYNC_GOOD), Verdict::Good);
        assert_eq!(verdict(SYNC_GOOD + MICROSECOND), Verdict::Warning);
        assert_eq!(verdict(SYNC_BAD), Verdict::Warning);
        assert_eq!(verdict(SYNC_BAD + MICROSECOND), Verdict::Bad);
        let told = speed(2 * SYNC_GOOD, SYNC_BAD).found;
        assert!(told.contains("20.0ms, at worst 250.0ms"), "{told}");
    }

    /// Goal: room is good from twice the reserve on, and below the reserve changes are refused.
    #[test]
    fn how_much_room_there_must_be() {
        let verdict = |free| room(free, 1 << 40, 1000).verdict;
        assert_eq!(verdict(999), Verdict::Bad);
        assert_eq!(verdict(1000), Verdict::Warning);
        assert_eq!(verdict(1999), Verdict::Warning);
        assert_eq!(verdict(2000), Verdict::Good);
    }

    /// Goal: descriptors count for a node that runs; what is needed is allowed, and one less is told with the number.
    #[test]
    fn how_many_files_may_be_open() {
        let found = |runs, allowed| descriptors("the node", runs, allowed, 4096);
        assert_eq!(found(true, 4096).verdict, Verdict::Good);
        assert_eq!(found(false, 1024).verdict, Verdict::Good);
        let few = found(true, 4095);
        assert_eq!(few.verdict, Verdict::Warning);
        assert!(
            few.advice.starts_with("LimitNOFILE=4096 "),
            "{}",
            few.advice
        );
        assert_eq!(receive_buffer(1 << 20, 1 << 20).verdict, Verdict::Good);
        let small = receive_buffer((1 << 20) - 1, 1 << 20);
        assert_eq!(small.verdict, Verdict::Warning);
        assert!(
            small.advice.contains("rmem_max=1048576"),
            "{}",
            small.advice
        );
    }

    /// Goal: a certificate is renewed in time, and one that has ended is bad in its last second.
    #[test]
    fn how_long_a_certificate_lasts() {
        let verdict = |left| lasts("http", left).verdict;
        assert_eq!(verdict(CERTIFICATE_LEFT), Verdict::Good);
        assert_eq!(verdict(CERTIFICATE_LEFT - 1), Verdict::Warning);
        assert_eq!(verdict(1), Verdict::Warning);
        assert_eq!(verdict(0), Verdict::Bad);
        let ended = lasts("dns", -1);
        assert_eq!(ended.verdict, Verdict::Bad);
        assert!(
            ended.found.starts_with("[dns] -1 days left"),
            "{}",
            ended.found
        );
    }
}
