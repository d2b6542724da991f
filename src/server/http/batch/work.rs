//! The thread of a batch: octets are read, looked up many at a time, and written.
//!
//! [`Question`] is the part that jobs have in common with it: what was read is answered, wherever the answers go ([`Way`]).

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiexi_proto::handle;
use jiexi_proto::message::resolution::ResolutionView;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{Receiver, Sender};

use super::elsewhere::{self, AT_ONCE, Elsewhere};
use super::flow::Halt;
use super::quota::{Allowed, Share};
use super::streams::Stream;
use super::{App, Asked as Wanted, By};
use crate::batch::answer::{Code, Summary, Tally, Writer};
use crate::batch::charset::Decode;
use crate::batch::coding::{Bounds, Compress, Decompress, Refused};
use crate::batch::input::{Asked, Input as Reader, Item};
use crate::clock::Now;
use crate::history::{Event, Pen};
use crate::metrics::{Cell, LookupResult, Op, Outcome};
use crate::registry::{Authenticated, NOT_HOMED};
use crate::resolver::{self, Answer, Authority, Filter, Query, Selection};
use crate::server::forward::Told;
use crate::server::handle::{lookup_result, outcome_of};
use crate::server::http::answer::Refusal;
use crate::server::http::handles::{self, Asker, Found};
use crate::server::http::pool::Scratch;
use crate::store::Lookup;
use crate::token::{self, Grant};

/// Identifiers that are looked up at once.
const GROUP: usize = 128;
/// Octets of answers that are sent at once, and from which a group is interrupted for that.
const PIECE: usize = 128 << 10;
const PIECE_MAX: usize = 1 << 20;

/// How long a store that takes no changes is waited for when a quota is to be counted, and the first and the longest pause.
const QUOTA_TIME: Duration = Duration::from_secs(10);
const QUOTA_PAUSE: Duration = Duration::from_millis(10);
const QUOTA_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long the log of resolutions is waited for, and the pause between two looks.
const LOG_TIME: Duration = Duration::from_secs(1);
const LOG_PAUSE: Duration = Duration::from_millis(1);
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
pub(in super::super) enum Failure {
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
    /// The store takes no writes, and so the quota cannot be counted.
    Uncounted,
    /// See [`Refused`].
    Coding(Refused),
    /// The frame of the input is broken.
    Input(&'static str),
}

impl Failure {
    /// A stable name, and a reason for people.
    pub(in super::super) const fn said(self) -> (&'static str, &'static str) {
        match self {
            Self::Idle => ("timeout", "nothing was sent for too long"),
            Self::Cut => ("invalid_request", "the body ended early"),
            Self::Spool => ("server_error", "the input could not be kept on disk"),
            Self::SpoolFull => (
                "body_too_large",
                "the answers were not read, and no more input is kept for this token ([batch] spool_max)",
            ),
            Self::Revoked => ("token_not_valid", "the token has ended"),
            Self::Uncounted => (
                "busy",
                "the store takes no changes now, and the quota cannot be counted",
            ),
            Self::Stopping => ("busy", "the node stops: go on when it is there again"),
            Self::Coding(refused) => match (refused.said(), refused) {
                (Some(wrong), _) => ("invalid_request", wrong),
                (None, Refused::Ratio) => (
                    "body_too_large",
                    "the body becomes too many times larger ([batch] ratio_max)",
                ),
                (None, _) => (
                    "body_too_large",
                    "the input is longer than is accepted here ([batch] input_max)",
                ),
            },
            Self::Input(reason) => ("invalid_request", reason),
        }
    }
}

/// Where a batch comes from, for what is counted and remembered.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Origin {
    pub(in super::super) client: IpAddr,
    pub(in super::super) tls: bool,
}

/// A batch.
pub(super) struct Job {
    pub(super) app: Arc<App>,
    pub(super) by: By,
    pub(super) asked: Wanted,
    pub(super) input: Receiver<Input>,
    pub(super) output: Sender<Bytes>,
    /// Set while answers are not taken.
    pub(super) stalled: Arc<AtomicBool>,
    pub(super) halt: Halt,
    pub(super) origin: Origin,
    /// Who asks for restricted values, if anybody does.
    pub(super) reader: Option<Authenticated>,
    /// Counts as long as this works.
    pub(super) _stream: Arc<Stream>,
}

