//! Checks the documents: links resolve, and every decision has all its sections.

use super::finding::{Finding, assert_found, assert_none};
use super::markdown;
use super::tree::Tree;

const DECISIONS: &str = "docs/decisions/";
const DECISION_INDEX: &str = "docs/decisions/README.md";
const DECISION_HEADINGS: &[&str] = &["Context", "Choice", "What would change our mind"];

fn dead_links(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts(".md") {
        for (line, target) in markdown::links(text) {
            let Some(file) = relative_target(&target) else { continue };
            if !resolve(path, file).is_some_and(|file| tree.has(&file)) {
                let what = format!("the target of the link `{target}` does not exist");
                let remedy = "link to a file in the repository, relative to this one";
                findings.push(Finding::new(path, line, what, remedy));
            }
        }
    }
    findings
}

/// The file part of a link into the repository; `None` for a URL or an anchor on the same page.
fn relative_target(target: &str) -> Option<&str> {
    let scheme = target.split_once(':').is_some_and(|(before, _)| {
        !before.is_empty() && before.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    });
    let file = target.split(['#', '?']).next().unwrap_or_default();
    (!scheme && !target.starts_with('#') && !target.starts_with("//")).then_some(file)
}

/// The path from the root; `None` if it leads out of the repository.
fn resolve(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    if target.starts_with('/') {
        parts.clear();
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

fn incomplete_decisions(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let index: Vec<String> = markdown::links(tree.text(DECISION_INDEX).unwrap_or_default())
        .into_iter()
        .map(|(_, target)| target)
        .collect();
    let mut numbers: Vec<&str> = Vec::new();
    let pages = tree.texts(".md").filter(|(path, _)| path.starts_with(DECISIONS));
    for (path, text) in pages.filter(|(path, _)| *path != DECISION_INDEX) {
        let mut report =
            |what: String, remedy: &str| findings.push(Finding::new(path, 0, what, remedy));
        let name = path.trim_start_matches(DECISIONS);
        let number = name.split('-').next().unwrap_or_default();
        if number.len() != 4 || !number.chars().all(|c| c.is_ascii_digit()) {
            report(String::from("has no number"), "name it `NNNN-what-it-decides.md`");
        } else if numbers.contains(&number) {
            report(format!("number {number} is already used"), "take the next free number");
        }
        numbers.push(number);
        let headings = markdown::headings(text);
        for wanted in DECISION_HEADINGS.iter().filter(|wanted| !headings.contains(wanted)) {
            report(
                format!("has no heading \"{wanted}\""),
                "see the template in docs/decisions/README.md",
            );
        }
        if !index.iter().any(|target| target == name) {
            report(String::from("is not in the index"), "link it from docs/decisions/README.md");
        }
    }
    findings
}

#[test]
fn every_relative_link_has_a_target() {
    assert_none(dead_links(Tree::repository()));
}

#[test]
fn every_decision_is_complete() {
    assert_none(incomplete_decisions(Tree::repository()));
}

#[test]
fn a_dead_link_is_found() {
    let text = "\
[a](b.md) [c](../README.md#top) [d](https://example.org/x) [e](#here) [f](mailto:a@example.org)
[g](../docs) [h](/docs/b.md) [i](./)
[j](c.md)
[k](../../elsewhere.md)
[l](/c.md)
";
    let tree = Tree::sample(&[("README.md", ""), ("docs/a.md", text), ("docs/b.md", "")]);
    assert_found(dead_links(&tree), &["docs/a.md:3", "docs/a.md:4", "docs/a.md:5"]);
}

#[test]
fn an_incomplete_decision_is_found() {
    let good = "# Good\n## Context\n## Choice\n## What would change our mind\n";
    let tree = Tree::sample(&[
        ("docs/decisions/README.md", "[a](0001-a.md) [b](0001-b.md) [c](0002-c.md) [d](d.md)"),
        ("docs/decisions/0001-a.md", good),
        ("docs/decisions/0001-b.md", good),
        ("docs/decisions/0002-c.md", "## Context\n## Choice\n"),
        ("docs/decisions/0003-e.md", good),
        ("docs/decisions/d.md", good),
    ]);
    let expected = ["0001-b.md:0", "0002-c.md:0", "0003-e.md:0", "d.md:0"];
    let expected = expected.map(|name| format!("{DECISIONS}{name}"));
    assert_found(incomplete_decisions(&tree), &expected.each_ref().map(String::as_str));
}
