//! What changes would come to: the node is asked what there is, the rest is kept here, and nothing is changed.
//!
//! The rules are those of [`crate::registry::plan`], for whoever runs the node, who has every right.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher as _, Hasher as _};

use jiexi_proto::code::{Permissions, ResponseCode};
use jiexi_proto::handle::{self, CaseRule};
use jiexi_proto::value::Value;

use super::carry::{self, Asking};
use super::key;
use crate::control::command::{Ask, Octets, Told};
use crate::registry::plan::{self, Request};
use crate::registry::{NOT_HOMED, Rejection, seal};
use crate::store::{CommitError, record_length, stored_handle};

/// The prefix of a handle is not homed.
const NOT_HERE: ResponseCode = ResponseCode::SERVER_NOT_RESPONSIBLE;

/// A refusal: its code, and in words.
pub type Refused = (ResponseCode, String);

/// What is known of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    writable: bool,
    /// As it is stored.
    octets: u32,
    /// A hash of all but its timestamp.
    hash: u64,
}

/// Values by their indexes.
type Values = BTreeMap<u32, Known>;
/// The values of a handle; none where there is no handle.
type Record = Option<Values>;

/// What there would be.
#[derive(Debug)]
pub struct Trial {
    case: CaseRule,
    records: HashMap<Vec<u8>, Record>,
    /// Prefixes that were homed, or are no longer; and of some what the node says.
    homed: HashMap<Vec<u8>, bool>,
    /// What the node says of handles that come next.
    ahead: HashMap<Vec<u8>, Result<Values, ResponseCode>>,
    hasher: foldhash::fast::RandomState,
}

impl Trial {
    /// Nothing has been done.
    #[must_use]
    pub fn new(case: CaseRule) -> Self {
        Self {
            case,
            records: HashMap::new(),
            homed: HashMap::new(),
            ahead: HashMap::new(),
            hasher: foldhash::fast::RandomState::default(),
        }
    }

