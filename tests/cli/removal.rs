//! Goal: what is removed is what was meant, on the node that was meant. Method: real nodes, of which one has delegated a
//! prefix to the other and both have a record of it, and somebody who may remove either.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    thread,
};

use crate::{
    change::{init, serve, words},
    node::Running,
    ports::free_port,
    support::{Run, directory, run},
};

/// A node that has delegated 88.118.9, and the one that it was delegated to.
struct Two<'a> {
    directory: &'a Path,
    parent: Running,
    child: Running,
}

impl<'a> Two<'a> {
    /// The administrator of the child is that of its prefix's record at the parent as well.
    fn start(directory: &'a Path) -> Self {
        let (above, below) = (free_port(), free_port());
        init(directory, "parent", "88.118", above);
        init(directory, "child", "88.118.9", below);
        let two = Self {
            directory,
            parent: serve(directory, "parent", above),
            child: serve(directory, "child", below),
        };
        two.delegate();
        two
    }

    fn delegate(&self) {
        let site = self.child.server();
        self.run(&format!(
            "prefix add 88.118.9 --site {site} --admin-key child/admin.key --data parent"
        ))
        .expect(0);
    }

    fn run(&self, command: &str) -> Run {
        let words = words(command);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        run(self.directory, &words)
    }

    /// Told of the parent alone.
    fn by_parent(&self, command: &str) -> Run {
        let who = "--identity 300:0.NA/88.118.9 --key child/admin.key";
        self.run(&format!(
            "{command} --server {} {who}",
            self.parent.server()
        ))
    }

    fn resolve(&self, handle: &str, node: &Running) -> Run {
        self.run(&format!("resolve {handle} --server {}", node.server()))
    }

    /// How many changes the child has made.
    fn changes_below(&self) -> u64 {
        let stats = self
            .run("store stats --data child -o json")
            .expect(0)
            .json();
        stats["sequence"].as_u64().expect("a number")
    }
}

#[test]
fn a_delegated_prefix_is_removed_where_it_was_delegated() {
    let directory = directory();
    let two = Two::start(directory.path());
    two.run("handle create 88.118.9/kept --value 1:URL=x --data child")
        .expect(0);
    let before = two.changes_below();
    for how in ["", "--force", "--session", "--force --encrypt"] {
        two.resolve("88.118.9/kept", &two.parent).expect(0);
        two.by_parent(&format!("prefix rm 88.118.9 {how}"))
            .expect(0);
        two.resolve("0.NA/88.118.9", &two.parent).expect(3);
        // Whoever was administrator by that record is none there any more.
        two.by_parent(&format!("prefix rm 88.118.9 {how}"))
            .expect(1);
        assert_eq!(
            two.changes_below(),
            before,
            "{how}: nothing is removed below"
        );
        two.resolve("0.NA/88.118.9", &two.child).expect(0);
        two.resolve("88.118.9/kept", &two.child).expect(0);
        two.delegate();
    }
    assert_eq!((two.parent.stop(), two.child.stop()), (0, 0));
}

/// Goal: where one handle was found says nothing about the next.
#[test]
fn each_handle_is_removed_at_its_own_home() {
    let directory = directory();
    let two = Two::start(directory.path());
    for how in ["", "--session"] {
        for handle in ["88.118.9/a", "88.118.9/b"] {
            two.by_parent(&format!("handle create {handle} --value 1:URL=x {how}"))
                .expect(0);
        }
        let before = two.changes_below();
        // The record of the prefix is held above, whatever was done below it a moment ago.
        two.by_parent(&format!(
            "handle rm 88.118.9/a 88.118.9/b 0.NA/88.118.9 {how}"
        ))
        .expect(0);
        assert_eq!(two.changes_below(), before + 2, "{how}");
        two.resolve("0.NA/88.118.9", &two.parent).expect(3);
        two.resolve("0.NA/88.118.9", &two.child).expect(0);
        two.resolve("88.118.9/a", &two.child).expect(3);
        two.delegate();
    }
    assert_eq!((two.parent.stop(), two.child.stop()), (0, 0));
}

/// Goal: a handle that is not there keeps no other from being removed, and the exit code tells what was wrong.
#[test]
fn a_missing_handle_keeps_no_other_from_being_removed() {
    let directory = directory();
    let directory = directory.path();
    let port = free_port();
    init(directory, "a", "88.118", port);
    let node = serve(directory, "a", port);
    let remote = format!(
        "--server {} --identity 300:0.NA/88.118 --key a/admin.key",
        node.server()
    );
    for way in ["--data a", &remote, &format!("{remote} --session")] {
        let command = |text: &str| {
            let words = words(&format!("{text} {way}"));
            run(
                directory,
                &words.iter().map(String::as_str).collect::<Vec<_>>(),
            )
        };
        let create = || {
            for handle in ["88.118/a", "88.118/c"] {
                command(&format!("handle create {handle} --value 1:URL=x")).expect(0);
            }
        };
        create();
        let mixed = command("handle rm 88.118/a 88.118/missing 88.118/c").expect(3);
        assert_eq!(
            mixed.stdout, "removed 88.118/a\nremoved 88.118/c\n",
            "{way}"
        );
        assert!(
            mixed.stderr.contains("88.118/missing") && mixed.stderr.contains("code 100"),
            "{}",
            mixed.stderr
        );
        create();
        let mixed = command("handle rm 88.118/missing 10.99/x 88.118/a 88.118/c -o json").expect(1);
        let said =
            serde_json::Deserializer::from_str(&mixed.stdout).into_iter::<serde_json::Value>();
        let codes: Vec<_> = said
            .map(|answer| answer.expect("JSON")["responseCode"].as_u64())
            .collect();
        assert_eq!(codes, [Some(100), Some(301), Some(1), Some(1)], "{way}");
        for handle in ["88.118/a", "88.118/c"] {
            command(&format!("handle get {handle}")).expect(3);
        }
    }
    let server = node.server();
    assert_eq!(node.stop(), 0);
    let words = words(&format!("handle rm 88.118/a 88.118/b --server {server}"));
    let silent = run(
        directory,
        &words.iter().map(String::as_str).collect::<Vec<_>>(),
    )
    .expect(1);
    assert!(
        silent.stderr.contains("not tried after this: 1"),
        "{}",
        silent.stderr
    );
}

