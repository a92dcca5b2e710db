//! Checks what a container file copies: without a container engine no test can build the image, but this rule
//! finds a missing crate, or a source that does not exist.

use super::finding::{Finding, assert_found, assert_none};
use super::packages::{self, Package, sample_member};
use super::tree::Tree;

const IGNORED: &str = ".dockerignore";

/// Finds sources that do not exist, and workspace files that the build lacks.
fn copies(tree: &Tree, packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let ignored: Vec<&str> = tree.text(IGNORED).unwrap_or_default().lines().collect();
    for (path, text) in tree.texts("Containerfile") {
        let sources: Vec<(usize, &str)> = sources(text).collect();
        for (line, source) in &sources {
            if !tree.has(source.trim_start_matches("./").trim_end_matches('.')) {
                let what = format!("copies `{source}`, which does not exist");
                findings.push(Finding::new(path, *line, what, "name an existing file"));
            }
        }
        let builds = text.lines().any(|line| line.contains("cargo "));
        let wanted = ["Cargo.toml", "Cargo.lock"].into_iter().chain(
            packages::members(packages)
                .map(|(_, manifest)| manifest.trim_end_matches("/Cargo.toml")),
        );
        for wanted in wanted.filter(|_| builds) {
            let copied = |source: &str| {
                let source = source.trim_start_matches("./").trim_end_matches('/');
                source == "." || source.is_empty() || is_within(wanted, source)
            };
            if !sources.iter().any(|(_, source)| copied(source)) {
                let what = format!("does not copy `{wanted}`, which the workspace lists");
                findings.push(Finding::new(path, 0, what, "copy it"));
            }
        }
    }
    let members = packages::members(packages).map(|(_, manifest)| manifest);
    let needed = ["Cargo.toml", "Cargo.lock"].into_iter().chain(members);
    for needed in needed.chain(tree.sources().iter().map(|source| source.path())) {
        for (pattern, line) in ignored.iter().zip(1..) {
            if is_ignored(needed, pattern) {
                let what = format!("`{pattern}` excludes `{needed}` from the build");
                findings.push(Finding::new(IGNORED, line, what, "exclude build output only"));
            }
        }
    }
    findings
}

/// The sources that a container file copies from its context, with their lines.
fn sources(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let copies = text.lines().zip(1..).filter_map(|(line, number)| {
        let words = line.strip_prefix("COPY ").or_else(|| line.strip_prefix("ADD "))?;
        (!words.contains("--from=")).then_some((number, words))
    });
    copies.flat_map(|(number, words)| {
        let words: Vec<&str> = words.split_whitespace().filter(|w| !w.starts_with("--")).collect();
        let sources = words[..words.len().saturating_sub(1)].to_vec();
        sources.into_iter().map(move |source| (number, source))
    })
}

fn is_within(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A pattern is a path from the root, or from anywhere with `**/` before it. A pattern with another `*`, or
/// with a `!`, counts as matching everything, so it fails until this rule supports it.
fn is_ignored(path: &str, pattern: &str) -> bool {
    let pattern = pattern.trim().trim_matches('/');
    let anywhere = pattern.strip_prefix("**/");
    let name = anywhere.unwrap_or(pattern);
    if name.is_empty() || name.starts_with('#') {
        return false;
    }
    let begins =
        std::iter::once(path).chain(path.match_indices('/').map(|(at, _)| &path[at + 1..]));
    let mut begins = begins.take(if anywhere.is_some() { usize::MAX } else { 1 });
    name.contains(['*', '!', '?', '[']) || begins.any(|begin| is_within(begin, name))
}

#[test]
fn containers_copy_all_files_that_their_builds_need() {
    let tree = Tree::repository();
    assert!(tree.texts("Containerfile").count() > 0);
    assert_none(copies(tree, packages::resolved()));
}

#[test]
fn a_file_missing_from_a_container_build_is_found() {
    let file = "FROM rust\nCOPY Cargo.toml Cargo.lock ./\nCOPY a gone ./\nRUN cargo install --path a\n\
        FROM debian\nCOPY --from=build /out/x /bin/x\n";
    let tree = Tree::sample(&[
        ("deploy/Containerfile", file),
        ("Cargo.toml", ""),
        ("Cargo.lock", ""),
        ("a/Cargo.toml", ""),
        ("a/src/target/mod.rs", "//! page"),
        ("b/Cargo.toml", ""),
        (IGNORED, "/target\n# words\n**/target\n"),
    ]);
    let packages = ["a", "b"].map(|name| sample_member(name, &[]));
    assert_found(
        copies(&tree, &packages),
        &[".dockerignore:3", "deploy/Containerfile:0", "deploy/Containerfile:3"],
    );
    let whole = "FROM rust\nCOPY . .\nRUN cargo build\n";
    let tree =
        Tree::sample(&[("Containerfile", whole), ("Cargo.toml", ""), (IGNORED, "target\n*.rs\n")]);
    assert_found(copies(&tree, &[]), &[".dockerignore:2", ".dockerignore:2"]);
}
