//! Replays a session of several authors who typed concurrently: one replica each. An author waits until the
//! changes that the recorded author had seen have arrived at the replica, through the relay, and then edits
//! the note at exactly those heads. Nothing is merged in memory: the authors share only the mapping of
//! transactions to changes, to know what to wait for, and no content.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use landfall::automerge::{Automerge, ObjId};
use landfall::{ChangeError, ChangeHash, Document};
use tokio::sync::watch;

use super::{SharedNote, Stage, Times, panicked, type_all};
use crate::failure::{Exit, Failure};
use crate::progress::Bars;
use crate::replica::Replica;
use crate::term::{count, thousands, time};
use crate::trace::{AGENTS_MOST, Concurrent, Seen};
use crate::wait::Waiter;

/// The authors' names, for bars and stores.
const NAMES: [&str; AGENTS_MOST] = [
    "author 1", "author 2", "author 3", "author 4", "author 5", "author 6", "author 7", "author 8",
];

/// A name for each author's replica.
pub(super) fn names(trace: &Concurrent) -> &'static [&'static str] {
    &NAMES[..trace.agents.min(AGENTS_MOST)]
}

/// Plays it, and checks that all replicas end equal.
pub(super) fn play(stage: &Stage, trace: &Concurrent) -> Result<(), Failure> {
    let shared = stage.note("Replay", &trace.start)?;
    stage.say(format!(
        "{} by {}, one change each; {} follow another author's",
        count(trace.len(), "transaction"),
        count(trace.agents as u64, "author"),
        thousands(trace.meetings()),
    ));
    let root = shared.documents.first().map(Document::heads).transpose()?.unwrap_or_default();
    let ledger = Ledger::new(root, trace.transactions.len());
    let bars = Bars::new(stage.quiet);
    let started = Instant::now();
    let typed = all_type(stage, trace, &shared, &ledger, &bars);
    let typing = started.elapsed();
    let sum = match typed {
        Ok(sum) => sum,
        Err(failure) => {
            bars.clear();
            return Err(failure);
        }
    };
    let (durable, arrived) = stage.settle(started, &shared.documents, || ())?;
    bars.clear();
    stage.figures(sum.changes(), &Times { typed: typing, durable, arrived });
    for (what, cost) in [("at what was there", &sum.present), ("at an earlier state", &sum.past)] {
        let each = cost.took.checked_div(cost.edits).unwrap_or_default();
        let edits = thousands(u64::from(cost.edits));
        stage.say(format!("{what:<22}{edits:>9} edits, {} each", time(each)));
    }
    stage.all_same(&shared.documents, 1 + sum.changes())?;
    stage.end_in(&shared.documents, &trace.end)
}

/// The cost of edits.
#[derive(Default, Clone, Copy)]
struct Cost {
    edits: u32,
    took: Duration,
}

impl Cost {
    fn add(&mut self, other: Self) {
        self.edits += other.edits;
        self.took += other.took;
    }
}

/// The edits of one author.
#[derive(Default, Clone, Copy)]
struct Typed {
    /// Edits at the replica's current heads, and those at earlier heads.
    present: Cost,
    past: Cost,
    /// Transactions without effect.
    empty: u32,
}

impl Typed {
    fn changes(&self) -> u64 {
        u64::from(self.present.edits + self.past.edits - self.empty)
    }
}

/// Why an author stopped.
enum Stopped {
    Failed(Failure),
    /// Another author has stopped.
    Another,
}

impl<E: Into<Failure>> From<E> for Stopped {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

fn all_type(
    stage: &Stage,
    trace: &Concurrent,
    shared: &SharedNote,
    ledger: &Ledger,
    bars: &Bars,
) -> Result<Typed, Failure> {
    let ended: Vec<Result<Typed, Stopped>> = std::thread::scope(|scope| {
        let replicas = stage.replicas.iter().zip(&shared.documents).enumerate();
        let authors: Vec<_> = replicas
            .map(|(agent, (replica, note))| {
                let bar = bars.bar(replica.name, trace.of(agent).count() as u64);
                let author =
                    Author { trace, agent, replica, note, body: &shared.body, ledger, bar };
                scope.spawn(move || author.run())
            })
            .collect();
        let panicked = |_| Err(Stopped::Failed(panicked()));
        authors.into_iter().map(|author| author.join().unwrap_or_else(panicked)).collect()
    });
    let mut sum = Typed::default();
    let mut stopped = false;
    for typed in ended {
        match typed {
            Ok(typed) => {
                sum.present.add(typed.present);
                sum.past.add(typed.past);
                sum.empty += typed.empty;
            }
            Err(Stopped::Failed(failure)) => return Err(failure),
            Err(Stopped::Another) => stopped = true,
        }
    }
    if stopped { Err(panicked()) } else { Ok(sum) }
}

/// One author and the replica.
struct Author<'a> {
    trace: &'a Concurrent,
    agent: usize,
    replica: &'a Replica,
    note: &'a Document,
    body: &'a ObjId,
    ledger: &'a Ledger,
    bar: ProgressBar,
}

