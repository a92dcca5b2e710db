//! Tests with access to internals: failing commits, and documents that automerge cannot read.

mod arrivals;
mod branches;
mod busy_writers;
mod closing;
mod commits;
mod compacted;
#[cfg(target_os = "linux")]
mod containers;
mod contended;
mod links;
mod many_heads;
mod memory;
mod poisoned;
mod random;
mod reauthored;
mod removal;
mod skipping;
mod status;
mod status_model;
mod store_budget;
mod store_compaction;
mod store_compactor;
mod store_comparing;
mod store_costs;
mod store_damage;
mod store_files;
mod store_fixture;
mod store_kept;
mod store_oversized;
mod store_portable;
mod store_random;
mod store_receiving;
mod store_refused;
mod store_resend;
mod store_support;
mod threads;
mod urls;
mod wakers;

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
