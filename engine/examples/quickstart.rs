//! The README's example. `cargo run -p landfall --example quickstart`
use std::time::Duration;

use landfall::automerge::{ObjType, ROOT, ReadDoc, transaction::Transactable};
use landfall::{Options, Store};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::open("hello.landfall", Options::default())?;
    let space = store.space("hello")?;
    store.connect("ws://127.0.0.1:7600")?; // optional, and never waited for

    let (note, text) = space.create(|tx| {
        let text = tx.put_object(ROOT, "text", ObjType::Text)?;
        tx.splice_text(&text, 0, 0, "Hello, world")?;
        Ok(text)
    })?; // it is on this disk now
    note.change(|tx| Ok(tx.splice_text(&text, 7, 5, "Landfall 🏝️")?))?;
    println!("{}: {}", note.id(), note.read(|doc| doc.text(&text))??);

    match store.flush_blocking(Duration::from_secs(2)) {
        Ok(()) => println!("on the relay's disk too"),
        Err(error) => println!("saved here; {error}"),
    }
    Ok(store.close()?)
}
