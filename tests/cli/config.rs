//! Goal: every mistake in a configuration is named with file, line, key and remedy, all at once.

use std::fs;

use crate::support::{directory, jiexi, run};

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
    let text = "version = 1\n\n[handle]\nprot = 2641\ntcp_idle = 600\nudp_receive_buffer = \"4\"\n\n[opperations]\nlisten = \"\"\n";
    fs::write(directory.path().join("bad.toml"), text).expect("writes");
    let check = run(directory.path(), &["config", "check", "bad.toml"]).expect(1);
    let mut lines: Vec<&str> = check.stderr.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "jiexi: bad.toml:4: [handle] prot: unknown key; did you mean \"port\"?",
            "jiexi: bad.toml:5: [handle] tcp_idle: invalid type: integer `600`, expected a duration",
            "jiexi: bad.toml:6: [handle] udp_receive_buffer: size \"4\" has no unit; write for example \"4KiB\"",
            "jiexi: bad.toml:8: [opperations]: unknown section; did you mean \"operations\"?",
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
    assert_eq!(check("JIEXI_LOG_LEVEL", "loud").0, Some(1));
}