/// The client is gone, or the compression failed: nobody is there to be told.
struct Gone;

/// Why the work stops.
pub(in super::super) enum Stop {
    /// Nobody takes the answers.
    Gone,
    /// The quota of the token is used up until then (Unix seconds); said only to those who wait for it.
    Quota(u32),
    /// See [`Failure`].
    Failed(Failure),
}

impl From<Gone> for Stop {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

/// Where answers go.
pub(in super::super) trait Way {
    /// Takes answers, whole lines of them. `flush`: more may take a while.
    ///
    /// # Errors
    /// No more are taken.
    fn pass(&mut self, text: Vec<u8>, flush: bool, progress: Progress<'_>) -> Result<(), Stop>;

    /// Why the work is to stop, if it is.
    ///
    /// # Errors
    /// That reason.
    fn go_on(&mut self) -> Result<(), Stop>;
}

/// What the answers that were passed on are about.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Progress<'p> {
    /// The last line that has its answer.
    pub(in super::super) line: u64,
    /// What was counted up to there.
    pub(in super::super) tally: &'p Tally,
    /// Handles that were asked elsewhere.
    pub(in super::super) elsewhere: u64,
}

/// The way out: compression, and the body of the answer.
struct Exit {
    compress: Compress,
    output: Sender<Bytes>,
    stalled: Arc<AtomicBool>,
    halt: Halt,
    /// Whether the compression may hold something back.
    holds: bool,
}

impl Way for Exit {
    fn pass(&mut self, text: Vec<u8>, flush: bool, _: Progress<'_>) -> Result<(), Stop> {
        Ok(self.send(text, flush)?)
    }

    fn go_on(&mut self) -> Result<(), Stop> {
        match self.halt.why() {
            Some(why) => Err(Stop::Failed(why)),
            None if self.output.is_closed() => Err(Stop::Gone),
            None => Ok(()),
        }
    }
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
            halt: self.halt.clone(),
            holds: false,
        };
        let mut line = Line {
            decode: Decode::new(self.asked.charset),
            rest: Rest::new(
                Reader::new(self.asked.form),
                Writer::new(self.asked.output, self.asked.raw),
                match &self.by {
                    By::Token(grant) => Share::new(Arc::clone(&self.app.tokens), &grant.id),
                    By::Anybody(source) => Share::Network(Arc::clone(&self.app.shared), *source),
                },
            ),
        };
        let failure = match self.work(&mut decompress, &mut line, &mut exit) {
            Ok(()) => None,
            Err(Stop::Failed(failure)) => Some(failure.said()),
            Err(Stop::Gone | Stop::Quota(_)) => return,
        };
        line.rest.writer.summary(&Summary {
            position: Some(position),
            failure,
        });
        let last = line.rest.writer.take();
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
                    exit.send(line.rest.writer.take(), true)?;
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
        let whole = line.rest.reader.finish(&mut line.rest.asked);
        self.question().answer(&mut line.rest, exit)?;
        whole.map_err(|reason| Stop::Failed(Failure::Input(reason)))
    }

    /// Text in the charset of the input.
    fn plain(
        &self,
        plain: &[u8],
        last: bool,
        line: &mut Line,
        exit: &mut Exit,
    ) -> Result<(), Stop> {
        let (mut done, question) = (Ok(()), self.question());
        let Line { decode, rest } = line;
        decode.decode(plain, last, &mut |text| {
            if done.is_ok() {
                rest.reader.push(text, &mut rest.asked);
                done = question.answer(rest, exit);
            }
        });
        done
    }

    fn elsewhere(&self) -> Option<Elsewhere<'_>> {
        let filter = self.asked.filter.as_deref();
        let recursive = self.asked.recursive;
        recursive
            .then(|| Elsewhere::new(&self.app, self.origin.client, filter))
            .flatten()
    }

    fn question(&self) -> Question<'_> {
        Question {
            app: &self.app,
            grant: self.by.grant(),
            origin: self.origin,
            after: self.asked.after,
            filter: self.asked.filter.as_deref(),
            reader: self.reader.as_ref(),
            elsewhere: self.elsewhere(),
            waits: false,
        }
    }
}

