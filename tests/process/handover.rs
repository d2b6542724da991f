//! Goal: a node passes from one process to the next without losing a datagram or an acknowledged change, and stays what it
//! is when the next one fails. Method: real processes under load, every datagram counted; those that fail are the program
//! itself with a port that is taken, or a child of this test that says what it should not, at a step of its choice.
//!
//! The long form: `JIEXI_HANDOVERS=20 JIEXI_HANDOVER_RATE=…` (datagrams a second, 30 % of the peak), which also sees to it
//! that changes wait for at most 2 s, and runs the same load without any hand-over.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::{Process, request, request_for};

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);
/// Sockets that ask, and what each has under way at most: less than the kernel keeps for a node that is held up.
const CLIENTS: usize = 4;
const UNDER_WAY: usize = 32;
/// What is asked for: its answer is one datagram.
pub(crate) const ASKED: &str = "88.118/asked";
/// The steps at which [`fake_heir`] fails.
const FAILURES: [&str; 5] = ["leaves", "dies", "nonsense", "late", "version"];

// ---------------------------------------------------------------------------------------------------- load

/// What a client saw.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    pub(crate) lost: usize,
    slowest: Duration,
}

/// Clients that ask until they are told to stop, and then wait for what is still to come.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Load {
    pub(crate) fn begin(handle: SocketAddr, rate: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let each = rate.div_ceil(CLIENTS as u64);
        let client = |_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || ask(handle, each, &stop))
        };
        let clients = (0..CLIENTS).map(client).collect();
        Self { stop, clients }
    }

    pub(crate) fn end(self) -> Tally {
        self.stop.store(true, Relaxed);
        let mut all = Tally::default();
        for client in self.clients {
            let one = client.join().expect("a client");
            all.sent += one.sent;
            all.answered += one.answered;
            all.lost += one.lost;
            all.slowest = all.slowest.max(one.slowest);
        }
        all
    }
}

