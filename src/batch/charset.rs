//! Text in any charset, as UTF-8.

use encoding_rs::{Decoder, DecoderResult, Encoding};

/// Stands where octets could not be decoded: never part of UTF-8, so that only the line it stands in fails.
pub const UNDECODABLE: u8 = 0xFF;
/// Octets that are decoded at once.
const STEP: usize = 32 << 10;

/// A charset that is known.
#[derive(Clone, Copy, Debug)]
pub struct Charset(&'static Encoding);

impl Charset {
    /// The charset of a label such as `utf-8` or `gb18030`; none when it is not known.
    #[must_use]
    pub fn named(label: &str) -> Option<Self> {
        Encoding::for_label_no_replacement(label.trim().as_bytes()).map(Self)
    }
}

/// Decodes a stream. A byte order mark is believed before the charset that was named, and left out.
pub struct Decode {
    decoder: Decoder,
    /// One for the whole stream: it may come octet by octet.
    text: Vec<u8>,
}

impl std::fmt::Debug for Decode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Decode")
            .field(&self.decoder.encoding().name())
            .finish()
    }
}

impl Decode {
    /// A stream in a charset.
    #[must_use]
    pub fn new(charset: Charset) -> Self {
        Self {
            decoder: charset.0.new_decoder(),
            text: vec![0; STEP],
        }
    }

    /// Calls `each` with the text of `octets`, in pieces; `last` when no more follow.
    pub fn decode(&mut self, mut octets: &[u8], last: bool, each: &mut dyn FnMut(&[u8])) {
        let Self { decoder, text } = self;
        loop {
            let room = text.len() - 1;
            let (result, read, written) =
                decoder.decode_to_utf8_without_replacement(octets, &mut text[..room], last);
            octets = &octets[read..];
            let mut end = written;
            if matches!(result, DecoderResult::Malformed(..)) {
                text[end] = UNDECODABLE;
                end += 1;
            }
            each(&text[..end]);
            if matches!(result, DecoderResult::InputEmpty) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(label: &str, octets: &[u8], step: usize) -> Vec<u8> {
        let charset = Charset::named(label).unwrap();
        let (mut decode, mut out) = (Decode::new(charset), Vec::new());
        for piece in octets.chunks(step) {
            decode.decode(piece, false, &mut |text| out.extend_from_slice(text));
        }
        decode.decode(b"", true, &mut |text| out.extend_from_slice(text));
        out
    }

    /// Goal: the same text however the octets arrive; what cannot be decoded does not swallow the end of its line.
    #[test]
    fn pieces() {
        let cases: &[(&str, &[u8], &[u8])] = &[
            ("utf-8", b"\xef\xbb\xbfa\n\xe5\xb7\xa5", "a\n工".as_bytes()),
            (
                "gb18030",
                b"\xb9\xa4\n\x90\x30\x81\x30\n",
                "工\n\u{10000}\n".as_bytes(),
            ),
            ("GB2312", b"\xb9\xa4", "工".as_bytes()),
            ("gb18030", b"a\x81\nb\n", b"a\xff\nb\n"),
            ("gb18030", b"\x81\x30\x81\nb", b"\xff0\xff\nb"),
            ("utf-8", b"a\xc3\nb\xe5\xb7", b"a\xff\nb\xff"),
            ("utf-8", b"\xff\xfea\0\n\0", b"a\n"),
            ("gb18030", b"\xef\xbb\xbfa", b"a"),
        ];
        for (label, octets, expected) in cases {
            for step in [1, 2, 3, 100] {
                assert_eq!(
                    decoded(label, octets, step),
                    *expected,
                    "{label} {octets:?} {step}"
                );
            }
        }
        assert!(Charset::named("klingon").is_none());
    }
}
