//! Actors that are used again, and every case in which they must not be.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use automerge::{ActorId, ROOT, ReadDoc, transaction::Transactable};

use super::put;
use crate::actors::outside;
use crate::{ChangeError, Document, DocumentId, Options, Store};

/// The variable with the store of a child process that is killed in the middle.
const DIES_AT: &str = "LANDFALL_TEST_DIES_AT";

pub(super) type Written = BTreeSet<(ActorId, u64)>;

fn open(path: &Path) -> (Store, Document) {
    let store = Store::open(path, Options::default()).unwrap();
    let space = store.space("default").unwrap();
    let id = space.documents().unwrap().first().copied();
    let document = match id {
        Some(id) => space.open(id).unwrap(),
        None => space.create(|_| Ok(())).unwrap().0,
    };
    (store, document)
}

/// Whether a marker can be written for a store at this path: without one, actors are always fresh.
pub(super) fn has_a_place(path: &Path) -> bool {
    std::fs::File::options().append(true).create(true).open(path).unwrap();
    let has = outside::file_of(path).is_some();
    if !has {
        println!("SKIPPED (there is no tmpfs for the marker, or the store is on it)");
    }
    has
}

/// Runs as a one-shot command does. Returns the actor and sequence number of each change in the
/// document.
pub(super) fn once(path: &Path) -> Written {
    let (store, document) = open(path);
    // Another value each time: the same one again would make no change.
    put(&document, &document.heads().unwrap()[0].to_string()).unwrap();
    let written = written(&document);
    store.close().unwrap();
    written
}

fn written(document: &Document) -> Written {
    let changes = document.read(|doc| doc.get_changes(&[])).unwrap();
    let written: Written =
        changes.iter().map(|change| (change.actor_id().clone(), change.seq())).collect();
    assert_eq!(written.len(), changes.len(), "no (actor, sequence) twice");
    written
}

fn actors(written: &Written) -> usize {
    written.iter().map(|(actor, _)| actor).collect::<BTreeSet<_>>().len()
}

/// The changes that only one of two diverged histories has are not by the same (actor, sequence).
fn check_apart(common: &Written, one: &Written, other: &Written) {
    assert!(one.is_superset(common) && other.is_superset(common));
    let both: BTreeSet<_> = one.intersection(other).cloned().collect();
    assert_eq!(&both, common);
}

#[cfg(target_os = "linux")]
#[test]
fn fifty_short_openings_use_one_actor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    if !has_a_place(&path) {
        return;
    }
    for n in 1..=50 {
        let written = once(&path);
        assert_eq!((actors(&written), written.len()), (1, n + 1));
    }
    let (store, document) = open(&path);
    assert_eq!(document.status().unwrap().actors, 1);
    drop(document);
    assert_eq!(store.space("default").unwrap().status().unwrap().changes, 51);
}

#[test]
fn a_copied_file_uses_a_fresh_actor() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("s"), folder.path().join("copy"));
    let common = once(&path);
    std::fs::copy(&path, &copy).unwrap();
    let (original, copied) = (once(&path), once(&copy));
    check_apart(&common, &original, &copied);
    assert_eq!(actors(&copied), 2);
}

#[test]
fn a_file_that_was_moved_away_and_replaced_uses_a_fresh_actor() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("s"), folder.path().join("copy"));
    let common = once(&path);
    std::fs::copy(&path, &copy).unwrap();
    let original = once(&path);
    // Once with a new inode, once into the same one.
    std::fs::rename(&copy, &path).unwrap();
    let restored = once(&path);
    check_apart(&common, &original, &restored);
    std::fs::copy(&path, &copy).unwrap();
    let later = once(&path);
    std::fs::copy(&copy, &path).unwrap();
    check_apart(&restored, &later, &once(&path));
}

