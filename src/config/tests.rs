//! Goal: the template, the defaults and the known keys are one fact, and problems name place, key and remedy.

use std::path::Path;

use toml::{Table, Value};

use super::{Config, TEMPLATE, load_text};

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load_text(text, Path::new("jiexi.toml"), environment).map_err(|problems| {
        problems
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    })
}

/// All keys of a table as `section.key`.
fn keys(table: &Table) -> Vec<String> {
    let mut found = Vec::new();
    for (name, value) in table {
        match value {
            Value::Table(section) => {
                found.extend(section.keys().map(|key| format!("{name}.{key}")))
            }
            _ => found.push(name.clone()),
        }
    }
    found.sort();
    found
}

#[test]
fn template_equals_defaults_and_shows_every_key() {
    assert_eq!(
        load(TEMPLATE, &[]).expect("template loads"),
        Config::default()
    );
    // A key that is written as tables of its own stands there as a comment.
    let template = TEMPLATE.replace("\n# zones = []\n", "\nzones = []\n");
    let template: Table = template.parse().expect("template parses");
    let defaults = Table::try_from(Config::default()).expect("defaults serialise");
    assert_eq!(keys(&template), keys(&defaults));
}

#[test]
fn minimal_example_loads() {
    let config = load(include_str!("../../config/minimal.toml"), &[]).expect("minimal loads");
    assert_eq!(config.node.data, Path::new("/var/lib/jiexi"));
    assert_eq!(config.handle, Config::default().handle);
}

