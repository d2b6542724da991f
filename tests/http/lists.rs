//! Goal: only the right to list (`HS_ADMIN` 0x800) lists, by default nobody's; every list is written down, and their rate
//! is limited. Method: a node whose server administrators have no rights by themselves, and identities that have one
//! right each of a prefix.

use serde_json::{Value as Json, json};

use crate::node::{Node, Reply, USER};

const PATH: &str = "/api/handles?prefix=88.118.21";
const OTHER: &str = "/api/handles?prefix=88.118.20";
/// Rights of an `HS_ADMIN`, and the bit of that to list.
const RIGHTS: u32 = 12;
const LIST: u32 = 11;
/// Lists at once.
const BURST: usize = 20;

/// Who has all rights but the right to list, and who has it as the member of a group.
const ALL_BUT_LIST: u32 = 400;
const MEMBER: u32 = 401;

/// The key of an identity that has this right and no other.
const fn only(right: u32) -> u32 {
    300 + right
}

/// The record of the prefix, a handle below it, and keys.
fn records() -> String {
    let admin = |place: u32, key: Json, rights: u32| {
        json!({"index": 500 + place, "type": "HS_ADMIN", "data": {"format": "admin", "value":
            {"handle": key[0], "index": key[1], "permissions": format!("{rights:012b}")}}})
    };
    let keys = "88.118.20/KEYS";
    let mut admins: Vec<Json> = (0..RIGHTS)
        .map(|right| admin(right, json!([keys, only(right)]), 1 << right))
        .collect();
    admins.push(admin(20, json!([keys, ALL_BUT_LIST]), 0xFFF & !(1 << LIST)));
    admins.push(admin(21, json!(["88.118.20/GROUP", 1]), 1 << LIST));
    let mut secrets: Vec<u32> = (0..RIGHTS).map(only).collect();
    secrets.extend([ALL_BUT_LIST, MEMBER]);
    let secrets: Vec<Json> = secrets
        .into_iter()
        .map(|index| {
            json!({"index": index, "type": "HS_SECKEY", "permissions": "1100", "data": format!("geheim {index}")})
        })
        .collect();
    let group = json!([{"index": 1, "type": "HS_VLIST", "data":
        {"format": "vlist", "value": [{"handle": keys, "index": MEMBER}]}}]);
    let lines = [
        json!({"handle": "0.NA/88.118.21", "values": admins}),
        json!({"handle": keys, "values": secrets}),
        json!({"handle": "88.118.20/GROUP", "values": group}),
        json!({"handle": "88.118.21/one", "values": [{"index": 1, "type": "N", "data": "x"}]}),
    ];
    lines.map(|line| line.to_string()).join("\n")
}

fn list_as(node: &Node, path: &str, key: u32) -> Reply {
    let user = format!("{key}%3A88.118.20%2FKEYS:geheim {key}");
    node.ask("https", path, &["-u", &user])
}

fn by_token(node: &Node, key: u32, right: &str) -> Reply {
    let identity = format!("{key}:88.118.20/KEYS");
    let made = node.must(&[
        "token",
        "create",
        "--identity",
        &identity,
        "--right",
        right,
        "-o",
        "json",
        "--config",
        &node.config(),
    ]);
    let made: Json = serde_json::from_str(&made).expect("JSON");
    let header = format!(
        "Authorization: Bearer {}",
        made["token"].as_str().expect("a token")
    );
    node.ask("https", PATH, &["-H", &header])
}

/// What the audit trail says of the lists of an identity: handle, result and code of each.
fn audited(node: &Node, identity: &str) -> Vec<(String, String, u64)> {
    let text = node.must(&[
        "audit",
        "--identity",
        identity,
        "-o",
        "json",
        "--config",
        &node.config(),
    ]);
    let entries = text
        .lines()
        .map(|line| serde_json::from_str::<Json>(line).expect("JSON"));
    let lists = entries.filter(|entry| entry["operation"] == "list");
    lists
        .map(|entry| {
            assert_eq!(entry["source"], "127.0.0.1");
            let text = |name: &str| entry[name].as_str().expect("text").to_owned();
            (
                text("handle"),
                text("result"),
                entry["code"].as_u64().expect("a code"),
            )
        })
        .collect()
}

