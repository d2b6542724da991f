//! The input of a job, from the body of a request to the disk: decompressed and as UTF-8, so that a position in it is a
//! number of octets.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::timeout;

use super::shelf::{Upload, broken, sync_directory};
use super::{ATOMIC_INPUT_MAX, Asked, Limits};
use crate::batch::charset::Decode;
use crate::batch::coding::{Bounds, Decompress, Refused};
use crate::batch::rows::{Form, Rows, Unreadable};
use crate::registry::Rejection;
use crate::server::http::answer::Refusal;
use crate::store::free_space;

/// Pieces of a body that wait for the disk.
pub(super) const WAITING: usize = 16;
/// Octets that are written at once.
const BUFFER: usize = 256 << 10;
/// After so many octets it is looked whether the disk is nearly full.
const LOOK: u64 = 16 << 20;
/// Only the node's user reads what clients register.
const FILE_MODE: u32 = 0o600;

/// A piece of a body, or its end. A body that is cut has none.
#[derive(Debug)]
pub(super) enum Piece {
    /// Octets.
    Text(Bytes),
    /// All is said.
    End,
}

/// Hands a body over, until its end or until nobody takes more.
pub(super) async fn pump(
    mut body: Body,
    send: Sender<Piece>,
    idle: Duration,
) -> Result<(), Refusal> {
    loop {
        let Ok(frame) = timeout(idle, body.frame()).await else {
            let status = StatusCode::REQUEST_TIMEOUT;
            let text = "nothing was sent for too long";
            return Err(Refusal::named(status, "timeout", text));
        };
        let piece = match frame {
            None => Piece::End,
            Some(Err(_)) => return Err(Refusal::field("", "the body ended early")),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Piece::Text(data),
                // Trailers.
                Err(_) => continue,
            },
        };
        let last = matches!(piece, Piece::End);
        if send.send(piece).await.is_err() || last {
            return Ok(());
        }
    }
}

/// An input that is on the disk.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) upload: Upload,
    /// Octets on the disk.
    pub(super) octets: u64,
    /// SHA-256 of the body.
    pub(super) digest: [u8; 32],
}

/// The way to the disk.
pub(super) struct Intake {
    upload: Upload,
    most: u64,
    /// Octets that the store wants to be free.
    reserve: u64,
    asked: Asked,
    decompress: Decompress,
    decode: Decode,
    sink: Sink,
    digest: Sha256,
}

/// The file, and what is wrong with it.
struct Sink {
    file: BufWriter<File>,
    octets: u64,
    failed: Option<io::Error>,
}

impl Sink {
    fn write(&mut self, text: &[u8]) {
        self.octets += text.len() as u64;
        if self.failed.is_none() {
            self.failed = self.file.write_all(text).err();
        }
    }
}

impl Intake {
    /// Opens the file.
    pub(super) fn new(
        upload: Upload,
        asked: &Asked,
        limits: &Limits,
        reserve: u64,
    ) -> Result<Self, Refusal> {
        let path = upload.directory.join("input");
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(FILE_MODE);
        let file = file.open(&path).map_err(|error| broken(&path, &error))?;
        let bounds = Bounds {
            total: limits.input,
            ratio: limits.ratio,
        };
        let decompress = Decompress::new(asked.coding, bounds);
        let decompress = decompress.map_err(|error| broken(&path, &error))?;
        let most = match asked.atomic {
            true => limits.input.min(ATOMIC_INPUT_MAX),
            false => limits.input,
        };
        Ok(Self {
            most,
            reserve,
            decompress,
            decode: Decode::new(asked.charset),
            sink: Sink {
                file: BufWriter::with_capacity(BUFFER, file),
                octets: 0,
                failed: None,
            },
            digest: Sha256::new(),
            asked: asked.clone(),
            upload,
        })
    }

