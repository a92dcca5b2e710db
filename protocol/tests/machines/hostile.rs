//! Lying relays: the memory that they can make an engine use is bounded, and the session ends.

use landfall_protocol::client::{DocumentHeads, OutboxChange, OutboxKind, ReplicaEffect};
use landfall_protocol::digest::{Branch, Digest, DigestEntry, Node, Prefix};
use landfall_protocol::frame::{
    Difference, DigestQuery, DocumentEntries, Entries, Entry, Fetch, Frame, Holding, UploadFrom,
};
use landfall_protocol::{ChangeHash, DocumentId, Epoch, Local, Offset, SpaceName, limits};
use landfall_test_rng::Rng;

use crate::scripted::{Scripted, space};

/// A link that checks a space without documents in its store.
fn checking() -> (Scripted, SpaceName) {
    let name = space("s");
    let mut link = Scripted::new(std::slice::from_ref(&name));
    link.connect();
    link.check(&name, 1);
    (link, name)
}

fn tell(
    link: &mut Scripted,
    name: &SpaceName,
    query: &DigestQuery,
    node: impl FnMut(Prefix) -> Node,
) {
    let nodes = query.prefixes.iter().copied().map(node);
    let branches: Vec<Branch> = query
        .prefixes
        .iter()
        .zip(nodes)
        .map(|(prefix, node)| Branch { prefix: *prefix, node })
        .collect();
    let (subscription, head) = (query.subscription, Offset(0));
    link.say(&Frame::Difference(Difference { subscription, head, branches }));
    if link.ended.is_none() {
        let Some(ReplicaEffect::LoadBranches { prefixes, .. }) = link.effects.pop_front() else {
            panic!("our own are not read")
        };
        let ours: Vec<Branch> = prefixes
            .iter()
            .map(|(prefix, _)| Branch { prefix: *prefix, node: Node::DigestEntries(vec![]) })
            .collect();
        link.replica.handle_branches(link.now, name, &ours);
        link.drain();
    }
}

fn digest(rng: &mut Rng) -> Digest {
    let mut digest = Digest::default();
    digest.add(DigestEntry::of_tombstone(&DocumentId::from_bytes(rng.bytes())));
    digest
}

/// The deepest path of queries has 32 steps.
#[test]
fn digests_that_differ_without_a_document_end_the_session() {
    let (mut link, name) = checking();
    let mut rng = Rng::new(1);
    let mut questions = 0;
    while let Some(Frame::Digest(query)) = link.next_sent() {
        questions += 1;
        tell(&mut link, &name, &query, |prefix| match prefix.depth {
            // A prefix of one document has no children.
            Prefix::DEEPEST => Node::DigestEntries(vec![]),
            _ => Node::Children((0..16).map(|_| digest(&mut rng)).collect()),
        });
    }
    assert!(link.ended.as_deref().is_some_and(|why| why.contains("where no document differs")));
    assert!(questions <= limits::FRUITLESS_QUESTIONS + 2, "{questions}");
}

fn below(prefix: Prefix, rng: &mut Rng) -> DocumentId {
    let (mut id, random) = (prefix.first, rng.bytes::<16>());
    for at in usize::from(prefix.depth)..32 {
        id[at / 2] |= random[at / 2] & if at % 2 == 0 { 0xf0 } else { 0x0f };
    }
    DocumentId::from_bytes(id)
}

/// The relay lists documents without end. They are fetched before the walk continues, and a
/// document without entries is a lie.
#[test]
fn documents_that_are_reported_and_not_sent_end_the_session() {
    for holding in [Holding::Absent, Holding::Present(vec![[5; 32]])] {
        let (mut link, name) = checking();
        let mut rng = Rng::new(2);
        let mut listed = 0;
        let fetch = loop {
            match link.next_sent() {
                Some(Frame::Digest(query)) => {
                    assert!(
                        listed < limits::FETCH_DOCUMENTS,
                        "it continues with {listed} documents"
                    );
                    tell(&mut link, &name, &query, |prefix| match prefix.depth {
                        0 | 1 => Node::Children((0..16).map(|_| digest(&mut rng)).collect()),
                        _ => {
                            let document = below(prefix, &mut rng);
                            listed += 1;
                            Node::DigestEntries(vec![(
                                document,
                                DigestEntry::of_tombstone(&document),
                            )])
                        }
                    });
                }
                Some(Frame::Fetch(fetch)) => break fetch,
                other => panic!("{other:?}"),
            }
            answer_heads(&mut link, &name, vec![]);
        };
        assert_eq!(fetch.wants.len(), limits::FETCH_DOCUMENTS);
        let Fetch { subscription, wants } = fetch;
        let (document, entries, more) = (wants[0].document, vec![], false);
        link.say(&Frame::Document(DocumentEntries {
            subscription,
            document,
            holding,
            entries,
            more,
        }));
        assert!(link.ended.as_deref().is_some_and(|why| why.contains("sends nothing of it")));
    }
}

