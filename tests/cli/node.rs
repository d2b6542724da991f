//! Goal: a running node does through its control socket what a stopped one does directly, answers `resolve`, and only
//! obeys its own user.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixStream, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    bulk,
    ports::free_port,
    support::{directory, jiexi, node, run, run_with, vectors, without_variables},
};

/// How long a node may take to start or stop.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running node; it is stopped when it is dropped.
pub(crate) struct Running {
    child: Child,
    port: u16,
    operations: u16,
}

impl Running {
    /// Starts the node in `data` on free ports of the loopback address.
    pub(crate) fn start(directory: &Path, data: &str) -> Self {
        Self::start_with(
            directory,
            &["serve", "--config", &format!("{data}/jiexi.toml")],
            free_port(),
        )
    }

    /// Starts a node with these arguments.
    pub(crate) fn start_with(directory: &Path, arguments: &[&str], port: u16) -> Self {
        Self::start_on(directory, arguments, port, 0)
    }

    /// Starts the node in `data`, which tells this file what it does.
    pub(crate) fn start_logging(directory: &Path, data: &str, log: &Path) -> Self {
        let configuration = format!("{data}/jiexi.toml");
        let arguments = ["serve", "--config", &configuration];
        let (port, operations) = (free_port(), free_port());
        let mut command = Self::command(directory, &arguments, port, 0, operations);
        command
            .env("JIEXI_LOG_LEVEL", "warn,jiexi=info")
            .stderr(fs::File::create(log).expect("a log"));
        Self::spawn(command, port, operations)
    }

    /// Starts a node with these arguments, and HTTP on this port.
    fn start_on(directory: &Path, arguments: &[&str], port: u16, http: u16) -> Self {
        let operations = free_port();
        let command = Self::command(directory, arguments, port, http, operations);
        Self::spawn(command, port, operations)
    }

