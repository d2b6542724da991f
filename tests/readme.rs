//! Goal: a reader who types what the README says gets what it says. Method: every `sh` block is run in order with
//! bash, each `##` section in a fresh directory; a `sh server` block is started, waited for and left running until
//! its section ends; a `sh not-here` block is left to CI.
//!
//! `cargo run --release --` and `jiexi` both mean the program under test, and the ports are moved out of the way.

#![expect(
    clippy::expect_used,
    reason = "helpers of a test: a failed assumption is a failed test"
)]

#[path = "support/ports.rs"]
mod ports;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::ports::free_port;

const README: &str = include_str!("../README.md");
/// Filling the demo node is the longest that any server takes.
const READY_WITHIN: Duration = Duration::from_secs(120);

#[derive(Debug, PartialEq)]
enum Kind {
    Run,
    Server,
}

#[derive(Debug)]
struct Block {
    line: usize,
    section: String,
    kind: Kind,
    script: String,
}

/// The blocks to run, in order.
fn blocks(text: &str) -> Vec<Block> {
    let (mut found, mut section, mut open) = (Vec::new(), String::new(), None::<Option<Block>>);
    for (number, line) in text.lines().enumerate() {
        match &mut open {
            Some(block) if line == "```" => {
                found.extend(block.take());
                open = None;
            }
            Some(Some(block)) => block.script += &format!("{line}\n"),
            Some(None) => {}
            None if line.starts_with("## ") => section = line.to_owned(),
            None => {
                let Some(info) = line.strip_prefix("```") else {
                    continue;
                };
                let kind = match info {
                    "sh" => Some(Kind::Run),
                    "sh server" => Some(Kind::Server),
                    "sh not-here" | "text" | "toml" | "json" => None,
                    _ => panic!("README.md:{}: unknown kind of block {info:?}", number + 1),
                };
                let section = section.clone();
                open = Some(kind.map(|kind| Block {
                    line: number + 2,
                    section,
                    kind,
                    script: String::new(),
                }));
            }
        }
    }
    assert!(open.is_none(), "README.md: a block is not closed");
    found
}