/// A file that was overwritten in place with its contents at its last clean close: its number is right,
/// and still it may have been elsewhere meanwhile.
#[cfg(target_os = "linux")]
#[test]
fn a_backup_restored_at_once_uses_a_fresh_actor() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("s"), folder.path().join("copy"));
    if !has_a_place(&path) {
        return;
    }
    once(&path);
    std::fs::copy(&path, &copy).unwrap();
    // Waits until the kernel's coarse file clock shows a change.
    let file = outside::file_of(&path);
    let left = file.as_ref().map(|file| std::fs::read_to_string(file).unwrap());
    let changed = || {
        use std::os::unix::fs::MetadataExt;
        let found = std::fs::metadata(&path).unwrap();
        format!("changed {}.{}\n", found.ctime(), found.ctime_nsec())
    };
    while left.as_ref().is_some_and(|left| left.contains(&changed())) {
        std::fs::copy(&copy, &path).unwrap();
    }
    assert_eq!(actors(&once(&path)), 2);
}

#[test]
fn after_a_killed_process_its_actor_is_not_reused() {
    if let Some(path) = std::env::var_os(DIES_AT) {
        let (_store, document) = open(Path::new(&path));
        put(&document, "the last").unwrap();
        std::process::abort();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    once(&path);
    let itself = "tests::closing::after_a_killed_process_its_actor_is_not_reused";
    let dead = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", itself, "--nocapture"])
        .env(DIES_AT, &path)
        .output()
        .unwrap();
    assert!(!dead.status.success());
    let after = once(&path);
    assert_eq!((actors(&after), after.len()), (2, 4), "{dead:?}");
}

#[test]
fn a_missing_or_altered_marker_leads_to_a_fresh_actor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    once(&path);
    let Some(file) = outside::file_of(&path) else { return };
    let mut expected = 1;
    let mut check = |damage: &dyn Fn(&str) -> Option<String>| {
        match damage(&std::fs::read_to_string(&file).unwrap()) {
            Some(text) => std::fs::write(&file, text).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        expected += 1;
        assert_eq!(actors(&once(&path)), expected);
    };
    check(&|_| None);
    check(&|text| Some(text.replace("boot ", "boot 0")));
    check(&|text| Some(text.replace("machine ", "machine 0")));
    check(&|text| Some(text.replace("device ", "device 9")));
    check(&|text| Some(text.replace("inode ", "inode 9")));
    check(&|text| Some(text.replace("changed ", "changed 9")));
    check(&|text| Some(text[..text.len() - 2].to_owned()));
    check(&|text| Some(text[..text.len() - 33].to_owned() + &"0".repeat(32) + "\n"));
    check(&|_| Some(String::new()));
    check(&|_| Some("\u{e9}".repeat(200)));
    // Untouched again, the marker is valid.
    assert_eq!(actors(&once(&path)), expected);
}

#[cfg(target_os = "linux")]
#[test]
fn the_marker_is_private_and_removed_at_opening() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    if !has_a_place(&path) {
        return;
    }
    once(&path);
    let file = outside::file_of(&path).unwrap();
    assert!(file.exists());
    let mode = std::fs::metadata(file.parent().unwrap()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let (store, _document) = open(&path);
    assert!(!file.exists(), "it is removed when the store is opened");
    store.close().unwrap();
}

#[test]
fn after_a_failed_commit_no_actor_is_reused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    once(&path);
    let (store, document) = open(&path);
    put(&document, "before").unwrap();
    let faults = store.open_store().context.log.database().faults();
    faults.fail_next_commits(1, landfall_storage::FailureClass::Io);
    assert!(matches!(put(&document, "lost"), Err(ChangeError::Store(_))));
    put(&document, "after").unwrap();
    let before = written(&document);
    store.close().unwrap();
    drop((store, document));
    assert_eq!(actors(&once(&path)), actors(&before) + 1);
}

/// A change that is rejected before it is written leaves no doubt about other documents' actors.
#[test]
fn an_edit_of_a_deleted_document_keeps_other_documents_actors() {
    let store = super::store();
    let space = store.space("default").unwrap();
    let [kept, deleted] = [(); 2].map(|()| space.create(|_| Ok(())).unwrap().0);
    put(&kept, "before").unwrap();
    space.delete(deleted.id()).unwrap();
    assert!(matches!(put(&deleted, "refused"), Err(ChangeError::Deleted)));
    for n in 0..5 {
        kept.open().outdate();
        put(&kept, &n.to_string()).unwrap();
    }
    assert_eq!(actors(&written(&kept)), 1);
}

