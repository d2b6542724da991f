//! Goal: the log tells an operator what runs, what is slow and what is refused, by ids that stay, and no client can fill
//! it. Method: the real binary with its stderr in a file, text, JSON, and as in the journal of systemd; and the source,
//! compared with the list of events.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpStream, UdpSocket},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value as Json;
use tempfile::TempDir;

use crate::{
    change::init,
    node::{PATIENCE, ready},
    ports::free_port,
    support::{Run, directory, jiexi, run},
};

/// A zone, without which no DNS is served.
const ZONE: &str = r#"[[dns.zones]]
name = "id.example.net"
mapping = "handle"
nameservers = ["ns1.example.net"]
mail = "hostmaster.example.net"
"#;

/// A node whose log is in a file.
struct Node {
    directory: TempDir,
    child: Option<Child>,
    handle: u16,
    http: u16,
    dns: u16,
    operations: u16,
}

impl Node {
    /// A node that does not run yet.
    fn new() -> Self {
        let (directory, handle) = (directory(), free_port());
        init(directory.path(), "a", "88.118", handle);
        let path = directory.path().join("a/jiexi.toml");
        let text = fs::read_to_string(&path).expect("reads");
        let (before, after) = text.split_once("\n[log]\n").expect("the template has it");
        fs::write(&path, format!("{before}\n{ZONE}\n[log]\n{after}")).expect("writes");
        Self {
            directory,
            child: None,
            handle,
            http: free_port(),
            dns: free_port(),
            operations: free_port(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, log: &File) -> Command {
        let mut command = jiexi(self.directory.path());
        command
            .args(["serve", "--config", "a/jiexi.toml"])
            .env("JIEXI_HANDLE_LISTEN", "127.0.0.1")
            .env("JIEXI_HANDLE_DRAIN", "1s")
            .env("JIEXI_HTTP_LISTEN", "127.0.0.1")
            .env("JIEXI_HTTP_PORT", self.http.to_string())
            .env("JIEXI_HTTP_PLAIN_LOOPBACK", "true")
            .env("JIEXI_DNS_ENABLED", "true")
            .env("JIEXI_DNS_LISTEN", "127.0.0.1")
            .env("JIEXI_DNS_PORT", self.dns.to_string())
            .env(
                "JIEXI_OPERATIONS_LISTEN",
                format!("127.0.0.1:{}", self.operations),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.try_clone().expect("another"));
        command
    }

    /// Starts it with these variables besides.
    fn start(&mut self, variables: &[(&str, &str)]) {
        let log = File::create(self.path("log")).expect("a file");
        let mut command = self.command(&log);
        command.envs(variables.iter().copied());
        let child = self.child.insert(command.spawn().expect("starts"));
        wait("the node is ready", || {
            let ended = child.try_wait().expect("asks");
            assert!(ended.is_none(), "{ended:?}");
            ready(self.operations).then_some(())
        });
    }

    /// Starts it with a log in JSON, with the settings of `[log]` in the file.
    fn start_json(&mut self, settings: &str) {
        self.set(settings);
        self.start(&[]);
    }

    /// Writes the settings of `[log]`.
    fn set(&self, settings: &str) {
        let path = self.path("a/jiexi.toml");
        let text = fs::read_to_string(&path).expect("reads");
        let rest = text.split("\n[log]\n").next().expect("the beginning");
        fs::write(
            &path,
            format!("{rest}\n[log]\nformat = \"json\"\n{settings}"),
        )
        .expect("writes");
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("runs");
        let pid = Pid::from_raw(child.id().try_into().expect("a process id"));
        kill(pid, signal).expect("signalled");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).expect("reads")
    }

    /// The lines of the log in JSON that have this id; the last one may be under way.
    fn events(&self, id: &str) -> Vec<Json> {
        let log = self.log();
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines().map(|line| {
            serde_json::from_str::<Json>(line).unwrap_or_else(|error| panic!("{error}: {line}"))
        });
        lines.filter(|event| event["event"] == id).collect()
    }

    /// Does something over and over until an event is in the log that is wanted.
    fn until(
        &self,
        id: &str,
        wanted: impl Fn(&Json) -> bool,
        mut again: impl FnMut(&Self),
    ) -> Json {
        wait(id, || {
            again(self);
            self.events(id).into_iter().find(|event| wanted(event))
        })
    }

    /// One request over plain HTTP; the status.
    fn http(&self, request: &str) -> u16 {
        let request = format!("{request}\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = ask(self.http, request.as_bytes());
        let status = answer.get(9..12).unwrap_or_default();
        String::from_utf8_lossy(status).parse().unwrap_or(0)
    }

    fn run(&self, line: &str) -> Run {
        let words: Vec<&str> = line.split_whitespace().collect();
        run(self.directory.path(), &words)
    }

    fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let ended = self.child.take().expect("runs").wait().expect("ends");
        assert!(ended.success(), "{ended}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Looks until there is something.
#[track_caller]
fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends octets over a connection of its own, and reads what comes until it is closed.
fn ask(port: u16, octets: &[u8]) -> Vec<u8> {
    exchange(port, octets, false)
}

/// As [`ask`], and sends nothing more after that.
fn say(port: u16, octets: &[u8]) -> Vec<u8> {
    exchange(port, octets, true)
}

fn exchange(port: u16, octets: &[u8], ends: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("sets");
    let mut answer = Vec::new();
    // The other end may close before it has read everything.
    if stream.write_all(octets).is_ok() {
        if ends {
            let _ = stream.shutdown(Shutdown::Write);
        }
        let _ = stream.read_to_end(&mut answer);
    }
    answer
}

/// The envelope of a message that is longer than any may be.
fn hostile() -> Vec<u8> {
    let mut envelope = vec![2, 11, 2, 11, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0];
    envelope.extend(u32::MAX.to_be_bytes());
    envelope
}

/// A request for all values of a handle.
fn question(handle: &str) -> Vec<u8> {
    let mut body = u32::try_from(handle.len())
        .expect("short")
        .to_be_bytes()
        .to_vec();
    body.extend(handle.as_bytes());
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

#[test]
fn the_first_line_says_what_runs() {
    let mut node = Node::new();
    node.start_json("level = \"info\"\n");
    // The node may be asked a moment before it says so.
    let started = node.until("node.started", |_| true, |_| ());
    assert_eq!(node.events("node.started").len(), 1);
    let pid = node.child.as_ref().expect("runs").id();
    let at = |port: u16| Json::from(format!("127.0.0.1:{port}"));
    assert_eq!(started["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(started["configuration"], "a/jiexi.toml");
    assert_eq!(started["pid"], pid);
    assert_eq!(started["level"], "INFO");
    assert_eq!(started["handle"], at(node.handle));
    assert_eq!(started["http"], at(node.http));
    assert_eq!(started["dns"], at(node.dns));
    assert_eq!(started["operations"], at(node.operations));
    node.stop();
    assert_eq!(node.events("node.stopping")[0]["signal"], "SIGTERM");
    for line in node.log().lines() {
        let event: Json = serde_json::from_str(line).expect("JSON");
        assert!(event["event"].is_string(), "{line}");
    }
}

#[test]
fn what_is_refused_is_sampled_with_how_many_were_left_out() {
    let mut node = Node::new();
    node.start_json("refusals = 2\n");
    let begun = Instant::now();
    let of = |protocol: &'static str, reason: &'static str| {
        move |event: &Json| event["protocol"] == protocol && event["reason"] == reason
    };
    let many = |event: &Json| event["left_out"].as_u64() > Some(0);
    let no_proof = |node: &Node| assert_eq!(node.http("PUT /api/handles/88.118/x HTTP/1.1"), 401);
    let first = node.until("request.refused", of("http", "no_proof"), no_proof);
    assert_eq!(first["client"], "127.0.0.1");
    assert_eq!(first["network"], "127.0.0.0/24");
    assert_eq!(first["transport"], "tcp");
    let left_out = |event: &Json| of("http", "no_proof")(event) && many(event);
    node.until("request.refused", left_out, no_proof);
    // A foreign page that was led to the operations listener; as often as it likes.
    let foreign = |node: &Node| {
        let request = "GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
        let answer = ask(node.operations, request.as_bytes());
        assert!(answer.starts_with(b"HTTP/1.1 421"), "{answer:?}");
    };
    let refused = node.until("request.refused", of("operations", "denied"), foreign);
    assert_eq!(refused["client"], "127.0.0.1");
    assert_eq!(refused["transport"], "tcp");
    let left_out = |event: &Json| of("operations", "denied")(event) && many(event);
    node.until("request.refused", left_out, foreign);
    // Octets that are nothing of a protocol.
    let rubbish = |node: &Node| drop(say(node.handle, &hostile()));
    let left_out = |event: &Json| of("handle", "hostile")(event) && many(event);
    node.until("request.refused", left_out, rubbish);
    let rubbish = |node: &Node| drop(say(node.http, b"\x00\x01rubbish\r\n\r\n"));
    node.until("request.refused", of("http", "hostile"), rubbish);
    let rubbish = |node: &Node| drop(say(node.http, b"\x16\x03\x01\x00\x05rubbish"));
    node.until("request.refused", of("http", "handshake"), rubbish);
    // Proofs with another secret.
    fs::write(node.path("wrong.txt"), "not the secret").expect("writes");
    let change = format!(
        "handle create 88.118/x --server 127.0.0.1:{} --identity 300:0.NA/88.118 --secret-file wrong.txt",
        node.handle
    );
    let proof = |node: &Node| drop(node.run(&change).expect(1));
    let refused = node.until("request.refused", of("handle", "proof"), proof);
    assert_eq!(refused["level"], "INFO");
    let proof = |node: &Node| {
        let wrong = "PUT /api/handles/88.118/x HTTP/1.1\r\nAuthorization: Basic MzAwJTNBMC5OQS84OC4xMTg6eA==";
        assert_eq!(node.http(wrong), 403);
    };
    node.until("request.refused", of("http", "proof"), proof);
    // Each reason at most so often a second.
    let mut counts = BTreeMap::<String, u64>::new();
    let all = node.events("request.refused");
    for event in &all {
        *counts.entry(event["reason"].to_string()).or_default() += 1;
    }
    let most = 2 * (begun.elapsed().as_secs() + 2);
    for (reason, count) in counts {
        assert!(count <= most, "{reason}: {count} of {most}\n{all:?}");
    }
}

/// Goal: a client that takes its time fills the log no faster. Method: requests whose bodies never come are refused when the
/// node has waited for them, while others are refused at once.
#[test]
fn refusals_that_come_late_are_sampled_with_those_of_now() {
    let mut node = Node::new();
    node.start_json("refusals = 1\n");
    let begun = Instant::now();
    let head = "PUT /api/handles/88.118/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let late: Vec<TcpStream> = (0..60)
        .map(|_| {
            let mut stream =
                TcpStream::connect((Ipv4Addr::LOCALHOST, node.http)).expect("connects");
            write!(stream, "{head}Content-Length: 5\r\n\r\n").expect("writes");
            std::thread::sleep(Duration::from_millis(5));
            stream
        })
        .collect();
    let refused = 2 * late.len();
    for mut stream in late {
        stream.set_read_timeout(Some(PATIENCE)).expect("sets");
        // One that is refused now, before each of them.
        assert_eq!(node.http("PUT /api/handles/88.118/x HTTP/1.1"), 401);
        let mut status = [0; 12];
        stream.read_exact(&mut status).expect("an answer");
        assert_eq!(&status, b"HTTP/1.1 401");
    }
    assert!(
        begun.elapsed() > Duration::from_secs(2),
        "bodies are waited for"
    );
    let all = node.events("request.refused");
    let most = usize::try_from(begun.elapsed().as_secs()).expect("few") + 2;
    assert!(
        all.len() <= most,
        "{} of {refused}, not {most}\n{all:?}",
        all.len()
    );
}

#[test]
fn refusals_are_not_written_down_when_that_is_off() {
    let mut node = Node::new();
    node.start_json("refusals = 0\n");
    for _ in 0..20 {
        assert_eq!(node.http("PUT /api/handles/88.118/x HTTP/1.1"), 401);
        say(node.handle, &hostile());
    }
    // The log can be switched on while the node runs.
    assert!(node.events("request.refused").is_empty(), "{}", node.log());
    node.set("refusals = 1\n");
    node.signal(Signal::SIGHUP);
    node.until(
        "request.refused",
        |_| true,
        |node| {
            assert_eq!(node.http("PUT /api/handles/88.118/x HTTP/1.1"), 401);
        },
    );
}

#[test]
fn slow_requests_are_written_down_and_waits_are_not() {
    let mut node = Node::new();
    node.start_json("slow = \"1s\"\n");
    let create = "token create --identity 300:0.NA/88.118 --right changes --token-file token";
    node.run(&format!("{create} --data a")).expect(0);
    let token = fs::read_to_string(node.path("token")).expect("a token");
    let token = token.trim();
    let poll = |after: &str| {
        let request = format!(
            "GET /api/v1/changes?wait=2{after} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        );
        String::from_utf8(ask(node.http, request.as_bytes())).expect("text")
    };
    let answer = poll("");
    let cursor = answer
        .split_once("\"cursor\":\"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .unwrap_or_else(|| panic!("{answer}"))
        .0;
    let begun = Instant::now();
    let answer = poll(&format!("&after={cursor}"));
    assert!(begun.elapsed() >= Duration::from_secs(2), "{answer}");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // A client that takes its time to send, too.
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, node.http)).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("sets");
    let head = format!(
        "PUT /api/handles/88.118/late HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Authorization: Basic {}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{",
        "MzAwOng6eA=="
    );
    stream.write_all(head.as_bytes()).expect("writes");
    std::thread::sleep(Duration::from_millis(1_500));
    let _ = stream.write_all(b"}");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(
        answer.starts_with(b"HTTP/1.1 4"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert!(node.events("request.slow").is_empty(), "{}", node.log());

    // From now on everything is.
    node.set("slow = \"1ns\"\n");
    node.signal(Signal::SIGHUP);
    let of = |protocol: &'static str, transport: &'static str| {
        move |event: &Json| event["protocol"] == protocol && event["transport"] == transport
    };
    let got = node.until("request.slow", of("http", "tcp"), |node| {
        assert_eq!(node.http("GET /api/handles/88.118/nothing HTTP/1.1"), 404);
    });
    assert_eq!(got["operation"], "resolve");
    assert_eq!(got["outcome"], "not_found");
    assert_eq!(got["about"], "/api/handles/88.118/nothing");
    assert_eq!(got["network"], "127.0.0.0/24");
    assert!(
        got["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0),
        "{got}"
    );
    // A change goes by way of the desk, which knows the handle.
    let change = format!(
        "handle put 88.118/slow --value 1:URL=https://example.cn --server 127.0.0.1:{} \
         --identity 300:0.NA/88.118 --key a/admin.key",
        node.handle
    );
    // The connection that handed it over took long, too.
    let created = |event: &Json| {
        of("handle", "tcp")(event)
            && event["about"] == "88.118/slow"
            && event["outcome"].is_string()
    };
    let got = node.until("request.slow", created, |node| {
        drop(node.run(&change).expect(0))
    });
    assert!(
        got["operation"].is_string() && got["outcome"].is_string(),
        "{got}"
    );
    // What is answered at once is named as well, over every transport.
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let handle = (Ipv4Addr::LOCALHOST, node.handle);
    let single = |event: &Json| of("handle", "udp")(event) && event["operation"] == "resolve";
    let got = node.until("request.slow", single, |_| {
        udp.send_to(&question("88.118/泵.1"), handle)
            .expect("sends");
    });
    assert_eq!(got["about"], "88.118/泵.1", "{got}");
    let about = |about: &'static str| move |event: &Json| event["about"] == about;
    let got = node.until("request.slow", about("88.118/one"), |_| {
        say(node.handle, &question("88.118/one"));
    });
    assert_eq!(got["transport"], "tcp", "{got}");
    assert_eq!(got["operation"], "resolve", "{got}");
    let got = node.until("request.slow", about("88.118/first"), |_| {
        let both = [question("88.118/first"), question("88.118/second")].concat();
        say(node.handle, &both);
    });
    assert_eq!(got["operation"], "batch", "{got}");
    assert_eq!(got["requests"], 2, "{got}");
    // Of what is no request there is nothing to show.
    let other = |event: &Json| of("handle", "udp")(event) && event["operation"] == "other";
    let got = node.until("request.slow", other, |_| {
        udp.send_to(&hostile(), handle).expect("sends");
    });
    assert!(got["about"].is_null(), "{got}");
    let got = node.until("request.slow", of("dns", "udp"), |node| {
        let question = b"\0\x07\0\0\0\x01\0\0\0\0\0\0\x02id\x07example\x03net\0\0\x06\0\x01";
        udp.send_to(question, (Ipv4Addr::LOCALHOST, node.dns))
            .expect("sends");
    });
    assert_eq!(got["about"], "id.example.net", "{got}");
    // However many there are.
    let left_out = |event: &Json| event["left_out"].as_u64() > Some(0);
    node.until("request.slow", left_out, |node| {
        (0..20)
            .for_each(|_| assert_eq!(node.http("GET /api/handles/88.118/nothing HTTP/1.1"), 404));
    });
}

#[test]
fn commands_are_told_in_words() {
    let mut node = Node::new();
    node.start_json("level = \"info\"\n");
    node.run("handle create 88.118/x --value 1:URL=https://example.cn/s3cret --data a")
        .expect(0);
    node.run("store stats --data a").expect(0);
    let commands = node.events("control.command");
    let told: Vec<_> = commands
        .iter()
        .map(|event| {
            (
                event["command"].as_str().unwrap_or("none"),
                event["about"].as_str(),
            )
        })
        .collect();
    assert!(
        told.contains(&("change", Some("create 88.118/x"))),
        "{told:?}"
    );
    assert!(told.contains(&("store stats", None)), "{told:?}");
    let states = node.events("store.state");
    assert!(
        states.iter().any(|event| event["to"] == "ready"),
        "{states:?}"
    );
    assert!(!node.log().contains("s3cret"));
}

/// Each line begins with its priority, and has neither a time nor colours.
#[test]
fn lines_in_the_journal_have_priorities() {
    let mut node = Node::new();
    let key = node.path("a/node.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("sets");
    File::create(node.path("log")).expect("a file");
    let stream = |path: &Path| {
        let file = fs::metadata(path).expect("is there");
        format!("{}:{}", file.dev(), file.ino())
    };
    let journal = stream(&node.path("log"));
    for format in ["text", "json"] {
        node.start(&[("JOURNAL_STREAM", &journal), ("JIEXI_LOG_FORMAT", format)]);
        node.stop();
        let log = node.log();
        let (mut information, mut warnings) = (0, 0);
        for line in log.lines() {
            let known = line.get(..3).map(|priority| match priority {
                "<6>" => information += 1,
                "<4>" => warnings += 1,
                _ => panic!("{line}"),
            });
            assert!(known.is_some() && !line.contains('\u{1b}'), "{line}");
            let json = line[3..].starts_with('{');
            assert_eq!(json, format == "json", "{line}");
            // The year of a time.
            assert!(json || !line[3..].trim_start().starts_with("20"), "{line}");
        }
        assert!(information > 1 && warnings > 0, "{log}");
        assert!(
            log.contains("key.exposed") && log.contains("node.started"),
            "{log}"
        );
    }
    // Another file than the journal: as ever.
    let other = stream(&node.path("a/jiexi.toml"));
    node.start(&[("JOURNAL_STREAM", &other)]);
    node.stop();
    assert!(
        node.log().lines().all(|line| line.starts_with("20")),
        "{}",
        node.log()
    );
    // What keeps a node from starting is an error, in each of its lines.
    fs::write(
        node.path("a/jiexi.toml"),
        "version = 1\n[handle]\nprot = 1\nport = \"x\"\n",
    )
    .expect("writes");
    let log = File::create(node.path("log")).expect("a file");
    let mut command = node.command(&log);
    let ended = command
        .env("JOURNAL_STREAM", &journal)
        .status()
        .expect("ends");
    assert_eq!(ended.code(), Some(1));
    let said = node.log();
    assert!(said.lines().count() >= 2, "{said}");
    assert!(
        said.lines().all(|line| line.starts_with("<3>jiexi: ")),
        "{said}"
    );
}

/// Goal: the journal has whatever ends a node among its errors, also before there is a log: a command line that cannot be
/// read, and a panic. Method: a stack so large that no thread can be started, for which the runtime panics.
#[test]
fn what_ends_a_node_is_an_error_in_the_journal() {
    let node = Node::new();
    for (arguments, variable, code, words) in [
        (&["--nonsense"][..], None, 2, "--nonsense"),
        (&[], Some("4611686018427387904"), 101, "panicked at"),
    ] {
        for journal in [true, false] {
            let log = File::create(node.path("log")).expect("a file");
            let file = fs::metadata(node.path("log")).expect("is there");
            let stream = format!("{}:{}", file.dev(), file.ino());
            let mut command = node.command(&log);
            command.args(arguments);
            if let Some(stack) = variable {
                command.env("RUST_MIN_STACK", stack);
            }
            if journal {
                command.env("JOURNAL_STREAM", stream);
            }
            assert_eq!(command.status().expect("ends").code(), Some(code));
            let said = node.log();
            assert!(said.contains(words), "{said}");
            // Of a panic without the journal the standard library tells as ever.
            let all = said.lines().all(|line| line.starts_with("<3>"));
            assert!(all == journal && said.contains("<3>") == journal, "{said}");
        }
    }
}

/// A call that writes an event from `info` upwards.
#[derive(Debug)]
struct Call {
    place: String,
    level: String,
    id: Option<String>,
    message: String,
}

/// The calls in a text, each with its level and arguments.
fn calls(text: &str) -> Vec<(usize, String, String)> {
    let mut found = Vec::new();
    for level in ["error", "warn", "info"] {
        let call = format!("{level}!(");
        for (place, _) in text.match_indices(&call) {
            let before = &text[..place];
            let line = before.rsplit('\n').next().unwrap_or_default();
            let part_of_a_name = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
            if line.contains("//") || part_of_a_name {
                continue;
            }
            let rest = &text[place + call.len()..];
            let (mut depth, mut quoted, mut escaped) = (1, false, false);
            let end = rest.find(|c| {
                match (quoted, c) {
                    (true, _) if escaped => escaped = false,
                    (true, '\\') => escaped = true,
                    (_, '"') => quoted = !quoted,
                    (false, '(') => depth += 1,
                    (false, ')') => depth -= 1,
                    _ => {}
                }
                depth == 0
            });
            let number = before.matches('\n').count() + 1;
            found.push((
                number,
                level.to_owned(),
                rest[..end.expect("it ends")].to_owned(),
            ));
        }
    }
    found
}

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("reads");
        entries.for_each(|entry| sources(&entry.expect("an entry").path(), found));
    } else if path.extension().is_some_and(|kind| kind == "rs") {
        found.push(path.to_owned());
    }
}

fn program() -> Vec<Call> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut files, mut found) = (Vec::new(), Vec::new());
    sources(&root.join("src"), &mut files);
    for file in files {
        let text = fs::read_to_string(&file).expect("reads");
        for (number, level, arguments) in calls(&text) {
            let id = arguments.trim_start().strip_prefix("event = \"");
            let id = id
                .and_then(|rest| rest.split_once('"'))
                .map(|(id, _)| id.to_owned());
            // The text stands last; what is put into it may follow.
            let texts: Vec<_> = arguments.split('"').collect();
            let message = texts.iter().rev().nth(1).copied().unwrap_or_default();
            found.push(Call {
                place: format!("{}:{number}", file.display()),
                level,
                id,
                message: message.split_whitespace().collect::<Vec<_>>().join(" "),
            });
        }
    }
    found
}

#[test]
fn every_event_has_an_id_that_is_documented() {
    let list = include_str!("../../docker/events.md");
    let rows: BTreeMap<&str, (&str, usize)> = list
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|row| {
            let cells: Vec<_> = row.split(" | ").collect();
            let filled = cells
                .iter()
                .filter(|cell| !cell.trim_matches([' ', '|']).is_empty());
            (cells[0].trim_end_matches('`'), (cells[1], filled.count()))
        })
        .collect();
    let calls = program();
    assert!(calls.len() > 100, "{}", calls.len());
    let mut said = BTreeMap::<String, (String, String)>::new();
    let mut problems = Vec::new();
    for call in calls {
        let Some(id) = call.id else {
            problems.push(format!("{}: no `event = \"area.name\"` first", call.place));
            continue;
        };
        let parts: Vec<_> = id.split('.').collect();
        let plain = |part: &&str| part.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        if parts.len() != 2 || !parts.iter().all(plain) {
            problems.push(format!("{}: {id} is not area.name", call.place));
        }
        let this = (call.level.clone(), call.message.clone());
        let first = said.entry(id.clone()).or_insert_with(|| this.clone());
        if *first != this {
            problems.push(format!(
                "{}: {id} is another event: {first:?}, {this:?}",
                call.place
            ));
        }
        match rows.get(id.as_str()) {
            Some((level, 4)) if *level == call.level => {}
            row => problems.push(format!(
                "{}: docker/events.md has no whole row for {id}, {}: {row:?}",
                call.place, call.level
            )),
        }
    }
    for id in rows.keys().filter(|id| !said.contains_key(**id)) {
        problems.push(format!("docker/events.md: nobody says {id}"));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
