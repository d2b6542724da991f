//! `jiexi batch`: many identifiers at once, out of a file and into a file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value as Json;

use super::files::{self, Draft, Late};
use super::remote::{self, Remote};
use super::{Failed, exit, jobs, output, progress, resolve, target};
use crate::ask::jobs::Desk;
use crate::ask::parquet;
use crate::ask::resume::{self, State, Whole};
use crate::ask::sink::Sink;
use crate::ask::{AskError, Plan, http, pipeline};
use crate::batch::answer::{Form as OutputForm, Tally};
use crate::batch::charset::Charset;
use crate::batch::input::Form as InputForm;
use crate::clock;

const EXAMPLES: &str = "\
Examples:
  jiexi batch resolve handles.txt --server https://id.example.cn:8000 --token-file token --out records.ndjson
  jiexi batch resolve parts.csv --type URL -o csv --out urls.csv --token-file token
  jiexi batch resolve parts.csv -o parquet --out records.parquet --token-file token
  jiexi batch resolve handles.txt --server handle://192.0.2.10 --out records.ndjson

Exit codes: 0 every line of the file has its answer, found or not; 1 not all have, or some were refused for now (quota,
busy): the same command goes on, and asks again from the first such line; 2 wrong command line.";

/// Ask for many handles at once
#[derive(Debug, Args)]
pub(super) struct Batch {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Resolve(Box<Resolve>),
    Submit(Box<Submit>),
}

impl Batch {
    pub(super) fn run(self) -> Result<(), Failed> {
        match self.action {
            Action::Resolve(resolve) => resolve.run(),
            Action::Submit(submit) => submit.run(),
        }
    }
}

/// Resolve every handle of a file, and write the records into another
///
/// A batch that was interrupted goes on where it was when the same command runs again, and one that had lines refused for now
/// (quota, busy) from the first of them: FILE.resume beside the output says so until every line has its answer. An input that
/// has changed meanwhile is refused. What the output had before stays until the first answer comes. A Parquet file cannot be
/// gone on with: it is there when it is complete (FILE.incomplete until then), and an interrupted one begins anew.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct Resolve {
    #[command(flatten)]
    wanted: Wanted,
    /// The server: http://, https:// (with an API token) or handle:// for the Handle protocol
    #[arg(
        long,
        short,
        default_value = "http://127.0.0.1:8000",
        value_name = "URL"
    )]
    server: String,
    /// Where the answers go; - for standard output, which cannot be gone on with
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: PathBuf,
    /// File with the API token, which has the right "batch"; without it the variable JIEXI_TOKEN. Some nodes need none
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Certificates in PEM to believe beside those of the machine, such as the node's own
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Let the answers come compressed with Zstandard: for slow networks
    #[arg(long)]
    zstd: bool,
    /// How long the server may neither take nor say anything
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = remote::patience)]
    timeout: Duration,
    /// Begin anew also where an interrupted batch could be gone on with
    #[arg(long)]
    restart: bool,
}

/// The form of the answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// One JSON object a line
    #[default]
    Ndjson,
    /// Comma-separated values, a row for each value
    Csv,
    /// A Parquet table, a row for each line with its values as a list
    Parquet,
}

impl Form {
    /// The form in which the node answers.
    const fn asked(self) -> OutputForm {
        match self {
            Self::Csv => OutputForm::Csv,
            Self::Ndjson | Self::Parquet => OutputForm::Ndjson,
        }
    }

    const fn media_type(self) -> &'static str {
        match self {
            Self::Parquet => parquet::MEDIA_TYPE,
            form => form.asked().media_type(),
        }
    }
}

/// What is asked, and how.
#[derive(Debug, Args)]
struct Wanted {
    /// The handles: one a line, NDJSON (.ndjson, .jsonl), a JSON array (.json) or CSV with a column "handle" (.csv); - for
    /// standard input
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    /// The form of the answers
    #[arg(long, short, value_enum, default_value_t)]
    output: Form,
    /// Only values of this type; "URL." also takes URL.x. May be repeated; types and indexes are a union
    #[arg(long = "type", short = 't', value_name = "TYPE")]
    types: Vec<String>,
    /// Only the value of this index. May be repeated
    #[arg(long = "index", short = 'i', value_name = "N", value_parser = clap::value_parser!(u32).range(1..1 << 31))]
    indexes: Vec<u32>,
    /// Restricted values, too: the token needs the right "resolve" and an identity that may read them
    #[arg(long)]
    restricted: bool,
    /// Handles at home elsewhere are asked there: the token needs the right "recursive", the node must be recursive. Not
    /// over handle://
    #[arg(long)]
    recursive: bool,
    /// The form of the input, where its name does not say it
    #[arg(long, value_enum)]
    input_form: Option<InputForm>,
    /// The charset of the input, such as gb18030; a byte order mark is believed first
    #[arg(long, default_value = "utf-8", value_name = "NAME")]
    charset: String,
    /// CSV exactly: without it a cell that a spreadsheet would compute begins with an apostrophe
    #[arg(long)]
    raw: bool,
}

