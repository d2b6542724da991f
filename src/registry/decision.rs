//! The path of a change, front to back: [`Registry`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use bytes::Bytes;
use jiexi_proto::code::ResponseCode;
use jiexi_proto::handle;
use jiexi_proto::limits::HANDLE_MAX;
use jiexi_proto::message::challenge::Proof;
use jiexi_proto::value::admin::AdminRights;
use rsa::rand_core::TryCryptoRng;

use super::Rejection;
use super::audit::{Audit, Event};
use super::auth::{self, Authenticated, Claim, Elsewhere, Identity, Policy};
use super::figures::{self, Ended, Figures, Proved};
use super::keys::NodeKey;
use super::nobody::Nobody;
use super::permit::{self, Authority, Need, Permit};
use super::plan::{self, Becomes, Request};
use super::records::{Held, Records, Unavailable};
use super::seal::Sealer;
use super::source::Sender;
use super::table::{Limits, Table};
use super::throttle::{self, Attempt, Throttle};
use crate::store::{Action, Batch, Change, Draft, DraftValue, Expect, Space, Store, StoreError};

/// How changes are decided.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Who administers, besides what the records say.
    pub permit: permit::Config,
    /// Which old proofs are accepted.
    pub policy: Policy,
    /// Challenges and sessions.
    pub limits: Limits,
    /// Wrong answers.
    pub throttle: throttle::Limits,
    /// Whether secrets leave with a copy of the node inside TLS.
    pub copy_secrets: bool,
    /// MACs of sessions before version 2.7.
    pub old_macs: bool,
}

/// Decides about changes and about reading what is restricted.
#[derive(Debug)]
pub struct Registry {
    /// The records.
    pub records: Records,
    /// The node's key.
    pub key: NodeKey,
    /// Challenges and sessions.
    pub table: Table,
    /// What is counted.
    pub figures: Figures,
    /// How it decides.
    pub config: Config,
    throttle: Throttle,
    nobody: Nobody,
    audit: Option<Audit>,
    /// Whether the trail has been compared with the journal.
    compared: AtomicBool,
}

/// A change that was allowed: what is to be committed, and what is said when it is.
#[derive(Debug)]
pub struct Decision {
    /// The changes, with the generations they expect.
    pub batch: Batch,
    /// The handle, as the client wrote it or as it was minted.
    pub handle: Bytes,
    /// Something that existed was overwritten.
    pub overwritten: bool,
}

impl Registry {
    /// A registry over a store, with the node's key and, but for tests, an audit trail.
    ///
    /// # Errors
    /// The key is unusable.
    pub fn new(
        store: Arc<Store>,
        key: NodeKey,
        config: Config,
        audit: Option<Audit>,
    ) -> Result<Self, super::keys::KeyError> {
        let case = store.case();
        let sealer = Sealer::new(&key);
        let nobody =
            Nobody::new(&key).ok_or(super::keys::KeyError("the SM2 curve is not usable"))?;
        Ok(Self {
            records: Records {
                store,
                case,
                sealer,
            },
            table: Table::new(config.limits.clone()),
            throttle: Throttle::new(config.throttle),
            figures: Figures::default(),
            nobody,
            key,
            config,
            audit,
            compared: AtomicBool::new(false),
        })
    }

    /// What can be refused without knowing who asks, in the recorded order.
    ///
    /// # Errors
    /// 102, 301, 201, 202, 101, 100, 200; 3 when the store cannot say.
    pub fn examine(&self, request: &Request) -> Result<(), Rejection> {
        self.examine_after(request, &[])
    }

    /// As [`Self::examine`], after the requests `before`, which are part of the same batch.
    fn examine_after(&self, request: &Request, before: &[Request]) -> Result<(), Rejection> {
        let key = self.subject(request)?;
        if request.is_homing() {
            return match request.record() {
                Some(record) => self.examine_after(&record, std::slice::from_ref(request)),
                None => Ok(()),
            };
        }
        let homed = |earlier: &Request| match earlier {
            Request::Home { prefix, .. } => self.records.key(prefix) == key,
            _ => false,
        };
        if !before.iter().any(homed) && !self.records.is_responsible(&key)? {
            return Err(Rejection::new(
                ResponseCode::SERVER_NOT_RESPONSIBLE,
                super::NOT_HOMED,
            ));
        }
        plan::check_request(request)?;
        let (current, _) = self.current(&key)?;
        plan::check_existence(request, current.as_deref())
    }

    /// Whether a proof may be looked at now; if not, it may wait in [`super::waiting`].
    #[must_use]
    pub fn has_turn(&self, claim: &Claim, sender: Sender, now: Instant) -> bool {
        self.throttle.allows(attempt(claim, sender), now)
    }

