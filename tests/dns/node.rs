//! A DNS front end in this process: a store with a few records behind real sockets.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hickory_proto::op::{Edns, Message, OpCode, Query};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{Name, RecordType};
use jiexi::clock::Now;
use jiexi::config;
use jiexi::history::{self, History};
use jiexi::metrics::{Metrics, Protocol, Transport};
use jiexi::records;
use jiexi::server::dns::cookie::Cookies;
use jiexi::server::dns::name::Scheme;
use jiexi::server::dns::serve::{self, Bound};
use jiexi::server::dns::zone::Zones;
use jiexi::server::dns::{Channel, Replies, Responder, Shared, name};
use jiexi::server::handle::stream;
use jiexi::server::{self, Running, budget};
use jiexi::store::{self, Store};
use jiexi_proto::code::{HashOption, Permissions, Version};
use jiexi_proto::handle::CaseRule;
use jiexi_proto::value::site::{
    Interface, InterfaceKind, Server, SiteFlags, SiteRecord, Transport as Over,
};
use jiexi_proto::value::{Ttl, Value};

use crate::ports::free_port;

/// How long an answer may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The time in answers made without sockets.
pub(crate) const TIME: u32 = 1_800_000_000;

/// Readable by everybody.
pub(crate) const PUBLIC: u8 = 0b1110;

/// Readable by administrators alone.
pub(crate) const RESTRICTED: u8 = 0b1100;

/// A value of the test data.
pub(crate) fn value(index: u32, kind: &str, data: &[u8], ttl: i32, permissions: u8) -> Value {
    Value {
        index,
        timestamp: 0,
        ttl: Ttl::Relative(ttl),
        permissions: Permissions(permissions),
        kind: Bytes::copy_from_slice(kind.as_bytes()),
        data: Bytes::copy_from_slice(data),
        references: Vec::new(),
    }
}

/// A site with one server on both families.
pub(crate) fn site() -> Vec<u8> {
    let interface = |protocol, port| Interface {
        kind: InterfaceKind::QUERY,
        protocol,
        port,
    };
    let server = |id, ip: &str| Server {
        id,
        address: Server::address_of(ip.parse().expect("an address")),
        public_key: Bytes::new(),
        interfaces: vec![interface(Over::TCP, 2641), interface(Over::UDP, 2642)],
    };
    let site = SiteRecord {
        format: 1,
        version: Version {
            major: 2,
            minor: 11,
        },
        serial: 1,
        flags: SiteFlags::PRIMARY,
        hash_option: HashOption(2),
        hash_filter: Bytes::new(),
        attributes: Vec::new(),
        servers: vec![server(1, "192.0.2.10"), server(2, "2001:db8::10")],
    };
    let mut wire = Vec::new();
    site.encode(&mut wire);
    wire
}

/// A suffix that takes a hashed label.
pub(crate) fn long_suffix() -> String {
    "LONG-".repeat(20)
}

