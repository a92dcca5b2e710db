//! Removal of a space from a store.

use automerge::{ROOT, transaction::Transactable};

use super::store_support::{Author, Bench, id};
use crate::{ChangeError, OpenDocumentError, Options, RemoveSpaceError, Store, StoreFailure};

fn with_two_spaces() -> Store {
    let store = Store::in_memory(Options::default()).unwrap();
    for name in ["gone", "stays"] {
        store.space(name).unwrap().create(|tx| Ok(tx.put(ROOT, "of", name)?)).unwrap();
    }
    store
}

#[test]
fn unsent_changes_are_removed_by_force_only() {
    let store = with_two_spaces();
    let unsent = store.remove_space("gone", false).unwrap_err();
    let RemoveSpaceError::Unsent { pending, .. } = &unsent else { panic!("{unsent}") };
    assert_eq!(pending.changes, 1);
    assert_eq!(store.spaces().len(), 2, "it is unchanged");
    store.remove_space("gone", true).unwrap();
    assert_eq!(store.spaces().len(), 1);
    assert_eq!(store.status().spaces.len(), 1);
    let unknown = store.remove_space("gone", true).unwrap_err();
    assert!(matches!(unknown, RemoveSpaceError::Unknown(_)), "{unknown}");
    store.remove_space("stays", true).unwrap();
    store.flush_blocking(std::time::Duration::from_secs(60)).unwrap();
}

#[test]
fn handles_of_a_removed_space_fail_and_a_new_space_is_empty() {
    let store = with_two_spaces();
    let space = store.space("gone").unwrap();
    let id = space.documents().unwrap()[0];
    let document = space.open(id).unwrap();
    let is_removed = |class| matches!(class, StoreFailure::SpaceRemoved);
    store.remove_space("gone", true).unwrap();
    let changed = document.change(|tx| Ok(tx.put(ROOT, "k", 1)?));
    assert!(matches!(changed, Err(ChangeError::Store(e)) if is_removed(e.class)));
    assert!(document.read(|_| ()).is_err());
    assert!(is_removed(space.documents().unwrap_err().class));
    assert!(is_removed(space.delete(id).unwrap_err().class));
    let opened = space.open(id).err().unwrap();
    assert!(matches!(opened, OpenDocumentError::Store(e) if is_removed(e.class)));
    assert!(matches!(space.create(|_| Ok(())), Err(ChangeError::Store(e)) if is_removed(e.class)));
    // Another space of the same name is not the one that was removed.
    let again = store.space("gone").unwrap();
    assert_eq!(again.documents().unwrap(), []);
    assert!(document.change(|tx| Ok(tx.put(ROOT, "k", 1)?)).is_err(), "an old handle became valid");
    again.create(|_| Ok(())).unwrap();
    assert_eq!(again.documents().unwrap().len(), 1);
    store.close().unwrap();
}

/// Every table of the schema is checked, including those that are added later.
#[test]
fn a_removed_space_leaves_no_row() {
    let mut bench = Bench::new();
    bench.meet(1);
    let (mut ours, mut theirs) = (Author::new(1, 1), Author::new(2, 2));
    bench.append_all(id(1), &ours.puts(300));
    let changes = theirs.puts(300);
    bench.receive(theirs.incomings(changes));
    bench.compact();
    let other = bench.log.ensure_space(&"other".parse().unwrap()).unwrap();
    bench.log.remove_space(bench.space, true).unwrap();
    let tables = bench.log.rows_of_tables().unwrap();
    let left: Vec<_> = tables
        .into_iter()
        .filter(|(name, count)| {
            // The rows of the store itself, and of the space that stays.
            let stays = ["replica", "actor", "upstream", "space", "clean_close", "storage_sync"];
            *count > 0 && !stays.contains(&name.as_str())
        })
        .collect();
    assert_eq!(left, []);
    assert_eq!(bench.log.space_rows().unwrap(), [other]);
    let again = bench.log.ensure_space(&bench.name).unwrap();
    assert_ne!(again, bench.space, "jobs about the old one may still wait");
}
