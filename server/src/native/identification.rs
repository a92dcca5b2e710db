//! Who a session's client is: passes its tokens to the relay's verifier, and the results to the machine.

use std::sync::Arc;

use landfall_protocol::Code;
use landfall_protocol::access::{IdentifyError, Principal};

use super::NativeDriver;
use crate::connection::Connection;
use crate::connection::bindings::InUse;
use crate::connection::identification::{Identification, Identified, expires};
use crate::quota::NoneLeft;

/// The identification of a new session, and whether too many wait for theirs.
pub(super) fn begin(connection: &Connection) -> (Identification, Option<NoneLeft>) {
    let Connection { relay, account, .. } = connection;
    match Identification::new(relay, account) {
        Ok(identification) => (identification, None),
        Err(none) => (Identification::idle(relay, account), Some(none)),
    }
}

impl NativeDriver {
    /// Ends a session for whose identification there is no place.
    pub(super) fn refuse_unidentified(&mut self, NoneLeft(limit): NoneLeft) {
        let what = format!("{limit} connections wait for their clients to be identified");
        self.machine.fail(Code::OVERLOADED, what, "connect again later");
    }

    pub(super) fn handle_identified(&mut self, identified: Identified) {
        let identified = identified.and_then(|principal| self.bind(principal));
        let principal = identified.as_ref().ok();
        let until = principal.and_then(|principal| expires(&self.connection, principal));
        if let Some(principal) = principal {
            self.uploads.handle_identified(principal.subject.clone());
        }
        self.machine.handle_identified(identified, until);
    }

    /// Binds the client's replica to its principal.
    fn bind(&mut self, principal: Arc<Principal>) -> Identified {
        let (Some(replica), Some(subject)) = (self.machine.replica(), &principal.subject) else {
            return Ok(principal);
        };
        // A renewed token of the same subject adds a use of the same binding.
        match self.connection.relay.replicas.bind(replica, Some(subject)) {
            Ok(binding) => {
                self.replica = Some(binding);
                Ok(principal)
            }
            Err(InUse) => Err(IdentifyError::Rejected {
                what: "another principal uses this replica now".to_owned(),
                hint: "give each principal a store of its own, or connect again once the other \
                       has signed out"
                    .to_owned(),
            }),
        }
    }
}
