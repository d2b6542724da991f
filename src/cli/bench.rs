//! `jiexi bench`: load for a node of one's own, and what it costs.

use std::{
    fs,
    io::{self, BufWriter, Write as _},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value as Json, json};

use super::{
    Failed, exit,
    output::{self, Format},
    place::Place,
    target,
};
use crate::bench::{
    self, Failure,
    course::{Plan, Report},
    datagrams, first,
    names::{Choice, Names, Spread},
    records::Records,
    streams, visits,
    wire::Handle,
    writes::{Writer, Written},
};

/// No run is longer: a forgotten load must not keep a machine busy.
const TIME_MAX: Duration = Duration::from_secs(3600);
/// The most requests under way.
const WINDOW_MAX: usize = 65_536;
/// The most sockets or connections.
const SOCKETS_MAX: usize = 1_024;
/// The most threads that open a connection for each request.
const VISITORS_MAX: usize = 256;

/// Measure a node: look-ups a second, latency, processor time of each
#[derive(Debug, Args)]
pub(super) struct Bench {
    #[command(subcommand)]
    action: Action,
}

/// What can be done.
#[derive(Debug, Subcommand)]
enum Action {
    Lookups(Lookups),
    Records(Generate),
    First(First),
}

impl Bench {
    pub(super) fn run(self) -> Result<(), Failed> {
        match self.action {
            Action::Lookups(command) => command.run(),
            Action::Records(command) => command.run(),
            Action::First(command) => command.run(),
        }
    }
}

/// What carries the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Transport {
    /// Datagrams
    #[default]
    Udp,
    /// Connections that stay, requests pipelined
    Tcp,
    /// A TCP connection for each request
    Connect,
}

impl Transport {
    /// Requests under way, and the sockets that share them, unless others are asked for.
    const fn defaults(self) -> (usize, usize) {
        match self {
            Self::Udp => (512, 64),
            Self::Tcp => (512, 8),
            Self::Connect => (8, 1),
        }
    }

    const fn sockets_max(self) -> usize {
        match self {
            Self::Udp | Self::Tcp => SOCKETS_MAX,
            Self::Connect => 1,
        }
    }
}

/// Which node is meant, and that it may be loaded.
#[derive(Debug, Args)]
struct Target {
    /// The node
    #[arg(
        long,
        short,
        default_value = "127.0.0.1:2641",
        value_name = "ADDR:PORT"
    )]
    server: SocketAddr,
    /// The server is not on this machine, and it is yours to load
    #[arg(long)]
    remote: bool,
}

impl Target {
    /// The address, if it may be loaded.
    fn permitted(&self) -> Result<SocketAddr, Failed> {
        bench::permit(self.server, self.remote).map_err(Failed::usage)?;
        Ok(self.server)
    }
}

/// Which records are asked for.
#[derive(Debug, Args)]
struct Asked {
    /// The node holds so many records of `jiexi bench records`
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=u64::from(u32::MAX)))]
    records: u64,
    /// Their prefix
    #[arg(long, default_value = "88.118")]
    prefix: String,
    /// Ask for these instead: a handle a line, or what `jiexi export` wrote
    #[arg(long, value_name = "FILE", conflicts_with_all = ["records", "prefix"])]
    handles: Option<PathBuf>,
}

impl Asked {
    fn names(&self) -> Result<Names, Failed> {
        let Some(path) = &self.handles else {
            return Ok(Names::Generated(Records::new(&self.prefix, self.records)));
        };
        let failed = |error: &dyn std::fmt::Display| {
            Failed::report(format_args!("{}: {error}", path.display()))
        };
        let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
        let names = bench::names::listed(&text).map_err(|error| failed(&error))?;
        Ok(Names::Listed(names))
    }
}

