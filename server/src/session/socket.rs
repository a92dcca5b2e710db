//! A session's WebSocket: its limits, the counting of its bytes, and a close that the peer hears.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use landfall_protocol::limits as shared;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use super::meter::{Meter, Metered, Scale};
use super::wire::{HEADER_BYTES, NextRead, Violation};
use crate::limits;
use crate::metrics::Metrics;

/// The WebSocket.
pub(crate) type Socket = WebSocketStream<Counted>;
/// Its half for writing.
pub(crate) type Sink = SplitSink<Socket, Message>;
/// Its half for reading.
pub(crate) type Stream = SplitStream<Socket>;

/// What came of reading from a peer.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A message.
    Message(Bytes),
    /// A text message: neither protocol has any.
    Text,
    /// A ping or a pong: the peer is there.
    Control,
    /// The WebSocket's own close.
    Close,
    /// A message is larger than one may be.
    TooLarge(String),
    /// The peer does not keep to the WebSocket's rules.
    Broken(String),
    /// The connection is gone, and why.
    Gone(String),
}

impl From<Option<Result<Message, Error>>> for Heard {
    fn from(read: Option<Result<Message, Error>>) -> Self {
        match read {
            Some(Ok(Message::Binary(bytes))) => Self::Message(bytes),
            Some(Ok(Message::Text(_))) => Self::Text,
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Self::Control,
            Some(Ok(Message::Close(_))) => Self::Close,
            None => Self::Gone("the peer closed".to_owned()),
            Some(Err(Error::Capacity(error))) => Self::TooLarge(error.to_string()),
            // Ours, of `wire`: it says what is wrong by itself.
            Some(Err(Error::Io(error))) if error.kind() == io::ErrorKind::InvalidData => {
                Self::Broken(error.to_string())
            }
            Some(Err(error)) if is_misused(&error) => Self::Broken(error.to_string()),
            Some(Err(error)) => Self::Gone(error.to_string()),
        }
    }
}

/// Whether a connection was misused, and not cut.
fn is_misused(error: &Error) -> bool {
    match error {
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => false,
        Error::Protocol(_) | Error::Utf8(_) => true,
        _ => false,
    }
}

/// The messages of the native protocol.
pub(super) const NATIVE: Scale =
    Scale { largest: shared::MESSAGE_BYTES, times: 3, buffer: limits::SOCKET_BUFFER_BYTES };

/// The messages of automerge-repo, which may be large: as one came, its changes, and a copy of those
/// that are not answered.
pub(crate) const REPO: Scale =
    Scale { largest: shared::REPO_MESSAGE_BYTES, times: 3, buffer: limits::REPO_BUFFER_BYTES };

/// Puts a WebSocket over a connection that HTTP gave up, for messages of the native protocol.
pub(super) async fn open(
    upgraded: Upgraded,
    metrics: Arc<Metrics>,
    meter: Arc<Meter>,
) -> (Socket, Arc<AtomicU64>) {
    let bounds = (NATIVE.largest, limits::SOCKET_BACKLOG_BYTES);
    over(upgraded, metrics, meter, bounds, limits::SOCKET_BUFFER_BYTES).await
}

/// The same for messages of automerge-repo.
pub(crate) async fn open_repo(
    upgraded: Upgraded,
    metrics: Arc<Metrics>,
    meter: Arc<Meter>,
) -> (Socket, Arc<AtomicU64>) {
    let bounds = (REPO.largest, limits::REPO_BACKLOG_BYTES);
    over(upgraded, metrics, meter, bounds, limits::REPO_BUFFER_BYTES).await
}

async fn over(
    upgraded: Upgraded,
    metrics: Arc<Metrics>,
    meter: Arc<Meter>,
    bounds: (usize, usize),
    buffer: usize,
) -> (Socket, Arc<AtomicU64>) {
    let written = Arc::new(AtomicU64::new(0));
    let (io, metered) = (TokioIo::new(upgraded), Metered::new(meter));
    let io = Counted { io, written: Arc::clone(&written), metrics, metered };
    (websocket(io, bounds, buffer).await, written)
}

async fn websocket(io: Counted, (message, backlog): (usize, usize), buffer: usize) -> Socket {
    let config = WebSocketConfig::default()
        .read_buffer_size(buffer)
        .write_buffer_size(buffer)
        .max_write_buffer_size(backlog)
        .max_message_size(Some(message))
        .max_frame_size(Some(message));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// Ends a connection whose last message was written: our end is closed, and what the peer still
/// sends is read away for a while. A socket closed over unread bytes is reset instead, and the
/// reset overtakes what was written last.
pub(crate) async fn linger(mut socket: Socket, limit: Duration) {
    let io = socket.get_mut();
    let drain = async {
        io.shutdown().await?;
        tokio::io::copy(&mut io.take(limits::LINGER_BYTES), &mut tokio::io::sink()).await
    };
    if let Ok(Err(error)) = timeout(limit, drain).await {
        tracing::debug!(%error, "the connection broke while it was closed");
    }
}

/// A connection that counts what passes.
pub(crate) struct Counted {
    io: TokioIo<Upgraded>,
    /// Bytes that the system has taken: how a slow reader is told from one that does not read.
    written: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
    metered: Metered,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.metered.poll_room(cx));
        // The socket takes no more pongs. The WebSocket tries to write them before each read, and so
        // is woken when it does.
        if self.metered.meter.owes_much() {
            return Poll::Pending;
        }
        loop {
            let due = self.metered.meter.take_due(buf.remaining());
            if !due.as_bytes().is_empty() {
                buf.put_slice(due.as_bytes());
                return Poll::Ready(Ok(()));
            }
            let polled = match self.metered.meter.next_read() {
                NextRead::Header(most) => self.poll_header(cx, most),
                NextRead::Bytes(most) => self.poll_bytes(cx, buf, most),
            };
            let (passed, read) = std::task::ready!(polled)?;
            self.metrics.bytes_in.inc_by(read as u64);
            // Without any the stream would be at its end. What was read of a header waits for the rest
            // of it.
            if passed > 0 || read == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl Counted {
    /// Reads into a buffer what the WebSocket is to have of it. Gives how many bytes it is to have,
    /// and how many were read.
    fn poll_bytes(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        most: usize,
    ) -> Poll<io::Result<(usize, usize)>> {
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most.min(buf.remaining())));
        std::task::ready!(Pin::new(&mut self.io).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        let passed = self.metered.meter.came(part.filled_mut()).map_err(violated)?;
        buf.advance(passed);
        Poll::Ready(Ok((passed, read)))
    }

    /// Reads the rest of a header that has begun. The same; it is told as due once it is whole.
    fn poll_header(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<io::Result<(usize, usize)>> {
        let mut header = [0; HEADER_BYTES];
        let mut part = ReadBuf::new(&mut header[..most]);
        std::task::ready!(Pin::new(&mut self.io).poll_read(cx, &mut part))?;
        self.metered.meter.header_came(part.filled()).map_err(violated)?;
        Poll::Ready(Ok((0, part.filled().len())))
    }
}

fn violated(Violation(what): Violation) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = &poll {
            self.written.fetch_add(*count as u64, Ordering::Relaxed);
            self.metrics.bytes_out.inc_by(*count as u64);
        }
        poll
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.io).poll_flush(cx);
        if matches!(poll, Poll::Ready(Ok(()))) {
            // The WebSocket flushes once it has handed over all that it had.
            self.metered.meter.flushed();
        }
        poll
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
