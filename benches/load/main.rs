//! `load`: the program that measures a node. `generate` writes records, `udp` and `tcp` ask for them in a
//! closed loop, `echo` is the floor: a server that only moves packets of the same size.
//!
//! It codes and reads messages by itself, so that it also checks the node's codec from outside.

mod echo;
mod first;
mod measure;
mod options;
mod records;
mod tcp;
mod udp;
mod wire;

use std::error::Error;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use options::Options;
use records::Records;

/// What stops a run; shown to people as it is.
type Failure = Box<dyn Error>;

const USAGE: &str = "\
usage: load generate --records N [--prefix P]                 NDJSON to standard output
       load sizes    --records N [--prefix P]                 mean octets of a request and of an answer
       load echo     --listen ADDR [--reply OCTETS]           blocking recvmmsg/sendmmsg echo, until killed
       load first    --server ADDR --records N [--seconds S]  time until a starting node answers
       load udp      --server ADDR --records N [--sockets 64] [--window 512] [common]
       load tcp      --server ADDR --records N [--connections 8] [--in-flight 64] [common]
common: --prefix P        prefix of the handles (default 88.118)
        --miss PERCENT    share of look-ups for handles that do not exist (default 0)
        --seconds S       measured time (default 5, at most 600)
        --count N         stop after N answers, if that is sooner
        --warm-up S       time before measuring (default 1)
        --pid PID         measure CPU time and memory of this process
        --seed N          order of the look-ups (default: by time; always printed)
        --echo            the server is `load echo`: check request ids only
ADDR must be a loopback address.";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("load: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    // `cargo bench` starts every benchmark with --bench and no further argument: nothing to do then.
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    let Some(command) = arguments.next() else {
        println!("{USAGE}");
        return Ok(());
    };
    let options = Options::parse(arguments)?;
    let report = match command.as_str() {
        "generate" => return generate(&options),
        "sizes" => sizes(&options)?,
        "echo" => return echo::serve(options.listen()?, options.reply),
        "first" => first::run(&options)?,
        "udp" => udp::run(&options)?,
        "tcp" => tcp::run(&options)?,
        _ => return Err(format!("unknown command {command:?}\n{USAGE}").into()),
    };
    println!("{report}");
    Ok(())
}

/// Writes the records as `jiexi import` reads them.
fn generate(options: &Options) -> Result<(), Failure> {
    let records = Records::new(&options.prefix, options.records()?);
    let mut out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
    let mut line = Vec::new();
    records.home(&mut line);
    out.write_all(&line)?;
    for number in 0..records.count() {
        line.clear();
        records.line(number, &mut line);
        out.write_all(&line)?;
    }
    out.flush()?;
    Ok(())
}

/// Mean sizes over a sample: what the echo must answer to be comparable.
fn sizes(options: &Options) -> Result<serde_json::Value, Failure> {
    let records = Records::new(&options.prefix, options.records()?);
    let sample = records.count().min(100_000);
    let (mut request, mut answer, mut longest) = (0, 0, 0);
    let mut buffer = Vec::new();
    for number in 0..sample {
        buffer.clear();
        wire::request(&mut buffer, 0, |out| records.handle(number, out));
        request += buffer.len();
        let size = records.answer_size(number);
        answer += size;
        longest = longest.max(size);
    }
    let sample = usize::try_from(sample)?;
    Ok(serde_json::json!({
        "request_octets": request / sample,
        "answer_octets": answer / sample,
        "answer_octets_max": longest,
    }))
}