/// Asks so often a second, each request once.
fn ask(handle: SocketAddr, rate: u64, stop: &AtomicBool) -> Tally {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.connect(handle).expect("connected");
    socket
        .set_read_timeout(Some(Duration::from_millis(1)))
        .expect("a time-out");
    let (mut request, mut answer) = (request_for(ASKED.as_bytes()), [0; 2_048]);
    let (mut tally, mut waiting) = (Tally::default(), HashMap::new());
    let (begun, mut id) = (Instant::now(), 0_u32);
    let mut quiet = None;
    loop {
        let stopping = stop.load(Relaxed);
        let due = begun.elapsed().as_micros() as u64 * rate / 1_000_000;
        while !stopping && u64::from(id) < due && waiting.len() < UNDER_WAY {
            id += 1;
            request[8..12].copy_from_slice(&id.to_be_bytes());
            socket.send(&request).expect("sent");
            waiting.insert(id, Instant::now());
            tally.sent += 1;
        }
        match socket.recv(&mut answer) {
            Ok(length) => {
                assert!(length > 28, "an answer of {length} octets");
                let id = u32::from_be_bytes(answer[8..12].try_into().expect("four"));
                let code = u32::from_be_bytes(answer[24..28].try_into().expect("four"));
                assert_eq!(code, 1, "the record is found by both processes");
                let sent = waiting.remove(&id).expect("each answer comes once");
                tally.slowest = tally.slowest.max(Instant::elapsed(&sent));
                tally.answered += 1;
                quiet = None;
            }
            Err(_) if waiting.is_empty() && stopping => return tally,
            Err(_) => {
                let quiet = *quiet.get_or_insert_with(Instant::now);
                if quiet.elapsed() > PATIENCE / 4 && !waiting.is_empty() {
                    tally.lost = waiting.len();
                    return tally;
                }
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------- changes

/// Somebody who makes handles, one after the other, until told to stop.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl Writer {
    fn begin(node: &Process) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, mut create) = (Arc::clone(&stop), node.creator());
        let thread = thread::spawn(move || {
            let mut acknowledged = Vec::new();
            for number in 0.. {
                if told.load(Relaxed) {
                    break;
                }
                let handle = format!("88.118/written-{number}");
                if create(&handle) {
                    acknowledged.push(handle);
                }
            }
            acknowledged
        });
        Self { stop, thread }
    }

    /// What was acknowledged.
    fn end(self) -> Vec<String> {
        self.stop.store(true, Relaxed);
        self.thread.join().expect("a writer")
    }
}

impl Process {
    /// The program, with this node's configuration.
    pub(crate) fn jiexi(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jiexi"));
        command.args(arguments).arg("--config").arg(self.file());
        command.envs(self.settings());
        command
    }

    /// Makes a handle; whether that was acknowledged.
    pub(crate) fn creator(&self) -> impl FnMut(&str) -> bool + Send + use<> {
        let (file, settings) = (self.file(), self.settings());
        move |handle: &str| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_jiexi"));
            command.args([
                "handle",
                "create",
                handle,
                "--value",
                "1:URL=https://a.example/",
            ]);
            command.arg("--config").arg(&file).envs(settings.clone());
            let done = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
            done.expect("jiexi runs").success()
        }
    }

    /// Everything that the node has, as text.
    fn export(&self) -> String {
        let done = self.jiexi(&["export"]).output().expect("jiexi runs");
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).expect("text")
    }

    /// A process that takes over, with more settings.
    fn heir(&self, more: &[(&str, &str)]) -> Child {
        let log = std::fs::File::options().append(true).open(self.log());
        let mut command = self.jiexi(&["serve", "--take-over", "--pause-max", "60s"]);
        let command = command.envs(more.iter().copied()).stdout(Stdio::null());
        command
            .stderr(log.expect("a log"))
            .spawn()
            .expect("jiexi starts")
    }

    /// Hands the node over to a process of the same program.
    fn hand_over(&mut self) {
        let heir = self.heir(&[]);
        let mut old = std::mem::replace(&mut self.child, heir);
        let ended = wait(&mut old);
        assert!(ended.success(), "the old process: {ended}\n{}", self.said());
        assert!(
            self.child.try_wait().expect("a child").is_none(),
            "{}",
            self.said()
        );
    }

    /// A process that begins to take over and fails.
    fn failing_heir(&self, how: &str) {
        let test = std::env::current_exe().expect("this test");
        let mut heir = Command::new(test)
            .args(["--exact", "handover::fake_heir", "--ignored", "--nocapture"])
            .env("JIEXI_FAKE_HEIR", how)
            .env("JIEXI_FAKE_SOCKET", self.data().join("control.sock"))
            .stdout(Stdio::null())
            .spawn()
            .expect("this test runs");
        wait(&mut heir);
    }

    /// What its processes have logged.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.log()).expect("a log")
    }

    /// Waits until the log says something so many times.
    pub(crate) fn wait_said(&self, what: &str, times: usize) {
        let begun = Instant::now();
        while self.said().matches(what).count() < times {
            assert!(
                begun.elapsed() < PATIENCE,
                "{what}: not in\n{}",
                self.said()
            );
            thread::sleep(LOOK);
        }
    }
}

pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        if begun.elapsed() > 2 * PATIENCE {
            let _ = child.kill();
            panic!("a process does not end");
        }
        thread::sleep(LOOK);
    }
}

/// The figures behind a name in a log.
fn figures(log: &str, name: &str) -> Vec<f64> {
    let name = format!("{name}=");
    let found = log.split(&name).skip(1);
    found
        .filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .collect()
}

const GOES_ON: &str = "this node goes on as before";

/// A number of the environment.
fn number(name: &str, otherwise: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(otherwise, |text| text.parse().expect("a number"))
}

// ---------------------------------------------------------------------------------------------------- tests

