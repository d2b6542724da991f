//! `peers`: what `run.sh` beside it needs to measure other servers like a node: floors that only move packets, the
//! records in the forms that the peers load, and their protocols for the loops of `jiexi bench`.
//!
//! * [`echo`]: the floors. [`dns`], [`redis`]: protocol and form of the records. `Cnri.java`: the CNRI server.

mod dns;
mod echo;
mod redis;

use std::io::{self, BufWriter, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use jiexi::bench::course::Plan;
use jiexi::bench::names::{Choice, Names, Spread};
use jiexi::bench::records::{Records, hex};
use jiexi::bench::wire::make_answer;
use jiexi::bench::{Failure, datagrams, permit, streams};

use dns::Dns;

/// The prefix of all records.
const PREFIX: &str = "88.118";

#[derive(Debug, Parser)]
#[command(about = "Floors, records and protocols of the peers; see benches/peers/run.sh")]
enum Command {
    /// A UDP floor: recvmmsg and sendmmsg, and answers as long as a node's are on average
    EchoUdp(Echo),
    /// The same with the packets of DNS
    EchoDns(Echo),
    /// A TCP floor: tokio accepts, reads, writes
    EchoTcp(Echo),
    /// The records, as a peer loads them
    Generate {
        /// For whom
        form: Form,
        #[arg(long)]
        records: u64,
    },
    /// Mean sizes as JSON
    Means {
        #[arg(long)]
        records: u64,
    },
    /// Ask a peer for records, with a closed loop, and report as `jiexi bench lookups` does
    Ask(Ask),
}

#[derive(Debug, Args)]
struct Echo {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    records: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    /// Commands for `redis-cli --pipe`: the values in wire form under the handle
    Redis,
    /// Lines for Cnri.java
    Cnri,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Peer {
    Dns,
    Redis,
}

#[derive(Debug, Args)]
struct Ask {
    peer: Peer,
    #[arg(long)]
    server: SocketAddr,
    #[arg(long)]
    records: u64,
    #[arg(long)]
    window: usize,
    #[arg(long)]
    sockets: usize,
    #[arg(long)]
    seconds: f64,
    #[arg(long, default_value_t = 0.5)]
    warm_up: f64,
    #[arg(long)]
    pid: Vec<u32>,
}

fn main() -> Result<(), Failure> {
    // `cargo bench` starts every benchmark with --bench and no further argument: nothing to do then.
    if std::env::args()
        .nth(1)
        .is_none_or(|first| first == "--bench")
    {
        return Ok(());
    }
    match Command::parse() {
        Command::EchoUdp(echo) => {
            let octets = means(echo.records);
            echo::datagrams(loopback(echo.listen)?, octets, |answer| {
                make_answer(answer, octets)
            })
        }
        Command::EchoDns(echo) => {
            let octets = Dns::new(PREFIX).answer_octets(&Records::new(PREFIX, echo.records));
            echo::datagrams(loopback(echo.listen)?, octets, dns::make_answer)
        }
        Command::EchoTcp(echo) => echo::streams(loopback(echo.listen)?, means(echo.records)),
        Command::Generate { form, records } => Ok(generate(form, &Records::new(PREFIX, records))?),
        Command::Means { records } => {
            let means = Records::new(PREFIX, records).means();
            println!("{}", serde_json::to_string(&means).map_err(Failure::new)?);
            Ok(())
        }
        Command::Ask(ask) => ask.run(),
    }
}

fn loopback(address: SocketAddr) -> Result<SocketAddr, Failure> {
    permit(address, false).map(|()| address)
}

/// Octets of an answer.
fn means(records: u64) -> usize {
    Records::new(PREFIX, records).means().answer_octets
}

impl Ask {
    fn run(self) -> Result<(), Failure> {
        let server = loopback(self.server)?;
        let names = Names::Generated(Records::new(PREFIX, self.records));
        let choice = Choice::new(&names, Spread::Uniform, 0, 1)?;
        let time = |seconds| Duration::try_from_secs_f64(seconds).map_err(Failure::new);
        let plan = Plan {
            warm_up: time(self.warm_up)?,
            time: time(self.seconds)?,
            count: u64::MAX,
            window: self.window,
            sockets: self.sockets,
            rate: None,
            pids: self.pid,
        };
        let report = match self.peer {
            Peer::Dns => datagrams::run(&Dns::new(PREFIX), server, choice, &plan)?,
            Peer::Redis => streams::run(&redis::Redis, server, choice, &plan)?,
        };
        println!(
            "{}",
            serde_json::to_string_pretty(&report).map_err(Failure::new)?
        );
        Ok(())
    }
}

fn generate(form: Form, records: &Records) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
    let (mut handle, mut wire, mut line) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..records.count() {
        handle.clear();
        wire.clear();
        line.clear();
        records.handle(number, &mut handle);
        records.values(number, |value| value.encode(&mut wire));
        match form {
            Form::Redis => redis::command(&[b"SET", &handle, &wire], &mut line),
            Form::Cnri => {
                handle
                    .iter()
                    .for_each(|octet| hex((*octet).into(), 2, &mut line));
                line.push(b' ');
                wire.iter()
                    .for_each(|octet| hex((*octet).into(), 2, &mut line));
                line.push(b'\n');
            }
        }
        out.write_all(&line)?;
    }
    out.flush()
}
