//! A job of questions at work: what a batch does while its client waits, into the results.
//!
//! The input is read from its beginning, whatever was answered before: its forms have no places in them where reading could
//! begin, and reading is cheap. What was asked behind the last position that is durable is asked and counted again after a
//! kill, and its answers are written anew where the durable ones end.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::record::{Job, Questions};
use super::shelf::Claim;
use super::work::{Stop, grant, look, may_go_on, missing, results};
use crate::batch::answer::{Summary, Writer};
use crate::batch::input::Input;
use crate::clock;
use crate::server::http::App;
use crate::server::http::batch::{
    self, Elsewhere, Failure, Origin, Progress, Question, Rest, Share, Way,
};

/// Octets of input that are read at once.
const PIECE: usize = 128 << 10;
/// After so many octets of results, or so long, the position is made durable.
const STORE_OCTETS: u64 = 8 << 20;
const STORE_TIME: Duration = Duration::from_secs(1);

/// Answers until the input ends; the job as it is then.
///
/// # Errors
/// Why it is not worked on any longer; what is answered is durable.
pub(super) fn work(app: &App, claim: &Claim, job: Job, mut asked: Questions) -> Result<Job, Stop> {
    let grant = grant(app, &job)?;
    may_go_on(app, &job)?;
    let store = &app.shared.store;
    let seen = (store.data_epoch(), store.sequence());
    asked.seen.get_or_insert(seen);
    let mut page = Page::new(app, claim, job, asked)?;
    let input = File::open(claim.entry.file("input")).map_err(|error| missing(&error))?;
    let asked = page.asked.clone();
    let reader = asked.restricted.then(|| app.registry.vouch_token(&grant));
    let question = Question {
        app,
        grant: Some(&grant),
        origin: Origin {
            client: page.job.source,
            tls: page.job.tls,
        },
        after: page.job.position.line - 1,
        filter: asked.filter.as_deref(),
        reader: reader.as_ref(),
        elsewhere: asked
            .recursive
            .then(|| Elsewhere::new(app, page.job.source, asked.filter.as_deref()))
            .flatten(),
        waits: true,
    };
    let writer = match page.job.results {
        0 => Writer::new(asked.output, asked.raw),
        _ => Writer::going_on(asked.output, asked.raw, asked.tally),
    };
    let share = Share::new(Arc::clone(&app.tokens), &page.job.token);
    let mut rest = Rest::new(Input::new(page.job.form), writer, share);
    rest.elsewhere = asked.elsewhere;
    match answer(input, &question, &mut rest, &mut page) {
        Ok(()) => {
            rest.writer.summary(&Summary {
                position: asked.seen,
                failure: None,
            });
            rest.pass(true, &mut page)
                .and_then(|()| page.sync())
                .map_err(|stop| page.stop(stop))?;
            Ok(page.stored_next())
        }
        Err(stop) => Err(page.end(&mut rest, stop)),
    }
}

/// Reads the input to its end.
fn answer(
    mut input: File,
    question: &Question<'_>,
    rest: &mut Rest,
    page: &mut Page<'_>,
) -> Result<(), batch::Stop> {
    let mut piece = vec![0; PIECE];
    loop {
        let count = match input.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(|error| page.broken(Stop::disk(&error)))?,
        };
        if count == 0 {
            break;
        }
        // Also while nothing is to be answered anew.
        page.go_on()?;
        page.job.position.octet += count as u64;
        rest.reader.push(&piece[..count], &mut rest.asked);
        question.answer(rest, page)?;
    }
    let whole = rest.reader.finish(&mut rest.asked);
    question.answer(rest, page)?;
    whole.map_err(|reason| batch::Stop::Failed(Failure::Input(reason)))
}

/// The results, and the job as it will be when they are durable.
struct Page<'p> {
    app: &'p App,
    claim: &'p Claim,
    file: File,
    job: Job,
    asked: Questions,
    /// Octets of results when the position was made durable, and when that was.
    stored: (u64, Instant),
    /// Octets of results that found room then.
    room: u64,
    /// Why no more answers are taken.
    why: Option<Stop>,
}