impl Author<'_> {
    fn run(&self) -> Result<Typed, Stopped> {
        let ended = self.all();
        if ended.is_err() {
            self.ledger.stop();
        }
        ended
    }

    fn all(&self) -> Result<Typed, Stopped> {
        let waiter = Waiter::new()?;
        let mut told = self.ledger.told.subscribe();
        let mut typed = Typed::default();
        let mut last = None;
        for (number, seen) in self.trace.of(self.agent) {
            let one = self.type_at_its_time(seen, &mut told, &mut typed);
            // An author who begins late waits while the others type.
            let moved =
                || self.ledger.published() + self.replica.space.status().map_or(0, |s| s.changes);
            let heads = match waiter.while_moving(self.replica.patience, moved, one) {
                Some(done) => done?,
                None => {
                    return Err(self
                        .replica
                        .late("the changes of another author did not arrive")
                        .into());
                }
            };
            let made = self.note.read(last_own)?;
            let is_new = made.is_some() && made != last;
            typed.empty += u32::from(!is_new);
            self.ledger.publish(number, if is_new { made.into_iter().collect() } else { heads });
            last = made.or(last);
            self.bar.inc(1);
        }
        Ok(typed)
    }

    /// Types one transaction as soon as all changes that its author had seen are at the replica; returns the
    /// heads of the edit.
    async fn type_at_its_time(
        &self,
        seen: &Seen,
        told: &mut watch::Receiver<Told>,
        typed: &mut Typed,
    ) -> Result<Vec<ChangeHash>, Stopped> {
        let heads = loop {
            // Marked as seen before the check, so that no later notification is missed.
            if told.borrow_and_update().stopped {
                return Err(Stopped::Another);
            }
            if let Some(heads) = self.ledger.heads(&seen.parents) {
                break heads;
            }
            self.hear(told).await?;
        };
        if !self.is_here(&heads)? {
            self.arrival(&heads, told).await?;
        }
        let present = self.note.heads()? == heads;
        let started = Instant::now();
        let edited = self.note.change_at(&heads, |tx| type_all(tx, self.body, &seen.patches));
        match edited {
            Ok(()) => {}
            Err(ChangeError::Closure(error)) => {
                let (what, remedy) = ("the trace cannot be played", "check that it is complete");
                return Err(Failure::new(Exit::Input, what, error, remedy).into());
            }
            Err(error) => return Err(error.into()),
        }
        let cost = if present { &mut typed.present } else { &mut typed.past };
        cost.add(Cost { edits: 1, took: started.elapsed() });
        Ok(heads)
    }

    /// Waits until these changes are at the replica.
    async fn arrival(
        &self,
        heads: &[ChangeHash],
        told: &mut watch::Receiver<Told>,
    ) -> Result<(), Stopped> {
        // Opened only while needed: an edit at an earlier state costs twice as much if a stream has to
        // compute its effect on the current one. Opened before the check, so that no arrival is missed.
        let mut events = self.replica.store.events();
        while !self.is_here(heads)? {
            tokio::select! {
                // Missed events do not matter: the document itself is checked.
                event = events.next() => if event.is_none() {
                    return Err(self.replica.late("its store was closed").into());
                },
                heard = self.hear(told) => heard?,
            }
        }
        Ok(())
    }

    fn is_here(&self, heads: &[ChangeHash]) -> Result<bool, Failure> {
        let is_here =
            |doc: &Automerge| heads.iter().all(|head| doc.get_change_meta_by_hash(head).is_some());
        Ok(self.note.read(is_here)?)
    }

    /// Waits for a notification of an author.
    async fn hear(&self, told: &mut watch::Receiver<Told>) -> Result<(), Stopped> {
        // An error would mean that the ledger was dropped, but it outlives all authors.
        match told.changed().await {
            Ok(()) if !told.borrow().stopped => Ok(()),
            Ok(()) | Err(_) => Err(Stopped::Another),
        }
    }
}

/// The last change made at a replica.
fn last_own(doc: &Automerge) -> Option<ChangeHash> {
    doc.get_last_local_change().map(|change| change.hash())
}

/// Maps each transaction to its change.
struct Ledger {
    /// The note's first change: all authors had seen it before the first transaction.
    root: Vec<ChangeHash>,
    /// The heads after each transaction: its change, or the earlier heads if it changed nothing.
    made: Mutex<Vec<Option<Vec<ChangeHash>>>>,
    published: AtomicU64,
    told: watch::Sender<Told>,
}

/// The notification to the other authors, in addition to new entries.
#[derive(Default)]
struct Told {
    stopped: bool,
}

impl Ledger {
    fn new(root: Vec<ChangeHash>, transactions: usize) -> Self {
        let made = Mutex::new(vec![None; transactions]);
        let (published, told) = (AtomicU64::new(0), watch::Sender::new(Told::default()));
        Self { root, made, published, told }
    }

    fn publish(&self, transaction: usize, heads: Vec<ChangeHash>) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = made.get_mut(transaction) {
            *place = Some(heads);
        }
        drop(made);
        self.published.fetch_add(1, Ordering::Relaxed);
        self.told.send_modify(|_| ());
    }

    /// Number of typed transactions.
    fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// Ends the waits of the others: one author has failed.
    fn stop(&self) {
        self.told.send_modify(|told| told.stopped = true);
    }

    /// The heads after these transactions; `None` while one is not typed yet.
    fn heads(&self, transactions: &[usize]) -> Option<Vec<ChangeHash>> {
        if transactions.is_empty() {
            return Some(self.root.clone());
        }
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let mut heads = Vec::with_capacity(transactions.len());
        for transaction in transactions {
            heads.extend(made.get(*transaction)?.as_ref()?);
        }
        heads.sort_unstable();
        heads.dedup();
        Some(heads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(byte: u8) -> ChangeHash {
        ChangeHash([byte; 32])
    }

    #[test]
    fn heads_are_known_once_all_parents_are_typed() {
        let ledger = Ledger::new(vec![hash(0)], 3);
        assert_eq!(ledger.heads(&[]), Some(vec![hash(0)]));
        assert_eq!(ledger.heads(&[0]), None);
        ledger.publish(0, vec![hash(9)]);
        assert_eq!(ledger.heads(&[0, 1]), None);
        // A transaction without effect has the heads before it.
        ledger.publish(1, vec![hash(9), hash(3)]);
        assert_eq!(ledger.heads(&[0, 1]), Some(vec![hash(3), hash(9)]));
    }
}