/// The parts of a batch that its text goes through.
struct Line {
    decode: Decode,
    rest: Rest,
}

/// Those behind the charset.
pub(in super::super) struct Rest {
    pub(in super::super) reader: Reader,
    pub(in super::super) asked: Asked,
    pub(in super::super) writer: Writer,
    share: Share,
    keys: Keys,
    /// The last line that was answered.
    line: u64,
    /// Handles that were asked elsewhere.
    pub(in super::super) elsewhere: u64,
}

impl Rest {
    /// For an input from its beginning.
    pub(in super::super) fn new(reader: Reader, writer: Writer, share: Share) -> Self {
        Self {
            reader,
            asked: Asked::default(),
            writer,
            share,
            keys: Keys::default(),
            line: 0,
            elsewhere: 0,
        }
    }

    /// Passes on what is written.
    pub(in super::super) fn pass(&mut self, flush: bool, way: &mut impl Way) -> Result<(), Stop> {
        let text = self.writer.take();
        let progress = Progress {
            line: self.line,
            tally: self.writer.tally(),
            elsewhere: self.elsewhere,
        };
        way.pass(text, flush, progress)
    }
}

/// What is the same for all lines.
pub(in super::super) struct Question<'q> {
    pub(in super::super) app: &'q App,
    /// The token; none: anybody asks.
    pub(in super::super) grant: Option<&'q Grant>,
    pub(in super::super) origin: Origin,
    /// Lines up to this one were answered before.
    pub(in super::super) after: u64,
    pub(in super::super) filter: Option<&'q [u8]>,
    /// Who asks for restricted values, if anybody does.
    pub(in super::super) reader: Option<&'q Authenticated>,
    /// How handles at home elsewhere are asked there; none: they are not.
    pub(in super::super) elsewhere: Option<Elsewhere<'q>>,
    /// Lines for which the quota is used up are not refused, but wait for its renewal.
    pub(in super::super) waits: bool,
}