/// The store's heads of the documents to fetch.
fn answer_heads(link: &mut Scripted, name: &SpaceName, heads: Vec<ChangeHash>) {
    if let Some(ReplicaEffect::LoadHeads { documents, .. }) = link.effects.pop_front() {
        let of = |document| DocumentHeads { document, heads: heads.clone(), older: vec![] };
        link.replica.handle_heads(name, documents.into_iter().map(of).collect());
        link.drain();
    }
}

#[test]
fn documents_outside_the_queried_prefix_end_the_session() {
    let (mut link, name) = checking();
    let Some(Frame::Digest(root)) = link.next_sent() else { panic!("no question") };
    let mut rng = Rng::new(3);
    tell(&mut link, &name, &root, |_| Node::Children((0..16).map(|_| digest(&mut rng)).collect()));
    let Some(Frame::Digest(query)) = link.next_sent() else { panic!("no question") };
    let document = DocumentId::from_bytes([0xff; 16]);
    tell(&mut link, &name, &query, |_| {
        Node::DigestEntries(vec![(document, DigestEntry::of_tombstone(&document))])
    });
    assert!(link.ended.is_some());
}

/// An entry with a small body and a thousand dependencies takes 32 KiB.
#[test]
fn entries_that_wait_for_the_store_count_with_their_dependencies() {
    let name = space("s");
    let mut link = Scripted::new(std::slice::from_ref(&name));
    link.connect();
    let subscription = 0;
    let mut sent = 0;
    let mut offset = 0;
    while link.replica.wants_message() && link.ended.is_none() {
        let after = Offset(offset);
        let entries: Vec<Entry> = (0..100)
            .map(|_| {
                offset += 1;
                let document = DocumentId::from_bytes([4; 16]);
                let mut entry = Entry::of_tombstone(Offset(offset), document, &[1], 0);
                entry.dependencies = vec![[6; 32]; 1_000];
                entry
            })
            .collect();
        sent += 100 * 32 * 1_000;
        let (epoch, up_to, head) = (Epoch::from_bytes([2; 16]), Offset(offset), Offset(offset));
        link.say(&Frame::Entries(Entries { subscription, after, up_to, epoch, head, entries }));
        assert!(sent < 4 * limits::STORING_BYTES, "{sent} bytes wait, and it reads on");
    }
    assert_eq!(link.ended, None);
}

#[test]
fn a_relay_gets_no_more_of_a_snapshot_at_once_than_its_window() {
    let name = space("s");
    let mut link = Scripted::new(std::slice::from_ref(&name));
    let (total, heads) = (limits::SNAPSHOT_BYTES as u64, vec![ChangeHash([1; 32])]);
    let what = OutboxKind::Snapshot { hash: [7; 32], total, heads };
    let document = DocumentId::from_bytes([8; 16]);
    link.outbox.insert(name, vec![OutboxChange { local: Local(1), document, what }]);
    link.connect();
    let Some(Frame::PushSnapshot(push)) = link.next_sent() else { panic!("no offer") };
    let up_to = limits::SNAPSHOT_WINDOW_BYTES as u64;
    link.say(&Frame::UploadFrom(UploadFrom { id: push.id, from: 0, up_to }));
    assert_eq!(link.ended, None);
    link.say(&Frame::UploadFrom(UploadFrom { id: push.id, from: 0, up_to: total }));
    assert!(link.ended.is_some(), "it sends the whole of it at once");
}
