//! Overrides from the environment: `JIEXI_<SECTION>_<KEY>`, for example `JIEXI_HANDLE_PORT=12641`.
//!
//! Variables that begin with `JIEXI_` but name no section are not ours to refuse: Kubernetes sets such names
//! (`JIEXI_SERVICE_HOST`, `JIEXI_PORT`) for a service called jiexi. But one that names a key of a section whose name is
//! nearly there (`JIEXI_HANDEL_PORT`) is meant for us.

use toml::Value;

use super::file::{Loader, Origin, shown, unknown};

/// What every variable of ours begins with.
const PREFIX: &str = "JIEXI_";
/// How like a section a word must be to be taken for it.
const LIKENESS_MIN: f64 = 0.8;

/// Applies all overrides found in `environment`.
pub(super) fn apply(loader: &mut Loader, environment: impl Iterator<Item = (String, String)>) {
    let sections = loader.sections();
    for (variable, text) in environment {
        let Some(rest) = variable.strip_prefix(PREFIX).map(str::to_ascii_lowercase) else {
            continue;
        };
        let Some((section, name)) = sections.iter().find_map(|section| {
            Some((
                section,
                rest.strip_prefix(section.as_str())?.strip_prefix('_')?,
            ))
        }) else {
            mistyped(loader, &sections, &rest, variable);
            continue;
        };
        one(loader, section, name, &text, Origin::Environment(variable));
    }
}

/// Refuses a variable that names a key, and nearly its section.
fn mistyped(loader: &mut Loader, sections: &[String], rest: &str, variable: String) {
    let mut nearest: Option<(f64, &String, &str, &str)> = None;
    for (place, _) in rest.match_indices('_') {
        let (word, name) = (&rest[..place], &rest[place + 1..]);
        for section in sections {
            let likeness = strsim::jaro_winkler(word, section);
            let nearer = likeness > nearest.map_or(LIKENESS_MIN, |(best, ..)| best);
            if nearer && loader.default_of(section, name).is_some() {
                nearest = Some((likeness, section, word, name));
            }
        }
    }
    if let Some((_, section, word, name)) = nearest {
        let message = format!(
            "unknown section; did you mean \"{section}\", that is {PREFIX}{}_{}?",
            section.to_ascii_uppercase(),
            name.to_ascii_uppercase()
        );
        let origin = Some(Origin::Environment(variable.clone()));
        loader.problem(origin, format!("[{word}]"), &message);
    }
}

/// Applies one override.
fn one(loader: &mut Loader, section: &str, name: &str, text: &str, origin: Origin) {
    let key = (section.to_owned(), name.to_owned());
    let Some(default) = loader.default_of(section, name) else {
        let message = unknown("key", name, loader.names(section).iter());
        return loader.problem(Some(origin), shown(&key), &message);
    };
    match typed(default, text) {
        Ok(value) => loader.set(key, value, origin),
        Err(message) => loader.problem(Some(origin), shown(&key), &message),
    }
}

/// A text as a value of the same type as the default.
fn typed(default: &Value, text: &str) -> Result<Value, String> {
    match default {
        Value::Integer(_) => text
            .parse()
            .map(Value::Integer)
            .map_err(|_| format!("{text:?} is not a whole number")),
        Value::Boolean(_) => text
            .parse()
            .map(Value::Boolean)
            .map_err(|_| format!("{text:?} is not true or false")),
        Value::Array(_) => Ok(Value::Array(
            text.split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| Value::String(item.into()))
                .collect(),
        )),
        _ => Ok(Value::String(text.into())),
    }
}
