//! The real program as a node of its own: set up by `init`, started, killed.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiexi_proto::code::OpFlags;
use jiexi_proto::message::Body;
use jiexi_proto::message::values::HandleValues;
use jiexi_proto::value::key::{KeyFile, PrivateKey};
use jiexi_proto::value::{Reference, Ttl, Value};
use jiexi_proto::{Message, OpCode};

use crate::client::{Key, Session, answer, octets, open_session, read_one, request};
use crate::ports::free_port;

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A node that is set up, and perhaps runs.
pub(crate) struct Node {
    pub(crate) data: PathBuf,
    pub(crate) address: SocketAddr,
    pub(crate) operations: SocketAddr,
    child: Option<Child>,
}

fn free() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jiexi"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("JIEXI_") {
            command.env_remove(name);
        }
    }
    command
}

impl Node {
    /// Sets a node for prefix 88.118 up.
    pub(crate) fn init(directory: &Path) -> Self {
        std::fs::create_dir_all(directory).expect("a directory");
        let data = directory.join("node");
        let (address, operations) = (free(), free());
        let status = program()
            .args([
                "init",
                "--prefix",
                "88.118",
                "--address",
                "127.0.0.1",
                "--port",
            ])
            .arg(address.port().to_string())
            .arg("--data")
            .arg(&data)
            .stdout(Stdio::null())
            .status();
        assert!(status.expect("runs").success());
        Self {
            data,
            address,
            operations,
            child: None,
        }
    }

    /// Starts it and waits until it takes changes.
    pub(crate) fn start(&mut self) {
        let child = self.command().env("JIEXI_LOG_LEVEL", "warn").spawn();
        self.wait(child.expect("starts"));
    }

    /// Starts it with a log in a file.
    pub(crate) fn start_logging(&mut self, log: &Path, level: &str, format: &str) {
        let file = std::fs::File::create(log).expect("a file");
        let child = self
            .command()
            .env("JIEXI_LOG_LEVEL", level)
            .env("JIEXI_LOG_FORMAT", format)
            .stdout(file.try_clone().expect("another"))
            .stderr(file)
            .spawn();
        self.wait(child.expect("starts"));
    }

    fn command(&self) -> Command {
        let mut command = program();
        command
            .args(["serve", "--config"])
            .arg(self.data.join("jiexi.toml"))
            .env("JIEXI_HANDLE_LISTEN", "127.0.0.1")
            .env("JIEXI_HANDLE_PORT", self.address.port().to_string())
            .env("JIEXI_HTTP_PORT", "0")
            .env("JIEXI_OPERATIONS_LISTEN", self.operations.to_string())
            .env("JIEXI_STORE_DISK_FREE_MIN", "64MiB")
            .env("JIEXI_STORE_DISK_FREE_PERCENT", "0");
        command
    }

    fn wait(&mut self, child: Child) {
        self.child = Some(child);
        let start = Instant::now();
        loop {
            let asked = create("88.118/ready", 1);
            // Ready is who asks for proof: the records are loaded.
            if try_ask(self.address, &octets(&asked))
                .is_ok_and(|answer| answer[24..28] == [0, 0, 1, 0x92])
            {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "the node does not get ready");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills it as a crash does.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("runs");
        child.kill().expect("killed");
        child.wait().expect("ended");
    }

    /// Ends it as an operator does.
    pub(crate) fn terminate(&mut self) {
        use nix::sys::signal::{Signal, kill};
        let mut child = self.child.take().expect("runs");
        let id = i32::try_from(child.id()).expect("a process id");
        kill(nix::unistd::Pid::from_raw(id), Signal::SIGTERM).expect("told");
        assert!(child.wait().expect("ended").success());
    }

    /// What `jiexi audit verify` says.
    pub(crate) fn audit_report(&self) -> serde_json::Value {
        let output = program()
            .args(["audit", "verify", "-o", "json", "--config"])
            .arg(self.data.join("jiexi.toml"))
            .output();
        serde_json::from_slice(&output.expect("runs").stdout).expect("JSON")
    }

    /// The handles below its prefix, of a stopped node, folded.
    pub(crate) fn handles(&self) -> Vec<String> {
        let printed = self.printed(&["handle", "list", "88.118"]);
        printed.lines().map(str::to_uppercase).collect()
    }

    /// The handles of which the audit trail says that they were changed, folded.
    pub(crate) fn audited(&self) -> HashSet<String> {
        let printed = self.printed(&["audit", "-o", "json"]);
        let entries = printed
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("an entry"));
        entries
            .filter(|entry| entry["result"] == "committed")
            .map(|entry| entry["handle"].as_str().expect("a handle").to_uppercase())
            .collect()
    }

    fn printed(&self, arguments: &[&str]) -> String {
        let output = program()
            .args(arguments)
            .arg("--config")
            .arg(self.data.join("jiexi.toml"))
            .output()
            .expect("runs");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().expect("runs").id()
    }

    /// The administrator that `init` has made.
    pub(crate) fn admin(&self) -> (Reference, Key) {
        let file = Bytes::from(std::fs::read(self.data.join("admin.key")).expect("the key"));
        let KeyFile::Clear(key) = KeyFile::decode(&file).expect("a key file") else {
            panic!("the key is protected");
        };
        let user = Reference {
            handle: Bytes::from_static(b"0.NA/88.118"),
            index: 300,
        };
        (user, Key::of(&PrivateKey::decode(&key).expect("a key")))
    }

    /// A session in which the administrator is proved.
    pub(crate) fn session(&self, number: u8) -> Session {
        let (user, key) = self.admin();
        let mut session = open_session(self.address, &[number.max(2); 40], Some(&user));
        let asked = session.sign(create(&format!("88.118/session-{}", session.id), 1));
        let challenge = session.open(&try_ask(self.address, &octets(&asked)).expect("an answer"));
        let mut proof = answer(&asked, &challenge, &user, &key, 2);
        proof.envelope.session_id = session.id;
        let done = session.open(&try_ask(self.address, &octets(&proof)).expect("an answer"));
        assert_eq!(done.header.response_code.0, 1, "{done:?}");
        session
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// One request and its answer, over a new connection.
pub(crate) fn try_ask(node: SocketAddr, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&node, Duration::from_secs(5))?;
    ask_on(&mut stream, request)
}

/// One request and its answer.
pub(crate) fn ask_on(stream: &mut TcpStream, request: &[u8]) -> std::io::Result<Vec<u8>> {
    use std::io::Write as _;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(request)?;
    read_one(stream)
}

/// A create of two values.
pub(crate) fn create(handle: &str, id: u32) -> Message {
    let value = |index, kind: &'static [u8], data: &'static [u8]| Value {
        index,
        timestamp: 0,
        ttl: Ttl::Relative(86_400),
        permissions: jiexi_proto::code::Permissions(0x0E),
        kind: Bytes::from_static(kind),
        data: Bytes::from_static(data),
        references: Vec::new(),
    };
    let body = Body::Values(HandleValues {
        handle: Bytes::copy_from_slice(handle.as_bytes()),
        values: vec![
            value(1, b"URL", b"https://example.cn/devices/4711"),
            value(2, b"EMAIL", b"nobody@example.cn"),
        ],
    });
    request(OpCode::CREATE_HANDLE, OpFlags::RESOLUTION, body, id)
}
