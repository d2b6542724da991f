//! Who asks, when neither a challenge nor a session says it: an API token, or the key that a TLS
//! client has proved to hold. Both give the same [`Authenticated`] as every other proof.

use jiexi_proto::message::challenge::Proof;
use rsa::pkcs8::DecodePublicKey as _;

use super::Rejection;
use super::auth::{self, ANY_KEY_MAX, Authenticated, Identity, Method};
use super::decision::Registry;
use super::figures::{self, Proved};
use super::keys::VerifyingKey;
use crate::token::Grant;
use jiexi_proto::code::ResponseCode;

impl Registry {
    /// The identity that a valid token acts for.
    #[must_use]
    pub fn vouch_token(&self, grant: &Grant) -> Authenticated {
        let method = Method::Token;
        self.figures
            .proved(figures::method_of(method), Proved::Accepted);
        auth::vouched(grant.identity.clone(), method)
    }

    /// Counts a token that is not valid.
    pub fn refuse_token(&self) {
        self.figures
            .proved(figures::method_of(Method::Token), Proved::Refused);
    }

    /// The identity that a client's certificate names, when its `HS_PUBKEY` is the certificate's
    /// key, given as `SubjectPublicKeyInfo` in DER.
    ///
    /// # Errors
    /// 403 when it is another key, 3 when the store cannot say.
    pub fn vouch_certificate(
        &self,
        identity: Identity,
        key: &[u8],
    ) -> Result<Authenticated, Rejection> {
        let place = figures::method_of(Method::Certificate);
        let found = self.records.record(&identity.handle)?;
        let values = found.map_or_else(Vec::new, |record| self.records.values(&record));
        let named = values.iter().filter(|value| {
            value.kind == Proof::PUBLIC_KEY
                && (identity.index == 0 || identity.index == value.index)
        });
        let theirs = rsa::PublicKey::from_public_key_der(key).ok();
        let same = named.take(ANY_KEY_MAX).any(|value| {
            matches!((VerifyingKey::parse(&value.data), &theirs),
                (Some(VerifyingKey::Rsa(ours)), Some(theirs)) if ours == *theirs)
        });
        if !same {
            self.figures.proved(place, Proved::Refused);
            return Err(Rejection::bare(ResponseCode::AUTHENTICATION_FAILED));
        }
        self.figures.proved(place, Proved::Accepted);
        Ok(auth::vouched(identity, Method::Certificate))
    }
}