#[test]
fn hand_overs_lose_nothing() {
    let (times, rate) = (
        number("JIEXI_HANDOVERS", 4),
        number("JIEXI_HANDOVER_RATE", 400),
    );
    let long = times > 4;
    let mut node = Process::start(
        4_096,
        &[
            ("JIEXI_HANDLE_AMPLIFICATION_RATE", "4GiB"),
            ("JIEXI_HANDLE_AMPLIFICATION_BURST", "4GiB"),
        ],
    );
    assert!(node.creator()(ASKED), "{}", node.said());
    let load = Load::begin(node.handle, rate);
    let writer = Writer::begin(&node);
    let begun = Instant::now();
    let (mut failed, mut took) = (0, Vec::new());
    for time in 1..=times {
        // Of 20 every fourth one fails, of 4 every second.
        if time.is_multiple_of(if long { 4 } else { 2 }) {
            node.failing_heir(FAILURES[failed % FAILURES.len()]);
            failed += 1;
            node.wait_said(GOES_ON, failed);
        } else {
            let begun = Instant::now();
            node.hand_over();
            took.push(begun.elapsed());
        }
        // It writes after each of them.
        let (begun, mut create) = (Instant::now(), node.creator());
        while !create(&format!("88.118/after-{time}")) {
            assert!(
                begun.elapsed() < PATIENCE,
                "no change after hand-over {time}\n{}",
                node.said()
            );
        }
    }
    let lasted = begun.elapsed();
    let acknowledged = writer.end();
    let tally = load.end();
    let pauses = figures(&node.said(), "pause_seconds");
    let longest = pauses.iter().copied().fold(0.0, f64::max);
    println!(
        "{times} hand-overs, {failed} of them failed, in {lasted:?}: {tally:?}; changes acknowledged {}, waited for {longest} s \
         at most ({pauses:?}); each took {took:?}",
        acknowledged.len()
    );
    assert_eq!(tally.lost, 0, "{tally:?}\n{}", node.said());
    assert_eq!(tally.sent, tally.answered);
    assert!(tally.sent > 0);
    let export = node.export();
    assert!(!acknowledged.is_empty());
    let after = (1..=times).map(|time| format!("88.118/after-{time}"));
    for handle in acknowledged.into_iter().chain(after) {
        assert!(export.contains(&format!("{handle}\"")), "{handle} is lost");
    }
    if long {
        assert!(longest <= 2.0, "changes waited for {longest} s");
        let control = Load::begin(node.handle, rate);
        thread::sleep(lasted);
        let control = control.end();
        println!("without any: {control:?}");
        assert_eq!(control.lost, 0);
    }
    // The trail was written by all of them in turn.
    let audit = node
        .jiexi(&["audit", "verify"])
        .output()
        .expect("jiexi runs");
    assert!(audit.status.success(), "{audit:?}");
    nix::sys::signal::kill(node.pid(), nix::sys::signal::Signal::SIGTERM).expect("told");
    assert!(node.wait().success());
    let verify = node
        .jiexi(&["store", "verify"])
        .output()
        .expect("jiexi runs");
    assert!(verify.status.success(), "{verify:?}");
}

