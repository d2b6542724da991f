//! Copying the node: all handles, or what has changed since a transaction, as mirrors of the reference ask for them.
//!
//! A transaction is the last change of a handle, its number a sequence of the journal. A dump says the sequence that it
//! began with and shows records as they are while it runs: whoever asks for the transactions since then has them all.
//!
//! Before version 2.8 blocks are signed and in clear; from then on they are inside TLS. Secrets never leave in clear, and
//! inside TLS only where a setting says so.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use getrandom::SysRng;
use jiexi_proto::code::{ResponseCode, Version};
use jiexi_proto::handle;
use jiexi_proto::message::Body;
use jiexi_proto::message::challenge::Proof;
use jiexi_proto::message::replication::{
    Action, DUMP_FORMAT, DumpBlock, Share, Since, StreamStart, TransactionBlock, TransactionsHead,
};
use jiexi_proto::value::Value;
use jiexi_proto::wire::Writer;
use jiexi_proto::{Message, OpCode};
use md5::Digest as _;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::counter::{Counter, Step};
use super::letter::{Letter, Outcome, Seal};
use super::{Answer, Desk, Sink};
use crate::clock::Now;
use crate::metrics::Why;
use crate::registry::keys::{Hash, NodeKey};
use crate::registry::{Registry, Rejection};
use crate::server::certificate::Identity;
use crate::server::http::certificate;
use crate::store::{Changed, OwnedRecord, Space, StoreError};

/// Records read from the store at once.
const PAGE: usize = 512;
/// Octets that are gathered before they are sent.
const CHUNK: usize = 64 * 1024;
/// Chunks that wait for the mirror to take them.
const WAITING: usize = 2;
/// Copies that are made at the same time.
pub(super) const COPIES_MAX: usize = 2;
/// The first block of a dump for a server before 2.7, whose code has been read: the reference was not recorded so.
const OLD_DUMP_FORMAT: u32 = 1;
/// The status of a stream of transactions that begins too late: all handles must be asked for.
const DUMP_NEEDED: u32 = 1;
/// The status of a stream that has all transactions asked for.
const TRANSACTIONS: u32 = 2;

/// What is copied.
#[derive(Debug)]
enum What {
    /// Every handle and prefix.
    All,
    /// What has changed after a sequence.
    Since(u64),
}

/// How it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Signed blocks in clear; a dump says at its end where the node stood. Servers before 2.7 know no other.
    Old,
    /// Signed blocks in clear.
    Signed,
    /// Blocks inside TLS.
    Tls,
}

impl Form {
    fn of(version: Version) -> Self {
        match version {
            version if version < Version::V2_7 => Self::Old,
            version if version < Version::V2_8 => Self::Signed,
            _ => Self::Tls,
        }
    }

    fn is_signed(self) -> bool {
        self != Self::Tls
    }
}

