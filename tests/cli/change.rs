//! Goal: records and prefixes are changed from the command line the same way on the node of this machine, running or
//! stopped, and on one elsewhere by whoever has a key. Method: one script for each way; two nodes for delegation.

use std::{fs, path::Path};

use serde_json::{Value as Json, json};

use crate::{
    node::Running,
    ports::free_port,
    support::{Run, directory, jiexi, run, run_with},
};

/// A node and the arguments by which a command reaches it.
struct Way<'a> {
    directory: &'a Path,
    arguments: Vec<String>,
}

impl Way<'_> {
    fn run_with(&self, arguments: &[&str], input: &str) -> Run {
        let all: Vec<&str> = arguments
            .iter()
            .copied()
            .chain(self.arguments.iter().map(String::as_str))
            .collect();
        run_with(self.directory, &all, input.as_bytes())
    }

    fn run(&self, arguments: &[&str]) -> Run {
        self.run_with(arguments, "")
    }

    fn json(&self, arguments: &[&str]) -> Json {
        self.run(&[arguments, &["-o", "json"]].concat())
            .expect(0)
            .json()
    }
}

/// Sets a node for a prefix up in `name`.
pub(crate) fn init(directory: &Path, name: &str, prefix: &str, port: u16) {
    let port = port.to_string();
    let arguments = [
        "init",
        "--prefix",
        prefix,
        "--address",
        "127.0.0.1",
        "--port",
        &port,
        "--data",
        name,
    ];
    run(directory, &arguments).expect(0);
}

pub(crate) fn serve(directory: &Path, name: &str, port: u16) -> Running {
    let configuration = format!("{name}/jiexi.toml");
    Running::start_with(directory, &["serve", "--config", &configuration], port)
}

