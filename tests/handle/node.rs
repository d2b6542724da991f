//! A node in this process: a store with the recorded fixture behind real sockets.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiexi::metrics::Metrics;
use jiexi::registry::audit::Audit;
use jiexi::registry::keys::NodeKey;
use jiexi::registry::{self, Identity, Registry};
use jiexi::server::handle::desk::{self, Desk};
use jiexi::server::handle::{Shared, stream};
use jiexi::server::limit::Limit;
use jiexi::server::{Bound, Config, Server, budget};
use jiexi::store::{self, Action, Batch, Change, Draft, DraftValue, Expect, Space, Store};
use jiexi_proto::handle::{self, CaseRule};
use jiexi_proto::value::ValueView;
use jiexi_proto::value::key::{KeyFile, PrivateKey};

use crate::ports::free_port;

/// Prefixes that the reference server had homed when the scenarios were recorded.
const HOMED: [&str; 3] = ["0.NA/88.118.8", "0.NA/88.118", "0.NA/0.NA"];

/// How long an answer may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The recorded scenarios.
pub(crate) fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/tests/vectors")
}

/// A running node; it ends with the test.
pub(crate) struct Node {
    runtime: tokio::runtime::Runtime,
    server: Option<Server>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) address: SocketAddr,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) store: Arc<Store>,
    pub(crate) desk: Arc<Desk>,
    pub(crate) directory: tempfile::TempDir,
}

/// The same address, with a port of [`free_port`] in the place of none. One that the kernel picks is free for the first
/// socket only, and a node binds TCP and UDP.
fn with_port(address: &str) -> SocketAddr {
    let mut address: SocketAddr = address.parse().expect("an address with a port");
    if address.port() == 0 {
        address.set_port(free_port());
    }
    address
}

/// A configuration for tests: free ports, and no guard unless the test sets one.
pub(crate) fn config(listen: &[&str]) -> Config {
    Config {
        section: "handle",
        listen: listen.iter().map(|address| with_port(address)).collect(),
        workers: 2,
        receive_buffer: 256 * 1024,
        streams: stream::Config::default(),
        connections: 1000,
        drain: Duration::from_secs(5),
        budget: budget::Config {
            bytes_per_second: 0,
            ..budget::Config::default()
        },
    }
}

impl Node {
    /// A node on a free port of 127.0.0.1.
    pub(crate) fn start() -> Self {
        Self::with(config(&["127.0.0.1:0"]))
    }

    /// A node as configured.
    pub(crate) fn with(config: Config) -> Self {
        Self::deciding(config, registry_config(), desk::Config::default())
    }

    /// A node that decides and is staffed as configured.
    pub(crate) fn deciding(
        config: Config,
        registry: registry::Config,
        staff: desk::Config,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let shared = Arc::new(shared_by(directory.path(), registry, staff));
        let (store, desk) = (
            Arc::clone(&shared.store),
            shared.desk.clone().expect("a desk"),
        );
        let metrics = Arc::new(Metrics::default());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let bound = Bound::bind(config).expect("free ports");
        let _guard = runtime.enter();
        let server = Server::start(bound, &shared, &metrics).expect("threads");
        let addresses = server.addresses.clone();
        drop(_guard);
        Self {
            runtime,
            server: Some(server),
            metrics,
            address: addresses[0],
            addresses,
            store,
            desk,
            directory,
        }
    }

    /// Asks over UDP from a fresh socket and returns all datagrams of the answer.
    pub(crate) fn ask(&self, request: &[u8]) -> Vec<Vec<u8>> {
        let socket = self.client();
        socket.send(request).expect("sent");
        receive(&socket)
    }

    /// A UDP socket connected to the node.
    pub(crate) fn client(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.connect(self.address).expect("connected");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        socket
    }

    /// A TCP connection to the node.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_nodelay(true).expect("no delay");
        stream
    }

    /// Drains; returns how many connections were cut.
    pub(crate) fn stop(&mut self) -> usize {
        let server = self.server.take().expect("running");
        self.runtime.block_on(server.drain())
    }

    /// The value of one metric line.
    pub(crate) fn metric(&self, line: &str) -> f64 {
        let text = self.metrics.render();
        let found = text
            .lines()
            .find_map(|candidate| candidate.strip_prefix(line));
        let value = found.unwrap_or_else(|| panic!("no metric {line} in\n{text}"));
        value.trim().parse().expect("a number")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.stop();
        }
    }
}

