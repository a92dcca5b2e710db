//! Limits the size of files and functions, and requires a module comment in the first line.

use super::finding::{Finding, assert_found, assert_none};
use super::source::Source;
use super::tree::Tree;

/// 150 to 400 lines are comfortable; split by idea at 500.
const FILE_LINES_MAX: usize = 800;
/// From `fn` to the closing brace; most have 40 or fewer.
const FUNCTION_LINES_MAX: usize = 70;

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
    for (name, span) in source.functions() {
        let lines = span.end() - span.start() + 1;
        if lines > FUNCTION_LINES_MAX {
            let what = format!("`{name}` has {lines} lines, the limit is {FUNCTION_LINES_MAX}");
            findings.push(Finding::new(source.path(), *span.start(), what, "split the function"));
        }
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
fn files_and_functions_stay_small() {
    assert_none(sizes(Tree::repository()));
}

#[test]
fn every_source_file_begins_with_a_module_comment() {
    assert_none(first_lines(Tree::repository()));
}

#[test]
fn oversized_files_and_functions_are_found() {
    let function = |lines: usize| format!("fn a() {{\n{}}}\n", "b();\n".repeat(lines - 2));
    let method = format!("impl A {{\n{}}}\n", function(71));
    let tree = Tree::sample(&[
        ("a.rs", &"\n".repeat(800)),
        ("b.rs", &"\n".repeat(801)),
        ("c.rs", &function(70)),
        ("d.rs", &function(71)),
        ("e.rs", &method),
        ("f.rs", "fn {"),
    ]);
    assert_found(sizes(&tree), &["b.rs:801", "d.rs:1", "e.rs:2", "f.rs:1"]);
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