/// Goal: whatever goes wrong, the running node answers and writes as before, and the next hand-over works. The socket is for
/// its user alone.
#[test]
fn what_fails_changes_nothing() {
    let mut node = Process::start(4_096, &[]);
    let socket = node.data().join("control.sock");
    let mode = std::fs::metadata(socket)
        .expect("a socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut create = node.creator();
    let mut failed = 0;
    for how in FAILURES {
        node.failing_heir(how);
        failed += 1;
        node.wait_said(GOES_ON, failed);
        assert!(
            create(&format!("88.118/after-{how}")),
            "{how}\n{}",
            node.said()
        );
        let mut stream = node.connect();
        stream.write_all(&request()).expect("written");
        assert_eq!(crate::answer(&mut stream).expect("an answer"), 1, "{how}");
    }
    // A port that is taken: it fails when it has all sockets of the node.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    let other = TcpListener::bind(&taken);
    assert!(other.is_err(), "the port is taken");
    let mut heir = node.heir(&[("JIEXI_OPERATIONS_LISTEN", &taken)]);
    assert!(!wait(&mut heir).success());
    node.wait_said(GOES_ON, failed + 1);
    // One that does not get so far as to ask.
    let mut heir = node.heir(&[("JIEXI_HANDLE_PORT", "none")]);
    assert!(!wait(&mut heir).success());
    assert!(create("88.118/after-all"), "{}", node.said());
    assert!(node.child.try_wait().expect("a child").is_none());
    node.hand_over();
    assert!(create("88.118/after-hand-over"), "{}", node.said());
    let export = node.export();
    for how in FAILURES.iter().chain(&["all", "hand-over"]) {
        assert!(export.contains(&format!("88.118/after-{how}\"")), "{how}");
    }
    // Nobody is left to be taken over when the node has stopped.
    nix::sys::signal::kill(node.pid(), nix::sys::signal::Signal::SIGTERM).expect("told");
    assert!(node.wait().success());
    let mut heir = node.heir(&[]);
    assert!(!wait(&mut heir).success());
    assert!(node.said().contains("no node runs here"), "{}", node.said());
}

/// Goal: a process that fails when it has everything leaves the node its control socket, however its path is written.
#[test]
fn what_fails_late_leaves_the_control_socket() {
    let mut node = Process::start(4_096, &[]);
    let socket = node.data().join("../node/control.sock");
    let otherwise = socket.to_str().expect("text");
    let history = ("JIEXI_HISTORY_DIRECTORY", "/dev/null/none");
    let mut create = node.creator();
    for (failed, more) in [
        vec![history],
        vec![history, ("JIEXI_CONTROL_SOCKET", otherwise)],
    ]
    .iter()
    .enumerate()
    {
        let mut heir = node.heir(more);
        assert!(!wait(&mut heir).success());
        node.wait_said(GOES_ON, failed + 1);
        assert!(node.data().join("control.sock").exists(), "{more:?}");
        let created = create(&format!("88.118/after-{failed}"));
        assert!(created, "{more:?}\n{}", node.said());
    }
    assert!(node.said().contains("/dev/null/none"), "{}", node.said());
    // One that writes it otherwise and does not fail has it, and leaves nothing behind.
    node.more
        .push(("JIEXI_CONTROL_SOCKET".to_owned(), otherwise.to_owned()));
    node.hand_over();
    assert!(create("88.118/after-hand-over"), "{}", node.said());
    nix::sys::signal::kill(node.pid(), nix::sys::signal::Signal::SIGTERM).expect("told");
    assert!(node.wait().success());
    assert!(!node.data().join("control.sock").exists());
}

/// Goal: no change is made that the audit trail would not have, when it cannot be gone on with behind a process that failed.
#[test]
fn without_the_audit_trail_nothing_changes() {
    let mut node = Process::start(4_096, &[]);
    let mut create = node.creator();
    assert!(create("88.118/before"), "{}", node.said());
    node.failing_heir("spoils");
    node.wait_said(GOES_ON, 1);
    assert!(
        node.said()
            .contains("the audit trail cannot be gone on with"),
        "{}",
        node.said()
    );
    assert!(!create("88.118/unwitnessed"), "{}", node.said());
    let export = node.export();
    assert!(export.contains("88.118/before\"") && !export.contains("88.118/unwitnessed"));
    let mut stream = node.connect();
    stream.write_all(&request()).expect("written");
    assert_eq!(crate::answer(&mut stream).expect("an answer"), 1);
    drop(stream);
    nix::sys::signal::kill(node.pid(), nix::sys::signal::Signal::SIGTERM).expect("told");
    assert!(node.wait().success(), "{}", node.said());
}

/// Goal: a node that stops ends, also when a process gets ready meanwhile to take it over.
#[test]
fn a_node_that_stops_waits_for_no_heir() {
    let mut node = Process::start(4_096, &[("JIEXI_HANDLE_DRAIN", "3s")]);
    let mut heir = UnixStream::connect(node.data().join("control.sock")).expect("connected");
    heir.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    say(&mut heir, 1, &command(1, 60_000));
    hear(&mut heir, "sockets");
    // Something that is open keeps the node from ending at once.
    let mut open = TcpStream::connect(("127.0.0.1", node.http)).expect("connected");
    let head = "POST /api/v1/batch/resolve HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n\
                Content-Length: 1000\r\n\r\n";
    open.write_all(head.as_bytes()).expect("sent");
    nix::sys::signal::kill(node.pid(), nix::sys::signal::Signal::SIGTERM).expect("told");
    node.wait_said("stopping: no new connections", 1);
    say(&mut heir, 2, &json!({"message": "filled"}));
    let mut said = String::new();
    heir.read_to_string(&mut said).expect("a refusal");
    assert!(said.contains("the node stops"), "{said}");
    assert!(node.wait().success(), "{}", node.said());
}

/// A batch, one line of which is answered and whose end is still to be sent; for a node with `[anonymous] batch`.
pub(crate) fn batch_under_way(node: &Process) -> (TcpStream, BufReader<TcpStream>) {
    let mut batch = TcpStream::connect(("127.0.0.1", node.http)).expect("connected");
    batch.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let head = "POST /api/v1/batch/resolve HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n\
                Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    batch.write_all(head.as_bytes()).expect("sent");
    batch.write_all(b"c\r\n0.NA/88.118\n\r\n").expect("sent");
    let mut heard = BufReader::new(batch.try_clone().expect("a socket"));
    let mut line = String::new();
    while !line.contains("\"line\":1,") {
        line.clear();
        let more = heard.read_line(&mut line).expect("an answer");
        assert!(more > 0, "no answer");
    }
    (batch, heard)
}

/// Goal: what the old process has answered is in the log of resolutions, also when it is told not to wait for its connections.
/// Method: it is asked by one of them until that is cut.
#[test]
fn what_was_answered_before_the_cut_is_in_the_log() {
    let settings = [
        ("JIEXI_ANONYMOUS_BATCH", "true"),
        ("JIEXI_HANDLE_DRAIN", "1s"),
    ];
    let mut node = Process::start(4_096, &settings);
    let (mut batch, mut heard) = batch_under_way(&node);
    let old = node.pid();
    let heir = node.heir(&[]);
    let mut child = std::mem::replace(&mut node.child, heir);
    node.wait_said("another process is the node now", 1);
    nix::sys::signal::kill(old, nix::sys::signal::Signal::SIGTERM).expect("told");
    let mut answered = 0;
    'cut: while batch.write_all(b"f\r\n88.118/counted\n\r\n").is_ok() {
        let mut line = String::new();
        while !line.contains("88.118/counted") {
            line.clear();
            if heard.read_line(&mut line).unwrap_or(0) == 0 {
                break 'cut;
            }
        }
        answered += 1;
        thread::sleep(LOOK);
    }
    let ended = wait(&mut child);
    assert!(ended.success(), "{ended}\n{}", node.said());
    let mut logged = String::new();
    for file in std::fs::read_dir(node.data().join("history")).expect("a log") {
        let file = std::fs::File::open(file.expect("an entry").path()).expect("opens");
        let mut text = flate2::read::MultiGzDecoder::new(file);
        text.read_to_string(&mut logged).expect("reads");
    }
    let logged = logged.matches("88.118/counted").count();
    assert!(answered > 10, "{answered} answers\n{}", node.said());
    assert!(logged >= answered, "{logged} of {answered} answers");
}

