//! Goal: whoever guesses a password over HTTP is heard once a second and holds nobody else up: the owner next door, and
//! even the one behind the same address, gets in meanwhile, and lookups go on. Method: curl from several addresses of the
//! loopback network, which is one source network.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{KeyInit as _, Mac as _};
use serde_json::Value as Json;

use crate::node::{Node, PATIENCE, Reply, USER};

const PATH: &str = "/api/handles/88.118.20/secret?publicOnly=false";
const WRONG: &str = "300%3A88.118.20%2FUSER:falsch";
/// Where the guesser is, and somebody of the same network who has not been right before.
const GUESSER: &str = "127.0.0.5";
const NEXT_DOOR: &str = "127.0.0.9";
/// Wrong answers at once, and those that wait for one identity from one network.
const BURST: u32 = 10;
const LINE_MAX: usize = 30;
/// Proofs by secret key that were wrong, over whatever they came.
const REFUSED: &str = "jiexi_authentications_total{method=\"seckey\",result=\"refused\"}";

fn at(node: &Node, address: &str, path: &str, more: &[&str]) -> Reply {
    node.ask(
        "https",
        path,
        &[&["--interface", address][..], more].concat(),
    )
}

/// A curl that asks as the user with a wrong password and may have to wait; its output is the status.
fn guess(node: &Node) -> Child {
    let url = format!("https://127.0.0.1:{}{PATH}", node.http);
    Command::new("curl")
        .args([
            "-sk",
            "--max-time",
            "90",
            "--interface",
            GUESSER,
            "-u",
            WRONG,
        ])
        .args(["-o", "/dev/null", "-w", "%{http_code}", &url])
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl is installed")
}

/// The header that logs the user in to a session.
fn authorization(session: &Json) -> String {
    let (id, nonce) = (&session["sessionId"], session["nonce"].as_str().unwrap());
    let cnonce = b"a nonce of ours!";
    let mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(b"geheim").unwrap();
    let mac = mac
        .chain_update(STANDARD.decode(nonce).unwrap())
        .chain_update(cnonce);
    format!(
        "Authorization: Handle sessionId={id}, id=\"300:88.118.20/USER\", type=\"HS_SECKEY\", alg=\"HMAC-SHA256\", \
         cnonce=\"{}\", signature=\"{}\"",
        STANDARD.encode(cnonce),
        STANDARD.encode(mac.finalize().into_bytes())
    )
}

/// Logs in by a session with the user's secret: the status.
fn log_in(node: &Node, address: &str) -> u16 {
    let session = at(node, address, "/api/sessions", &["-X", "POST"]).json();
    let header = authorization(&session);
    let arguments = ["-X", "POST", "-H", &header];
    at(node, address, "/api/sessions/this", &arguments).status
}

#[test]
fn the_owner_has_a_turn_beside_a_guesser() {
    let node = Node::new();
    let (stop, heard) = (AtomicBool::new(false), AtomicU32::new(0));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Relaxed) && began.elapsed() < PATIENCE {
                    let said = at(&node, GUESSER, PATH, &["-u", WRONG]).status;
                    heard.fetch_add(u32::from(said == 403), Relaxed);
                }
            });
        }
        // One more guesses over the Handle protocol: it is the same line.
        scope.spawn(|| {
            while !stop.load(Relaxed) && began.elapsed() < PATIENCE {
                by_wire(&node);
            }
        });
        while node.metric(REFUSED) < f64::from(BURST) + 4.0 && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(50));
        }
        let (refused, passed) = (node.metric(REFUSED), began.elapsed());
        let most = f64::from(BURST) + passed.as_secs_f64() + 4.0;
        assert!(refused <= most, "{refused} guesses by all in {passed:?}");
        let basic = |address| at(&node, address, PATH, &["-u", USER]).both();
        let said = [
            (NEXT_DOOR, basic(NEXT_DOOR)),
            ("the same address", basic(GUESSER)),
        ];
        let sessions = [log_in(&node, "127.0.0.10"), log_in(&node, GUESSER)];
        let (guesses, passed) = (heard.load(Relaxed), began.elapsed());
        stop.store(true, Relaxed);
        for (who, said) in said {
            assert_eq!(said, (200, 1), "{who}");
        }
        assert_eq!(sessions, [200, 200]);
        // One a second beyond the first ten, and as many as were asked at the same moment.
        let most = f64::from(BURST) + passed.as_secs_f64() + 3.0;
        assert!(guesses > 0, "nobody was heard");
        assert!(
            f64::from(guesses) <= most,
            "{guesses} guesses in {passed:?}"
        );
    });
}

