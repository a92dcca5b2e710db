//! Identification: the phase between `hello` and `welcome`, and the renewal of a token within a
//! session. Verifies nothing: the caller does, and may have to fetch a key first.

use std::sync::Arc;
use std::time::Duration;

use super::{Phase, Session, SessionEffect};
use crate::access::{IdentifyError, Identity, Principal};
use crate::code::Code;
use crate::frame::{Features, Frame, Hello, Token, Welcome, features};
use crate::ids::ReplicaId;
use crate::limits;
use crate::moment::Moment;

/// A client that is being identified.
#[derive(Debug)]
pub(super) struct Identifying {
    version: u16,
    replica: ReplicaId,
    since: Moment,
}

impl Identifying {
    pub(super) fn deadline(&self) -> Moment {
        self.since.after(limits::IDENTIFY)
    }
}

/// How long the client's token is valid.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// `None` if it does not expire.
    until: Option<Moment>,
    /// A new token is being verified.
    renewing: bool,
    /// The token that arrived meanwhile; an earlier one is replaced.
    next: Option<Token>,
}

impl Lease {
    pub(super) fn deadline(&self) -> Moment {
        self.until.unwrap_or(Moment(Duration::MAX))
    }
}

impl Session {
    /// The replica of the client's hello, once it arrived.
    pub fn replica(&self) -> Option<ReplicaId> {
        match &self.phase {
            Phase::Identifying(pending) => Some(pending.replica),
            Phase::Ready(identity) => Some(identity.replica),
            Phase::AwaitingHello | Phase::Ended => None,
        }
    }

    /// Asks the caller who the client of this hello is.
    pub(super) fn identify(&mut self, version: u16, hello: Hello) {
        let (replica, since) = (hello.replica, self.last_received);
        self.phase = Phase::Identifying(Identifying { version, replica, since });
        let token = hello.token.map(|token| Token { token });
        self.effects.push_back(SessionEffect::Identify { token });
    }

    /// The peer renews its token. While one is verified, only the latest of the others waits.
    pub(super) fn handle_token(&mut self, renewed: Token) {
        if self.lease.renewing {
            self.lease.next = Some(renewed);
            return;
        }
        self.lease.renewing = true;
        self.effects.push_back(SessionEffect::Identify { token: Some(renewed) });
    }

    /// The answer to [`SessionEffect::Identify`]. `until` is when the token expires; `None` if it
    /// does not.
    pub fn handle_identified(
        &mut self,
        identified: Result<Arc<Principal>, IdentifyError>,
        until: Option<Moment>,
    ) {
        match &self.phase {
            Phase::Identifying(_) => self.handle_first(identified, until),
            Phase::Ready(_) => self.handle_renewed(identified, until),
            Phase::AwaitingHello | Phase::Ended => {}
        }
    }

    fn handle_first(
        &mut self,
        identified: Result<Arc<Principal>, IdentifyError>,
        until: Option<Moment>,
    ) {
        let Phase::Identifying(Identifying { version, replica, .. }) = self.phase else { return };
        let principal = match identified {
            Ok(principal) => principal,
            Err(error) => return self.fail_identification(error),
        };
        self.phase = Phase::Ready(Identity { replica, principal });
        self.lease.until = until;
        self.send(Frame::Features(Features { bits: features::ALL }));
        self.send(Frame::Welcome(Welcome {
            version,
            upstream: self.upstream,
            session: self.id,
            message_bytes: limits::MESSAGE_BYTES as u32,
            push_changes: limits::PUSH_CHANGES as u32,
            pushes_in_flight: limits::PUSHES_IN_FLIGHT as u32,
            agent: self.agent.clone(),
        }));
    }

    /// A new token must name the same subject. If its rules are others, the session ends without an
    /// error, and the client subscribes anew under them.
    fn handle_renewed(
        &mut self,
        identified: Result<Arc<Principal>, IdentifyError>,
        until: Option<Moment>,
    ) {
        self.lease.renewing = false;
        let principal = match identified {
            Ok(principal) => principal,
            // The token before it may be valid for long: the client can send another one.
            Err(IdentifyError::Unavailable { .. }) => return self.renew_next(),
            Err(error) => return self.fail_identification(error),
        };
        let Phase::Ready(identity) = &self.phase else { return };
        if identity.principal.subject != principal.subject {
            let what = "the new token names another subject".to_owned();
            return self.fail(Code::UNAUTHORIZED, what, "open a new connection for it");
        }
        let is_same = identity.principal.rules == principal.rules
            && identity.principal.groups == principal.groups;
        if !is_same {
            let what = "the rights of the new token are others".to_owned();
            return self.fail(Code::GOODBYE, what, "connect again");
        }
        self.lease.until = until;
        self.renew_next();
    }

    fn renew_next(&mut self) {
        if let Some(token) = self.lease.next.take() {
            self.handle_token(token);
        }
    }

    fn fail_identification(&mut self, error: IdentifyError) {
        match error {
            IdentifyError::Rejected { what, hint } => self.fail(Code::UNAUTHORIZED, what, &hint),
            IdentifyError::Unavailable { what, retry_after } => {
                let hint = format!("connect again in {} s", retry_after.as_secs().max(1));
                self.fail(Code::OVERLOADED, what, &hint);
            }
        }
    }

    pub(super) fn fail_lease(&mut self) {
        let what = "the token has expired".to_owned();
        self.fail(Code::UNAUTHORIZED, what, "connect again with a new token");
    }
}
