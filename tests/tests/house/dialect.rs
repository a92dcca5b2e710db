//! Comments speak plain technical English: subject, verb, object, the actor named. Constructions that the
//! code bases of this field do not use are counted over the comments of each top-level folder.

use std::collections::BTreeMap;

use super::finding::{Finding, assert_found, assert_none};
use super::tree::Tree;

/// Hits in a thousand lines of comments that a folder may have: some of the words have plain uses too.
const MOST_IN_A_THOUSAND: usize = 3;

/// Words that hide the actor or the object.
const WORDS: &[&str] = &[
    "told",
    "tells",
    "telling",
    "whoever",
    "whomever",
    "nobody",
    "somebody",
    "anybody",
    "everybody",
    "anew",
];

/// Two words in a row that do.
const PAIRS: &[(&str, &str)] = &[("rests", "on"), ("rest", "on"), ("says", "so"), ("said", "so")];

/// What follows a `What` that begins a sentence which is no question: "What is stored waits".
const AFTER_WHAT: &[&str] = &[
    "is", "was", "are", "were", "comes", "came", "has", "had", "have", "it", "they", "others", "a",
    "an", "the", "one", "we", "there", "does", "did", "can", "cannot", "may", "must", "goes",
    "waits", "ends", "needs",
];

/// The text of a line that is all comment.
fn comment(line: &str) -> Option<&str> {
    let line = line.trim_start().strip_prefix("//")?;
    Some(line.trim_start_matches(['/', '!']).trim())
}

/// Words of a comment, without what stands in marks of code.
fn words(comment: &str) -> Vec<&str> {
    let plain = comment.split('`').step_by(2);
    let is_of_word = |c: char| c.is_alphanumeric() || c == '_' || c == '\'';
    plain.flat_map(|text| text.split(move |c| !is_of_word(c))).filter(|w| !w.is_empty()).collect()
}

fn hits(comment: &str) -> usize {
    let words = words(comment);
    let of_words =
        words.iter().filter(|word| WORDS.contains(&word.to_lowercase().as_str())).count();
    let pairs = || words.iter().zip(words.iter().skip(1));
    let of_pairs = pairs().filter(|(first, second)| PAIRS.contains(&(**first, **second))).count();
    let is_what = |(first, second): &(&&str, &&str)| {
        **first == "What" && AFTER_WHAT.contains(*second) && !comment.ends_with('?')
    };
    of_words + of_pairs + pairs().filter(is_what).count()
}

fn dialect(tree: &Tree) -> Vec<Finding> {
    #[derive(Default)]
    struct Folder<'a> {
        lines: usize,
        found: Vec<(&'a str, usize)>,
    }
    let mut folders: BTreeMap<&str, Folder<'_>> = BTreeMap::new();
    for (path, text) in tree.texts(".rs").filter(|(path, _)| !path.starts_with(OURS)) {
        let folder = folders.entry(path.split('/').next().unwrap_or_default()).or_default();
        for (line, number) in text.lines().zip(1..) {
            let Some(comment) = comment(line) else { continue };
            folder.lines += 1;
            folder.found.extend(std::iter::repeat_n((path, number), hits(comment)));
        }
    }
    let mut findings = Vec::new();
    for (name, folder) in folders {
        if folder.found.len() * 1_000 > folder.lines * MOST_IN_A_THOUSAND {
            let (lines, count) = (folder.lines, folder.found.len());
            for (path, number) in folder.found {
                let what = format!("{count} in {lines} lines of comments of {name}/");
                let remedy = "name the actor: subject, verb, object; see CONTRIBUTING.md";
                findings.push(Finding::new(path, number, what, remedy));
            }
        }
    }
    findings
}

/// The rules of the house quote what they look for.
const OURS: &str = "tests/tests/house";

#[test]
fn comments_are_in_plain_english() {
    assert_none(dialect(Tree::repository()));
}

#[test]
fn a_folder_with_banned_constructions_is_found() {
    let bad = "//! Whoever asks is told.\n/// What is kept rests on it.\nfn a() {}\n// Fine.\n";
    let few = format!("// Nobody.\n{}", "// A plain line.\n".repeat(999));
    let plain = "// What is it?\n// The peer `told` us, see `nobody`.\nlet told = 1; // told\n";
    let tree = Tree::sample(&[("a/src/b.rs", bad), ("b/src/b.rs", &few), ("c/src/c.rs", plain)]);
    assert_found(dialect(&tree), &["a/src/b.rs:1", "a/src/b.rs:1", "a/src/b.rs:2", "a/src/b.rs:2"]);
}
