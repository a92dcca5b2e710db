//! Named documents: id and first change are derived from the space, the name and the template, so that two
//! replicas that create the same named document offline share one root.
//!
//! The derivation is a format, pinned by golden bytes in the tests: they fail if a new automerge version
//! encodes the template differently. It must not know the store.

use automerge::transaction::{CommitOptions, Transaction};
use automerge::{ActorId, Automerge, Change, ChangeHash, ReadDoc};
use landfall_protocol::{DocumentId, SpaceName};
use sha2::{Digest, Sha256};

use crate::changes::empty;
use crate::error::ChangeError;
use crate::failure::BoxError;

const ID_DOMAIN: &[u8] = b"landfall named document 1";
const ACTOR_DOMAIN: &[u8] = b"landfall named document actor 1";

/// The id of a named document.
pub(crate) fn document_id(space: &SpaceName, name: &str) -> DocumentId {
    DocumentId::from_bytes(derive(ID_DOMAIN, &[space.as_str().as_bytes(), name.as_bytes()]))
}

/// From this many operations on, a first change is not built a second time, and its document is not kept in
/// memory: a text of this many characters takes about 10 ms to build.
const LARGE: usize = 16_384;

/// The first change of a named document.
pub(crate) struct First {
    pub(crate) change: Change,
    pub(crate) document: Built,
}

/// The document with that change.
pub(crate) enum Built {
    Whole(Box<Automerge>),
    /// A large document, loaded on the first read. Its saved bytes, if known; they were never loaded.
    Saved(Option<Vec<u8>>),
}

/// Builds the first change of a named document. Its actor is derived from the template's content, so two
/// versions of an application with different templates create two roots that merge, and never two different
/// changes with one (actor, sequence).
pub(crate) fn first_change(
    id: &DocumentId,
    template: &dyn Fn(&mut Transaction<'_>) -> Result<(), BoxError>,
) -> Result<First, ChangeError> {
    let (document, content) = build(ActorId::from(*id.as_bytes()), template)?;
    let actor = derive(ACTOR_DOMAIN, &[id.as_bytes(), &content.0]);
    if document.stats().num_ops >= LARGE as u64 {
        let change = by_actor(&change_of(&document, &content)?, id.as_bytes(), actor)?;
        let (before, after) = (content.0, change.hash().0);
        let saved = exchange(
            document.save(),
            &[&[1, 16][..], id.as_bytes(), &[1], &before].concat(),
            &[&[1, 16][..], &actor, &[1], &after].concat(),
        );
        return Ok(First { change, document: Built::Saved(saved) });
    }
    let (document, hash) = build(ActorId::from(actor), template)?;
    let change = change_of(&document, &hash)?;
    Ok(First { change, document: Built::Whole(Box::new(document)) })
}

fn change_of(document: &Automerge, hash: &ChangeHash) -> Result<Change, ChangeError> {
    let unknown =
        || ChangeError::Closure("automerge does not return the change that it made".into());
    document.get_change_by_hash(hash).ok_or_else(unknown)
}

/// The same first change by another actor. Its operations refer only to its own objects, so the actor occurs
/// once: behind the number of dependencies, which is 0, and its own length.
fn by_actor(change: &Change, from: &[u8; 16], to: [u8; 16]) -> Result<Change, ChangeError> {
    let begin = |actor: &[u8; 16]| [&[0, 16][..], actor].concat();
    let unknown = || ChangeError::Closure("automerge encodes changes differently".into());
    let bytes = exchange(change.raw_bytes().to_vec(), &begin(from), &begin(&to));
    let change = Change::from_bytes(bytes.ok_or_else(unknown)?);
    change.map_err(|error| ChangeError::Closure(Box::new(error)))
}

/// Replaces the first bytes of a chunk's content by as many others. A chunk has magic, checksum, type, length
/// and content; the checksum covers the last three. `None` if the content does not begin with `from`.
fn exchange(mut chunk: Vec<u8>, from: &[u8], to: &[u8]) -> Option<Vec<u8>> {
    const CHECKSUM: std::ops::Range<usize> = 4..8;
    const LENGTH_AT: usize = 9;
    let length = chunk.get(LENGTH_AT..)?.iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
    let begin = chunk.get_mut(LENGTH_AT + length..)?.get_mut(..from.len())?;
    if begin != from {
        return None;
    }
    begin.copy_from_slice(to);
    let sum = Sha256::digest(&chunk[CHECKSUM.end..]);
    chunk[CHECKSUM].copy_from_slice(&sum[..4]);
    Some(chunk)
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

/// The first 16 bytes of SHA-256 over the domain and the parts, each prefixed with its length.
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

#[cfg(test)]
mod tests {
    use automerge::marks::{ExpandMark, Mark};
    use automerge::transaction::Transactable;
    use automerge::{ObjType, ROOT, ScalarValue};

    use super::*;

    /// For every kind of content: replacing the actor gives the change that this actor would make.
    #[test]
    fn rewriting_a_changes_actor_equals_a_change_by_that_actor() {
        let template = |tx: &mut Transaction<'_>| {
            let text = tx.put_object(ROOT, "text", ObjType::Text)?;
            tx.splice_text(&text, 0, 0, &"a fox, 狐; ".repeat(3_000))?;
            tx.splice_text(&text, 10, 4_000, "less")?;
            let mark = Mark::new("bold".to_owned(), true, 3, 9);
            tx.mark(&text, mark, ExpandMark::Both)?;
            let list = tx.put_object(ROOT, "list", ObjType::List)?;
            let map = tx.insert_object(&list, 0, ObjType::Map)?;
            tx.put(&map, "key", ScalarValue::counter(3))?;
            tx.increment(&map, "key", 4)?;
            tx.put(&map, "bytes", vec![1_u8; 300])?;
            tx.put(&map, "gone", 1)?;
            tx.delete(&map, "gone")?;
            Ok(())
        };
        let id = DocumentId::from_bytes([7; 16]);
        let First { change, document } = first_change(&id, &template).unwrap();
        assert!(change.len() > LARGE);
        let (_, content) = build(ActorId::from(*id.as_bytes()), &template).unwrap();
        let actor = derive(ACTOR_DOMAIN, &[id.as_bytes(), &content.0]);
        let (made, hash) = build(ActorId::from(actor), &template).unwrap();
        assert_eq!(change.raw_bytes(), made.get_change_by_hash(&hash).unwrap().raw_bytes());
        assert_eq!((change.hash(), change.actor_id()), (hash, &ActorId::from(actor)));
        let Built::Saved(Some(saved)) = document else { panic!("it is large") };
        assert_eq!(saved, made.save());
    }
}
