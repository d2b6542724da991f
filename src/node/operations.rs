//! The operations listener as configured: who may ask, and what it tells.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ServerConfig;

use super::{StartError, failing};
use crate::config::Config;
use crate::history::History;
use crate::metrics::Metrics;
use crate::observe;
use crate::ops;
use crate::reload::Certificates;
use crate::standby::watch::Watch;
use crate::store::Store;

/// Who may ask the operations listener, as configured, and with what certificate.
pub(super) fn guard(
    config: &Config,
    certificates: &Certificates,
) -> Result<(ops::Guard, Option<Arc<ServerConfig>>), StartError> {
    let from = &config.operations;
    let path = &from.token_file;
    let named = !path.as_os_str().is_empty();
    let token = named.then(|| ops::read_token(path)).transpose();
    let token = token.map_err(failing("[operations] token_file"))?;
    let guard = ops::Guard {
        allow: from.allow.clone(),
        token,
        hosts: from.hosts.clone(),
        tls: from.tls,
    };
    let tls = from
        .tls
        .then(|| certificates.http.server(None, &[b"http/1.1"]));
    Ok((guard, tls.transpose().map_err(failing("[operations] tls"))?))
}

/// What the operations listener tells.
pub(super) fn sources(
    metrics: Arc<Metrics>,
    store: Arc<Store>,
    history: Option<Arc<History>>,
    standby: Option<(Arc<Watch>, Duration)>,
) -> ops::Sources {
    ops::Sources {
        metrics: Box::new(move || metrics.render()),
        state: Box::new(move || {
            let standing = standby.as_ref().map(|(watch, lag_max)| ops::Standing {
                primary: watch.place.clone(),
                connected: watch.is_connected(),
                lag: watch.lag(store.sequence(), Instant::now()),
                lag_max: *lag_max,
            });
            observe::readiness(
                &store.state(),
                store.is_complete(),
                &store.role(),
                standing,
                store.no_room(),
            )
        }),
        busiest: Box::new(move |prefixes| {
            history.as_ref().map(|history| history.busiest(prefixes))
        }),
    }
}
