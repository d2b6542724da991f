//! Goal: the program itself, as an operator runs it, stands signals, floods and lack of descriptors.
//! Method: the real binary in a process of its own, set up with `jiexi init`, asked from here.

#![expect(
    clippy::expect_used,
    reason = "helpers of a test: a failed assumption is a failed test"
)]

mod handover;
#[path = "../support/ports.rs"]
mod ports;
mod upgrade;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ports::free_port;

const PATIENCE: Duration = Duration::from_secs(20);

/// A request for the node's own prefix record, over and over the same.
fn request() -> Vec<u8> {
    request_for(b"0.NA/88.118")
}

/// A request for all values of a handle.
fn request_for(handle: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(u32::try_from(handle.len()).expect("short").to_be_bytes());
    body.extend(handle);
    body.extend([0; 8]);
    let mut message = vec![0, 0, 0, 1, 0, 0, 0, 0, 0x19, 0, 0, 0, 0xFF, 0xFF, 0, 0];
    message.extend(i32::MAX.to_be_bytes());
    message.extend(u32::try_from(body.len()).expect("short").to_be_bytes());
    message.extend(body);
    message.extend([0; 4]);
    let mut envelope = vec![2, 11, 2, 11, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0];
    envelope.extend(u32::try_from(message.len()).expect("short").to_be_bytes());
    [envelope, message].concat()
}

/// Reads one message and gives its response code.
fn answer(stream: &mut TcpStream) -> std::io::Result<u32> {
    let mut envelope = [0; 20];
    stream.read_exact(&mut envelope)?;
    let length = u32::from_be_bytes(envelope[16..20].try_into().expect("four"));
    let mut message = vec![0; length as usize];
    stream.read_exact(&mut message)?;
    Ok(u32::from_be_bytes(message[4..8].try_into().expect("four")))
}

/// A node in a process of its own.
struct Process {
    child: Child,
    handle: SocketAddr,
    operations: SocketAddr,
    http: u16,
    directory: tempfile::TempDir,
    /// The file of the program, where it is not the one under test itself.
    program: PathBuf,
    more: Vec<(String, String)>,
}

impl Process {
    /// Sets a node up and starts it, with `overrides` of its configuration, under `ulimit -n files`.
    fn start(files: u32, overrides: &[(&str, &str)]) -> Self {
        Self::start_program(Path::new(env!("CARGO_BIN_EXE_jiexi")), files, overrides)
    }

    /// As [`Self::start`], from a copy of the program.
    fn start_program(program: &Path, files: u32, overrides: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("node");
        let init = Command::new(env!("CARGO_BIN_EXE_jiexi"))
            .args([
                "init",
                "--prefix",
                "88.118",
                "--address",
                "127.0.0.1",
                "--data",
            ])
            .arg(&data)
            .stdout(Stdio::null())
            .status()
            .expect("jiexi starts");
        assert!(init.success());
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let own = |(name, value): &(&str, &str)| (String::from(*name), String::from(*value));
        let mut node = Self {
            child: Command::new("true").spawn().expect("a process"),
            handle: at(free_port()),
            operations: at(free_port()),
            http: free_port(),
            directory,
            program: program.to_path_buf(),
            more: overrides.iter().map(own).collect(),
        };
        node.child.wait().expect("it ends");
        node.child = node.serve(files);
        node.wait_ready();
        node
    }

    fn serve(&self, files: u32) -> Child {
        // As systemd says which process it has started.
        let script =
            format!("ulimit -n {files} && SYSTEMD_EXEC_PID=$$ exec \"$0\" serve --config \"$1\"");
        let log = std::fs::File::create(self.log()).expect("a log");
        Command::new("bash")
            .args(["-c", &script])
            .arg(&self.program)
            .arg(self.file())
            .envs(self.settings())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("jiexi starts")
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("node")
    }

    fn file(&self) -> PathBuf {
        self.data().join("jiexi.toml")
    }

    /// Where its processes log.
    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// What its configuration does not say.
    fn settings(&self) -> Vec<(String, String)> {
        let own = [
            ("JIEXI_HANDLE_LISTEN", "127.0.0.1".to_owned()),
            ("JIEXI_HANDLE_PORT", self.handle.port().to_string()),
            ("JIEXI_HTTP_LISTEN", "127.0.0.1".to_owned()),
            ("JIEXI_HTTP_PORT", self.http.to_string()),
            ("JIEXI_OPERATIONS_LISTEN", self.operations.to_string()),
        ];
        let own = own
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        own.chain(self.more.iter().cloned()).collect()
    }

