//! Goal: we answer as the servers answer that the world runs on. Method: 100,000 names, `export`ed as a
//! zone file that Knot and NSD serve; 10,000 random questions to all three; the answers compared after
//! what no two servers agree on is taken out. And dig, kdig and drill read what we say.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, HINFO};
use hickory_proto::rr::{RData, Record, RecordType};
use jiexi::records;
use jiexi::server::dns::export::export;
use jiexi::server::dns::view::View;
use jiexi::server::dns::{self, zone};
use jiexi::store::Store;
use jiexi_proto::handle::CaseRule;

use crate::node::{Node, PUBLIC, TIME, config, question, value, with_edns};
use crate::ports::free_port;

/// How many names the zone has.
const NAMES: usize = 100_000;

/// How many questions are asked.
const QUESTIONS: usize = 10_000;

/// A server that ends with the test.
struct Peer {
    name: &'static str,
    process: Child,
    address: SocketAddr,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(name: &'static str, command: &mut Command, port: u16) -> Peer {
    let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let process = process.unwrap_or_else(|error| panic!("{name}: {error}; .ci/run installs it"));
    Peer {
        name,
        process,
        address: (Ipv4Addr::LOCALHOST, port).into(),
    }
}

fn knot(directory: &Path, file: &Path) -> Peer {
    let port = free_port();
    let place = directory.join("knot");
    std::fs::create_dir_all(&place).expect("a directory");
    let text = format!(
        "server:\n    rundir: \"{0}\"\n    listen: 127.0.0.1@{port}\ndatabase:\n    storage: \"{0}\"\n\
         zone:\n  - domain: id.example.net\n    file: \"{1}\"\n    zonefile-sync: -1\n    semantic-checks: false\n    journal-content: none\n",
        place.display(),
        file.display()
    );
    let configuration = place.join("knot.conf");
    std::fs::write(&configuration, text).expect("written");
    spawn(
        "knotd",
        Command::new("knotd").arg("-c").arg(configuration),
        port,
    )
}

fn nsd(directory: &Path, file: &Path) -> Peer {
    let port = free_port();
    let place = directory.join("nsd");
    std::fs::create_dir_all(&place).expect("a directory");
    let text = format!(
        "server:\n  ip-address: 127.0.0.1@{port}\n  username: \"\"\n  chroot: \"\"\n  zonesdir: \"{0}\"\n  database: \"\"\n  \
         pidfile: \"{0}/pid\"\n  xfrdfile: \"{0}/xfrd\"\n  zonelistfile: \"{0}/list\"\n  xfrdir: \"{0}\"\n  logfile: \"{0}/log\"\n  \
         minimal-responses: yes\n  rrl-ratelimit: 0\n  refuse-any: no\nremote-control:\n  control-enable: no\n\
         zone:\n  name: id.example.net\n  zonefile: \"{1}\"\n",
        place.display(),
        file.display()
    );
    let configuration = place.join("nsd.conf");
    std::fs::write(&configuration, text).expect("written");
    spawn(
        "nsd",
        Command::new("nsd").arg("-d").arg("-c").arg(configuration),
        port,
    )
}

fn suffix(n: usize) -> String {
    match n % 4 {
        0 => format!("CNC-{n:07}"),
        1 => format!("批次/{n}"),
        2 => format!("sn.{n}_A"),
        _ => format!("{n}"),
    }
}

/// The names below the zone, as they are stored.
fn fill(store: &Store) {
    for first in (0..NAMES).step_by(10_000) {
        let changes = (first..first + 10_000).map(|n| {
            let url = format!("https://id.example/{n}?q=\"{}\"", n % 7);
            let ttl = 60 + i32::try_from(n % 1000).expect("fits");
            let mut values = vec![value(1, "URL", url.as_bytes(), ttl, PUBLIC)];
            if n % 3 == 0 {
                values.push(value(2, "URL", b"https://mirror.example/", 30, PUBLIC));
            }
            records::put_values(
                format!("88.118.2/{}", suffix(n)).as_bytes(),
                &values,
                CaseRule::Whole,
            )
        });
        store
            .commit(records::batch(changes.collect()))
            .expect("committed");
    }
}

/// Writes the zone; the names in it.
fn write_zone(shared: &Arc<dns::Shared>, file: &Path) -> Vec<String> {
    let reader = shared.store.reader();
    let authority = shared.authority().expect("prefixes");
    let session = reader.session();
    let view = View {
        shared,
        authority: &authority,
        session: &session,
        serial: dns::serial(shared.store.sequence()),
        unix_seconds: TIME,
    };
    let apex = zone::parse("id.example.net");
    let zone = shared
        .zones
        .iter()
        .find(|zone| Some(&zone.apex) == apex.as_ref())
        .expect("the zone");
    let mut text = String::new();
    let counts = export::<jiexi::store::StoreError>(&view, zone, |lines| {
        text.push_str(lines);
        Ok(())
    });
    assert!(counts.expect("exported").names > NAMES as u64);
    std::fs::write(file, &text).expect("written");
    let names = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split(' ').next());
    let names: std::collections::BTreeSet<String> = names.map(ToOwned::to_owned).collect();
    names.into_iter().collect()
}