pub(crate) fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// What every way does; `tag` keeps the handles of the ways apart.
fn script(way: &Way<'_>, tag: &str) {
    let handle = format!("88.118/{tag}.泵");
    let handle = handle.as_str();
    let created = way.json(&[
        "handle",
        "create",
        handle,
        "--value",
        "1:URL=https://example.cn/a?b=c",
        "--ttl",
        "60",
    ]);
    assert_eq!(
        created,
        json!({"responseCode": 1, "handle": handle, "done": "created"})
    );
    let again = way
        .run(&["handle", "create", handle, "-o", "json"])
        .expect(1);
    assert_eq!(again.json()["responseCode"], 101);
    assert!(again.stderr.contains("handle put"), "{}", again.stderr);

    let added = [
        "value",
        "add",
        handle,
        "--value",
        "2:HS_ADMIN=300:0.NA/88.118",
        "--value-file",
        "3:NOTE=note.bin",
        "--permissions",
        "1100",
    ];
    way.run(&added).expect(0);
    let twice = way.run(&added).expect(1);
    assert!(twice.stderr.contains("value set"), "{}", twice.stderr);
    way.run(&[
        "value",
        "set",
        handle,
        "--value",
        "3:NOTE=new",
        "--value",
        "4:X=y",
    ])
    .expect(0);
    way.run(&["value", "rm", handle, "4"]).expect(0);
    way.run(&["value", "rm", handle, "4"]).expect(3);
    way.run(&["value", "rm", "88.118/none", "4"]).expect(3);

    let found = way.json(&["handle", "get", handle]);
    let values = found["values"].as_array().expect("values");
    assert_eq!(values.len(), 3, "{found}");
    assert_eq!(
        (&values[0]["ttl"], &values[0]["data"]["value"]),
        (&json!(60), &json!("https://example.cn/a?b=c"))
    );
    let administrator =
        json!({"handle": "0.NA/88.118", "index": 300, "permissions": "111111111111"});
    assert_eq!(values[1]["data"]["value"], administrator);
    assert_eq!(
        values[1]["permissions"], "1100",
        "for administrators only, and shown to one"
    );
    assert_eq!(values[2]["data"]["value"], "new");
    let one = way.json(&["handle", "get", handle, "--type", "url", "--index", "3"]);
    assert_eq!(one["values"].as_array().expect("values").len(), 2);
    way.run(&["handle", "get", handle, "--type", "NONE"])
        .expect(3);
    way.run(&["handle", "get", "88.118/none"]).expect(3);

    // What is printed is what is read.
    let copy = format!("88.118/{tag}.copy");
    let text = found.to_string();
    let put = ["handle", "put", &copy, "--json", "-"];
    assert!(
        way.run_with(&put, &text)
            .expect(0)
            .stdout
            .starts_with("created")
    );
    assert!(
        way.run_with(&put, &text)
            .expect(0)
            .stdout
            .starts_with("replaced")
    );
    let values = way.json(&["handle", "get", &copy])["values"].clone();
    assert_eq!(values[1]["data"], found["values"][1]["data"]);
    assert_eq!(values.as_array().map(Vec::len), Some(3));

    let minted = way.json(&["handle", "create", &format!("88.118/{tag}-"), "--mint"]);
    let minted = minted["handle"].as_str().expect("a handle").to_owned();
    assert!(
        minted.len() > 30 && minted.starts_with(&format!("88.118/{tag}-")),
        "{minted}"
    );
    let elsewhere = way.run(&["handle", "create", "10.99/x"]).expect(1);
    assert!(
        elsewhere.stderr.contains("code 301"),
        "{}",
        elsewhere.stderr
    );

    let secret = [
        "value",
        "add",
        &copy,
        "--value-file",
        "300:HS_SECKEY=secret.txt",
    ];
    way.run(&secret).expect(0);
    let hidden = way.run(&["handle", "get", &copy, "-o", "json"]).expect(0);
    let shown = way
        .run(&["handle", "get", &copy, "--with-secrets", "-o", "json"])
        .expect(0);
    assert!(!hidden.stdout.contains("HS_SECKEY") && hidden.stderr.contains("--with-secrets"));
    let secret = shown.json()["values"][3].clone();
    assert_eq!(
        (&secret["data"]["value"], &secret["permissions"]),
        (&json!("ge heim"), &json!("1100"))
    );

    let names = way
        .run(&["handle", "list", "88.118"])
        .expect(0)
        .stdout
        .to_uppercase();
    for handle in [handle, &copy, &minted] {
        assert!(names.contains(&handle.to_uppercase()), "{handle}: {names}");
    }
    let lines = way
        .run(&["handle", "list", "0.NA/88.118", "-o", "json"])
        .expect(0)
        .stdout;
    assert!(lines.lines().all(|line| {
        serde_json::from_str::<Json>(line).is_ok_and(|json| json["handle"].is_string())
    }));
    // The trail tells what was replaced from what was new.
    let told = run(
        way.directory,
        &["audit", "--handle", &copy, "--data", "a", "-o", "json"],
    );
    let told: Vec<Json> = (told.expect(0).stdout.lines())
        .map(|line| serde_json::from_str(line).expect("an entry"))
        .collect();
    let operations: Vec<_> = told
        .iter()
        .map(|entry| entry["operation"].clone())
        .collect();
    assert_eq!(operations, ["create", "overwrite", "add"]);
    let told = run(way.directory, &["audit", "--handle", handle, "--data", "a"]).expect(0);
    assert!(told.stdout.contains(" set "), "{}", told.stdout);
    way.run(&["handle", "rm", handle, &copy, &minted]).expect(0);
    way.run(&["handle", "rm", handle]).expect(3);
}

fn files(directory: &Path) {
    fs::write(directory.join("note.bin"), [0, 1, 2]).expect("written");
    fs::write(directory.join("secret.txt"), "ge heim\nnot this\n").expect("written");
    fs::write(directory.join("admin.txt"), "s3cret of the administrator\n").expect("written");
}

