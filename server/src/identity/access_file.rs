//! The access file: rules of the configuration for subjects, groups, and every client with a valid
//! token; and the subjects that have every right everywhere.

use std::collections::HashMap;

use landfall_protocol::DocumentId;
use landfall_protocol::access::{Rights, Rule, SpacePattern};
use serde::Deserialize;
use thiserror::Error;

use crate::limits;

/// The rules of an access file, by whom they are for.
#[derive(Debug, Default, PartialEq)]
pub(super) struct AccessRules {
    rules: HashMap<Who, Vec<Rule>>,
}

/// Whom a rule is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    Subject(String),
    Group(String),
    Anyone,
}

/// Why an access file or a list of revoked tokens cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigFileError {
    /// Not JSON, or not of the right form.
    #[error("line {line}, column {column}: {what}")]
    Form {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// The error at that position.
        what: String,
    },
    /// More rules than one relay takes.
    #[error("it has {actual} rules, more than {}", limits::ACCESS_RULES)]
    TooMany {
        /// How many.
        actual: usize,
    },
}

impl ConfigFileError {
    pub(super) fn of_json(error: serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        let what = error.to_string();
        // The position is a field of its own.
        let what = what.rsplit_once(" at line ").map_or(what.as_str(), |(what, _)| what);
        Self::Form { line, column, what: what.to_owned() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rules: Vec<FileRule>,
    #[serde(default)]
    admins: Vec<String>,
}

#[derive(Deserialize)]
#[serde(try_from = "RawRule")]
struct FileRule {
    who: Who,
    rule: Rule,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    subject: Option<String>,
    group: Option<String>,
    anyone: Option<bool>,
    spaces: Parsed<SpacePattern>,
    document: Option<Parsed<DocumentId>>,
    rights: Vec<Parsed<Rights>>,
}

/// A text that is parsed where it stands, so that an error has its position.
struct Parsed<T>(T);

impl<'de, T> Deserialize<'de> for Parsed<T>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

impl TryFrom<RawRule> for FileRule {
    type Error = &'static str;

    fn try_from(raw: RawRule) -> Result<Self, Self::Error> {
        let who = match (raw.subject, raw.group, raw.anyone) {
            (Some(subject), None, None) => Who::Subject(subject),
            (None, Some(group), None) => Who::Group(group),
            (None, None, Some(true)) => Who::Anyone,
            _ => {
                return Err(
                    "a rule has exactly one of `\"subject\": \"…\"`, `\"group\": \"…\"` and `\"anyone\": true`",
                );
            }
        };
        let rights = raw.rights.into_iter().map(|right| right.0).collect();
        let document = raw.document.map(|document| document.0);
        Ok(Self { who, rule: Rule { spaces: raw.spaces.0, document, rights } })
    }
}

impl AccessRules {
    pub(super) fn parse(content: &[u8]) -> Result<Self, ConfigFileError> {
        let file: File = serde_json::from_slice(content).map_err(ConfigFileError::of_json)?;
        let actual = file.rules.len() + file.admins.len();
        if actual > limits::ACCESS_RULES {
            return Err(ConfigFileError::TooMany { actual });
        }
        let everything =
            || Rule { spaces: SpacePattern::every(), document: None, rights: Rights::ALL };
        let admins = file.admins.into_iter().map(|subject| (Who::Subject(subject), everything()));
        let mut rules: HashMap<Who, Vec<Rule>> = HashMap::new();
        for (who, rule) in file.rules.into_iter().map(|rule| (rule.who, rule.rule)).chain(admins) {
            rules.entry(who).or_default().push(rule);
        }
        Ok(Self { rules })
    }

    /// The rules that apply to a subject and its groups.
    pub(super) fn applying<'a>(
        &'a self,
        subject: &str,
        groups: impl IntoIterator<Item = &'a String>,
    ) -> Vec<Rule> {
        let groups = groups.into_iter().map(|group| Who::Group(group.clone()));
        let whom = [Who::Anyone, Who::Subject(subject.to_owned())].into_iter().chain(groups);
        whom.filter_map(|who| self.rules.get(&who)).flatten().cloned().collect()
    }
}
