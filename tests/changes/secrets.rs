//! Goal: a secret leaves the node to nobody but those who ask for it with the right to, and survives
//! the loss of its host. Method: the real program logs all there is to log while it is given secrets
//! in every way; then everything it has written and said is searched for them, in each common form.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose as base64_of};
use bytes::Bytes;
use jiexi_proto::code::{OpFlags, Permissions};
use jiexi_proto::message::Body;
use jiexi_proto::message::resolution::Resolution;
use jiexi_proto::message::values::HandleValues;
use jiexi_proto::value::key::{KeyFile, PrivateKey, magnitude};
use jiexi_proto::value::{Reference, Ttl, Value};
use jiexi_proto::{Message, OpCode};

use crate::client::{Key, ask, ask_as, ask_octets, octets, request};
use crate::node::{Node, program};

/// What no output may hold.
const SECRET: &[u8] = b"a-secret-that-nobody-else-has-4711";
const PASSPHRASE: &[u8] = b"correct horse battery staple 0815";

fn code(message: &Message) -> u32 {
    message.header.response_code.0
}

fn value(index: u32, kind: &'static [u8], permissions: u8, data: &[u8]) -> Value {
    Value {
        index,
        timestamp: 0,
        ttl: Ttl::Relative(86_400),
        permissions: Permissions(permissions),
        kind: Bytes::from_static(kind),
        data: Bytes::copy_from_slice(data),
        references: Vec::new(),
    }
}

fn values(op: OpCode, handle: &str, values: Vec<Value>, id: u32) -> Message {
    let handle = Bytes::copy_from_slice(handle.as_bytes());
    let body = Body::Values(HandleValues { handle, values });
    request(op, OpFlags::RESOLUTION, body, id)
}

fn resolution(handle: &str, flags: OpFlags, id: u32) -> Message {
    let body = Resolution {
        handle: Bytes::copy_from_slice(handle.as_bytes()),
        indexes: vec![301, 302],
        types: Vec::new(),
        trailer: None,
    };
    request(OpCode::RESOLUTION, flags, Body::Resolution(body), id)
}

/// Everything that was said, by what said it.
#[derive(Default)]
struct Said(BTreeMap<String, Vec<u8>>);

impl Said {
    fn add(&mut self, by: impl Into<String>, octets: &[u8]) {
        let said = self.0.entry(by.into()).or_default();
        said.extend_from_slice(octets);
        said.push(b'\n');
    }

    /// Runs a command and adds all that it prints.
    fn run(&mut self, node: &Node, arguments: &[&str]) -> (i32, String) {
        let output = program()
            .args(arguments)
            .arg("--config")
            .arg(node.data.join("jiexi.toml"))
            .output()
            .expect("runs");
        self.add(arguments.join(" "), &output.stdout);
        self.add(arguments.join(" "), &output.stderr);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code().unwrap_or(-1), text)
    }

    fn files(&mut self, path: &Path, besides: &[PathBuf]) {
        if besides.iter().any(|other| other == path) || !path.exists() {
            return;
        }
        if path.is_dir() {
            for entry in std::fs::read_dir(path).expect("read") {
                self.files(&entry.expect("an entry").path(), besides);
            }
        } else if path.is_file() {
            self.add(
                path.display().to_string(),
                &std::fs::read(path).expect("read"),
            );
        }
    }

    /// Who has told a secret.
    fn told(&self, secret: &[u8]) -> Vec<&str> {
        let forms = forms(secret);
        let tells = |said: &&Vec<u8>| forms.iter().any(|form| holds(said, form));
        let told = self.0.iter().filter(|(_, said)| tells(said));
        told.map(|(by, _)| by.as_str()).collect()
    }
}

fn holds(octets: &[u8], wanted: &[u8]) -> bool {
    octets.windows(wanted.len()).any(|window| window == wanted)
}

