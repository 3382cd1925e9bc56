//! HTTP/1.1 by hand, for a server that must be able to get everything wrong.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Without the query.
    pub(crate) path: String,
    pub(crate) query: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(there, _)| there == name).map(|(_, value)| value.as_str())
    }

    /// The value of `name` in the query, or in the form that was posted.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let text = format!("{}&{}", self.query, self.body);
        let pairs = url::form_urlencoded::parse(text.as_bytes());
        pairs.into_iter().find(|(there, _)| there == name).map(|(_, value)| value.into_owned())
    }
}

/// How the bytes of a body come, other than they should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Delivery {
    #[default]
    Whole,
    /// The connection ends in order after so many bytes.
    Truncate(usize),
    /// The connection is reset after so many bytes.
    Reset(usize),
    /// Nothing comes after so many bytes, for as long as the client waits.
    Stall(usize),
    /// Nothing comes at all, for as long as the client waits.
    Silence,
    /// Pieces of so many bytes with a pause after each.
    Trickle(usize, Duration),
    /// In chunked coding, with so many bytes too many.
    Overlong(usize),
}

/// An answer to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    pub(crate) delivery: Delivery,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), delivery: Delivery::Whole }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// One connection of a client.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// The next request; none when the client is done or speaks TLS.
    pub(crate) async fn request(&mut self) -> io::Result<Option<Request>> {
        // The first byte of a TLS handshake.
        if self.stream.fill_buf().await?.first().is_none_or(|byte| *byte == 0x16) {
            return Ok(None);
        }
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).await?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let (path, query) = (path.to_owned(), query.to_owned());
        let mut request = Request { method, path, query, headers, body: String::new() };
        let length = request.header("content-length").map_or(0, |value| value.parse().unwrap());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        request.body = String::from_utf8(body).unwrap();
        Ok(Some(request))
    }

    /// Sends `answer`; false when the connection can't be used any more.
    pub(crate) async fn answer(&mut self, answer: &Answer) -> io::Result<bool> {
        let stream = self.stream.get_mut();
        let (body, length) = (&answer.body, answer.body.len());
        let mut head = format!("HTTP/1.1 {} x\r\n", answer.status);
        for (name, value) in &answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &match answer.delivery {
            Delivery::Overlong(_) => "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
            _ => format!("Content-Length: {length}\r\n\r\n"),
        };
        if answer.delivery == Delivery::Silence {
            stream.read_u8().await?;
            return Ok(false);
        }
        stream.write_all(head.as_bytes()).await?;
        match answer.delivery {
            Delivery::Whole | Delivery::Silence => stream.write_all(body).await?,
            Delivery::Truncate(after) => {
                stream.write_all(&body[..after.min(length)]).await?;
                stream.shutdown().await?;
                return Ok(false);
            }
            Delivery::Reset(after) => {
                stream.write_all(&body[..after]).await?;
                stream.flush().await?;
                stream.set_zero_linger()?;
                return Ok(false);
            }
            Delivery::Stall(after) => {
                stream.write_all(&body[..after.min(length)]).await?;
                // Ends when the client gives up.
                stream.read_u8().await?;
                return Ok(false);
            }
            Delivery::Trickle(piece, pause) => {
                for piece in body.chunks(piece) {
                    stream.write_all(piece).await?;
                    tokio::time::sleep(pause).await;
                }
            }
            Delivery::Overlong(excess) => {
                let bytes = [body, &vec![0xee; excess][..]].concat();
                stream.write_all(format!("{:x}\r\n", bytes.len()).as_bytes()).await?;
                stream.write_all(&bytes).await?;
                stream.write_all(b"\r\n0\r\n\r\n").await?;
            }
        }
        Ok(true)
    }
}
