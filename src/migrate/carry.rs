//! The steps of a batch file become changes of the node.
//!
//! ```text
//! file → steps → units → group ─→ position: under way → Ask::Change: one commit, in the audit trail → position: done
//!                                   └ one is refused: those before it in one commit, those behind it one by one
//! ```
//!
//! A handle stands once in a group, since the changes of a commit do not see each other; a handle that is made, and the values
//! that are added right behind that, are one change (`Unit`). What a killed run had under way
//! is asked for again: where the node then says that a handle exists, or a value, or none does, it was made. It may even be on
//! its way still, so where the store stands tells nothing. What the list of refusals has of it was not made; nor was a deletion
//! that the audit trail has as refused.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use jiexi_proto::code::ResponseCode;
use jiexi_proto::handle::CaseRule;
use jiexi_proto::value::Value;

use super::batch::{Bad, Item, Step, Steps, What};
use super::position::Position;
use super::refused::Refused;
use super::report::{Counts, Refusal, Report, Source, WouldStop};
use super::trial::Trial;
use super::unit::{Unit, is_of_the_handle};
use super::{key, said, with_owner};
use crate::ask::resume;
use crate::control::command::{Ask, Octets, Standing, Told};
use crate::control::registry as local;
use crate::registry::audit;
use crate::registry::plan::Request;

/// Changes in a commit at most: enough to make one sync cheap for each.
const GROUP: usize = 256;
/// Octets of a commit at most, unless one change has more: a running node takes twice as many and names, as text, in one
/// frame of its control socket.
const GROUP_OCTETS: usize = 128 << 10;
/// Octets that are read at once.
const BUFFER: usize = 256 << 10;

/// How to migrate.
#[derive(Debug, Clone)]
pub struct Options {
    /// Say what it would come to, and change nothing.
    pub dry_run: bool,
    /// Pass over what is refused.
    pub keep_going: bool,
    /// How handles fold here.
    pub case: CaseRule,
    /// The data directory of the node.
    pub node: String,
    /// Its audit trail, which says when it was restored.
    pub trail: PathBuf,
    /// Unix seconds.
    pub now: fn() -> u32,
}

/// Why a migration ends before its end.
#[derive(Debug)]
pub enum Stop<E> {
    /// Something is refused, or cannot be read: the report says what.
    Refused,
    /// The file, or that of its position, cannot be used; for people.
    File(String),
    /// The node takes no changes now; for people.
    Unwilling(String),
    /// The node cannot be asked.
    Node(E),
}

/// How the node is asked.
pub type Asking<'a, E> = dyn FnMut(&Ask) -> Result<Told, E> + 'a;

/// Brings back the positions that a killed run was about to remove: each tells what it is of.
///
/// # Errors
/// See [`Stop`].
pub fn take_back<E>(files: &[PathBuf]) -> Result<(), Stop<E>> {
    files.iter().try_for_each(|file| {
        Position::take_back(file).map_err(|error| position_failed(file, &error))
    })
}

/// All files of a command are carried out, and it was told.
///
/// # Errors
/// See [`Stop`].
pub fn end<E>(files: &[PathBuf]) -> Result<(), Stop<E>> {
    let failed = |error| Stop::File(format!("the position of a file cannot be removed: {error}"));
    Position::end(files).map_err(failed)
}

/// Reads the position of a file.
fn read<E>(path: &Path) -> Result<Option<Position>, Stop<E>> {
    Position::read(path).map_err(|error| position_failed(path, &error))
}

/// Only one that says nothing is to be removed: one that cannot be read has what it has.
fn position_failed<E>(path: &Path, error: &io::Error) -> Stop<E> {
    let kept = Position::path(path);
    let failed = with_owner(&kept, error);
    Stop::File(match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            format!("{failed}: remove it to begin anew")
        }
        _ => failed,
    })
}

