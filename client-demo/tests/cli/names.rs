//! Unusual texts, and how a user finds notes by name.

use crate::harness::Home;

const OFFLINE: &[&str] = &["--offline", "--quiet"];

fn shown(home: &Home, name: &str) -> String {
    home.run(&["--quiet", "notes", "show", name]).ok()
}

#[test]
fn a_text_is_stored_unchanged() {
    let home = Home::new();
    for (title, text) in [
        ("unix", "a\nb\n\n"),
        ("windows", "a\r\nb\r\n"),
        ("no end", "a\nb"),
        ("none but ends", "x\n\n\n"),
    ] {
        let args = [OFFLINE, &["notes", "new", title, "--text", "-"]].concat();
        assert_eq!(home.with_input(&args, text).code(), Some(0));
        let end = if text.ends_with('\n') { "" } else { "\n" };
        assert_eq!(shown(&home, title), format!("{title}\n{text}{end}"));
    }
    home.run(&[OFFLINE, &["notes", "append", "windows", "c"]].concat()).ok();
    home.run(&[OFFLINE, &["notes", "append", "windows", "d"]].concat()).ok();
    assert_eq!(shown(&home, "windows"), "windows\na\r\nb\r\nc\r\nd\n");
}

/// Files of other systems: the title is the heading as displayed there, and the text the file's.
#[test]
fn titles_are_found_with_any_line_ends() {
    let home = Home::new();
    home.write("files/a.md", "\u{feff}# With a mark\r\ntext\r\n");
    home.write("files/b.md", "intro\r# Of an old Mac\rtext\r");
    home.write("files/c.md", "\u{feff}plain");
    home.run(&[OFFLINE, &["import", "files"]].concat()).ok();
    for title in ["With a mark", "Of an old Mac", "c"] {
        assert!(shown(&home, title).starts_with(&format!("{title}\n")));
    }
    let list = home.run(&["notes", "list"]).ok();
    assert!(list.contains("intro") && !list.contains('\u{fffd}'), "{list}");
    assert_eq!(shown(&home, "of an old mac"), "Of an old Mac\nintro\n# Of an old Mac\ntext\n");
    let text =
        home.with_input(&["--offline", "-q", "notes", "new", "--text", "-"], "\u{feff}# M\rx");
    assert_eq!(text.code(), Some(0));
    assert_eq!(shown(&home, "m"), "M\n# M\nx\n");
}

const COMPOSED: &str = "Caf\u{e9}";
const DECOMPOSED: &str = "Cafe\u{301}";

#[test]
fn names_match_across_case_and_unicode_form() {
    let home = Home::new();
    for title in [COMPOSED, "ÄPFEL", "Straße", "한글"] {
        home.run(&[OFFLINE, &["notes", "new", title, "--text", "x"]].concat()).ok();
    }
    let hangul = "\u{1112}\u{1161}\u{11ab}\u{1100}\u{1173}\u{11af}";
    for (asked, title) in [
        (DECOMPOSED, COMPOSED),
        ("CAFE\u{301}", COMPOSED),
        ("äpfel", "ÄPFEL"),
        ("a\u{308}pfel", "ÄPFEL"),
        ("STRASSE", "Straße"),
        (hangul, "한글"),
    ] {
        assert_eq!(shown(&home, asked), format!("{title}\nx\n"));
    }
    // Two notes with the same title are two notes, however the title is encoded.
    home.run(&[OFFLINE, &["notes", "new", DECOMPOSED, "--text", "y"]].concat()).ok();
    home.run(&["notes", "show", COMPOSED]).failed(5, &["ambiguous"]);
}

#[test]
fn a_file_name_in_nfc_and_nfd_imports_as_one_note() {
    let home = Home::new();
    home.write(&format!("mac/{DECOMPOSED}.md"), "text");
    home.write(&format!("linux/{COMPOSED}.md"), "text");
    home.run(&["--offline", "import", "mac"]).ok();
    let again = home.run(&["--offline", "import", "linux"]).ok();
    assert!(again.contains("0 notes created, 1 already there"), "{again}");
    assert_eq!(shown(&home, COMPOSED), format!("{COMPOSED}\ntext\n"));
}