    /// What counts wrong answers, for who lets them wait.
    #[must_use]
    pub const fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    /// Counts a proof that was not looked at; gives what is said to it.
    pub fn turn_away(&self, claim: &Claim) -> Rejection {
        let method = figures::method_of(claim.method());
        self.figures.proved(method, Proved::Error);
        Rejection::busy("too many wrong answers: please wait a moment")
    }

    /// Checks a proof whose turn it is.
    ///
    /// # Errors
    /// 403 for a wrong proof, 3 when the store cannot say.
    pub fn authenticate_in_turn(
        &self,
        claim: &Claim,
        asked: &[Vec<u8>],
        sender: Sender,
        now: Instant,
    ) -> Result<(Authenticated, usize), Rejection> {
        self.judge(claim, sender, now, || {
            auth::verify(
                &self.records,
                &self.nobody,
                self.config.policy,
                claim,
                asked,
            )
        })
    }

    /// As [`Self::authenticate_in_turn`], by what the home of the identity says when that is another node.
    ///
    /// # Errors
    /// As [`Self::authenticate_in_turn`]; 3 also when the home says nothing.
    pub fn authenticate_elsewhere(
        &self,
        claim: &Claim,
        asked: &[Vec<u8>],
        said: &Elsewhere,
        sender: Sender,
        now: Instant,
    ) -> Result<(Authenticated, usize), Rejection> {
        self.judge(claim, sender, now, || {
            auth::verify_elsewhere(said, &self.nobody, self.config.policy, claim, asked)
        })
    }

    /// Whether the identity of a claim is at home elsewhere.
    #[must_use]
    pub fn is_elsewhere(&self, claim: &Claim) -> bool {
        self.records.is_responsible(&claim.identity.handle) == Ok(false)
    }

    fn judge(
        &self,
        claim: &Claim,
        sender: Sender,
        now: Instant,
        verify: impl FnOnce() -> Result<Option<(Authenticated, usize)>, Unavailable>,
    ) -> Result<(Authenticated, usize), Rejection> {
        let attempt = attempt(claim, sender);
        let method = figures::method_of(claim.method());
        match verify() {
            Ok(Some((who, place))) => {
                self.throttle.succeeded(attempt, now);
                self.figures
                    .proved(figures::method_of(who.method()), Proved::Accepted);
                Ok((who, place))
            }
            Ok(None) => {
                self.throttle.failed(attempt, now);
                self.figures.proved(method, Proved::Refused);
                Err(Rejection::bare(ResponseCode::AUTHENTICATION_FAILED))
            }
            Err(unavailable) => {
                self.figures.proved(method, Proved::Error);
                Err(unavailable.into())
            }
        }
    }

    /// What is said to a wrong proof: that the identity is no administrator of this, if so.
    #[must_use]
    pub fn refusal(&self, claimed: &Identity, key: &[u8], need: Option<Need>) -> Rejection {
        let Some(need) = need else {
            return Rejection::bare(ResponseCode::AUTHENTICATION_FAILED);
        };
        let known = || -> Result<bool, Rejection> {
            let (current, _) = self.current(key)?;
            self.authority()
                .knows(claimed, key, current.as_deref().unwrap_or_default(), need)
        };
        match known() {
            Ok(true) => Rejection::bare(ResponseCode::AUTHENTICATION_FAILED),
            Ok(false) => Rejection::bare(ResponseCode::INVALID_ADMIN),
            Err(busy) => busy,
        }
    }

    /// Key and need of a change, for [`Self::refusal`].
    ///
    /// # Errors
    /// 102 for an unusable name, 3 when the store cannot say.
    pub fn need(&self, request: &Request) -> Result<(Vec<u8>, Need), Rejection> {
        let key = self.subject(request)?;
        let (current, _) = self.current(&key)?;
        let need = plan::need(request, &key, current.as_deref());
        Ok((key, need))
    }

    /// Decides a change: rights, then what it makes of the record. The store carries it out if the
    /// record is still what it was here; otherwise it is to be decided again.
    ///
    /// # Errors
    /// 400, 401, and everything that [`Self::examine`] and [`plan::becomes`] say.
    pub fn decide<R: TryCryptoRng + ?Sized>(
        &self,
        request: &Request,
        who: &Authenticated,
        now: u32,
        random: &mut R,
    ) -> Result<Decision, Rejection> {
        self.decide_after(request, &[], who, now, random)
    }