    /// Takes pieces until the end. None: the client has gone.
    pub(super) fn run(mut self, mut pieces: Receiver<Piece>) -> Result<Option<Arrived>, Refusal> {
        let mut looked = 0;
        loop {
            match pieces.blocking_recv() {
                None => return Ok(None),
                Some(Piece::Text(octets)) => {
                    self.digest.update(&octets);
                    self.take(&octets)?;
                }
                Some(Piece::End) => return self.finish().map(Some),
            }
            if self.sink.octets >= looked {
                looked = self.sink.octets + LOOK;
                self.look()?;
            }
        }
    }

    fn take(&mut self, octets: &[u8]) -> Result<(), Refusal> {
        let before = self.sink.octets;
        let (decode, sink) = (&mut self.decode, &mut self.sink);
        let fed = self.decompress.feed(octets, &mut |plain| {
            decode.decode(plain, false, &mut |text| sink.write(text));
        });
        fed.map_err(refused)?;
        self.account(before)
    }

    /// What came out must have room.
    fn account(&mut self, before: u64) -> Result<(), Refusal> {
        if let Some(error) = self.sink.failed.take() {
            return Err(broken(&self.upload.directory, &error));
        }
        if self.sink.octets > self.most {
            return Err(match self.asked.atomic {
                true => too_large("the input of a job that is atomic may have 32 MiB"),
                false => refused(Refused::Total),
            });
        }
        match self.upload.take(self.sink.octets - before) {
            true => Ok(()),
            false => Err(too_large(
                "the token's jobs would take more of the disk than they may ([jobs] disk_max): delete some that have ended",
            )),
        }
    }

    fn look(&self) -> Result<(), Refusal> {
        let free = free_space(&self.upload.directory);
        let free = free
            .map_err(|error| broken(&self.upload.directory, &error))?
            .0;
        match free > self.reserve {
            true => Ok(()),
            false => Err(Rejection::busy("the node's disk is nearly full").into()),
        }
    }

    fn finish(mut self) -> Result<Arrived, Refusal> {
        let before = self.sink.octets;
        let (decode, sink) = (&mut self.decode, &mut self.sink);
        let fed = self.decompress.finish(&mut |plain| {
            decode.decode(plain, false, &mut |text| sink.write(text));
        });
        fed.map_err(refused)?;
        decode.decode(b"", true, &mut |text| sink.write(text));
        self.account(before)?;
        let (directory, octets) = (self.upload.directory.clone(), self.sink.octets);
        let mut options = OpenOptions::new();
        let results = options.write(true).create_new(true).mode(FILE_MODE);
        let synced = || -> io::Result<File> {
            // With a name that is durable before anything is in it.
            results.open(directory.join("results"))?.sync_all()?;
            let file = self
                .sink
                .file
                .into_inner()
                .map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            sync_directory(&directory)?;
            // The directory above may have been made for this job.
            for above in directory.ancestors().skip(1).take(2) {
                sync_directory(above)?;
            }
            File::open(directory.join("input"))
        };
        let file = synced().map_err(|error| broken(&directory, &error))?;
        if let Some(form) = Form::of_questions(self.asked.form)
            && self.asked.questions.is_none()
        {
            match Rows::new(form, BufReader::new(file)) {
                Ok(_) => {}
                Err(Unreadable::Columns(text)) => return Err(Refusal::field("", text)),
                Err(Unreadable::Disk(error)) => return Err(broken(&directory, &error)),
            }
        }
        Ok(Arrived {
            upload: self.upload,
            octets,
            digest: self.digest.finalize().into(),
        })
    }
}

fn too_large(text: &'static str) -> Refusal {
    Refusal::named(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", text)
}

fn refused(refused: Refused) -> Refusal {
    match (refused.said(), refused) {
        (Some(wrong), _) => Refusal::field("", wrong),
        (None, Refused::Ratio) => {
            too_large("the body becomes too many times larger ([batch] ratio_max)")
        }
        (None, _) => too_large("the input is longer than is accepted here ([jobs] input_max)"),
    }
}