/// A secret as it is, in hexadecimal, in Base64 wherever it begins, and as a list of numbers.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![
        secret.to_vec(),
        hex::encode(secret).into_bytes(),
        hex::encode_upper(secret).into_bytes(),
        secret
            .iter()
            .take(12)
            .map(u8::to_string)
            .collect::<Vec<_>>()
            .join(", ")
            .into_bytes(),
    ];
    for engine in [base64_of::STANDARD_NO_PAD, base64_of::URL_SAFE_NO_PAD] {
        for before in 0..3 {
            let text = engine.encode([&vec![0; before][..], secret].concat());
            // Without the ends, which depend on what stands beside it.
            forms.push(text.as_bytes()[4..text.len() - 3].to_vec());
        }
    }
    forms
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("connected");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .expect("written");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("read");
    answer
}

/// Parts of a private key that nobody may see.
fn parts(file: &Path) -> Vec<Vec<u8>> {
    let octets = Bytes::from(std::fs::read(file).expect("read"));
    let KeyFile::Clear(key) = KeyFile::decode(&octets).expect("a key file") else {
        panic!("protected");
    };
    let PrivateKey::Rsa {
        private_exponent,
        p,
        q,
        ..
    } = PrivateKey::decode(&key).expect("a key")
    else {
        panic!("not RSA");
    };
    [private_exponent, p, q]
        .map(|part| magnitude(&part).to_vec())
        .to_vec()
}

/// Gives the node the secret in every way there is, also such as are refused.
fn confide(node: &Node, said: &mut Said) {
    let (user, key) = node.admin();
    let secrets = || {
        vec![
            value(301, b"HS_SECKEY", 0x0E, SECRET),
            value(302, b"hs_seckey", 0x0C, SECRET),
        ]
    };
    let asked = values(OpCode::CREATE_HANDLE, "88.118/keys", secrets(), 1);
    assert_eq!(code(&ask_as(node.address, &asked, &user, &key)), 1);
    for (op, id) in [
        (OpCode::ADD_VALUE, 2),
        (OpCode::MODIFY_VALUE, 3),
        (OpCode::CREATE_HANDLE, 4),
    ] {
        let asked = values(op, "88.118/keys", secrets(), id);
        said.add("wire", &octets(&ask_as(node.address, &asked, &user, &key)));
    }
    // Refused: index 0, an index twice, another prefix, a wrong proof, a body that breaks off.
    let odd = |index| value(index, b"HS_SECKEY", 0x0E, SECRET);
    for (handle, odd) in [
        ("88.118/odd", vec![odd(0)]),
        ("88.118/odd", vec![odd(1), odd(1)]),
        ("99.999/odd", vec![odd(1)]),
    ] {
        let asked = values(OpCode::CREATE_HANDLE, handle, odd, 5);
        said.add("wire", &octets(&ask_as(node.address, &asked, &user, &key)));
    }
    let asked = values(OpCode::CREATE_HANDLE, "88.118/wrong", secrets(), 6);
    let wrong = Key::Secret(SECRET.to_vec());
    said.add(
        "wire",
        &octets(&ask_as(node.address, &asked, &user, &wrong)),
    );
    let whole = octets(&asked);
    for cut in [60, whole.len() - 30, whole.len() - 5] {
        let mut broken = whole[..cut].to_vec();
        let length = u32::try_from(cut - 20).expect("short").to_be_bytes();
        broken[16..20].copy_from_slice(&length);
        said.add("wire", &ask_octets(node.address, &broken));
    }
    // The holder of the secret proves it, rightly and wrongly, in a session of its own as well.
    let holder = Reference {
        handle: Bytes::from_static(b"88.118/keys"),
        index: 301,
    };
    let asked = values(
        OpCode::ADD_VALUE,
        "88.118/keys",
        vec![value(9, b"URL", 0x0E, b"u")],
        7,
    );
    for key in [Key::Secret(SECRET.to_vec()), Key::Secret(b"wrong".to_vec())] {
        said.add(
            "wire",
            &octets(&ask_as(node.address, &asked, &holder, &key)),
        );
    }
    // Who may not see them does not.
    let public = OpFlags::RESOLUTION;
    said.add(
        "wire",
        &octets(&ask(node.address, &resolution("88.118/keys", public, 8))),
    );
    let all = resolution("88.118/keys", public.without(OpFlags::PUBL), 9);
    said.add("wire", &octets(&ask(node.address, &all)));
    let read = ask_as(node.address, &all, &user, &key);
    assert!(holds(&octets(&read), SECRET), "an administrator reads them");
}

