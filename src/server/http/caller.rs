//! Who asks: every kind of credential becomes an identity `index:handle`, proved by the registry.
//!
//! | `Authorization` | proof |
//! |---|---|
//! | `Basic` | user `index:handle`, percent-encoded; password: the secret key |
//! | `Handle clientCert="true"` | the key of the TLS client certificate |
//! | `Handle sessionId="…"` | a session, see [`super::sessions`] |
//! | `Bearer jx_…` | an API token |

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiexi_proto::Version;
use jiexi_proto::code::ResponseCode;
use jiexi_proto::limits::NONCE_SIZE;
use jiexi_proto::message::challenge::{MacAlgorithm, Proof};
use percent_encoding::percent_decode_str;
use tokio::sync::oneshot;

use super::answer::Refusal;
use super::outer::From;
use super::{App, sender_of};
use crate::registry::audit::Event;
use crate::registry::auth::Claim;
use crate::registry::{Authenticated, Identity, Rejection};
use crate::token::book::{Book, Refused};
use crate::token::{Grant, Right};

/// Longest `Authorization` that is looked at.
const LENGTH_MAX: usize = 8 * 1024;
/// What the holder of a password is taken to have answered, behind a nonce: it says what it is.
const ASKED: &[u8] = b"jiexi basic authentication";

/// Who asks, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller {
    /// The identity that was proved.
    pub(super) who: Option<Authenticated>,
    /// The token that narrows what it may do.
    pub(super) grant: Option<Grant>,
}

impl Caller {
    /// Whom answers are kept for: nobody else's token or identity.
    pub(super) fn principal(&self) -> String {
        match (&self.grant, &self.who) {
            (Some(grant), _) => format!("token {}", grant.id),
            (None, Some(who)) => format!("identity {}", who.identity()),
            (None, None) => String::new(),
        }
    }

    /// The identity, for something that takes one.
    pub(super) fn proved(&self, from: &From) -> Result<&Authenticated, Refusal> {
        self.who.as_ref().ok_or_else(|| needed(from))
    }

    /// Whether its token, if it came by one, allows this.
    pub(super) fn allows(&self, right: Right, key: &[u8]) -> Result<(), Refusal> {
        let Some(grant) = &self.grant else {
            return Ok(());
        };
        has(grant, right)?;
        match grant.covers(key) {
            true => Ok(()),
            false => Err(not_allowed("the token is for other prefixes".to_owned())),
        }
    }
}

/// Whether a token has a right.
pub(super) fn has(grant: &Grant, right: Right) -> Result<(), Refusal> {
    match grant.may(right) {
        true => Ok(()),
        false => {
            let text = format!("the token has not the right {}", right.name());
            Err(not_allowed(text))
        }
    }
}

/// Said to a token that does not allow something.
fn not_allowed(detail: String) -> Refusal {
    Refusal {
        code: ResponseCode::INSUFFICIENT_PERMISSIONS,
        ..Refusal::named(StatusCode::FORBIDDEN, "token_not_allowed", detail)
    }
}

/// Said when a proof is needed: over plain HTTP there is no way to give one.
pub(super) fn needed(from: &From) -> Refusal {
    match from.secure {
        true => Refusal::new(ResponseCode::AUTHENTICATION_NEEDED, ""),
        false => plain(),
    }
}

fn plain() -> Refusal {
    let text = "credentials are taken over HTTPS only";
    Refusal {
        code: ResponseCode::AUTHENTICATION_NEEDED,
        ..Refusal::named(StatusCode::FORBIDDEN, "plain_http", text)
    }
}

/// Said to a wrong credential.
fn failed(detail: &'static str) -> Refusal {
    Refusal::new(ResponseCode::AUTHENTICATION_FAILED, detail)
}

/// What a client says in `Authorization`.
pub(super) struct Said<'h> {
    /// In lower case.
    scheme: String,
    rest: &'h str,
}

impl<'h> Said<'h> {
    /// Reads the header, if it is there. Over plain HTTP it is not looked at.
    pub(super) fn read(
        app: &App,
        from: &From,
        headers: &'h HeaderMap,
    ) -> Result<Option<Self>, Refusal> {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Ok(None);
        };
        if !from.secure {
            app.figures.plain_credentials.fetch_add(1, Relaxed);
            return Err(plain());
        }
        let text = value.to_str().ok().filter(|text| text.len() <= LENGTH_MAX);
        let text = text
            .ok_or_else(|| failed("the Authorization header is not readable"))?
            .trim();
        let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
        Ok(Some(Self {
            scheme: scheme.to_ascii_lowercase(),
            rest: rest.trim(),
        }))
    }

    /// What stands behind the scheme, if it is this one.
    pub(super) fn of(&self, scheme: &str) -> Option<&'h str> {
        (self.scheme == scheme).then_some(self.rest)
    }
}

