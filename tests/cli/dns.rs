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
    let (handle, dns, operations) = (free_port(), free_port(), free_port());
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

    let mut serve = jiexi(directory.path());
    serve
        .args(["serve", "--data", "a"])
        .env("JIEXI_HANDLE_LISTEN", "127.0.0.1")
        .env("JIEXI_HANDLE_PORT", handle.to_string())
        .env("JIEXI_OPERATIONS_LISTEN", format!("127.0.0.1:{operations}"))
        .env("JIEXI_HTTP_LISTEN", "")
        .env("JIEXI_DNS_ENABLED", "true")
        .env("JIEXI_DNS_LISTEN", "127.0.0.1")
        .env("JIEXI_DNS_PORT", dns.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut serving = serve.spawn().expect("starts");
    wait(operations);

    let server = format!("127.0.0.1:{dns}");
    let ask = |arguments: &[&str]| {
        let all = [
            &["resolve", "--dns", "id.example.net", "--server", &server],
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

    let metrics = get(operations, "/metrics");
    assert!(
        metrics.contains(r#"jiexi_requests_total{op="resolve",protocol="dns",transport="udp"}"#)
    );
    serving.kill().expect("killed");
    serving.wait().expect("ends");
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
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.read_to_string(&mut text);
    }
    text
}

#[test]
fn zones_that_cannot_work_are_refused_with_their_line() {
    let directory = directory();
    let check = |text: &str| check(directory.path(), text);
    // The heading of the zone stands in line 3, its keys behind it.
    for (change, line, expected) in [
        (
            ("ns1.example.net", "ns1.id.example.net"),
            "lies in the zone",
        ),
        (
            ("\"handle\"", "\"oid\""),
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
        lines[0].contains("x.toml:11: [dns] zones: id2.example.net: unknown variant `hanlde`"),
        "{said}"
    );
    assert!(
        lines[1].contains("x.toml:19: [dns] zones: id3.example.net: unknown field `mial`"),
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
/// What `config check` says of a configuration with this text behind its first line.
fn check(directory: &Path, text: &str) -> String {
    let file = directory.join("x.toml");
    std::fs::write(file, format!("version = 1\n{text}")).expect("written");
    run(directory, &["config", "check", "x.toml"])
        .expect(1)
        .stderr
}

            6,
            3,