fn commands(node: &Node, directory: &Path, said: &mut Said) {
    let line = format!(
        r#"{{"handle":"88.118/imported","values":[{{"index":1,"type":"HS_SECKEY","data":{{"format":"string","value":"{}"}}}}"#,
        String::from_utf8_lossy(SECRET)
    );
    let (good, bad) = (directory.join("good.ndjson"), directory.join("bad.ndjson"));
    std::fs::write(&good, format!("{line}]}}\n")).expect("written");
    std::fs::write(&bad, format!("{line}, nonsense\n{line},7]}}\n")).expect("written");
    let path = |path: &Path| path.to_str().expect("a path").to_owned();
    assert_eq!(said.run(node, &["import", &path(&good)]).0, 0);
    assert_ne!(
        said.run(node, &["import", "--keep-going", &path(&bad)]).0,
        0
    );
    let decoded = hex::encode(octets(&values(
        OpCode::CREATE_HANDLE,
        "88.118/keys",
        vec![value(301, b"HS_SECKEY", 0x0E, SECRET)],
        1,
    )));
    let decode = |more: &[&str]| {
        let output = program().args(["decode", &decoded]).args(more).output();
        output.expect("runs").stdout
    };
    said.add("decode", &decode(&[]));
    assert!(
        holds(&decode(&["--with-secrets"]), SECRET),
        "with the flag it does"
    );
    for arguments in [
        &["export"][..],
        &["export", "--hex"],
        &["audit"],
        &["audit", "-o", "json"],
        &["audit", "verify"],
        &["store", "verify"],
        &["store", "stats"],
        &["store", "snapshot"],
    ] {
        let (code, text) = said.run(node, arguments);
        assert_eq!(code, 0, "{arguments:?}: {text}");
        assert!(!text.is_empty());
    }
    let server = node.address.to_string();
    let resolve = program()
        .args(["resolve", "88.118/keys", "--server", &server])
        .output()
        .expect("runs");
    said.add("resolve", &resolve.stdout);
    said.add("resolve", &resolve.stderr);
}

