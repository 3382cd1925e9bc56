//! A proxy before a server on this machine that makes it as far away as a link does: `slow_link HOST:PORT RTT_MS MBIT`.
//! Prints the address that it listens on, on the loopback interface.
//!
//! Each direction has the rate of the link, shared by all connections, and half of the round trip as its delay. What is
//! read is sent when the link would have brought it: a piece waits for those before it to be put on the link, then for
//! the delay, while further pieces are put on it. A connection has as much under way as the link holds in two round
//! trips. Not modelled: slow start, losses, and the queues of routers.

use std::error::Error;
use std::io::Result;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep, sleep_until};

const PIECE_BYTES: usize = 64 << 10;

/// How late timers fire.
const TIMER_STEP: Duration = Duration::from_millis(1);

/// How far the link may catch up when a timer has fired late.
const BURST: Duration = Duration::from_millis(3);

/// What may be under way on a connection beside two round trips.
const WINDOW_BYTES_MIN: usize = 1 << 20;

/// One direction of the link.
struct Direction {
    bytes_per_second: f64,
    delay: Duration,
    window_bytes: usize,
    free_at: Mutex<Instant>,
}

/// Bytes under way: when they arrive, and their part of the window.
struct Piece {
    arrives: Instant,
    bytes: Vec<u8>,
    part: OwnedSemaphorePermit,
}

impl Direction {
    fn new(rtt: Duration, bytes_per_second: f64) -> Arc<Self> {
        let window_bytes = (2.0 * rtt.as_secs_f64() * bytes_per_second) as usize + WINDOW_BYTES_MIN;
        Arc::new(Self { bytes_per_second, delay: rtt / 2, window_bytes, free_at: Mutex::new(Instant::now()) })
    }

    /// Puts bytes on the link, behind all that are on it; returns when the last of them has left.
    fn put(&self, bytes: usize) -> Instant {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = (*free_at).max(Instant::now().checked_sub(BURST).unwrap_or(*free_at));
        *free_at = begin + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        *free_at
    }

    /// Brings what comes from `from` to `to`, until either ends.
    async fn carry(self: Arc<Self>, mut from: OwnedReadHalf, to: OwnedWriteHalf) -> Result<()> {
        let window = Arc::new(Semaphore::new(self.window_bytes));
        let (pieces, arriving) = mpsc::unbounded_channel();
        let arrivals = tokio::spawn(deliver(arriving, to));
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let count = from.read(&mut buffer).await?;
            if count == 0 {
                break;
            }
            let Ok(part) = Arc::clone(&window).acquire_many_owned(count as u32).await else { break };
            let left = self.put(count);
            // What the link catches up on does not arrive before it was sent.
            let arrives = left.max(Instant::now()) + self.delay;
            let piece = Piece { arrives, bytes: buffer[..count].to_vec(), part };
            if pieces.send(piece).is_err() {
                break;
            }
            sleep_until(left).await;
        }
        drop(pieces);
        arrivals.await?
    }
}

async fn deliver(mut arriving: mpsc::UnboundedReceiver<Piece>, mut to: OwnedWriteHalf) -> Result<()> {
    while let Some(piece) = arriving.recv().await {
        sleep_until(piece.arrives - TIMER_STEP).await;
        to.write_all(&piece.bytes).await?;
        drop(piece.part);
    }
    to.shutdown().await
}

async fn connect(
    client: TcpStream,
    server: String,
    rtt: Duration,
    up: Arc<Direction>,
    down: Arc<Direction>,
) -> Result<()> {
    // What the handshake takes on the link; on this side of it there was none.
    sleep(rtt).await;
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (sent, received) = tokio::join!(
        tokio::spawn(up.carry(from_client, to_server)),
        tokio::spawn(down.carry(from_server, to_client))
    );
    sent??;
    received?
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("usage: slow_link HOST:PORT RTT_MS MBIT");
    let (server, rtt, mbit) = (next()?, next()?, next()?);
    let rtt = Duration::from_secs_f64(rtt.parse::<f64>()? / 1e3);
    let bytes_per_second = mbit.parse::<f64>()? * 1e6 / 8.0;
    let (up, down) = (Direction::new(rtt, bytes_per_second), Direction::new(rtt, bytes_per_second));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (client, _) = listener.accept().await?;
        let connection = connect(client, server.clone(), rtt, Arc::clone(&up), Arc::clone(&down));
        // A connection that is reset ends itself alone.
        tokio::spawn(async move { drop(connection.await) });
    }
}
