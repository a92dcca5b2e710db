//! Single bit flips anywhere in the file: a client of either protocol receives the content that was written,
//! or the relay reports damage. Nothing is silently wrong or missing.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use landfall_protocol::access::View;
use landfall_protocol::frame::entry_kind;
use landfall_protocol::relay::Chunk;
use landfall_protocol::{DocumentId, Offset, SpaceName};
use landfall_test_rng::Rng;

use super::damage::store;
use crate::store::sqlite::FILE;
use crate::store::{
    Admin, CompactionInput, Documents, Log, Snapshots, SqliteStore, StoreError, StoredDocument,
};

const SPACES: [&str; 3] = ["elsewhere", "notes", "team.plans"];

/// An entry, or a part of a snapshot, without author and time, which are informational.
type Given = (DocumentId, u16, [u8; 32], Vec<u8>);

/// Everything that an empty replica receives of a space, without the entries that report damage. An error if
/// the relay refuses.
fn to_replica(store: &SqliteStore, space: &SpaceName) -> Result<BTreeSet<Given>, StoreError> {
    store.open_space(space)?;
    let (mut given, mut after) = (BTreeSet::new(), Offset(0));
    let mut partial: Option<landfall_protocol::frame::Partial> = None;
    while let Some(chunk) = store.next(space, after, &View::everything(), partial)? {
        match chunk {
            Chunk::Part(part) => {
                let (hash, bytes) = (part.hash, part.from + part.bytes.len() as u64);
                partial = Some(landfall_protocol::frame::Partial { hash, bytes });
                given.insert((part.document, u16::MAX, hash, part.bytes));
            }
            Chunk::Entries(page) => {
                after = page.up_to;
                let whole = page.entries.iter().filter(|e| e.kind() != entry_kind::DAMAGED);
                given.extend(whole.map(|e| (e.document(), e.kind(), e.id(), e.body().to_vec())));
            }
        }
    }
    Ok(given)
}

/// The same, as a session asks: it first rebuilds a damaged index.
fn asked(
    store: &SqliteStore,
    space: &SpaceName,
    document: &DocumentId,
) -> Result<Option<Vec<Vec<u8>>>, StoreError> {
    let error = match to_repo_client(store, space, document) {
        Err(error) if error.damaged_index().is_some() => error,
        asked => return asked,
    };
    let mut base = None;
    store.document_bases(space, document, &mut |input| {
        if let CompactionInput::Base(body) = input {
            base = Some(body);
        }
        ControlFlow::Break(())
    })?;
    let Some(body) = base else { return Err(error) };
    let hash = landfall_compaction::hash_of(&body);
    let made = landfall_compaction::inspect(&body, hash).map_err(|_| error)?;
    store.store_index(space, document, &hash, made.index)?;
    to_repo_client(store, space, document)
}

/// Everything that an empty automerge-repo client receives of a document; `None` if the relay answers that it
/// has none of it.
fn to_repo_client(
    store: &SqliteStore,
    space: &SpaceName,
    document: &DocumentId,
) -> Result<Option<Vec<Vec<u8>>>, StoreError> {
    match store.document_heads(space, document)? {
        StoredDocument::Absent => return Ok(None),
        StoredDocument::Deleted => return Ok(Some(Vec::new())),
        StoredDocument::Present { .. } => {}
    }
    let Some(index) = store.document_index(space, document, true)? else { return Ok(None) };
    let mut chunks = vec![index.heads.iter().flat_map(|head| head.0).collect()];
    if let Some(compacted) = &index.compacted {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < compacted.bytes {
            let part = store.snapshot_part(space, &compacted.hash, bytes.len() as u64)?;
            bytes.extend(part.ok_or_else(|| StoreError::damaged("find a part"))?.bytes);
        }
        chunks.push(bytes);
    }
    let mut rest: Vec<Offset> = index.tail.iter().map(|row| row.offset).collect();
    while !rest.is_empty() {
        let entries = store.read_entries(space, document, &rest)?;
        if entries.is_empty() || entries.iter().any(|e| e.kind() == entry_kind::DAMAGED) {
            return Err(StoreError::damaged("read an entry"));
        }
        rest.drain(..entries.len());
        chunks.extend(entries.iter().map(|entry| entry.body().to_vec()));
    }
    Ok(Some(chunks))
}