#[test]
fn records_change_on_this_machine_and_elsewhere() {
    let directory = directory();
    let directory = directory.path();
    files(directory);
    let port = free_port();
    init(directory, "a", "88.118", port);
    let here = Way {
        directory,
        arguments: words("--data a"),
    };
    script(&here, "stopped");

    let running = serve(directory, "a", port);
    script(&here, "running");
    // An administrator with a secret key beside the one with the RSA key that init has made.
    here.run(&[
        "value",
        "set",
        "0.NA/88.118",
        "--value-file",
        "301:HS_SECKEY=admin.txt",
    ])
    .expect(0);
    let members = "200:HS_VLIST=300:0.NA/88.118,301:0.NA/88.118";
    here.run(&["value", "set", "0.NA/88.118", "--value", members])
        .expect(0);
    let server = running.server();
    for (tag, who) in [
        ("rsa", "--identity 300:0.NA/88.118 --key a/admin.key"),
        (
            "rsa-session",
            "--identity 300:0.NA/88.118 --key a/admin.key --session",
        ),
        (
            "secret",
            "--identity 301:0.NA/88.118 --secret-file admin.txt",
        ),
        (
            "encrypted",
            "--identity 301:0.NA/88.118 --secret-file admin.txt --encrypt",
        ),
    ] {
        let arguments = words(&format!("--server {server} {who}"));
        script(
            &Way {
                directory,
                arguments,
            },
            tag,
        );
    }
    let record = "--site-record a/site.json --identity 300:0.NA/88.118 --key a/admin.key --encrypt";
    script(
        &Way {
            directory,
            arguments: words(record),
        },
        "site",
    );

    // Who changed what is told apart, and no secret is anywhere.
    let trail = run(directory, &["audit", "--data", "a", "-o", "json"])
        .expect(0)
        .stdout;
    let trail: Vec<Json> = trail
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let listed = trail.iter().filter(|entry| {
        entry["operation"] == "list"
            && entry["handle"] == "0.NA/88.118"
            && entry["source"] == "127.0.0.1"
            && entry["result"] == "committed"
    });
    assert_eq!(
        listed.count(),
        10,
        "two lists over the wire in each of five ways"
    );
    let of = |source: &str, who: &str| {
        let same = |entry: &&Json| {
            entry["source"] == source
                && entry["identity"]
                    .as_str()
                    .is_some_and(|name| name.starts_with(who))
        };
        trail.iter().filter(same).count()
    };
    let user = nix::unistd::geteuid();
    assert!(
        of("local", &format!("0:local/{user}")) >= 20,
        "both local ways"
    );
    assert!(of("127.0.0.1", "300:0.NA/88.118") >= 20 && of("127.0.0.1", "301:0.NA/88.118") >= 20);
    run(directory, &["audit", "verify", "--data", "a"]).expect(0);
    assert_eq!(running.stop(), 0);
}