    /// Asks for what the next changes are about, all at once: to ask a running node for each by itself takes longer than to
    /// carry all of it out.
    ///
    /// # Errors
    /// The node cannot be asked.
    pub fn look_ahead<'r, E>(
        &mut self,
        requests: impl Iterator<Item = &'r Request>,
        ask: &mut Asking<'_, E>,
    ) -> Result<(), E> {
        self.ahead.clear();
        // Below prefixes that the node has at home, if any, and below those that the files have homed.
        let (mut homed, mut unhomed) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for request in requests.filter(|request| !request.is_homing()) {
            let key = key(request.handle(), self.case);
            if !self.records.contains_key(&key) && seen.insert(key.clone()) {
                let asked = match self.is_homed_by_files(&key) {
                    true => &mut unhomed,
                    false => &mut homed,
                };
                asked.push((key, Octets(request.handle().to_vec())));
            }
        }
        self.look_at(homed, false, ask)?;
        self.look_at(unhomed, true, ask)
    }

    /// Asks for these handles; those of `unhomed` are below prefixes that the node does not have at home.
    fn look_at<E>(
        &mut self,
        asked: Vec<(Vec<u8>, Octets)>,
        unhomed: bool,
        ask: &mut Asking<'_, E>,
    ) -> Result<(), E> {
        let (keys, mut handles): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
        let mut keys = keys.into_iter();
        while !handles.is_empty() {
            let asked = Ask::ReadMany {
                handles: handles.clone(),
                unhomed,
            };
            let told = match ask(&asked)? {
                Told::Records(told) if !told.is_empty() => told,
                // They are asked for one by one.
                _ => break,
            };
            handles.drain(..told.len().min(handles.len()));
            for (told, key) in told.into_iter().zip(&mut keys) {
                let found = carry::values_of(told).map(|values| self.known(&values));
                self.ahead.insert(key, found);
            }
        }
        Ok(())
    }

    /// Whether a prefix of this handle was homed by the files.
    fn is_homed_by_files(&self, key: &[u8]) -> bool {
        homes(key)
            .iter()
            .any(|home| self.homed.get(home) == Some(&true))
    }

    /// What the node has under a handle, whose prefix the files have `homed`.
    fn found<E>(
        &mut self,
        request: &Request,
        key: &[u8],
        homed: bool,
        ask: &mut Asking<'_, E>,
    ) -> Result<Result<Values, ResponseCode>, E> {
        let known = self.ahead.remove(key);
        // It was asked for before the files had homed its prefix: what that had before is still there.
        let known = known.filter(|known| !(homed && matches!(known, Err(NOT_HERE))));
        if let Some(found) = known {
            return Ok(found);
        }
        let values = carry::values(request.handle(), homed, ask)?;
        Ok(values.map(|values| self.known(&values)))
    }

    /// Whether what was refused is there already, where a run that was killed may have made it.
    #[must_use]
    pub fn is_there(&self, request: &Request, code: ResponseCode) -> bool {
        let known = self.records.get(&key(request.handle(), self.case));
        let known = known.and_then(Option::as_ref);
        match (request, code) {
            (Request::Add { values, .. }, ResponseCode::VALUE_ALREADY_EXISTS) => {
                let added = self.known(values);
                let mut added = added.iter();
                known.is_some_and(|known| added.all(|(index, one)| known.get(index) == Some(one)))
            }
            (Request::Remove { indexes, .. }, ResponseCode::VALUES_NOT_FOUND) => {
                let mut indexes = indexes.iter();
                !known.is_some_and(|known| indexes.any(|index| known.contains_key(index)))
            }
            (Request::Delete { .. }, ResponseCode::HANDLE_NOT_FOUND) => true,
            _ => false,
        }
    }

    /// Whether there is a handle with exactly these values.
    #[must_use]
    pub fn has(&self, request: &Request, values: &[Value]) -> bool {
        let known = self.records.get(&key(request.handle(), self.case));
        let known = known.and_then(Option::as_ref);
        known.is_some_and(|known| *known == self.known(values))
    }

    /// Takes a change up. True when it would be carried out, false when there is nothing to do.
    ///
    /// # Errors
    /// The node cannot be asked. A refusal is an outcome.
    pub fn step<E>(
        &mut self,
        request: &Request,
        ask: &mut Asking<'_, E>,
    ) -> Result<Result<bool, Refused>, E> {
        let key = key(request.handle(), self.case);
        if let Request::Home { .. } | Request::Unhome { .. } = request {
            let home = matches!(request, Request::Home { .. });
            self.homed.insert(key, home);
            return Ok(Ok(true));
        }
        let here = self.homed(&key, ask)?;
        if here == Some(false) {
            return Ok(Err(not_here()));
        }
        if let Err(rejection) = plan::check_request(request) {
            return Ok(Err((rejection.code, rejection.text.into_owned())));
        }
        let known = match self.records.remove(&key) {
            Some(known) => known,
            None => match self.found(request, &key, here == Some(true), ask)? {
                Ok(values) => Some(values),
                Err(ResponseCode::HANDLE_NOT_FOUND) => None,
                // A running node of an older version does not tell of such handles.
                Err(NOT_HERE) if here == Some(true) => None,
                Err(NOT_HERE) => return Ok(Err(not_here())),
                Err(code) => return Ok(Err((code, String::new()))),
            },
        };
        let becomes = self.becomes(request, known.clone());
        let becomes = becomes.and_then(|after| fitting(request.handle(), &key, after));
        let (outcome, after) = match becomes {
            Ok(after) => (Ok(after != known), after),
            Err(refused) => (Err(refused), known),
        };
        // Values that are written anew have another timestamp: only a create does nothing.
        let outcome = outcome.map(|changed| changed || !matches!(request, Request::Create { .. }));
        self.records.insert(key, after);
        Ok(outcome)
    }

    /// What the files say of the home of a handle, if they say anything.
    fn homed<E>(&mut self, key: &[u8], ask: &mut Asking<'_, E>) -> Result<Option<bool>, E> {
        let homes = homes(key);
        let said = |home: &Vec<u8>| self.homed.get(home).copied();
        if self.is_homed_by_files(key) {
            return Ok(Some(true));
        }
        if homes.iter().all(|home| said(home).is_none()) {
            return Ok(None);
        }
        // One of them is no longer at home, of which the node does not know: it is asked for each of the others.
        for home in homes {
            if self.homed.contains_key(&home) {
                continue;
            }
            let below = [
                home.get(handle::PREFIX_SPACE.len()..).unwrap_or_default(),
                b"/x",
            ];
            let told = carry::values(&below.concat(), false, ask)?;
            let is_home = told.err() != Some(NOT_HERE);
            self.homed.insert(home, is_home);
            if is_home {
                return Ok(Some(true));
            }
        }
        Ok(Some(false))
    }

    fn known(&self, values: &[Value]) -> Values {
        let may = Permissions::ADMIN_WRITE.0 | Permissions::PUBLIC_WRITE.0;
        let one = |value: &Value| {
            let mut wire = Vec::new();
            let untimed = Value {
                timestamp: 0,
                ..value.clone()
            };
            untimed.encode(&mut wire);
            let mut hasher = self.hasher.build_hasher();
            hasher.write(&wire);
            let sealed = usize::from(seal::is_secret(&value.kind)) * seal::SEALED_MORE;
            let known = Known {
                writable: value.permissions.0 & may != 0,
                octets: u32::try_from(wire.len() + sealed).unwrap_or(u32::MAX),
                hash: hasher.finish(),
            };
            (value.index, known)
        };
        values.iter().map(one).collect()
    }

    /// What a record becomes.
    fn becomes(&self, request: &Request, known: Record) -> Result<Record, Refused> {
        let bare = |code| (code, String::new());
        let missing = || bare(ResponseCode::HANDLE_NOT_FOUND);
        let kept = || {
            let text = "the value may not be written".to_owned();
            (ResponseCode::INSUFFICIENT_PERMISSIONS, text)
        };
        match request {
            Request::Create { values, .. } => {
                let new = Some(self.known(values));
                match known.is_none() || known == new {
                    true => Ok(new),
                    false => Err(bare(ResponseCode::HANDLE_ALREADY_EXISTS)),
                }
            }
            Request::Delete { .. } => known.map(|_| None).ok_or_else(missing),
            Request::Add { values, .. } => {
                let mut all = known.ok_or_else(missing)?;
                for (index, value) in self.known(values) {
                    if all.insert(index, value).is_some() {
                        let text = format!("Index conflict for {index}");
                        return Err((ResponseCode::VALUE_ALREADY_EXISTS, text));
                    }
                }
                Ok(Some(all))
            }
            Request::Modify { values, .. } => {
                let mut all = known.ok_or_else(missing)?;
                let new = self.known(values);
                if !new.keys().all(|index| all.contains_key(index)) {
                    return Err(bare(ResponseCode::VALUES_NOT_FOUND));
                }
                for (index, value) in new {
                    let old = all.insert(index, value);
                    old.filter(|old| old.writable).ok_or_else(kept)?;
                }
                Ok(Some(all))
            }
            Request::Remove { indexes, .. } => {
                let mut all = known.ok_or_else(missing)?;
                let mut indexes = indexes.clone();
                indexes.sort_unstable();
                indexes.dedup();
                for index in indexes {
                    let old = all.remove(&index);
                    let old = old.ok_or_else(|| bare(ResponseCode::VALUES_NOT_FOUND))?;
                    old.writable.then_some(()).ok_or_else(kept)?;
                }
                Ok(Some(all))
            }
            Request::Home { .. } | Request::Unhome { .. } => Ok(known),
        }
    }
}

