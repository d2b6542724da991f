//! The thread of a batch: octets are read, looked up many at a time, and written.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiexi_proto::handle;
use jiexi_proto::message::resolution::ResolutionView;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{Receiver, Sender};

use super::flow::Halt;
use super::quota::{Share, Turn};
use super::streams::Stream;
use super::{App, Asked as Wanted};
use crate::batch::answer::{Code, Summary, Writer};
use crate::batch::coding::{Bounds, Compress, Decompress, Refused};
use crate::batch::input::{Asked, Input as Reader};
use crate::metrics::LookupResult;
use crate::resolver::{self, Answer, Filter, Query};
use crate::server::http::pool::Scratch;
use crate::store::Lookup;
use crate::token::Grant;

/// Identifiers that are looked up at once.
const GROUP: usize = 128;
/// Octets of answers that are sent at once, and from which a group is interrupted for that.
const PIECE: usize = 128 << 10;
const PIECE_MAX: usize = 1 << 20;

/// How long input of a batch that has failed is taken and thrown away, and the pause when there is none.
const DISCARDED_TIME: Duration = Duration::from_secs(5);
const DISCARDED_PAUSE: Duration = Duration::from_millis(5);

/// What comes in.
#[derive(Debug)]
pub(super) enum Input {
    /// A piece of the body.
    Text(Bytes),
    /// The body has ended.
    End,
    /// No more can be had.
    Failed(Failure),
}

/// Why a batch ends before its input does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The client sends nothing.
    Idle,
    /// The body was cut.
    Cut,
    /// The disk takes no more.
    Spool,
    /// The token's share of the disk is used up.
    SpoolFull,
    /// The token has ended.
    Revoked,
    /// The node stops.
    Stopping,
    /// See [`Refused`].
    Coding(Refused),
    /// The frame of the input is broken.
    Input(&'static str),
}

impl Failure {
    /// A stable name, and a reason for people.
    const fn said(self) -> (&'static str, &'static str) {
        match self {
            Self::Idle => ("timeout", "nothing was sent for too long"),
            Self::Cut => ("invalid_request", "the body ended early"),
            Self::Spool => ("server_error", "the input could not be kept on disk"),
            Self::SpoolFull => (
                "body_too_large",
                "the answers were not read, and no more input is kept for this token ([batch] spool_max)",
            ),
            Self::Revoked => ("token_not_valid", "the token has ended"),
            Self::Stopping => ("busy", "the node stops: go on when it is there again"),
            Self::Coding(Refused::Damaged) => (
                "invalid_request",
                "the compressed body is damaged, cut, or needs a window above 8 MiB",
            ),
            Self::Coding(Refused::Ratio) => (
                "body_too_large",
                "the body becomes too many times larger ([batch] ratio_max)",
            ),
            Self::Coding(Refused::Total) => (
                "body_too_large",
                "the input is longer than is accepted here ([batch] input_max)",
            ),
            Self::Input(reason) => ("invalid_request", reason),
        }
    }
}

/// A batch.
pub(super) struct Job {
    pub(super) app: Arc<App>,
    pub(super) grant: Grant,
    pub(super) asked: Wanted,
    pub(super) input: Receiver<Input>,
    pub(super) output: Sender<Bytes>,
    /// Set while answers are not taken.
    pub(super) stalled: Arc<AtomicBool>,
    pub(super) halt: Halt,
    /// Counts as long as this works.
    pub(super) _stream: Arc<Stream>,
}

/// The client is gone, or the compression failed: nobody is there to be told.
struct Gone;

/// Why the work stops.
enum Stop {
    Gone,
    Failed(Failure),
}

impl From<Gone> for Stop {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

/// The way out: compression, and the body of the answer.
struct Exit {
    compress: Compress,
    output: Sender<Bytes>,
    stalled: Arc<AtomicBool>,
    /// Whether the compression may hold something back.
    holds: bool,
}

impl Exit {
    fn send(&mut self, text: Vec<u8>, flush: bool) -> Result<(), Gone> {
        if text.is_empty() && !(flush && self.holds) {
            return Ok(());
        }
        self.holds = !flush;
        let octets = self.compress.pass(text, flush).map_err(|_| Gone)?;
        self.give(octets)
    }

