//! The only source of randomness in the engine.

use landfall_protocol::{DocumentId, ReplicaId};

/// The operating system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the operating system returned no random bytes: {0}")]
pub(crate) struct NoRandomness(getrandom::Error);

/// Random bytes.
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(NoRandomness)?;
    Ok(bytes)
}

/// A new document's id.
pub(crate) fn document_id() -> Result<DocumentId, NoRandomness> {
    bytes().map(DocumentId::from_bytes)
}

/// A new store's id.
pub(crate) fn replica_id() -> Result<ReplicaId, NoRandomness> {
    bytes().map(ReplicaId::from_bytes)
}

/// A number in `0.0..1.0`, for jitter; 0.5 without randomness.
pub(crate) fn fraction() -> f64 {
    bytes::<4>().map_or(0.5, |bytes| f64::from(u32::from_le_bytes(bytes)) / 4_294_967_296.0)
}