/// The handles of the test data.
pub(crate) fn handles() -> Vec<(String, Vec<Value>)> {
    let url = |suffix: &str| format!("https://id.example/{suffix}");
    let plain = |suffix: &str| {
        let url = url(suffix);
        vec![
            value(1, "URL", url.as_bytes(), 3600, PUBLIC),
            value(2, "URL", format!("{url}/2").as_bytes(), 600, PUBLIC),
            value(3, "DESC", "a thing, 一个东西".as_bytes(), 60, PUBLIC),
            value(
                100,
                "HS_ADMIN",
                b"\x0f\xf2\0\0\0\x05admin\0\0\x01\x2c",
                86_400,
                PUBLIC,
            ),
            value(300, "HS_SECKEY", b"secret!", 86_400, PUBLIC),
            value(301, "HS_SECKEY.OLD", b"secret! once", 86_400, PUBLIC),
            value(302, "hs_admin.old", b"secret! right", 86_400, PUBLIC),
        ]
    };
    let mut handles = vec![
        ("88.118.1/CNC-1".to_owned(), plain("cnc-1")),
        (format!("88.118.1/{}", long_suffix()), plain("long")),
        (
            "88.118.1/SECRET".to_owned(),
            vec![value(1, "URL", b"https://secret.example/", 60, RESTRICTED)],
        ),
        (
            "88.118.1/BIG".to_owned(),
            (1..=9)
                .map(|n| {
                    value(
                        n,
                        "URL",
                        format!("{}{n}", url(&"b".repeat(180))).as_bytes(),
                        60,
                        PUBLIC,
                    )
                })
                .collect(),
        ),
        (
            "88.118.1/TWICE".to_owned(),
            (1..=3)
                .map(|n| value(n, "URL", b"https://same.example/", 60 * n as i32, PUBLIC))
                .collect(),
        ),
        (
            "88.118.1/DESC-ONLY".to_owned(),
            vec![value(1, "DESC", b"text", 60, PUBLIC)],
        ),
        (
            "88.118.1/ODD".to_owned(),
            vec![
                value(1, "URL", br"https://id.example/\1", 60, PUBLIC),
                value(2, "URL", b"https://id.example/!", -5, PUBLIC),
                value(3, "URL", b"", 60, PUBLIC),
            ],
        ),
        ("88.118.9/FOREIGN".to_owned(), plain("foreign")),
        (
            "0.NA/88.118.1".to_owned(),
            vec![value(1, "HS_SITE", &site(), 86_400, PUBLIC)],
        ),
        ("88.118.1/1.2.156.3".to_owned(), plain("oid")),
        ("88.118.1/06901234567892".to_owned(), plain("gtin")),
    ];
    let absolute = Value {
        ttl: Ttl::Absolute(i32::try_from(TIME).expect("fits") + 90),
        ..value(1, "URL", b"https://until.example/", 0, PUBLIC)
    };
    handles.push(("88.118.1/UNTIL".to_owned(), vec![absolute]));
    handles
}

/// A zone.
pub(crate) fn zone(name: &str, mapping: Scheme, handles: &str) -> config::Zone {
    config::Zone {
        name: name.to_owned(),
        mapping,
        handles: handles.to_owned(),
        nameservers: vec!["ns1.example.net".into(), "ns2.example.org".into()],
        mail: "hostmaster.example.net".into(),
        ttl: Duration::from_secs(7200),
        negative_ttl: Duration::from_secs(300),
        rules: Vec::new(),
    }
}

/// The zones of the tests. One has text, which no zone has that does not ask for it.
pub(crate) fn zones() -> Vec<config::Zone> {
    let mut text = zone("text.example.net", Scheme::Handle, "88.118.1/");
    text.rules = vec![
        config::Rule::new(config::RuleKind::Txt, "DESC", ""),
        config::Rule::new(config::RuleKind::Naptr, "URL", "x"),
    ];
    vec![
        zone("id.example.net", Scheme::Handle, ""),
        text,
        zone("oid.example.net", Scheme::Oid, "88.118.1/"),
        zone("gtin.example.net", Scheme::Gs1, "88.118.1/"),
    ]
}

/// A store with the test data.
pub(crate) fn store(directory: &std::path::Path) -> Arc<Store> {
    let config = store::Config {
        dir: directory.join("store"),
        other_key: name::hashed_key,
        ..store::Config::default()
    };
    Store::create(&config).expect("a store");
    let store = Store::open(config).expect("opens");
    assert!(store.wait_ready(PATIENCE), "the store gets ready");
    let mut changes: Vec<_> = handles()
        .iter()
        .map(|(handle, values)| records::put_values(handle.as_bytes(), values, CaseRule::Whole))
        .collect();
    for prefix in ["0.NA/88.118.1", "0.NA/88.118.2"] {
        changes.push(records::home_prefix(prefix.as_bytes(), CaseRule::Whole));
    }
    store.commit(records::batch(changes)).expect("committed");
    Arc::new(store)
}

