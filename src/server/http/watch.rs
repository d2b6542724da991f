//! What a token has begun ends with it, within the five seconds that are promised, also where the client does not listen.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use super::App;
use crate::clock;
use crate::server::accept::Work;
use crate::token::Right;

/// How often it is looked whether a token is still good; and how long the end of an answer may take to be heard before its
/// connection is cut. With the time that a batch has to say why it ends, together less than five seconds.
const CHECK: Duration = Duration::from_secs(1);
pub(super) const CUT: Duration = Duration::from_secs(1);

/// Waits until a token is good no longer for something.
pub(super) async fn token_ends(app: &App, token: &str, right: Right) {
    loop {
        sleep(CHECK).await;
        let now = clock::unix_seconds();
        if !app.tokens.is_still_valid(token, right, now) {
            return;
        }
    }
}

/// An answer that is on its way for as long as its token is good.
pub(super) struct Watched {
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _ended: DropGuard,
    _work: Work,
}

impl Watched {
    /// Begins to watch; dropping it ends that.
    pub(super) fn begin(app: Arc<App>, token: String, right: Right, work: Work) -> Self {
        let (ended, cut) = (CancellationToken::new(), CancellationToken::new());
        let (gone, told) = (ended.clone(), cut.clone());
        let connection = Arc::clone(work.ticket());
        let watch = async move {
            token_ends(&app, &token, right).await;
            told.cancel();
            // What a client does not read says nothing to it.
            sleep(CUT).await;
            connection.cut();
        };
        tokio::spawn(async move {
            tokio::select! {
                () = watch => {}
                () = gone.cancelled() => {}
            }
        });
        Self {
            cut: Box::pin(cut.cancelled_owned()),
            _ended: ended.drop_guard(),
            _work: work,
        }
    }

    /// A body that ends, unfinished, when the token has.
    pub(super) fn over(self, body: Body) -> Body {
        Body::new(WatchedBody {
            body,
            watched: self,
        })
    }
}

/// See [`Watched::over`].
struct WatchedBody {
    body: Body,
    watched: Watched,
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.watched.cut.as_mut().poll(cx).is_ready() {
            let aborted = io::Error::from(io::ErrorKind::ConnectionAborted);
            return Poll::Ready(Some(Err(axum::Error::new(aborted))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
