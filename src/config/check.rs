//! Rules between and beyond types: what can be read but cannot work.

use std::time::Duration;

use super::{Config, file::Key, listeners};
use crate::server::dns::zone::Zones;

/// The smallest size of a journal file: the largest batch must fit, with room for its frame.
const JOURNAL_SEGMENT_MIN: u64 = 2 * crate::store::change::BATCH_BYTES_MAX as u64;
/// No more UDP workers than this: each has a socket and buffers of its own.
const UDP_WORKERS_MAX: u16 = 256;

/// Whether a text is `index:handle`.
fn is_identity(text: &str) -> bool {
    text.split_once(':').is_some_and(|(index, handle)| {
        index.parse::<u32>().is_ok() && !handle.is_empty() && !handle.starts_with('/')
    })
}

/// Something that cannot work.
pub(super) struct Wrong {
    /// Which key.
    pub(super) key: Key,
    /// Of a list of tables: which of them, counted from 0, and which key of it.
    pub(super) part: Option<(usize, &'static str)>,
    /// What is wrong, and the remedy.
    pub(super) message: String,
}

/// Everything that cannot work.
pub(super) fn check(config: &Config) -> Vec<Wrong> {
    let mut found = Vec::new();
    let mut need = |good: bool, section: &str, name: &str, message: &str| {
        if !good {
            found.push(Wrong {
                key: (section.to_owned(), name.to_owned()),
                part: None,
                message: message.to_owned(),
            });
        }
    };
    let handle = &config.handle;
    need(
        !config.node.data.as_os_str().is_empty(),
        "node",
        "data",
        "is empty; name a directory",
    );
    need(
        !handle.listen.is_empty(),
        "handle",
        "listen",
        "is empty; name at least one address, such as \"0.0.0.0\"",
    );
    need(
        handle.udp_workers <= UDP_WORKERS_MAX,
        "handle",
        "udp_workers",
        "is above 256; 0 means one for each core",
    );
    need(
        (1 << 12..=1 << 30).contains(&handle.udp_receive_buffer),
        "handle",
        "udp_receive_buffer",
        "must lie between 4KiB and 1GiB",
    );
    let administration = &config.administration;
    for (name, identities) in [
        ("admins", &administration.admins),
        ("replication_admins", &administration.replication_admins),
    ] {
        for text in identities.iter().filter(|text| !is_identity(text)) {
            let message = format!("{text:?} must be index:handle, such as 300:0.NA/88.118");
            need(false, "administration", name, &message);
        }
    }
    for (name, value) in [
        ("tcp_idle", handle.tcp_idle),
        ("tcp_first_byte", handle.tcp_first_byte),
        ("tcp_read", handle.tcp_read),
        ("tcp_write", handle.tcp_write),
    ] {
        need(
            value >= Duration::from_millis(100),
            "handle",
            name,
            "is below 100ms; no client could be served",
        );
        need(
            value <= Duration::from_secs(86_400),
            "handle",
            name,
            "is above one day",
        );
    }
    need(
        handle.drain <= Duration::from_secs(600),
        "handle",
        "drain",
        "is above 10 minutes",
    );
    need(
        handle.connections_max > 0,
        "handle",
        "connections_max",
        "is 0; no connection could be opened",
    );
    need(
        handle.amplification_rate > 0,
        "handle",
        "amplification_rate",
        "is 0; no UDP question could be answered",
    );
    need(
        handle.amplification_burst >= 1 << 18,
        "handle",
        "amplification_burst",
        "is below 256KiB; the largest answer could never be sent over UDP",
    );
    need(
        (8..=32).contains(&handle.amplification_ipv4_prefix),
        "handle",
        "amplification_ipv4_prefix",
        "must lie between 8 and 32",
    );
    need(
        (16..=56).contains(&handle.amplification_ipv6_prefix),
        "handle",
        "amplification_ipv6_prefix",
        "must lie between 16 and 56; smaller networks than /56 are in one hand",
    );
    check_recursion(config, &mut need);
    check_http(&config.http, &mut need);
    super::anonymous::check(&config.anonymous, &mut need);
    super::batch::check(&config.batch, &mut need);
    super::operations::check(&config.operations, &mut need);
    super::follow::check(&config.follow, &mut need);
    super::backup::check(&config.backup, &mut need);
    super::jobs::check(&config.jobs, &mut need);
    super::changes::check(&config.changes, &mut need);
    check_dns(&config.dns, &mut need);
    need(
        config.history.days > 0,
        "history",
        "days",
        "is 0; set enabled = false to keep no log",
    );
    need(
        config.history.budget >= 1 << 20,
        "history",
        "budget",
        "is below 1MiB",
    );
    let store = &config.store;
    need(
        store.directory.is_relative() && !store.directory.as_os_str().is_empty(),
        "store",
        "directory",
        "must be a name below [node] data",
    );
    need(
        store.journal_segment >= JOURNAL_SEGMENT_MIN,
        "store",
        "journal_segment",
        "is below 64MiB; the largest batch must fit",
    );
    need(
        store.lag_changes > 0,
        "store",
        "lag_changes",
        "is 0; nothing could be written",
    );
    need(
        store.lag_bytes >= 1 << 20,
        "store",
        "lag_bytes",
        "is below 1MiB",
    );
    need(
        store.disk_free_percent <= 90,
        "store",
        "disk_free_percent",
        "is above 90; nothing could be written",
    );
    if let Err(message) = crate::logging::parse_level(&config.log.level) {
        need(false, "log", "level", &message);
    }
    need(
        !config.control.socket.as_os_str().is_empty(),
        "control",
        "socket",
        "is empty; name a file",
    );
    found.extend(listeners::check(config));
    found.extend(check_zones(config));
    found
}

/// What cannot work in `[recursion]`.
fn check_recursion(config: &Config, need: &mut impl FnMut(bool, &str, &str, &str)) {
    let recursion = &config.recursion;
    let mut need = |good, name, message: &str| need(good, "recursion", name, message);
    let rules = recursion.outbound(&config.node.addresses);
    for server in &recursion.upstream {
        if let Err(why) = rules.check(*server, None) {
            need(
                false,
                "upstream",
                &format!("{server} cannot be asked: {why}"),
            );
        }
    }
    need(
        (Duration::from_millis(100)..=Duration::from_secs(60)).contains(&recursion.deadline),
        "deadline",
        "must lie between 100ms and 60s; clients do not wait longer",
    );
    need(
        (4..=16_384).contains(&recursion.questions),
        "questions",
        "must lie between 4 and 16384; each has a socket",
    );
    need(
        (4..=1 << 20).contains(&recursion.waiting),
        "waiting",
        "must lie between 4 and 1048576",
    );
    need(recursion.cache >= 1 << 20, "cache", "is below 1MiB");
    let lives = [
        ("ttl_max", recursion.ttl_max, 7),
        ("ttl_negative", recursion.ttl_negative, 1),
        ("stale", recursion.stale, 30),
        ("retry", recursion.retry, 1),
    ];
    for (name, value, days) in lives {
        let message = format!("is above {days} days");
        need(value <= Duration::from_secs(days * 86_400), name, &message);
    }
    need(
        recursion.retry >= Duration::from_millis(100),
        "retry",
        "is below 100ms",
    );
}

/// What cannot work in `[http]`.
fn check_http(http: &super::Http, need: &mut impl FnMut(bool, &str, &str, &str)) {
    let mut need = |good, name, message| need(good, "http", name, message);
    need(
        http.certificate.as_os_str().is_empty() == http.key.as_os_str().is_empty(),
        match http.key.as_os_str().is_empty() {
            true => "certificate",
            false => "key",
        },
        "certificate and key belong together: give both or neither",
    );
    let origin = url::Url::parse(&http.public_url).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
    });
    need(
        http.public_url.is_empty() || origin,
        "public_url",
        "must be a scheme and a host, such as \"https://id.example.cn\", and no path",
    );
    for (name, value) in [("read", http.read), ("write", http.write)] {
        let bounds = Duration::from_millis(100)..=Duration::from_secs(3_600);
        need(
            bounds.contains(&value),
            name,
            "must lie between 100ms and 1h",
        );
    }
    need(
        http.tls_reload >= Duration::from_secs(1),
        "tls_reload",
        "is below 1s",
    );
    need(
        http.idempotency >= Duration::from_secs(24 * 3600),
        "idempotency",
        "is below 24h; clients count on a day",
    );
    need(
        (1 << 16..=1 << 26).contains(&http.body_max),
        "body_max",
        "must lie between 64KiB and 64MiB",
    );
    need(
        http.connections_max > 0,
        "connections_max",
        "is 0; no connection could be opened",
    );
    need(
        http.rate == 0 || http.burst > 0,
        "burst",
        "is 0; no request could be answered",
    );
}

