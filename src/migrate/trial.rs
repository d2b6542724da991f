//! What changes would come to: the node is asked what there is, the rest is kept here, and nothing is changed.
//!
//! The rules are those of [`crate::registry::plan`], for whoever runs the node, who has every right.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, Hasher as _};

use jiexi_proto::code::{Permissions, ResponseCode};
use jiexi_proto::handle::{self, CaseRule};
use jiexi_proto::value::Value;

use super::carry::{self, Asking};
use super::key;
use crate::registry::NOT_HOMED;
use crate::registry::plan::{self, Request};

/// A refusal: its code, and in words.
pub type Refused = (ResponseCode, String);

/// What is known of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    writable: bool,
    /// A hash of all but its timestamp.
    hash: u64,
}

/// The values of a handle by their indexes; none where there is no handle.
type Record = Option<BTreeMap<u32, Known>>;

/// What there would be.
#[derive(Debug)]
pub struct Trial {
    case: CaseRule,
    records: HashMap<Vec<u8>, Record>,
    /// Prefixes that were homed, or are no longer.
    homed: HashMap<Vec<u8>, bool>,
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
            hasher: foldhash::fast::RandomState::default(),
        }
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
        let here = self.homed(&key);
        if here == Some(false) {
            return Ok(Err(not_here()));
        }
        if let Err(rejection) = plan::check_request(request) {
            return Ok(Err((rejection.code, rejection.text.into_owned())));
        }
        let known = match self.records.remove(&key) {
            Some(known) => known,
            None => match carry::values(request.handle(), ask)? {
                Ok(values) => Some(self.known(&values)),
                Err(ResponseCode::HANDLE_NOT_FOUND) => None,
                Err(ResponseCode::SERVER_NOT_RESPONSIBLE) if here == Some(true) => None,
                Err(ResponseCode::SERVER_NOT_RESPONSIBLE) => return Ok(Err(not_here())),
                Err(code) => return Ok(Err((code, String::new()))),
            },
        };
        let (outcome, after) = match self.becomes(request, known.clone()) {
            Ok(after) => (Ok(after != known), after),
            Err(refused) => (Err(refused), known),
        };
        // Values that are written anew have another timestamp: only a create does nothing.
        let outcome = outcome.map(|changed| changed || !matches!(request, Request::Create { .. }));
        self.records.insert(key, after);
        Ok(outcome)
    }

    /// What this file says of the home of a handle, if it says anything.
    fn homed(&self, key: &[u8]) -> Option<bool> {
        let (prefix, suffix) = handle::split(key)?;
        let of = |prefix: &[u8]| {
            let prefix_handle = [handle::PREFIX_SPACE, prefix].concat();
            self.homed.get(&prefix_handle).copied()
        };
        if !handle::is_prefix_handle(key) {
            return of(prefix);
        }
        let mut ancestor = Some(suffix);
        while let Some(prefix) = ancestor {
            // That one of them is no longer at home says nothing about the others.
            if of(prefix) == Some(true) {
                return Some(true);
            }
            let dot = prefix.iter().rposition(|octet| *octet == b'.');
            ancestor = dot.and_then(|dot| prefix.get(..dot));
        }
        None
    }

    fn known(&self, values: &[Value]) -> BTreeMap<u32, Known> {
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
            let known = Known {
                writable: value.permissions.0 & may != 0,
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

fn not_here() -> Refused {
    (ResponseCode::SERVER_NOT_RESPONSIBLE, NOT_HOMED.to_owned())
}