    /// How a node is started.
    fn command(
        directory: &Path,
        arguments: &[&str],
        port: u16,
        http: u16,
        operations: u16,
    ) -> Command {
        let mut command = jiexi(directory);
        command
            .args(arguments)
            .env("JIEXI_HANDLE_LISTEN", "127.0.0.1")
            .env("JIEXI_HANDLE_PORT", port.to_string())
            .env("JIEXI_HANDLE_DRAIN", "1s")
            .env("JIEXI_HTTP_PORT", http.to_string())
            .env("JIEXI_LOG_LEVEL", "error")
            .env("JIEXI_OPERATIONS_LISTEN", format!("127.0.0.1:{operations}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command
    }

    /// Starts it, and waits until it is ready.
    fn spawn(mut command: Command, port: u16, operations: u16) -> Self {
        let mut child = command.spawn().expect("starts");
        let started = Instant::now();
        while !ready(operations) {
            assert!(started.elapsed() < PATIENCE, "the node is not ready");
            assert!(child.try_wait().expect("asks").is_none(), "the node ended");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self {
            child,
            port,
            operations,
        }
    }

    /// The option that names this node to `resolve`.
    pub(crate) fn server(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn stop(mut self) -> i32 {
        self.terminate()
    }

    fn terminate(&mut self) -> i32 {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().expect("a process id"));
        // It may have ended by itself; the wait tells.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        self.child.wait().expect("ends").code().unwrap_or(-1)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.terminate();
        }
    }
}

/// One HTTP request.
fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Whether the node says that it is ready.
pub(crate) fn ready(port: u16) -> bool {
    get(port, "/ready").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// A node that runs, and its directory.
fn running() -> (TempDir, Running) {
    let directory = directory();
    node(directory.path(), "a");
    let running = Running::start(directory.path(), "a");
    (directory, running)
}

#[test]
fn bulk_commands_work_on_a_running_node() {
    let (directory, running) = running();
    node(directory.path(), "b");
    // The second one is stopped: both ways in one round trip.
    bulk::round_trip(directory.path(), "a", "b");
    bulk::secrets(directory.path(), "a");
    bulk::bad_lines(directory.path(), "a");
    bulk::many_lines(directory.path(), "a");
    assert_eq!(running.stop(), 0);
    let socket = directory.path().join("a/control.sock");
    assert!(!socket.exists(), "the socket goes with the node");
    assert!(
        bulk::export(directory.path(), "a", &[]).len() > 2_500,
        "and the data stay"
    );
}

#[test]
fn store_commands_work_on_a_running_node() {
    let (directory, _running) = running();
    bulk::store_commands(directory.path(), "a");
}

#[test]
fn the_control_socket_is_private_and_bounded() {
    let (directory, _running) = running();
    let path = directory.path().join("a/control.sock");
    let mode = fs::metadata(&path).expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for bad in [
        &[0xff, 0xff, 0xff, 0xff, 1][..],
        &[0, 0, 0, 2, 9, b'{', b'}'],
        &[0, 0, 0, 2, 1, b'{', b'}'],
        &[0, 0, 0, 0, 2],
    ] {
        let mut stream = UnixStream::connect(&path).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("sets");
        stream.write_all(bad).expect("writes");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the node closes");
        assert_eq!(
            answer.get(4),
            Some(&6),
            "a failure: {}",
            String::from_utf8_lossy(&answer)
        );
    }
    run(directory.path(), &["store", "stats", "--data", "a"]).expect(0);
}

#[test]
fn the_control_socket_obeys_its_own_user_alone() {
    if !nix::unistd::geteuid().is_root() {
        println!("not run: only root can be somebody else");
        return;
    }
    let (directory, _running) = running();
    // Even if file permissions let everybody in.
    let open = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("sets")
    };
    open(directory.path(), 0o755);
    open(&directory.path().join("a"), 0o755);
    open(&directory.path().join("a/jiexi.toml"), 0o644);
    open(&directory.path().join("a/control.sock"), 0o666);
    // The other user need not be able to reach the program where it was built.
    let program = directory.path().join("jiexi");
    fs::copy(env!("CARGO_BIN_EXE_jiexi"), &program).expect("copies");
    let output = Command::new(program)
        .current_dir(directory.path())
        .args(["store", "stats", "--data", "a"])
        .uid(65_534)
        .gid(65_534)
        .output()
        .expect("another user starts the program");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let owner =
        "the node runs as user 0 and obeys that user and root alone, and this is user 65534";
    assert!(
        stderr.starts_with("jiexi: control socket ") && stderr.contains(owner),
        "{stderr}"
    );
    assert!(output.stdout.is_empty());
}

/// Goal: a command does not wait for ever, and not without a word, for a node that hangs; one that is at work is let alone.
/// Method: a node that is stopped by a signal; and one that has as many commands at work as it may have, each of which waits
/// for its input.
#[test]
fn a_node_that_hangs_is_told_of_and_given_up() {
    let (directory, running) = running();
    let signal = |signal| {
        let pid = nix::unistd::Pid::from_raw(running.pid().try_into().expect("a process id"));
        nix::sys::signal::kill(pid, signal).expect("told");
    };
    let stats = ["store", "stats", "--data", "a"];
    signal(nix::sys::signal::Signal::SIGSTOP);
    let started = Instant::now();
    let child = jiexi(directory.path())
        .args(stats)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.expect("starts");
    let mut said = BufReader::new(child.stderr.take().expect("is piped"));
    let mut line = String::new();
    said.read_line(&mut line).expect("a line");
    let expected = "jiexi: waiting for the node at a/control.sock, which does not answer";
    assert!(line.starts_with(expected), "{line}");
    assert!(started.elapsed() < Duration::from_secs(15), "soon");
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("the rest");
    let expected =
        "jiexi: control socket: the node has answered nothing for 30 s: it hangs, or was stopped.";
    assert!(rest.starts_with(expected), "{rest}");
    assert_eq!(rest.lines().count(), 1, "it is told of once: {rest}");
    assert_eq!(child.wait().expect("ends").code(), Some(1));
    signal(nix::sys::signal::Signal::SIGCONT);

    let import = br#"{"protocol":1,"command":"import","keep_going":false}"#;
    let socket = directory.path().join("a/control.sock");
    let at_work: Vec<UnixStream> = (0..8)
        .map(|_| {
            let mut stream = UnixStream::connect(&socket).expect("connects");
            let head = u32::try_from(import.len()).expect("short").to_be_bytes();
            let frame = [&head[..], &[1], import].concat();
            stream.write_all(&frame).expect("writes");
            stream
        })
        .collect();
    let waiting = jiexi(directory.path())
        .args(stats)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut waiting = waiting.expect("starts");
    std::thread::sleep(Duration::from_secs(8));
    let ended = waiting.try_wait().expect("asks");
    assert!(ended.is_none(), "as many as may be are at work: {ended:?}");
    drop(at_work);
    let output = waiting.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn logs_are_json_when_asked_for() {
    let directory = directory();
    node(directory.path(), "a");
    let mut command = jiexi(directory.path());
    command
        .args(["serve", "--data", "a"])
        .env("JIEXI_HANDLE_LISTEN", "127.0.0.1")
        .env("JIEXI_HANDLE_PORT", free_port().to_string())
        .env(
            "JIEXI_OPERATIONS_LISTEN",
            format!("127.0.0.1:{}", free_port()),
        )
        .env("JIEXI_HTTP_PORT", "0")
        .env("JIEXI_LOG_FORMAT", "json")
        .env("JIEXI_LOG_LEVEL", "warn,jiexi=info")
        .stderr(Stdio::piped());
    let mut running = Running {
        child: command.spawn().expect("starts"),
        port: 0,
        operations: 0,
    };
    let mut stderr = BufReader::new(running.child.stderr.take().expect("is piped"));
    let (mut line, started) = (String::new(), Instant::now());
    // The node says something about itself when it starts; the first command through the socket at the latest.
    while line.is_empty() && started.elapsed() < PATIENCE {
        if directory.path().join("a/control.sock").exists() {
            run(directory.path(), &["store", "stats", "--data", "a"]).expect(0);
            stderr.read_line(&mut line).expect("reads");
        }
    }
    let event: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    for field in ["timestamp", "level", "target", "message"] {
        assert!(event[field].is_string(), "{field}: {event}");
    }
    assert_eq!(running.terminate(), 0);
}

#[test]
fn a_node_with_another_key_than_its_site_record_does_not_start() {
    let directory = directory();
    node(directory.path(), "a");
    node(directory.path(), "b");
    fs::copy(
        directory.path().join("b/node.key"),
        directory.path().join("a/node.key"),
    )
    .expect("copies");
    let refused = run(directory.path(), &["serve", "--data", "a"]).expect(1);
    assert!(
        refused.stderr.contains("site.json") && refused.stderr.contains("public key"),
        "{}",
        refused.stderr
    );
}

#[test]
fn resolve_tells_found_from_not_found() {
    let (directory, running) = running();
    let fixture = vectors().join("fixture.ndjson");
    run(
        directory.path(),
        &["import", fixture.to_str().expect("UTF-8"), "--data", "a"],
    )
    .expect(0);
    run_with(
        directory.path(),
        &["import", "-", "--data", "a"],
        b"{\"prefix\":\"88.118.8\"}",
    )
    .expect(0);
    let server = running.server();
    let resolve = |arguments: &[&str]| {
        run(
            directory.path(),
            &[&["resolve", "--server", &server], arguments].concat(),
        )
    };

    for transport in [&[][..], &["--udp"], &["--tcp"], &["--digest"]] {
        let found = resolve(&[&["88.118.8/test1"][..], transport].concat())
            .expect(0)
            .stdout;
        assert!(
            found.starts_with("INDEX") && found.contains("https://example.cn/item/1"),
            "{found}"
        );
    }
    let json = resolve(&["88.118.8/test1", "-o", "json", "--type", "URL."])
        .expect(0)
        .json();
    assert_eq!(
        (&json["responseCode"], &json["handle"]),
        (&1.into(), &"88.118.8/test1".into())
    );
    let types: Vec<_> = json["values"]
        .as_array()
        .expect("values")
        .iter()
        .map(|value| value["type"].clone())
        .collect();
    assert_eq!(types, ["URL", "URL.MIRROR"]);
    let one = resolve(&["88.118.8/test1", "-o", "json", "--index", "2"])
        .expect(0)
        .json();
    assert_eq!(one["values"][0]["type"], "EMAIL");
    // An answer of one datagram, of several, and one that only a connection can carry in time.
    for (handle, octets) in [
        ("88.118.8/工业标识", 0),
        ("88.118.8/big", 3_000),
        ("88.118.8/huge", 200_000),
    ] {
        let found = resolve(&[handle, "-o", "json"]).expect(0).stdout;
        assert!(found.len() > octets, "{handle}");
    }

    let missing = resolve(&["88.118.8/missing"]).expect(3);
    assert_eq!(
        missing.stderr,
        "jiexi: 88.118.8/missing: no such handle (code 100)\n"
    );
    assert_eq!(
        resolve(&["88.118.8/missing", "-o", "json"])
            .expect(3)
            .json()["responseCode"],
        100
    );
    resolve(&["88.118.8/test1", "--type", "NOTHING"]).expect(3);
    let elsewhere = resolve(&["10.9999/1"]).expect(1);
    assert!(
        elsewhere
            .stderr
            .contains("server not responsible (code 301)"),
        "{}",
        elsewhere.stderr
    );
}

/// A prefix that is homed and has no record of its own is answered with the node's site, by its bare name, too: that is
/// how Chinese clients find the node.
#[test]
fn a_homed_prefix_has_the_site_of_its_node() {
    let (directory, running) = running();
    let line = b"{\"prefix\":\"88.118.21\"}";
    run_with(directory.path(), &["import", "-", "--data", "a"], line).expect(0);
    let server = running.server();
    let site = |handle: &str, kind: &str, code: i32| {
        let arguments = ["resolve", handle, "--type", kind, "-o", "json"];
        run(
            directory.path(),
            &[&arguments[..], &["--server", &server]].concat(),
        )
        .expect(code)
        .json()
    };
    for handle in ["88.118.21", "0.NA/88.118.21", "0.na/88.118.21"] {
        let found = site(handle, "HS_SITE", 0);
        assert_eq!(found["handle"], handle);
        let site = &found["values"][0]["data"]["value"];
        let own = fs::read(directory.path().join("a/site.json")).expect("site.json");
        let own: serde_json::Value = serde_json::from_slice(&own).expect("JSON");
        assert_eq!(site["servers"], own["servers"]);
        assert_eq!(site["servers"][0]["interfaces"][0]["protocol"], "TCP");
    }
    assert_eq!(site("88.118.21", "URL", 3)["responseCode"], 200);
    assert_eq!(
        site("88.118.22", "HS_SITE", 3)["responseCode"],
        100,
        "not homed"
    );
}

#[test]
fn resolve_follows_a_prefix_to_another_node() {
    let directory = directory();
    let port = free_port();
    let arguments = [
        "init",
        "--prefix",
        "88.118.9",
        "--address",
        "127.0.0.1",
        "--port",
        &port.to_string(),
        "--data",
        "enterprise",
    ];
    run(directory.path(), &arguments).expect(0);
    let line = br#"{"handle":"88.118.9/x","values":[{"index":1,"type":"URL","data":"https://example.cn/x"}]}"#;
    run_with(
        directory.path(),
        &["import", "-", "--data", "enterprise"],
        line,
    )
    .expect(0);
    // The record of the enterprise's prefix, as its parent has it: where to go.
    let record = run(directory.path(), &["export", "--data", "enterprise"])
        .expect(0)
        .stdout;
    let record: String = record
        .lines()
        .filter(|line| line.contains("0.NA/88.118.9"))
        .collect();
    node(directory.path(), "parent");
    run_with(
        directory.path(),
        &["import", "-", "--data", "parent"],
        record.as_bytes(),
    )
    .expect(0);
    run_with(
        directory.path(),
        &["import", "-", "--data", "parent"],
        b"{\"prefix\":\"0.NA\"}",
    )
    .expect(0);

    let parent = Running::start(directory.path(), "parent");
    let _enterprise = Running::start_with(
        directory.path(),
        &["serve", "--config", "enterprise/jiexi.toml"],
        port,
    );
    for transport in ["--udp", "--tcp"] {
        let arguments = [
            "resolve",
            "88.118.9/x",
            "--trace",
            "--server",
            &parent.server(),
            transport,
        ];
        let found = run(directory.path(), &arguments).expect(0);
        assert!(
            found.stdout.contains("https://example.cn/x"),
            "{}",
            found.stdout
        );
        assert_eq!(
            found.stderr.lines().count(),
            5,
            "title, parent, prefix record, enterprise, sum: {}",
            found.stderr
        );
    }
}

/// What the banner says to try works as it stands, in a shell, without a word of complaint.
fn tried(directory: &Path, command: &str) {
    // An error of HTTP is one of the command; a proxy of this machine has nothing to do with it.
    fs::write(
        directory.join(".curlrc"),
        "fail\nsilent\nshow-error\nnoproxy = \"*\"\n",
    )
    .expect("written");
    let output = without_variables(Command::new("sh"))
        .args(["-c", command])
        .env("HOME", directory)
        .current_dir(directory)
        .output()
        .expect("runs");
    let (said, complaint) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(0), "{command}: {complaint}");
    assert_eq!(complaint, "", "{command}");
    assert!(!said.trim().is_empty(), "{command}");
    if command.ends_with("head -n 3") {
        assert_eq!(said.lines().count(), 3, "{command}: {said}");
    }
}

/// Goal: a demo that cannot have its port says so before it fills anything.
#[test]
fn a_demo_without_its_port_fills_nothing() {
    let directory = directory();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let output = jiexi(directory.path())
        .args(["serve", "--demo"])
        .env("JIEXI_HANDLE_PORT", port.to_string())
        .env("JIEXI_HTTP_PORT", "0")
        .env("JIEXI_STORE_DISK_FREE_MIN", "64MiB")
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot listen on TCP"), "{said}");
    assert!(bulk::export(directory.path(), "data", &[]).is_empty());
}

#[test]
fn the_demo_fills_itself_once_and_serves() {
    let directory = directory();
    let port = free_port();
    let http = free_port();
    let mut demo = Running::start_on(directory.path(), &["serve", "--demo"], port, http);
    let stdout = demo.child.stdout.take().expect("is piped");
    let banner: Vec<String> = BufReader::new(stdout)
        .lines()
        .map_while(Result::ok)
        .take_while(|line| !line.starts_with("Stop"))
        .collect();
    let commands = banner.iter().skip_while(|line| !line.starts_with("Try "));
    let commands: Vec<&str> = commands.skip(1).map(|line| line.trim()).collect();
    assert_eq!(commands.len(), 8, "{banner:?}");
    for command in commands {
        tried(directory.path(), command);
    }
    assert!(
        get(demo.operations, "/metrics")
            .expect("answers")
            .contains("jiexi_build_info")
    );
    let lines = bulk::export(directory.path(), "data", &[]);
    let (prefixes, records): (Vec<_>, Vec<_>) =
        lines.iter().partition(|line| line.get("prefix").is_some());
    assert_eq!((prefixes.len(), records.len()), (301, 54_301));
    let devices = records.iter().filter(|line| {
        !line["handle"]
            .as_str()
            .expect("handle")
            .starts_with("0.NA/")
    });
    assert!(
        devices
            .clone()
            .all(|line| matches!(line["values"].as_array().map(Vec::len), Some(3 | 4)))
    );
    assert_eq!(devices.count(), 54_000);
    demo.terminate();

    let started = Instant::now();
    let again = Running::start_with(directory.path(), &["serve", "--demo"], free_port());
    println!("second start took {:?}", started.elapsed());
    assert_eq!(again.stop(), 0);
}

/// Goal: what has come over a pipe is there when nothing more comes, and what comes later as well.
#[test]
fn an_import_applies_what_is_there_when_its_input_pauses() {
    let (directory, running) = running();
    let directory = directory.path();
    let mut import = jiexi(directory)
        .args(["import", "-", "--data", "a"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut input = import.stdin.take().expect("is piped");
    let line = |name: &str| {
        let value = r#"{"index":1,"type":"URL","data":"x"}"#;
        format!("{{\"handle\":\"88.118/{name}\",\"values\":[{value}]}}\n")
    };
    let arrives = |name: &str| {
        let (handle, begun) = (format!("88.118/{name}"), Instant::now());
        let get = ["handle", "get", &handle, "--data", "a"];
        while run(directory, &get).code != 0 {
            assert!(begun.elapsed() < PATIENCE, "{name} does not arrive");
        }
    };
    let (half, rest) = (line("third"), line("fourth"));
    let (half, end) = half.split_at(20);
    for (sent, seen) in [
        (line("first") + &line("second") + half, "second"),
        (end.to_owned(), "third"),
        (rest.trim_end().to_owned(), ""),
    ] {
        input.write_all(sent.as_bytes()).expect("takes it");
        if !seen.is_empty() {
            arrives(seen);
            assert!(import.try_wait().expect("asks").is_none(), "it goes on");
        }
    }
    drop(input);
    let done = import.wait_with_output().expect("ends");
    assert!(done.status.success());
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        said.starts_with("imported 4 records with 4 values"),
        "{said}"
    );
    arrives("fourth");
    assert_eq!(running.stop(), 0);
}

/// Goal: neither a client that does not read nor a pipe in the place of a file keeps a node from stopping.
#[test]
fn a_node_stops_whatever_its_clients_do() {
    let (directory, running) = running();
    let directory = directory.path();
    let lines: String = (0..20_000)
        .map(|number| {
            let value = format!(
                r#"{{"index":1,"type":"DESC","data":"{}"}}"#,
                "x".repeat(500)
            );
            format!("{{\"handle\":\"88.118/n{number}\",\"values\":[{value}]}}\n")
        })
        .collect();
    run_with(directory, &["import", "-", "--data", "a"], lines.as_bytes()).expect(0);
    let mut unread = jiexi(directory)
        .args(["export", "--data", "a"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    // It has begun, and nobody reads on.
    let mut stdout = unread.stdout.take().expect("is piped");
    stdout.read_exact(&mut [0]).expect("prints something");
    let pipe = directory.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("makes");
    let restore = ["store", "restore", "pipe", "--data", "a", "--yes"];
    let refused = run(directory, &restore).expect(1);
    assert!(
        refused.stderr.contains("is no snapshot file"),
        "{}",
        refused.stderr
    );
    assert_eq!(running.stop(), 0);
    drop(stdout);
    unread.wait().expect("ends");
}

/// Goal: an export goes into what is there: through a link, into a pipe.
#[test]
fn an_export_replaces_files_only() {
    let directory = directory();
    let directory = directory.path();
    node(directory, "a");
    fs::write(directory.join("real"), "old").expect("writes");
    std::os::unix::fs::symlink("real", directory.join("link")).expect("links");
    run(directory, &["export", "link", "--data", "a"]).expect(0);
    assert!(
        fs::symlink_metadata(directory.join("link"))
            .expect("is there")
            .is_symlink()
    );
    let whole = fs::read_to_string(directory.join("real")).expect("reads");
    assert!(whole.contains("0.NA/88.118"), "{whole}");
    let pipe = directory.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("makes");
    let reader = {
        let pipe = pipe.clone();
        std::thread::spawn(move || fs::read_to_string(pipe).expect("reads"))
    };
    run(directory, &["export", "pipe", "--data", "a"]).expect(0);
    assert_eq!(reader.join().expect("no panic"), whole);
    assert!(!fs::metadata(&pipe).expect("is there").is_file());
}

/// Those who watch a node see when it was last backed up, running or stopped; what did not succeed counts for nothing.
#[test]
fn the_last_backup_is_told() {
    let directory = directory();
    let directory = directory.path();
    node(directory, "a");
    let last = |running: &Running| -> f64 {
        let text = get(running.operations, "/metrics").expect("answers");
        let name = "\njiexi_backup_last_success_timestamp_seconds ";
        let (_, rest) = text.split_once(name).expect("is exported");
        let value = rest.lines().next().expect("a line");
        value.parse().expect("a number")
    };
    let create = ["backup", "create", "repo", "--data", "a"];
    let note = directory.join("a/last-backup");
    let running = Running::start(directory, "a");
    assert_eq!(last(&running), 0.0, "there never was one");
    fs::write(directory.join("file"), "").expect("writes");
    run(directory, &["backup", "create", "file", "--data", "a"]).expect(1);
    assert_eq!(last(&running), 0.0, "it failed");
    for _ in 0..2 {
        let begun = f64::from(jiexi::clock::unix_seconds());
        run(directory, &create).expect(0);
        assert!(last(&running) >= begun, "also when nothing has changed");
        let mode = fs::metadata(&note).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o644, "the node may be another user");
        fs::write(&note, "1000\n").expect("writes");
        assert_eq!(last(&running), 1000.0);
    }
    assert_eq!(running.stop(), 0);
    run(directory, &create).expect(0);
    let running = Running::start(directory, "a");
    assert!(last(&running) > 1000.0, "it was stopped then");
    fs::write(&note, "nonsense").expect("writes");
    assert_eq!(last(&running), 0.0);
    assert_eq!(running.stop(), 0);
}
