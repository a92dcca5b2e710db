//! One Rust file as the rules see it: its words with their lines (comments and literals are not words), and
//! which lines are test code.

use proc_macro2::{TokenStream, TokenTree};

use super::survey::{self, Survey};

/// An identifier or a punctuation character, and its line (from 1).
struct Word {
    text: String,
    line: usize,
}

/// A parsed Rust file.
pub(crate) struct Source {
    path: String,
    lines: Vec<String>,
    words: Vec<Word>,
    survey: Survey,
    broken: Option<(usize, String)>,
    all_test: bool,
}

impl Source {
    pub(crate) fn read(path: &str, text: &str) -> Self {
        let mut source = Self {
            path: path.to_owned(),
            lines: text.lines().map(str::to_owned).collect(),
            words: Vec::new(),
            survey: Survey::default(),
            broken: None,
            all_test: path.split('/').any(|part| ["tests", "benches", "examples"].contains(&part)),
        };
        match syn::parse_file(text) {
            Ok(file) => source.survey = survey::of(path, &file),
            Err(error) => source.broken = Some((error.span().start().line, error.to_string())),
        }
        if let Ok(tokens) = text.parse::<TokenStream>() {
            flatten(tokens, &mut source.words);
        }
        source
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The line of a parse error and its reason, if the file does not parse.
    pub(crate) fn broken(&self) -> Option<&(usize, String)> {
        self.broken.as_ref()
    }

    /// Files (`a/b.rs`) and folders (`a/b/`) that this file declares as modules for tests only.
    pub(crate) fn test_modules(&self) -> &[String] {
        &self.survey.test_modules
    }

    pub(crate) fn learn_test_modules(&mut self, modules: &[String]) {
        self.all_test |= modules
            .iter()
            .any(|m| *m == self.path || (m.ends_with('/') && self.path.starts_with(m.as_str())));
    }

    /// Whether the line is test code: by its folder, by `#[cfg(test)]`, or in a test function.
    pub(crate) fn is_test(&self, line: usize) -> bool {
        self.all_test || self.survey.tests.iter().any(|span| span.contains(&line))
    }

    /// The lines with any of these identifiers, and the identifier.
    pub(crate) fn names<'a>(
        &'a self,
        names: &'a [&'a str],
    ) -> impl Iterator<Item = (usize, &'a str)> {
        let hits = self.words.iter().filter(move |word| names.contains(&word.text.as_str()));
        hits.map(|word| (word.line, word.text.as_str()))
    }

    /// The lines where these words occur in sequence.
    pub(crate) fn sequence<'a>(&'a self, words: &'a [&'a str]) -> impl Iterator<Item = usize> {
        self.words
            .windows(words.len())
            .filter(move |window| window.iter().map(|w| w.text.as_str()).eq(words.iter().copied()))
            .map(|window| window[window.len() - 1].line)
    }

    /// The lines that call the macro.
    pub(crate) fn macro_calls<'a>(&'a self, name: &'a str) -> impl Iterator<Item = usize> {
        self.words
            .windows(3)
            .filter(move |w| w[0].text == name && w[1].text == "!")
            .filter(|w| ["(", "[", "{"].contains(&w[2].text.as_str()))
            .map(|w| w[0].line)
    }

    /// Every path in the source, with `use` groups expanded: `std::{fs, time::Instant}` gives `std::fs` and
    /// `std::time::Instant`.
    pub(crate) fn paths(&self) -> Vec<(Vec<&str>, usize)> {
        let mut paths = Vec::new();
        let mut at = 0;
        while at < self.words.len() {
            at = self.path_from(at, &[], &mut paths);
        }
        paths
    }

    fn path_from<'a>(
        &'a self,
        mut at: usize,
        before: &[&'a str],
        paths: &mut Vec<(Vec<&'a str>, usize)>,
    ) -> usize {
        let word = |at: usize| self.words.get(at).map_or("", |word| word.text.as_str());
        if !is_identifier(word(at)) && word(at) != "*" {
            return at + 1;
        }
        let line = self.words[at].line;
        let mut path = before.to_vec();
        path.push(word(at));
        at += 1;
        while word(at) == ":" && word(at + 1) == ":" {
            if is_identifier(word(at + 2)) || word(at + 2) == "*" {
                path.push(word(at + 2));
                at += 3;
            } else if word(at + 2) == "{" {
                at += 3;
                while at < self.words.len() && word(at) != "}" {
                    at = self.path_from(at, &path, paths);
                }
                return at + 1;
            } else {
                break;
            }
        }
        paths.push((path, line));
        if word(at) == "as" { at + 2 } else { at }
    }

    /// Whether a comment that starts with `marker` is on the line, or directly above it or above the
    /// statement that contains it (attributes and further comment lines may lie between).
    pub(crate) fn is_excused(&self, line: usize, marker: &str) -> bool {
        let statement = self.survey.statements.iter().filter(|span| span.contains(&line));
        let start = statement.min_by_key(|span| span.end() - span.start()).map(|s| *s.start());
        self.text_of(line).contains(marker)
            || self.is_under(line, marker)
            || start.is_some_and(|start| self.is_under(start, marker))
    }

    fn is_under(&self, line: usize, marker: &str) -> bool {
        let above = (1..line).rev().map(|number| self.text_of(number).trim_start());
        above
            .take_while(|text| text.starts_with("//") || text.starts_with("#["))
            .any(|text| text.starts_with(marker))
    }

    fn text_of(&self, line: usize) -> &str {
        self.lines.get(line.wrapping_sub(1)).map_or("", String::as_str)
    }
}

