//! Identities at home elsewhere: their keys are asked for there, and who has their secret is asked whether it proves them.
//!
//! What is said about an identity must come from its home: over TCP, signed with the key in the site record of its
//! prefix. That record comes from this node, when it delegates the prefix, or from upstream, which is trusted to that end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiexi_proto::code::ResponseCode;
use jiexi_proto::limits::NONCE_SIZE;
use jiexi_proto::message::Body;
use jiexi_proto::message::challenge::{Proof, VerifyChallenge};
use jiexi_proto::message::values::HandleValues;
use jiexi_proto::value::site::SiteRecord;
use jiexi_proto::value::{Reference, Value};
use jiexi_proto::wire::Reader;
use tokio::time::timeout;

use super::Forwarder;
use super::fetch::life;
use crate::client::{self, Client, ClientError, Operation, Place, Transports};
use crate::clock;
use crate::metrics::Protocol;
use crate::notices::{self, Slow};
use crate::registry::auth::{Claim, Elsewhere};
use crate::registry::source::Source;
use crate::resolver::cache::{Bounds, Cache, Found, Known};

/// Longest time a key is believed in: a user who has lost it changes it at its home alone.
const KEY_LIFE_MAX: Duration = Duration::from_secs(300);
/// Octets of keys remembered.
const KEYS_BYTES: usize = 4 << 20;
/// Challenges of one session that a secret is tried on.
const ASKED_MAX: usize = 4;

/// Said of an answer that tells nothing about the identity.
const UNUSABLE: &str = "it tells nothing about the identity";

/// What goes on when something is known about an identity.
pub type ThenProve = Box<dyn FnOnce(Elsewhere) + Send>;

/// Proofs under way, and keys.
pub(super) struct Identities {
    under_way: Mutex<(usize, HashMap<Source, usize, foldhash::fast::RandomState>)>,
    keys: Mutex<Cache>,
}

impl Identities {
    pub(super) fn new(retry: Duration) -> Self {
        Self {
            under_way: Mutex::default(),
            keys: Mutex::new(Cache::new(Bounds {
                bytes: KEYS_BYTES,
                life_max: KEY_LIFE_MAX,
                stale: Duration::ZERO,
                retry,
            })),
        }
    }

    /// Counts a proof in, if there is room: a source network has half of it.
    fn begin(&self, source: Source, room: usize) -> bool {
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (all, by_source) = &mut *under_way;
        let of_source = by_source.get(&source).copied().unwrap_or_default();
        let begins = *all < room && of_source < room.div_ceil(2);
        if begins {
            *all += 1;
            *by_source.entry(source).or_default() += 1;
        }
        begins
    }

    fn end(&self, source: Source) {
        let mut under_way = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        under_way.0 -= 1;
        super::count_out(&mut under_way.1, &source);
    }

    fn find(&self, key: &[u8]) -> Option<Known> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        match keys.find(key, Instant::now()) {
            Found::Fresh(known) => Some(known),
            _ => None,
        }
    }

    /// Remembers keys as long as the first of them lives.
    fn learn(&self, key: &[u8], values: &[Value], none: Duration) {
        let mut body = Vec::new();
        values.iter().for_each(|value| value.encode(&mut body));
        let now = clock::unix_seconds();
        let life = values.iter().map(|value| life(value, now)).min();
        let known = Known {
            code: ResponseCode::SUCCESS,
            body: body.into(),
        };
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.learn(key, known, life.unwrap_or(none), Instant::now());
    }
}

impl Forwarder {
    /// Whether identities at home elsewhere may prove themselves here.
    #[must_use]
    pub const fn proves(&self) -> bool {
        self.config.authentication
    }

    /// Finds out what is needed to check a claim over `asked`; `then` is called once, on another thread or at once.
    pub fn prove(
        self: &Arc<Self>,
        claim: Claim,
        asked: Vec<Vec<u8>>,
        source: Source,
        then: ThenProve,
    ) {
        // Whose keys are known waits for nobody.
        if claim.kind == Proof::PUBLIC_KEY
            && let Some(known) = self.identities.find(&key_of(&claim))
        {
            return then(Elsewhere::Keys(values_in(&known.body)));
        }
        if !self
            .identities
            .begin(source, self.config.questions.div_ceil(4))
        {
            return then(Elsewhere::Unavailable);
        }
        let forwarder = Arc::clone(self);
        self.runtime.spawn(async move {
            let looking = forwarder.look_up(&claim, &asked);
            let begun = Instant::now();
            let looked = timeout(forwarder.config.deadline, looking).await;
            let took = begun.elapsed();
            if notices::is_slow(took) {
                let slow = Slow {
                    protocol: Protocol::Handle,
                    transport: None,
                    operation: "forward_proof",
                    outcome: "",
                    took,
                    requests: 1,
                    about: &claim.identity.handle,
                    network: Some(source),
                };
                slow.tell();
            }
            let said = match looked {
                Ok(Ok(said)) => said,
                // A prefix without a home has no users.
                Ok(Err(ClientError::NoSite(_))) => match claim.kind == Proof::PUBLIC_KEY {
                    true => Elsewhere::Keys(Vec::new()),
                    false => Elsewhere::Verified(None),
                },
                Ok(Err(error)) => {
                    tracing::debug!(identity = %claim.identity, %error, "an identity cannot be checked at its home");
                    if matches!(error, ClientError::Forbidden(..)) {
                        forwarder.figures.forbidden();
                    }
                    Elsewhere::Unavailable
                }
                Err(_) => Elsewhere::Unavailable,
            };
            forwarder.identities.end(source);
            then(said);
        });
    }

