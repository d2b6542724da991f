//! Replication streams in clear: every block comes back, every signature verifies.

use bytes::Bytes;
use jiexi_proto::message::replication::{
    DUMP_FORMAT, DumpBlock, StreamStart, TransactionBlock, TransactionsHead,
};
use jiexi_proto::value::key::PublicKey;
use jiexi_proto::wire::{Reader, Writer};

use super::{Run, crypto};

/// Checks a stream that is signed with `key`.
pub(super) fn check(item: &str, octets: &[u8], key: &PublicKey, run: &mut Run) {
    let stream = Bytes::from(octets.to_vec());
    let mut reader = Reader::over(&stream);
    let start = StreamStart::decode(&mut reader).unwrap();
    let mut encoded = Vec::new();
    start.encode(&mut Writer::new(&mut encoded));
    let StreamStart::Signed(hash) = start else {
        panic!("{item} is not signed")
    };
    let hash = std::str::from_utf8(&hash).unwrap();
    let dump = item.starts_with("dump");
    for number in 0.. {
        let from = encoded.len();
        let last = block(number, dump, &mut reader, &mut encoded);
        assert_eq!(encoded, octets[..reader.offset()], "{item} block {number}");
        // The last block of a dump has no signature.
        if !(last && dump) {
            let signature = reader.bytes(4096, "signature").unwrap();
            assert!(
                crypto::verifies(key, hash, &encoded[from..], signature),
                "{item} {number}"
            );
            Writer::new(&mut encoded).bytes(signature);
        }
        run.count("stream blocks");
        if last {
            break;
        }
    }
    assert!(reader.is_empty(), "{item} ends");
}

/// Decodes and encodes one block; true when it is the last.
fn block(number: usize, dump: bool, reader: &mut Reader<'_>, encoded: &mut Vec<u8>) -> bool {
    let mut writer = Writer::new(encoded);
    match (dump, number) {
        (true, 0) => {
            assert_eq!(reader.u32("format"), Ok(DUMP_FORMAT));
            writer.u32(DUMP_FORMAT);
            false
        }
        (true, _) => {
            let block = DumpBlock::decode(reader).unwrap();
            block.encode(&mut writer);
            block == DumpBlock::End
        }
        (false, 0) => {
            let head = TransactionsHead::decode(reader).unwrap();
            assert_eq!(
                head,
                TransactionsHead {
                    format: 1,
                    status: 2
                }
            );
            head.encode(&mut writer);
            false
        }
        (false, _) => {
            let block = TransactionBlock::decode(reader).unwrap();
            block.encode(&mut writer);
            matches!(block, TransactionBlock::End { .. })
        }
    }
}