/// Loaded again within one opening, a document continues with its actors; actors of earlier states end
/// with the opening.
#[cfg(target_os = "linux")]
#[test]
fn a_branchs_actor_survives_unloading_but_not_the_opening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    if !has_a_place(&path) {
        return;
    }
    once(&path);
    let (store, document) = open(&path);
    let past = document.heads().unwrap();
    let mut branch = past.clone();
    for n in 0..6 {
        document.open().outdate();
        put(&document, &n.to_string()).unwrap();
        document.open().outdate();
        let before = document.heads().unwrap();
        document.change_at(&branch, |tx| Ok(tx.put(ROOT, "branch", n)?)).unwrap();
        branch = document.heads().unwrap();
        branch.retain(|head| !before.contains(head));
    }
    assert_eq!(actors(&written(&document)), 2);
    store.close().unwrap();
    drop((store, document));
    let after = once(&path);
    assert_eq!((actors(&after), after.len()), (2, 15));
    let (store, document) = open(&path);
    document.change_at(&past, |tx| Ok(tx.put(ROOT, "branch", 9)?)).unwrap();
    assert_eq!(actors(&written(&document)), 3);
    store.close().unwrap();
}

/// An actor is never used again after changes of it were removed from its document.
#[test]
fn an_ended_actor_is_not_reused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    if !has_a_place(&path) {
        return;
    }
    once(&path);
    let (store, document) = open(&path);
    put(&document, "by the old one").unwrap();
    let before = actors(&written(&document));
    let open = store.open_store();
    open.forget_document(document.open().row, document.id());
    put(&document, "by a new one").unwrap();
    assert_eq!(actors(&written(&document)), before + 1);
    put(&document, "by that one too").unwrap();
    open.context.actors.end(document.open().key());
    put(&document, "by one that has not noticed yet").unwrap();
    let before = written(&document);
    assert_eq!(actors(&before), 2);
    store.close().unwrap();
    drop((store, document));
    assert_eq!(actors(&once(&path)), 3);
}

#[test]
fn many_documents_in_one_opening_keep_their_actors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let store = Store::open(&path, Options::default()).unwrap();
    let space = store.space("default").unwrap();
    let ids: Vec<DocumentId> = (0..3).map(|_| space.create(|_| Ok(())).unwrap().0.id()).collect();
    let open = store.open_store();
    open.context.actors.forget_what_is_in_memory(&open.context.log);
    // Jobs run in order: once this one is done, the earlier one is done too.
    space.create(|_| Ok(())).unwrap();
    for id in ids {
        let document = space.open(id).unwrap();
        document.open().outdate();
        put(&document, "again").unwrap();
        let count = document.read(|doc| doc.stats().num_actors).unwrap();
        assert_eq!(count, 1, "the store records an actor that memory does not");
    }
    store.close().unwrap();
}

#[test]
fn a_document_with_too_many_actors_is_reported_once() {
    let store = super::store();
    let document = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    let mut other = document.read(|doc| doc.fork()).unwrap();
    let mut add = |number: u64| {
        other.set_actor(ActorId::from(number.to_be_bytes()));
        let mut tx = other.transaction();
        tx.put(ROOT, "n", number).unwrap();
        tx.commit();
        super::poisoned::append(
            &store,
            &document,
            other.get_last_local_change().unwrap().raw_bytes(),
        );
    };
    (1..crate::MANY_ACTORS).for_each(&mut add);
    let mut events = store.events();
    let mut reported = || {
        assert!(document.open().try_unload());
        document.heads().unwrap();
        let mut reported = Vec::new();
        while let Some(event) = events.try_next() {
            reported.push(event.unwrap().kind);
        }
        reported
    };
    assert!(reported().is_empty());
    add(crate::MANY_ACTORS);
    let many = crate::MANY_ACTORS + 1;
    assert!(matches!(reported()[..], [crate::EventKind::ManyActors { actors }] if actors == many));
    assert!(reported().is_empty(), "once is enough");
    assert_eq!(document.status().unwrap().actors, many);
    assert!(document.open().try_unload());
    assert_eq!(document.status().unwrap().actors, many, "the store records it too");
}
