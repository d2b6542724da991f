//! Counting, and the text that Prometheus scrapes.
//!
//! * [`names`]: the table of every metric.
//! * [`Cell`]: the counters of one worker, written without synchronisation.
//! * [`Metrics`]: the registry; cells and other sources are merged when somebody scrapes.
//!
//! The hot path touches its own [`Cell`] and nothing else.

mod cell;
mod families;
pub mod names;

pub use cell::{
    Cell, Counter, DURATION_BOUNDS_NS, Durations, FRONTS, LookupResult, Op, Outcome, Protocol,
    Reason, Transport,
};
pub use families::Families;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use prometheus::TextEncoder;

use crate::history::History;

/// Something that adds its figures to a scrape.
type Source = Box<dyn Fn(&mut Families) + Send + Sync>;

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The client closed it.
    Peer,
    /// Nothing came for too long.
    Idle,
    /// It was the longest idle one when a new one came at the cap.
    Cap,
    /// A message did not arrive, or an answer was not taken, in time.
    Deadline,
    /// The transport failed, or what came was no message.
    Error,
    /// The node stops.
    Drain,
}

impl Why {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Peer, "peer"),
        (Self::Idle, "idle"),
        (Self::Cap, "cap"),
        (Self::Deadline, "deadline"),
        (Self::Error, "error"),
        (Self::Drain, "drain"),
    ];
}

/// Connections of one transport; written by many tasks, far from the hot path.
#[derive(Debug, Default)]
pub struct Connections {
    opened: AtomicU64,
    closed: [AtomicU64; Why::ALL.len()],
}

impl Connections {
    /// A connection was accepted.
    pub fn opened(&self) {
        self.opened.fetch_add(1, Relaxed);
    }

    /// A connection ended.
    pub fn closed(&self, why: Why) {
        self.closed[why as usize].fetch_add(1, Relaxed);
    }

    fn collect(&self, protocol: Protocol, families: &mut Families) {
        let base = [("protocol", protocol.label()), ("transport", "tcp")];
        let opened = self.opened.load(Relaxed);
        let mut open = opened;
        families.add(&names::CONNECTIONS_OPENED, &base, opened as f64);
        for (why, label) in Why::ALL {
            let closed = self.closed[why as usize].load(Relaxed);
            open = open.saturating_sub(closed);
            let labels = [base[0], base[1], ("why", label)];
            families.add(&names::CONNECTIONS_CLOSED, &labels, closed as f64);
        }
        families.add(&names::CONNECTIONS, &base, open as f64);
    }
}

/// All figures of a node.
#[derive(Default)]
pub struct Metrics {
    cells: Mutex<Vec<(Protocol, Transport, Arc<Cell>)>>,
    sources: Mutex<Vec<Source>>,
    /// The log of resolutions and changes.
    history: OnceLock<Arc<History>>,
    /// Connections of the Handle protocol over TCP.
    pub connections: Arc<Connections>,
    /// Connections of HTTP, with and without TLS.
    pub http_connections: Arc<Connections>,
    /// Connections of DNS, with and without TLS.
    pub dns_connections: Arc<Connections>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// A new cell for a worker of the Handle protocol over `transport`.
    #[must_use]
    pub fn cell(&self, transport: Transport) -> Arc<Cell> {
        self.cell_of(Protocol::Handle, transport)
    }

    /// A new cell for a worker of one of [`FRONTS`].
    #[must_use]
    pub fn cell_of(&self, protocol: Protocol, transport: Transport) -> Arc<Cell> {
        let via = match (protocol, transport) {
            (Protocol::Http, Transport::Tls) => "https",
            (Protocol::Http, _) => "http",
            (Protocol::Handle, Transport::Udp) => "handle/udp",
            (Protocol::Handle, Transport::Http) => "handle/http",
            (Protocol::Handle, _) => "handle/tcp",
            (Protocol::Dns, Transport::Udp) => "dns/udp",
            (Protocol::Dns, Transport::Tls) => "dns/tls",
            (Protocol::Dns, _) => "dns/tcp",
            (Protocol::Operations, _) => "operations",
        };
        let pen = self.history.get().map(|history| history.pen(via));
        let cell = Arc::new(Cell::remembering(pen));
        lock(&self.cells).push((protocol, transport, Arc::clone(&cell)));
        cell
    }

    /// Has workers write down what is resolved and changed; those whose cells were made before do not.
    pub fn remember_in(&self, history: &Arc<History>) {
        let observed = Arc::clone(history);
        if self.history.set(Arc::clone(history)).is_ok() {
            self.add_source(move |families| observed.collect(families));
        }
    }