/// Carries a file out, or looks in `trial`, which knows what the files before it would come to, what it would come to.
/// `watch` is told how many octets were read.
///
/// # Errors
/// See [`Stop`]; what was carried out before stays.
pub fn file<E>(
    path: &Path,
    options: &Options,
    report: &mut Report,
    trial: &mut Trial,
    ask: &mut Asking<'_, E>,
    watch: &mut dyn FnMut(u64),
) -> Result<(), Stop<E>> {
    report.sources.push(Source {
        file: path.display().to_string(),
        ..Source::default()
    });
    let mut work = Work {
        path,
        name: path.display().to_string(),
        options,
        position: Position::default(),
        counts: Counts::default(),
        settled: Counts::default(),
        refused: None,
        settled_refused: 0,
        store: Standing::default(),
        group: Group::default(),
        in_doubt: 0,
        known: HashSet::new(),
        not_deleted: HashSet::new(),
        trial,
        ask,
        report,
    };
    let outcome = work.all(watch);
    let counts = std::mem::take(&mut work.counts);
    let refused_in = work.refused.as_ref().and_then(Refused::name);
    report.counts.add(&counts);
    if let Some(source) = report.sources.last_mut() {
        source.complete = outcome.is_ok();
        source.refused_in = refused_in;
    }
    outcome
}

/// Changes on their way into one commit.
#[derive(Default)]
struct Group {
    units: Vec<Unit>,
    keys: HashSet<Vec<u8>>,
    /// Of all units together.
    steps: usize,
    octets: usize,
}

impl Group {
    /// Adds a step; one about a handle that is there already must be part of its unit.
    fn add(&mut self, line: u64, request: Request, key: Vec<u8>) {
        self.steps += 1;
        self.octets += size(&request);
        match self.unit_of(&request) {
            Some(unit) => unit.take(line, request),
            None => self.units.push(Unit::new(line, request)),
        }
        self.keys.insert(key);
    }

    /// The unit that takes this step: the last one alone, for what is carried out must not be behind what is refused.
    fn unit_of(&mut self, request: &Request) -> Option<&mut Unit> {
        self.units.last_mut().filter(|unit| unit.takes(request))
    }

    /// Whether a commit must be made before this step.
    fn is_over(&mut self, key: &[u8], request: &Request) -> bool {
        self.steps == GROUP
            || self.octets + size(request) > GROUP_OCTETS
            || self.keys.contains(key) && self.unit_of(request).is_none()
    }
}

/// The migration of a file.
struct Work<'a, 'b, E> {
    path: &'a Path,
    name: String,
    options: &'a Options,
    position: Position,
    /// What came of it, before a resumption as well.
    counts: Counts,
    /// What had come of the lines up to the position.
    settled: Counts,
    /// The list of what was refused, and how much of it is of lines up to the position.
    refused: Option<Refused>,
    settled_refused: u64,
    /// Where the store was with the last change.
    store: Standing,
    group: Group,
    /// Lines behind the position and up to this one may have been carried out by a run that was killed.
    in_doubt: u64,
    /// Those of them that it was refused, as its list has it.
    known: HashSet<u64>,
    /// The handles of which it was refused a deletion, as the audit trail has it, and was granted none.
    not_deleted: HashSet<Vec<u8>>,
    trial: &'a mut Trial,
    ask: &'a mut Asking<'b, E>,
    report: &'a mut Report,
}

impl<E> Work<'_, '_, E> {
    fn failed(&self, error: &dyn std::fmt::Display) -> Stop<E> {
        Stop::File(format!("{}: {error}", self.name))
    }

