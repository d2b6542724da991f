//! `jiexi serve`: run the node; with `--demo` one that needs no set-up.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::Path,
    time::Duration,
};

use clap::Args;

use super::{
    Failed, output,
    place::{self, FILE_NAME, Place},
    progress,
    promote::Follow,
    target,
};
use crate::{
    config::Config,
    demo::{self, Need},
    handover::successor::Program,
    identity::{self, IdentityError, KeyPair},
    logging::Logging,
    maintenance,
    node::{self, Node},
    owner,
    store::Store,
};

/// Run the node until SIGTERM or Ctrl-C
///
/// Answers the Handle protocol over UDP and TCP, metrics and health over HTTP. With --demo no set-up and no file is
/// needed: a store below ./data is filled with a realistic second-level node (300 enterprises, 54,000 devices) and served
/// on the loopback addresses only.
///
/// With --follow the node is a standby: it copies that one, answers questions and refuses changes, until `jiexi promote` lets
/// it take that one's place. The first start replaces the store, which is kept beside it.
///
/// With --take-over this process becomes the node that runs, for an upgrade without a pause: it gets that one's sockets over
/// the control socket, fills its index beside it, then gets the store and answers; the old process lets its connections end
/// and exits with 0. No question is lost; changes wait meanwhile. If this process fails, the old one goes on as before. It
/// must run as the same user. Sessions end: clients log in anew. `jiexi upgrade` has the running node start it.
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    place: Place,
    /// Serve realistic data from ./data (or --data), on loopback only
    #[arg(long, conflicts_with = "config")]
    demo: bool,
    #[command(flatten)]
    follow: Follow,
    /// Take the place of the node that runs with this data directory
    #[arg(long, conflicts_with = "demo")]
    take_over: bool,
    /// How long changes may wait while the store is taken over; beyond it the running node takes it back
    #[arg(long, value_name = "TIME", requires = "take_over", default_value = "2s", value_parser = pause)]
    pause_max: Duration,
}

/// How long changes may be told to wait.
const PAUSES: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);

pub(super) fn pause(text: &str) -> Result<Duration, String> {
    let pause = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match PAUSES.contains(&pause) {
        true => Ok(pause),
        false => Err("must be 100ms to 60s".to_owned()),
    }
}

impl Serve {
    pub(super) fn run(self, logging: &Logging) -> Result<(), Failed> {
        if self.demo {
            return serve_demo(&self.place, logging);
        }
        if let (None, Some(data)) = (self.place.file(), self.place.data()) {
            return Err(Failed::report(format_args!(
                "{}: no configuration file; make a node there with `jiexi init --data {}`",
                data.join(FILE_NAME).display(),
                data.display()
            )));
        }
        if self.place.file().is_none() {
            if let Some(hidden) = self.place.hidden() {
                return Err(Failed::report(format_args!(
                    "{}: it cannot be seen whether this is there; {}",
                    hidden.display(),
                    owner::advice(&hidden)
                )));
            }
            return Err(Failed::report(
                "no configuration file found (./jiexi.toml, ./data/jiexi.toml, /etc/jiexi/jiexi.toml, \
                 /var/lib/jiexi/jiexi.toml); \
                 make a node with `jiexi init`, name a file with --config, or try `jiexi serve --demo`",
            ));
        }
        let mut config = self.place.load_to_serve()?;
        target::expect_owner(&config)?;
        self.follow.apply(&mut config);
        Follow::check(&config)?;
        logging.configure(&config.log).map_err(Failed::report)?;
        identity::check(
            &config.node_key(),
            &config.site_file(),
            &config.node.addresses,
        )
        .map_err(Failed::report)?;
        if identity::is_exposed(&config.node_key()) {
            tracing::warn!(event = "key.exposed", file = %config.node_key().display(), "others may read the private key; chmod 600 it");
        }
        let read = || {
            let mut config = self.place.read()?;
            self.follow.apply(&mut config);
            Ok(config)
        };
        let take_over = self.take_over.then_some(self.pause_max);
        let started = |node: &Node| tell_started(node, &config, self.place.file().as_deref());
        let program = Program::current().map_err(|error| {
            Failed::report(format_args!("the file of this program is unknown: {error}"))
        })?;
        run(
            &config,
            logging,
            read,
            || Ok(()),
            started,
            take_over,
            Some(&program),
        )
    }
}

/// Says what runs here, and where it is reached.
fn tell_started(node: &Node, config: &Config, file: Option<&Path>) {
    let list = |addresses: &[SocketAddr]| {
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        (!addresses.is_empty()).then(|| addresses.join(", "))
    };
    tracing::info!(
        event = "node.started",
        version = env!("CARGO_PKG_VERSION"),
        commit = option_env!("JIEXI_COMMIT"),
        pid = std::process::id(),
        configuration = file.map(|file| file.display().to_string()),
        data = %config.node.data.display(),
        handle = list(node.addresses()),
        http = list(node.http_addresses()),
        dns = list(&node.dns_addresses),
        dns_tls = list(&node.dns_tls_addresses),
        operations = %node.operations,
        "the node listens"
    );
}

