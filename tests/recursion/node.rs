//! The real program as a node with prefixes and records of its own, and a socket that stands in for one.

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiexi_proto::code::{OpFlags, Permissions, ResponseCode};
use jiexi_proto::framing::{Reassembler, ReassemblyLimits};
use jiexi_proto::message::Body;
use jiexi_proto::message::resolution::Resolution;
use jiexi_proto::message::values::HandleValues;
use jiexi_proto::value::{Ttl, Value};
use jiexi_proto::{Header, Message, OpCode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::{octets, read_one, request};
use crate::ports::free_port;

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The port in the site record of the node that all others are copies of.
const COPIED_PORT: &str = "61999";

/// A node that is set up, and perhaps runs.
pub(crate) struct Node {
    directory: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    operations: SocketAddr,
    settings: Vec<(String, String)>,
    child: Option<Child>,
}

/// An address of loopback that nobody has, and that no client gets while nobody listens there.
pub(crate) fn free() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jiexi"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("JIEXI_") {
            command.env_remove(name);
        }
    }
    // A disk that is nearly full is not what is tested here.
    command
        .env("JIEXI_STORE_DISK_FREE_MIN", "64MiB")
        .env("JIEXI_STORE_DISK_FREE_PERCENT", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// A node as `init` sets it up; making keys takes longer than copying them.
fn original() -> &'static Path {
    static ORIGINAL: OnceLock<tempfile::TempDir> = OnceLock::new();
    let made = ORIGINAL.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a directory");
        let arguments = [
            "init",
            "--prefix",
            "88.118",
            "--address",
            "127.0.0.1",
            "--port",
        ];
        let status = program()
            .args(arguments)
            .args([COPIED_PORT, "--data"])
            .arg(directory.path().join("node"))
            .status();
        assert!(status.expect("runs").success());
        directory
    });
    made.path()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a type").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("copied")),
        }
    }
}

/// A record in a line: values with their TTL in seconds and whether everybody may read them.
pub(crate) fn record(handle: &str, values: &[(u32, &str, &str, u32, bool)]) -> String {
    let value = |(index, kind, data, ttl, public): &(u32, &str, &str, u32, bool)| {
        let permissions = if *public { "1110" } else { "1100" };
        serde_json::json!({"index": index, "type": kind, "ttl": ttl, "permissions": permissions,
            "data": {"format": "string", "value": data}})
    };
    let values: Vec<_> = values.iter().map(value).collect();
    serde_json::json!({"handle": handle, "values": values}).to_string()
}