/// Ask for records, and report rate, latency and, with --pid, what each look-up cost the server
///
/// Without --rate, a closed loop: as many requests as the window is wide are always under way, which finds the peak.
/// With --rate, an open loop: requests are sent when they are due, whatever the server does, and their latency counts
/// from that moment.
#[derive(Debug, Args)]
struct Lookups {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    asked: Asked,
    /// What carries the requests
    #[arg(long, short, value_enum, default_value_t)]
    transport: Transport,
    /// Requests under way at most [default: 512; with --transport connect 8]
    #[arg(long, value_name = "N")]
    window: Option<usize>,
    /// Sockets or connections that share them [default: 64 of UDP, 8 of TCP]
    #[arg(long, value_name = "N")]
    sockets: Option<usize>,
    /// Requests a second
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// The k-th most popular handle is asked for 1/k^S as often as the first; otherwise all alike
    #[arg(long, value_name = "S")]
    zipf: Option<f64>,
    /// Share of requests for handles that do not exist
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    miss: u8,
    /// Measured time
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    time: Duration,
    /// Time before measuring
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    warm_up: Duration,
    /// End after so many answers, if that is sooner
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
    count: u64,
    /// Report processor time and memory of this process. May be repeated, for a server of several
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,
    /// Overwrite so many of the records a second meanwhile, durably, over the control socket of the node that --data or
    /// --config names. Its processor time is then that of both
    #[arg(long, value_name = "N", conflicts_with = "handles")]
    write_rate: Option<f64>,
    #[command(flatten)]
    place: Place,
    /// Determines which handles are asked for, and in which order
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Form of the report
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

impl Lookups {
    fn run(self) -> Result<(), Failed> {
        let server = self.target.permitted()?;
        let plan = self.plan()?;
        let names = self.asked.names()?;
        let spread = self.zipf.map_or(Spread::Uniform, Spread::Zipf);
        let choice = |number: u64| {
            Choice::new(
                &names,
                spread,
                self.miss.into(),
                self.seed.wrapping_add(number),
            )
        };
        let writer = self.writer()?;
        let report = match self.transport {
            Transport::Udp => {
                choice(0).and_then(|choice| datagrams::run(&Handle, server, choice, &plan))
            }
            Transport::Tcp => {
                choice(0).and_then(|choice| streams::run(&Handle, server, choice, &plan))
            }
            Transport::Connect => visits::run(&Handle, server, choice, &plan),
        };
        let written = writer.map(Writer::finish).transpose();
        let report =
            report.map_err(|failure| Failed::report(format_args!("{server}: {failure}")))?;
        let written = written.map_err(Failed::report)?;
        if report.lost > 0 && self.transport == Transport::Udp {
            exit::say(format_args!(
                "jiexi: {} requests got no answer: the node was overrun, or its UDP budget for this network \
                 (handle.amplification_rate) is below this load",
                report.lost
            ));
        }
        self.print(&plan, &report, written)
    }

    /// What writes meanwhile, if that is wanted.
    fn writer(&self) -> Result<Option<Writer>, Failed> {
        let Some(rate) = self.write_rate else {
            return Ok(None);
        };
        if !(rate.is_finite() && rate > 0.0) {
            return Err(Failed::usage("--write-rate must be greater than 0"));
        }
        let config = self.place.load()?;
        if target::running(&config)?.is_none() {
            return Err(Failed::report(format_args!(
                "no node runs with the data in {}: --write-rate writes into a running one",
                config.node.data.display()
            )));
        }
        let records = Records::new(&self.asked.prefix, self.asked.records);
        Writer::start(config.control_socket(), records, rate, self.seed)
            .map(Some)
            .map_err(Failed::report)
    }

    /// The plan, with every number inside its limits.
    fn plan(&self) -> Result<Plan, Failed> {
        let (window, sockets) = self.transport.defaults();
        let window_max = if self.transport == Transport::Connect {
            VISITORS_MAX
        } else {
            WINDOW_MAX
        };
        let sockets_max = self.transport.sockets_max();
        if self
            .rate
            .is_some_and(|rate| !(rate.is_finite() && rate > 0.0))
        {
            return Err(Failed::usage("--rate must be greater than 0"));
        }
        if self.rate.is_some() && self.transport == Transport::Connect {
            return Err(Failed::usage(
                "--rate: a connection for each request is a closed loop only",
            ));
        }
        Ok(Plan {
            warm_up: self.warm_up,
            time: self.time,
            count: self.count,
            window: within("--window", self.window.unwrap_or(window), window_max)?,
            sockets: within("--sockets", self.sockets.unwrap_or(sockets), sockets_max)?,
            rate: self.rate,
            pids: self.pid.clone(),
        })
    }