    async fn look_up(&self, claim: &Claim, asked: &[Vec<u8>]) -> Result<Elsewhere, ClientError> {
        let mut client = self.client.clone();
        client.transports = Transports::Tcp;
        client.recursion_count = 1;
        match claim.kind == Proof::PUBLIC_KEY {
            true => Ok(Elsewhere::Keys(self.keys_of(&client, claim).await?)),
            false => self.verified(&client, claim, asked).await,
        }
    }

    /// The public keys of an identity.
    async fn keys_of(&self, client: &Client, claim: &Claim) -> Result<Vec<Value>, ClientError> {
        let index = claim.identity.index;
        let site = self.site_of(client, claim).await?;
        let kind = Bytes::from_static(Proof::PUBLIC_KEY);
        let question = client::Question {
            handle: claim.user.clone(),
            types: if index == 0 { vec![kind] } else { Vec::new() },
            indexes: if index == 0 { Vec::new() } else { vec![index] },
        };
        let operation = Operation::certified(&question);
        let (answer, home) = client.ask_home(&site, &claim.user, &operation).await?;
        let values = match (answer.header.response_code, answer.body) {
            (ResponseCode::SUCCESS, Body::Resolved(HandleValues { handle, values }))
                if handle.eq_ignore_ascii_case(&claim.user) =>
            {
                values
            }
            (ResponseCode::HANDLE_NOT_FOUND | ResponseCode::VALUES_NOT_FOUND, _) => Vec::new(),
            _ => return Err(ClientError::NotOurs(home, UNUSABLE)),
        };
        let none = self.config.cache.retry;
        self.identities.learn(&key_of(claim), &values, none);
        Ok(values)
    }

    /// Whether the home of a secret key says that it has made the answer to one of the challenges.
    async fn verified(
        &self,
        client: &Client,
        claim: &Claim,
        asked: &[Vec<u8>],
    ) -> Result<Elsewhere, ClientError> {
        let site = self.site_of(client, claim).await?;
        for (place, asked) in asked.iter().enumerate().take(ASKED_MAX) {
            let Some((nonce, digest)) = asked.split_at_checked(NONCE_SIZE) else {
                continue;
            };
            let operation = Operation::verify(VerifyChallenge {
                user: Reference {
                    handle: claim.user.clone(),
                    index: claim.identity.index,
                },
                nonce: Bytes::copy_from_slice(nonce),
                digest: Bytes::copy_from_slice(digest),
                hash: None,
                answer: claim.answer.clone(),
            });
            let (answer, home) = client.ask_home(&site, &claim.user, &operation).await?;
            match (answer.header.response_code, answer.body) {
                (ResponseCode::SUCCESS, Body::Verified(1)) => {
                    return Ok(Elsewhere::Verified(Some(place)));
                }
                (ResponseCode::SUCCESS, Body::Verified(_))
                | (ResponseCode::AUTHENTICATION_FAILED | ResponseCode::HANDLE_NOT_FOUND, _) => {}
                _ => return Err(ClientError::NotOurs(home, UNUSABLE)),
            }
        }
        Ok(Elsewhere::Verified(None))
    }

    /// The site record of the home of an identity.
    async fn site_of(&self, client: &Client, claim: &Claim) -> Result<SiteRecord, ClientError> {
        let values = self
            .local
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .site_values(&claim.identity.handle);
        let mut own = values
            .iter()
            .filter_map(|value| SiteRecord::decode(&value.data).ok());
        if let Some(site) = own.next() {
            return Ok(site);
        }
        let mut failed = ClientError::NoSite(claim.identity.to_string());
        for upstream in &self.config.upstream {
            match client.site_of(Place::at(*upstream), &claim.user).await {
                Ok(site) => return Ok(site),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

/// By what its keys are remembered.
fn key_of(claim: &Claim) -> Vec<u8> {
    let index = claim.identity.index.to_be_bytes();
    [&claim.identity.handle[..], &index].concat()
}

/// Values in wire form, one after the other.
fn values_in(octets: &Bytes) -> Vec<Value> {
    let mut reader = Reader::new(octets);
    std::iter::from_fn(|| (!reader.is_empty()).then(|| Value::read(&mut reader).ok())?).collect()
}
