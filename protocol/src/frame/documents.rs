//! The documents of a filter.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::DocumentId;

/// Documents in the order of their ids. Clones share one list: a filter is kept once for all its
/// users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents(Arc<[DocumentId]>);

impl Deref for Documents {
    type Target = [DocumentId];

    fn deref(&self) -> &[DocumentId] {
        &self.0
    }
}

/// Accepts any order and duplicates.
impl FromIterator<DocumentId> for Documents {
    fn from_iter<I: IntoIterator<Item = DocumentId>>(documents: I) -> Self {
        let sorted: BTreeSet<DocumentId> = documents.into_iter().collect();
        Self(sorted.into_iter().collect())
    }
}

impl Serialize for Documents {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_ref().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Documents {
    /// Keeps the peer's order. `Filter::wants` searches by id, so a peer that sends unsorted ids
    /// receives only some of these documents.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(|documents| Self(documents.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Filter;

    #[test]
    fn clones_of_a_filter_share_its_documents() {
        let ids = [3, 1, 2, 1].map(|byte| DocumentId::from_bytes([byte; 16]));
        let filter = Filter::of_documents(ids);
        let (Filter::Documents(one), Filter::Documents(other)) = (filter.clone(), filter) else {
            panic!("it names documents")
        };
        assert_eq!(*one, [ids[1], ids[2], ids[0]]);
        assert!(Arc::ptr_eq(&one.0, &other.0));
        // As many ids, and the two counters of the shared list.
        assert_eq!(size_of_val(&*one), 3 * size_of::<DocumentId>());
    }
}
