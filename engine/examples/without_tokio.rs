//! Landfall in a program without an async runtime: every call has a blocking form.
//!
//! `cargo run -p landfall --example without_tokio`

use std::time::Duration;

use landfall::automerge::{ROOT, ReadDoc, transaction::Transactable};
use landfall::{Options, Store};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::in_memory(Options::default())?;
    let mut events = store.events();
    let (note, ()) = store.space("default")?.create(|tx| Ok(tx.put(ROOT, "title", "Hello")?))?;
    if let Some(event) = events.next_blocking() {
        println!("{:?}", event?.kind);
    }
    println!("title: {:?}", note.read(|doc| doc.get(ROOT, "title").map(|found| found.is_some()))?);
    match store.flush_blocking(Duration::from_secs(1)) {
        Ok(()) => println!("on the relay"),
        Err(error) => println!("saved here; {error}"),
    }
    store.close()?;
    Ok(())
}