/// Fills the demo's store if it is empty, then serves it.
fn serve_demo(place: &Place, logging: &Logging) -> Result<(), Failed> {
    let mut config = place::defaults(place.data())?;
    let data = config.node.data.clone();
    if data.join(FILE_NAME).exists() {
        return Err(Failed::report(format_args!(
            "{} is the data directory of a configured node; run `jiexi serve`, or choose another with --data",
            data.display()
        )));
    }
    // Nothing of a demo is meant for strangers.
    config.handle.listen = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    config.http.listen = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    config
        .operations
        .listen
        .set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    target::expect_owner(&config)?;
    logging.configure(&config.log).map_err(Failed::report)?;
    prepare(&config).map_err(Failed::report)?;
    // There is no file to read again.
    let read = || Ok(config.clone());
    run(
        &config,
        logging,
        read,
        || fill(&config),
        |node| {
            tell_started(node, &config, None);
            _ = output::print(&banner(&config));
        },
        None,
        None,
    )
}

/// How long what the runtime still does is waited for, when the node has stopped.
const LEFT_OVER: Duration = Duration::from_secs(5);

/// Runs a node on a runtime of its own.
fn run(
    config: &Config,
    logging: &Logging,
    read: impl Fn() -> Result<Config, String>,
    prepare: impl FnOnce() -> Result<(), String>,
    started: impl FnOnce(&Node),
    take_over: Option<Duration>,
    program: Option<&Program>,
) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime
        .map_err(|error| Failed::report(format_args!("cannot start the runtime: {error}")))?;
    let node = node::run(config, logging, read, prepare, started, take_over, program);
    let ran = runtime.block_on(node);
    // What still waits, for a file that never comes, say, is nothing that the node has promised.
    runtime.shutdown_timeout(LEFT_OVER);
    ran.map_err(Failed::report)
}

/// Makes key, site record and store where they are missing.
fn prepare(config: &Config) -> Result<(), String> {
    let data = &config.node.data;
    std::fs::create_dir_all(data).map_err(|error| format!("{}: {error}", data.display()))?;
    let identity = |error: IdentityError| error.to_string();
    let key_file = config.node_key();
    if !key_file.exists() {
        identity::write_file(
            &key_file,
            0o600,
            &KeyPair::generate().map_err(identity)?.file(),
        )
        .map_err(identity)?;
    }
    let key = KeyPair::load(&key_file).map_err(identity)?;
    if !config.site_file().exists() {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let site = identity::site_record(
            address,
            config.handle.port,
            key.public_octets(),
            "jiexi demo",
        );
        let text = identity::site_text(&site).map_err(identity)?;
        identity::write_file(&config.site_file(), 0o644, text.as_bytes()).map_err(identity)?;
    }
    if !config.store_dir().exists() {
        Store::create(&config.store_config()).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Fills an empty store, with a bar on a terminal.
fn fill(config: &Config) -> Result<(), String> {
    let store = maintenance::open(config.store_config())?;
    let need = demo::need(&store).map_err(|error| error.to_string())?;
    if need == Need::Foreign {
        let data = config.node.data.display();
        return Err(format!(
            "{data} holds other records; choose another directory with --data"
        ));
    }
    if need == Need::Fill {
        let said = |error: IdentityError| error.to_string();
        let site = identity::own_site(&config.site_file()).map_err(said)?;
        let key = KeyPair::load(&config.node_key())
            .map_err(said)?
            .public_octets();
        let bar = progress::records("filling the demo node", demo::RECORDS);
        for (batch, records) in demo::batches(&site, &key, store.case()) {
            store
                .commit(batch)
                .map_err(|error| format!("filling the store: {error}"))?;
            bar.inc(records);
        }
        bar.finish_and_clear();
    }
    store
        .shutdown()
        .map_err(|error| format!("closing the store: {error}"))
}

/// What listens, and what to try.
fn banner(config: &Config) -> String {
    let port = config.handle.port;
    let server = if port == 2641 {
        String::new()
    } else {
        format!(" --server 127.0.0.1:{port}")
    };
    let data = data_option(&config.node.data);
    let [first, second, third] = demo::samples();
    let jiexi = output::program();
    format!(
        "jiexi demo node: prefix {prefix}, {enterprises} enterprises, {devices} devices
  Handle      127.0.0.1:{port} (UDP and TCP)
  HTTP        http://127.0.0.1:{http} and https://127.0.0.1:{http} (a self-signed certificate)
  operations  http://{operations}/metrics  /health  /ready
  data        {directory}

Try in another terminal (请在另一个终端中试用):
  {jiexi} resolve {first}{server}
  {jiexi} resolve '{second}' --type URL --tcp{server}
  {jiexi} resolve '{third}' -o json{server}
  {jiexi} resolve 0.NA/{prefix}.1{server}
  {jiexi} store stats{data}
  {jiexi} export{data} | head -n 3
  curl http://127.0.0.1:{http}/api/handles/{first}
  curl http://{operations}/ready
Stop with Ctrl-C (按 Ctrl-C 停止).
",
        prefix = demo::PREFIX,
        enterprises = demo::ENTERPRISES,
        devices = demo::ENTERPRISES * demo::DEVICES,
        operations = config.operations.listen,
        http = config.http.port,
        directory = config.node.data.display(),
    )
}

/// The option by which other commands find the data.
fn data_option(data: &Path) -> String {
    if data == Path::new("./data") {
        String::new()
    } else {
        format!(" --data {}", data.display())
    }
}
