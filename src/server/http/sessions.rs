//! Sessions of the JSON API: a nonce is asked for, an answer signed with it opens the session, and
//! its id stands for the proof from then on.
//!
//! ```text
//! POST /api/sessions                       → {"sessionId","nonce"}
//! POST or PUT /api/sessions/this           ← Authorization: Handle sessionId, id, type, cnonce, alg, signature
//! GET, DELETE /api/sessions/this           ← Authorization: Handle sessionId
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiexi_proto::Version;
use jiexi_proto::code::ResponseCode;
use jiexi_proto::message::challenge::{MacAlgorithm, Proof};
use serde_json::json;

use super::answer::{Answer, Refusal, json};
use super::caller::{self, needed};
use super::handles::{not_allowed, options};
use super::language::Language;
use super::outer::{Counted, From};
use super::{App, source_of};
use crate::clock::Now;
use crate::metrics::{Op, Outcome};
use crate::registry::auth::Claim;
use crate::registry::source::Source;
use crate::registry::{Authenticated, Rejection};

/// What may be done where sessions are opened, and with one.
const OPEN_METHODS: &str = "POST, OPTIONS";
const THIS_METHODS: &str = "GET, HEAD, POST, PUT, DELETE, OPTIONS";
/// Octets of a nonce and of an id.
const NONCE_SIZE: usize = 16;
/// Longest nonce of a client.
const CLIENT_NONCE_MAX: usize = 256;
/// A session that was not logged in to ends after this time.
const LOGIN_TIME: Duration = Duration::from_secs(300);
/// The share of all sessions that one network may have: one of this many.
const SHARE: usize = 4;

#[derive(Clone, Debug)]
struct Session {
    nonce: [u8; NONCE_SIZE],
    who: Option<Authenticated>,
    /// `index:handle` as the client wrote it.
    name: String,
    source: Source,
    ends: Instant,
}

/// All sessions, bounded.
#[derive(Debug)]
pub(super) struct Sessions {
    open: Mutex<HashMap<String, Session>>,
    most: usize,
    time: Duration,
}