fn is_identifier(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn flatten(tokens: TokenStream, words: &mut Vec<Word>) {
    let mut push =
        |text: String, span: proc_macro2::Span| words.push(Word { text, line: span.start().line });
    let mut stack = vec![tokens.into_iter()];
    let mut closers: Vec<(&str, proc_macro2::Span)> = Vec::new();
    while let Some(level) = stack.last_mut() {
        match level.next() {
            Some(TokenTree::Ident(ident)) => push(ident.to_string(), ident.span()),
            Some(TokenTree::Punct(punct)) => push(punct.as_char().to_string(), punct.span()),
            // A literal becomes a word that equals no identifier: it only separates its neighbours.
            Some(TokenTree::Literal(literal)) => push(String::from("\""), literal.span()),
            Some(TokenTree::Group(group)) => {
                let (open, close) = match group.delimiter() {
                    proc_macro2::Delimiter::Parenthesis => ("(", ")"),
                    proc_macro2::Delimiter::Brace => ("{", "}"),
                    proc_macro2::Delimiter::Bracket => ("[", "]"),
                    proc_macro2::Delimiter::None => ("", ""),
                };
                push(open.to_owned(), group.span_open());
                closers.push((close, group.span_close()));
                stack.push(group.stream().into_iter());
            }
            None => {
                stack.pop();
                if let Some((close, span)) = closers.pop() {
                    push(close.to_owned(), span);
                }
            }
        }
    }
}

#[test]
fn comments_and_literals_are_not_words() {
    let text =
        "//! Foo\n/// Foo\nfn a() {\n  // Foo\n  let s = \"Foo\";\n  Foo::new(); m!(Foo);\n}\n";
    let source = Source::read("a.rs", text);
    let lines: Vec<usize> = source.names(&["Foo"]).map(|(line, _)| line).collect();
    assert_eq!(lines, [6, 6]);
}

#[test]
fn use_groups_are_spelled_out() {
    let source =
        Source::read("a.rs", "use std::{fs, time::{Instant as I, *}};\nlet x = a::b::<T>();");
    let paths: Vec<String> = source.paths().iter().map(|(path, _)| path.join("::")).collect();
    for path in ["std::fs", "std::time::Instant", "std::time::*", "a::b", "T"] {
        assert!(paths.iter().any(|p| p == path), "{path} in {paths:?}");
    }
}

#[test]
fn test_code_is_identified_by_its_location() {
    let text =
        "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\n#[tokio::test]\nasync fn c() {}\n";
    let source = Source::read("x/src/a.rs", text);
    let tests: Vec<usize> = (1..=7).filter(|line| source.is_test(*line)).collect();
    assert_eq!(tests, [2, 3, 4, 5, 6, 7]);
    assert!(Source::read("x/tests/a.rs", text).is_test(1));
}

#[test]
fn a_test_module_in_a_file_of_its_own_is_test_code() {
    let tree = super::tree::Tree::sample(&[
        ("x/src/lib.rs", "#[cfg(test)]\nmod checks;\nmod log;"),
        ("x/src/checks.rs", "mod deep;"),
        ("x/src/checks/deep.rs", "fn a() {}"),
        ("x/src/log.rs", "#[cfg(all(test, unix))]\nmod trials;"),
        ("x/src/log/trials.rs", "fn a() {}"),
    ]);
    let tests: Vec<&str> =
        tree.sources().iter().filter(|s| s.is_test(1)).map(Source::path).collect();
    assert_eq!(
        tests,
        [
            "x/src/checks.rs",
            "x/src/checks/deep.rs",
            "x/src/lib.rs",
            "x/src/log.rs",
            "x/src/log/trials.rs"
        ]
    );
}

#[test]
fn a_parse_error_names_its_position() {
    assert_eq!(Source::read("a.rs", "fn a() {}\nfn {").broken().unwrap().0, 2);
}
