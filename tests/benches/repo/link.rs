//! A client's connection to a server of any kind.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::wire::{self, Said};

/// How long a server may take for an answer that a row waits for.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How long to wait for an answer to `join`, and how often to try. Long enough for a busy server.
const TRY: Duration = Duration::from_secs(4);
const TRIES: usize = 10;

/// A connection that has joined.
pub struct Link {
    socket: WebSocketStream<TcpStream>,
    me: String,
    server: String,
}

impl Link {
    /// Connects to a server on a local port and joins. Retries if no answer comes: automerge-repo's
    /// server misses a connection that arrives while it is starting.
    pub async fn join(port: u16, me: &str, storage: Option<&str>) -> Result<Self, String> {
        let mut last = String::new();
        for _ in 0..TRIES {
            match timeout(TRY, Self::join_once(port, me, storage)).await {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(why)) => last = why,
                Err(_) => last = format!("no answer to `join` within {TRY:?}"),
            }
        }
        Err(last)
    }

    async fn join_once(port: u16, me: &str, storage: Option<&str>) -> Result<Self, String> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let config = WebSocketConfig::default()
            .read_buffer_size(16 << 10)
            .max_frame_size(None)
            .max_message_size(None);
        let url = format!("ws://127.0.0.1:{port}/");
        let connected = client_async_with_config(url, stream, Some(config)).await;
        let (socket, _) = connected.map_err(|e| e.to_string())?;
        let mut link = Self { socket, me: me.to_owned(), server: String::new() };
        link.send(wire::join(me, storage)).await?;
        loop {
            let bytes = link.next().await?;
            match wire::decode(&bytes) {
                Said::Peer(server) => {
                    link.server = server.to_owned();
                    return Ok(link);
                }
                Said::Error(text) => return Err(format!("refused: {text}")),
                _ => {}
            }
        }
    }

    /// The next message, within [`PATIENCE`].
    pub async fn next(&mut self) -> Result<Bytes, String> {
        let next = timeout(PATIENCE, self.next_at_any_time());
        next.await.map_err(|_| format!("no answer within {PATIENCE:?}"))?
    }

    /// The next message, without a time limit. Answers pings meanwhile.
    pub async fn next_at_any_time(&mut self) -> Result<Bytes, String> {
        next(&mut self.socket).await
    }

    /// Sends a message made by [`Link::sync`].
    pub async fn send(&mut self, message: Vec<u8>) -> Result<(), String> {
        self.socket.send(Message::Binary(message.into())).await.map_err(|e| e.to_string())
    }

    /// A sync message from this client to its server.
    pub fn sync(&self, kind: &str, document: &str, data: &[u8]) -> Vec<u8> {
        wire::sync(kind, document, &self.me, &self.server, data)
    }

    /// Closes the connection properly, so that the server notices at once.
    pub async fn close(mut self) {
        let _ = self.socket.close(None).await;
        let drained = async { while self.next_at_any_time().await.is_ok() {} };
        let _ = timeout(Duration::from_secs(5), drained).await;
    }

    /// Splits into a receiver and an unbounded sender: for thousands of messages at once, because a
    /// server stops reading while its answers are not read.
    pub fn split(self) -> (Inbox, mpsc::UnboundedSender<Vec<u8>>) {
        let (sender, mut outgoing) = mpsc::unbounded_channel::<Vec<u8>>();
        let (mut sink, stream) = self.socket.split();
        tokio::spawn(async move {
            while let Some(message) = outgoing.recv().await {
                if sink.send(Message::Binary(message.into())).await.is_err() {
                    return;
                }
            }
            let _ = sink.close().await;
        });
        (Inbox { stream, me: self.me, server: self.server }, sender)
    }
}

/// The reading half.
pub struct Inbox {
    stream: futures_util::stream::SplitStream<WebSocketStream<TcpStream>>,
    me: String,
    server: String,
}

impl Inbox {
    /// The next message, within [`PATIENCE`].
    pub async fn next(&mut self) -> Result<Bytes, String> {
        let next = timeout(PATIENCE, next(&mut self.stream));
        next.await.map_err(|_| format!("no answer within {PATIENCE:?}"))?
    }

    /// A sync message from this client to its server.
    pub fn sync(&self, kind: &str, document: &str, data: &[u8]) -> Vec<u8> {
        wire::sync(kind, document, &self.me, &self.server, data)
    }
}

async fn next<S>(stream: &mut S) -> Result<Bytes, String>
where
    S: StreamExt<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    loop {
        match stream.next().await {
            Some(Ok(Message::Binary(bytes))) => return Ok(bytes),
            Some(Ok(Message::Close(why))) => return Err(format!("closed: {why:?}")),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("the connection ended".to_owned()),
        }
    }
}
