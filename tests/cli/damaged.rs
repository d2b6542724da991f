//! Goal: a node whose files are damaged says which file it is and what brings it back, and that way back works. Method:
//! the real program, with the files of a real node damaged.

use std::{fs, path::Path, process::Child, process::Stdio, time::Instant};

use crate::{
    node::PATIENCE,
    ports::free_port,
    support::{directory, jiexi, node, run, run_with},
};

/// A node with some records, stopped.
fn filled(directory: &Path) {
    node(directory, "a");
    let lines: String = (0..100)
        .map(|number| {
            let value =
                format!(r#"{{"index":1,"type":"URL","data":"https://example.cn/{number}"}}"#);
            format!("{{\"handle\":\"88.118/n{number}\",\"values\":[{value}]}}\n")
        })
        .collect();
    run_with(directory, &["import", "-", "--data", "a"], lines.as_bytes()).expect(0);
}

#[test]
fn a_damaged_key_or_site_record_comes_with_its_remedy() {
    let directory = directory();
    let directory = directory.path();
    filled(directory);
    fs::write(directory.join("word"), "a long enough passphrase\n").expect("writes");
    let escrow = ["--passphrase-file", "word", "--data", "a"];
    run(
        directory,
        &[
            &["key", "escrow", "export", "--out", "escrow.key"],
            &escrow[..],
        ]
        .concat(),
    )
    .expect(0);

    let (key, site) = (directory.join("a/node.key"), directory.join("a/site.json"));
    let (sound_key, sound_site) = (
        fs::read(&key).expect("reads"),
        fs::read(&site).expect("reads"),
    );
    for damaged in [&sound_key[..100], b"", b"-----BEGIN"] {
        fs::write(&key, damaged).expect("writes");
        let refused = run(directory, &["serve", "--data", "a"]).expect(1);
        for words in ["a/node.key: ", "jiexi key escrow import"] {
            assert!(refused.stderr.contains(words), "{}", refused.stderr);
        }
        // No backup has it.
        assert!(!refused.stderr.contains("backup"), "{}", refused.stderr);
    }
    fs::rename(&key, directory.join("damaged.key")).expect("moves");
    run(
        directory,
        &[&["key", "escrow", "import", "escrow.key"], &escrow[..]].concat(),
    )
    .expect(0);
    assert!(
        fs::read(&key).expect("reads") == sound_key,
        "the way back leads back"
    );

    for damaged in [Some(&sound_site[..100]), Some(b"[]"), None] {
        match damaged {
            Some(damaged) => fs::write(&site, damaged).expect("writes"),
            None => fs::remove_file(&site).expect("removes"),
        }
        let refused = run(directory, &["serve", "--data", "a"]).expect(1);
        for words in [
            "a/site.json: ",
            "from a backup",
            "HS_SITE",
            "`jiexi export`",
        ] {
            assert!(refused.stderr.contains(words), "{}", refused.stderr);
        }
    }
    let export = run(directory, &["export", "--data", "a"]).expect(0).stdout;
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
    let record = export
        .lines()
        .find(|line| line.contains("\"0.NA/88.118\""))
        .expect("the prefix");
    let values = parse(record)["values"].clone();
    let values = values.as_array().expect("values");
    let value = values
        .iter()
        .find(|value| value["type"] == "HS_SITE")
        .expect("a site");
    assert_eq!(
        value["data"]["value"],
        parse(std::str::from_utf8(&sound_site).expect("UTF-8")),
        "the way back leads back"
    );
}

/// A node that cannot read its journal goes on saying so, and is stopped when dropped.
struct Unreadable(Child);

impl Drop for Unreadable {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What cannot be read is nothing that ends by itself: nobody is told to ask again, of questions and of changes.
#[test]
fn of_an_unreadable_store_nobody_is_told_to_try_again() {
    let directory = directory();
    let directory = directory.path();
    filled(directory);
    for entry in fs::read_dir(directory.join("a/store")).expect("reads") {
        let path = entry.expect("an entry").path();
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("sled-"))
        {
            fs::remove_dir_all(path).expect("removes");
        }
    }
    let journal = directory.join("a/store/journal/00000000000000000001.journal");
    let mut octets = fs::read(&journal).expect("reads");
    octets[600] ^= 0xff;
    fs::write(&journal, octets).expect("writes");

    let port = free_port();
    let child = jiexi(directory)
        .args(["serve", "--data", "a"])
        .env("JIEXI_HANDLE_LISTEN", "127.0.0.1")
        .env("JIEXI_HANDLE_PORT", port.to_string())
        .env("JIEXI_HTTP_LISTEN", "")
        .env(
            "JIEXI_OPERATIONS_LISTEN",
            format!("127.0.0.1:{}", free_port()),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _node = Unreadable(child.expect("starts"));
    let server = format!("127.0.0.1:{port}");
    let resolve = ["resolve", "88.118/n1", "--server", &server];
    let started = Instant::now();
    while !run(directory, &resolve).stderr.contains("at /ready") {
        assert!(started.elapsed() < PATIENCE, "it says so");
    }
    let administrator = [
        "--server",
        &server,
        "--identity",
        "300:0.NA/88.118",
        "--key",
        "a/admin.key",
    ];
    let local = ["--data", "a"];
    for who in [&administrator[..], &local] {
        for what in [
            &[
                "handle",
                "create",
                "88.118/new",
                "--value",
                "1:URL=https://example.cn/",
            ][..],
            &["handle", "rm", "88.118/n1"],
            &[
                "value",
                "set",
                "88.118/n1",
                "--value",
                "1:URL=https://example.cn/",
            ],
            &["handle", "list", "88.118"],
        ] {
            let refused = run(directory, &[what, who].concat()).expect(1);
            assert!(
                refused.stderr.contains("(code 2)") && refused.stderr.contains("at /ready"),
                "{what:?} {who:?}: {}",
                refused.stderr
            );
        }
    }
}
