//! Notes: in one store, between two replicas, and imported from files.

use landfall::automerge::{Automerge, ROOT, ReadDoc};

use crate::harness::{Home, Relay};

const NOBODY: &[&str] = &["--relay", "ws://127.0.0.1:1"];

fn alone(home: &Home, args: &[&str]) -> String {
    home.run(&[NOBODY, args].concat()).ok()
}

#[test]
fn notes_are_saved_without_a_relay() {
    let home = Home::new();
    let made = alone(&home, &["notes", "new", "Groceries", "--text", "milk\nbread"]);
    let (id, saved) = made.split_once('\n').unwrap();
    assert!(id.starts_with("automerge:"), "{made}");
    assert_eq!(saved, "saved here; not on the relay yet (1 pending)\n");
    let appended = alone(&home, &["notes", "append", "Groceries", "漢字 é 👩‍👩‍👧"]);
    assert_eq!(appended, "saved here; not on the relay yet (2 pending)\n");
    // By id, a prefix of it, the number, and the title.
    let prefix = &id["automerge:".len()..][..6];
    for name in [id, prefix, "1", "groceries"] {
        let shown = home.run(&["--quiet", "notes", "show", name]).ok();
        assert_eq!(shown, "Groceries\nmilk\nbread\n漢字 é 👩‍👩‍👧\n");
    }
    let list = home.run(&["notes", "list"]).ok();
    assert!(list.starts_with("  1 *Groceries"), "{list}");
    assert!(
        list.contains("milk") && list.trim_end().ends_with(&prefix[..6]) || list.contains(prefix)
    );
    alone(&home, &["notes", "check", "1"]);
    home.run(&["sync", "--timeout", "200ms", "--relay", "ws://127.0.0.1:1"])
        .failed(4, &["not in sync", "no relay answers", "saved here, pending: 2 changes;"]);
}

#[test]
fn a_note_is_read_from_standard_input_and_edits_are_minimal() {
    let home = Home::new();
    let args = [NOBODY, &["notes", "new", "--text", "-"]].concat();
    assert_eq!(home.with_input(&args, "# Train\n\nat six\n").code(), Some(0));
    alone(&home, &["notes", "edit", "train", "--text", "# Train\n\nat seven"]);
    alone(&home, &["notes", "edit", "train", "--title", "Zug 🚄"]);
    assert_eq!(home.run(&["-q", "notes", "show", "1"]).ok(), "Zug 🚄\n# Train\n\nat seven\n");
    let same = alone(&home, &["notes", "edit", "1", "--text", "# Train\n\nat seven"]);
    assert!(same.contains("(3 pending)"), "an edit that changes nothing made a change: {same}");
}

#[test]
fn a_file_whose_note_was_deleted_is_skipped_and_the_others_are_imported() {
    let home = Home::new();
    home.write("files/a.md", "one");
    home.write("files/b.md", "two");
    alone(&home, &["import", "files"]);
    alone(&home, &["notes", "rm", "b", "--yes"]);
    home.write("files/d.md", "four");
    let again = home.run(&[NOBODY, &["import", "files"]].concat());
    assert!(again.err().contains("skipped files/b.md: its note was deleted"), "{}", again.err());
    let output = again.ok();
    assert!(output.contains("created files/d.md"), "{output}");
    assert!(output.contains("1 note created, 1 already there, 1 skipped"), "{output}");
    let listed = home.run(&["notes", "list"]).ok().lines().count();
    assert_eq!(listed, 2);
}

