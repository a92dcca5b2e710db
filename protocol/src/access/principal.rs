//! Who a client is, as its token says, and the rules that follow from that.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::{Rights, Rule, SpacePattern, View};
use crate::frame::Filter;
use crate::ids::{DocumentId, ReplicaId, Scope, SpaceName};
use crate::limits;

/// The name of a principal: at most [`limits::AUTHOR_BYTES`] bytes, since it becomes the author of
/// entries.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject(Arc<str>);

/// Marks the subjects that are hashes.
const HASHED: &str = "h:";

impl Subject {
    /// A name as it is, if it is short enough; otherwise `h:` and the first 31 bytes of its SHA-256
    /// in hex. A short name that begins with `h:` is hashed too, so that no two names collide.
    pub fn new(name: &str) -> Self {
        if name.len() <= limits::AUTHOR_BYTES && !name.starts_with(HASHED) {
            return Self(name.into());
        }
        let hash: [u8; 32] = Sha256::digest(name.as_bytes()).into();
        Self(format!("{HASHED}{}", hex::encode(&hash[..31])).into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An identified client, or in open mode any client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Its name; `None` in open mode, where each client's replica is its name.
    pub subject: Option<Subject>,
    /// The groups that it belongs to.
    pub groups: BTreeSet<String>,
    /// Its rules, of its token and of the configuration. At most [`limits::PRINCIPAL_RULES`].
    pub rules: Vec<Rule>,
    /// When the token ends, in milliseconds of Unix time.
    pub expires_ms: Option<u64>,
}

impl Principal {
    /// Any client of a relay without authentication: it has every right.
    pub fn open() -> Self {
        let rule = Rule { spaces: SpacePattern::every(), document: None, rights: Rights::ALL };
        Self { subject: None, groups: BTreeSet::new(), rules: vec![rule], expires_ms: None }
    }

    fn rules_of<'a>(&'a self, space: &'a SpaceName) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().filter(|rule| rule.spaces.matches(space))
    }

    /// Its rights on every document of a space, and on the space.
    pub fn rights_on_space(&self, space: &SpaceName) -> Rights {
        self.rules_of(space)
            .filter(|rule| rule.document.is_none())
            .map(|rule| rule.rights)
            .collect()
    }

    /// Its rights on a document.
    pub fn rights(&self, space: &SpaceName, document: &DocumentId) -> Rights {
        let applies = |rule: &&Rule| rule.document.is_none_or(|named| named == *document);
        self.rules_of(space).filter(applies).map(|rule| rule.rights).collect()
    }

    /// Whether it has any right in a space: otherwise the space does not exist for it.
    pub fn knows_space(&self, space: &SpaceName) -> bool {
        self.rules_of(space).any(|rule| !rule.rights.is_empty())
    }

    /// The documents that match a filter and that it may read.
    pub fn view(&self, space: &SpaceName, filter: &Filter) -> View {
        if self.rights_on_space(space).includes(Rights::READ) {
            return View::unrestricted(filter);
        }
        let readable = self.rules_of(space).filter(|rule| rule.rights.includes(Rights::READ));
        View::of_readable(filter, readable.filter_map(|rule| rule.document))
    }

    /// The fingerprint of a subscription with this filter: a cursor of another one is not honoured.
    pub fn scope(&self, space: &SpaceName, filter: &Filter) -> Scope {
        let Some(subject) = &self.subject else { return filter.scope() };
        let mut hasher = Sha256::new();
        hasher.update(b"landfall scope principal");
        let mut text = |text: &str| {
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        text(subject.as_str());
        self.groups.iter().for_each(|group| text(group));
        hasher.update(b"rules");
        let rules: BTreeSet<&Rule> = self.rules_of(space).collect();
        for rule in rules {
            hasher.update([rule.rights.bits(), u8::from(rule.document.is_some())]);
            rule.document.iter().for_each(|document| hasher.update(document.as_bytes()));
        }
        hasher.update(b"filter");
        hasher.update(filter.scope().0.to_le_bytes());
        Scope::of_hash(hasher.finalize().into())
    }
}

/// Why a client could not be identified.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdentifyError {
    /// The token is missing, wrong or expired. The client must bring another one.
    #[error("{what}; {hint}")]
    Rejected {
        /// The defect of the token. Never contains the token.
        what: String,
        /// The remedy.
        hint: String,
    },
    /// The relay cannot verify tokens now, such as when the issuer's keys cannot be fetched. The
    /// same token may be accepted later.
    #[error("{what}; try again in {retry_after:?}")]
    Unavailable {
        /// The cause.
        what: String,
        /// The wait before the next attempt.
        retry_after: Duration,
    },
}

/// The identity of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The client's store.
    pub replica: ReplicaId,
    /// Who it is.
    pub principal: Arc<Principal>,
}