impl Sessions {
    /// None yet; at most `most`, each at most this long.
    pub(super) fn new(most: usize, time: Duration) -> Self {
        Self {
            open: Mutex::default(),
            most,
            time,
        }
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// The identity of a session; none inside while nobody is logged in.
    pub(super) fn who(&self, id: &str, now: Instant) -> Option<Option<Authenticated>> {
        self.live(id, now).map(|session| session.who)
    }

    fn live(&self, id: &str, now: Instant) -> Option<Session> {
        let open = self.lock();
        open.get(id).filter(|session| now < session.ends).cloned()
    }

    /// Opens a session, or says that there are too many: that everybody in them is logged in.
    fn open(&self, source: Source, now: Instant) -> Option<(String, [u8; NONCE_SIZE])> {
        let (mut id, mut nonce) = ([0; NONCE_SIZE], [0; NONCE_SIZE]);
        getrandom::fill(&mut id).ok()?;
        getrandom::fill(&mut nonce).ok()?;
        let mut open = self.lock();
        let mine = open.values().filter(|session| session.source == source);
        let crowded = mine.count() >= self.most.div_ceil(SHARE);
        if crowded || open.len() >= self.most {
            open.retain(|_, session| now < session.ends);
        }
        // A flood displaces itself: who comes after it finds room, and who is logged in stays.
        if crowded {
            displace(&mut open, source)?;
        } else if open.len() >= self.most {
            let heaviest = heaviest(&open)?;
            displace(&mut open, heaviest)?;
        }
        let id = hex::encode(id);
        let session = Session {
            nonce,
            who: None,
            name: String::new(),
            source,
            ends: now + LOGIN_TIME.min(self.time),
        };
        open.insert(id.clone(), session);
        Some((id, nonce))
    }

    /// Writes down who was proved with the nonce `asked`. That has done its work: there is another. A session that has
    /// ended meanwhile, or was logged in to by the same nonce, is none.
    fn log_in(
        &self,
        id: &str,
        asked: &[u8; NONCE_SIZE],
        who: Authenticated,
        name: &str,
        now: Instant,
    ) -> Option<Session> {
        let mut nonce = [0; NONCE_SIZE];
        getrandom::fill(&mut nonce).ok()?;
        let mut open = self.lock();
        let session = open.get_mut(id)?;
        if session.nonce != *asked || now >= session.ends {
            return None;
        }
        session.who = Some(who);
        session.name = name.to_owned();
        session.nonce = nonce;
        session.ends = now + self.time;
        Some(session.clone())
    }

    fn close(&self, id: &str) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The network with the most sessions that nobody has logged in to.
fn heaviest(open: &HashMap<String, Session>) -> Option<Source> {
    let mut counts: HashMap<Source, usize> = HashMap::new();
    for session in open.values().filter(|session| session.who.is_none()) {
        *counts.entry(session.source).or_default() += 1;
    }
    let heaviest = counts.into_iter().max_by_key(|(_, count)| *count);
    heaviest.map(|(source, _)| source)
}

/// Ends the oldest session of a network that nobody has logged in to, if there is one.
fn displace(open: &mut HashMap<String, Session>, source: Source) -> Option<()> {
    let idle = open
        .iter()
        .filter(|(_, session)| session.source == source && session.who.is_none());
    let oldest = idle.min_by_key(|(_, session)| session.ends)?.0.clone();
    open.remove(&oldest).map(drop)
}

/// `POST /api/sessions`: a session without an identity.
#[utoipa::path(
    post, path = "/api/sessions", tag = "sessions", operation_id = "open_session",
    responses(
        (status = 200, description = "The session and the nonce to sign: `{\"sessionId\",\"nonce\"}`",
            content_type = "application/json"),
        (status = 403, description = "Over plain HTTP", content_type = "application/json"),
        (status = 429, description = "Too many requests", content_type = "application/json"),
        (status = 503, description = "Too many sessions are open", content_type = "application/json"))
)]
pub(super) async fn open(
    State(app): State<Arc<App>>,
    Extension(from): Extension<From>,
    method: Method,
    headers: HeaderMap,
) -> Answer {
    match method {
        Method::POST => {}
        Method::OPTIONS => return options(OPEN_METHODS),
        _ => return not_allowed(OPEN_METHODS, &from, &headers),
    }
    let opened = || -> Result<Answer, Refusal> {
        if !from.secure {
            return Err(needed(&from));
        }
        let opened = app
            .sessions
            .open(source_of(from.address), from.came.instant);
        let (id, nonce) = opened.ok_or_else(|| Rejection::busy("too many sessions are open"))?;
        let body = json!({"sessionId": id, "nonce": STANDARD.encode(nonce)});
        Ok(json(StatusCode::OK, &body))
    };
    finish(opened(), &from, &headers)
}

/// `/api/sessions/this`: log in (POST, PUT), look (GET), end (DELETE).
pub(super) async fn this(
    State(app): State<Arc<App>>,
    Extension(from): Extension<From>,
    method: Method,
    headers: HeaderMap,
) -> Answer {
    let done = match method {
        Method::GET | Method::HEAD => look(&app, &from, &headers),
        Method::DELETE => end(&app, &from, &headers),
        Method::POST | Method::PUT => log_in(&app, &from, &headers).await,
        Method::OPTIONS => return options(THIS_METHODS),
        _ => return not_allowed(THIS_METHODS, &from, &headers),
    };
    finish(done, &from, &headers)
}

/// What a client says in `Authorization`, and the session that it names.
struct Said {
    parameters: HashMap<String, String>,
    session: Session,
}

impl Said {
    fn read(app: &App, from: &From, headers: &HeaderMap) -> Result<Self, Refusal> {
        let said = caller::Said::read(app, from, headers)?;
        if !from.secure {
            return Err(needed(from));
        }
        let text = "the session is named by Authorization: Handle sessionId=…";
        let rest = said
            .and_then(|said| said.of("handle"))
            .ok_or_else(|| Refusal::new(ResponseCode::AUTHENTICATION_NEEDED, text))?;
        let wrong = || Refusal::field("Authorization", "the parameters are not readable");
        let parameters = caller::parameters(rest).ok_or_else(wrong)?;
        let session = app
            .sessions
            .live(field(&parameters, "sessionId")?, from.came.instant)
            .ok_or_else(ended)?;
        Ok(Self {
            parameters,
            session,
        })
    }

