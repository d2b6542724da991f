//! A primary and its standby, each in a process of its own, and the ways to them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::ports::free_port;

/// How long anything may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(20);
/// Settings of every node here: small disks will do, and tokens may come over plain HTTP of this machine.
const SETTINGS: [(&str, &str); 4] = [
    ("JIEXI_HANDLE_LISTEN", "127.0.0.1"),
    ("JIEXI_HTTP_LISTEN", "127.0.0.1"),
    ("JIEXI_STORE_DISK_FREE_MIN", "64MiB"),
    ("JIEXI_STORE_DISK_FREE_PERCENT", "0"),
];
/// A zone over the records.
const ZONE: &str = "\n[[dns.zones]]\nname = \"id.example.net\"\nmapping = \"handle\"\n\
                    nameservers = [\"ns.example.net\"]\nmail = \"hostmaster.example.net\"\n";

/// The program, with no variables of ours from outside.
fn jiexi() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jiexi"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("JIEXI_") {
            command.env_remove(name);
        }
    }
    command.envs(SETTINGS);
    command
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(
            begun.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        std::thread::sleep(LOOK);
    }
}

/// A node: its files and ports, and its process while it runs.
pub(crate) struct Node {
    pub(crate) data: PathBuf,
    pub(crate) handle: u16,
    pub(crate) http: u16,
    pub(crate) dns: u16,
    operations: u16,
    log: PathBuf,
    follow: Vec<String>,
    more: Vec<(String, String)>,
    child: Option<Child>,
}

impl Node {
    fn new(home: &Path, name: &str) -> Self {
        Self {
            data: home.join(name),
            handle: free_port(),
            http: free_port(),
            dns: free_port(),
            operations: free_port(),
            log: home.join(format!("{name}.log")),
            follow: Vec::new(),
            more: Vec::new(),
            child: None,
        }
    }

    /// A node with the prefix 88.118, set up and not started.
    pub(crate) fn primary(home: &Path, name: &str) -> Self {
        let node = Self::new(home, name);
        let done = node
            .command(&[])
            .env("JIEXI_DNS_ENABLED", "false")
            .args(["init", "--prefix", "88.118", "--address", "127.0.0.1"])
            .args(["--port", &node.handle.to_string(), "--data"])
            .arg(&node.data)
            .output()
            .expect("jiexi runs");
        assert!(done.status.success(), "{}", text(&done));
        let file = node.data.join("jiexi.toml");
        let settings = fs::read_to_string(&file).expect("a configuration");
        fs::write(&file, settings + ZONE).expect("is written");
        node
    }

    /// A standby of a node: its key, by way of escrow, its configuration and its site record; no store.
    pub(crate) fn standby(home: &Path, name: &str, of: &Self) -> Self {
        let node = Self::new(home, name);
        fs::create_dir(&node.data).expect("a directory");
        for file in ["jiexi.toml", "site.json"] {
            fs::copy(of.data.join(file), node.data.join(file)).expect("is copied");
        }
        let (escrow, passphrase) = (home.join(format!("{name}.escrow")), home.join("passphrase"));
        fs::write(&passphrase, "a long passphrase").expect("is written");
        of.good(&[
            "key",
            "escrow",
            "export",
            "--out",
            path(&escrow),
            "--passphrase-file",
            path(&passphrase),
        ]);
        node.good(&[
            "key",
            "escrow",
            "import",
            path(&escrow),
            "--passphrase-file",
            path(&passphrase),
        ]);
        node
    }