impl Question<'_> {
    /// Answers what was read.
    pub(in super::super) fn answer(&self, line: &mut Rest, way: &mut impl Way) -> Result<(), Stop> {
        let items = line.asked.items();
        let mut at = items.partition_point(|item| item.line <= self.after);
        let count = items.len();
        while at < count {
            way.go_on()?;
            let group = match self.elsewhere {
                Some(_) => AT_ONCE,
                None => GROUP,
            };
            let mut end = count.min(at + group);
            let wanted = named(&line.asked.items()[at..end]);
            let allowed = match self.take(&mut line.share, wanted) {
                Some(taken) => taken?,
                None => {
                    // What is answered does not wait for what cannot be counted now.
                    line.pass(true, way)?;
                    self.take_later(&mut line.share, wanted, way)?
                }
            };
            let short = self.waits && allowed.lines < wanted;
            if short {
                end = at + affordable(&line.asked.items()[at..end], allowed.lines);
            }
            self.answer_group(allowed, at..end, line, way)?;
            if short {
                return Err(Stop::Quota(allowed.renewal));
            }
            at = end;
        }
        line.asked.clear();
        match line.reader.broken() {
            Some(reason) => Err(Stop::Failed(Failure::Input(reason))),
            None => Ok(()),
        }
    }

    /// Answers some lines, whose quota is taken.
    fn answer_group(
        &self,
        allowed: Allowed,
        group: Range<usize>,
        line: &mut Rest,
        way: &mut impl Way,
    ) -> Result<(), Stop> {
        let Range { start: mut at, end } = group;
        line.keys.prepare(self, allowed, &line.asked, at..end);
        if let Some(elsewhere) = &self.elsewhere {
            self.ask_elsewhere(elsewhere, line, way)?;
        }
        self.wait_for_log();
        while at < end {
            at += self.app.pool.with_authority(|scratch| {
                line.keys
                    .answer(scratch, self, &line.asked, at..end, &mut line.writer)
            });
            line.line = line.asked.items()[at - 1].line;
            // Nothing of the store is held while a client is waited for.
            if line.writer.len() >= PIECE {
                line.pass(false, way)?;
            }
        }
        Ok(())
    }

    /// Has what of the prepared lines is at home elsewhere asked there, as far as the batch may.
    fn ask_elsewhere(
        &self,
        elsewhere: &Elsewhere<'_>,
        line: &mut Rest,
        way: &mut impl Way,
    ) -> Result<(), Stop> {
        let foreign = self
            .app
            .pool
            .with_authority(|scratch| line.keys.foreign(&scratch.authority));
        let left = elsewhere.most.saturating_sub(line.elsewhere);
        let (may, may_not) = foreign.split_at(foreign.len().min(to_size(left)));
        for place in may_not {
            let plan = Plan::Say(Code::NotResponsible, elsewhere::TOO_MANY, None);
            line.keys.plans[*place] = plan;
        }
        if may.is_empty() {
            return Ok(());
        }
        // What is answered does not wait for other nodes.
        line.pass(true, way)?;
        let items = &line.asked.items()[line.keys.first..];
        let handles = may.iter().map(|place| line.asked.handle(&items[*place]));
        line.keys.told = elsewhere.ask(handles, way)?;
        line.elsewhere += may.len() as u64;
        for (told, place) in may.iter().enumerate() {
            line.keys.plans[*place] = Plan::Tell(told);
        }
        Ok(())
    }

    /// What of some lines the quota has; none while that cannot be counted.
    fn take(&self, share: &mut Share, wanted: u64) -> Option<Result<Allowed, Stop>> {
        match share.take(wanted) {
            Ok(allowed) => Some(Ok(allowed)),
            Err(token::book::Refused::Unavailable) => None,
            Err(_) => Some(Err(Stop::Failed(Failure::Revoked))),
        }
    }

    /// As [`Self::take`], later: lines that were refused only because the store was busy would be lost.
    fn take_later(
        &self,
        share: &mut Share,
        wanted: u64,
        way: &mut impl Way,
    ) -> Result<Allowed, Stop> {
        let (begun, mut pause) = (Instant::now(), QUOTA_PAUSE);
        while begun.elapsed() < QUOTA_TIME {
            std::thread::sleep(pause);
            pause = (pause * 2).min(QUOTA_PAUSE_MAX);
            way.go_on()?;
            if let Some(taken) = self.take(share, wanted) {
                return taken;
            }
        }
        Err(Stop::Failed(Failure::Uncounted))
    }

    /// Gives the log of resolutions time to take what it was given: a batch is faster than it. When it takes nothing, answers
    /// go on, and it counts what it loses.
    fn wait_for_log(&self) {
        let begun = Instant::now();
        let has_room = || {
            self.app.pool.with(|scratch| {
                let pen = scratch.cell(self.origin.tls).pen();
                pen.is_none_or(Pen::has_room)
            })
        };
        while !has_room() && begun.elapsed() < LOG_TIME {
            std::thread::sleep(LOG_PAUSE);
        }
    }
}

fn to_size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// How many lines name a handle.
fn named(items: &[Item]) -> u64 {
    items.iter().filter(|item| item.fault.is_none()).count() as u64
}

/// How many of the lines go before the one that a quota of so many handles has none left for.
fn affordable(items: &[Item], mut handles: u64) -> usize {
    let fits = |item: &Item| {
        let named = u64::from(item.fault.is_none());
        let fits = named <= handles;
        handles -= named.min(handles);
        fits
    };
    let short = items.iter().map(fits).position(|fits| !fits);
    short.unwrap_or(items.len())
}

