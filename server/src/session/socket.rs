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
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::meter::{Meter, Metered, Scale};
use super::wire::Violation;
use crate::limits;
use crate::metrics::Metrics;

/// The WebSocket.
pub(crate) type Socket = WebSocketStream<Counted>;
/// Its half for writing.
pub(crate) type Sink = SplitSink<Socket, Message>;
/// Its half for reading.
pub(crate) type Stream = SplitStream<Socket>;

/// The messages of the native protocol.
pub(super) const NATIVE: Scale = Scale { largest: shared::MESSAGE_BYTES, times: 3 };

/// The messages of automerge-repo, which may be large: as one came, its changes, and a copy of those
/// that are not answered.
pub(crate) const REPO: Scale = Scale { largest: shared::REPO_MESSAGE_BYTES, times: 3 };

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
        // Not more than what needs no memory of its own: behind a large message's header its
        // payload waits for its memory.
        let most = buf.remaining().min(self.metered.meter.readable());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        let poll = Pin::new(&mut self.io).poll_read(cx, &mut part);
        let came = self.metered.meter.came(part.filled());
        let count = part.filled().len();
        buf.advance(count);
        self.metrics.bytes_in.inc_by(count as u64);
        match came {
            Ok(()) => poll,
            Err(Violation(what)) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)))
            }
        }
    }
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
