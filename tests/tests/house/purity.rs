//! The protocol decides and performs no I/O: no clock, no thread, no iteration order of a hash map, no
//! output. `protocol/clippy.toml` bans these by type; this rule finds them by name, in every cfg.

use super::finding::{Finding, assert_found, assert_none};
use super::source::Source;
use super::tree::Tree;

/// Sequences of path segments that must not occur.
const PATHS: &[(&[&str], &str)] = &[
    (&["time", "Instant"], "take the time as an argument"),
    (&["time", "SystemTime"], "take the time as an argument"),
    (&["std", "time", "*"], "name what you use of `std::time`"),
    (&["std", "thread"], "return an effect and let the caller run it"),
    (&["thread", "spawn"], "return an effect and let the caller run it"),
    (&["thread", "sleep"], "return a deadline and let the caller wait"),
    (&["HashMap"], "use `BTreeMap`: the order of iteration must be the same on every run"),
    (&["HashSet"], "use `BTreeSet`: the order of iteration must be the same on every run"),
];

const MACROS: &[&str] = &["println", "print", "eprintln", "eprint", "dbg"];

fn impurities(tree: &Tree) -> Vec<Finding> {
    // Tests of the protocol may print their seeds.
    let ours = |path: &str| path.starts_with("protocol/src/") && !path.contains("/tests/");
    let sources = tree.sources().iter().filter(|s| ours(s.path()));
    sources.flat_map(impurities_of).collect()
}

fn impurities_of(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, line) in source.paths() {
        for (banned, remedy) in PATHS {
            if path.windows(banned.len()).any(|parts| parts == *banned) {
                let what = format!("the protocol must not name `{}`", path.join("::"));
                findings.push(Finding::new(source.path(), line, what, *remedy));
                break;
            }
        }
    }
    for name in MACROS {
        for line in source.macro_calls(name) {
            let what = format!("the protocol must not call `{name}!`");
            findings.push(Finding::new(
                source.path(),
                line,
                what,
                "return the output as an effect",
            ));
        }
    }
    findings
}

#[test]
fn the_protocol_names_no_clock_thread_hash_map_or_output() {
    assert_none(impurities(Tree::repository()));
}

#[test]
fn an_impure_protocol_is_found() {
    let text = "\
//! HashMap, std::time::Instant and println! may stand in a comment.
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};
use std::{thread, time};
fn a(now: time::SystemTime) { thread::sleep(b) }
fn c() { println!(\"{}\", \"HashSet\") }
fn d() -> Instant { if x.print != y {} }
";
    let tree = Tree::sample(&[
        ("protocol/src/lib.rs", text),
        ("engine/src/lib.rs", "use std::time::Instant;"),
    ]);
    let lines = [2, 3, 4, 5, 5, 6].map(|line| format!("protocol/src/lib.rs:{line}"));
    assert_found(impurities(&tree), &lines.each_ref().map(String::as_str));
}