/// The commands that administrators change records with: on the node of this machine, from elsewhere with a proof for
/// each request, and in a session. The type of a secret is written as a user may write it.
fn administer(node: &Node, directory: &Path, said: &mut Said) {
    let path = |name: &str| directory.join(name).to_str().expect("a path").to_owned();
    let (secret, json) = (path("secret"), path("values.json"));
    let text = String::from_utf8_lossy(SECRET);
    std::fs::write(&secret, SECRET).expect("written");
    let written = format!(r#"[{{"index":4,"type":"Hs_SecKey","data":"{text}"}}]"#);
    std::fs::write(&json, written).expect("written");
    let (first, second) = (
        format!("1:hs_seckey={secret}"),
        format!("2:HS_SECKEY={secret}"),
    );
    let (broken, visible) = (format!("hs_seckey={secret}"), format!("5:hs_seckey={text}"));
    let (server, key) = (node.address.to_string(), node.data.join("admin.key"));
    let key = key.to_str().expect("a path");
    let who = [
        "--server",
        &server,
        "--identity",
        "300:0.NA/88.118",
        "--key",
        key,
    ];
    let encrypted = [&who[..], &["--encrypt"]].concat();
    for (tag, way) in [("here", &[][..]), ("proofs", &who), ("session", &encrypted)] {
        let handle = &format!("88.118/{tag}");
        let mut command = |arguments: &[&str], expected: i32| {
            let table = said.run(node, &[arguments, way].concat());
            assert_eq!(table.0, expected, "{tag}: {arguments:?}: {}", table.1);
            table.1
        };
        command(&["handle", "create", handle, "--value-file", &first], 0);
        command(
            &[
                "handle",
                "create",
                handle,
                "--value-file",
                &first,
                "-o",
                "json",
            ],
            1,
        );
        for expected in [0, 1] {
            let added = [
                "value",
                "add",
                handle,
                "--value-file",
                &second,
                "-o",
                "json",
            ];
            command(&added, expected);
        }
        command(
            &[
                "value",
                "set",
                handle,
                "--value-file",
                &first,
                "--value",
                "3:URL=u",
            ],
            0,
        );
        command(&["value", "set", handle, "--json", &json], 0);
        command(&["value", "set", handle, "--value", &visible], 2);
        command(&["value", "set", handle, "--value-file", &broken], 2);
        for more in [
            &[][..],
            &["--type", "HS_SECKEY"],
            &["--type", "hs_seckey", "--index", "3"],
        ] {
            for form in ["table", "json"] {
                command(&[&["handle", "get", handle, "-o", form], more].concat(), 0);
            }
        }
        command(&["handle", "list", "88.118", "-o", "json"], 0);
        command(&["value", "rm", handle, "2"], 0);
        command(
            &[
                "handle",
                "put",
                handle,
                "--value-file",
                &first,
                "-o",
                "json",
            ],
            0,
        );
        let shown = ["handle", "get", handle, "--with-secrets"];
        let shown = Said::default().run(node, &[&shown[..], way].concat());
        assert!(
            holds(shown.1.as_bytes(), SECRET),
            "{tag}: with the flag it does"
        );
        // Readable by administrators only, without a word about it.
        let public = ["resolve", handle, "--server", &server];
        let public = program().args(public).output().expect("runs");
        said.add("resolve", &public.stdout);
    }
}

/// The options of keys: what a wrong one says, and what shows a key.
fn keys(node: &Node, directory: &Path, said: &mut Said) {
    let path = |name: &str| directory.join(name).to_str().expect("a path").to_owned();
    let (passphrase, wrong, escrow) = (path("passphrase"), path("wrong"), path("escrow"));
    std::fs::write(&passphrase, PASSPHRASE).expect("written");
    std::fs::write(&wrong, b"wrong").expect("written");
    let escrowed = said.run(
        node,
        &[
            "key",
            "escrow",
            "export",
            "--out",
            &escrow,
            "--passphrase-file",
            &passphrase,
        ],
    );
    assert_eq!(escrowed.0, 0);
    said.add("the escrow file", &std::fs::read(&escrow).expect("read"));
    let mut key = |arguments: &[&str], expected: i32| {
        let output = program().args(arguments).output().expect("runs");
        assert_eq!(output.status.code(), Some(expected), "{arguments:?}");
        said.add("key", &output.stdout);
        said.add("key", &output.stderr);
    };
    let own = node
        .data
        .join("node.key")
        .to_str()
        .expect("a path")
        .to_owned();
    key(&["key", "show", &own], 0);
    key(&["key", "show", &own, "-o", "json"], 0);
    key(
        &["key", "show", &escrow, "--passphrase-file", &passphrase],
        0,
    );
    key(&["key", "show", &escrow, "--passphrase-file", &wrong], 1);
    key(&["key", "show", &escrow], 1);
    for form in ["file", "pem", "jwk"] {
        key(
            &[
                "key", "export", &own, "--public", "--format", form, "--out", "-",
            ],
            0,
        );
    }
    key(
        &[
            "key",
            "import",
            &escrow,
            "--passphrase-file",
            &passphrase,
            "--out",
            &own,
        ],
        1,
    );
}

#[test]
fn no_output_tells_a_secret() {
    for (level, format) in [("debug", "text"), ("trace", "json")] {
        let directory = tempfile::Builder::new()
            .prefix("jx")
            .tempdir()
            .expect("a directory");
        let mut node = Node::init(directory.path());
        let log = directory.path().join("log");
        let said = &mut Said::default();
        node.start_logging(&log, level, format);
        let session = node.session(9);
        confide(&node, said);
        commands(&node, directory.path(), said);
        administer(&node, directory.path(), said);
        keys(&node, directory.path(), said);
        said.add("metrics", &get(node.operations, "/metrics"));
        said.add("health", &get(node.operations, "/health"));
        let (_, exported) = Said::default().run(&node, &["export", "--with-secrets"]);
        assert!(holds(exported.as_bytes(), SECRET), "with the flag it does");
        node.terminate();
        let private = [node.data.join("node.key"), node.data.join("admin.key")];
        said.files(&node.data, &private);
        said.files(&log, &[]);
        let logged = said.0[&log.display().to_string()].len();
        assert!(logged > 200, "the log has {logged} octets");
        let mut secrets = vec![SECRET.to_vec(), PASSPHRASE.to_vec(), session.key];
        private.iter().for_each(|file| secrets.extend(parts(file)));
        for secret in &secrets {
            assert_eq!(said.told(secret), Vec::<&str>::new(), "{level}");
        }
        println!(
            "{level}: {} outputs, {} secrets, none told",
            said.0.len(),
            secrets.len()
        );
    }
}

/// Goal: with the escrow of the node's key and a snapshot, another host has everything, secrets too.
#[test]
fn a_backup_is_restored_on_another_host() {
    let directory = tempfile::Builder::new()
        .prefix("jx")
        .tempdir()
        .expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let text = |path: &Path| path.to_str().expect("a path").to_owned();
    let mut first = Node::init(&path("a"));
    first.start();
    confide(&first, &mut Said::default());
    std::fs::write(path("passphrase"), PASSPHRASE).expect("written");
    let (escrow, passphrase) = (text(&path("escrow")), text(&path("passphrase")));
    let said = &mut Said::default();
    let out = ["--out", &escrow, "--passphrase-file", &passphrase];
    assert_eq!(
        said.run(&first, &[&["key", "escrow", "export"], &out[..]].concat())
            .0,
        0
    );
    let (_, printed) = said.run(&first, &["store", "snapshot", "-o", "json"]);
    let printed: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
    let snapshot = PathBuf::from(printed["path"].as_str().expect("a path"));
    let backup = path(
        snapshot
            .file_name()
            .expect("a name")
            .to_str()
            .expect("text"),
    );
    std::fs::copy(&snapshot, &backup).expect("copied");
    std::fs::copy(first.data.join("site.json"), path("site.json")).expect("copied");
    first.terminate();

    // The other host knows nothing but what was put aside.
    let mut second = Node::init(&path("b"));
    let bring = [
        "key",
        "escrow",
        "import",
        &escrow,
        "--passphrase-file",
        &passphrase,
    ];
    assert_eq!(said.run(&second, &bring).0, 1, "a key is not written over");
    let own = text(&second.data.join("node.key"));
    let moved = text(&path("own.key"));
    std::fs::rename(&own, &moved).expect("moved");
    assert_eq!(
        said.run(&second, &bring).0,
        1,
        "nor one brought to the site record of another node"
    );
    std::fs::copy(path("site.json"), second.data.join("site.json")).expect("copied");
    assert_eq!(said.run(&second, &bring).0, 0);
    assert_eq!(
        said.run(&second, &["store", "restore", "--yes", &text(&backup)])
            .0,
        0
    );
    second.start();

    let (_, key) = first.admin();
    let holder = Reference {
        handle: Bytes::from_static(b"88.118/keys"),
        index: 301,
    };
    let all = resolution("88.118/keys", OpFlags::RESOLUTION.without(OpFlags::PUBL), 1);
    let user = first.admin().0;
    let read = ask_as(second.address, &all, &user, &key);
    assert!(
        holds(&octets(&read), SECRET),
        "the secret is there: {read:?}"
    );
    let asked = values(
        OpCode::ADD_VALUE,
        "88.118/keys",
        vec![value(12, b"URL", 0x0E, b"u")],
        2,
    );
    let proof = ask_as(
        second.address,
        &asked,
        &holder,
        &Key::Secret(SECRET.to_vec()),
    );
    assert_eq!(code(&proof), 400, "it is proved, and has no right here");
    let wrong = ask_as(second.address, &asked, &user, &Key::Secret(b"no".to_vec()));
    assert_eq!(code(&wrong), 403);
    second.terminate();

    // With another key the node does not start, and says why.
    std::fs::copy(&moved, &own).expect("copied");
    let refused = program()
        .env("JIEXI_HTTP_PORT", "0")
        .args(["serve", "--config"])
        .arg(second.data.join("jiexi.toml"))
        .output()
        .expect("runs");
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(stderr.contains("has the public key of"), "{stderr}");
}