/// Goal: what a connection is at work on is ended by the process that it was asked of, while the next one answers others.
#[test]
fn a_batch_under_way_is_ended_by_the_old_process() {
    let mut node = Process::start(4_096, &[("JIEXI_ANONYMOUS_BATCH", "true")]);
    let (mut batch, mut heard) = batch_under_way(&node);
    let heir = node.heir(&[]);
    let mut old = std::mem::replace(&mut node.child, heir);
    node.wait_said("another process is the node now", 1);
    let mut fresh = node.connect();
    fresh.write_all(&request()).expect("written");
    assert_eq!(crate::answer(&mut fresh).expect("an answer"), 1);
    assert!(
        old.try_wait().expect("a child").is_none(),
        "it has a batch to end"
    );
    batch
        .write_all(b"c\r\n0.NA/88.118\n\r\n0\r\n\r\n")
        .expect("sent");
    let mut rest = String::new();
    heard.read_to_string(&mut rest).expect("the rest");
    assert!(
        rest.contains("\"line\":2,") && rest.contains("\"complete\":true"),
        "{rest}"
    );
    let ended = wait(&mut old);
    assert!(ended.success(), "{ended}\n{}", node.said());
}

/// Goal: nobody starts a node anew that was taken over by hand; but who looks sees at once that it is gone.
#[test]
fn the_old_process_ends_when_a_stranger_dies_that_took_over() {
    let mut node = Process::start(4_096, &[("JIEXI_ANONYMOUS_BATCH", "true")]);
    let open = batch_under_way(&node);
    let heir = node.heir(&[]);
    let mut old = std::mem::replace(&mut node.child, heir);
    node.wait_said("another process is the node now", 1);
    let begun = Instant::now();
    node.child.kill().expect("killed");
    node.child.wait().expect("it ends");
    let ended = wait(&mut old);
    let took = begun.elapsed();
    assert_eq!(ended.code(), Some(1), "{}", node.said());
    // The batch has 60 s.
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert!(node.said().contains("handover.lost"), "{}", node.said());
    drop(open);
}

