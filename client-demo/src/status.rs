//! The command `status`: what is saved where, for people or programs. It only reads the store, so it works
//! alongside a process that has the store open, and sends nothing.

use landfall::{DocumentId, OrphanedEdits, SpaceStatus, Status};
use serde_json::{Value, json};

use crate::failure::{Exit, Failure};
use crate::notebook::{self, Notebook};
use crate::place::NotebookPlace;
use crate::term::{count, faint, say, strong};

/// One space, its number of documents, and its deleted documents with orphaned edits.
struct Row {
    name: String,
    documents: u64,
    /// The synced documents, if not all, and the number of other local ones.
    only: Option<(Vec<DocumentId>, u64)>,
    lost: Vec<OrphanedEdits>,
    status: SpaceStatus,
}

/// Runs the command.
pub(crate) fn run(place: &NotebookPlace, as_json: bool) -> Result<(), Failure> {
    let Some(notebook) = Notebook::open_to_read(place)? else {
        return nothing(place, as_json);
    };
    let status = notebook.store.status();
    let mut rows = Vec::new();
    for space in notebook.store.spaces() {
        let here = space.documents()?;
        let documents = here.len() as u64;
        let only = space.synced_only()?.map(|only| {
            let others = here.iter().filter(|document| !only.contains(document)).count() as u64;
            (only, others)
        });
        let found = status.spaces.get(space.name());
        let Some(found) = found.cloned() else { continue };
        let lost = space.orphaned_edits()?;
        let name = space.name().to_string();
        rows.push(Row { name, documents, only, lost, status: found });
    }
    match as_json {
        true => say(json_of(place, &notebook, &status, &rows)),
        false => print(place, &status, &rows),
    }
    Ok(())
}

fn nothing(place: &NotebookPlace, as_json: bool) -> Result<(), Failure> {
    if as_json {
        say(json!({ "store": place.store.display().to_string(), "spaces": [] }));
        return Ok(());
    }
    let why = notebook::absent(place);
    Err(Failure::new(Exit::Note, "nothing to show", why, "create a note, or sync"))
}

fn json_of(place: &NotebookPlace, notebook: &Notebook, status: &Status, rows: &[Row]) -> Value {
    let pending = |p: landfall::Pending| json!({ "changes": p.changes, "bytes": p.bytes });
    let space = |row: &Row| {
        let rejected = row.status.rejected.iter().map(|rejected| {
            json!({
                "document": rejected.document.to_string(),
                "code": rejected.code.to_string(),
                "what": rejected.what,
            })
        });
        let lost = row
            .lost
            .iter()
            .map(|lost| json!({ "document": lost.document.to_string(), "unsent": lost.unsent }));
        json!({
            "name": row.name,
            "documents": row.documents,
            "syncedOnly": row.only.as_ref().map(|(only, _)| {
                only.iter().map(ToString::to_string).collect::<Vec<_>>()
            }),
            "changes": row.status.changes,
            "bytes": row.status.bytes,
            "pending": pending(row.status.pending),
            "rejected": rejected.collect::<Vec<_>>(),
            "deferred": row.status.deferred,
            "damagedAtRelay": row.status.damaged_at_relay,
            "deletedUnsent": lost.collect::<Vec<_>>(),
        })
    };
    json!({
        "store": place.store.display().to_string(),
        "replica": notebook.store.replica().to_string(),
        "relayMetLast": status.upstream.map(|upstream| upstream.to_string()),
        "pending": pending(status.pending()),
        "spaces": rows.iter().map(space).collect::<Vec<_>>(),
    })
}

fn print(place: &NotebookPlace, status: &Status, rows: &[Row]) {
    say(format!("store   {}", place.store.display()));
    let relay = match &status.upstream {
        Some(upstream) => format!("last connected to: {}", &upstream.to_string()[..8]),
        None => "never connected".to_owned(),
    };
    say(format!("relay   {relay} {}", faint("(not contacted now; `sync` connects)")));
    for row in rows {
        let space = &row.status;
        let documents = count(row.documents, "document");
        say(format!("\nspace   {}: {documents}", strong(&row.name)));
        if let Some((only, others)) = &row.only {
            let (notes, others) = (count(only.len() as u64, "note"), count(*others, "other"));
            say(format!(
                "  fetched         only {notes}; {others} here not updated {}",
                faint("(`sync --all` fetches all)")
            ));
        }
        let (changes, bytes) = (count(space.changes, "change"), count(space.bytes, "byte"));
        say(format!("  saved here      {changes}, {bytes}"));
        let pending = space.pending;
        say(match pending.changes {
            0 => "  not on relay    nothing".to_owned(),
            n => format!(
                "  not on relay    {}, {}",
                count(n, "change"),
                count(pending.bytes, "byte")
            ),
        });
        for rejected in &space.rejected {
            say(format!(
                "  refused         {}: {} ({})",
                rejected.document, rejected.what, rejected.code
            ));
        }
        for lost in &row.lost {
            let edits = count(lost.unsent, "change");
            say(format!(
                "  deleted         {}: {edits} that no other replica has {}",
                lost.document,
                faint("(see `notes deleted`)")
            ));
        }
        if space.damaged_at_relay > 0 {
            say(format!(
                "  not received    {} that the relay cannot read: its store is damaged",
                count(space.damaged_at_relay, "entry")
            ));
        }
        let deferred = space.deferred - space.damaged_at_relay.min(space.deferred);
        if deferred > 0 {
            say(format!(
                "  deferred        {} that cannot be applied yet; kept",
                count(deferred, "entry")
            ));
        }
    }
}
