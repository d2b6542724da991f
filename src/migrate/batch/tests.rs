use jiexi_proto::code::Permissions;
use jiexi_proto::value::admin::{Admin, AdminRights};
use jiexi_proto::value::{Reference, Ttl, list};

use super::*;

const NOW: u32 = 1_700_000_000;

fn steps(text: &str) -> Vec<Item> {
    let steps = Steps::new(text.as_bytes(), NOW);
    steps.collect::<Result<_, _>>().expect("reads")
}

fn good(text: &str) -> Vec<(u64, What)> {
    let steps = steps(text).into_iter().map(|step| step.expect("a step"));
    steps.map(|step| (step.line, step.what)).collect()
}

/// What is wrong: lines and the beginnings of messages.
#[track_caller]
fn wrong(text: &str, expected: &[(u64, &str)]) {
    let found: Vec<Bad> = steps(text).into_iter().filter_map(Result::err).collect();
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (bad, (line, message)) in found.iter().zip(expected) {
        assert_eq!(bad.line, *line, "{bad:?}");
        assert!(bad.message.contains(message), "{bad:?}");
    }
}

fn value(index: u32, kind: &'static str, permissions: u8, data: &[u8]) -> Value {
    Value {
        index,
        timestamp: NOW,
        ttl: Ttl::Relative(86_400),
        permissions: Permissions(permissions),
        kind: Bytes::from_static(kind.as_bytes()),
        data: Bytes::copy_from_slice(data),
        references: Vec::new(),
    }
}

/// Goal: a file with every command says what the tools would do. Method: the forms of the manual, one of each.
#[test]
fn every_command() {
    let text = "\u{feff}AUTHENTICATE PUBKEY:300:0.NA/88.118\r\n/keys/admpriv.bin|CREATE secret\r\n\r\n\
        SESSIONSETUP\nUSESESSION:1\nOPTIONS:111\n\n\
        HOME 192.0.2.1:2641:TCP\n0.NA/88.118\n0.na/88.118.1\n\n\
        create 88.118/a b:c\n\
        1 URL 86400 1110 UTF8   http://example.cn/ x  \n\
        100  HS_ADMIN 86400 1110 admin 300:110011110001:0.NA/88.118\n\
        400 HS_VLIST 60 1111 LIST 300:88.118/U1; 301:88.118/U:2;\n\
        301 HS_SECKEY -1 1100 UTF8 pass word\n\n\
        DELETE 88.118/b\nREMOVE 5, 6:88.118/c:d\n\
        ADD 88.118/工\n5 DESC 86400 1110 UTF8 离心泵\n\n\
        MODIFY 88.118/d\n5 DESC 86400 0000 UTF8 \n   \n\
        UNHOME [2001:db8::1]:2641:HTTP\n0.NA/88.118.2";
    let found = good(text);
    let lines: Vec<u64> = found.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [1, 4, 9, 10, 12, 18, 19, 20, 23, 27]);
    assert_eq!(found[0].1, What::Identity);
    assert_eq!(found[1].1, What::Session);
    let prefix = |text: &'static str| Bytes::from_static(text.as_bytes());
    let home = |text| {
        What::Change(Request::Home {
            prefix: prefix(text),
            record: None,
        })
    };
    assert_eq!(found[2].1, home("0.NA/88.118"));
    assert_eq!(found[3].1, home("0.NA/88.118.1"));

    let rights = [
        AdminRights::ADD_HANDLE,
        AdminRights::DELETE_HANDLE,
        AdminRights::MODIFY_VALUE,
        AdminRights::REMOVE_VALUE,
        AdminRights::ADD_VALUE,
        AdminRights::READ_VALUE,
        AdminRights::LIST_HANDLES,
    ];
    let reference = |index, handle: &'static str| Reference {
        handle: prefix(handle),
        index,
    };
    let mut admin = Vec::new();
    Admin {
        rights: rights.into_iter().fold(AdminRights(0), AdminRights::with),
        admin: reference(300, "0.NA/88.118"),
        padded: false,
    }
    .encode(&mut admin);
    let mut members = Vec::new();
    list::encode(
        &[reference(300, "88.118/U1"), reference(301, "88.118/U:2")],
        &mut members,
    );
    let values = vec![
        value(1, "URL", 0b1110, b"http://example.cn/ x"),
        value(100, "HS_ADMIN", 0b1110, &admin),
        Value {
            ttl: Ttl::Relative(-1),
            ..value(301, "HS_SECKEY", 0b1100, b"pass word")
        },
        Value {
            ttl: Ttl::Relative(60),
            ..value(400, "HS_VLIST", 0b1111, &members)
        },
    ];
    let create = Request::Create {
        handle: prefix("88.118/a b:c"),
        values,
        overwrite: false,
        mint: false,
    };
    assert_eq!(found[4].1, What::Change(create));
    assert_eq!(
        found[5].1,
        What::Change(Request::Delete {
            handle: prefix("88.118/b")
        })
    );
    let remove = Request::Remove {
        handle: prefix("88.118/c:d"),
        indexes: vec![5, 6],
    };
    assert_eq!(found[6].1, What::Change(remove));
    let add = Request::Add {
        handle: prefix("88.118/工"),
        values: vec![value(5, "DESC", 0b1110, "离心泵".as_bytes())],
        overwrite: false,
    };
    assert_eq!(found[7].1, What::Change(add));
    let modify = Request::Modify {
        handle: prefix("88.118/d"),
        values: vec![value(5, "DESC", 0, b"")],
    };
    assert_eq!(found[8].1, What::Change(modify));
    let unhome = Request::Unhome {
        prefix: prefix("0.NA/88.118.2"),
        record: false,
    };
    assert_eq!(found[9].1, What::Change(unhome));
}

