//! Store files of released schema versions, kept for ever, and their expected contents after a
//! migration. The generator writes a file of the present version: run it once, when a version is about
//! to be released, and keep the file.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use automerge::{ActorId, Automerge, ROOT, ReadDoc, transaction::Transactable};
use landfall_protocol::admission::preflight;
use landfall_protocol::client::{Batch, DeferredReason, Incoming};
use landfall_protocol::frame::{Entry, Mark};
use landfall_protocol::{
    Code, Cursor, DocumentId, Epoch, Local, Offset, Scope, SpaceName, Upstream,
};

use crate::store::{DocumentFacts, LocalChange, LocalLog, Refused, SpaceRow};
use crate::{Options, Store};

pub(super) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A description of everything that a migration must preserve.
pub(super) fn facts(store: &Store) -> String {
    let log = &store.open_store().context.log;
    let mut out = String::new();
    for (name, row, count) in log.spaces().unwrap() {
        let (changes, bytes) = (count.totals.changes, count.totals.bytes);
        writeln!(out, "space {name}: {changes} changes, {bytes} bytes").unwrap();
        writeln!(out, "  pending {:?}", count.pending).unwrap();
        writeln!(out, "  gap {:?} unheld {:?}", count.first_gap, count.first_unacked).unwrap();
        writeln!(out, "  aside {}", count.deferred).unwrap();
        for rejected in log.rejected(row).unwrap() {
            writeln!(out, "  parked {} {} {}", rejected.document, rejected.code, rejected.what)
                .unwrap();
        }
        let (page, more) = log.outbox(row, Local(0), 1_000, 1 << 20).unwrap();
        assert!(!more);
        let locals: Vec<u64> = page.iter().map(|change| change.local.0).collect();
        writeln!(out, "  outbox {locals:?}").unwrap();
        let mut documents = log.documents(row).unwrap();
        documents.sort();
        for id in documents {
            document_facts(store, &name, row, id, &mut out);
        }
    }
    out
}

fn document_facts(
    store: &Store,
    name: &SpaceName,
    row: SpaceRow,
    id: DocumentId,
    out: &mut String,
) {
    let log = &store.open_store().context.log;
    let document = log.document(row, &id).unwrap().unwrap();
    let DocumentFacts { changes, pending, .. } = log.document_facts(row, &id).unwrap();
    writeln!(out, "  document {id}: {changes} changes, pending {pending:?}").unwrap();
    writeln!(out, "    heads {:?}", log.heads(document).unwrap()).unwrap();
    let open = store.space(name.as_str()).unwrap().open(id).unwrap();
    let text = open
        .read(|doc| {
            let keys: Vec<String> = doc
                .keys(ROOT)
                .map(|key| format!("{key}={:?}", doc.get_all(ROOT, key.as_str()).unwrap().len()))
                .collect();
            format!("{} changes, {keys:?}", doc.get_changes(&[]).len())
        })
        .unwrap();
    writeln!(out, "    read {text}").unwrap();
}

/// An author with its own actor, who puts one key at a time.
struct Author {
    doc: Automerge,
}

impl Author {
    fn new(actor: u8) -> Self {
        Self { doc: Automerge::new().with_actor(ActorId::from([actor; 16])) }
    }

    fn put(&mut self, key: &str, value: &str) -> landfall_protocol::admission::CheckedChange {
        let mut tx = self.doc.transaction();
        tx.put(ROOT, key, value).unwrap();
        tx.commit();
        preflight(self.doc.get_last_local_change().unwrap().raw_bytes()).unwrap()
    }

    fn merge(&mut self, other: &mut Author) {
        self.doc.merge(&mut other.doc).unwrap();
    }
}

fn meet(log: &LocalLog, upstream: u8, space: SpaceRow) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let done = move |met| sender.send(met).unwrap();
    log.submit_attach(Upstream::from_bytes([upstream; 16]), space, Box::new(done));
    receiver.recv().unwrap().unwrap();
}

fn acknowledge(log: &LocalLog, space: SpaceRow, locals: &[u64], offset: u64) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let mark = Mark { epoch: Epoch::from_bytes([7; 16]), offset: Offset(offset) };
    let done = Box::new(move |done| sender.send(done).unwrap());
    let locals = locals.iter().copied().map(Local).collect();
    log.submit_acknowledged(space, locals, mark, done);
    receiver.recv().unwrap().unwrap();
}

