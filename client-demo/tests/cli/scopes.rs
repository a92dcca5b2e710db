//! Syncing some notes only, and comparing with the relay.

use crate::harness::{Done, Home, Relay};

fn at(home: &Home, relay: &Relay, store: &str, args: &[&str]) -> Done {
    home.at(relay, &[&["--store", store], args].concat())
}

#[test]
fn only_the_chosen_notes_are_synced_until_all_are() {
    let home = Home::new();
    let relay = Relay::start(&home);
    let ann = |args: &[&str]| at(&home, &relay, "ann", args);
    let ben = |args: &[&str]| at(&home, &relay, "ben", args);
    let made = ann(&["notes", "new", "Wanted", "--text", "one"]).ok();
    let id = made.lines().next().unwrap();
    ann(&["notes", "new", "Left out"]).ok();
    // The note is not here yet: only its id can name it.
    let synced = ben(&["sync", "--only", id]);
    assert!(synced.err().contains("only 1 note of this space"), "{}", synced.err());
    assert_eq!(synced.ok(), "in sync: 1 note; 0 changes sent, 1 change received\n");
    // The selection stays in later runs, for new notes as well.
    ann(&["notes", "append", "wanted", "two"]).ok();
    ann(&["notes", "append", "left out", "two"]).ok();
    assert_eq!(ben(&["sync"]).ok(), "in sync: 1 note; 0 changes sent, 1 change received\n");
    assert_eq!(ben(&["-q", "notes", "show", "wanted"]).ok(), "Wanted\none\ntwo\n");
    // Local notes are pushed in any case.
    ben(&["notes", "new", "From Ben"]).ok();
    assert!(ann(&["sync"]).ok().starts_with("in sync: 3 notes"));
    // Selected by a title, together with another.
    assert!(ben(&["sync", "--only", "from ben", "wanted"]).ok().starts_with("in sync: 2 notes"));
    let all = ben(&["sync", "--all"]).ok();
    assert_eq!(all, "in sync: 3 notes; 0 changes sent, 2 changes received\n");
    ben(&["sync", "--only", "nothing"]).failed(5, &["no note `nothing`"]);
    ben(&["sync", "--only", "1", "--all"]).failed(2, &["wrong usage"]);
    ben(&["sync", "--only"]).failed(2, &["wrong usage"]);
}

/// The selection works offline, and commands report the notes that are not synced.
#[test]
fn the_selection_is_reported_and_can_be_made_offline() {
    let home = Home::new();
    let relay = Relay::start(&home);
    for title in ["One", "Two", "Three"] {
        at(&home, &relay, "ann", &["notes", "new", title]).ok();
    }
    let ben = |args: &[&str]| at(&home, &relay, "ben", args);
    ben(&["sync"]).ok();
    at(&home, &relay, "ann", &["notes", "append", "two", "x"]).ok();
    let chosen = ben(&["--offline", "sync", "--only", "one"]);
    assert!(
        chosen.err().contains("from now on syncs only 1 note of this space"),
        "{}",
        chosen.err()
    );
    assert_eq!(chosen.ok(), "");
    let status = ben(&["status"]).ok();
    assert!(status.contains("fetched         only 1 note; 2 others here not updated"));
    let json: serde_json::Value = serde_json::from_str(&ben(&["status", "--json"]).ok()).unwrap();
    assert_eq!(json["spaces"][0]["syncedOnly"].as_array().unwrap().len(), 1);
    let synced = ben(&["sync"]);
    let expected = "only 1 note of the space `default` fetched; 2 others here not updated";
    assert!(synced.err().contains(expected), "{}", synced.err());
    assert!(synced.ok().contains("0 changes received"));
    ben(&["--offline", "sync", "--all"]).ok();
    assert!(!ben(&["status"]).ok().contains("fetched"));
    assert!(ben(&["sync"]).ok().contains("1 change received"));
}

#[test]
fn sync_check_compares_with_the_relay() {
    let home = Home::new();
    let relay = Relay::start(&home);
    at(&home, &relay, "ann", &["notes", "new", "Same"]).ok();
    let checked = at(&home, &relay, "ben", &["sync", "--check"]).ok();
    let synced = "in sync: 1 note; 0 changes sent, 1 change received\n";
    assert_eq!(checked, format!("{synced}compared with the relay: nothing differed\n"));
    let quiet = at(&home, &relay, "ben", &["-q", "sync", "--check"]).ok();
    assert_eq!(quiet, "compared with the relay: nothing differed\n");
    let nobody = ["--relay", "ws://127.0.0.1:1", "sync", "--check", "--timeout", "300ms"];
    home.run(&nobody).failed(4, &["not in sync"]);
}