/// Finds out who asks. A secret or a signature may wait for its turn: see [`prove`].
pub(super) async fn identify(
    app: &App,
    from: &From,
    headers: &HeaderMap,
) -> Result<Caller, Refusal> {
    let Some(Said { scheme, rest }) = Said::read(app, from, headers)? else {
        return Ok(Caller::default());
    };
    match scheme.as_str() {
        "basic" => basic(app, from, rest).await,
        "bearer" => bearer(app, from, rest).await,
        "handle" => handle(app, from, rest),
        _ => Err(failed("the scheme must be Basic, Bearer or Handle")),
    }
}

async fn basic(app: &App, from: &From, text: &str) -> Result<Caller, Refusal> {
    let (claim, asked) = password(app, text)?;
    Ok(Caller {
        who: Some(prove(app, from, claim, asked).await?),
        grant: None,
    })
}

/// What a user and a password claim, as an answer to a challenge; and that challenge, which nobody has made before.
fn password(app: &App, text: &str) -> Result<(Claim, Vec<u8>), Refusal> {
    let decoded = STANDARD.decode(text).ok().map(zeroize::Zeroizing::new);
    let decoded = decoded.ok_or_else(|| failed("not Base64"))?;
    let colon = decoded.iter().position(|octet| *octet == b':');
    let colon = colon.ok_or_else(|| failed("no colon between user and password"))?;
    let (user, secret) = (&decoded[..colon], &decoded[colon + 1..]);
    let user = std::str::from_utf8(user).map_err(|_| failed("the user is not UTF-8"))?;
    let user = percent_decode_str(user).decode_utf8_lossy();
    let text = "the user must be index%3Ahandle, percent-encoded, such as 300%3A0.NA%2F88.118";
    let identity = identity(app, &user).ok_or_else(|| failed(text))?;
    let mut nonce = [0; NONCE_SIZE];
    getrandom::fill(&mut nonce).map_err(|_| Rejection::busy("no randomness"))?;
    let asked = [&nonce[..], ASKED].concat();
    let mut answer = Vec::new();
    let digest = crate::registry::auth::hmac_sha256(secret, &asked);
    Proof::Plain {
        algorithm: MacAlgorithm::HMAC_SHA256,
        digest: digest.into(),
    }
    .encode(&mut answer);
    let handle = user.split_once(':').map_or("", |(_, handle)| handle);
    let claim = Claim {
        identity,
        user: Bytes::copy_from_slice(handle.as_bytes()),
        kind: Bytes::from_static(Proof::SECRET_KEY),
        answer: answer.into(),
        version: Version::V2_11,
    };
    Ok((claim, asked))
}

/// Has a claim checked, and writes down a wrong one. Where too many were wrong before, it waits for its turn in the line
/// that proofs over the wire wait in; no thread waits with it, and when the client hangs up, it leaves.
pub(super) async fn prove(
    app: &App,
    from: &From,
    claim: Claim,
    asked: Vec<u8>,
) -> Result<Authenticated, Refusal> {
    let busy = || Rejection::busy("too many requests wait");
    let desk = app.shared.desk.as_ref().ok_or_else(busy)?;
    let claimed = claim.identity.clone();
    let (answer, proved) = oneshot::channel();
    desk.prove(claim, asked, sender_of(from.address), answer)?;
    let proved = proved.await.map_err(|_| busy())?;
    proved.map(|(who, _)| who).map_err(|rejection| {
        if rejection.code == ResponseCode::AUTHENTICATION_FAILED {
            note(app, from, &claimed, rejection.code);
        }
        rejection.into()
    })
}

/// Adds a wrong proof to the audit trail.
fn note(app: &App, from: &From, claimed: &Identity, code: ResponseCode) {
    app.registry.note(&Event {
        time: from.came.unix_seconds.into(),
        identity: Some(claimed),
        source: from.address.to_string(),
        operation: "prove",
        handle: b"",
        result: "refused",
        code: code.0,
        change: None,
    });
}

/// The token by which a request came, not counted against its quota; for what needs one.
pub(super) fn token(app: &App, from: &From, headers: &HeaderMap) -> Result<Grant, Refusal> {
    let said = Said::read(app, from, headers)?.ok_or_else(|| needed(from))?;
    let text = "this needs an API token: Authorization: Bearer jx_…";
    let token = said.of("bearer").ok_or_else(|| failed(text))?;
    let grant = checked(app, from, token)?;
    tell(app, from, &grant);
    Ok(grant)
}

/// What a token allows.
fn checked(app: &App, from: &From, token: &str) -> Result<Grant, Refusal> {
    let checked = app.tokens.check(token, from.came.unix_seconds);
    checked.map_err(|refused| token_refused(app, refused))
}

/// Has the answer say what is left of a token's quota.
fn tell(app: &App, from: &From, grant: &Grant) {
    if grant.quota().is_none() {
        return;
    }
    // Whoever cannot be told now is answered all the same.
    if let Ok(standing) = app.tokens.standing(&grant.id, from.came.unix_seconds) {
        from.quota.set(standing);
    }
}

