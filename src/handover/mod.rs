//! An upgrade without a pause: a running node gives its sockets and its store to another process, which then is the node.
//!
//! ```text
//! new (jiexi serve --take-over)               old (the running node)
//! control socket: hand_over, version     ─→   same user? one at a time?
//!                                        ←─   every socket that it listens on
//! fills its index beside the old one
//! filled                                 ─→   jobs rest; the writer ends; the audit trail is synced
//!                                        ←─   the store: the lock of its directory
//! reads what came meanwhile, answers
//! answering                              ─→   changes that waited are told to ask again
//!                                             reads no more datagrams, accepts nothing, lets connections end
//! ```
//!
//! Both have the same sockets, so no datagram is lost that waits in one of them, and a connection that nobody has accepted
//! is accepted by the other. Between `store` and `answering` look-ups are answered by the old one, and changes wait. When the
//! new one fails, dies or is late the old one makes sure that it is gone, reads what it may have written, and goes on.
//!
//! The lock of the store's directory goes with its descriptor: there is no moment in which nobody has it, and the old one
//! keeps a share of it until it knows how it ends.
//!
//! * [`Inherited`]: sockets on their way. `wire`: messages, and descriptors beside them.
//! * [`giving`]: the old process; [`watching`]: what it sees of the new one then. [`taking`]: the new one.
//! * [`successor`]: the old one starts the new one itself, in the place where it runs (`jiexi upgrade`).

pub mod giving;
pub mod successor;
pub mod taking;
pub mod watching;
mod wire;

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::{Socket, Type};

/// The version of what is said here. Both ends may be of different versions of the program: a node refuses what is not its
/// own.
pub const VERSION: u32 = 1;
/// Sockets that are taken.
const SOCKETS_MAX: usize = 4_096;
/// How long the new process may take to fill its index.
const FILL_MAX: Duration = Duration::from_secs(3_600);
/// Every message but the wait for the index comes within this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the two say to each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
enum Message {
    /// Old: a socket comes with this.
    Socket,
    /// Old: those were all.
    Sockets {
        /// How many.
        count: usize,
    },
    /// New: its index is filled.
    Filled,
    /// Old: the lock of the store comes with this.
    Store,
    /// New: it answers, and is the node now.
    Answering {
        /// Whether it uses the control socket that it was given.
        control: bool,
    },
}

/// Sockets of another process, to be used in the place of new ones.
#[derive(Debug, Default)]
pub struct Inherited {
    listeners: Vec<(SocketAddr, TcpListener)>,
    datagrams: Vec<(SocketAddr, UdpSocket)>,
    control: Option<UnixListener>,
}

impl Inherited {
    /// Adds a socket; one of an unknown kind is closed.
    fn add(&mut self, socket: OwnedFd) {
        let socket = Socket::from(socket);
        let (Ok(kind), Ok(address)) = (socket.r#type(), socket.local_addr()) else {
            return;
        };
        match (address.as_socket(), kind) {
            (Some(address), Type::STREAM) => self.listeners.push((address, socket.into())),
            (Some(address), Type::DGRAM) => self.datagrams.push((address, socket.into())),
            (None, Type::STREAM) if address.is_unix() => {
                self.control = Some(UnixListener::from(OwnedFd::from(socket)));
            }
            _ => {}
        }
    }

    /// The listening socket of an address.
    pub fn listener(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let found = self.listeners.iter().position(|(at, _)| *at == address)?;
        Some(self.listeners.swap_remove(found).1)
    }

    /// All sockets for datagrams of an address: what waits in any of them is to be answered.
    pub fn datagrams(&mut self, address: SocketAddr) -> Vec<UdpSocket> {
        let of_address = self.datagrams.extract_if(.., |(at, _)| *at == address);
        of_address.map(|(_, socket)| socket).collect()
    }

    /// The control socket. It is the only one of its kind, and by it these sockets came: the path that it was bound to may
    /// be written otherwise.
    pub const fn control(&mut self) -> Option<UnixListener> {
        self.control.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: sockets are found by what they are bound to, all datagram sockets of an address at once, each one time.
    #[test]
    fn sockets_are_found_by_their_addresses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let first = crate::server::datagram::bind("127.0.0.1:0".parse().unwrap(), 65_536, "handle");
        let first = first.unwrap();
        let port = first.local_addr().unwrap();
        let second = crate::server::datagram::bind(port, 65_536, "handle").unwrap();
        let mut inherited = Inherited::default();
        for socket in [first.into(), listener.into(), second.into()] {
            inherited.add(socket);
        }
        assert!(inherited.listener("127.0.0.1:1".parse().unwrap()).is_none());
        assert_eq!(inherited.listener(at).unwrap().local_addr().unwrap(), at);
        assert!(inherited.listener(at).is_none());
        assert_eq!(inherited.datagrams(port).len(), 2);
        assert!(inherited.datagrams(port).is_empty());
    }
}
