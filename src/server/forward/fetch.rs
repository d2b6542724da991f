//! One question asked elsewhere: where, and what the answer is worth.

use std::borrow::Cow;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiexi_proto::code::{OpFlags, Permissions, ResponseCode};
use jiexi_proto::handle;
use jiexi_proto::value::{Ttl, Value};
use tokio::time::timeout;

use super::question::Question;
use super::{Forwarder, Told};
use crate::client::{Client, ClientError, Place, Reply};
use crate::clock;
use crate::resolver::cache::Known;
use crate::resolver::{self, Answer, Authority, Filter, Query};
use crate::server::handle::Shared;
use crate::store::{Lookup, Reader, Store};

/// By which values of its record a prefix says where it is at home, or an ancestor does.
const SITE_TYPES: &[&[u8]] = &[
    b"HS_SITE",
    b"HS_SITE.6",
    b"HS_SITE.PREFIX",
    b"HS_NA_DELEGATE",
];

/// An answer, and how long it lives.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fetched {
    pub(super) known: Known,
    pub(super) life: Duration,
    /// The node that was asked remembers it, and cannot reach its home either.
    pub(super) stale: bool,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    code: ResponseCode,
    text: Cow<'static, str>,
}

impl Failure {
    pub(super) const fn new(code: ResponseCode, text: &'static str) -> Self {
        Self {
            code,
            text: Cow::Borrowed(text),
        }
    }

    pub(super) fn to_known(&self) -> Known {
        Known {
            code: self.code,
            body: Bytes::copy_from_slice(self.text.as_bytes()),
        }
    }

    pub(super) fn to_told(&self) -> Told {
        Told::failed(self.to_known())
    }
}

/// What this node itself says about prefixes.
#[derive(Debug)]
pub(super) struct Local {
    store: Arc<Store>,
    reader: Reader,
    authority: Authority,
}

impl Local {
    pub(super) fn new(shared: &Shared) -> Self {
        Self {
            store: Arc::clone(&shared.store),
            reader: shared.store.reader(),
            authority: Authority::default(),
        }
    }

    /// The values by which this node delegates the prefix of a handle, or names who knows it.
    pub(super) fn site_values(&mut self, handle: &[u8]) -> Vec<Value> {
        if self.authority.is_stale(&self.store)
            && let Ok(authority) = Authority::load(&self.store)
        {
            self.authority = authority;
        }
        let mut key = Vec::new();
        match handle::is_prefix_handle(handle) {
            true => key.extend_from_slice(handle),
            false => handle::prefix_handle(handle, &mut key),
        }
        let query = Query {
            key: &key,
            filter: Filter::Types(SITE_TYPES),
            public_only: true,
            refer: true,
        };
        let session = self.reader.session();
        let mut found = [Lookup::Absent];
        session.find(&[&key], &mut found);
        match resolver::resolve(&self.authority, &session, &query, &found[0]) {
            Answer::Values(selection) | Answer::PrefixReferral(selection) => selection
                .public()
                .filter_map(|entry| Value::decode(&Bytes::copy_from_slice(entry.wire)).ok())
                .collect(),
            _ => Vec::new(),
        }
    }
}

impl Forwarder {
    /// Asks until there is an answer or time is up.
    pub(super) async fn fetch(&self, question: &Question) -> Result<Fetched, Failure> {
        let mut client = self.client.clone();
        client.recursion_count = question.hops.saturating_add(1);
        client.flags = flags(question);
        let places = self.places(&client, question);
        let Some((last, first)) = places.split_last() else {
            let code = ResponseCode::SERVER_NOT_RESPONSIBLE;
            let text = "this prefix is not homed here, and no other node is known to ask";
            return Err(Failure::new(code, text));
        };
        let asking = async {
            for place in first {
                match client.resolve(*place, question.asked.clone()).await {
                    Ok((reply, _)) => return Ok(reply),
                    Err(ClientError::Forbidden(..)) => self.figures.forbidden(),
                    Err(_) => {}
                }
            }
            client
                .resolve(*last, question.asked.clone())
                .await
                .map(|(reply, _)| reply)
        };
        match timeout(self.config.deadline, asking).await {
            Ok(Ok(reply)) => self.judge(question, reply),
            Ok(Err(error)) => Err(self.failure(&error)),
            Err(_) => Err(Failure::new(
                ResponseCode::ERROR,
                "the home of this handle does not answer in time",
            )),
        }
    }

