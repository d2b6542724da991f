//! `jiexi bulk`: registrations out of a file, carried out by another node as a job; and jobs of `jiexi batch submit`.

use std::fs::{self, File};
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;
use indicatif::ProgressBar;
use serde_json::Value as Json;

use super::files::{self, Late};
use super::output::{self, Format};
use super::remote::Remote;
use super::{Failed, exit, progress, target};
use crate::ask::AskError;
use crate::ask::jobs::{Desk, Upload};
use crate::ask::parquet::Registrations;
use crate::batch::answer::Code;
use crate::batch::charset::Charset;
use crate::batch::rows::Form;

/// How often it is asked how far a job is.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How often how much has been sent is shown.
const SHOW_INTERVAL: Duration = Duration::from_millis(100);
/// Octets at the end of what was fetched before that are compared with the results.
const KNOWN_MAX: u64 = 64 << 10;

const EXAMPLES: &str = "\
Examples:
  jiexi bulk import parts.csv --server https://id.example.cn:8000 --token-file token --results results.ndjson
  jiexi bulk import parts.parquet --token-file token
  jiexi bulk import records.ndjson --dry-run --token-file token
  jiexi bulk status --token-file token
  jiexi bulk results 6927a1b20c5d11ee --out results.ndjson --token-file token

Exit codes: 0 every row is registered, or was before (or has its answer, found or not); 1 not all are (the results say which and why); 2 wrong command
line; 3 the token has no such job.";

/// Register many handles on another node: handed over at once, carried out there in the background
///
/// The token needs the right "write". The file has JSON, a handle a line as `jiexi import` takes it, or CSV with the columns
/// handle,index,type,ttl,permissions,encoding,value and the rows of a handle adjacent (encoding: string or nothing, base64,
/// hex, or admin, vlist, site and key with JSON as value), or is a Parquet table of either kind
/// (in the results a line is then one of the CSV or JSON that is made of it). Handles are created; one that exists
/// is told as "same" (with equal values) or "conflict", and stays. The node goes on with a job after a restart, at the exact
/// row. Jobs that "jiexi batch submit" has made are looked at, paused, ended and fetched here, too.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Bulk {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    remote: Remote,
    /// Form of the output
    #[arg(long, short, value_enum, default_value_t, global = true)]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Hand a file over, and wait until its job has ended
    Import(Import),
    /// How a job is; without an id all jobs of the token
    Status {
        /// The job
        id: Option<String>,
        /// Wait until it has ended
        #[arg(long, requires = "id")]
        wait: bool,
    },
    /// Stop a job for a while
    Pause {
        /// The job
        id: String,
    },
    /// Let a paused job go on
    Resume {
        /// The job
        id: String,
    },
    /// End a job; what is registered or answered stays
    Cancel {
        /// The job
        id: String,
    },
    /// Forget a job that has ended, and its results
    Delete {
        /// The job
        id: String,
    },
    /// Fetch what became of each row, as JSON a line; of a job that resolves its answers
    Results {
        /// The job
        id: String,
        /// Where they go; - for standard output
        #[arg(long, value_name = "FILE", default_value = "-")]
        out: PathBuf,
        /// The file has the beginning of them already: fetch what follows. A file whose end is not found at its place in
        /// the results, or that is longer, is refused and stays as it is
        #[arg(long = "continue", requires = "out")]
        go_on: bool,
    },
}

#[derive(Debug, Args)]
struct Import {
    /// The file with the registrations, or - for standard input
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    /// The form of the file, where its name does not say it
    #[arg(long, value_enum)]
    input_form: Option<InputForm>,
    /// The charset of the file, such as gb18030; a byte order mark is believed first
    #[arg(long, default_value = "utf-8", value_name = "NAME")]
    charset: String,
    /// Only find out what would become of the rows
    #[arg(long)]
    dry_run: bool,
    /// All rows or none, as one change; up to 10,000 rows
    #[arg(long)]
    atomic: bool,
    /// Do not begin before the job is resumed
    #[arg(long)]
    paused: bool,
    /// The same key with the same file makes one job, however often it is handed over
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Do not wait until the job has ended
    #[arg(long)]
    no_wait: bool,
    /// Where the results go when it has
    #[arg(long, value_name = "FILE", conflicts_with = "no_wait")]
    results: Option<PathBuf>,
}