/// The octets of the envelope, behind which the operation code stands.
const ENVELOPE: usize = 20;

/// One message of a connection.
fn message(from: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut octets = vec![0; ENVELOPE];
    from.read_exact(&mut octets)?;
    let length = u32::from_be_bytes(octets[16..20].try_into().expect("four octets"));
    octets.resize(ENVELOPE + length as usize, 0);
    from.read_exact(&mut octets[ENVELOPE..])?;
    Ok(octets)
}

/// What a server does with an operation that it does not know.
#[derive(Clone, Copy)]
enum Unknown {
    /// It says so.
    Refused,
    /// It closes the connection, as the reference does.
    Closed,
}

/// Passes on to `server` what comes, but for the operations that jiexi alone knows: those reach it as one that nobody
/// knows, or not at all. Returns where.
fn without_own_operations(server: String, unknown: Unknown) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let pass = move |mut from: TcpStream| -> std::io::Result<()> {
        let mut request = message(&mut from)?;
        let operation = &mut request[ENVELOPE..ENVELOPE + 4];
        if (300_100..300_200_u32).any(|own| own.to_be_bytes() == operation) {
            if matches!(unknown, Unknown::Closed) {
                return Ok(());
            }
            operation.copy_from_slice(&300_999_u32.to_be_bytes());
        }
        let mut to = TcpStream::connect(&server)?;
        to.write_all(&request)?;
        from.write_all(&message(&mut to)?)
    };
    thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            // A client that is gone takes no answer.
            let _ = pass(connection);
        }
    });
    address
}

/// Goal: a prefix elsewhere goes with its record, in one change or not at all; on a server that has no operation for it,
/// in steps.
#[test]
fn a_prefix_elsewhere_is_removed_in_one_change() {
    let directory = directory();
    let directory = directory.path();
    let port = free_port();
    init(directory, "a", "88.118", port);
    let node = serve(directory, "a", port);
    let local = |command: &str| {
        let words = words(&format!("{command} --data a"));
        run(
            directory,
            &words.iter().map(String::as_str).collect::<Vec<_>>(),
        )
    };
    let by = |server: &str, who: &str, command: &str| {
        let words = words(&format!("{command} --server {server} --identity {who}"));
        run(
            directory,
            &words.iter().map(String::as_str).collect::<Vec<_>>(),
        )
    };
    let sequence = || {
        let stats = local("store stats -o json").expect(0).json();
        stats["sequence"].as_u64().expect("a number")
    };
    let homed = || local("prefix list").expect(0).stdout.contains("88.118.9");
    let key = "key new --out own.key";
    run(directory, &key.split(' ').collect::<Vec<_>>()).expect(0);
    let add = || local("prefix add 88.118.9 --hosted --admin-key own.key").expect(0);
    let administrator = "300:0.NA/88.118 --key a/admin.key";
    let server = node.server();

    add();
    let before = sequence();
    let refused = by(
        &server,
        "300:0.NA/88.118.9 --key own.key",
        "prefix rm 88.118.9",
    )
    .expect(1);
    assert!(refused.stderr.contains("code 400"), "{}", refused.stderr);
    assert_eq!(
        (sequence(), homed()),
        (before, true),
        "for server administrators only"
    );
    for how in ["", "--session", "--encrypt"] {
        let before = sequence();
        by(&server, administrator, &format!("prefix rm 88.118.9 {how}")).expect(0);
        assert_eq!((sequence(), homed()), (before + 1, false), "one change");
        local("handle get 0.NA/88.118.9").expect(3);
        add();
    }
    // Homed without a record.
    local("handle rm 0.NA/88.118.9").expect(0);
    by(&server, administrator, "prefix rm 88.118.9").expect(0);
    assert!(!homed());

    for unknown in [Unknown::Refused, Unknown::Closed] {
        add();
        let relay = without_own_operations(server.clone(), unknown);
        let before = sequence();
        by(&relay, administrator, "prefix rm 88.118.9").expect(0);
        assert_eq!((sequence(), homed()), (before + 2, false), "in steps");
        local("handle get 0.NA/88.118.9").expect(3);
    }
    let trail = local("audit -o json").expect(0).stdout;
    assert!(trail.contains("unhome and delete"), "{trail}");
    assert_eq!(node.stop(), 0);
}
