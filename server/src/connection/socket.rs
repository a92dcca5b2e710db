//! A session's WebSocket: its limits, byte counters, and a close that reaches the peer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use super::meter::{MessageSizes, Meter, Metered};
use super::wire::{HEADER_BYTES, NextRead, Violation};
use crate::limits;
use crate::metrics::Metrics;

/// The WebSocket.
pub(crate) type Socket = WebSocketStream<CountedSocket>;
/// Its write half.
pub(crate) type Sink = SplitSink<Socket, Message>;
/// Its read half.
pub(crate) type Stream = SplitStream<Socket>;

/// The result of a read from the peer.
#[derive(Debug)]
pub(crate) enum SocketRead {
    /// A message.
    Message(Bytes),
    /// A text message: neither protocol has any.
    Text,
    /// A ping or a pong: the peer is alive.
    Control,
    /// The WebSocket's own close.
    Close,
    /// A message exceeds the size limit.
    TooLarge(String),
    /// The peer violates the WebSocket protocol.
    Broken(String),
    /// The connection is gone, and why.
    Gone(String),
}

impl From<Option<Result<Message, Error>>> for SocketRead {
    fn from(read: Option<Result<Message, Error>>) -> Self {
        match read {
            Some(Ok(Message::Binary(bytes))) => Self::Message(bytes),
            Some(Ok(Message::Text(_))) => Self::Text,
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Self::Control,
            Some(Ok(Message::Close(_))) => Self::Close,
            None => Self::Gone("the peer closed".to_owned()),
            Some(Err(Error::Capacity(error))) => Self::TooLarge(error.to_string()),
            // Our own error, from `wire`: its text is complete.
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

/// Opens a WebSocket over an upgraded HTTP connection. Returns with it the number of bytes that the system
/// has accepted so far.
pub(super) async fn open(
    upgraded: Upgraded,
    metrics: Arc<Metrics>,
    meter: Arc<Meter>,
    sizes: MessageSizes,
) -> (Socket, Arc<AtomicU64>) {
    let written = Arc::new(AtomicU64::new(0));
    let (io, metered) = (TokioIo::new(upgraded), Metered::new(meter));
    let io = CountedSocket { io, written: Arc::clone(&written), metrics, metered };
    let config = WebSocketConfig::default()
        .read_buffer_size(sizes.buffer)
        .write_buffer_size(sizes.buffer)
        .max_write_buffer_size(sizes.backlog)
        .max_message_size(Some(sizes.largest))
        .max_frame_size(Some(sizes.largest));
    (WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await, written)
}

/// Closes a connection after its last message was written: shuts down the write half, then reads and discards
/// the peer's remaining data for a while. A socket closed over unread bytes is reset instead, and the reset
/// overtakes the last message.
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

/// A connection with byte counters.
pub(crate) struct CountedSocket {
    io: TokioIo<Upgraded>,
    /// Bytes that the system has accepted: distinguishes a slow reader from one that does not read.
    written: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
    metered: Metered,
}

impl AsyncRead for CountedSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.metered.poll_room(cx));
        // The socket accepts no more pongs. The WebSocket tries to write them before each read, so it is
        // woken when the socket accepts bytes again.
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
            // A read of no bytes would mean the end of the stream, so loop until there are some. Bytes of an
            // incomplete header wait for the rest.
            if passed > 0 || read == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl CountedSocket {
    /// Reads into a buffer the bytes to pass to the WebSocket. Returns how many to pass, and how many were
    /// read.
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

    /// Reads the rest of a header, with the same result. A complete header is passed through `take_due`.
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

impl AsyncWrite for CountedSocket {
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
            // The WebSocket flushes once it has handed over all its output.
            self.metered.meter.flushed();
        }
        poll
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