impl Bulk {
    pub(super) fn run(self) -> Result<(), Failed> {
        let desk = Desk {
            server: self.remote.server()?,
            patience: self.remote.timeout,
        };
        match &self.action {
            Action::Import(import) => import.run(&desk, self.output),
            Action::Status { id: None, .. } => list(&desk, self.output),
            Action::Status { id: Some(id), wait } => {
                let job = match wait {
                    true => follow(&desk, id)?,
                    false => call(&desk, Method::GET, &path(id)?)?,
                };
                show(&job, self.output)?;
                if *wait { verdict(&job) } else { Ok(()) }
            }
            Action::Pause { id } => self.steer(&desk, id, "pause"),
            Action::Resume { id } => self.steer(&desk, id, "resume"),
            Action::Cancel { id } => self.steer(&desk, id, "cancel"),
            Action::Delete { id } => call(&desk, Method::DELETE, &path(id)?).map(drop),
            Action::Results { id, out, go_on } => fetch(&desk, id, out, *go_on),
        }
    }

    fn steer(&self, desk: &Desk, id: &str, verb: &str) -> Result<(), Failed> {
        let job = call(desk, Method::POST, &format!("{}/{verb}", path(id)?))?;
        show(&job, self.output)
    }
}

impl Import {
    fn run(&self, desk: &Desk, output: Format) -> Result<(), Failed> {
        if Charset::named(&self.charset).is_none() {
            return Err(Failed::usage(format_args!(
                "--charset: {:?} is not known",
                self.charset
            )));
        }
        if let Some(out) = &self.results {
            files::apart(&self.file, out, "--results")?;
        }
        let (input, form) = self.open()?;
        let upload = Upload {
            form,
            charset: self.charset.clone(),
            dry: self.dry_run,
            atomic: self.atomic,
            paused: self.paused,
            key: self.idempotency_key.clone(),
        };
        let text = self.form()? != InputForm::Parquet;
        let size = fs::metadata(&self.file).ok().filter(|_| text);
        let size = size.filter(fs::Metadata::is_file).map(|size| size.len());
        let send = |sent| desk.hand_over(&upload, input, sent);
        let job = hand_over(&self.file, size, send)?;
        let id = job["id"].as_str().unwrap_or_default().to_owned();
        exit::say(format_args!("job {id}"));
        if self.no_wait || self.paused {
            return show(&job, output);
        }
        let job = follow(desk, &id)?;
        if let Some(out) = &self.results {
            fetch(desk, &id, out, false)?;
        }
        show(&job, output)?;
        verdict(&job)
    }

    fn form(&self) -> Result<InputForm, Failed> {
        let named = match self.file.extension().and_then(|end| end.to_str()) {
            Some("csv") => Some(InputForm::Csv),
            Some("ndjson" | "jsonl" | "json") => Some(InputForm::Ndjson),
            Some("parquet") => Some(InputForm::Parquet),
            _ => None,
        };
        let form = self.input_form.or(named);
        form.ok_or_else(|| {
            Failed::usage(
                "the name of the file does not say its form: give --input-form ndjson, csv or parquet",
            )
        })
    }

    /// The input as text, and its form.
    fn open(&self) -> Result<(Box<dyn Read + Send>, Form), Failed> {
        let named = |error| Failed::report(format_args!("{}: {error}", self.file.display()));
        let standard = self.file.as_os_str() == "-";
        let form = match self.form()? {
            InputForm::Parquet if standard => {
                return Err(Failed::usage(
                    "a Parquet file is read from its end: give the file, not standard input",
                ));
            }
            InputForm::Parquet => {
                let table = Registrations::open(&self.file).map_err(named)?;
                let form = table.form();
                return Ok((Box::new(table), form));
            }
            InputForm::Csv => Form::Csv,
            InputForm::Ndjson => Form::Ndjson,
        };
        match standard {
            true => Ok((Box::new(io::stdin()), form)),
            false => Ok((Box::new(File::open(&self.file).map_err(named)?), form)),
        }
    }
}

