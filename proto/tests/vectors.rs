//! Goal: the crate reads and writes exactly what the reference implementation does. Method: every
//! file of `vectors/` is decoded and compared field by field with what was recorded, encoded and
//! compared octet by octet, and every credential, digest, proof and ciphertext in it is checked.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test stops at what it does not expect"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

#[path = "support/compare.rs"]
mod compare;
#[path = "support/crypto.rs"]
mod crypto;
#[path = "support/scenario.rs"]
mod scenario;
#[path = "support/stream.rs"]
mod stream;
#[path = "support/mod.rs"]
mod support;
#[path = "support/tables.rs"]
mod tables;

use support::load;

/// Fewer vectors than this must not run.
const RUN_MIN: usize = 858;

/// What must have been checked, exactly. Messages and credentials are the numbers that the
/// recordings promise; the others were counted.
const CHECKED: [(&str, usize); 8] = [
    ("messages", 727),
    ("credentials", 169),
    ("ciphertexts", 72),
    ("proofs", 77),
    ("request digests", 142),
    ("session keys", 19),
    ("stream blocks", 320),
    ("fixture values", 335),
];

const TLS: &str = "inside of TLS";
/// What is not decoded, and why. Envelopes are compared even here.
const EXCLUDED: &[(&str, &str)] = &[
    ("dump_handles_2_11.json #3 c2s", TLS),
    ("dump_handles_2_11.json #5 s2c", TLS),
    ("retrieve_txn_2_11.json #3 c2s", TLS),
    ("retrieve_txn_2_11.json #5 s2c", TLS),
    (
        "session_unknown_id_encrypted.json #0 c2s",
        "ciphertext without a recorded key",
    ),
    (
        "http_two_keepalive.json #1 s2c",
        "an HTML page, not a message",
    ),
];

const BUG: &str = "the recording program did not know the prefix of 2.6";
const OLD_FORM: &str = "21 octets are an algorithm and a digest, not the bare MD5 of 2.0";
/// Where a recorded field is wrong, and why.
const WRONG_FIELDS: &[(&str, &str, &str)] = &[
    ("res_ver_2_6.json", ".credential.signed_bytes", BUG),
    (
        "res_ver_2_6.json",
        ".credential.verifies_with_server_key",
        BUG,
    ),
    ("res_ver_2_6.json", ".credential.note", BUG),
    (
        "challenge_answer_unknown.json",
        ".body.signed_response_decoded.alg",
        OLD_FORM,
    ),
    (
        "challenge_answer_unknown.json",
        ".body.signed_response_decoded.digest",
        OLD_FORM,
    ),
];

/// What has been checked so far.
#[derive(Default)]
struct Run {
    /// How many of each kind.
    counts: BTreeMap<&'static str, usize>,
    /// Which items were left out.
    excluded: BTreeSet<String>,
    /// Which wrong fields were met.
    wrong: BTreeSet<(String, String)>,
}

impl Run {
    /// One more of this kind has been checked.
    fn count(&mut self, kind: &'static str) {
        *self.counts.entry(kind).or_default() += 1;
    }

    /// Whether this item is to be left out; notes that it was.
    fn excludes(&mut self, item: &str) -> bool {
        let listed = EXCLUDED.iter().any(|(excluded, _)| *excluded == item);
        listed && self.excluded.insert(item.to_owned())
    }

    /// Fails unless recorded and decoded agree, but for the fields known to be wrong.
    fn same(
        &mut self,
        file: &str,
        item: &str,
        recorded: &serde_json::Value,
        decoded: &serde_json::Value,
    ) {
        let mut found = compare::differences(recorded, decoded);
        found.retain(|difference| {
            let path = difference.split(": ").next().unwrap();
            let known = WRONG_FIELDS
                .iter()
                .any(|(f, p, _)| (*f, *p) == (file, path));
            if known {
                self.wrong.insert((file.to_owned(), path.to_owned()));
            }
            !known
        });
        assert!(found.is_empty(), "{item}:\n{}", found.join("\n"));
    }
}

#[test]
fn every_vector() {
    let mut run = Run::default();
    let mut scenarios = BTreeSet::new();
    for name in support::file_names() {
        if tables::check(&name, &mut run) {
            continue;
        }
        let file = load(&name);
        scenario::check(&name, &file, &mut run);
        scenarios.insert(name);
    }
    the_index_lists_them(&scenarios);

    let ran = run.counts["vectors"];
    // Not by `println`, which is shown only when the test fails.
    let excluded = run.excluded.len();
    let mut out = std::io::stdout();
    writeln!(
        out,
        "vectors: {ran} run, {excluded} excluded ({})",
        reasons()
    )
    .unwrap();
    writeln!(out, "checked: {:?}", run.counts).unwrap();
    let listed: BTreeSet<String> = EXCLUDED
        .iter()
        .map(|(item, _)| (*item).to_owned())
        .collect();
    assert_eq!(run.excluded, listed, "every exclusion is met");
    assert_eq!(
        run.wrong.len(),
        WRONG_FIELDS.len(),
        "every wrong field is met"
    );
    for (kind, count) in CHECKED {
        assert_eq!(run.counts.get(kind), Some(&count), "{kind}");
    }
    assert!(ran >= RUN_MIN, "only {ran} vectors ran");
}

fn reasons() -> String {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    EXCLUDED
        .iter()
        .for_each(|(_, reason)| *reasons.entry(reason).or_default() += 1);
    let shown: Vec<String> = reasons
        .iter()
        .map(|(why, count)| format!("{count} {why}"))
        .collect();
    shown.join(", ")
}

fn the_index_lists_them(scenarios: &BTreeSet<String>) {
    let index = load("INDEX.json");
    let mut listed = BTreeSet::new();
    for entry in index.as_array().unwrap() {
        let name = format!("{}.json", support::text(entry, "name"));
        let file = load(&name);
        assert_eq!(file["name"], entry["name"], "{name}");
        assert_eq!(file["description"], entry["description"], "{name}");
        listed.insert(name);
    }
    assert_eq!(&listed, scenarios);
}
