//! A server in the process of the tests that answers as it is told to.

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::connection::{Answer, Connection, Request};

/// Listens on a free port of 127.0.0.1 until it is dropped.
#[derive(Debug)]
pub(crate) struct HttpServer {
    host: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Answers every request with what `answer` makes of it.
    pub(crate) fn start<F>(answer: impl Fn(Request) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let thread = std::thread::spawn(move || {
            runtime.spawn(accept(listener, Arc::new(answer)));
            let _ = runtime.block_on(stopped);
        });
        Self { host, stop: Some(stop), thread: Some(thread) }
    }

    /// Address and port.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            assert!(ended.is_ok(), "the server itself failed");
        }
    }
}

async fn accept<F>(
    listener: std::net::TcpListener,
    answer: Arc<impl Fn(Request) -> F + Send + Sync + 'static>,
) where
    F: Future<Output = Answer> + Send + 'static,
{
    let listener = TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let answer = Arc::clone(&answer);
        tokio::spawn(async move {
            let mut connection = Connection::new(stream);
            // Clients break off whenever they like.
            while let Ok(Some(request)) = connection.request().await {
                let answer = answer(request).await;
                if !connection.answer(&answer).await.unwrap_or(false) {
                    break;
                }
            }
        });
    }
}
