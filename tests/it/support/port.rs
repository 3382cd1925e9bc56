//! Ports that a test has to itself.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use tokio::net::TcpSocket;

/// A port of 127.0.0.1 that no other test gets while this lives, whether something listens at it or not: a connection
/// is refused meanwhile.
///
/// It is bound by a socket that never listens. Beside such a one, a socket that listens may be bound to the same port,
/// in any process, when both have `SO_REUSEADDR`, as every server sets it.
#[derive(Debug)]
pub(crate) struct Port {
    address: SocketAddr,
    _bound: TcpSocket,
}

impl Port {
    pub(crate) fn new() -> Self {
        let bound = TcpSocket::new_v4().unwrap();
        bound.set_reuseaddr(true).unwrap();
        bound.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        Self { address: bound.local_addr().unwrap(), _bound: bound }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens at it until what this returns is dropped.
    pub(crate) fn listen(&self) -> TcpListener {
        TcpListener::bind(self.address).unwrap()
    }
}
