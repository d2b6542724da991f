//! An answer on its way to a follower: in pieces, so that it ends with its token however slowly it is taken.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll as Polled};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::polls::Poll;
use super::{App, Right};
use crate::clock;
use crate::server::accept::Ticket;

/// Octets that are handed to the connection at once.
const PIECE: usize = 32 << 10;
/// How often it is looked whether the token is still good.
const CHECK: Duration = Duration::from_secs(1);

/// What is left of an answer. When it is dropped, the client has everything or is gone.
struct Leaving {
    left: Bytes,
    _poll: Poll,
    _gone: DropGuard,
}

/// An answer, which counts as a poll of its token until it is taken.
pub(super) fn of(
    text: Vec<u8>,
    app: &Arc<App>,
    ticket: &Arc<Ticket>,
    token: &str,
    poll: Poll,
) -> Body {
    let gone = CancellationToken::new();
    if text.len() > PIECE {
        // One that is shorter is with the connection as soon as it is asked for.
        let (app, ticket) = (Arc::clone(app), Arc::clone(ticket));
        let (token, gone) = (token.to_owned(), gone.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = until_ended(&app, &token) => ticket.cut(),
                () = gone.cancelled() => {}
            }
        });
    }
    Body::new(Leaving {
        left: text.into(),
        _poll: poll,
        _gone: gone.drop_guard(),
    })
}

/// Returns when the token is no longer good.
async fn until_ended(app: &App, token: &str) {
    let is_good = || {
        let now = clock::unix_seconds();
        app.tokens.is_still_valid(token, Right::Changes, now)
    };
    while is_good() {
        sleep(CHECK).await;
    }
}

impl HttpBody for Leaving {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Polled<Option<Result<Frame<Bytes>, Self::Error>>> {
        let size = PIECE.min(self.left.len());
        let piece = self.left.split_to(size);
        Polled::Ready((size > 0).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}
