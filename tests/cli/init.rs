//! Goal: `init` leaves a complete node with tight permissions, and touches nothing that is there already.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt};

use serde_json::Value as Json;

use crate::support::{directory, jiexi, node, run};

#[test]
fn a_new_node_is_complete() {
    let directory = directory();
    let arguments = [
        "init",
        "--prefix",
        "88.118",
        "--address",
        "192.0.2.10,2001:db8::1",
        "--data",
        "n",
    ];
    let printed = run(directory.path(), &arguments).expect(0).stdout;
    assert!(
        printed.contains("Next steps") && printed.contains("下一步"),
        "{printed}"
    );

    let data = directory.path().join("n");
    for (name, mode) in [
        ("jiexi.toml", 0o640),
        ("node.key", 0o600),
        ("admin.key", 0o600),
    ] {
        let found = fs::metadata(data.join(name))
            .expect(name)
            .permissions()
            .mode()
            & 0o7777;
        assert_eq!(found, mode, "{name}");
    }
    run(directory.path(), &["config", "check", "n/jiexi.toml"]).expect(0);
    let key = fs::read(data.join("node.key")).expect("node.key");
    assert_eq!(
        &key[..23],
        b"\0\0\0\x01\0\0\0\x0fRSA_PRIVCRT_KEY",
        "an unencrypted RSA key file"
    );

    let site: Json = serde_json::from_slice(&fs::read(data.join("site.json")).expect("site.json"))
        .expect("JSON");
    assert_eq!(
        (&site["serialNumber"], &site["primarySite"]),
        (&Json::from(1), &Json::from(true))
    );
    assert_eq!(site["protocolVersion"], "2.11");
    let interfaces = site["servers"][0]["interfaces"]
        .as_array()
        .expect("interfaces");
    assert_eq!(interfaces.len(), 2);
    for (interface, protocol, admin) in [
        (&interfaces[0], "TCP", true),
        (&interfaces[1], "UDP", false),
    ] {
        assert_eq!(
            (
                &interface["protocol"],
                &interface["admin"],
                &interface["query"],
                &interface["port"]
            ),
            (
                &Json::from(protocol),
                &Json::from(admin),
                &Json::from(true),
                &Json::from(2641)
            )
        );
    }

    let export = run(directory.path(), &["export", "--data", "n"])
        .expect(0)
        .stdout;
    let lines: Vec<Json> = export
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2, "{export}");
    assert_eq!(lines[0], serde_json::json!({"prefix": "88.118"}));
    assert_eq!(lines[1]["handle"], "0.NA/88.118");
    let values: BTreeMap<i64, &str> = lines[1]["values"]
        .as_array()
        .expect("values")
        .iter()
        .map(|value| {
            (
                value["index"].as_i64().expect("index"),
                value["type"].as_str().expect("type"),
            )
        })
        .collect();
    let expected = [
        (1, "HS_SITE"),
        (2, "HS_SITE.6"),
        (100, "HS_ADMIN"),
        (200, "HS_VLIST"),
        (300, "HS_PUBKEY"),
    ];
    assert_eq!(values, BTreeMap::from(expected));
    let own = &lines[1]["values"][0]["data"]["value"]["servers"][0]["publicKey"];
    assert_eq!(*own, site["servers"][0]["publicKey"], "the node's key");
    let admin = &lines[1]["values"][4]["data"];
    assert_ne!(admin, own, "the administrator has a key of its own");
    let modulus = admin["value"]["n"].as_str().expect("an RSA key");
    assert_eq!(modulus.len(), 342, "2048 bits");
}

#[test]
fn what_is_there_is_not_touched() {
    let directory = directory();
    fs::create_dir(directory.path().join("n")).expect("makes");
    fs::write(directory.path().join("n/precious"), "data").expect("writes");
    let arguments = [
        "init",
        "--prefix",
        "88.118",
        "--address",
        "127.0.0.1",
        "--data",
        "n",
    ];
    let refused = run(directory.path(), &arguments).expect(1);
    assert!(
        refused.stderr.contains("not empty (there is precious)"),
        "{}",
        refused.stderr
    );
    assert_eq!(
        fs::read(directory.path().join("n/precious")).expect("is there"),
        b"data"
    );
    assert_eq!(
        fs::read_dir(directory.path().join("n"))
            .expect("reads")
            .count(),
        1
    );

    node(directory.path(), "m");
    let again = [
        "init",
        "--prefix",
        "88.119",
        "--address",
        "127.0.0.1",
        "--data",
        "m",
    ];
    run(directory.path(), &again).expect(1);
}