#[test]
fn the_right_to_list_lists_and_no_other() {
    let node = Node::with(&[("JIEXI_ADMINISTRATION_FULL_ACCESS", "false")]);
    node.import(&records());
    for right in 0..RIGHTS {
        let reply = list_as(&node, PATH, only(right));
        match right == LIST {
            true => {
                assert_eq!(reply.both(), (200, 1), "{reply:?}");
                assert_eq!(reply.json()["handles"], json!(["88.118.21/one"]));
            }
            false => assert_eq!(reply.both(), (403, 401), "right {right} is another"),
        }
    }
    assert_eq!(list_as(&node, PATH, ALL_BUT_LIST).both(), (403, 401));
    assert_eq!(list_as(&node, PATH, MEMBER).both(), (200, 1), "by a group");
    assert_eq!(
        list_as(&node, OTHER, only(LIST)).both(),
        (403, 400),
        "of another prefix"
    );
    // Nobody has it by default: neither a server administrator nor who does not say who they are.
    assert_eq!(node.ask("https", PATH, &["-u", USER]).both(), (403, 400));
    assert_eq!(node.ask("https", PATH, &[]).both(), (401, 402));
    // A token must be for it, and gives nothing that its identity has not got.
    assert_eq!(
        by_token(&node, only(LIST), "resolve,write,admin,batch").both(),
        (403, 401)
    );
    assert_eq!(by_token(&node, ALL_BUT_LIST, "list").both(), (403, 401));
    assert_eq!(by_token(&node, only(LIST), "list").both(), (200, 1));

    let prefix = |name: &str, result: &str, code| (format!("0.NA/{name}"), result.to_owned(), code);
    assert_eq!(
        audited(&node, &format!("{}:88.118.20/KEYS", only(LIST))),
        [
            prefix("88.118.21", "committed", 1),
            prefix("88.118.20", "refused", 400),
            prefix("88.118.21", "refused", 401),
            prefix("88.118.21", "committed", 1),
        ]
    );
    let refused = || prefix("88.118.21", "refused", 401);
    let of = |key: u32| audited(&node, &format!("{key}:88.118.20/KEYS"));
    assert_eq!(of(only(0)), [refused()]);
    assert_eq!(of(ALL_BUT_LIST), [refused(), refused()]);
}

#[test]
fn lists_of_a_network_are_limited() {
    let node = Node::with(&[("JIEXI_ADMINISTRATION_FULL_ACCESS", "false")]);
    node.import(&records());
    let urls = format!("https://127.0.0.1:{}{PATH}&x=[1-{}]", node.http, 10 * BURST);
    let user = format!("{}%3A88.118.20%2FKEYS:geheim {}", only(LIST), only(LIST));
    let flood = crate::node::curl(&["-u", &user, &urls, "-o", "/dev/null"]);
    let count = |status: &str| {
        let lines = flood
            .headers
            .lines()
            .filter(|line| line.starts_with("HTTP/"));
        lines.filter(|line| line.contains(status)).count()
    };
    let (listed, refused) = (count(" 200"), count(" 429"));
    assert_eq!(listed + refused, 10 * BURST, "{}", flood.headers);
    assert!(
        listed >= BURST && refused > 0,
        "{listed} lists, {refused} refused"
    );
    assert!(
        flood.headers.to_lowercase().contains("retry-after:"),
        "{}",
        flood.headers
    );
    // What else this network asks for is not, nor do others wait for it.
    assert_eq!(node.get("/api/handles/88.118.21/one").both(), (200, 1));
    let elsewhere = ["-u", &user, "--interface", "127.0.1.1"];
    assert_eq!(
        node.ask("https", PATH, &elsewhere).both(),
        (200, 1),
        "another network"
    );
}
