//! Several registries that hold nothing, and what each of them was asked for, in one order.
//!
//! They speak plain HTTP. Who tries TLS finds the connection closed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use super::port::Port;

/// How the registries are called.
const NAMES: [char; 3] = ['A', 'B', 'C'];

/// They listen until the process of the tests ends.
#[derive(Debug)]
pub(crate) struct EmptyRegistries {
    addresses: Vec<SocketAddr>,
    /// A port at which nobody listens.
    closed: Port,
    log: Arc<Mutex<Vec<String>>>,
}

impl EmptyRegistries {
    pub(crate) fn start() -> Self {
        let log = Arc::<Mutex<Vec<String>>>::default();
        let listen = |name| {
            let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            let (address, log) = (listener.local_addr().unwrap(), log.clone());
            std::thread::spawn(move || {
                for client in listener.incoming().map_while(Result::ok) {
                    let log = log.clone();
                    std::thread::spawn(move || serve(&client, name, &log));
                }
            });
            address
        };
        let addresses = NAMES.map(listen).to_vec();
        Self { addresses, closed: Port::new(), log }
    }

    /// `text` with the registries' addresses for `{A}`, `{B}` and `{C}`, and with the closed port for `{X}`.
    pub(crate) fn filled_in(&self, text: &str) -> String {
        let closed = self.closed.address();
        let places = NAMES.iter().zip(&self.addresses).chain([(&'X', &closed)]);
        places.fold(text.to_owned(), |text, (name, address)| {
            text.replace(&format!("{{{name}}}"), &address.to_string())
        })
    }

    /// The requests for manifests since this was last called, without those that were only repeated: `A PATH?QUERY`.
    pub(crate) fn take_requests(&self) -> Vec<String> {
        let mut requests = std::mem::take(&mut *self.log.lock().unwrap_or_else(PoisonError::into_inner));
        requests.dedup();
        requests
    }
}

fn serve(client: &TcpStream, name: char, log: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(client);
    // The first byte of a TLS handshake.
    if reader.fill_buf().ok()?.first() == Some(&0x16) {
        return None;
    }
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        reader.read_line(&mut head).ok().filter(|read| *read > 0)?;
    }
    let path = head.split(' ').nth(1)?;
    let (status, body) = match path {
        "/v2/" => ("200 OK", "{}"),
        _ => ("404 Not Found", r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"it is empty"}]}"#),
    };
    if path.contains("/manifests/") {
        log.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{name} {path}"));
    }
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    (&*client).write_all(answer.as_bytes()).ok()
}