/// What workers share.
pub(crate) fn shared(store: Arc<Store>) -> Shared {
    Shared {
        store,
        site: Bytes::from(site()),
        zones: Zones::new(&zones(), CaseRule::Whole).expect("zones"),
        cookies: Cookies::new([7; 16]),
        nsid: b"node-3".to_vec(),
        udp_payload: 1232,
        keepalive: 300,
    }
}

/// Responders without sockets.
pub(crate) struct Bench {
    pub(crate) shared: Arc<Shared>,
    pub(crate) plain: Responder,
    pub(crate) full: Responder,
    _directory: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// As [`Self::new`], with other settings.
    pub(crate) fn with(change: impl FnOnce(&mut Shared)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut shared = shared(store(directory.path()));
        change(&mut shared);
        let shared = Arc::new(shared);
        let metrics = Metrics::default();
        let responder = || {
            let cell = metrics.cell_of(Protocol::Dns, Transport::Udp);
            Responder::new(Arc::clone(&shared), cell)
        };
        Self {
            plain: responder(),
            full: responder().only_full(),
            shared,
            _directory: directory,
        }
    }

    /// The answer by either way; they must be the same.
    pub(crate) fn ask(&mut self, request: &[u8], channel: Channel) -> Option<Vec<u8>> {
        let client = IpAddr::from([192, 0, 2, 77]);
        let now = Now {
            unix_seconds: TIME,
            instant: Instant::now(),
        };
        let answer = |responder: &mut Responder| {
            let mut replies = Replies::default();
            responder.respond(&[(request, client)], channel, now, &mut replies);
            let answer = replies.answers().next().flatten().cloned();
            answer.map(|answer| (replies.octets()[answer.octets.clone()].to_vec(), answer))
        };
        let (plain, full) = (answer(&mut self.plain), answer(&mut self.full));
        assert_eq!(
            plain.as_ref().map(|(octets, _)| hex::encode(octets)),
            full.as_ref().map(|(octets, _)| hex::encode(octets)),
            "both ways, asked {}",
            hex::encode(request)
        );
        assert_eq!(plain, full);
        plain.map(|(octets, _)| octets)
    }

    /// As [`Self::ask`], decoded.
    pub(crate) fn message(&mut self, request: &Message, channel: Channel) -> Message {
        let octets = request.to_vec().expect("encodes");
        let answer = self.ask(&octets, channel).expect("an answer");
        Message::from_vec(&answer).expect("a message")
    }

    /// The answer to a question over TCP, where nothing is cut.
    pub(crate) fn question(&mut self, name: &str, kind: RecordType) -> Message {
        self.message(&question(name, kind), Channel::Tcp)
    }
}

/// A question without EDNS.
pub(crate) fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 4711;
    message.metadata.op_code = OpCode::Query;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message
}

/// The same with an OPT record.
pub(crate) fn with_edns(mut message: Message, options: &[(u16, &[u8])]) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    for (code, octets) in options {
        edns.options_mut()
            .insert(EdnsOption::Unknown(*code, octets.to_vec()));
    }
    message.edns = Some(edns);
    message
}

/// An option of an answer.
pub(crate) fn option(message: &Message, code: u16) -> Option<Vec<u8>> {
    let edns = message.edns.as_ref()?;
    edns.options().as_ref().iter().find_map(|(have, option)| {
        let octets = match option {
            EdnsOption::Unknown(_, octets) => octets.clone(),
            EdnsOption::NSID(payload) => payload.as_ref().to_vec(),
            _ => return None,
        };
        (u16::from(*have) == code).then_some(octets)
    })
}

/// A running front end; it ends with the test.
pub(crate) struct Node {
    runtime: tokio::runtime::Runtime,
    running: Option<Running>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<SocketAddr>,
    history: Arc<History>,
    directory: tempfile::TempDir,
}

