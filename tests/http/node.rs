//! A node set up, filled and served, and curl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::ports::free_port;

/// The prefix of the node.
pub(crate) const PREFIX: &str = "88.118.20";
/// The user of Basic authentication, encoded, with the password.
pub(crate) const USER: &str = "300%3A88.118.20%2FUSER:geheim";
/// Patience with a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Records of every node: a user with a secret key, one of all kinds of values, one with an odd name.
const RECORDS: &str = r#"{"prefix":"88.118.21"}
{"handle":"88.118.20/USER","values":[{"index":100,"type":"HS_ADMIN","data":{"format":"admin","value":{"handle":"88.118.20/USER","index":300,"permissions":"111111111111"}}},{"index":300,"type":"HS_SECKEY","data":{"format":"string","value":"geheim"},"permissions":"1100"}]}
{"handle":"88.118.20/STRANGER","values":[{"index":1,"type":"NOTE","data":"x"},{"index":300,"type":"HS_SECKEY","data":{"format":"string","value":"fremd"},"permissions":"1100"}]}
{"handle":"88.118.20/pump","values":[{"index":1,"type":"URL","data":{"format":"string","value":"https://example.cn/pump/1"}},{"index":2,"type":"MODEL","data":{"format":"string","value":"离心泵"}},{"index":3,"type":"URL.MIRROR","data":"https://mirror.example.cn/1"},{"index":4,"type":"BIN","data":{"format":"hex","value":"00ff"}},{"index":5,"type":"HS_VLIST","data":{"format":"vlist","value":[{"handle":"0.NA/88.118.20","index":300}]}},{"index":9,"type":"SECRET","data":"for administrators","permissions":"1100"}]}
{"handle":"88.118.20/secret","values":[{"index":1,"type":"SECRET","data":"x","permissions":"1100"}]}
"#;

/// A node that runs.
pub(crate) struct Node {
    directory: tempfile::TempDir,
    settings: Vec<(String, String)>,
    process: Option<Child>,
    pub(crate) http: u16,
    pub(crate) handle: u16,
    pub(crate) operations: u16,
    /// Where DNS is served, if it is.
    pub(crate) dns: u16,
}

/// A zone for the handles of every prefix.
const ZONE: &str = r#"
[[dns.zones]]
name = "id.example.net"
mapping = "handle"
nameservers = ["ns1.example.net"]
mail = "hostmaster.example.net"
"#;

impl Node {
    /// A node with more settings, as variables of the environment.
    pub(crate) fn with(settings: &[(&str, &str)]) -> Self {
        let mut node = Self::prepared(settings);
        node.start();
        node
    }

    /// A node that serves DNS as well.
    pub(crate) fn with_dns() -> Self {
        let mut node = Self::prepared(&[]);
        for (name, value) in [
            ("JIEXI_DNS_ENABLED", "true"),
            ("JIEXI_DNS_LISTEN", "127.0.0.1"),
            ("JIEXI_DNS_PORT", &node.dns.to_string()),
        ] {
            node.settings.push((name.to_owned(), value.to_owned()));
        }
        let config = node.config();
        let before = fs::read_to_string(&config).expect("the configuration");
        fs::write(&config, before + ZONE).expect("writes");
        node.start();
        node
    }

    fn prepared(settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let node = Self {
            directory,
            settings: settings
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            process: None,
            http: free_port(),
            handle: free_port(),
            operations: free_port(),
            dns: free_port(),
        };
        let data = node.data();
        let set_up = [
            "init",
            "--prefix",
            PREFIX,
            "--address",
            "127.0.0.1",
            "--data",
        ];
        node.must(&[&set_up[..], &[data.to_str().expect("text")]].concat());
        node.import(RECORDS);
        node
    }

