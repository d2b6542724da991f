//! Compression of batches: one coding, and bounds on what comes out of it.

use std::fmt;
use std::io::{self, Write as _};

use flate2::Compression;
use flate2::write::{GzEncoder, MultiGzDecoder};
use zstd::stream::raw::{DParameter, Decoder as RawZstd, InBuffer, Operation as _, OutBuffer};
use zstd::stream::write::Encoder as Zstd;

use super::{RATIO_FREE, WINDOW_LOG_MAX};

/// Octets that are decompressed at once: gzip makes about 1,000 octets of one, Zstandard more, but in blocks.
const GZIP_STEP: usize = 256;
const ZSTD_STEP: usize = 128 << 10;
/// How hard is tried; a batch must not wait for it.
const GZIP_LEVEL: u32 = 1;
const ZSTD_LEVEL: i32 = 1;

/// What the library says of a frame with a larger window; it hands its errors over as texts.
const WINDOW_TOO_LARGE: &str = "requires too much memory";

/// What octets went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Coding {
    /// Nothing.
    #[default]
    Identity,
    /// gzip (RFC 1952).
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
}

impl Coding {
    /// Reads `Content-Encoding`; none unless it is one coding that is known.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Some(Self::Identity),
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Reads `Accept-Encoding`: the best of those that are wanted.
    #[must_use]
    pub fn accepted(text: &str) -> Self {
        let wanted = |name: &str| {
            text.split(',').any(|part| {
                let mut parts = part.split(';').map(str::trim);
                let named = parts
                    .next()
                    .is_some_and(|known| known.eq_ignore_ascii_case(name));
                let refused = |weight: &str| {
                    let number = weight.strip_prefix("q=").unwrap_or("1");
                    number.trim().parse() == Ok(0.0_f32)
                };
                named && !parts.any(refused)
            })
        };
        match (wanted("zstd"), wanted("gzip")) {
            (true, _) => Self::Zstd,
            (false, true) => Self::Gzip,
            (false, false) => Self::Identity,
        }
    }

    /// Its name in headers; none for identity.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }
}

/// Why input is not decompressed further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is damaged, or in another coding.
    Damaged,
    /// Its end is missing.
    Cut,
    /// Its end is missing or damaged; gzip does not say which.
    End,
    /// It needs a larger window than 2^[`WINDOW_LOG_MAX`] octets.
    Window,
    /// It becomes too many times larger.
    Ratio,
    /// It becomes too large.
    Total,
}

impl Refused {
    /// What is wrong with the input itself, for people; none where it is only too large.
    #[must_use]
    pub const fn said(self) -> Option<&'static str> {
        Some(match self {
            Self::Damaged => {
                "the compressed body is damaged, or in another coding than Content-Encoding says"
            }
            Self::Cut => "the compressed body is cut: it has no end",
            Self::End => "the compressed body does not end as it should: it is cut or damaged",
            Self::Window => {
                "the compressed body needs a window above 8 MiB: compress it with a smaller one, such as zstd without --long or --ultra"
            }
            Self::Ratio | Self::Total => return None,
        })
    }
}

/// What input may become.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Octets after decompression.
    pub total: u64,
    /// Octets after decompression for one before.
    pub ratio: u64,
}

enum Decoding {
    Identity,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Zstd {
        decoder: Box<RawZstd<'static>>,
        inside: bool,
        /// One for the whole stream: it may come octet by octet.
        made: Vec<u8>,
    },
}

/// Decompresses a stream within bounds.
pub struct Decompress {
    decoding: Decoding,
    bounds: Bounds,
    taken: u64,
    made: u64,
}

impl fmt::Debug for Decompress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decompress").finish_non_exhaustive()
    }
}

impl Decompress {
    /// A stream in one coding.
    ///
    /// # Errors
    /// The library refuses its parameters.
    pub fn new(coding: Coding, bounds: Bounds) -> io::Result<Self> {
        let decoding = match coding {
            Coding::Identity => Decoding::Identity,
            Coding::Gzip => Decoding::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            Coding::Zstd => {
                let mut decoder = Box::new(RawZstd::new()?);
                decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
                Decoding::Zstd {
                    decoder,
                    inside: false,
                    made: vec![0; ZSTD_STEP],
                }
            }
        };
        Ok(Self {
            decoding,
            bounds,
            taken: 0,
            made: 0,
        })
    }