/// Goal: who asks for an upgrade while a process takes over hears of that one, and not that the node stops.
#[test]
fn an_upgrade_beside_a_hand_over_hears_of_it() {
    let mut node = Process::start(4_096, &[]);
    let mut heir = UnixStream::connect(node.data().join("control.sock")).expect("connected");
    heir.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let upgrading = |node: &Process| {
        let mut command = node.jiexi(&["upgrade"]);
        let command = command.stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().expect("jiexi starts")
    };
    let told = |child: Child, words: &str| {
        let done = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(said.contains(words), "{said}");
        assert_eq!(done.status.code(), Some(4), "{said}");
    };
    say(&mut heir, 1, &command(1, 60_000));
    hear(&mut heir, "sockets");
    told(upgrading(&node), "is taking over this node already");
    say(&mut heir, 2, &json!({"message": "filled"}));
    hear(&mut heir, "store");
    // From now on the node hears of nothing else, until this is the node.
    let late = upgrading(&node);
    node.wait_said("control socket: command", 2);
    say(
        &mut heir,
        2,
        &json!({"message": "answering", "control": false}),
    );
    told(late, "took the node over meanwhile");
    assert!(node.wait().success(), "{}", node.said());
}

// ---------------------------------------------------------------------------------------------------- one that fails

/// One message of the control socket.
fn say(stream: &mut UnixStream, kind: u8, message: &Json) {
    let text = message.to_string();
    let length = u32::try_from(text.len()).expect("short");
    let frame = [&length.to_be_bytes()[..], &[kind], text.as_bytes()].concat();
    stream.write_all(&frame).expect("sent");
}

/// Asks for the node.
fn command(version: u32, pause_max_ms: u64) -> Json {
    json!({"protocol": 1, "command": "hand_over", "version": version, "pause_max_ms": pause_max_ms})
}

/// Waits for a message; descriptors beside it are let go.
fn hear(stream: &mut UnixStream, wanted: &str) {
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head).expect("a message");
        let length = u32::from_be_bytes(head[..4].try_into().expect("four"));
        let mut text = vec![0; length as usize];
        stream.read_exact(&mut text).expect("a message");
        let message: Json = serde_json::from_slice(&text).expect("JSON");
        if message["message"] == wanted {
            return;
        }
    }
}

/// Not a test by itself: what [`Process::failing_heir`] starts.
#[test]
#[ignore = "a process that the others start"]
fn fake_heir() {
    let (Ok(how), Ok(socket)) = (
        std::env::var("JIEXI_FAKE_HEIR"),
        std::env::var("JIEXI_FAKE_SOCKET"),
    ) else {
        return;
    };
    let mut stream = UnixStream::connect(&socket).expect("connected");
    let version = if how == "version" { 99 } else { 1 };
    let pause = if how == "late" { 400 } else { 60_000 };
    say(&mut stream, 1, &command(version, pause));
    if how == "version" {
        let mut refusal = Vec::new();
        stream.read_to_end(&mut refusal).expect("a refusal");
        return;
    }
    hear(&mut stream, "sockets");
    match &*how {
        // It ends before it takes anything.
        "leaves" => {}
        "nonsense" => stream.write_all(&[0xFF; 64]).expect("sent"),
        // It has taken nothing, and does not end.
        "hangs" => {
            drop(stream);
            loop {
                thread::sleep(PATIENCE);
            }
        }
        // It has the store, and ends; or does nothing until it is killed; or has written what is no audit trail.
        "dies" | "late" | "spoils" => {
            say(&mut stream, 2, &json!({"message": "filled"}));
            hear(&mut stream, "store");
            if how == "spoils" {
                let trail = Path::new(&socket).with_file_name("audit/audit-00000001.jsonl");
                let trail = std::fs::File::options().append(true).open(trail);
                let written = trail.expect("a trail").write_all(b"no entry\n");
                written.expect("written");
            }
            if how == "late" {
                loop {
                    thread::sleep(PATIENCE);
                }
            }
        }
        other => panic!("no such way to fail: {other}"),
    }
}
