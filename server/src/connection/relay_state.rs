//! The state that all sessions of a relay share, of both protocols.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::Patience;
use landfall_protocol::{ReplicaId, SessionId, Upstream};
use tokio::sync::watch;

use super::bindings::Bindings;
use super::slots;
use crate::checks::Checks;
use crate::fan_out::FanOut;
use crate::hub::Hub;
use crate::identity::Identities;
use crate::memory::{Account, Key, Memory, ShareKey};
use crate::metrics::Metrics;
use crate::partial_uploads::PartialUploads;
use crate::quota::Quota;
use crate::repairs::Repairs;
use crate::store::LogStore;
use crate::turns::Turns;

/// State shared by all sessions of a relay.
pub(crate) struct RelayState {
    pub(crate) hub: Hub,
    pub(crate) store: Arc<dyn LogStore>,
    pub(crate) metrics: Arc<Metrics>,
    /// Verifies tokens.
    pub(crate) identities: Identities,
    /// The replicas in use, each by one principal.
    pub(crate) replicas: Bindings<ReplicaId>,
    /// The quota of sessions whose client is not yet identified.
    pub(crate) unidentified: Quota,
    /// The memory budget of all sessions.
    pub(crate) memory: Memory,
    /// Whether addresses distinguish clients. False if one address may hold all connections: operators set
    /// that for a relay behind a proxy.
    pub(crate) addresses_differ: bool,
    pub(crate) upstream: Upstream,
    pub(crate) patience: Patience,
    pub(crate) stall: Duration,
    pub(crate) linger: Duration,
    /// Becomes true when the relay is being stopped.
    pub(crate) stopping: watch::Receiver<bool>,
    /// Preflights of all sessions.
    pub(crate) checks: Checks,
    /// Bounds concurrent page reads, for the whole relay.
    pub(crate) page_reads: Turns,
    /// The quota of subscriptions, for the whole relay.
    pub(crate) subscriptions: Quota,
    /// Bounds concurrent reads of digest pages, and the rows that each address may have summed.
    pub(crate) digests: Turns,
    /// Snapshots that clients upload, while their parts arrive.
    pub(crate) partial_uploads: Arc<PartialUploads>,
    /// The subscribers of each document.
    pub(crate) fan_out: Arc<FanOut>,
    /// The online repair of damaged documents.
    pub(crate) repairs: Arc<Repairs>,
}

impl RelayState {
    /// The memory account of a session, which shares the budget of its address.
    pub(crate) fn account(&self, id: SessionId, peer: SocketAddr) -> Account {
        self.memory.account(self.share(id, peer))
    }

    /// The key of a request without a session.
    pub(crate) fn requester(&self, peer: SocketAddr) -> Key {
        Key { share: self.share(SessionId(0), peer), account: 0 }
    }

    /// The share that a session belongs to.
    fn share(&self, id: SessionId, peer: SocketAddr) -> ShareKey {
        match self.addresses_differ {
            true => ShareKey::Address(slots::key_of(peer.ip())),
            false => ShareKey::Session(id.0),
        }
    }
}
