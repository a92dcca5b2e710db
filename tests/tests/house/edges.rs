//! The allowed dependencies between this workspace's crates, and those that the protocol must not have.

use super::finding::{Finding, assert_found, assert_none};
use super::packages::{self, Dependency, Package, sample_member};
use super::tree::Tree;

/// A crate, and the workspace crates on which it may depend, for any purpose. `landfall-tests` may use all of
/// them, so it is not listed; no other crate may use `landfall-demo`.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("landfall-protocol", &[TEST_RNG]),
    ("landfall-storage", &[]),
    ("landfall-compaction", &["landfall-protocol"]),
    ("landfall-derive", &[]),
    (
        "landfall",
        &[
            "landfall-derive",
            "landfall-compaction",
            "landfall-protocol",
            "landfall-storage",
            TEST_RNG,
        ],
    ),
    ("landfall-relay", &["landfall-compaction", "landfall-protocol", "landfall-storage", TEST_RNG]),
    (TEST_RNG, &[]),
    ("landfall-demo", &["landfall", "landfall-relay"]),
    ("landfall-todo", &["landfall"]),
];
const TESTS: &str = "landfall-tests";
/// Only a dev-dependency.
const TEST_RNG: &str = "landfall-test-rng";

/// Crates that would bring I/O, clocks or randomness into the protocol.
const PROTOCOL_NEVER: &[&str] = &["tokio", "rusqlite", "rand", "getrandom", "chrono"];

fn between_crates(tree: &Tree, packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let names: Vec<&str> = packages::members(packages).map(|(p, _)| p.name.as_str()).collect();
    for (package, manifest) in packages::members(packages).filter(|(p, _)| p.name != TESTS) {
        let Some((_, known)) = MAY_KNOW.iter().find(|(name, _)| *name == package.name) else {
            let what = format!("crate `{}` is not listed in MAY_KNOW", package.name);
            let remedy = "decide on which crates it may depend and add it to MAY_KNOW in tests/tests/house/edges.rs";
            findings.push(Finding::new(manifest, 0, what, remedy));
            continue;
        };
        let ours = package.dependencies.iter().filter(|d| names.contains(&d.name.as_str()));
        let is_allowed = |d: &&Dependency| {
            known.contains(&d.name.as_str()) && (d.name != TEST_RNG || d.kind == "dev")
        };
        for dependency in ours.filter(|d| !is_allowed(d)) {
            let line = packages::line_of(tree, manifest, &dependency.name);
            let what = format!("`{}` must not depend on `{}`", package.name, dependency.name);
            let remedy =
                "move shared code down into protocol/ or storage/, or the dependent code up";
            findings.push(Finding::new(manifest, line, what, remedy));
        }
    }
    findings
}

fn of_the_protocol(tree: &Tree, packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (package, manifest) in packages::members(packages) {
        if package.name != "landfall-protocol" {
            continue;
        }
        let shipped = package.dependencies.iter().filter(|d| d.kind != "dev");
        for dependency in shipped.filter(|d| PROTOCOL_NEVER.contains(&d.name.as_str())) {
            let line = packages::line_of(tree, manifest, &dependency.name);
            let what = format!("the protocol must not use `{}`", dependency.name);
            let remedy = "let the caller pass in time, randomness and the results of I/O";
            findings.push(Finding::new(manifest, line, what, remedy));
        }
    }
    findings
}

/// The output of the derive macros must need no dependency but `landfall`; this program proves it.
fn of_the_todo_list(tree: &Tree, packages: &[Package]) -> Vec<Finding> {
    let todo = packages::members(packages).filter(|(package, _)| package.name == "landfall-todo");
    let others = todo.flat_map(|(package, manifest)| {
        let other = package.dependencies.iter().filter(|d| d.name != "landfall");
        other.map(move |d| (manifest, d.name.as_str()))
    });
    let finding = |(manifest, name)| {
        let what = format!("the to-do list must not use `{name}`");
        let remedy = "the example shows that a program needs `landfall` alone";
        Finding::new(manifest, packages::line_of(tree, manifest, name), what, remedy)
    };
    others.map(finding).collect()
}

#[test]
fn the_todo_list_depends_on_landfall_alone() {
    assert_none(of_the_todo_list(Tree::repository(), packages::resolved()));
}

#[test]
fn another_dependency_of_the_todo_list_is_found() {
    let manifest = "[dependencies]\nlandfall = \"1\"\nautosurgeon = \"0.14\"\n";
    let tree = Tree::sample(&[("landfall-todo/Cargo.toml", manifest)]);
    let packages = [sample_member("landfall-todo", &["landfall", "autosurgeon"])];
    assert_found(of_the_todo_list(&tree, &packages), &["landfall-todo/Cargo.toml:3"]);
}

#[test]
fn crates_have_only_allowed_dependencies() {
    assert_none(between_crates(Tree::repository(), packages::resolved()));
}

#[test]
fn the_protocol_depends_on_no_io_clock_or_randomness() {
    assert_none(of_the_protocol(Tree::repository(), packages::resolved()));
}

#[test]
fn a_forbidden_edge_is_found() {
    let tree = Tree::sample(&[("landfall/Cargo.toml", "[dependencies]\nlandfall-relay = \"1\"\n")]);
    let packages = [
        sample_member("landfall-protocol", &["serde", "landfall-test-rng dev"]),
        sample_member("landfall-test-rng", &["fastrand"]),
        sample_member("landfall", &["landfall-protocol", "landfall-relay dev"]),
        sample_member("landfall-relay", &["landfall-demo", "landfall-test-rng"]),
        sample_member("landfall-demo", &["landfall", "landfall-relay"]),
        sample_member("landfall-tests", &["landfall-demo", "landfall-relay"]),
        sample_member("landfall-new", &[]),
    ];
    let expected = [
        "landfall-new/Cargo.toml:0",
        "landfall-relay/Cargo.toml:0",
        "landfall-relay/Cargo.toml:0",
        "landfall/Cargo.toml:2",
    ];
    assert_found(between_crates(&tree, &packages), &expected);
}

#[test]
fn a_clock_in_the_protocol_is_found() {
    let manifest = "[dependencies]\nserde = \"1\"\nchrono = \"0.4\"\n";
    let tree = Tree::sample(&[("landfall-protocol/Cargo.toml", manifest)]);
    let packages = [sample_member("landfall-protocol", &["serde", "rand dev", "chrono"])];
    assert_found(of_the_protocol(&tree, &packages), &["landfall-protocol/Cargo.toml:3"]);
}