fn receive(
    log: &LocalLog,
    name: &SpaceName,
    space: SpaceRow,
    (after, up_to): (u64, u64),
    entries: Vec<Incoming>,
) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let cursor = Cursor {
        epoch: Epoch::from_bytes([7; 16]),
        offset: Offset(up_to),
        scope: Scope::WHOLE_SPACE,
    };
    let batch = Batch { space: name.clone(), after: Offset(after), cursor, entries, bytes: 0 };
    log.submit_received(space, batch, move |result| sender.send(result.map(drop)).unwrap());
    receiver.recv().unwrap().unwrap();
}

/// Entries of others: changes on one of the local changes, one of which is missing, and an entry of a
/// later version.
fn theirs(ours: &mut Author, documents: [DocumentId; 4]) -> Vec<Incoming> {
    let mut theirs = Author::new(20);
    theirs.merge(ours);
    let mut entries = Vec::new();
    for n in 0..4u64 {
        let change = theirs.put("theirs", &n.to_string());
        if n == 2 {
            continue;
        }
        let (offset, author) = (Offset(20 + n), vec![20; 16]);
        entries.push(Incoming::Change {
            offset,
            document: documents[0],
            change,
            author,
            at_ms: 1_700_000_100_000,
            second_root: false,
        });
    }
    let change = Author::new(21).put("fresh", "from elsewhere");
    let mut later = Entry::of_change(Offset(40), documents[1], change, &[21; 16], 5);
    later.kind = 999;
    let reason = DeferredReason::UnknownKind(999);
    entries.push(Incoming::Deferred { entry: later, reason });
    entries
}

/// The entries that version 2 can defer: superseded changes, in a document that is deleted later and in
/// one that is not; the root of an unrelated history; a deletion.
fn what_waits(log: &LocalLog, name: &SpaceName, space: SpaceRow) {
    let entry = |offset, document, change| Incoming::Change {
        offset: Offset(offset),
        document,
        change,
        author: vec![30; 16],
        at_ms: 1_700_000_200_000,
        second_root: false,
    };
    let [kept, deleted] = [5u8, 6].map(|n| DocumentId::from_bytes([n * 17; 16]));
    let mut entries = Vec::new();
    for (document, actor) in [(kept, 31u8), (deleted, 32)] {
        let mut ours = Author::new(actor);
        let root = ours.put("root", "shared");
        let mut theirs = Author::new(actor);
        theirs.merge(&mut ours);
        let changes = [root.clone(), ours.put("k", "ours"), ours.put("l", "ours too")];
        for change in changes {
            let changes = vec![LocalChange { space, document, change, at_ms: 1_700_000_150_000 }];
            log.append(landfall_storage::Durability::Full, changes, |_| ()).unwrap();
        }
        entries.push(entry(50, document, root));
        entries.push(entry(51, document, theirs.put("k", "theirs")));
    }
    entries.push(entry(52, kept, Author::new(33).put("k", "unrelated")));
    receive(log, name, space, (41, 52), entries);
    for document in [deleted, DocumentId::from_bytes([3 * 17; 16])] {
        let (sender, receiver) = std::sync::mpsc::channel();
        let done = Box::new(move |done| sender.send(done).unwrap());
        log.submit_delete(space, document, 1_700_000_300_000, done);
        receiver.recv().unwrap().unwrap();
    }
}