async fn bearer(app: &App, from: &From, token: &str) -> Result<Caller, Refusal> {
    let grant = checked(app, from, token)?;
    let counted = count(&app.tokens, &grant, from.came.unix_seconds).await;
    tell(app, from, &grant);
    counted.map_err(|refused| token_refused(app, refused))?;
    Ok(Caller {
        who: Some(app.registry.vouch_token(&grant)),
        grant: Some(grant),
    })
}

/// Counts one identifier of a token's quota; what has to wait for the disk waits elsewhere.
async fn count(tokens: &Arc<Book>, grant: &Grant, now: u32) -> Result<(), Refused> {
    if tokens.count_at_once(grant, now)? {
        return Ok(());
    }
    let (tokens, id) = (Arc::clone(tokens), grant.id.clone());
    let counted = tokio::task::spawn_blocking(move || tokens.count(&id, now)).await;
    counted.unwrap_or(Err(Refused::Unavailable))
}

/// Said to a token that is not accepted.
pub(super) fn token_refused(app: &App, refused: Refused) -> Refusal {
    let named = |status, name, detail: &'static str| Refusal {
        code: ResponseCode::AUTHENTICATION_FAILED,
        ..Refusal::named(status, name, detail)
    };
    match refused {
        Refused::Quota { wait } => {
            let text = "the identifiers that the token has for today are used up";
            named(StatusCode::TOO_MANY_REQUESTS, "quota_used_up", text).after(wait)
        }
        Refused::Unavailable => Rejection::busy("the tokens cannot be read now").into(),
        Refused::Unknown | Refused::Ended => {
            app.registry.refuse_token();
            let text = "no such token, or it has ended";
            named(StatusCode::UNAUTHORIZED, "token_not_valid", text)
        }
    }
}

fn handle(app: &App, from: &From, text: &str) -> Result<Caller, Refusal> {
    let parameters = parameters(text).ok_or_else(|| failed("the parameters are not readable"))?;
    let who = if parameters
        .get("clientcert")
        .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    {
        certificate(app, from)?
    } else if let Some(session) = parameters.get("sessionid") {
        let known = app.sessions.who(session, from.came.instant);
        let known = known.ok_or_else(|| {
            Refusal::new(
                ResponseCode::SESSION_TIMEOUT,
                "no such session, or it has ended",
            )
        })?;
        known.ok_or_else(|| needed(from))?
    } else {
        return Err(failed("either sessionId or clientCert must be there"));
    };
    Ok(Caller {
        who: Some(who),
        grant: None,
    })
}

/// The key was proved in the handshake, so there is nothing to guess, and nobody waits.
fn certificate(app: &App, from: &From) -> Result<Authenticated, Refusal> {
    let client = from.client.as_ref().ok_or_else(|| {
        failed("the client showed no certificate; [http] client_certificates must be on")
    })?;
    let text = "the certificate's subject must have index:handle as UID or CN";
    let identity = identity(app, &client.name).ok_or_else(|| failed(text))?;
    let vouched = app
        .registry
        .vouch_certificate(identity.clone(), &client.key);
    vouched.map_err(|rejection| {
        note(app, from, &identity, rejection.code);
        rejection.into()
    })
}

/// Reads `index:handle`.
pub(super) fn identity(app: &App, text: &str) -> Option<Identity> {
    let (index, name) = text.split_once(':')?;
    let handle = app.registry.records.key(name.as_bytes());
    (!name.is_empty() && handle.len() <= jiexi_proto::limits::HANDLE_MAX).then_some(Identity {
        handle,
        index: index.parse().ok()?,
    })
}

/// Reads `name="value", name=value`; names in lower case.
pub(super) fn parameters(text: &str) -> Option<HashMap<String, String>> {
    const COUNT_MAX: usize = 32;
    let mut found = HashMap::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() && found.len() < COUNT_MAX {
        let (name, after) = rest.split_once('=')?;
        let (value, after) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => quoted_value(quoted)?,
            None => {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        found.insert(name.trim().to_ascii_lowercase(), value);
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(next) => next.trim_start(),
            None if after.is_empty() => after,
            None => return None,
        };
    }
    Some(found)
}

/// The value up to the closing quote, and what follows it.
fn quoted_value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((place, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[place + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the forms that clients write are read, and hostile ones end.
    #[test]
    fn handle_parameters() {
        let text =
            r#"version="0", sessionId="a\"b", id="300:0.NA/88.118,x", alg=SHA256 , sig="x=""#;
        let found = parameters(text).unwrap();
        assert_eq!(found["version"], "0");
        assert_eq!(found["sessionid"], "a\"b");
        assert_eq!(found["id"], "300:0.NA/88.118,x");
        assert_eq!(found["alg"], "SHA256");
        assert_eq!(found["sig"], "x=");
        for bad in ["a", "a=\"", "a=\"b\\", "a=\"b\"c", ",,,"] {
            assert!(parameters(bad).is_none(), "{bad}");
        }
        assert!(parameters("").unwrap().is_empty());
    }
}
