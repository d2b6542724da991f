//! What the quota of a token has left, in the headers of every answer to that token.

use std::sync::{Arc, OnceLock};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::token::DAY;
use crate::token::book::Standing;

/// The quota of the token by which a request came, once that is known; nothing for a request that shows no credentials.
#[derive(Clone, Debug, Default)]
pub(super) struct Told(Option<Arc<OnceLock<Standing>>>);

impl Told {
    /// For a request that may come by a token.
    pub(super) fn of(shows_credentials: bool) -> Self {
        Self(shows_credentials.then(Arc::default))
    }

    /// How the token stands. What is said first counts.
    pub(super) fn set(&self, standing: Standing) {
        if let Some(known) = &self.0 {
            let _ = known.set(standing);
        }
    }

    /// The headers of draft-ietf-httpapi-ratelimit-headers; `now` in Unix seconds.
    pub(super) fn put(&self, headers: &mut HeaderMap, now: u32) {
        let known = self.0.as_ref().and_then(|known| known.get());
        let Some((standing, quota)) = known.and_then(|standing| Some((standing, standing.quota?)))
        else {
            return;
        };
        let left = quota.saturating_sub(standing.used);
        let wait = standing.renewal.saturating_sub(now);
        for (name, text) in [
            ("ratelimit-policy", format!("\"day\";q={quota};w={DAY}")),
            ("ratelimit", format!("\"day\";r={left};t={wait}")),
        ] {
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
}
