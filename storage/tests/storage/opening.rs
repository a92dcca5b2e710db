//! Which files open, which are refused, and that a refusal changes nothing.

use std::fs;
use std::path::Path;

use landfall_storage::{Database, Durability, Foreign, OpenError, Options, Schema, rusqlite};

use crate::support::{Place, SCHEMA, ids, insert, patient};

const OLD: Schema =
    Schema { migrations: &["CREATE TABLE old (text TEXT NOT NULL) STRICT"], ..SCHEMA };

const NEW: Schema = Schema {
    migrations: &[
        "CREATE TABLE old (text TEXT NOT NULL) STRICT",
        "CREATE TABLE young (text TEXT NOT NULL) STRICT; INSERT INTO young SELECT text FROM old",
        "DROP TABLE old",
    ],
    ..SCHEMA
};

fn refusal(path: &Path, schema: &Schema) -> OpenError {
    Database::open(path, schema, patient()).unwrap_err()
}

#[test]
fn settings_read_back_as_specified() {
    let place = Place::new();
    let db = place.open_with(Options { page_cache_bytes: 1 << 20, ..patient() });
    let pragmas = db.pragmas().unwrap();
    assert_eq!(pragmas.journal_mode, "wal");
    assert_eq!((pragmas.synchronous_full, pragmas.synchronous_relaxed), (2, 1));
    assert!(pragmas.foreign_keys && !pragmas.trusted_schema);
    assert_eq!((pragmas.busy_timeout, pragmas.wal_autocheckpoint), (5_000, 0));
    assert_eq!((pragmas.journal_size_limit, pragmas.temp_store), (64 << 20, 2));
    assert_eq!((pragmas.cache_size, pragmas.user_version), (-1024, 1));
    assert_eq!(pragmas.application_id, i64::from(SCHEMA.application_id));
    assert_eq!(db.path(), Some(place.file().as_path()));
    // Reading the settings back does not change the current one.
    let synchronous = db.write(Durability::Full, |tx| {
        tx.pragma_query_value(None, "synchronous", |row| row.get::<_, i64>(0))
    });
    assert_eq!(synchronous.unwrap().value, 2);
}

#[test]
fn foreign_files_are_rejected_and_left_unchanged() {
    let place = Place::new();
    let other = Schema { application_id: 7, ..SCHEMA };
    drop(Database::open(place.folder.path().join("other.db"), &other, patient()).unwrap());
    let unsigned = place.folder.path().join("unsigned.db");
    rusqlite::Connection::open(&unsigned).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    fs::write(place.folder.path().join("text.db"), "hello").unwrap();
    fs::write(place.folder.path().join("long.db"), "hello ".repeat(100)).unwrap();
    fs::create_dir(place.folder.path().join("folder.db")).unwrap();
    for (name, expected) in [
        ("other.db", Foreign::OtherApplication { found: 7 }),
        ("unsigned.db", Foreign::OtherApplication { found: 0 }),
        ("text.db", Foreign::NotSqlite),
        ("long.db", Foreign::NotSqlite),
        ("folder.db", Foreign::NotAFile),
    ] {
        let path = place.folder.path().join(name);
        let before = fs::read(&path).ok();
        match refusal(&path, &SCHEMA) {
            OpenError::NotOurs { what, .. } => assert_eq!(what, expected, "{name}"),
            error => panic!("{name}: {error:?}"),
        }
        assert_eq!(fs::read(&path).ok(), before, "{name}");
    }
    assert!(!place.folder.path().join("text.db.lock").exists());
}

#[test]
fn a_newer_version_is_rejected_and_left_unchanged() {
    let place = Place::new();
    drop(Database::open(place.file(), &NEW, patient()).unwrap());
    let before = fs::read(place.file()).unwrap();
    for refused in [
        refusal(&place.file(), &OLD),
        Database::open_read_only(place.file(), &OLD, patient()).unwrap_err(),
    ] {
        assert!(matches!(refused, OpenError::TooNew { found: 3, supported: 1, .. }), "{refused:?}");
    }
    assert_eq!(fs::read(place.file()).unwrap(), before);
}

#[test]
fn an_older_version_is_migrated_with_its_content() {
    let place = Place::new();
    let db = Database::open(place.file(), &OLD, patient()).unwrap();
    db.write(Durability::Full, |tx| tx.execute("INSERT INTO old VALUES ('kept')", [])).unwrap();
    drop(db);
    let refused = Database::open_read_only(place.file(), &NEW, patient()).unwrap_err();
    assert!(matches!(refused, OpenError::TooOld { found: 1, needed: 3, .. }), "{refused:?}");

    let db = Database::open(place.file(), &NEW, patient()).unwrap();
    let text =
        db.read(|conn| conn.query_row("SELECT text FROM young", [], |row| row.get::<_, String>(0)));
    assert_eq!(text.unwrap(), "kept");
    assert_eq!(db.pragmas().unwrap().user_version, 3);
    assert!(db.pragmas().unwrap().foreign_keys);
}

#[test]
fn a_migration_that_fails_leaves_the_version_before_it() {
    const BROKEN: Schema = Schema {
        migrations: &[
            NEW.migrations[0],
            NEW.migrations[1],
            "DROP TABLE old; INSERT INTO nowhere VALUES (1)",
        ],
        ..SCHEMA
    };
    let place = Place::new();
    drop(Database::open(place.file(), &OLD, patient()).unwrap());
    let refused = refusal(&place.file(), &BROKEN);
    assert!(matches!(refused, OpenError::Migration { to: 3, .. }), "{refused:?}");
    let db = Database::open(place.file(), &NEW, patient()).unwrap();
    assert_eq!(db.pragmas().unwrap().user_version, 3);

    // A new file is created completely or not at all.
    let fresh = place.folder.path().join("fresh.db");
    refusal(&fresh, &BROKEN);
    drop(Database::open(&fresh, &SCHEMA, patient()).unwrap());
}

