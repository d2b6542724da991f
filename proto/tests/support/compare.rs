//! Deep comparison of a decoded message with the recorded one.

use serde_json::Value as Json;

/// Every difference between what was recorded and what was decoded, as `path: why`.
///
/// Long recorded values and lists are shortened: text ends with `...(N bytes)`, a list with
/// `... N more`. What is there has to agree, and the number has to be right.
pub(crate) fn differences(recorded: &Json, decoded: &Json) -> Vec<String> {
    let mut found = Vec::new();
    compare("", recorded, decoded, &mut found);
    found
}

fn compare(path: &str, recorded: &Json, decoded: &Json, found: &mut Vec<String>) {
    match (recorded, decoded) {
        (Json::Object(recorded), Json::Object(decoded)) => {
            for (name, value) in recorded {
                match decoded.get(name) {
                    Some(other) => compare(&format!("{path}.{name}"), value, other, found),
                    None => found.push(format!("{path}.{name}: not decoded")),
                }
            }
            let extra = decoded.keys().filter(|name| !recorded.contains_key(*name));
            found.extend(extra.map(|name| format!("{path}.{name}: not recorded")));
        }
        (Json::Array(recorded), Json::Array(decoded)) => {
            let (recorded, total) = shortened_list(recorded);
            if decoded.len() != total {
                found.push(format!(
                    "{path}: {total} recorded, {} decoded",
                    decoded.len()
                ));
            }
            for (place, (one, other)) in recorded.iter().zip(decoded).enumerate() {
                compare(&format!("{path}[{place}]"), one, other, found);
            }
        }
        (Json::String(recorded), Json::String(decoded)) if same_text(recorded, decoded) => {}
        _ if recorded == decoded => {}
        _ => found.push(format!("{path}: {recorded} recorded, {decoded} decoded")),
    }
}

/// The items that are there, and how many there should be.
fn shortened_list(list: &[Json]) -> (&[Json], usize) {
    let more = list.last().and_then(Json::as_str).and_then(|last| {
        last.strip_prefix("... ")?
            .strip_suffix(" more")?
            .parse::<usize>()
            .ok()
    });
    match more {
        Some(more) => (&list[..list.len() - 1], list.len() - 1 + more),
        None => (list, list.len()),
    }
}

fn same_text(recorded: &str, decoded: &str) -> bool {
    let shortened = || {
        let (start, length) = recorded.strip_suffix(" bytes)")?.rsplit_once("...(")?;
        let octets = decoded
            .strip_prefix("hex:")
            .map_or(decoded.len(), |hex| hex.len() / 2);
        Some(decoded.starts_with(start) && octets == length.parse::<usize>().ok()?)
    };
    recorded == decoded || shortened().unwrap_or(false)
}
