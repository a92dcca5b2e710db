//! An application for the crash tests that edits without pause until it is killed. It prints each
//! result as one whole line, at once.
//!
//! Usage: `typist STORE RELAY SPACE`. Lines: `begin DOCUMENT` before each `change()`,
//! `change DOCUMENT HASH` after it returned, `acked N` when the first N of these are acknowledged.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    reason = "a test fails by panicking"
)]

use std::error::Error;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use landfall::automerge::{ROOT, transaction::Transactable};
use landfall::{Document, LinkOptions, Options, Store};

/// The number of documents, each edited by its own thread, so that changes share commits.
const DOCUMENTS: usize = 2;

/// The number of printed changes. Incremented after the line, so it never runs ahead of the output.
static PRINTED: AtomicU64 = AtomicU64::new(0);

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, relay, space] = arguments.as_slice() else {
        return Err("usage: typist STORE RELAY SPACE".into());
    };
    // It compacts without a recent window, so that some kills hit a compaction.
    let options = Options::default().keep_recent(0).keep_recent_age(Duration::ZERO);
    let store = Store::open(path, options)?;
    let space = store.space(space)?;
    let link = LinkOptions::from(relay.as_str()).reconnect_first(Duration::from_millis(20));
    store.connect(link)?;
    let documents: Vec<Document> = (0..DOCUMENTS)
        .map(|number| space.create_named(&format!("typed {number}"), |_| Ok(())))
        .collect::<Result<_, _>>()?;
    std::thread::scope(|scope| {
        let typing: Vec<_> =
            documents.iter().map(|document| scope.spawn(|| type_on(document))).collect();
        scope.spawn(|| acknowledge(&store));
        typing.into_iter().try_for_each(|thread| thread.join().unwrap_or(Ok(())))
    })
}

/// Changes a document until the disk or the reader of the output fails.
fn type_on(document: &Document) -> Result<(), Box<dyn Error + Send + Sync>> {
    for number in 0_i64.. {
        line(&format!("begin {}\n", document.id()))?;
        document.change(|tx| {
            // A value equal to the present one, perhaps from an earlier run, would make no change.
            tx.put(ROOT, "who", format!("{} {number}", std::process::id()))?;
            Ok(tx.put(ROOT, format!("key {}", number % 7), "typed, typed, typed")?)
        })?;
        // No other thread edits this document, so its head is the new change.
        let head = document.heads()?.first().copied().ok_or("a document without a head")?;
        line(&format!("change {} {head}\n", document.id()))?;
        PRINTED.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

/// Prints a line each time the relay has acknowledged everything printed before.
fn acknowledge(store: &Store) {
    loop {
        let before = PRINTED.load(Ordering::SeqCst);
        if store.flush_blocking(Duration::from_secs(60)).is_ok()
            && line(&format!("acked {before}\n")).is_err()
        {
            return;
        }
    }
}

/// Writes each line with one call. A kill cannot cut it, because it is shorter than a pipe's page.
fn line(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