impl Wanted {
    fn form(&self) -> InputForm {
        self.input_form.unwrap_or_else(|| {
            match self.file.extension().and_then(|end| end.to_str()) {
                Some("ndjson" | "jsonl") => InputForm::Ndjson,
                Some("json") => InputForm::Json,
                Some("csv") => InputForm::Csv,
                _ => InputForm::Lines,
            }
        })
    }

    fn plan(&self, patience: Duration) -> Result<Plan, Failed> {
        if Charset::named(&self.charset).is_none() {
            return Err(Failed::usage(format_args!(
                "--charset: {:?} is not known",
                self.charset
            )));
        }
        Ok(Plan {
            input: (self.file.as_os_str() != "-").then(|| self.file.clone()),
            form: self.form(),
            charset: self.charset.clone(),
            output: self.output.asked(),
            raw: self.raw,
            types: self.types.clone(),
            indexes: self.indexes.clone(),
            restricted: self.restricted,
            recursive: self.recursive,
            after: 0,
            patience,
        })
    }
}

const SUBMIT_EXAMPLES: &str = "\
Examples:
  jiexi batch submit handles.txt --server https://id.example.cn:8000 --token-file token
  jiexi bulk status 6927a1b20c5d11ee --wait --server https://id.example.cn:8000 --token-file token
  jiexi bulk results 6927a1b20c5d11ee --out all.ndjson --server https://id.example.cn:8000 --token-file token

Exit codes: 0 handed over; 1 not; 2 wrong command line.";

/// Hand every handle of a file over to be resolved as a job, and print the job
///
/// The node resolves them in the background, goes on after a restart, and waits where the token's quota is used up.
/// "jiexi bulk status|pause|resume|cancel|results|delete" are for such jobs as well; the answers are kept for seven days,
/// and end with a summary when they are complete.
#[derive(Debug, Args)]
#[command(after_help = SUBMIT_EXAMPLES)]
struct Submit {
    #[command(flatten)]
    wanted: Wanted,
    #[command(flatten)]
    remote: Remote,
    /// The same key with the same file makes one job, however often it is handed over
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

impl Submit {
    fn run(self) -> Result<(), Failed> {
        let plan = self.wanted.plan(self.remote.timeout)?;
        if self.wanted.output == Form::Parquet {
            return Err(Failed::usage(
                "-o parquet: the node keeps answers as NDJSON or CSV; jiexi batch resolve makes tables of them",
            ));
        }
        let desk = Desk {
            server: self.remote.server()?,
            patience: self.remote.timeout,
        };
        let key = self.idempotency_key.as_deref();
        let size = fs::metadata(&self.wanted.file).ok();
        let size = size.filter(fs::Metadata::is_file).map(|size| size.len());
        let send = |sent| desk.submit(&plan, key, sent);
        let job = jobs::hand_over(&self.wanted.file, size, send)?;
        output::print(&format!("{}\n", job["id"].as_str().unwrap_or_default()))
    }
}

/// Where the batch is asked.
enum Way {
    Http(http::Server),
    Handle(String),
}

/// Lines in all (none: not known), the state to keep beside the output, and what is answered already.
struct Course {
    total: Option<u64>,
    state: Option<State>,
    before: Whole,
    plan: Plan,
}

/// Where the answers go.
enum Place {
    Standard,
    File(Late),
    Table(Draft),
}

impl Resolve {
    fn run(self) -> Result<(), Failed> {
        let plan = self.wanted.plan(self.timeout)?;
        if self.wanted.output == Form::Parquet && self.file_out().is_none() {
            return Err(Failed::usage("-o parquet: give --out FILE"));
        }
        if let Some(out) = self.file_out() {
            files::apart(&self.wanted.file, out, "--out")?;
        }
        let way = self.way()?;
        let course = self.course(plan)?;
        let (mut sink, mut place) = self.open(&course)?;
        let bar = match course.total {
            Some(total) => progress::records("resolving", total),
            None => progress::unknown("resolving"),
        };
        bar.set_position(course.plan.after);
        let mut watch = |sink: &Sink| bar.set_position(sink.line());
        let begun = Instant::now();
        let summary = self.ask(way, &course.plan, &mut sink, &mut watch);
        bar.finish_and_clear();
        match summary {
            Ok(summary) => {
                if summary["complete"] == true {
                    let completed = match &mut place {
                        Place::Standard => Ok(()),
                        // Also where there was nothing to answer.
                        Place::File(file) => file.begin(),
                        Place::Table(draft) => draft.finish(&summary),
                    };
                    completed.map_err(|error| Failed::output(self.out.display(), &error))?;
                }
                self.end(&summary, &course, begun.elapsed())
            }
            Err(error) => {
                // What was written is whole lines; the next run reads them.
                let _ = sink.finish();
                Err(self.interrupted(&error))
            }
        }
    }

