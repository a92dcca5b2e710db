//! The command `sync`: sends what is pending, fetches what is new; selects the notes to sync; compares with
//! the relay.

mod report;

use std::time::Duration;

use landfall::error_chain;
use landfall::{
    DocumentId, FlushError, LinkStatus, Status, StatusWatch, Store, StoreError, SubscribeError,
    SyncStatus,
};

use crate::args::SyncArgs;
use crate::failure::{Exit, Failure, REPORT, unsynced, unsynced_until};
use crate::find::{self, FindError, Finder};
use crate::lookup;
use crate::notebook::Notebook;
use crate::place::NotebookPlace;
use crate::term::{count, note, say};
use crate::wait::{self, Moved, Waiter, is_settled};
use report::Report;

/// Most documents listed in a message.
const NAMED: usize = 10;

/// The longest wait for a damaged relay. It requests data from its clients about a second after they connect.
const REPAIRING: Duration = Duration::from_secs(10);

/// Runs the command.
pub(crate) fn run(place: &NotebookPlace, args: &SyncArgs) -> Result<(), Failure> {
    if place.offline {
        return choose(place, args);
    }
    let notebook = Notebook::open(place)?;
    // Earlier transfers of a store that stays open do not count for this command.
    let before = place.hosted.is_some().then(|| Report::of(&notebook.store)).transpose()?;
    let scope = subscribe(&notebook, args)?;
    let result = sync(&notebook.store, args.timeout, place.quiet);
    let checked = match args.check && result.is_ok() {
        true => check(&notebook.store, args.timeout).map(Some),
        false => Ok(None),
    };
    let repaired = match result.is_ok() {
        true => repaired(&notebook.store, args.timeout)?,
        false => 0,
    };
    let report = Report::of(&notebook.store)?.since(before.as_ref());
    let damaged = damaged(&notebook.store)?;
    let is_new = notebook.is_new && notebook.space.documents()?.is_empty();
    let closed = notebook.close();
    report.kept().into_iter().for_each(|line| notebook.remark(line));
    if result.is_err() && report.is_any() {
        notebook.remark(format!("before the failure: {}", report.moved()));
    }
    result?;
    closed?;
    let checked = checked?;
    whole(&damaged)?;
    if repaired > 0 {
        let notes = count(repaired, "note");
        notebook.remark(format!("the relay's store was damaged in {notes}, and is repaired now"));
    }
    report.deferred().into_iter().for_each(|line| notebook.remark(line));
    if !place.quiet {
        say(report.in_sync());
    }
    if let Some(differed) = checked {
        say(compared(differed));
    }
    match scope {
        Some(scope) => notebook.remark(scope),
        None => report.partial().into_iter().for_each(|line| notebook.remark(line)),
    }
    if is_new {
        let (space, store) = (&place.space, place.store.display());
        notebook.remark(format!(
            "the space `{space}` is new in {store}, and the relay has no note in it"
        ));
    }
    Ok(())
}

/// Selects the notes to sync, without the relay.
fn choose(place: &NotebookPlace, args: &SyncArgs) -> Result<(), Failure> {
    let notebook = Notebook::open(place)?;
    let scope = subscribe(&notebook, args)?;
    notebook.close()?;
    scope.into_iter().for_each(|scope| notebook.remark(scope));
    Ok(())
}

/// The documents that the relay could not send, of all spaces: each once, `None` for those it cannot name.
fn damaged(store: &Store) -> Result<Vec<Option<DocumentId>>, Failure> {
    let mut all = Vec::new();
    for space in store.spaces() {
        all.extend(space.damaged_at_relay()?);
    }
    Ok(all)
}

/// Entries that the relay could not send.
fn unsent(status: &Status) -> u64 {
    status.spaces.values().map(|space| space.damaged_at_relay).sum()
}