/// Guesses with the program of this node, over the Handle protocol, from another address of the same network.
fn by_wire(node: &Node) {
    let secret = node.path("wrong");
    std::fs::write(&secret, "falsch").expect("writes");
    let server = format!("127.0.0.1:{}", node.handle);
    let (good, text) = node.run(&[
        "handle",
        "rm",
        "88.118.20/pump",
        "--server",
        &server,
        "--identity",
        "300:88.118.20/USER",
        "--secret-file",
        secret.to_str().expect("text"),
    ]);
    assert!(!good, "{text}");
}

/// Sessions that nobody logs in to displace one another, network by network; who logs in stays.
#[test]
fn a_flood_of_sessions_displaces_itself() {
    const MOST: u16 = 8;
    let node = Node::with(&[("JIEXI_ADMINISTRATION_SESSIONS_MAX", &MOST.to_string())]);
    let open = |network: u8| {
        let address = format!("127.0.{network}.1");
        at(&node, &address, "/api/sessions", &["-X", "POST"])
    };
    let held = at(&node, "127.0.9.1", "/api/sessions", &["-X", "POST"]).json();
    let header = authorization(&held);
    let this = "/api/sessions/this";
    let logged_in = at(&node, "127.0.9.1", this, &["-X", "POST", "-H", &header]);
    assert_eq!(logged_in.status, 200, "{logged_in:?}");
    let mut ids = Vec::new();
    for network in (1..=6).cycle().take(24) {
        let opened = open(network);
        assert_eq!(opened.status, 200, "{opened:?}");
        ids.push(opened.json()["sessionId"].as_str().unwrap().to_owned());
        assert!(node.metric("jiexi_http_sessions ") <= f64::from(MOST));
    }
    let look = |id: &str| {
        let header = format!("Authorization: Handle sessionId=\"{id}\"");
        at(&node, "127.0.9.1", this, &["-H", &header])
    };
    let held = look(held["sessionId"].as_str().unwrap());
    assert_eq!(
        (held.status, &held.json()["authenticated"]),
        (200, &true.into())
    );
    assert_eq!(look(ids.last().unwrap()).status, 200, "the newest is there");
    assert_eq!(look(&ids[0]).status, 401, "the oldest is not");
    assert_eq!(
        log_in(&node, "127.0.10.1"),
        200,
        "who comes after them finds room"
    );
}

/// Proofs that wait take no thread of those that answer others, no more wait than may, and who hangs up leaves.
#[test]
fn a_line_is_bounded_and_holds_nobody_up() {
    let node = Node::new();
    let began = Instant::now();
    // Ten are heard at once, some have their turn while the others still come.
    let mut guesses: Vec<Child> = (0..LINE_MAX + 50).map(|_| guess(&node)).collect();
    let turned_away = "jiexi_authentications_total{method=\"seckey\",result=\"error\"}";
    while node.metric(turned_away) < 1.0 {
        assert!(began.elapsed() < PATIENCE, "the line has no end");
        std::thread::sleep(Duration::from_millis(10));
    }
    for _ in 0..20 {
        assert_eq!(
            at(&node, GUESSER, "/api/handles/88.118.20/pump", &[]).both(),
            (200, 1)
        );
    }
    let other = at(
        &node,
        GUESSER,
        PATH,
        &["-u", "300%3A88.118.20%2FSTRANGER:fremd"],
    );
    assert_eq!(other.both(), (403, 400), "somebody else is not slowed");
    let waits = |guess: &mut Child| guess.try_wait().expect("a child").is_none();
    let waiting = guesses
        .iter_mut()
        .filter_map(|guess| waits(guess).then_some(()))
        .count();
    assert!(waiting > 0, "all others were answered while some waited");
    // Those who hang up are not heard: the owner behind their address does not wait for them.
    for guess in &mut guesses {
        let _ = guess.kill();
    }
    let said: Vec<String> = guesses
        .into_iter()
        .map(|guess| {
            let output = guess.wait_with_output().expect("ends");
            String::from_utf8(output.stdout).expect("text")
        })
        .collect();
    assert!(said.iter().any(|status| status == "503"), "{said:?}");
    let known = |status: &String| matches!(status.as_str(), "503" | "403" | "");
    assert!(said.iter().all(known), "{said:?}");
    let began = Instant::now();
    while at(&node, GUESSER, PATH, &["-u", USER]).status != 200 {
        // It may not have been seen yet that they are gone; if it never were, the line would last for half a minute.
        assert!(began.elapsed() < PATIENCE / 3, "{:?}", began.elapsed());
    }
    assert!(began.elapsed() < PATIENCE / 3, "{:?}", began.elapsed());
}
