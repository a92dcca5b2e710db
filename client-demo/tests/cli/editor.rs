//! Editors that fail, and texts that are rejected: the typed text is in a file, and the error names
//! it.

use std::path::PathBuf;

use crate::harness::{Done, Home, Relay};

/// Edits the note `Work` of a store with a shell script as the editor.
fn edit(home: &Home, args: &[&str], script: &str) -> Done {
    home.write("editor.sh", script);
    let mut edit = home.command([args, &["notes", "edit", "work"]].concat());
    edit.env("EDITOR", "sh editor.sh");
    Done::of(&mut edit)
}

/// The file that the error names.
fn kept(err: &str) -> PathBuf {
    let (_, rest) = err.split_once("your text is kept in ").expect(err);
    PathBuf::from(rest.split_once(", for `landfall-demo notes ").expect(err).0)
}

const OFFLINE: &[&str] = &["--offline"];

#[test]
fn the_draft_is_kept_however_the_editor_ends() {
    let home = Home::new();
    home.run(&["--offline", "notes", "new", "Work", "--text", "start"]).ok();
    for (script, code, says) in [
        (r#"printf 'an hour of work, caf\351\n' >> "$1""#, 1, "line 2 has the byte 0xe9"),
        // Without a byte order mark, or cut in the middle of a character.
        (r#"printf 'a\0n\0d\0' > "$1""#, 1, "it looks like UTF-16"),
        (r#"printf '\377\376a\0n\0\0' > "$1""#, 1, "it looks like UTF-16"),
        (r#"printf 'an hour of work\n\377\n' >> "$1""#, 1, "line 3 has the byte 0xff"),
        (r#"echo "an hour of work" >> "$1"; kill -SEGV $$"#, 1, "signal: 11"),
        (r#"echo "an hour of work" >> "$1"; exit 1"#, 1, "ended with exit status: 1"),
        // As when the terminal's window is closed.
        (r#"echo "an hour of work" >> "$1"; kill -HUP $PPID; exec sleep 5"#, 130, "a signal"),
        (r#"head -c 1100000 /dev/zero | tr '\0' y >> "$1""#, 7, "the text was not accepted"),
    ] {
        let done = edit(&home, OFFLINE, script);
        let draft = kept(&done.err());
        done.failed(code, &[says, "--text - < "]);
        assert!(std::fs::read(&draft).unwrap().len() >= 6, "{}", draft.display());
        std::fs::remove_file(draft).unwrap();
        assert!(home.left_behind().is_empty(), "{:?}", home.left_behind());
        assert_eq!(home.run(&["-q", "notes", "show", "work"]).ok(), "Work\nstart\n");
    }
}

#[test]
fn the_printed_command_applies_the_draft() {
    let home = Home::new();
    home.run(&["--offline", "notes", "new", "Work", "--text", "start"]).ok();
    let done = edit(&home, OFFLINE, r#"echo "an hour of work" >> "$1"; exit 1"#);
    let err = done.err();
    let command = err.split('`').rev().nth(1).unwrap().replacen("landfall-demo", "\"$DEMO\" -q", 1);
    let mut shell = home.shell(&format!("{command} --offline"));
    assert!(shell.status().unwrap().success(), "{command}");
    assert_eq!(home.run(&["-q", "notes", "show", "work"]).ok(), "Work\nstart\nan hour of work\n");
}

/// UTF-16 with a byte order mark, as some editors on Windows write it.
#[test]
fn utf16_with_a_byte_order_mark_is_accepted() {
    let home = Home::new();
    home.run(&["--offline", "notes", "new", "Work", "--text", "start\n"]).ok();
    edit(&home, OFFLINE, r#"printf '\377\376a\0\n\0\042\157' > "$1""#).ok();
    assert_eq!(home.run(&["-q", "notes", "show", "work"]).ok(), "Work\na\n漢\n");
    assert!(home.left_behind().is_empty(), "{:?}", home.left_behind());
}

/// Ctrl-C belongs to the editor: in most editors it only leaves a mode.
#[test]
fn an_interrupt_in_the_editor_does_not_end_the_edit() {
    let home = Home::new();
    home.run(&["--offline", "notes", "new", "Work", "--text", "start"]).ok();
    edit(&home, OFFLINE, r#"kill -INT $PPID; kill -QUIT $PPID; echo "more" >> "$1""#).ok();
    assert_eq!(home.run(&["-q", "notes", "show", "work"]).ok(), "Work\nstart\nmore\n");
    assert!(home.left_behind().is_empty(), "{:?}", home.left_behind());
}

#[test]
fn opening_and_closing_an_editor_changes_nothing() {
    let home = Home::new();
    for text in ["start", "start\n", "a\r\nb\r\n", "a\r\nb", "a\rb\r", "\u{feff}a\r\n\n"] {
        let args = ["--offline", "notes", "new", "Work", "--text", "-"];
        assert_eq!(home.with_input(&args, text).code(), Some(0));
        let done = edit(&home, OFFLINE, "true");
        assert!(done.err().contains("nothing was changed"), "{text:?} {}", done.err());
        assert!(done.ok().contains("(1 pending)"), "{text:?}");
        home.run(&["--offline", "notes", "rm", "work", "--yes"]).ok();
        home.run(&["store", "backup", "copy"]).ok();
        for file in ["notes.landfall", "copy"] {
            std::fs::remove_file(home.path(file)).unwrap();
        }
    }
}

/// Deleted during the editing: the error names the draft, or the orphaned edits if the edit is
/// already in the store.
#[test]
fn editing_a_note_deleted_in_the_meantime_reports_the_deletion() {
    let home = Home::new();
    let relay = Relay::start(&home);
    home.at(&relay, &["--store", "ann", "notes", "new", "Work", "--text", "start"]).ok();
    home.at(&relay, &["--store", "ben", "sync"]).ok();
    let script = "\
\"$DEMO\" --store ann --relay \"$RELAY\" -q notes rm work --yes || exit 1
tries=0
while \"$DEMO\" --store ben --quiet notes show work > shown 2>&1; do
    tries=$((tries + 1)); [ $tries -lt 500 ] || exit 1
done
echo 'an hour of work' >> \"$1\"
";
    home.write("editor.sh", script);
    let mut command = home.command(["--store", "ben", "--relay", &relay.url, "notes", "edit", "1"]);
    let done = Done::of(command.env("EDITOR", "sh editor.sh").env("RELAY", &relay.url));
    let draft = kept(&done.err());
    done.failed(
        5,
        &["the note was permanently deleted in the meantime", "landfall-demo notes new --text"],
    );
    assert_eq!(std::fs::read_to_string(draft).unwrap(), "start\nan hour of work\n");
    // The result is the same whether or not this store has received the deletion before.
    home.at(&relay, &["--store", "ann", "notes", "new", "Work", "--text", "start"]).ok();
    home.at(&relay, &["--store", "ben", "sync"]).ok();
    home.at(&relay, &["--store", "ann", "notes", "rm", "work", "--yes"]).ok();
    home.at(&relay, &["--store", "ben", "notes", "append", "work", "more"])
        .failed(5, &["the note was permanently deleted in the meantime", "notes deleted"]);
}
