//! The input of an import, cut into chunks of whole lines.
//!
//! ```text
//! caller's thread     cutter
//! read → pieces ────→ lines → chunk k goes to parser k % n
//! ```
//!
//! Reading blocks, so another thread cuts: when the input pauses, what is there goes on without what is still to come.

use std::{
    io::{self, Read},
    iter::Cycle,
    slice,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender},
    time::Duration,
};

/// Lines in a batch at most: enough to make one sync cheap for each, few enough to redo after a bad line.
const LINES_MAX: u64 = 1_000;
/// Bytes of text in a batch at most (one line may exceed it by itself).
const CHUNK_BYTES: usize = 1 << 20;
/// The longest line: the largest record in hexadecimal needs 0.5 MiB, escaped JSON a few times that.
const LINE_MAX: usize = 4 << 20;
/// Bytes read at once at most.
const PIECE: usize = 256 << 10;
/// Pieces that wait for the cutter at most.
pub(super) const PIECES_MAX: usize = 2;
/// What has waited this long for more input goes on without it.
const PAUSE: Duration = Duration::from_secs(1);

/// Consecutive lines of the input.
#[derive(Default)]
pub(super) struct Chunk {
    /// Number of the first line.
    pub(super) first: u64,
    /// The lines with their ends.
    pub(super) text: Vec<u8>,
    /// Nothing came after it for a while; it may be empty then.
    pub(super) pause: bool,
}

/// Reads all of the input; an empty piece is its end. Ends early when nobody takes it any more.
pub(super) fn read(mut input: impl Read, pieces: &SyncSender<Vec<u8>>) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let read = match input.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let piece = buffer.get(..read).unwrap_or_default();
        if pieces.send(piece.to_vec()).is_err() || read == 0 {
            return Ok(());
        }
    }
}

/// Cuts pieces into chunks and deals them out, if the input is `live` also when it pauses. Ends early when the committer
/// has given up, and without what is no whole chunk when the pieces break off.
pub(super) fn cut(
    pieces: &Receiver<Vec<u8>>,
    parsers: &[SyncSender<Chunk>],
    live: bool,
) -> io::Result<()> {
    let mut cutter = Cutter {
        parsers: parsers.iter().cycle(),
        chunk: Chunk {
            first: 1,
            ..Chunk::default()
        },
        lines: 0,
        open: 0,
        waiting: false,
    };
    loop {
        let next = match live && (cutter.waiting || cutter.lines > 0) {
            true => pieces.recv_timeout(PAUSE),
            false => pieces.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let goes_on = match next {
            Ok(piece) if piece.is_empty() => {
                cutter.end();
                return Ok(());
            }
            Ok(piece) => cutter.take(&piece)?,
            Err(RecvTimeoutError::Timeout) => cutter.deal(true),
            Err(RecvTimeoutError::Disconnected) => false,
        };
        if !goes_on {
            return Ok(());
        }
    }
}

/// A chunk in the making.
struct Cutter<'a> {
    parsers: Cycle<slice::Iter<'a, SyncSender<Chunk>>>,
    chunk: Chunk,
    /// Whole lines in it.
    lines: u64,
    /// Where the line begins that has no end yet.
    open: usize,
    /// Chunks were dealt out since the last pause.
    waiting: bool,
}

impl Cutter<'_> {
    /// Adds a piece; false when nobody takes chunks any more.
    fn take(&mut self, mut piece: &[u8]) -> io::Result<bool> {
        while !piece.is_empty() {
            let end = memchr::memchr(b'\n', piece).map_or(piece.len(), |at| at + 1);
            let (part, rest) = piece.split_at(end);
            piece = rest;
            self.chunk.text.extend_from_slice(part);
            // The end of the line is no part of its length.
            if self.chunk.text.len() - self.open > LINE_MAX + 1 {
                // Even with `keep_going`: what follows might be gigabytes without a line end.
                let line = self.chunk.first + self.lines;
                let text = format!("line {line} is longer than {LINE_MAX} bytes");
                return Err(io::Error::other(text));
            }
            if part.ends_with(b"\n") {
                self.lines += 1;
                self.open = self.chunk.text.len();
                let full = self.lines == LINES_MAX || self.open >= CHUNK_BYTES;
                if full && !self.deal(false) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Deals the whole lines out; false when nobody takes them.
    fn deal(&mut self, pause: bool) -> bool {
        let next = Chunk {
            first: self.chunk.first + self.lines,
            text: self.chunk.text.split_off(self.open),
            pause: false,
        };
        let chunk = Chunk {
            pause,
            ..std::mem::replace(&mut self.chunk, next)
        };
        (self.lines, self.open, self.waiting) = (0, 0, !pause);
        let parser = self.parsers.next();
        parser.is_some_and(|parser| parser.send(chunk).is_ok())
    }

    /// Deals the rest out; the last line needs no end.
    fn end(&mut self) {
        self.open = self.chunk.text.len();
        if self.open > 0 {
            self.deal(false);
        }
    }
}
