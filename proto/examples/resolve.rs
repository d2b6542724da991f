//! Resolves a handle over UDP: `resolve HANDLE [SERVER]`.

use std::net::UdpSocket;

use bytes::Bytes;
use jiexi_proto::framing::{Reassembler, ReassemblyLimits};
use jiexi_proto::limits::DATAGRAM_MAX;
use jiexi_proto::message::resolution::Resolution;
use jiexi_proto::{Body, Envelope, Header, Message, OpCode, OpFlags};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let handle = Bytes::from(arguments.next().ok_or("usage: resolve HANDLE [SERVER]")?);
    let server = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:2641".to_owned());

    let header = Header::request(OpCode::RESOLUTION, OpFlags::RESOLUTION, i32::MAX);
    let body = Body::Resolution(Resolution {
        handle,
        ..Resolution::default()
    });
    let mut request = Vec::new();
    Message::new(Envelope::request(1), header, body).encode(&mut request);

    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(std::time::Duration::from_secs(2)))?;
    socket.send_to(&request, server)?;

    let mut pieces = Reassembler::new(ReassemblyLimits::default());
    let mut datagram = [0; DATAGRAM_MAX];
    let answer = loop {
        let (length, from) = socket.recv_from(&mut datagram)?;
        let piece = datagram.get(..length).unwrap_or_default();
        if let Some(whole) = pieces.push(from, piece, 0)? {
            break Message::decode(&Bytes::from(whole))?;
        }
    };
    println!("{}", answer.header.response_code);
    if let Body::Resolved(resolved) = answer.body {
        for value in resolved.values {
            println!("{} {:?} {:?}", value.index, value.kind, value.data);
        }
    }
    Ok(())
}
