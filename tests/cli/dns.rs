//! DNS from the command line: a node with a zone, asked, checked and exported, running and stopped.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::ports::free_port;
use super::support::{directory, jiexi, node, run, run_with};

const ZONE: &str = r#"
[[dns.zones]]
name = "id.example.net"
mapping = "handle"
nameservers = ["ns1.example.net"]
mail = "hostmaster.example.net"
"#;

const RECORD: &[u8] = br#"{"handle":"88.118/CNC-1","values":[{"index":1,"type":"URL","data":{"format":"string","value":"https://id.example/cnc-1"},"ttl":600}]}
{"handle":"88.118/EMPTY","values":[{"index":1,"type":"DESC","data":{"format":"string","value":"no record"}}]}
"#;

#[test]
fn a_zone_is_served_checked_and_exported() {
    let directory = directory();
    let data = node(directory.path(), "a");
    let file = data.join("jiexi.toml");
    let before = std::fs::read_to_string(&file).expect("the configuration");
    std::fs::write(&file, format!("{before}{ZONE}")).expect("written");
    run_with(directory.path(), &["import", "-", "--data", "a"], RECORD).expect(0);

    let stopped = run(
        directory.path(),
        &["dns", "zone", "export", "id.example.net", "--data", "a"],
    )
    .expect(0);
    assert!(stopped.stdout.contains("\ncnc-1.88-118 600 IN NAPTR 10 10 \"u\" \"http+I2L\" \"!^.*$!https://id.example/cnc-1!\" .\n"), "{}", stopped.stdout);
    let missing = run(
        directory.path(),
        &["dns", "zone", "export", "other.example", "--data", "a"],
    )
    .expect(3);
    assert!(
        missing.stderr.contains("id.example.net."),
        "{}",
        missing.stderr
    );

    let node = Serving::start(directory.path(), "a");
    let server = node.server.as_str();
    let ask = |arguments: &[&str]| {
        let all = [
            &["resolve", "--dns", "id.example.net", "--server", server],
            arguments,
        ]
        .concat();
        run(directory.path(), &all)
    };
    for transport in [&[][..], &["--udp"], &["--tcp"]] {
        let found = ask(&[&["88.118/CNC-1"][..], transport].concat()).expect(0);
        assert!(
            found.stdout.contains("https://id.example/cnc-1"),
            "{}",
            found.stdout
        );
    }
    let json = ask(&["88.118/CNC-1", "-o", "json"]).expect(0).json();
    assert_eq!(json["name"], "cnc-1.88-118.id.example.net.");
    assert_eq!(json["records"][0]["ttl"], 600);
    assert_eq!(json["records"][1]["type"], "URI");
    ask(&["88.118/NONE"]).expect(3);
    ask(&["88.118/EMPTY"]).expect(3);

    let report = run(
        directory.path(),
        &["dns", "zone", "check", "--data", "a", "-o", "json"],
    )
    .expect(0)
    .json();
    let zone = &report["zones"][0];
    assert_eq!(zone["zone"], "id.example.net.");
    assert_eq!(zone["without_records"], 1, "{report}");
    let running = run(
        directory.path(),
        &["dns", "zone", "export", "id.example.net", "--data", "a"],
    )
    .expect(0);
    assert_eq!(
        running.stdout, stopped.stdout,
        "a running node exports the same"
    );

    let metrics = get(node.operations, "/metrics");
    assert!(
        metrics.contains(r#"jiexi_requests_total{op="resolve",protocol="dns",transport="udp"}"#)
    );
}

/// Zones of every kind, over the same records.
const ZONES: &str = r#"
[[dns.zones]]
name = "text.example.net"
mapping = "handle"
handles = "88.118/"
nameservers = ["ns1.example.net"]
mail = "hostmaster.example.net"

[[dns.zones]]
name = "oid.example.net"
mapping = "oid"
handles = "88.118/"
nameservers = ["ns1.example.net"]
mail = "hostmaster.example.net"

[[dns.zones]]
name = "gs1.example.net"
mapping = "gs1"
handles = "88.118/"
nameservers = ["ns1.example.net"]
mail = "hostmaster.example.net"
"#;

/// A line of an import.
fn record(handle: &str, urls: &[String]) -> String {
    let values: Vec<_> = urls
        .iter()
        .zip(1..)
        .map(|(url, index)| {
            let data = serde_json::json!({"format": "string", "value": url});
            serde_json::json!({"index": index, "type": "URL", "data": data})
        })
        .collect();
    format!(
        "{}\n",
        serde_json::json!({"handle": handle, "values": values})
    )
}

/// Goal: `resolve --dns` finds what is there, by every mapping. Method: the configuration says how names make handles, then
/// the options alone do, from a directory that knows no node.
#[test]
fn resolve_asks_for_the_name_that_the_zone_has() {
    let directory = directory();
    let data = node(directory.path(), "a");
    let file = data.join("jiexi.toml");
    let before = std::fs::read_to_string(&file).expect("the configuration");
    std::fs::write(&file, format!("{before}{ZONE}{ZONES}")).expect("written");
    let long: Vec<String> = (1..=9)
        .map(|n| format!("https://id.example/{}{n}", "h".repeat(200)))
        .collect();
    let url = |name: &str| [format!("https://id.example/{name}")];
    let records = [
        record("88.118/CNC-1", &url("cnc-1")),
        record("88.118/HUGE", &long),
        record("88.118/1.2.156.3", &url("oid")),
        record("88.118/06901234567892", &url("gtin")),
    ];
    run_with(
        directory.path(),
        &["import", "-", "--data", "a"],
        records.concat().as_bytes(),
    )
    .expect(0);
    let node = Serving::start(directory.path(), "a");
    let ask = |handle: &str, zone: &str, more: &[&str]| {
        let all = ["resolve", handle, "--dns", zone, "--server", &node.server];
        run(directory.path(), &[&all[..], more].concat())
    };
    let oid = "3.156.2.1.oid.example.net.";
    let gtin = "9.8.7.6.5.4.3.2.1.0.9.6.0.gs1.example.net.";
    for (handle, zone, options, name, found) in [
        (
            "88.118/CNC-1",
            "text.example.net",
            &["--handles", "88.118/"][..],
            "cnc-1.text.example.net.",
            "cnc-1",
        ),
        (
            "88.118/1.2.156.3",
            "oid.example.net",
            &["--mapping", "oid"][..],
            oid,
            "oid",
        ),
        (
            "1.2.156.3",
            "oid.example.net",
            &["--mapping", "oid"][..],
            oid,
            "oid",
        ),
        (
            "88.118/06901234567892",
            "gs1.example.net",
            &["--mapping", "gs1", "--handles", "88.118/"][..],
            gtin,
            "gtin",
        ),
        (
            "06901234567892",
            "gs1.example.net",
            &["--mapping", "gs1"][..],
            gtin,
            "gtin",
        ),
    ] {
        for how in [&["--data", "a"][..], options] {
            let json = ask(handle, zone, &[how, &["-o", "json"]].concat())
                .expect(0)
                .json();
            assert_eq!(json["name"], name, "{json}");
            let text = json["records"].to_string();
            assert!(
                text.contains(&format!("https://id.example/{found}")),
                "{text}"
            );
        }
    }
    // What the zone cannot have is not said to be missing.
    let data = &["--data", "a"][..];
    let other = ask("88.119/CNC-1", "text.example.net", data).expect(1);
    assert!(
        other.stderr.contains("whose handles begin with 88.118/"),
        "{}",
        other.stderr
    );
    let no_oid = ask("88.118/CNC-1", "oid.example.net", data).expect(1);
    assert!(
        no_oid.stderr.contains("no object identifier"),
        "{}",
        no_oid.stderr
    );
    ask("88.118/CNC-1", "id.example.net", &["--handles", "88.118"]).expect(2);
    run(
        directory.path(),
        &["resolve", "88.118/CNC-1", "--mapping", "oid"],
    )
    .expect(2);

    // Too long for UDP: over TCP, or that is said.
    let whole = ask("88.118/HUGE", "id.example.net", &["--trace"]).expect(0);
    assert_eq!(
        whole.stdout.matches(" NAPTR ").count(),
        9,
        "{}",
        whole.stdout
    );
    for line in [
        "UDP huge.88-118.id.example.net. URI: No Error (0 records, cut)",
        "TCP huge.88-118.id.example.net. URI: No Error (9 records)",
    ] {
        assert!(whole.stderr.contains(line), "{}", whole.stderr);
    }
    assert!(!whole.stderr.contains("Unknown"), "{}", whole.stderr);
    let cut = ask("88.118/HUGE", "id.example.net", &["--udp"]).expect(1);
    assert!(
        cut.stderr
            .contains("too long for UDP and was cut; ask without --udp"),
        "{}",
        cut.stderr
    );

    // The prefix has the site of the node, with its ports below its name.
    let prefix = ask("0.NA/88.118", "id.example.net", &["-o", "json"])
        .expect(0)
        .json();
    let records = prefix["records"].as_array().expect("records");
    let of = |kind: &str| -> Vec<&str> {
        let of = records.iter().filter(|record| record["type"] == kind);
        of.filter_map(|record| record["name"].as_str()).collect()
    };
    assert_eq!(of("A"), ["88-118.id.example.net."], "{prefix}");
    let ports = ["_tcp", "_udp"].map(|over| format!("_hdl-srv.{over}.88-118.id.example.net."));
    assert_eq!(of("SRV"), ports, "{prefix}");
}

/// Goal: names of a store that tells letters apart are found. Method: as above, with a handle that has both.
#[test]
fn resolve_escapes_capitals_where_the_store_tells_them_apart() {
    let directory = directory();
    let init = ["init", "--prefix", "88.118", "--address", "127.0.0.1"];
    let more = ["--data", "b", "--case", "prefix"];
    run(directory.path(), &[&init[..], &more].concat()).expect(0);
    let file = directory.path().join("b/jiexi.toml");
    let before = std::fs::read_to_string(&file).expect("the configuration");
    std::fs::write(&file, format!("{before}{ZONE}")).expect("written");
    let line = record("88.118/A/b", &["https://id.example/ab".to_owned()]);
    run_with(
        directory.path(),
        &["import", "-", "--data", "b"],
        line.as_bytes(),
    )
    .expect(0);
    let node = Serving::start(directory.path(), "b");
    let resolve = [
        "resolve",
        "88.118/A/b",
        "--dns",
        "id.example.net",
        "--server",
        &node.server,
    ];
    for how in [["--data", "b"], ["--case", "prefix"]] {
        let json = run(
            directory.path(),
            &[&resolve[..], &how, &["-o", "json"]].concat(),
        );
        assert_eq!(
            json.expect(0).json()["name"],
            "_41_2fb.88-118.id.example.net."
        );
    }
    run(directory.path(), &resolve).expect(3);
}

/// Goal: a configuration that is found by itself and cannot be read is no reason not to ask; one that is named is.
#[test]
fn resolve_says_which_configuration_it_cannot_read() {
    let directory = directory();
    std::fs::write(
        directory.path().join("jiexi.toml"),
        "version = 1\nwrong = 2\n",
    )
    .expect("written");
    let nobody = format!("127.0.0.1:{}", free_port());
    let resolve = [
        "resolve",
        "88.118/X",
        "--dns",
        "id.example.net",
        "--tcp",
        "--server",
        &nobody,
    ];
    let found = run(directory.path(), &resolve).expect(1);
    assert!(
        found.stderr.contains("jiexi.toml:2: wrong: unknown key"),
        "{}",
        found.stderr
    );
    assert!(found.stderr.contains(&nobody), "it asked: {}", found.stderr);
    let named = run(
        directory.path(),
        &[&resolve[..], &["--config", "jiexi.toml"]].concat(),
    )
    .expect(1);
    assert!(
        named.stderr.contains("wrong: unknown key"),
        "{}",
        named.stderr
    );
    assert!(!named.stderr.contains(&nobody), "{}", named.stderr);
    let said = ["--mapping", "handle", "--handles", "", "--case", "whole"];
    let not_needed = run(directory.path(), &[&resolve[..], &said].concat()).expect(1);
    assert!(
        !not_needed.stderr.contains("unknown key"),
        "{}",
        not_needed.stderr
    );
}

/// A node that ends with the test.
struct Serving {
    process: Child,
    /// Where it answers DNS.
    server: String,
    operations: u16,
}

impl Serving {
    /// Starts the node whose data are `data`, with DNS, and waits until it is ready.
    fn start(directory: &Path, data: &str) -> Self {
        let (handle, dns, operations) = (free_port(), free_port(), free_port());
        let mut serve = jiexi(directory);
        serve
            .args(["serve", "--data", data])
            .env("JIEXI_HANDLE_LISTEN", "127.0.0.1")
            .env("JIEXI_HANDLE_PORT", handle.to_string())
            .env("JIEXI_OPERATIONS_LISTEN", format!("127.0.0.1:{operations}"))
            .env("JIEXI_HTTP_LISTEN", "")
            .env("JIEXI_DNS_ENABLED", "true")
            .env("JIEXI_DNS_LISTEN", "127.0.0.1")
            .env("JIEXI_DNS_PORT", dns.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = serve.spawn().expect("starts");
        let serving = Self {
            process,
            server: format!("127.0.0.1:{dns}"),
            operations,
        };
        wait(operations);
        serving
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until the node is ready.
fn wait(operations: u16) {
    let begun = Instant::now();
    while !get(operations, "/ready").starts_with("HTTP/1.1 200") {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "the node gets ready"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn get(port: u16, path: &str) -> String {
    let mut text = String::new();
    if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.read_to_string(&mut text);
    }
    text
}

/// What `config check` says of a configuration with this text behind its first line.
fn check(directory: &Path, text: &str) -> String {
    let file = directory.join("x.toml");
    std::fs::write(file, format!("version = 1\n{text}")).expect("written");
    run(directory, &["config", "check", "x.toml"])
        .expect(1)
        .stderr
}

#[test]
fn zones_that_cannot_work_are_refused_with_their_line() {
    let directory = directory();
    let check = |text: &str| check(directory.path(), text);
    // The heading of the zone stands in line 3, its keys behind it.
    for (change, line, expected) in [
        (
            ("ns1.example.net", "ns1.id.example.net"),
            6,
            "lies in the zone",
        ),
        (
            ("\"handle\"", "\"oid\""),
            3,
            "name the prefix that the identifiers are under",
        ),
        (("hostmaster.example.net", "host master"), 7, "is no name"),
    ] {
        let said = check(&ZONE.replace(change.0, change.1));
        assert!(
            said.contains(&format!("x.toml:{line}: [dns] zones: id.example.net: "))
                && said.contains(expected),
            "{said}"
        );
    }
    let said = check("[dns]\nenabled = true\n");
    assert!(
        said.contains("describe at least one [[dns.zones]]"),
        "{said}"
    );
    for kind in [
        "HS_SECKEY",
        "HS_SECKEY.",
        "hs_admin.",
        "HS_ADMIN.x",
        "HS_SECKEYS",
    ] {
        let rules = format!("rules = [{{ record = \"TXT\", type = \"{kind}\" }}]\n");
        let said = check(&format!("{ZONE}{rules}"));
        let expected = format!(
            "x.toml:8: [dns] zones: id.example.net: rule 1: {kind} values are never served"
        );
        assert!(said.contains(&expected), "{said}");
    }
}

/// Goal: what is wrong with a zone is said of that zone, at the line where it stands, and of each that has something wrong.
#[test]
fn each_wrong_zone_is_named_with_its_line() {
    let directory = directory();
    // The headings stand in lines 3, 9 and 15.
    let zone = |number: usize| ZONE.replace("id.example", &format!("id{number}.example"));
    let zones = |second: (&str, &str), third: (&str, &str)| {
        let (two, three) = (zone(2), zone(3));
        let text = [
            zone(1),
            two.replace(second.0, second.1),
            three.replace(third.0, third.1),
        ];
        check(directory.path(), &format!("[dns]{}", text.concat()))
    };
    let said = zones(("\"handle\"", "\"hanlde\""), ("mail =", "mial ="));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(
        lines[0].contains("x.toml:11: [dns] zones: id2.example.net: unknown value \"hanlde\"; did you mean \"handle\"?"),
        "{said}"
    );
    assert!(
        lines[1].contains(
            "x.toml:19: [dns] zones: id3.example.net: unknown key \"mial\"; did you mean \"mail\"?"
        ),
        "{said}"
    );
    let said = zones(("name = \"id2.example.net\"\n", ""), ("\"handle\"", "7"));
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines[0].contains("x.toml:9: [dns] zones: number 2: missing field `name`"),
        "{said}"
    );
    assert!(
        lines[1].contains("x.toml:16: [dns] zones: id3.example.net: "),
        "{said}"
    );
    let said = zones(("[\"ns1.example.net\"]", "[]"), ("id3", "id1"));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(
        lines[0].contains("x.toml:12: [dns] zones: id2.example.net: nameservers is empty"),
        "{said}"
    );
    assert!(
        lines[1].contains("x.toml:16: [dns] zones: id1.example.net: is there twice"),
        "{said}"
    );
    // That none can be read does not make the list empty.
    let said = check(
        directory.path(),
        &format!("[dns]\nenabled = true\n{}", ZONE.replace("mail", "mial")),
    );
    assert!(
        said.contains("mial") && !said.contains("is empty"),
        "{said}"
    );
}
