//! A file, or a part of it, as the body of an answer: read piece by piece as the client takes it.

use std::io::SeekFrom;
use std::ops::Range;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Octets that are read at once, and how many such pieces wait for the client.
const PIECE: usize = 64 << 10;
const WAITING: usize = 2;

/// The octets of a file in a range. `held` is let go when they are sent, or the client has gone.
///
/// # Errors
/// The file cannot be read; the log says why.
pub(super) async fn open(
    path: PathBuf,
    range: Range<u64>,
    held: impl Send + 'static,
) -> Result<Body, ()> {
    let unreadable = |error: std::io::Error| {
        tracing::error!(event = "download.failed", %error, path = %path.display(), "a file that was asked for cannot be read");
    };
    let mut file = File::open(&path).await.map_err(unreadable)?;
    file.seek(SeekFrom::Start(range.start))
        .await
        .map_err(unreadable)?;
    let left = range.end - range.start;
    let (send, pieces) = channel(WAITING);
    tokio::spawn(async move {
        read(file, left, send).await;
        drop(held);
    });
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
