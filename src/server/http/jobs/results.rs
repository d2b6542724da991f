//! What became of the rows, as a file: `GET /api/v1/jobs/{id}/results`, whole or from an octet on.
//!
//! Only what is about rows that are durable is sent: the rest of the file may be written again.

use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};

use super::record::Job;
use super::shelf::Entry;
use crate::registry::Rejection;
use crate::server::accept::Work;
use crate::server::http::App;
use crate::server::http::answer::{Answer, Refusal, with_type};
use crate::server::http::outgoing;
use crate::server::http::watch::Watched;
use crate::token::Right;

/// The part of `length` octets that `Range` asks for; none: all of it.
///
/// # Errors
/// It lies behind the end.
fn part(headers: &HeaderMap, length: u64) -> Result<Option<Range<u64>>, Refusal> {
    let Some(text) = headers
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok())
    else {
        return Ok(None);
    };
    // What is not understood is ignored (RFC 9110, 14.2), several ranges too.
    let Some((first, last)) = text
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
    else {
        return Ok(None);
    };
    let number = |text: &str| text.trim().parse::<u64>();
    let range = match (number(first), number(last)) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(length),
        (Ok(first), Err(_)) if last.trim().is_empty() => first..length,
        (Err(_), Ok(count)) if first.trim().is_empty() => length.saturating_sub(count)..length,
        _ => return Ok(None),
    };
    match range.start < range.end {
        true => Ok(Some(range)),
        false => Err(Refusal::named(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "range_not_satisfiable",
            format!("there are {length} octets of results now"),
        )),
    }
}

/// The answer with the results, or a part of them.
pub(super) async fn answer(
    app: Arc<App>,
    entry: &Entry,
    headers: &HeaderMap,
    work: Work,
) -> Result<Answer, Refusal> {
    let job: Job = entry.job();
    let part = part(headers, job.results)?;
    let (status, range) = match &part {
        Some(range) => (StatusCode::PARTIAL_CONTENT, range.clone()),
        None => (StatusCode::OK, 0..job.results),
    };
    let body = match range.is_empty() {
        true => Body::empty(),
        false => {
            let body = outgoing::open(entry.file("results"), range.clone(), ())
                .await
                .map_err(|()| Refusal::from(Rejection::busy("the results cannot be read now")))?;
            // Without the right to make it there would be no such job.
            let right = job.rights().next().unwrap_or(Right::Write);
            Watched::begin(app, job.token.clone(), right, work).over(body)
        }
    };
    let mut answer = with_type(status, job.media_type(), body);
    let headers = answer.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if part.is_some() {
        let text = format!("bytes {}-{}/{}", range.start, range.end - 1, job.results);
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(header::CONTENT_RANGE, value);
        }
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the ranges that programs ask for, and nothing behind the end.
    #[test]
    fn parts() {
        let asked = |text: &'static str| {
            let headers = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static(text))]);
            part(&headers, 100).map_err(|refusal| refusal.status().as_u16())
        };
        for (text, range) in [
            ("bytes=0-", Some(0..100)),
            ("bytes=10-19", Some(10..20)),
            ("bytes=90-1000", Some(90..100)),
            ("bytes=-5", Some(95..100)),
            ("bytes=-500", Some(0..100)),
            ("bytes=9-3", None),
            ("bytes=1-2,4-5", None),
            ("lines=1-2", None),
            ("bytes=x-", None),
        ] {
            assert_eq!(asked(text), Ok(range), "{text}");
        }
        for text in ["bytes=100-", "bytes=100-200", "bytes=-0"] {
            assert_eq!(asked(text), Err(416), "{text}");
        }
    }
}