/// What is to be done with a line.
#[derive(Clone, Debug)]
enum Plan {
    /// Look up the key that stands here.
    Find(Range<usize>),
    /// Say what another node has told.
    Tell(usize),
    /// Say this, and when asking again makes sense.
    Say(Code, &'static str, Option<u32>),
}

/// The keys of a group, one after the other.
#[derive(Debug, Default)]
struct Keys {
    octets: Vec<u8>,
    plans: Vec<Plan>,
    first: usize,
    /// What other nodes say.
    told: Vec<Option<Told>>,
}

impl Keys {
    /// The places of those that are at home elsewhere.
    fn foreign(&self, authority: &Authority) -> Vec<usize> {
        let is_foreign = |plan: &Plan| match plan {
            Plan::Find(key) => authority.responsible(&self.octets[key.clone()]) == Some(false),
            Plan::Tell(_) | Plan::Say(..) => false,
        };
        let plans = self.plans.iter().enumerate();
        plans
            .filter_map(|(place, plan)| is_foreign(plan).then_some(place))
            .collect()
    }

    /// Decides what is done with each line of a group.
    fn prepare(
        &mut self,
        question: &Question<'_>,
        mut allowed: Allowed,
        asked: &Asked,
        group: Range<usize>,
    ) {
        self.octets.clear();
        self.plans.clear();
        self.first = group.start;
        let case = question.app.shared.store.case();
        for item in &asked.items()[group] {
            let plan = match item.fault {
                Some(fault) => Plan::Say(Code::InvalidHandle, fault.message(), None),
                None if allowed.lines == 0 => Plan::Say(Code::Quota, "", Some(allowed.renewal)),
                None => {
                    allowed.lines -= 1;
                    let start = self.octets.len();
                    let text = asked.handle(item).as_bytes();
                    handle::canonical(text, case, &mut self.octets);
                    let key = start..self.octets.len();
                    let covers = |grant: &Grant| grant.covers(&self.octets[key.clone()]);
                    match question.grant.is_none_or(covers) {
                        true => Plan::Find(key),
                        false => {
                            Plan::Say(Code::NotAllowed, "the token is for other prefixes", None)
                        }
                    }
                }
            };
            self.plans.push(plan);
        }
    }