/// A small generator of numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(self.0 >> 33).expect("31 bits") % end
    }
}

/// Asks, again if need be: the machine may be busy.
fn ask(address: SocketAddr, request: &[u8]) -> Message {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    socket.connect(address).expect("connected");
    socket
        .set_read_timeout(Some(Duration::from_secs(3)))
        .expect("a time-out");
    let mut buffer = [0; 4096];
    for _ in 0..5 {
        if socket.send(request).is_ok()
            && let Ok(length) = socket.recv(&mut buffer)
        {
            return Message::from_vec(&buffer[..length]).expect("a message");
        }
    }
    panic!("{address} does not answer");
}

/// What servers must agree on: code, AA, TC, records, and the SOA of a negative answer.
fn essence(message: &Message) -> String {
    let mut lines: Vec<String> = message
        .answers
        .iter()
        .map(|record| {
            format!(
                "{} {} {:?}",
                record.name.to_ascii().to_lowercase(),
                record.ttl,
                record.data
            )
        })
        .collect();
    lines.sort();
    if message.answers.is_empty() {
        for record in &message.authorities {
            lines.push(format!(
                "{} {} {}",
                record.name.to_ascii().to_lowercase(),
                record.ttl,
                record.data
            ));
        }
    }
    let metadata = &message.metadata;
    format!(
        "{} aa={} tc={} {lines:#?}",
        metadata.response_code, metadata.authoritative, metadata.truncation
    )
}

/// Why an answer may differ from a peer's; every other difference is a failure.
fn explained(ours: &Message, theirs: &Message, asked: usize) -> Option<&'static str> {
    let short = ours.metadata.truncation && !theirs.metadata.truncation;
    // Knot and NSD have no such bound.
    if short
        && theirs
            .to_vec()
            .is_ok_and(|octets| octets.len() > 10 * asked)
    {
        return Some("an answer above ten times its question is cut without a cookie");
    }
    // They give all records of a name where we give one small one: both say that there are some.
    let has_records = !theirs.answers.is_empty() || theirs.metadata.truncation;
    let one_small = matches!(
        &ours.answers[..],
        [record] if matches!(&record.data, RData::HINFO(hinfo) if &*hinfo.cpu == b"RFC8482")
    );
    let code = ours.metadata.response_code;
    let alike = code == ResponseCode::NoError
        && code == theirs.metadata.response_code
        && ours.metadata.authoritative == theirs.metadata.authoritative;
    let kind = ours.queries.first()?.query_type;
    (kind == RecordType::ANY && alike && one_small && has_records)
        .then_some("ANY gets one HINFO record (RFC 8482 §4.2)")
}

/// Goal: of ANY questions that difference alone is explained. Method: answers as both sides give them.
#[test]
fn what_is_explained_of_any() {
    let answer = |code, data: &[RData]| {
        let mut message = question("x.id.example.net.", RecordType::ANY);
        message.metadata.authoritative = true;
        message.metadata.response_code = code;
        let owner = message.queries[0].name.clone();
        for data in data {
            message
                .answers
                .push(Record::from_rdata(owner.clone(), 60, data.clone()));
        }
        message
    };
    let small = RData::HINFO(HINFO::new("RFC8482".into(), String::new()));
    let address = RData::A(A(Ipv4Addr::LOCALHOST));
    let (good, none) = (ResponseCode::NoError, ResponseCode::NXDomain);
    let ours = answer(good, std::slice::from_ref(&small));
    let all = answer(good, &[address.clone(), address.clone()]);
    assert!(explained(&ours, &all, 100).is_some());
    for (ours, theirs) in [
        (&ours, &answer(none, &[])),
        (&ours, &answer(good, &[])),
        (&answer(none, &[]), &all),
        (&answer(good, &[]), &all),
        (&answer(good, &[small, address.clone()]), &all),
        (&answer(good, &[address]), &all),
    ] {
        assert_eq!(explained(ours, theirs, 100), None, "{ours}\n{theirs}");
    }
}

