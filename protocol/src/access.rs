//! Access: who a client is ([`Principal`]), what its rules let it do ([`Rule`], [`Rights`]), and
//! which documents it sees ([`View`]). Knows no token, no clock and no store.
//!
//! Rights are the union of positive rules: no rule denies, and a principal without a rule has no
//! right. A relay answers about a document that the principal may not read exactly as about one
//! that does not exist, because it gives every answer through a [`View`].

mod principal;
mod rights;
mod rule;
mod view;

pub use principal::{IdentifyError, Identity, Principal, Subject};
pub use rights::{Rights, UnknownRight};
pub use rule::{PatternError, Rule, SpacePattern};
pub use view::View;