#[test]
fn secrets_come_from_files_and_the_environment_only() {
    let directory = directory();
    let directory = directory.path();
    files(directory);
    let port = free_port();
    init(directory, "a", "88.118", port);
    let running = serve(directory, "a", port);
    let value = ["value", "set", "0.NA/88.118", "--data", "a"];
    run(
        directory,
        &[&value[..], &["--value", "301:HS_SECKEY=visible"]].concat(),
    )
    .expect(2);
    run(
        directory,
        &[&value[..], &["--value-file", "301:HS_SECKEY=admin.txt"]].concat(),
    )
    .expect(0);
    run(
        directory,
        &[&value[..], &["--value", "200:HS_VLIST=301:0.NA/88.118"]].concat(),
    )
    .expect(0);
    let create = |secret: &str, handle: &str| {
        let output = jiexi(directory)
            .args(["handle", "create", handle])
            .env("JIEXI_SERVER", running.server())
            .env("JIEXI_IDENTITY", "301:0.NA/88.118")
            .env("JIEXI_SECRET", secret)
            .output()
            .expect("runs");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    assert_eq!(
        create("s3cret of the administrator", "88.118/env").0,
        Some(0)
    );
    let (code, said) = create("not the secret", "88.118/wrong");
    assert!(
        code == Some(1) && said.contains("code 403") && said.contains("HS_SECKEY"),
        "{said}"
    );
    assert!(!said.contains("jiexi key show"), "no file is meant: {said}");
    assert!(!said.contains("not the secret"), "{said}");
    let help = run(directory, &["handle", "create", "--help"])
        .expect(0)
        .stdout;
    assert!(
        !help.contains("--secret ") && help.contains("JIEXI_SECRET"),
        "{help}"
    );
}

/// Goal: every message says what to do.
#[test]
fn refusals_say_what_to_do() {
    let directory = directory();
    let directory = directory.path();
    files(directory);
    let port = free_port();
    init(directory, "a", "88.118", port);
    run(directory, &["key", "new", "--out", "other.key"]).expect(0);
    let running = serve(directory, "a", port);
    let server = running.server();
    let create = |who: &str, code: i32, expected: &str| {
        let arguments = words(&format!("handle create 88.118/x --value 1:URL=x {who}"));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let said = run(directory, &arguments).expect(code).stderr;
        assert!(said.contains(expected), "{who}: {said}");
    };
    create(&format!("--server {server}"), 1, "--key FILE");
    create(
        &format!("--server {server} --key a/admin.key"),
        2,
        "--identity",
    );
    create(
        &format!("--server {server} --identity 300:0.NA/88.118"),
        2,
        "--key FILE",
    );
    create(&format!("--server {server} --session"), 2, "--identity");
    create(
        "--identity 300:0.NA/88.118 --key a/admin.key",
        2,
        "--server",
    );
    create(
        &format!("--server {server} --identity 0.NA/88.118 --key a/admin.key"),
        2,
        "INDEX:HANDLE",
    );
    create(
        &format!("--server {server} --identity 300:0.NA/88.118 --key missing"),
        1,
        "missing",
    );
    create(
        &format!("--server {server} --identity 300:0.NA/88.118 --key other.key"),
        1,
        "code 403",
    );
    create(
        &format!("--server {server} --identity 300:0.NA/88.118 --key other.key"),
        1,
        "\"jiexi key show\" with the HS_PUBKEY value",
    );
    create(
        &format!("--server {server} --identity 300:0.NA/88.118 --secret-file admin.txt"),
        1,
        "an HS_PUBKEY value there takes --key",
    );
    create(
        &format!("--server {server} --identity 300:88.118/who --key other.key"),
        1,
        "HS_ADMIN",
    );
    create("--data none", 1, "--server");
    create("--data a --value 1:URL=y", 2, "index 1");
    create("--data a --value URL=y", 2, "INDEX:TYPE");
    create("--data a --json note.bin", 1, "note.bin");
    create("--data a --permissions 12", 2, "1110");
    run(directory, &["value", "add", "88.118/x", "--data", "a"]).expect(2);
    run(directory, &["handle", "rm", "--data", "a"]).expect(2);
    run(directory, &["prefix", "add", "88.118.9", "--data", "a"]).expect(2);
    run(
        directory,
        &["prefix", "add", "88.118.9", "--hosted", "--data", "a"],
    )
    .expect(2);
    for command in ["handle", "value", "prefix"] {
        let help = run(directory, &[command, "--help"]).expect(0).stdout;
        assert!(
            help.contains("Examples:") && help.contains("Exit codes:"),
            "{help}"
        );
    }
}

#[test]
fn a_hosted_prefix_is_resolved_and_administered_at_once() {
    let directory = directory();
    let directory = directory.path();
    let port = free_port();
    init(directory, "a", "88.118", port);
    run(directory, &["key", "new", "--out", "own.key"]).expect(0);
    run(
        directory,
        &[
            "key", "export", "own.key", "--public", "--format", "pem", "--out", "own.pem",
        ],
    )
    .expect(0);
    let running = serve(directory, "a", port);
    let server = running.server();
    let stats = || {
        run(directory, &["store", "stats", "--data", "a", "-o", "json"])
            .expect(0)
            .json()["sequence"]
            .as_u64()
            .expect("a number")
    };
    let before = stats();
    let add = [
        "prefix",
        "add",
        "88.118.9",
        "--hosted",
        "--admin-key",
        "own.pem",
        "--data",
        "a",
    ];
    let added = run(directory, &[&add[..], &["-o", "json"]].concat())
        .expect(0)
        .json();
    assert_eq!(added["administrator"], "300:0.NA/88.118.9");
    assert_eq!(stats(), before + 1, "home and record are one commit");
    let again = run(directory, &add).expect(1);
    assert!(again.stderr.contains("prefix rm"), "{}", again.stderr);
    assert_eq!(stats(), before + 1, "nothing of it is done twice");

    let record = run(
        directory,
        &[
            "resolve",
            "0.NA/88.118.9",
            "--server",
            &server,
            "-o",
            "json",
        ],
    )
    .expect(0)
    .json();
    let types: Vec<_> = record["values"]
        .as_array()
        .expect("values")
        .iter()
        .map(|value| value["type"].as_str().expect("a type"))
        .collect();
    assert_eq!(types, ["HS_SITE", "HS_ADMIN", "HS_VLIST", "HS_PUBKEY"]);
    assert_eq!(
        record["values"][0]["data"]["value"]["servers"][0]["interfaces"][0]["port"],
        port
    );
    let own = format!("--server {server} --identity 300:0.NA/88.118.9 --key own.key");
    let owner = Way {
        directory,
        arguments: words(&own),
    };
    owner
        .run(&[
            "handle",
            "create",
            "88.118.9/a",
            "--value",
            "1:URL=https://example.cn/a",
        ])
        .expect(0);
    let foreign = owner.run(&["handle", "create", "88.118/a"]).expect(1);
    assert!(foreign.stderr.contains("code 400"), "{}", foreign.stderr);
    run(directory, &["resolve", "88.118.9/a", "--server", &server]).expect(0);

    // By the server's administrator from elsewhere; a prefix that is not below any of the node's.
    let admin = format!("--server {server} --identity 300:0.NA/88.118 --key a/admin.key");
    let admin = Way {
        directory,
        arguments: words(&admin),
    };
    let before = stats();
    admin
        .run(&[
            "prefix",
            "add",
            "0.NA/88.118.10",
            "--hosted",
            "--admin-key",
            "own.key",
            "--session",
        ])
        .expect(0);
    assert_eq!(
        stats(),
        before + 1,
        "elsewhere, too, home and record are one commit"
    );
    let foreign = admin
        .run(&[
            "prefix",
            "add",
            "20.500",
            "--hosted",
            "--admin-key",
            "own.key",
        ])
        .expect(1);
    assert!(
        foreign.stderr.contains("code 40"),
        "no right to make its record: {}",
        foreign.stderr
    );
    assert_eq!(stats(), before + 1, "so it is not homed either");
    let here = Way {
        directory,
        arguments: words("--data a"),
    };
    here.run(&[
        "prefix",
        "add",
        "20.500",
        "--hosted",
        "--admin-key",
        "own.key",
    ])
    .expect(0);
    let names = |way: &Way<'_>| -> Vec<String> {
        let rows = way.json(&["prefix", "list"]);
        let rows = rows.as_array().expect("rows").iter();
        rows.filter(|row| row["hosted"] == true)
            .map(|row| row["prefix"].as_str().expect("a name").to_owned())
            .collect()
    };
    assert_eq!(names(&here), ["20.500", "88.118", "88.118.10", "88.118.9"]);
    assert_eq!(
        names(&admin),
        names(&here),
        "the refused one is not among them"
    );

    let kept = here.run(&["prefix", "rm", "88.118.9"]).expect(1);
    assert!(kept.stderr.contains("--force"), "{}", kept.stderr);
    owner.run(&["handle", "rm", "88.118.9/a"]).expect(0);
    here.run(&["prefix", "rm", "88.118.9"]).expect(0);
    admin.run(&["prefix", "rm", "88.118.10"]).expect(0);
    here.run(&["prefix", "rm", "88.118.9"]).expect(3);
    assert_eq!(names(&here), ["20.500", "88.118"]);
    run(
        directory,
        &["resolve", "0.NA/88.118.9", "--server", &server],
    )
    .expect(3);
    assert_eq!(running.stop(), 0);
}