/// A copy under way.
#[derive(Debug)]
pub struct Copying {
    desk: Arc<Desk>,
    what: What,
    share: Share,
    form: Form,
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.desk
            .copies
            .fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Counter {
    /// Begins a copy for a replication administrator. The stream follows the answer on the same connection.
    pub(super) fn copy(&self, mut letter: Letter, message: Message) {
        let (what, share) = match &message.body {
            Body::DumpHandles(share) => (What::All, *share),
            Body::RetrieveTransactions(asked) => match asked.since {
                Since::Transaction { id, .. } => {
                    (What::Since(u64::try_from(id).unwrap_or(0)), asked.share)
                }
                Since::State(_) => return self.refuse_copy(letter, &NOT_ALL_SOURCES),
            },
            _ => return self.refuse_copy(letter, &Rejection::bare(ResponseCode::PROTOCOL_ERROR)),
        };
        if letter.line.is_none() {
            return self.refuse_copy(letter, &NO_CONNECTION);
        }
        let Some(who) = letter.who.clone() else {
            return self.ask(letter, message);
        };
        let allowed = self.registry().may_copy(&who);
        self.note_given(&letter, &who, ("copy", b""), allowed.as_ref().err());
        let begun = allowed.and_then(|()| self.begin_copy(&letter, what, share));
        let copying = match begun {
            Ok(copying) => copying,
            Err(rejection) => return self.refuse_copy(letter, &rejection),
        };
        // A copy that is asked for again is made again.
        if let Some(key) = letter.retry.take() {
            let _ = self.desk.retries.forget(key);
        }
        let body = match letter.op {
            OpCode::RETRIEVE_TXN_LOG => vec![0],
            _ => Vec::new(),
        };
        let outcome = Outcome::success(letter.op, body);
        let octets = letter.answer(&outcome, Seal::AsAsked, &self.registry().key, self.stamp());
        let sink = std::mem::replace(&mut letter.sink, Sink::Nowhere);
        let answer = Answer {
            octets,
            more: None,
            stream: Some(Box::new(copying)),
        };
        self.count(&sink, &letter, ResponseCode::SUCCESS);
        self.deliver(sink, letter.peer, answer);
        self.desk.done();
    }

    fn begin_copy(&self, letter: &Letter, what: What, share: Share) -> Result<Copying, Rejection> {
        use std::sync::atomic::Ordering::Relaxed;
        let copying = Copying {
            desk: Arc::clone(&self.desk),
            what,
            share,
            form: Form::of(letter.envelope.reply_version()),
        };
        match self.desk.copies.fetch_add(1, Relaxed) < COPIES_MAX {
            true => Ok(copying),
            false => Err(Rejection::busy("other copies are being made")),
        }
    }

    fn refuse_copy(&self, letter: Letter, rejection: &Rejection) {
        let step = Step::refuse(&letter, rejection);
        self.finish(letter, step);
    }
}

const NOT_ALL_SOURCES: Rejection = Rejection::new(
    ResponseCode::OPERATION_NOT_SUPPORTED,
    "this node copies its own changes only, not those of other sources",
);
const NO_CONNECTION: Rejection = Rejection::new(
    ResponseCode::PROTOCOL_ERROR,
    "a copy takes a TCP connection of its own",
);

/// Sends a copy, and says why its connection ends.
pub(in crate::server::handle) async fn send<T>(io: &mut T, copying: Copying, limit: Duration) -> Why
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (signed, key) = (copying.form.is_signed(), copying.desk.registry.key.clone());
    let (give, chunks) = mpsc::channel(WAITING);
    let work = tokio::task::spawn_blocking(move || copying.make(&give));
    // Both take the chunks with them when they end, however they end: the work would wait for ever to give the next.
    let sent = match signed {
        true => forward(io, chunks, limit).await,
        false => forward_inside(io, &key, chunks, limit).await,
    };
    match (sent, work.await) {
        (Err(why), _) => why,
        (Ok(()), Ok(Ok(()))) => Why::Peer,
        (Ok(()), failed) => {
            let error = match failed {
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
                Ok(Ok(())) => None,
            };
            tracing::warn!(
                event = "mirror.incomplete",
                error,
                "a copy for a mirror was not completed"
            );
            Why::Error
        }
    }
}

/// Opens TLS as its server and sends chunks there.
async fn forward_inside<T>(
    io: &mut T,
    key: &NodeKey,
    chunks: mpsc::Receiver<Vec<u8>>,
    limit: Duration,
) -> Result<(), Why>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let acceptor = certificate::anonymous(key)
        .and_then(Identity::load)
        .and_then(|identity| identity.server(None, &[]))
        .map(TlsAcceptor::from);
    let acceptor = acceptor.map_err(|error| {
        tracing::error!(event = "mirror.no_certificate", %error, "a copy for a mirror has no certificate");
        Why::Error
    })?;
    let mut start = Vec::new();
    StreamStart::Tls.encode(&mut Writer::new(&mut start));
    let shaken = async {
        io.write_all(&start).await?;
        acceptor.accept(io).await
    };
    match timeout(limit, shaken).await {
        Ok(Ok(mut inside)) => forward(&mut inside, chunks, limit).await,
        Ok(Err(_)) => Err(Why::Error),
        Err(_) => Err(Why::Deadline),
    }
}

