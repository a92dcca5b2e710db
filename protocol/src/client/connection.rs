//! One connection: handshake, frames, silence and the end.

use std::time::Duration;

use super::conceal::Tokens;
use super::{EndReason, Phase, Probe, PushLimits, Replica, ReplicaEffect, SpaceLink, SpacePhase};
use crate::code::Code;
use crate::frame::{Close, Features, Frame, Frames, Hello, Token, VERSIONS, Welcome, features};
use crate::ids::SpaceName;
use crate::limits;
use crate::moment::Moment;

impl Replica {
    /// A connection was established. `token` authenticates us, if the relay requires it.
    pub fn handle_connected(&mut self, now: Moment, token: Option<Vec<u8>>) {
        self.handle_disconnected();
        self.phase = Phase::AwaitingWelcome;
        self.last_received = now;
        self.tokens = Tokens::of_hello(token.as_deref());
        self.send(Frame::Hello(Hello {
            versions: VERSIONS.to_vec(),
            replica: self.replica,
            token: token.map(Into::into),
            agent: self.agent.clone(),
        }));
        self.send(Frame::Features(Features { bits: features::ALL }));
    }

    /// Whether [`Replica::handle_token`] would send a token: the handshake is complete, and the relay
    /// accepts new tokens within a session.
    pub fn renews_tokens(&self) -> bool {
        self.is_ready() && self.features & features::TOKEN != 0
    }

    /// A new token, before the previous one expires. Returns whether it is sent: otherwise it is for
    /// the next connection.
    pub fn handle_token(&mut self, token: Vec<u8>) -> bool {
        let renews = self.renews_tokens();
        if renews {
            self.tokens.renew(&token);
            self.send(Frame::Token(Token { token: token.into() }));
        }
        renews
    }

    /// The connection is gone. Effects that were not polled are void.
    pub fn handle_disconnected(&mut self) {
        self.phase = Phase::Disconnected;
        self.effects.clear();
        self.subscriptions.clear();
        self.pushes.clear();
        self.window = 0;
        self.paged.clear();
        self.page_queue.clear();
        self.timers.clear();
        self.storing_bytes = 0;
        self.resends.end();
        self.features = 0;
        (self.pinged, self.probe) = (false, None);
        self.next_push = 0;
        self.next_subscription = 0;
        for (space, link) in &mut self.spaces {
            let reported = std::mem::replace(&mut link.reported, SpacePhase::Waiting);
            let spoke = link.sends_ephemeral;
            let check = link.take_check();
            *link = SpaceLink { check, ..SpaceLink::new(self.next_subscription) };
            self.subscriptions.insert(self.next_subscription, space.clone());
            self.next_subscription += 1;
            if reported != SpacePhase::Waiting {
                let (space, phase) = (space.clone(), SpacePhase::Waiting);
                self.effects.push_back(ReplicaEffect::Phase { space, phase });
            }
            if spoke {
                let (space, filter) = (space.clone(), None);
                self.effects.push_back(ReplicaEffect::SendsEphemeral { space, filter });
            }
        }
    }

    /// The application goes offline, or the engine closes: sends `Close`.
    pub fn handle_close(&mut self, reason: &str) {
        if !matches!(self.phase, Phase::Disconnected | Phase::Ending) {
            let reason = crate::frame::fit(reason.to_owned());
            self.send(Frame::Close(Close { code: Code::GOODBYE, reason }));
            self.phase = Phase::Ending;
        }
    }

    /// A binary message arrived.
    pub fn handle_message(&mut self, now: Moment, message: &[u8]) {
        self.handle_sign_of_life(now);
        let frames = match Frames::new(message) {
            Ok(frames) => frames,
            Err(error) => return self.end(EndReason::Malformed(error)),
        };
        for frame in frames {
            match frame {
                _ if matches!(self.phase, Phase::Ending | Phase::Disconnected) => return,
                Ok(frame) => self.handle_frame(now, frame),
                Err(error) => return self.end(EndReason::Malformed(error)),
            }
        }
    }

    /// A sign of life that is not a message, such as a WebSocket ping.
    pub fn handle_sign_of_life(&mut self, now: Moment) {
        self.last_received = now;
        self.pinged = false;
        self.extend_probe(now);
    }

    /// The arrived bytes may have been sent before the probe, so they do not answer it; but the
    /// answer may be behind them.
    fn extend_probe(&mut self, now: Moment) {
        if let Some(probe) = &mut self.probe {
            probe.until = now.after(limits::PROBE);
        }
    }

