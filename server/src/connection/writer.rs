//! A session's writing half: a task of its own, so that a peer that does not read is still read from.
//!
//! It is fed by a channel of one message: the session builds the next page when there is room for it, and
//! never ahead.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::SinkExt;
use landfall_protocol::Offset;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::{self, Bytes, Message};

use super::socket::Sink;
use crate::hub::Feed;
use crate::limits;
use crate::memory::{Account, Grant};
use crate::metrics::Metrics;

/// A message for the writer.
pub(crate) enum Outgoing {
    /// A message of frames.
    Frames(Vec<u8>),
    /// A message that holds memory until it is written.
    MessageGrant(Vec<u8>, Grant),
    /// A WebSocket ping.
    Ping,
    /// A page of entries of a feed, up to this offset.
    Page {
        message: Vec<u8>,
        entries: usize,
        feed: Arc<Feed>,
        up_to: Offset,
        /// Its memory, if it holds any.
        grant: Option<Grant>,
    },
    /// The WebSocket's own close, the last message.
    Close(u16, String),
}

impl Outgoing {
    /// A message, with its memory if it holds any.
    pub(crate) fn message(message: Vec<u8>, grant: Option<Grant>) -> Self {
        match grant {
            Some(grant) => Self::MessageGrant(message, grant),
            None => Self::Frames(message),
        }
    }

    /// Its approximate length, to estimate its time on the wire.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Frames(message) | Self::MessageGrant(message, _) | Self::Page { message, .. } => {
                message.len()
            }
            Self::Close(..) | Self::Ping => 0,
        }
    }
}

/// Why the writer stopped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WriteEnd {
    /// The channel closed, and everything in it is written.
    Finished,
    /// No byte was accepted for the permitted time.
    Stalled,
    /// The connection is gone.
    Gone,
}

/// The task's handle: it returns the half when it ends.
pub(crate) type Writing = JoinHandle<(WriteEnd, Sink)>;

/// The writer's environment.
pub(crate) struct Watch {
    /// Bytes that the system has accepted so far.
    pub(crate) written: Arc<AtomicU64>,
    /// How long a write may make no progress at all.
    pub(crate) stall: Duration,
    /// The session's memory. While others wait for memory, the peer must read at least as fast as the slowest
    /// permitted link, whichever data it leaves unread.
    pub(crate) account: Account,
    pub(crate) metrics: Arc<Metrics>,
}

/// Starts the task.
pub(crate) fn start(sink: Sink, watch: Watch) -> (mpsc::Sender<Outgoing>, Writing) {
    let (feed, outgoing) = mpsc::channel(1);
    (feed, tokio::spawn(run(sink, outgoing, watch)))
}

async fn run(
    mut sink: Sink,
    mut outgoing: mpsc::Receiver<Outgoing>,
    watch: Watch,
) -> (WriteEnd, Sink) {
    while let Some(next) = outgoing.recv().await {
        let (message, grant, page) = match next {
            Outgoing::Frames(bytes) => (Message::Binary(bytes.into()), None, None),
            Outgoing::MessageGrant(bytes, grant) => {
                (Message::Binary(bytes.into()), Some(grant), None)
            }
            Outgoing::Ping => (Message::Ping(Bytes::new()), None, None),
            Outgoing::Page { message, entries, feed, up_to, grant } => {
                (Message::Binary(message.into()), grant, Some((entries, feed, up_to)))
            }
            Outgoing::Close(code, reason) => {
                let close = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
                (Message::Close(Some(close)), None, None)
            }
        };
        if let Err(end) = write(&mut sink, message, &watch).await {
            return (end, sink);
        }
        drop(grant);
        if let Some((entries, feed, up_to)) = page {
            watch.metrics.entries_out.inc_by(entries as u64);
            // Only for live subscriptions: the delay of a lagging one is not the relay's fan-out delay.
            if let Some(age) = feed.age_of(up_to) {
                watch.metrics.fanned_out(age);
            }
        }
    }
    (WriteEnd::Finished, sink)
}

/// Writes one message, as long as bytes go out at all; while others wait for memory that the session holds,
/// only as long as they go out at the speed of the slowest permitted link. That covers more than this
/// message's memory: while the peer does not read its answers, the rest of its own message keeps its memory
/// too.
async fn write(
    sink: &mut (impl SinkExt<Message, Error = tungstenite::Error> + Unpin),
    message: Message,
    watch: &Watch,
) -> Result<(), WriteEnd> {
    let slowest = (limits::SLOWEST_LINK * watch.stall.as_secs_f64()) as u64;
    let mut sending = std::pin::pin!(send(sink, message));
    let mut before = watch.written.load(Ordering::Relaxed);
    loop {
        match timeout(watch.stall, &mut sending).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the connection broke while writing");
                return Err(WriteEnd::Gone);
            }
            Err(_) => {
                let now = watch.written.load(Ordering::Relaxed);
                let least = if watch.account.withholds() { slowest } else { 1 };
                if now - before < least {
                    return Err(WriteEnd::Stalled);
                }
                before = now;
            }
        }
    }
}