#[test]
fn a_migration_may_rebuild_a_table_but_not_break_references() {
    const PAIR: Schema = Schema {
        migrations: &[
            "CREATE TABLE a (id INTEGER PRIMARY KEY) STRICT;
             CREATE TABLE b (a INTEGER NOT NULL REFERENCES a (id)) STRICT;
             INSERT INTO a VALUES (1); INSERT INTO b VALUES (1);",
            "DROP TABLE a; CREATE TABLE a (id INTEGER PRIMARY KEY, more TEXT) STRICT;
             INSERT INTO a (id) VALUES (1);",
            "DELETE FROM a",
        ],
        ..SCHEMA
    };
    let place = Place::new();
    let first = Schema { migrations: &PAIR.migrations[..1], ..PAIR };
    drop(Database::open(place.file(), &first, patient()).unwrap());
    let refused = refusal(&place.file(), &PAIR);
    assert!(matches!(refused, OpenError::Migration { to: 3, .. }), "{refused:?}");
}

#[test]
fn a_folder_is_never_created() {
    let place = Place::new();
    let missing = place.folder.path().join("missing");
    let refused = refusal(&missing.join("notes.db"), &SCHEMA);
    assert!(matches!(refused, OpenError::FolderMissing { .. }), "{refused:?}");
    assert!(!missing.exists());
    fs::write(&missing, "a file").unwrap();
    let refused = refusal(&missing.join("notes.db"), &SCHEMA);
    assert!(matches!(refused, OpenError::FolderMissing { .. }), "{refused:?}");
    let refused = Database::open_read_only(place.file(), &SCHEMA, patient()).unwrap_err();
    assert!(matches!(refused, OpenError::NotFound { .. }), "{refused:?}");
    assert!(!place.file().exists());
}

#[cfg(unix)]
#[test]
fn an_unwritable_folder_is_reported_as_such() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let folder = place.folder.path().join("read-only");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(folder.join("probe"), "").is_ok() {
        println!("skipped: permissions do not bind this user");
        return;
    }
    let refused = refusal(&folder.join("notes.db"), &SCHEMA);
    assert!(matches!(refused, OpenError::Unwritable { .. }), "{refused:?}");
}

#[test]
fn damage_is_reported_as_damage() {
    let place = Place::new();
    drop(place.open());
    let mut bytes = fs::read(place.file()).unwrap();
    bytes[100..4096].fill(0xa5);
    fs::write(place.file(), bytes).unwrap();
    let refused = refusal(&place.file(), &SCHEMA);
    assert!(matches!(refused, OpenError::Corrupt { .. }), "{refused:?}");
}

#[test]
fn an_empty_file_left_by_a_crash_is_initialised() {
    let place = Place::new();
    fs::write(place.file(), "").unwrap();
    let db = place.open();
    db.write(Durability::Full, insert(1)).unwrap();
    assert_eq!(ids(&db), [1]);
}

#[test]
fn a_schema_without_an_application_id_is_rejected() {
    let refused =
        Database::open_in_memory(&Schema { application_id: 0, ..SCHEMA }, patient()).unwrap_err();
    assert!(matches!(refused, OpenError::Schema { .. }), "{refused:?}");
}

#[cfg(unix)]
#[test]
fn private_files_are_accessible_to_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    fs::write(place.file(), "").unwrap();
    fs::set_permissions(place.file(), fs::Permissions::from_mode(0o644)).unwrap();
    let db = place.open();
    db.write(Durability::Full, insert(1)).unwrap();
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let path = format!("{}{suffix}", place.file().display());
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{path}");
    }
}

/// Two names would mean two locks and two write-ahead logs.
#[cfg(unix)]
#[test]
fn a_file_with_another_name_is_not_opened_for_writing() {
    let place = Place::new();
    let db = place.open();
    db.write(Durability::Full, insert(1)).unwrap();
    let other = place.folder.path().join("other.db");
    fs::hard_link(place.file(), &other).unwrap();
    // Under the other name while it is open, and under either name afterwards.
    assert!(matches!(refusal(&other, &SCHEMA), OpenError::OtherNames { names: 2, .. }));
    assert!(!place.folder.path().join("other.db.lock").exists(), "a rejection changes the file");
    db.write(Durability::Full, insert(2)).unwrap();
    db.close().unwrap();
    for name in [&other, &place.file()] {
        let error = refusal(name, &SCHEMA).to_string();
        assert!(error.contains("2 names") && error.contains("remove the others"), "{error}");
    }
    // Opening it read-only is harmless.
    let reader = Database::open_read_only(place.file(), &SCHEMA, patient()).unwrap();
    assert_eq!(ids(&reader), [1, 2]);
    reader.close().unwrap();
    // A killed restore leaves such a name, under which the file is not opened; the store itself is.
    fs::rename(&other, place.folder.path().join("notes.db.before")).unwrap();
    let db = place.open();
    assert_eq!(ids(&db), [1, 2]);
    db.close().unwrap();
    fs::remove_file(place.folder.path().join("notes.db.before")).unwrap();
    place.open().close().unwrap();
}