    fn wait_ready(&self) {
        let start = Instant::now();
        while !self
            .get("/ready")
            .is_some_and(|text| text.starts_with("HTTP/1.1 200"))
        {
            assert!(start.elapsed() < PATIENCE, "the node gets ready");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the operations listener says.
    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.operations).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }

    fn metric(&self, line: &str) -> f64 {
        let text = self.get("/metrics").expect("metrics");
        let value = text
            .lines()
            .find_map(|candidate| candidate.strip_prefix(line));
        value
            .unwrap_or_else(|| panic!("no {line} in\n{text}"))
            .trim()
            .parse()
            .expect("a number")
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.handle).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }

    /// Resident octets.
    fn rss(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("a process");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("RSS");
        line.trim()
            .trim_end_matches(" kB")
            .parse::<u64>()
            .expect("a number")
            * 1024
    }

    fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the node ends");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn sigterm_answers_what_was_asked_and_ends_with_0() {
    let mut node = Process::start(1024, &[]);
    let mut stream = node.connect();
    stream.write_all(&request().repeat(50)).expect("written");
    assert_eq!(answer(&mut stream).expect("an answer"), 1);
    kill(node.pid(), Signal::SIGTERM).expect("told");
    for _ in 1..50 {
        assert_eq!(answer(&mut stream).expect("an answer"), 1);
    }
    assert!(answer(&mut stream).is_err(), "then the connection ends");
    assert!(node.wait().success());
    assert!(TcpStream::connect(node.handle).is_err());
}

#[test]
fn lack_of_descriptors_does_not_stop_the_server() {
    let node = Process::start(80, &[]);
    let mut flood: Vec<TcpStream> = (0..200)
        .map_while(|_| TcpStream::connect(node.handle).ok())
        .collect();
    assert!(
        flood.len() > 100,
        "the kernel takes connections that are not accepted yet"
    );
    std::thread::sleep(Duration::from_millis(300));
    // Connections behind the flood are served as the longest idle ones give way.
    let mut last = flood.pop().expect("a connection");
    last.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    last.write_all(&request()).expect("written");
    assert_eq!(answer(&mut last).expect("an answer"), 1);
    drop(flood);
    let mut fresh = node.connect();
    fresh.write_all(&request()).expect("written");
    assert_eq!(answer(&mut fresh).expect("an answer"), 1);
}

#[test]
fn an_idle_connection_costs_at_most_10_kib() {
    const CONNECTIONS: u64 = 10_000;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limits");
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(19_000), hard).expect("enough descriptors");
    let node = Process::start(19_000, &[]);
    // Everything that is made once is made before.
    let mut warm: Vec<TcpStream> = (0..50).map(|_| node.connect()).collect();
    for stream in &mut warm {
        stream.write_all(&request()).expect("written");
        assert_eq!(answer(stream).expect("an answer"), 1);
    }
    let before = node.rss();
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = node.connect();
        stream.write_all(&request()).expect("written");
        assert_eq!(answer(&mut stream).expect("an answer"), 1);
        idle.push(stream);
    }
    let open = node.metric(r#"jiexi_connections{protocol="handle",transport="tcp"}"#);
    assert!(open >= CONNECTIONS as f64, "{open} connections are open");
    let each = (node.rss() - before) / CONNECTIONS;
    println!("an idle connection costs {each} octets of RSS");
    assert!(each <= 10 * 1024, "{each} octets");
}

#[test]
fn drops_of_the_kernel_are_counted() {
    let node = Process::start(1024, &[("JIEXI_HANDLE_UDP_RECEIVE_BUFFER", "64KiB")]);
    let drops = r#"jiexi_udp_kernel_drops_total{protocol="handle"}"#;
    assert_eq!(node.metric(drops), 0.0);
    kill(node.pid(), Signal::SIGSTOP).expect("stopped");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for _ in 0..5000 {
        socket.send_to(&request(), node.handle).expect("sent");
    }
    kill(node.pid(), Signal::SIGCONT).expect("continued");
    let counted = node.metric(drops);
    assert!(
        counted > 1000.0,
        "{counted} drops of 5,000 datagrams to a stopped process"
    );
}

