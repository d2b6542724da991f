//! Changes of another node, a page at a time: `/api/v1/changes`.

use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::{Method, Response, StatusCode};
use serde_json::Value as Json;
use url::form_urlencoded;

use super::AskError;
use super::http::{failed, refused};
use super::jobs::Desk;

/// Where changes are.
const PATH: &str = "/api/v1/changes";
/// Octets of an answer that are read: a page ends behind 1 MiB, its last record may be as long as JSON makes one.
const ANSWER_MAX: usize = 8 << 20;

/// Some changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The changes, a JSON object a line.
    pub lines: Bytes,
    /// Where it goes on.
    pub cursor: String,
    /// Whether that need not wait.
    pub more: bool,
}

/// Asks for what follows a cursor; the node waits so many seconds when there is nothing. Without a cursor the answer says
/// only where changes begin that come from now on.
///
/// # Errors
/// See [`AskError`]; [`AskError::Missing`] when what followed is no longer known.
pub async fn poll(desk: &Desk, after: Option<&str>, wait: u64) -> Result<Page, AskError> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("wait", &wait.to_string());
    if let Some(after) = after {
        query.append_pair("after", after);
    }
    let request = desk.request(Method::GET, &format!("{PATH}?{}", query.finish()));
    let moved = AtomicU64::new(0);
    let asked = desk.exchange(request, Empty::<Bytes>::new(), &moved, page);
    asked.await
}

async fn page(response: Response<Incoming>) -> Result<Page, AskError> {
    match response.status() {
        StatusCode::OK => {}
        StatusCode::GONE => return Err(gone(response).await),
        _ => return Err(refused(response).await),
    }
    let body = Limited::new(response.into_body(), ANSWER_MAX);
    let octets = body.collect().await.map_err(failed)?.to_bytes();
    split(&octets).ok_or(AskError::Cut)
}

/// Takes the last line, which says how to go on, off the others; none when it is not there.
fn split(octets: &Bytes) -> Option<Page> {
    let text = octets.strip_suffix(b"\n")?;
    let begin = text.iter().rposition(|octet| *octet == b'\n');
    let begin = begin.map_or(0, |end| end + 1);
    let last: Json = serde_json::from_slice(text.get(begin..)?).ok()?;
    (last["complete"] == true).then_some(())?;
    Some(Page {
        lines: octets.slice(..begin),
        cursor: last["cursor"].as_str()?.to_owned(),
        more: last["more"].as_bool()?,
    })
}

/// What followed is no longer known; the way that the node shows.
async fn gone(response: Response<Incoming>) -> AskError {
    let body = Limited::new(response.into_body(), ANSWER_MAX)
        .collect()
        .await;
    let json: Option<Json> = body
        .ok()
        .and_then(|body| serde_json::from_slice(&body.to_bytes()).ok());
    let snapshot = json.as_ref().map(|json| &json["snapshot"]);
    let text = |name: &str| {
        let value = snapshot.and_then(|snapshot| snapshot[name].as_str());
        value.unwrap_or_default().to_owned()
    };
    AskError::Missing(format!(
        "what followed the cursor is no longer known: take a new copy (GET {} for each prefix, then POST {}) and follow \
         with --after {}",
        text("handles"),
        text("records"),
        text("cursor")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: an answer that was cut anywhere is none. Method: every length of one.
    #[test]
    fn cut_anywhere() {
        let lines = "{\"sequence\":1,\"cursor\":\"a\"}\n{\"sequence\":2,\"cursor\":\"b\"}\n";
        let last = "{\"changes\":2,\"complete\":true,\"cursor\":\"c\",\"more\":false}\n";
        let whole = Bytes::from([lines, last].concat());
        for length in 0..whole.len() {
            assert_eq!(split(&whole.slice(..length)), None, "{length}");
        }
        let page = split(&whole).unwrap();
        assert_eq!(
            (&page.lines[..], &*page.cursor, page.more),
            (lines.as_bytes(), "c", false)
        );
        let page = split(&Bytes::from(last)).unwrap();
        assert!(page.lines.is_empty());
    }
}