    /// Calls `each` with what comes out of `octets`, in pieces.
    ///
    /// # Errors
    /// See [`Refused`]; what came out before was good.
    pub fn feed(&mut self, octets: &[u8], each: &mut dyn FnMut(&[u8])) -> Result<(), Refused> {
        self.taken += octets.len() as u64;
        let (bounds, taken, made) = (self.bounds, self.taken, &mut self.made);
        let mut pass = |piece: &[u8], compressed: bool| {
            *made += piece.len() as u64;
            let most = taken.saturating_mul(bounds.ratio).max(RATIO_FREE);
            if *made > bounds.total {
                return Err(Refused::Total);
            }
            if compressed && *made > most {
                return Err(Refused::Ratio);
            }
            each(piece);
            Ok(())
        };
        match &mut self.decoding {
            Decoding::Identity => pass(octets, false),
            Decoding::Gzip(decoder) => {
                for piece in octets.chunks(GZIP_STEP) {
                    decoder.write_all(piece).map_err(|_| Refused::Damaged)?;
                    pass(decoder.get_ref(), true)?;
                    decoder.get_mut().clear();
                }
                Ok(())
            }
            Decoding::Zstd {
                decoder,
                inside,
                made,
            } => unzstd(decoder, inside, octets, made, &mut |piece| {
                pass(piece, true)
            }),
        }
    }

    /// The stream has ended: calls `each` with what is left.
    ///
    /// # Errors
    /// It is cut.
    pub fn finish(&mut self, each: &mut dyn FnMut(&[u8])) -> Result<(), Refused> {
        match &mut self.decoding {
            Decoding::Gzip(_) | Decoding::Zstd { .. } if self.taken == 0 => Err(Refused::Cut),
            Decoding::Gzip(decoder) => {
                decoder.try_finish().map_err(|_| Refused::End)?;
                each(decoder.get_ref());
                Ok(())
            }
            Decoding::Zstd { inside, .. } if *inside => Err(Refused::Cut),
            Decoding::Identity | Decoding::Zstd { .. } => Ok(()),
        }
    }
}

fn unzstd(
    decoder: &mut RawZstd<'_>,
    inside: &mut bool,
    octets: &[u8],
    made: &mut [u8],
    each: &mut dyn FnMut(&[u8]) -> Result<(), Refused>,
) -> Result<(), Refused> {
    let mut input = InBuffer::around(octets);
    loop {
        let mut output = OutBuffer::around(&mut *made);
        let hint = decoder.run(&mut input, &mut output).map_err(|error| {
            match error.to_string().contains(WINDOW_TOO_LARGE) {
                true => Refused::Window,
                false => Refused::Damaged,
            }
        })?;
        *inside = hint != 0;
        let written = output.pos();
        each(&made[..written])?;
        // With its room used up there may be more, also without more input.
        if input.pos() == octets.len() && (written < ZSTD_STEP || hint == 0) {
            return Ok(());
        }
    }
}

/// Compresses a stream into pieces.
pub enum Compress {
    /// Nothing is done.
    Identity(Vec<u8>),
    /// gzip.
    Gzip(Box<GzEncoder<Vec<u8>>>),
    /// Zstandard.
    Zstd(Box<Zstd<'static, Vec<u8>>>),
}

impl fmt::Debug for Compress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compress").finish_non_exhaustive()
    }
}

impl Compress {
    /// A stream in one coding.
    ///
    /// # Errors
    /// The library refuses its parameters.
    pub fn new(coding: Coding) -> io::Result<Self> {
        Ok(match coding {
            Coding::Identity => Self::Identity(Vec::new()),
            Coding::Gzip => Self::Gzip(Box::new(GzEncoder::new(
                Vec::new(),
                Compression::new(GZIP_LEVEL),
            ))),
            Coding::Zstd => Self::Zstd(Box::new(Zstd::new(Vec::new(), ZSTD_LEVEL)?)),
        })
    }

    /// What may be sent of `text` and what came before; with `flush` all of it.
    ///
    /// # Errors
    /// The library fails.
    pub fn pass(&mut self, text: Vec<u8>, flush: bool) -> io::Result<Vec<u8>> {
        match self {
            Self::Identity(_) => Ok(text),
            Self::Gzip(encoder) => {
                encoder.write_all(&text)?;
                if flush {
                    encoder.flush()?;
                }
                Ok(std::mem::take(encoder.get_mut()))
            }
            Self::Zstd(encoder) => {
                encoder.write_all(&text)?;
                if flush {
                    encoder.flush()?;
                }
                Ok(std::mem::take(encoder.get_mut()))
            }
        }
    }