/// The form of a file with registrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum InputForm {
    /// One JSON object a line
    Ndjson,
    /// Comma-separated values
    Csv,
    /// A Parquet table: with the columns of CSV, or with a list "values" for each handle as batches write it
    Parquet,
}

/// Sends a file with `send`, and shows how many of its octets have gone, of how many where that is known.
pub(super) fn hand_over<F>(
    file: &Path,
    size: Option<u64>,
    send: impl FnOnce(Arc<AtomicU64>) -> F,
) -> Result<Json, Failed>
where
    F: Future<Output = Result<Json, AskError>>,
{
    let bar = match size {
        Some(size) => progress::bytes("handing over", size),
        None => progress::unknown("handing over"),
    };
    let sent = Arc::new(AtomicU64::new(0));
    let shown = async {
        loop {
            bar.set_position(sent.load(Relaxed));
            tokio::time::sleep(SHOW_INTERVAL).await;
        }
    };
    let handed = async {
        tokio::select! {
            done = send(Arc::clone(&sent)) => done,
            () = shown => Err(AskError::Cut),
        }
    };
    let done = target::block_on(handed);
    bar.finish_and_clear();
    done?.map_err(|error| match error {
        AskError::Input(error) => Failed::report(format_args!("{}: {error}", file.display())),
        error => failed(error),
    })
}

/// What follows the path of jobs for one of them.
fn path(id: &str) -> Result<String, Failed> {
    match !id.is_empty() && id.bytes().all(|octet| octet.is_ascii_alphanumeric()) {
        true => Ok(format!("/{id}")),
        false => Err(Failed::usage(format_args!("{id:?} is not the id of a job"))),
    }
}

fn call(desk: &Desk, method: Method, rest: &str) -> Result<Json, Failed> {
    target::block_on(desk.call(method, rest))?.map_err(failed)
}

fn failed(error: AskError) -> Failed {
    match error {
        AskError::Missing(_) => Failed::not_found(error),
        AskError::Output(error) => Failed::output("the output cannot be written", &error),
        error => Failed::report(error),
    }
}

/// Waits until a job has ended, or waits for somebody.
fn follow(desk: &Desk, id: &str) -> Result<Json, Failed> {
    let rest = path(id)?;
    let bar = progress::bytes("at work", 0);
    let begun = Instant::now();
    let (mut before, mut heard) = (None, begun);
    let done = loop {
        let job = match target::block_on(desk.call(Method::GET, &rest))? {
            Ok(job) => job,
            // The node may be starting anew; the job is safe there.
            Err(AskError::Connection(_) | AskError::Busy(_)) if heard.elapsed() < desk.patience => {
                std::thread::sleep(LOOK_INTERVAL);
                continue;
            }
            Err(error) => break Err(failed(error)),
        };
        heard = Instant::now();
        let first = *before.get_or_insert_with(|| rows(&job));
        draw(&bar, &job, first, begun);
        let state = job["state"].as_str().unwrap_or_default();
        if matches!(state, "done" | "failed" | "cancelled" | "paused") {
            break Ok(job);
        }
        std::thread::sleep(LOOK_INTERVAL);
    };
    bar.finish_and_clear();
    done
}

fn rows(job: &Json) -> u64 {
    job["rows"].as_u64().unwrap_or(0)
}

fn draw(bar: &ProgressBar, job: &Json, before: u64, begun: Instant) {
    bar.set_length(job["input"].as_u64().unwrap_or(0));
    bar.set_position(job["position"]["octet"].as_u64().unwrap_or(0));
    let rate =
        (rows(job) - before.min(rows(job))) as f64 / begun.elapsed().as_secs_f64().max(0.001);
    let state = job["state"].as_str().unwrap_or_default();
    bar.set_message(format!("{state}: {} rows, {rate:.0}/s", rows(job)));
}