    fn all(&mut self, watch: &mut dyn FnMut(u64)) -> Result<(), Stop<E>> {
        let found = fs::metadata(self.path).map_err(|error| self.failed(&error))?;
        if !found.is_file() {
            return Err(self.failed(&"is no file, which can be read from its beginning twice"));
        }
        if self.options.dry_run {
            if self.go_on()? {
                self.open_list()?;
            }
            // Of what is behind the position: the rest is done and would not be.
            self.counts = Counts::default();
            return match self.position.complete {
                true => Ok(()),
                false => self.look(watch),
            };
        }
        // Nobody else goes on with it meanwhile.
        let lock = File::open(self.path).map_err(|error| self.failed(&error))?;
        if lock.try_lock().is_err() {
            return Err(self.failed(&"another command migrates this file; wait for it"));
        }
        let begun = self.go_on()?;
        if begun {
            let (refused, before) = self.open_list()?;
            self.refused = Some(refused);
            before
                .into_iter()
                .for_each(|refusal| self.report.refuse(refusal));
        }
        if self.position.complete {
            return Ok(());
        }
        if !self.options.keep_going {
            let steps = self.steps()?;
            self.check(steps)?;
        }
        if !begun {
            let list = Refused::begin(self.path);
            self.refused = Some(list.map_err(|error| self.list_failed(&error))?);
            // From here on a list that is found belongs to this migration.
            self.keep(0, 0)?;
        }
        let steps = self.steps()?;
        self.carry(steps, watch)?;
        let trimmed = self.refused.as_mut().map_or(Ok(()), Refused::trim);
        trimmed.map_err(|error| self.list_failed(&error))?;
        self.position.complete = true;
        self.keep(self.position.done, 0)
    }

    /// The list that an earlier run has left, and the first refusals of what is settled.
    fn open_list(&mut self) -> Result<(Refused, Vec<Refusal>), Stop<E>> {
        let Position { refused, done, .. } = self.position;
        let opened = Refused::open(self.path, refused, done);
        let (list, before) = opened.map_err(|error| self.list_failed(&error))?;
        self.known = list.behind().collect();
        Ok((list, before))
    }

    /// The list of what was refused cannot be used.
    fn list_failed(&self, error: &io::Error) -> Stop<E> {
        Stop::File(with_owner(&Refused::path(self.path), error))
    }

    /// Notes what is refused and passed over, beside the file too.
    fn pass_over(&mut self, refusal: Refusal) -> Result<(), Stop<E>> {
        let added = match &mut self.refused {
            Some(list) if self.options.keep_going => list.add(&refusal),
            _ => Ok(()),
        };
        added.map_err(|error| self.list_failed(&error))?;
        self.report.refuse(refusal);
        Ok(())
    }

    /// The steps from the beginning of the file.
    fn steps(&self) -> Result<Steps<BufReader<File>>, Stop<E>> {
        let file = File::open(self.path).map_err(|error| self.failed(&error))?;
        let input = BufReader::with_capacity(BUFFER, file);
        Ok(Steps::new(input, (self.options.now)()))
    }

    /// Takes up what an earlier run has left, if there is anything.
    fn go_on(&mut self) -> Result<bool, Stop<E>> {
        let path = self.path;
        let kept = Position::path(path);
        let kept = kept.display();
        let (input, _) = resume::fingerprint(path).map_err(|error| self.failed(&error))?;
        let found = read::<E>(path)?;
        let begun_before = found.is_some();
        self.position = match found {
            None => Position {
                input,
                node: self.options.node.clone(),
                store: self.standing()?,
                ..Position::default()
            },
            Some(found) if found.input != input => {
                return Err(Stop::File(format!(
                    "{}: has changed since a migration of it {}: bring back what it was, or remove {kept} to begin anew, \
                     where handles that are here already are refused unless they have these values",
                    self.name,
                    found.came_to()
                )));
            }
            Some(found) if found.node != self.options.node => {
                return Err(Stop::File(format!(
                    "{}: a migration of it into {} {}: go on with that node, or remove {kept} to begin anew with this one",
                    self.name,
                    found.node,
                    found.came_to()
                )));
            }
            Some(found) => {
                let store = self.standing()?;
                self.expect_not_restored(&found, store)?;
                self.in_doubt = found.applying;
                if found.applying > found.done {
                    self.not_deleted = self.refused_deletions(&found)?;
                }
                found
            }
        };
        if let Some(source) = self.report.sources.last_mut() {
            let begun = self.position.done > 0 || self.in_doubt > 0;
            source.done_before = self.position.complete;
            source.resumed_after = (begun && !source.done_before).then_some(self.position.done);
        }
        self.store = self.position.store;
        self.settled_refused = self.position.refused;
        self.settled = self.position.counts.clone();
        self.counts = self.settled.clone();
        Ok(begun_before)
    }

