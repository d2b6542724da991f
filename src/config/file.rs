//! Reading the configuration: defaults, then the file, then the environment, with the origin of each value.
//!
//! Every key that may appear is a key of `Config::default()`; there is no second list. Each value found is put into a
//! copy of the defaults and the whole is read again, so that a problem is known to belong to that one value.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::IntoDeserializer as _};
use toml::{
    Spanned, Table, Value,
    de::{DeTable, DeValue},
};

use super::{Config, Operations, VERSION, Zone, check, env, words};
use crate::owner;

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In a file, at a line counted from 1.
    File {
        /// The file as the operator named it.
        path: PathBuf,
        /// Line of the key.
        line: usize,
    },
    /// In this environment variable.
    Environment(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
        }
    }
}

/// One thing wrong with the configuration: where, which key, what and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it was set; `None`: the file could not be read, or the value is the default.
    pub origin: Option<Origin>,
    /// The key as `[section] name`, empty when the file as a whole is meant.
    pub key: String,
    /// What is wrong, and the remedy.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Which values are not defaults, and where each was set.
#[derive(Debug, Clone, Default)]
pub struct Origins(BTreeMap<Key, Origin>);

impl Origins {
    /// A problem of the value of a key, with the place where it was set.
    #[must_use]
    pub fn problem(&self, section: &str, name: &str, message: String) -> Problem {
        let key = (section.to_owned(), name.to_owned());
        Problem {
            origin: self.0.get(&key).cloned(),
            key: shown(&key),
            message,
        }
    }
}

/// A key: section and name; the section of `version` is empty.
pub(super) type Key = (String, String);

/// How a key is shown to people.
pub(super) fn shown((section, name): &Key) -> String {
    if section.is_empty() {
        name.clone()
    } else {
        format!("[{section}] {name}")
    }
}

/// Reads the file at `path`, applies the overrides found in `environment`, and checks the result.
///
/// Relative paths in the file are taken from its own directory.
///
/// # Errors
/// Every problem found, not only the first.
pub fn load(
    path: &Path,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Config, Vec<Problem>> {
    load_placed(path, environment).map(|(config, _)| config)
}

/// As [`load`], with the origin of each value.
///
/// # Errors
/// As [`load`].
pub fn load_placed(
    path: &Path,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<(Config, Origins), Vec<Problem>> {
    let text = fs::read_to_string(path).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::PermissionDenied => format!("; {}", owner::advice(path)),
            _ => String::new(),
        };
        let shown = path.display();
        vec![Problem {
            origin: None,
            key: String::new(),
            message: format!("{shown}: cannot read the configuration: {error}{advice}"),
        }]
    })?;
    let (mut config, origins) = read(&text, path, environment)?;
    config.resolve_paths(path.parent().unwrap_or_else(|| Path::new("")));
    Ok((config, origins))
}

/// Where the operations listener of a node is, whatever else is wrong with its configuration: that of a node that runs with
/// the one from before.
#[must_use]
pub fn operations_listen(
    path: &Path,
    environment: impl Iterator<Item = (String, String)>,
) -> SocketAddr {
    let usual = Operations::default().listen;
    let Ok(mut loader) = Loader::new() else {
        return usual;
    };
    let text = fs::read_to_string(path).unwrap_or_default();
    match text.parse::<Table>() {
        Ok(_) => loader.file(&text, path),
        // Not TOML as a whole: its lines are.
        Err(_) => {
            let section = text
                .lines()
                .skip_while(|line| line.trim() != "[operations]")
                .skip(1)
                .take_while(|line| !line.trim_start().starts_with('['));
            let listen = section.filter(|line| line.trim_start().starts_with("listen"));
            let lines: String = listen.map(|line| format!("{line}\n")).collect();
            loader.file(&format!("version = 1\n[operations]\n{lines}"), path);
        }
    }
    env::apply(&mut loader, environment);
    let found = loader.table.get("operations");
    let found = found.and_then(|section| section.get("listen"));
    let found = found.and_then(|listen| listen.as_str()?.parse().ok());
    found.unwrap_or(usual)
}