#[test]
fn a_delegated_prefix_is_found_and_changed_by_way_of_its_parent() {
    let directory = directory();
    let directory = directory.path();
    let (above, below) = (free_port(), free_port());
    init(directory, "parent", "88.118", above);
    init(directory, "enterprise", "88.118.9", below);
    let parent = serve(directory, "parent", above);
    let site = format!("127.0.0.1:{below}");
    let add = [
        "prefix", "add", "88.118.9", "--site", &site, "--data", "parent",
    ];
    let early = run(directory, &add).expect(1);
    assert!(early.stderr.contains("must run"), "{}", early.stderr);
    let enterprise = serve(directory, "enterprise", below);
    run(directory, &add).expect(0);
    let rows = run(directory, &["prefix", "list", "--data", "parent"])
        .expect(0)
        .stdout;
    assert!(
        rows.lines().any(|row| row.contains("88.118.9")
            && row.contains("delegated")
            && row.contains(&site)),
        "{rows}"
    );

    // Told of the parent alone, the enterprise's administrator gets to the enterprise's node.
    let who = "--identity 300:0.NA/88.118.9 --key enterprise/admin.key";
    for protection in ["", "--session", "--encrypt"] {
        let handle = format!("88.118.9/by{protection}");
        let arguments = words(&format!(
            "handle create {handle} --value 1:URL=x --server {} {who} {protection}",
            parent.server()
        ));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        run(directory, &arguments).expect(0);
        let found = run(
            directory,
            &["resolve", &handle, "--trace", "--server", &parent.server()],
        )
        .expect(0);
        let lines: Vec<&str> = found.stderr.lines().collect();
        assert_eq!(
            lines.len(),
            5,
            "title, parent, prefix record, enterprise, sum: {}",
            found.stderr
        );
        for (line, part) in [
            (1, "code 301"),
            (2, "0.NA/88.118.9"),
            (3, &site),
            (3, "server 1 of 1"),
            (4, " ms"),
        ] {
            let part = part.replace("code ", "(");
            assert!(lines[line].contains(&part), "{part}: {}", found.stderr);
        }
        let way = run(
            directory,
            &[
                "resolve",
                &handle,
                "--trace",
                "--server",
                &parent.server(),
                "-o",
                "json",
            ],
        )
        .expect(0)
        .json();
        let codes: Vec<_> = way["trace"]
            .as_array()
            .expect("a way")
            .iter()
            .map(|hop| hop["responseCode"].as_u64())
            .collect();
        assert_eq!(codes, [Some(301), Some(1), Some(1)]);
    }
    // What the enterprise hosts below its prefix is found by way of the parent as well, which knows nothing of it.
    run(directory, &["key", "new", "--out", "plant.key"]).expect(0);
    let plant = "prefix add 88.118.9.1 --hosted --admin-key plant.key --data enterprise";
    let create = "handle create 88.118.9.1/x --value 1:URL=x --data enterprise";
    let resolve = format!("resolve 88.118.9.1/x --server {}", parent.server());
    for command in [plant, create, &resolve] {
        run(directory, &command.split(' ').collect::<Vec<_>>()).expect(0);
    }
    let local = run(
        directory,
        &["handle", "list", "88.118.9", "--data", "enterprise"],
    )
    .expect(0)
    .stdout;
    assert_eq!(local.lines().count(), 3, "{local}");
    // The server that was looked for and does not answer is shown: who, why, and how long that took.
    assert_eq!(enterprise.stop(), 0);
    let server = parent.server();
    let asked = [
        "resolve",
        "88.118.9/x",
        "--tcp",
        "--trace",
        "--server",
        &server,
    ];
    let failed = run(directory, &asked).expect(1);
    let row = failed.stderr.lines().find(|line| line.contains(&site));
    let row = row.expect("a row for the server that failed");
    assert!(row.contains("refused") && row.contains(" ms"), "{row}");
    assert!(failed.stderr.contains("servers: 2"), "{}", failed.stderr);
    let failed = run(directory, &[&asked[..], &["-o", "json"]].concat()).expect(1);
    let way = failed.json();
    let last = &way["trace"][2];
    assert_eq!(
        (&last["server"], &last["responseCode"]),
        (&json!(site), &Json::Null)
    );
    assert!(
        last["error"].is_string() && last["milliseconds"].is_number(),
        "{way}"
    );
    assert_eq!(way["message"], last["error"]);
    run(directory, &["prefix", "rm", "88.118.9", "--data", "parent"]).expect(0);
    assert_eq!(parent.stop(), 0);
}