/// Whether all rows came to something.
fn verdict(job: &Json) -> Result<(), Failed> {
    let count = |name: &str| job["counts"][name].as_u64().unwrap_or(0);
    if job["kind"] == "resolve" && job["state"] == "done" {
        let passing = Code::ALL.into_iter().filter(|code| code.is_passing());
        return match passing.map(|code| count(code.name())).sum::<u64>() {
            0 => Ok(()),
            1 => Err(Failed::report(
                "1 line was refused for now; its answer says why",
            )),
            refused => Err(Failed::report(format_args!(
                "{refused} lines were refused for now; their answers say why"
            ))),
        };
    }
    let bad = count("conflict") + count("refused") + count("invalid");
    match (job["state"].as_str().unwrap_or_default(), bad) {
        ("done", 0) => Ok(()),
        ("done", 1) => Err(Failed::report(
            "1 row is not registered; the results say which and why",
        )),
        ("done", bad) => Err(Failed::report(format_args!(
            "{bad} rows are not registered; the results say which and why"
        ))),
        (state, _) => Err(Failed::report(format_args!("the job is {state}"))),
    }
}

/// One job for people, or for programs.
fn show(job: &Json, output: Format) -> Result<(), Failed> {
    if output == Format::Json {
        return output::print_json(job);
    }
    output::print(&output::table(&HEADER, &[row(job)]))?;
    let message = job["reason"]["message"].as_str();
    message.map_or(Ok(()), |message| {
        output::print(&format!("{}\n", output::visible(message)))
    })
}

const HEADER: [&str; 12] = [
    "JOB",
    "KIND",
    "STATE",
    "UNTIL",
    "ROWS",
    "CREATED",
    "SAME",
    "CONFLICT",
    "REFUSED",
    "INVALID",
    "NOT-APPLIED",
    "EXPIRES",
];

fn row(job: &Json) -> Vec<String> {
    let text = |value: &Json| match value {
        Json::String(text) => output::visible(text),
        Json::Null => String::new(),
        other => other.to_string(),
    };
    let counts = &job["counts"];
    [
        &job["id"],
        &job["kind"],
        &job["state"],
        &job["until"],
        &job["rows"],
        &counts["created"],
        &counts["same"],
        &counts["conflict"],
        &counts["refused"],
        &counts["invalid"],
        &counts["notApplied"],
        &job["expires"],
    ]
    .map(text)
    .to_vec()
}

/// All jobs of the token.
fn list(desk: &Desk, output: Format) -> Result<(), Failed> {
    let mut all: Vec<Json> = Vec::new();
    let mut rest = "?limit=1000".to_owned();
    loop {
        let page = call(desk, Method::GET, &rest)?;
        all.extend(page["jobs"].as_array().into_iter().flatten().cloned());
        match page["next"].as_str() {
            Some(next) => rest = format!("?limit=1000&after={next}"),
            None => break,
        }
    }
    match output {
        Format::Json => output::print_json(&all.into()),
        Format::Table => {
            let rows: Vec<_> = all.iter().map(row).collect();
            output::print(&output::table(&HEADER, &rows))
        }
    }
}

/// Fetches results into a file, whose old contents stay until the first of them comes, or to standard output.
fn fetch(desk: &Desk, id: &str, out: &Path, go_on: bool) -> Result<(), Failed> {
    path(id)?;
    if out.as_os_str() == "-" {
        let mut out = io::stdout();
        let fetched = desk.results(id, 0, &[], &mut out);
        return target::block_on(fetched)?.map_err(failed);
    }
    let named = |error: io::Error| Failed::output(out.display(), &error);
    let (from, known) = match go_on {
        true => end_of(out).map_err(named)?,
        false => (0, Vec::new()),
    };
    let kept = from + known.len() as u64;
    let mut file = Late::open(out, kept, Box::new(|| Ok(()))).map_err(named)?;
    match target::block_on(desk.results(id, from, &known, &mut file))? {
        Ok(()) => file.begin().map_err(named),
        Err(error @ AskError::Differs(_)) => Err(Failed::report(format_args!(
            "{}: {error}, and stays as it is: fetch them without --continue, or into another file",
            out.display()
        ))),
        Err(error) => Err(failed(error)),
    }
}

/// The last octets of a file, and where they begin; nothing of one that does not exist yet.
fn end_of(path: &Path) -> io::Result<(u64, Vec<u8>)> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, Vec::new())),
        Err(error) => return Err(error),
    };
    let from = file.metadata()?.len().saturating_sub(KNOWN_MAX);
    let mut end = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.take(KNOWN_MAX).read_to_end(&mut end)?;
    Ok((from, end))
}
