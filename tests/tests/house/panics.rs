//! No deliberate panics outside tests, unless a written invariant says why they cannot happen.

use super::finding::{Finding, assert_found, assert_none};
use super::source::Source;
use super::tree::Tree;

const MARKER: &str = "// invariant:";
const METHODS: &[&str] = &["unwrap", "expect", "unwrap_err", "expect_err"];
const MACROS: &[&str] = &["panic", "unreachable", "todo", "unimplemented"];

fn panics(tree: &Tree) -> Vec<Finding> {
    tree.sources().iter().flat_map(panics_of).collect()
}

fn panics_of(source: &Source) -> Vec<Finding> {
    let methods = METHODS.iter().flat_map(|method| {
        let lines: Vec<usize> = source.sequence(&[".", method, "("]).collect();
        lines.into_iter().map(move |line| (line, format!(".{method}()")))
    });
    let macros = MACROS
        .iter()
        .flat_map(|name| source.macro_calls(name).map(move |line| (line, format!("{name}!"))));
    methods
        .chain(macros)
        .filter(|(line, _)| !source.is_test(*line) && !source.is_excused(*line, MARKER))
        .map(|(line, call)| {
            let what = format!("`{call}` outside a test");
            let remedy = format!(
                "return a typed error, or write `{MARKER}` and the reason why it cannot fail above the statement"
            );
            Finding::new(source.path(), line, what, remedy)
        })
        .collect()
}

#[test]
fn nothing_panics_without_a_written_invariant() {
    assert_none(panics(Tree::repository()));
}

#[test]
fn a_panic_without_an_invariant_is_found() {
    let text = "\
//! `.unwrap()` in a comment is no call, and `unwrap_or` is another method.
fn a() {
    b.unwrap_or(1);
    b.unwrap();
    // invariant: never empty
    b.expect(\"never empty\");
    // invariant: the lock is ours,
    // for as long as we live
    #[allow(clippy::unwrap_used)]
    let c = b
        .lock()
        .unwrap();
    b.unwrap(); // invariant: checked above
    if x {
        panic!(\"no\");
    }
    // An invariant: not like that
    todo!()
}
#[cfg(test)]
mod tests {
    fn a() { b.unwrap(); }
}
// invariant: a constant
static D: LazyLock<u8> = LazyLock::new(|| \"1\".parse().unwrap());
fn e() { m!(unreachable!()) }
";
    let tree = Tree::sample(&[("a/src/lib.rs", text), ("a/tests/b.rs", "fn a() { b.unwrap() }")]);
    let lines = [4, 15, 18, 26].map(|line| format!("a/src/lib.rs:{line}"));
    assert_found(panics(&tree), &lines.each_ref().map(String::as_str));
}

#[test]
fn a_comment_above_a_block_does_not_excuse_what_is_inside() {
    let text = "fn a() {\n    // invariant: far away\n    if b {\n        c();\n        d.unwrap();\n    }\n}\n";
    assert_found(panics(&Tree::sample(&[("a/src/lib.rs", text)])), &["a/src/lib.rs:5"]);
}