    /// The program, with the settings of this node.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = jiexi();
        command
            .env("JIEXI_HANDLE_PORT", self.handle.to_string())
            .env("JIEXI_HTTP_PORT", self.http.to_string())
            .env("JIEXI_DNS_ENABLED", "true")
            .env("JIEXI_DNS_LISTEN", "127.0.0.1")
            .env("JIEXI_DNS_PORT", self.dns.to_string())
            .env(
                "JIEXI_OPERATIONS_LISTEN",
                format!("127.0.0.1:{}", self.operations),
            )
            .envs(self.more.iter().map(|(name, value)| (name, value)))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command about this node.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        if self.data.join("jiexi.toml").exists() {
            command.arg("--data").arg(&self.data);
        }
        command.output().expect("jiexi runs")
    }

    /// The same, which must succeed; its standard output.
    #[track_caller]
    pub(crate) fn good(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments);
        assert!(done.status.success(), "{arguments:?}: {}", text(&done));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// Sets something for all commands and starts from now on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.more.push((name.to_owned(), value.to_owned()));
    }

    /// Follows a node at this port from the next start on.
    pub(crate) fn follow(&mut self, port: u16, token: &Path, certificate: &Path) {
        self.follow = [
            "--follow",
            &format!("https://127.0.0.1:{port}"),
            "--token-file",
            path(token),
            "--ca-file",
            path(certificate),
        ]
        .map(str::to_owned)
        .to_vec();
    }

    /// Follows nobody from the next start on.
    pub(crate) fn follow_nobody(&mut self) {
        self.follow.clear();
    }

    /// What it follows with, for commands on a stopped node.
    pub(crate) fn follow_arguments(&self) -> Vec<&str> {
        self.follow.iter().map(String::as_str).collect()
    }

    fn serve(&self) -> Command {
        let mut command = self.command(&["serve"]);
        command
            .args(&self.follow)
            .arg("--config")
            .arg(self.data.join("jiexi.toml"));
        command
    }

    /// Starts it; it need not be ready.
    pub(crate) fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(&self.log);
        let child = self
            .serve()
            .stdout(Stdio::null())
            .stderr(log.expect("a log"))
            .spawn();
        self.child = Some(child.expect("jiexi starts"));
    }

    /// Starts it and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(&mut self) {
        self.spawn();
        until("the node is ready", || self.ready()["ready"] == true);
    }

    /// A start that is refused; what it says.
    pub(crate) fn refused_start(&self) -> String {
        let done = self.serve().output().expect("jiexi runs");
        assert!(!done.status.success(), "it starts");
        text(&done)
    }

    /// Kills it: nothing is closed.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("is killed");
            child.wait().expect("ends");
        }
    }

    /// Stops it in order.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        let mut child = self.child.take().expect("it runs");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("is told");
        assert!(child.wait().expect("ends").success(), "{}", self.log());
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What the operations listener says, if it answers.
    fn ask_operations(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.operations)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer.split_once("\r\n\r\n")?.1.to_owned())
    }

    /// `/ready`; null while nothing answers.
    pub(crate) fn ready(&self) -> Json {
        let answer = self.ask_operations("/ready").unwrap_or_default();
        serde_json::from_str(&answer).unwrap_or_default()
    }

    /// A metric, by the beginning of its line.
    pub(crate) fn metric(&self, line: &str) -> Option<f64> {
        let text = self.ask_operations("/metrics")?;
        let value = text.lines().find_map(|found| found.strip_prefix(line))?;
        value.trim().parse().ok()
    }

    /// The status page.
    pub(crate) fn page(&self) -> String {
        self.ask_operations("/?lang=en").unwrap_or_default()
    }

    /// Figures of the store.
    pub(crate) fn stats(&self) -> Json {
        serde_json::from_str(&self.good(&["store", "stats", "-o", "json"])).expect("JSON")
    }

    /// Everything in it, secrets too, in order.
    pub(crate) fn contents(&self) -> BTreeSet<String> {
        self.good(&["export", "--with-secrets"])
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// A token of it in a file.
    pub(crate) fn token(&self, rights: &str, file: &Path) {
        self.good(&[
            "token",
            "create",
            "--identity",
            "300:0.NA/88.118",
            "--right",
            rights,
            "--token-file",
            path(file),
        ]);
    }

    /// Its certificate in a file.
    pub(crate) fn certificate(&self, file: &Path) {
        let script = format!(
            "openssl s_client -connect 127.0.0.1:{} </dev/null 2>/dev/null | openssl x509 > '{}'",
            self.http,
            path(file)
        );
        let done = Command::new("bash").args(["-c", &script]).status();
        assert!(done.expect("openssl runs").success());
    }

    /// What HTTP answers to a request with a token; status and body.
    pub(crate) fn http(
        &self,
        method: &str,
        target: &str,
        token: &str,
        body: &str,
    ) -> Option<(u16, String)> {
        http(self.http, method, target, token, body)
    }

    /// Runs a command of somebody elsewhere, who asks this node over the Handle protocol.
    pub(crate) fn client(&self, arguments: &[&str]) -> Output {
        let server = format!("127.0.0.1:{}", self.handle);
        let mut command = jiexi();
        command
            .args(arguments)
            .args(["--server", &server])
            .output()
            .expect("jiexi runs")
    }

    /// The URL of a handle as a client of the Handle protocol finds it, over UDP.
    pub(crate) fn resolve(&self, handle: &str) -> Option<String> {
        let server = format!("127.0.0.1:{}", self.handle);
        let found = jiexi()
            .args([
                "resolve", handle, "--server", &server, "--type", "URL", "-o", "json",
            ])
            .output();
        let found = found.expect("jiexi runs");
        found
            .status
            .success()
            .then(|| String::from_utf8_lossy(&found.stdout).into_owned())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}

/// One request over plain HTTP of this machine.
pub(crate) fn http(
    port: u16,
    method: &str,
    target: &str,
    token: &str,
    body: &str,
) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let authorization = match token {
        "" => String::new(),
        token => format!("Authorization: Bearer {token}\r\n"),
    };
    write!(
        stream,
        "{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{authorization}Content-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
    .ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// All that a command said.
pub(crate) fn text(done: &Output) -> String {
    String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr)
}

/// Creates handles one after the other over HTTP, in a thread of its own, and remembers which were acknowledged.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Load {
    pub(crate) fn start(node: &Node, token: &str, name: &str) -> Self {
        let (stop, acknowledged) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (port, token, name) = (node.http, token.to_owned(), name.to_owned());
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        let thread = std::thread::spawn(move || {
            let mut made = Vec::new();
            for number in 0.. {
                if stopped.load(Relaxed) {
                    break;
                }
                let handle = format!("88.118/{name}.{number}");
                let body = format!(
                    r#"{{"values":[{{"index":1,"type":"URL","data":"https://example.cn/{name}/{number}"}}]}}"#
                );
                if let Some((200 | 201, _)) = http(
                    port,
                    "PUT",
                    &format!("/api/handles/{handle}"),
                    &token,
                    &body,
                ) {
                    made.push(handle);
                    count.fetch_add(1, Relaxed);
                } else {
                    std::thread::sleep(LOOK);
                }
            }
            made
        });
        Self {
            stop,
            acknowledged,
            thread,
        }
    }

    /// Waits until so many more are acknowledged.
    #[track_caller]
    pub(crate) fn wait_more(&self, more: u64) {
        let from = self.acknowledged.load(Relaxed);
        until("changes are acknowledged", || {
            self.acknowledged.load(Relaxed) >= from + more
        });
    }

    /// Ends it; the handles that were acknowledged.
    pub(crate) fn end(self) -> Vec<String> {
        self.stop.store(true, Relaxed);
        self.thread.join().expect("a thread that ends")
    }
}

