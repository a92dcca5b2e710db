//! Limits the size of files, and requires a module comment in the first line. Clippy limits functions.

use super::finding::{Finding, assert_found, assert_none};
use super::source::Source;
use super::tree::Tree;

/// 150 to 400 lines are comfortable; split by idea at 500.
const FILE_LINES_MAX: usize = 800;

fn sizes(tree: &Tree) -> Vec<Finding> {
    tree.sources().iter().flat_map(sizes_of).collect()
}

fn sizes_of(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some((line, why)) = source.broken() {
        let what = format!("does not parse: {why}");
        findings.push(Finding::new(source.path(), *line, what, "the house rules read Rust 2024"));
    }
    let lines = source.lines().len();
    if lines > FILE_LINES_MAX {
        let what = format!("{lines} lines, the limit is {FILE_LINES_MAX}");
        let first_over = FILE_LINES_MAX + 1;
        findings.push(Finding::new(source.path(), first_over, what, "split the file by topic"));
    }
    findings
}

fn first_lines(tree: &Tree) -> Vec<Finding> {
    let files = tree.sources().iter().filter(|source| source.path().contains("src/"));
    let silent = files.filter(|s| !s.lines().first().is_some_and(|line| line.starts_with("//!")));
    let remedy = "begin with `//!`: what the module contains and what it must not depend on";
    silent.map(|s| Finding::new(s.path(), 1, "the file has no module comment", remedy)).collect()
}

#[test]
fn files_stay_small() {
    assert_none(sizes(Tree::repository()));
}

#[test]
fn every_source_file_begins_with_a_module_comment() {
    assert_none(first_lines(Tree::repository()));
}

#[test]
fn oversized_files_are_found() {
    let tree =
        Tree::sample(&[("a.rs", &"\n".repeat(800)), ("b.rs", &"\n".repeat(801)), ("c.rs", "fn {")]);
    assert_found(sizes(&tree), &["b.rs:801", "c.rs:1"]);
}

#[test]
fn a_file_without_a_module_comment_is_found() {
    let tree = Tree::sample(&[
        ("a/src/lib.rs", "//! A crate.\n"),
        ("a/src/b.rs", "\n//! Late.\n"),
        ("a/src/c.rs", ""),
        ("a/examples/d.rs", "fn main() {}\n"),
    ]);
    assert_found(first_lines(&tree), &["a/src/b.rs:1", "a/src/c.rs:1"]);
}