/// Goal: an address is a network of one, as people write it; what is neither is said to be so.
#[test]
fn addresses_among_networks() {
    let load = |allow: &str| {
        let text = format!("version = 1\n[operations]\nallow = [{allow}]\n");
        load_text(&text, Path::new("jiexi.toml"), std::iter::empty())
    };
    let config = load(r#""10.77.0.2", "10.1.0.0/16", "fd00::1""#).unwrap();
    let shown: Vec<_> = config
        .operations
        .allow
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(shown, ["10.77.0.2/32", "10.1.0.0/16", "fd00::1/128"]);
    let problems = load(r#""10.77""#).unwrap_err();
    let told = problems[0].to_string();
    assert!(
        told.contains("jiexi.toml:3: [operations] allow") && told.contains("is no network"),
        "{told}"
    );
}

#[test]
fn problems_name_place_key_and_remedy() {
    for (text, expected) in [
        (
            "version = 1\n[handle]\nprot = 1\n",
            "jiexi.toml:3: [handle] prot: unknown key; did you mean \"port\"?",
        ),
        (
            "version = 1\n\n[handel]\nport = 1\n",
            "jiexi.toml:3: [handel]: unknown section; did you mean \"handle\"?",
        ),
        (
            "version = 1\n[log]\nlevle = 1\nformat = \"xml\"",
            concat!(
                "jiexi.toml:4: [log] format: unknown value \"xml\"; there are text, json\n",
                "jiexi.toml:3: [log] levle: unknown key; did you mean \"level\"?"
            ),
        ),
        (
            "[handle]\nport = 1\n",
            "jiexi.toml:1: version is missing; the first line of the file should be `version = 1`",
        ),
        (
            "version = 2\n",
            "jiexi.toml:1: version: layout version 2 is not known; this program reads version 1",
        ),
        (
            "version = 1\n[handle]\nport = 1\nport = 2\n",
            "jiexi.toml:4: port: is set twice; take one of the two lines out",
        ),
        (
            "version = 1\n[administration]\nadmins = [\"300:0.NA/1\", \"foo\"]\n",
            "jiexi.toml:3: [administration] admins: \"foo\" must be index:handle, such as 300:0.NA/88.118",
        ),
        (
            "version = 1\n[administration]\nreplication_admins = [\"x:0.NA/1\"]\n",
            "jiexi.toml:3: [administration] replication_admins: \"x:0.NA/1\" must be index:handle, such as 300:0.NA/88.118",
        ),
        (
            "version = 1\nhandle = 5\n",
            "jiexi.toml:2: handle: is a section; write [handle] on a line of its own",
        ),
        (
            "version = 1\n[handle]\nudp_receive_buffer = \"4096\"\n",
            "jiexi.toml:3: [handle] udp_receive_buffer: size \"4096\" has no unit; write for example \"4096KiB\"",
        ),
        (
            "version = 1\n[handle]\nudp_receive_buffer = 4096\n",
            "jiexi.toml:3: [handle] udp_receive_buffer: expected a size in quotes with its unit, such as \"4MiB\"",
        ),
        (
            "version = 1\n[handle]\ntcp_idle = \"1ms\"\n",
            "jiexi.toml:3: [handle] tcp_idle: is below 100ms; no client could be served",
        ),
    ] {
        assert_eq!(load(text, &[]).expect_err(text), expected, "{text}");
    }
}

#[test]
fn values_of_a_wrong_type_or_range_name_their_line() {
    for (text, place) in [
        (
            "version = 1\n[handle]\nport = 70000\n",
            "jiexi.toml:3: [handle] port: ",
        ),
        (
            "version = 1\n[handle]\ntcp_idle = 600\n",
            "jiexi.toml:3: [handle] tcp_idle: ",
        ),
        (
            "version = 1\n[handle]\ntcp_idle = \"ten\"\n",
            "jiexi.toml:3: [handle] tcp_idle: ",
        ),
        (
            "version = 1\n[handle]\nlisten = [\"everywhere\"]\n",
            "jiexi.toml:3: [handle] listen: ",
        ),
        (
            "version = 1\n[log]\nlevel = \"jiexi=loud\"\n",
            "jiexi.toml:3: [log] level: ",
        ),
        ("version = 1\n[handle\n", "jiexi.toml:2: "),
    ] {
        let problems = load(text, &[]).expect_err(text);
        assert!(
            problems.starts_with(place) && problems.lines().count() == 1,
            "{text}: {problems}"
        );
    }
}

#[test]
fn environment_overrides_the_file_by_type() {
    let config = load(
        "version = 1\n[handle]\nport = 1\n",
        &[
            ("JIEXI_HANDLE_PORT", "12641"),
            ("JIEXI_HANDLE_LISTEN", "127.0.0.1, ::1"),
            ("JIEXI_HANDLE_TCP_IDLE", "5s"),
            ("JIEXI_LOG_FORMAT", "json"),
            ("JIEXI_SERVICE_HOST", "10.0.0.1"),
            ("JIEXI_SERVICE_PORT", "2641"),
            ("JIEXI_PORT_2641_TCP_PORT", "2641"),
            ("JIEXI_PORT", "tcp://10.0.0.1:2641"),
            ("HOME", "/"),
        ],
    )
    .expect("loads");
    assert_eq!(config.handle.port, 12641);
    assert_eq!(config.handle.listen.len(), 2);
    assert_eq!(config.handle.tcp_idle.as_secs(), 5);
    assert_eq!(config.log.format, super::LogFormat::Json);
}

#[test]
fn environment_problems_name_the_variable() {
    for (name, value, expected) in [
        (
            "JIEXI_HANDLE_PROT",
            "1",
            "environment JIEXI_HANDLE_PROT: [handle] prot: unknown key; did you mean \"port\"?",
        ),
        (
            "JIEXI_HANDEL_PORT",
            "1",
            "environment JIEXI_HANDEL_PORT: [handel]: unknown section; did you mean \"handle\", that is JIEXI_HANDLE_PORT?",
        ),
        (
            "JIEXI_HANDLE_PORT",
            "x",
            "environment JIEXI_HANDLE_PORT: [handle] port: \"x\" is not a whole number",
        ),
        (
            "JIEXI_HANDLE_CONNECTIONS_MAX",
            "0",
            "environment JIEXI_HANDLE_CONNECTIONS_MAX: [handle] connections_max: is 0; no connection could be opened",
        ),
    ] {
        assert_eq!(
            load("version = 1\n", &[(name, value)]).expect_err(name),
            expected
        );
    }
}