fn wait(peer: &Peer) {
    let begun = Instant::now();
    let asked = question("id.example.net.", RecordType::SOA)
        .to_vec()
        .expect("encodes");
    while begun.elapsed() < Duration::from_secs(60) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        socket.connect(peer.address).expect("connected");
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .expect("a time-out");
        let mut buffer = [0; 512];
        if socket.send(&asked).is_ok()
            && let Ok(length) = socket.recv(&mut buffer)
            && Message::from_vec(&buffer[..length]).is_ok_and(|answer| !answer.answers.is_empty())
        {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{} does not serve the zone", peer.name);
}

#[test]
fn the_same_answers_as_knot_and_nsd() {
    let node = Node::start(config());
    fill(&node.shared.store);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("id.example.net.zone");
    let names = write_zone(&node.shared, &file);
    let peers = [knot(directory.path(), &file), nsd(directory.path(), &file)];
    peers.iter().for_each(wait);
    let kinds = [35, 35, 35, 256, 256, 1, 28, 33, 16, 6, 2, 15, 255, 65_280].map(RecordType::from);
    let mut random = Random(20_260_101);
    let mut differences: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut wrong = String::new();
    for _ in 0..QUESTIONS {
        let name = match random.below(8) {
            0 => format!("none-{}.88-118-2", random.below(1_000_000)),
            1 => format!("x.{}", names[random.below(names.len())]),
            2 => [
                "@",
                "88-118-2",
                "88-118-1",
                "88-118-3",
                "_tcp.88-118-1",
                "_hdl-srv._tcp.88-118-1",
            ][random.below(6)]
            .to_owned(),
            _ => names[random.below(names.len())].clone(),
        };
        let name = if name.ends_with('@') {
            "id.example.net.".into()
        } else {
            format!("{name}.id.example.net.")
        };
        let mut asked = question(&name, kinds[random.below(kinds.len())]);
        if random.below(2) == 0 {
            asked = with_edns(asked, &[]);
        }
        let asked = asked.to_vec().expect("encodes");
        let ours = ask(node.address, &asked);
        for peer in &peers {
            let theirs = ask(peer.address, &asked);
            if essence(&ours) == essence(&theirs) {
                continue;
            }
            match explained(&ours, &theirs, asked.len()) {
                Some(why) => *differences.entry((peer.name, why)).or_default() += 1,
                None => {
                    let _ = writeln!(
                        wrong,
                        "{}: {name}\nours: {}\ntheirs: {}",
                        peer.name,
                        essence(&ours),
                        essence(&theirs)
                    );
                }
            }
        }
    }
    for ((peer, why), count) in &differences {
        println!("{count} answers of {peer} differ: {why}");
    }
    assert!(wrong.is_empty(), "{}", &wrong[..wrong.len().min(6000)]);
}

/// What a tool prints.
fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{tool}: {error}; .ci/run installs it"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn dig_kdig_and_drill_read_our_answers() {
    let node = Node::start(config());
    let port = node.address.port().to_string();
    let name = "cnc-1.88-118-1.id.example.net";
    let at = ["@127.0.0.1", "-p", &port];
    for (tool, extra) in [
        ("dig", &["+tries=3", "+cookie"][..]),
        ("kdig", &["+retry=3", "+cookie"][..]),
        ("drill", &[][..]),
    ] {
        for (kind, expected) in [
            ("NAPTR", "!^.*$!https://id.example/cnc-1!"),
            ("URI", "https://id.example/cnc-1"),
        ] {
            // drill of this release knows URI records by their number alone.
            let shown = run(tool, &[&at[..], &[name, kind], extra].concat());
            let number = "68747470733A2F2F69642E6578616D706C652F636E632D31";
            let found = shown.contains(expected) || shown.to_uppercase().contains(number);
            assert!(found && shown.contains("NOERROR"), "{tool} {kind}: {shown}");
        }
        let none = run(
            tool,
            &[&at[..], &["none.88-118-1.id.example.net", "NAPTR"], extra].concat(),
        );
        assert!(
            none.contains("NXDOMAIN") && none.contains("SOA"),
            "{tool}: {none}"
        );
        let big = run(
            tool,
            &[&at[..], &["big.88-118-1.id.example.net", "NAPTR"], extra].concat(),
        );
        assert!(
            tool == "drill" || big.matches("!^.*$!").count() == 9,
            "{tool} comes back over TCP: {big}"
        );
    }
    let server = run("dig", &[&at[..], &["+nsid", name, "NAPTR"]].concat());
    assert!(server.contains("node-3"), "{server}");
    let refused = run("dig", &[&at[..], &["www.example.org", "A"]].concat());
    assert!(
        refused.contains("REFUSED") && refused.contains("EDE: 20"),
        "{refused}"
    );
}