    /// Adds a source that is asked at every scrape.
    pub fn add_source(&self, source: impl Fn(&mut Families) + Send + Sync + 'static) {
        lock(&self.sources).push(Box::new(source));
    }

    /// The text exposition of everything.
    #[must_use]
    pub fn render(&self) -> String {
        let mut families = Families::default();
        let build = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("commit", option_env!("JIEXI_COMMIT").unwrap_or("unknown")),
        ];
        families.add(&names::BUILD_INFO, &build, 1.0);
        self.collect_cells(&mut families);
        self.connections.collect(Protocol::Handle, &mut families);
        self.http_connections.collect(Protocol::Http, &mut families);
        self.dns_connections.collect(Protocol::Dns, &mut families);
        for source in lock(&self.sources).iter() {
            source(&mut families);
        }
        let mut all = families.finish();
        all.extend(process());
        TextEncoder::new()
            .encode_to_string(&all)
            .unwrap_or_default()
    }

    /// Sums the workers of each transport.
    fn collect_cells(&self, families: &mut Families) {
        let cells = lock(&self.cells);
        let mut lookups = [0_u64; LookupResult::ALL.len()];
        for &(protocol, transport) in FRONTS {
            let of_transport: Vec<&Cell> = cells
                .iter()
                .filter(|(p, t, _)| (*p, *t) == (protocol, transport))
                .map(|(_, _, cell)| &**cell)
                .collect();
            let sum = |read: &dyn Fn(&Cell) -> u64| {
                of_transport.iter().map(|cell| read(cell)).sum::<u64>() as f64
            };
            let base = [
                ("protocol", protocol.label()),
                ("transport", transport.label()),
            ];
            for &op in Op::ALL {
                let labels = [base[0], base[1], ("op", op.label())];
                families.add(
                    &names::REQUESTS,
                    &labels,
                    sum(&|cell| cell.requests(op).value()),
                );
            }
            for &outcome in Outcome::ALL {
                let labels = [base[0], base[1], ("outcome", outcome.label())];
                let count = sum(&|cell| cell.responses(outcome).value());
                families.add(&names::RESPONSES, &labels, count);
            }
            for &reason in Reason::ALL {
                let labels = [base[0], base[1], ("reason", reason.label())];
                families.add(
                    &names::DROPPED,
                    &labels,
                    sum(&|cell| cell.dropped(reason).value()),
                );
            }
            families.add(
                &names::RECEIVED,
                &base,
                sum(&|cell| cell.received_bytes.value()),
            );
            families.add(&names::SENT, &base, sum(&|cell| cell.sent_bytes.value()));
            families.add_durations(
                &names::DURATION,
                &base,
                of_transport.iter().map(|cell| cell.durations.read()),
            );
            for &result in LookupResult::ALL {
                lookups[result as usize] += of_transport
                    .iter()
                    .map(|cell| cell.lookups(result).value())
                    .sum::<u64>();
            }
        }
        for &result in LookupResult::ALL {
            let count = lookups[result as usize] as f64;
            families.add(&names::LOOKUPS, &[("result", result.label())], count);
        }
    }
}

/// The `process_*` figures.
fn process() -> Vec<prometheus::proto::MetricFamily> {
    use prometheus::core::Collector as _;
    prometheus::process_collector::ProcessCollector::for_self().collect()
}

/// Locks, whatever happened to another holder: figures are never half-written.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what workers count is summed; every label combination is there from the start.
    #[test]
    fn workers_are_summed() {
        let metrics = Metrics::default();
        let (one, two) = (metrics.cell(Transport::Udp), metrics.cell(Transport::Udp));
        one.requests(Op::Resolve).add(2);
        two.requests(Op::Resolve).add(3);
        one.durations
            .observe(std::time::Duration::from_micros(3), 2);
        let text = metrics.render();
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap();
        let of = |metric: &str, label: &str| {
            line(&format!("{metric}{{{label}"))
                .rsplit(' ')
                .next()
                .unwrap()
                .to_owned()
        };
        assert_eq!(
            of(
                "jiexi_requests_total",
                r#"op="resolve",protocol="handle",transport="udp""#
            ),
            "5"
        );
        assert_eq!(
            of(
                "jiexi_requests_total",
                r#"op="login",protocol="handle",transport="tcp""#
            ),
            "0"
        );
        assert!(
            text.contains(r#"transport="udp",le="0.000002"} 0"#),
            "{text}"
        );
        assert!(
            text.contains(r#"transport="udp",le="0.000005"} 2"#),
            "{text}"
        );
        assert!(text.contains("process_open_fds"), "{text}");
    }
}