impl<'p> Page<'p> {
    fn new(app: &'p App, claim: &'p Claim, mut job: Job, asked: Questions) -> Result<Self, Stop> {
        let file = results(&claim.entry, &job)?;
        job.started.get_or_insert_with(clock::unix_seconds);
        // It is read from its beginning.
        job.position.octet = 0;
        Ok(Self {
            app,
            claim,
            file,
            stored: (job.results, Instant::now()),
            room: room(app, &job),
            job,
            asked,
            why: None,
        })
    }

    /// Takes no more answers, and remembers why.
    fn broken(&mut self, why: Stop) -> batch::Stop {
        self.why = Some(why);
        batch::Stop::Gone
    }

    fn sync(&mut self) -> Result<(), batch::Stop> {
        let synced = self.file.sync_data();
        synced.map_err(|error| self.broken(Stop::disk(&error)))
    }

    /// The job with what was answered.
    fn stored_next(&self) -> Job {
        Job {
            questions: Some(self.asked.clone()),
            ..self.job.clone()
        }
    }

    /// Makes the position durable, and looks whether there may be more.
    fn store(&mut self) -> Result<(), batch::Stop> {
        self.sync()?;
        let job = self.stored_next();
        let stored = self.app.jobs.store(&self.claim.entry, job);
        stored.map_err(|error| self.broken(Stop::store(&error)))?;
        self.stored = (self.job.results, Instant::now());
        self.room = room(self.app, &self.job);
        may_go_on(self.app, &self.job).map_err(|stop| self.broken(stop))
    }

    /// Why the work ends; what was answered until then is made durable, where that can be.
    fn end(&mut self, rest: &mut Rest, stop: batch::Stop) -> Stop {
        let stop = self.stop(stop);
        // Of a disk or store that takes nothing the next turn finds out.
        if rest.pass(true, self).is_ok() {
            let _ = self.store();
        }
        stop
    }

    fn stop(&mut self, stop: batch::Stop) -> Stop {
        match stop {
            batch::Stop::Gone => self
                .why
                .take()
                .unwrap_or_else(|| Stop::busy("the node cannot answer now")),
            batch::Stop::Quota(renewal) => Stop::quota(renewal),
            batch::Stop::Failed(Failure::Uncounted) => {
                Stop::busy("the store takes no changes now, and the quota cannot be counted")
            }
            batch::Stop::Failed(failure) => {
                let (code, message) = failure.said();
                Stop::failed(code, message)
            }
        }
    }
}

/// Octets that the token of a job may have on the disk beside what it has.
fn room(app: &App, job: &Job) -> u64 {
    let limit = app.jobs.limits.disk;
    limit.saturating_sub(app.jobs.used(&job.token))
}

impl Way for Page<'_> {
    fn pass(&mut self, text: Vec<u8>, _: bool, progress: Progress<'_>) -> Result<(), batch::Stop> {
        let written = self.file.write_all_at(&text, self.job.results);
        written.map_err(|error| self.broken(Stop::disk(&error)))?;
        if !text.is_empty() {
            self.job.results += text.len() as u64;
            self.job.touched = clock::unix_seconds();
        }
        self.asked.tally = *progress.tally;
        self.asked.elsewhere = progress.elsewhere;
        let next = progress.line.saturating_add(1);
        self.job.position.line = self.job.position.line.max(next);
        let (before, time) = self.stored;
        let octets = self.job.results - before;
        match octets >= STORE_OCTETS.min(self.room + 1) || time.elapsed() >= STORE_TIME {
            true => self.store(),
            false => Ok(()),
        }
    }

    fn go_on(&mut self) -> Result<(), batch::Stop> {
        look(self.app, self.claim).map_err(|stop| self.broken(stop))
    }
}