/// Sends a message. A large one is sent in several frames: the WebSocket would otherwise keep its buffer at
/// the size of the largest frame for the lifetime of the connection.
async fn send(
    sink: &mut (impl SinkExt<Message, Error = tungstenite::Error> + Unpin),
    message: Message,
) -> Result<(), tungstenite::Error> {
    let mut rest = match message {
        Message::Close(_) => return close(sink, message).await,
        Message::Binary(bytes) if bytes.len() > limits::FRAME_BYTES => bytes,
        message => return sink.send(message).await,
    };
    let mut kind = Data::Binary;
    while !rest.is_empty() {
        let piece = rest.split_to(limits::FRAME_BYTES.min(rest.len()));
        let frame = Frame::message(piece, OpCode::Data(kind), rest.is_empty());
        sink.feed(Message::Frame(frame)).await?;
        kind = Data::Continue;
    }
    sink.flush().await
}

/// Sends the WebSocket's own close. If the peer sent one, the reply is already queued, and is only written.
async fn close(
    sink: &mut (impl SinkExt<Message, Error = tungstenite::Error> + Unpin),
    message: Message,
) -> Result<(), tungstenite::Error> {
    let sent = match sink.send(message).await {
        Err(tungstenite::Error::Protocol(ProtocolError::SendAfterClosing)) => sink.flush().await,
        sent => sent,
    };
    match sent {
        // The library reports in this way that both sides have closed.
        Err(tungstenite::Error::ConnectionClosed) => Ok(()),
        sent => sent,
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::AsyncReadExt;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::WebSocket;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::super::wire::{Begun, Wire};
    use super::*;
    use crate::memory::{Class, Memory, ShareKey};

    /// A socket whose peer reads one byte per poll.
    struct Trickle(Arc<AtomicU64>);

    impl futures_util::Sink<Message> for Trickle {
        type Error = tungstenite::Error;

        fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Poll::Pending
        }

        fn start_send(self: Pin<&mut Self>, _: Message) -> Result<(), Self::Error> {
            Ok(())
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Pending
        }
    }

    /// A message of pings is handled as fast as the peer reads the pongs; until then its memory is held,
    /// while the pongs themselves hold none.
    #[tokio::test]
    async fn a_slow_reader_keeps_no_memory_that_others_wait_for() {
        let memory = Memory::new(0);
        let account = memory.account(ShareKey::Session(1));
        let written = Arc::new(AtomicU64::new(0));
        let (stall, metrics) = (Duration::from_millis(5), Arc::new(Metrics::new()));
        let watch =
            Watch { written: Arc::clone(&written), stall, metrics, account: account.clone() };
        let mut sink = Trickle(Arc::clone(&written));
        let pongs = || Message::Binary(vec![0; 1024].into());
        let message = account.take(Class::Incoming, memory.limit());
        let many = 20 * stall;
        let alone = timeout(many, write(&mut sink, pongs(), &watch)).await;
        assert!(alone.is_err(), "the writer gave up although no session waits for memory");
        let other = memory.account(ShareKey::Session(2));
        let mut waits = std::pin::pin!(other.reserve(Class::Incoming, 1 << 20));
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        let ended = timeout(Duration::from_secs(20), write(&mut sink, pongs(), &watch)).await;
        assert_eq!(ended, Ok(Err(WriteEnd::Stalled)));
        drop(message);
    }

    #[tokio::test]
    async fn a_large_message_is_written_in_frames_that_keep_the_buffer_small() {
        let (relay, client) = tokio::io::duplex(1 << 20);
        let mut relay = WebSocketStream::from_raw_socket(relay, Role::Server, None).await;
        let piece = limits::FRAME_BYTES;
        let lengths = [0, piece, piece + 1, 3 * piece];
        let message = |length: usize| Message::Binary((0..length).map(|n| n as u8).collect());
        for length in lengths {
            send(&mut relay, message(length)).await.unwrap();
        }
        drop(relay);
        let mut written = Vec::new();
        let mut client = client;
        client.read_to_end(&mut written).await.unwrap();
        let (mut wire, mut frames) = (Wire::new(1 << 30, 1 << 30), Vec::new());
        wire.pass(&mut written.clone(), &mut |begun| frames.push(begun)).unwrap();
        let first = |bytes, whole| Begun::Message { bytes, whole };
        let (piece, continued) = (piece as u64, Begun::Continued);
        let whole = [first(0, true), first(piece, true)];
        let parts = [first(piece, false), continued, first(piece, false), continued, continued];
        assert_eq!(frames, [&whole[..], &parts].concat());
        let socket = std::io::Cursor::new(written);
        let mut client = WebSocket::from_raw_socket(socket, Role::Client, None);
        for length in lengths {
            assert_eq!(client.read().unwrap(), message(length));
        }
    }
}
