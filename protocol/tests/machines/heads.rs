//! Documents with thousands of heads: requested in frames of bounded size, and received in several.

use landfall_protocol::client::{DocumentBatch, DocumentHeads, ReplicaEffect};
use landfall_protocol::digest::{Branch, DigestEntry, Node};
use landfall_protocol::frame::{Difference, DocumentEntries, Fetch, Frame, Holding};
use landfall_protocol::{ChangeHash, DocumentId, Offset, SpaceName, limits};

use crate::scripted::{Scripted, space};

fn document(number: u8) -> DocumentId {
    DocumentId::from_bytes([number; 16])
}

fn hashes(first: u64, count: usize) -> Vec<ChangeHash> {
    let hash = |number: u64| {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        ChangeHash(hash)
    };
    (first..first + count as u64).map(hash).collect()
}

/// A check that found these documents to differ and requested their heads from the store.
fn comparing(documents: &[DocumentId]) -> (Scripted, SpaceName) {
    let name = space("s");
    let mut link = Scripted::new(std::slice::from_ref(&name));
    link.connect();
    link.check(&name, 1);
    let Some(Frame::Digest(query)) = link.next_sent() else { panic!("no question") };
    let digest_entries = |with: u128| {
        let digest_entries = documents.iter().map(|id| (*id, DigestEntry(with))).collect();
        vec![Branch { prefix: query.prefixes[0], node: Node::DigestEntries(digest_entries) }]
    };
    let (subscription, head) = (query.subscription, Offset(0));
    link.say(&Frame::Difference(Difference { subscription, head, branches: digest_entries(1) }));
    assert!(matches!(link.effects.pop_front(), Some(ReplicaEffect::LoadBranches { .. })));
    link.replica.handle_branches(link.now, &name, &digest_entries(2));
    link.drain();
    (link, name)
}

fn give_heads(link: &mut Scripted, name: &SpaceName, most: usize, each: usize) -> Fetch {
    let Some(ReplicaEffect::LoadHeads { documents, .. }) = link.effects.pop_front() else {
        panic!("no heads are requested")
    };
    let of = |document: &DocumentId| {
        let (heads, older) = (hashes(0, each), vec![]);
        DocumentHeads { document: *document, heads, older }
    };
    link.replica.handle_heads(name, documents.iter().take(most).map(of).collect());
    link.drain();
    match link.next_sent() {
        Some(Frame::Fetch(fetch)) => fetch,
        other => panic!("no fetch: {other:?}"),
    }
}

fn tell(link: &mut Scripted, document: DocumentId, heads: &[ChangeHash], more: bool) {
    let holding = Holding::Present(heads.iter().map(|head| head.0).collect());
    let (subscription, entries) = (0, vec![]);
    let frame = DocumentEntries { subscription, document, holding, entries, more };
    link.say(&Frame::Document(frame));
}

fn stored(link: &mut Scripted) -> DocumentBatch {
    match link.effects.pop_front() {
        Some(ReplicaEffect::StoreDocument(batch)) => batch,
        other => panic!("nothing is stored: {other:?}"),
    }
}

#[test]
fn heads_in_several_frames_form_one_list() {
    let (mut link, name) = comparing(&[document(1)]);
    give_heads(&mut link, &name, 1, 3);
    let all = hashes(0, 2 * limits::HEADS_PAGE + 5);
    let pages = all.chunks(limits::HEADS_PAGE).count();
    for (number, page) in all.chunks(limits::HEADS_PAGE).enumerate() {
        tell(&mut link, document(1), page, number + 1 < pages);
        let batch = stored(&mut link);
        assert_eq!(batch.last, number + 1 == pages);
        if batch.last {
            let expected: Vec<_> = all.iter().map(|head| head.0).collect();
            assert!(batch.holding == Holding::Present(expected), "heads are missing");
        }
    }
    assert_eq!(link.ended, None);
}

#[test]
fn a_relay_that_reports_endless_heads_is_disconnected() {
    let (mut link, name) = comparing(&[document(1)]);
    give_heads(&mut link, &name, 1, 3);
    let mut sent = 0;
    while link.ended.is_none() {
        tell(&mut link, document(1), &hashes(sent, limits::HEADS_PAGE), true);
        sent += limits::HEADS_PAGE as u64;
        assert!(sent <= 2 * limits::HEADS_TOLD as u64, "{sent} heads are kept");
    }
    assert!(sent > limits::HEADS_TOLD as u64);
}

#[test]
fn documents_of_many_heads_are_fetched_one_after_the_other() {
    let documents = [document(1), document(2), document(3)];
    // The store returns the heads of all three, or of fewer; one frame has room for one.
    for most in [3, 1] {
        let (mut link, name) = comparing(&documents);
        for document in documents {
            let fetch = give_heads(&mut link, &name, most, limits::DOCUMENT_HEADS);
            let wants: Vec<_> = fetch.wants.iter().map(|want| want.document).collect();
            assert_eq!(wants, [document]);
            assert_eq!(fetch.wants[0].have.len(), limits::DOCUMENT_HEADS);
            tell(&mut link, document, &hashes(0, 1), false);
            let batch = stored(&mut link);
            link.replica.handle_stored(link.now, &name, batch.bytes);
            link.drain();
        }
        assert_eq!(link.ended, None);
    }
}