/// What cannot work of `[dns]`.
fn check_dns(dns: &super::Dns, need: &mut impl FnMut(bool, &str, &str, &str)) {
    let mut check = |good, name: &str, message: &str| need(good, "dns", name, message);
    check(
        !dns.listen.is_empty(),
        "listen",
        "is empty; name at least one address, such as \"0.0.0.0\"",
    );
    check(
        dns.udp_workers <= UDP_WORKERS_MAX,
        "udp_workers",
        "is above 256; 0 means one for each core",
    );
    check(
        (512..=4096).contains(&dns.udp_payload),
        "udp_payload",
        "must lie between 512 and 4096 (RFC 6891 §6.2.5)",
    );
    for (name, value) in [
        ("tcp_idle", dns.tcp_idle),
        ("tcp_read", dns.tcp_read),
        ("tcp_write", dns.tcp_write),
    ] {
        let good = (Duration::from_millis(100)..=Duration::from_secs(6_553)).contains(&value);
        check(
            good,
            name,
            "must lie between 100ms and 6553s (RFC 7828 §3.1)",
        );
    }
    check(
        dns.connections_max > 0,
        "connections_max",
        "is 0; no connection could be opened",
    );
    check(
        dns.amplification_burst >= 4096,
        "amplification_burst",
        "is below 4KiB; no question could be answered",
    );
    check(
        (8..=32).contains(&dns.amplification_ipv4_prefix),
        "amplification_ipv4_prefix",
        "must lie between 8 and 32",
    );
    check(
        (16..=56).contains(&dns.amplification_ipv6_prefix),
        "amplification_ipv6_prefix",
        "must lie between 16 and 56; smaller networks than /56 are in one hand",
    );
    check(
        dns.certificate.as_os_str().is_empty() == dns.key.as_os_str().is_empty(),
        // The one that is there, since that has a place.
        match dns.key.as_os_str().is_empty() {
            true => "certificate",
            false => "key",
        },
        "certificate and key go together; name both or none",
    );
    check(dns.nsid.len() <= 64, "nsid", "is above 64 octets");
    let secret = hex::decode(&dns.cookie_secret);
    check(
        secret.is_ok_and(|secret| matches!(secret.len(), 0 | 16)),
        "cookie_secret",
        "must be 32 hexadecimal digits, or empty",
    );
    check(
        !dns.enabled || !dns.zones.is_empty(),
        "enabled",
        "is true, but there are no zones; describe at least one [[dns.zones]]",
    );
}

/// The zones that cannot work.
fn check_zones(config: &Config) -> Vec<Wrong> {
    let zones = Zones::new(&config.dns.zones, config.store_config().case);
    let faults = zones.err().unwrap_or_default();
    let wrong = faults.into_iter().map(|fault| Wrong {
        key: ("dns".to_owned(), "zones".to_owned()),
        part: Some((fault.place, fault.key)),
        message: fault.to_string(),
    });
    wrong.collect()
}
