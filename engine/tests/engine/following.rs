//! A store that is open for reading only, beside the writing one.

use std::time::Duration;

use landfall::automerge::{ROOT, ReadDoc, transaction::Transactable};
use landfall::{Document, Event, EventKind, Options, SpaceError, Store, StoreFailure};

struct Pair {
    _folder: tempfile::TempDir,
    writer: Store,
    reader: Store,
}

/// With `by_itself` false the reader never looks by itself: it then shows only what its calls have
/// seen.
fn pair(by_itself: bool) -> Pair {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let writer = Store::open(&path, Options::default()).unwrap();
    writer.space("s").unwrap();
    let follow_every = if by_itself { Duration::from_millis(5) } else { Duration::MAX };
    let options = Options::default().follow_every(follow_every);
    let reader = Store::open_read_only(&path, options).unwrap();
    Pair { _folder: folder, writer, reader }
}

fn put(document: &Document, value: i64) {
    document.change(|tx| Ok(tx.put(ROOT, "k", value)?)).unwrap();
}

fn value(document: &Document) -> Option<i64> {
    let value = |doc: &landfall::automerge::Automerge| {
        doc.get(ROOT, "k").unwrap().and_then(|(value, _)| value.as_i64())
    };
    document.read(value).unwrap()
}

#[test]
fn each_call_sees_all_earlier_commits() {
    let Pair { writer, reader, .. } = &pair(false);
    let space = writer.space("s").unwrap();
    let written = space.create(|tx| Ok(tx.put(ROOT, "k", 0)?)).unwrap().0;
    let read = reader.space("s").unwrap().open(written.id()).unwrap();
    for n in 1..5 {
        put(&written, n);
        assert_eq!(value(&read), Some(n));
        assert_eq!(read.heads().unwrap(), written.heads().unwrap());
        assert_eq!(reader.status().spaces["s"].changes, n as u64 + 1);
        assert_eq!(read.status().unwrap().changes, n as u64 + 1);
    }
    assert!(matches!(reader.space("later"), Err(SpaceError::Unknown(_))));
    writer.space("later").unwrap().create(|_| Ok(())).unwrap();
    assert_eq!(reader.space("later").unwrap().documents().unwrap().len(), 1);
    assert_eq!(reader.status().spaces.len(), 2);
    assert_eq!(reader.spaces().len(), 2);
    space.delete(written.id()).unwrap();
    assert!(!reader.space("s").unwrap().contains(&written.id()).unwrap());
    // An error, or nothing, but not the old contents.
    let left = read.read(|doc| doc.get(ROOT, "k").unwrap().is_some());
    assert!(!left.unwrap_or(false), "the deleted document is not listed");
    assert_eq!(reader.status().spaces["s"].changes, 1, "the deletion is all that is left");
}

/// The reader does not claim what it cannot know.
#[test]
fn a_reader_reports_no_durability() {
    let Pair { writer, reader, .. } = &pair(false);
    let written = writer.space("s").unwrap().create(|_| Ok(())).unwrap().0;
    assert!(written.status().unwrap().on_disk);
    let read = reader.space("s").unwrap().open(written.id()).unwrap();
    assert!(!read.status().unwrap().on_disk);
    assert_eq!(reader.status().spaces["s"].not_on_disk, 1);
}

#[test]
fn a_reader_receives_events_and_status_without_polling() {
    let Pair { writer, reader, .. } = &pair(true);
    let space = writer.space("s").unwrap();
    let (mut events, mut watch) = (reader.events(), reader.watch());
    let written = space.create(|_| Ok(())).unwrap().0;
    let mut next = || -> Event { events.next_blocking().unwrap().unwrap() };
    let event = next();
    let EventKind::Changed { heads, .. } = event.kind else { panic!("{event:?}") };
    assert_eq!((event.document, heads), (written.id(), written.heads().unwrap()));
    watch.until_blocking(|status| status.spaces["s"].changes == 1).unwrap();
    space.delete(written.id()).unwrap();
    let event = next();
    assert!(matches!(event.kind, EventKind::Deleted { .. }), "{event:?}");
    assert_eq!(event.document, written.id());
    writer.space("later").unwrap();
    watch.until_blocking(|status| status.spaces.contains_key("later")).unwrap();
    reader.close().unwrap();
    assert!(watch.changed_blocking().is_none());
}

#[test]
fn a_space_that_the_writer_removes_disappears_from_the_reader() {
    let Pair { writer, reader, .. } = &pair(true);
    let written = writer.space("s").unwrap().create(|_| Ok(())).unwrap().0;
    writer.space("stays").unwrap();
    let space = reader.space("s").unwrap();
    let read = space.open(written.id()).unwrap();
    let mut watch = reader.watch();
    writer.remove_space("s", true).unwrap();
    watch.until_blocking(|status| !status.spaces.contains_key("s")).unwrap();
    assert_eq!(reader.spaces().len(), 1);
    assert!(space.status().is_none());
    assert!(matches!(space.documents().unwrap_err().class, StoreFailure::SpaceRemoved));
    assert!(read.read(|_| ()).is_err(), "its documents are not shown");
    assert!(matches!(reader.space("s"), Err(SpaceError::Unknown(_))));
    // Another space of the same name is another space.
    writer.space("s").unwrap().create(|_| Ok(())).unwrap();
    assert_eq!(reader.space("s").unwrap().documents().unwrap().len(), 1);
    assert!(space.documents().is_err(), "an old handle became valid");
}

/// A reader stays open while the writer removes a space, closes, and opens again with another space,
/// which must not get the old one's row.
#[test]
fn a_handle_of_a_removed_space_never_refers_to_another() {
    for name in ["s", "other"] {
        let Pair { _folder: folder, writer, reader } = pair(false);
        let space = writer.space("s").unwrap();
        let id = space.create(|tx| Ok(tx.put(ROOT, "k", 1)?)).unwrap().0.id();
        let seen = reader.space("s").unwrap();
        let read = seen.open(id).unwrap();
        assert_eq!(value(&read), Some(1));
        writer.remove_space("s", true).unwrap();
        writer.close().unwrap();
        let writer = Store::open(folder.path().join("s"), Options::default()).unwrap();
        let new = writer.space(name).unwrap();
        let written = new.create(|tx| Ok(tx.put(ROOT, "k", 2)?)).unwrap().0;
        let is_removed = |class| matches!(class, StoreFailure::SpaceRemoved);
        assert!(is_removed(seen.documents().unwrap_err().class), "{name}");
        assert!(is_removed(seen.contains(&written.id()).unwrap_err().class), "{name}");
        assert!(read.read(|_| ()).is_err(), "{name}");
        let found = reader.space(name).unwrap().open(written.id()).unwrap();
        assert_eq!(value(&found), Some(2), "{name}");
    }
}