    fn field(&self, name: &str) -> Result<&str, Refusal> {
        field(&self.parameters, name)
    }

    fn binary(&self, name: &str) -> Result<Vec<u8>, Refusal> {
        let wrong = |_| Refusal::field("Authorization", format!("{name} is not Base64"));
        STANDARD.decode(self.field(name)?).map_err(wrong)
    }
}

fn field<'a>(parameters: &'a HashMap<String, String>, name: &str) -> Result<&'a str, Refusal> {
    let missing = || Refusal::field("Authorization", format!("{name} is missing"));
    let found = parameters.get(&name.to_ascii_lowercase());
    found.map(String::as_str).ok_or_else(missing)
}

fn ended() -> Refusal {
    let text = "no such session, or it has ended";
    Refusal::new(ResponseCode::SESSION_TIMEOUT, text)
}

/// Who the session is.
#[utoipa::path(
    get, path = "/api/sessions/this", tag = "sessions", operation_id = "session",
    params(("Authorization" = String, Header, pattern = r#"^Handle sessionId="[0-9a-f]{32}"$"#,
        description = "`Handle sessionId=\"…\"`")),
    responses(
        (status = 200, description = "`{\"sessionId\",\"nonce\",\"authenticated\",\"id\"}`",
            content_type = "application/json"),
        (status = 400, description = "A parameter is missing", content_type = "application/json"),
        (status = 401, description = "No session, or it has ended", content_type = "application/json"),
        (status = 403, description = "Over plain HTTP", content_type = "application/json"),
        (status = 429, description = "Too many requests", content_type = "application/json"))
)]
pub(super) fn look(app: &App, from: &From, headers: &HeaderMap) -> Result<Answer, Refusal> {
    let said = Said::read(app, from, headers)?;
    Ok(shown(said.field("sessionId")?, &said.session))
}

/// Ends the session.
#[utoipa::path(
    delete, path = "/api/sessions/this", tag = "sessions", operation_id = "end_session",
    params(("Authorization" = String, Header, pattern = r#"^Handle sessionId="[0-9a-f]{32}"$"#,
        description = "`Handle sessionId=\"…\"`")),
    responses(
        (status = 200, description = "It has ended", content_type = "application/json"),
        (status = 400, description = "A parameter is missing", content_type = "application/json"),
        (status = 401, description = "No session, or it has ended", content_type = "application/json"),
        (status = 403, description = "Over plain HTTP", content_type = "application/json"),
        (status = 429, description = "Too many requests", content_type = "application/json"))
)]
pub(super) fn end(app: &App, from: &From, headers: &HeaderMap) -> Result<Answer, Refusal> {
    let said = Said::read(app, from, headers)?;
    let id = said.field("sessionId")?;
    app.sessions.close(id);
    Ok(json(StatusCode::OK, &json!({"sessionId": id})))
}

