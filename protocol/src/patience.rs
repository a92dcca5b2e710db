//! The limits of a peer's silence, for the relay's sessions of either protocol and for an engine's
//! link.

use std::time::Duration;

use crate::limits;

/// The limits of a peer's silence.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Silence after which the relay pings the peer.
    pub ping_after: Duration,
    /// Silence after which the relay drops the connection.
    pub drop_after: Duration,
    /// The most time until the first frame.
    pub handshake: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            ping_after: limits::PING_AFTER,
            drop_after: limits::DROP_AFTER,
            handshake: limits::HANDSHAKE,
        }
    }
}