    /// Checks at once whether the connection is alive, as the application asked: sends a ping, and
    /// ends with [`EndReason::Unanswered`] if nothing is received for [`limits::PROBE`] before its
    /// pong.
    pub fn handle_probe(&mut self, now: Moment) {
        if self.is_ready() && self.probe.is_none() {
            let nonce = self.ping();
            self.probe = Some(Probe { nonce, until: now.after(limits::PROBE) });
        }
    }

    /// Sends a ping and returns its nonce.
    fn ping(&mut self) -> u64 {
        self.pings += 1;
        self.send(Frame::Ping(self.pings));
        self.pings
    }

    fn handle_frame(&mut self, now: Moment, mut frame: Frame) {
        self.tokens.conceal(&mut frame);
        match (&self.phase, frame) {
            (_, Frame::Error(error)) => {
                self.end_by_relay(error.code, error.what, error.hint);
            }
            (_, Frame::Close(close)) => {
                let hint = "the link connects again".to_owned();
                self.end_by_relay(close.code, close.reason, hint);
            }
            (_, Frame::Ping(nonce)) => self.send(Frame::Pong(nonce)),
            (_, Frame::Pong(nonce)) => {
                self.probe.take_if(|probe| probe.nonce == nonce);
            }
            (Phase::AwaitingWelcome, Frame::Features(theirs)) => self.features = theirs.bits,
            (Phase::AwaitingWelcome, Frame::Welcome(welcome)) => self.handle_welcome(&welcome),
            (Phase::Ready { .. }, frame) => self.handle_ready(now, frame),
            (_, frame) => self.broken(format!("a {} frame before welcome", name_of(&frame))),
        }
    }

    fn handle_welcome(&mut self, welcome: &Welcome) {
        if !VERSIONS.contains(&welcome.version) {
            return self
                .broken(format!("it chose version {}, which was not offered", welcome.version));
        }
        let upstream = welcome.upstream;
        let limits = PushLimits {
            changes: (welcome.push_changes as usize).clamp(1, limits::PUSH_CHANGES),
            in_flight: (welcome.pushes_in_flight as usize).clamp(2, limits::PUSHES_IN_FLIGHT),
        };
        self.phase = Phase::Ready { upstream, limits };
        self.effects.push_back(ReplicaEffect::Welcomed(upstream));
        let spaces: Vec<SpaceName> = self.spaces.keys().cloned().collect();
        spaces.into_iter().for_each(|space| self.load_resume(space));
    }

    fn handle_ready(&mut self, now: Moment, frame: Frame) {
        match frame {
            Frame::Subscribed(subscribed) => self.handle_subscribed(now, &subscribed),
            Frame::Unsubscribed(ended) if ended.code.is_passing() => {
                let (code, what, hint) = (ended.code, ended.what, ended.hint);
                self.end(EndReason::Ended { code, what, hint });
            }
            Frame::Unsubscribed(ended) => {
                let what = format!("{}; {}", ended.what, ended.hint);
                let phase = SpacePhase::Refused { code: ended.code, what };
                if let Some(space) = self.space_of(ended.subscription) {
                    self.refuse_space(&space, phase);
                }
            }
            Frame::Entries(entries) => self.handle_entries(now, entries),
            Frame::Part(part) => self.handle_part(part),
            Frame::Difference(found) => self.handle_difference(now, found),
            Frame::Document(found) => self.handle_document(now, found),
            Frame::UploadFrom(requested) => self.handle_upload_from(requested),
            Frame::Ack(ack) => self.handle_ack(now, ack),
            Frame::Nack(nack) => self.handle_nack(now, nack),
            Frame::Ephemeral(message) => self.handle_ephemeral(message),
            Frame::Resend(resend) => self.handle_resend(now, resend),
            Frame::Repaired(repaired) => self.handle_repaired(now, repaired),
            frame => self.broken(format!("a {} frame, which only a client sends", name_of(&frame))),
        }
    }

