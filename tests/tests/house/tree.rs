//! The repository's files, held in memory, so that a rule can be tested on a sample tree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use super::source::Source;

/// Larger files are data, not text; rules about words skip them.
const TEXT_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// The repository, or a sample of one. Paths are relative and use `/`.
pub(crate) struct Tree {
    paths: BTreeSet<String>,
    texts: BTreeMap<String, String>,
    sources: Vec<Source>,
}

impl Tree {
    /// This repository, read once for all rules.
    pub(crate) fn repository() -> &'static Self {
        static TREE: LazyLock<Tree> = LazyLock::new(|| Tree::load(&root()));
        &TREE
    }

    /// A sample tree for the test of a rule.
    pub(crate) fn sample(files: &[(&str, &str)]) -> Self {
        let texts: BTreeMap<_, _> =
            files.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect();
        Self::of(texts.keys().cloned().collect(), texts)
    }

    fn load(root: &Path) -> Self {
        let paths = kept_by_git(root).unwrap_or_else(|| found_by_walking(root));
        let texts = paths
            .iter()
            .filter_map(|path| Some((path.clone(), read_text(&root.join(path))?)))
            .collect();
        Self::of(paths, texts)
    }

    fn of(paths: BTreeSet<String>, texts: BTreeMap<String, String>) -> Self {
        let mut sources: Vec<Source> = texts
            .iter()
            .filter(|(path, _)| path.ends_with(".rs"))
            .map(|(path, text)| Source::read(path, text))
            .collect();
        let test_modules: Vec<String> =
            sources.iter().flat_map(|s| s.test_modules()).cloned().collect();
        for source in &mut sources {
            source.learn_test_modules(&test_modules);
        }
        Self { paths, texts, sources }
    }

    /// Every Rust file.
    pub(crate) fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Every text file whose path has this ending, with its text.
    pub(crate) fn texts(&self, ending: &str) -> impl Iterator<Item = (&str, &str)> {
        self.texts
            .iter()
            .filter(move |(path, _)| path.ends_with(ending))
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// One file's text.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.texts.get(path).map(String::as_str)
    }

    /// Whether the tree has a file or a folder with that path.
    pub(crate) fn has(&self, path: &str) -> bool {
        let folder = format!("{}/", path.trim_end_matches('/'));
        path.is_empty()
            || self.paths.contains(path)
            || self.paths.range(folder.clone()..).next().is_some_and(|p| p.starts_with(&folder))
    }

    /// The first line (from 1) of `path` that contains `needle`, or 0.
    pub(crate) fn line_of(&self, path: &str, needle: &str) -> usize {
        let lines = self.text(path).unwrap_or_default().lines();
        lines.zip(1..).find(|(line, _)| line.contains(needle)).map_or(0, |(_, number)| number)
    }
}

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Tracked files and new ones that are not ignored: a rule must fail before the commit, not after it.
fn kept_by_git(root: &Path) -> Option<BTreeSet<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let listing = String::from_utf8(output.stdout).ok()?;
    let paths = listing.split('\0').filter(|path| root.join(path).is_file());
    Some(paths.map(str::to_owned).collect())
}

/// Without git (a source archive): everything except build output and hidden folders.
fn found_by_walking(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() && !path.is_symlink() {
                if name != "target" && name != ".git" {
                    folders.push(path);
                }
            } else if let Ok(relative) = path.strip_prefix(root) {
                found.insert(relative.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    found
}

fn read_text(path: &Path) -> Option<String> {
    let small = path.metadata().ok()?.len() <= TEXT_BYTES_MAX;
    small.then(|| std::fs::read(path).ok()).flatten().and_then(|b| String::from_utf8(b).ok())
}

#[test]
fn the_repository_is_listed() {
    let tree = Tree::repository();
    assert!(tree.has("tests/tests/house.rs") && tree.has("tests/tests/house") && tree.has(""));
    assert!(!tree.has("target/debug") && !tree.has("tests/tests/hou"));
    assert!(tree.sources().iter().any(|s| s.path() == "tests/tests/house/tree.rs"));
}

#[test]
fn a_folder_without_git_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    for path in ["src/lib.rs", "target/debug/out.rs", "README.md"] {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "//! text\n").unwrap();
    }
    let found: Vec<String> = found_by_walking(folder.path()).into_iter().collect();
    assert_eq!(found, ["README.md", "src/lib.rs"]);
}