/// Sends chunks as they come, and closes.
async fn forward<T>(
    io: &mut T,
    mut chunks: mpsc::Receiver<Vec<u8>>,
    limit: Duration,
) -> Result<(), Why>
where
    T: AsyncWrite + Unpin,
{
    let within = async |io: &mut T, chunk: Option<Vec<u8>>| {
        let sent = async {
            match &chunk {
                Some(chunk) => io.write_all(chunk).await,
                None => io.shutdown().await,
            }
        };
        match timeout(limit, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Why::Error),
            Err(_) => Err(Why::Deadline),
        }
    };
    while let Some(chunk) = chunks.recv().await {
        within(io, Some(chunk)).await?;
    }
    within(io, None).await
}

/// Why a copy ends before its end.
#[derive(Debug)]
enum Ended {
    /// The mirror takes no more.
    Gone,
    /// There is no randomness to sign with.
    Unsigned,
    /// The store cannot be read; for people.
    Store(String),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gone => "the mirror takes no more",
            Self::Unsigned => "there is no randomness to sign with",
            Self::Store(error) => error,
        })
    }
}

impl From<StoreError> for Ended {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}

/// Blocks on their way.
struct Out<'a> {
    octets: Vec<u8>,
    give: &'a mpsc::Sender<Vec<u8>>,
    /// Signs blocks; none inside TLS.
    signer: Option<&'a Registry>,
}