impl Node {
    /// A node with these lines of records; prefixes are `{"prefix":"…"}`.
    pub(crate) fn new(lines: &[String]) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("jx")
            .tempdir()
            .expect("a directory");
        copy(original(), directory.path());
        let (address, operations) = (free(), free());
        let node = Self {
            directory,
            address,
            operations,
            settings: Vec::new(),
            child: None,
        };
        let site = std::fs::read_to_string(node.data().join("site.json")).expect("a site");
        assert!(site.contains(COPIED_PORT));
        let site = site.replace(COPIED_PORT, &address.port().to_string());
        std::fs::write(node.data().join("site.json"), site).expect("written");
        let records = node.directory.path().join("records.ndjson");
        std::fs::write(&records, lines.join("\n")).expect("written");
        if !lines.is_empty() {
            node.command(&["import", "--data", "node", "records.ndjson"]);
        }
        node
    }

    /// A node that is the home of one prefix.
    pub(crate) fn home(prefix: &str, records: &[String]) -> Self {
        let prefix = serde_json::json!({"prefix": prefix}).to_string();
        Self::new(&[&[prefix], records].concat()).start()
    }

    /// A node that asks `upstream` for what it does not know itself, and may connect to loopback.
    pub(crate) fn recursive(upstream: &[SocketAddr]) -> Self {
        Self::new(&[]).recursing(upstream)
    }

    pub(crate) fn recursing(self, upstream: &[SocketAddr]) -> Self {
        let upstream: Vec<String> = upstream.iter().map(ToString::to_string).collect();
        self.with("recursion_allow_recursion", "true")
            .with("recursion_upstream", &upstream.join(","))
            .with("recursion_outbound_allow", "127.0.0.0/8")
    }

    /// With a setting.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        let name = format!("JIEXI_{}", name.to_uppercase());
        self.settings.push((name, value.to_owned()));
        self
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("node")
    }

    /// Runs a command of the program in the node's directory.
    pub(crate) fn command(&self, arguments: &[&str]) {
        let output = program()
            .args(arguments)
            .current_dir(self.directory.path())
            .stderr(Stdio::piped())
            .output()
            .expect("runs");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn start(mut self) -> Self {
        self.begin();
        self
    }

    pub(crate) fn begin(&mut self) {
        let child = program()
            .args(["serve", "--config"])
            .arg(self.data().join("jiexi.toml"))
            .env("JIEXI_HANDLE_LISTEN", "0.0.0.0")
            .env("JIEXI_HANDLE_PORT", self.address.port().to_string())
            .env("JIEXI_HTTP_LISTEN", "")
            .env("JIEXI_OPERATIONS_LISTEN", self.operations.to_string())
            .env("JIEXI_HANDLE_AMPLIFICATION_RATE", "1GiB")
            .env("JIEXI_HANDLE_AMPLIFICATION_BURST", "1GiB")
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .spawn();
        self.child = Some(child.expect("starts"));
        let start = Instant::now();
        while !self.http("/ready").starts_with("HTTP/1.1 200") {
            assert!(start.elapsed() < PATIENCE, "the node does not get ready");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().expect("runs").id()
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("runs");
        child.kill().expect("killed");
        child.wait().expect("ended");
    }

    /// Stops its process, as a machine that hangs. No thread of it runs any more.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        let start = Instant::now();
        let tasks = format!("/proc/{}/task", self.id());
        let is_stopped = |task: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit(") ")
                .next()
                .is_some_and(|rest| rest.starts_with('T'))
        };
        let all = || {
            std::fs::read_dir(&tasks)
                .expect("threads")
                .all(|task| task.is_ok_and(is_stopped))
        };
        while !all() {
            assert!(start.elapsed() < PATIENCE, "the node does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).expect("a process id");
        kill(Pid::from_raw(id), signal).expect("told");
    }

    fn http(&self, path: &str) -> String {
        use std::io::{Read as _, Write as _};
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(self.operations)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            write!(
                stream,
                "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        ask().unwrap_or_default()
    }

    /// The value of one metric, named with its labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.http("/metrics");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        line.trim().parse().expect("a number")
    }

    /// How many questions were answered in this manner.
    pub(crate) fn forwarded(&self, result: &str) -> f64 {
        self.metric(&format!("jiexi_forwarded_total{{result=\"{result}\"}}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// A question for all public values of a handle.
pub(crate) fn question(handle: &str, id: u32) -> Message {
    question_for(handle, &[], id)
}

/// A question for values of these types.
pub(crate) fn question_for(handle: &str, types: &[&'static str], id: u32) -> Message {
    let body = Body::Resolution(Resolution {
        handle: Bytes::copy_from_slice(handle.as_bytes()),
        indexes: Vec::new(),
        types: types
            .iter()
            .map(|kind| Bytes::from_static(kind.as_bytes()))
            .collect(),
        trailer: None,
    });
    request(OpCode::RESOLUTION, OpFlags::RESOLUTION, body, id)
}

/// The answer over TCP.
pub(crate) fn ask(node: SocketAddr, asked: &Message) -> Message {
    use std::io::Write as _;
    let mut stream = TcpStream::connect(node).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream.write_all(&octets(asked)).expect("written");
    let answer = read_one(&mut stream).expect("an answer");
    Message::decode(&Bytes::from(answer)).expect("a message")
}

/// A socket that hears this node alone.
pub(crate) fn socket(node: SocketAddr, patience: Duration) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.connect(node).expect("connected");
    socket.set_read_timeout(Some(patience)).expect("a time-out");
    socket
}

/// The answer over UDP, in as many datagrams as it takes.
pub(crate) fn ask_udp(node: SocketAddr, asked: &Message) -> Message {
    let socket = socket(node, PATIENCE);
    socket.send(&octets(asked)).expect("sent");
    let mut pieces = Reassembler::new(ReassemblyLimits::default());
    let mut buffer = [0; 2048];
    loop {
        let length = socket.recv(&mut buffer).expect("an answer");
        let whole = pieces.push((), &buffer[..length], 0).expect("a piece");
        if let Some(message) = whole {
            return Message::decode(&Bytes::from(message)).expect("a message");
        }
    }
}

pub(crate) fn code(message: &Message) -> u32 {
    message.header.response_code.0
}

/// The values in an answer.
pub(crate) fn values(message: &Message) -> &[Value] {
    match &message.body {
        Body::Resolved(found) => &found.values,
        other => panic!("no values: {other:?}"),
    }
}

/// What a refusal says.
pub(crate) fn text(message: &Message) -> String {
    match &message.body {
        Body::Error(error) => String::from_utf8_lossy(&error.message).into_owned(),
        other => panic!("no refusal: {other:?}"),
    }
}

/// A socket that stands in for a node: it answers as it is told to, and counts.
pub(crate) struct Impostor {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Impostor {
    /// `answers` makes the datagrams that are sent back for a question.
    pub(crate) fn new(answers: impl Fn(&Message) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let (address, asked) = (socket.local_addr().expect("an address"), Arc::default());
        let counter: Arc<AtomicUsize> = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                let octets = Bytes::copy_from_slice(&buffer[..length]);
                let Ok(message) = Message::decode(&octets) else {
                    continue;
                };
                counter.fetch_add(1, SeqCst);
                for answer in answers(&message) {
                    socket.send_to(&answer, peer).expect("sent");
                }
            }
        });
        Self { address, asked }
    }

    /// How many questions have come.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

/// An answer to `asked` with one URL, about the handle that was asked for.
pub(crate) fn found(asked: &Message, url: &str) -> Message {
    let Body::Resolution(resolution) = &asked.body else {
        panic!("no resolution: {asked:?}");
    };
    let value = Value {
        index: 1,
        timestamp: 0,
        ttl: Ttl::Relative(86_400),
        permissions: Permissions(0x0E),
        kind: Bytes::from_static(b"URL"),
        data: Bytes::copy_from_slice(url.as_bytes()),
        references: Vec::new(),
    };
    let header = Header {
        response_code: ResponseCode::SUCCESS,
        expiration: i32::MAX,
        ..asked.header
    };
    let body = Body::Resolved(HandleValues {
        handle: resolution.handle.clone(),
        values: vec![value],
    });
    Message::new(asked.envelope.reply(), header, body)
}
