//! A proxy that lets everything pass, and notes which ranges of which paths were asked for.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Listens until the process of the tests ends.
#[derive(Debug)]
pub(crate) struct RecordingProxy {
    address: SocketAddr,
    record: Arc<Record>,
}

#[derive(Debug, Default)]
struct Record {
    requests: Mutex<Vec<RangeRequest>>,
    answered_bytes: AtomicU64,
}

/// A GET as it passed.
#[derive(Clone, Debug)]
pub(crate) struct RangeRequest {
    pub(crate) path: String,
    /// None: the whole.
    pub(crate) range: Option<Range<u64>>,
}

impl RecordingProxy {
    /// One before `server`, an address and a port.
    pub(crate) fn start(server: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (address, record) = (listener.local_addr().unwrap(), Arc::<Record>::default());
        let (server, shared) = (server.to_owned(), record.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(&server).unwrap();
                serve(client, server, &shared);
            }
        });
        Self { address, record }
    }

    /// Address and port.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// The requests since this was last called.
    pub(crate) fn take_requests(&self) -> Vec<RangeRequest> {
        std::mem::take(&mut *self.record.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Bytes handed to clients since the start, heads of answers included, and what a client that was killed never
    /// took out of its sockets.
    pub(crate) fn answered_bytes(&self) -> u64 {
        self.record.answered_bytes.load(Ordering::SeqCst)
    }
}

/// Passes both ways, each in a thread, until one side is done.
fn serve(client: TcpStream, server: TcpStream, record: &Arc<Record>) {
    let (mut from_server, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let answers = record.clone();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from_server.read(&mut buffer) {
            if to_client.write_all(&buffer[..count]).is_err() {
                break;
            }
            answers.answered_bytes.fetch_add(count as u64, Ordering::SeqCst);
        }
        let _ = (to_client.shutdown(Shutdown::Both), from_server.shutdown(Shutdown::Both));
    });
    let record = record.clone();
    std::thread::spawn(move || {
        let mut server = server;
        let _ = pass_requests(BufReader::new(&client), &mut server, &record);
        let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
    });
}

/// Passes requests without bodies on, each once its head is whole.
fn pass_requests(
    mut client: BufReader<&TcpStream>,
    server: &mut TcpStream,
    record: &Record,
) -> std::io::Result<()> {
    let mut head = String::new();
    while client.read_line(&mut head)? > 0 {
        if !head.ends_with("\r\n\r\n") {
            continue;
        }
        // Noted first: whoever has an answer finds its request here.
        let request = parse(&head);
        record.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        server.write_all(head.as_bytes())?;
        head.clear();
    }
    Ok(())
}

fn parse(head: &str) -> RangeRequest {
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let range = head.lines().filter_map(|line| line.split_once(": ")).find_map(|(name, value)| {
        let (start, last) = value.strip_prefix("bytes=")?.split_once('-')?;
        let end = last.parse().map_or(u64::MAX, |last: u64| last + 1);
        name.eq_ignore_ascii_case("range").then_some(start.parse().ok()?..end)
    });
    RangeRequest { path, range }
}