    fn give(&self, octets: Vec<u8>) -> Result<(), Gone> {
        if octets.is_empty() {
            return Ok(());
        }
        self.stalled.store(true, Relaxed);
        let sent = self.output.blocking_send(octets.into());
        self.stalled.store(false, Relaxed);
        sent.map_err(|_| Gone)
    }
}

impl Job {
    /// Works until the input ends, fails, or nobody takes the answers.
    pub(super) fn run(mut self) {
        let coding = (
            Decompress::new(
                self.asked.coding,
                Bounds {
                    total: self.app.config.batch.input,
                    ratio: self.app.config.batch.ratio,
                },
            ),
            Compress::new(self.asked.output_coding),
        );
        let (Ok(mut decompress), Ok(compress)) = coding else {
            return;
        };
        let position = (
            self.app.shared.store.data_epoch(),
            self.app.shared.store.sequence(),
        );
        let mut exit = Exit {
            compress,
            output: self.output.clone(),
            stalled: Arc::clone(&self.stalled),
            holds: false,
        };
        let mut line = Line {
            reader: Reader::new(self.asked.form),
            asked: Asked::default(),
            writer: Writer::new(self.asked.output, self.asked.raw),
            share: Share::new(Arc::clone(&self.app.tokens), &self.grant.id),
            keys: Keys::default(),
        };
        let failure = match self.work(&mut decompress, &mut line, &mut exit) {
            Ok(()) => None,
            Err(Stop::Failed(failure)) => Some(failure.said()),
            Err(Stop::Gone) => return,
        };
        line.writer.summary(&Summary {
            position: Some(position),
            failure,
        });
        let last = line.writer.take();
        let told = exit.send(last, true);
        if failure.is_some() && told.is_ok() {
            self.discard();
        }
        if told.is_ok()
            && let Ok(rest) =
                std::mem::replace(&mut exit.compress, Compress::Identity(Vec::new())).finish()
        {
            let _ = exit.give(rest);
        }
    }

    /// Takes what a client still sends to a batch that has failed, for a while: many of them lose an answer that ends
    /// before they have sent everything.
    fn discard(&mut self) {
        let begun = Instant::now();
        while begun.elapsed() < DISCARDED_TIME && self.halt.why().is_none() {
            match self.input.try_recv() {
                Ok(Input::Text(_)) => {}
                Ok(Input::End | Input::Failed(_)) | Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => std::thread::sleep(DISCARDED_PAUSE),
            }
        }
    }

    fn work(
        &mut self,
        decompress: &mut Decompress,
        line: &mut Line,
        exit: &mut Exit,
    ) -> Result<(), Stop> {
        loop {
            let next = match self.input.try_recv() {
                Err(TryRecvError::Empty) => {
                    // Nothing waits: what is known is said before more is waited for.
                    exit.send(line.writer.take(), true)?;
                    self.input.blocking_recv()
                }
                next => next.ok(),
            };
            match next {
                Some(Input::Text(octets)) => self.text(&octets, decompress, line, exit)?,
                Some(Input::End) => return self.end(decompress, line, exit),
                Some(Input::Failed(failure)) => return Err(Stop::Failed(failure)),
                None => return Err(Stop::Gone),
            }
        }
    }

    fn text(
        &mut self,
        octets: &[u8],
        decompress: &mut Decompress,
        line: &mut Line,
        exit: &mut Exit,
    ) -> Result<(), Stop> {
        let mut done = Ok(());
        let fed = decompress.feed(octets, &mut |plain| {
            if done.is_ok() {
                done = self.plain(plain, false, line, exit);
            }
        });
        done?;
        fed.map_err(|refused| Stop::Failed(Failure::Coding(refused)))
    }

    fn end(
        &mut self,
        decompress: &mut Decompress,
        line: &mut Line,
        exit: &mut Exit,
    ) -> Result<(), Stop> {
        let mut done = Ok(());
        let fed = decompress.finish(&mut |plain| {
            if done.is_ok() {
                done = self.plain(plain, false, line, exit);
            }
        });
        done?;
        fed.map_err(|refused| Stop::Failed(Failure::Coding(refused)))?;
        self.plain(b"", true, line, exit)?;
        let whole = line.reader.finish(&mut line.asked);
        self.answer(line, exit)?;
        whole.map_err(|reason| Stop::Failed(Failure::Input(reason)))
    }

    /// Text before its charset is known.
    fn plain(
        &mut self,
        plain: &[u8],
        last: bool,
        line: &mut Line,
        exit: &mut Exit,
    ) -> Result<(), Stop> {
        let mut done = Ok(());
        let (app, grant, halt) = (&self.app, &self.grant, &self.halt);
        let (after, filter) = (self.asked.after, self.asked.filter.as_deref());
        self.asked.charset.decode(plain, last, &mut |text| {
            if done.is_ok() {
                line.reader.push(text, &mut line.asked);
                done = answer(app, grant, halt, after, filter, line, exit);
            }
        });
        done
    }

