//! Walks a parsed file once and collects statements and code that is compiled for tests only.

use std::ops::RangeInclusive;

use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Expr, Meta, Stmt};

/// First and last line, from 1.
pub(crate) type Span = RangeInclusive<usize>;

/// The result of [`of`].
#[derive(Default)]
pub(crate) struct Survey {
    /// Statements that are not blocks, and constants: a comment above one of them can excuse it.
    pub(crate) statements: Vec<Span>,
    /// Code that is compiled for tests only.
    pub(crate) tests: Vec<Span>,
    /// Test-only modules that live in other files: `a/b.rs`, and `a/b/` for its submodules.
    pub(crate) test_modules: Vec<String>,
    /// The folder in which a module declared here would live.
    folder: String,
}

pub(crate) fn of(path: &str, file: &syn::File) -> Survey {
    let mut survey = Survey { folder: folder_of_modules(path), ..Survey::default() };
    survey.note_tests(&file.attrs, file);
    survey.visit_file(file);
    survey
}

fn folder_of_modules(path: &str) -> String {
    let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
    match name.trim_end_matches(".rs") {
        "lib" | "main" | "mod" => folder.to_owned(),
        stem => format!("{folder}/{stem}"),
    }
}

impl Survey {
    fn note_tests(&mut self, attributes: &[Attribute], item: &impl Spanned) {
        if attributes.iter().any(is_for_tests) {
            self.tests.push(lines_of(item));
        }
    }
}

impl<'ast> Visit<'ast> for Survey {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.note_tests(&item.attrs, item);
        let name = item.ident.to_string();
        if item.content.is_none() && item.attrs.iter().any(is_for_tests) {
            let below = format!("{}/{name}/", self.folder);
            self.test_modules.extend([format!("{}/{name}.rs", self.folder), below]);
        }
        let outside = self.folder.clone();
        self.folder = format!("{outside}/{name}");
        visit::visit_item_mod(self, item);
        self.folder = outside;
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.note_tests(&item.attrs, item);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.note_tests(&item.attrs, item);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.note_tests(&item.attrs, item);
        visit::visit_item_impl(self, item);
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.note_tests(&item.attrs, item);
        self.statements.push(lines_of(item));
        visit::visit_item_const(self, item);
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.note_tests(&item.attrs, item);
        self.statements.push(lines_of(item));
        visit::visit_item_static(self, item);
    }

    fn visit_stmt(&mut self, statement: &'ast Stmt) {
        if !is_block(statement) {
            self.statements.push(lines_of(statement));
        }
        visit::visit_stmt(self, statement);
    }
}

fn lines_of(item: &impl Spanned) -> Span {
    let span = item.span();
    span.start().line..=span.end().line
}

/// A comment cannot excuse a whole block, only the statements in it.
fn is_block(statement: &Stmt) -> bool {
    match statement {
        Stmt::Local(_) | Stmt::Macro(_) => false,
        Stmt::Item(_) => true,
        Stmt::Expr(expression, _) => matches!(
            expression,
            Expr::Block(_)
                | Expr::Unsafe(_)
                | Expr::Async(_)
                | Expr::If(_)
                | Expr::Match(_)
                | Expr::Loop(_)
                | Expr::While(_)
                | Expr::ForLoop(_)
        ),
    }
}

/// `#[test]`, `#[tokio::test]`, `#[cfg(test)]`, `#[cfg(all(test, …))]`.
fn is_for_tests(attribute: &Attribute) -> bool {
    let last = attribute.path().segments.last().map(|segment| segment.ident.to_string());
    match (&attribute.meta, last.as_deref()) {
        (Meta::Path(_), Some("test")) => true,
        (Meta::List(_), Some("test")) => attribute.path().segments.len() > 1,
        (Meta::List(list), Some("cfg")) => {
            let condition = list.tokens.to_string().replace(' ', "");
            condition == "test" || condition.starts_with("all(test,")
        }
        _ => false,
    }
}