#[test]
fn two_stores_converge_through_a_relay_that_is_killed() {
    let home = Home::new();
    let mut relay = Relay::start(&home);
    let ann =
        |relay: &Relay, args: &[&str]| home.at(relay, &[&["--store", "ann"], args].concat()).ok();
    let ben =
        |relay: &Relay, args: &[&str]| home.at(relay, &[&["--store", "ben"], args].concat()).ok();
    let made = ann(&relay, &["notes", "new", "Trip", "--text", "train at six"]);
    assert!(made.ends_with("saved here and on the relay\n"), "{made}");
    assert_eq!(ben(&relay, &["sync"]), "in sync: 1 note; 0 changes sent, 1 change received\n");
    assert_eq!(ben(&relay, &["-q", "notes", "show", "trip"]), "Trip\ntrain at six\n");
    relay.kill();
    let saved = ann(&relay, &["notes", "edit", "trip", "--text", "early train at six"]);
    assert_eq!(saved, "saved here; not on the relay yet (1 pending)\n");
    ben(&relay, &["notes", "edit", "trip", "--text", "train at seven 雨"]);
    relay.restart(&home);
    assert_eq!(ann(&relay, &["sync"]), "in sync: 1 note; 1 change sent, 0 changes received\n");
    assert_eq!(ben(&relay, &["sync"]), "in sync: 1 note; 1 change sent, 1 change received\n");
    ann(&relay, &["sync"]);
    for show in
        [ann(&relay, &["-q", "notes", "show", "1"]), ben(&relay, &["-q", "notes", "show", "1"])]
    {
        assert_eq!(show, "Trip\nearly train at seven 雨\n");
    }
    let list = ann(&relay, &["notes", "list"]);
    assert!(list.starts_with("  1  Trip"), "nothing is pending: {list}");
    let status = ann(&relay, &["status", "--json"]);
    assert!(status.contains(r#""pending":{"bytes":0,"changes":0}"#), "{status}");
    assert!(ben(&relay, &["status"]).contains("not on relay    nothing"));
}

/// The editor is a script: while it is open, the other replica's edit arrives. A third process
/// waits for it by reading the store.
#[cfg(unix)]
#[test]
fn changes_received_while_the_editor_is_open_are_merged() {
    let home = Home::new();
    let relay = Relay::start(&home);
    home.at(&relay, &["--store", "ann", "notes", "new", "Note", "--text", "one two three"]).ok();
    home.at(&relay, &["--store", "ben", "sync"]).ok();
    let script = "\
\"$DEMO\" --store ben --relay \"$RELAY\" notes edit 1 --text 'one TWO three' || exit 1
tries=0
until \"$DEMO\" --store ann --quiet notes show 1 | grep -q TWO; do
    tries=$((tries + 1)); [ $tries -lt 500 ] || exit 1
done
echo '1 two three!' > \"$1\"
";
    home.write("editor.sh", script);
    let args = ["--store", "ann", "--relay", &relay.url, "notes", "edit", "1"];
    let mut edit = home.command(args);
    edit.env("EDITOR", "sh editor.sh").env("RELAY", &relay.url);
    let edited = edit.output().unwrap();
    assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    let shown = home.run(&["--store", "ann", "-q", "notes", "show", "1"]).ok();
    assert_eq!(shown, "Note\n1 TWO three!\n");
    home.at(&relay, &["--store", "ben", "sync"]).ok();
    assert_eq!(home.run(&["--store", "ben", "-q", "notes", "show", "1"]).ok(), shown);
    assert!(home.left_behind().is_empty(), "{:?}", home.left_behind());
}

#[test]
fn a_note_is_saved_as_an_automerge_document() {
    let home = Home::new();
    alone(&home, &["notes", "new", "Kept", "--text", "雨"]);
    let done = home.run(&["notes", "export", "kept", "kept.automerge"]);
    assert!(done.err().contains("exported “Kept” to kept.automerge"), "{}", done.err());
    done.ok();
    let bytes = std::fs::read(home.path("kept.automerge")).unwrap();
    let saved = Automerge::load(&bytes).unwrap();
    let (_, body) = saved.get(ROOT, "body").unwrap().unwrap();
    assert_eq!(saved.text(&body).unwrap(), "雨");
    home.run(&["notes", "export", "kept", "kept.automerge"]).failed(7, &["it was not touched"]);
    assert_eq!(std::fs::read(home.path("kept.automerge")).unwrap(), bytes);
    home.run(&["notes", "export", "kept", "no/such/folder/a"]).failed(7, &["cannot write no/such"]);
    home.run(&["notes", "export", "lost", "a"]).failed(5, &["no note `lost`"]);
    assert!(!home.path("a").exists());
}

#[test]
fn files_become_notes_once() {
    let home = Home::new();
    home.write("files/a.md", "intro\n# First 漢\ntext\r\n");
    home.write("files/deep/b.txt", "plain");
    home.write("files/c.md", [0xff, 0xfe, b'x']);
    home.write("files/d.txt", [b'a', 0, b'b']);
    home.write("files/e.txt", "é".repeat(1_048_576));
    home.write("files/f.txt", vec![b'x'; 30_000_000]);
    home.write("files/.hidden.md", "# no");
    home.write("files/picture.png", [0; 9]);
    let first = home.run(&[NOBODY, &["import", "files"]].concat());
    assert_eq!(first.err().lines().count(), 4, "{}", first.err());
    for (file, why) in [
        ("c.md", "UTF-8"),
        ("d.txt", "binary"),
        ("e.txt", "it takes 1048585 operations, one per character; a change has at most 1048576"),
        ("f.txt", "it has 30000000 bytes, a note at most 1048576 characters"),
    ] {
        let lines = first.err();
        let line = lines.lines().find(|line| line.contains(file)).unwrap();
        assert!(line.starts_with("skipped ") && line.contains(why), "{line}");
    }
    let out = first.ok();
    assert!(out.contains("2 notes created, 0 already there, 4 skipped"), "{out}");
    let again = alone(&home, &["import", "files", "files/a.md"]);
    assert_eq!(again, "0 notes created, 2 already there, 4 skipped\n");
    assert_eq!(
        home.run(&["-q", "notes", "show", "First 漢"]).ok(),
        "First 漢\nintro\n# First 漢\ntext\r\n"
    );
    assert_eq!(home.run(&["notes", "list"]).ok().lines().count(), 2);
}

#[test]
fn a_file_imported_into_two_stores_is_one_note() {
    let home = Home::new();
    let relay = Relay::start(&home);
    home.write("a.md", "# Same\n");
    for store in ["ann", "ben"] {
        home.run(&["--offline", "--store", store, "import", "a.md"]).ok();
    }
    for store in ["ann", "ben"] {
        home.at(&relay, &["--store", store, "sync"]).ok();
    }
    let list = home.run(&["--store", "ben", "notes", "list"]).ok();
    assert_eq!(list.lines().count(), 1, "{list}");
    assert_eq!(home.run(&["--store", "ben", "-q", "notes", "show", "same"]).ok(), "Same\n# Same\n");
}