    /// As [`Self::decide`], after the requests `before`, which are part of the same batch.
    pub(super) fn decide_after<R: TryCryptoRng + ?Sized>(
        &self,
        request: &Request,
        before: &[Request],
        who: &Authenticated,
        now: u32,
        random: &mut R,
    ) -> Result<Decision, Rejection> {
        if self.audit.as_ref().is_some_and(|audit| !audit.is_ready()) {
            return Err(Rejection::busy("the audit trail cannot be written"));
        }
        self.examine_after(request, before)?;
        let mut request = request.clone();
        if let Request::Create {
            handle, mint: true, ..
        } = &mut request
        {
            *handle = minted(handle, random)?;
        }
        let key = self.subject(&request)?;
        let handle = request.handle().clone();
        let homing = request.is_homing();
        let (current, generation) = match homing {
            true => (None, None),
            false => self.current(&key)?,
        };
        if generation.is_some()
            && matches!(
                request,
                Request::Create {
                    overwrite: false,
                    ..
                }
            )
        {
            return Err(Rejection::bare(ResponseCode::HANDLE_ALREADY_EXISTS));
        }
        let need = plan::need(&request, &key, current.as_deref());
        let held = current.as_deref().unwrap_or_default();
        let permit = self.authority().check(who, &key, held, need)?;
        let record = match request.record() {
            Some(record) => {
                let homing = std::slice::from_ref(&request);
                self.decide_after(&record, homing, who, now, random)?
                    .batch
                    .changes
            }
            None => Vec::new(),
        };
        let (becomes, overwritten) = plan::becomes(request, current, permit, &key, now)?;
        let action = match becomes {
            Becomes::Gone => Action::Delete,
            Becomes::Values(values) => Action::Put(Draft {
                handle: if homing {
                    Bytes::copy_from_slice(&key)
                } else {
                    handle.clone()
                },
                values: self.drafts(&key, values, random)?,
            }),
        };
        let change = Change {
            space: if homing { Space::Prefix } else { Space::Handle },
            expect: match (homing, generation) {
                (true, _) => Expect::Any,
                (false, Some(generation)) => Expect::Generation(generation),
                (false, None) => Expect::Absent,
            },
            key,
            action,
        };
        let mut changes = vec![change];
        changes.extend(record);
        let batch = Batch {
            changes,
            note: Bytes::new(),
        };
        Ok(Decision {
            batch,
            handle,
            overwritten,
        })
    }

    /// The permission to read what is restricted in the handle under `key`.
    ///
    /// # Errors
    /// 400, 401; 3 when the store cannot say.
    pub fn may_read(&self, who: &Authenticated, key: &[u8]) -> Result<Permit, Rejection> {
        self.permit(who, key, READ)
    }

    /// The permission to list the handles below the prefix under `key`.
    ///
    /// # Errors
    /// 400, 401; 3 when the store cannot say.
    pub fn may_list(&self, who: &Authenticated, key: &[u8]) -> Result<Permit, Rejection> {
        self.permit(who, key, LIST)
    }

    /// The permission to look at the server's own state.
    ///
    /// # Errors
    /// 400.
    pub fn may_serve(&self, who: &Authenticated) -> Result<Permit, Rejection> {
        self.authority().check(who, b"", &[], Need::Server)
    }

    /// Whether somebody may copy the node.
    ///
    /// # Errors
    /// 400.
    pub fn may_copy(&self, who: &Authenticated) -> Result<(), Rejection> {
        match self.authority().is_replication_admin(who) {
            true => Ok(()),
            false => Err(Rejection::bare(ResponseCode::INVALID_ADMIN)),
        }
    }

    /// Whether a mistake would be shown by the record: the values of the handle under `key`, with
    /// secrets opened, for the holder of a permission to read.
    ///
    /// # Errors
    /// 100 when it is gone, 3 when the store cannot say.
    pub fn open_values(&self, permit: Permit) -> Result<Vec<jiexi_proto::value::Value>, Rejection> {
        if !permit.covers(permit.key(), READ) {
            return Err(Rejection::bare(ResponseCode::INSUFFICIENT_PERMISSIONS));
        }
        let record = self.records.record(permit.key())?;
        let record = record.ok_or_else(|| Rejection::bare(ResponseCode::HANDLE_NOT_FOUND))?;
        Ok(self.records.values(&record))
    }

    /// Adds to the audit trail.
    pub fn note(&self, event: &Event<'_>) {
        if let Some(audit) = &self.audit {
            audit.record(event);
        }
    }

    /// Counts a change and adds it to the audit trail.
    pub fn ended(&self, request: &Request, ended: Ended, event: &Event<'_>) {
        self.figures.changed(figures::kind_of(request), ended);
        self.note(event);
    }

