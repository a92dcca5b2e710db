//! The findings that a rule reports, and how they become a failed test.

use std::fmt;

/// One place that breaks a rule. Line 0 means the file as a whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    what: String,
    remedy: String,
}

impl Finding {
    pub(crate) fn new(
        path: impl Into<String>,
        line: usize,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { path: path.into(), line, what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}; {}", self.path, self.line.max(1), self.what, self.remedy)
    }
}

/// Fails the calling test with all findings, one a line.
#[track_caller]
pub(crate) fn assert_none(mut findings: Vec<Finding>) {
    findings.sort();
    let list: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "{} broken house rule(s):\n{}", list.len(), list.join("\n"));
}

/// For the tests of the rules: asserts that exactly these `path:line` are found, in this order.
#[track_caller]
pub(crate) fn assert_found(mut findings: Vec<Finding>, expected: &[&str]) {
    findings.sort();
    let found: Vec<String> = findings.iter().map(|f| format!("{}:{}", f.path, f.line)).collect();
    assert_eq!(found, expected, "{findings:#?}");
}

#[test]
fn a_finding_prints_place_problem_and_remedy() {
    let finding = Finding::new("a/b.rs", 7, "panics", "return an error");
    assert_eq!(finding.to_string(), "a/b.rs:7: panics; return an error");
}

#[test]
#[should_panic(expected = "1 broken house rule(s):\na/b.rs:7: panics; return an error")]
fn findings_fail_a_test() {
    assert_none(vec![Finding::new("a/b.rs", 7, "panics", "return an error")]);
}
