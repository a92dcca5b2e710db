//! The documents that a subscription is answered about.

use crate::frame::{Documents, Filter};
use crate::ids::DocumentId;

/// The documents that match a subscription's filter and that its principal may read. A relay asks
/// the view, never the filter, before it reads or sends anything for a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// `None` for every document of the space.
    documents: Option<Documents>,
    /// Whether the principal may read the whole space.
    is_unrestricted: bool,
}

impl View {
    /// Every document of the space, for callers without a principal, such as the relay itself.
    pub fn everything() -> Self {
        Self { documents: None, is_unrestricted: true }
    }

    /// These documents, for callers without a principal.
    pub fn of_documents(documents: impl IntoIterator<Item = DocumentId>) -> Self {
        Self::unrestricted(&Filter::of_documents(documents))
    }

    /// The filter's documents, for a principal that may read the whole space.
    pub fn unrestricted(filter: &Filter) -> Self {
        let documents = match filter {
            Filter::Everything => None,
            Filter::Documents(documents) => Some(documents.clone()),
        };
        Self { documents, is_unrestricted: true }
    }

    /// The filter's documents among these.
    pub(super) fn of_readable(filter: &Filter, readable: impl Iterator<Item = DocumentId>) -> Self {
        let documents = readable.filter(|document| filter.wants(document)).collect();
        Self { documents: Some(documents), is_unrestricted: false }
    }

    /// Whether a document belongs to it.
    pub fn contains(&self, document: &DocumentId) -> bool {
        match &self.documents {
            None => true,
            Some(documents) => documents.binary_search(document).is_ok(),
        }
    }

    /// Its documents in order of their ids; `None` for every document of the space.
    pub fn documents(&self) -> Option<&Documents> {
        self.documents.as_ref()
    }

    /// Whether it has every document of the space.
    pub fn is_whole_space(&self) -> bool {
        self.documents.is_none()
    }

    /// Whether the principal may read every document of the space: only then may it learn the
    /// digests of prefixes.
    pub fn is_unrestricted(&self) -> bool {
        self.is_unrestricted
    }
}
