//! Named documents: id and first change are derived from the space, the name and the template,
//! so that two replicas that create "the same" document offline share one root.
//!
//! The derivation is a format: golden bytes in the tests hold it, and a new automerge that
//! encodes the template differently must not change it unseen.

use automerge::transaction::{CommitOptions, Transaction};
use automerge::{ActorId, Automerge, Change, ChangeHash, ReadDoc};
use landfall_protocol::{DocumentId, SpaceName};
use sha2::{Digest, Sha256};

use crate::document::empty;
use crate::error::{BoxError, ChangeError};

const ID_DOMAIN: &[u8] = b"landfall named document 1";
const ACTOR_DOMAIN: &[u8] = b"landfall named document actor 1";

/// The id of a named document.
pub(crate) fn document_id(space: &SpaceName, name: &str) -> DocumentId {
    DocumentId::from_bytes(derive(ID_DOMAIN, &[space.as_str().as_bytes(), name.as_bytes()]))
}

/// The first change of a named document. Its actor is derived from what the template writes, so
/// two versions of an application with different templates make two roots that merge, and never
/// two different changes with one (actor, sequence). Gives the document with that change too.
pub(crate) fn first_change(
    id: &DocumentId,
    template: &dyn Fn(&mut Transaction<'_>) -> Result<(), BoxError>,
) -> Result<(Automerge, Change), ChangeError> {
    let (_, content) = build(ActorId::from(*id.as_bytes()), template)?;
    let actor = derive(ACTOR_DOMAIN, &[id.as_bytes(), &content.0]);
    let (document, hash) = build(ActorId::from(actor), template)?;
    let change = document.get_change_by_hash(&hash);
    let change = change
        .ok_or_else(|| ChangeError::Closure("automerge does not give its own change".into()))?;
    Ok((document, change))
}

fn build(
    actor: ActorId,
    template: &dyn Fn(&mut Transaction<'_>) -> Result<(), BoxError>,
) -> Result<(Automerge, ChangeHash), ChangeError> {
    let mut document = empty();
    document.set_actor(actor);
    let options = || CommitOptions::default().with_time(0);
    let mut transaction = document.transaction();
    if let Err(error) = template(&mut transaction) {
        transaction.rollback();
        return Err(ChangeError::Closure(error));
    }
    let made = transaction.commit_with(options()).0;
    let hash = made.unwrap_or_else(|| document.empty_commit(options()));
    Ok((document, hash))
}

/// The first 16 bytes of SHA-256 over the domain and the parts, each preceded by its length.
fn derive(domain: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in std::iter::once(&domain).chain(parts) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    bytes
}