    /// Has the journal say beside the changes of a batch who asked for them: after a crash the trail is completed from it.
    #[must_use]
    pub fn witnessed(&self, batch: Batch, events: &[Event<'_>]) -> Batch {
        let note = |audit: &Audit| audit.witness(events);
        Batch {
            note: self.audit.as_ref().map_or_else(Bytes::new, note),
            ..batch
        }
    }

    /// Completes the trail by what the journal knows and it does not, because the process ended between the two. Returns
    /// how many entries there were. The store must be loaded.
    ///
    /// # Errors
    /// The trail or the journal cannot be read.
    pub fn complete_audit(&self) -> Result<u64, StoreError> {
        let Some(audit) = &self.audit else {
            return Ok(0);
        };
        let store = &self.records.store;
        let unread = |error: std::io::Error| StoreError::Failed(error.to_string().into());
        audit.complete(store.sequence(), |after| store.notes_since(after), unread)
    }

    /// Notes that the trail has been compared with the journal, or cannot be.
    pub fn set_compared(&self) {
        self.compared.store(true, Relaxed);
    }

    /// Whether that is so. Changes of which each has thousands of entries must wait for it: a process that ends again
    /// before would leave the next one to look for older ones than it does.
    #[must_use]
    pub fn is_compared(&self) -> bool {
        self.compared.load(Relaxed)
    }

    /// As [`Self::ended`], for many changes of one kind.
    pub fn ended_all<'e>(&self, kind: usize, ended: impl Iterator<Item = (Ended, Event<'e>)>) {
        let counted = ended.map(|(ended, event)| {
            self.figures.changed(kind, ended);
            event
        });
        match &self.audit {
            Some(audit) => audit.record_all(counted),
            None => counted.for_each(drop),
        }
    }

    /// The audit trail.
    #[must_use]
    pub const fn audit(&self) -> Option<&Audit> {
        self.audit.as_ref()
    }

    fn authority(&self) -> Authority<'_> {
        Authority {
            records: &self.records,
            config: &self.config.permit,
        }
    }

    fn permit(&self, who: &Authenticated, key: &[u8], need: Need) -> Result<Permit, Rejection> {
        let (current, _) = self.current(key)?;
        self.authority()
            .check(who, key, current.as_deref().unwrap_or_default(), need)
    }

    /// The values under a key, and the generation of their record.
    fn current(&self, key: &[u8]) -> Result<(Option<Vec<Held>>, Option<u64>), Rejection> {
        match self.records.record(key)? {
            None => Ok((None, None)),
            Some(record) => Ok((Some(self.records.held(&record)?), Some(record.generation()))),
        }
    }

    /// The key of what a request is about.
    fn subject(&self, request: &Request) -> Result<Vec<u8>, Rejection> {
        let handle = request.handle();
        let key = self.records.key(handle);
        let usable = !handle.is_empty()
            && key.len() <= HANDLE_MAX
            && (!request.is_homing()
                || (handle::is_prefix_handle(&key) && key.len() > handle::PREFIX_SPACE.len()));
        match usable {
            true => Ok(key),
            false => Err(Rejection::bare(ResponseCode::INVALID_HANDLE)),
        }
    }

    fn drafts<R: TryCryptoRng + ?Sized>(
        &self,
        key: &[u8],
        values: Vec<Held>,
        random: &mut R,
    ) -> Result<Vec<DraftValue>, Rejection> {
        let draft = |held: Held| match held.stored {
            Some(stored) => Ok(stored),
            None => self.records.sealer.draft(key, &held.value, random),
        };
        let drafts: Result<_, _> = values.into_iter().map(draft).collect();
        drafts.map_err(|_| Rejection::busy("no randomness"))
    }
}

/// What reading restricted values needs.
pub const READ: Need = Need::OnHandle(AdminRights::READ_VALUE);
/// What listing the handles below a prefix needs.
pub const LIST: Need = Need::OnHandle(AdminRights::LIST_HANDLES);

/// A claim, as far as its limits are concerned.
#[must_use]
pub fn attempt(claim: &Claim, sender: Sender) -> Attempt<'_> {
    Attempt {
        identity: &claim.identity,
        sender,
        guessable: claim.kind != Proof::PUBLIC_KEY,
    }
}

/// A name that nobody has: the stem and a random UUID (version 4).
fn minted<R: TryCryptoRng + ?Sized>(stem: &[u8], random: &mut R) -> Result<Bytes, Rejection> {
    let mut octets = [0; 16];
    random
        .try_fill_bytes(&mut octets)
        .map_err(|_| Rejection::busy("no randomness"))?;
    octets[6] = octets[6] & 0x0F | 0x40;
    octets[8] = octets[8] & 0x3F | 0x80;
    let text = hex::encode(octets);
    let parts = [
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..],
    ];
    Ok(Bytes::from([stem, parts.join("-").as_bytes()].concat()))
}