    fn way(&self) -> Result<Way, Failed> {
        if let Some(place) = self.server.strip_prefix("handle://") {
            if self.wanted.restricted {
                return Err(Failed::usage(
                    "--restricted: over the Handle protocol a batch has public values only; ask over https://",
                ));
            }
            if self.wanted.recursive {
                return Err(Failed::usage(
                    "--recursive: over the Handle protocol a batch asks nobody elsewhere; ask over https://, with a token that may",
                ));
            }
            return Ok(Way::Handle(place.trim_end_matches('/').to_owned()));
        }
        let such = "https://id.example.cn:8000 or handle://192.0.2.10";
        Ok(Way::Http(http::Server {
            url: remote::url(&self.server, such)?,
            token: remote::token_if_any(self.token_file.as_deref())?,
            authority: self.ca.clone(),
            zstd: self.zstd,
        }))
    }

    /// What is asked, and from where: from the beginning, or behind what an interrupted run has written.
    fn course(&self, mut plan: Plan) -> Result<Course, Failed> {
        let Some(input) = &plan.input else {
            return Ok(Course {
                total: None,
                state: None,
                before: Whole::default(),
                plan,
            });
        };
        let named = |error| Failed::report(format_args!("{}: {error}", input.display()));
        let (hash, lines) = resume::fingerprint(input).map_err(named)?;
        let total = (plan.form != InputForm::Json).then_some(lines);
        let Some(out) = self.file_out() else {
            return Ok(Course {
                total,
                state: None,
                before: Whole::default(),
                plan,
            });
        };
        let state = State {
            input: hash,
            asked: self.question(),
            ended: false,
        };
        let mut whole = Whole::default();
        let shown =
            |error| Failed::report(format_args!("{}: {error}", resume::path(out).display()));
        let begun_before = State::read(out).map_err(shown)?;
        if let Some(before) = begun_before.filter(|_| !self.restart && out.exists()) {
            let differs = match (before.input == state.input, before.asked == state.asked) {
                (false, _) => "the input has changed since",
                (_, false) => "it was asked otherwise (server, form, filters)",
                _ => "",
            };
            if !differs.is_empty() {
                return Err(Failed::report(format_args!(
                    "{} is of an interrupted batch, and {differs}: give --restart to begin anew, or another --out",
                    out.display()
                )));
            }
            whole = resume::whole(out, plan.output, before.ended).map_err(shown)?;
            plan.after = whole.line;
        }
        Ok(Course {
            total,
            state: Some(state),
            before: whole,
            plan,
        })
    }

    /// What makes two runs the same batch.
    fn question(&self) -> String {
        let wanted = &self.wanted;
        let parts = (
            &self.server,
            wanted.form().media_type(),
            &wanted.charset,
            wanted.output.media_type(),
        );
        let restricted = if wanted.restricted { " restricted" } else { "" };
        let recursive = if wanted.recursive { " recursive" } else { "" };
        format!(
            "{parts:?} {:?} {:?} {}{restricted}{recursive}",
            wanted.types, wanted.indexes, wanted.raw
        )
    }

    /// Opens the output: a file that will be cut to what is whole, or one that becomes a table.
    fn open(&self, course: &Course) -> Result<(Sink, Place), Failed> {
        let form = course.plan.output;
        let Some(out) = self.file_out() else {
            let sink = Sink::new(Box::new(io::stdout()), form, 0, 0);
            return Ok((sink, Place::Standard));
        };
        let named = |error: io::Error| Failed::output(out.display(), &error);
        if self.wanted.output == Form::Parquet {
            let draft = Draft::new(out).map_err(named)?;
            let sink = Sink::new(Box::new(draft.table.clone()), form, 0, 0);
            return Ok((sink, Place::Table(draft)));
        }
        let Whole { line, octets, .. } = course.before;
        let (beside, state) = (out.to_owned(), course.state.clone());
        let first = move || match state {
            Some(state) => state.write(&beside),
            // What was begun otherwise here cannot be gone on with any more.
            None => forget(&beside),
        };
        let file = Late::open(out, octets, Box::new(first)).map_err(named)?;
        if line > 0 {
            exit::say(format_args!("going on after line {line}"));
        }
        let sink = Sink::new(Box::new(file.clone()), form, line, octets);
        Ok((sink, Place::File(file)))
    }

