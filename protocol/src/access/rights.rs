//! The rights on a space or a document, as a set.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A set of rights. Write implies read; delete and admin imply write: the set of each contains
/// the implied ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Rights(u8);

const NAMES: [(&str, Rights); 5] = [
    ("read", Rights::READ),
    ("write", Rights::WRITE),
    ("create", Rights::CREATE),
    ("delete", Rights::DELETE),
    ("admin", Rights::ADMIN),
];

impl Rights {
    /// No right.
    pub const NONE: Self = Self(0);
    /// Receive a document: its entries, its ephemeral messages, that it exists.
    pub const READ: Self = Self(1);
    /// Add changes and snapshots to an existing document, and send ephemeral messages about it.
    pub const WRITE: Self = Self(2 | Self::READ.0);
    /// Push the first change of a document. A right on a space; implies nothing.
    pub const CREATE: Self = Self(4);
    /// Delete a document.
    pub const DELETE: Self = Self(8 | Self::WRITE.0);
    /// Give others rights.
    pub const ADMIN: Self = Self(16 | Self::WRITE.0);
    /// Every right.
    pub const ALL: Self = Self(31);

    /// The rights of both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it has every right of the other set.
    pub const fn includes(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether it has no right.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The set as a number, for fingerprints: bit 0 read, 1 write, 2 create, 3 delete, 4 admin.
    pub const fn bits(self) -> u8 {
        self.0
    }
}

impl FromIterator<Rights> for Rights {
    fn from_iter<I: IntoIterator<Item = Rights>>(sets: I) -> Self {
        sets.into_iter().fold(Self::NONE, Self::union)
    }
}

/// Not the name of a right.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a right; the rights are read, write, create, delete and admin")]
pub struct UnknownRight(pub String);

impl FromStr for Rights {
    type Err = UnknownRight;

    /// The set of one right, with what it implies.
    fn from_str(name: &str) -> Result<Self, UnknownRight> {
        let known = NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, rights)| *rights).ok_or_else(|| UnknownRight(crate::frame::fit(name.into())))
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = NAMES.iter().filter(|(_, rights)| self.includes(*rights));
        let names: Vec<&str> = names.map(|(name, _)| *name).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(", "))
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rights({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_includes_the_rights_that_it_implies_and_no_other() {
        let includes = |rights: Rights| {
            NAMES.iter().filter(move |(_, one)| rights.includes(*one)).map(|(name, _)| *name)
        };
        let of = |name: &str| -> Vec<&str> { includes(name.parse().unwrap()).collect() };
        assert_eq!(of("read"), ["read"]);
        assert_eq!(of("write"), ["read", "write"]);
        assert_eq!(of("create"), ["create"]);
        assert_eq!(of("delete"), ["read", "write", "delete"]);
        assert_eq!(of("admin"), ["read", "write", "admin"]);
        assert_eq!(Rights::ALL, NAMES.iter().map(|(_, rights)| *rights).collect());
    }

    #[test]
    fn an_unknown_name_is_an_error_that_lists_the_names() {
        let error = "Read".parse::<Rights>().unwrap_err();
        assert!(error.to_string().contains("read, write, create, delete and admin"), "{error}");
        assert_eq!(Rights::NONE.to_string(), "none");
        assert_eq!(Rights::CREATE.union(Rights::WRITE).to_string(), "read, write, create");
    }
}
