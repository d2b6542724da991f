//! Goal: a node that is told to upgrade passes to whatever its file is by then, systemd hears which process is the main one,
//! and from that one alone; whatever goes wrong, the node goes on. Method: a copy of the program that is replaced on disk, as
//! a package does it; the test is systemd's end of the socket, and knows who sends.

use std::fs;
use std::io::{IoSliceMut, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt::PassCred,
};
use nix::unistd::{Pid, close};
use serde_json::Value as Json;

use crate::handover::{ASKED, Load, batch_under_way, wait};
use crate::{Process, answer, request};

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);

/// systemd's end of a unit's socket, with `NotifyAccess=main`.
struct Systemd {
    socket: UnixDatagram,
    /// The main process of the unit.
    main: i32,
    /// How long it is busy before it confirms a barrier.
    busy: Duration,
}

impl Systemd {
    fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        setsockopt(&socket, PassCred, &true).expect("credentials");
        Self {
            socket,
            main: 0,
            busy: Duration::ZERO,
        }
    }

    /// The next message, which the main process sent. What comes beside it is closed, which confirms a barrier.
    fn hear(&mut self) -> String {
        let mut text = [0; 4_096];
        let mut space = nix::cmsg_space!(UnixCredentials, RawFd);
        let mut into = [IoSliceMut::new(&mut text)];
        let received = recvmsg::<()>(
            self.socket.as_raw_fd(),
            &mut into,
            Some(&mut space),
            MsgFlags::empty(),
        );
        let received = received.expect("a message");
        let mut sender = None;
        for beside in received.cmsgs().expect("whole") {
            match beside {
                ControlMessageOwned::ScmCredentials(who) => sender = Some(who.pid()),
                ControlMessageOwned::ScmRights(fds) => {
                    thread::sleep(self.busy);
                    fds.into_iter().for_each(|fd| close(fd).expect("closed"));
                }
                other => panic!("{other:?}"),
            }
        }
        let length = received.bytes;
        let said = String::from_utf8_lossy(&text[..length]).into_owned();
        assert_eq!(sender, Some(self.main), "{said}: not from the main process");
        said
    }

    /// Hears that the main process serves.
    fn hear_ready(&mut self) {
        let said = self.hear();
        assert!(
            said.contains("READY=1") && said.contains("STATUS="),
            "{said}"
        );
    }

    /// Hears that another process is the main one, and what that one says.
    fn hear_main(&mut self) -> Pid {
        let main = self.hear_of_main();
        assert_eq!(self.hear(), "BARRIER=1");
        self.main = main.as_raw();
        self.hear_ready();
        main
    }

    /// Hears that another process is the main one, and has not confirmed it.
    fn hear_of_main(&mut self) -> Pid {
        let said = self.hear();
        let main = said.strip_prefix("MAINPID=").expect("another process");
        Pid::from_raw(main.parse().expect("a number"))
    }
}

/// The copy of the program that a node runs from, and may be replaced.
struct Installed {
    directory: tempfile::TempDir,
}

impl Installed {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let installed = Self { directory };
        installed.replace(Path::new(env!("CARGO_BIN_EXE_jiexi")));
        installed
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("jiexi")
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("notify")
    }

    /// Puts another file in the program's place, as dpkg does.
    fn replace(&self, by: &Path) {
        let fresh = self.directory.path().join("jiexi.dpkg-new");
        fs::copy(by, &fresh).expect("copied");
        fs::rename(fresh, self.path()).expect("replaced");
    }

    /// A node that runs from it, of which systemd hears.
    fn start(&self) -> (Process, Systemd) {
        self.start_by(&self.path(), &[])
    }

    /// As [`Self::start`], by another name.
    fn start_by(&self, name: &Path, more: &[(&str, &str)]) -> (Process, Systemd) {
        let (mut systemd, socket) = (Systemd::listen(&self.socket()), self.socket());
        let own = [
            ("NOTIFY_SOCKET", socket.to_str().expect("text")),
            ("JIEXI_ANONYMOUS_BATCH", "true"),
            ("JIEXI_HANDLE_AMPLIFICATION_RATE", "4GiB"),
            ("JIEXI_HANDLE_AMPLIFICATION_BURST", "4GiB"),
        ];
        let mut node = Process::start_program(name, 4_096, &[&own[..], more].concat());
        // What the test runs has no unit.
        node.more.retain(|(name, _)| name != "NOTIFY_SOCKET");
        systemd.main = node.pid().as_raw();
        systemd.hear_ready();
        (node, systemd)
    }
}

/// A process that is no child of the test.
struct Stray(Pid);