#[test]
fn the_case_rule_is_kept_with_the_data() {
    let directory = directory();
    let base = [
        "init",
        "--prefix",
        "88.118",
        "--address",
        "127.0.0.1",
        "--data",
    ];
    let lines = concat!(
        r#"{"handle":"88.118/Abc","values":[{"index":1,"type":"URL","data":"1"}]}"#,
        "\n",
        r#"{"handle":"88.118/aBC","values":[{"index":1,"type":"URL","data":"2"}]}"#,
        "\n",
    );
    fs::write(directory.path().join("lines"), lines).expect("writes");
    for (rule, records) in [("whole", 1), ("prefix", 2)] {
        run(
            directory.path(),
            &[&base[..], &[rule, "--case", rule]].concat(),
        )
        .expect(0);
        run(directory.path(), &["import", "lines", "--data", rule]).expect(0);
        let export = run(directory.path(), &["export", "--data", rule])
            .expect(0)
            .stdout;
        assert_eq!(
            export
                .lines()
                .filter(|line| line.contains("88.118/"))
                .count(),
            records,
            "{export}"
        );
    }
    let config = directory.path().join("prefix/jiexi.toml");
    let text = fs::read_to_string(&config)
        .expect("reads")
        .replace("case = \"prefix\"", "case = \"whole\"");
    fs::write(&config, &text).expect("writes");
    let refused = run(directory.path(), &["export", "--data", "prefix"]).expect(1);
    let line = 1 + text
        .lines()
        .position(|line| line == "case = \"whole\"")
        .expect("a line with the rule");
    let place = format!("jiexi.toml:{line}");
    for words in [
        "created with case = \"prefix\" and cannot",
        "with case = \"whole\"",
        "[store] case",
        &place,
    ] {
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
    }
    for command in ["serve", "config check"] {
        let command: Vec<&str> = command.split(' ').collect();
        let refused = run(
            directory.path(),
            &[&command[..], &["--data", "prefix"]].concat(),
        )
        .expect(1);
        assert!(refused.stderr.contains(&place), "{}", refused.stderr);
    }
}

/// Goal: `init` sets up no node that cannot work, and leaves nothing behind when it refuses.
#[test]
fn values_that_no_node_can_have_are_refused() {
    let directory = directory();
    for (option, value, words) in [
        ("--port", "0", "--port: clients cannot reach port 0"),
        (
            "--address",
            "255.255.255.255",
            "--address: clients cannot reach 255.255.255.255",
        ),
        (
            "--address",
            "fe80::1",
            "--address: clients cannot reach fe80::1",
        ),
        (
            "--prefix",
            "88 118",
            "--prefix: \"88 118\" has blanks in it",
        ),
    ] {
        let mut arguments = vec!["init", "--data", "n"];
        for (name, usual) in [
            ("--prefix", "88.118"),
            ("--address", "127.0.0.1"),
            ("--port", "2641"),
        ] {
            arguments.extend([name, if name == option { value } else { usual }]);
        }
        let refused = run(directory.path(), &arguments).expect(2);
        assert!(
            refused.stderr.contains(words),
            "{words}: {}",
            refused.stderr
        );
        assert!(!directory.path().join("n").exists(), "{option}");
    }
    // A prefix may be given as the handle that stands for it.
    let arguments = [
        "init",
        "--prefix",
        "0.na/88.118",
        "--address",
        "127.0.0.1",
        "--data",
        "n",
    ];
    let printed = run(directory.path(), &arguments).expect(0).stdout;
    assert!(printed.contains("resolve 0.NA/88.118\n"), "{printed}");
    assert!(!printed.to_lowercase().contains("0.na/0.na"), "{printed}");
}

/// Goal: on a disk that has not enough space for the limits, `init` says which limits these are, and takes others from
/// the environment. Method: a limit that no disk has room for; then one that every disk has.
#[test]
fn the_limits_of_a_small_disk_are_named() {
    let directory = directory();
    let init = |least: &str, percent: &str| {
        let output = jiexi(directory.path())
            .args([
                "init",
                "--prefix",
                "88.118",
                "--address",
                "127.0.0.1",
                "--data",
                "n",
            ])
            .env("JIEXI_STORE_DISK_FREE_MIN", least)
            .env("JIEXI_STORE_DISK_FREE_PERCENT", percent)
            .output()
            .expect("runs");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, said) = init("1000TiB", "0");
    assert_eq!(code, Some(1), "{said}");
    for words in [
        "[store] disk_free_min = 1000TiB",
        "disk_free_percent = 0",
        "JIEXI_STORE_DISK_FREE_MIN",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let (code, said) = init("1MiB", "0");
    assert_eq!(code, Some(0), "{said}");
}