impl Identity {
    /// The author of its entries, at most [`limits::AUTHOR_BYTES`]: its subject, or in open mode its
    /// replica.
    pub fn author(&self) -> Vec<u8> {
        match &self.principal.subject {
            Some(subject) => subject.as_str().as_bytes().to_vec(),
            None => self.replica.as_bytes().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(n: u8) -> DocumentId {
        DocumentId::from_bytes([n; 16])
    }

    fn alice(rules: Vec<Rule>) -> Principal {
        let subject = Some(Subject::new("alice"));
        Principal { subject, groups: BTreeSet::new(), rules, expires_ms: None }
    }

    fn rule(spaces: &str, document: Option<DocumentId>, rights: Rights) -> Rule {
        Rule { spaces: spaces.parse().unwrap(), document, rights }
    }

    #[test]
    fn long_subjects_are_hashed_and_never_equal_a_short_one() {
        assert_eq!(Subject::new("alice").as_str(), "alice");
        let long = Subject::new(&"x".repeat(65));
        assert_eq!(long.as_str().len(), 64);
        assert!(long.as_str().starts_with("h:"));
        assert_ne!(Subject::new(long.as_str()), long);
    }

    #[test]
    fn rights_are_the_union_of_the_rules_that_match() {
        let space: SpaceName = "team-a".parse().unwrap();
        let alice = alice(vec![
            rule("team-*", None, Rights::READ),
            rule("team-a", Some(document(1)), Rights::DELETE),
            rule("team-b", None, Rights::ALL),
        ]);
        assert_eq!(alice.rights(&space, &document(2)), Rights::READ);
        assert_eq!(alice.rights(&space, &document(1)), Rights::DELETE);
        assert_eq!(alice.rights_on_space(&space), Rights::READ);
        assert!(!alice.knows_space(&"other".parse().unwrap()));
        assert!(alice.rights(&"other".parse().unwrap(), &document(1)).is_empty());
    }

    #[test]
    fn a_view_is_the_filter_and_the_readable_documents() {
        let space: SpaceName = "s".parse().unwrap();
        let some = alice(vec![
            rule("s", Some(document(1)), Rights::READ),
            rule("s", Some(document(2)), Rights::WRITE),
            rule("s", Some(document(3)), Rights::CREATE),
        ]);
        let view = some.view(&space, &Filter::Everything);
        assert!(view.contains(&document(1)) && view.contains(&document(2)));
        assert!(!view.contains(&document(3)) && !view.is_whole_space());
        let view = some.view(&space, &Filter::of_documents([document(2), document(4)]));
        assert!(view.contains(&document(2)));
        assert!(!view.contains(&document(1)) && !view.contains(&document(4)));
        assert!(Principal::open().view(&space, &Filter::Everything).is_whole_space());
    }

    #[test]
    fn a_scope_changes_with_the_subject_the_groups_and_the_rules_of_the_space() {
        let space: SpaceName = "s".parse().unwrap();
        let scope = |principal: &Principal| principal.scope(&space, &Filter::Everything);
        let base = alice(vec![rule("s", None, Rights::READ)]);
        let mut others = vec![
            Principal { subject: Some(Subject::new("bob")), ..base.clone() },
            Principal { groups: ["g".to_owned()].into(), ..base.clone() },
            alice(vec![rule("s", None, Rights::WRITE)]),
            alice(vec![rule("s", Some(document(1)), Rights::READ)]),
        ];
        others.iter().for_each(|other| assert_ne!(scope(other), scope(&base), "{other:?}"));
        assert_ne!(base.scope(&space, &Filter::of_documents([document(1)])), scope(&base));
        // Rules of other spaces and their order are not part of it.
        others = vec![alice(vec![rule("t", None, Rights::ALL), rule("s", None, Rights::READ)])];
        others.iter().for_each(|other| assert_eq!(scope(other), scope(&base)));
        assert_eq!(scope(&Principal::open()), Scope::WHOLE_SPACE);
    }
}