impl Stray {
    fn ended(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0));
        stat.map_or(true, |stat| stat.contains(") Z "))
    }

    fn wait_end(&self) {
        let begun = Instant::now();
        while !self.ended() {
            assert!(begun.elapsed() < PATIENCE, "{} does not end", self.0);
            thread::sleep(LOOK);
        }
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        if !self.ended() {
            let _ = kill(self.0, Signal::SIGKILL);
        }
    }
}

impl Process {
    /// Begins to tell the node to upgrade.
    fn upgrading(&self) -> Child {
        let mut command = self.jiexi(&["upgrade", "--pause-max", "60s", "-o", "json"]);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("jiexi starts")
    }

    /// An upgrade that does not come about, with its exit code; the node answers and is what it was.
    fn no_upgrade(&self, code: i32) -> String {
        let done = self.upgrading().wait_with_output().expect("it ends");
        assert_eq!(done.status.code(), Some(code), "{done:?}\n{}", self.said());
        let mut stream = self.connect();
        stream.write_all(&request()).expect("written");
        assert_eq!(answer(&mut stream).expect("an answer"), 1);
        assert!(children(self.pid()).is_empty(), "nothing is left of it");
        String::from_utf8_lossy(&done.stderr).into_owned()
    }
}

/// The children of a process, dead ones too.
fn children(of: Pid) -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let stats = processes.filter_map(|one| fs::read_to_string(one.path().join("stat")).ok());
    let parent = |stat: &String| {
        let fields = stat.rsplit(") ").next()?;
        fields.split(' ').nth(1)?.parse().ok()
    };
    stats
        .filter(|stat| parent(stat) == Some(of.as_raw()))
        .collect()
}

fn file_of(process: Pid) -> PathBuf {
    fs::read_link(format!("/proc/{process}/exe")).expect("a process")
}

fn report(done: &Output) -> Json {
    assert!(done.status.success(), "{done:?}");
    serde_json::from_slice(&done.stdout).expect("JSON")
}

/// Goal: no question is lost, the new process runs what is on disk, and can be upgraded itself.
#[test]
fn the_program_on_disk_becomes_the_node() {
    let installed = Installed::new();
    let (mut node, mut systemd) = installed.start();
    assert!(node.creator()(ASKED), "{}", node.said());
    let load = Load::begin(node.handle, 400);
    installed.replace(Path::new(env!("CARGO_BIN_EXE_jiexi")));
    let was = file_of(node.pid());
    assert!(was.to_string_lossy().ends_with("(deleted)"), "{was:?}");

    let upgrading = node.upgrading();
    let first = Stray(systemd.hear_main());
    let done = report(&upgrading.wait_with_output().expect("it ends"));
    assert_eq!(done["process"], first.0.as_raw());
    assert_eq!(done["before"], node.pid().as_raw());
    assert!(wait(&mut node.child).success(), "{}", node.said());
    assert_eq!(file_of(first.0), installed.path());

    let upgrading = node.upgrading();
    let second = Stray(systemd.hear_main());
    let done = report(&upgrading.wait_with_output().expect("it ends"));
    assert_eq!(done["process"], second.0.as_raw());
    first.wait_end();
    let line = fs::read_to_string(format!("/proc/{}/cmdline", second.0)).expect("a process");
    assert_eq!(line.matches("--take-over").count(), 1, "{line}");

    let tally = load.end();
    assert_eq!(tally.lost, 0, "{tally:?}\n{}", node.said());
    assert!(tally.sent > 0 && tally.sent == tally.answered, "{tally:?}");
    kill(second.0, Signal::SIGTERM).expect("told");
    assert_eq!(systemd.hear(), "STOPPING=1");
    second.wait_end();
    let none = node.upgrading().wait_with_output().expect("it ends");
    assert_eq!(none.status.code(), Some(3), "{none:?}");
}

/// Goal: a file that is no such program, or none, and a configuration that it cannot serve with, are told with their reason,
/// and change nothing; what is right again works.
#[test]
fn an_upgrade_that_fails_changes_nothing() {
    let installed = Installed::new();
    let (mut node, mut systemd) = installed.start();
    let program = installed.path();
    let shown = program.to_str().expect("text");

    installed.replace(Path::new("/bin/false"));
    let said = node.no_upgrade(1);
    assert!(
        said.contains("the node goes on as before")
            && said.contains(shown)
            && said.contains("exit status: 1"),
        "{said}"
    );
    fs::remove_file(&program).expect("removed");
    let said = node.no_upgrade(1);
    assert!(
        said.contains(shown) && said.contains("cannot be started"),
        "{said}"
    );

    installed.replace(Path::new(env!("CARGO_BIN_EXE_jiexi")));
    let good = fs::read_to_string(node.file()).expect("a file");
    let file = node.file();
    let with = |text: &str| fs::write(&file, text).expect("written");
    let history = "directory = \"history\"";
    assert!(good.contains(history), "{good}");
    with(&good.replace(history, "directory = \"/dev/null/none\""));
    let said = node.no_upgrade(1);
    assert!(
        said.contains(shown) && said.contains("/dev/null/none"),
        "{said}"
    );
    with(&format!("{good}\n[nonsense]\n"));
    let said = node.no_upgrade(1);
    assert!(
        said.contains("jiexi.toml") && said.contains("nonsense"),
        "{said}"
    );

    with(&good);
    let upgrading = node.upgrading();
    let heir = Stray(systemd.hear_main());
    report(&upgrading.wait_with_output().expect("it ends"));
    assert!(wait(&mut node.child).success(), "{}", node.said());
    kill(heir.0, Signal::SIGTERM).expect("told");
    heir.wait_end();
}