    /// Where the store of the node is.
    fn standing(&mut self) -> Result<Standing, Stop<E>> {
        match (self.ask)(&Ask::Standing).map_err(Stop::Node)? {
            Told::Standing(standing) => Ok(standing),
            _ => Err(Stop::Unwilling(
                "the node does not say where its store is".to_owned(),
            )),
        }
    }

    /// What was done must still be there: a store that was restored since may have nothing of it.
    fn expect_not_restored(&self, found: &Position, store: Standing) -> Result<(), Stop<E>> {
        let then = found.store;
        let mut restored = store.epoch != then.epoch || store.sequence < then.sequence;
        if !restored && store.sequence > then.sequence {
            // A running node that is restored goes on in its epoch. Its trail has that.
            self.see_trail(found, |entry| {
                let later = entry.change.is_some_and(|change| change > then.sequence);
                restored |= later && entry.operation == "restore";
            })?;
        }
        if !restored {
            return Ok(());
        }
        let kept = Position::path(self.path);
        Err(Stop::File(format!(
            "{}: the store of {} was restored, or became a primary, since a migration of it {}: what was done before may be \
             gone. Remove {} to begin anew, where handles that are here already are refused unless they have these values",
            self.name,
            self.options.node,
            found.came_to(),
            kept.display()
        )))
    }

