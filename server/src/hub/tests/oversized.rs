//! Documents above the snapshot size limit: uploads that would exceed it, and snapshots stored by an earlier
//! version.

use std::sync::Arc;

use landfall_protocol::session::SnapshotUpload;
use landfall_protocol::space::PushAnswer;
use landfall_protocol::{Code, limits};

use super::{Bench, DOCUMENT, Pushed, program, space, whole, world};
use crate::store::{Documents, Log, Snapshots, StoredDocument};

impl Bench {
    /// Uploads a complete snapshot.
    async fn upload(&mut self, changes: &[Vec<u8>]) -> PushAnswer {
        let compacted = landfall_compaction::compact(&[], changes.iter().cloned()).unwrap();
        let entry = self.entry();
        let offered = SnapshotUpload {
            id: entry.id,
            subscription: 0,
            document: DOCUMENT,
            hash: compacted.hash,
            total: compacted.snapshot.len() as u64,
            heads: compacted.heads.into(),
        };
        self.push(Pushed::Snapshot(entry, offered, Arc::new(compacted.snapshot))).await;
        self.answer().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_merge_is_too_large_is_stored_as_changes() {
    let Some(program) = program() else { return };
    // Distinct keys: automerge compresses repetitions, and a longer document may have a smaller snapshot.
    let mut author = world::author(1);
    let all: Vec<Vec<u8>> =
        (0..300).map(|n| world::edit(&mut author, &format!("key {}", n * n * 7919), n)).collect();
    let mut other = world::author(9);
    other.load_incremental(&all[..100].concat()).unwrap();
    let beside: Vec<Vec<u8>> = (0..80).map(|n| world::edit(&mut other, "beside", n)).collect();
    let theirs = [&all[..100], &beside].concat();
    let (limit, both) = (whole(&theirs).len(), whole(&[&all[..], &beside].concat()).len());
    assert!(limit < both, "the merged snapshot exceeds the limit: {limit}, {both}");
    let mut bench = Bench::within(program, limit).await;
    bench.push_changes(&all).await;
    assert_eq!(bench.answer().await.count, 300);
    let answer = bench.upload(&theirs).await;
    assert_eq!((answer.count, answer.refusal), (1, None), "it is answered as one entry");
    assert_eq!(bench.held(), 380);
    assert_eq!(bench.store.oversized(0).unwrap(), [], "they are single changes");
    // Uploaded again: nothing is new.
    let again = bench.upload(&theirs).await;
    assert_eq!((again.count, again.added, again.refusal), (1, None, None));
    // An unrelated history is rejected as before.
    let unrelated = bench.upload(&world::typing(2, 50)).await;
    assert_eq!(unrelated.refusal.unwrap().code, Code::UNRELATED);
    assert_eq!((unrelated.count, bench.held()), (0, 380));
    bench.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_starting_relay_splits_oversized_snapshots() {
    let Some(program) = program() else { return };
    let mut bench = Bench::new(program).await;
    let all = world::typing(1, limits::PUSH_CHANGES + 200);
    bench.push_chunks(whole(&all)).await;
    assert_eq!(bench.answer().await.count, 1);
    assert_eq!(bench.store.oversized(100).unwrap().len(), 1, "it is stored compacted");
    let heads = |bench: &Bench| match bench.store.document_heads(&space(), &DOCUMENT).unwrap() {
        StoredDocument::Present { heads, .. } => heads,
        other => panic!("{other:?}"),
    };
    let before = heads(&bench);
    bench.store.close().unwrap();
    let mut bench = bench.again_within(100).await;
    assert_eq!(bench.store.oversized(100).unwrap(), []);
    assert_eq!(bench.held() as usize, all.len());
    assert_eq!(heads(&bench), before);
    let index = bench.store.document_index(&space(), &DOCUMENT, false).unwrap().unwrap();
    assert_eq!((index.tail.len(), index.compacted.is_none()), (all.len(), true));
    // The log continues after it.
    let end = bench.store.open_space(&space()).unwrap().head();
    let mut other = world::author(9);
    other.load_incremental(&all.concat()).unwrap();
    bench.push_changes(&[world::edit(&mut other, "next", 1)]).await;
    let answer = bench.answer().await;
    assert_eq!((answer.count, answer.added.unwrap().0.0), (1, end.0 + 1));
    bench.end();
}

/// Thousands of heads on both sides become one snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn an_uploaded_snapshot_with_many_heads_is_merged() {
    let Some(program) = program() else { return };
    let mut base = world::author(1);
    let root = world::edit(&mut base, "root", 0);
    let each = 2_500;
    let mut branch = |number: usize| {
        let actor = automerge::ActorId::from((number as u64).to_be_bytes());
        world::edit(&mut base.fork().with_actor(actor), "branch", number as i64)
    };
    let ours: Vec<Vec<u8>> = (0..each).map(&mut branch).collect();
    let theirs: Vec<Vec<u8>> = (each..2 * each).map(&mut branch).collect();
    let mut bench = Bench::new(program).await;
    for pushed in [&root].into_iter().chain(&ours).cloned().collect::<Vec<_>>().chunks(100) {
        bench.push_changes(pushed).await;
        assert_eq!(bench.answer().await.refusal, None);
    }
    let offered: Vec<Vec<u8>> = [root].into_iter().chain(theirs).collect();
    let answer = bench.upload(&offered).await;
    assert_eq!((answer.count, answer.refusal), (1, None));
    assert_eq!(bench.held() as usize, 1 + 2 * each);
    let index = bench.store.document_index(&space(), &DOCUMENT, false).unwrap().unwrap();
    assert_eq!((index.heads.len(), index.tail.len()), (2 * each, 0));
    assert_eq!(index.compacted.unwrap().heads.len(), 2 * each);
    bench.end();
}
