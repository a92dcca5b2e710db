//! Deleting notes, and the orphaned edits of replicas that had not received the deletion.

use landfall::automerge::{Automerge, ROOT, ReadDoc};

use crate::harness::{Home, Relay};

/// A relay, and a note that is in Ann's and in Ben's store.
fn shared(home: &Home) -> (Relay, String) {
    let relay = Relay::start(home);
    let made =
        home.at(&relay, &["--store", "ann", "notes", "new", "Trip", "--text", "at six"]).ok();
    home.at(&relay, &["--store", "ben", "sync"]).ok();
    (relay, made.lines().next().unwrap().to_owned())
}

#[test]
fn a_deletion_reaches_every_replica() {
    let home = Home::new();
    let (relay, id) = shared(&home);
    let gone = home.at(&relay, &["--store", "ann", "notes", "rm", "trip", "--yes"]).ok();
    assert!(gone.starts_with("deleted “Trip” permanently"), "{gone}");
    assert!(gone.ends_with("saved here and on the relay\n"), "{gone}");
    home.at(&relay, &["--store", "ben", "sync"]).ok();
    for store in ["ann", "ben"] {
        assert_eq!(home.run(&["--store", store, "notes", "list"]).ok(), "");
        let args = ["--store", store, "notes", "show", &id];
        home.run(&args).failed(5, &["no note", "permanently deleted"]);
        let args = ["--store", store, "--offline", "notes", "rm", "-y", &id];
        home.run(&args).failed(5, &["permanently deleted"]);
        // There are no orphaned edits.
        assert_eq!(home.run(&["--store", store, "notes", "deleted"]).ok(), "");
    }
}

#[test]
fn without_a_terminal_deleting_requires_yes() {
    let home = Home::new();
    home.run(&["--offline", "notes", "new", "Kept"]).ok();
    let rm = ["--offline", "notes", "rm", "1"];
    home.run(&rm).failed(2, &["nothing was deleted", "permanent", "--yes"]);
    // A piped answer does not count as a terminal either.
    assert_eq!(home.with_input(&rm, "y\n").code(), Some(2));
    assert!(home.run(&["notes", "list"]).ok().contains("Kept"));
    let gone = home.run(&["--offline", "notes", "delete", "-y", "1"]).ok();
    assert!(gone.contains("saved here; not on the relay yet (1 pending)"), "{gone}");
}

#[test]
fn orphaned_edits_are_listed_exported_and_discarded() {
    let home = Home::new();
    let (relay, id) = shared(&home);
    home.run(&["--offline", "--store", "ben", "notes", "append", "trip", "or at seven?"]).ok();
    home.at(&relay, &["--store", "ann", "notes", "rm", "--yes", "trip"]).ok();
    let synced = home.at(&relay, &["--store", "ben", "sync"]);
    assert!(
        synced.err().contains("kept only here: 1 change of 1 deleted note; see"),
        "{}",
        synced.err()
    );
    synced.ok();
    let ben = |args: &[&str]| home.run(&[&["--store", "ben"], args].concat());
    assert_eq!(ben(&["notes", "list"]).ok(), "");
    let listed = ben(&["notes", "deleted"]);
    assert!(listed.err().contains("--export ID FILE"), "{}", listed.err());
    let listed = listed.ok();
    assert!(listed.contains("Trip") && listed.contains("1 change only here"), "{listed}");
    let status = ben(&["status"]).ok();
    assert!(status.contains("deleted ") && status.contains(&id), "{status}");
    let json = ben(&["status", "--json"]).ok();
    assert!(
        json.contains(&format!(r#""deletedUnsent":[{{"document":"{id}","unsent":1}}]"#)),
        "{json}"
    );
    assert_eq!(ben(&["-q", "notes", "show", "trip"]).ok(), "Trip\nat six\nor at seven?\n");
    for (file, args) in [
        ("a", &["notes", "deleted", "--export", "1", "a"][..]),
        ("b", &["notes", "export", &id, "b"]),
    ] {
        let done = ben(args);
        assert!(done.err().contains("exported the deleted note “Trip”"), "{}", done.err());
        done.ok();
        let saved = Automerge::load(&std::fs::read(home.path(file)).unwrap()).unwrap();
        let (_, body) = saved.get(ROOT, "body").unwrap().unwrap();
        assert_eq!(saved.text(&body).unwrap(), "at six\nor at seven?");
    }
    ben(&["notes", "deleted", "--export", "1", "a"]).failed(7, &["cannot write a", "not touched"]);
    ben(&["notes", "deleted", "--discard", "1"]).failed(2, &["nothing was discarded", "--yes"]);
    ben(&["notes", "deleted", "--discard", "9", "--yes"]).failed(5, &["no deleted note `9`"]);
    let gone = ben(&["notes", "deleted", "--discard", "trip", "--yes"]).ok();
    assert_eq!(gone, "discarded the edits of “Trip”\n");
    assert_eq!(ben(&["notes", "deleted"]).ok(), "");
    ben(&["notes", "show", &id]).failed(5, &["permanently deleted"]);
}

#[cfg(unix)]
#[test]
fn watch_prints_deletions_and_orphaned_edits() {
    let home = Home::new();
    let (mut relay, _) = shared(&home);
    home.at(&relay, &["--store", "ann", "notes", "new", "Other"]).ok();
    home.at(&relay, &["--store", "ben", "sync"]).ok();
    relay.kill();
    home.at(&relay, &["--store", "ben", "notes", "append", "trip", "lost"]).ok();
    relay.restart(&home);
    for title in ["trip", "other"] {
        home.at(&relay, &["--store", "ann", "notes", "rm", "-y", title]).ok();
    }
    let mut watch = home.start(&["--store", "ben", "--relay", &relay.url, "watch"]);
    let line = watch.until("“Trip” deleted");
    assert!(line.contains("1 change made here reached no relay; see `notes deleted`"), "{line}");
    let line = watch.until("“Other” deleted");
    assert!(line.trim_end().ends_with("deleted"), "{line}");
    assert_eq!(watch.signal("-INT"), Some(0));
}
