//! A to-do list with typed access, whose only dependency is `landfall`. The tests of `tests/interop`
//! run it next to JavaScript programs that have the same list open.
//!
//! `landfall-todo STORE RELAY COMMAND …`, where `COMMAND` is `new TITLE`, or one of these with the
//! document's id: `show`, `same`, `title TEXT`, `add ID WHAT`, `done ID`, `tag TAG`, `count NUMBER`,
//! and `form`, which reads the list, waits for a line on standard input, and appends it to the title as
//! of the heads that it read.

use std::error::Error;
use std::time::Duration;

use landfall::{
    Document, DocumentId, Hydrate, Options, Reconcile, Space, Status, Store, SyncStatus, Text,
};

/// How long to wait for the relay. Not a performance figure: a machine may be slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// The list, with the same shape as in JavaScript.
#[derive(Debug, Clone, PartialEq, Hydrate, Reconcile)]
struct List {
    title: String,
    tags: Vec<String>,
    items: Vec<Item>,
    /// A float here, but an integer where JavaScript wrote one.
    weight: f64,
    count: u64,
    /// JavaScript omits undefined values.
    note: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Hydrate, Reconcile)]
struct Item {
    #[key]
    id: u64,
    what: Text,
    state: State,
}

#[derive(Debug, Clone, PartialEq, Hydrate, Reconcile)]
enum State {
    #[landfall(rename = "open")]
    Open,
    #[landfall(rename = "done")]
    Done,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [store, relay, command @ ..] = &arguments[..] else {
        return Err("usage: landfall-todo STORE RELAY COMMAND …".into());
    };
    let store = Store::open(store, Options::default())?;
    let space = store.space("default")?;
    store.connect(*relay)?;
    run(&store, &space, command)?;
    store.flush_blocking(PATIENCE)?;
    Ok(store.close()?)
}

fn run(store: &Store, space: &Space, command: &[&str]) -> Result<(), Box<dyn Error>> {
    let (id, command) = match command {
        ["new", title] => {
            let list = List {
                title: (*title).to_owned(),
                tags: Vec::new(),
                items: vec![Item { id: 1, what: "first".into(), state: State::Open }],
                weight: 1.0,
                count: 0,
                note: None,
            };
            println!("{}", space.create_from(&list)?.id());
            return Ok(());
        }
        [id, command @ ..] => (id.parse::<DocumentId>()?, command),
        [] => return Err("no command".into()),
    };
    let document = space.wait_for(id, PATIENCE)?;
    // Also waits for the edits that others made since this store was open.
    let is_live = |status: &Status| status.spaces["default"].sync == SyncStatus::Live;
    store.watch().until_blocking(is_live).ok_or("the store was closed")?;
    match command {
        ["show"] => println!("{:?}", document.hydrate::<List>()?),
        ["same"] => println!("{}", same(&document)?),
        ["title", text] => document.edit::<List>(|list| list.title.push_str(text))?,
        ["add", id, what] => {
            let item = Item { id: id.parse()?, what: (*what).into(), state: State::Open };
            document.edit::<List>(|list| list.items.push(item))?;
        }
        ["done", id] => {
            let id: u64 = id.parse()?;
            document.try_edit(|list: &mut List| {
                let item = list.items.iter_mut().find(|item| item.id == id);
                item.ok_or("there is no such item")?.state = State::Done;
                Ok(())
            })?;
        }
        ["tag", tag] => document.edit::<List>(|list| list.tags.push((*tag).to_owned()))?,
        ["count", number] => {
            let number = number.parse()?;
            document.edit::<List>(|list| list.count = number)?;
        }
        ["form"] => form(&document)?,
        other => return Err(format!("unknown command {other:?}").into()),
    }
    Ok(())
}

/// Checks that writing back the value as read changes nothing, in each way of writing.
fn same(document: &Document) -> Result<bool, Box<dyn Error>> {
    let (list, heads) = document.hydrate_with_heads::<List>()?;
    document.edit::<List>(|_| {})?;
    document.reconcile_at(&heads, &list)?;
    document.reconcile(&list)?;
    Ok(document.heads()? == heads)
}

/// Acts as a person who fills in a form while others edit.
fn form(document: &Document) -> Result<(), Box<dyn Error>> {
    let (mut list, heads) = document.hydrate_with_heads::<List>()?;
    println!("reading");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    list.title.push_str(line.trim_end());
    document.reconcile_at(&heads, &list)?;
    Ok(())
}