    /// What is left at the end.
    ///
    /// # Errors
    /// The library fails.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Identity(left) => Ok(left),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        total: 64 << 20,
        ratio: 100,
    };

    fn compressed(coding: Coding, text: &[u8]) -> Vec<u8> {
        let mut compress = Compress::new(coding).unwrap();
        let mut out = Vec::new();
        for piece in text.chunks(100_000) {
            out.extend(compress.pass(piece.to_vec(), piece.len() % 2 == 0).unwrap());
        }
        out.extend(compress.finish().unwrap());
        out
    }

    fn back(
        coding: Coding,
        octets: &[u8],
        step: usize,
        bounds: Bounds,
    ) -> Result<Vec<u8>, Refused> {
        let (mut decompress, mut out) = (Decompress::new(coding, bounds).unwrap(), Vec::new());
        for piece in octets.chunks(step) {
            decompress.feed(piece, &mut |text| out.extend_from_slice(text))?;
        }
        decompress.finish(&mut |text| out.extend_from_slice(text))?;
        Ok(out)
    }

    fn text() -> Vec<u8> {
        (0..40_000)
            .map(|n| format!("88.118.20/{:x}\n", n * 7_919_u64 * n))
            .collect::<String>()
            .into_bytes()
    }

    /// Goal: both codings give back what went in, in pieces of any size and in several members; a cut is seen.
    #[test]
    fn there_and_back() {
        let text = text();
        for coding in [Coding::Identity, Coding::Gzip, Coding::Zstd] {
            let octets = compressed(coding, &text);
            for step in [7, 4_096, usize::MAX] {
                assert_eq!(
                    back(coding, &octets, step, BOUNDS).as_deref(),
                    Ok(&text[..]),
                    "{coding:?}"
                );
            }
            let twice = [&octets[..], &octets].concat();
            assert_eq!(
                back(coding, &twice, 1_000, BOUNDS),
                Ok([&text[..], &text].concat())
            );
            if coding != Coding::Identity {
                let cut = &octets[..octets.len() - 5];
                let end = match coding {
                    Coding::Gzip => Refused::End,
                    _ => Refused::Cut,
                };
                assert_eq!(back(coding, cut, 1_000, BOUNDS), Err(end));
                let mut other = octets.clone();
                let middle = other.len() / 2;
                other[middle..].fill(0xA5);
                let damaged = back(coding, &other, 1_000, BOUNDS);
                assert!(
                    matches!(damaged, Err(Refused::Damaged | Refused::End)),
                    "{damaged:?}"
                );
                assert_eq!(
                    back(coding, b"88.118.20/a\n", 5, BOUNDS),
                    Err(Refused::Damaged)
                );
                assert_eq!(back(coding, b"", 5, BOUNDS), Err(Refused::Cut));
            }
        }
    }

    /// Goal: a bomb is refused when it has made no more than its bounds and one piece.
    #[test]
    fn bombs() {
        let bomb = vec![b'a'; 32 << 20];
        for coding in [Coding::Gzip, Coding::Zstd] {
            let octets = compressed(coding, &bomb);
            let (mut decompress, mut most) = (Decompress::new(coding, BOUNDS).unwrap(), 0);
            let done = decompress.feed(&octets, &mut |piece| most += piece.len());
            assert_eq!(done, Err(Refused::Ratio), "{coding:?} {}", octets.len());
            let allowed = usize::try_from(RATIO_FREE).unwrap().max(100 * octets.len());
            assert!(most <= allowed, "{most}");
        }
        let small = Bounds {
            total: 1_000,
            ratio: 100,
        };
        for coding in [Coding::Identity, Coding::Gzip, Coding::Zstd] {
            assert_eq!(
                back(coding, &compressed(coding, &text()), 4_096, small),
                Err(Refused::Total)
            );
        }
    }

    /// Goal: a window above 8 MiB is refused.
    #[test]
    fn windows() {
        for (log, good) in [(23, true), (24, false)] {
            let mut encoder = Zstd::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            for _ in 0..20 {
                encoder.write_all(&text()).unwrap();
            }
            let octets = encoder.finish().unwrap();
            let read = back(Coding::Zstd, &octets, 65_536, BOUNDS).map(drop);
            let expected = if good { Ok(()) } else { Err(Refused::Window) };
            assert_eq!(read, expected, "{log}");
        }
    }

    /// Goal: one coding that is known, and the client's wish.
    #[test]
    fn names() {
        assert_eq!(Coding::named("GZIP"), Some(Coding::Gzip));
        for bad in ["gzip, gzip", "br", "deflate", "gzip,zstd"] {
            assert_eq!(Coding::named(bad), None, "{bad}");
        }
        for (text, expected) in [
            ("", Coding::Identity),
            ("gzip, deflate", Coding::Gzip),
            ("gzip;q=0.5, zstd;q=0.1", Coding::Zstd),
            ("gzip;q=0, zstd;q=0.0", Coding::Identity),
            ("br", Coding::Identity),
        ] {
            assert_eq!(Coding::accepted(text), expected, "{text}");
        }
    }
}
