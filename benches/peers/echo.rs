//! The floors: one thread, the same packet sizes, no other work. What a node spends above them is the node's own.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use jiexi::bench::Failure;
use jiexi::bench::Protocol as _;
use jiexi::bench::wire::{DATAGRAM_MAX, HEAD, Handle, make_answer};
use nix::errno::Errno;
use nix::sys::socket::sockopt::RcvBuf;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const BATCH: usize = 32;
const RECEIVE_BUFFER: usize = 4 << 20;

/// Answers connections with `reply` octets for each request, until the process is ended.
pub(crate) fn streams(listen: SocketAddr, reply: usize) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    // On the worker, too: the thread that waits here would cost a switch for each connection.
    runtime
        .block_on(runtime.spawn(accept(listen, reply)))
        .map_err(Failure::new)?
}

async fn accept(listen: SocketAddr, reply: usize) -> Result<(), Failure> {
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(answer(stream, reply));
    }
}

/// Answers all complete requests of a read with one write.
async fn answer(mut stream: TcpStream, reply: usize) -> Result<(), Failure> {
    let (mut input, mut filled) = (vec![0_u8; 64 << 10], 0);
    let mut output = Vec::new();
    loop {
        let read = stream.read(&mut input[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        output.clear();
        let mut at = 0;
        while let Some(size) = Handle
            .frame(&input[at..filled])
            .filter(|size| at + size <= filled)
        {
            let start = output.len();
            output.extend_from_slice(&input[at..at + HEAD]);
            output.resize(start + reply, 0);
            make_answer(&mut output[start..], reply);
            at += size;
        }
        input.copy_within(at..filled, 0);
        filled -= at;
        stream.write_all(&output).await?;
    }
}

/// Answers each request with `reply` octets that `make` turns from a copy into an answer, until the process is ended.
pub(crate) fn datagrams(
    listen: SocketAddr,
    reply: usize,
    make: impl Fn(&mut [u8]),
) -> Result<(), Failure> {
    if !(HEAD..=DATAGRAM_MAX).contains(&reply) || listen.is_ipv6() {
        return Err(Failure::new(
            "answers of 44 to 512 octets, and an IPv4 address",
        ));
    }
    let socket = UdpSocket::bind(listen)?;
    setsockopt(&socket, RcvBuf, &RECEIVE_BUFFER)?;
    eprintln!("echo listens on {}", socket.local_addr()?);

    let mut requests = vec![[0_u8; DATAGRAM_MAX]; BATCH];
    let mut answers = vec![[0_u8; DATAGRAM_MAX]; BATCH];
    let mut receive = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut send = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    loop {
        let mut peers = [None; BATCH];
        let count = match batch_in(&socket, &mut requests, &mut receive, &mut peers) {
            Err(Errno::EINTR | Errno::ECONNREFUSED) => continue,
            received => received?,
        };
        for (answer, request) in answers.iter_mut().zip(&requests).take(count) {
            answer[..reply].copy_from_slice(&request[..reply]);
            make(&mut answer[..reply]);
        }
        batch_out(&socket, &answers[..count], reply, &mut send, &peers)?;
    }
}

fn batch_in(
    socket: &UdpSocket,
    buffers: &mut [[u8; DATAGRAM_MAX]],
    headers: &mut MultiHeaders<SockaddrIn>,
    peers: &mut [Option<SockaddrIn>; BATCH],
) -> Result<usize, Errno> {
    let mut left = buffers.iter_mut();
    let mut slices: [[IoSliceMut<'_>; 1]; BATCH] = std::array::from_fn(|_| {
        [IoSliceMut::new(
            left.next().map_or(&mut [], |buffer| &mut buffer[..]),
        )]
    });
    let flags = MsgFlags::MSG_WAITFORONE;
    let received = recvmmsg(socket.as_raw_fd(), headers, &mut slices, flags, None)?;
    let mut count = 0;
    for (peer, message) in peers.iter_mut().zip(received) {
        *peer = message.address;
        count += 1;
    }
    Ok(count)
}

fn batch_out(
    socket: &UdpSocket,
    answers: &[[u8; DATAGRAM_MAX]],
    reply: usize,
    headers: &mut MultiHeaders<SockaddrIn>,
    peers: &[Option<SockaddrIn>; BATCH],
) -> Result<(), Failure> {
    let mut sent = 0;
    while sent < answers.len() {
        let rest = &answers[sent..];
        let slices: [[IoSlice<'_>; 1]; BATCH] = std::array::from_fn(|i| {
            [IoSlice::new(
                rest.get(i).map_or(&[], |answer| &answer[..reply]),
            )]
        });
        let fd = socket.as_raw_fd();
        let flags = MsgFlags::empty();
        match sendmmsg(
            fd,
            headers,
            &slices[..rest.len()],
            &peers[sent..],
            [],
            flags,
        ) {
            Ok(results) => sent += results.count().max(1),
            // The asking socket is gone: its answer is not wanted any more.
            Err(Errno::ECONNREFUSED) => sent += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
