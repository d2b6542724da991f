//! Frames on the control socket: a length, a kind, a payload; nothing longer than [`PAYLOAD_MAX`].
//!
//! ```text
//! u32 payload length (big-endian) | u8 kind | payload
//! ```

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest payload. Records of the largest size fit as one line of hexadecimal JSON (2 × 256 KiB and some).
pub const PAYLOAD_MAX: usize = 1 << 20;
/// What senders of data put into one frame at most, so that neither side waits long for one.
pub const CHUNK: usize = 128 << 10;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Client: what is to be done, in JSON. First and once.
    Command = 1,
    /// Either: a piece of NDJSON; lines may cross pieces.
    Data = 2,
    /// Either: no more data.
    End = 3,
    /// Server: how far it is, in JSON.
    Progress = 4,
    /// Server: done; the outcome in JSON. Last.
    Done = 5,
    /// Server: failed; a message in JSON. Last.
    Failed = 6,
}

impl Kind {
    /// The kind with this number.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [
            Self::Command,
            Self::Data,
            Self::End,
            Self::Progress,
            Self::Done,
            Self::Failed,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == number)
    }
}

/// A frame as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// Reads one frame; `None`: the peer closed between frames.
///
/// # Errors
/// IO, an unknown kind, a payload above [`PAYLOAD_MAX`], or an end within a frame.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
    let mut head = [0_u8; 5];
    if stream.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut head[1..]).await?;
    let [a, b, c, d, kind] = head;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length > PAYLOAD_MAX {
        return Err(invalid(format!(
            "control frame of {length} bytes; at most {PAYLOAD_MAX} are allowed"
        )));
    }
    let kind = Kind::from_number(kind)
        .ok_or_else(|| invalid(format!("control frame of unknown kind {kind}")))?;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    Ok(Some(Frame { kind, payload }))
}

/// Writes one frame.
///
/// # Errors
/// IO, or a payload above [`PAYLOAD_MAX`].
pub async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    kind: Kind,
    payload: &[u8],
) -> io::Result<()> {
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= PAYLOAD_MAX);
    let length =
        length.ok_or_else(|| invalid(format!("control frame of {} bytes", payload.len())))?;
    let mut head = [0_u8; 5];
    head[..4].copy_from_slice(&length.to_be_bytes());
    head[4] = kind as u8;
    stream.write_all(&head).await?;
    stream.write_all(payload).await?;
    stream.flush().await
}

/// The other side broke the protocol.
fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    //! Goal: frames survive the way, and no length field can make the reader allocate more than the limit.

    use super::*;

    #[tokio::test]
    async fn round_trip_and_clean_end() {
        let mut wire = Vec::new();
        write(&mut wire, Kind::Command, b"{}")
            .await
            .expect("writes");
        write(&mut wire, Kind::End, b"").await.expect("writes");
        let mut stream = wire.as_slice();
        let first = read(&mut stream).await.expect("reads").expect("is there");
        assert_eq!(
            (first.kind, first.payload.as_slice()),
            (Kind::Command, b"{}".as_slice())
        );
        assert_eq!(
            read(&mut stream)
                .await
                .expect("reads")
                .expect("is there")
                .kind,
            Kind::End
        );
        assert_eq!(read(&mut stream).await.expect("reads"), None);
    }

    #[tokio::test]
    async fn every_truncation_and_bad_head_is_an_error() {
        let mut wire = Vec::new();
        write(&mut wire, Kind::Data, b"abc").await.expect("writes");
        for length in 1..wire.len() {
            assert!(read(&mut &wire[..length]).await.is_err(), "cut to {length}");
        }
        for bad in [
            [0xff, 0xff, 0xff, 0xff, 2],
            [0, 0x10, 0, 1, 2],
            [0, 0, 0, 0, 0],
            [0, 0, 0, 0, 7],
        ] {
            let error = read(&mut bad.as_slice()).await.expect_err("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        assert!(
            write(&mut Vec::new(), Kind::Data, &vec![0; PAYLOAD_MAX + 1])
                .await
                .is_err()
        );
    }
}