/// A way between two nodes that can be cut: everything that runs over it breaks at whatever octet it is.
pub(crate) struct Wire {
    pub(crate) port: u16,
    open: Arc<AtomicBool>,
    cuts: Arc<AtomicU64>,
}

impl Wire {
    pub(crate) fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (open, cuts) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let (is_open, count) = (Arc::clone(&open), Arc::clone(&cuts));
        std::thread::spawn(move || {
            for from in listener.incoming().flatten() {
                let Some(to) = is_open
                    .load(Relaxed)
                    .then(|| TcpStream::connect(("127.0.0.1", target)).ok())
                    .flatten()
                else {
                    continue;
                };
                for (mut read, mut write) in [
                    (
                        from.try_clone().expect("a socket"),
                        to.try_clone().expect("a socket"),
                    ),
                    (to, from),
                ] {
                    let (open, cuts) = (Arc::clone(&is_open), Arc::clone(&count));
                    let cut = cuts.load(Relaxed);
                    read.set_read_timeout(Some(LOOK)).expect("a socket");
                    std::thread::spawn(move || {
                        let mut octets = [0; 4096];
                        while open.load(Relaxed) && cuts.load(Relaxed) == cut {
                            match read.read(&mut octets) {
                                Ok(1..) if !open.load(Relaxed) => break,
                                Ok(0) => break,
                                Ok(count) if write.write_all(&octets[..count]).is_ok() => {}
                                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                                _ => break,
                            }
                        }
                        let _ = read.shutdown(Shutdown::Both);
                        let _ = write.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Self { port, open, cuts }
    }

    /// Breaks what is open; new connections pass.
    pub(crate) fn cut(&self) {
        self.cuts.fetch_add(1, Relaxed);
    }

    /// Lets nothing pass, or all again.
    pub(crate) fn set_open(&self, open: bool) {
        self.open.store(open, Relaxed);
    }
}
