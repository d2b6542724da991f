//! What the fuzzer calls: the plain and the full way must give the same octets to any message.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiexi_proto::code::Permissions;
use jiexi_proto::handle::CaseRule;
use jiexi_proto::value::{Ttl, Value};

use super::cookie::Cookies;
use super::name::{Scheme, hashed_key};
use super::zone::Zones;
use super::{Channel, Replies, Responder, Shared};
use crate::clock::Now;
use crate::config::Zone;
use crate::metrics::{Metrics, Protocol, Transport};
use crate::records;
use crate::store::{Config, Store};

/// Answers `octets` both ways over every channel, and compares.
///
/// # Panics
/// When the answers differ, which is what the fuzzer looks for.
pub fn both_ways(octets: &[u8]) {
    static WAYS: OnceLock<Mutex<[Responder; 2]>> = OnceLock::new();
    let mut ways = WAYS
        .get_or_init(|| Mutex::new(ways()))
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let now = Now {
        unix_seconds: 1_800_000_000,
        instant: Instant::now(),
    };
    for channel in [Channel::Udp, Channel::Tcp, Channel::Tls] {
        let [plain, full] = ways.each_mut().map(|way| {
            let mut replies = Replies::default();
            way.respond(
                &[(octets, IpAddr::from([192, 0, 2, 1]))],
                channel,
                now,
                &mut replies,
            );
            replies.octets().to_vec()
        });
        assert_eq!(plain, full, "over {channel:?}");
    }
}

/// A responder for each way, over a store with one prefix and two handles.
#[expect(
    clippy::expect_used,
    reason = "without its data there is nothing to fuzz"
)]
fn ways() -> [Responder; 2] {
    let directory = tempfile::tempdir().expect("a directory").keep();
    let config = Config {
        dir: directory,
        other_key: hashed_key,
        ..Config::default()
    };
    Store::create(&config).expect("a store");
    let store = Store::open(config).expect("opens");
    assert!(
        store.wait_ready(Duration::from_secs(60)),
        "the store gets ready"
    );
    let value = Value {
        index: 1,
        timestamp: 0,
        ttl: Ttl::Relative(60),
        permissions: Permissions(0b1110),
        kind: Bytes::from_static(b"URL"),
        data: Bytes::from_static(b"https://id.example/"),
        references: Vec::new(),
    };
    let long = format!("88.1/{}", "L".repeat(80));
    let changes = vec![
        records::home_prefix(b"0.NA/88.1", CaseRule::Whole),
        records::put_values(b"88.1/A", std::slice::from_ref(&value), CaseRule::Whole),
        records::put_values(long.as_bytes(), &[value], CaseRule::Whole),
    ];
    store.commit(records::batch(changes)).expect("committed");
    let zone = Zone {
        name: "id.example".into(),
        mapping: Scheme::Handle,
        handles: String::new(),
        nameservers: vec!["ns.example".into()],
        mail: "mail.example".into(),
        ttl: Duration::from_secs(60),
        negative_ttl: Duration::from_secs(60),
        rules: Vec::new(),
    };
    let shared = Arc::new(Shared {
        store: Arc::new(store),
        site: Bytes::new(),
        zones: Zones::new(&[zone], CaseRule::Whole).expect("a zone"),
        cookies: Cookies::new([7; 16]),
        nsid: b"n".to_vec(),
        udp_payload: 1232,
        keepalive: 300,
    });
    let responder = || {
        Responder::new(
            Arc::clone(&shared),
            Metrics::default().cell_of(Protocol::Dns, Transport::Udp),
        )
    };
    [responder(), responder().only_full()]
}
