//! The composition root: opens the store, binds, starts, waits for the signal, drains.

use std::{fmt, io, sync::Arc};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    config::Config,
    control::server::{self as control, ControlSocket},
    ops::{self, Readiness},
    store::{State, Store, StoreError},
};

/// Why a node cannot run.
#[derive(Debug)]
pub enum NodeError {
    /// The store cannot be opened or closed.
    Store(StoreError),
    /// An address cannot be bound, or the runtime cannot start.
    Io(String, io::Error),
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => write!(f, "{error}"),
            Self::Io(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for NodeError {}

/// A running node.
#[derive(Debug)]
pub struct Node;

/// Runs the node of `config` until SIGTERM or SIGINT; `started` is called when everything is bound.
///
/// # Errors
/// See [`NodeError`].
pub async fn run(config: &Config, started: impl FnOnce(&Node)) -> Result<(), NodeError> {
    let store = Store::open(config.store_config()).map_err(NodeError::Store)?;
    serve(config, Arc::new(store), started).await
}

/// Binds everything, then serves until a signal.
async fn serve(
    config: &Config,
    store: Arc<Store>,
    started: impl FnOnce(&Node),
) -> Result<(), NodeError> {
    let failed = |what: &'static str| move |error| NodeError::Io(what.into(), error);
    let control =
        ControlSocket::bind(&config.control_socket()).map_err(failed("[control] socket"))?;
    let operations = tokio::net::TcpListener::bind(config.operations.listen).await;
    let operations = operations.map_err(failed("[operations] listen"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed("signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("signals"))?;
    let stop = CancellationToken::new();
    let state = {
        let store = Arc::clone(&store);
        move || {
            let state = store.state();
            Readiness {
                ready: state == State::Ready,
                state: format!("{state:?}"),
                reason: String::new(),
            }
        }
    };
    let control = tokio::spawn(control::serve(
        control,
        store,
        clock::unix_seconds,
        stop.clone(),
    ));
    let operations = tokio::spawn(ops::serve(operations, String::new, state, stop.clone()));
    started(&Node);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
    drop(tokio::join!(control, operations));
    Ok(())
}
