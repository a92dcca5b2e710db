//! The subjects of commits: `part: what changes`, in the imperative and within 72 characters. Merge commits
//! and everything before the rule are exempt.

use std::process::Command;

use super::finding::{Finding, assert_found, assert_none};
use super::tree::root;

const SUBJECT_MAX: usize = 72;

/// The first commit under the rule is the one after this.
const SINCE: &str = "8115d38baaa0edfdd149c8e98c69a1c7d198ae75";

const PARTS: &[&str] = &[
    "all",
    "ci",
    "compaction",
    "demo",
    "deploy",
    "derive",
    "docs",
    "engine",
    "page",
    "protocol",
    "server",
    "storage",
    "tests",
];

/// First words that describe the past or the result instead of giving an order.
const NOT_IMPERATIVE: &[&str] = &["ed", "ing"];

fn broken(commit: &str, subject: &str) -> Option<Finding> {
    let finding = |what: &str| {
        let remedy = "write `part: what changes`, in the imperative and within 72 characters";
        Some(Finding::new(format!("commit {commit}"), 1, format!("`{subject}` {what}"), remedy))
    };
    let Some((parts, what)) = subject.split_once(": ") else { return finding("names no part") };
    if let Some(part) = parts.split(", ").find(|part| !PARTS.contains(part)) {
        return finding(&format!("names `{part}`, which is no part"));
    }
    let first = what.split(' ').next().unwrap_or_default();
    let is_verb = !NOT_IMPERATIVE.iter().any(|end| first.len() > 5 && first.ends_with(end));
    if !is_verb || first.chars().next().is_none_or(|c| !c.is_ascii_lowercase()) {
        return finding("does not begin with a verb in the imperative");
    }
    (subject.chars().count() > SUBJECT_MAX).then(|| finding("is too long")).flatten()
}

/// The commits under the rule; `None` without a repository or without that much history.
fn commits() -> Option<String> {
    let range = format!("{SINCE}..HEAD");
    let log = Command::new("git")
        .current_dir(root())
        .args(["log", "--no-merges", "--format=%h %s", &range])
        .output()
        .ok()?;
    log.status.success().then(|| String::from_utf8_lossy(&log.stdout).into_owned())
}

#[test]
fn subjects_name_a_part_and_give_an_order() {
    let Some(commits) = commits() else {
        println!("SKIPPED: no history of this repository here");
        return;
    };
    let lines = commits.lines().filter_map(|line| line.split_once(' '));
    assert_none(lines.filter_map(|(commit, subject)| broken(commit, subject)).collect());
}

#[test]
fn a_bad_subject_is_found() {
    let found: Vec<Finding> = [
        ("a1", "engine: keep the last published state for readers"),
        ("a2", "server, tests: bring the store's traits into folders"),
        ("b1", "Keep the last published state for readers"),
        ("b2", "relay: keep the last published state for readers"),
        ("b3", "engine: keeping the last published state for readers"),
        ("b4", "engine: Keep the last published state for readers"),
        (
            "b5",
            "engine: keep the last published state for all readers, also for those that come later",
        ),
    ]
    .into_iter()
    .filter_map(|(commit, subject)| broken(commit, subject))
    .collect();
    let names = ["b1", "b2", "b3", "b4", "b5"].map(|name| format!("commit {name}:1"));
    assert_found(found, &names.each_ref().map(String::as_str));
}