/// Waits until the relay has repaired what it could not read: it requests the data from clients that have it,
/// this store among them, and notifies when done. Returns the number of repaired documents if nothing is
/// missing any more, else 0.
fn repaired(store: &Store, limit: Duration) -> Result<u64, Failure> {
    let before = damaged(store)?.len() as u64;
    if before == 0 {
        return Ok(0);
    }
    let mut watch = store.watch();
    let whole = watch.until(|status| unsent(status) == 0);
    let whole = Waiter::new()?.within(limit.min(REPAIRING), whole).flatten();
    Ok(if whole.is_some() { before } else { 0 })
}

/// Fails if the relay could not send some documents: the sync is then incomplete.
fn whole(damaged: &[Option<DocumentId>]) -> Result<(), Failure> {
    if damaged.is_empty() {
        return Ok(());
    }
    let named = damaged.iter().flatten().take(NAMED).map(ToString::to_string);
    let mut named: Vec<String> = named.collect();
    if named.len() < damaged.len() {
        named.push(match damaged.len() - named.len() {
            1 if damaged.contains(&None) => "some that it cannot identify".to_owned(),
            more => format!("{more} more"),
        });
    }
    let why = format!(
        "the relay's store is damaged: it could not send all of {}; everything else is here",
        named.join(", ")
    );
    let remedy = "run `landfall-demo watch` on a device that has the note, or if none has, have \
                  the relay's operator repair or restore its store; then sync again";
    Err(Failure::new(Exit::Relay, "not in sync", why, remedy))
}

fn compared(differed: u64) -> String {
    match differed {
        0 => "compared with the relay: nothing differed".to_owned(),
        n => format!("compared with the relay: {} differed and were repaired", count(n, "note")),
    }
}

/// Selects the notes to sync, if requested; returns the message for it.
fn subscribe(notebook: &Notebook, args: &SyncArgs) -> Result<Option<String>, Failure> {
    if !args.all && args.only.is_none() {
        return Ok(None);
    }
    let wanted = args.only.as_deref().map(|names| named(notebook, names)).transpose()?;
    // Not while the link is live with the former selection, which would count as synced.
    notebook.store.go_offline();
    notebook.store.watch().until_blocking(|status| status.link == LinkStatus::Offline);
    let scope = match wanted {
        Some(wanted) => {
            let number = wanted.len() as u64;
            notebook.space.sync_only(wanted)?;
            let only = count(number, "note");
            format!(
                "from now on syncs only {only} of this space; `landfall-demo sync --all` undoes that"
            )
        }
        None => {
            notebook.space.sync_everything()?;
            "from now on syncs all notes of this space".to_owned()
        }
    };
    notebook.store.go_online();
    Ok(Some(scope))
}

/// The notes of these names. An id counts even if its note is not here yet.
fn named(notebook: &Notebook, names: &[String]) -> Result<Vec<DocumentId>, Failure> {
    let mut finder = Finder::new(&notebook.space);
    let mut wanted = Vec::with_capacity(names.len());
    for name in names {
        wanted.push(match (finder.find(name)?, find::id(name)) {
            (Ok(listed), _) => listed.document.id(),
            (Err(FindError::Unknown { .. }), Some(id)) if !notebook.space.is_deleted(&id)? => id,
            (Err(error), _) => return Err(lookup::not_found(notebook, error)?),
        });
    }
    wanted.sort_unstable();
    wanted.dedup();
    Ok(wanted)
}

impl From<SubscribeError> for Failure {
    fn from(error: SubscribeError) -> Self {
        match error {
            SubscribeError::Store(error) => error.into(),
            SubscribeError::TooMany { .. } => {
                let remedy = "give fewer, or sync all with --all";
                Self::new(Exit::Usage, "not subscribed", error, remedy)
            }
            other => Self::new(Exit::Other, "not subscribed", error_chain(&other), REPORT),
        }
    }
}

/// Compares with the relay; returns the number of documents that differed, after the repair.
fn check(store: &Store, limit: Duration) -> Result<u64, Failure> {
    let waiter = Waiter::new()?;
    let moved = || Moved::of(store);
    let Some(checked) = waiter.while_moving(limit, moved, store.check()) else {
        let why = "the relay did not answer the comparison in time";
        return Err(unsynced(why, store.status().pending().changes));
    };
    let differed = checked?;
    if differed > 0 {
        sync(store, limit, true)?;
    }
    Ok(differed)
}

