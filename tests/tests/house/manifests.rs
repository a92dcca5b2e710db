//! Checks the manifests: the workspace's lints everywhere, and automerge pinned exactly.

use super::finding::{Finding, assert_found, assert_none};
use super::packages::{self, Package, sample_member};
use super::tree::Tree;

/// automerge makes breaking minor releases, and its encoding is part of our formats: each upgrade is a
/// decision.
const AUTOMERGE: &str = "=0.12.0";

/// The root manifest sets documented public items and all other lints: `clippy -D warnings` enforces them.
fn lints(tree: &Tree, packages: &[Package]) -> Vec<Finding> {
    let inherits = |manifest: &str| {
        let lines = manifest.lines().map(str::trim).filter(|line| !line.is_empty());
        let section = lines.skip_while(|line| *line != "[lints]").skip(1);
        section
            .take_while(|line| !line.starts_with('['))
            .any(|line| line.replace(' ', "") == "workspace=true")
    };
    let lacking = packages::members(packages)
        .filter(|(_, manifest)| !inherits(tree.text(manifest).unwrap_or_default()));
    let remedy = "add `[lints]` with `workspace = true`";
    lacking
        .map(|(_, manifest)| {
            Finding::new(manifest, 0, "does not inherit the workspace's lints", remedy)
        })
        .collect()
}

fn automerge_pin(tree: &Tree, packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let line = tree.line_of("Cargo.toml", "automerge =");
    let pin = tree.text("Cargo.toml").unwrap_or_default().lines().nth(line.wrapping_sub(1));
    if !pin.is_some_and(|text| text.contains(&format!("\"{AUTOMERGE}\""))) {
        let what = "automerge is not pinned exactly";
        let remedy = format!("write `automerge = \"{AUTOMERGE}\"` under [workspace.dependencies]");
        findings.push(Finding::new("Cargo.toml", line, what, remedy));
    }
    for (package, manifest) in packages::members(packages) {
        let automerge = package.dependencies.iter().find(|d| d.name == "automerge");
        if automerge.is_some_and(|d| d.requirement != AUTOMERGE) {
            let line = packages::line_of(tree, manifest, "automerge");
            let what = "requests its own version of automerge";
            let remedy = "write `automerge.workspace = true`";
            findings.push(Finding::new(manifest, line, what, remedy));
        }
    }
    findings
}

#[test]
fn every_crate_inherits_the_workspace_lints() {
    assert_none(lints(Tree::repository(), packages::resolved()));
}

#[test]
fn automerge_is_pinned_exactly() {
    assert_none(automerge_pin(Tree::repository(), packages::resolved()));
}

#[test]
fn a_crate_without_the_lints_is_found() {
    let tree = Tree::sample(&[
        ("a/Cargo.toml", "[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n"),
        ("b/Cargo.toml", "[package]\n[lints]\n[dependencies]\nworkspace = true\n"),
        ("c/Cargo.toml", "[package]\nworkspace = true\n"),
    ]);
    let packages = ["a", "b", "c"].map(|name| sample_member(name, &[]));
    assert_found(lints(&tree, &packages), &["b/Cargo.toml:0", "c/Cargo.toml:0"]);
}

#[test]
fn a_loose_automerge_is_found() {
    let tree = Tree::sample(&[
        ("Cargo.toml", "[workspace.dependencies]\nautomerge = \"0.12.0\"\n"),
        ("a/Cargo.toml", "[dependencies]\nautomerge = \"0.12\"\n"),
    ]);
    let packages = [sample_member("a", &["automerge"])];
    assert_found(automerge_pin(&tree, &packages), &["Cargo.toml:2", "a/Cargo.toml:2"]);
}