/// All datagrams of one answer, by the length in its envelope.
pub(crate) fn receive(socket: &UdpSocket) -> Vec<Vec<u8>> {
    let mut datagrams: Vec<Vec<u8>> = Vec::new();
    let mut missing = None;
    while missing != Some(0) {
        let mut buffer = [0; 2048];
        let length = socket.recv(&mut buffer).expect("an answer in time");
        let datagram = buffer[..length].to_vec();
        let total = u32::from_be_bytes(datagram[16..20].try_into().expect("four")) as usize;
        missing = Some(missing.unwrap_or(total) - (length - 20));
        datagrams.push(datagram);
    }
    datagrams.sort_by_key(|datagram| datagram[12..16].to_vec());
    datagrams
}

/// Test keys of the recording.
pub(crate) fn keys() -> serde_json::Value {
    let text = std::fs::read_to_string(vectors().join("keys.json")).expect("the keys");
    serde_json::from_str(&text).expect("JSON")
}

/// A private key of the recording.
pub(crate) fn private_key(name: &str) -> PrivateKey {
    let file = hex::decode(keys()[name].as_str().expect("a key")).expect("hex");
    match KeyFile::decode(&Bytes::from(file)).expect("a key file") {
        KeyFile::Clear(key) => PrivateKey::decode(&key).expect("a key"),
        other => panic!("{other:?}"),
    }
}

/// The key of the node.
pub(crate) fn server_key() -> NodeKey {
    NodeKey::new(&private_key("server_priv.bin_hex")).expect("a key")
}

/// The settings of the recorded server.
pub(crate) fn registry_config() -> registry::Config {
    let admin = |index| Identity {
        handle: b"0.NA/88.118.8".to_vec(),
        index,
    };
    let mut config = registry::Config::default();
    config.permit.server_admins = (300..=303).map(admin).collect();
    config.permit.replication_admins = vec![admin(300)];
    config.permit.prefix_admins = true;
    config.policy.dsa = true;
    config
}

/// What the workers of a node with the recorded fixture share.
pub(crate) fn shared_by(
    directory: &Path,
    registry: registry::Config,
    staff: desk::Config,
) -> Shared {
    let store = fixture_store(directory);
    let site = own_site(&store);
    let key = server_key();
    let audit = Audit::open(&directory.join("audit"), &key, 0).expect("an audit trail");
    let registry = Registry::new(Arc::clone(&store), key, registry, Some(audit));
    let registry = Arc::new(registry.expect("a registry"));
    Shared {
        store,
        case: CaseRule::Whole,
        site,
        site_serial: 1,
        desk: Some(Arc::new(Desk::new(registry, staff))),
        forwarder: None,
        anonymous: Limit::default(),
    }
}

/// A store with the records and prefixes of the recording.
fn fixture_store(directory: &Path) -> Arc<Store> {
    let config = store::Config {
        dir: directory.join("store"),
        ..store::Config::default()
    };
    Store::create(&config).expect("a store");
    let store = Store::open(config).expect("opens");
    assert!(store.wait_ready(PATIENCE), "the store gets ready");
    let text = std::fs::read_to_string(vectors().join("fixture.ndjson")).expect("the fixture");
    let mut changes: Vec<Change> = text.lines().map(record).collect();
    changes.extend(HOMED.map(|prefix| Change {
        space: Space::Prefix,
        key: folded(prefix),
        expect: Expect::Absent,
        action: Action::Put(Draft {
            handle: Bytes::from_static(prefix.as_bytes()),
            values: vec![],
        }),
    }));
    store
        .commit(Batch {
            changes,
            note: Bytes::new(),
        })
        .expect("committed");
    Arc::new(store)
}

fn folded(handle: &str) -> Vec<u8> {
    let mut key = Vec::new();
    handle::fold(handle.as_bytes(), CaseRule::Whole, &mut key);
    key
}

/// One line of the fixture.
fn record(line: &str) -> Change {
    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let name = line["handle"].as_str().expect("a handle");
    let values = line["values_hex"]
        .as_array()
        .expect("values")
        .iter()
        .map(|value| {
            let wire = hex::decode(value.as_str().expect("hex")).expect("hex");
            let (view, _) = ValueView::split(&wire).expect("a value");
            DraftValue {
                index: view.index,
                permissions: view.permissions.0,
                sealed: false,
                wire: Bytes::from(wire),
            }
        });
    let values = values.collect();
    Change {
        space: Space::Handle,
        key: folded(name),
        expect: Expect::Absent,
        action: Action::Put(Draft {
            handle: Bytes::from(name.to_owned()),
            values,
        }),
    }
}

/// The site record of the node: that of its first prefix.
fn own_site(store: &Store) -> Bytes {
    let record = store
        .get(Space::Handle, b"0.NA/88.118.8")
        .expect("reads")
        .expect("is there");
    let entry = record.entries().next().expect("a value");
    let (value, _) = ValueView::split(entry.wire).expect("a value");
    assert_eq!(value.kind, b"HS_SITE");
    Bytes::copy_from_slice(value.data)
}
