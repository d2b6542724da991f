//! The codec on the hot path: reading a resolution request, reading a message, writing a response.

use std::hint::black_box;

use bytes::Bytes;
use criterion::Criterion;
use jiexi_proto::handle::{self, CaseRule};
use jiexi_proto::message::CredentialField;
use jiexi_proto::message::resolution::{Resolution, ResolutionView};
use jiexi_proto::message::values::HandleValues;
use jiexi_proto::{
    Body, Envelope, Header, Message, MessageView, MessageWriter, OpCode, OpFlags, Permissions,
    ResponseCode, Ttl, Value,
};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    reading(&mut criterion);
    writing(&mut criterion);
    criterion.final_summary();
}

/// The question that most clients ask.
fn request() -> Vec<u8> {
    let header = Header::request(OpCode::RESOLUTION, OpFlags::RESOLUTION, i32::MAX);
    let body = Body::Resolution(Resolution {
        handle: Bytes::from_static(b"88.118.8/item0000001"),
        types: vec![Bytes::from_static(b"URL")],
        ..Resolution::default()
    });
    let mut octets = Vec::new();
    Message::new(Envelope::request(1), header, body).encode(&mut octets);
    octets
}

/// Four values, as a device has.
fn values() -> Vec<Value> {
    let value = |index| Value {
        index,
        timestamp: 1_700_000_000,
        ttl: Ttl::Relative(86_400),
        permissions: Permissions(0x0e),
        kind: Bytes::from_static(b"URL"),
        data: Bytes::from_static(b"https://example.cn/item/0000001"),
        references: Vec::new(),
    };
    (1..=4).map(value).collect()
}

/// Its answer.
fn answer() -> Message {
    let handle = Bytes::from_static(b"88.118.8/item0000001");
    let header = Header::request(OpCode::RESOLUTION, OpFlags::RESOLUTION, i32::MAX);
    let header = Header {
        response_code: ResponseCode::SUCCESS,
        ..header
    };
    let body = Body::Resolved(HandleValues {
        handle,
        values: values(),
    });
    Message::new(Envelope::request(1), header, body)
}

fn reading(criterion: &mut Criterion) {
    let request = request();
    let mut key = Vec::with_capacity(64);
    criterion.bench_function("read a resolution request as a view", |bencher| {
        bencher.iter(|| {
            let question = MessageView::decode(black_box(&request))
                .and_then(|view| ResolutionView::decode(view.body));
            key.clear();
            if let Ok(question) = question {
                handle::fold(question.handle, CaseRule::Whole, &mut key);
            }
            key.len()
        });
    });
    let mut octets = Vec::new();
    answer().encode(&mut octets);
    let octets = Bytes::from(octets);
    criterion.bench_function("read an answer of four values", |bencher| {
        bencher.iter(|| Message::decode(black_box(&octets)));
    });
}

fn writing(criterion: &mut Criterion) {
    let answer = answer();
    let mut out = Vec::with_capacity(1_024);
    criterion.bench_function("write an answer of four values", |bencher| {
        bencher.iter(|| {
            out.clear();
            black_box(&answer).encode(&mut out);
            out.len()
        });
    });
    let mut wire = Vec::new();
    values().iter().for_each(|value| value.encode(&mut wire));
    criterion.bench_function("write an answer of stored values", |bencher| {
        bencher.iter(|| {
            out.clear();
            let (envelope, header) = (answer.envelope, answer.header);
            let mut writer = MessageWriter::begin(black_box(&envelope), &header, &mut out);
            writer.body().bytes(b"88.118.8/item0000001");
            writer.body().length(4);
            writer.body().raw(black_box(&wire));
            writer.finish(&CredentialField::Empty);
            out.len()
        });
    });
}
