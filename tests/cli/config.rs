//! Goal: every mistake in a configuration is named with file, line, key and remedy, all at once.

use std::{fs, net::UdpSocket};

use crate::{
    ports::free_port,
    support::{directory, jiexi, node, run},
};

#[test]
fn the_template_is_a_valid_configuration() {
    let directory = directory();
    let template = run(directory.path(), &["config", "template"])
        .expect(0)
        .stdout;
    assert_eq!(template, include_str!("../../config/jiexi.toml"));
    fs::write(directory.path().join("jiexi.toml"), template).expect("writes");
    let check = run(directory.path(), &["config", "check"]).expect(0);
    assert_eq!(check.stdout, "jiexi.toml: no problems\n");
}

#[test]
fn all_problems_are_named_with_their_place() {
    let directory = directory();
    let text = "version = 1\n\n[handle]\nprot = 2641\ntcp_idle = 600\nudp_receive_buffer = \"4\"\nudp_workers = 70000\namplification_ipv6_prefix = 64\n\n[opperations]\nlisten = \"\"\n";
    fs::write(directory.path().join("bad.toml"), text).expect("writes");
    let check = run(directory.path(), &["config", "check", "bad.toml"]).expect(1);
    let mut lines: Vec<&str> = check.stderr.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "jiexi: bad.toml:10: [opperations]: unknown section; did you mean \"operations\"?",
            "jiexi: bad.toml:4: [handle] prot: unknown key; did you mean \"port\"?",
            "jiexi: bad.toml:5: [handle] tcp_idle: must be a time in quotes with its unit, such as \"30s\", and is 600",
            "jiexi: bad.toml:6: [handle] udp_receive_buffer: size \"4\" has no unit; write for example \"4KiB\"",
            "jiexi: bad.toml:7: [handle] udp_workers: must be a number from 0 to 65535, and is 70000",
            "jiexi: bad.toml:8: [handle] amplification_ipv6_prefix: must lie between 16 and 56; smaller networks than /56 are in one hand",
        ]
    );
}

#[test]
fn the_environment_overrides_and_is_checked() {
    let directory = directory();
    fs::write(directory.path().join("jiexi.toml"), "version = 1\n").expect("writes");
    let check = |name: &str, value: &str| {
        let output = jiexi(directory.path())
            .args(["config", "check"])
            .env(name, value)
            .output()
            .expect("runs");
        (
            output.status.code(),
            String::from_utf8(output.stderr).expect("UTF-8"),
        )
    };
    assert_eq!(check("JIEXI_HANDLE_PORT", "12641").0, Some(0));
    assert_eq!(
        check("JIEXI_HANDLE_PROT", "12641"),
        (Some(1), "jiexi: environment JIEXI_HANDLE_PROT: [handle] prot: unknown key; did you mean \"port\"?\n".into())
    );
    assert_eq!(
        check("JIEXI_DNS_PORT", "70000"),
        (Some(1), "jiexi: environment JIEXI_DNS_PORT: [dns] port: must be a number from 0 to 65535, and is 70000\n".into())
    );
    assert_eq!(check("JIEXI_LOG_LEVEL", "loud").0, Some(1));
    let (code, said) = check("JIEXI_HANDEL_PORT", "12641");
    assert_eq!(code, Some(1));
    assert!(
        said.contains("did you mean \"handle\", that is JIEXI_HANDLE_PORT?"),
        "{said}"
    );
    assert_eq!(
        check("JIEXI_SERVICE_PORT", "12641").0,
        Some(0),
        "of Kubernetes"
    );
}

/// Goal: a node that cannot have its port says what is to be done, and what it warns of names its setting once. Method: a
/// socket of the test has the port; no kernel grants so large a buffer unless it is told to.
#[test]
fn a_port_that_is_taken_says_what_to_do() {
    let directory = directory();
    node(directory.path(), "a");
    let port = free_port();
    let _taken = UdpSocket::bind(("127.0.0.1", port)).expect("a port");
    let output = jiexi(directory.path())
        .args(["serve", "--config", "a/jiexi.toml"])
        .env("JIEXI_HANDLE_LISTEN", "127.0.0.1")
        .env("JIEXI_HANDLE_PORT", port.to_string())
        .env("JIEXI_HANDLE_UDP_RECEIVE_BUFFER", "1GiB")
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(1));
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    for words in [
        &format!("[handle]: cannot listen on UDP 127.0.0.1:{port}: "),
        "another process listens there",
        "change [handle] port or listen",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let largest = fs::read_to_string("/proc/sys/net/core/rmem_max").expect("a limit");
    let warned = largest.trim().parse::<u64>().expect("a number") < 1 << 30;
    assert_eq!(
        said.matches("udp_receive_buffer").count(),
        usize::from(warned),
        "{said}"
    );
    assert_eq!(
        said.matches("lower [handle] udp_receive_buffer").count(),
        usize::from(warned),
        "{said}"
    );
}

