//! The glossary's last column: words that the handbook's pages must not use, since the glossary has another
//! word for the idea. The rule looks for words in code type; words in italics are also used for other things.

use super::finding::{Finding, assert_found, assert_none};
use super::markdown::{prose, without_code};
use super::tree::Tree;

const GLOSSARY: &str = "docs/glossary.md";

/// With fewer words, the table has a format that this rule does not parse.
const FEWEST: usize = 40;

/// Each banned word, with its replacement.
fn unused(glossary: &str) -> Vec<(String, String)> {
    let mut words = Vec::new();
    for (_, line) in prose(glossary) {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let [word, _, not] = cells[..] else { continue };
        let marked = not.split('`').skip(1).step_by(2);
        words.extend(marked.map(|not| (not.to_lowercase(), word.to_owned())));
    }
    words
}

/// Pages that describe the present; decisions and the changelog describe the past.
fn is_page(path: &str) -> bool {
    let in_docs = path.strip_prefix("docs/").is_some_and(|name| !name.contains('/'));
    let is_of_root = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].contains(&path);
    path != GLOSSARY && (in_docs || is_of_root)
}

/// Whether a line contains a word or phrase, also in the plural.
fn has(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, found)| {
        let is_letter = |c: char| c.is_alphanumeric() || c == '_';
        let after = &line[at + found.len()..];
        let after = after.strip_prefix('s').unwrap_or(after);
        !line[..at].ends_with(is_letter) && !after.starts_with(is_letter)
    })
}

fn other_words(tree: &Tree) -> Vec<Finding> {
    let glossary = tree.texts(".md").find(|(path, _)| *path == GLOSSARY);
    let Some((_, glossary)) = glossary else { return Vec::new() };
    let words = unused(glossary);
    let mut findings = Vec::new();
    for (path, text) in tree.texts(".md").filter(|(path, _)| is_page(path)) {
        for (number, line) in prose(text) {
            let line = without_code(line).to_lowercase();
            for (not, word) in words.iter().filter(|(not, _)| has(&line, not)) {
                let what = format!("`{not}` is not the word of the glossary");
                let remedy = format!("write `{word}`, or change {GLOSSARY}");
                findings.push(Finding::new(path, number, what, remedy));
            }
        }
    }
    findings
}

#[test]
fn pages_use_the_words_of_the_glossary() {
    let tree = Tree::repository();
    let (_, glossary) = tree.texts(".md").find(|(path, _)| *path == GLOSSARY).unwrap();
    assert!(unused(glossary).len() >= FEWEST, "cannot parse the glossary's tables");
    assert_none(other_words(tree));
}

#[test]
fn a_word_outside_the_glossary_is_found() {
    let glossary = "| word | meaning | not |\n|---|---|---|\n\
        | log | a sequence | `oplog`, *journal* |\n| cursor | a place | `sync token` |\n";
    let page =
        "An Oplog.\nThe journal, and `oplog`.\n```\noplog\n```\nTwo sync tokens; oplogging.\n";
    let tree = Tree::sample(&[
        (GLOSSARY, glossary),
        ("docs/a.md", page),
        ("docs/decisions/b.md", page),
        ("CHANGELOG.md", page),
    ]);
    assert_found(other_words(&tree), &["docs/a.md:1", "docs/a.md:6"]);
}