/// A directory that goes when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("jiexi-readme-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("the temporary directory can be written");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server of the current section.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything a block is run with.
struct Shell {
    /// Holds `cargo` and `jiexi`, which both start the program under test.
    programs: Scratch,
    handle_port: u16,
    operations_port: u16,
    http_port: u16,
    /// Ports of a second node: those that the README has for it, and what they become.
    second: [(&'static str, u16); 3],
}

impl Shell {
    fn new() -> Self {
        let shell = Self {
            programs: Scratch::new("programs"),
            handle_port: free_port(),
            operations_port: free_port(),
            http_port: free_port(),
            second: ["2642", "8001", "9642"].map(|port| (port, free_port())),
        };
        let jiexi = env!("CARGO_BIN_EXE_jiexi");
        // `resolve` asks port 2641 unless told otherwise.
        let program = format!(
            "#!/bin/bash\nif [[ $1 == resolve && \" $* \" != *' --server '* ]]; then\n  \
             exec {jiexi} \"$@\" --server 127.0.0.1:{}\nfi\nexec {jiexi} \"$@\"\n",
            shell.handle_port
        );
        shell.program("jiexi", &program);
        shell.program(
            "cargo",
            "#!/bin/bash\n[[ \"$1 $2 $3\" == 'run --release --' ]] || exit 99\nshift 3\nexec jiexi \"$@\"\n",
        );
        shell
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.programs.0.join(name);
        fs::write(&path, text).expect("the temporary directory can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("own file");
    }

    /// Bash with the block's commands; a failing command ends it.
    fn command(&self, script: &str, directory: &Path) -> Command {
        // By way of a character that no command has, since a free port may contain the other's digits.
        let mut script = script.to_owned();
        for (place, (port, _)) in ["\u{3}", "\u{4}", "\u{5}"].into_iter().zip(self.second) {
            script = script.replace(port, place);
        }
        let mut script = script
            .replace("9641", "\u{1}")
            .replace("8000", "\u{2}")
            .replace("2641", &self.handle_port.to_string())
            .replace('\u{1}', &self.operations_port.to_string())
            .replace('\u{2}', &self.http_port.to_string());
        for (place, (_, port)) in ["\u{3}", "\u{4}", "\u{5}"].into_iter().zip(self.second) {
            script = script.replace(place, &port.to_string());
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command
            .args(["-euo", "pipefail", "-c", &script])
            .current_dir(directory)
            .env("PATH", format!("{}:{path}", self.programs.0.display()))
            .env("JIEXI_HANDLE_PORT", self.handle_port.to_string())
            .env("JIEXI_HANDLE_LISTEN", "127.0.0.1")
            .env("JIEXI_HTTP_PORT", self.http_port.to_string())
            .env("JIEXI_HTTP_LISTEN", "127.0.0.1")
            .env(
                "JIEXI_OPERATIONS_LISTEN",
                format!("127.0.0.1:{}", self.operations_port),
            )
            .stdin(Stdio::null());
        command
    }

    /// Starts a server block, whose last command becomes the process itself, and waits until it is ready.
    fn serve(&self, block: &Block, directory: &Path) -> Server {
        let script = format!("exec {}", block.script.trim());
        let log = directory.join("server.log");
        let output = fs::File::create(&log).expect("the temporary directory can be written");
        let mut command = self.command(&script, directory);
        command
            .stdout(output.try_clone().expect("a file"))
            .stderr(output);
        let mut server = Server(command.spawn().expect("bash is installed"));
        let begun = Instant::now();
        while !self.ready() {
            let ended = server.0.try_wait().expect("own child");
            if ended.is_some() || begun.elapsed() > READY_WITHIN {
                let said = fs::read_to_string(&log).unwrap_or_default();
                panic!("README.md:{}: not ready ({ended:?}):\n{said}", block.line);
            }
            thread::sleep(Duration::from_millis(50));
        }
        server
    }

    fn ready(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.operations_port)) else {
            return false;
        };
        let mut answer = String::new();
        let request = b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .is_ok()
            && stream.write_all(request).is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.starts_with("HTTP/1.1 200")
    }
}

#[test]
fn every_command_of_the_readme_works() {
    let shell = Shell::new();
    let mut place: Option<(String, Scratch, Vec<Server>)> = None;
    let mut commands = 0;
    for block in blocks(README) {
        if place
            .as_ref()
            .is_none_or(|(section, ..)| *section != block.section)
        {
            drop(place.take());
            place = Some((
                block.section.clone(),
                Scratch::new(&block.line.to_string()),
                Vec::new(),
            ));
        }
        let Some((_, scratch, servers)) = &mut place else {
            unreachable!("set above")
        };
        if block.kind == Kind::Server {
            servers.push(shell.serve(&block, &scratch.0));
            continue;
        }
        let output = shell
            .command(&block.script, &scratch.0)
            .output()
            .expect("bash is installed");
        assert!(
            output.status.success(),
            "README.md:{}: {}\n{}\nstdout:\n{}\nstderr:\n{}",
            block.line,
            output.status,
            block.script,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        commands += 1;
    }
    assert!(
        commands >= 4,
        "only {commands} blocks of the README were run"
    );
}

/// The promise "two commands": the demo, and a test command that CI finds between its markers.
#[test]
fn the_readme_has_the_two_commands() {
    assert!(README.contains("```sh server\ncargo run --release -- serve --demo\n```"));
    let between = README
        .split_once("<!-- test command -->")
        .and_then(|(_, rest)| rest.split_once("<!-- end of test command -->"))
        .map(|(between, _)| {
            between
                .lines()
                .filter(|line| line.starts_with("cargo "))
                .count()
        });
    assert_eq!(
        between,
        Some(1),
        "exactly one test command between the markers"
    );
    let ci = include_str!("../.ci/run");
    assert!(
        ci.contains("<!-- test command -->"),
        ".ci/run takes the test command from the README"
    );
}

#[test]
fn blocks_are_told_apart() {
    let text = "## A\n```sh\na\nb\n```\n```text\nno\n```\n## B\n```sh server\nc\n```\n```sh not-here\nd\n```\n";
    let found: Vec<_> = blocks(text)
        .into_iter()
        .map(|block| (block.line, block.section, block.kind, block.script))
        .collect();
    assert_eq!(
        found,
        [
            (3, "## A".to_owned(), Kind::Run, "a\nb\n".to_owned()),
            (11, "## B".to_owned(), Kind::Server, "c\n".to_owned()),
        ]
    );
}