impl Out<'_> {
    fn block(&mut self, write: impl FnOnce(&mut Writer<'_>)) -> Result<(), Ended> {
        let start = self.octets.len();
        write(&mut Writer::new(&mut self.octets));
        if let Some(registry) = self.signer {
            let block = self.octets.get(start..).unwrap_or_default();
            let signature = registry.key.sign(Hash::Sha1, block, &mut SysRng);
            let signature = signature.ok_or(Ended::Unsigned)?;
            Writer::new(&mut self.octets).bytes(&signature);
        }
        match self.octets.len() >= CHUNK {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), Ended> {
        let chunk = std::mem::take(&mut self.octets);
        self.give.blocking_send(chunk).map_err(|_| Ended::Gone)
    }
}

impl Copying {
    /// Makes the blocks; blocks the thread.
    fn make(&self, give: &mpsc::Sender<Vec<u8>>) -> Result<(), Ended> {
        let mut out = Out {
            octets: Vec::new(),
            give,
            signer: self.form.is_signed().then_some(&*self.desk.registry),
        };
        if self.form.is_signed() {
            let start = StreamStart::Signed(Bytes::from_static(Hash::Sha1.name()));
            start.encode(&mut Writer::new(&mut out.octets));
        }
        match self.what {
            What::All => self.dump(&mut out)?,
            What::Since(after) => self.transactions(after, &mut out)?,
        }
        out.flush()
    }

    fn dump(&self, out: &mut Out<'_>) -> Result<(), Ended> {
        let records = &self.desk.registry.records;
        let server = DumpBlock::Server {
            date_ms: now_ms(),
            last_transaction: number(records.store.sequence()),
        };
        let old = self.form == Form::Old;
        out.block(|writer| writer.u32(if old { OLD_DUMP_FORMAT } else { DUMP_FORMAT }))?;
        if !old {
            out.block(|writer| server.encode(writer))?;
        }
        for space in [Space::Handle, Space::Prefix] {
            let mut from = None;
            loop {
                let bound = from.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
                let page = records.store.scan(space, bound, b"", PAGE)?;
                let Some(last) = page.last() else { break };
                from = Some(last.key.clone());
                for record in page
                    .iter()
                    .filter(|record| space == Space::Prefix || self.wants(&record.key))
                {
                    let key = Bytes::copy_from_slice(&record.key);
                    let block = match space {
                        Space::Prefix => DumpBlock::Prefix(key),
                        _ => DumpBlock::Handle {
                            handle: key,
                            values: self.values(record),
                        },
                    };
                    out.block(|writer| block.encode(writer))?;
                }
            }
        }
        if old {
            return out.block(|writer| server.encode(writer));
        }
        // The end alone is never signed.
        DumpBlock::End.encode(&mut Writer::new(&mut out.octets));
        Ok(())
    }

    fn transactions(&self, after: u64, out: &mut Out<'_>) -> Result<(), Ended> {
        let changes = self.desk.registry.records.store.changes_since(after)?;
        let head = TransactionsHead {
            format: 1,
            status: changes.as_ref().map_or(DUMP_NEEDED, |_| TRANSACTIONS),
        };
        out.block(|writer| head.encode(writer))?;
        // Where everything is to be asked for, the end follows all the same.
        let mut held = None;
        for change in changes.iter().flatten() {
            let Some(block) = self.transaction(change)? else {
                continue;
            };
            if let Some((sequence, block)) = held.replace((change.sequence, block)) {
                numbered(out, block, sequence, sequence == change.sequence)?;
            }
        }
        if let Some((sequence, block)) = held {
            numbered(out, block, sequence, false)?;
        }
        let end = TransactionBlock::End { date_ms: now_ms() };
        out.block(|writer| end.encode(writer))
    }

    /// One transaction, with the values that the handle has now.
    fn transaction(&self, change: &Changed) -> Result<Option<TransactionBlock>, Ended> {
        let record = match (change.space, change.put) {
            (Space::Handle, _) if !self.wants(&change.key) => return Ok(None),
            (Space::Handle, true) => {
                let record = self
                    .desk
                    .registry
                    .records
                    .store
                    .get(Space::Handle, &change.key)?;
                if record.is_none() {
                    // Deleted since: that comes later.
                    return Ok(None);
                }
                record
            }
            (Space::Handle | Space::Prefix, _) => None,
            _ => return Ok(None),
        };
        let values = record
            .as_ref()
            .map_or_else(Vec::new, |record| self.values(record));
        let newest = values.iter().map(|value| i64::from(value.timestamp)).max();
        Ok(Some(TransactionBlock::Transaction {
            id: number(change.sequence),
            handle: match &record {
                Some(record) => Bytes::from(record.handle().into_owned()),
                None => Bytes::copy_from_slice(&change.key),
            },
            // The journal says what there is, not what was before: a mirror puts either in the place of what it has.
            action: match (change.space, change.put) {
                (Space::Prefix, true) => Action::HOME,
                (Space::Prefix, false) => Action::UNHOME,
                (_, true) => Action::UPDATE,
                (_, false) => Action::DELETE,
            },
            date_ms: newest.map_or_else(now_ms, |seconds| seconds * 1_000),
            values,
        }))
    }

    /// The values of a record that leave the node.
    fn values(&self, record: &OwnedRecord) -> Vec<Value> {
        let registry = &self.desk.registry;
        let mut values = registry.records.values(record);
        if self.form.is_signed() || !registry.config.copy_secrets {
            values.retain(|value| !value.kind.eq_ignore_ascii_case(Proof::SECRET_KEY));
        }
        values
    }

    /// Whether a handle is of the share that was asked for.
    fn wants(&self, key: &[u8]) -> bool {
        if self.share.servers <= 1 {
            return true;
        }
        let mut part = Vec::new();
        handle::hashed_part(key, self.share.hash_option, &mut part);
        let hash = handle::site_hash(&md5::Md5::digest(&part).into());
        hash % self.share.servers == self.share.place
    }
}

/// A transaction under its number. Of those that were committed together, all but the last have the number before, so
/// that a mirror whose connection ends among them asks for all of them again.
fn numbered(
    out: &mut Out<'_>,
    mut block: TransactionBlock,
    sequence: u64,
    more: bool,
) -> Result<(), Ended> {
    if let TransactionBlock::Transaction { id, .. } = &mut block {
        *id = number(sequence.saturating_sub(u64::from(more)));
    }
    out.block(|writer| block.encode(writer))
}

fn number(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

/// Milliseconds since 1970.
fn now_ms() -> i64 {
    i64::from(Now::read().unix_seconds) * 1_000
}
