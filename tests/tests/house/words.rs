//! Bans notes to oneself, paths of one machine, ignored tests, and tests that sleep.

use super::finding::{Finding, assert_found, assert_none};
use super::source::Source;
use super::tree::Tree;

// Written in pieces, so that this file passes its own rule.
const NOTES: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/")];
const SLEEP_MARKER: &str = "// sleep:";

fn notes(tree: &Tree) -> Vec<Finding> {
    let is_word = |line: &str, note: &str| {
        line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == note)
    };
    let mut findings = Vec::new();
    for (path, text) in tree.texts(".rs") {
        for (line, number) in text.lines().zip(1..) {
            for note in NOTES.iter().filter(|note| is_word(line, note)) {
                let what = format!("`{note}` in a source file");
                findings.push(Finding::new(
                    path,
                    number,
                    what,
                    "do it, or open an issue with the reason",
                ));
            }
        }
    }
    findings
}

fn machine_paths(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts("") {
        for (line, number) in text.lines().zip(1..) {
            for machine_path in MACHINE_PATHS.iter().filter(|p| line.contains(**p)) {
                let what = format!("`{machine_path}` is a machine-specific path");
                findings.push(Finding::new(path, number, what, "make it relative or configurable"));
            }
        }
    }
    findings
}

fn ignored_tests(tree: &Tree) -> Vec<Finding> {
    let ignored = |source: &Source| {
        let lines: Vec<usize> = source.sequence(&["#", "[", "ignore"]).collect();
        let what = "an ignored test";
        let remedy =
            "make it run in the normal run, or delete it; print a reason to skip at run time";
        lines.into_iter().map(move |line| (line, what, remedy)).collect::<Vec<_>>()
    };
    let sources = tree.sources().iter();
    sources
        .flat_map(|s| ignored(s).into_iter().map(|(l, w, r)| Finding::new(s.path(), l, w, r)))
        .collect()
}

/// A test that sleeps is slow on a fast machine and fails on a slow one.
fn sleeps(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in tree.sources() {
        let sleeps =
            source.paths().into_iter().filter(|(path, _)| path.ends_with(&["thread", "sleep"]));
        for (_, line) in sleeps {
            if source.is_test(line) && !source.is_excused(line, SLEEP_MARKER) {
                let remedy =
                    format!("wait for a condition, or write `{SLEEP_MARKER}` and the reason above");
                findings.push(Finding::new(source.path(), line, "a test sleeps", remedy));
            }
        }
    }
    findings
}

#[test]
fn no_work_notes_are_left() {
    assert_none(notes(Tree::repository()));
}

#[test]
fn no_machine_specific_paths_are_left() {
    assert_none(machine_paths(Tree::repository()));
}

#[test]
fn no_test_is_ignored() {
    assert_none(ignored_tests(Tree::repository()));
}

#[test]
fn no_test_sleeps_without_a_reason() {
    assert_none(sleeps(Tree::repository()));
}

#[test]
fn a_work_note_is_found() {
    let text =
        ["// ", NOTES[0], ": later\nfn a() {}\n// ", NOTES[2], "X is fine\n/* ", NOTES[1], " */"];
    let tree = Tree::sample(&[("a.rs", &text.concat()), ("b.md", NOTES[0])]);
    assert_found(notes(&tree), &["a.rs:1", "a.rs:4"]);
}

#[test]
fn a_machine_specific_path_is_found() {
    let text = ["first\nsee ", MACHINE_PATHS[0], "notes\n"].concat();
    let tree = Tree::sample(&[("a.md", &text), ("b.sh", "cd ../work\n")]);
    assert_found(machine_paths(&tree), &["a.md:2"]);
}

#[test]
fn an_ignored_test_is_found() {
    let text =
        "#[test]\n#[ignore = \"slow\"]\nfn a() {}\n// #[ignore]\n#[test]\n#[ignore]\nfn b() {}\n";
    assert_found(ignored_tests(&Tree::sample(&[("a.rs", text)])), &["a.rs:2", "a.rs:6"]);
}

#[test]
fn a_sleeping_test_is_found() {
    let text = "\
use std::thread;
fn a() {
    std::thread::sleep(b);
    // sleep: the proxy must stay silent that long
    thread::sleep(b);
    thread::spawn(c);
    thread::sleep(b);
}
";
    let tree = Tree::sample(&[("a/tests/b.rs", text), ("a/src/b.rs", text)]);
    assert_found(sleeps(&tree), &["a/tests/b.rs:3", "a/tests/b.rs:7"]);
}
