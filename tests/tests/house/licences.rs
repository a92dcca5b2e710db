//! The allowed dependencies: licences under which we can ship, and banned crates.

use super::finding::{Finding, assert_found, assert_none};
use super::packages::{self, Package, sample, sample_member};
use super::tree::Tree;

const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    // Permissive, approved by the OSI: MIT's terms with a patent licence. minicbor has it.
    "BlueOak-1.0.0",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MPL-2.0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// Banned from the whole dependency graph: name, the only allowed version, and the alternative.
const BANNED: &[(&str, &str, &str)] = &[
    ("openssl", "", "use rustls"),
    ("openssl-sys", "", "use rustls"),
    ("native-tls", "", "use rustls"),
    ("async-std", "", "use tokio at the edges; it is discontinued"),
    ("sqlite-vfs", "", "use `rusqlite::ffi`; it is unmaintained"),
    ("bincode", "2.0.1", "keep to 2.0.1: see docs/decisions/0002-bincode-behind-our-codec.md"),
];

/// Banned as direct dependencies of our manifests.
const BANNED_DIRECT: &[(&str, &str)] = &[
    ("chrono", "use `std::time`, and format at the edge"),
    ("lazy_static", "use `std::sync::LazyLock`"),
];

/// Whether an SPDX expression can be satisfied with allowed licences alone. `/` is the old form of `OR`; an
/// exception after `WITH` only grants more rights.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let allowed = any_of(&mut words);
    allowed && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>) -> bool {
    let mut allowed = all_of(words);
    while words.next_if_eq(&"OR").is_some() {
        allowed |= all_of(words);
    }
    allowed
}

fn all_of(words: &mut Words<'_>) -> bool {
    let mut allowed = one(words);
    while words.next_if_eq(&"AND").is_some() {
        allowed &= one(words);
    }
    allowed
}

fn one(words: &mut Words<'_>) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let allowed = any_of(words);
        return words.next_if_eq(&")").is_some() && allowed;
    }
    let allowed = words.next().is_some_and(|licence| ALLOWED.contains(&licence));
    if words.next_if_eq(&"WITH").is_some() {
        words.next();
    }
    allowed
}

fn licences(packages: &[Package]) -> Vec<Finding> {
    let refused = packages.iter().filter(|p| !p.licence.as_deref().is_some_and(is_allowed));
    let finding = |package: &Package| {
        let licence = package.licence.as_deref().unwrap_or("none declared");
        let what = format!("{} {} has licence `{licence}`", package.name, package.version);
        let remedy = "avoid the crate, or add its licence with a reason to ALLOWED of tests/tests/house/licences.rs";
        Finding::new("Cargo.lock", 0, what, remedy)
    };
    refused.map(finding).collect()
}

fn banned(tree: &Tree, packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        let hit = BANNED.iter().find(|(name, version, _)| {
            package.name == *name && (version.is_empty() || package.version != *version)
        });
        if let Some((name, _, remedy)) = hit {
            let line = tree.line_of("Cargo.lock", &format!("name = \"{name}\""));
            let what = format!("{name} {} is banned", package.version);
            findings.push(Finding::new("Cargo.lock", line, what, *remedy));
        }
    }
    for (package, manifest) in packages::members(packages) {
        for (name, remedy) in BANNED_DIRECT {
            if package.dependencies.iter().any(|dependency| dependency.name == *name) {
                let line = packages::line_of(tree, manifest, name);
                let what = format!("{name} is banned as a direct dependency");
                findings.push(Finding::new(manifest, line, what, *remedy));
            }
        }
    }
    findings
}

#[test]
fn every_package_has_an_allowed_licence() {
    assert_none(licences(packages::resolved()));
}

#[test]
fn no_banned_crate_is_used() {
    assert_none(banned(Tree::repository(), packages::resolved()));
}

#[test]
fn licence_expressions_are_evaluated() {
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0 OR MIT",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        "GPL-3.0 AND Foo OR Zlib",
    ] {
        assert!(is_allowed(good), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND AGPL-3.0", "MIT MIT", "(MIT"] {
        assert!(!is_allowed(bad), "{bad}");
    }
}

#[test]
fn a_licence_that_is_not_allowed_is_found() {
    let with = |name: &str, licence: Option<&str>| Package {
        licence: licence.map(str::to_owned),
        ..sample(name, "1.0.0", &[])
    };
    let packages = [with("a", Some("MIT")), with("b", Some("GPL-3.0")), with("c", None)];
    assert_found(licences(&packages), &["Cargo.lock:0", "Cargo.lock:0"]);
}

#[test]
fn a_banned_crate_is_found() {
    let lock =
        "[[package]]\nname = \"bincode\"\nversion = \"3.0.0\"\n[[package]]\nname = \"openssl\"\n";
    let tree = Tree::sample(&[("Cargo.lock", lock), ("a/Cargo.toml", "chrono = \"0.4\"\n")]);
    let packages = [
        sample("bincode", "2.0.1", &[]),
        sample("bincode", "3.0.0", &[]),
        sample("openssl", "0.10.0", &["lazy_static"]),
        sample("chrono", "0.4.0", &[]),
        sample_member("a", &["chrono"]),
    ];
    assert_found(banned(&tree, &packages), &["Cargo.lock:2", "Cargo.lock:5", "a/Cargo.toml:1"]);
}