    /// A node as it is by default.
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// Another setting for the next start.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// How many files below `directory` its process has open, also such without a name.
    pub(crate) fn open_below(&self, directory: &Path) -> usize {
        let process = self.process.as_ref().expect("runs").id();
        let open = fs::read_dir(format!("/proc/{process}/fd")).expect("its files");
        // One may be closed meanwhile.
        open.filter_map(|file| fs::read_link(file.ok()?.path()).ok())
            .filter(|target| target.starts_with(directory))
            .count()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Takes records in.
    pub(crate) fn import(&self, records: &str) {
        let file = self.path("records.ndjson");
        fs::write(&file, records).expect("writes");
        self.must(&[
            "import",
            file.to_str().expect("text"),
            "--config",
            &self.config(),
        ]);
    }

    pub(crate) fn config(&self) -> String {
        self.data().join("jiexi.toml").display().to_string()
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jiexi"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("JIEXI_") {
                command.env_remove(name);
            }
        }
        command
            .env("JIEXI_HANDLE_LISTEN", "127.0.0.1")
            .env("JIEXI_HANDLE_PORT", self.handle.to_string())
            .env("JIEXI_HANDLE_DRAIN", "1s")
            .env("JIEXI_HTTP_LISTEN", "127.0.0.1")
            .env("JIEXI_HTTP_PORT", self.http.to_string())
            .env(
                "JIEXI_OPERATIONS_LISTEN",
                format!("127.0.0.1:{}", self.operations),
            )
            .env(
                "JIEXI_ADMINISTRATION_ADMINS",
                "300:88.118.20/USER,300:0.NA/88.118.20",
            )
            .env("JIEXI_ADMINISTRATION_FULL_ACCESS", "true")
            .env("JIEXI_STORE_DISK_FREE_MIN", "64MiB")
            .env("JIEXI_STORE_DISK_FREE_PERCENT", "0")
            .env("JIEXI_LOG_LEVEL", "warn,jiexi::server=info")
            .envs(self.settings.iter().cloned());
        command
    }

    /// Runs the program; its standard output.
    pub(crate) fn run(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.command().args(arguments).output().expect("runs");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8(text).expect("text"),
        )
    }

    /// As [`Self::run`]; it must end well.
    pub(crate) fn must(&self, arguments: &[&str]) -> String {
        let (good, text) = self.run(arguments);
        assert!(good, "{arguments:?}: {text}");
        text
    }

    /// Starts, and waits until it serves.
    pub(crate) fn start(&mut self) {
        let log = fs::File::create(self.path("log")).expect("writes");
        let mut command = self.command();
        command
            .args(["serve", "--config", &self.config()])
            .stdout(log.try_clone().expect("a file"))
            .stderr(log);
        self.process = Some(command.spawn().expect("starts"));
        let begun = Instant::now();
        let url = format!("http://127.0.0.1:{}/ready", self.operations);
        while !Command::new("curl")
            .args(["-sf", &url])
            .stdout(Stdio::null())
            .status()
            .expect("curl")
            .success()
        {
            assert!(begun.elapsed() < PATIENCE, "not ready: {}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Its memory, KiB.
    pub(crate) fn resident(&self) -> u64 {
        let process = self.process.as_ref().expect("runs").id();
        let status = fs::read_to_string(format!("/proc/{process}/status")).expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.expect("VmRSS").parse().expect("a number")
    }

    /// Ends it, without a farewell.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Ends it as an operator does.
    pub(crate) fn terminate(&mut self) {
        let mut process = self.process.take().expect("runs");
        let id = nix::unistd::Pid::from_raw(i32::try_from(process.id()).unwrap());
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).expect("own child");
        assert!(process.wait().expect("ends").success(), "{}", self.log());
    }

    /// Asks by curl; `path` begins with http: or https: and no host.
    pub(crate) fn ask(&self, scheme: &str, path: &str, arguments: &[&str]) -> Reply {
        let url = format!("{scheme}://127.0.0.1:{}{path}", self.http);
        curl(&[&["--path-as-is", &url][..], arguments].concat())
    }

    /// GET over plain HTTP.
    pub(crate) fn get(&self, path: &str) -> Reply {
        self.ask("http", path, &[])
    }

    /// Over HTTPS as the user.
    pub(crate) fn admin(&self, path: &str, arguments: &[&str]) -> Reply {
        self.ask("https", path, &[&["-u", USER][..], arguments].concat())
    }

    /// A figure of the scrape.
    pub(crate) fn metric(&self, line: &str) -> f64 {
        let url = format!("http://127.0.0.1:{}/metrics", self.operations);
        let text = curl(&[&url]).body;
        let found = text
            .lines()
            .find_map(|candidate| candidate.strip_prefix(line));
        let found = found.unwrap_or_else(|| panic!("no metric {line}"));
        found.trim().parse().expect("a number")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn code(&self) -> i64 {
        self.json()["responseCode"].as_i64().unwrap_or(-1)
    }

    /// Status and response code.
    pub(crate) fn both(&self) -> (u16, i64) {
        (self.status, self.code())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Runs curl.
pub(crate) fn curl(arguments: &[&str]) -> Reply {
    let output = Command::new("curl")
        .args([
            "-sk",
            "--max-time",
            "60",
            "-D",
            "/dev/stderr",
            "-w",
            "\n%{http_code}",
        ])
        .args(arguments)
        .output()
        .expect("curl is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').expect("a status");
    Reply {
        status: status.parse().expect("a number"),
        headers: String::from_utf8_lossy(&output.stderr).into_owned(),
        body: body.to_owned(),
    }
}

/// Writes a certificate and its key in PEM.
pub(crate) fn write_certificate(
    pair: &jiexi::identity::KeyPair,
    name: &str,
    certificate: &Path,
    key: &Path,
) {
    use base64::Engine as _;
    let made =
        jiexi::server::http::certificate::own(pair, name, &[[127, 0, 0, 1].into()], &["localhost"]);
    let jiexi::server::certificate::Origin::Made {
        certificate: der,
        key: private,
    } = made.expect("a certificate")
    else {
        panic!("not made");
    };
    let pem = |label: &str, der: &[u8]| {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        let lines: Vec<&str> = text
            .as_bytes()
            .chunks(64)
            .map(|line| std::str::from_utf8(line).unwrap())
            .collect();
        format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            lines.join("\n")
        )
    };
    fs::write(certificate, pem("CERTIFICATE", &der)).expect("writes");
    fs::write(key, pem("PRIVATE KEY", &private)).expect("writes");
}