    fn file_out(&self) -> Option<&Path> {
        (self.out.as_os_str() != "-").then_some(&*self.out)
    }

    fn ask(
        &self,
        way: Way,
        plan: &Plan,
        sink: &mut Sink,
        watch: &mut (dyn FnMut(&Sink) + Send),
    ) -> Result<Json, AskError> {
        let stopped = |_| AskError::Connection("cannot start".to_owned());
        match way {
            Way::Http(server) => {
                let asked =
                    target::block_on(http::ask(plan, &server, sink, watch)).map_err(stopped)?;
                asked?.ok_or(AskError::Cut)
            }
            Way::Handle(place) => {
                let found = target::block_on(resolve::address(&place)).map_err(stopped)?;
                let address = found.map_err(|_| AskError::Server("cannot be found".to_owned()))?;
                let tally = pipeline::ask(plan, address, clock::unix_seconds(), sink, watch)?;
                Ok(summary_of(&tally))
            }
        }
    }

    /// The answers have their end: is it all?
    fn end(&self, summary: &Json, course: &Course, took: Duration) -> Result<(), Failed> {
        let lines = summary["lines"].as_u64().unwrap_or(0);
        let now: Tally = serde_json::from_value(summary["codes"].clone()).unwrap_or_default();
        let all = course.before.tally.plus(&now);
        let counted = all.counted().map(|(name, count)| format!("{name} {count}"));
        let counted: Vec<String> = counted.collect();
        let seconds = took.as_secs_f64();
        let rate = lines as f64 / seconds.max(0.001);
        let how_many = match course.before.tally.lines() {
            0 => format!("{lines} lines"),
            before => format!("{} lines, {lines} of them now", before + lines),
        };
        exit::say(format_args!(
            "{how_many} in {seconds:.1} s ({rate:.0}/s): {}",
            counted.join(", ")
        ));
        if summary["complete"] != true {
            let message = summary["message"]
                .as_str()
                .unwrap_or("the server ended it early");
            return Err(self.interrupted(&AskError::Refused(message.to_owned())));
        }
        self.remember(course, all.passing() > 0);
        let which = match all.passing() {
            0 => return Ok(()),
            1 => "1 line was refused for now; its answer says why and until when".to_owned(),
            many => {
                format!("{many} lines were refused for now; their answers say why and until when")
            }
        };
        let next = match self.can_go_on() {
            true => "\nThe same command asks again from the first of them.",
            false => "",
        };
        Err(Failed::report(format_args!("{which}{next}")))
    }

    /// Every line was asked: what stays beside the output is that some are to be asked again.
    fn remember(&self, course: &Course, again: bool) {
        let Some(out) = self.file_out() else { return };
        let state = course.state.clone();
        let state = state.filter(|_| again && self.wanted.output != Form::Parquet);
        // That of the first answer is there still where this fails, and tells of the quota as well.
        let _ = match state {
            Some(state) => State {
                ended: true,
                ..state
            }
            .write(out),
            None => forget(out),
        };
    }

    /// Whether the same command goes on, and does not begin anew.
    fn can_go_on(&self) -> bool {
        self.file_out()
            .is_some_and(|out| resume::path(out).exists())
    }

    fn interrupted(&self, error: &AskError) -> Failed {
        if let AskError::Output(error) = error
            && error.kind() == io::ErrorKind::BrokenPipe
        {
            return Failed::output("the output cannot be written", error);
        }
        match self.can_go_on() {
            _ if self.wanted.output == Form::Parquet => Failed::report(format_args!(
                "{error}\nA Parquet file is there whole or not at all: the same command begins anew."
            )),
            true => Failed::report(format_args!(
                "{error}\nThe same command goes on from there."
            )),
            false => Failed::report(error),
        }
    }
}

/// A summary of what was counted here.
fn summary_of(tally: &Tally) -> Json {
    serde_json::json!({
        "complete": true,
        "lines": tally.lines(),
        "codes": tally,
    })
}

/// Nothing is left to go on with beside an output.
fn forget(out: &Path) -> io::Result<()> {
    match fs::remove_file(resume::path(out)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