/// Goal: a process that fails to take over and does not end blocks no upgrade after it. Method: one that asks, goes away from
/// the control socket, and hangs.
#[test]
fn a_process_that_fails_and_hangs_is_ended() {
    let installed = Installed::new();
    let (mut node, mut systemd) = installed.start();
    let program = node.file().with_file_name("hangs");
    let (test, socket) = (
        std::env::current_exe().expect("this test"),
        node.file().with_file_name("control.sock"),
    );
    let script = format!(
        "#!/bin/sh\nexport JIEXI_FAKE_HEIR=hangs JIEXI_FAKE_SOCKET={}\nexec {} --exact handover::fake_heir --ignored --nocapture\n",
        socket.display(),
        test.display()
    );
    fs::write(&program, script).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("set");
    installed.replace(&program);
    let begun = Instant::now();
    let said = node.no_upgrade(1);
    assert!(said.contains("it did not end within"), "{said}");
    // Less than it has to ask.
    assert!(
        begun.elapsed() < Duration::from_secs(45),
        "{:?}",
        begun.elapsed()
    );
    let log = node.said();
    assert!(
        log.contains("upgrade.failed") && log.contains("it did not end within"),
        "{log}"
    );

    installed.replace(Path::new(env!("CARGO_BIN_EXE_jiexi")));
    let upgrading = node.upgrading();
    let heir = Stray(systemd.hear_main());
    report(&upgrading.wait_with_output().expect("it ends"));
    assert!(wait(&mut node.child).success(), "{}", node.said());
    kill(heir.0, Signal::SIGTERM).expect("told");
    heir.wait_end();
}

/// Goal: the old process stays until systemd knows the new one, however busy it is: it would take the old one's end for that
/// of the unit.
#[test]
fn the_old_process_waits_for_a_busy_systemd() {
    let installed = Installed::new();
    let (mut node, mut systemd) = installed.start();
    systemd.busy = Duration::from_secs(8);
    let upgrading = node.upgrading();
    let said = systemd.hear();
    let heir = said.strip_prefix("MAINPID=").expect("another process");
    let heir = Stray(Pid::from_raw(heir.parse().expect("a number")));
    // It waits here.
    assert_eq!(systemd.hear(), "BARRIER=1");
    assert!(
        node.child.try_wait().expect("a child").is_none(),
        "{}",
        node.said()
    );
    systemd.main = heir.0.as_raw();
    systemd.hear_ready();
    report(&upgrading.wait_with_output().expect("it ends"));
    assert!(wait(&mut node.child).success(), "{}", node.said());
    assert!(
        !node.said().contains("systemd.unconfirmed"),
        "{}",
        node.said()
    );
    kill(heir.0, Signal::SIGTERM).expect("told");
    heir.wait_end();
}

/// Goal: a node that is told to stop while an upgrade is under way stops, and whoever waits for the upgrade hears of it.
#[test]
fn a_node_stops_in_the_middle_of_an_upgrade() {
    let installed = Installed::new();
    let (mut node, mut systemd) = installed.start();
    // It hangs.
    let program = node.file().with_file_name("hangs");
    fs::write(&program, "#!/bin/sh\nexec sleep 1000\n").expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("set");
    installed.replace(&program);
    let upgrading = node.upgrading();
    let begun = Instant::now();
    while children(node.pid()).is_empty() {
        assert!(begun.elapsed() < PATIENCE, "{}", node.said());
        thread::sleep(LOOK);
    }
    let second = node.upgrading().wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("under way already"), "{said}");
    assert_eq!(second.status.code(), Some(4), "{said}");
    kill(node.pid(), Signal::SIGTERM).expect("told");
    assert!(wait(&mut node.child).success(), "{}", node.said());
    assert_eq!(systemd.hear(), "STOPPING=1");
    let told = upgrading.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&told.stderr);
    assert_eq!(told.status.code(), Some(1), "{said}");
    assert!(said.contains("the node stops"), "{said}");
}

