//! Who a session's client is, and the documents of its space that it may read and write. Every look-up and
//! every delivery of the session asks it first.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::access::{IdentifyError, Principal, Rights, View};
use landfall_protocol::frame::Filter;
use landfall_protocol::relay::Author;
use landfall_protocol::{Code, DocumentId, Moment, SpaceName};

use crate::connection::Connection;
use crate::connection::identification::{Identified, expires};

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

    /// Of an identified client. The error is for the client.
    pub(super) fn of(
        connection: &Connection,
        space: &SpaceName,
        identified: Identified,
    ) -> Result<Self, (Code, String)> {
        let principal = identified.map_err(|error| match &error {
            IdentifyError::Rejected { .. } => (Code::UNAUTHORIZED, error.to_string()),
            IdentifyError::Unavailable { .. } => (Code::OVERLOADED, error.to_string()),
        })?;
        if !principal.knows_space(space) {
            // Decided without the store, so that the answer is the same for a missing space.
            return Err((Code::FORBIDDEN, "no access to this space".to_owned()));
        }
        let until = expires(connection, &principal);
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

    /// Whether another has the same rights.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let (one, two) = (&self.principal, &other.principal);
        one.subject == two.subject && one.groups == two.groups && one.rules == two.rules
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
