//! Whether the node of a command runs or is stopped, and the way to its data in each case.

use super::{Failed, exit::say};
use crate::{
    clock,
    config::Config,
    control::{
        client::{ControlError, Node},
        registry as local,
    },
    identity, maintenance, node, owner,
    registry::Registry,
    store::Store,
};

/// The node of a command.
pub(super) enum Target {
    /// It runs: this is a connection to its control socket.
    Running(Node),
    /// It is stopped: this is its store, open and loaded.
    Stopped(Box<Store>),
}

/// Finds out whether the node runs.
pub(super) fn find(config: &Config) -> Result<Target, Failed> {
    if let Some(node) = running(config)? {
        return Ok(Target::Running(node));
    }
    // The message names the file; where it does not, the directory is the one of the configuration.
    let store = maintenance::open(config.store_config()).map_err(Failed::report)?;
    Ok(Target::Stopped(Box::new(store)))
}

/// A connection to the node if it runs; else its files are opened next, which is for its user to do.
pub(super) fn running(config: &Config) -> Result<Option<Node>, Failed> {
    let socket = config.control_socket();
    let node = Node::connect(&socket).map_err(|error| {
        Failed::report(format_args!("control socket {}: {error}", socket.display()))
    })?;
    if node.is_none() {
        expect_owner(config)?;
    }
    Ok(node)
}

/// Refuses root in the data directory of somebody else, before anything is written there.
pub(super) fn expect_owner(config: &Config) -> Result<(), Failed> {
    match owner::refuse_root(&config.node.data, std::env::args_os()) {
        Some(refused) => Err(Failed::report(refused)),
        None => Ok(()),
    }
}

/// Writes an import or a restore on a stopped node into its audit trail, while nobody else can have its store: whoever has
/// the store writes the trail. What is done is done: when the trail cannot be written, that is said and no more.
pub(super) fn note(config: &Config, operation: &str, good: bool, change: Option<u64>) {
    let noted = identity::node_key(&config.node_key())
        .map_err(|error| error.to_string())
        .and_then(|key| node::audit_trail(config, &key).map_err(|error| error.to_string()))
        .and_then(|audit| {
            let uid = nix::unistd::getuid().as_raw();
            local::note_whole(&audit, operation, uid, clock::unix_seconds(), good, change);
            let lost = || format!("{}: it cannot be written", config.audit_dir().display());
            audit.close().then_some(()).ok_or_else(lost)
        });
    if let Err(error) = noted {
        say(format_args!(
            "jiexi: the audit trail does not tell of this {operation}: {error}"
        ));
    }
}

/// Closes the store of a stopped node that was changed by a registry, and its audit trail before: whoever has the store next
/// goes on with the trail.
pub(super) fn close_with(store: &Store, registry: &Registry) -> Result<(), Failed> {
    if registry.audit().is_some_and(|audit| !audit.close()) {
        say(
            "jiexi: the audit trail cannot be written, and lacks entries; what was changed is put in from the journal when the \
             node starts and it can be",
        );
    }
    close(store)
}

/// Closes the store of a stopped node.
pub(super) fn close(store: &Store) -> Result<(), Failed> {
    store
        .shutdown()
        .map_err(|error| Failed::report(format_args!("closing the store: {error}")))
}

/// Runs a future to its end on a runtime of this thread.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime
        .map_err(|error| Failed::report(format_args!("cannot start the runtime: {error}")))?;
    let outcome = runtime.block_on(future);
    // Standard input is read by a thread that cannot be interrupted; it must not keep the process.
    runtime.shutdown_background();
    Ok(outcome)
}

/// Reports a command that a running node did not carry out.
pub(super) fn explain(error: ControlError) -> Failed {
    match error {
        ControlError::Failed(failure) => Failed::report(failure.message),
        ControlError::Connection(error) => Failed::report(format_args!("control socket: {error}")),
        ControlError::Input(error) => Failed::report(format_args!("input: {error}")),
        ControlError::Output(error) => Failed::output("output", &error),
    }
}