/// Sends and fetches everything, through reconnects, as long as there is progress.
fn sync(store: &Store, limit: Duration, quiet: bool) -> Result<(), Failure> {
    let waiter = Waiter::new()?;
    let fetched = waiter.while_moving(limit, || Moved::of(store), fetched(store, quiet));
    let status = store.status();
    let pending = status.pending().changes;
    match fetched {
        Some(fetched) => fetched?,
        None => {
            let late = format!("the relay sent nothing for {} s", limit.as_secs_f64());
            return Err(unsynced(&status.last_error.unwrap_or(late), pending));
        }
    }
    if let Some(why) = refusal(&status) {
        return Err(unsynced(&format!("the relay refuses {why}"), pending));
    }
    let mut watch = store.watch();
    let flushed = waiter.block_on(async {
        tokio::select! {
            flushed = wait::flush(store, limit) => flushed.map_err(|error| unflushed(store, error)),
            failed = hopeless(&mut watch) => Err(failed),
        }
    });
    flushed.map_err(|failure| of_the_store(&store.status()).unwrap_or(failure))
}

/// Waits until everything that the relay had is here, or the relay has refused it.
async fn fetched(store: &Store, quiet: bool) -> Result<(), Failure> {
    let (mut watch, mut trouble) = (store.watch(), store.watch());
    let settled = async {
        let mut is_reported = quiet;
        loop {
            let status = watch.now();
            if is_settled(&status) {
                return;
            }
            if let (false, Some(error)) = (is_reported, &status.last_error) {
                note(format!("waiting: {error}"));
                is_reported = true;
            }
            if watch.changed().await.is_none() {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        failed = hopeless(&mut trouble) => Err(failed),
        () = settled => Ok(()),
    }
}

/// Waits for a condition that waiting does not resolve: no relay at the URL, or a store that accepts no
/// writes.
async fn hopeless(watch: &mut StatusWatch) -> Failure {
    let mut found = None;
    let ended = watch
        .until(|status| {
            found = of_the_store(status).or_else(|| {
                let remedy = "give the URL that the relay printed at its start with --relay";
                let why = status.last_error.as_deref().unwrap_or_default();
                status.wrong_url.then(|| unsynced_until(why, status.pending().changes, remedy))
            });
            found.is_some()
        })
        .await;
    match (ended, found) {
        (Some(_), Some(failure)) => failure,
        // Only this command closes the store.
        _ => std::future::pending().await,
    }
}

/// The failure for changes that are still pending, with the reason.
fn unflushed(store: &Store, error: FlushError) -> Failure {
    match error {
        FlushError::TimedOut { pending, last_error: None, .. } => {
            unsynced("the relay did not acknowledge all changes in time", pending.changes)
        }
        refused @ FlushError::Refused { .. } => {
            Failure::from(refused).and(where_refused(&store.status()))
        }
        other => other.into(),
    }
}

/// A failure of the store, such as a full disk: the relay cannot resolve it.
fn of_the_store(status: &Status) -> Option<Failure> {
    let failed = status.store_failed.as_ref().or(status.store_trouble.as_ref())?;
    let failure = Failure::from(StoreError::new(failed.class, failed.what.clone()));
    Some(failure.and("the relay keeps its copy; then sync again"))
}

fn refusal(status: &Status) -> Option<String> {
    status.spaces.iter().find_map(|(name, space)| match &space.sync {
        SyncStatus::Refused { code, what } => Some(format!("the space `{name}` ({code}: {what})")),
        _ => None,
    })
}

/// The commands that list rejected changes: one for each space with such notes.
fn where_refused(status: &Status) -> String {
    let refused = status.spaces.iter().filter(|(_, space)| !space.rejected.is_empty()).take(NAMED);
    let commands = refused.map(|(name, _)| format!("`landfall-demo notes refused --space {name}`"));
    format!("see {}", commands.collect::<Vec<_>>().join(", "))
}
