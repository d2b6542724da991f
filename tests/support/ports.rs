//! Ports for the nodes and peers of tests that cannot say "any port" and be asked which it was.
//!
//! A port that was bound to 0, read and let go is a port somebody else may get: every outgoing connection of any test
//! draws from the same range of the kernel. These come from below that range, are free for TCP and UDP when they are
//! handed out, and stay this process's until it ends, because it holds a lock on a file of that number.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::Mutex;

/// Below what Linux hands out by itself (32,768), above what services of a machine usually have.
const PORTS: std::ops::Range<u16> = 12_000..30_000;

/// The locks of the ports that this process has.
static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A port of the loopback address, free for TCP and UDP, that no other caller gets while this process lives.
pub(crate) fn free_port() -> u16 {
    let directory = std::env::temp_dir().join("jiexi-test-ports");
    std::fs::create_dir_all(&directory).expect("a directory for the ports");
    let mut held = HELD.lock().expect("no test panics here");
    let width = u32::from(PORTS.end - PORTS.start);
    // Elsewhere for each process, so that a port that was just let go rests a while.
    let first = std::process::id().wrapping_mul(97);
    for step in 0..width {
        let at = u16::try_from(first.wrapping_add(step) % width).expect("below the width");
        let port = PORTS.start + at;
        let file = File::create(directory.join(port.to_string())).expect("a file for a port");
        // A second handle of the same file has a lock of its own: what this process holds is refused here, too.
        if file.try_lock().is_err() {
            continue;
        }
        let any = (Ipv4Addr::UNSPECIFIED, port);
        if TcpListener::bind(any).is_ok() && UdpSocket::bind(any).is_ok() {
            held.push(file);
            return port;
        }
    }
    panic!("no free port in {PORTS:?}");
}
