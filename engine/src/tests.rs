//! Tests that reach inside: commits that fail, and documents that automerge cannot take.

mod arrivals;
mod commits;
mod poisoned;
mod skipping;

use crate::{Document, Options, Store};

fn store() -> Store {
    Store::in_memory(Options::default()).unwrap()
}

fn text_of(document: &Document) -> String {
    use automerge::{ROOT, ReadDoc};
    document
        .read(|doc| doc.get(ROOT, "text").unwrap().map(|(value, _)| value.to_string()))
        .unwrap()
        .unwrap_or_default()
}

fn put(document: &Document, value: &str) -> Result<(), crate::ChangeError> {
    use automerge::{ROOT, transaction::Transactable};
    document.change(|tx| Ok(tx.put(ROOT, "text", value)?))
}