    /// Where a question is asked first: at the site that this node delegates the prefix to, else upstream.
    fn places(&self, client: &Client, question: &Question) -> Vec<Place> {
        let values = self
            .local
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .site_values(question.handle());
        match client.place_of(&values, &question.asked.handle) {
            Some((place, _)) => vec![place],
            None => self
                .config
                .upstream
                .iter()
                .copied()
                .map(Place::at)
                .collect(),
        }
    }

    /// What an answer is worth.
    fn judge(&self, question: &Question, reply: Reply) -> Result<Fetched, Failure> {
        let negative = |code, text: String| Fetched {
            known: Known {
                code,
                body: Bytes::from(text),
            },
            life: self.config.negative,
            stale: false,
        };
        match reply.code {
            ResponseCode::SUCCESS => Ok(Fetched {
                stale: reply.stale,
                ..self.values(reply.values)
            }),
            ResponseCode::HANDLE_NOT_FOUND
            | ResponseCode::VALUES_NOT_FOUND
            | ResponseCode::INVALID_HANDLE
            | ResponseCode::SERVER_NOT_RESPONSIBLE => Ok(negative(reply.code, reply.message)),
            // Whoever may read them proves it there: what is restricted does not come this way.
            ResponseCode::AUTHENTICATION_NEEDED | ResponseCode::INSUFFICIENT_PERMISSIONS
                if !question.public_only =>
            {
                let text = "not all of these values are public: ask the home of the prefix itself";
                Ok(negative(ResponseCode::SERVER_NOT_RESPONSIBLE, text.into()))
            }
            ResponseCode::RECURSION_COUNT_TOO_HIGH => Err(super::TOO_FAR),
            ResponseCode::SERVER_TOO_BUSY => Err(Failure::new(
                ResponseCode::SERVER_TOO_BUSY,
                "the home of this handle is too busy",
            )),
            code => Err(Failure {
                code: ResponseCode::ERROR,
                text: format!("the node asked for this handle answered code {}", code.0).into(),
            }),
        }
    }

    /// The public ones of these values as an answer; it lives as long as the first of them to die.
    fn values(&self, mut values: Vec<Value>) -> Fetched {
        let public = |value: &Value| value.permissions.0 & Permissions::PUBLIC_READ.0 != 0;
        values.retain(public);
        let count = u32::try_from(values.len()).unwrap_or(u32::MAX);
        let mut body = count.to_be_bytes().to_vec();
        values.iter().for_each(|value| value.encode(&mut body));
        let now = clock::unix_seconds();
        let life = values.iter().map(|value| life(value, now)).min();
        let code = match values.is_empty() {
            true => ResponseCode::VALUES_NOT_FOUND,
            false => ResponseCode::SUCCESS,
        };
        let body = if values.is_empty() {
            Bytes::new()
        } else {
            Bytes::from(body)
        };
        Fetched {
            known: Known { code, body },
            life: life.unwrap_or(self.config.negative),
            stale: false,
        }
    }

    fn failure(&self, error: &ClientError) -> Failure {
        let text = match error {
            ClientError::Loop(_) | ClientError::TooManyHops => return super::TOO_FAR,
            ClientError::Forbidden(..) => {
                self.figures.forbidden();
                "the home of this handle is at an address that this node does not connect to"
            }
            ClientError::NoSite(_) => "the prefix of this handle names no site that can be asked",
            ClientError::TimedOut(..) | ClientError::Io(..) | ClientError::Down(_) => {
                "the home of this handle does not answer"
            }
            _ => "the node asked for this handle gave no usable answer",
        };
        Failure::new(ResponseCode::ERROR, text)
    }
}

/// The flags of a question that is passed on.
fn flags(question: &Question) -> OpFlags {
    let mut flags = OpFlags::RESOLUTION;
    if !question.public_only {
        flags = flags.without(OpFlags::PUBL);
    }
    match question.authoritative {
        true => flags.with(OpFlags::AUTH),
        false => flags,
    }
}

/// How long a value lives from now on.
pub(super) fn life(value: &Value, now: u32) -> Duration {
    let seconds = match value.ttl {
        Ttl::Relative(seconds) => u64::try_from(seconds).unwrap_or(0),
        Ttl::Absolute(until) => u64::try_from(until).unwrap_or(0).saturating_sub(now.into()),
    };
    Duration::from_secs(seconds)
}