/// Gives the session an identity: PUT does the same, for the clients that write it so.
#[utoipa::path(
    method(post, put), path = "/api/sessions/this", tag = "sessions", operation_id = "log_in",
    params(("Authorization" = String, Header,
        pattern = r#"^Handle version="0", sessionId="[0-9a-f]{32}", id="[1-9][0-9]{0,8}:[0-9./A-Z]{1,60}", type="HS_(PUB|SEC)KEY", cnonce="[A-Za-z0-9+/]{16}", alg="(HMAC-)?SHA(1|256)", signature="([A-Za-z0-9+/]{4}){0,90}([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"$"#,
        description = "`Handle version=\"0\", sessionId=\"…\", id=\"300:0.NA/88.118\", type=\"HS_PUBKEY\", \
            cnonce=\"…\", alg=\"SHA256\", signature=\"…\"`: a signature over nonce and cnonce, all in Base64")),
    responses(
        (status = 200, description = "Who the session is: `{\"sessionId\",\"nonce\",\"authenticated\",\"id\"}`",
            content_type = "application/json"),
        (status = 400, description = "A parameter is missing", content_type = "application/json"),
        (status = 401, description = "No session, or it has ended", content_type = "application/json"),
        (status = 403, description = "The proof is wrong, or over plain HTTP", content_type = "application/json"),
        (status = 429, description = "Too many requests", content_type = "application/json"),
        (status = 503, description = "Too many wrong answers, and too many who wait with theirs; or not now",
            content_type = "application/json"))
)]
pub(super) async fn log_in(app: &App, from: &From, headers: &HeaderMap) -> Result<Answer, Refusal> {
    let said = Said::read(app, from, headers)?;
    let nonce = said.binary("cnonce")?;
    if nonce.len() > CLIENT_NONCE_MAX {
        return Err(Refusal::field("Authorization", "cnonce is too long"));
    }
    let name = said.field("id")?;
    let text = "id must be index:handle";
    let identity =
        caller::identity(app, name).ok_or_else(|| Refusal::field("Authorization", text))?;
    let (kind, alg) = (said.field("type")?, said.field("alg")?);
    let proof = proof(
        kind,
        alg,
        said.binary("signature")?.into(),
        &said.parameters,
    )
    .ok_or_else(|| Refusal::field("Authorization", "type or alg is not known"))?;
    let mut answer = Vec::new();
    proof.encode(&mut answer);
    let user = name.split_once(':').map_or("", |(_, handle)| handle);
    let claim = Claim {
        identity,
        user: Bytes::copy_from_slice(user.as_bytes()),
        kind: Bytes::from(kind.to_owned()),
        answer: answer.into(),
        version: Version::V2_11,
    };
    let asked = [&said.session.nonce[..], &nonce].concat();
    let who = caller::prove(app, from, claim, asked).await?;
    let id = said.field("sessionId")?;
    // It may have waited: the session begins, or has ended, now.
    let now = Now::read().instant;
    let logged_in = app.sessions.log_in(id, &said.session.nonce, who, name, now);
    Ok(shown(id, &logged_in.ok_or_else(ended)?))
}

/// The proof that the parameters spell.
fn proof(
    kind: &str,
    alg: &str,
    signature: Bytes,
    parameters: &HashMap<String, String>,
) -> Option<Proof> {
    if kind == "HS_PUBKEY" {
        let hash = Bytes::from(alg.to_owned());
        return Some(Proof::Signature { hash, signature });
    }
    if kind != "HS_SECKEY" {
        return None;
    }
    let algorithm = match alg.to_ascii_uppercase().as_str() {
        "SHA1" | "SHA-1" => MacAlgorithm::SHA1,
        "SHA256" | "SHA-256" => MacAlgorithm::SHA256,
        "HMAC-SHA1" | "HMACSHA1" => MacAlgorithm::HMAC_SHA1,
        "HMAC-SHA256" | "HMACSHA256" => MacAlgorithm::HMAC_SHA256,
        "PBKDF2WITHHMACSHA1" | "PBKDF2-HMAC-SHA1" => {
            return Some(Proof::Derived {
                salt: STANDARD.decode(parameters.get("salt")?).ok()?.into(),
                iterations: parameters.get("iterations")?.parse().ok()?,
                key_bits: parameters.get("length")?.parse().ok()?,
                mac: signature,
            });
        }
        _ => return None,
    };
    Some(Proof::Plain {
        algorithm,
        digest: signature,
    })
}

fn shown(id: &str, session: &Session) -> Answer {
    let mut body = json!({
        "sessionId": id,
        "nonce": STANDARD.encode(session.nonce),
        "authenticated": session.who.is_some(),
    });
    if session.who.is_some() {
        body["id"] = session.name.as_str().into();
    }
    json(StatusCode::OK, &body)
}

fn finish(done: Result<Answer, Refusal>, from: &From, headers: &HeaderMap) -> Answer {
    let outcome = match &done {
        Ok(_) => Outcome::Success,
        Err(refusal) if refusal.code == ResponseCode::AUTHENTICATION_NEEDED => Outcome::Challenge,
        Err(_) => Outcome::Denied,
    };
    let language = Language::of(headers);
    let mut answer =
        done.unwrap_or_else(|refusal| refusal.of_handle(None, from.request(), language));
    let op = Op::Session;
    answer.extensions_mut().insert(Counted { op, outcome });
    answer
}