    /// Answers lines of the group from one view of the store, until there is a piece; how many.
    fn answer(
        &self,
        scratch: &mut Scratch,
        question: &Question<'_>,
        asked: &Asked,
        range: Range<usize>,
        writer: &mut Writer,
    ) -> usize {
        let begun = Now::read();
        let plans = &self.plans[range.start - self.first..range.end - self.first];
        let mut keys = [&[][..]; GROUP];
        let mut count = 0;
        for plan in plans {
            if let Plan::Find(key) = plan {
                keys[count] = &self.octets[key.clone()];
                count += 1;
            }
        }
        let view = question.filter.map(ResolutionView::decode);
        let filter = match view {
            Some(Ok(view)) => Filter::asked(view.indexes, view.types),
            _ => Filter::All,
        };
        let session = scratch.reader.session();
        let mut found = [Lookup::Absent; GROUP];
        session.find(&keys[..count], &mut found);
        let mut said = [(Code::Error, None); GROUP];
        let (mut next, mut done) = (0, 0);
        for (item, plan) in asked.items()[range.clone()].iter().zip(plans) {
            let text = asked.handle(item);
            said[done] = match plan {
                Plan::Say(code, message, renewal) => {
                    writer.refused(item.line, text, *code, message, *renewal);
                    (*code, None)
                }
                Plan::Tell(place) => {
                    let told = self.told.get(*place).and_then(Option::as_ref);
                    (elsewhere::say(told, item.line, text, writer), None)
                }
                Plan::Find(_) => {
                    let query = Query {
                        key: keys[next],
                        filter,
                        public_only: question.reader.is_none(),
                        refer: false,
                    };
                    let found = &found[next];
                    next += 1;
                    let answer = resolver::resolve(&scratch.authority, &session, &query, found);
                    let code = match (&answer, question.reader, found) {
                        (Answer::NeedsAuthentication, Some(who), Lookup::Found(record)) => {
                            let asker = Asker {
                                who,
                                address: question.origin.client,
                                time: begun.unix_seconds,
                            };
                            let selection = Selection::new(*record, filter);
                            let app = question.app;
                            let read = handles::restricted(app, &asker, query.key, selection);
                            say_restricted(read, item.line, text, writer)
                        }
                        _ => say(&answer, item.line, text, writer),
                    };
                    (code, Some(lookup_result(found)))
                }
            };
            done += 1;
            if writer.len() >= PIECE_MAX {
                break;
            }
        }
        drop(session);
        let items = &asked.items()[range.start..range.start + done];
        let cell = scratch.cell(question.origin.tls);
        count_all(cell, &said[..done], begun);
        let lines = &question.app.figures.batch_lines;
        lines.fetch_add(done as u64, Relaxed);
        remember(cell, question.origin, begun, asked, items, &said[..done]);
        done
    }
}

/// Code of a line, and what the index said, where it was asked.
type Said = (Code, Option<LookupResult>);

/// Counts every line as the look-up that it is.
fn count_all(cell: &Cell, said: &[Said], begun: Now) {
    let mut outcomes = [0_u64; Code::ALL.len()];
    let mut lookups = [0_u64; LookupResult::ALL.len()];
    for (code, lookup) in said {
        outcomes[*code as usize] += 1;
        if let Some(lookup) = lookup {
            lookups[*lookup as usize] += 1;
        }
    }
    let lines = said.len() as u64;
    cell.requests(Op::Resolve).add(lines);
    for (code, count) in Code::ALL.into_iter().zip(outcomes) {
        cell.responses(counted_as(code)).add(count);
    }
    for (lookup, count) in LookupResult::ALL.iter().zip(lookups) {
        cell.lookups(*lookup).add(count);
    }
    cell.durations.observe(begun.instant.elapsed(), lines);
}

/// What a line counts as: a quota that is used up is no fault of the node.
fn counted_as(code: Code) -> Outcome {
    match code {
        Code::Quota => Outcome::Limited,
        code => outcome_of(code.response()),
    }
}

/// Writes every line that names a handle into the log of resolutions.
fn remember(cell: &Cell, origin: Origin, now: Now, asked: &Asked, items: &[Item], said: &[Said]) {
    let Some(pen) = cell.pen() else { return };
    let named = items
        .iter()
        .zip(said)
        .filter(|(item, _)| item.fault.is_none());
    pen.note_all(named.map(|(item, (code, _))| {
        let event = Event {
            time: now.unix_seconds,
            client: origin.client,
            op: Op::Resolve,
            outcome: counted_as(*code),
        };
        (event, asked.handle(item).as_bytes())
    }));
}

/// Writes what the resolver says.
fn say(said: &Answer<'_, '_>, line: u64, handle: &str, writer: &mut Writer) -> Code {
    let (code, message) = match said {
        Answer::Values(selection) => {
            let values = selection.public().map(|entry| entry.wire);
            writer.found(line, handle, values);
            return Code::Success;
        }
        Answer::NoSuchHandle | Answer::PrefixReferral(_) => (Code::HandleNotFound, ""),
        Answer::Denied => (Code::NotAllowed, "nobody may read some of these values"),
        // Who may read restricted values was asked before.
        Answer::NoSuchValue | Answer::NeedsAuthentication => (Code::ValuesNotFound, ""),
        Answer::NotResponsible => (Code::NotResponsible, NOT_HOMED),
        Answer::Loading => (Code::Busy, "still loading"),
        Answer::Damaged => (Code::Error, "the stored record is damaged"),
    };
    writer.refused(line, handle, code, message, None);
    code
}

/// Writes values that only administrators may read, or that the token's identity is none.
fn say_restricted(
    read: Result<Found, Refusal>,
    line: u64,
    handle: &str,
    writer: &mut Writer,
) -> Code {
    let refusal = match read {
        Ok(found) => {
            writer.found(line, handle, found.wires());
            return Code::Success;
        }
        Err(refusal) => refusal,
    };
    let (code, message) = match outcome_of(refusal.code) {
        Outcome::NotFound => (Code::HandleNotFound, ""),
        Outcome::ValuesNotFound => (Code::ValuesNotFound, ""),
        Outcome::Busy => (Code::Busy, "the store cannot say now"),
        Outcome::Denied => (
            Code::NotAllowed,
            "the token's identity may not read restricted values here",
        ),
        _ => (Code::Error, "the restricted values cannot be read"),
    };
    writer.refused(line, handle, code, message, None);
    code
}