    /// Looks through the audit trail of the node from when a position was kept.
    fn see_trail(&self, found: &Position, see: impl FnMut(&audit::Entry)) -> Result<(), Stop<E>> {
        let filter = audit::Filter {
            since: Some(found.time.into()),
            ..audit::Filter::default()
        };
        match audit::read(&self.options.trail, &filter, see) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let trail = self.options.trail.display();
                Err(Stop::File(format!("audit trail {trail}: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// The handles whose deletion was refused since a position was kept, and never granted: they were not there. A trail that
    /// was lost with the process has neither, and then the deletion counts as made.
    fn refused_deletions(&self, found: &Position) -> Result<HashSet<Vec<u8>>, Stop<E>> {
        let (mut refused, mut granted) = (HashSet::new(), HashSet::new());
        self.see_trail(found, |entry| {
            if entry.operation == "delete" {
                let key = key(entry.handle.as_bytes(), self.options.case);
                match entry.result.as_str() {
                    "committed" => granted.insert(key),
                    _ => refused.insert(key),
                };
            }
        })?;
        refused.retain(|key| !granted.contains(key));
        Ok(refused)
    }

    /// Whether the deletion that a request asks for was refused to the run that was killed.
    fn was_not_deleted(&self, request: &Request) -> bool {
        let key = key(request.handle(), self.options.case);
        matches!(request, Request::Delete { .. }) && self.not_deleted.contains(&key)
    }

    /// Reads all of it once: nothing is changed by a file that cannot be read.
    fn check(&mut self, steps: impl Iterator<Item = io::Result<Item>>) -> Result<(), Stop<E>> {
        let mut good = true;
        for item in steps {
            if let Err(bad) = item.map_err(|error| self.failed(&error))?
                && bad.line > self.position.done
            {
                good = false;
                self.unreadable(bad)?;
            }
        }
        good.then_some(()).ok_or(Stop::Refused)
    }

    fn unreadable(&mut self, bad: Bad) -> Result<(), Stop<E>> {
        self.counts.unreadable += 1;
        self.pass_over(Refusal {
            file: self.name.clone(),
            line: bad.line,
            operation: None,
            handle: bad.handle,
            code: None,
            reason: bad.message,
        })
    }

    /// What it would come to. Behind the line at which it would stop all is looked at, and nothing counts as done.
    fn look(&mut self, watch: &mut dyn FnMut(u64)) -> Result<(), Stop<E>> {
        if !self.options.keep_going {
            for item in self.steps()? {
                match item.map_err(|error| self.failed(&error))? {
                    Err(bad) if bad.line > self.position.done => {
                        self.would_stop(bad.line, false);
                        break;
                    }
                    _ => {}
                }
            }
        }
        let mut steps = self.steps()?;
        loop {
            let items = self.next_items(&mut steps)?;
            watch(steps.octets());
            if items.is_empty() {
                return Ok(());
            }
            let requests = items.iter().filter_map(|item| match item {
                Ok(Step {
                    what: What::Change(request),
                    ..
                }) => Some(request),
                _ => None,
            });
            let ahead = self.trial.look_ahead(requests, self.ask);
            ahead.map_err(Stop::Node)?;
            let mut items = items.into_iter();
            while let Some(item) = items.next() {
                self.try_out(item, items.as_slice())?;
            }
        }
    }

    /// Items behind the position, as many as are asked for at once; none at the end.
    fn next_items(&self, steps: &mut Steps<BufReader<File>>) -> Result<Vec<Item>, Stop<E>> {
        let (mut items, mut octets) = (Vec::new(), 0);
        while items.len() < GROUP && octets < GROUP_OCTETS {
            let Some(item) = steps.next() else { break };
            let item = item.map_err(|error| self.failed(&error))?;
            let line = item.as_ref().map_or_else(|bad| bad.line, |step| step.line);
            if line <= self.position.done {
                continue;
            }
            if let Ok(Step {
                what: What::Change(request),
                ..
            }) = &item
            {
                octets += size(request);
            }
            items.push(item);
        }
        Ok(items)
    }

    /// What an item would come to, which those of `behind` follow.
    fn try_out(&mut self, item: Item, behind: &[Item]) -> Result<(), Stop<E>> {
        let goes_on = self.report.would_stop.is_none();
        let Step { line, what } = match item {
            Ok(step) => step,
            Err(bad) => return self.unreadable(bad),
        };
        let What::Change(request) = what else {
            self.counts.not_needed += u64::from(goes_on);
            return Ok(());
        };
        let outcome = self.trial.step(&request, self.ask).map_err(Stop::Node)?;
        let doubtful = self.is_doubtful(line) && !self.was_not_deleted(&request);
        let unit = || unit_of(line, &request, behind);
        let is_there = |code| {
            let there = doubtful && self.trial.is_there(&request, code);
            let exists = code == ResponseCode::HANDLE_ALREADY_EXISTS;
            there || doubtful && exists && self.trial.has(&request, &unit().values())
        };
        let outcome = match outcome {
            Err((code, _)) if is_there(code) => Ok(false),
            outcome => outcome,
        };
        match outcome {
            Ok(_) if !goes_on => {}
            Ok(true) => self.done(&request),
            Ok(false) => self.counts.of(request.name()).same += 1,
            Err((code, message)) => {
                self.refuse(line, &request, code, &message)?;
                self.would_stop(line, true);
            }
        }
        Ok(())
    }

    /// Notes where the migration would stop first.
    fn would_stop(&mut self, line: u64, begun: bool) {
        if !self.options.keep_going && self.report.would_stop.is_none() {
            let file = self.name.clone();
            self.report.would_stop = Some(WouldStop { file, line, begun });
        }
    }

    /// Carries it out.
    fn carry(
        &mut self,
        mut steps: Steps<BufReader<File>>,
        watch: &mut dyn FnMut(u64),
    ) -> Result<(), Stop<E>> {
        while let Some(item) = steps.next() {
            watch(steps.octets());
            match item.map_err(|error| self.failed(&error))? {
                Ok(step) if step.line <= self.position.done => {}
                Err(bad) if bad.line <= self.position.done => {}
                Err(bad) => {
                    self.commit()?;
                    let line = bad.line;
                    self.unreadable(bad)?;
                    self.settle(line);
                }
                Ok(step) => match step.what {
                    What::Change(request) => self.gather(step.line, request)?,
                    What::Identity | What::Session => {
                        self.commit()?;
                        self.counts.not_needed += 1;
                        self.settle(step.line);
                    }
                },
            }
        }
        self.commit()
    }

    /// Everything up to this line is settled.
    fn settle(&mut self, line: u64) {
        self.position.done = line;
        self.settled = self.counts.clone();
        self.settled_refused = self.refused.as_ref().map_or(0, Refused::octets);
    }

    /// Adds a change to the group, which is committed before where it cannot take it.
    fn gather(&mut self, line: u64, request: Request) -> Result<(), Stop<E>> {
        let alone = request.is_homing();
        let key = key(request.handle(), self.options.case);
        if alone || self.group.is_over(&key, &request) {
            self.commit()?;
        }
        self.group.add(line, request, key);
        match alone {
            true => self.commit(),
            false => Ok(()),
        }
    }

    /// Commits the group.
    fn commit(&mut self) -> Result<(), Stop<E>> {
        let Group { units, .. } = std::mem::take(&mut self.group);
        let last = units.last().and_then(|unit| unit.steps().last());
        let Some((last, _)) = last else {
            return Ok(());
        };
        self.keep(self.position.done, (*last).max(self.in_doubt))?;
        self.together(&units)?;
        self.settle(*last);
        Ok(())
    }

    /// Carries units out in one commit. Where one of them is refused, those before it, and one by one those behind it: it
    /// is asked for once, so that the audit trail has it once.
    fn together(&mut self, units: &[Unit]) -> Result<(), Stop<E>> {
        let requests: Vec<Request> = units.iter().filter_map(Unit::change).collect();
        let told = match requests.is_empty() {
            true => return Ok(()),
            false => self.change(&requests)?,
        };
        let (code, message, place) = match told {
            Told::Refused {
                code,
                message,
                place,
            } => (code, message, place),
            told => {
                self.stands(&told);
                units.iter().for_each(|unit| self.made(unit));
                return Ok(());
            }
        };
        let found = place.and_then(|place| Some((units.get(..place)?, units.get(place..)?)));
        match found {
            Some((before, [first, behind @ ..])) => {
                self.together(before)?;
                self.unmade(first, ResponseCode(code), &message)?;
                self.one_by_one(behind)
            }
            // It is a matter of the commit, or of a running node that does not say which.
            _ => self.one_by_one(units),
        }
    }

    /// Carries units out one after the other.
    fn one_by_one(&mut self, units: &[Unit]) -> Result<(), Stop<E>> {
        for unit in units {
            let Some(change) = unit.change() else {
                continue;
            };
            match self.change(&[change])? {
                Told::Refused { code, message, .. } => {
                    self.unmade(unit, ResponseCode(code), &message)?;
                }
                told => {
                    self.stands(&told);
                    self.made(unit);
                }
            }
        }
        Ok(())
    }

    /// All steps of a unit are carried out.
    fn made(&mut self, unit: &Unit) {
        unit.steps()
            .iter()
            .for_each(|(_, request)| self.done(request));
    }

    /// Looks what the refusal of a unit comes to for each of its steps.
    fn unmade(&mut self, unit: &Unit, code: ResponseCode, message: &str) -> Result<(), Stop<E>> {
        let [first, behind @ ..] = unit.steps() else {
            return Ok(());
        };
        if behind.is_empty() {
            return self.met(first, code, message);
        }
        if code == ResponseCode::HANDLE_ALREADY_EXISTS && self.was_made(unit)? {
            for (_, request) in unit.steps() {
                self.counts.of(request.name()).same += 1;
            }
            return Ok(());
        }
        if is_of_the_handle(code) || is_passing(code) {
            self.met(first, code, message)?;
            return self.alone(behind);
        }
        self.alone(unit.steps())
    }

    /// Carries steps out one after the other, each by itself.
    fn alone(&mut self, steps: &[(u64, Request)]) -> Result<(), Stop<E>> {
        let unit = |(line, request): &(u64, Request)| Unit::new(*line, request.clone());
        let units: Vec<Unit> = steps.iter().map(unit).collect();
        self.one_by_one(&units)
    }

    /// Whether a killed run has carried a unit out: the handle has all values of its steps, and no others.
    fn was_made(&mut self, unit: &Unit) -> Result<bool, Stop<E>> {
        match unit.steps().first() {
            Some((line, request)) if self.is_doubtful(*line) => {
                let found = self.values(request)?;
                Ok(found.is_some_and(|found| same(&found, &unit.values())))
            }
            _ => Ok(false),
        }
    }

    /// Looks what the refusal of a step comes to, when everything before it is carried out.
    fn met(
        &mut self,
        (line, request): &(u64, Request),
        code: ResponseCode,
        message: &str,
    ) -> Result<(), Stop<E>> {
        if is_passing(code) {
            // An error may come after a change.
            if code != ResponseCode::ERROR {
                self.stop_at(*line)?;
            }
            return Err(Stop::Unwilling(format!(
                "{}:{line}: {}: the same command goes on from here later",
                self.name,
                said(code, message)
            )));
        }
        if self.is_there(*line, request, code)? {
            self.counts.of(request.name()).same += 1;
            return Ok(());
        }
        if !self.options.keep_going {
            self.stop_at(*line)?;
            self.refuse(*line, request, code, message)?;
            return Err(Stop::Refused);
        }
        self.refuse(*line, request, code, message)
    }

    /// What is before a line is settled; it is the first of the next run, which does not know more of what is behind it.
    fn stop_at(&mut self, line: u64) -> Result<(), Stop<E>> {
        self.settle(line - 1);
        let in_doubt = if self.in_doubt >= line {
            self.in_doubt
        } else {
            0
        };
        self.keep(line - 1, in_doubt)
    }

    /// Whether a killed run may have carried a line out.
    fn is_doubtful(&self, line: u64) -> bool {
        line <= self.in_doubt && !self.known.contains(&line)
    }

    /// Whether what was refused is there already: the same handle with these values, or what a killed run has made.
    fn is_there(
        &mut self,
        line: u64,
        request: &Request,
        code: ResponseCode,
    ) -> Result<bool, Stop<E>> {
        let doubtful = self.is_doubtful(line);
        match (request, code) {
            (Request::Create { values, .. }, ResponseCode::HANDLE_ALREADY_EXISTS) => {
                let found = self.values(request)?;
                Ok(found.is_some_and(|found| same(&found, values)))
            }
            (Request::Add { values, .. }, ResponseCode::VALUE_ALREADY_EXISTS) if doubtful => {
                let found = self.values(request)?.unwrap_or_default();
                Ok(values.iter().all(|value| has(&found, value)))
            }
            (Request::Remove { indexes, .. }, ResponseCode::VALUES_NOT_FOUND) if doubtful => {
                let found = self.values(request)?.unwrap_or_default();
                Ok(!found.iter().any(|value| indexes.contains(&value.index)))
            }
            (Request::Delete { .. }, ResponseCode::HANDLE_NOT_FOUND) => {
                Ok(doubtful && !self.was_not_deleted(request))
            }
            _ => Ok(false),
        }
    }

    /// The values that a handle has.
    fn values(&mut self, request: &Request) -> Result<Option<Vec<Value>>, Stop<E>> {
        values(request.handle(), false, self.ask)
            .map(Result::ok)
            .map_err(Stop::Node)
    }

    fn change(&mut self, requests: &[Request]) -> Result<Told, Stop<E>> {
        let asked = local::asked(requests, (self.options.now)());
        (self.ask)(&asked).map_err(Stop::Node)
    }

    /// Notes where the store is with what was just done.
    const fn stands(&mut self, told: &Told) {
        if let Told::Changed { standing, .. } = told {
            self.store = *standing;
        }
    }

    /// Keeps the position.
    fn keep(&mut self, done: u64, applying: u64) -> Result<(), Stop<E>> {
        self.position.done = done;
        self.position.applying = applying;
        self.position.store = self.store;
        // What the trail has of lines in doubt is looked for from when a run began with them.
        if self.in_doubt <= done {
            self.position.time = (self.options.now)();
        }
        self.position.refused = self.settled_refused;
        let listed = self.refused.as_ref().map_or(Ok(()), Refused::sync);
        listed.map_err(|error| self.list_failed(&error))?;
        self.position.counts = self.settled.clone();
        let written = self.position.write(self.path);
        written.map_err(|error| Stop::File(with_owner(&Position::path(self.path), &error)))
    }

    fn done(&mut self, request: &Request) {
        let counts = &mut self.counts;
        counts.of(request.name()).done += 1;
        if let Request::Create { values, .. }
        | Request::Add { values, .. }
        | Request::Modify { values, .. } = request
        {
            counts.values += values.len() as u64;
        }
    }

    fn refuse(
        &mut self,
        line: u64,
        request: &Request,
        code: ResponseCode,
        message: &str,
    ) -> Result<(), Stop<E>> {
        self.counts.of(request.name()).refused += 1;
        self.pass_over(Refusal {
            file: self.name.clone(),
            line,
            operation: Some(request.name().into()),
            handle: Some(String::from_utf8_lossy(request.handle()).into_owned()),
            code: Some(code.0),
            reason: said(code, message),
        })
    }
}

/// The unit that a step began, as the run that is in doubt has made it.
fn unit_of(line: u64, request: &Request, behind: &[Item]) -> Unit {
    let mut unit = Unit::new(line, request.clone());
    for item in behind {
        match item {
            Ok(Step {
                line,
                what: What::Change(next),
            }) if unit.takes(next) => unit.take(*line, next.clone()),
            _ => break,
        }
    }
    unit
}

/// Whether the node refuses everything now, and the file is not to blame.
const fn is_passing(code: ResponseCode) -> bool {
    matches!(
        code,
        ResponseCode::ERROR | ResponseCode::SERVER_TOO_BUSY | ResponseCode::SERVER_BACKUP
    )
}

/// Whether these values say the same, whenever they were written.
fn same(found: &[Value], wanted: &[Value]) -> bool {
    found.len() == wanted.len() && wanted.iter().all(|value| has(found, value))
}

/// Whether one of the values says the same as this one, whenever it was written.
fn has(values: &[Value], wanted: &Value) -> bool {
    values.iter().any(|value| {
        let value = Value {
            timestamp: wanted.timestamp,
            ..value.clone()
        };
        value == *wanted
    })
}

/// The values that a handle has, or why there are none; with `unhomed` also below a prefix that is not homed.
pub(super) fn values<E>(
    handle: &[u8],
    unhomed: bool,
    ask: &mut Asking<'_, E>,
) -> Result<Result<Vec<Value>, ResponseCode>, E> {
    let told = ask(&Ask::Read {
        handle: Octets(handle.to_vec()),
        unhomed,
    })?;
    Ok(values_of(told))
}

/// The values that the node tells of.
pub(super) fn values_of(told: Told) -> Result<Vec<Value>, ResponseCode> {
    match told {
        Told::Values { values, .. } => {
            let values = values.into_iter().map(|octets| octets.0.into());
            Ok(values
                .filter_map(|wire| Value::decode(&wire).ok())
                .collect())
        }
        Told::Refused { code, .. } => Err(ResponseCode(code)),
        _ => Err(ResponseCode::ERROR),
    }
}

/// Octets of a change as a message, or some more.
pub(super) fn size(request: &Request) -> usize {
    /// Envelope, header, lengths.
    const AROUND: usize = 128;
    let values = match request {
        Request::Create { values, .. }
        | Request::Add { values, .. }
        | Request::Modify { values, .. } => values
            .iter()
            .map(|value| Value::SIZE_MIN + value.kind.len() + value.data.len())
            .sum(),
        Request::Remove { indexes, .. } => indexes.len() * size_of::<u32>(),
        _ => 0,
    };
    AROUND + request.handle().len() + values
}
