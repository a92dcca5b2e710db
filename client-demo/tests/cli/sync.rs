//! The report of `sync`: what was sent, and what the relay cannot send.

use landfall::{Options, Store};

use crate::harness::{Done, Home, Relay};

/// Acknowledged changes count as sent: single changes, a snapshot, and those that the relay had
/// lost and received again.
#[test]
fn sync_counts_what_the_relay_acknowledges() {
    let home = Home::new();
    let mut relay = Relay::start(&home);
    for copy in ["empty", "empty again"] {
        relay.copy(&home, copy);
    }
    home.run(&["--store", "ann", "notes", "new", "Trip", "--text", "train at six"]).ok();
    home.run(&["--store", "ann", "notes", "edit", "trip", "--text", "train at seven"]).ok();
    home.run(&["--store", "ann", "notes", "edit", "trip", "--text", "train at eight"]).ok();
    let sync = |relay: &Relay| home.at(relay, &["--store", "ann", "sync"]).ok();
    let all = "in sync: 1 note; 3 changes sent, 0 changes received\n";
    assert_eq!(sync(&relay), all);
    assert_eq!(sync(&relay), "in sync: 1 note; 0 changes sent, 0 changes received\n");
    relay.restore(&home, "empty");
    assert_eq!(sync(&relay), all, "the relay had lost them");
    home.run(&["--store", "ann", "store", "compact", "--all"]).ok();
    relay.restore(&home, "empty again");
    assert_eq!(sync(&relay), all, "as one compacted history");
}

/// The report counts transfers, not the difference in changes: a deletion removes some.
#[test]
fn sync_reports_sent_received_and_local_only_changes() {
    let home = Home::new();
    let relay = Relay::start(&home);
    let ann = |args: &[&str]| home.at(&relay, &[&["--store", "ann"], args].concat()).ok();
    let ben = |args: &[&str]| home.at(&relay, &[&["--store", "ben"], args].concat());
    ann(&["notes", "new", "One", "--text", "1"]);
    assert_eq!(ben(&["sync"]).ok(), "in sync: 1 note; 0 changes sent, 1 change received\n");
    for line in ["1", "2", "3"] {
        ben(&["--offline", "notes", "append", "one", line]).ok();
    }
    ann(&["notes", "rm", "one", "--yes"]);
    let lost = ben(&["sync"]);
    let kept = "kept only here: 3 changes of 1 deleted note; see `landfall-demo notes deleted --space default`";
    assert!(lost.err().contains(kept), "{}", lost.err());
    let moved = "0 changes sent, 0 changes received, 1 note deleted";
    assert_eq!(lost.ok(), format!("in sync: 0 notes; {moved}\n"));
    ann(&["notes", "new", "Two", "--text", "2"]);
    for line in ["1", "2", "3", "4"] {
        ann(&["notes", "append", "two", line]);
    }
    assert!(ben(&["sync"]).ok().contains("0 changes sent, 5 changes received\n"));
    ann(&["notes", "rm", "two", "--yes"]);
    ann(&["notes", "new", "Three"]);
    ann(&["notes", "new", "Four"]);
    ben(&["--offline", "--space", "team", "notes", "new", "Five"]).ok();
    let moved = "1 change sent, 2 changes received, 1 note deleted";
    assert_eq!(ben(&["sync"]).ok(), format!("in sync: 3 notes in 2 spaces; {moved}\n"));
}

/// A full disk is reported as such, not as an unreachable relay.
#[cfg(unix)]
#[test]
fn a_full_store_is_reported_as_a_store_failure() {
    let home = Home::new();
    let relay = Relay::start(&home);
    let text: String = (0..60_000).map(|number| format!("{number:x} ")).collect();
    for title in ["One", "Two", "Three", "Four"] {
        let new = ["--store", "ann", "--relay", &relay.url, "notes", "new", title, "--text", "-"];
        assert_eq!(home.with_input(&new, &text).code(), Some(0));
    }
    home.at(&relay, &["--store", "ben", "--offline", "notes", "new", "Own"]).ok();
    // The largest file size, in blocks of 512 or 1,024 bytes depending on the shell.
    let line = format!(
        "trap '' XFSZ; ulimit -f 500; exec \"$DEMO\" --store ben --relay {} sync --timeout 60s",
        relay.url
    );
    let done = Done::of(&mut home.shell(&line));
    assert!(!done.err().contains("when the relay is reachable"), "{}", done.err());
    done.failed(3, &["the store failed", "the disk", "then sync again"]);
    home.at(&relay, &["--store", "ben", "sync"]).ok();
}