/// Goal: what `serve` would refuse, `config check` refuses in the same words, with file, line and key. Method: one mistake
/// after the other in the file that `init` has written.
#[test]
fn the_check_finds_what_serve_refuses() {
    let directory = directory();
    node(directory.path(), "a");
    let path = directory.path().join("a/jiexi.toml");
    let good = fs::read_to_string(&path).expect("reads");
    let line_of = |text: &str, key: &str| {
        let is = |line: &str| line.starts_with(key);
        1 + text.lines().position(is).expect("the key")
    };
    for (key, from, to, words) in [
        (
            "admins",
            "admins = [\"300:0.NA/88.118\"]",
            "admins = [\"foo\"]",
            "[administration] admins: \"foo\" must be index:handle",
        ),
        (
            "replication_admins",
            "replication_admins = []",
            "replication_admins = [\"foo\"]",
            "[administration] replication_admins: \"foo\" must be index:handle",
        ),
        (
            "certificate",
            "certificate = \"\"\nkey = \"\"",
            "certificate = \"nope.pem\"\nkey = \"node.key\"",
            "[http] certificate: a/nope.pem: No such file",
        ),
        (
            "certificate",
            "certificate = \"\"\nkey = \"\"",
            "certificate = \"site.json\"\nkey = \"node.key\"",
            "[http] certificate: ",
        ),
        (
            "audit",
            "audit = \"audit\"",
            "audit = \"/proc/nope\"",
            "[administration] audit: /proc/nope: ",
        ),
        (
            "port",
            "port = 2641",
            "port = 8000",
            "[handle] port: TCP 0.0.0.0:8000 is listened on by [http] port, too; give one of the two",
        ),
        (
            "listen = \"127",
            "listen = \"127.0.0.1:9641\"",
            "listen = \"127.0.0.1:8000\"",
            "[operations] listen: TCP 127.0.0.1:8000 is listened on by [http] port, too; give one of the two",
        ),
        (
            "listen",
            "listen = [\"0.0.0.0\", \"::\"]",
            "listen = [\"0.0.0.0\", \"127.0.0.1\"]",
            "[handle] listen: names 0.0.0.0 and 127.0.0.1, of which one is part of the other; take one",
        ),
        (
            "spool = ",
            "spool = \"spool\"",
            "spool = \"site.json\"",
            "[batch] spool: a/site.json: Not a directory",
        ),
        (
            "directory",
            "directory = \"jobs\"",
            "directory = \"site.json\"",
            "[jobs] directory: a/site.json: Not a directory",
        ),
        (
            "socket",
            "socket = \"control.sock\"",
            "socket = \"run/control.sock\"",
            "[control] socket: a/run: No such file or directory (os error 2); make this directory, or name",
        ),
        (
            "socket",
            "socket = \"control.sock\"",
            "socket = \"/proc/control.sock\"",
            "[control] socket: /proc: ",
        ),
        (
            "socket",
            "socket = \"control.sock\"",
            "socket = \"site.json\"",
            "[control] socket: a/site.json exists and is not a socket; name another file",
        ),
    ] {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "{from}");
        fs::write(&path, &text).expect("writes");
        let expected = format!("jiexi: a/jiexi.toml:{}: {words}", line_of(&text, key));
        let check = run(directory.path(), &["config", "check", "a/jiexi.toml"]).expect(1);
        assert!(
            check.stderr.contains(&expected),
            "{expected}: {}",
            check.stderr
        );
        let serve = run(directory.path(), &["serve", "--config", "a/jiexi.toml"]).expect(1);
        assert_eq!(serve.stderr, check.stderr);
    }
    fs::write(&path, good).expect("writes");
    run(directory.path(), &["config", "check", "a/jiexi.toml"]).expect(0);
    assert!(
        !directory.path().join("a/audit").exists(),
        "nothing is left behind"
    );
}