/// Settings of a node: no budget unless the test sets one.
pub(crate) fn config() -> serve::Config {
    serve::Config {
        plain: server::Config {
            section: "dns",
            listen: vec![(Ipv4Addr::LOCALHOST, free_port()).into()],
            workers: 1,
            receive_buffer: 256 * 1024,
            streams: stream::Config::default(),
            connections: 100,
            drain: Duration::from_secs(5),
            budget: budget::Config {
                bytes_per_second: 0,
                ..budget::Config::default()
            },
        },
        slip: 2,
        tls: None,
    }
}

impl Node {
    pub(crate) fn start(config: serve::Config) -> Self {
        Self::start_with(config, |_| {})
    }

    /// As [`Self::start`], with other settings of what workers share.
    pub(crate) fn start_with(config: serve::Config, change: impl FnOnce(&mut Shared)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut shared = shared(store(directory.path()));
        change(&mut shared);
        let shared = Arc::new(shared);
        let metrics = Arc::new(Metrics::default());
        let history = History::open(history::Config {
            directory: directory.path().join("history"),
            days: 180,
            budget: 1 << 30,
        });
        let history = Arc::new(history.expect("a log"));
        metrics.remember_in(&history);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let bound = Bound::bind(config).expect("free ports");
        let (address, tls) = (bound.addresses[0], bound.tls_addresses.first().copied());
        let guard = runtime.enter();
        let running = bound.start(&shared, &metrics).expect("threads");
        drop(guard);
        Self {
            runtime,
            running: Some(running),
            metrics,
            shared,
            address,
            tls,
            history,
            directory,
        }
    }

    /// The lines of the log of resolutions, which ends with this.
    pub(crate) fn remembered(&self) -> Vec<serde_json::Value> {
        self.history.close();
        let files = std::fs::read_dir(self.directory.path().join("history")).expect("the log");
        let mut text = String::new();
        for file in files {
            let file = std::fs::File::open(file.expect("a file").path()).expect("opens");
            flate2::read::MultiGzDecoder::new(file)
                .read_to_string(&mut text)
                .expect("gzip");
        }
        let lines = text.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().expect("JSON")
    }

    /// A UDP socket connected to the node.
    pub(crate) fn client(&self) -> UdpSocket {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        socket.connect(self.address).expect("connected");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        socket
    }

    /// Asks over UDP.
    pub(crate) fn ask(&self, request: &Message) -> Message {
        let socket = self.client();
        socket
            .send(&request.to_vec().expect("encodes"))
            .expect("sent");
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).expect("an answer in time");
        Message::from_vec(&buffer[..length]).expect("a message")
    }

    /// A TCP connection to the node.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream
    }

    /// The value of one metric line.
    pub(crate) fn metric(&self, line: &str) -> f64 {
        let text = self.metrics.render();
        let found = text
            .lines()
            .find_map(|candidate| candidate.strip_prefix(line));
        found
            .unwrap_or_else(|| panic!("no metric {line}"))
            .trim()
            .parse()
            .expect("a number")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.runtime.block_on(running.drain(|| {}));
        }
    }
}

/// A message with its length in front.
pub(crate) fn framed(message: &Message) -> Vec<u8> {
    let octets = message.to_vec().expect("encodes");
    let mut framed = u16::try_from(octets.len())
        .expect("fits")
        .to_be_bytes()
        .to_vec();
    framed.extend(octets);
    framed
}

/// Sends messages at once and reads as many answers.
pub(crate) fn exchange(
    stream: &mut (impl std::io::Read + std::io::Write),
    requests: &[Message],
) -> Vec<Message> {
    let all: Vec<u8> = requests.iter().flat_map(framed).collect();
    stream.write_all(&all).expect("sent");
    requests.iter().map(|_| receive(stream)).collect()
}

/// Reads one framed message.
pub(crate) fn receive(stream: &mut impl std::io::Read) -> Message {
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("an answer in time");
    let mut octets = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut octets).expect("all of it");
    Message::from_vec(&octets).expect("a message")
}