/// A relay with two notes of Ann's, one of them unreadable.
fn damaged(home: &Home) -> Relay {
    let mut relay = Relay::start(home);
    for (title, text) in [("Whole", "nothing happens to it"), ("Broken", "the marked text")] {
        home.at(&relay, &["--store", "ann", "notes", "new", title, "--text", text]).ok();
    }
    // The restart after a kill moves everything into the database.
    relay.kill();
    relay.restart(home);
    relay.kill();
    let file = home.path("relay-data").join("relay.db");
    let mut bytes = std::fs::read(&file).unwrap();
    let marked = b"the marked text";
    let at = bytes.windows(marked.len()).position(|window| window == marked).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    relay.restart(home);
    relay
}

/// `sync` names the documents that the relay cannot send and fails, whatever else has arrived.
#[test]
fn sync_with_a_damaged_relay_names_the_note_and_exits_with_4() {
    let home = Home::new();
    let relay = damaged(&home);
    let synced = home.at(&relay, &["--store", "ben", "sync", "--timeout", "2s"]);
    let documents = |name: &str| {
        let store = Store::open(home.path(name), Options::default()).unwrap();
        store.space("default").unwrap().documents().unwrap()
    };
    let arrived = documents("ben");
    let mut missing = documents("ann");
    missing.retain(|document| !arrived.contains(document));
    let [broken] = missing[..] else { panic!("{missing:?} are not there") };
    assert_eq!(
        (arrived.len(), synced.out().as_str()),
        (1, ""),
        "an incomplete sync is not reported as in sync"
    );
    let remedy = "run `landfall-demo watch` on a device that has the note, or if none has, have \
        the relay's operator repair or restore its store; then sync again";
    let named = broken.to_string();
    synced.failed(
        4,
        &["not in sync", "the relay's store is damaged", &named, "everything else", remedy],
    );
    let status = home.run(&["--store", "ben", "status"]).ok();
    assert!(
        status.contains("not received    1 entry that the relay cannot read: its store is damaged"),
        "{status}"
    );
}

/// A client that has the lost changes is connected: another client's `sync` waits until the relay
/// is repaired, and reports it.
#[test]
fn sync_waits_while_another_client_heals_the_relay() {
    let home = Home::new();
    let relay = damaged(&home);
    let mut watch = home.start(&["--store", "ann", "--relay", &relay.url, "watch"]);
    watch.until("live");
    let synced = home.at(&relay, &["--store", "ben", "sync"]);
    assert!(synced.err().contains("and is repaired now"), "{}", synced.err());
    assert_eq!(synced.ok(), "in sync: 2 notes; 0 changes sent, 2 changes received\n");
    let note = home.run(&["--store", "ben", "notes", "show", "broken"]).ok();
    assert!(note.contains("the marked text"), "{note}");
    let again = home.at(&relay, &["--store", "ben", "sync", "--check"]);
    assert!(!again.err().contains("repaired"), "{}", again.err());
    again.ok();
}

/// A client has met the damage and left: its next `sync` succeeds once the relay is repaired.
#[test]
fn sync_with_a_healed_relay_is_complete() {
    let home = Home::new();
    let relay = damaged(&home);
    home.at(&relay, &["--store", "ben", "sync", "--timeout", "0.1s"]).failed(4, &["damaged"]);
    let mut watch = home.start(&["--store", "ann", "--relay", &relay.url, "watch"]);
    watch.until("live");
    home.at(&relay, &["--store", "cem", "sync"]).ok();
    home.at(&relay, &["--store", "ben", "sync"]).ok();
    home.at(&relay, &["--store", "ben", "notes", "show", "broken"]).ok();
}

/// A single command of a client with the lost changes repairs the relay, and does not end before.
#[test]
fn sync_check_of_a_complete_store_heals_the_relay() {
    let home = Home::new();
    let relay = damaged(&home);
    home.at(&relay, &["--store", "ben", "sync", "--timeout", "0.1s"]).failed(4, &["damaged"]);
    let repaired = home.at(&relay, &["--store", "ann", "sync", "--check"]);
    assert!(repaired.err().contains("and is repaired now"), "{}", repaired.err());
    repaired.ok();
    home.at(&relay, &["--store", "ben", "sync"]).ok();
    home.run(&["--store", "ben", "notes", "show", "broken"]).ok();
}
