//! Errors with their causes, as text.

use std::error::Error;

/// An error and its causes in one line, each once: many errors repeat their cause in their own text.
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::BadSpaceName;

    #[derive(Debug, thiserror::Error)]
    #[error("{what}")]
    struct Outer {
        what: &'static str,
        source: BadSpaceName,
    }

    #[test]
    fn each_cause_appears_once() {
        let source = "".parse::<crate::SpaceName>().unwrap_err();
        let cause = source.to_string();
        let outer = Outer { what: "cannot open it", source: source.clone() };
        assert_eq!(error_chain(&outer), format!("cannot open it: {cause}"));
        let repeated: &'static str = format!("cannot open it: {cause}").leak();
        assert_eq!(error_chain(&Outer { what: repeated, source }), repeated);
    }
}
