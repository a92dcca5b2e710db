//! Rules: rights on the spaces whose names match a pattern, or on one document there.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::Rights;
use crate::ids::{DocumentId, SpaceName};

/// A space's name, or the beginning of names followed by `*`. `*` alone matches every space.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpacePattern {
    start: String,
    is_prefix: bool,
}

/// Why a text is not a pattern of space names.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PatternError {
    /// A `*` before the end.
    #[error(
        "{pattern:?} has a * that is not its last character; write the start of the names, then *"
    )]
    Star {
        /// The text.
        pattern: String,
    },
    /// Without the `*`, no space's name can begin with it.
    #[error("{pattern:?} matches no space: {what}")]
    Name {
        /// The text.
        pattern: String,
        /// The defect of the name.
        what: String,
    },
}

impl SpacePattern {
    /// Every space.
    pub fn every() -> Self {
        Self { start: String::new(), is_prefix: true }
    }

    /// Exactly this space.
    pub fn exactly(space: &SpaceName) -> Self {
        Self { start: space.as_str().to_owned(), is_prefix: false }
    }

    /// Whether a space's name matches.
    pub fn matches(&self, space: &SpaceName) -> bool {
        match self.is_prefix {
            true => space.as_str().starts_with(&self.start),
            false => space.as_str() == self.start,
        }
    }
}

impl FromStr for SpacePattern {
    type Err = PatternError;

    fn from_str(pattern: &str) -> Result<Self, PatternError> {
        let shown = || crate::frame::fit(pattern.to_owned());
        let (start, is_prefix) = match pattern.strip_suffix('*') {
            Some(start) => (start, true),
            None => (pattern, false),
        };
        if start.contains('*') {
            return Err(PatternError::Star { pattern: shown() });
        }
        if is_prefix && start.is_empty() {
            return Ok(Self::every());
        }
        match start.parse::<SpaceName>() {
            Ok(_) => Ok(Self { start: start.to_owned(), is_prefix }),
            Err(error) => Err(PatternError::Name { pattern: shown(), what: error.to_string() }),
        }
    }
}

impl fmt::Display for SpacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.start)?;
        f.write_str(if self.is_prefix { "*" } else { "" })
    }
}

/// Rights on every document of the matching spaces, or on one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// The spaces.
    pub spaces: SpacePattern,
    /// The document; `None` for every document, and for the space itself.
    pub document: Option<DocumentId>,
    /// The rights.
    pub rights: Rights,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(name: &str) -> SpaceName {
        name.parse().unwrap()
    }

    #[test]
    fn a_pattern_matches_a_name_or_a_prefix() {
        let team: SpacePattern = "team-*".parse().unwrap();
        assert!(team.matches(&space("team-a")) && !team.matches(&space("tea")));
        let exact: SpacePattern = "team-a".parse().unwrap();
        assert!(exact.matches(&space("team-a")) && !exact.matches(&space("team-ab")));
        let every: SpacePattern = "*".parse().unwrap();
        assert!(every.matches(&space("x")) && every == SpacePattern::every());
        assert_eq!(team.to_string(), "team-*");
        assert_eq!(SpacePattern::exactly(&space("team-a")), exact);
    }

    #[test]
    fn a_pattern_that_can_match_nothing_is_an_error() {
        for bad in ["a*b", "**", "", "no spaces", "*a"] {
            bad.parse::<SpacePattern>().unwrap_err();
        }
    }
}
