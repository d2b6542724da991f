//! Goal: SM2 keys and signatures of jiexi are those of everybody else. Method: OpenSSL reads the keys that
//! jiexi makes, and each verifies what the other has signed, in the way of the id-pointer SDK.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use getrandom::SysRng;
use jiexi::registry::sm2::{PrivateKey, PublicKey};

use super::change::init;
use super::ports::free_port;
use super::support::{directory, run};

const USER: &str = "88.118.8/离心泵";

/// Runs OpenSSL, which `.ci/run` installs; gives its standard output.
fn openssl(directory: &Path, arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    let output = command
        .current_dir(directory)
        .args(arguments)
        .output()
        .expect("OpenSSL is installed");
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

#[test]
fn openssl_and_jiexi_verify_each_other() {
    let directory = directory();
    let here = directory.path();
    run(here, &["key", "new", "--sm2", "--out", "user.pem"]).expect(0);
    let public = run(
        here,
        &["key", "export", "user.pem", "--public", "--out", "-"],
    )
    .expect(0)
    .stdout;
    let theirs = openssl(here, &["pkey", "-in", "user.pem", "-pubout"]);
    assert_eq!(String::from_utf8(theirs).expect("text"), public);
    let shown = run(here, &["key", "show", "user.pem", "-o", "json"])
        .expect(0)
        .json();
    assert_eq!(
        (&shown["type"], &shown["public"]),
        (&"SM2".into(), &public.clone().into())
    );

    // The SDK signs the SM3 of the message; SM2 hashes that once more, behind the name.
    let message = b"nonce and digest";
    std::fs::write(here.join("message"), message).expect("written");
    openssl(
        here,
        &["dgst", "-sm3", "-binary", "-out", "hash", "message"],
    );
    std::fs::write(here.join("user.pub"), &public).expect("written");
    let name = format!("distid:{USER}");
    let common = ["-rawin", "-digest", "sm3", "-in", "hash", "-pkeyopt", &name];
    openssl(
        here,
        &[
            &["pkeyutl", "-sign", "-inkey", "user.pem", "-out", "theirs"][..],
            &common,
        ]
        .concat(),
    );
    let theirs = std::fs::read(here.join("theirs")).expect("a signature");
    let key = PublicKey::parse(public.as_bytes()).expect("a key");
    assert!(key.verifies(USER.as_bytes(), message, &theirs));
    assert!(
        !key.verifies(b"88.118.8/somebody", message, &theirs),
        "the name is signed"
    );
    assert!(!key.verifies(USER.as_bytes(), b"another message", &theirs));

    let pem = std::fs::read(here.join("user.pem")).expect("a key");
    let private = PrivateKey::parse(&pem).expect("an SM2 key");
    let ours = private
        .sign(USER.as_bytes(), message, &mut SysRng)
        .expect("a signature");
    std::fs::write(here.join("ours"), ours).expect("written");
    let verify = [
        "pkeyutl", "-verify", "-pubin", "-inkey", "user.pub", "-sigfile", "ours",
    ];
    openssl(here, &[&verify[..], &common].concat());
}

#[test]
fn a_key_is_read_in_every_form() {
    let private = PrivateKey::generate(&mut SysRng).expect("randomness");
    let public = private.public();
    let signature = private
        .sign(b"name", b"message", &mut SysRng)
        .expect("a signature");
    let pem = public.pem().expect("PEM");
    let digits: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    // Java's encoder breaks lines later than RFC 7468 allows, and with two characters.
    let java = format!(
        "-----BEGIN PUBLIC KEY-----\r\n{}\r\n{}\r\n-----END PUBLIC KEY-----\r\n",
        &digits[..76],
        &digits[76..]
    );
    use base64::Engine as _;
    let der = STANDARD.decode(&digits).expect("base64");
    let point = &der[der.len() - 65..];
    for form in [pem.as_bytes(), java.as_bytes(), &der, point, &point[1..]] {
        let key = PublicKey::parse(form).expect("a key");
        assert_eq!(key, public);
        assert!(key.verifies(b"name", b"message", &signature));
    }
    assert!(PublicKey::parse(b"").is_none() && PublicKey::parse(&[4; 65]).is_none());
}

#[test]
fn an_sm2_key_has_one_form() {
    let directory = directory();
    let here = directory.path();
    run(
        here,
        &[
            "key", "new", "--sm2", "--format", "jwk", "--out", "user.jwk",
        ],
    )
    .expect(2);
    run(here, &["key", "new", "--sm2", "--out", "user.pem"]).expect(0);
    run(here, &["key", "new", "--sm2", "--out", "user.pem"]).expect(1);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(here.join("user.pem"))
            .expect("there")
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

/// A user's key goes into a record in every form that verifies, and a private key as its public half.
#[test]
fn an_sm2_key_as_a_value() {
    let directory = directory();
    let here = directory.path();
    init(here, "node", "88.118", free_port());
    run(here, &["key", "new", "--sm2", "--out", "user.pem"]).expect(0);
    run(
        here,
        &["key", "export", "user.pem", "--public", "--out", "user.pub"],
    )
    .expect(0);
    let pem = std::fs::read(here.join("user.pub")).expect("exported");
    let block = |octets: &[u8]| {
        let length = u32::try_from(octets.len()).expect("short");
        [&length.to_be_bytes(), octets].concat()
    };
    let binary = [&block(b"SM2_PUB_KEY")[..], &[0, 0], &block(&pem)].concat();
    std::fs::write(here.join("binary.pub"), &binary).expect("written");
    for (file, expected) in [
        ("user.pem", &pem),
        ("user.pub", &pem),
        ("binary.pub", &binary),
    ] {
        let handle = format!("88.118/{file}");
        let value = format!("300:HS_PUBKEY={file}");
        let create = ["handle", "create", &handle, "--value-file", &value];
        run(here, &[&create[..], &["--data", "node"]].concat()).expect(0);
        let found = run(
            here,
            &["handle", "get", &handle, "-o", "json", "--data", "node"],
        );
        let data = found.expect(0).json()["values"][0]["data"].clone();
        let octets = match data["format"].as_str() {
            Some("string") => data["value"].as_str().expect("text").as_bytes().to_vec(),
            _ => STANDARD
                .decode(data["value"].as_str().expect("base64"))
                .expect("base64"),
        };
        assert_eq!(&octets, expected, "{file}");
    }
    std::fs::write(here.join("wrong.pub"), &binary[..binary.len() - 1]).expect("written");
    let wrong = ["--value-file", "300:HS_PUBKEY=wrong.pub", "--data", "node"];
    let refused = run(
        here,
        &[&["handle", "create", "88.118/wrong"], &wrong[..]].concat(),
    );
    assert!(refused.expect(1).stderr.contains("wrong.pub"));
}
