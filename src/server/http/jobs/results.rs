//! What became of the rows, as a file: `GET /api/v1/jobs/{id}/results`, whole or from an octet on.
//!
//! Only what is about rows that are durable is sent: the rest of the file may be written again.

use std::io::SeekFrom;
use std::ops::Range;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::record::Job;
use super::shelf::Entry;
use crate::registry::Rejection;
use crate::server::http::answer::{Answer, Refusal, with_type};

/// Octets that are read at once, and how many such pieces wait for the client.
const PIECE: usize = 64 << 10;
const WAITING: usize = 2;

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
pub(super) async fn answer(entry: &Entry, headers: &HeaderMap) -> Result<Answer, Refusal> {
    let job: Job = entry.job();
    let part = part(headers, job.results)?;
    let (status, range) = match &part {
        Some(range) => (StatusCode::PARTIAL_CONTENT, range.clone()),
        None => (StatusCode::OK, 0..job.results),
    };
    let body = match range.is_empty() {
        true => Body::empty(),
        false => open(entry.file("results"), range.clone()).await?,
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

async fn open(path: PathBuf, range: Range<u64>) -> Result<Body, Refusal> {
    let unreadable = |error: std::io::Error| {
        tracing::error!(%error, path = %path.display(), "the results of a job cannot be read");
        Refusal::from(Rejection::busy("the results cannot be read now"))
    };
    let mut file = File::open(&path).await.map_err(unreadable)?;
    file.seek(SeekFrom::Start(range.start))
        .await
        .map_err(unreadable)?;
    let left = range.end - range.start;
    let (send, pieces) = channel(WAITING);
    tokio::spawn(read(file, left, send));
    Ok(Body::new(Outgoing { pieces, left }))
}

/// Reads until all is read, or nobody takes more.
async fn read(mut file: File, mut left: u64, send: Sender<std::io::Result<Bytes>>) {
    while left > 0 {
        let mut piece = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
        let read = file.read_exact(&mut piece).await;
        left -= piece.len() as u64;
        let failed = read.is_err();
        let piece = read.map(|_| Bytes::from(piece));
        if send.send(piece).await.is_err() || failed {
            return;
        }
    }
}

/// The octets as a body, whose length is known.
struct Outgoing {
    pieces: Receiver<std::io::Result<Bytes>>,
    left: u64,
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.pieces.poll_recv(cx).map(|piece| {
            let piece = piece?;
            if let Ok(octets) = &piece {
                self.left = self.left.saturating_sub(octets.len() as u64);
            }
            Some(piece.map(Frame::data))
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
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