/// The prefixes of which one must be at home for a handle to be, by the rule of [`crate::registry::Records`].
fn homes(key: &[u8]) -> Vec<Vec<u8>> {
    let Some((prefix, suffix)) = handle::split(key) else {
        return Vec::new();
    };
    let mut homes = vec![[handle::PREFIX_SPACE, prefix].concat()];
    let mut ancestor = handle::is_prefix_handle(key).then_some(suffix);
    while let Some(prefix) = ancestor {
        homes.push([handle::PREFIX_SPACE, prefix].concat());
        let dot = prefix.iter().rposition(|octet| *octet == b'.');
        ancestor = dot.and_then(|dot| prefix.get(..dot));
    }
    homes
}

/// What a record becomes, if the store takes that.
fn fitting(handle: &[u8], key: &[u8], after: Record) -> Result<Record, Refused> {
    let Some(values) = &after else {
        return Ok(after);
    };
    let octets = values.values().map(|value| value.octets as usize).sum();
    let (_, handle) = stored_handle(handle, key);
    match record_length(handle, values.len(), octets) {
        Some(_) => Ok(after),
        None => {
            let rejection = Rejection::of_store(&CommitError::TooLarge);
            Err((rejection.code, rejection.text.into_owned()))
        }
    }
}

fn not_here() -> Refused {
    (NOT_HERE, NOT_HOMED.to_owned())
}