/// Goal: a node whose end would be the end of its unit says so, and is left alone.
#[test]
fn a_unit_that_does_not_ask_for_its_main_process_is_restarted() {
    let node = Process::start(4_096, &[]);
    let said = node.no_upgrade(3);
    assert!(said.contains("Type=notify"), "{said}");
}

/// Goal: who stops the unit soon after an upgrade does not wait for connections that the old process still has.
#[test]
fn the_old_process_ends_when_the_unit_is_stopped() {
    let installed = Installed::new();
    let (mut node, mut systemd) = installed.start();
    let open = batch_under_way(&node);
    let upgrading = node.upgrading();
    let heir = Stray(systemd.hear_main());
    report(&upgrading.wait_with_output().expect("it ends"));
    assert!(node.child.try_wait().expect("a child").is_none());
    let begun = Instant::now();
    for process in [node.pid(), heir.0] {
        kill(process, Signal::SIGTERM).expect("told");
    }
    assert!(wait(&mut node.child).success(), "{}", node.said());
    heir.wait_end();
    // [handle] drain is 10 s; connections of a node that was given away have 60.
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
    drop(open);
}

/// Goal: the node is started anew at once when the new process dies while the old one still has connections: that one is what
/// systemd hears of. It ends when systemd knows what it was told, and leaves the dead process to it.
#[test]
fn the_old_process_ends_when_the_new_one_dies() {
    let installed = Installed::new();
    let (mut node, mut systemd) = installed.start();
    let open = batch_under_way(&node);
    let upgrading = node.upgrading();
    let heir = Stray(systemd.hear_of_main());
    kill(heir.0, Signal::SIGKILL).expect("killed");
    node.wait_said("the new process has died", 1);
    assert_eq!(children(node.pid()).len(), 1, "nobody has taken note of it");
    thread::sleep(20 * LOOK);
    let early = node.child.try_wait().expect("a child");
    assert!(early.is_none(), "{early:?}: systemd has not confirmed");
    let begun = Instant::now();
    assert_eq!(systemd.hear(), "BARRIER=1");
    let ended = wait(&mut node.child);
    assert_eq!(ended.code(), Some(1), "{}", node.said());
    // The batch has 60 s.
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
    let said = node.said();
    assert!(
        said.contains("handover.lost") && said.contains("signal 9"),
        "{said}"
    );
    upgrading.wait_with_output().expect("it ends");
    drop(open);
}

/// Goal: what the new process does because it was told to is nothing that the old one has to mend.
#[test]
fn the_old_process_goes_on_when_the_new_one_is_told_to_end() {
    let installed = Installed::new();
    let (mut node, mut systemd) = installed.start();
    let open = batch_under_way(&node);
    let upgrading = node.upgrading();
    let heir = Stray(systemd.hear_main());
    report(&upgrading.wait_with_output().expect("it ends"));
    kill(heir.0, Signal::SIGTERM).expect("told");
    heir.wait_end();
    thread::sleep(20 * LOOK);
    assert!(node.child.try_wait().expect("a child").is_none());
    drop(open);
    assert!(wait(&mut node.child).success(), "{}", node.said());
    assert!(!node.said().contains("handover.lost"), "{}", node.said());
}

/// Goal: a name that was found in `PATH` is looked up anew. Method: versions in directories of their own, with a link to one.
#[test]
fn a_name_in_path_leads_to_what_is_there_now() {
    let installed = Installed::new();
    let root = installed.directory.path();
    let (links, program) = (root.join("bin"), |version: &str| {
        root.join(version).join("jiexi")
    });
    fs::create_dir(&links).expect("made");
    for version in ["1", "2"] {
        fs::create_dir(root.join(version)).expect("made");
        fs::copy(env!("CARGO_BIN_EXE_jiexi"), program(version)).expect("copied");
    }
    let lead_to = |version: &str| {
        let fresh = links.join("new");
        symlink(program(version), &fresh).expect("linked");
        fs::rename(fresh, links.join("jiexi")).expect("set");
    };
    lead_to("1");
    let path = std::env::var("PATH").expect("a path");
    let path = format!("{}:{path}", links.display());
    let (mut node, mut systemd) =
        installed.start_by(Path::new("jiexi"), &[("PATH", path.as_str())]);
    assert_eq!(file_of(node.pid()), program("1"));
    lead_to("2");
    let upgrading = node.upgrading();
    let heir = Stray(systemd.hear_main());
    report(&upgrading.wait_with_output().expect("it ends"));
    assert_eq!(file_of(heir.0), program("2"));
    assert!(wait(&mut node.child).success(), "{}", node.said());
    kill(heir.0, Signal::SIGTERM).expect("told");
    heir.wait_end();
}