/// Goal: a node takes new certificates and a new level of its log when told to, all or nothing, and goes on.
#[test]
fn sighup_takes_a_good_configuration_and_refuses_a_bad_one() {
    let node = Process::start(1024, &[]);
    let file = node.directory.path().join("node/jiexi.toml");
    let text = std::fs::read_to_string(&file).expect("a file");
    let (at, good) = (
        "jiexi_config_last_reload_success_timestamp_seconds ",
        "jiexi_config_last_reload_successful ",
    );
    let (started, expires) = (
        node.metric(at),
        r#"jiexi_certificate_expiry_timestamp_seconds{protocol="http"}"#,
    );
    assert_eq!(node.metric(good), 1.0);
    let own = node.metric(expires);
    let reload = |text: String, outcome: f64| {
        std::fs::write(&file, text).expect("written");
        kill(node.pid(), Signal::SIGHUP).expect("told");
        let start = Instant::now();
        while node.metric(good) != outcome {
            assert!(start.elapsed() < PATIENCE, "the configuration is read");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let mut stream = node.connect();
    reload(text.replace("level = \"info\"", "level = \"loud\""), 0.0);
    assert_eq!(node.metric(at), started, "nothing was taken");
    // A certificate that is not there: its file is named, the one in use stays.
    let certificate = "certificate = \"tls.pem\"\nkey = \"tls.key\"\n";
    let with_files = text.replacen("certificate = \"\"\nkey = \"\"\n", certificate, 1);
    assert_ne!(with_files, text);
    reload(text.clone(), 1.0);
    reload(with_files.clone(), 0.0);
    assert_eq!(node.metric(expires), own);
    let directory = node.directory.path().join("node");
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args(["-days", "30", "-subj", "/CN=localhost", "-keyout"])
        .arg(directory.join("tls.key"))
        .arg("-out")
        .arg(directory.join("tls.pem"))
        .stderr(Stdio::null())
        .status();
    assert!(made.expect("openssl").success());
    reload(with_files, 1.0);
    assert!(
        node.metric(expires) < own,
        "30 days are less than the node's own certificate has"
    );
    stream.write_all(&request()).expect("written");
    assert_eq!(
        answer(&mut stream).expect("an answer"),
        1,
        "the connection is as before"
    );
}

/// What the operations listener answers to a request as it stands here.
fn raw(node: &Process, request: &str) -> String {
    let mut stream = TcpStream::connect(node.operations).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.write_all(request.as_bytes()).expect("is sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

/// Goal: the status page shows the node in the reader's language and loads nothing; the listener takes GET only, and a
/// foreign page that is led here by a name of its own gets nothing.
#[test]
fn operations_are_shown_and_guarded() {
    let room = [
        ("JIEXI_STORE_DISK_FREE_MIN", "1MiB"),
        ("JIEXI_STORE_DISK_FREE_PERCENT", "0"),
    ];
    let node = Process::start(1_024, &room);
    let ask = |line: &str, host: &str, more: &str| {
        raw(
            &node,
            &format!("{line} HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n"),
        )
    };
    let page = ask("GET /", "127.0.0.1:9641", "Accept-Language: zh-CN\r\n");
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    assert!(
        page.contains("content-security-policy: default-src 'none'; style-src 'sha256-"),
        "{page}"
    );
    assert!(
        page.contains("就绪") && page.contains("没有告警") && page.contains("<svg"),
        "{page}"
    );
    assert!(
        !page.contains("<script") && !page.contains("src="),
        "{page}"
    );
    assert!(ask("GET /?lang=en", "localhost", "").contains("No alerts"));
    for method in ["POST", "PUT", "DELETE"] {
        let answer = ask(&format!("{method} /"), "localhost", "");
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    }
    for path in ["/", "/metrics", "/ready"] {
        let answer = ask(&format!("GET {path}"), "evil.example:9641", "");
        assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
        assert!(!answer.contains("jiexi_"), "{answer}");
    }
}

/// Goal: a process that stood still, as on a machine that is suspended or moved, takes nothing of its own for hanging.
/// Method: it is stopped for longer than sled may give no sign of life.
#[test]
fn a_process_that_stood_still_goes_on() {
    let node = Process::start(1024, &[]);
    let errors = r#"jiexi_store_errors_total{part="sled"}"#;
    assert_eq!(node.metric(errors), 0.0);
    kill(node.pid(), Signal::SIGSTOP).expect("told");
    std::thread::sleep(Duration::from_millis(10_500));
    kill(node.pid(), Signal::SIGCONT).expect("told");
    // Longer than between two looks of whoever gives sled up.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(node.metric(errors), 0.0);
}

/// Goal: a disk that takes no changes shows wherever somebody looks, and look-ups go on. Method: more is to be kept free than
/// any disk has.
#[test]
fn a_full_disk_is_told() {
    let node = Process::start(1024, &[("JIEXI_STORE_DISK_FREE_MIN", "1000TiB")]);
    let ready = node.get("/ready").expect("an answer");
    assert!(
        ready.starts_with("HTTP/1.1 200")
            && ready.contains("\"takes_changes\":false")
            && ready.contains("\"reason\":\"no changes: "),
        "{ready}"
    );
    let page = node.get("/").expect("an answer");
    assert!(
        page.contains("ready, changes are refused</h1>") && page.contains("JiexiDiskFull"),
        "{page}"
    );
    // Whoever restarts what is not well is told that look-ups are.
    for (arguments, code) in [
        (&["status"][..], 1),
        (&["status", "--look-ups"], 0),
        (&["doctor"], 1),
    ] {
        let looked = Command::new(env!("CARGO_BIN_EXE_jiexi"))
            .args(arguments)
            .arg("--config")
            .arg(node.file())
            .envs(node.settings())
            .output()
            .expect("jiexi runs");
        let told = String::from_utf8_lossy(&looked.stdout);
        assert_eq!(looked.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(told.contains("no changes: "), "{told}");
        if arguments == ["doctor"] {
            let node = "FAILED   node          answers look-ups and no more: no changes: ";
            assert!(told.contains(node), "{told}");
        }
    }
    let mut stream = TcpStream::connect(node.handle).expect("connects");
    stream.write_all(&request()).expect("writes");
    assert_eq!(answer(&mut stream).expect("an answer"), 1);
}

/// Goal: a listener that others can reach is refused unless it is said who may ask and how they prove it.
#[test]
fn operations_for_strangers_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let listen = format!("0.0.0.0:{}", free_port());
    let jiexi = |arguments: &[&str], more: &[(&str, &str)]| {
        let said = Command::new(env!("CARGO_BIN_EXE_jiexi"))
            .args(arguments)
            .current_dir(directory.path())
            .envs(more.iter().copied())
            .output()
            .expect("jiexi runs");
        String::from_utf8_lossy(&said.stderr).into_owned() + &String::from_utf8_lossy(&said.stdout)
    };
    let init = [
        "init",
        "--prefix",
        "88.118",
        "--address",
        "127.0.0.1",
        "--data",
        "node",
    ];
    jiexi(&init, &[]);
    let open = |arguments: &[&str], more: &[(&str, &str)]| {
        jiexi(
            arguments,
            &[&[("JIEXI_OPERATIONS_LISTEN", &*listen)], more].concat(),
        )
    };
    let start = |more: &[(&str, &str)]| open(&["config", "check", "node/jiexi.toml"], more);
    let refused = "[operations] listen: is not of this machine alone";
    let said = start(&[]);
    assert!(said.contains(refused), "{said}");
    let said = start(&[("JIEXI_OPERATIONS_TLS", "true")]);
    assert!(said.contains(refused), "{said}");
    let said = start(&[("JIEXI_OPERATIONS_ALLOW", "192.0.2.0/24")]);
    assert!(said.contains(refused), "{said}");
    let good = [
        ("JIEXI_OPERATIONS_ALLOW", "192.0.2.0/24"),
        ("JIEXI_OPERATIONS_TLS", "true"),
    ];
    let said = start(&good);
    assert!(!said.contains(refused), "{said}");
    std::fs::write(directory.path().join("node/token"), "short\n").expect("is written");
    let short = [good[0], ("JIEXI_OPERATIONS_TOKEN_FILE", "token")];
    let said = open(&["serve", "--config", "node/jiexi.toml"], &short);
    assert!(
        said.contains("the token must be 16 to 256 characters"),
        "{said}"
    );
}