/// As [`load`], for a text already in memory; `path` serves to name the place of a problem. Paths stay as written.
///
/// # Errors
/// Every problem found.
pub fn load_text(
    text: &str,
    path: &Path,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Config, Vec<Problem>> {
    read(text, path, environment).map(|(config, _)| config)
}

fn read(
    text: &str,
    path: &Path,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<(Config, Origins), Vec<Problem>> {
    let mut loader = Loader::new()?;
    loader.file(text, path);
    env::apply(&mut loader, environment);
    loader.finish()
}

/// The values so far, where each came from, and the problems met.
pub(super) struct Loader {
    /// Defaults, overwritten by what was found.
    table: Table,
    /// Which values are not defaults.
    origins: BTreeMap<Key, Origin>,
    /// Where the zones taken in stand, in their order.
    zones: Vec<ZonePlace>,
    /// What is wrong.
    problems: Vec<Problem>,
}

impl Loader {
    fn new() -> Result<Self, Vec<Problem>> {
        let table = Table::try_from(Config::default()).map_err(|error| {
            vec![Problem {
                origin: None,
                key: String::new(),
                message: format!("internal: default values: {error}"),
            }]
        })?;
        Ok(Self {
            table,
            origins: BTreeMap::new(),
            zones: Vec::new(),
            problems: Vec::new(),
        })
    }

    /// Takes in the file; syntax errors stop here, unknown keys and bad values are collected.
    fn file(&mut self, text: &str, path: &Path) {
        let lines = Lines { text, path };
        let (spans, values) = match (DeTable::parse(text), text.parse::<Table>()) {
            (Ok(spans), Ok(values)) => (spans.into_inner(), values),
            (Err(error), _) | (_, Err(error)) => {
                let span = error.span().unwrap_or_default();
                let message = match (error.message(), text.get(span.clone())) {
                    ("duplicate key", Some(key)) => {
                        format!("{key}: is set twice; take one of the two lines out")
                    }
                    (message, _) => message.to_owned(),
                };
                return self.problem(Some(lines.origin(span.start)), String::new(), &message);
            }
        };
        if !values.contains_key("version") {
            let message = format!(
                "version is missing; the first line of the file should be `version = {VERSION}`"
            );
            self.problem(Some(lines.origin(0)), String::new(), &message);
        }
        for (name, item) in &spans {
            let origin = lines.origin(name.span().start);
            let Some(value) = values.get(name.get_ref().as_ref()) else {
                continue;
            };
            self.top_level(name.get_ref(), item, value, origin, &lines);
        }
    }

    /// One key or section at the top of the file.
    fn top_level(
        &mut self,
        name: &str,
        item: &Spanned<DeValue<'_>>,
        value: &Value,
        origin: Origin,
        lines: &Lines<'_>,
    ) {
        match (self.table.get(name), item.get_ref(), value) {
            (None, ..) => {
                let what = if value.is_table() { "section" } else { "key" };
                let message = unknown(what, name, self.table.keys());
                self.problem(
                    Some(origin),
                    if value.is_table() {
                        format!("[{name}]")
                    } else {
                        name.into()
                    },
                    &message,
                );
            }
            (Some(Value::Table(_)), DeValue::Table(entries), Value::Table(values)) => {
                for (key, item) in entries {
                    let place = lines.origin(key.span().start);
                    let Some(value) = values.get(key.get_ref().as_ref()) else {
                        continue;
                    };
                    let key = (name.into(), key.get_ref().to_string());
                    match (shown(&key).as_str(), item.get_ref(), value) {
                        (ZONES, DeValue::Array(items), Value::Array(values)) => {
                            self.zones(key, items.iter().zip(values), place, lines);
                        }
                        _ => self.set(key, value.clone(), place),
                    }
                }
            }
            (Some(Value::Table(_)), ..) => {
                self.problem(
                    Some(origin),
                    name.into(),
                    &format!("is a section; write [{name}] on a line of its own"),
                );
            }
            (Some(_), ..) => self.set((String::new(), name.into()), value.clone(), origin),
        }
    }

    /// Takes in the zones that can be read. Each is read by itself, so that a problem is known to belong to one of them
    /// and to a line of it.
    fn zones<'v, 'i: 'v>(
        &mut self,
        key: Key,
        zones: impl Iterator<Item = (&'v Spanned<DeValue<'i>>, &'v Value)>,
        place: Origin,
        lines: &Lines<'_>,
    ) {
        let mut good = Vec::new();
        for ((item, value), number) in zones.zip(1..) {
            match Zone::deserialize(item.clone().into_deserializer()) {
                Ok(_) => {
                    self.zones.push(ZonePlace::new(item, lines));
                    good.push(value.clone());
                }
                Err(error) => {
                    let name = value.get("name").and_then(Value::as_str);
                    let name = name.map_or_else(|| format!("number {number}"), ToOwned::to_owned);
                    let span = error.span().unwrap_or_else(|| item.span());
                    let message = format!("{name}: {}", words::told(error.message()));
                    self.problem(Some(lines.origin(span.start)), shown(&key), &message);
                }
            }
        }
        self.set(key, Value::Array(good), place);
    }

    /// Sets one value after proving that the configuration can be read with it.
    pub(super) fn set(&mut self, key: Key, value: Value, origin: Origin) {
        let names = self.names(&key.0);
        if !names.contains(&key.1) {
            let message = unknown("key", &key.1, names.iter());
            return self.problem(Some(origin), shown(&key), &message);
        }
        if key == (String::new(), String::from("version"))
            && value != Value::Integer(i64::from(VERSION))
        {
            let message = format!(
                "layout version {value} is not known; this program reads version {VERSION}"
            );
            return self.problem(Some(origin), shown(&key), &message);
        }
        let mut table = self.table.clone();
        put(&mut table, &key, value);
        match Config::deserialize(table.clone()) {
            Ok(_) => {
                self.table = table;
                self.origins.insert(key, origin);
            }
            Err(error) => {
                self.problem(Some(origin), shown(&key), &words::told(error.message()));
            }
        }
    }

    /// The default of a key, for its type.
    pub(super) fn default_of(&self, section: &str, name: &str) -> Option<&Value> {
        self.table.get(section)?.as_table()?.get(name)
    }

    /// The sections that exist.
    pub(super) fn sections(&self) -> Vec<String> {
        self.table
            .iter()
            .filter(|(_, value)| value.is_table())
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The keys of a section, or the keys outside all sections.
    pub(super) fn names(&self, section: &str) -> Vec<String> {
        let table = if section.is_empty() {
            Some(&self.table)
        } else {
            self.table.get(section).and_then(Value::as_table)
        };
        table
            .map(|table| table.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// Notes a problem.
    pub(super) fn problem(&mut self, origin: Option<Origin>, key: String, message: &str) {
        self.problems.push(Problem {
            origin,
            key,
            message: message.trim_end().replace('\n', " "),
        });
    }

    /// The configuration, if there is nothing wrong with it.
    fn finish(mut self) -> Result<(Config, Origins), Vec<Problem>> {
        let config = match Config::deserialize(self.table.clone()) {
            Ok(config) => config,
            Err(error) => {
                self.problem(None, String::new(), error.message());
                return Err(self.problems);
            }
        };
        let unread = |problem: &Problem| problem.key.clone();
        let unread: Vec<_> = self.problems.iter().map(unread).collect();
        for wrong in check::check(&config) {
            let key = shown(&wrong.key);
            // A list is not empty because what is in it cannot be read.
            if wrong.part.is_none() && unread.contains(&key) {
                continue;
            }
            let part = wrong.part.and_then(|(place, key)| {
                let zone = self.zones.get(place)?;
                Some(zone.keys.get(key).unwrap_or(&zone.head).clone())
            });
            let origin = part.or_else(|| self.origins.get(&wrong.key).cloned());
            self.problem(origin, key, &wrong.message);
        }
        if self.problems.is_empty() {
            Ok((config, Origins(self.origins)))
        } else {
            Err(self.problems)
        }
    }
}

/// The key of the zones: a list of tables.
const ZONES: &str = "[dns] zones";

/// Where a zone was described.
struct ZonePlace {
    /// Its heading.
    head: Origin,
    /// Its keys.
    keys: BTreeMap<String, Origin>,
}

impl ZonePlace {
    fn new(item: &Spanned<DeValue<'_>>, lines: &Lines<'_>) -> Self {
        let mut keys = BTreeMap::new();
        for (key, _) in item.get_ref().as_table().into_iter().flatten() {
            keys.insert(key.get_ref().to_string(), lines.origin(key.span().start));
        }
        Self {
            head: lines.origin(item.span().start),
            keys,
        }
    }
}

/// Places in a text.
struct Lines<'a> {
    text: &'a str,
    path: &'a Path,
}

impl Lines<'_> {
    /// The place of the byte at `offset`.
    fn origin(&self, offset: usize) -> Origin {
        let line = 1 + self
            .text
            .bytes()
            .take(offset)
            .filter(|byte| *byte == b'\n')
            .count();
        Origin::File {
            path: self.path.to_path_buf(),
            line,
        }
    }
}

/// Puts `value` under `key`.
fn put(table: &mut Table, (section, name): &Key, value: Value) {
    if section.is_empty() {
        table.insert(name.clone(), value);
    } else if let Some(Value::Table(section)) = table.get_mut(section) {
        section.insert(name.clone(), value);
    }
}

/// "unknown key", with the nearest known name if one is near enough to be meant.
pub(super) fn unknown<'a>(
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'a String>,
) -> String {
    nearest(name, known).map_or_else(
        || format!("unknown {what}; `jiexi config template` prints all of them"),
        |name| format!("unknown {what}; did you mean \"{name}\"?"),
    )
}

/// The known name that is nearest, if it is near enough to be meant.
pub(super) fn nearest<'a>(
    name: &str,
    known: impl Iterator<Item = &'a String>,
) -> Option<&'a String> {
    known
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.7)
        .map(|(_, name)| name)
}
