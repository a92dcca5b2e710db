//! Who a session's client is, and the documents of its space that it may read and write. Every look-up and
//! every delivery of the session asks it first.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::access::{IdentifyError, Principal, Rights, View};
use landfall_protocol::frame::{Filter, Token};
use landfall_protocol::relay::Author;
use landfall_protocol::{Code, DocumentId, Moment, SpaceName, limits as shared_limits};
use tokio::time::timeout;

use crate::clock::now_ms;
use crate::connection::Connection;

/// Looked up instead of a document that the client may not read: no document has this id.
const NO_DOCUMENT: DocumentId = DocumentId::from_bytes([0; 16]);

/// The rights of a session in its space.
#[derive(Debug, Clone)]
pub(super) struct Access {
    principal: Arc<Principal>,
    space: SpaceName,
    view: View,
    /// When the client's token expires.
    until: Option<Moment>,
}

impl Access {
    fn new(principal: Arc<Principal>, space: &SpaceName, until: Option<Moment>) -> Self {
        let view = principal.view(space, &Filter::Everything);
        Self { principal, space: space.clone(), view, until }
    }

    /// A client without any right.
    pub(super) fn none(space: &SpaceName) -> Self {
        let (groups, rules) = (BTreeSet::new(), Vec::new());
        let nobody = Principal { subject: None, groups, rules, expires_ms: None };
        Self::new(Arc::new(nobody), space, None)
    }

    /// A client of a relay without authentication.
    #[cfg(test)]
    pub(super) fn open(space: &SpaceName) -> Self {
        Self::new(Arc::new(Principal::open()), space, None)
    }

    /// Identifies a session's client. The error is for the client.
    pub(super) async fn of(
        connection: &Connection,
        space: &SpaceName,
        token: Option<Token>,
    ) -> Result<Self, (Code, String)> {
        let relay = &connection.relay;
        let _unidentified = match relay.identities.is_open() {
            true => None,
            false => Some(relay.unidentified.take(connection.account.share()).map_err(|none| {
                let what =
                    format!("{} connections wait for their clients to be identified", none.0);
                (Code::OVERLOADED, what)
            })?),
        };
        let token = token.as_ref().map(|token| token.token.as_slice());
        let identified = timeout(shared_limits::IDENTIFY, relay.identities.identify(token)).await;
        let principal = match identified {
            Ok(Ok(principal)) => principal,
            Ok(Err(error @ IdentifyError::Rejected { .. })) => {
                return Err((Code::UNAUTHORIZED, error.to_string()));
            }
            Ok(Err(error @ IdentifyError::Unavailable { .. })) => {
                return Err((Code::OVERLOADED, error.to_string()));
            }
            Err(_) => {
                let what = "the token was not verified in time".to_owned();
                return Err((Code::OVERLOADED, what));
            }
        };
        if !principal.knows_space(space) {
            // Decided without the store, so that the answer is the same for a missing space.
            return Err((Code::FORBIDDEN, "no access to this space".to_owned()));
        }
        let left = |expires: u64| Duration::from_millis(expires.saturating_sub(now_ms()));
        let until = principal.expires_ms.map(|expires| connection.now().after(left(expires)));
        Ok(Self::new(principal, space, until))
    }

    /// When the client's token expires.
    pub(super) fn until(&self) -> Moment {
        self.until.unwrap_or(Moment(Duration::MAX))
    }

    /// Who the client is.
    pub(super) fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Whether the client may read a document.
    pub(super) fn reads(&self, document: &DocumentId) -> bool {
        self.view.contains(document)
    }

    /// Whether the client may write to a document.
    pub(super) fn writes(&self, document: &DocumentId) -> bool {
        self.principal.rights(&self.space, document).includes(Rights::WRITE)
    }

    /// The document to look up for one that the client asks about: another id, if it may not read it, so
    /// that an unreadable document costs and gives the same as an unknown one.
    pub(super) fn looked_up(&self, document: &DocumentId) -> DocumentId {
        if self.reads(document) { *document } else { NO_DOCUMENT }
    }

    /// The author of a push: the principal's subject, or in open mode the client's own name.
    pub(super) fn author(&self, own_name: &[u8], document: &DocumentId) -> Author {
        let name = match &self.principal.subject {
            Some(subject) => subject.as_str().as_bytes().to_vec(),
            None => own_name.to_vec(),
        };
        Author { name, rights: self.principal.rights(&self.space, document) }
    }
}
