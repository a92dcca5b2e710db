//! The packages of the resolved graph, from `cargo metadata`.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

use super::tree::{self, Tree};

/// One package: a member of this workspace, or a dependency.
#[derive(Debug, Clone, Default)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) licence: Option<String>,
    /// Path of the manifest relative to the root, for a package of this workspace.
    pub(crate) manifest: Option<String>,
    pub(crate) dependencies: Vec<Dependency>,
}

/// One direct dependency, as the manifest requests it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) requirement: String,
    /// `normal`, `build` or `dev`.
    pub(crate) kind: String,
}

/// All packages, on every platform, with every kind of dependency.
pub(crate) fn resolved() -> &'static [Package] {
    static PACKAGES: LazyLock<Vec<Package>> = LazyLock::new(|| {
        let root = tree::root();
        parse(&metadata(&root), &root)
    });
    &PACKAGES
}

/// The packages of this workspace.
pub(crate) fn members(packages: &[Package]) -> impl Iterator<Item = (&Package, &str)> {
    packages.iter().filter_map(|package| Some((package, package.manifest.as_deref()?)))
}

/// The line of a dependency in a manifest.
pub(crate) fn line_of(tree: &Tree, manifest: &str, dependency: &str) -> usize {
    let lines = tree.text(manifest).unwrap_or_default().lines();
    let named = |line: &str| {
        let key = line.trim_start_matches("[dependencies.").trim_matches('"');
        key.strip_prefix(dependency).is_some_and(|rest| rest.starts_with(['.', ' ', '=', ']']))
    };
    lines.zip(1..).find(|(line, _)| named(line)).map_or(0, |(_, number)| number)
}

/// Tries offline mode first: it is faster, and works without a network.
fn metadata(root: &Path) -> Value {
    let run = |offline: &[&str]| {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| String::from("cargo"));
        let arguments = ["metadata", "--format-version", "1"];
        Command::new(cargo).args(arguments).args(offline).current_dir(root).output().unwrap()
    };
    let mut output = run(&["--offline"]);
    if !output.status.success() {
        output = run(&[]);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`cargo metadata` failed: {complaint}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn parse(metadata: &Value, root: &Path) -> Vec<Package> {
    let text = |value: &Value, key: &str| value[key].as_str().map(str::to_owned);
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let members = list(metadata, "workspace_members");
    let dependency = |value: &Value| Dependency {
        name: text(value, "name").unwrap(),
        requirement: text(value, "req").unwrap_or_default(),
        kind: text(value, "kind").unwrap_or_else(|| String::from("normal")),
    };
    let package = |value: &Value| Package {
        name: text(value, "name").unwrap(),
        version: text(value, "version").unwrap(),
        licence: text(value, "license"),
        manifest: members.contains(&value["id"]).then(|| {
            let manifest = text(value, "manifest_path").unwrap();
            let relative = Path::new(&manifest).strip_prefix(root).map(|p| p.to_string_lossy());
            relative.map_or_else(|_| manifest.clone(), |path| path.replace('\\', "/"))
        }),
        dependencies: list(value, "dependencies").iter().map(dependency).collect(),
    };
    list(metadata, "packages").iter().map(package).collect()
}

/// A package for the test of a rule: `dependencies` are written `name`, or `name kind`.
pub(crate) fn sample(name: &str, version: &str, dependencies: &[&str]) -> Package {
    let dependency = |text: &&str| {
        let (name, kind) = text.split_once(' ').unwrap_or((text, "normal"));
        Dependency { name: name.to_owned(), kind: kind.to_owned(), ..Dependency::default() }
    };
    Package {
        name: name.to_owned(),
        version: version.to_owned(),
        dependencies: dependencies.iter().map(dependency).collect(),
        ..Package::default()
    }
}

/// The same, as a member of the workspace.
pub(crate) fn sample_member(name: &str, dependencies: &[&str]) -> Package {
    let manifest = Some(format!("{name}/Cargo.toml"));
    Package { manifest, ..sample(name, "0.1.0", dependencies) }
}

#[test]
fn metadata_is_read() {
    let packages = resolved();
    let tests = packages.iter().find(|package| package.name == "landfall-tests").unwrap();
    assert_eq!(tests.manifest.as_deref(), Some("tests/Cargo.toml"));
    let syn = tests.dependencies.iter().find(|dependency| dependency.name == "syn").unwrap();
    assert_eq!((syn.kind.as_str(), syn.requirement.as_str()), ("dev", "^2"));
    assert!(packages.iter().any(|p| p.name == "automerge" && p.manifest.is_none()));
}

#[test]
fn a_dependency_is_found_in_its_manifest() {
    let manifest = "[dependencies]\nfoobar = \"1\"\nfoo.workspace = true\n[dependencies.bar]\n";
    let tree = Tree::sample(&[("a/Cargo.toml", manifest)]);
    let lines = ["foo", "bar", "foobar", "none"].map(|name| line_of(&tree, "a/Cargo.toml", name));
    assert_eq!(lines, [3, 4, 2, 0]);
}
