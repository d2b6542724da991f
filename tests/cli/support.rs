//! Running the binary.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// What a run of the program gave.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// The run, if it ended with this exit code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

/// The program with no configuration from outside: an empty working directory and no variables of ours.
pub(crate) fn jiexi(directory: &Path) -> Command {
    let mut command = without_variables(Command::new(env!("CARGO_BIN_EXE_jiexi")));
    command.current_dir(directory);
    command
}

/// A command with no variables of ours.
pub(crate) fn without_variables(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("JIEXI_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs the program to its end.
pub(crate) fn run(directory: &Path, arguments: &[&str]) -> Run {
    run_with(directory, arguments, b"")
}

/// Runs the program to its end with something on its standard input.
pub(crate) fn run_with(directory: &Path, arguments: &[&str], input: &[u8]) -> Run {
    let mut command = jiexi(directory);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("is piped");
    let input = input.to_vec();
    // The program may end before it has read everything.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("ends");
    writer.join().expect("joins");
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// A directory that goes with the test. Its path is short, because a socket lies in it.
pub(crate) fn directory() -> TempDir {
    tempfile::Builder::new()
        .prefix("jx")
        .tempdir()
        .expect("temporary directory")
}

/// A node set up by `init` for prefix 88.118, in a directory of its own.
pub(crate) fn node(directory: &Path, name: &str) -> PathBuf {
    let arguments = [
        "init",
        "--prefix",
        "88.118",
        "--address",
        "127.0.0.1",
        "--data",
        name,
    ];
    run(directory, &arguments).expect(0);
    directory.join(name)
}

/// The recorded vectors.
pub(crate) fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/tests/vectors")
}