    /// When to call [`Replica::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Moment {
        let silence = match self.phase {
            Phase::Disconnected | Phase::Ending => return Moment(Duration::MAX),
            Phase::AwaitingWelcome => self.last_received.after(self.patience.handshake),
            Phase::Ready { .. } if self.pinged => {
                self.last_received.after(self.patience.drop_after)
            }
            Phase::Ready { .. } => self.last_received.after(self.patience.ping_after),
        };
        let waits = self.timers.iter().filter_map(|space| self.spaces.get(space)?.wakes_at());
        let waits = waits.chain(self.resends.wakes_at());
        waits.chain(self.probe.as_ref().map(|probe| probe.until)).fold(silence, Ord::min)
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Moment) {
        let silent = now.since(self.last_received);
        match self.phase {
            Phase::Ready { .. } if !self.wants_message() => {
                self.last_received = now;
                // The answer to the probe cannot arrive while reading is paused.
                self.extend_probe(now);
            }
            Phase::Ready { .. } if self.probe.as_ref().is_some_and(|probe| probe.until <= now) => {
                self.end(EndReason::Unanswered(limits::PROBE));
            }
            Phase::AwaitingWelcome if silent >= self.patience.handshake => {
                self.end(EndReason::Silent(silent));
            }
            Phase::Ready { .. } if silent >= self.patience.drop_after => {
                self.end(EndReason::Silent(silent));
            }
            Phase::Ready { .. } if silent >= self.patience.ping_after && !self.pinged => {
                self.pinged = true;
                self.ping();
            }
            _ => {}
        }
        let is_due = |space: &SpaceName| {
            let wakes = self.spaces.get(space).and_then(SpaceLink::wakes_at);
            wakes.is_none_or(|at| at <= now)
        };
        let due: Vec<SpaceName> =
            self.timers.iter().filter(|space| is_due(space)).cloned().collect();
        for space in due {
            self.timers.remove(&space);
            self.pump(now, &space);
            self.try_check(now, &space);
        }
        self.handle_resend_timeout(now);
    }

    /// The relay ended the session. Changes that were pushed and not acknowledged stay pending.
    fn end_by_relay(&mut self, code: Code, what: String, hint: String) {
        let welcomed = self.is_ready();
        self.end(match code {
            Code::UNAUTHORIZED => EndReason::Unauthorized { welcomed, what, hint },
            _ => EndReason::Ended { code, what, hint },
        });
    }

    pub(super) fn broken(&mut self, what: String) {
        self.end(EndReason::Broken(what));
    }

    pub(super) fn end(&mut self, reason: EndReason) {
        let (code, text) = match &reason {
            EndReason::Broken(_) => (Code::OUT_OF_ORDER, reason.to_string()),
            EndReason::Malformed(error) => (error.code(), reason.to_string()),
            EndReason::Silent(_) | EndReason::Unanswered(_) => (Code::SILENT, reason.to_string()),
            EndReason::Ended { .. } | EndReason::Unauthorized { .. } | EndReason::Store(_) => {
                (Code::GOODBYE, String::new())
            }
        };
        self.send(Frame::Close(Close { code, reason: crate::frame::fit(text) }));
        self.phase = Phase::Ending;
        self.effects.push_back(ReplicaEffect::End(reason));
    }
}

fn name_of(frame: &Frame) -> &'static str {
    match frame {
        Frame::Hello(_) => "hello",
        Frame::Welcome(_) => "welcome",
        Frame::Error(_) => "error",
        Frame::Subscribe(_) => "subscribe",
        Frame::Subscribed(_) => "subscribed",
        Frame::Unsubscribe(_) => "unsubscribe",
        Frame::Unsubscribed(_) => "unsubscribed",
        Frame::Entries(_) => "entries",
        Frame::Push(_) => "push",
        Frame::Ack(_) => "ack",
        Frame::Nack(_) => "nack",
        Frame::Ping(_) => "ping",
        Frame::Pong(_) => "pong",
        Frame::Close(_) => "close",
        Frame::Features(_) => "features",
        Frame::SubscribeFrom(_) => "subscribe-from",
        Frame::Part(_) => "part",
        Frame::PushSnapshot(_) => "push-snapshot",
        Frame::UploadFrom(_) => "upload from",
        Frame::PushEntry(_) => "push-entry",
        Frame::Digest(_) => "digest",
        Frame::Difference(_) => "difference",
        Frame::Fetch(_) => "fetch",
        Frame::Document(_) => "document",
        Frame::Refilter(_) => "refilter",
        Frame::Compared(_) => "compared",
        Frame::Ephemeral(_) => "ephemeral",
        Frame::Resend(_) => "resend",
        Frame::Resent(_) => "resent",
        Frame::Repaired(_) => "repaired",
        Frame::Token(_) => "token",
    }
}