/// Writes a store of the present version on request: for a release, to be kept as a fixture.
#[test]
fn write_a_store_of_this_version() {
    let Ok(path) = std::env::var("LANDFALL_FIXTURE").map(PathBuf::from) else {
        return println!("skipped: it writes a permanent fixture");
    };
    std::fs::remove_file(&path).ok();
    let store = Store::open(&path, Options::default()).unwrap();
    let log = &store.open_store().context.log;
    let [notes, tasks] = ["notes", "tasks"].map(|name| name.parse::<SpaceName>().unwrap());
    let [in_notes, in_tasks] = [&notes, &tasks].map(|name| store.open_store().space(name).unwrap());
    store.space("unused").unwrap();
    let documents = [1u8, 2, 3, 4].map(|n| DocumentId::from_bytes([n * 17; 16]));
    let append = |space, document, change| {
        let changes = vec![LocalChange { space, document, change, at_ms: 1_700_000_000_000 }];
        log.append(landfall_storage::Durability::Full, changes, |_| ()).unwrap();
    };
    // Local changes, in two spaces; the first document has two heads in the end.
    let mut ours: Vec<Author> = (1..=4).map(Author::new).collect();
    for n in 0..8 {
        for (author, id) in ours.iter_mut().zip(documents) {
            let change = author.put(&format!("ours {n}"), &"text ".repeat(n + 1));
            append(in_notes, id, change);
        }
    }
    let mut task = Author::new(9);
    (0..5).for_each(|n| append(in_tasks, documents[0], task.put(&format!("{n}"), "task")));
    // The first upstream: it acknowledges some changes, sends those of others, an orphan and an entry
    // of a later version, and rejects a document.
    meet(log, 1, in_notes);
    meet(log, 1, in_tasks);
    acknowledge(log, in_notes, &[1, 2, 3, 5, 6, 9, 10, 11, 12], 12);
    acknowledge(log, in_tasks, &[1, 2, 3], 3);
    let entries = theirs(&mut ours[0], documents);
    let ours_on = ours[0].put("ours 8", "concurrent");
    append(in_notes, documents[0], ours_on);
    receive(log, &notes, in_notes, (0, 41), entries);
    let (sender, receiver) = std::sync::mpsc::channel();
    log.submit_reject(
        in_notes,
        documents[3],
        Refused { code: Code::FORBIDDEN, what: "no right to write".to_owned(), deletion: false },
        Box::new(move |done| sender.send(done).unwrap()),
    );
    receiver.recv().unwrap().unwrap();
    what_waits(log, &notes, in_notes);
    std::fs::write(path.with_extension("first.txt"), facts(&store)).unwrap();
    // The second one holds less; it is the one in use.
    meet(log, 2, in_notes);
    meet(log, 2, in_tasks);
    acknowledge(log, in_notes, &[4, 5, 6, 7, 8, 20], 6);
    std::fs::write(path.with_extension("txt"), facts(&store)).unwrap();
    store.close().unwrap();
    std::fs::remove_file(path.with_extension("db.lock")).ok();
}

/// A copy of a kept file, opened by this version.
fn migrated(name: &str) -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    std::fs::copy(fixtures().join(name), &path).unwrap();
    let store = Store::open(&path, Options::default()).unwrap();
    (folder, store)
}

#[test]
fn a_store_of_version_1_keeps_everything() {
    let (_folder, store) = migrated("engine-v1.db");
    let expected = std::fs::read_to_string(fixtures().join("engine-v1.txt")).unwrap();
    assert_eq!(facts(&store), expected);
    let log = &store.open_store().context.log;
    for (_, row, _) in log.spaces().unwrap() {
        meet(log, 1, row);
    }
    let expected = std::fs::read_to_string(fixtures().join("engine-v1.first.txt")).unwrap();
    assert_eq!(facts(&store), expected, "and of the first upstream");
}

#[test]
fn a_store_of_version_2_keeps_everything() {
    let (_folder, store) = migrated("engine-v2-waiting.db");
    let expected = std::fs::read_to_string(fixtures().join("engine-v2-waiting.txt")).unwrap();
    assert_eq!(facts(&store), expected);
    let log = &store.open_store().context.log;
    assert_eq!(log.verify().unwrap(), [], "the counts of version 5 are right");
    for (_, row, _) in log.spaces().unwrap() {
        meet(log, 1, row);
    }
    let expected = std::fs::read_to_string(fixtures().join("engine-v2-waiting.first.txt")).unwrap();
    assert_eq!(facts(&store), expected, "and of the first upstream");
}

#[test]
fn a_migrated_store_has_digests() {
    use landfall_protocol::digest::{DigestEntry, Node, Prefix};
    let (_folder, store) = migrated("engine-v1.db");
    let log = &store.open_store().context.log;
    let row = store.open_store().space(&"notes".parse().unwrap()).unwrap();
    let branches = log.branches(row, &[(Prefix::ROOT, true)]).unwrap();
    let Node::DigestEntries(digest_entries) = &branches[0].node else {
        panic!("no digest entries")
    };
    assert_eq!(digest_entries.len(), 4);
    for (id, digest_entry) in digest_entries {
        let document = log.document(row, id).unwrap().unwrap();
        assert_eq!(*digest_entry, DigestEntry::of_heads(id, &log.heads(document).unwrap()));
    }
}