/// The inputs of a compaction are checked too.
fn compacts_what_was_written(
    store: &SqliteStore,
    space: &SpaceName,
    document: &DocumentId,
) -> bool {
    let mut inputs = 0;
    let mut sink = |_| {
        inputs += 1;
        ControlFlow::Continue(())
    };
    store.document_bases(space, document, &mut sink).is_ok()
}

/// The differences between the content that a store returns and the original; empty if there are none.
fn wrong(whole: &SqliteStore, flipped: &SqliteStore, documents: &[DocumentId]) -> Vec<String> {
    let (mut wrong, mut lacks) = (Vec::new(), Vec::new());
    for space in SPACES.map(|name| name.parse::<SpaceName>().unwrap()) {
        let expected = to_replica(whole, &space).unwrap();
        match to_replica(flipped, &space) {
            Ok(given) => {
                for (document, kind, ..) in given.difference(&expected) {
                    wrong.push(format!("{space}: {document} has another entry of kind {kind}"));
                }
                let missing = expected.difference(&given).count();
                (missing > 0).then(|| lacks.push(format!("{space} lacks {missing} entries")));
            }
            Err(error) => lacks.push(format!("{space}: {}", error.chain())),
        }
        for document in documents {
            let expected = to_repo_client(whole, &space, document).unwrap();
            match asked(flipped, &space, document) {
                Ok(given) if given == expected => {}
                Ok(None) => lacks.push(format!("{space}: nothing of {document}")),
                Ok(Some(_)) => wrong.push(format!("{space}: other bytes of {document}")),
                Err(error) => lacks.push(format!("{space}: {document}: {}", error.chain())),
            }
            compacts_what_was_written(flipped, &space, document);
        }
    }
    // Missing content is reported, with the documents that are known.
    if !lacks.is_empty() && flipped.condition().damaged.is_empty() {
        wrong.append(&mut lacks);
    }
    wrong
}

/// Two bits of each page, at least one of them in its used part; `SEED` selects others.
#[test]
fn a_flipped_bit_never_alters_content_silently() {
    let (folder, whole) = store();
    let mut documents = Vec::new();
    for space in SPACES.map(|name| name.parse::<SpaceName>().unwrap()) {
        let page = whole.recent_documents(&space, Offset(0), None, 1_000).unwrap();
        documents.extend(page.documents.iter().map(|recent| recent.document));
    }
    documents.truncate(12);
    whole.close().unwrap();
    let bytes = std::fs::read(folder.path().join(FILE)).unwrap();
    let whole = SqliteStore::open(folder.path()).unwrap();
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in
        seed.map_or(vec![1, 2, 3, 11, 20, 27, 30, 38, 74, 75, 81, 103, 104], |seed| vec![seed])
    {
        flip_everywhere(&whole, &bytes, &documents, seed);
    }
}

fn flip_everywhere(whole: &SqliteStore, bytes: &[u8], documents: &[DocumentId], seed: u64) {
    let (mut rng, mut refused, mut damaged, mut silent) = (Rng::new(seed), 0, 0, Vec::new());
    for (page, before) in bytes.chunks(4096).enumerate() {
        for used in [false, true] {
            let (mut at, bit) = (rng.below(4096), rng.below(8));
            while used && before[at] == 0 && before.iter().any(|byte| *byte != 0) {
                at = rng.below(4096);
            }
            let mut flipped = bytes.to_vec();
            flipped[page * 4096 + at] ^= 1 << bit;
            let copy = tempfile::tempdir().unwrap();
            std::fs::write(copy.path().join(FILE), &flipped).unwrap();
            let Ok(store) = SqliteStore::open(copy.path()) else {
                refused += 1;
                continue;
            };
            let wrong = wrong(whole, &store, documents);
            damaged += usize::from(!store.condition().damaged.is_empty());
            if !wrong.is_empty() {
                silent.push(format!("page {} byte {at} bit {bit}: {wrong:?}", page + 1));
            }
        }
    }
    let summary =
        format!("seed {seed}: refused {refused}, damaged {damaged} of {}", bytes.len() / 2048);
    println!("{summary}");
    assert!(silent.is_empty(), "{summary}: {silent:#?}");
    assert!(damaged > 20, "{summary}");
}