    fn print(&self, plan: &Plan, report: &Report, written: Option<Written>) -> Result<(), Failed> {
        if self.output == Format::Json {
            return output::print_json(&json(self, plan, report, written)?);
        }
        let mut text = format!(
            "{} answers in {} s: {} a second; {} missing, {} lost\n",
            report.answers, report.seconds, report.requests_per_second, report.missing, report.lost
        );
        if let Some(server) = report.server {
            text += &format!(
                "server: {} µs of processor time a request, {} cores busy, {} MiB resident\n",
                server.cpu_us_per_request,
                server.server_cores,
                server.server_rss_kib / 1024
            );
        }
        if let Some(written) = written {
            text += &format!(
                "written: {} records, {} a second where {} were asked for\n",
                written.records, written.records_per_second, written.asked_per_second
            );
        }
        let row = |name: &str, of: bench::course::Latency| {
            let mut cells = vec![name.to_owned()];
            cells.extend([of.p50, of.p90, of.p99, of.p999, of.max].map(|us| us.to_string()));
            cells
        };
        let mut rows = vec![row("as measured", report.latency_us)];
        if plan.rate.is_none() {
            rows.push(row("corrected", report.corrected_us));
        }
        text += &output::table(&["LATENCY, µs", "p50", "p90", "p99", "p99.9", "max"], &rows);
        output::print(&text)
    }
}

/// The report as JSON, with what was asked for.
fn json(
    lookups: &Lookups,
    plan: &Plan,
    report: &Report,
    written: Option<Written>,
) -> Result<Json, Failed> {
    let mut json = serde_json::to_value(report).map_err(Failed::report)?;
    if let Some(written) = written {
        json["written"] = serde_json::to_value(written).map_err(Failed::report)?;
    }
    let transport = lookups.transport.to_possible_value();
    json["load"] = json!({
        "server": lookups.target.server.to_string(),
        "transport": transport.map(|transport| transport.get_name().to_owned()),
        "loop": if plan.rate.is_some() { "open" } else { "closed" },
        "rate": plan.rate,
        "window": plan.window,
        "sockets": plan.sockets,
        "zipf": lookups.zipf,
        "miss_percent": lookups.miss,
        "seed": lookups.seed,
    });
    Ok(json)
}

/// Write records for a node to be measured with: NDJSON, as `jiexi import` reads it
///
/// Any of them follows from its number alone: handles of 25 to 60 octets, three values of 200 to 360 octets in all.
#[derive(Debug, Args)]
struct Generate {
    /// How many
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=u64::from(u32::MAX)))]
    records: u64,
    /// Their prefix; the node is made responsible for it
    #[arg(long, default_value = "88.118")]
    prefix: String,
}

impl Generate {
    fn run(self) -> Result<(), Failed> {
        self.write()
            .map_err(|error| Failed::output("cannot write the records", &error))
    }

    fn write(&self) -> io::Result<()> {
        let records = Records::new(&self.prefix, self.records);
        let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
        out.write_all(records.home().as_bytes())?;
        let mut line = Vec::new();
        for number in 0..records.count() {
            line.clear();
            records.line(number, &mut line);
            out.write_all(&line)?;
        }
        out.flush()
    }
}

/// Ask for one record until the node, which is just starting, has it, and report how long that took
#[derive(Debug, Args)]
struct First {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    asked: Asked,
    /// Give up after this long
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    time: Duration,
    /// Form of the report
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

impl First {
    fn run(self) -> Result<(), Failed> {
        let server = self.target.permitted()?;
        let names = self.asked.names()?;
        let failed = |failure: Failure| Failed::report(format_args!("{server}: {failure}"));
        let first = first::run(&Handle, server, &names, self.time).map_err(failed)?;
        let seconds = first.waited.as_secs_f64();
        match self.output {
            Format::Json => {
                output::print_json(&json!({"first_answer_s": seconds, "asked": first.asked}))
            }
            Format::Table => output::print(&format!(
                "first answer after {seconds:.3} s, {} asked\n",
                first.asked
            )),
        }
    }
}

/// A duration on the command line.
fn duration(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time > TIME_MAX {
        return Err(format!("at most {} s", TIME_MAX.as_secs()));
    }
    Ok(time)
}

fn within(name: &str, number: usize, most: usize) -> Result<usize, Failed> {
    if (1..=most).contains(&number) {
        return Ok(number);
    }
    Err(Failed::usage(format_args!("{name} must be 1 to {most}")))
}
