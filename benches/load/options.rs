//! The command line.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::Failure;

/// Everything that can be set; each command uses what it needs.
pub(crate) struct Options {
    server: Option<SocketAddr>,
    listen: Option<SocketAddr>,
    records: Option<u64>,
    pub(crate) prefix: String,
    pub(crate) reply: usize,
    pub(crate) sockets: usize,
    pub(crate) window: usize,
    pub(crate) connections: usize,
    pub(crate) in_flight: usize,
    pub(crate) miss_percent: u64,
    pub(crate) time: Duration,
    pub(crate) count: u64,
    pub(crate) warm_up: Duration,
    pub(crate) pid: Option<u32>,
    pub(crate) seed: u64,
    pub(crate) echo: bool,
}

/// No run is longer: a forgotten load must not keep a machine busy.
const TIME_MAX: Duration = Duration::from_secs(600);

impl Options {
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut options = Self {
            server: None,
            listen: None,
            records: None,
            prefix: "88.118".into(),
            reply: 400,
            sockets: 64,
            window: 512,
            connections: 8,
            in_flight: 64,
            miss_percent: 0,
            time: Duration::from_secs(5),
            count: u64::MAX,
            warm_up: Duration::from_secs(1),
            pid: None,
            seed: seed_from_time(),
            echo: false,
        };
        while let Some(name) = arguments.next() {
            if name == "--echo" {
                options.echo = true;
                continue;
            }
            let value = arguments
                .next()
                .ok_or_else(|| format!("{name} needs a value"))?;
            options
                .set(&name, &value)
                .map_err(|problem| format!("{name} {value}: {problem}"))?;
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        match name {
            "--server" => self.server = Some(value.parse()?),
            "--listen" => self.listen = Some(value.parse()?),
            "--records" => self.records = Some(value.parse()?),
            "--prefix" => self.prefix = value.to_owned(),
            "--reply" => self.reply = value.parse()?,
            "--sockets" => self.sockets = at_least_one(value)?,
            "--window" => self.window = at_least_one(value)?,
            "--connections" => self.connections = at_least_one(value)?,
            "--in-flight" => self.in_flight = at_least_one(value)?,
            "--miss" => self.miss_percent = value.parse()?,
            "--seconds" => self.time = Duration::try_from_secs_f64(value.parse()?)?.min(TIME_MAX),
            "--count" => self.count = value.parse()?,
            "--warm-up" => {
                self.warm_up = Duration::try_from_secs_f64(value.parse()?)?.min(TIME_MAX)
            }
            "--pid" => self.pid = Some(value.parse()?),
            "--seed" => self.seed = value.parse()?,
            _ => return Err("unknown option".into()),
        }
        Ok(())
    }

    pub(crate) fn records(&self) -> Result<u64, Failure> {
        self.records
            .filter(|&records| records > 0)
            .ok_or_else(|| "--records is needed".into())
    }

    pub(crate) fn server(&self) -> Result<SocketAddr, Failure> {
        loopback(self.server.ok_or("--server is needed")?)
    }

    pub(crate) fn listen(&self) -> Result<SocketAddr, Failure> {
        loopback(self.listen.ok_or("--listen is needed")?)
    }
}

fn at_least_one(value: &str) -> Result<usize, Failure> {
    match value.parse()? {
        0 => Err("must be at least 1".into()),
        number => Ok(number),
    }
}

/// Load is for the machine it runs on; aimed elsewhere it would be an attack.
fn loopback(address: SocketAddr) -> Result<SocketAddr, Failure> {
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err(format!("{address} is not a loopback address").into())
    }
}

fn seed_from_time() -> u64 {
    SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(1, |elapsed| elapsed.subsec_nanos().into())
}