    fn answer(&self, line: &mut Line, exit: &mut Exit) -> Result<(), Stop> {
        let filter = self.asked.filter.as_deref();
        answer(
            &self.app,
            &self.grant,
            &self.halt,
            self.asked.after,
            filter,
            line,
            exit,
        )
    }
}

/// The parts of a batch that lines go through.
struct Line {
    reader: Reader,
    asked: Asked,
    writer: Writer,
    share: Share,
    keys: Keys,
}

/// Answers what was read.
fn answer(
    app: &App,
    grant: &Grant,
    halt: &Halt,
    after: u64,
    filter: Option<&[u8]>,
    line: &mut Line,
    exit: &mut Exit,
) -> Result<(), Stop> {
    let items = line.asked.items();
    let mut at = items.partition_point(|item| item.line <= after);
    while at < items.len() {
        if let Some(why) = halt.why() {
            return Err(Stop::Failed(why));
        }
        let end = items.len().min(at + GROUP);
        line.keys
            .prepare(app, grant, &mut line.share, &line.asked, at..end);
        while at < end {
            at += app.pool.with_authority(|scratch| {
                line.keys
                    .answer(scratch, filter, &line.asked, at..end, &mut line.writer)
            });
            // Nothing of the store is held while a client is waited for.
            if line.writer.len() >= PIECE {
                exit.send(line.writer.take(), false)?;
            }
        }
    }
    line.asked.clear();
    match line.reader.broken() {
        Some(reason) => Err(Stop::Failed(Failure::Input(reason))),
        None => Ok(()),
    }
}

/// What is to be done with a line.
#[derive(Clone, Debug)]
enum Plan {
    /// Look up the key that stands here.
    Find(Range<usize>),
    /// Say this, and when asking again makes sense.
    Say(Code, &'static str, Option<u32>),
}

/// The keys of a group, one after the other.
#[derive(Debug, Default)]
struct Keys {
    octets: Vec<u8>,
    plans: Vec<Plan>,
    first: usize,
}

impl Keys {
    /// Decides what is done with each line of a group.
    fn prepare(
        &mut self,
        app: &App,
        grant: &Grant,
        share: &mut Share,
        asked: &Asked,
        group: Range<usize>,
    ) {
        self.octets.clear();
        self.plans.clear();
        self.first = group.start;
        let case = app.shared.store.case();
        for item in &asked.items()[group] {
            let plan = match item.fault.map_or_else(|| share.take(), |_| Turn::Taken) {
                Turn::UsedUp(end) => Plan::Say(Code::Quota, "", Some(end)),
                Turn::Unavailable => Plan::Say(Code::Busy, "the quota cannot be counted now", None),
                Turn::Taken => match item.fault {
                    Some(fault) => Plan::Say(Code::InvalidHandle, fault.message(), None),
                    None => {
                        let start = self.octets.len();
                        let text = asked.handle(item).as_bytes();
                        handle::canonical(text, case, &mut self.octets);
                        let key = start..self.octets.len();
                        match grant.covers(&self.octets[key.clone()]) {
                            true => Plan::Find(key),
                            false => {
                                Plan::Say(Code::NotAllowed, "the token is for other prefixes", None)
                            }
                        }
                    }
                },
            };
            self.plans.push(plan);
        }
    }

    /// Answers lines of the group from one view of the store, until there is a piece; how many.
    fn answer(
        &self,
        scratch: &mut Scratch,
        filter: Option<&[u8]>,
        asked: &Asked,
        range: Range<usize>,
        writer: &mut Writer,
    ) -> usize {
        let plans = &self.plans[range.start - self.first..range.end - self.first];
        let mut keys = [&[][..]; GROUP];
        let mut count = 0;
        for plan in plans {
            if let Plan::Find(key) = plan {
                keys[count] = &self.octets[key.clone()];
                count += 1;
            }
        }
        let view = filter.and_then(|filter| ResolutionView::decode(filter).ok());
        let filter = view.map_or(Filter::All, |view| Filter::asked(view.indexes, view.types));
        let mut figures = [0_u64; 3];
        let session = scratch.reader.session();
        let mut found = [Lookup::Absent; GROUP];
        session.find(&keys[..count], &mut found);
        let (mut next, mut done) = (0, 0);
        for (item, plan) in asked.items()[range].iter().zip(plans) {
            done += 1;
            let text = asked.handle(item);
            match plan {
                Plan::Say(code, message, renewal) => {
                    writer.refused(item.line, text, *code, message, *renewal);
                }
                Plan::Find(_) => {
                    let query = Query {
                        key: keys[next],
                        filter,
                        public_only: true,
                        refer: false,
                    };
                    figures[match found[next] {
                        Lookup::Found(_) | Lookup::Damaged => 0,
                        Lookup::Absent => 1,
                        Lookup::Loading => 2,
                    }] += 1;
                    let said =
                        resolver::resolve(&scratch.authority, &session, &query, &found[next]);
                    say(&said, item.line, text, writer);
                    next += 1;
                }
            }
            if writer.len() >= PIECE_MAX {
                break;
            }
        }
        drop(session);
        for (result, count) in [LookupResult::Hit, LookupResult::Miss, LookupResult::Loading]
            .into_iter()
            .zip(figures)
        {
            scratch.count_many(result, count);
        }
        done
    }
}

/// Writes what the resolver says.
fn say(said: &Answer<'_, '_>, line: u64, handle: &str, writer: &mut Writer) {
    let (code, message) = match said {
        Answer::Values(selection) => {
            let values = selection.public().map(|entry| entry.wire);
            return writer.found(line, handle, values);
        }
        Answer::NoSuchHandle | Answer::PrefixReferral(_) => (Code::HandleNotFound, ""),
        // Nothing but public values is asked for here.
        Answer::NoSuchValue | Answer::NeedsAuthentication | Answer::Denied => {
            (Code::ValuesNotFound, "")
        }
        Answer::NotResponsible => (Code::NotResponsible, "this prefix is not homed here"),
        Answer::Loading => (Code::Busy, "still loading"),
        Answer::Damaged => (Code::Error, "the stored record is damaged"),
    };
    writer.refused(line, handle, code, message, None);
}