/// Goal: data come out of files as they are, and a site record out of its JSON, too.
#[test]
fn data_of_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(path("key.bin"), b"\0\x01 \n").unwrap();
    let text = format!(
        "CREATE 88.118/a\n1 HS_PUBKEY 1 1110 FILE {}\n",
        path("key.bin")
    );
    let What::Change(Request::Create { values, .. }) = &good(&text)[0].1 else {
        panic!("no create");
    };
    assert_eq!(&values[0].data[..], b"\0\x01 \n");

    let site = crate::identity::site_record(
        "192.0.2.1".parse().unwrap(),
        2641,
        crate::identity::KeyPair::generate()
            .unwrap()
            .public_octets(),
        "a node",
    );
    std::fs::write(
        path("site.json"),
        crate::identity::site_text(&site).unwrap(),
    )
    .unwrap();
    let text = format!(
        "CREATE 88.118/a\n1 HS_SITE 1 1110 FILE {}\n",
        path("site.json")
    );
    let What::Change(Request::Create { values, .. }) = &good(&text)[0].1 else {
        panic!("no create");
    };
    let mut wire = Vec::new();
    site.encode(&mut wire);
    assert_eq!(values[0].data, wire);

    let long = vec![0; 5 << 20];
    std::fs::write(path("long.bin"), long).unwrap();
    let text = format!(
        "CREATE 88.118/a\n1 A 1 1110 FILE {}\n2 A 1 1110 FILE {}\n\nADD 88.118/b\n2 A 1 1110 FILE {}\n",
        path("none"),
        path("long.bin"),
        path("long.bin")
    );
    wrong(
        &text,
        &[(2, "none: No such file"), (6, "longer than a record")],
    );
}

/// Goal: whatever is wrong is told with its line, all of it at once, and nothing of a command with a wrong line is done.
#[test]
fn errors_have_lines() {
    wrong(
        "CREAT 88.118/a\n1 URL 1 1110 UTF8 x\n\nDELETE\n1 URL 1 1110 UTF8 x\n\nCREATE 88.118/b\n\nREMOVE x:88.118/a\n\
         REMOVE 5\nREMOVE 0:88.118/a\n",
        &[
            (1, "\"CREAT\" is no command"),
            (4, "the handle is missing"),
            (5, "a value without a command"),
            (7, "CREATE has no value lines"),
            (9, "REMOVE takes"),
            (10, "the handle is missing"),
            (11, "REMOVE takes"),
        ],
    );
    let values = [
        ("x URL 1 1110 UTF8 x", "the index must be"),
        ("0 URL 1 1110 UTF8 x", "the index must be"),
        ("2147483648 URL 1 1110 UTF8 x", "the index must be"),
        ("1", "the type is missing"),
        ("1 URL soon 1110 UTF8 x", "\"soon\" is no time to live"),
        ("1 URL 1 110 UTF8 x", "is not four permissions"),
        ("1 URL 1 1112 UTF8 x", "is not four permissions"),
        ("1 URL 1 1110", "UTF8, ADMIN, LIST or FILE is missing"),
        ("1 URL 1 1110 BASE64 eA==", "\"BASE64\" is not UTF8"),
        ("1 HS_ADMIN 1 1110 ADMIN 300:11:0.NA/88", "ADMIN takes"),
        (
            "1 HS_ADMIN 1 1110 ADMIN 300:111111111112:0.NA/88",
            "ADMIN takes",
        ),
        (
            "1 HS_ADMIN 1 1110 ADMIN x:111111111111:0.NA/88",
            "ADMIN takes",
        ),
        ("1 HS_ADMIN 1 1110 ADMIN 300:111111111111", "ADMIN takes"),
        ("1 HS_VLIST 1 1110 LIST ;", "LIST takes"),
        ("1 HS_VLIST 1 1110 LIST 300;", "LIST takes"),
    ];
    for (line, message) in values {
        let text = format!(
            "ADD 88.118/a\n1 A 1 1110 UTF8 a\n{line}\n2 B 1 1110 UTF8 b\n\nDELETE 88.118/c\n"
        );
        wrong(&text, &[(3, message)]);
        assert_eq!(steps(&text).len(), 2, "what follows is read on");
    }
    wrong(
        "CREATE 88.118/a\n1 A 1 1110 UTF8 a\n1 B 1 1110 UTF8 b\n\nCREATE noslash\n1 A 1 1110 UTF8 a\n\n\
         HOME here\nDELETE 88.118/a\nHOME 192.0.2.1:2641:TCP\n88.118\n0.NA/88..1\n",
        &[
            (1, "index 1 is there twice"),
            (5, "is not a prefix, a slash"),
            (8, "HOME and UNHOME take"),
            (11, "must be a prefix"),
            (12, "is not a prefix"),
        ],
    );
    wrong(
        "AUTHENTICATE SECKEY:x:88.118/A\nsecret\nAUTHENTICATE SECKEY:1:88.118/A\n\nSESSIONSETUP\nUSESESSION\n\n",
        &[
            (1, "AUTHENTICATE takes"),
            (4, "must have the secret"),
            (6, "NAME:"),
        ],
    );
    let long = format!("CREATE 88.118/{}\n1 A 1 1110 UTF8 a\n", "x".repeat(2_048));
    wrong(&long, &[(1, "longer than 2048 bytes")]);
}

