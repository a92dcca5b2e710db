//! One session with a relay, from the connection to its end: a step of the loop in `run`, which calls it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};
use landfall_protocol::Code;
use landfall_protocol::client::EndReason;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{Bytes, Error as WsError, Message};

use super::commands::{LinkCommands, RelayTarget};
use super::ephemeral_queue::OutgoingEphemeral;
use super::identity::Renewal;
use super::perform::Out;
use super::run::{Ended, Runner, sleep_until};
use super::socket::Socket;
use super::timings::FAR;
use crate::token::Token;

/// The longest time for the goodbye to a relay.
const GOODBYE: Duration = Duration::from_millis(500);

/// Small frames are joined into one message up to this size in bytes.
const JOINED_BYTES: usize = 16 * 1024;

/// Bytes that wait for the socket, above which ephemeral messages are held back: all other frames are
/// bounded by the relay's answers, and ephemeral messages have none.
const EPHEMERAL_BELOW_BYTES: usize = 64 * 1024;

/// Writes the queue, until its sender is gone.
async fn write(
    mut sink: SplitSink<Socket, Message>,
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    unsent: Arc<AtomicUsize>,
    commands: Arc<LinkCommands>,
) -> Result<(), WsError> {
    let mut next = None;
    while let Some(mut message) = match next.take() {
        Some(message) => Some(message),
        None => queue.recv().await,
    } {
        // Frames that are queued together are sent together: small ones in one message.
        while let Ok(more) = queue.try_recv() {
            if message.len() + more.len() > JOINED_BYTES {
                next = Some(more);
                break;
            }
            message.extend_from_slice(&more);
        }
        let bytes = message.len();
        sink.send(Message::Binary(Bytes::from(message))).await?;
        unsent.fetch_sub(bytes, Ordering::AcqRel);
        commands.handle_writable();
    }
    sink.close().await
}

impl Runner {
    pub(super) async fn session(
        &mut self,
        socket: Socket,
        token: Option<Token>,
        target: &RelayTarget,
        connects: u64,
    ) -> Ended {
        let (sink, mut stream) = socket.split();
        // Unbounded, because the machine bounds it: pushes by their window, parts by the socket's room,
        // answers by their requests, ephemeral messages by `send_ephemeral`.
        let (queue, queued) = mpsc::unbounded_channel::<Vec<u8>>();
        let unsent = Arc::new(AtomicUsize::new(0));
        let out = Out::new(queue, Arc::clone(&unsent));
        let mut writer = tokio::spawn(write(sink, queued, unsent, Arc::clone(&self.commands)));
        self.performer.begin();
        let (token, renew_after) = token.map(Token::into_parts).unzip();
        let mut renewal = Renewal::new(target, renew_after.flatten());
        self.replica.handle_connected(self.now(), token);
        let commands = Arc::clone(&self.commands);
        let mut ended = self.perform(&out);
        while ended.is_none() {
            let timeout = self.started + self.replica.poll_timeout().0.min(FAR);
            tokio::select! {
                message = stream.next(), if self.replica.wants_message() => {
                    ended = self.receive(message);
                }
                Some(completion) = self.completions.recv() => self.complete(completion),
                () = commands.wake.notified() => {
                    self.take_commands();
                    self.send_ephemeral(&out);
                }
                token = renewal.next(), if self.replica.renews_tokens() => {
                    self.replica.handle_token(token);
                }
                () = sleep_until(Some(timeout)) => self.replica.handle_timeout(self.now()),
                () = sleep_until(commands.requests.deadline()) => self.unsettled = true,
                () = sleep_until(Some(self.next_check)) => self.begin_checks(target),
            }
            if std::mem::take(&mut self.hurry) {
                match self.replica.is_ready() {
                    true => self.replica.handle_probe(self.now()),
                    false => ended = ended.or(Some(Ended::Retry)),
                }
            }
            let now = self.now();
            self.performer.read_parts(&mut self.replica, now, &out);
            ended = ended.or_else(|| self.perform(&out));
            self.settle(false);
            if self.is_over(connects) {
                self.replica.handle_close("going offline");
                ended = ended.or_else(|| self.perform(&out)).or(Some(Ended::OnPurpose));
            }
        }
        drop(out);
        // A relay that does not read must not block the end.
        if tokio::time::timeout(GOODBYE, &mut writer).await.is_err() {
            writer.abort();
        }
        ended.unwrap_or(Ended::OnPurpose)
    }

    /// Requests a comparison of every space with the relay: it is due.
    fn begin_checks(&mut self, target: &RelayTarget) {
        self.next_check = Instant::now() + target.timings.check_every;
        let (now, ticket) = (self.now(), self.commands.requests.number());
        for (space, _) in self.performer.spaces() {
            self.replica.handle_check(now, &space, ticket);
        }
    }

    /// Sends the ephemeral messages for which the socket has room.
    fn send_ephemeral(&mut self, out: &Out) {
        let mut free_bytes = EPHEMERAL_BELOW_BYTES.saturating_sub(out.unsent());
        while free_bytes > 0
            && let Some(ephemeral) = self.commands.ephemeral_queue.take()
        {
            free_bytes = free_bytes.saturating_sub(ephemeral.weight());
            let OutgoingEphemeral { space, document, count, data } = ephemeral;
            let session = self.ephemeral_session.clone();
            self.replica.handle_broadcast(&space, document, session, count, data);
        }
    }

    fn receive(&mut self, message: Option<Result<Message, WsError>>) -> Option<Ended> {
        let now = self.now();
        match message {
            Some(Ok(Message::Binary(bytes))) => self.replica.handle_message(now, &bytes),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => self.replica.handle_sign_of_life(now),
            Some(Ok(Message::Close(frame))) => {
                let why = frame.map_or_else(String::new, |frame| format!(": {frame}"));
                return Some(Ended::Lost(format!("the relay closed the connection{why}")));
            }
            Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                return Some(Ended::Lost("the relay sent a text message".to_owned()));
            }
            Some(Err(error)) => return Some(Ended::Lost(format!("the connection broke: {error}"))),
            None => return Some(Ended::Lost("the relay closed the connection".to_owned())),
        }
        None
    }

    /// Performs the machine's effects; returns how the session ended if it has.
    fn perform(&mut self, out: &Out) -> Option<Ended> {
        while let Some(effect) = self.replica.poll_effect() {
            let now = self.now();
            let end = self.performer.perform(&mut self.replica, now, effect, Some(out));
            self.unsettled |= self.performer.take_changed();
            if let Some(reason) = end {
                return Some(ended_by(&reason));
            }
        }
        if self.replica.is_ready() {
            self.handle_welcomed();
        }
        None
    }
}

fn ended_by(reason: &EndReason) -> Ended {
    match reason {
        EndReason::Unanswered(_) => Ended::Retry,
        EndReason::Unauthorized { welcomed: false, .. } => Ended::Unauthorized(reason.to_string()),
        EndReason::Unauthorized { .. } | EndReason::Ended { code: Code::GOODBYE, .. } => {
            Ended::Again(reason.to_string())
        }
        EndReason::Silent(_) | EndReason::Ended { code: Code::SHUTTING_DOWN, .. } => {
            Ended::Lost(reason.to_string())
        }
        _ => Ended::Fault(reason.to_string()),
    }
}