/// Goal: a file that is not text does no harm. Method: octets that are no UTF-8, and a line without an end.
#[test]
fn what_is_no_text() {
    let mut steps = Steps::new(&b"DELETE 88.118/\xFF\nDELETE 88.118/a\n"[..], NOW);
    assert_eq!(
        steps.next().unwrap().unwrap().unwrap_err().message,
        "is not UTF-8"
    );
    assert!(steps.next().unwrap().unwrap().is_ok());
    let endless = vec![b'x'; LINE_MAX + 2];
    let error = Steps::new(&endless[..], NOW).next().unwrap().unwrap_err();
    assert!(error.to_string().contains("line 1 is longer"), "{error}");
    let mut whole = vec![b' '; LINE_MAX];
    whole.push(b'\n');
    assert!(Steps::new(&whole[..], NOW).next().is_none());
}

/// Goal: a file that was cut somewhere says so or says less, and its reader ends. Method: every length of one.
#[test]
fn cut_anywhere() {
    let text = "HOME 192.0.2.1:2641:TCP\n0.NA/88.118\n\nCREATE 88.118/a\n1 URL 86400 1110 UTF8 x\n\nDELETE 88.118/b\n";
    for length in 0..=text.len() {
        assert!(steps(&text[..length]).len() <= 3, "{length}");
    }
    assert_eq!(good(text).len(), 3);
}

/// Goal: what is told of a file is short, whatever is in it: thousands of such are kept. Method: lines as long as one may be,
/// which are taken for a handle, for a part of a value, and for what does not fit.
#[test]
fn what_is_wrong_is_told_shortly() {
    let long = "泵".repeat((LINE_MAX - 100) / 3);
    let text = format!(
        "HOME 192.0.2.1:2641:TCP\n{long}\n0.NA/{long}\n\n\
        CREATE 88.118/a\n1 URL {long} 1110 UTF8 x\n\n\
        CREATE 88.118/b\n1 URL 60 1110 {long} x\n\n\
        DELETE {long}\nREMOVE 1:{long}\nREMOVE {long}:88.118/c\n\
        CREATE {long}\n1 URL 60 1110 UTF8 x\n\n"
    );
    let found: Vec<Bad> = steps(&text).into_iter().filter_map(Result::err).collect();
    assert_eq!(found.len(), 8, "{found:?}");
    for bad in &found {
        let handle = bad.handle.as_deref().unwrap_or_default();
        assert!(handle.len() <= HANDLE_MAX, "{} octets", handle.len());
        assert!(
            bad.message.len() <= HANDLE_MAX,
            "{} octets",
            bad.message.len()
        );
    }
    let first = found[0].handle.as_deref().expect("what was taken for one");
    assert!(
        first.starts_with("泵泵") && first.ends_with("泵…"),
        "{first}"
    );
    // A handle is whole.
    let handle = format!("88.118/{}", "x".repeat(HANDLE_MAX - 7));
    let found = steps(&format!("CREATE {handle}\n1 URL none 1110 UTF8 x\n"));
    assert_eq!(
        found[0].as_ref().err().and_then(|bad| bad.handle.clone()),
        Some(handle)
    );
}
